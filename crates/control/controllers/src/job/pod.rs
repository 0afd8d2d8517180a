//! Pods of a Job: how they are made, when they ended, and how long their failures hold up the next one. Pure.

use std::sync::Arc;
use std::time::Duration;

use fram_machinery::{Value, meta, object};
use jiff::Timestamp;

use super::indexes;
use super::policy::{Verdict, judge};
use crate::pods;

pub(super) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const JOB_NAME: &str = "batch.kubernetes.io/job-name";
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
const ENV: &str = "JOB_COMPLETION_INDEX";
/// What the server leaves of a generateName.
const LONGEST_BASE: usize = 58;

const FIRST_BACKOFF: Duration = Duration::from_secs(10);
const LAST_BACKOFF: Duration = Duration::from_secs(600);

/// The key of the Job that a pod was of that still carries its finalizer and has no controller any more. See syncOrphanPod.
pub(super) fn left_behind(pod: &Value) -> Option<String> {
    let is_one = meta::controller_of(pod).is_none() && meta::has_finalizer(pod, FINALIZER);
    is_one.then(|| format!("{}/{}", meta::namespace(pod), meta::label(pod, JOB_NAME).unwrap_or_default()))
}

/// When a pod ended: by its containers, its Ready condition, its deletion, or at least not before it was made.
pub(super) fn finished_at(pod: &Value) -> Timestamp {
    let terminated = |s: &Value| pods::time(s, &["state", "terminated", "finishedAt"]);
    // Sidecars end last.
    let is_sidecar = |s: &&Value| {
        let named = |c: &&Value| c.str_at(&["name"]) == s.str_at(&["name"]);
        pod.list_at(&["spec", "initContainers"]).iter().find(named).is_some_and(|c| c.str_at(&["restartPolicy"]) == "Always")
    };
    let sidecars = pod.list_at(&["status", "initContainerStatuses"]).iter().filter(is_sidecar);
    let all: Option<Vec<Timestamp>> = pod.list_at(&["status", "containerStatuses"]).iter().chain(sidecars).map(terminated).collect();
    let by_containers = all.and_then(|times| times.into_iter().max());
    let by_condition =
        || meta::condition(pod, "Ready").filter(|c| c.str_at(&["status"]) == "False").and_then(|c| pods::time(c, &["lastTransitionTime"]));
    let by_deletion = || {
        let grace = pod.int_at(&["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0);
        Some(pods::time(pod, &["metadata", "deletionTimestamp"])? - jiff::SignedDuration::from_secs(grace))
    };
    by_containers.or_else(by_condition).or_else(by_deletion).or_else(|| pods::created(pod)).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// How long to wait after so many failures in a row, the last of them then.
pub(super) fn backoff(failures: usize, last: Timestamp, now: Timestamp) -> Option<Duration> {
    let doublings = u32::try_from(failures.checked_sub(1)?).unwrap_or(u32::MAX).min(10);
    let delay = (FIRST_BACKOFF * 2u32.pow(doublings)).min(LAST_BACKOFF);
    let passed = Duration::try_from(now.duration_since(last)).unwrap_or_default();
    delay.checked_sub(passed).filter(|d| !d.is_zero())
}

/// The failures since the last success among pods, and when the last was.
pub(super) fn recent_failures(mine: &[Arc<Value>], failed: impl Fn(&Value) -> bool) -> (usize, Timestamp) {
    let success = mine.iter().filter(|p| pods::phase(p) == "Succeeded").map(|p| finished_at(p)).max();
    let since = mine.iter().filter(|p| failed(p)).map(|p| finished_at(p)).filter(|t| success.is_none_or(|s| *t > s));
    let times: Vec<Timestamp> = since.collect();
    (times.len(), times.into_iter().max().unwrap_or(Timestamp::UNIX_EPOCH))
}

fn count(pod: &Value, annotation: &str) -> i64 {
    meta::annotation(pod, annotation).and_then(|c| c.parse().ok()).unwrap_or(0)
}

/// How often an index has failed when this pod of it has: those that count, and those that a policy ignores.
pub(super) fn index_failures(job: &Value, failed: &Value) -> (i64, i64) {
    let (counted, ignored) = (count(failed, FAILURES), count(failed, IGNORED));
    match judge(job, failed) {
        Verdict::Ignore => (counted, ignored + 1),
        _ => (counted + 1, ignored),
    }
}

/// A pod for an index, or for none; `failed` is the last pod of that index where failures are counted by index.
pub(super) fn new_pod(job: &Value, index: Option<i64>, failed: Option<&Value>) -> Value {
    let mut pod = pods::from_template(job, job.at(&["spec", "template"]));
    meta::add_finalizer(&mut pod, FINALIZER);
    let Some(index) = index else { return pod };
    let text = index.to_string();
    meta::set_annotation(&mut pod, indexes::INDEX, &text);
    meta::set_label(&mut pod, indexes::INDEX, &text);
    let name = meta::name(job);
    pod.set(&["spec", "hostname"], format!("{name}-{index}"));
    let suffix = format!("-{index}-");
    let most = LONGEST_BASE - suffix.len();
    pod.set(&["metadata", "generateName"], format!("{}{suffix}", name.get(..most.min(name.len())).unwrap_or(name)));
    if job.at(&["spec", "backoffLimitPerIndex"]).is_some_and(|l| !l.is_null()) {
        let (counted, ignored) = failed.map_or((0, 0), |f| index_failures(job, f));
        meta::set_annotation(&mut pod, FAILURES, &counted.to_string());
        if ignored > 0 {
            meta::set_annotation(&mut pod, IGNORED, &ignored.to_string());
        }
    }
    for list in ["initContainers", "containers"] {
        if pod.at(&["spec", list]).is_some_and(|l| !l.is_empty()) {
            pod.place(&["spec", list]).make_list().make_mut().iter_mut().for_each(add_env);
        }
    }
    pod
}

fn add_env(container: &mut Value) {
    if container.list_at(&["env"]).iter().any(|e| e.str_at(&["name"]) == ENV) {
        return;
    }
    let path = format!("metadata.labels['{}']", indexes::INDEX);
    // Every field that the server would default is given, so that the pod compares equal to what is stored.
    let env = object!({ "name": ENV, "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": path } } });
    container.place(&["env"]).make_list().push(env);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_has_ended_with_the_last_of_its_containers_and_sidecars() {
        let ended = |name: &str, at: &str| object!({ "name": name, "state": { "terminated": { "exitCode": 0, "finishedAt": at } } });
        let pod = |sidecar: Value| {
            let init = object!([{ "name": "first" }, { "name": "sidecar", "restartPolicy": "Always" }]);
            object!({ "metadata": { "creationTimestamp": "2026-01-01T00:00:00Z" }, "spec": { "initContainers": init },
                "status": { "containerStatuses": [(ended("main", "2026-01-01T00:01:00Z"))],
                    "initContainerStatuses": [(ended("first", "2026-01-01T00:09:00Z")), sidecar] } })
        };
        let at = |sidecar: Value| finished_at(&pod(sidecar)).to_string();
        assert_eq!(at(ended("sidecar", "2026-01-01T00:02:00Z")), "2026-01-01T00:02:00Z");
        assert_eq!(at(object!({ "name": "sidecar", "state": { "running": {} } })), "2026-01-01T00:00:00Z");
    }
}
