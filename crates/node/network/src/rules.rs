//! The pod network's nftables table as batches: host ports, hairpin, masquerading, and the guard of the node's loopback.
//! Pods are elements of sets and maps; no pod has a rule of its own.

use std::net::IpAddr;

use fram_cri::{PortMapping, Protocol};
use fram_datapath::address::{Cidr, octets};
use fram_datapath::nft::{
    BaseChain, Batch, ChainKind, Compare, Data, Expr, Family, FibKey, Hook, Key, MapTo, MetaKey, PayloadBase, Set, Table, Type, Verdict,
    priority,
};

use crate::allocation::Pod;

const PODS: &str = "pods";
const HOST_PORTS: &str = "host-ports";
const HOST_PORTS_AT: &str = "host-ports-at";
const TARGET: Option<MapTo> = Some(MapTo::Value(&[Type::Ipv4, Type::Port]));
const LOOPBACK: [u8; 1] = [127];
const MULTICAST: u8 = 0xe0;

pub(crate) fn table() -> Table {
    Table::new(Family::Ip, "fram-network")
}

/// The whole table anew, with all pods, in one transaction: nobody sees it half made.
pub(crate) fn rebuild<'a>(pod_cidr: Option<Cidr>, cluster_cidrs: &[Cidr], pods: impl IntoIterator<Item = &'a Pod>) -> Batch {
    let (mut batch, table) = (Batch::new(), table());
    // Adding first makes the deletion valid on the very first start as well.
    batch.add_table(&table);
    batch.delete_table(&table);
    batch.add_table(&table);
    batch.add_set(&table, &Set { name: PODS.into(), key: &[Type::Ipv4, Type::Ipv4], map_to: None, dynamic: false });
    batch.add_set(&table, &Set { name: HOST_PORTS.into(), key: &[Type::Protocol, Type::Port], map_to: TARGET, dynamic: false });
    let key = &[Type::Ipv4, Type::Protocol, Type::Port];
    batch.add_set(&table, &Set { name: HOST_PORTS_AT.into(), key, map_to: TARGET, dynamic: false });
    add_guard(&mut batch, &table);
    for (name, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
        let base = BaseChain { kind: ChainKind::Nat, hook, priority: priority::DSTNAT };
        batch.add_chain(&table, name, Some(base));
        add_host_port_rules(&mut batch, &table, name);
    }
    let base = BaseChain { kind: ChainKind::Nat, hook: Hook::Postrouting, priority: priority::SRCNAT };
    batch.add_chain(&table, "postrouting", Some(base));
    add_masquerade_rules(&mut batch, &table, pod_cidr, cluster_cidrs);
    pods.into_iter().for_each(|pod| add_pod(&mut batch, pod));
    batch
}

fn source(to: u32) -> Expr {
    Expr::Payload { base: PayloadBase::Network, offset: 12, length: 4, to }
}

fn destination(to: u32) -> Expr {
    Expr::Payload { base: PayloadBase::Network, offset: 16, length: 4, to }
}

fn destination_port(to: u32) -> Expr {
    Expr::Payload { base: PayloadBase::Transport, offset: 2, length: 2, to }
}

fn equal(from: u32, value: &[u8]) -> Expr {
    Expr::Cmp { from, compare: Compare::Equal, value: value.to_vec() }
}

fn interface(key: MetaKey) -> [Expr; 2] {
    [Expr::Meta { key, to: 0 }, equal(0, fram_datapath::PREFIX.as_bytes())]
}

/// `address in cidr`, or not.
fn within(load: Expr, cidr: Cidr, compare: Compare) -> [Expr; 3] {
    [load, Expr::And { register: 0, mask: cidr.mask() }, Expr::Cmp { from: 0, compare, value: octets(cidr.address()) }]
}

fn first_octet(load_offset: u32, octet: &[u8]) -> [Expr; 2] {
    [Expr::Payload { base: PayloadBase::Network, offset: load_offset, length: 1, to: 0 }, equal(0, octet)]
}

/// Links to pods route to loopback addresses for host ports on 127.0.0.1, so pods must be kept from using that.
fn add_guard(batch: &mut Batch, table: &Table) {
    batch.add_chain(table, "guard", Some(BaseChain { kind: ChainKind::Filter, hook: Hook::Prerouting, priority: priority::RAW }));
    for offset in [12, 16] {
        let mut rule = interface(MetaKey::InputName).to_vec();
        rule.extend(first_octet(offset, &LOOPBACK));
        rule.push(Expr::Verdict(Verdict::Drop));
        batch.add_rule(table, "guard", &rule);
    }
}

