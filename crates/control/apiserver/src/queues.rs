//! What the controllers' queues do, in upstream's words (component-base's workqueue metrics). Counting is the harness's.

use fram_client::controller::Queues;
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
        let about = "How long in seconds processing an item from workqueue takes.";
        let mut work = encoder.encode_descriptor("workqueue_work_duration_seconds", about, None, MetricType::Histogram)?;
        for (name, counts) in &all {
            let (sum, count, buckets) = counts.work.told();
            work.encode_family(&[("name", *name)])?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }
}
