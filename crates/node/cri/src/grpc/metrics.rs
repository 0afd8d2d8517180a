//! Usage as metrics (KEP-2371): what a runtime counts, under cAdvisor's names, for a kubelet that shows it at /metrics/cadvisor. Pure. What
//! Fram does not count is not listed.

use fram_grpc::{enumeration, messages};

use crate::{ContainerStats, MemoryUsage, NetworkInterfaceUsage, PodSandboxStats};

messages! {
    pub(super) MetricDescriptors { descriptors: Vec<MetricDescriptor> = 1 }
    pub(super) MetricDescriptor { name: String = 1, help: String = 2, label_keys: Vec<String> = 3 }
    pub(super) PodSandboxesMetrics { pod_metrics: Vec<PodSandboxMetrics> = 1 }
    pub(super) PodSandboxMetrics {
        pod_sandbox_id: String = 1,
        metrics: Vec<Metric> = 2,
        container_metrics: Vec<ContainerMetrics> = 3,
    }
    pub(super) ContainerMetrics { container_id: String = 1, metrics: Vec<Metric> = 2 }
    /// Without a time: it is of the moment in which it was asked for.
    pub(super) Metric { name: String = 1, metric_type: MetricType = 3, label_values: Vec<String> = 4, value: Option<u64> = 5 }
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) enum MetricType {
    #[default]
    Counter,
    Gauge,
}

enumeration!(MetricType { Counter = 0, Gauge = 1 });

/// Of all metrics; those of the network have that of the interface behind them.
const LABELS: [&str; 4] = ["container", "id", "namespace", "pod"];

const NANO: u64 = 1_000_000_000;

struct Kind {
    name: &'static str,
    help: &'static str,
    is: MetricType,
    of_interface: bool,
}

const fn kind(name: &'static str, help: &'static str, is: MetricType) -> Kind {
    Kind { name, help, is, of_interface: false }
}

const fn of_interface(name: &'static str, help: &'static str) -> Kind {
    Kind { name, help, is: MetricType::Counter, of_interface: true }
}

const CPU: Kind = kind("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", MetricType::Counter);
const USAGE: Kind = kind("container_memory_usage_bytes", "Current memory usage in bytes, including all memory.", MetricType::Gauge);
const WORKING_SET: Kind = kind("container_memory_working_set_bytes", "Current working set in bytes.", MetricType::Gauge);
const RSS: Kind = kind("container_memory_rss", "Size of RSS in bytes.", MetricType::Gauge);
const SWAP: Kind = kind("container_memory_swap", "Container swap usage in bytes.", MetricType::Gauge);
const DISK: Kind =
    kind("container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.", MetricType::Gauge);
const PROCESSES: Kind = kind("container_processes", "Number of processes running inside the container.", MetricType::Gauge);
const RECEIVED: Kind = of_interface("container_network_receive_bytes_total", "Cumulative count of bytes received.");
const RECEIVE_ERRORS: Kind =
    of_interface("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving.");
const SENT: Kind = of_interface("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted.");
const SEND_ERRORS: Kind =
    of_interface("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting.");
const ALL: [&Kind; 11] = [&CPU, &USAGE, &WORKING_SET, &RSS, &SWAP, &DISK, &PROCESSES, &RECEIVED, &RECEIVE_ERRORS, &SENT, &SEND_ERRORS];

/// What there is to be told.
pub(super) fn descriptors() -> Vec<MetricDescriptor> {
    let descriptor = |kind: &&Kind| {
        let interface = kind.of_interface.then_some("interface");
        let label_keys = LABELS.into_iter().chain(interface).map(str::to_owned).collect();
        MetricDescriptor { name: kind.name.into(), help: kind.help.into(), label_keys }
    };
    ALL.iter().map(descriptor).collect()
}

