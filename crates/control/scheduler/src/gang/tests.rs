//! Tests of groups: who is held back, and what comes of an attempt.

use super::*;
use crate::plugins::testing::{cache, node, pod};

fn member(name: &str) -> Arc<Pod> {
    pod(name, object!({ "schedulingGroup": { "podGroupName": "g" } }))
}

fn key() -> String {
    group_of(&member("a").object).unwrap()
}

fn gang(minimum: i64) -> Option<Arc<Value>> {
    Some(Arc::new(object!({ "spec": { "schedulingPolicy": { "gang": { "minCount": minimum } } } })))
}

fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
    pods.iter().map(|p| meta::name(&p.object)).collect()
}

#[test]
fn a_gang_is_held_back_until_it_is_known_and_enough_of_it_are_there() {
    let mut groups = Groups::default();
    assert!(groups.join(&member("a")).is_empty());
    assert!(groups.holds_back(&member("a")));
    assert!(groups.set(&key(), gang(2)).is_empty());
    assert_eq!(names(&groups.join(&member("b"))), ["a"]);
    assert!(!groups.holds_back(&member("b")));
    groups.leave(&member("a").object);
    assert!(groups.holds_back(&member("b")));
    // One without a quorum of its own needs nobody else.
    let basic = Arc::new(object!({ "spec": { "schedulingPolicy": { "basic": {} } } }));
    assert_eq!(names(&groups.set(&key(), Some(basic))), ["b"]);
}

#[test]
fn a_pod_without_a_group_is_not_held_back() {
    let mut groups = Groups::default();
    let alone = pod("a", object!({}));
    assert!(groups.join(&alone).is_empty() && !groups.holds_back(&alone));
    assert!(groups.all.is_empty());
}

#[test]
fn nothing_is_kept_of_groups_that_are_gone() {
    let mut groups = Groups::default();
    groups.set(&key(), gang(1));
    groups.join(&member("a"));
    groups.set(&key(), None);
    groups.leave(&member("a").object);
    assert!(groups.all.is_empty());
}

#[test]
fn those_that_have_a_node_count_for_the_quorum() {
    let mut cache = cache(vec![node("n", "4")]);
    let mut groups = Groups::default();
    groups.set(&key(), gang(3));
    for name in ["a", "b", "c"] {
        groups.join(&member(name));
    }
    assert_eq!((groups.missing(&key(), &cache), groups.unscheduled(&key(), &cache).len()), (3, 3));
    cache.place(member("a"), "n");
    assert_eq!((groups.missing(&key(), &cache), names(&groups.unscheduled(&key(), &cache))), (2, vec!["b", "c"]));
}

#[test]
fn an_attempt_binds_all_that_are_needed_or_none() {
    use Tried::{Fits, Preempts, Refused, Waits};
    let table: [(&[Tried], usize, Verdict); 13] = [
        (&[Fits, Fits, Refused], 2, Verdict::Bind),
        (&[Fits, Refused, Refused], 2, Verdict::Unschedulable),
        (&[Fits, Preempts, Refused], 2, Verdict::Preempt),
        (&[Fits, Preempts], 3, Verdict::Unschedulable),
        // Of those who leave for a group some go before the others.
        (&[Fits, Waits], 2, Verdict::Preempt),
        (&[Waits, Preempts], 2, Verdict::Preempt),
        (&[Fits, Waits], 3, Verdict::Unschedulable),
        (&[Fits, Fits, Waits], 2, Verdict::Bind),
        (&[Fits, Waits], 0, Verdict::Bind),
        (&[Waits], 0, Verdict::Preempt),
        // Late ones of a group that runs, and those of groups without a quorum.
        (&[Fits], 0, Verdict::Bind),
        (&[Refused], 0, Verdict::Unschedulable),
        (&[], 0, Verdict::Unschedulable),
    ];
    for (tried, missing, expect) in table {
        assert_eq!(Verdict::of(tried, missing), expect, "{tried:?} {missing}");
    }
}

#[test]
fn the_condition_of_a_group_says_what_is_new_and_never_goes_back() {
    let patch = |condition: Value, verdict: &Verdict| {
        let group = object!({ "metadata": { "uid": "1", "generation": 1 }, "status": { "conditions": [condition] } });
        verdict.status_patch(&group, || "now".into()).map(|p| p.list_at(&["status", "conditions"])[0].clone())
    };
    let condition = |status: &str, reason: &str, message: &str, time: &str| {
        object!({ "type": "PodGroupScheduled", "status": status, "reason": reason, "message": message,
            "observedGeneration": 1, "lastTransitionTime": time })
    };
    let waits = condition("False", "Unschedulable", UNSCHEDULABLE, "then");
    assert_eq!(patch(object!({}), &Verdict::Bind), Some(condition("True", "Scheduled", "", "now")));
    assert_eq!(patch(waits.clone(), &Verdict::Unschedulable), None);
    assert_eq!(patch(waits.clone(), &Verdict::Failed("x".into())), Some(condition("False", "SchedulerError", "x", "then")));
    assert_eq!(patch(waits, &Verdict::Bind), Some(condition("True", "Scheduled", "", "now")));
    assert_eq!(patch(condition("True", "Scheduled", "", "then"), &Verdict::Unschedulable), None);
}
