//! Roll-outs as tables: sizes of sets before and after.

use std::sync::Arc;

use fram_machinery::{Value, meta, object};

use super::plan::{Bounds, Plan, Step, plan};

fn deployment(replicas: i64, image: &str) -> Value {
    object!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web", "namespace": "ns", "uid": "d", "generation": 1 },
        "spec": { "replicas": replicas, "selector": { "matchLabels": { "a": "b" } }, "progressDeadlineSeconds": 600,
            "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": "25%", "maxUnavailable": "25%" } },
            "template": { "metadata": { "labels": { "a": "b" } }, "spec": { "containers": [{ "image": image }] } } } })
}

fn now() -> jiff::Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

/// A set as the controller makes it, with so many pods, all available.
fn set(image: &str, replicas: i64, age: &str) -> Arc<Value> {
    let made = plan(&deployment(1, image), &[], false, now());
    let Some(Step::Create(mut set)) = made.steps.into_iter().next() else { panic!("no set was made") };
    set.set(&["metadata", "uid"], image);
    set.set(&["metadata", "creationTimestamp"], age);
    set.set(&["spec", "replicas"], replicas);
    set.set(&["status"], object!({ "replicas": replicas, "readyReplicas": replicas, "availableReplicas": replicas }));
    set.remove(&["metadata", "annotations", "deployment.kubernetes.io/desired-replicas"]);
    Arc::new(set)
}

/// The sizes that a plan writes, by image.
fn sizes(plan: &Plan) -> Vec<(String, i64)> {
    let size = |s: &Step| match s {
        Step::Create(o) | Step::Update(o, _) => Some((
            o.list_at(&["spec", "template", "spec", "containers"])[0].str_at(&["image"]).to_string(),
            o.int_at(&["spec", "replicas"]).unwrap(),
        )),
        _ => None,
    };
    plan.steps.iter().filter_map(size).collect()
}

#[test]
fn bounds_round_the_surge_up_and_what_may_miss_down() {
    assert_eq!(Bounds::of(&deployment(10, "a")), Bounds { desired: 10, surge: 3, unavailable: 2 });
    assert_eq!(Bounds::of(&deployment(1, "a")), Bounds { desired: 1, surge: 1, unavailable: 0 });
}

#[test]
fn the_first_set_is_made_whole() {
    let plan = plan(&deployment(3, "a"), &[], false, now());
    assert_eq!(sizes(&plan), [("a".to_string(), 3)]);
    assert!(plan.steps.contains(&Step::SetRevision("1".into())));
    assert_eq!(plan.status.list_at(&["conditions"])[1].str_at(&["reason"]), "NewReplicaSetCreated");
}

#[test]
fn a_roll_out_grows_within_the_surge_and_then_shrinks() {
    let old = set("a", 4, "2026-01-01T00:00:00Z");
    let first = plan(&deployment(4, "b"), std::slice::from_ref(&old), false, now());
    assert!(sizes(&first).contains(&("b".to_string(), 1)), "{:?}", sizes(&first));
    // The new pod is not available yet: one old pod may go, since one of four may miss.
    let mut new = (*set("b", 1, "2026-01-01T00:01:00Z")).clone();
    new.set(&["status", "availableReplicas"], 0);
    let second = plan(&deployment(4, "b"), &[old.clone(), Arc::new(new)], false, now());
    assert!(sizes(&second).contains(&("a".to_string(), 3)), "{:?}", sizes(&second));
    let third = plan(&deployment(4, "b"), &[set("a", 1, "2026-01-01T00:00:00Z"), set("b", 4, "2026-01-01T00:01:00Z")], false, now());
    assert!(sizes(&third).contains(&("a".to_string(), 0)));
}

#[test]
fn a_roll_out_that_recreates_waits_for_the_old_pods() {
    let mut deployment = deployment(2, "b");
    deployment.set(&["spec", "strategy"], object!({ "type": "Recreate" }));
    let old = set("a", 2, "2026-01-01T00:00:00Z");
    assert_eq!(sizes(&plan(&deployment, &[old], true, now())), [("a".to_string(), 0)]);
    let empty = set("a", 0, "2026-01-01T00:00:00Z");
    assert_eq!(sizes(&plan(&deployment, std::slice::from_ref(&empty), true, now())), []);
    assert_eq!(sizes(&plan(&deployment, &[empty], false, now())), [("b".to_string(), 2)]);
}

