//! Collects pods that nobody else will: those of nodes that are gone or out of service, those deleted before they had a node, and
//! ended ones beyond a number.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fram_client::resources::{NODES, PODS};
use fram_client::{Action, Client, Controller, DeleteOptions, Informer, NODE_INDEX, PatchKind, Preconditions};
use fram_machinery::{Status, Value, meta, object};
use jiff::Timestamp;

use crate::objects::{settled, unless_it_changed};
use crate::taint_eviction::disrupt;
use crate::{Context, Metrics, pods};

/// Ended pods that are kept; see --terminated-pod-gc-threshold.
const MOST_ENDED: usize = 12_500;
/// A node is gone for good after so long; see podgc's quarantineTime.
const QUARANTINE: Duration = Duration::from_secs(40);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// The key under which ended pods are counted.
const ENDED: &str = "";

pub(crate) fn start(context: &Context) {
    let (all, nodes) = (context.informers.get(&PODS), context.informers.get(&NODES));
    let collector = Collector {
        client: context.client("pod-garbage-collector"),
        pods: all.clone(),
        nodes: nodes.clone(),
        metrics: context.metrics.clone(),
        now: context.now.clone(),
    };
    let (on_node, known) = (all.clone(), nodes.clone());
    let mut controller = Controller::new("pod-garbage-collector", 4);
    let later = controller.enqueuer();
    let ended = AtomicUsize::new(0);
    controller = controller.watches_deltas(&all, move |delta| {
        let has_ended = |side: &Option<Arc<Value>>| side.as_deref().is_some_and(pods::has_ended);
        let (before, now) = (has_ended(&delta.old), has_ended(&delta.new));
        let mut keys = Vec::new();
        match (before, now) {
            (false, true) => {
                let too_many = ended.fetch_add(1, Ordering::Relaxed) >= MOST_ENDED;
                keys.extend(too_many.then(|| ENDED.to_string()));
            }
            (true, false) => {
                ended.fetch_sub(1, Ordering::Relaxed);
            }
            _ => {}
        }
        let Some(pod) = &delta.new else { return keys };
        match judge(pod, known.get(pod.str_at(&["spec", "nodeName"])).as_deref()) {
            Verdict::Keep => {}
            Verdict::Orphaned => later.add_after(delta.key(), QUARANTINE),
            Verdict::Unscheduled | Verdict::OutOfService => keys.push(delta.key()),
        }
        keys
    });
    let later = controller.enqueuer();
    controller = controller.watches_deltas(&nodes, move |delta| {
        let is_out = |n: &Value| n.list_at(&["spec", "taints"]).iter().any(|t| t.str_at(&["key"]) == OUT_OF_SERVICE);
        let out = delta.new.as_deref().is_some_and(is_out);
        if delta.new.is_some() && !out {
            return Vec::new();
        }
        let name = meta::name(delta.object());
        let keys: Vec<String> = on_node.by_index(NODE_INDEX, name).iter().map(|p| meta::key(p)).collect();
        if out {
            return keys;
        }
        keys.into_iter().for_each(|key| later.add_after(key, QUARANTINE));
        Vec::new()
    });
    context.run(controller, collector, |c, key| async move { c.reconcile(&key).await });
}

struct Collector {
    client: Client,
    pods: Informer,
    nodes: Informer,
    metrics: Metrics,
    now: crate::Clock,
}

