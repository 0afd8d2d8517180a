//! The shell: follows pods and nodes, decides, binds, reports.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fram_client::resources::{
    NAMESPACES, NODES, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, POD_DISRUPTION_BUDGETS, PODS, STORAGE_CLASSES,
};
use fram_client::{Client, DeleteOptions, Delta, EventRecorder, Informer, PatchKind, Preconditions, SharedInformers};
use fram_machinery::{Reason, Status, Value, meta, object};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bind::bind;
use crate::cache::Cache;
use crate::framework::{Outcome, schedule};
use crate::pod::Pod;
use crate::preemption::{Preemption, may_preempt, preempt};
use crate::queue::Queue;
use crate::storage::Step;

/// What a scheduler needs.
#[derive(Clone)]
pub struct SchedulerConfig {
    /// Pods whose `schedulerName` is this one are scheduled.
    pub name: String,
    pub client: Client,
    pub informers: SharedInformers,
    pub events: EventRecorder,
    /// Now, in the form of timestamps in objects.
    pub now: Arc<dyn Fn() -> String + Send + Sync>,
}

/// What the scheduler follows, of the whole cluster.
struct Followed {
    pods: Informer,
    nodes: Informer,
    claims: Informer,
    volumes: Informer,
    classes: Informer,
    namespaces: Informer,
    budgets: Informer,
}

/// What became of an attempt to bind a pod, and the steps that its claims took.
struct Bound {
    pod: Arc<Pod>,
    steps: Vec<Step>,
    result: Result<(), Status>,
}

/// A scheduler that runs until it is told to stop.
pub struct Scheduler {
    config: Arc<SchedulerConfig>,
    followed: Arc<Followed>,
    queue: Queue,
    cache: Cache,
    start: Instant,
    /// Decides between equal nodes.
    turn: u64,
    bindings: JoinSet<Bound>,
    reports: JoinSet<()>,
}

