//! Which endpoints a Service's port may use, in the cluster and on this node (upstream: CategorizeEndpoints in
//! pkg/proxy/topology.go). Topology hints are not looked at.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use crate::plan::Target;
use crate::service::{Endpoint, EndpointSlice, Protocol, ServicePort};

/// The EndpointSlices of each Service.
pub(crate) struct Slices<'a>(HashMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>);

/// The endpoints of one port. Families are mixed; the planner sorts them by the frontend's.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Selected {
    pub(crate) cluster: BTreeSet<Target>,
    pub(crate) local: BTreeSet<Target>,
}

impl<'a> Slices<'a> {
    pub(crate) fn new(slices: &'a [EndpointSlice]) -> Self {
        let mut by_service: HashMap<_, Vec<_>> = HashMap::new();
        for slice in slices {
            by_service.entry((slice.namespace.as_str(), slice.service.as_str())).or_default().push(slice);
        }
        Self(by_service)
    }

    /// Ready endpoints; if there is none, those that still serve while they terminate, so that a rollout's last ones are not
    /// cut off (KEP-1669). The same for this node's alone.
    pub(crate) fn select(&self, namespace: &str, service: &str, port: &ServicePort, node: &str) -> Selected {
        let slices = self.0.get(&(namespace, service)).map(Vec::as_slice).unwrap_or_default();
        let all: Vec<(&Endpoint, Target)> = slices.iter().flat_map(|slice| targets(slice, &port.name, port.protocol)).collect();
        let is_local = |endpoint: &Endpoint| endpoint.node_name.as_deref() == Some(node);
        Selected { cluster: usable(&all, |_| true), local: usable(&all, is_local) }
    }

    /// Every address of this node's endpoints, for traffic that comes back to where it started.
    pub(crate) fn local_addresses(&self, node: &str) -> BTreeSet<IpAddr> {
        let endpoints = self.0.values().flatten().flat_map(|slice| &slice.endpoints);
        endpoints.filter(|e| e.node_name.as_deref() == Some(node)).flat_map(|e| e.addresses.iter().copied()).collect()
    }
}

fn targets<'a>(slice: &'a EndpointSlice, name: &str, protocol: Protocol) -> impl Iterator<Item = (&'a Endpoint, Target)> {
    let port = slice.ports.iter().find(|p| p.name == name && p.protocol == protocol).and_then(|p| p.port);
    // The addresses of one endpoint are fungible; upstream takes the first.
    let first = |e: &'a Endpoint| Some((e, *e.addresses.first()?));
    slice.endpoints.iter().filter_map(first).filter_map(move |(e, ip)| Some((e, Target { ip, port: port? })))
}

fn usable(all: &[(&Endpoint, Target)], wanted: impl Fn(&Endpoint) -> bool) -> BTreeSet<Target> {
    let pick = |condition: &dyn Fn(&Endpoint) -> bool| -> BTreeSet<Target> {
        all.iter().filter(|(e, _)| wanted(e) && condition(e)).map(|(_, target)| *target).collect()
    };
    let ready = pick(&|e| e.ready);
    if ready.is_empty() { pick(&|e| e.serving && e.terminating) } else { ready }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::EndpointPort;

    fn endpoint(ip: &str, state: &str, node: &str) -> Endpoint {
        Endpoint {
            addresses: vec![ip.parse().unwrap()],
            ready: state == "ready",
            serving: state == "ready" || state == "draining",
            terminating: state == "draining" || state == "dead",
            node_name: Some(node.to_owned()),
        }
    }

    fn select(endpoints: &[(&str, &str, &str)]) -> (Vec<String>, Vec<String>) {
        let slice = EndpointSlice {
            namespace: "ns".into(),
            service: "s".into(),
            ports: vec![EndpointPort { name: "http".into(), protocol: Protocol::Tcp, port: Some(80) }],
            endpoints: endpoints.iter().map(|(ip, state, node)| endpoint(ip, state, node)).collect(),
        };
        let port = ServicePort { name: "http".into(), ..Default::default() };
        let slices = [slice.clone(), slice];
        let selected = Slices::new(&slices).select("ns", "s", &port, "here");
        let print = |set: BTreeSet<Target>| set.into_iter().map(|t| t.ip.to_string()).collect();
        (print(selected.cluster), print(selected.local))
    }

    #[test]
    fn ready_endpoints_are_used_and_draining_ones_only_when_none_is_ready() {
        let none: [&str; 0] = [];
        for (endpoints, cluster, local) in [
            (vec![("10.0.0.1", "ready", "here"), ("10.0.0.2", "ready", "there")], vec!["10.0.0.1", "10.0.0.2"], vec!["10.0.0.1"]),
            (vec![("10.0.0.1", "draining", "here"), ("10.0.0.2", "ready", "there")], vec!["10.0.0.2"], vec!["10.0.0.1"]),
            (vec![("10.0.0.1", "draining", "there"), ("10.0.0.2", "dead", "here")], vec!["10.0.0.1"], none.to_vec()),
            (vec![("10.0.0.1", "unready", "here")], none.to_vec(), none.to_vec()),
        ] {
            let (found_cluster, found_local) = select(&endpoints);
            assert_eq!(
                (found_cluster, found_local),
                (cluster.into_iter().map(String::from).collect(), local.into_iter().map(String::from).collect()),
                "{endpoints:?}"
            );
        }
    }
}