impl Collector {
    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        if key == ENDED {
            return self.collect_ended().await;
        }
        let Some(pod) = self.pods.get(key) else { return Ok(Action::Done) };
        let name = pod.str_at(&["spec", "nodeName"]);
        let node = if name.is_empty() { None } else { self.nodes.get(name) };
        let now = (self.now)();
        match judge(&pod, node.as_deref()) {
            Verdict::Keep => {}
            Verdict::Unscheduled => self.delete(&pod, ("unscheduled", None), now).await?,
            Verdict::OutOfService => self.delete(&pod, ("out-of-service", None), now).await?,
            Verdict::Orphaned => {
                // The cache's word that there is no node is checked with the server.
                if self.client.all(&NODES).find(name).await?.is_none() {
                    self.delete(&pod, ("orphaned", Some("PodGC: node no longer exists")), now).await?;
                }
            }
        }
        Ok(Action::Done)
    }

    async fn collect_ended(&self) -> Result<Action, Status> {
        let mut ended: Vec<Arc<Value>> = self.pods.list().into_iter().filter(|p| pods::has_ended(p)).collect();
        let surplus = ended.len().saturating_sub(MOST_ENDED);
        if surplus > 0 {
            sort_ended(&mut ended);
            for pod in ended.iter().take(surplus) {
                self.delete(pod, ("terminated", None), (self.now)()).await?;
            }
        }
        Ok(Action::Done)
    }

    /// Deletes a pod for a reason as metrics name it, and says in its status that it has failed, and what has disrupted it.
    async fn delete(&self, pod: &Value, why: (&'static str, Option<&str>), now: Timestamp) -> Result<(), Status> {
        let deleted = self.delete_disrupted(pod, why.1, now).await;
        self.metrics.others.collected(pod, why.0, deleted.is_ok());
        deleted
    }

    async fn delete_disrupted(&self, pod: &Value, disrupted: Option<&str>, now: Timestamp) -> Result<(), Status> {
        match disrupted {
            _ if pods::has_ended(pod) => {}
            Some(message) => disrupt(&self.client, pod, "DeletionByPodGC", message, Some("Failed"), now).await?,
            None => {
                let failed = object!({ "metadata": { "uid": (meta::uid(pod)) }, "status": { "phase": "Failed" } });
                let pods = self.client.within(&PODS, meta::namespace(pod));
                unless_it_changed(pods.patch(meta::name(pod), "status", PatchKind::Merge, failed).await)?;
            }
        }
        let preconditions = Preconditions { uid: Some(meta::uid(pod).into()), resource_version: None };
        let options = DeleteOptions { grace_period_seconds: Some(0), preconditions, ..Default::default() };
        settled(self.client.within(&PODS, meta::namespace(pod)).delete(meta::name(pod), options).await)
    }
}

/// The first to go are those that were evicted, of which nobody counts on any, then the oldest.
fn sort_ended(pods: &mut [Arc<Value>]) {
    let is_evicted = |p: &Value| p.str_at(&["status", "phase"]) == "Failed" && p.str_at(&["status", "reason"]) == "Evicted";
    pods.sort_by_cached_key(|p| (!is_evicted(p), pods::created(p), meta::name(p).to_string(), meta::key(p)));
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    /// Deleted before it had a node.
    Unscheduled,
    /// Its node is gone.
    Orphaned,
    /// It is ending on a node that people have declared dead.
    OutOfService,
}

fn judge(pod: &Value, node: Option<&Value>) -> Verdict {
    let ending = meta::is_terminating(pod);
    match node {
        None if pod.str_at(&["spec", "nodeName"]).is_empty() => {
            if ending {
                Verdict::Unscheduled
            } else {
                Verdict::Keep
            }
        }
        None => Verdict::Orphaned,
        Some(node) => {
            let out = node.list_at(&["spec", "taints"]).iter().any(|t| t.str_at(&["key"]) == OUT_OF_SERVICE);
            if ending && out && !meta::condition_is_true(node, "Ready") { Verdict::OutOfService } else { Verdict::Keep }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_ended_pods_evicted_ones_go_first_and_then_the_oldest() {
        let pod = |name: &str, created: &str, reason: &str| {
            let status = object!({ "phase": "Failed", "reason": reason });
            Arc::new(object!({ "metadata": { "name": name, "creationTimestamp": created }, "status": status }))
        };
        let (old, new) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        let mut pods = [pod("b", old, ""), pod("a", old, "OOM"), pod("c", new, "Evicted"), pod("d", old, "Evicted"), pod("e", new, "")];
        sort_ended(&mut pods);
        assert_eq!(pods.each_ref().map(|p| meta::name(p)), ["d", "c", "a", "b", "e"]);
    }

    #[test]
    fn only_pods_that_nobody_ends_are_collected() {
        let pod = |node: &str, ending: bool| {
            let mut pod = object!({ "spec": { "nodeName": node } });
            if ending {
                pod.set(&["metadata", "deletionTimestamp"], "2026-01-01T00:00:00Z");
            }
            pod
        };
        let out = object!({ "spec": { "taints": [{ "key": OUT_OF_SERVICE, "effect": "NoExecute" }] } });
        assert_eq!(judge(&pod("", false), None), Verdict::Keep);
        assert_eq!(judge(&pod("", true), None), Verdict::Unscheduled);
        assert_eq!(judge(&pod("n", false), None), Verdict::Orphaned);
        assert_eq!(judge(&pod("n", true), Some(&object!({}))), Verdict::Keep);
        assert_eq!(judge(&pod("n", true), Some(&out)), Verdict::OutOfService);
        assert_eq!(judge(&pod("n", false), Some(&out)), Verdict::Keep);
    }
}