/// What a pod's usage is as metrics.
pub(super) fn of_sandbox(stats: PodSandboxStats) -> PodSandboxMetrics {
    let labels = |container: &str, id: &str| {
        let pod = [stats.metadata.namespace.as_str(), stats.metadata.name.as_str()];
        [container, id].into_iter().chain(pod).map(str::to_owned).collect::<Vec<_>>()
    };
    let own = labels("", &stats.id);
    let mut metrics = known(&own, [(&CPU, stats.cpu.usage_core_nano_seconds.map(|nanos| nanos / NANO))]);
    metrics.extend(memory(&own, &stats.memory));
    metrics.extend(known(&own, [(&PROCESSES, stats.process.process_count)]));
    for interface in stats.network.iter().flat_map(|network| network.default_interface.iter().chain(&network.interfaces)) {
        metrics.extend(traffic(&own, interface));
    }
    let of = |container: &ContainerStats| {
        let attributes = &container.attributes;
        let own = labels(&attributes.metadata.name, &attributes.id);
        ContainerMetrics { container_id: attributes.id.clone(), metrics: of_container(&own, container) }
    };
    let container_metrics = stats.containers.iter().map(of).collect();
    PodSandboxMetrics { pod_sandbox_id: stats.id.clone(), metrics, container_metrics }
}

fn of_container(labels: &[String], stats: &ContainerStats) -> Vec<Metric> {
    let disk = stats.writable_layer.as_ref().and_then(|layer| layer.used_bytes);
    let mut metrics = known(labels, [(&CPU, stats.cpu.usage_core_nano_seconds.map(|nanos| nanos / NANO))]);
    metrics.extend(memory(labels, &stats.memory));
    metrics.extend(known(labels, [(&SWAP, stats.swap.swap_usage_bytes), (&DISK, disk)]));
    metrics
}

fn memory(labels: &[String], usage: &MemoryUsage) -> Vec<Metric> {
    known(labels, [(&USAGE, usage.usage_bytes), (&WORKING_SET, usage.working_set_bytes), (&RSS, usage.rss_bytes)])
}

fn traffic(labels: &[String], interface: &NetworkInterfaceUsage) -> Vec<Metric> {
    let labels = [labels, std::slice::from_ref(&interface.name)].concat();
    let received = [(&RECEIVED, interface.rx_bytes), (&RECEIVE_ERRORS, interface.rx_errors)];
    let sent = [(&SENT, interface.tx_bytes), (&SEND_ERRORS, interface.tx_errors)];
    known(&labels, received.into_iter().chain(sent))
}

/// A value that is not known is no metric.
fn known<'a>(labels: &[String], values: impl IntoIterator<Item = (&'a Kind, Option<u64>)>) -> Vec<Metric> {
    let metric = |(kind, value): (&Kind, Option<u64>)| {
        value.map(|_| Metric { name: kind.name.into(), metric_type: kind.is, label_values: labels.to_vec(), value })
    };
    values.into_iter().filter_map(metric).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::*;

    #[test]
    fn every_metric_is_described_and_has_a_value_for_each_label() {
        let cpu = CpuUsage { usage_core_nano_seconds: Some(3 * NANO + 1), ..CpuUsage::default() };
        let interface = NetworkInterfaceUsage { name: "eth0".into(), rx_bytes: Some(1), ..NetworkInterfaceUsage::default() };
        let attributes = ContainerAttributes {
            id: "c".into(),
            metadata: ContainerMetadata { name: "main".into(), attempt: 0 },
            ..ContainerAttributes::default()
        };
        let stats = PodSandboxStats {
            id: "s".into(),
            metadata: PodSandboxMetadata { name: "web".into(), namespace: "default".into(), ..PodSandboxMetadata::default() },
            cpu: cpu.clone(),
            network: Some(NetworkUsage { default_interface: Some(interface), ..NetworkUsage::default() }),
            containers: vec![ContainerStats { attributes, cpu, ..ContainerStats::default() }],
            ..PodSandboxStats::default()
        };
        let metrics = of_sandbox(stats);
        let all = metrics.metrics.iter().chain(&metrics.container_metrics[0].metrics);
        let described = descriptors();
        for metric in all {
            let of = described.iter().find(|described| described.name == metric.name).unwrap();
            assert_eq!(of.label_keys.len(), metric.label_values.len(), "{}", metric.name);
        }
        let shown: Vec<(&str, &[String], Option<u64>)> =
            metrics.metrics.iter().map(|metric| (metric.name.as_str(), metric.label_values.as_slice(), metric.value)).collect();
        let of = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let (pod, cable) = (of(&["", "s", "default", "web"]), of(&["", "s", "default", "web", "eth0"]));
        let expect = [
            ("container_cpu_usage_seconds_total", pod.as_slice(), Some(3)),
            ("container_network_receive_bytes_total", cable.as_slice(), Some(1)),
        ];
        assert_eq!(shown, expect);
        assert_eq!(metrics.container_metrics[0].metrics[0].label_values, of(&["main", "c", "default", "web"]));
    }
}
