//! What controllers of pods have in common: how pods count, which belong to an owner, which go first, and what a template
//! makes. Pure.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fram_client::Delta;
use fram_machinery::labels::Selector;
use fram_machinery::{Value, meta, object};
use jiff::Timestamp;

pub(crate) fn phase(pod: &Value) -> &str {
    pod.str_at(&["status", "phase"])
}

pub(crate) fn has_ended(pod: &Value) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Neither ended nor about to; see controller.IsPodActive.
pub(crate) fn is_active(pod: &Value) -> bool {
    !has_ended(pod) && !meta::is_terminating(pod)
}

pub(crate) fn time(object: &Value, path: &[&str]) -> Option<Timestamp> {
    object.str_at(path).parse().ok()
}

pub(crate) fn created(object: &Value) -> Option<Timestamp> {
    time(object, &["metadata", "creationTimestamp"])
}

pub(crate) fn is_ready(pod: &Value) -> bool {
    meta::condition_is_true(pod, "Ready")
}

/// Since when a pod is ready; None where it is not.
pub(crate) fn ready_since(pod: &Value) -> Option<Timestamp> {
    let ready = meta::condition(pod, "Ready").filter(|c| c.str_at(&["status"]) == "True")?;
    Some(time(ready, &["lastTransitionTime"]).unwrap_or(Timestamp::UNIX_EPOCH))
}

pub(crate) fn is_available(pod: &Value, minimum: i64, now: Timestamp) -> bool {
    ready_since(pod).is_some_and(|t| now.as_second() - t.as_second() >= minimum)
}

/// How long until a ready pod counts as available; None where it does already or is not ready.
pub(crate) fn available_in(pod: &Value, minimum: i64, now: Timestamp) -> Option<Duration> {
    let left = ready_since(pod)?.as_second() + minimum - now.as_second();
    u64::try_from(left).ok().filter(|s| *s > 0).map(Duration::from_secs)
}

/// The owners that a change of a dependent concerns: its controllers of this kind, as it is and as it was. Of one that has no
/// controller, those that may adopt it, where what they look at has changed; see updatePod of upstream's controllers.
pub(crate) fn owners_concerned(delta: &Delta, kind: &str, adopters: impl Fn(&Value) -> Vec<String>) -> Vec<String> {
    let own = |object: &Value| {
        let owner = meta::controller_of(object).filter(|owner| owner.str_at(&["kind"]) == kind)?;
        Some(format!("{}/{}", meta::namespace(object), owner.str_at(&["name"])))
    };
    let (before, after) = (delta.old.as_deref(), delta.new.as_deref());
    let is_same = |(old, new): (&Value, &Value)| meta::owner_references(old) == meta::owner_references(new);
    let mut keys = Vec::new();
    keys.extend(after.and_then(own));
    if !before.zip(after).is_some_and(is_same) {
        keys.extend(before.and_then(own));
    }
    if let Some(orphan) = after.filter(|new| meta::controller_of(new).is_none()) {
        let looked_at = |o: &Value| (meta::uid(o).to_string(), meta::is_terminating(o), meta::controller_of(o).is_none());
        let same = |old: &Value| looked_at(old) == looked_at(orphan) && meta::labels(old) == meta::labels(orphan);
        if !before.is_some_and(same) {
            keys.extend(adopters(orphan));
        }
    }
    keys
}

/// Whether a pod counts for those who keep a number of pods as it did before a change of it: where it is placed and what its containers
/// do is nothing to them.
pub(crate) fn counts_the_same(delta: &Delta) -> bool {
    let (Some(old), Some(new)) = (&delta.old, &delta.new) else { return false };
    let same = |field: &str| old.at(&["metadata", field]) == new.at(&["metadata", field]);
    ["uid", "labels", "ownerReferences", "deletionTimestamp"].into_iter().all(same)
        && phase(old) == phase(new)
        && meta::condition(old, "Ready") == meta::condition(new, "Ready")
}

