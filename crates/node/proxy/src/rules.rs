//! The proxy's table: sets, base chains and the chains that balance. No Service has a chain of its own: one chain serves all
//! frontends with the same number of endpoints (and the same affinity), and picks the endpoint from a map by frontend and
//! random number.

use std::net::IpAddr;
use std::time::Duration;

use fram_datapath::address::{Cidr, octets};
use fram_datapath::nft::{
    BaseChain, Batch, ChainKind, Compare, CtKey, Data, Direction, Expr, Family, Hook, Key, MapTo, MetaKey, PayloadBase, RejectWith, Set,
    Table, Type, Verdict, ct_state, ct_status, priority,
};

use crate::plan::{Action, Frontend, Masquerade, Target};

pub(crate) const FRONTENDS: &str = "frontends";
pub(crate) const ENDPOINTS: &str = "endpoints";
pub(crate) const EXTERNAL: &str = "external";
pub(crate) const EXTERNAL_ENDPOINTS: &str = "external-endpoints";
pub(crate) const MASQUERADE: &str = "masquerade";
pub(crate) const NO_ENDPOINTS: &str = "no-endpoints";
pub(crate) const CLUSTER_IPS: &str = "cluster-ips";
pub(crate) const HAIRPIN: &str = "hairpin";
pub(crate) const RESTRICTED: &str = "restricted";
pub(crate) const SOURCES: &str = "sources";

const REFUSE: &str = "refuse";
const CHECK_SOURCE: &str = "check-source";
/// Just before destinations are translated.
const BEFORE_DSTNAT: i32 = priority::DSTNAT - 10;
/// Just after destinations were translated.
const AFTER_DSTNAT: i32 = priority::DSTNAT + 10;
const KEY: &[Type] = &[Type::Ipv4, Type::Protocol, Type::Port];
const SLOT_KEY: &[Type] = &[Type::Ipv4, Type::Protocol, Type::Port, Type::Mark];
/// A frontend, a range's address and its length.
const SOURCE_KEY: &[Type] = &[Type::Ipv4, Type::Protocol, Type::Port, Type::Ipv4, Type::Mark];
const CLIENT_KEY: &[Type] = &[Type::Ipv4, Type::Ipv4, Type::Protocol, Type::Port];

pub(crate) fn table() -> Table {
    Table::new(Family::Ip, "fram-services")
}

/// Which of the two balances a chain works for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Side {
    Everyone,
    External,
}

impl Side {
    pub(crate) fn endpoints(self) -> &'static str {
        match self {
            Self::Everyone => ENDPOINTS,
            Self::External => EXTERNAL_ENDPOINTS,
        }
    }

    fn letter(self) -> char {
        match self {
            Self::Everyone => 'c',
            Self::External => 'x',
        }
    }
}

/// A chain that sends each connection to one of `endpoints` slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Balancer {
    pub(crate) side: Side,
    pub(crate) endpoints: u32,
    pub(crate) affinity: Option<u32>,
}

impl Balancer {
    pub(crate) fn of(side: Side, action: &Action) -> Option<Self> {
        match action {
            Action::Drop => None,
            Action::Balance { endpoints, affinity } => Some(Self { side, endpoints: *endpoints, affinity: *affinity }),
        }
    }

    fn name(&self) -> String {
        let Self { side, endpoints, affinity } = self;
        match affinity {
            None => format!("balance-{}-{endpoints}", side.letter()),
            Some(seconds) => format!("balance-{}-{endpoints}-sticky-{seconds}", side.letter()),
        }
    }
}

/// The chain that sends to one slot and remembers the client there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StickySlot {
    pub(crate) side: Side,
    pub(crate) slot: u32,
    pub(crate) seconds: u32,
}

impl StickySlot {
    fn name(&self) -> String {
        format!("slot-{}-{}-sticky-{}", self.side.letter(), self.slot, self.seconds)
    }
}

/// The set of clients that stick to a slot: (client, frontend), for all frontends.
pub(crate) fn clients(side: Side, slot: u32) -> String {
    format!("clients-{}-{slot}", side.letter())
}

pub(crate) fn verdict(side: Side, action: &Action) -> Verdict {
    match Balancer::of(side, action) {
        None => Verdict::Drop,
        Some(balancer) => Verdict::Goto(balancer.name()),
    }
}

pub(crate) fn masquerade_verdict(masquerade: Masquerade) -> Verdict {
    Verdict::Goto(match masquerade {
        Masquerade::Always => "masquerade".to_owned(),
        Masquerade::OffCluster => "masquerade-off-cluster".to_owned(),
    })
}

