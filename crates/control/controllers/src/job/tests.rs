//! Tables of the plan.

use std::sync::Arc;
use std::time::Duration;

use fram_machinery::{Value, meta, object};
use jiff::Timestamp;

use super::plan::{Plan, plan};
use super::pod::FINALIZER;

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn job(spec: Value) -> Value {
    let mut job = object!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "j", "namespace": "ns", "uid": "job" },
        "spec": { "backoffLimit": 6, "completions": 1, "parallelism": 1, "template": { "metadata": { "labels": { "a": "b" } },
            "spec": { "restartPolicy": "Never", "containers": [{ "name": "c" }] } } } });
    for (key, value) in spec.as_map().unwrap().iter() {
        job.set(&["spec", key], value.clone());
    }
    job
}

fn pod(name: &str, phase: &str) -> Value {
    object!({ "metadata": { "name": name, "namespace": "ns", "uid": name, "finalizers": [FINALIZER], "creationTimestamp": "2026-01-01T00:00:00Z" },
        "status": { "phase": phase } })
}

fn indexed(name: &str, phase: &str, index: i64) -> Value {
    let mut pod = pod(name, phase);
    meta::set_annotation(&mut pod, "batch.kubernetes.io/job-completion-index", &index.to_string());
    pod
}

fn names(pods: &[Arc<Value>]) -> Vec<&str> {
    pods.iter().map(|p| meta::name(p)).collect()
}

/// Plans and applies the status and the loss of finalizers, until nothing changes.
fn settle(job: &mut Value, pods: &mut [Value]) -> Plan {
    for _ in 0..10 {
        let all: Vec<Arc<Value>> = pods.iter().cloned().map(Arc::new).collect();
        let plan = plan(job, &all, now());
        let same = job.get("status") == Some(&plan.status) && plan.strip.is_empty();
        job.set(&["status"], plan.status.clone());
        for stripped in &plan.strip {
            let pod = pods.iter_mut().find(|p| meta::uid(p) == meta::uid(stripped)).unwrap();
            meta::remove_finalizer(pod, FINALIZER);
        }
        if same {
            return plan;
        }
    }
    panic!("the plan never settles");
}

#[test]
fn a_finished_pod_is_noted_then_let_go_then_counted_once() {
    let mut job = job(object!({}));
    let mut done = pod("a", "Succeeded");
    let first = plan(&job, &[Arc::new(done.clone())], now());
    assert_eq!(first.status.list_at(&["uncountedTerminatedPods", "succeeded"]), [Value::from("a")]);
    assert_eq!((first.status.at(&["succeeded"]), names(&first.strip)), (None, vec!["a"]));
    assert!(meta::condition(&object!({ "status": (first.status.clone()) }), "SuccessCriteriaMet").is_some());
    job.set(&["status"], first.status);
    // The finalizer could not be removed: nothing is counted yet.
    let again = plan(&job, &[Arc::new(done.clone())], now());
    assert_eq!((again.status.at(&["succeeded"]), again.strip.len()), (None, 1));
    meta::remove_finalizer(&mut done, FINALIZER);
    let counted = plan(&job, &[Arc::new(done)], now());
    assert_eq!(counted.status.int_at(&["succeeded"]), Some(1));
    assert_eq!(counted.events[0].1, "Completed");
    assert_eq!(counted.status.str_at(&["completionTime"]), "2026-01-01T01:00:00Z");
}

#[test]
fn a_pod_that_vanished_after_it_was_noted_still_counts() {
    let mut job = job(object!({}));
    job.set(&["status"], object!({ "uncountedTerminatedPods": { "succeeded": ["a"] } }));
    let plan = plan(&job, &[], now());
    assert_eq!((plan.status.int_at(&["succeeded"]), plan.create.len()), (Some(1), 0));
}

#[test]
fn more_successes_than_asked_for_are_told_of() {
    let mut job = job(object!({}));
    let mut pods = [pod("a", "Succeeded"), pod("b", "Succeeded")];
    let mut told = Vec::new();
    for _ in 0..4 {
        let all: Vec<Arc<Value>> = pods.iter().cloned().map(Arc::new).collect();
        let plan = plan(&job, &all, now());
        job.set(&["status"], plan.status);
        pods.iter_mut().for_each(|pod| meta::remove_finalizer(pod, FINALIZER));
        told.extend(plan.events.into_iter().map(|event| event.1));
        if meta::condition_is_true(&job, "Complete") {
            break;
        }
    }
    assert_eq!(told, ["TooManySucceededPods", "Completed"]);
}

