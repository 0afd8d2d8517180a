//! DaemonSets: one pod on each node that fits.

mod plan;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fram_client::resources::{CONTROLLER_REVISIONS, DAEMON_SETS, NODES, PODS};
use fram_client::{Action, Client, Controller, DeleteOptions, Delta, EventRecorder, Informer};
use fram_machinery::{Status, Value, meta, object};
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::objects::{Objects, settled};
use crate::replicaset::again;
use crate::{Context, claim, pods, revisions};
use plan::{Plan, View, plan};

/// A failed pod is replaced after this time, doubled for each failure up to the longest; see failedPodsBackoff.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(15 * 60);

pub(crate) fn start(context: &Context) {
    let (sets, all) = (context.informers.get(&DAEMON_SETS), context.informers.get(&PODS));
    let (nodes, history) = (context.informers.get(&NODES), context.informers.get(&CONTROLLER_REVISIONS));
    let client = context.client("daemon-set-controller");
    let reconciler = Reconciler {
        pods: Objects::new(&client, &all),
        sets: Objects::new(&client, &sets),
        revisions: Objects::new(&client, &history),
        nodes: nodes.clone(),
        events: context.recorder("daemon-set-controller", "daemonset-controller"),
        failures: Mutex::default(),
        client,
        now: context.now.clone(),
    };
    let (by_pod, by_node) = (sets.clone(), sets.clone());
    let controller = Controller::new("daemonset", 4)
        .owns(&sets)
        .watches_deltas(&all, move |delta| pods::owners_concerned(delta, "DaemonSet", |pod| adopters(pod, &by_pod)))
        .watches_deltas(
            &nodes,
            move |delta| if fits_otherwise(delta) { by_node.list().iter().map(|s| meta::key(s)).collect() } else { Vec::new() },
        )
        .watches(&history, own_controller);
    context.run(controller, reconciler, |r, key| async move { r.reconcile(&key).await });
}

fn own_controller(object: &Value) -> Vec<String> {
    let owner = meta::controller_of(object).filter(|o| o.str_at(&["kind"]) == "DaemonSet");
    owner.map(|o| format!("{}/{}", meta::namespace(object), o.str_at(&["name"]))).into_iter().collect()
}

/// The sets that may adopt a pod.
fn adopters(pod: &Value, sets: &Informer) -> Vec<String> {
    let selects = |set: &Arc<Value>| pods::selector(set).is_some_and(|s| s.matches(meta::labels(pod)));
    sets.by_namespace(meta::namespace(pod)).iter().filter(|set| selects(set)).map(|set| meta::key(set)).collect()
}

/// Statuses of nodes change all the time; only labels and taints decide.
fn fits_otherwise(delta: &Delta) -> bool {
    match (&delta.old, &delta.new) {
        (Some(old), Some(new)) => {
            meta::labels(old) != meta::labels(new) || old.list_at(&["spec", "taints"]) != new.list_at(&["spec", "taints"])
        }
        _ => true,
    }
}

struct Reconciler {
    client: Client,
    sets: Objects,
    pods: Objects,
    revisions: Objects,
    nodes: Informer,
    events: EventRecorder,
    /// By set and node: how often a pod has failed in a row, and when the last one was replaced.
    failures: Mutex<HashMap<(String, String), (u32, Timestamp)>>,
    now: crate::Clock,
}