pub(crate) fn frontend_key(frontend: &Frontend) -> Vec<u8> {
    Key::new().ip(frontend.ip).field(&[frontend.protocol.number()]).port(frontend.port).build()
}

pub(crate) fn slot_key((frontend, slot): &(Frontend, u32)) -> Vec<u8> {
    Key::new().ip(frontend.ip).field(&[frontend.protocol.number()]).port(frontend.port).number(*slot).build()
}

pub(crate) fn source_key((frontend, range): &(Frontend, Cidr)) -> Vec<u8> {
    let key = Key::new().ip(frontend.ip).field(&[frontend.protocol.number()]).port(frontend.port);
    key.ip(range.address()).number(u32::from(range.prefix_length())).build()
}

pub(crate) fn target_value(target: &Target) -> Vec<u8> {
    Key::new().ip(target.ip).port(target.port).build()
}

/// The frontend's part of a key in a set of [`clients`].
pub(crate) fn frontend_of_client(key: &[u8]) -> &[u8] {
    key.get(4..).unwrap_or_default()
}

fn network(offset: u32, to: u32) -> Expr {
    Expr::Payload { base: PayloadBase::Network, offset, length: 4, to }
}

/// Destination, protocol and port into three registers from `to` on.
fn load_frontend(to: u32) -> Vec<Expr> {
    vec![
        network(16, to),
        Expr::Meta { key: MetaKey::L4Protocol, to: to + 1 },
        Expr::Payload { base: PayloadBase::Transport, offset: 2, length: 2, to: to + 2 },
    ]
}

/// The same as the client sent it, before translation.
fn load_original_frontend() -> Vec<Expr> {
    let original = Some(Direction::Original);
    vec![
        Expr::Ct { key: CtKey::DestinationIp, direction: original, to: 0 },
        Expr::Meta { key: MetaKey::L4Protocol, to: 1 },
        Expr::Ct { key: CtKey::DestinationPort, direction: original, to: 2 },
    ]
}

fn has_bit(key: CtKey, bit: u32) -> Vec<Expr> {
    vec![
        Expr::Ct { key, direction: None, to: 0 },
        Expr::And { register: 0, mask: bit.to_ne_bytes().to_vec() },
        Expr::Cmp { from: 0, compare: Compare::NotEqual, value: vec![0; 4] },
    ]
}

fn from_cidr(cidr: Cidr) -> Vec<Expr> {
    in_cidr(12, cidr)
}

/// Whether the address at an offset of the header is in a range.
fn in_cidr(offset: u32, cidr: Cidr) -> Vec<Expr> {
    let value = octets(cidr.address());
    vec![network(offset, 0), Expr::And { register: 0, mask: cidr.mask() }, Expr::Cmp { from: 0, compare: Compare::Equal, value }]
}

fn rule(parts: impl IntoIterator<Item = Vec<Expr>>) -> Vec<Expr> {
    parts.into_iter().flatten().collect()
}

/// What the fixed rules depend on.
pub(crate) struct Node<'a> {
    pub(crate) pod_cidrs: &'a [Cidr],
    pub(crate) service_cidrs: &'a [Cidr],
    /// Service addresses that the node serves itself.
    pub(crate) local_ips: &'a [IpAddr],
}

/// The table without any Service, replacing what was there.
pub(crate) fn skeleton(batch: &mut Batch, node: &Node<'_>) {
    let table = table();
    batch.add_table(&table);
    batch.delete_table(&table);
    batch.add_table(&table);
    add_sets(batch, &table);
    add_sources(batch, &table);
    let v4 = |cidrs: &[Cidr]| cidrs.iter().copied().filter(|cidr| cidr.address().is_ipv4()).collect::<Vec<_>>();
    let pod_cidrs = v4(node.pod_cidrs);
    add_translation(batch, &table, &pod_cidrs);
    add_source_translation(batch, &table, &pod_cidrs);
    add_refusal(batch, &table, &v4(node.service_cidrs), node.local_ips);
}

fn add_sets(batch: &mut Batch, table: &Table) {
    let mut add = |name: &str, key: &'static [Type], map_to: Option<MapTo>| {
        batch.add_set(table, &Set { name: name.to_owned(), key, map_to, dynamic: false });
    };
    let target = || Some(MapTo::Value(&[Type::Ipv4, Type::Port]));
    for name in [FRONTENDS, EXTERNAL, MASQUERADE] {
        add(name, KEY, Some(MapTo::Verdict));
    }
    add(ENDPOINTS, SLOT_KEY, target());
    add(EXTERNAL_ENDPOINTS, SLOT_KEY, target());
    add(NO_ENDPOINTS, KEY, None);
    add(RESTRICTED, KEY, None);
    add(SOURCES, SOURCE_KEY, None);
    add(CLUSTER_IPS, &[Type::Ipv4], None);
    add(HAIRPIN, &[Type::Ipv4, Type::Ipv4], None);
}

