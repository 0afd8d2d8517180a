//! How many of a budget's pods may be disrupted now. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fram_machinery::normalize::format_time;
use fram_machinery::{Map, Value, json, meta, object};
use jiff::Timestamp;

use crate::pods::{self, scaled};

/// An eviction that was allowed counts for so long, until its pod is seen to end; see DeletionTimeout.
const DELETION_TIMEOUT: Duration = Duration::from_secs(120);

pub(super) struct Plan {
    pub(super) status: Value,
    pub(super) requeue: Option<Duration>,
}

/// What the controllers of a budget's pods want of them together, or why that is not known; and whether some pods have no controller.
pub(super) struct Expected {
    pub(super) scale: Result<i64, String>,
    pub(super) unmanaged: bool,
}

impl Default for Expected {
    fn default() -> Self {
        Self { scale: Ok(0), unmanaged: false }
    }
}

fn spec<'a>(budget: &'a Value, field: &str) -> Option<&'a Value> {
    budget.at(&["spec", field]).filter(|v| !v.is_null())
}

/// Whether a budget is a part of what the controllers want, not of the pods that there are.
pub(super) fn wants_scale(budget: &Value) -> bool {
    spec(budget, "maxUnavailable").is_some() || !matches!(spec(budget, "minAvailable"), None | Some(Value::Int(_)))
}

pub(super) fn unmanaged(budget: &Value) -> String {
    let selector = json::text(spec(budget, "selector").unwrap_or(&Value::Null));
    format!(
        "Pods selected by this PodDisruptionBudget (selector: {selector}) were found to be unmanaged. As a result, the status of the PDB \
         cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \
         \".spec.minAvailable\" field of the PDB to an integer value."
    )
}

