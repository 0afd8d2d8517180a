//! What each pod of the cluster asks for, shown at /metrics/resources; see pkg/scheduler/metrics/resources.

use std::fmt;

use fram_api::quota;
use fram_client::Informer;
use fram_machinery::quantity::Quantity;
use fram_machinery::{Value, meta};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

#[derive(Debug, Clone, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    namespace: String,
    pod: String,
    node: String,
    scheduler: String,
    priority: String,
    resource: String,
    unit: &'static str,
}

/// The pods that are told of. They are looked at when somebody asks.
pub struct PodResources {
    pods: Informer,
}

impl PodResources {
    pub fn new(pods: Informer) -> Self {
        Self { pods }
    }
}

impl fmt::Debug for PodResources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PodResources")
    }
}

fn unit(resource: &str) -> &'static str {
    match resource {
        "cpu" => "cores",
        "memory" | "storage" | "ephemeral-storage" => "bytes",
        _ if resource.starts_with("hugepages-") => "bytes",
        _ if resource.starts_with("attachable-volumes-") => "integer",
        _ => "",
    }
}

/// What a pod has on its node or is to have; nothing where it has ended.
fn of_pod(pod: &Value, amounts: impl Fn(&Value) -> quota::Amounts) -> Vec<(Labels, f64)> {
    let text = |path: &[&str]| pod.str_at(path).to_string();
    let node = text(&["spec", "nodeName"]);
    if !node.is_empty() && matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed") {
        return Vec::new();
    }
    let one = |(resource, amount): (String, Quantity)| {
        let labels = Labels {
            namespace: meta::namespace(pod).into(),
            pod: meta::name(pod).into(),
            node: node.clone(),
            scheduler: text(&["spec", "schedulerName"]),
            priority: pod.int_at(&["spec", "priority"]).map(|n| n.to_string()).unwrap_or_default(),
            unit: unit(&resource),
            resource,
        };
        (labels, amount.milli_value() as f64 / 1000.0)
    };
    amounts(pod).into_iter().filter(|(_, amount)| !amount.is_zero()).map(one).collect()
}

impl Collector for PodResources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let about = "broken down by pod. This shows the resource usage the scheduler and kubelet expect per pod for resources along with the unit for the resource if any";
        type Amounts = fn(&Value) -> quota::Amounts;
        let all: [(&str, &str, Amounts); 2] = [
            ("kube_pod_resource_request", "Resources requested by workloads on the cluster", quota::requests),
            ("kube_pod_resource_limit", "Resources limit for workloads on the cluster", quota::limits),
        ];
        for (name, what, amounts) in all {
            let mut family = encoder.encode_descriptor(name, &format!("{what}, {about}"), None, MetricType::Gauge)?;
            for pod in self.pods.list() {
                for (labels, amount) in of_pod(&pod, amounts) {
                    ConstGauge::new(amount).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    #[test]
    fn a_pod_tells_what_it_asks_for_until_it_has_ended() {
        let container = object!({ "name": "c", "resources": { "requests": { "cpu": "250m", "memory": "1Ki", "hugepages-2Mi": "2Mi", "nvidia.com/gpu": "0" },
            "limits": { "cpu": "1" } } });
        let mut pod = object!({ "metadata": { "namespace": "ns", "name": "p" }, "spec": { "nodeName": "n", "schedulerName": "s", "priority": 7,
            "containers": [(container.clone()), container], "overhead": { "cpu": "100m" } }, "status": { "phase": "Running" } });
        let told = |pod: &Value, amounts: fn(&Value) -> quota::Amounts| {
            let one = |(l, amount): (Labels, f64)| {
                format!("{}/{} {} {} {} {} {} {amount}", l.namespace, l.pod, l.node, l.scheduler, l.priority, l.resource, l.unit)
            };
            of_pod(pod, amounts).into_iter().map(one).collect::<Vec<_>>()
        };
        assert_eq!(
            told(&pod, quota::requests),
            ["ns/p n s 7 cpu cores 0.6", "ns/p n s 7 hugepages-2Mi bytes 4194304", "ns/p n s 7 memory bytes 2048"]
        );
        assert_eq!(told(&pod, quota::limits), ["ns/p n s 7 cpu cores 2.1"]);
        pod.set(&["status", "phase"], "Failed");
        assert!(told(&pod, quota::requests).is_empty());
        pod.set(&["spec", "nodeName"], "");
        assert_eq!(told(&pod, quota::limits), ["ns/p  s 7 cpu cores 2.1"]);
    }
}
