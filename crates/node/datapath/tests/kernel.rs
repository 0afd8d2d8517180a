//! The encoders against the real kernel, in namespaces that end with each test. nft(8) and ip(8) are only asked what they see.
//! Needs root.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up its world fails")]

use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::process::Command;
use std::time::Duration;

use fram_datapath::namespace::Namespace;
use fram_datapath::nft::{
    BaseChain, Batch, ChainKind, Compare, CtKey, Data, Direction, Expr, Family, FibKey, Hook, Key, MapTo, MetaKey, PayloadBase, RejectWith,
    Set, Table, Type, Verdict, ct_state, priority,
};
use fram_datapath::route::{Route, VethPair};
use fram_datapath::{NetlinkError, conntrack, nft, purge, route};

const A: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);

fn see(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Two namespaces joined by a veth pair, each with an address and a host route to the other.
fn pair() -> (Namespace, Namespace) {
    let (left, right) = (Namespace::create().unwrap(), Namespace::create().unwrap());
    let configure = |name: &str, own: Ipv4Addr, other: Ipv4Addr| {
        let mut handle = route::Handle::open()?;
        for name in ["lo", name] {
            let link = handle.link(name)?.unwrap();
            handle.set_up(link.index)?;
        }
        let link = handle.link(name)?.unwrap().index;
        handle.add_address(link, own.into(), 32)?;
        handle.replace_route(&Route {
            destination: fram_datapath::address::Cidr::host(other.into()),
            gateway: None,
            link: Some(link),
            source: None,
            unreachable: false,
        })
    };
    left.run(|| {
        route::Handle::open()?.create_veth(&VethPair {
            name: "framtest0",
            mac: [2, 0, 0, 0, 0, 1],
            peer_name: "eth0",
            peer_mac: [2, 0, 0, 0, 0, 2],
            peer_namespace: &right,
            mtu: 1400,
        })
    })
    .unwrap();
    right.run(|| configure("eth0", B, A)).unwrap();
    left.run(|| configure("framtest0", A, B)).unwrap();
    (left, right)
}

#[test]
fn a_veth_pair_with_routes_carries_traffic_and_purge_removes_it_all() {
    let (left, right) = pair();
    let listener = right.run(|| Ok(TcpListener::bind((B, 80)).unwrap())).unwrap();
    left.run(|| {
        std::net::TcpStream::connect_timeout(&listener.local_addr().unwrap(), Duration::from_secs(5)).unwrap();
        let mut handle = route::Handle::open()?;
        assert_eq!(handle.link("framtest0")?.unwrap().mtu, 1400);
        assert_eq!(handle.link("nothing")?, None);
        assert_eq!(handle.routes()?.len(), 1);
        assert!(handle.addresses()?.iter().any(|a| a.address == IpAddr::from(A) && a.prefix_length == 32));
        assert_eq!(handle.link_towards(B.into())?.unwrap().source, Some(A.into()));
        assert!(see("ip", &["route"]).contains("10.1.0.2 dev framtest0 proto 70 scope link"));
        assert_eq!(purge::count()?, purge::Counts { tables: 0, links: 1, routes: 1 });
        assert_eq!(purge::purge()?, purge::Counts { tables: 0, links: 1, routes: 1 });
        assert!(purge::count()?.is_zero());
        assert!(!handle.delete_link("framtest0")?, "deleting what is gone is no error");
        Ok(())
    })
    .unwrap();
    let left_over = right.run(|| route::Handle::open()?.links()).unwrap();
    assert_eq!(left_over.len(), 1, "only the loopback is left");
}

fn nat_table() -> (Table, Batch) {
    let table = Table::new(Family::Ip, "fram-test");
    let mut batch = Batch::new();
    batch.add_table(&table);
    batch.add_chain(&table, "out", Some(BaseChain { kind: ChainKind::Nat, hook: Hook::Output, priority: priority::DSTNAT }));
    batch.add_chain(&table, "two", None);
    let key: &[Type] = &[Type::Ipv4, Type::Protocol, Type::Port];
    batch.add_set(&table, &Set { name: "frontends".into(), key, map_to: Some(MapTo::Verdict), dynamic: false });
    let value = Some(MapTo::Value(&[Type::Ipv4, Type::Port]));
    batch.add_set(&table, &Set { name: "backends".into(), key: &[Type::Mark], map_to: value, dynamic: false });
    (table, batch)
}

fn frontend_key(address: Ipv4Addr, protocol: i32, port: u16) -> Vec<u8> {
    Key::new().ip(address.into()).field(&[protocol as u8]).port(port).build()
}

fn load_frontend() -> [Expr; 3] {
    [
        Expr::Payload { base: PayloadBase::Network, offset: 16, length: 4, to: 0 },
        Expr::Meta { key: MetaKey::L4Protocol, to: 1 },
        Expr::Payload { base: PayloadBase::Transport, offset: 2, length: 2, to: 2 },
    ]
}

#[test]
fn verdict_maps_random_choice_and_destination_nat_balance_connections() {
    let (left, right) = pair();
    let listeners = right.run(|| Ok([TcpListener::bind((B, 8080)).unwrap(), TcpListener::bind((B, 8081)).unwrap()])).unwrap();
    let virtual_address = Ipv4Addr::new(10, 1, 0, 2);
    left.run(|| {
        let (table, mut batch) = nat_table();
        let goto = Verdict::Goto("two".into());
        batch.add_elements(&table, "frontends", [(frontend_key(virtual_address, libc::IPPROTO_TCP, 80), Data::Verdict(&goto))]);
        let values = [8080, 8081].map(|port| Key::new().ip(B.into()).port(port).build());
        batch.add_elements(&table, "backends", (0..2).map(|n| (Key::new().number(n).build(), Data::Value(&values[n as usize]))));
        let mut rule = load_frontend().to_vec();
        rule.push(Expr::VerdictMap { map: "frontends".into(), key: 0 });
        batch.add_rule(&table, "out", &rule);
        batch.add_rule(
            &table,
            "two",
            &[
                Expr::Random { modulus: 2, to: 0 },
                Expr::Map { map: "backends".into(), key: 0, to: 4 },
                Expr::DestinationNat { address: 4, port: 5 },
            ],
        );
        nft::Handle::open()?.commit(batch)?;
        for _ in 0..40 {
            std::net::TcpStream::connect_timeout(&(virtual_address, 80).into(), Duration::from_secs(5)).unwrap();
        }
        Ok(())
    })
    .unwrap();
    for listener in listeners {
        listener.set_nonblocking(true).unwrap();
        let accepted = std::iter::from_fn(|| listener.accept().ok()).count();
        assert!((5..=35).contains(&accepted), "one of two backends got {accepted} of 40 connections");
    }
}

#[test]
fn every_expression_is_taken_by_the_kernel_and_understood_by_nft() {
    let namespace = Namespace::create().unwrap();
    namespace
        .run(|| {
            let (table, mut batch) = nat_table();
            let hook = |kind, hook, priority| Some(BaseChain { kind, hook, priority });
            batch.add_chain(&table, "post", hook(ChainKind::Nat, Hook::Postrouting, priority::SRCNAT));
            batch.add_chain(&table, "filter", hook(ChainKind::Filter, Hook::Prerouting, -90));
            batch.add_set(&table, &Set { name: "pairs".into(), key: &[Type::Ipv4, Type::Ipv4], map_to: None, dynamic: false });
            batch.add_set(&table, &Set { name: "sticky".into(), key: &[Type::Ipv4, Type::Mark], map_to: None, dynamic: true });
            batch.add_elements(&table, "pairs", [(Key::new().ip(A.into()).ip(A.into()).build(), Data::None)]);
            batch.add_chain(&table, "three", None);
            let network = |offset, to| Expr::Payload { base: PayloadBase::Network, offset, length: 4, to };
            batch.add_rule(
                &table,
                "post",
                &[
                    Expr::Meta { key: MetaKey::OutputName, to: 0 },
                    Expr::Cmp { from: 0, compare: Compare::Equal, value: b"fram".to_vec() },
                    network(12, 0),
                    Expr::And { register: 0, mask: vec![255, 255, 0, 0] },
                    Expr::Cmp { from: 0, compare: Compare::NotEqual, value: vec![10, 244, 0, 0] },
                    network(12, 0),
                    network(16, 1),
                    Expr::InSet { set: "pairs".into(), key: 0, inverted: false },
                    Expr::Ct { key: CtKey::DestinationIp, direction: Some(Direction::Original), to: 0 },
                    Expr::Ct { key: CtKey::DestinationPort, direction: Some(Direction::Original), to: 1 },
                    Expr::Masquerade,
                ],
            );
            batch.add_rule(
                &table,
                "filter",
                &[
                    Expr::Ct { key: CtKey::State, direction: None, to: 0 },
                    Expr::And { register: 0, mask: ct_state::NEW.to_ne_bytes().to_vec() },
                    Expr::Cmp { from: 0, compare: Compare::NotEqual, value: vec![0; 4] },
                    Expr::Fib { key: FibKey::DestinationType, to: 0 },
                    Expr::Cmp { from: 0, compare: Compare::Equal, value: FibKey::LOCAL.to_ne_bytes().to_vec() },
                    Expr::Reject(RejectWith::PortUnreachable),
                ],
            );
            batch.add_rule(
                &table,
                "two",
                &[
                    network(12, 0),
                    Expr::Random { modulus: 3, to: 1 },
                    Expr::InSet { set: "sticky".into(), key: 0, inverted: true },
                    Expr::Immediate { value: vec![0; 4], to: 4 },
                    Expr::Remember { set: "sticky".into(), key: 0, timeout: Duration::from_secs(10_800) },
                    Expr::Verdict(Verdict::Jump("three".into())),
                ],
            );
            nft::Handle::open()?.commit(batch)?;
            let listing = see("nft", &["list", "ruleset"]);
            for part in [
                "oifname \"fram*\" ip saddr != 10.244.0.0/16 ip saddr . ip daddr @pairs",
                "masquerade fully-random",
                "fib daddr type local reject",
                "update @sticky { ip saddr",
                "timeout 3h",
                "jump three",
                "numgen random mod 3",
            ] {
                assert!(listing.contains(part), "{part} is not in\n{listing}");
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_batch_with_one_mistake_changes_nothing_and_says_which() {
    let namespace = Namespace::create().unwrap();
    namespace
        .run(|| {
            let (table, mut batch) = nat_table();
            batch.add_rule(&table, "two", &[Expr::Verdict(Verdict::Jump("nowhere".into()))]);
            batch.add_chain(&table, "three", None);
            let error = nft::Handle::open()?.commit(batch).unwrap_err();
            assert!(error.to_string().starts_with("cannot add rule to chain two of table fram-test"), "{error}");
            assert!(nft::Handle::open()?.tables()?.is_empty());
            Ok(())
        })
        .unwrap();
}

#[test]
fn elements_are_listed_replaced_and_deleted_in_one_batch() {
    let namespace = Namespace::create().unwrap();
    namespace
        .run(|| {
            let (table, mut batch) = nat_table();
            let value = |port| Key::new().ip(B.into()).port(port).build();
            let values: Vec<_> = (0..3000).map(value).collect();
            let keys = |n: u32| Key::new().number(n).build();
            batch.add_elements(&table, "backends", values.iter().enumerate().map(|(n, v)| (keys(n as u32), Data::Value(v))));
            let mut handle = nft::Handle::open()?;
            handle.commit(batch)?;
            assert_eq!(handle.elements(&table, "backends")?.len(), 3000);
            let mut batch = Batch::new();
            batch.delete_elements(&table, "backends", (0..2999).map(keys));
            batch.delete_elements(&table, "backends", [keys(2999)]);
            let changed = value(9);
            batch.add_elements(&table, "backends", [(keys(2999), Data::Value(&changed))]);
            handle.commit(batch)?;
            assert_eq!(handle.elements(&table, "backends")?, [(keys(2999), value(9))]);
            let mut batch = Batch::new();
            batch.delete_elements(&table, "backends", [keys(1)]);
            let error = handle.commit(batch).unwrap_err();
            assert!(error.is_absent(), "{error}");
            let listing = see("nft", &["list", "table", "ip", "fram-test"]);
            assert!(listing.contains("type ipv4_addr . inet_proto . inet_service : verdict"), "{listing}");
            assert!(listing.contains("10.1.0.2 . 9"), "{listing}");
            Ok(())
        })
        .unwrap();
}

#[test]
fn tracked_udp_connections_are_found_and_forgotten() {
    let (left, right) = pair();
    let server = right.run(|| Ok(UdpSocket::bind((B, 53)).unwrap())).unwrap();
    left.run(|| {
        // Connections are tracked where a rule asks about them.
        let (table, mut batch) = nat_table();
        batch.add_rule(&table, "out", &[Expr::Ct { key: CtKey::Status, direction: None, to: 0 }]);
        nft::Handle::open()?.commit(batch)?;
        let client = UdpSocket::bind((A, 0)).unwrap();
        client.send_to(b"x", (B, 53)).unwrap();
        server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        server.recv_from(&mut [0; 8]).unwrap();
        let mut handle = conntrack::Handle::open()?;
        let found = handle.list(libc::IPPROTO_UDP as u8, |c| c.original.destination_port == 53)?;
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].original.source, found[0].reply.source), (IpAddr::from(A), IpAddr::from(B)));
        assert!(handle.delete(&found[0])?);
        assert!(!handle.delete(&found[0])?);
        assert!(handle.list(libc::IPPROTO_UDP as u8, |_| true)?.is_empty());
        Ok::<_, NetlinkError>(())
    })
    .unwrap();
}
