//! The metrics that are told: cAdvisor's names, and what they mean in its words. Pure.

use fram_cri::{Metric, MetricDescriptor, MetricType};

/// Of all metrics, as upstream's kubelet labels those of cAdvisor.
const LABELS: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

struct Kind {
    name: &'static str,
    is: MetricType,
    /// Beside those of all.
    labels: &'static [&'static str],
    help: &'static str,
}

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Kind {
    Kind { name, is: MetricType::Counter, labels, help }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Kind {
    Kind { name, is: MetricType::Gauge, labels, help }
}

const DEVICE: &[&str] = &["device"];
const INTERFACE: &[&str] = &["interface"];
const PAGES: &[&str] = &["pagesize"];

const KINDS: [Kind; 56] = [
    counter("container_blkio_device_usage_total", &["device", "major", "minor", "operation"], "Blkio device bytes usage"),
    counter("container_cpu_cfs_periods_total", &[], "Number of elapsed enforcement period intervals."),
    counter("container_cpu_cfs_throttled_periods_total", &[], "Number of throttled period intervals."),
    counter("container_cpu_cfs_throttled_seconds_total", &[], "Total time duration the container has been throttled."),
    counter("container_cpu_system_seconds_total", &[], "Cumulative system cpu time consumed in seconds."),
    counter("container_cpu_usage_seconds_total", &[], "Cumulative cpu time consumed in seconds."),
    counter("container_cpu_user_seconds_total", &[], "Cumulative user cpu time consumed in seconds."),
    gauge("container_file_descriptors", &[], "Number of open file descriptors for the container."),
    gauge("container_fs_inodes_free", DEVICE, "Number of available Inodes"),
    gauge("container_fs_inodes_total", DEVICE, "Number of Inodes"),
    gauge("container_fs_limit_bytes", DEVICE, "Number of bytes that can be consumed by the container on this filesystem."),
    counter("container_fs_reads_bytes_total", DEVICE, "Cumulative count of bytes read"),
    counter("container_fs_reads_total", DEVICE, "Cumulative count of reads completed"),
    gauge("container_fs_usage_bytes", DEVICE, "Number of bytes that are consumed by the container on this filesystem."),
    counter("container_fs_writes_bytes_total", DEVICE, "Cumulative count of bytes written"),
    counter("container_fs_writes_total", DEVICE, "Cumulative count of writes completed"),
    gauge("container_hugetlb_max_usage_bytes", PAGES, "Maximum hugepage usages recorded"),
    gauge("container_hugetlb_usage_bytes", PAGES, "Current hugepage usage"),
    gauge("container_last_seen", &[], "Last time a container was seen by the exporter"),
    gauge("container_memory_cache", &[], "Number of bytes of page cache memory."),
    counter("container_memory_failcnt", &[], "Number of memory usage hits limits"),
    counter("container_memory_failures_total", &["failure_type", "scope"], "Cumulative count of memory allocation failures."),
    gauge("container_memory_kernel_usage", &[], "Size of kernel memory allocated in bytes."),
    gauge("container_memory_mapped_file", &[], "Size of memory mapped files in bytes."),
    gauge("container_memory_max_usage_bytes", &[], "Maximum memory usage recorded in bytes"),
    gauge("container_memory_rss", &[], "Size of RSS in bytes."),
    gauge("container_memory_swap", &[], "Container swap usage in bytes."),
    gauge("container_memory_usage_bytes", &[], "Current memory usage in bytes, including all memory regardless of when it was accessed"),
    gauge("container_memory_working_set_bytes", &[], "Current working set in bytes."),
    counter("container_network_receive_bytes_total", INTERFACE, "Cumulative count of bytes received"),
    counter("container_network_receive_errors_total", INTERFACE, "Cumulative count of errors encountered while receiving"),
    counter("container_network_receive_packets_dropped_total", INTERFACE, "Cumulative count of packets dropped while receiving"),
    counter("container_network_receive_packets_total", INTERFACE, "Cumulative count of packets received"),
    counter("container_network_transmit_bytes_total", INTERFACE, "Cumulative count of bytes transmitted"),
    counter("container_network_transmit_errors_total", INTERFACE, "Cumulative count of errors encountered while transmitting"),
    counter("container_network_transmit_packets_dropped_total", INTERFACE, "Cumulative count of packets dropped while transmitting"),
    counter("container_network_transmit_packets_total", INTERFACE, "Cumulative count of packets transmitted"),
    counter("container_oom_events_total", &[], "Count of out of memory events observed for the container"),
    counter(
        "container_pressure_cpu_stalled_seconds_total",
        &[],
        "Total time duration no tasks in the container could make progress due to CPU congestion.",
    ),
    counter(
        "container_pressure_cpu_waiting_seconds_total",
        &[],
        "Total time duration tasks in the container have waited due to CPU congestion.",
    ),
    counter(
        "container_pressure_io_stalled_seconds_total",
        &[],
        "Total time duration no tasks in the container could make progress due to IO congestion.",
    ),
    counter(
        "container_pressure_io_waiting_seconds_total",
        &[],
        "Total time duration tasks in the container have waited due to IO congestion.",
    ),
    counter(
        "container_pressure_memory_stalled_seconds_total",
        &[],
        "Total time duration no tasks in the container could make progress due to memory congestion.",
    ),
    counter(
        "container_pressure_memory_waiting_seconds_total",
        &[],
        "Total time duration tasks in the container have waited due to memory congestion.",
    ),
    gauge("container_processes", &[], "Number of processes running inside the container."),
    gauge("container_sockets", &[], "Number of open sockets for the container."),
    gauge("container_spec_cpu_period", &[], "CPU period of the container."),
    gauge("container_spec_cpu_quota", &[], "CPU quota of the container."),
    gauge("container_spec_cpu_shares", &[], "CPU share of the container."),
    gauge("container_spec_memory_limit_bytes", &[], "Memory limit for the container."),
    gauge("container_spec_memory_reservation_limit_bytes", &[], "Memory reservation limit for the container."),
    gauge("container_spec_memory_swap_limit_bytes", &[], "Memory swap limit for the container."),
    gauge("container_start_time_seconds", &[], "Start time of the container since unix epoch in seconds."),
    gauge("container_threads", &[], "Number of threads running inside the container"),
    gauge("container_threads_max", &[], "Maximum number of threads allowed inside the container, infinity if value is zero"),
    gauge(
        "container_ulimits_soft",
        &["ulimit"],
        "Soft ulimit values for the container root process. Unlimited if -1, except priority and nice",
    ),
];

pub(crate) fn descriptors() -> Vec<MetricDescriptor> {
    let descriptor = |kind: &Kind| {
        let label_keys = LABELS.iter().chain(kind.labels).map(|key| (*key).to_owned()).collect();
        MetricDescriptor { name: kind.name.into(), help: kind.help.into(), label_keys }
    };
    KINDS.iter().map(descriptor).collect()
}

/// Collects what is told of one pod or container.
pub(crate) struct Told {
    /// The values of the labels that all have.
    own: [String; 6],
    pub(crate) metrics: Vec<Metric>,
}

impl Told {
    pub(crate) fn of(own: [String; 6]) -> Self {
        Self { own, metrics: Vec::new() }
    }

    /// What is not known is not told.
    pub(crate) fn one(&mut self, name: &str, value: Option<f64>) {
        if let Some(value) = value {
            self.with(name, &[], value);
        }
    }

    pub(crate) fn whole(&mut self, name: &str, value: Option<u64>) {
        self.one(name, value.map(|n| n as f64));
    }

    /// With the values of the labels beside those that all have.
    pub(crate) fn with(&mut self, name: &str, labels: &[&str], value: f64) {
        let Some(kind) = KINDS.iter().find(|kind| kind.name == name) else {
            debug_assert!(false, "{name} is described nowhere");
            return;
        };
        debug_assert_eq!(kind.labels.len(), labels.len(), "labels of {name}");
        let label_values = self.own.iter().cloned().chain(labels.iter().map(|label| (*label).to_owned())).collect();
        self.metrics.push(Metric { name: name.to_owned(), metric_type: kind.is, label_values, value });
    }
}