impl Scheduler {
    pub fn new(config: SchedulerConfig) -> Self {
        let get = |resource| config.informers.get(resource);
        let followed = Followed {
            pods: get(&PODS),
            nodes: get(&NODES),
            claims: get(&PERSISTENT_VOLUME_CLAIMS),
            volumes: get(&PERSISTENT_VOLUMES),
            classes: get(&STORAGE_CLASSES),
            namespaces: get(&NAMESPACES),
            budgets: get(&POD_DISRUPTION_BUDGETS),
        };
        Self {
            followed: Arc::new(followed),
            config: Arc::new(config),
            queue: Queue::default(),
            cache: Cache::default(),
            start: Instant::now(),
            turn: 0,
            bindings: JoinSet::new(),
            reports: JoinSet::new(),
        }
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    pub async fn run(mut self, stop: CancellationToken) {
        // A decision before all pods are known would count too little on the nodes.
        let followed = self.followed.clone();
        for informer in [&followed.pods, &followed.nodes, &followed.claims, &followed.volumes, &followed.classes, &followed.namespaces] {
            if !informer.synced().await {
                return;
            }
        }
        let (mut pods, mut nodes) = (followed.pods.subscribe(), followed.nodes.subscribe());
        let mut claims = followed.claims.subscribe();
        let (mut volumes, mut classes) = (followed.volumes.subscribe(), followed.classes.subscribe());
        let mut namespaces = followed.namespaces.subscribe();
        loop {
            let due = self.queue.tick(self.now());
            if let Some(pod) = self.queue.pop() {
                self.try_pod(pod);
                // Give what has happened meanwhile a chance to be seen between two pods.
                tokio::task::yield_now().await;
            }
            let ready = self.queue.has_active();
            let wait = async {
                match due {
                    _ if ready => {}
                    Some(moment) => tokio::time::sleep_until(self.start + moment).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                deltas = nodes.changed() => match deltas {
                    Some(deltas) => deltas.iter().for_each(|d| self.node_changed(d)),
                    None => return,
                },
                Some(deltas) = claims.changed() => self.known_changed(&deltas, |cache| &mut cache.storage.claims),
                Some(deltas) = volumes.changed() => self.known_changed(&deltas, |cache| &mut cache.storage.volumes),
                Some(deltas) = classes.changed() => self.known_changed(&deltas, |cache| &mut cache.storage.classes),
                Some(deltas) = namespaces.changed() => self.known_changed(&deltas, |cache| &mut cache.namespaces),
                deltas = pods.changed() => match deltas {
                    Some(deltas) => deltas.iter().for_each(|d| self.pod_changed(d)),
                    None => return,
                },
                Some(bound) = self.bindings.join_next(), if !self.bindings.is_empty() => self.bound(bound),
                Some(_) = self.reports.join_next(), if !self.reports.is_empty() => {}
                () = wait => {}
            }
        }
    }

    fn node_changed(&mut self, delta: &Delta) {
        let name = meta::name(delta.object()).to_string();
        match &delta.new {
            Some(node) => {
                let old = delta.old.as_deref();
                self.cache.set_node(&name, node.clone());
                // Heartbeats say nothing new about where pods fit.
                let relevant = |o: &Value| (o.get("spec").cloned(), o.at(&["status", "allocatable"]).cloned(), meta::labels(o).clone());
                if old.is_none_or(|old| relevant(old) != relevant(node)) {
                    self.queue.cluster_changed(self.now());
                }
            }
            None => self.cache.remove_node(&name),
        }
    }

    /// Takes in what the plugins look up by key.
    fn known_changed(&mut self, deltas: &[Delta], part: impl Fn(&mut Cache) -> &mut HashMap<String, Arc<Value>>) {
        for delta in deltas {
            let known = part(&mut self.cache);
            match &delta.new {
                Some(object) => drop(known.insert(delta.key(), object.clone())),
                None => drop(known.remove(&delta.key())),
            }
        }
        self.queue.cluster_changed(self.now());
    }

    fn pod_changed(&mut self, delta: &Delta) {
        let now = self.now();
        if let Some(old) = delta.old.as_deref().filter(|old| delta.new.as_deref().is_none_or(|new| meta::uid(new) != meta::uid(old))) {
            self.queue.remove(&meta::key(old));
            self.cache.forget_nomination(meta::uid(old));
            if self.cache.remove(meta::uid(old)) {
                self.queue.cluster_changed(now);
            }
        }
        let Some(object) = &delta.new else { return };
        let pod = Arc::new(Pod::new(object.clone()));
        if pod.has_ended() {
            self.queue.remove(&pod.key);
            self.cache.forget_nomination(&pod.uid);
            if self.cache.remove(&pod.uid) {
                self.queue.cluster_changed(now);
            }
        } else if !pod.node().is_empty() {
            self.queue.remove(&pod.key);
            let node = pod.node().to_string();
            let before = delta.old.as_ref().map(|old| Pod::new(old.clone()).requests);
            // A resize to less leaves room for others.
            if before.is_some_and(|before| before.iter().any(|(name, n)| pod.requests.get(name).is_none_or(|now| now < n))) {
                self.queue.cluster_changed(now);
            }
            self.cache.place(pod, &node);
        } else if self.is_mine(&pod) {
            let unchanged =
                delta.old.as_deref().is_some_and(|old| old.get("spec") == object.get("spec") && meta::labels(old) == meta::labels(object));
            let nominated = object.str_at(&["status", "nominatedNodeName"]).to_string();
            if !nominated.is_empty() && !self.cache.holds(&pod.uid) {
                self.cache.nominate(pod.clone(), &nominated);
            }
            if !unchanged && !self.cache.holds(&pod.uid) {
                self.queue.add(pod, now);
            }
        } else {
            self.queue.remove(&pod.key);
        }
    }

    fn is_mine(&self, pod: &Pod) -> bool {
        let gated = !pod.object.list_at(&["spec", "schedulingGates"]).is_empty();
        pod.object.str_at(&["spec", "schedulerName"]) == self.config.name && !gated && !meta::is_terminating(&pod.object)
    }

    fn try_pod(&mut self, pod: Arc<Pod>) {
        self.turn = self.turn.wrapping_add(1);
        match schedule(&pod, &self.cache, self.turn) {
            Outcome::Chosen(node) => self.assume(pod, node),
            Outcome::Unschedulable { nodes, reasons, clearable } => {
                self.queue.unschedulable(&pod.key, self.now());
                self.make_room(pod, reasons.message(nodes), &clearable);
            }
            Outcome::Premature { nodes, reason } => {
                self.queue.unschedulable(&pod.key, self.now());
                self.make_room(pod, format!("0/{nodes} nodes are available: {reason}."), &[]);
            }
        }
    }

    /// Preempts for a pod that no node takes, where that helps, and says why it waits.
    fn make_room(&mut self, pod: Arc<Pod>, message: String, clearable: &[String]) {
        let budgets = || self.followed.budgets.list();
        let found = may_preempt(&pod, &self.cache).and_then(|()| preempt(&pod, &self.cache, clearable, &budgets()));
        let (found, message) = match found {
            Ok(found) => {
                self.cache.nominate(pod.clone(), &found.node);
                (Some(found), message)
            }
            // Upstream's dynamic resources say their part first.
            Err(why) => (None, format!("{message} no new claims to deallocate, preemption: {why}")),
        };
        let config = self.config.clone();
        self.reports.spawn(async move {
            report_unschedulable(&config, &pod, &message, found.as_ref().map(|f| f.node.as_str())).await;
            if let Some(found) = found {
                evict(&config, &pod, &found).await;
            }
        });
    }

    /// Counts the pod on its node from now on, and binds it beside the next decisions.
    fn assume(&mut self, pod: Arc<Pod>, node: String) {
        let steps = self.cache.node(&node).map(|n| self.cache.storage.steps(&pod.object, n));
        let steps = steps.and_then(Result::ok).unwrap_or_default();
        for step in &steps {
            if let Step::Take { claim, volume } = step {
                // Nobody else is to take it before the API says so.
                let mut taken = (**volume).clone();
                taken.set(
                    &["spec", "claimRef"],
                    object!({ "namespace": (meta::namespace(claim)), "name": (meta::name(claim)), "uid": (meta::uid(claim)) }),
                );
                self.cache.storage.volumes.insert(meta::name(volume).into(), Arc::new(taken));
            }
        }
        self.cache.place(pod.clone(), &node);
        let (config, followed) = (self.config.clone(), self.followed.clone());
        self.bindings.spawn(async move {
            let result = bind(&config.client, &followed.claims, &pod, &node, &steps).await;
            if result.is_ok() {
                let message = format!("Successfully assigned {} to {node}", pod.key);
                config.events.event(&pod.object, false, "Scheduled", message);
            }
            Bound { pod, steps, result }
        });
    }

    fn bound(&mut self, ended: Result<Bound, tokio::task::JoinError>) {
        let now = self.now();
        match ended {
            Ok(Bound { pod, result: Ok(()), .. }) => self.queue.done(&pod.key),
            Ok(Bound { pod, steps, result: Err(status) }) => {
                self.cache.remove(&pod.uid);
                self.give_back(&steps);
                if status.is(Reason::NotFound) {
                    self.queue.done(&pod.key);
                } else {
                    tracing::warn!(pod = pod.key, %status, "binding failed");
                    self.queue.failed(&pod.key, now);
                }
                self.queue.cluster_changed(now);
            }
            Err(error) => tracing::error!(%error, "a binding task failed"),
        }
    }

    /// What was assumed of volumes is forgotten: they are as the API says again.
    fn give_back(&mut self, steps: &[Step]) {
        for step in steps {
            let Step::Take { volume, .. } = step else { continue };
            let name = meta::name(volume);
            match self.followed.volumes.get(name) {
                Some(current) => drop(self.cache.storage.volumes.insert(name.into(), current)),
                None => drop(self.cache.storage.volumes.remove(name)),
            }
        }
    }
}

/// Sends the victims away, as upstream's prepareCandidate does.
async fn evict(config: &SchedulerConfig, pod: &Pod, found: &Preemption) {
    // Those that leave already are let go.
    for victim in found.victims.iter().filter(|v| !meta::is_terminating(&v.object)) {
        let (namespace, name) = (meta::namespace(&victim.object), meta::name(&victim.object));
        let pods = config.client.within(&PODS, namespace);
        let condition = object!({
            "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
            "message": (format!("{}: preempting to accommodate a higher priority pod", config.name)), "lastTransitionTime": ((config.now)())
        });
        let uid = victim.uid.as_str();
        let patch = object!({ "metadata": { "uid": uid }, "status": { "conditions": [condition] } });
        let options =
            DeleteOptions { preconditions: Preconditions { uid: Some(uid.to_string()), resource_version: None }, ..Default::default() };
        let sent = match pods.patch(name, "status", PatchKind::Strategic, patch).await {
            Ok(_) => pods.delete(name, options).await.map(drop),
            Err(status) => Err(status),
        };
        match sent {
            Ok(()) => {
                let message = format!("Preempted by pod {} on node {}", pod.uid, found.node);
                config.events.event(&victim.object, false, "Preempted", message);
            }
            // It went by itself.
            Err(status) if matches!(status.reason, Reason::NotFound | Reason::Conflict) => {}
            Err(status) => tracing::warn!(pod = victim.key, %status, "a pod could not be preempted"),
        }
    }
}

/// Says on the pod and in an event why it has no node yet, and on which node room is being made for it.
async fn report_unschedulable(config: &SchedulerConfig, pod: &Pod, message: &str, nominated: Option<&str>) {
    let known =
        meta::condition(&pod.object, "PodScheduled").is_some_and(|c| c.str_at(&["message"]) == message && c.str_at(&["status"]) == "False");
    let said = nominated.is_none_or(|node| pod.object.str_at(&["status", "nominatedNodeName"]) == node);
    if !known || !said {
        let condition = object!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
            "lastTransitionTime": ((config.now)())
        });
        let mut patch = object!({ "metadata": { "uid": (pod.uid.as_str()) }, "status": { "conditions": [condition] } });
        if let Some(node) = nominated {
            patch.set(&["status", "nominatedNodeName"], node);
        }
        let pods = config.client.within(&PODS, meta::namespace(&pod.object));
        match pods.patch(meta::name(&pod.object), "status", PatchKind::Strategic, patch).await {
            Err(status) if !status.is(Reason::NotFound) => tracing::warn!(pod = pod.key, %status, "cannot say that a pod is unschedulable"),
            _ => {}
        }
    }
    config.events.event(&pod.object, true, "FailedScheduling", message);
}
