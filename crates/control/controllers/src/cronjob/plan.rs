//! Which Job a CronJob starts now, which of its old ones go, and when to look again. Pure.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use fram_machinery::normalize::format_time;
use fram_machinery::{Value, meta, object};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::schedule::Schedule;
use crate::job::is_finished;
use crate::pods::{created, time};

const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// A little late is better than a little early; see nextScheduleTimeDuration.
const SLACK: Duration = Duration::from_millis(100);
/// Nobody tells that the clock was set, as it is when a machine without a battery hears of the time: the next start is not waited for
/// longer than this without a look at the clock.
const LOOK: Duration = Duration::from_secs(600);
/// More missed starts than these are worth a warning.
const MANY: usize = 100;

pub(super) type Event = (bool, &'static str, String);

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) delete: Vec<Arc<Value>>,
    pub(super) create: Option<Value>,
    /// The status without the Job that is to be made.
    pub(super) status: Value,
    pub(super) events: Vec<Event>,
    pub(super) requeue: Option<Duration>,
}

/// The time whose Job this is.
pub(super) fn scheduled(job: &Value) -> Option<Timestamp> {
    time(job, &["metadata", "annotations", SCHEDULED])
}

pub(super) fn plan(cron: &Value, jobs: &[Arc<Value>], now: Timestamp) -> Plan {
    let mut plan = Plan { status: cron.get("status").filter(|s| !s.is_null()).cloned().unwrap_or(object!({})), ..Default::default() };
    plan.delete = surplus(cron, jobs);
    account(&mut plan, cron, jobs);
    if meta::is_terminating(cron) || cron.bool_at(&["spec", "suspend"]) == Some(true) {
        return plan;
    }
    let zone = match cron.at(&["spec", "timeZone"]).and_then(Value::as_str) {
        None => TimeZone::UTC,
        Some(name) => match TimeZone::get(name) {
            Ok(zone) => zone,
            Err(_) => {
                plan.events.push((true, "UnknownTimeZone", format!("invalid timeZone: {name:?}: unknown time zone {name}")));
                return plan;
            }
        },
    };
    let text = cron.str_at(&["spec", "schedule"]);
    match Schedule::parse(text).map(|schedule| (schedule.next(now, &zone), schedule)) {
        // The 31st of February is well written and never comes.
        Ok((None, _)) => {
            let about = format!("invalid schedule: {text} : time difference between two schedules is less than 1 second");
            plan.events.push((true, "InvalidSchedule", about));
        }
        Ok((Some(next), schedule)) => {
            start(&mut plan, cron, jobs, &schedule, &zone, now);
            let wait = Duration::try_from(next.duration_since(now)).unwrap_or_default() + SLACK;
            plan.requeue = Some(wait.min(LOOK));
        }
        Err(error) => plan.events.push((true, "UnparseableSchedule", format!("unparseable schedule: {text:?} : {error}"))),
    }
    plan
}

/// The status lists the Jobs that run, and no others.
fn account(plan: &mut Plan, cron: &Value, jobs: &[Arc<Value>]) {
    let listed = |uid: &str| cron.list_at(&["status", "active"]).iter().any(|r| r.str_at(&["uid"]) == uid);
    let mut active: Vec<Value> = Vec::new();
    for reference in cron.list_at(&["status", "active"]) {
        match jobs.iter().find(|j| meta::uid(j) == reference.str_at(&["uid"])) {
            Some(job) if !is_finished(job) => active.push(reference.clone()),
            Some(job) => {
                let end = if meta::condition_is_true(job, "Complete") { "Complete" } else { "Failed" };
                plan.events.push((false, "SawCompletedJob", format!("Saw completed job: {}, condition: {end}", meta::name(job))));
            }
            None => plan.events.push((false, "MissingJob", format!("Active job went missing: {}", reference.str_at(&["name"])))),
        }
    }
    for job in jobs.iter().filter(|j| !is_finished(j) && !listed(meta::uid(j))) {
        // It was made just before this controller stopped, or by someone else.
        let about = format!("Saw a job that the controller did not create or forgot: {}", meta::name(job));
        plan.events.push((true, "UnexpectedJob", about));
    }
    let succeeded =
        jobs.iter().filter(|j| meta::condition_is_true(j, "Complete")).filter_map(|j| time(j, &["status", "completionTime"])).max();
    if let Some(last) = succeeded.filter(|t| time(&plan.status, &["lastSuccessfulTime"]).is_none_or(|known| *t > known)) {
        plan.status.set(&["lastSuccessfulTime"], format_time(last, 0));
    }
    match active.is_empty() {
        true => drop(plan.status.remove(&["active"])),
        false => plan.status.set(&["active"], active),
    }
}