/// Drops who may not use a load balancer's address. A range is found by its length, each length in a rule of its own, so that one set
/// without intervals holds the ranges of all Services.
fn add_sources(batch: &mut Batch, table: &Table) {
    let in_set = |set: &str| vec![Expr::InSet { set: set.to_owned(), key: 0, inverted: false }];
    batch.add_chain(table, CHECK_SOURCE, None);
    for length in (0..=32_u8).rev() {
        let Some(range) = Cidr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), length) else { continue };
        let source = vec![
            network(12, 3),
            Expr::And { register: 3, mask: range.mask() },
            Expr::Immediate { value: u32::from(length).to_ne_bytes().to_vec(), to: 4 },
        ];
        let may = vec![Expr::Verdict(Verdict::Return)];
        batch.add_rule(table, CHECK_SOURCE, &rule([load_frontend(0), source, in_set(SOURCES), may]));
    }
    batch.add_rule(table, CHECK_SOURCE, &[Expr::Verdict(Verdict::Drop)]);
    for (name, hook) in [("sources-prerouting", Hook::Prerouting), ("sources-output", Hook::Output)] {
        batch.add_chain(table, name, Some(BaseChain { kind: ChainKind::Filter, hook, priority: BEFORE_DSTNAT }));
        let new = has_bit(CtKey::State, ct_state::NEW);
        let check = vec![Expr::Verdict(Verdict::Goto(CHECK_SOURCE.to_owned()))];
        batch.add_rule(table, name, &rule([new, load_frontend(0), in_set(RESTRICTED), check]));
    }
}

fn add_translation(batch: &mut Batch, table: &Table, pod_cidrs: &[Cidr]) {
    for (name, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
        batch.add_chain(table, name, Some(BaseChain { kind: ChainKind::Nat, hook, priority: priority::DSTNAT }));
    }
    let look_up = |map: &str| vec![Expr::VerdictMap { map: map.to_owned(), key: 0 }];
    for cidr in pod_cidrs {
        batch.add_rule(table, "prerouting", &rule([from_cidr(*cidr), load_frontend(0), look_up(FRONTENDS)]));
    }
    batch.add_rule(table, "prerouting", &rule([load_frontend(0), look_up(EXTERNAL)]));
    batch.add_rule(table, "prerouting", &rule([load_frontend(0), look_up(FRONTENDS)]));
    batch.add_rule(table, "output", &rule([load_frontend(0), look_up(FRONTENDS)]));
}

fn add_source_translation(batch: &mut Batch, table: &Table, pod_cidrs: &[Cidr]) {
    batch.add_chain(table, "masquerade", None);
    batch.add_rule(table, "masquerade", &[Expr::Masquerade]);
    batch.add_chain(table, "masquerade-off-cluster", None);
    // Without a pod range nobody can be told apart; upstream then masquerades nobody either.
    if !pod_cidrs.is_empty() {
        for cidr in pod_cidrs {
            batch.add_rule(table, "masquerade-off-cluster", &rule([from_cidr(*cidr), vec![Expr::Verdict(Verdict::Return)]]));
        }
        batch.add_rule(table, "masquerade-off-cluster", &[Expr::Masquerade]);
    }
    let base = BaseChain { kind: ChainKind::Nat, hook: Hook::Postrouting, priority: priority::SRCNAT };
    batch.add_chain(table, "postrouting", Some(base));
    let translated = || has_bit(CtKey::Status, ct_status::DST_NAT);
    let to_itself = vec![network(12, 0), network(16, 1), Expr::InSet { set: HAIRPIN.into(), key: 0, inverted: false }, Expr::Masquerade];
    batch.add_rule(table, "postrouting", &rule([translated(), to_itself]));
    let look_up = vec![Expr::VerdictMap { map: MASQUERADE.into(), key: 0 }];
    batch.add_rule(table, "postrouting", &rule([translated(), load_original_frontend(), look_up]));
}

