//! What controllers count beside their queues, in upstream's words (the metrics of pkg/controller/job, cronjob and nodelifecycle).

mod inventory;
mod others;

use std::cmp::Ordering;
use std::time::Duration;

use fram_machinery::{Value, meta};
use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::endpoint_slice::figures::Figures;
use inventory::Inventory;
use others::Others;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Sync {
    completion_mode: &'static str,
    result: &'static str,
    action: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PodsFinished {
    completion_mode: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct JobFinished {
    completion_mode: &'static str,
    result: &'static str,
    reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Action {
    action: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Scaled {
    action: &'static str,
    error: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Computed {
    #[prometheus(flatten)]
    scaled: Scaled,
    metric_type: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Zone {
    zone: String,
}

impl Scaled {
    fn of(way: Result<Ordering, &'static str>) -> Self {
        let action = match way {
            Ok(Ordering::Greater) => "scale_up",
            Ok(Ordering::Less) => "scale_down",
            _ => "none",
        };
        Self { action, error: way.err().unwrap_or("none") }
    }
}

/// What a turn of a Job did last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JobAction {
    Reconciling,
    Tracking,
    PodsCreated,
    PodsDeleted,
}

impl JobAction {
    fn name(self) -> &'static str {
        match self {
            Self::Reconciling => "reconciling",
            Self::Tracking => "tracking",
            Self::PodsCreated => "pods_created",
            Self::PodsDeleted => "pods_deleted",
        }
    }
}

/// The controllers' figures; clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    syncs: Family<Sync, Counter>,
    sync_durations: Family<Sync, Histogram>,
    jobs_finished: Family<JobFinished, Counter>,
    pods_finished: Family<PodsFinished, Counter>,
    failures_handled: Family<Action, Counter>,
    cron_skew: Histogram,
    scaled: Family<Scaled, Counter>,
    scaled_durations: Family<Scaled, Histogram>,
    computed: Family<Computed, Counter>,
    computed_durations: Family<Computed, Histogram>,
    evictions: Family<Zone, Counter>,
    pub(crate) others: Others,
    pub(crate) inventory: Inventory,
    pub(crate) slices: Figures,
}

impl Default for Metrics {
    fn default() -> Self {
        let short = || Histogram::new(exponential_buckets(0.001, 2.0, 15));
        Self {
            syncs: Family::default(),
            sync_durations: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.004, 2.0, 15))),
            jobs_finished: Family::default(),
            pods_finished: Family::default(),
            failures_handled: Family::default(),
            cron_skew: Histogram::new(exponential_buckets(1.0, 2.0, 10)),
            scaled: Family::default(),
            scaled_durations: Family::new_with_constructor(short),
            computed: Family::default(),
            computed_durations: Family::new_with_constructor(short),
            evictions: Family::default(),
            others: Others::default(),
            inventory: Inventory::default(),
            slices: Figures::default(),
        }
    }
}

fn mode(job: &Value) -> &'static str {
    if job.str_at(&["spec", "completionMode"]) == "Indexed" { "Indexed" } else { "NonIndexed" }
}

