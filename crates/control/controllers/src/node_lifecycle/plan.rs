//! A node that is no longer heard of becomes Unknown, and its conditions become taints. Pure.

use std::time::Duration;

use fram_machinery::normalize::format_time;
use fram_machinery::{Value, meta, object};
use jiff::Timestamp;

/// A node is given up after so long a silence; see --node-monitor-grace-period.
pub(super) const GRACE: Duration = Duration::from_secs(40);
/// A new node may take longer to be heard of first; see --node-startup-grace-period.
const STARTUP_GRACE: Duration = Duration::from_secs(60);

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// Conditions that the kubelet writes.
const CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// Condition, the status in which it taints, and the taint's key.
const NO_SCHEDULE: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// How long a node may still be silent; zero where it is to be given up.
pub(super) fn patience(node: &Value, silent: Duration) -> Duration {
    let grace = if meta::condition(node, "Ready").is_some() { GRACE } else { STARTUP_GRACE };
    grace.saturating_sub(silent)
}

pub(super) fn ready(node: &Value) -> &str {
    meta::condition(node, "Ready").map_or("Unknown", |c| c.str_at(&["status"]))
}

/// The conditions of a node that is given up; None where they are so already.
pub(super) fn unknown(node: &Value, now: Timestamp) -> Option<Value> {
    let text = format_time(now, 0);
    let mut conditions = node.list_at(&["status", "conditions"]).to_vec();
    let mut changed = false;
    for ty in CONDITIONS {
        match conditions.iter_mut().find(|c| c.str_at(&["type"]) == ty) {
            Some(c) if c.str_at(&["status"]) == "Unknown" => {}
            Some(c) => {
                c.set(&["status"], "Unknown");
                c.set(&["reason"], "NodeStatusUnknown");
                c.set(&["message"], "Kubelet stopped posting node status.");
                c.set(&["lastTransitionTime"], text.as_str());
                changed = true;
            }
            None => {
                let created = node.str_at(&["metadata", "creationTimestamp"]);
                conditions.push(object!({ "type": ty, "status": "Unknown", "reason": "NodeStatusNeverUpdated",
                    "message": "Kubelet never posted node status.", "lastHeartbeatTime": created, "lastTransitionTime": (text.as_str()) }));
                changed = true;
            }
        }
    }
    changed.then(|| conditions.into())
}

/// Whether a node's conditions ask for taints that evict. A node of which nothing was heard yet has none.
pub(super) fn asks_for_eviction(node: &Value) -> bool {
    meta::condition(node, "Ready").is_some_and(|c| c.str_at(&["status"]) != "True")
}

/// Whether a node is being emptied already.
pub(super) fn is_evicted(node: &Value) -> bool {
    let own = |t: &Value| t.str_at(&["effect"]) == "NoExecute" && matches!(t.str_at(&["key"]), NOT_READY | UNREACHABLE);
    node.list_at(&["spec", "taints"]).iter().any(own)
}

/// The taints that a node's conditions ask for, with those that others gave it. `evict`: those that evict too, which are left
/// out until it is the zone's turn, and while no node at all is ready, since then the fault is likely on this side; see handleDisruption.
pub(super) fn taints(node: &Value, evict: bool, now: Timestamp) -> Vec<Value> {
    let before = node.list_at(&["spec", "taints"]);
    let own = |key: &str, effect: &str| match effect {
        "NoSchedule" => key == UNSCHEDULABLE || NO_SCHEDULE.iter().any(|(_, _, k)| *k == key),
        "NoExecute" => key == NOT_READY || key == UNREACHABLE,
        _ => false,
    };
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    for (ty, status, key) in NO_SCHEDULE {
        if meta::condition(node, ty).is_some_and(|c| c.str_at(&["status"]) == status) {
            wanted.push((key, "NoSchedule"));
            if ty == "Ready" && evict {
                wanted.push((key, "NoExecute"));
            }
        }
    }
    if node.bool_at(&["spec", "unschedulable"]) == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let is = |t: &Value, (key, effect): &(&str, &str)| t.str_at(&["key"]) == *key && t.str_at(&["effect"]) == *effect;
    let keeps = |t: &&Value| !own(t.str_at(&["key"]), t.str_at(&["effect"])) || wanted.iter().any(|w| is(t, w));
    let mut out: Vec<Value> = before.iter().filter(keeps).cloned().collect();
    for taint in &wanted {
        if !out.iter().any(|t| is(t, taint)) {
            out.push(object!({ "key": (taint.0), "effect": (taint.1), "timeAdded": (format_time(now, 0)) }));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(ready: &str) -> Value {
        object!({ "metadata": { "name": "n", "creationTimestamp": "2026-01-01T00:00:00Z" }, "spec": { "taints": [{ "key": "mine", "effect": "NoExecute" }] },
            "status": { "conditions": [{ "type": "Ready", "status": ready }] } })
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn keys(node: &Value, evict: bool) -> Vec<String> {
        taints(node, evict, at("2026-01-01T00:00:00Z"))
            .iter()
            .map(|t| format!("{}:{}", t.str_at(&["key"]), t.str_at(&["effect"])))
            .collect()
    }

    #[test]
    fn a_silent_node_is_given_up_after_its_grace_and_a_new_one_later() {
        assert_eq!(patience(&node("True"), Duration::from_secs(30)), Duration::from_secs(10));
        assert_eq!(patience(&node("True"), Duration::from_secs(41)), Duration::ZERO);
        assert_eq!(patience(&object!({}), Duration::from_secs(41)), Duration::from_secs(19));
    }

    #[test]
    fn giving_up_makes_all_conditions_unknown_once() {
        let mut node = node("True");
        let conditions = unknown(&node, at("2026-01-01T00:01:00Z")).unwrap();
        node.set(&["status", "conditions"], conditions);
        assert_eq!(node.list_at(&["status", "conditions"]).len(), 4);
        assert_eq!(meta::condition(&node, "Ready").unwrap().str_at(&["reason"]), "NodeStatusUnknown");
        assert_eq!(meta::condition(&node, "PIDPressure").unwrap().str_at(&["reason"]), "NodeStatusNeverUpdated");
        assert_eq!(unknown(&node, at("2026-01-01T00:02:00Z")), None);
    }

    #[test]
    fn conditions_become_taints_and_others_taints_stay() {
        assert_eq!(keys(&node("True"), true), ["mine:NoExecute"]);
        let down = ["mine:NoExecute", "node.kubernetes.io/unreachable:NoSchedule", "node.kubernetes.io/unreachable:NoExecute"];
        assert_eq!(keys(&node("Unknown"), true), down);
        assert_eq!(keys(&node("False"), false), ["mine:NoExecute", "node.kubernetes.io/not-ready:NoSchedule"]);
        let mut cordoned = node("True");
        cordoned.set(&["spec", "unschedulable"], true);
        assert_eq!(keys(&cordoned, true), ["mine:NoExecute", "node.kubernetes.io/unschedulable:NoSchedule"]);
        let mut healed = node("True");
        healed.set(&["spec", "taints"], object!([{ "key": "node.kubernetes.io/unreachable", "effect": "NoExecute" }]));
        assert!(keys(&healed, true).is_empty());
    }
}
