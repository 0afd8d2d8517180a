//! What a Job's pods and status should be. Finished pods are first written to the status by UID, then lose their finalizer,
//! then are counted: none is lost and none counts twice; see KEP-2307. Pure: the caller executes in the order of the fields.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fram_machinery::normalize::format_time;
use fram_machinery::{Value, meta, object};
use jiff::Timestamp;

use super::indexes::{self, Indexes};
use super::pod::{self, FINALIZER};
use super::policy::{self, Verdict};
use crate::pods;

/// At most so many UIDs wait in the status; see MaxUncountedPods.
const MOST_UNCOUNTED: usize = 500;
/// At most so many pods are created or deleted at once; see MaxPodCreateDeletePerSync.
const BURST: usize = 500;

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) status: Value,
    /// Pods whose finalizer goes once the status is written.
    pub(super) strip: Vec<Arc<Value>>,
    pub(super) delete: Vec<Arc<Value>>,
    pub(super) create: Vec<Value>,
    pub(super) events: Vec<Event>,
    pub(super) requeue: Option<Duration>,
}

/// Warning or not, reason and message.
pub(super) type Event = (bool, &'static str, String);

pub(crate) fn is_finished(job: &Value) -> bool {
    meta::condition_is_true(job, "Complete") || meta::condition_is_true(job, "Failed")
}

/// Only pods that have failed are replaced, not those that are about to end.
fn replaces_failed_only(job: &Value) -> bool {
    job.str_at(&["spec", "podReplacementPolicy"]) == "Failed" || job.at(&["spec", "podFailurePolicy"]).is_some_and(|p| !p.is_null())
}

fn has_failed(job: &Value, pod: &Value) -> bool {
    match pods::phase(pod) {
        "Failed" => true,
        "Succeeded" => false,
        // A pod that was deleted may never come to fail, its node being gone.
        _ => !replaces_failed_only(job) && meta::is_terminating(pod),
    }
}

fn is_suspended(job: &Value) -> bool {
    job.bool_at(&["spec", "suspend"]) == Some(true)
}

pub(super) fn plan(job: &Value, mine: &[Arc<Value>], now: Timestamp) -> Plan {
    let mut state = State::new(job, mine, now);
    state.fold_counted();
    state.note_start();
    state.note_succeeded();
    state.judge();
    state.note_failed();
    if state.finish.is_some() {
        let active = state.active.clone();
        state.plan.delete = active;
    } else if !meta::is_terminating(job) {
        state.scale();
    }
    state.strip();
    state.conclude();
    state.write_counts();
    state.plan
}

struct State<'a> {
    job: &'a Value,
    mine: &'a [Arc<Value>],
    now: Timestamp,
    text: String,
    active: Vec<Arc<Value>>,
    terminating: usize,
    /// UIDs that are in the status but not yet in the counts.
    uncounted_succeeded: BTreeSet<String>,
    uncounted_failed: BTreeSet<String>,
    counted_succeeded: i64,
    counted_failed: i64,
    completions: Option<i64>,
    indexed: bool,
    succeeded_indexes: Indexes,
    failed_indexes: Option<Indexes>,
    /// The condition towards which the Job ends: type, reason, message.
    finish: Option<(&'static str, String, String)>,
    plan: Plan,
}

impl<'a> State<'a> {
    fn new(job: &'a Value, mine: &'a [Arc<Value>], now: Timestamp) -> Self {
        let completions = job.int_at(&["spec", "completions"]);
        let uids = |list: &str| {
            let all = job.list_at(&["status", "uncountedTerminatedPods", list]);
            all.iter().filter_map(Value::as_str).map(String::from).collect()
        };
        let read = |field: &str| indexes::parse(job.str_at(&["status", field]), completions.unwrap_or(0));
        let per_index = job.at(&["spec", "backoffLimitPerIndex"]).is_some_and(|l| !l.is_null());
        Self {
            active: mine.iter().filter(|p| pods::is_active(p)).cloned().collect(),
            terminating: mine.iter().filter(|p| meta::is_terminating(p) && !pods::has_ended(p)).count(),
            uncounted_succeeded: uids("succeeded"),
            uncounted_failed: uids("failed"),
            counted_succeeded: job.int_at(&["status", "succeeded"]).unwrap_or(0),
            counted_failed: job.int_at(&["status", "failed"]).unwrap_or(0),
            indexed: job.str_at(&["spec", "completionMode"]) == "Indexed",
            succeeded_indexes: read("completedIndexes"),
            failed_indexes: per_index.then(|| read("failedIndexes")),
            plan: Plan { status: job.get("status").filter(|s| !s.is_null()).cloned().unwrap_or(object!({})), ..Default::default() },
            text: format_time(now, 0),
            finish: None,
            job,
            mine,
            now,
            completions,
        }
    }

    /// Pods that the controller still has to count or to let go.
    fn tracked(&self) -> impl Iterator<Item = &'a Arc<Value>> + use<'a> {
        self.mine.iter().filter(|p| meta::has_finalizer(p, FINALIZER))
    }

    /// UIDs whose pod has lost its finalizer, or is gone, become counts.
    fn fold_counted(&mut self) {
        let held: BTreeSet<&str> = self.tracked().map(|p| meta::uid(p)).collect();
        let before = (self.uncounted_succeeded.len(), self.uncounted_failed.len());
        self.uncounted_succeeded.retain(|uid| held.contains(uid.as_str()));
        self.uncounted_failed.retain(|uid| held.contains(uid.as_str()));
        self.counted_succeeded += (before.0 - self.uncounted_succeeded.len()) as i64;
        self.counted_failed += (before.1 - self.uncounted_failed.len()) as i64;
    }

    fn note_start(&mut self) {
        if self.plan.status.str_at(&["startTime"]).is_empty() && !is_suspended(self.job) {
            self.plan.status.set(&["startTime"], self.text.as_str());
        }
    }

    fn room(&self) -> usize {
        MOST_UNCOUNTED.saturating_sub(self.uncounted_succeeded.len() + self.uncounted_failed.len())
    }

    fn valid_index(&self, pod: &Value) -> Option<i64> {
        indexes::of(pod).filter(|i| self.completions.is_none_or(|c| *i < c))
    }

    fn note_succeeded(&mut self) {
        for pod in self.tracked().filter(|p| pods::phase(p) == "Succeeded") {
            if self.uncounted_failed.contains(meta::uid(pod)) {
                continue;
            }
            // An index says by itself that it is counted.
            if self.indexed {
                self.succeeded_indexes.extend(self.valid_index(pod));
            } else if self.room() > 0 {
                self.uncounted_succeeded.insert(meta::uid(pod).to_string());
            }
        }
    }

    fn succeeded(&self) -> i64 {
        if self.indexed { self.succeeded_indexes.len() as i64 } else { self.counted_succeeded + self.uncounted_succeeded.len() as i64 }
    }

    /// Pods that have failed and are not in the status yet.
    fn newly_failed(&self) -> Vec<&'a Arc<Value>> {
        let new = |p: &&Arc<Value>| has_failed(self.job, p) && !self.uncounted_failed.contains(meta::uid(p));
        let counts = |p: &&Arc<Value>| !self.indexed || self.valid_index(p).is_some();
        self.tracked().filter(new).filter(counts).filter(|p| policy::judge(self.job, p) != Verdict::Ignore).collect()
    }

    /// Whether the Job is to end, and how. Failure goes before success, except where success is noted already.
    fn judge(&mut self) {
        self.fail_indexes();
        let noted = |ty: &str| meta::condition(self.job, ty).filter(|c| c.str_at(&["status"]) == "True");
        let copy = |ty: &'static str, c: &Value| (ty, c.str_at(&["reason"]).to_string(), c.str_at(&["message"]).to_string());
        self.finish = noted("SuccessCriteriaMet").map(|c| copy("SuccessCriteriaMet", c));
        self.finish = self.finish.take().or_else(|| noted("FailureTarget").map(|c| copy("FailureTarget", c)));
        let found = self.finish.take();
        self.finish = found.or_else(|| self.failure().map(|(r, m)| ("FailureTarget", r.to_string(), m))).or_else(|| {
            let message = policy::success(self.job, &self.succeeded_indexes, self.completions?)?;
            Some(("SuccessCriteriaMet", "SuccessPolicy".into(), message))
        });
    }

    fn failure(&mut self) -> Option<(&'static str, String)> {
        let failed_by_policy = self.mine.iter().filter(|p| pods::phase(p) == "Failed").find_map(|p| match policy::judge(self.job, p) {
            Verdict::FailJob(message) => Some(message),
            _ => None,
        });
        if let Some(message) = failed_by_policy {
            return Some(("PodFailurePolicy", message));
        }
        let limit = self.job.int_at(&["spec", "backoffLimit"]).unwrap_or(6);
        let failed = self.counted_failed + self.uncounted_failed.len() as i64 + self.newly_failed().len() as i64;
        if failed > limit || self.restarted_too_often(limit) {
            return Some(("BackoffLimitExceeded", "Job has reached the specified backoff limit".into()));
        }
        if let (Some(seconds), false) = (self.job.int_at(&["spec", "activeDeadlineSeconds"]), is_suspended(self.job)) {
            // A Job that was resumed just now starts anew.
            let resumed = meta::condition_is_true(self.job, "Suspended");
            let start = if resumed { None } else { pods::time(&self.plan.status, &["startTime"]) }.unwrap_or(self.now);
            let left = start.as_second() + seconds - self.now.as_second();
            if left <= 0 {
                return Some(("DeadlineExceeded", "Job was active longer than specified deadline".into()));
            }
            self.after(Duration::from_secs(left.unsigned_abs()));
        }
        let failed = self.failed_indexes.as_ref()?.len() as i64;
        if self.job.int_at(&["spec", "maxFailedIndexes"]).is_some_and(|most| failed > most) {
            return Some(("MaxFailedIndexesExceeded", "Job has exceeded the specified maximal number of failed indexes".into()));
        }
        let all = failed > 0 && failed + self.succeeded_indexes.len() as i64 >= self.completions.unwrap_or(0);
        all.then(|| ("FailedIndexes", "Job has failed indexes".into()))
    }

    fn after(&mut self, delay: Duration) {
        self.plan.requeue = Some(self.plan.requeue.map_or(delay, |d| d.min(delay)));
    }

    /// With restart policy OnFailure the containers' restarts count.
    fn restarted_too_often(&self, limit: i64) -> bool {
        if self.job.str_at(&["spec", "template", "spec", "restartPolicy"]) != "OnFailure" {
            return false;
        }
        let running = self.mine.iter().filter(|p| matches!(pods::phase(p), "Running" | "Pending"));
        let statuses =
            |p: &'a Arc<Value>| ["initContainerStatuses", "containerStatuses"].into_iter().flat_map(|l| p.list_at(&["status", l]));
        let restarts: i64 = running.flat_map(statuses).filter_map(|s| s.int_at(&["restartCount"])).sum();
        if limit == 0 { restarts > 0 } else { restarts >= limit }
    }

    /// Indexes that have used up their own limit.
    fn fail_indexes(&mut self) {
        let Some(mut failed) = self.failed_indexes.take() else { return };
        let limit = self.job.int_at(&["spec", "backoffLimitPerIndex"]).unwrap_or(0);
        for pod in self.tracked().filter(|p| has_failed(self.job, p)) {
            let Some(index) = self.valid_index(pod).filter(|i| !self.succeeded_indexes.contains(i)) else { continue };
            if policy::judge(self.job, pod) == Verdict::FailIndex || pod::index_failures(self.job, pod).0 > limit {
                failed.insert(index);
            }
        }
        self.failed_indexes = Some(failed);
    }

    fn note_failed(&mut self) {
        let failing = self.finish.as_ref().is_some_and(|f| f.0 == "FailureTarget");
        let delayed = self.delayed();
        let is_delayed = |p: &Value| delayed.values().any(|d| meta::uid(d) == meta::uid(p));
        let mut new: Vec<&Arc<Value>> = self.newly_failed();
        new.retain(|p| self.finish.is_some() || !is_delayed(p));
        if failing {
            // What is ended by the Job's failure has failed.
            let ending = self.tracked().filter(|p| meta::is_terminating(p) && !pods::has_ended(p) && !has_failed(self.job, p));
            new.extend(ending);
        }
        for pod in new.into_iter().take(self.room()) {
            self.uncounted_failed.insert(meta::uid(pod).to_string());
        }
    }

    fn indexes_of(&self, pods: &[Arc<Value>]) -> Indexes {
        pods.iter().filter_map(|p| indexes::of(p)).collect()
    }

    /// With a limit for each index: the last failed pod of an index that is to get another one. It keeps its finalizer until
    /// then, since it carries the index's count of failures.
    fn delayed(&self) -> BTreeMap<i64, Arc<Value>> {
        let Some(failed) = &self.failed_indexes else { return BTreeMap::new() };
        let active = self.indexes_of(&self.active);
        let mut out: BTreeMap<i64, Arc<Value>> = BTreeMap::new();
        for pod in self.tracked().filter(|p| has_failed(self.job, p)) {
            let Some(index) = self.valid_index(pod) else { continue };
            if self.succeeded_indexes.contains(&index) || failed.contains(&index) || active.contains(&index) {
                continue;
            }
            let rank = |p: &Value| (pod::index_failures(self.job, p), pod::finished_at(p));
            if out.get(&index).is_none_or(|other| rank(other) <= rank(pod)) {
                out.insert(index, pod.clone());
            }
        }
        out
    }

    /// As many pods as may run at once and are still needed.
    fn scale(&mut self) {
        let active = self.active.len();
        if is_suspended(self.job) {
            self.plan.delete = self.active.clone();
            self.note_suspension();
            return;
        }
        self.note_suspension();
        let parallelism = usize::try_from(self.job.int_at(&["spec", "parallelism"]).unwrap_or(1)).unwrap_or(0);
        let wanted = match self.completions {
            // One success ends a Job without completions; what runs then runs on.
            None if self.succeeded() > 0 => active,
            None => parallelism,
            Some(c) => usize::try_from(c - self.succeeded()).unwrap_or(0).min(parallelism),
        };
        self.plan.delete = self.surplus(active.saturating_sub(wanted));
        if !self.plan.delete.is_empty() {
            return;
        }
        let ending = if replaces_failed_only(self.job) { self.terminating } else { 0 };
        let missing = wanted.saturating_sub(active + ending).min(BURST);
        if missing > 0 {
            self.create(missing);
        }
    }

    fn create(&mut self, missing: usize) {
        if self.failed_indexes.is_none() {
            let (failures, last) = pod::recent_failures(self.mine, |p| has_failed(self.job, p));
            if let Some(delay) = pod::backoff(failures, last, self.now) {
                self.after(delay);
                return;
            }
        }
        if !self.indexed {
            self.plan.create = vec![pod::new_pod(self.job, None, None); missing];
            return;
        }
        let delayed = self.delayed();
        let mut taken = self.indexes_of(&self.active);
        taken.extend(&self.succeeded_indexes);
        taken.extend(self.failed_indexes.iter().flatten());
        if replaces_failed_only(self.job) {
            taken.extend(self.mine.iter().filter(|p| meta::is_terminating(p) && !pods::has_ended(p)).filter_map(|p| indexes::of(p)));
        }
        for index in (0..self.completions.unwrap_or(0)).filter(|i| !taken.contains(i)).take(missing) {
            let failed = delayed.get(&index).map(|p| &**p);
            if let Some(failed) = failed {
                let (counted, ignored) = pod::index_failures(self.job, failed);
                let failures = usize::try_from(counted + ignored).unwrap_or(0);
                if let Some(delay) = pod::backoff(failures, pod::finished_at(failed), self.now) {
                    self.after(delay);
                    continue;
                }
            }
            self.plan.create.push(pod::new_pod(self.job, Some(index), failed));
        }
    }

    /// Pods to delete: those without a use for their index first, then those that cost least.
    fn surplus(&self, at_least: usize) -> Vec<Arc<Value>> {
        let mut order = pods::first_to_go(&self.active, &self.active, self.now);
        let mut out = Vec::new();
        if self.indexed {
            let mut kept = Indexes::new();
            // The best pod of an index comes last and keeps it.
            for i in (0..order.len()).rev() {
                let done = |x: &i64| self.succeeded_indexes.contains(x) || self.failed_indexes.as_ref().is_some_and(|f| f.contains(x));
                if !self.valid_index(&order[i]).is_some_and(|x| !done(&x) && kept.insert(x)) {
                    out.push(order.remove(i));
                }
            }
        }
        let more = at_least.saturating_sub(out.len());
        out.extend(order.into_iter().take(more));
        out.truncate(BURST);
        out
    }

    fn note_suspension(&mut self) {
        let noted = meta::condition(self.job, "Suspended").map(|c| c.str_at(&["status"]) == "True");
        match (is_suspended(self.job), noted) {
            (true, None | Some(false)) => {
                pods::set_condition(&mut self.plan.status, "Suspended", "True", "JobSuspended", "Job suspended", &self.text);
                self.plan.status.remove(&["startTime"]);
                self.plan.events.push((false, "Suspended", "Job suspended".into()));
            }
            (false, Some(true)) => {
                pods::set_condition(&mut self.plan.status, "Suspended", "False", "JobResumed", "Job resumed", &self.text);
                self.plan.status.set(&["startTime"], self.text.as_str());
                self.plan.events.push((false, "Resumed", "Job resumed".into()));
            }
            _ => {}
        }
    }

    /// The finalizer goes from pods that the status accounts for, and from those that need no account.
    fn strip(&mut self) {
        let delayed = self.delayed();
        let ending = meta::is_terminating(self.job);
        let finishing = self.finish.is_some();
        let goes = |p: &&Arc<Value>| {
            let uid = meta::uid(p);
            let invalid = self.indexed && self.valid_index(p).is_none();
            match pods::phase(p) {
                "Succeeded" => self.indexed || self.uncounted_succeeded.contains(uid) || self.uncounted_failed.contains(uid),
                _ if has_failed(self.job, p) => {
                    let held = delayed.values().any(|d| meta::uid(d) == uid) && !finishing;
                    let ignored = policy::judge(self.job, p) == Verdict::Ignore;
                    (!held || ending) && (self.uncounted_failed.contains(uid) || ignored || invalid || ending)
                }
                _ => ending || finishing && meta::is_terminating(p),
            }
        };
        self.plan.strip = self.tracked().filter(goes).cloned().collect();
    }

    /// Notes towards which end the Job goes, and ends it when nothing runs any more and all is counted.
    fn conclude(&mut self) {
        let idle = self.active.is_empty() && self.plan.create.is_empty();
        let complete = match self.completions {
            None => self.succeeded() > 0 && self.active.is_empty(),
            Some(c) => self.succeeded() >= c && idle,
        };
        if self.finish.is_none() && complete && !meta::is_terminating(self.job) {
            let message = "Reached expected number of succeeded pods".to_string();
            self.finish = Some(("SuccessCriteriaMet", "CompletionsReached".into(), message));
        }
        let Some((ty, reason, message)) = self.finish.clone() else { return };
        pods::set_condition(&mut self.plan.status, ty, "True", &reason, &message, &self.text);
        let all_counted = self.uncounted_succeeded.is_empty() && self.uncounted_failed.is_empty() && self.tracked().next().is_none();
        if !self.active.is_empty() || self.terminating > 0 || !all_counted {
            return;
        }
        if ty == "FailureTarget" {
            pods::set_condition(&mut self.plan.status, "Failed", "True", &reason, &message, &self.text);
            self.plan.events.push((true, reason_name(&reason), message));
        } else {
            pods::set_condition(&mut self.plan.status, "Complete", "True", &reason, &message, &self.text);
            self.plan.status.set(&["completionTime"], self.text.as_str());
            if self.completions.is_some_and(|c| self.succeeded() > c) {
                let about = "Too many succeeded pods running after completion count reached";
                self.plan.events.push((true, "TooManySucceededPods", about.into()));
            }
            self.plan.events.push((false, "Completed", "Job completed".into()));
        }
    }

    fn write_counts(&mut self) {
        let ready = self.active.iter().filter(|p| pods::is_ready(p)).count() as i64;
        let succeeded = if self.indexed { self.succeeded_indexes.len() as i64 } else { self.counted_succeeded };
        let status = &mut self.plan.status;
        for (field, n) in [("active", self.active.len() as i64), ("succeeded", succeeded), ("failed", self.counted_failed)] {
            if n == 0 {
                status.remove(&[field]);
            } else {
                status.set(&[field], n);
            }
        }
        status.set(&["ready"], ready);
        status.set(&["terminating"], self.terminating as i64);
        if self.indexed {
            match self.succeeded_indexes.is_empty() {
                true => drop(status.remove(&["completedIndexes"])),
                false => status.set(&["completedIndexes"], indexes::format(&self.succeeded_indexes)),
            }
        }
        if let Some(failed) = &self.failed_indexes {
            status.set(&["failedIndexes"], indexes::format(failed));
        }
        let mut uncounted = object!({});
        for (field, uids) in [("succeeded", &self.uncounted_succeeded), ("failed", &self.uncounted_failed)] {
            if !uids.is_empty() {
                uncounted.set(&[field], uids.iter().map(|u| Value::from(u.as_str())).collect::<Vec<_>>());
            }
        }
        status.set(&["uncountedTerminatedPods"], uncounted);
    }
}

/// Events carry the failure's reason.
fn reason_name(reason: &str) -> &'static str {
    let known = ["PodFailurePolicy", "BackoffLimitExceeded", "DeadlineExceeded", "MaxFailedIndexesExceeded", "FailedIndexes"];
    known.into_iter().find(|r| *r == reason).unwrap_or("Failed")
}