impl Metrics {
    /// Shows the figures among others. Counters get `_total` behind their names where they are shown.
    pub fn register(&self, registry: &mut Registry) {
        let jobs = registry.sub_registry_with_prefix("job_controller");
        jobs.register("job_sync_duration_seconds", "The time it took to sync a job", self.sync_durations.clone());
        jobs.register("job_syncs", "The number of job syncs", self.syncs.clone());
        jobs.register("jobs_finished", "The number of finished jobs", self.jobs_finished.clone());
        jobs.register("job_pods_finished", "The number of finished Pods that are fully tracked", self.pods_finished.clone());
        let about = "The number of failed Pods handled by failure policy with respect to the failure policy action applied based on the matched rule";
        jobs.register("pod_failures_handled_by_failure_policy", about, self.failures_handled.clone());
        let about = "Time between when a cronjob is scheduled to be run, and when the corresponding job is created";
        let crons = registry.sub_registry_with_prefix("cronjob_controller");
        crons.register("job_creation_skew_duration_seconds", about, self.cron_skew.clone());
        self.slices.register(registry);
        let scalers = registry.sub_registry_with_prefix("horizontal_pod_autoscaler_controller");
        let about = "Number of reconciliations of HPA controller. The label 'action' should be either 'scale_down', 'scale_up', or 'none'. Also, the label 'error' should be either 'spec', 'internal', or 'none'. Note that if both spec and internal errors happen during a reconciliation, the first one to occur is reported in `error` label";
        scalers.register("reconciliations", about, self.scaled.clone());
        let about = "The time(seconds) that the HPA controller takes to reconcile once. The labels are those of reconciliations_total";
        scalers.register("reconciliation_duration_seconds", about, self.scaled_durations.clone());
        let about = "Number of metric computations. The labels 'action' and 'error' are those of reconciliations_total. The label 'metric_type' corresponds to HPA.spec.metrics[*].type";
        scalers.register("metric_computation", about, self.computed.clone());
        let about =
            "The time(seconds) that the HPA controller takes to calculate one metric. The labels are those of metric_computation_total";
        scalers.register("metric_computation_duration_seconds", about, self.computed_durations.clone());
        let about = "Number of Node evictions that happened since current instance of NodeController started";
        registry.sub_registry_with_prefix("node_collector").register("evictions", about, self.evictions.clone());
        self.others.register(registry);
        registry.register_collector(Box::new(self.inventory.clone()));
    }

