//! What the controllers' queues do, in upstream's words (component-base's workqueue metrics). Counting is the harness's.

use fram_client::controller::{Durations, Queues};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::server::Server;

#[derive(Debug)]
struct Collected(Queues);

impl Server {
    /// Shows the queues of controllers among the metrics.
    pub fn show_queues(&self, queues: Queues) {
        self.show_metrics(|registry| registry.register_collector(Box::new(Collected(queues))));
    }

    /// Shows what a component says of each pod at /metrics/resources.
    pub fn show_pod_resources(&self, register: impl FnOnce(&mut Registry)) {
        register(&mut self.pod_resources.lock());
    }

    /// Shows what another component counts among the metrics.
    pub fn show_metrics(&self, register: impl FnOnce(&mut Registry)) {
        self.requests.register(register);
    }
}

impl Collector for Collected {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let all = self.0.counts();
        let about = "Total number of adds handled by workqueue";
        let mut adds = encoder.encode_descriptor("workqueue_adds", about, None, MetricType::Counter)?;
        for (name, counts) in &all {
            ConstCounter::new(counts.adds).encode(adds.encode_family(&[("name", *name)])?)?;
        }
        let about = "Total number of retries handled by workqueue";
        let mut retries = encoder.encode_descriptor("workqueue_retries", about, None, MetricType::Counter)?;
        for (name, counts) in &all {
            ConstCounter::new(counts.retries).encode(retries.encode_family(&[("name", *name)])?)?;
        }
        let mut depth = encoder.encode_descriptor("workqueue_depth", "Current depth of workqueue", None, MetricType::Gauge)?;
        for (name, counts) in &all {
            let ready = i64::try_from(counts.depth).unwrap_or(i64::MAX);
            ConstGauge::new(ready).encode(depth.encode_family(&[("name", *name)])?)?;
        }
        let about = "How long in seconds an item stays in workqueue before being requested.";
        histogram(&mut encoder, "workqueue_queue_duration_seconds", about, all.iter().map(|(name, c)| (*name, &c.waits)))?;
        let about = "How long in seconds processing an item from workqueue takes.";
        histogram(&mut encoder, "workqueue_work_duration_seconds", about, all.iter().map(|(name, c)| (*name, &c.work)))?;
        let about = "How many seconds of work has done that is in progress and hasn't been observed by work_duration. Large values indicate stuck threads. One can deduce the number of stuck threads by observing the rate at which this increases.";
        let mut unfinished = encoder.encode_descriptor("workqueue_unfinished_work_seconds", about, None, MetricType::Gauge)?;
        for (name, counts) in &all {
            ConstGauge::new(counts.unfinished.0.as_secs_f64()).encode(unfinished.encode_family(&[("name", *name)])?)?;
        }
        let about = "How many seconds has the longest running processor for workqueue been running.";
        let mut longest = encoder.encode_descriptor("workqueue_longest_running_processor_seconds", about, None, MetricType::Gauge)?;
        for (name, counts) in &all {
            ConstGauge::new(counts.unfinished.1.as_secs_f64()).encode(longest.encode_family(&[("name", *name)])?)?;
        }
        Ok(())
    }
}

fn histogram<'a>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    about: &str,
    all: impl Iterator<Item = (&'a str, &'a Durations)>,
) -> Result<(), std::fmt::Error> {
    let mut family = encoder.encode_descriptor(name, about, None, MetricType::Histogram)?;
    for (queue, durations) in all {
        let (sum, count, buckets) = durations.told();
        family.encode_family(&[("name", queue)])?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
    }
    Ok(())
}
