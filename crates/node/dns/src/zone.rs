//! The cluster's zone as a value: built whole from Services, EndpointSlices and pods, asked by name. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use hickory_proto::rr::Name;

/// The version of the specification, as `dns-version` gives it.
pub(crate) const SPECIFICATION: &str = "1.1.0";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    fn label(self) -> &'static str {
        match self {
            Self::Tcp => "_tcp",
            Self::Udp => "_udp",
            Self::Sctp => "_sctp",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Port {
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceKind {
    ClusterIp(Vec<IpAddr>),
    Headless,
    ExternalName(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub namespace: String,
    pub name: String,
    pub kind: ServiceKind,
    pub ports: Vec<Port>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EndpointSlice {
    pub namespace: String,
    /// The label kubernetes.io/service-name.
    pub service: String,
    pub ports: Vec<Port>,
    pub endpoints: Vec<Endpoint>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub addresses: Vec<IpAddr>,
    pub hostname: Option<String>,
    /// True for every endpoint of a Service with publishNotReadyAddresses: its EndpointSlices say so themselves.
    pub ready: bool,
}

/// Which `a-b-c-d.namespace.pod` names exist.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Pods {
    /// Every address in every namespace (CoreDNS `pods insecure`, kubeadm's default).
    #[default]
    Any,
    /// Those of these pods only, by namespace.
    Known(HashSet<(String, IpAddr)>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneConfig {
    /// `cluster.local`.
    pub cluster_domain: String,
    /// Seconds that an answer may be kept.
    pub ttl: u32,
    /// The addresses of the cluster's DNS Service.
    pub dns_ips: Vec<IpAddr>,
    pub pods: Pods,
}

impl Default for ZoneConfig {
    fn default() -> Self {
        Self { cluster_domain: "cluster.local".into(), ttl: 5, dns_ips: Vec::new(), pods: Pods::Any }
    }
}

/// One SRV record without priority and weight, which do not vary.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Srv {
    pub(crate) port: u16,
    pub(crate) target: Name,
}

/// What a name has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Node {
    pub(crate) addresses: BTreeSet<IpAddr>,
    pub(crate) srv: BTreeSet<Srv>,
    pub(crate) cname: Option<Name>,
    pub(crate) txt: Option<&'static str>,
}

/// All names below the cluster domain, and the reverse names of Services and named endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    pub(crate) config: ZoneConfig,
    pub(crate) origin: Name,
    /// By the labels before the cluster domain, lower case, joined by dots; the empty string is the domain itself.
    nodes: HashMap<String, Node>,
    reverse: BTreeMap<IpAddr, BTreeSet<Name>>,
}

/// Whether and what a name is in the zone.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    /// The name is not below the cluster domain.
    Elsewhere,
    /// It is, and does not exist.
    Nothing,
    Node(&'a Node),
    /// A pod's name, which is its address.
    Pod(IpAddr),
}

impl Default for Zone {
    fn default() -> Self {
        Self::new(ZoneConfig::default(), &[], &[])
    }
}

impl Zone {
    pub fn new(config: ZoneConfig, services: &[Service], slices: &[EndpointSlice]) -> Self {
        let origin = fqdn(&config.cluster_domain).unwrap_or_else(Name::root);
        let mut zone = Self { config, origin, nodes: HashMap::new(), reverse: BTreeMap::new() };
        zone.node("dns-version").txt = Some(SPECIFICATION);
        let dns_ips = zone.config.dns_ips.clone();
        zone.node("ns.dns").addresses.extend(dns_ips);
        zone.node("pod");
        zone.node("svc");
        let mut by_service: HashMap<(&str, &str), Vec<&EndpointSlice>> = HashMap::new();
        for slice in slices {
            by_service.entry((&slice.namespace, &slice.service)).or_default().push(slice);
        }
        for service in services {
            let slices = by_service.get(&(service.namespace.as_str(), service.name.as_str())).map(Vec::as_slice).unwrap_or_default();
            zone.add(service, slices);
        }
        zone
    }

    pub fn config(&self) -> &ZoneConfig {
        &self.config
    }

    /// The node of a name, made with all names above it: those then exist, if without records (RFC 8020).
    fn node(&mut self, name: &str) -> &mut Node {
        let mut above = name;
        while let Some((_, parent)) = above.split_once('.') {
            self.nodes.entry(parent.to_owned()).or_default();
            above = parent;
        }
        self.nodes.entry(String::new()).or_default();
        self.nodes.entry(name.to_owned()).or_default()
    }

    fn full(&self, name: &str) -> Option<Name> {
        fqdn(&format!("{name}.{}", self.config.cluster_domain))
    }

    fn add(&mut self, service: &Service, slices: &[&EndpointSlice]) {
        let name = format!("{}.{}.svc", service.name, service.namespace).to_ascii_lowercase();
        match &service.kind {
            ServiceKind::ClusterIp(ips) => self.add_cluster_ip(&name, ips, &service.ports),
            ServiceKind::Headless => slices.iter().for_each(|slice| self.add_headless(&name, slice)),
            ServiceKind::ExternalName(target) => {
                if let Some(target) = fqdn(target) {
                    self.node(&name).cname = Some(target);
                }
            }
        }
    }

    fn add_cluster_ip(&mut self, name: &str, ips: &[IpAddr], ports: &[Port]) {
        self.node(name).addresses.extend(ips);
        let Some(target) = self.full(name) else { return };
        for ip in ips {
            self.reverse.entry(*ip).or_default().insert(target.clone());
        }
        for port in ports {
            self.add_srv(name, port, &target);
        }
    }

    /// Without a ready endpoint the Service's name does not exist (specification, 2.4.1).
    fn add_headless(&mut self, name: &str, slice: &EndpointSlice) {
        for endpoint in slice.endpoints.iter().filter(|e| e.ready) {
            for ip in &endpoint.addresses {
                let label = endpoint.hostname.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| dashed(*ip));
                let own = format!("{label}.{name}").to_ascii_lowercase();
                self.node(name).addresses.insert(*ip);
                self.node(&own).addresses.insert(*ip);
                let Some(target) = self.full(&own) else { continue };
                self.reverse.entry(*ip).or_default().insert(target.clone());
                for port in &slice.ports {
                    self.add_srv(name, port, &target);
                }
            }
        }
    }

    fn add_srv(&mut self, name: &str, port: &Port, target: &Name) {
        if port.name.is_empty() {
            return;
        }
        let key = format!("_{}.{}.{name}", port.name, port.protocol.label()).to_ascii_lowercase();
        self.node(&key).srv.insert(Srv { port: port.port, target: target.clone() });
    }

    pub(crate) fn find(&self, name: &Name) -> Found<'_> {
        let Some(relative) = self.relative(name) else { return Found::Elsewhere };
        if let Some(node) = self.nodes.get(&relative) {
            return Found::Node(node);
        }
        match self.pod(&relative) {
            Some(ip) => Found::Pod(ip),
            None => Found::Nothing,
        }
    }

    /// The addresses of a name in the zone, for the additional section.
    pub(crate) fn addresses(&self, name: &Name) -> impl Iterator<Item = IpAddr> {
        let node = self.relative(name).and_then(|relative| self.nodes.get(&relative));
        node.into_iter().flat_map(|node| node.addresses.iter().copied())
    }

    /// The names of an address, for PTR.
    pub(crate) fn names_of(&self, ip: IpAddr) -> impl Iterator<Item = &Name> {
        self.reverse.get(&ip).into_iter().flatten()
    }

    fn relative(&self, name: &Name) -> Option<String> {
        if !self.origin.zone_of(name) {
            return None;
        }
        let count = usize::from(name.num_labels() - self.origin.num_labels());
        let mut relative = String::with_capacity(name.len());
        for (n, label) in name.iter().take(count).enumerate() {
            if n > 0 {
                relative.push('.');
            }
            // A label with a dot or other bytes in it would read as several; no name of ours has one.
            let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
            if !label.iter().all(plain) {
                return Some("\0".to_owned());
            }
            relative.extend(label.iter().map(|b| b.to_ascii_lowercase() as char));
        }
        Some(relative)
    }

    /// `a-b-c-d.namespace.pod`
    fn pod(&self, relative: &str) -> Option<IpAddr> {
        let mut labels = relative.split('.');
        let (address, namespace, marker) = (labels.next()?, labels.next()?, labels.next()?);
        if marker != "pod" || labels.next().is_some() {
            return None;
        }
        let ip: IpAddr = match address.replace('-', ".").parse() {
            Ok(v4) => v4,
            Err(_) => address.replace('-', ":").parse().ok()?,
        };
        match &self.config.pods {
            Pods::Any => Some(ip),
            Pods::Known(pods) => pods.contains(&(namespace.to_owned(), ip)).then_some(ip),
        }
    }
}