/// `pods`: those that the budget selects. `scale`: what their controllers want of them together, where the budget is a part of that; where
/// it is not known nothing may be disrupted. See failSafe.
pub(super) fn plan(budget: &Value, pods: &[Arc<Value>], scale: &Result<i64, String>, now: Timestamp) -> Plan {
    let text = format_time(now, 0);
    let scale = match scale {
        Ok(scale) => *scale,
        Err(why) => {
            let mut status = budget.get("status").filter(|s| !s.is_null()).cloned().unwrap_or(object!({}));
            status.set(&["disruptionsAllowed"], 0);
            let seen = status.int_at(&["observedGeneration"]).unwrap_or(0);
            pods::set_condition(&mut status, "DisruptionAllowed", "False", "SyncFailed", why, &text);
            observe(&mut status, seen);
            return Plan { status, requeue: None };
        }
    };
    let (disrupted, requeue) = disrupted(budget, pods, now);
    let healthy = |p: &Value| pods::is_ready(p) && !meta::is_terminating(p) && !disrupted.contains_key(meta::name(p));
    let current = pods.iter().filter(|p| healthy(p)).count() as i64;
    let count = pods.len() as i64;
    let (expected, desired) = match (spec(budget, "maxUnavailable"), spec(budget, "minAvailable")) {
        (Some(most), _) => (scale, (scale - scaled(Some(most), scale, true).unwrap_or(0)).max(0)),
        (None, Some(Value::Int(least))) => (count, *least),
        (None, Some(least)) => (scale, scaled(Some(least), scale, true).unwrap_or(0)),
        (None, None) => (0, 0),
    };
    let allowed = if expected <= 0 { 0 } else { (current - desired).max(0) };
    let mut status = object!({ "currentHealthy": current, "desiredHealthy": desired, "disruptionsAllowed": allowed, "expectedPods": expected,
        "observedGeneration": (meta::generation(budget)) });
    if !disrupted.is_empty() {
        status.set(&["disruptedPods"], disrupted.into_iter().collect::<Map>());
    }
    if let Some(conditions) = budget.at(&["status", "conditions"]) {
        status.set(&["conditions"], conditions.clone());
    }
    let (is, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    pods::set_condition(&mut status, "DisruptionAllowed", is, reason, "", &text);
    observe(&mut status, meta::generation(budget));
    Plan { status, requeue }
}

/// Conditions say which generation they are about.
fn observe(status: &mut Value, generation: i64) {
    for condition in status.place(&["conditions"]).make_list().make_mut() {
        condition.set(&["observedGeneration"], generation);
    }
}

/// Whether a pod counts for budgets as it did before a change of it.
pub(super) fn counts_the_same(old: &Value, new: &Value) -> bool {
    let looks = |pod: &Value| [pods::has_ended(pod), pods::is_ready(pod), meta::is_terminating(pod)];
    let same = |field: &str| old.at(&["metadata", field]) == new.at(&["metadata", field]);
    looks(old) == looks(new) && ["uid", "labels", "ownerReferences"].into_iter().all(same)
}

/// Evictions that were allowed and whose pods do not end yet, and when the first of them is forgotten.
fn disrupted(budget: &Value, pods: &[Arc<Value>], now: Timestamp) -> (BTreeMap<String, Value>, Option<Duration>) {
    let (mut out, mut requeue) = (BTreeMap::new(), None::<Duration>);
    let Some(noted) = budget.at(&["status", "disruptedPods"]).and_then(Value::as_map) else { return (out, requeue) };
    for (name, at) in noted.iter() {
        let waits = pods.iter().any(|p| meta::name(p) == name.as_str() && !meta::is_terminating(p));
        let since = at.as_str().and_then(|t| t.parse::<Timestamp>().ok()).unwrap_or(Timestamp::UNIX_EPOCH);
        let left = DELETION_TIMEOUT.saturating_sub(Duration::try_from(now.duration_since(since)).unwrap_or_default());
        if waits && !left.is_zero() {
            out.insert(name.to_string(), at.clone());
            requeue = Some(requeue.map_or(left, |r| r.min(left)));
        }
    }
    (out, requeue)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, ready: bool) -> Arc<Value> {
        let status = if ready { "True" } else { "False" };
        Arc::new(object!({ "metadata": { "name": name }, "status": { "conditions": [{ "type": "Ready", "status": status }] } }))
    }

    fn numbers(spec: Value, scale: i64) -> (i64, i64, i64) {
        let pods = [pod("a", true), pod("b", true), pod("c", false)];
        let status = plan(&object!({ "spec": spec }), &pods, &Ok(scale), Timestamp::UNIX_EPOCH).status;
        let n = |f: &str| status.int_at(&[f]).unwrap();
        (n("expectedPods"), n("desiredHealthy"), n("disruptionsAllowed"))
    }

    #[test]
    fn numbers_and_percentages_of_what_the_controllers_want() {
        assert_eq!(numbers(object!({ "minAvailable": 1 }), 10), (3, 1, 1));
        assert_eq!(numbers(object!({ "minAvailable": "50%" }), 3), (3, 2, 0));
        assert_eq!(numbers(object!({ "maxUnavailable": 2 }), 3), (3, 1, 1));
        assert_eq!(numbers(object!({ "maxUnavailable": "34%" }), 3), (3, 1, 1));
        // Pods by themselves are nobody's: of none no part may go.
        assert_eq!(numbers(object!({ "maxUnavailable": 1 }), 0), (0, 0, 0));
        assert_eq!(numbers(object!({ "minAvailable": "10%" }), 0), (0, 0, 0));
        assert_eq!(numbers(object!({}), 0), (0, 0, 0));
    }

    #[test]
    fn only_numbers_that_are_kept_of_the_pods_themselves_need_no_controllers() {
        let wants = |spec: Value| wants_scale(&object!({ "spec": spec }));
        assert_eq!([wants(object!({ "minAvailable": 1 })), wants(object!({}))], [false, false]);
        assert_eq!([wants(object!({ "minAvailable": "1%" })), wants(object!({ "maxUnavailable": 1 }))], [true, true]);
    }

    #[test]
    fn where_it_is_not_known_how_many_there_should_be_nothing_may_go() {
        let mut budget = object!({ "metadata": { "generation": 2 }, "spec": { "maxUnavailable": 1 } });
        let sure = plan(&budget, &[pod("a", true)], &Ok(1), Timestamp::UNIX_EPOCH).status;
        assert_eq!(sure.int_at(&["disruptionsAllowed"]), Some(1));
        budget.set(&["status"], sure);
        let status = plan(&budget, &[pod("a", true)], &Err("found no controllers for pod \"a\"".into()), Timestamp::UNIX_EPOCH).status;
        assert_eq!((status.int_at(&["disruptionsAllowed"]), status.int_at(&["currentHealthy"])), (Some(0), Some(1)));
        let condition = &status.list_at(&["conditions"])[0];
        assert_eq!((condition.str_at(&["reason"]), condition.str_at(&["status"])), ("SyncFailed", "False"));
    }

    #[test]
    fn an_allowed_eviction_counts_until_its_pod_ends_or_two_minutes_have_passed() {
        let mut budget = object!({ "spec": { "minAvailable": 0 } });
        budget.set(&["status", "disruptedPods"], object!({ "a": "1970-01-01T00:00:00Z", "gone": "1970-01-01T00:00:00Z" }));
        let early = plan(&budget, &[pod("a", true)], &Ok(0), Timestamp::from_second(60).unwrap());
        assert_eq!((early.status.int_at(&["currentHealthy"]), early.requeue), (Some(0), Some(Duration::from_secs(60))));
        assert_eq!(early.status.at(&["disruptedPods", "gone"]), None);
        let late = plan(&budget, &[pod("a", true)], &Ok(0), Timestamp::from_second(121).unwrap());
        assert_eq!(late.status.int_at(&["currentHealthy"]), Some(1));
    }

    #[test]
    fn a_pod_counts_otherwise_when_it_is_ready_ends_or_is_another_s() {
        let before = pod("a", true);
        let with = |path: &[&str], value: Value| {
            let mut pod = (*before).clone();
            pod.set(path, value);
            pod
        };
        let table = [
            (with(&["status", "podIP"], "10.0.0.1".into()), true),
            (with(&["metadata", "annotations", "a"], "b".into()), true),
            (with(&["metadata", "labels", "a"], "b".into()), false),
            (with(&["metadata", "uid"], "another".into()), false),
            (with(&["metadata", "deletionTimestamp"], "now".into()), false),
            (with(&["metadata", "ownerReferences"], object!([{ "uid": "u" }])), false),
            (with(&["status", "phase"], "Failed".into()), false),
            ((*pod("a", false)).clone(), false),
        ];
        for (after, expect) in table {
            assert_eq!(counts_the_same(&before, &after), expect, "{after:?}");
        }
    }
}