#[test]
fn scaling_in_the_middle_of_a_roll_out_keeps_the_proportion() {
    let with_max = |s: Arc<Value>| {
        let mut s = (*s).clone();
        meta::set_annotation(&mut s, "deployment.kubernetes.io/desired-replicas", "10");
        meta::set_annotation(&mut s, "deployment.kubernetes.io/max-replicas", "13");
        Arc::new(s)
    };
    let sets = [with_max(set("a", 8, "2026-01-01T00:00:00Z")), with_max(set("b", 5, "2026-01-01T00:01:00Z"))];
    let mut after = sizes(&plan(&deployment(15, "b"), &sets, false, now()));
    after.sort();
    assert_eq!(after, [("a".to_string(), 12), ("b".to_string(), 7)]);
}

#[test]
fn a_finished_roll_out_says_so_and_old_sets_beyond_the_limit_go() {
    let mut deployment = deployment(1, "b");
    deployment.set(&["spec", "revisionHistoryLimit"], 0);
    let plan = plan(&deployment, &[set("a", 0, "2026-01-01T00:00:00Z"), set("b", 1, "2026-01-01T00:01:00Z")], false, now());
    let old = plan.steps.iter().filter(|s| matches!(s, Step::Delete(_))).count();
    assert_eq!(old, 1);
    let progress = plan.status.list_at(&["conditions"]).iter().find(|c| c.str_at(&["type"]) == "Progressing").cloned().unwrap();
    assert_eq!(progress.str_at(&["reason"]), "NewReplicaSetAvailable");
}

#[test]
fn the_progress_of_a_roll_out_is_told_and_what_happens_after_it_is_not_measured() {
    // What was told before, how many pods were and are available, whether it is paused, whether an old set has pods still.
    let check = |before: &str, available: (i64, i64), paused: bool, old: i64, expect: (&str, &str)| {
        let mut deployment = deployment(4, "b");
        deployment.set(&["spec", "paused"], paused);
        deployment.set(
            &["status"],
            object!({ "replicas": (4 + old), "updatedReplicas": 4, "readyReplicas": (available.0), "availableReplicas": (available.0) }),
        );
        if !before.is_empty() {
            let condition =
                object!({ "type": "Progressing", "status": "True", "reason": before, "lastUpdateTime": "2026-01-01T00:00:00Z" });
            deployment.set(&["status", "conditions"], object!([condition]));
        }
        let mut new = (*set("b", 4, "2026-01-02T00:00:00Z")).clone();
        new.set(&["status", "readyReplicas"], available.1 - old);
        new.set(&["status", "availableReplicas"], available.1 - old);
        let mut sets = vec![Arc::new(new)];
        if old > 0 {
            sets.push(set("a", old, "2026-01-01T00:00:00Z"));
        }
        let late = "2026-01-01T01:00:00Z".parse().unwrap();
        let status = plan(&deployment, &sets, false, late).status;
        let condition = status.list_at(&["conditions"]).iter().find(|c| c.str_at(&["type"]) == "Progressing").unwrap();
        assert_eq!((condition.str_at(&["reason"]), condition.str_at(&["status"])), expect, "{before} {available:?} {paused} {old}");
    };
    check("ReplicaSetUpdated", (3, 4), false, 0, ("NewReplicaSetAvailable", "True"));
    check("ReplicaSetUpdated", (2, 3), false, 0, ("ReplicaSetUpdated", "True"));
    check("ReplicaSetUpdated", (3, 3), false, 0, ("ProgressDeadlineExceeded", "False"));
    check("NewReplicaSetAvailable", (3, 3), false, 0, ("NewReplicaSetAvailable", "True"));
    check("NewReplicaSetAvailable", (1, 2), false, 0, ("NewReplicaSetAvailable", "True"));
    check("ReplicaSetUpdated", (3, 3), true, 0, ("DeploymentPaused", "Unknown"));
    check("ProgressDeadlineExceeded", (3, 3), true, 0, ("ProgressDeadlineExceeded", "True"));
    check("DeploymentPaused", (3, 3), false, 0, ("DeploymentResumed", "Unknown"));
    check("DeploymentPaused", (3, 4), false, 0, ("NewReplicaSetAvailable", "True"));
    check("DeploymentResumed", (3, 3), false, 0, ("ProgressDeadlineExceeded", "False"));
    check("", (3, 3), false, 0, ("FoundNewReplicaSet", "True"));
    check("ReplicaSetUpdated", (4, 5), false, 1, ("ReplicaSetUpdated", "True"));
}
