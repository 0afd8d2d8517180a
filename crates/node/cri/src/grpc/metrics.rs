//! Metrics as messages. Their values are whole numbers there.

use fram_grpc::{enumeration, message, messages};

use crate::{ContainerMetrics, Metric, MetricDescriptor, MetricType, PodSandboxMetrics};

message!(MetricDescriptor { name = 1, help = 2, label_keys = 3 });
enumeration!(MetricType { Counter = 0, Gauge = 1 });

messages! {
    pub(super) MetricDescriptors { descriptors: Vec<MetricDescriptor> = 1 }
    pub(super) PodSandboxesMetrics { pod_metrics: Vec<OfPod> = 1 }
    pub(super) OfPod { pod_sandbox_id: String = 1, metrics: Vec<Value> = 2, container_metrics: Vec<OfContainer> = 3 }
    pub(super) OfContainer { container_id: String = 1, metrics: Vec<Value> = 2 }
    /// Without a time: it is of the moment in which it was asked for.
    pub(super) Value { name: String = 1, metric_type: MetricType = 3, label_values: Vec<String> = 4, value: Option<u64> = 5 }
}

impl From<Metric> for Value {
    fn from(Metric { name, metric_type, label_values, value }: Metric) -> Self {
        // A number that is too large becomes the largest, one below zero zero: nothing is counted that way.
        Self { name, metric_type, label_values, value: Some(value as u64) }
    }
}

impl From<PodSandboxMetrics> for OfPod {
    fn from(pod: PodSandboxMetrics) -> Self {
        let values = |metrics: Vec<Metric>| metrics.into_iter().map(Value::from).collect();
        let of = |one: ContainerMetrics| OfContainer { container_id: one.container_id, metrics: values(one.metrics) };
        let container_metrics = pod.container_metrics.into_iter().map(of).collect();
        Self { pod_sandbox_id: pod.pod_sandbox_id, metrics: values(pod.metrics), container_metrics }
    }
}

/// A value that is not known is no metric.
fn known(values: Vec<Value>) -> Vec<Metric> {
    let metric =
        |Value { name, metric_type, label_values, value }| value.map(|n| Metric { name, metric_type, label_values, value: n as f64 });
    values.into_iter().filter_map(metric).collect()
}

impl From<OfPod> for PodSandboxMetrics {
    fn from(pod: OfPod) -> Self {
        let of = |one: OfContainer| ContainerMetrics { container_id: one.container_id, metrics: known(one.metrics) };
        let container_metrics = pod.container_metrics.into_iter().map(of).collect();
        Self { pod_sandbox_id: pod.pod_sandbox_id, metrics: known(pod.metrics), container_metrics }
    }
}
