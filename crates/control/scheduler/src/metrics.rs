//! What the scheduler counts, in upstream's words (pkg/scheduler/metrics).

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::queue::Lengths;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Attempt {
    profile: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByQueue {
    queue: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Incoming {
    event: &'static str,
    queue: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Attempts {
    attempts: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByType {
    r#type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByPoint {
    extension_point: &'static str,
    status: &'static str,
    profile: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOperation {
    operation: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByResult {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByPlugin {
    plugin: &'static str,
    profile: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Evaluation {
    plugin: &'static str,
    extension_point: &'static str,
    profile: String,
}

/// What the plugins of one extension point said of a pod together.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Said {
    Success,
    Unschedulable,
    Error,
}

/// What became of an attempt.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Outcome {
    Scheduled,
    Unschedulable,
    Error,
}

/// The scheduler's figures; clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    attempts: Family<Attempt, Counter>,
    attempt_duration: Family<Attempt, Histogram>,
    algorithm_duration: Histogram,
    sli_duration: Family<Attempts, Histogram>,
    attempts_by_pod: Histogram,
    pending: Family<ByQueue, Gauge>,
    incoming: Family<Incoming, Counter>,
    preemptions: Counter,
    victims: Histogram,
    cache: Family<ByType, Gauge>,
    tasks: Family<ByOperation, Gauge>,
    evaluations: Family<Evaluation, Counter>,
    refused: Family<ByPlugin, Gauge>,
    /// No plugin lets pods wait at Permit: gangs are decided in one turn.
    permits: Family<ByResult, Histogram>,
    pub(crate) points: Points,
}

/// How long extension points take.
#[derive(Debug, Clone)]
pub(crate) struct Points(Family<ByPoint, Histogram>);

impl Points {
    /// The plugins of an extension point have had their say.
    pub(crate) fn passed(&self, profile: &str, extension_point: &'static str, said: Said, took: Duration) {
        let status = match said {
            Said::Success => "Success",
            Said::Unschedulable => "Unschedulable",
            Said::Error => "Error",
        };
        self.0.get_or_create(&ByPoint { extension_point, status, profile: profile.into() }).observe(took.as_secs_f64());
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let short = || Histogram::new(exponential_buckets(0.001, 2.0, 15));
        let long = || Histogram::new(exponential_buckets(0.01, 2.0, 20));
        Self {
            attempts: Family::default(),
            attempt_duration: Family::new_with_constructor(short),
            algorithm_duration: short(),
            sli_duration: Family::new_with_constructor(long),
            attempts_by_pod: Histogram::new(exponential_buckets(1.0, 2.0, 5)),
            pending: Family::default(),
            incoming: Family::default(),
            preemptions: Counter::default(),
            victims: Histogram::new(exponential_buckets(1.0, 2.0, 7)),
            cache: Family::default(),
            tasks: Family::default(),
            evaluations: Family::default(),
            refused: Family::default(),
            permits: Family::new_with_constructor(short),
            points: Points(Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.0001, 2.0, 12)))),
        }
    }
}

impl Metrics {
    /// Shows the figures among others. Counters get `_total` behind their names where they are shown.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("scheduler");
        let about = "Number of attempts to schedule pods, by the result. 'unschedulable' means a pod could not be scheduled, while 'error' means an internal scheduler problem";
        registry.register("schedule_attempts", about, self.attempts.clone());
        let about = "Scheduling attempt latency in seconds (scheduling algorithm + binding)";
        registry.register("scheduling_attempt_duration_seconds", about, self.attempt_duration.clone());
        registry.register(
            "scheduling_algorithm_duration_seconds",
            "Scheduling algorithm latency in seconds",
            self.algorithm_duration.clone(),
        );
        let about = "E2e latency for a pod being scheduled, from the time the pod enters the scheduling queue and might involve multiple scheduling attempts";
        registry.register("pod_scheduling_sli_duration_seconds", about, self.sli_duration.clone());
        registry.register("pod_scheduling_attempts", "Number of attempts to successfully schedule a pod", self.attempts_by_pod.clone());
        let about = "Number of pending pods, by the queue type. 'active' means number of pods in activeQ; 'backoff' means number of pods in backoffQ; 'unschedulable' means number of pods in unschedulablePods that the scheduler attempted to schedule and failed; 'gated' is the number of unschedulable pods that the scheduler never attempted to schedule because they are gated";
        registry.register("pending_pods", about, self.pending.clone());
        registry.register(
            "queue_incoming_pods",
            "Number of pods added to scheduling queues by event and queue type",
            self.incoming.clone(),
        );
        registry.register("preemption_attempts", "Total preemption attempts in the cluster till now", self.preemptions.clone());
        registry.register("preemption_victims", "Number of selected preemption victims", self.victims.clone());
        let about = "Latency for running all plugins of a specific extension point";
        registry.register("framework_extension_point_duration_seconds", about, self.points.0.clone());
        let about = "Number of nodes, pods, and assumed (bound) pods in the scheduler cache";
        registry.register("cache_size", about, self.cache.clone());
        let about = "Number of running goroutines split by the work they do such as binding";
        registry.register("goroutines", about, self.tasks.clone());
        let about = "Number of attempts to schedule pods by each plugin and the extension point (available only in PreFilter, Filter, PreScore, and Score)";
        registry.register("plugin_evaluation", about, self.evaluations.clone());
        let about = "The number of unschedulable pods broken down by plugin name. A pod will increment the gauge for all plugins that caused it to not schedule and so this metric have meaning only when broken down by plugin";
        registry.register("unschedulable_pods", about, self.refused.clone());
        // It is shown from the beginning, with nothing in it.
        drop(self.permits.get_or_create(&ByResult { result: "Success" }));
        registry.register("permit_wait_duration_seconds", "Duration of waiting on permit", self.permits.clone());
    }

    pub(crate) fn attempted(&self, profile: &str, outcome: Outcome, took: Duration) {
        let result = match outcome {
            Outcome::Scheduled => "scheduled",
            Outcome::Unschedulable => "unschedulable",
            Outcome::Error => "error",
        };
        let labels = Attempt { profile: profile.into(), result };
        self.attempts.get_or_create(&labels).inc();
        self.attempt_duration.get_or_create(&labels).observe(took.as_secs_f64());
    }

    pub(crate) fn decided(&self, took: Duration) {
        self.algorithm_duration.observe(took.as_secs_f64());
    }

    /// A pod is bound that was tried so often, so long after it was first seen.
    pub(crate) fn scheduled(&self, attempts: u32, took: Duration) {
        // As upstream: many attempts are told together.
        let label = if attempts >= 15 { "15+".to_string() } else { attempts.to_string() };
        self.sli_duration.get_or_create(&Attempts { attempts: label }).observe(took.as_secs_f64());
        self.attempts_by_pod.observe(f64::from(attempts));
    }

    pub(crate) fn preempted(&self, victims: usize) {
        self.preemptions.inc();
        self.victims.observe(victims as f64);
    }

    pub(crate) fn incoming(&self, event: &'static str, queue: &'static str, pods: usize) {
        self.incoming.get_or_create(&Incoming { event, queue }).inc_by(pods as u64);
    }

    pub(crate) fn waiting(&self, lengths: Lengths, gated: usize) {
        let all = [("active", lengths.active), ("backoff", lengths.backoff), ("unschedulable", lengths.unschedulable), ("gated", gated)];
        for (queue, n) in all {
            self.pending.get_or_create(&ByQueue { queue }).set(i64::try_from(n).unwrap_or(i64::MAX));
        }
    }

    pub(crate) fn cached(&self, nodes: usize, pods: usize, assumed: usize) {
        for (r#type, n) in [("nodes", nodes), ("pods", pods), ("assumed_pods", assumed)] {
            self.cache.get_or_create(&ByType { r#type }).set(i64::try_from(n).unwrap_or(i64::MAX));
        }
        self.tasks.get_or_create(&ByOperation { operation: "binding" }).set(i64::try_from(assumed).unwrap_or(i64::MAX));
    }

    /// Plugins were asked so often.
    pub(crate) fn evaluated(&self, profile: &str, asked: impl Iterator<Item = (&'static str, &'static str, u64)>) {
        for (plugin, extension_point, times) in asked {
            self.evaluations.get_or_create(&Evaluation { plugin, extension_point, profile: profile.into() }).inc_by(times);
        }
    }

    /// So many of the pods that wait were refused by plugins.
    pub(crate) fn refused<'a>(&self, pods: impl Iterator<Item = (&'static str, &'a str, i64)>) {
        for (plugin, profile, pods) in pods {
            self.refused.get_or_create(&ByPlugin { plugin, profile: profile.into() }).set(pods);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_upstreams_names() {
        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        metrics.attempted("default-scheduler", Outcome::Scheduled, Duration::from_millis(3));
        metrics.scheduled(1, Duration::from_millis(3));
        metrics.waiting(Lengths { active: 2, ..Lengths::default() }, 1);
        metrics.incoming("PodAdd", "active", 3);
        metrics.cached(5, 7, 2);
        metrics.evaluated("default-scheduler", [("NodeName", "Filter", 9)].into_iter());
        metrics.refused([("NodePorts", "default-scheduler", 4)].into_iter());
        metrics.points.passed("default-scheduler", "Filter", Said::Unschedulable, Duration::from_micros(150));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "scheduler_schedule_attempts_total{profile=\"default-scheduler\",result=\"scheduled\"} 1",
            "scheduler_scheduling_attempt_duration_seconds_count{profile=\"default-scheduler\",result=\"scheduled\"} 1",
            "scheduler_pod_scheduling_sli_duration_seconds_count{attempts=\"1\"} 1",
            "scheduler_pending_pods{queue=\"active\"} 2",
            "scheduler_pending_pods{queue=\"gated\"} 1",
            "scheduler_queue_incoming_pods_total{event=\"PodAdd\",queue=\"active\"} 3",
            "scheduler_preemption_attempts_total 0",
            "scheduler_cache_size{type=\"assumed_pods\"} 2",
            "scheduler_goroutines{operation=\"binding\"} 2",
            "scheduler_plugin_evaluation_total{plugin=\"NodeName\",extension_point=\"Filter\",profile=\"default-scheduler\"} 9",
            "scheduler_unschedulable_pods{plugin=\"NodePorts\",profile=\"default-scheduler\"} 4",
            "scheduler_permit_wait_duration_seconds_count{result=\"Success\"} 0",
            "scheduler_framework_extension_point_duration_seconds_bucket{le=\"0.0002\",extension_point=\"Filter\",status=\"Unschedulable\",profile=\"default-scheduler\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
