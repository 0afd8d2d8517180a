//! NodePorts: two pods cannot hold the same host port.

use std::sync::Arc;

use super::per_node::{Judge, PerNode};
use crate::cache::Cache;
use crate::framework::{Plugin, Refusal, Sharing, View};
use crate::node::Node;
use crate::pod::{HostPort, Pod};

fn clash(a: &HostPort, b: &HostPort) -> bool {
    let any = "0.0.0.0";
    a.1 == b.1 && a.2 == b.2 && (a.0 == b.0 || a.0 == any || b.0 == any)
}

pub(super) struct NodePorts;

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn sharing(&self, pod: &Pod, _: &Cache) -> Sharing {
        if pod.ports.is_empty() { Sharing::Nothing } else { Sharing::With(format!("{:?}", pod.ports)) }
    }

    fn view(&self, pod: &Arc<Pod>, cache: &Cache) -> Box<dyn View> {
        PerNode::boxed(Wanted(pod.ports.clone()), cache)
    }
}

struct Wanted(Vec<HostPort>);

impl Judge for Wanted {
    const PODS: bool = true;

    fn detail(&self, node: &Node) -> u32 {
        self.0.iter().any(|p| node.ports.iter().any(|q| clash(p, q))).into()
    }

    fn refusal(&self, _: u32, _: &Node) -> Option<Refusal> {
        Some(Refusal::passing("node(s) didn't have free ports for the requested pod ports"))
    }
}

#[cfg(test)]
mod tests {
    use crate::plugins::testing::*;
    use fram_machinery::object;

    #[test]
    fn a_host_port_is_given_once_per_address_and_protocol() {
        let mut cache = cache(vec![node("a", "4")]);
        let spec =
            |ip: &str, protocol: &str| object!({ "containers": [{ "ports": [{ "hostPort": 80, "hostIP": ip, "protocol": protocol }] }] });
        cache.place(pod("1", spec("127.0.0.1", "TCP")), "a");
        check(&mut cache, spec("127.0.0.2", "TCP"), "a");
        check(&mut cache, spec("127.0.0.1", "UDP"), "a");
        check(&mut cache, spec("", "TCP"), "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.");
    }
}
