//! Tables of the plan.

use std::sync::Arc;

use fram_machinery::{Value, meta, object};

use super::identity::ordinal;
use super::plan::{Plan, View, plan};

fn set(spec: Value) -> Value {
    let mut set = object!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": "web", "namespace": "ns", "uid": "set" },
        "spec": { "replicas": 3, "serviceName": "svc", "selector": { "matchLabels": { "a": "b" } },
            "template": { "metadata": { "labels": { "a": "b" } }, "spec": { "containers": [{ "image": "new" }] } } } });
    for (key, value) in spec.as_map().unwrap().iter() {
        set.set(&["spec", key], value.clone());
    }
    set
}

fn pod(i: i64, revision: &str, ready: bool) -> Arc<Value> {
    let (name, status) = (format!("web-{i}"), if ready { "True" } else { "False" });
    Arc::new(object!({ "metadata": { "name": (name.as_str()), "uid": name, "labels": { "controller-revision-hash": revision } },
        "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": status, "lastTransitionTime": "2026-01-01T00:00:00Z" }] } }))
}

fn plan_of(set: &Value, mine: &[Arc<Value>]) -> Plan {
    let template = object!({ "spec": { "containers": [{ "image": "old" }] } });
    let now = "2026-01-01T00:01:00Z".parse().unwrap();
    plan(&View { set, mine, current: "old", update: "new", current_template: &template, collisions: 0, now })
}

fn changes(plan: &Plan) -> (Vec<&str>, Vec<&str>) {
    (plan.create.iter().map(meta::name).collect(), plan.delete.iter().map(|p| meta::name(p)).collect())
}

#[test]
fn ordered_pods_come_one_after_the_other_and_parallel_ones_at_once() {
    let ordered = set(object!({}));
    assert_eq!(changes(&plan_of(&ordered, &[])).0, ["web-0"]);
    assert!(changes(&plan_of(&ordered, &[pod(0, "new", false)])).0.is_empty());
    assert_eq!(changes(&plan_of(&ordered, &[pod(0, "new", true)])).0, ["web-1"]);
    let parallel = set(object!({ "podManagementPolicy": "Parallel" }));
    assert_eq!(changes(&plan_of(&parallel, &[pod(1, "new", false)])).0, ["web-0", "web-2"]);
}

#[test]
fn ordinals_may_start_elsewhere() {
    let set = set(object!({ "ordinals": { "start": 5 }, "podManagementPolicy": "Parallel" }));
    assert_eq!(changes(&plan_of(&set, &[pod(0, "new", true)])), (vec!["web-5", "web-6", "web-7"], vec!["web-0"]));
    assert_eq!(
        (ordinal(&set, "web-10"), ordinal(&set, "web-01"), ordinal(&set, "webx-1"), ordinal(&set, "web-")),
        (Some(10), None, None, None)
    );
}

#[test]
fn a_pod_has_its_name_its_host_name_and_its_claims() {
    let templates = object!([{ "metadata": { "name": "data" }, "spec": { "accessModes": ["ReadWriteOnce"] } }]);
    let plan = plan_of(&set(object!({ "volumeClaimTemplates": templates })), &[]);
    let pod = &plan.create[0];
    assert_eq!((pod.str_at(&["spec", "hostname"]), pod.str_at(&["spec", "subdomain"])), ("web-0", "svc"));
    assert_eq!(meta::label(pod, "apps.kubernetes.io/pod-index"), Some("0"));
    assert_eq!(pod.list_at(&["spec", "volumes"])[0].str_at(&["persistentVolumeClaim", "claimName"]), "data-web-0");
    assert_eq!((meta::name(&plan.claims[0]), meta::label(&plan.claims[0], "a")), ("data-web-0", Some("b")));
}

#[test]
fn scaling_down_takes_the_highest_first_and_waits_for_broken_ones() {
    let set = set(object!({ "replicas": 1 }));
    let all = [pod(0, "new", true), pod(1, "new", true), pod(2, "new", true)];
    assert_eq!(changes(&plan_of(&set, &all)).1, ["web-2"]);
    let broken = [pod(0, "new", true), pod(1, "new", false), pod(2, "new", false)];
    assert!(changes(&plan_of(&set, &broken)).1.is_empty());
}

#[test]
fn an_ended_pod_is_made_again() {
    let mut failed = (*pod(0, "new", false)).clone();
    failed.set(&["status", "phase"], "Failed");
    let plan = plan_of(&set(object!({})), &[Arc::new(failed)]);
    assert_eq!((changes(&plan), plan.events[0].1), ((vec![], vec!["web-0"]), "RecreatingFailedPod"));
}

