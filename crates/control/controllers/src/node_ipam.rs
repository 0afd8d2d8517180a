//! Gives each node its part of the pod network.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;

use fram_client::resources::NODES;
use fram_client::{Action, Client, Controller, Enqueuer, EventRecorder, Informer, PatchKind};
use fram_machinery::{Reason, Status, Value, meta, object};
use parking_lot::Mutex;

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
    /// How many parts there are.
    fn parts(self) -> u32 {
        1 << (self.node_prefix - self.prefix)
    }

    fn part(self, number: u32) -> String {
        let size = 1u32 << (32 - self.node_prefix);
        format!("{}/{}", Ipv4Addr::from(u32::from(self.network) + number * size), self.node_prefix)
    }

    /// Which of the parts a text names, if it is one.
    fn number(self, cidr: &str) -> Option<u32> {
        let (address, prefix) = cidr.split_once('/')?;
        let offset = u32::from(address.parse::<Ipv4Addr>().ok()?).checked_sub(self.network.into())?;
        let number = offset >> (32 - self.node_prefix);
        (prefix.parse() == Ok(self.node_prefix) && number < self.parts()).then_some(number)
    }
}

/// Which parts are taken, and who waits for one. Clusters have thousands of nodes: none of it looks at all of them.
struct Parts {
    network: PodNetwork,
    by_node: HashMap<String, u32>,
    taken: BTreeSet<u32>,
    /// All parts before this one are taken.
    first: u32,
    waiting: BTreeSet<String>,
    /// All nodes were asked for once: before, a part that somebody has just given could be given again.
    complete: bool,
    /// Nodes that went while they were asked for.
    gone: BTreeSet<String>,
}

impl Parts {
    fn new(network: PodNetwork) -> Self {
        let (by_node, taken, waiting, gone) = Default::default();
        Self { network, by_node, taken, first: 0, waiting, complete: false, gone }
    }

    /// These are all nodes.
    fn complete(&mut self, nodes: &[Arc<Value>]) {
        let gone = std::mem::take(&mut self.gone);
        let there = nodes.iter().filter(|node| !gone.contains(meta::name(node)));
        there.for_each(|node| self.note(meta::name(node), node.str_at(&["spec", "podCIDR"])));
        self.complete = true;
    }

    /// A node has this part, whoever gave it.
    fn note(&mut self, node: &str, cidr: &str) {
        let Some(number) = self.network.number(cidr) else { return };
        self.waiting.remove(node);
        self.gone.remove(node);
        self.taken.insert(number);
        self.by_node.insert(node.into(), number);
    }

    /// A part for a node, the same each time until it is given back; None where none is left.
    fn take(&mut self, node: &str) -> Option<String> {
        if let Some(number) = self.by_node.get(node) {
            return Some(self.network.part(*number));
        }
        let parts = self.network.parts();
        let free = (self.first..parts).find(|number| !self.taken.contains(number));
        self.first = free.map_or(parts, |number| number + 1);
        let Some(cidr) = free.map(|number| self.network.part(number)) else {
            self.waiting.insert(node.into());
            return None;
        };
        self.note(node, &cidr);
        Some(cidr)
    }

    /// A node is gone; gives the one that is next to be asked about.
    fn release(&mut self, node: &str) -> Option<String> {
        self.waiting.remove(node);
        if !self.complete {
            self.gone.insert(node.into());
        }
        let number = self.by_node.remove(node)?;
        self.taken.remove(&number);
        self.first = self.first.min(number);
        self.waiting.pop_first()
    }
}

struct Reconciler {
    client: Client,
    nodes: Informer,
    parts: Arc<Mutex<Parts>>,
    events: EventRecorder,
    queue: Enqueuer,
}