/// The selector of a workload; None where it selects nothing. ReplicationControllers have a plain map.
pub(crate) fn selector(owner: &Value) -> Option<Selector> {
    let spec = owner.at(&["spec", "selector"]);
    let selector = match owner.str_at(&["kind"]) {
        "ReplicationController" => spec.and_then(Value::as_map).map(Selector::from_map),
        _ => Selector::from_object(spec).ok().flatten(),
    };
    selector.filter(|s| !s.is_everything())
}

/// Whose a pod is, from the view of one owner. See PodControllerRefManager.ClaimPods.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    pub(crate) mine: Vec<Arc<Value>>,
    /// Orphans that match; they are in `mine` too.
    pub(crate) adopt: Vec<Arc<Value>>,
    /// Owned, but no longer matching.
    pub(crate) release: Vec<Arc<Value>>,
}

pub(crate) fn claims(owner: &Value, pods: &[Arc<Value>]) -> Claims {
    let mut claims = Claims::default();
    let Some(selector) = selector(owner) else { return claims };
    let ending = meta::is_terminating(owner);
    for pod in pods {
        let matches = selector.matches(meta::labels(pod));
        match meta::controller_of(pod) {
            Some(reference) if reference.str_at(&["uid"]) == meta::uid(owner) => match matches {
                true => claims.mine.push(pod.clone()),
                false if !ending => claims.release.push(pod.clone()),
                false => {}
            },
            None if matches && !ending && !meta::is_terminating(pod) => {
                claims.adopt.push(pod.clone());
                claims.mine.push(pod.clone());
            }
            _ => {}
        }
    }
    claims
}