impl Reconciler {
    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let (namespace, name) = key.split_once('/').unwrap_or(("", key));
        let Some(set) = self.sets.get(namespace, name) else { return Ok(Action::Done) };
        let Some(selector) = pods::selector(&set) else { return Ok(Action::Done) };
        let history = self.revisions.of(&set, |r| selector.matches(meta::labels(r))).await?.objects;
        let collisions = set.int_at(&["status", "collisionCount"]).unwrap_or(0);
        if meta::is_terminating(&set) {
            return Ok(Action::Done);
        }
        let orphans: Vec<_> = history.iter().filter(|r| meta::controller_of(r).is_none()).cloned().collect();
        claim::adopt(&self.revisions, &self.client, &DAEMON_SETS, &set, &orphans).await?;
        let Some(current) = revisions::sync(&self.revisions, &self.client, &set, &history, collisions).await? else {
            let mut status = set.get("status").cloned().unwrap_or(object!({}));
            status.set(&["collisionCount"], collisions + 1);
            settled(self.sets.write_status(&set, status).await)?;
            return Ok(Action::After(Duration::from_millis(1)));
        };
        let seen = self.pods.of(&set, |p| selector.matches(meta::labels(p))).await?;
        let claims = pods::claims(&set, &seen.objects);
        claim::adopt(&self.pods, &self.client, &DAEMON_SETS, &set, &claims.adopt).await?;
        claim::release(&self.pods, &set, &claims.release).await?;
        let (nodes, now) = (self.nodes.list(), (self.now)());
        let hash = meta::label(&current, revisions::HASH).unwrap_or_default();
        let wait = |node: &str| self.wait(meta::uid(&set), node, now);
        let plan = plan(&View { set: &set, nodes: &nodes, mine: &claims.mine, hash, now, wait: &wait });
        let live = |r: &Value| {
            meta::uid(r) == meta::uid(&current)
                || claims.mine.iter().any(|p| meta::label(p, revisions::HASH) == meta::label(r, revisions::HASH))
        };
        revisions::delete(&self.revisions, &revisions::surplus(&set, &history, live)).await?;
        let requeue = plan.requeue;
        self.execute(&set, plan, now).await?;
        Ok(again(&seen, requeue))
    }

    async fn execute(&self, set: &Value, plan: Plan, now: Timestamp) -> Result<(), Status> {
        for (warning, reason, message) in plan.events {
            self.events.event(set, warning, reason, message);
        }
        for node in plan.failed {
            self.note_failure(meta::uid(set), &node, now);
        }
        let mut failed = None;
        for pod in &plan.delete {
            match self.pods.delete(pod, DeleteOptions::default()).await {
                Ok(()) => self.events.event(set, false, "SuccessfulDelete", format!("Deleted pod: {}", meta::name(pod))),
                Err(error) => {
                    self.events.event(set, true, "FailedDelete", format!("Error deleting: {}", error.message));
                    failed = Some(error);
                }
            }
        }
        for pod in plan.create {
            match self.pods.create(meta::namespace(set), pod).await {
                Ok(pod) => self.events.event(set, false, "SuccessfulCreate", format!("Created pod: {}", meta::name(&pod))),
                Err(error) => {
                    self.events.event(set, true, "FailedCreate", format!("Error creating: {}", error.message));
                    failed = Some(error);
                    break;
                }
            }
        }
        settled(self.sets.write_status(set, plan.status).await)?;
        failed.map_or(Ok(()), Err)
    }

    fn wait(&self, set: &str, node: &str, now: Timestamp) -> Option<Duration> {
        let failures = self.failures.lock();
        let (count, last) = failures.get(&(set.to_string(), node.to_string()))?;
        let passed = Duration::try_from(now.duration_since(*last)).unwrap_or_default();
        delay(*count).checked_sub(passed).filter(|d| !d.is_zero())
    }

    fn note_failure(&self, set: &str, node: &str, now: Timestamp) {
        let mut failures = self.failures.lock();
        // Whoever has been well for twice the longest wait begins anew.
        failures.retain(|_, (_, last)| now.duration_since(*last).unsigned_abs() < LONGEST_WAIT * 2);
        let entry = failures.entry((set.to_string(), node.to_string())).or_insert((0, now));
        *entry = (entry.0 + 1, now);
    }
}

fn delay(failures: u32) -> Duration {
    (FIRST_WAIT * 2u32.pow(failures.saturating_sub(1).min(12))).min(LONGEST_WAIT)
}
