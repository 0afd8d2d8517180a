//! From Services to what the kernel's maps should hold. Pure; the planner remembers only which slot each endpoint has, so that
//! one endpoint's coming or going moves no other.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use fram_datapath::address::Cidr;

use crate::select::{Selected, Slices};
use crate::service::{EndpointSlice, Protocol, Service, ServicePort, TrafficPolicy};

/// Where clients send to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Frontend {
    pub ip: IpAddr,
    pub protocol: Protocol,
    pub port: u16,
}

/// Where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    pub ip: IpAddr,
    pub port: u16,
}

/// What happens to a new connection to a frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    Drop,
    /// One of `endpoints` slots, the same for a client for `affinity` seconds.
    Balance {
        endpoints: u32,
        affinity: Option<u32>,
    },
}

/// Whose source address is replaced by the node's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Masquerade {
    /// Everyone's: the answer has to come back through this node.
    Always,
    /// That of clients outside of the pod network.
    OffCluster,
}

/// A frontend's actions and targets by slot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Balance {
    pub actions: BTreeMap<Frontend, Action>,
    pub slots: BTreeMap<(Frontend, u32), Target>,
}

/// The content of the maps and sets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// For everyone.
    pub frontends: Balance,
    /// For clients outside of the cluster, where the external traffic policy is Local; looked at first.
    pub external: Balance,
    pub masquerade: BTreeMap<Frontend, Masquerade>,
    /// To be refused: Services without any usable endpoint.
    pub no_endpoints: BTreeSet<Frontend>,
    /// To be refused at ports that no Service has.
    pub cluster_ips: BTreeSet<IpAddr>,
    /// Addresses of load balancers that not everyone may use.
    pub restricted: BTreeSet<Frontend>,
    /// Who may use those.
    pub sources: BTreeSet<(Frontend, Cidr)>,
    /// Endpoints of this node, which may reach themselves.
    pub hairpin: BTreeSet<IpAddr>,
}

impl Desired {
    /// Whether a flow to `frontend` may go on to `target`.
    pub fn allows(&self, frontend: &Frontend, target: &Target) -> bool {
        [&self.frontends, &self.external].iter().any(|balance| balance.targets(frontend).any(|t| t == target))
    }
}

impl Balance {
    pub fn targets(&self, frontend: &Frontend) -> impl Iterator<Item = &Target> {
        self.slots.range((*frontend, 0)..=(*frontend, u32::MAX)).map(|(_, target)| target)
    }

    fn set(&mut self, frontend: Frontend, affinity: Option<u32>, targets: &BTreeSet<Target>, old: &[Target]) {
        let targets: BTreeSet<Target> = targets.iter().filter(|t| t.ip.is_ipv4() == frontend.ip.is_ipv4()).copied().collect();
        let endpoints = targets.len() as u32;
        self.actions.insert(frontend, if endpoints == 0 { Action::Drop } else { Action::Balance { endpoints, affinity } });
        self.slots.extend((0..).zip(assign(old, targets)).map(|(slot, target)| ((frontend, slot), target)));
    }
}

/// Gives each target a slot: its old one if that still exists, else one that became free.
fn assign(old: &[Target], mut targets: BTreeSet<Target>) -> Vec<Target> {
    let mut slots: Vec<Option<Target>> = vec![None; targets.len()];
    for (slot, target) in slots.iter_mut().zip(old) {
        *slot = targets.take(target);
    }
    let mut rest = targets.into_iter();
    slots.into_iter().filter_map(|slot| slot.or_else(|| rest.next())).collect()
}

/// What the node is, as far as Services depend on it.
#[derive(Debug, Clone, Default)]
pub struct Planner {
    pub node_name: String,
    /// The addresses that node ports listen on.
    pub node_ips: Vec<IpAddr>,
    /// Service addresses that the node serves itself.
    pub node_local_ips: Vec<IpAddr>,
    previous: Arc<Desired>,
}

/// One Service port's frontends with what they share.
struct Port<'a> {
    service: &'a Service,
    port: &'a ServicePort,
    selected: Selected,
    affinity: Option<u32>,
}

impl Planner {
    pub fn new(node_name: &str, node_ips: Vec<IpAddr>, node_local_ips: Vec<IpAddr>) -> Self {
        Self { node_name: node_name.to_owned(), node_ips, node_local_ips, previous: Arc::default() }
    }

    /// What was planned last.
    pub fn previous(&self) -> &Desired {
        &self.previous
    }

