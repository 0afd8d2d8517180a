//! What a ReplicaSet's pods and status should be. Pure.

use std::sync::Arc;
use std::time::Duration;

use fram_machinery::labels::Selector;
use fram_machinery::normalize::format_time;
use fram_machinery::{Map, Status, Value, meta, object};
use jiff::Timestamp;

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

pub(super) fn selects(set: &Value, pod: &Value) -> bool {
    let selector = Selector::from_object(set.at(&["spec", "selector"])).ok().flatten();
    selector.is_some_and(|s| !s.is_everything() && s.matches(meta::labels(pod)))
}

fn is_active(pod: &Value) -> bool {
    !matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed") && !meta::is_terminating(pod)
}

pub(super) fn plan(set: &Value, pods: &[Arc<Value>], now: Timestamp) -> Plan {
    let mut out = Plan::default();
    let mut mine = Vec::new();
    for pod in pods {
        match meta::controller_of(pod) {
            Some(owner) if owner.str_at(&["uid"]) == meta::uid(set) => {
                if selects(set, pod) {
                    mine.push(pod.clone());
                } else if !meta::is_terminating(set) {
                    out.release.push(pod.clone());
                }
            }
            None if selects(set, pod) && is_active(pod) && !meta::is_terminating(set) => {
                out.adopt.push(pod.clone());
                mine.push(pod.clone());
            }
            _ => {}
        }
    }
    let terminating = mine.iter().filter(|p| meta::is_terminating(p)).count();
    mine.retain(|p| is_active(p));
    let wanted = usize::try_from(set.int_at(&["spec", "replicas"]).unwrap_or(1)).unwrap_or(0);
    if !meta::is_terminating(set) {
        out.create = wanted.saturating_sub(mine.len());
        let surplus = mine.len().saturating_sub(wanted);
        if surplus > 0 {
            out.delete = first_to_go(&mine, pods, now).into_iter().take(surplus).collect();
        }
    }
    let minimum = set.int_at(&["spec", "minReadySeconds"]).unwrap_or(0);
    out.requeue = mine.iter().filter_map(|p| available_in(p, minimum, now)).min();
    out.status = status(set, &mine, terminating, minimum, now);
    out
}

/// Since when a pod is ready; None where it is not.
fn ready_since(pod: &Value) -> Option<Timestamp> {
    let ready = meta::condition(pod, "Ready").filter(|c| c.str_at(&["status"]) == "True")?;
    ready.str_at(&["lastTransitionTime"]).parse().ok().or(Some(Timestamp::UNIX_EPOCH))
}

fn is_available(pod: &Value, minimum: i64, now: Timestamp) -> bool {
    ready_since(pod).is_some_and(|t| now.as_second() - t.as_second() >= minimum)
}

/// How long until a ready pod counts as available; None where it does already or is not ready.
fn available_in(pod: &Value, minimum: i64, now: Timestamp) -> Option<Duration> {
    let left = ready_since(pod)?.as_second() + minimum - now.as_second();
    u64::try_from(left).ok().filter(|s| *s > 0).map(Duration::from_secs)
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
    if terminating > 0 || set.at(&["status", "terminatingReplicas"]).is_some() {
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
            let condition = object!({ "type": TYPE, "status": "True", "reason": "FailedCreate", "message": (error.message.as_str()),
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

/// Pods in the order in which they are given up: unassigned, pending, not ready, cheaper, doubled up on a node, younger.
/// See controller.ActivePodsWithRanks.
fn first_to_go(mine: &[Arc<Value>], all: &[Arc<Value>], now: Timestamp) -> Vec<Arc<Value>> {
    let on_node = |pod: &Value| {
        let node = pod.str_at(&["spec", "nodeName"]);
        let owner = meta::controller_of(pod).map(|o| o.str_at(&["uid"]).to_string());
        let twin = |p: &&Arc<Value>| {
            is_active(p)
                && p.str_at(&["spec", "nodeName"]) == node
                && meta::controller_of(p).map(|o| o.str_at(&["uid"]).to_string()) == owner
        };
        all.iter().filter(twin).count()
    };
    let rank = |pod: &Arc<Value>| {
        let assigned = !pod.str_at(&["spec", "nodeName"]).is_empty();
        let phase = match pod.str_at(&["status", "phase"]) {
            "Pending" => 0,
            "Running" => 2,
            _ => 1,
        };
        let cost = meta::annotation(pod, "controller.kubernetes.io/pod-deletion-cost").and_then(|c| c.parse::<i64>().ok()).unwrap_or(0);
        let ready = ready_since(pod);
        // Ages count on a logarithmic scale, so that no pod is safe just for being a little older; see KEP-2185.
        let age = |t: Option<Timestamp>| t.map_or(0, |t| (now.as_second() - t.as_second()).max(1).ilog2());
        let restarts: i64 =
            pod.list_at(&["status", "containerStatuses"]).iter().filter_map(|s| s.int_at(&["restartCount"])).max().unwrap_or(0);
        let created = pod.str_at(&["metadata", "creationTimestamp"]).parse().ok();
        (
            assigned,
            phase,
            ready.is_some(),
            cost,
            std::cmp::Reverse(on_node(pod)),
            age(ready),
            std::cmp::Reverse(restarts),
            age(created),
            meta::uid(pod).to_string(),
        )
    };
    let mut ranked: Vec<Arc<Value>> = mine.to_vec();
    ranked.sort_by_cached_key(rank);
    ranked
}

/// A pod of the set's template; the server gives it its name.
pub(super) fn new_pod(set: &Value) -> Value {
    let template = set.at(&["spec", "template"]).cloned().unwrap_or_default();
    let mut pod = object!({ "apiVersion": "v1", "kind": "Pod", "metadata": {} });
    for field in ["labels", "annotations", "finalizers"] {
        if let Some(value) = template.at(&["metadata", field]).filter(|v| !v.is_empty()) {
            pod.set(&["metadata", field], value.clone());
        }
    }
    pod.set(&["metadata", "generateName"], format!("{}-", meta::name(set)));
    pod.set(&["metadata", "ownerReferences"], object!([(meta::controller_reference(set))]));
    pod.set(&["spec"], template.get("spec").cloned());
    pod
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
    fn a_ready_pod_is_available_after_its_minimum() {
        let mut set = set(1);
        set.set(&["spec", "minReadySeconds"], 90);
        let plan = plan(&set, &[pod("a", true, "n", true)], now());
        assert_eq!(plan.status.at(&["availableReplicas"]), None);
        assert_eq!(plan.requeue, Some(Duration::from_secs(30)));
    }
}
