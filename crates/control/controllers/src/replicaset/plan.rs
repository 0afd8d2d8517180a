//! What the pods and the status of a ReplicaSet or ReplicationController should be. Pure.

use std::sync::Arc;
use std::time::Duration;

use fram_machinery::labels::Selector;
use fram_machinery::normalize::format_time;
use fram_machinery::{Map, Status, Value, meta, object};
use jiff::Timestamp;

use crate::pods::{self, available_in, first_to_go, is_active, is_available, ready_since};

/// What has to be done for a set.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) adopt: Vec<Arc<Value>>,
    pub(super) release: Vec<Arc<Value>>,
    pub(super) create: usize,
    pub(super) delete: Vec<Arc<Value>>,
    pub(super) status: Value,
    /// When a pod becomes available without another event.
    pub(super) requeue: Option<Duration>,
}

pub(super) fn plan(set: &Value, all: &[Arc<Value>], now: Timestamp) -> Plan {
    let pods::Claims { mut mine, mut adopt, release } = pods::claims(set, all);
    // Pods that have ended are of no use to a set.
    adopt.retain(|p| is_active(p));
    let mut out = Plan { adopt, release, ..Default::default() };
    let terminating = mine.iter().filter(|p| meta::is_terminating(p) && !pods::has_ended(p)).count();
    mine.retain(|p| is_active(p));
    let wanted = usize::try_from(set.int_at(&["spec", "replicas"]).unwrap_or(1)).unwrap_or(0);
    if !meta::is_terminating(set) {
        out.create = wanted.saturating_sub(mine.len());
        let surplus = mine.len().saturating_sub(wanted);
        if surplus > 0 {
            out.delete = first_to_go(&mine, all, now).into_iter().take(surplus).collect();
        }
    }
    let minimum = set.int_at(&["spec", "minReadySeconds"]).unwrap_or(0);
    out.requeue = mine.iter().filter_map(|p| available_in(p, minimum, now)).min();
    out.status = status(set, &mine, terminating, minimum, now);
    out
}

fn status(set: &Value, mine: &[Arc<Value>], terminating: usize, minimum: i64, now: Timestamp) -> Value {
    let template = set.at(&["spec", "template", "metadata", "labels"]).and_then(Value::as_map).map(Selector::from_map).unwrap_or_default();
    let count = |test: &dyn Fn(&Value) -> bool| mine.iter().filter(|p| test(p)).count() as i64;
    let mut status = Map::new();
    let counts = [
        ("fullyLabeledReplicas", count(&|p| template.matches(meta::labels(p)))),
        ("readyReplicas", count(&|p| ready_since(p).is_some())),
        ("availableReplicas", count(&|p| is_available(p, minimum, now))),
        ("observedGeneration", meta::generation(set)),
    ];
    for (name, n) in counts.into_iter().filter(|(_, n)| *n != 0) {
        status.insert(name, n);
    }
    status.insert("replicas", mine.len() as i64);
    // ReplicationControllers have no such field.
    let counted = set.str_at(&["kind"]) == "ReplicaSet";
    if counted && (terminating > 0 || set.at(&["status", "terminatingReplicas"]).is_some()) {
        status.insert("terminatingReplicas", terminating as i64);
    }
    if let Some(conditions) = set.at(&["status", "conditions"]).filter(|c| !c.is_empty()) {
        status.insert("conditions", conditions.clone());
    }
    Value::Map(status)
}