/// Pods in the order in which they are given up: unassigned, pending, not ready, cheaper, doubled up on a node, younger.
/// See controller.ActivePodsWithRanks.
pub(crate) fn first_to_go(mine: &[Arc<Value>], related: &[Arc<Value>], now: Timestamp) -> Vec<Arc<Value>> {
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for pod in related.iter().filter(|p| is_active(p)) {
        *on_node.entry(pod.str_at(&["spec", "nodeName"])).or_default() += 1;
    }
    let rank = |pod: &Arc<Value>| {
        let node = pod.str_at(&["spec", "nodeName"]);
        let phase = match phase(pod) {
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
        let twins = on_node.get(node).copied().unwrap_or(0);
        let uid = meta::uid(pod).to_string();
        (!node.is_empty(), phase, ready.is_some(), cost, Reverse(twins), age(ready), Reverse(restarts), age(created(pod)), uid)
    };
    let mut ranked: Vec<Arc<Value>> = mine.to_vec();
    ranked.sort_by_cached_key(rank);
    ranked
}

/// A pod of the owner's template; the server gives it its name.
pub(crate) fn from_template(owner: &Value, template: Option<&Value>) -> Value {
    let template = template.cloned().unwrap_or_default();
    let mut pod = object!({ "apiVersion": "v1", "kind": "Pod", "metadata": {} });
    for field in ["labels", "annotations", "finalizers"] {
        if let Some(value) = template.at(&["metadata", field]).filter(|v| !v.is_empty()) {
            pod.set(&["metadata", field], value.clone());
        }
    }
    pod.set(&["metadata", "generateName"], format!("{}-", meta::name(owner)));
    pod.set(&["metadata", "ownerReferences"], object!([(meta::controller_reference(owner))]));
    pod.set(&["spec"], template.get("spec").cloned());
    pod
}

/// A number or a percentage of a total; see intstr.GetScaledValueFromIntOrPercent.
pub(crate) fn scaled(value: Option<&Value>, total: i64, round_up: bool) -> Option<i64> {
    match value? {
        Value::Int(n) => Some(*n),
        Value::String(text) => {
            let percent: i64 = text.strip_suffix('%')?.parse().ok()?;
            Some(if round_up { (percent * total + 99).div_euclid(100) } else { (percent * total).div_euclid(100) })
        }
        _ => None,
    }
}

/// Sets a condition of a status. Its transition time changes only with its status; true where anything changed.
pub(crate) fn set_condition(status: &mut Value, ty: &str, is: &str, reason: &str, message: &str, now: &str) -> bool {
    let list = status.place(&["conditions"]).make_list();
    let same = |c: &Value| (c.str_at(&["status"]), c.str_at(&["reason"]), c.str_at(&["message"])) == (is, reason, message);
    let mut condition = object!({ "type": ty, "status": is, "reason": reason, "message": message, "lastTransitionTime": now });
    match list.make_mut().iter_mut().find(|c| c.str_at(&["type"]) == ty) {
        Some(old) if same(old) => return false,
        Some(old) => {
            if old.str_at(&["status"]) == is {
                condition.set(&["lastTransitionTime"], old.get("lastTransitionTime").cloned());
            }
            *old = condition;
        }
        None => list.push(condition),
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(owner: Option<&str>) -> Value {
        let mut pod = object!({ "metadata": { "name": "p", "namespace": "ns", "uid": "p", "labels": { "app": "x" } } });
        if let Some((kind, name)) = owner.and_then(|owner| owner.split_once('/')) {
            pod.set(&["metadata", "ownerReferences"], object!([{ "kind": kind, "name": name, "uid": name, "controller": true }]));
        }
        pod
    }

    #[test]
    fn a_change_concerns_the_owners_before_and_after_it_and_those_who_may_adopt_what_has_none() {
        let with = |mut pod: Value, path: &[&str], value: &str| {
            pod.set(path, value);
            Some(pod)
        };
        let of = |owner: &str| Some(pod(Some(owner)));
        let alone = || Some(pod(None));
        let status = &["status", "phase"];
        let table: [(Option<Value>, Option<Value>, &[&str]); 13] = [
            (None, of("Job/a"), &["ns/a"]),
            (of("Job/a"), with(pod(Some("Job/a")), status, "Failed"), &["ns/a"]),
            (of("Job/a"), of("Job/b"), &["ns/b", "ns/a"]),
            (of("Job/a"), None, &["ns/a"]),
            (None, of("ReplicaSet/a"), &[]),
            (of("ReplicaSet/a"), with(pod(Some("ReplicaSet/a")), &["metadata", "labels", "app"], "y"), &[]),
            (None, alone(), &["adopter"]),
            (alone(), with(pod(None), status, "Failed"), &[]),
            (alone(), with(pod(None), &["metadata", "labels", "app"], "y"), &["adopter"]),
            (alone(), with(pod(None), &["metadata", "uid"], "another"), &["adopter"]),
            (of("Job/a"), alone(), &["ns/a", "adopter"]),
            (of("ReplicaSet/a"), alone(), &["adopter"]),
            (alone(), None, &[]),
        ];
        for (old, new, expect) in table {
            let delta = Delta { old: old.map(Arc::new), new: new.map(Arc::new) };
            assert_eq!(owners_concerned(&delta, "Job", |_| vec!["adopter".into()]), expect, "{delta:?}");
        }
    }

    #[test]
    fn a_pod_counts_otherwise_when_it_is_another_s_begins_or_ends_or_is_ready() {
        let before = pod(Some("ReplicaSet/a"));
        let table: [(&[&str], Value, bool); 8] = [
            (&["spec", "nodeName"], "n".into(), true),
            (&["status", "containerStatuses"], object!([{ "name": "c" }]), true),
            (&["metadata", "annotations", "a"], "b".into(), true),
            (&["metadata", "uid"], "another".into(), false),
            (&["metadata", "labels", "app"], "y".into(), false),
            (&["metadata", "deletionTimestamp"], "now".into(), false),
            (&["status", "phase"], "Running".into(), false),
            (&["status", "conditions"], object!([{ "type": "Ready", "status": "True" }]), false),
        ];
        for (path, value, expect) in table {
            let mut after = before.clone();
            after.set(path, value);
            let delta = Delta { old: Some(Arc::new(before.clone())), new: Some(Arc::new(after)) };
            assert_eq!(counts_the_same(&delta), expect, "{path:?}");
            assert!(!counts_the_same(&Delta { old: None, ..delta }));
        }
    }
}