#[test]
fn a_roll_out_goes_down_to_the_partition_one_by_one() {
    let mut set = set(object!({ "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "partition": 1 } } }));
    let all = |r: [&str; 3]| [pod(0, r[0], true), pod(1, r[1], true), pod(2, r[2], true)];
    assert_eq!(changes(&plan_of(&set, &all(["old", "old", "old"]))).1, ["web-2"]);
    assert_eq!(changes(&plan_of(&set, &all(["old", "old", "new"]))).1, ["web-1"]);
    assert!(changes(&plan_of(&set, &all(["old", "new", "new"]))).1.is_empty());
    // Below the partition a pod comes back as it was.
    let back = plan_of(&set, &[pod(1, "new", true), pod(2, "new", true)]);
    assert_eq!(back.create[0].list_at(&["spec", "containers"])[0].str_at(&["image"]), "old");
    set.set(&["spec", "updateStrategy"], object!({ "type": "OnDelete" }));
    assert!(changes(&plan_of(&set, &all(["old", "old", "old"]))).1.is_empty());
}

#[test]
fn more_pods_may_be_missing_at_once_where_the_set_says_so() {
    let strategy = object!({ "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": 2 } });
    let set = set(object!({ "updateStrategy": strategy, "podManagementPolicy": "Parallel" }));
    let deleted = |ready: [bool; 3]| {
        let all = [0, 1, 2].map(|i| pod(i, "old", ready[i as usize]));
        changes(&plan_of(&set, &all)).1.join(",")
    };
    assert_eq!(deleted([true, true, true]), "web-2,web-1");
    // Whoever is missing counts, wherever he is and whether or not he is to be replaced.
    assert_eq!(deleted([false, true, true]), "web-2");
    assert_eq!(deleted([true, true, false]), "web-2");
    assert_eq!(deleted([true, false, false]), "");
    let below = [pod(0, "new", false), pod(1, "old", true), pod(2, "old", true)];
    assert_eq!(changes(&plan_of(&set, &below)).1, ["web-2"]);
    let none = [pod(0, "new", false), pod(1, "new", false), pod(2, "old", true)];
    assert!(changes(&plan_of(&set, &none)).1.is_empty());
}

#[test]
fn pods_that_serve_but_are_not_available_yet_are_not_replaced_at_once() {
    let strategy = object!({ "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": 1 } });
    // They have been ready for a minute.
    let deleted = |minimum: i64| {
        let set = set(object!({ "updateStrategy": (strategy.clone()), "podManagementPolicy": "Parallel", "minReadySeconds": minimum }));
        changes(&plan_of(&set, &[pod(0, "old", true), pod(1, "old", true), pod(2, "old", true)])).1.join(",")
    };
    assert_eq!((deleted(61), deleted(60)), (String::new(), "web-2".into()));
}

#[test]
fn a_share_of_pods_that_may_be_missing_is_rounded_down_to_one_at_least() {
    let all = [pod(0, "old", true), pod(1, "old", true), pod(2, "old", true)];
    for (share, expect) in [("1%", "web-2"), ("34%", "web-2"), ("66%", "web-2"), ("67%", "web-2,web-1")] {
        let strategy = object!({ "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": share } });
        let set = set(object!({ "updateStrategy": strategy, "podManagementPolicy": "Parallel" }));
        assert_eq!(changes(&plan_of(&set, &all)).1.join(","), expect, "{share}");
    }
}

#[test]
fn a_finished_roll_out_makes_the_new_revision_the_current_one() {
    let status = plan_of(&set(object!({})), &[pod(0, "new", true), pod(1, "new", true), pod(2, "new", true)]).status;
    assert_eq!((status.str_at(&["currentRevision"]), status.int_at(&["currentReplicas"])), ("new", Some(3)));
    let status = plan_of(&set(object!({})), &[pod(0, "old", true), pod(1, "new", true), pod(2, "new", true)]).status;
    assert_eq!((status.str_at(&["currentRevision"]), status.int_at(&["updatedReplicas"])), ("old", Some(2)));
}

#[test]
fn claims_end_with_the_set_or_with_their_pod_as_the_policy_says() {
    let templates = object!([{ "metadata": { "name": "d" }, "spec": {} }]);
    let owners = |deleted: &str, scaled: &str| {
        let policy = object!({ "whenDeleted": deleted, "whenScaled": scaled });
        let set =
            set(object!({ "replicas": 1, "volumeClaimTemplates": (templates.clone()), "persistentVolumeClaimRetentionPolicy": policy }));
        let plan = plan_of(&set, &[pod(0, "new", true), pod(1, "new", true)]);
        plan.claim_owners.into_iter().map(|o| o.owner.map_or(String::new(), |o| o.str_at(&["name"]).into())).collect::<Vec<_>>()
    };
    assert_eq!(owners("Retain", "Retain"), ["", ""]);
    assert_eq!(owners("Delete", "Retain"), ["web", "web"]);
    assert_eq!(owners("Delete", "Delete"), ["web", "web-1"]);
}

#[test]
fn a_pod_that_is_not_labelled_with_its_identity_is_and_one_that_goes_is_left_alone() {
    let (mut named, mut going) = ((*pod(0, "new", true)).clone(), (*pod(2, "new", true)).clone());
    meta::set_label(&mut named, "statefulset.kubernetes.io/pod-name", "web-0");
    going.set(&["metadata", "deletionTimestamp"], "2026-01-01T00:00:00Z");
    let plan = plan_of(&set(object!({ "podManagementPolicy": "Parallel" })), &[Arc::new(named), pod(1, "new", true), Arc::new(going)]);
    let told: Vec<_> = plan.repair.iter().map(|(pod, patch)| (meta::name(pod), meta::labels(patch).clone())).collect();
    let labels = object!({ "statefulset.kubernetes.io/pod-name": "web-1", "apps.kubernetes.io/pod-index": "1" });
    assert_eq!(told, [("web-1", labels)]);
}
