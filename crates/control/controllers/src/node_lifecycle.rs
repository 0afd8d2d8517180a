//! Node lifecycle: notices nodes that are no longer heard of, taints what is not well, one node of a zone after the other where
//! that evicts, and marks its pods not ready.

mod plan;
mod zones;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fram_client::resources::{LEASES, NODES, PODS};
use fram_client::{Action, Client, Controller, EventRecorder, Informer, NODE_INDEX, PatchKind};
use fram_machinery::normalize::format_time;
use fram_machinery::{Status, Value, meta, object};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::objects::unless_it_changed;
use crate::{Context, pods};
use zones::{Limiter, Zones, zone_of};

pub use zones::EvictionRates;

const LEASE_NAMESPACE: &str = "kube-node-lease";

pub(crate) fn start(context: &Context) {
    let (nodes, leases) = (context.informers.get(&NODES), context.informers.get(&LEASES));
    let pods = context.informers.get(&PODS);
    context.metrics.inventory.follow(&nodes, &context.stop);
    let reconciler = Reconciler {
        client: context.client("node-controller"),
        nodes: nodes.clone(),
        leases: leases.clone(),
        pods: pods.clone(),
        heard: Arc::default(),
        rates: context.eviction_rates,
        zones: Arc::default(),
        limiter: Mutex::default(),
        events: context.recorder("node-controller", "node-controller"),
        metrics: context.metrics.clone(),
        now: context.now.clone(),
    };
    let heard = reconciler.heard.clone();
    let (all, zones, rates) = (nodes.clone(), reconciler.zones.clone(), context.eviction_rates);
    let controller = Controller::new("node-lifecycle", 4)
        .watches_deltas(&nodes, move |delta| {
            let mut keys = vec![delta.key()];
            if zones.lock().note(&delta.key(), delta.new.as_deref(), &rates) {
                // What becomes of nodes that are not ready depends on how many are.
                keys.extend(all.list().iter().filter(|n| plan::ready(n) != "True").map(|n| meta::key(n)));
            }
            keys
        })
        .needs(&pods)
        .watches_deltas(&leases, move |delta| {
            let lease = delta.object();
            if meta::namespace(lease) != LEASE_NAMESPACE {
                return Vec::new();
            }
            // A Lease that is renewed only puts off the time at which the node would be looked at.
            let known = delta.new.is_some() && heard.lock().get_mut(meta::name(lease)).is_some_and(|heard| heard.note_lease(lease));
            if known { Vec::new() } else { vec![meta::name(lease).to_string()] }
        });
    context.run(controller, reconciler, |r, key| async move { r.reconcile(&key).await });
}

/// What was last heard of a node, and when.
struct Heard {
    uid: String,
    renewed: String,
    beat: String,
    at: Instant,
}

impl Heard {
    /// Whether the Lease says something new.
    fn note_lease(&mut self, lease: &Value) -> bool {
        let renewed = lease.str_at(&["spec", "renewTime"]);
        if self.renewed == renewed {
            return false;
        }
        self.renewed = renewed.to_string();
        self.at = Instant::now();
        true
    }

    fn note_beat(&mut self, beat: &str) {
        if self.beat != beat {
            self.beat = beat.to_string();
            self.at = Instant::now();
        }
    }
}

struct Reconciler {
    client: Client,
    nodes: Informer,
    leases: Informer,
    pods: Informer,
    /// By node. Clocks of nodes are not trusted, and this machine's may be set.
    heard: Arc<Mutex<HashMap<String, Heard>>>,
    rates: EvictionRates,
    zones: Arc<Mutex<Zones>>,
    limiter: Mutex<Limiter>,
    events: EventRecorder,
    metrics: crate::Metrics,
    now: crate::Clock,
}