    /// A Job had its turn.
    pub(crate) fn job_synced(&self, job: &Value, action: JobAction, succeeded: bool, took: Duration) {
        let result = if succeeded { "success" } else { "error" };
        let labels = Sync { completion_mode: mode(job), result, action: action.name() };
        self.syncs.get_or_create(&labels).inc();
        self.sync_durations.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// A Job that had not finished has this status now: its pods that are counted there count here, and so does its end.
    pub(crate) fn job_written(&self, job: &Value, status: &Value) {
        let completion_mode = mode(job);
        for result in ["succeeded", "failed"] {
            let [before, now] = [job.get("status"), Some(status)].map(|s| s.and_then(|s| s.int_at(&[result])).unwrap_or(0));
            let more = u64::try_from(now - before).unwrap_or(0);
            if more > 0 {
                self.pods_finished.get_or_create(&PodsFinished { completion_mode, result }).inc_by(more);
            }
        }
        let is = |c: &&Value, ty: &str| c.str_at(&["type"]) == ty && c.str_at(&["status"]) == "True";
        for (ty, result) in [("Complete", "succeeded"), ("Failed", "failed")] {
            if let Some(condition) = status.list_at(&["conditions"]).iter().find(|c| is(c, ty)) {
                let reason = condition.str_at(&["reason"]).to_string();
                self.jobs_finished.get_or_create(&JobFinished { completion_mode, result, reason }).inc();
            }
        }
    }

    /// A failed pod was let go as a rule of its Job's policy says.
    pub(crate) fn failure_handled(&self, action: &str) {
        self.failures_handled.get_or_create(&Action { action: action.into() }).inc();
    }

    /// A CronJob has made a Job whose time this was.
    pub(crate) fn job_made(&self, job: &Value, scheduled: Timestamp) {
        if let Some(created) = crate::pods::created(job) {
            self.cron_skew.observe(created.duration_since(scheduled).as_secs_f64());
        }
    }

    /// An autoscaler had its turn: which way it scaled, or what kept it from that, `spec` or `internal`.
    pub(crate) fn scaled(&self, way: Result<Ordering, &'static str>, took: Duration) {
        let labels = Scaled::of(way);
        self.scaled.get_or_create(&labels).inc();
        self.scaled_durations.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// What one metric of an autoscaler asks for, in the same words.
    pub(crate) fn computed(&self, metric_type: &str, way: Result<Ordering, &'static str>, took: Duration) {
        let labels = Computed { scaled: Scaled::of(way), metric_type: metric_type.into() };
        self.computed.get_or_create(&labels).inc();
        self.computed_durations.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// A node is emptied.
    pub(crate) fn evicted(&self, node: &Value) {
        self.evictions.get_or_create(&Zone { zone: zone_label(node) }).inc();
    }
}

/// Regions and zones are joined as upstream joins them.
fn zone_label(node: &Value) -> String {
    let [region, zone] = ["region", "zone"].map(|part| meta::label(node, &format!("topology.kubernetes.io/{part}")).unwrap_or_default());
    if region.is_empty() && zone.is_empty() { String::new() } else { format!("{region}:\0:{zone}") }
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    #[test]
    fn figures_have_upstreams_names() {
        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        let job = object!({ "spec": { "completionMode": "Indexed" }, "status": { "succeeded": 2, "failed": 1 } });
        metrics.job_synced(&job, JobAction::PodsCreated, true, Duration::from_millis(5));
        metrics.job_written(&job, &object!({ "succeeded": 5, "failed": 1 }));
        let complete = object!([{ "type": "SuccessCriteriaMet", "status": "True" }, { "type": "Complete", "status": "True", "reason": "CompletionsReached" }]);
        metrics.job_written(&Value::default(), &object!({ "succeeded": 1, "failed": 4, "conditions": complete }));
        let made = object!({ "metadata": { "creationTimestamp": "2026-01-01T00:00:03Z" } });
        metrics.job_made(&made, "2026-01-01T00:00:00Z".parse().unwrap());
        metrics.failure_handled("Ignore");
        metrics.scaled(Ok(Ordering::Less), Duration::from_millis(3));
        metrics.scaled(Err("internal"), Duration::from_millis(3));
        metrics.computed("Resource", Ok(Ordering::Equal), Duration::from_millis(3));
        metrics.evicted(&object!({ "metadata": { "labels": {} } }));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "job_controller_job_syncs_total{completion_mode=\"Indexed\",result=\"success\",action=\"pods_created\"} 1",
            "job_controller_job_sync_duration_seconds_bucket{le=\"0.008\",completion_mode=\"Indexed\",result=\"success\",action=\"pods_created\"} 1",
            "job_controller_job_pods_finished_total{completion_mode=\"Indexed\",result=\"succeeded\"} 3",
            "job_controller_job_pods_finished_total{completion_mode=\"NonIndexed\",result=\"succeeded\"} 1",
            "job_controller_job_pods_finished_total{completion_mode=\"NonIndexed\",result=\"failed\"} 4",
            "job_controller_jobs_finished_total{completion_mode=\"NonIndexed\",result=\"succeeded\",reason=\"CompletionsReached\"} 1",
            "cronjob_controller_job_creation_skew_duration_seconds_bucket{le=\"4.0\"} 1",
            "cronjob_controller_job_creation_skew_duration_seconds_sum 3.0",
            "job_controller_pod_failures_handled_by_failure_policy_total{action=\"Ignore\"} 1",
            "horizontal_pod_autoscaler_controller_reconciliations_total{action=\"scale_down\",error=\"none\"} 1",
            "horizontal_pod_autoscaler_controller_reconciliation_duration_seconds_bucket{le=\"0.004\",action=\"none\",error=\"internal\"} 1",
            "horizontal_pod_autoscaler_controller_metric_computation_total{action=\"none\",error=\"none\",metric_type=\"Resource\"} 1",
            "horizontal_pod_autoscaler_controller_metric_computation_duration_seconds_count{action=\"none\",error=\"none\",metric_type=\"Resource\"} 1",
            "node_collector_evictions_total{zone=\"\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("completion_mode=\"Indexed\",result=\"failed\""));
    }
}
