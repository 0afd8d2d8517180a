//! Taint eviction: pods leave nodes whose NoExecute taints they do not tolerate, or no longer.

mod plan;

use std::collections::HashMap;
use std::sync::Arc;

use fram_client::resources::{NODES, PODS};
use fram_client::{Action, Client, Controller, DeleteOptions, EventRecorder, Informer, NODE_INDEX, PatchKind, Preconditions};
use fram_machinery::normalize::format_time;
use fram_machinery::{Status, Value, meta, object};
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::objects::{settled, unless_it_changed};
use crate::{Context, Metrics, pods};

pub(crate) fn start(context: &Context) {
    let (nodes, all) = (context.informers.get(&NODES), context.informers.get(&PODS));
    let first_seen = Arc::<Mutex<HashMap<String, Timestamp>>>::default();
    let reconciler = Reconciler {
        client: context.client("node-controller"),
        nodes: nodes.clone(),
        pods: all.clone(),
        first_seen: first_seen.clone(),
        events: context.recorder("node-controller", "taint-eviction-controller"),
        metrics: context.metrics.clone(),
        now: context.now.clone(),
    };
    let (on_node, known) = (all.clone(), nodes.clone());
    let controller = Controller::new("taint-eviction", 8)
        .watches_deltas(&all, move |delta| {
            // A pod matters when it comes to a node that evicts, or changes what it tolerates there.
            let node = delta.new.as_deref().and_then(|pod| known.get(pod.str_at(&["spec", "nodeName"])));
            if node.is_none_or(|node| evicting(&node).next().is_none()) {
                return Vec::new();
            }
            let part = |p: &Value| (p.at(&["spec", "nodeName"]).cloned(), p.at(&["spec", "tolerations"]).cloned());
            let same = matches!((&delta.old, &delta.new), (Some(old), Some(new)) if part(old) == part(new));
            if same || delta.new.is_none() { Vec::new() } else { vec![delta.key()] }
        })
        .watches_deltas(&nodes, move |delta| {
            let of = |n: &Value| evicting(n).cloned().collect::<Vec<_>>();
            let sides = (delta.old.as_deref().map(of).unwrap_or_default(), delta.new.as_deref().map(of).unwrap_or_default());
            if sides.0 == sides.1 {
                return Vec::new();
            }
            let name = meta::name(delta.object());
            // The next taint has its own beginning.
            if sides.1.is_empty() {
                first_seen.lock().remove(name);
            }
            on_node.by_index(NODE_INDEX, name).iter().map(|p| meta::key(p)).collect()
        });
    context.run(controller, reconciler, |r, key| async move { r.reconcile(&key).await });
}

/// The taints of a node that evict pods.
fn evicting(node: &Value) -> impl Iterator<Item = &Value> {
    node.list_at(&["spec", "taints"]).iter().filter(|t| t.str_at(&["effect"]) == "NoExecute")
}

struct Reconciler {
    client: Client,
    nodes: Informer,
    pods: Informer,
    /// By node: since when its taints evict, where they do not say so.
    first_seen: Arc<Mutex<HashMap<String, Timestamp>>>,
    events: EventRecorder,
    metrics: Metrics,
    now: crate::Clock,
}

impl Reconciler {
    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let Some(pod) = self.pods.get(key).filter(|p| pods::is_active(p)) else { return Ok(Action::Done) };
        let name = pod.str_at(&["spec", "nodeName"]);
        let Some(node) = self.nodes.get(name) else { return Ok(Action::Done) };
        let (taints, now) = (node.list_at(&["spec", "taints"]), (self.now)());
        if evicting(&node).next().is_none() {
            return Ok(Action::Done);
        }
        let first_seen = *self.first_seen.lock().entry(name.to_string()).or_insert(now);
        match plan::patience(&pod, taints, first_seen, now) {
            None => Ok(Action::Done),
            Some(left) if !left.is_zero() => Ok(Action::After(left)),
            Some(_) => {
                let due = plan::due(&pod, taints, first_seen, now).unwrap_or(now);
                self.evict(&pod, now).await?;
                self.metrics.others.left_node(due.duration_until((self.now)()).try_into().unwrap_or_default());
                Ok(Action::Done)
            }
        }
    }

    async fn evict(&self, pod: &Value, now: Timestamp) -> Result<(), Status> {
        let message = "Taint manager: deleting due to NoExecute taint";
        disrupt(&self.client, pod, "DeletionByTaintManager", message, None, now).await?;
        self.events.event(pod, false, "TaintManagerEviction", format!("Marking for deletion Pod {}", meta::key(pod)));
        let preconditions = Preconditions { uid: Some(meta::uid(pod).into()), resource_version: None };
        let options = DeleteOptions { preconditions, ..Default::default() };
        settled(self.client.within(&PODS, meta::namespace(pod)).delete(meta::name(pod), options).await)
    }
}

/// Says in a pod's status why it is about to be deleted, and that it has failed where nobody else can; see KEP-3329.
pub(crate) async fn disrupt(
    client: &Client,
    pod: &Value,
    reason: &str,
    message: &str,
    phase: Option<&str>,
    now: Timestamp,
) -> Result<(), Status> {
    let condition = object!({ "type": "DisruptionTarget", "status": "True", "reason": reason, "message": message, "lastTransitionTime": (format_time(now, 0)) });
    let mut patch = object!({ "metadata": { "uid": (meta::uid(pod)) }, "status": { "conditions": [condition] } });
    if let Some(phase) = phase {
        patch.set(&["status", "phase"], phase);
    }
    let patched = client.within(&PODS, meta::namespace(pod)).patch(meta::name(pod), "status", PatchKind::Strategic, patch).await;
    unless_it_changed(patched).map(drop)
}
