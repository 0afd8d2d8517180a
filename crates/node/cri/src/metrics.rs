//! Usage as metrics (KEP-2371): what a runtime counts of pods, under cAdvisor's names, for a kubelet that shows it at /metrics/cadvisor.

/// Other kinds are not among cAdvisor's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MetricType {
    #[default]
    Counter,
    Gauge,
}

/// What a metric is called and means, and which labels each of its values has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetricDescriptor {
    pub name: String,
    pub help: String,
    pub label_keys: Vec<String>,
}

/// One value, of the moment in which it was asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metric {
    pub name: String,
    pub metric_type: MetricType,
    /// In the order of the descriptor's keys.
    pub label_values: Vec<String>,
    /// A whole number where it has come over the CRI.
    pub value: f64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerMetrics {
    pub container_id: String,
    pub metrics: Vec<Metric>,
}

/// `metrics` are those of the pod as a whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodSandboxMetrics {
    pub pod_sandbox_id: String,
    pub metrics: Vec<Metric>,
    pub container_metrics: Vec<ContainerMetrics>,
}
