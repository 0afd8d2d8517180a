//! NodePorts: two pods cannot hold the same host port.

use crate::framework::{Cluster, Plugin, Refusal};
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

    fn filter(&self, pod: &Pod, node: &Node, _: &Cluster<'_>) -> Result<(), Refusal> {
        let taken = pod.ports.iter().any(|p| node.ports.iter().any(|q| clash(p, q)));
        if taken { Err(Refusal::passing("node(s) didn't have free ports for the requested pod ports")) } else { Ok(()) }
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
        check(&cache, spec("127.0.0.2", "TCP"), "a");
        check(&cache, spec("127.0.0.1", "UDP"), "a");
        check(&cache, spec("", "TCP"), "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.");
    }
}