fn start(plan: &mut Plan, cron: &Value, jobs: &[Arc<Value>], schedule: &Schedule, zone: &TimeZone, now: Timestamp) {
    let known = time(cron, &["status", "lastScheduleTime"]).or_else(|| created(cron)).unwrap_or(now);
    let deadline = cron.int_at(&["spec", "startingDeadlineSeconds"]);
    let bound = deadline.and_then(|s| Timestamp::from_second(now.as_second() - s).ok());
    let earliest = bound.map_or(known, |b| b.max(known));
    if earliest > now {
        return;
    }
    let Some(at) = schedule.most_recent(earliest, now, zone) else { return };
    if deadline.is_none() && is_many(schedule, earliest, now, zone) {
        let about = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan.events.push((true, "TooManyMissedTimes", about.into()));
    }
    let name = format!("{}-{}", meta::name(cron), at.as_second() / 60);
    let started = jobs.iter().find(|j| meta::name(j) == name);
    if started.is_some() || time(cron, &["status", "lastScheduleTime"]) == Some(at) {
        // Made already, though the status did not come to say so.
        plan.status.set(&["lastScheduleTime"], format_time(at, 0));
        let listed = |job: &Value| plan.status.list_at(&["active"]).iter().any(|r| r.str_at(&["uid"]) == meta::uid(job));
        if let Some(job) = started.filter(|job| !is_finished(job) && !listed(job)) {
            plan.status.place(&["active"]).make_list().push(reference(job));
        }
        return;
    }
    let running: Vec<&Arc<Value>> = jobs.iter().filter(|j| !is_finished(j)).collect();
    match cron.str_at(&["spec", "concurrencyPolicy"]) {
        "Forbid" if !running.is_empty() => {
            let about = "Not starting job because prior execution is running and concurrency policy is Forbid";
            plan.events.push((false, "JobAlreadyActive", about.into()));
            return;
        }
        "Replace" => {
            plan.delete.extend(running.into_iter().cloned());
            plan.status.remove(&["active"]);
        }
        _ => {}
    }
    plan.create = Some(job(cron, &name, at, zone));
    plan.status.set(&["lastScheduleTime"], format_time(at, 0));
}

/// How the status names a Job that runs.
pub(super) fn reference(job: &Value) -> Value {
    object!({ "apiVersion": "batch/v1", "kind": "Job", "name": (meta::name(job)), "namespace": (meta::namespace(job)),
        "uid": (meta::uid(job)), "resourceVersion": (meta::resource_version(job)) })
}

fn is_many(schedule: &Schedule, earliest: Timestamp, now: Timestamp, zone: &TimeZone) -> bool {
    let mut at = earliest;
    for _ in 0..=MANY {
        match schedule.next(at, zone).filter(|t| *t <= now) {
            Some(next) => at = next,
            None => return false,
        }
    }
    true
}

fn job(cron: &Value, name: &str, at: Timestamp, zone: &TimeZone) -> Value {
    let template = cron.at(&["spec", "jobTemplate"]).cloned().unwrap_or_default();
    let mut job = object!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name, "namespace": (meta::namespace(cron)) } });
    for field in ["labels", "annotations"] {
        if let Some(value) = template.at(&["metadata", field]).filter(|v| !v.is_empty()) {
            job.set(&["metadata", field], value.clone());
        }
    }
    let local = at.to_zoned(zone.clone());
    let text = match zone == &TimeZone::UTC {
        true => format_time(at, 0),
        false => local.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
    };
    meta::set_annotation(&mut job, SCHEDULED, &text);
    job.set(&["metadata", "ownerReferences"], object!([(meta::controller_reference(cron))]));
    job.set(&["spec"], template.get("spec").cloned());
    job
}