/// Clients are told at once that nobody serves there, instead of waiting for a timeout.
fn add_refusal(batch: &mut Batch, table: &Table, service_cidrs: &[Cidr], local_ips: &[IpAddr]) {
    let in_set = |set: &str| vec![Expr::InSet { set: set.to_owned(), key: 0, inverted: false }];
    let refuse = || vec![Expr::Verdict(Verdict::Goto(REFUSE.to_owned()))];
    batch.add_chain(table, REFUSE, None);
    let tcp = Expr::Cmp { from: 0, compare: Compare::Equal, value: vec![libc::IPPROTO_TCP as u8] };
    batch.add_rule(table, REFUSE, &[Expr::Meta { key: MetaKey::L4Protocol, to: 0 }, tcp, Expr::Reject(RejectWith::TcpReset)]);
    batch.add_rule(table, REFUSE, &[Expr::Reject(RejectWith::PortUnreachable)]);
    for (name, hook) in [("refuse-prerouting", Hook::Prerouting), ("refuse-output", Hook::Output)] {
        batch.add_chain(table, name, Some(BaseChain { kind: ChainKind::Filter, hook, priority: AFTER_DSTNAT }));
        let new = has_bit(CtKey::State, ct_state::NEW);
        batch.add_rule(table, name, &rule([new, load_frontend(0), in_set(NO_ENDPOINTS), refuse()]));
        batch.add_rule(table, name, &rule([vec![network(16, 0)], in_set(CLUSTER_IPS), refuse()]));
        for ip in local_ips.iter().filter(|ip| ip.is_ipv4()) {
            batch.add_rule(table, name, &rule([in_cidr(16, Cidr::host(*ip)), vec![Expr::Verdict(Verdict::Return)]]));
        }
        for cidr in service_cidrs {
            batch.add_rule(table, name, &rule([in_cidr(16, *cidr), refuse()]));
        }
    }
}

/// Looks the slot in register 3 up, with the frontend in 0 to 2, and goes there.
fn send_to_slot(side: Side) -> Vec<Expr> {
    vec![Expr::Map { map: side.endpoints().into(), key: 0, to: 4 }, Expr::DestinationNat { address: 4, port: 5 }]
}

pub(crate) fn add_balancer(batch: &mut Batch, balancer: &Balancer) {
    let (table, name) = (table(), balancer.name());
    batch.add_chain(&table, &name, None);
    let Some(seconds) = balancer.affinity else {
        let slot = vec![Expr::Random { modulus: balancer.endpoints, to: 3 }];
        batch.add_rule(&table, &name, &rule([load_frontend(0), slot, send_to_slot(balancer.side)]));
        return;
    };
    let chain_of = |slot| StickySlot { side: balancer.side, slot, seconds }.name();
    for slot in 0..balancer.endpoints {
        let known = Expr::InSet { set: clients(balancer.side, slot), key: 0, inverted: false };
        let go = Expr::Verdict(Verdict::Goto(chain_of(slot)));
        batch.add_rule(&table, &name, &rule([vec![network(12, 0)], load_frontend(1), vec![known, go]]));
    }
    let pick = vec![Expr::Random { modulus: balancer.endpoints, to: 0 }, Expr::VerdictMap { map: format!("{name}-slots"), key: 0 }];
    let map = Set { name: format!("{name}-slots"), key: &[Type::Mark], map_to: Some(MapTo::Verdict), dynamic: false };
    batch.add_set(&table, &map);
    let verdicts: Vec<_> = (0..balancer.endpoints).map(|slot| Verdict::Goto(chain_of(slot))).collect();
    let elements = (0..).zip(&verdicts).map(|(slot, verdict)| (Key::new().number(slot).build(), Data::Verdict(verdict)));
    batch.add_elements(&table, &map.name, elements);
    batch.add_rule(&table, &name, &pick);
}

pub(crate) fn add_clients(batch: &mut Batch, side: Side, slot: u32) {
    batch.add_set(&table(), &Set { name: clients(side, slot), key: CLIENT_KEY, map_to: None, dynamic: true });
}

pub(crate) fn add_sticky_slot(batch: &mut Batch, sticky: &StickySlot) {
    let (table, name) = (table(), sticky.name());
    batch.add_chain(&table, &name, None);
    let timeout = Duration::from_secs(u64::from(sticky.seconds));
    let remember = Expr::Remember { set: clients(sticky.side, sticky.slot), key: 0, timeout };
    let slot = Expr::Immediate { value: sticky.slot.to_ne_bytes().to_vec(), to: 3 };
    let client = rule([vec![network(12, 0)], load_frontend(1), vec![remember]]);
    batch.add_rule(&table, &name, &rule([client, load_frontend(0), vec![slot], send_to_slot(sticky.side)]));
}
