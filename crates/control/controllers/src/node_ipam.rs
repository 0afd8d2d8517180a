//! Gives each node its part of the pod network.

use std::net::Ipv4Addr;

use fram_client::resources::NODES;
use fram_client::{Action, Controller, PatchKind};
use fram_machinery::{Reason, Status, Value, meta, object};

use crate::Context;

/// The pod network, and how large a node's part of it is.
#[derive(Debug, Clone, Copy)]
pub struct PodNetwork {
    pub network: Ipv4Addr,
    pub prefix: u8,
    pub node_prefix: u8,
}

impl Default for PodNetwork {
    fn default() -> Self {
        Self { network: Ipv4Addr::new(10, 244, 0, 0), prefix: 16, node_prefix: 24 }
    }
}

impl PodNetwork {
    /// The first part that nobody has; None where all are taken.
    fn free(self, taken: &[String]) -> Option<String> {
        let parts = 1u32 << (self.node_prefix - self.prefix);
        let size = 1u32 << (32 - self.node_prefix);
        let part = |i: u32| format!("{}/{}", Ipv4Addr::from(u32::from(self.network) + i * size), self.node_prefix);
        (0..parts).map(part).find(|cidr| !taken.contains(cidr))
    }
}

pub(crate) fn start(context: &Context) {
    let nodes = context.informers.get(&NODES);
    let client = context.client("node-controller");
    let network = context.pod_network;
    // One worker: two would give the same part twice.
    let controller = Controller::new("node-ipam", 1).owns(&nodes);
    context.run(controller, (client, nodes), move |context, name| async move {
        let (client, known) = &*context;
        let wants = |n: &Value| n.str_at(&["spec", "podCIDR"]).is_empty() && !meta::is_terminating(n);
        // Nodes change all the time, and get their part once.
        if !known.get(&name).is_some_and(|n| wants(&n)) {
            return Ok(Action::Done);
        }
        let nodes = client.all(&NODES);
        if !nodes.find(&name).await?.is_some_and(|n| wants(&n)) {
            return Ok(Action::Done);
        }
        let all = nodes.list(Default::default()).await?.items;
        let taken: Vec<String> = all.iter().map(|n| n.str_at(&["spec", "podCIDR"]).to_string()).collect();
        let cidr = network.free(&taken).ok_or_else(|| Status::internal("the pod network has no part left for another node"))?;
        let patch: Value = object!({ "spec": { "podCIDR": (cidr.as_str()), "podCIDRs": [(cidr.as_str())] } });
        match nodes.patch(&name, "", PatchKind::Strategic, patch).await {
            Err(status) if !status.is(Reason::NotFound) => Err(status),
            _ => Ok(Action::Done),
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_given_once() {
        let network = PodNetwork { node_prefix: 17, ..Default::default() };
        assert_eq!(network.free(&[]).as_deref(), Some("10.244.0.0/17"));
        assert_eq!(network.free(&["10.244.0.0/17".into()]).as_deref(), Some("10.244.128.0/17"));
        assert_eq!(network.free(&["10.244.0.0/17".into(), "10.244.128.0/17".into()]), None);
    }
}