impl Reconciler {
    async fn reconcile(&self, name: &str) -> Result<Action, Status> {
        let Some(node) = self.nodes.get(name) else {
            if let Some(gone) = self.heard.lock().remove(name) {
                let node = object!({ "apiVersion": "v1", "kind": "Node", "name": name, "uid": (gone.uid) });
                self.events.event_at(node, false, "RemovingNode", format!("Removing Node {name} from Controller"));
            }
            return Ok(Action::Done);
        };
        let now = (self.now)();
        let left = plan::patience(&node, self.heard(&node).elapsed());
        if left.is_zero()
            && let Some(conditions) = plan::unknown(&node, now)
        {
            let mut changed = (*node).clone();
            changed.set(&["status", "conditions"], conditions);
            unless_it_changed(self.client.all(&NODES).update_status(changed).await)?;
            self.events.event(&node, false, "NodeNotReady", format!("Node {name} status is now: NodeNotReady"));
            // The change comes back as an event.
            return Ok(Action::Done);
        }
        let turn = self.taint(&node, now).await?;
        // What a kubelet says of its node it says of the pods too; see monitorNodeHealth.
        if plan::ready(&node) == "Unknown" {
            self.mark_pods(name, now).await?;
        }
        let next = [Some(left).filter(|left| !left.is_zero()), turn].into_iter().flatten().min();
        Ok(next.map_or(Action::Done, Action::After))
    }

    /// When the node's lease or status last changed.
    fn heard(&self, node: &Value) -> Instant {
        let name = meta::name(node);
        let beat = meta::condition(node, "Ready").map(|c| c.str_at(&["lastHeartbeatTime"])).unwrap_or_default();
        let lease = self.leases.get_in(LEASE_NAMESPACE, name);
        let mut heard = self.heard.lock();
        let entry = heard.entry(name.to_string()).or_insert_with(|| {
            self.events.event(node, false, "RegisteredNode", format!("Registered Node {name} in Controller"));
            Heard { uid: meta::uid(node).into(), renewed: String::new(), beat: beat.to_string(), at: Instant::now() }
        });
        entry.note_beat(beat);
        if let Some(lease) = lease {
            entry.note_lease(&lease);
        }
        entry.at
    }

    /// Whether a node may be emptied now, and the turn that this takes; else when to ask again, where that is known.
    fn may_evict(&self, node: &Value) -> Result<Option<Instant>, Option<Duration>> {
        if !plan::asks_for_eviction(node) {
            return Ok(None);
        }
        let zone = zone_of(node);
        let (all_disrupted, rate) = {
            let zones = self.zones.lock();
            (zones.all_disrupted(), zones.rate(&zone, &self.rates))
        };
        if all_disrupted {
            return Err(None);
        }
        if plan::is_evicted(node) {
            return Ok(None);
        }
        self.limiter.lock().take(&zone, rate, Instant::now()).map(Some)
    }

    /// Gives how long to wait until it is the node's turn to be emptied.
    async fn taint(&self, node: &Value, now: Timestamp) -> Result<Option<Duration>, Status> {
        let evict = self.may_evict(node);
        let (turn, spent) = (evict.err().flatten(), evict.ok().flatten());
        let taints = plan::taints(node, evict.is_ok(), now);
        if taints == node.list_at(&["spec", "taints"]) {
            return Ok(turn);
        }
        let mut changed = node.clone();
        match taints.is_empty() {
            true => drop(changed.remove(&["spec", "taints"])),
            false => changed.set(&["spec", "taints"], taints),
        }
        let written = unless_it_changed(self.client.all(&NODES).update(changed).await);
        if let Ok(Some(written)) = &written {
            if plan::is_evicted(written) && !plan::is_evicted(node) {
                self.metrics.evicted(node);
            }
        } else {
            self.limiter.lock().give_back(&zone_of(node), spent);
        }
        written.map(|_| turn)
    }

    /// Nobody else says that the pods of a silent node do not serve.
    async fn mark_pods(&self, node: &str, now: Timestamp) -> Result<(), Status> {
        for pod in self.pods.by_index(NODE_INDEX, node).iter().filter(|pod| pods::is_ready(pod)) {
            let ready = object!({ "type": "Ready", "status": "False", "lastTransitionTime": (format_time(now, 0)) });
            let patch = object!({ "metadata": { "uid": (meta::uid(pod)) }, "status": { "conditions": [ready] } });
            let pods = self.client.within(&PODS, meta::namespace(pod));
            unless_it_changed(pods.patch(meta::name(pod), "status", PatchKind::Strategic, patch).await)?;
            self.events.event(pod, true, "NodeNotReady", "Node is not ready");
        }
        Ok(())
    }
}