fn add_host_port_rules(batch: &mut Batch, table: &Table, chain: &str) {
    let local = [Expr::Fib { key: FibKey::DestinationType, to: 0 }, equal(0, &FibKey::LOCAL.to_ne_bytes())];
    let protocol = |to| Expr::Meta { key: MetaKey::L4Protocol, to };
    let keys =
        [(HOST_PORTS_AT, vec![destination(0), protocol(1), destination_port(2)]), (HOST_PORTS, vec![protocol(0), destination_port(1)])];
    for (map, key) in keys {
        let mut rule = local.to_vec();
        rule.extend(key);
        rule.push(Expr::Map { map: map.into(), key: 0, to: 4 });
        rule.push(Expr::DestinationNat { address: 4, port: 5 });
        batch.add_rule(table, chain, &rule);
    }
}

fn add_masquerade_rules(batch: &mut Batch, table: &Table, pod_cidr: Option<Cidr>, cluster_cidrs: &[Cidr]) {
    let chain = "postrouting";
    // A pod that reaches itself through a host port or a Service must see another source than itself.
    let hairpin = [source(0), destination(1), Expr::InSet { set: PODS.into(), key: 0, inverted: false }, Expr::Masquerade];
    batch.add_rule(table, chain, &hairpin);
    let mut from_loopback = interface(MetaKey::OutputName).to_vec();
    from_loopback.extend(first_octet(12, &LOOPBACK));
    from_loopback.push(Expr::Masquerade);
    batch.add_rule(table, chain, &from_loopback);

    let Some(pod_cidr) = pod_cidr.filter(|cidr| cidr.address().is_ipv4()) else { return };
    let mut rule_returning = |condition: Vec<Expr>| {
        let mut rule = condition;
        rule.push(Expr::Verdict(Verdict::Return));
        batch.add_rule(table, chain, &rule);
    };
    rule_returning(within(source(0), pod_cidr, Compare::NotEqual).to_vec());
    let inside = cluster_cidrs.iter().copied().chain([pod_cidr]).filter(|cidr| cidr.address().is_ipv4());
    for cidr in inside {
        rule_returning(within(destination(0), cidr, Compare::Equal).to_vec());
    }
    let multicast = [
        Expr::Payload { base: PayloadBase::Network, offset: 16, length: 1, to: 0 },
        Expr::And { register: 0, mask: vec![0xf0] },
        equal(0, &[MULTICAST]),
    ];
    rule_returning(multicast.to_vec());
    batch.add_rule(table, chain, &[Expr::Masquerade]);
}

fn number(protocol: Protocol) -> u8 {
    (match protocol {
        Protocol::Tcp => libc::IPPROTO_TCP,
        Protocol::Udp => libc::IPPROTO_UDP,
        Protocol::Sctp => libc::IPPROTO_SCTP,
    }) as u8
}

/// The map and key of a host port.
fn port_key(mapping: &PortMapping) -> (&'static str, Vec<u8>) {
    let tail = |key: Key| key.field(&[number(mapping.protocol)]).port(mapping.host_port).build();
    match mapping.host_ip.filter(|ip| !ip.is_unspecified()) {
        Some(ip) => (HOST_PORTS_AT, tail(Key::new().ip(ip))),
        None => (HOST_PORTS, tail(Key::new())),
    }
}

fn usable(pod: &Pod) -> impl Iterator<Item = &PortMapping> {
    pod.ports.iter().filter(|p| p.host_ip.is_none_or(|ip: IpAddr| ip.is_ipv4()))
}

fn pod_key(pod: &Pod) -> Vec<u8> {
    Key::new().ip(pod.ip).ip(pod.ip).build()
}

pub(crate) fn add_pod(batch: &mut Batch, pod: &Pod) {
    let table = table();
    batch.add_elements(&table, PODS, [(pod_key(pod), Data::None)]);
    for mapping in usable(pod) {
        let (map, key) = port_key(mapping);
        let target = Key::new().ip(pod.ip).port(mapping.container_port).build();
        batch.add_elements(&table, map, [(key, Data::Value(&target))]);
    }
}

pub(crate) fn remove_pod(batch: &mut Batch, pod: &Pod) {
    let table = table();
    batch.delete_elements(&table, PODS, [pod_key(pod)]);
    for mapping in usable(pod) {
        let (map, key) = port_key(mapping);
        batch.delete_elements(&table, map, [key]);
    }
}