/// An address as one label: `10-244-1-7`, `fd00--7`.
fn dashed(ip: IpAddr) -> String {
    ip.to_string().replace(['.', ':'], "-")
}

fn fqdn(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_whatever_their_case_and_only_below_the_domain() {
        let service = Service {
            namespace: "default".into(),
            name: "kubernetes".into(),
            kind: ServiceKind::ClusterIp(vec!["10.96.0.1".parse().unwrap()]),
            ports: vec![Port { name: "https".into(), protocol: Protocol::Tcp, port: 443 }],
        };
        let zone = Zone::new(ZoneConfig::default(), &[service], &[]);
        let find = |text: &str| zone.find(&fqdn(text).unwrap());
        for name in [
            "kubernetes.default.svc.cluster.local",
            "KuberNetes.DEFAULT.svc.Cluster.Local",
            "_https._tcp.kubernetes.default.svc.cluster.local",
        ] {
            assert!(matches!(find(name), Found::Node(_)), "{name}");
        }
        for name in ["cluster.local", "svc.cluster.local", "default.svc.cluster.local", "_tcp.kubernetes.default.svc.cluster.local"] {
            assert_eq!(find(name), Found::Node(&Node::default()), "{name} exists without records");
        }
        for name in
            ["x.kubernetes.default.svc.cluster.local", "other.svc.cluster.local", "kubernetes.cluster.local", "a\\.b.svc.cluster.local"]
        {
            assert_eq!(find(name), Found::Nothing, "{name}");
        }
        for name in ["example.com", "local", "notcluster.local", "kubernetes.default.svc"] {
            assert_eq!(find(name), Found::Elsewhere, "{name}");
        }
    }

    #[test]
    fn pod_names_are_their_addresses_and_can_be_held_to_existing_pods() {
        let known = Pods::Known(HashSet::from([("ns".to_owned(), "10.244.0.7".parse().unwrap())]));
        for (pods, name, expect) in [
            (Pods::Any, "10-244-0-7.ns.pod.cluster.local", Some("10.244.0.7")),
            (Pods::Any, "fd00--7.ns.pod.cluster.local", Some("fd00::7")),
            (Pods::Any, "x.ns.pod.cluster.local", None),
            (Pods::Any, "10-244-0-7.pod.cluster.local", None),
            (Pods::Any, "a.10-244-0-7.ns.pod.cluster.local", None),
            (known.clone(), "10-244-0-7.ns.pod.cluster.local", Some("10.244.0.7")),
            (known.clone(), "10-244-0-8.ns.pod.cluster.local", None),
            (known, "10-244-0-7.other.pod.cluster.local", None),
        ] {
            let zone = Zone::new(ZoneConfig { pods, ..Default::default() }, &[], &[]);
            let expect = expect.map_or(Found::Nothing, |ip| Found::Pod(ip.parse().unwrap()));
            assert_eq!(zone.find(&fqdn(name).unwrap()), expect, "{name}");
        }
    }
}