#[test]
fn no_more_pods_than_completions_are_left() {
    let job = job(object!({ "completions": 5, "parallelism": 3 }));
    assert_eq!(plan(&job, &[], now()).create.len(), 3);
    let mut nearly = job.clone();
    nearly.set(&["status", "succeeded"], 4);
    assert_eq!(plan(&nearly, &[], now()).create.len(), 1);
    let pods: Vec<_> = ["a", "b", "c", "d"].iter().map(|n| Arc::new(pod(n, "Running"))).collect();
    assert_eq!(plan(&job, &pods, now()).delete.len(), 1);
}

#[test]
fn a_work_queue_ends_with_the_last_pod_after_one_success() {
    let mut job = job(object!({ "completions": (Value::Null), "parallelism": 2 }));
    let mut pods = [pod("a", "Succeeded"), pod("b", "Running")];
    let plan = settle(&mut job, &mut pods);
    assert!(plan.create.is_empty() && meta::condition(&job, "Complete").is_none());
    pods[1].set(&["status", "phase"], "Succeeded");
    settle(&mut job, &mut pods);
    assert!(meta::condition_is_true(&job, "Complete"));
    assert_eq!(job.int_at(&["status", "succeeded"]), Some(2));
}

#[test]
fn failures_back_off_and_then_fail_the_job() {
    let mut recent = pod("a", "Failed");
    recent.set(
        &["status", "containerStatuses"],
        object!([{ "name": "c", "state": { "terminated": { "exitCode": 1, "finishedAt": "2026-01-01T00:59:56Z" } } }]),
    );
    let mut one = job(object!({}));
    let plan = settle(&mut one, &mut [recent]);
    assert_eq!((plan.create.len(), plan.requeue), (0, Some(Duration::from_secs(6))));
    let mut job = job(object!({ "backoffLimit": 1, "parallelism": 2, "completions": 4 }));
    let mut pods = [pod("a", "Failed"), pod("b", "Failed"), pod("c", "Running")];
    let plan = settle(&mut job, &mut pods);
    assert_eq!(names(&plan.delete), ["c"]);
    assert_eq!(meta::condition(&job, "FailureTarget").unwrap().str_at(&["reason"]), "BackoffLimitExceeded");
    assert!(meta::condition(&job, "Failed").is_none(), "a pod still runs");
    pods[2].set(&["metadata", "deletionTimestamp"], "2026-01-01T01:00:00Z");
    settle(&mut job, &mut pods);
    assert!(meta::condition(&job, "Failed").is_none(), "a pod still ends");
    pods[2].set(&["status", "phase"], "Failed");
    settle(&mut job, &mut pods);
    assert!(meta::condition_is_true(&job, "Failed"));
    assert_eq!(job.int_at(&["status", "failed"]), Some(3));
}

#[test]
fn restarts_count_where_containers_are_restarted() {
    let mut job = job(object!({ "backoffLimit": 2 }));
    job.set(&["spec", "template", "spec", "restartPolicy"], "OnFailure");
    let mut running = pod("a", "Running");
    running.set(&["status", "containerStatuses"], object!([{ "name": "c", "restartCount": 2 }]));
    assert_eq!(names(&plan(&job, &[Arc::new(running)], now()).delete), ["a"]);
}

#[test]
fn a_job_past_its_deadline_fails() {
    let mut late = job(object!({ "activeDeadlineSeconds": 60 }));
    late.set(&["status", "startTime"], "2026-01-01T00:00:00Z");
    settle(&mut late, &mut []);
    assert_eq!(meta::condition(&late, "Failed").unwrap().str_at(&["reason"]), "DeadlineExceeded");
    let in_time = plan(&job(object!({ "activeDeadlineSeconds": 60 })), &[], now());
    assert_eq!(in_time.requeue, Some(Duration::from_secs(60)));
}

#[test]
fn an_indexed_job_makes_each_index_once() {
    let mut job = job(object!({ "completions": 4, "parallelism": 3, "completionMode": "Indexed" }));
    let mut pods = [indexed("a", "Succeeded", 0), indexed("b", "Running", 1)];
    let plan = settle(&mut job, &mut pods);
    let made: Vec<&str> = plan.create.iter().map(|p| p.str_at(&["spec", "hostname"])).collect();
    assert_eq!(made, ["j-2", "j-3"]);
    let pod = &plan.create[0];
    assert_eq!(meta::label(pod, "batch.kubernetes.io/job-completion-index"), Some("2"));
    assert_eq!(pod.str_at(&["metadata", "generateName"]), "j-2-");
    let env = &pod.list_at(&["spec", "containers"])[0].list_at(&["env"])[0];
    assert_eq!(env.str_at(&["name"]), "JOB_COMPLETION_INDEX");
    assert_eq!(job.str_at(&["status", "completedIndexes"]), "0");
    assert_eq!(job.int_at(&["status", "succeeded"]), Some(1));
}

