//! What controllers of pods have in common: how pods count, which belong to an owner, which go first, and what a template
//! makes. Pure.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

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
    match list.iter_mut().find(|c| c.str_at(&["type"]) == ty) {
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