/// Finished Jobs beyond the limits, the oldest first.
fn surplus(cron: &Value, jobs: &[Arc<Value>]) -> Vec<Arc<Value>> {
    let mut out = Vec::new();
    for (condition, field, default) in [("Complete", "successfulJobsHistoryLimit", 3), ("Failed", "failedJobsHistoryLimit", 1)] {
        let limit = usize::try_from(cron.int_at(&["spec", field]).unwrap_or(default)).unwrap_or(0);
        let mut ended: Vec<&Arc<Value>> =
            jobs.iter().filter(|j| meta::condition_is_true(j, condition) && !meta::is_terminating(j)).collect();
        ended.sort_by_cached_key(|j| Reverse((time(j, &["status", "startTime"]), meta::name(j).to_string())));
        out.extend(ended.into_iter().skip(limit).rev().cloned());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cron(spec: Value) -> Value {
        let mut cron = object!({ "apiVersion": "batch/v1", "kind": "CronJob",
            "metadata": { "name": "c", "namespace": "ns", "uid": "cron", "creationTimestamp": "2026-01-01T00:00:30Z" },
            "spec": { "schedule": "*/10 * * * *", "jobTemplate": { "spec": { "template": {} } } } });
        for (key, value) in spec.as_map().unwrap().iter() {
            cron.set(&["spec", key], value.clone());
        }
        cron
    }

    fn job_of(name: &str, end: Option<&str>, started: &str) -> Arc<Value> {
        let mut job = object!({ "metadata": { "name": name, "uid": name }, "status": { "startTime": started } });
        if let Some(end) = end {
            job.set(&["status", "conditions"], object!([{ "type": end, "status": "True" }]));
            job.set(&["status", "completionTime"], started);
        }
        Arc::new(job)
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_job_is_started_for_the_last_time_that_has_come() {
        let early = plan(&cron(object!({})), &[], at("2026-01-01T00:05:00Z"));
        assert_eq!((early.create.is_none(), early.requeue), (true, Some(Duration::from_millis(300_100))));
        let plan = plan(&cron(object!({})), &[], at("2026-01-01T00:25:00Z"));
        let job = plan.create.unwrap();
        assert_eq!(meta::name(&job), "c-29453780");
        assert_eq!(meta::annotation(&job, SCHEDULED), Some("2026-01-01T00:20:00Z"));
        assert_eq!(plan.status.str_at(&["lastScheduleTime"]), "2026-01-01T00:20:00Z");
    }

    #[test]
    fn a_time_zone_shows_in_the_annotation() {
        let plan = plan(&cron(object!({ "timeZone": "Asia/Tokyo" })), &[], at("2026-01-01T00:25:00Z"));
        assert_eq!(meta::annotation(&plan.create.unwrap(), SCHEDULED), Some("2026-01-01T09:20:00+09:00"));
        assert_eq!(super::plan(&cron(object!({ "timeZone": "Moon/Sea" })), &[], at("2026-01-01T00:25:00Z")).events[0].1, "UnknownTimeZone");
    }

    #[test]
    fn a_time_that_never_comes_is_told_of() {
        let plan = plan(&cron(object!({ "schedule": "59 23 31 2 *" })), &[], at("2026-01-01T00:25:00Z"));
        let about = "invalid schedule: 59 23 31 2 * : time difference between two schedules is less than 1 second";
        assert_eq!(plan.events, [(true, "InvalidSchedule", about.to_string())]);
        assert_eq!((plan.create.is_none(), plan.requeue), (true, None));
    }

    #[test]
    fn a_start_that_is_too_late_is_left_out() {
        let cron = cron(object!({ "startingDeadlineSeconds": 60 }));
        assert!(plan(&cron, &[], at("2026-01-01T00:20:30Z")).create.is_some());
        assert!(plan(&cron, &[], at("2026-01-01T00:25:00Z")).create.is_none());
    }

    #[test]
    fn the_same_time_starts_one_job_even_if_the_status_was_lost() {
        let made = job_of("c-29453780", None, "2026-01-01T00:20:00Z");
        let plan = plan(&cron(object!({})), &[made], at("2026-01-01T00:25:00Z"));
        assert_eq!((plan.create.is_none(), plan.status.str_at(&["lastScheduleTime"])), (true, "2026-01-01T00:20:00Z"));
        let active: Vec<&str> = plan.status.list_at(&["active"]).iter().map(|r| r.str_at(&["name"])).collect();
        assert_eq!(active, ["c-29453780"], "and it is listed, so that its end is seen");
        let ended = job_of("c-29453780", Some("Complete"), "2026-01-01T00:20:00Z");
        assert!(super::plan(&cron(object!({})), &[ended], at("2026-01-01T00:25:00Z")).status.get("active").is_none());
    }

    #[test]
    fn the_concurrency_policy_decides_about_a_job_that_still_runs() {
        let running = [job_of("c-1", None, "2026-01-01T00:10:00Z")];
        let run = |policy: &str| plan(&cron(object!({ "concurrencyPolicy": policy })), &running, at("2026-01-01T00:25:00Z"));
        let decided = |policy: &str| (run(policy).create.is_some(), run(policy).delete.len());
        assert_eq!((decided("Allow"), decided("Forbid"), decided("Replace")), ((true, 0), (false, 0), (true, 1)));
    }

    #[test]
    fn old_jobs_beyond_the_limits_go_and_the_last_success_is_noted() {
        let jobs: Vec<_> = (0..5).map(|i| job_of(&format!("s{i}"), Some("Complete"), &format!("2026-01-01T00:0{i}:00Z"))).collect();
        let plan = plan(&cron(object!({ "suspend": true })), &jobs, at("2026-01-01T00:25:00Z"));
        let gone: Vec<&str> = plan.delete.iter().map(|j| meta::name(j)).collect();
        assert_eq!((gone, plan.status.str_at(&["lastSuccessfulTime"])), (vec!["s0", "s1"], "2026-01-01T00:04:00Z"));
    }
}