    /// What the maps should hold now; gives what they held as well.
    pub fn plan(&mut self, services: &[Service], slices: &[EndpointSlice]) -> (Arc<Desired>, Arc<Desired>) {
        let slices = Slices::new(slices);
        let mut desired = Desired { hairpin: slices.local_addresses(&self.node_name), ..Desired::default() };
        let old = OldSlots::new(&self.previous);
        // When two Services claim one frontend, the first by name has it, on every node alike.
        let mut services: Vec<_> = services.iter().collect();
        services.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        for service in services {
            desired.cluster_ips.extend(self.cluster_ips(service));
            desired.cluster_ips.extend(service.own_ips.iter().filter(|ip| ip.is_ipv4()));
            for port in &service.ports {
                let selected = slices.select(&service.namespace, &service.name, port, &self.node_name);
                let affinity = service.session_affinity.map(|timeout| u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX).max(1));
                let port = Port { service, port, selected, affinity };
                self.add_cluster_ips(&mut desired, &port, &old);
                self.add_external(&mut desired, &port, &old);
                self.add_sources(&mut desired, &port);
            }
        }
        let desired = Arc::new(desired);
        let previous = std::mem::replace(&mut self.previous, desired.clone());
        (desired, previous)
    }

    fn cluster_ips<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = IpAddr> + 'a {
        service.cluster_ips.iter().copied().filter(|ip| !self.node_local_ips.contains(ip))
    }

    fn add_cluster_ips(&self, desired: &mut Desired, port: &Port<'_>, old: &OldSlots) {
        let targets = match port.service.internal_traffic_policy {
            TrafficPolicy::Cluster => &port.selected.cluster,
            TrafficPolicy::Local => &port.selected.local,
        };
        for ip in self.cluster_ips(port.service) {
            let frontend = Frontend { ip, protocol: port.port.protocol, port: port.port.port };
            if add(desired, frontend, port, targets, old) {
                desired.masquerade.insert(frontend, Masquerade::OffCluster);
            }
        }
    }

    /// External and load balancer addresses, and node ports. With policy Local only clients outside of the cluster are held to
    /// this node's endpoints: pods and the node itself are as well served by any (as upstream).
    fn add_external(&self, desired: &mut Desired, port: &Port<'_>, old: &OldSlots) {
        let protocol = port.port.protocol;
        let addresses = port.service.external_ips.iter().chain(&port.service.load_balancer_ips);
        let external = addresses.map(|ip| (*ip, port.port.port));
        let node_ports = port.port.node_port.into_iter().flat_map(|node_port| self.node_ips.iter().map(move |ip| (*ip, node_port)));
        for (ip, number) in external.chain(node_ports) {
            let frontend = Frontend { ip, protocol, port: number };
            if !add(desired, frontend, port, &port.selected.cluster, old) {
                continue;
            }
            match port.service.external_traffic_policy {
                TrafficPolicy::Cluster => {
                    desired.masquerade.insert(frontend, Masquerade::Always);
                }
                TrafficPolicy::Local => {
                    desired.external.set(frontend, port.affinity, &port.selected.local, old.external(&frontend));
                }
            }
        }
    }

    /// Who may use a load balancer's addresses. Node ports are open to everyone, as upstream's. Where the node itself may, so may who
    /// comes from such an address: the node that holds it asks itself with it.
    fn add_sources(&self, desired: &mut Desired, port: &Port<'_>) {
        let Some(ranges) = &port.service.source_ranges else { return };
        for ip in &port.service.load_balancer_ips {
            let frontend = Frontend { ip: *ip, protocol: port.port.protocol, port: port.port.port };
            if !desired.restricted.insert(frontend) {
                continue;
            }
            let node_may = self.node_ips.iter().any(|node| ranges.iter().any(|range| range.contains(*node)));
            let all = ranges.iter().copied().chain(node_may.then(|| Cidr::host(*ip)));
            let family = all.filter(|range| range.address().is_ipv4() == ip.is_ipv4());
            desired.sources.extend(family.map(|range| (frontend, range)));
        }
    }
}

/// Adds a frontend; gives whether connections to it go anywhere.
fn add(desired: &mut Desired, frontend: Frontend, port: &Port<'_>, targets: &BTreeSet<Target>, old: &OldSlots) -> bool {
    if desired.frontends.actions.contains_key(&frontend) || desired.no_endpoints.contains(&frontend) {
        return false;
    }
    if !port.selected.cluster.iter().any(|t| t.ip.is_ipv4() == frontend.ip.is_ipv4()) {
        desired.no_endpoints.insert(frontend);
        return false;
    }
    desired.frontends.set(frontend, port.affinity, targets, old.frontends(&frontend));
    true
}

/// The slots of the last plan, by frontend.
struct OldSlots {
    frontends: HashMap<Frontend, Vec<Target>>,
    external: HashMap<Frontend, Vec<Target>>,
}

impl OldSlots {
    fn new(previous: &Desired) -> Self {
        let group = |balance: &Balance| {
            let mut by_frontend: HashMap<Frontend, Vec<Target>> = HashMap::new();
            for ((frontend, _), target) in &balance.slots {
                by_frontend.entry(*frontend).or_default().push(*target);
            }
            by_frontend
        };
        Self { frontends: group(&previous.frontends), external: group(&previous.external) }
    }

    fn frontends(&self, frontend: &Frontend) -> &[Target] {
        self.frontends.get(frontend).map(Vec::as_slice).unwrap_or_default()
    }

    fn external(&self, frontend: &Frontend) -> &[Target] {
        self.external.get(frontend).map(Vec::as_slice).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
