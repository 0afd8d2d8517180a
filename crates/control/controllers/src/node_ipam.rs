//! Gives each node its part of the pod network, of each family one. Which, is in `parts`.

mod network;
mod parts;

use std::sync::Arc;

use fram_client::resources::NODES;
use fram_client::{Action, Client, Controller, Enqueuer, EventRecorder, Informer, PatchKind};
use fram_machinery::{Reason, Status, Value, meta, object};
use parking_lot::Mutex;

use crate::Context;
use parts::Parts;

pub use network::{NodeMasks, PodNetwork, PodNetworkError};

struct Reconciler {
    client: Client,
    nodes: Informer,
    parts: Arc<Mutex<Parts>>,
    events: EventRecorder,
    queue: Enqueuer,
}

pub(crate) fn start(context: &Context) {
    let nodes = context.informers.get(&NODES);
    let parts = Arc::new(Mutex::new(Parts::new(&context.pod_network)));
    let (metrics, stop) = (context.metrics.clone(), context.stop.clone());
    metrics.others.runs("nodeipam", true);
    context.tasks.spawn(async move {
        stop.cancelled().await;
        metrics.others.runs("nodeipam", false);
    });
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
            parts.lock().note(meta::name(node), &given(node));
            Vec::new()
        }
        None => parts.lock().release(&delta.key()).into_iter().collect(),
    });
    context.run(controller, reconciler, |r, name| async move { r.reconcile(&name).await });
}

/// The parts that a node has.
fn given(node: &Value) -> Vec<&str> {
    let all: Vec<&str> = node.list_at(&["spec", "podCIDRs"]).iter().filter_map(Value::as_str).collect();
    if all.is_empty() { vec![node.str_at(&["spec", "podCIDR"])] } else { all }
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
        let Some(cidrs) = part else {
            // It is its turn when another node goes.
            self.events.event(&node, false, "CIDRNotAvailable", format!("Node {name} status is now: CIDRNotAvailable"));
            return Ok(Action::Done);
        };
        let all: Vec<Value> = cidrs.iter().map(|cidr| cidr.as_str().into()).collect();
        let patch: Value = object!({ "spec": { "podCIDR": (all.first().cloned()), "podCIDRs": all } });
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
