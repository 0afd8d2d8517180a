//! Figures of controllers that have few each.

use std::time::Duration;

use fram_machinery::{Value, meta};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Running {
    name: &'static str,
    manager: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Event {
    event: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
#[allow(non_snake_case, reason = "upstream's name")]
struct FinishedIndexes {
    status: &'static str,
    backoffLimit: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PodsCreated {
    reason: &'static str,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct External {
    controller_name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Collected {
    namespace: String,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Claim {
    status: &'static str,
    admin_access: &'static str,
}

/// From five milliseconds to four minutes.
const EVICTION: [f64; 12] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0, 120.0, 180.0, 240.0];

#[derive(Debug, Clone)]
pub(crate) struct Others {
    running: Family<Running, Gauge>,
    /// Pods that have ended and that their Jobs are yet to count: as they come to be, and as they are counted.
    uncounted: Family<Event, Counter>,
    indexes: Family<FinishedIndexes, Counter>,
    job_pods: Family<PodsCreated, Counter>,
    external_jobs: Family<External, Counter>,
    node_evictions: Counter,
    node_eviction_durations: Histogram,
    device_evictions: Counter,
    device_eviction_durations: Histogram,
    expired_jobs: Histogram,
    collected: Family<Collected, Counter>,
    not_collected: Family<Collected, Counter>,
    volume_claims: Counter,
    failed_volume_claims: Counter,
    device_claims: Family<Claim, Counter>,
}

impl Default for Others {
    fn default() -> Self {
        Self {
            running: Family::default(),
            uncounted: Family::default(),
            indexes: Family::default(),
            job_pods: Family::default(),
            external_jobs: Family::default(),
            node_evictions: Counter::default(),
            node_eviction_durations: Histogram::new(EVICTION),
            device_evictions: Counter::default(),
            device_eviction_durations: Histogram::new(EVICTION),
            expired_jobs: Histogram::new(exponential_buckets(0.1, 2.0, 14)),
            collected: Family::default(),
            not_collected: Family::default(),
            volume_claims: Counter::default(),
            failed_volume_claims: Counter::default(),
            device_claims: Family::default(),
        }
    }
}

impl Others {
    pub(super) fn register(&self, registry: &mut Registry) {
        let about = "Indicates where instances of a controller are currently running";
        registry.register("running_managed_controllers", about, self.running.clone());
        let jobs = registry.sub_registry_with_prefix("job_controller");
        let about = "The number of terminated pods (phase=Failed|Succeeded) that have the finalizer batch.kubernetes.io/job-tracking. The event label can be \"add\" or \"delete\"";
        jobs.register("terminated_pods_tracking_finalizer", about, self.uncounted.clone());
        let about = "The number of finished indexes. Possible values for the status label are: \"succeeded\", \"failed\". Possible values for the backoffLimit label are: \"perIndex\" and \"global\"";
        jobs.register("job_finished_indexes", about, self.indexes.clone());
        let about =
            "The number of Pods created by the Job controller labelled with a reason for the Pod creation and the status of the creation";
        jobs.register("job_pods_creation", about, self.job_pods.clone());
        let about = "The number of Jobs managed by an external controller";
        jobs.register("jobs_by_external_controller", about, self.external_jobs.clone());
        for (prefix, name, deletions, durations, effect) in [
            ("taint_eviction_controller", "TaintEvictionController", &self.node_evictions, &self.node_eviction_durations, "taint effect"),
            (
                "device_taint_eviction_controller",
                "DeviceTaintEvictionController",
                &self.device_evictions,
                &self.device_eviction_durations,
                "device taint effect",
            ),
        ] {
            let evictions = registry.sub_registry_with_prefix(prefix);
            evictions.register("pod_deletions", format!("Total number of Pods deleted by {name} since its start"), deletions.clone());
            let about =
                format!("Latency, in seconds, between the time when a {effect} has been activated for the Pod and its deletion via {name}");
            evictions.register("pod_deletion_duration_seconds", about, durations.clone());
        }
        let about = "The time it took to delete the job since it became eligible for deletion";
        let expired = registry.sub_registry_with_prefix("ttl_after_finished_controller");
        expired.register("job_deletion_duration_seconds", about, self.expired_jobs.clone());
        let collector = registry.sub_registry_with_prefix("pod_gc_collector");
        let about = "Number of pods that are being forcefully deleted since the Pod GC Controller started";
        collector.register("force_delete_pods", about, self.collected.clone());
        let about = "Number of errors encountered when forcefully deleting the pods since the Pod GC Controller started";
        collector.register("force_delete_pod_errors", about, self.not_collected.clone());
        let volumes = registry.sub_registry_with_prefix("ephemeral_volume_controller");
        volumes.register("create", "Number of PersistentVolumeClaims creation requests", self.volume_claims.clone());
        volumes.register("create_failures", "Number of PersistentVolumeClaims creation requests", self.failed_volume_claims.clone());
        let devices = registry.sub_registry_with_prefix("resourceclaim_controller");
        let about = "Number of ResourceClaims creation requests, categorized by creation status and admin access";
        devices.register("creates", about, self.device_claims.clone());
    }

    /// A controller whose instances are counted runs, or has ended.
    pub(crate) fn runs(&self, name: &'static str, running: bool) {
        self.running.get_or_create(&Running { name, manager: "kube-controller-manager" }).set(running.into());
    }

    /// Whether a pod has ended and is yet to be counted has changed.
    pub(crate) fn uncounted(&self, before: bool, now: bool) {
        match (before, now) {
            (false, true) => drop(self.uncounted.get_or_create(&Event { event: "add" }).inc()),
            (true, false) => drop(self.uncounted.get_or_create(&Event { event: "delete" }).inc()),
            _ => {}
        }
    }

    /// So many indexes of a Job have ended so.
    pub(crate) fn indexes_ended(&self, job: &Value, succeeded: bool, indexes: u64) {
        if indexes == 0 {
            return;
        }
        let status = if succeeded { "succeeded" } else { "failed" };
        let per_index = job.int_at(&["spec", "backoffLimitPerIndex"]).is_some();
        let labels = FinishedIndexes { status, backoffLimit: if per_index { "perIndex" } else { "global" } };
        self.indexes.get_or_create(&labels).inc_by(indexes);
    }

    /// A Job's pod was made, or not; beside pods that had failed or were going.
    pub(crate) fn job_pod(&self, job: &Value, status: &Value, made: bool) {
        let count = |field: &str| status.int_at(&[field]).unwrap_or(0);
        let replaces_failed = job.str_at(&["spec", "podReplacementPolicy"]) == "Failed";
        let reason = match count("failed") > 0 {
            true if replaces_failed => "recreate_failed",
            failed if failed || count("terminating") > 0 => "recreate_terminating_or_failed",
            _ => "new",
        };
        self.job_pods.get_or_create(&PodsCreated { reason, status: if made { "succeeded" } else { "failed" } }).inc();
    }

    /// A Job came that somebody else looks after.
    pub(crate) fn external_job(&self, controller_name: &str) {
        self.external_jobs.get_or_create(&External { controller_name: controller_name.into() }).inc();
    }

    /// A pod was deleted for a node's taint, so long after it should have left.
    pub(crate) fn left_node(&self, late: Duration) {
        self.node_evictions.inc();
        self.node_eviction_durations.observe(late.as_secs_f64());
    }

    /// The same for a device's.
    pub(crate) fn left_device(&self, late: Duration) {
        self.device_evictions.inc();
        self.device_eviction_durations.observe(late.as_secs_f64());
    }

    /// A finished Job was deleted, so long after its time was over.
    pub(crate) fn expired(&self, late: Duration) {
        self.expired_jobs.observe(late.as_secs_f64());
    }

    /// A pod was collected, or could not be.
    pub(crate) fn collected(&self, pod: &Value, reason: &'static str, done: bool) {
        let labels = Collected { namespace: meta::namespace(pod).into(), reason };
        self.collected.get_or_create(&labels).inc();
        if !done {
            self.not_collected.get_or_create(&labels).inc();
        }
    }

    /// A claim of a pod's ephemeral volume was asked for.
    pub(crate) fn volume_claim(&self, made: bool) {
        self.volume_claims.inc();
        if !made {
            self.failed_volume_claims.inc();
        }
    }

    /// A claim of devices was asked for.
    pub(crate) fn device_claim(&self, claim: &Value, made: bool) {
        let admin = |request: &Value| request.at(&["exactly", "adminAccess"]).and_then(Value::as_bool) == Some(true);
        let is_admin = claim.list_at(&["spec", "devices", "requests"]).iter().any(admin);
        let labels = Claim { status: if made { "success" } else { "failure" }, admin_access: if is_admin { "true" } else { "false" } };
        self.device_claims.get_or_create(&labels).inc();
    }
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    #[test]
    fn figures_have_upstreams_names() {
        let (others, mut registry) = (Others::default(), Registry::default());
        others.register(&mut registry);
        others.runs("nodeipam", true);
        others.uncounted(false, true);
        others.uncounted(true, false);
        others.uncounted(true, true);
        let per_index = object!({ "spec": { "backoffLimitPerIndex": 1 } });
        others.indexes_ended(&per_index, false, 2);
        others.indexes_ended(&object!({}), true, 3);
        others.job_pod(&object!({}), &object!({}), true);
        others.job_pod(&object!({}), &object!({ "terminating": 1 }), true);
        others.job_pod(&object!({ "spec": { "podReplacementPolicy": "Failed" } }), &object!({ "failed": 1 }), false);
        others.external_job("example.com/jobs");
        others.left_node(Duration::from_millis(20));
        others.left_device(Duration::from_millis(20));
        others.expired(Duration::from_millis(150));
        let pod = object!({ "metadata": { "namespace": "ns" } });
        others.collected(&pod, "orphaned", true);
        others.collected(&pod, "orphaned", false);
        others.volume_claim(true);
        others.volume_claim(false);
        others.device_claim(&object!({ "spec": { "devices": { "requests": [{ "exactly": { "adminAccess": true } }] } } }), true);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "running_managed_controllers{name=\"nodeipam\",manager=\"kube-controller-manager\"} 1",
            "job_controller_terminated_pods_tracking_finalizer_total{event=\"add\"} 1",
            "job_controller_terminated_pods_tracking_finalizer_total{event=\"delete\"} 1",
            "job_controller_job_finished_indexes_total{status=\"failed\",backoffLimit=\"perIndex\"} 2",
            "job_controller_job_finished_indexes_total{status=\"succeeded\",backoffLimit=\"global\"} 3",
            "job_controller_job_pods_creation_total{reason=\"new\",status=\"succeeded\"} 1",
            "job_controller_job_pods_creation_total{reason=\"recreate_terminating_or_failed\",status=\"succeeded\"} 1",
            "job_controller_job_pods_creation_total{reason=\"recreate_failed\",status=\"failed\"} 1",
            "job_controller_jobs_by_external_controller_total{controller_name=\"example.com/jobs\"} 1",
            "taint_eviction_controller_pod_deletions_total 1",
            "taint_eviction_controller_pod_deletion_duration_seconds_bucket{le=\"0.025\"} 1",
            "device_taint_eviction_controller_pod_deletions_total 1",
            "device_taint_eviction_controller_pod_deletion_duration_seconds_bucket{le=\"0.025\"} 1",
            "ttl_after_finished_controller_job_deletion_duration_seconds_bucket{le=\"0.2\"} 1",
            "pod_gc_collector_force_delete_pods_total{namespace=\"ns\",reason=\"orphaned\"} 2",
            "pod_gc_collector_force_delete_pod_errors_total{namespace=\"ns\",reason=\"orphaned\"} 1",
            "ephemeral_volume_controller_create_total 2",
            "ephemeral_volume_controller_create_failures_total 1",
            "resourceclaim_controller_creates_total{status=\"success\",admin_access=\"true\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
