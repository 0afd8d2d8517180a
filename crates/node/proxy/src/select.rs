//! Which endpoints a Service's port may use, in the cluster and on this node (upstream: CategorizeEndpoints in
//! pkg/proxy/topology.go).

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

    /// Ready endpoints, of these those that are meant for this node or its zone; if none is ready, those that still serve while they
    /// terminate, so that a rollout's last ones are not cut off (KEP-1669). This node's alone, whomever they are meant for.
    pub(crate) fn select(&self, namespace: &str, service: &str, port: &ServicePort, node: &str) -> Selected {
        let slices = self.0.get(&(namespace, service)).map(Vec::as_slice).unwrap_or_default();
        let all: Vec<(&Endpoint, Target)> = slices.iter().flat_map(|slice| targets(slice, &port.name, port.protocol)).collect();
        let is_local = |endpoint: &Endpoint| endpoint.node_name.as_deref() == Some(node);
        let hint = followed(&all);
        Selected { cluster: usable(&all, |e| !e.ready || hint.is_none_or(|hint| hint(e) == Some(true))), local: usable(&all, is_local) }
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

type Hint = fn(&Endpoint) -> Option<bool>;

/// The hints that count: those of nodes before those of zones, where every ready endpoint has one and some are for here; see
/// topologyModeFromHints.
fn followed(all: &[(&Endpoint, Target)]) -> Option<Hint> {
    let hints: [Hint; 2] = [|e| e.for_node, |e| e.for_zone];
    let ready = || all.iter().map(|(e, _)| *e).filter(|e| e.ready);
    hints.into_iter().find(|hint| ready().all(|e| hint(e).is_some()) && ready().any(|e| hint(e) == Some(true)))
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
            ..Default::default()
        }
    }

    #[test]
    fn hints_are_followed_where_all_ready_endpoints_have_them_and_some_are_for_here() {
        // Address, state, whether it is meant for this node and for its zone.
        type Row<'a> = (&'a str, &'a str, Option<bool>, Option<bool>);
        let (yes, no) = (Some(true), Some(false));
        let check = |rows: &[Row<'_>], expect: &[&str]| {
            let one = |(ip, state, for_node, for_zone): &Row<'_>| Endpoint {
                for_node: *for_node,
                for_zone: *for_zone,
                ..endpoint(ip, state, "x")
            };
            let slice = EndpointSlice {
                namespace: "ns".into(),
                service: "s".into(),
                ports: vec![EndpointPort { name: "http".into(), protocol: Protocol::Tcp, port: Some(80) }],
                endpoints: rows.iter().map(one).collect(),
            };
            let port = ServicePort { name: "http".into(), ..Default::default() };
            let found = Slices::new(&[slice]).select("ns", "s", &port, "here").cluster;
            assert_eq!(found.iter().map(|t| t.ip.to_string()).collect::<Vec<_>>(), expect, "{rows:?}");
        };
        check(&[("10.0.0.1", "ready", None, yes), ("10.0.0.2", "ready", None, no)], &["10.0.0.1"]);
        check(&[("10.0.0.1", "ready", yes, yes), ("10.0.0.2", "ready", no, yes)], &["10.0.0.1"]);
        check(&[("10.0.0.1", "ready", no, yes), ("10.0.0.2", "ready", no, yes), ("10.0.0.3", "ready", no, no)], &["10.0.0.1", "10.0.0.2"]);
        check(&[("10.0.0.1", "ready", None, yes), ("10.0.0.2", "ready", None, None)], &["10.0.0.1", "10.0.0.2"]);
        check(&[("10.0.0.1", "ready", None, no), ("10.0.0.2", "ready", None, no)], &["10.0.0.1", "10.0.0.2"]);
        check(&[("10.0.0.1", "ready", None, yes), ("10.0.0.2", "unready", None, None)], &["10.0.0.1"]);
        check(&[("10.0.0.1", "draining", None, None), ("10.0.0.2", "draining", None, no)], &["10.0.0.1", "10.0.0.2"]);
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