#[test]
fn pods_that_share_an_index_are_reduced_to_one() {
    let job = job(object!({ "completions": 2, "parallelism": 2, "completionMode": "Indexed" }));
    let pods = [indexed("a", "Running", 0), indexed("b", "Pending", 0)].map(Arc::new);
    assert_eq!(names(&plan(&job, &pods, now()).delete), ["b"]);
}

#[test]
fn each_index_has_its_own_limit_of_failures() {
    let spec =
        object!({ "completions": 2, "parallelism": 2, "completionMode": "Indexed", "backoffLimitPerIndex": 1, "backoffLimit": 2147483647 });
    let mut job = job(spec);
    let mut failed = indexed("a", "Failed", 0);
    meta::set_annotation(&mut failed, "batch.kubernetes.io/job-index-failure-count", "0");
    let mut pods = vec![failed.clone(), indexed("b", "Succeeded", 1)];
    let plan = settle(&mut job, &mut pods);
    assert_eq!(meta::annotation(&plan.create[0], "batch.kubernetes.io/job-index-failure-count"), Some("1"));
    assert!(meta::has_finalizer(&pods[0], FINALIZER), "the failed pod carries the count until it is replaced");
    let mut second = indexed("c", "Failed", 0);
    meta::set_annotation(&mut second, "batch.kubernetes.io/job-index-failure-count", "1");
    pods.push(second);
    settle(&mut job, &mut pods);
    assert_eq!(job.str_at(&["status", "failedIndexes"]), "0");
    assert_eq!(meta::condition(&job, "Failed").unwrap().str_at(&["reason"]), "FailedIndexes");
    assert_eq!(job.int_at(&["status", "failed"]), Some(2));
}

#[test]
fn ignored_failures_are_replaced_and_not_counted() {
    let rule = object!({ "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget", "status": "True" }] });
    let mut job = job(object!({ "backoffLimit": 0, "podFailurePolicy": { "rules": [rule] } }));
    let mut disrupted = pod("a", "Failed");
    disrupted.set(&["status", "conditions"], object!([{ "type": "DisruptionTarget", "status": "True" }]));
    let plan = settle(&mut job, &mut [disrupted]);
    assert_eq!((plan.create.len(), job.at(&["status", "failed"])), (1, None));
}

#[test]
fn a_success_policy_ends_the_job_and_its_other_pods() {
    let spec = object!({ "completions": 3, "parallelism": 3, "completionMode": "Indexed", "successPolicy": { "rules": [{ "succeededIndexes": "0" }] } });
    let mut job = job(spec);
    let mut pods = [indexed("a", "Succeeded", 0), indexed("b", "Running", 1)];
    assert_eq!(names(&settle(&mut job, &mut pods).delete), ["b"]);
    pods[1].set(&["metadata", "deletionTimestamp"], "2026-01-01T01:00:00Z");
    pods[1].set(&["status", "phase"], "Failed");
    settle(&mut job, &mut pods);
    assert_eq!(meta::condition(&job, "Complete").unwrap().str_at(&["reason"]), "SuccessPolicy");
}

#[test]
fn a_suspended_job_has_no_pods_and_starts_anew_when_resumed() {
    let mut job = job(object!({ "suspend": true }));
    job.set(&["status", "startTime"], "2026-01-01T00:00:00Z");
    let plan1 = plan(&job, &[Arc::new(pod("a", "Running"))], now());
    assert_eq!((names(&plan1.delete), plan1.status.at(&["startTime"])), (vec!["a"], None));
    assert_eq!(plan1.events[0].1, "Suspended");
    job.set(&["status"], plan1.status);
    job.set(&["spec", "suspend"], false);
    let plan2 = plan(&job, &[], now());
    assert_eq!((plan2.create.len(), plan2.status.str_at(&["startTime"])), (1, "2026-01-01T01:00:00Z"));
}

#[test]
fn a_terminating_pod_is_replaced_at_once_or_only_when_it_has_failed() {
    let mut ending = pod("a", "Running");
    ending.set(&["metadata", "deletionTimestamp"], "2026-01-01T00:00:00Z");
    let mut at_once = job(object!({}));
    assert_eq!(settle(&mut at_once, &mut [ending.clone()]).create.len(), 1);
    let mut later = job(object!({ "podReplacementPolicy": "Failed" }));
    let plan = settle(&mut later, &mut [ending]);
    assert_eq!((plan.create.len(), plan.status.int_at(&["terminating"])), (0, Some(1)));
}