/// The status with or without the condition that pods could not be made.
pub(super) fn with_failure(mut status: Value, set: &Value, failure: Option<&Status>, now: Timestamp) -> Value {
    const TYPE: &str = "ReplicaFailure";
    let had = meta::condition(set, TYPE).is_some();
    match failure {
        Some(_) if had => {}
        Some(error) => {
            let surplus = status.int_at(&["replicas"]) > Some(set.int_at(&["spec", "replicas"]).unwrap_or(1));
            let reason = if surplus { "FailedDelete" } else { "FailedCreate" };
            let condition = object!({ "type": TYPE, "status": "True", "reason": reason, "message": (error.message.as_str()),
                "lastTransitionTime": (format_time(now, 0)) });
            status.place(&["conditions"]).make_list().push(condition);
        }
        None if had => {
            let list = status.place(&["conditions"]).make_list();
            list.retain(|c| c.str_at(&["type"]) != TYPE);
            if list.is_empty() {
                status.remove(&["conditions"]);
            }
        }
        None => {}
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(replicas: i64) -> Value {
        object!({ "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": { "name": "web", "namespace": "ns", "uid": "set", "generation": 2 },
            "spec": { "replicas": replicas, "selector": { "matchLabels": { "a": "b" } }, "template": { "metadata": { "labels": { "a": "b" } } } } })
    }

    fn pod(name: &str, owned: bool, node: &str, ready: bool) -> Arc<Value> {
        let mut pod = object!({ "metadata": { "name": name, "uid": name, "labels": { "a": "b" }, "creationTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "nodeName": node }, "status": { "phase": "Running" } });
        if owned {
            pod.set(&["metadata", "ownerReferences"], object!([{ "kind": "ReplicaSet", "uid": "set", "controller": true }]));
        }
        if ready {
            pod.set(
                &["status", "conditions"],
                object!([{ "type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z" }]),
            );
        }
        Arc::new(pod)
    }

    fn now() -> Timestamp {
        "2026-01-01T00:01:00Z".parse().unwrap()
    }

    fn names(pods: &[Arc<Value>]) -> Vec<&str> {
        pods.iter().map(|p| meta::name(p)).collect()
    }

    #[test]
    fn missing_pods_are_made_and_orphans_adopted_first() {
        let plan = plan(&set(3), &[pod("a", true, "n", true), pod("b", false, "n", true)], now());
        assert_eq!((plan.create, names(&plan.adopt)), (1, vec!["b"]));
        assert_eq!(plan.status.int_at(&["readyReplicas"]), Some(2));
        assert_eq!(plan.status.int_at(&["observedGeneration"]), Some(2));
    }

    #[test]
    fn surplus_pods_go_in_the_documented_order() {
        let pods = [pod("ready", true, "n1", true), pod("waiting", true, "n2", false), pod("unassigned", true, "", false)];
        assert_eq!(names(&plan(&set(1), &pods, now()).delete), ["unassigned", "waiting"]);
    }

    #[test]
    fn a_pod_that_no_longer_matches_is_released() {
        let mut stray = (*pod("a", true, "n", true)).clone();
        stray.set(&["metadata", "labels", "a"], "c");
        let plan = plan(&set(1), &[Arc::new(stray)], now());
        assert_eq!((plan.create, plan.release.len()), (1, 1));
    }

    #[test]
    fn a_set_says_whether_pods_cannot_be_made_or_cannot_be_deleted() {
        let pods = [pod("a", true, "n", true), pod("b", true, "n", true)];
        for (wanted, reason) in [(3, "FailedCreate"), (1, "FailedDelete")] {
            let set = set(wanted);
            let status = with_failure(plan(&set, &pods, now()).status, &set, Some(&Status::internal("no")), now());
            assert_eq!(status.list_at(&["conditions"])[0].str_at(&["reason"]), reason);
        }
    }

    #[test]
    fn a_ready_pod_is_available_after_its_minimum() {
        let mut set = set(1);
        set.set(&["spec", "minReadySeconds"], 90);
        let plan = plan(&set, &[pod("a", true, "n", true)], now());
        assert_eq!(plan.status.at(&["availableReplicas"]), None);
        assert_eq!(plan.requeue, Some(Duration::from_secs(30)));
    }

    #[test]
    fn a_replication_controller_selects_by_a_plain_map() {
        let mut controller = set(2);
        controller.set(&["kind"], "ReplicationController");
        controller.set(&["spec", "selector"], object!({ "a": "b" }));
        let plan = plan(&controller, &[pod("a", true, "n", true)], now());
        assert_eq!((plan.create, plan.status.int_at(&["replicas"])), (1, Some(1)));
        assert_eq!(plan.status.at(&["terminatingReplicas"]), None);
    }
}