pub(crate) fn start(context: &Context) {
    let nodes = context.informers.get(&NODES);
    let parts = Arc::new(Mutex::new(Parts::new(context.pod_network)));
    // One worker: two would ask for all nodes twice.
    let controller = Controller::new("node-ipam", 1);
    let reconciler = Reconciler {
        client: context.client("node-controller"),
        nodes: nodes.clone(),
        parts: parts.clone(),
        events: context.recorder("node-controller", "cidrAllocator"),
        queue: controller.enqueuer(),
    };
    let controller = controller.watches_deltas(&nodes, move |delta| match &delta.new {
        Some(node) if wants(node) => vec![delta.key()],
        Some(node) => {
            parts.lock().note(meta::name(node), node.str_at(&["spec", "podCIDR"]));
            Vec::new()
        }
        None => parts.lock().release(&delta.key()).into_iter().collect(),
    });
    context.run(controller, reconciler, |r, name| async move { r.reconcile(&name).await });
}

/// Nodes change all the time, and get their part once.
fn wants(node: &Value) -> bool {
    node.str_at(&["spec", "podCIDR"]).is_empty() && !meta::is_terminating(node)
}

impl Reconciler {
    async fn reconcile(&self, name: &str) -> Result<Action, Status> {
        if !self.nodes.get(name).is_some_and(|n| wants(&n)) {
            return Ok(Action::Done);
        }
        let nodes = self.client.all(&NODES);
        let Some(node) = nodes.find(name).await?.filter(|n| wants(n)) else { return Ok(Action::Done) };
        if !self.parts.lock().complete {
            let all = nodes.list(Default::default()).await?.items;
            self.parts.lock().complete(&all);
        }
        let part = self.parts.lock().take(name);
        let Some(cidr) = part else {
            // It is its turn when another node goes.
            self.events.event(&node, false, "CIDRNotAvailable", format!("Node {name} status is now: CIDRNotAvailable"));
            return Ok(Action::Done);
        };
        let patch: Value = object!({ "spec": { "podCIDR": (cidr.as_str()), "podCIDRs": [(cidr.as_str())] } });
        match nodes.patch(name, "", PatchKind::Strategic, patch).await {
            Err(status) if status.is(Reason::NotFound) => {
                let next = self.parts.lock().release(name);
                next.into_iter().for_each(|next| self.queue.add(next));
                Ok(Action::Done)
            }
            Err(status) => Err(status),
            Ok(_) => Ok(Action::Done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_given_once_and_again_when_its_node_is_gone() {
        let mut parts = Parts::new(PodNetwork { node_prefix: 17, ..Default::default() });
        assert_eq!(parts.take("a").as_deref(), Some("10.244.0.0/17"));
        assert_eq!(parts.take("a").as_deref(), Some("10.244.0.0/17"), "a second try gets the same");
        assert_eq!(parts.take("b").as_deref(), Some("10.244.128.0/17"));
        assert_eq!((parts.take("c"), parts.take("d")), (None, None));
        assert_eq!(parts.release("a").as_deref(), Some("c"), "one waits for each part");
        assert_eq!(parts.take("c").as_deref(), Some("10.244.0.0/17"));
        assert_eq!(parts.release("d"), None);
        assert_eq!(parts.release("b"), None);
        assert_eq!(parts.take("e").as_deref(), Some("10.244.128.0/17"));
    }

    #[test]
    fn a_node_that_goes_while_all_are_asked_for_keeps_nothing() {
        let mut parts = Parts::new(PodNetwork { node_prefix: 17, ..Default::default() });
        let node = |name: &str, cidr: &str| Arc::new(object!({ "metadata": { "name": name }, "spec": { "podCIDR": cidr } }));
        parts.release("a");
        parts.complete(&[node("a", "10.244.0.0/17"), node("b", "10.244.128.0/17"), node("c", "")]);
        assert_eq!((parts.take("c").as_deref(), parts.take("d")), (Some("10.244.0.0/17"), None));
    }

    #[test]
    fn what_others_gave_is_taken() {
        let mut parts = Parts::new(PodNetwork { node_prefix: 17, ..Default::default() });
        parts.note("a", "10.244.0.0/17");
        parts.note("b", "10.9.0.0/24");
        assert_eq!(parts.take("c").as_deref(), Some("10.244.128.0/17"));
        assert_eq!(parts.network.number("10.244.128.0/17"), Some(1));
        assert_eq!(["10.244.0.0/24", "10.245.0.0/17", "x"].map(|cidr| parts.network.number(cidr)), [None, None, None]);
    }
}
