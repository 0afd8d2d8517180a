//! What is counted, under upstream's names. Handles are taken once per flow schema, so that a request costs atomic additions.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::shares::Limits;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SchemaLabels {
    priority_level: String,
    flow_schema: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    priority_level: String,
    flow_schema: String,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LevelLabels {
    priority_level: String,
}

/// Upstream's requestDurationSecondsBuckets.
#[derive(Clone)]
struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new([0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0])
    }
}

type Histograms = Family<SchemaLabels, Histogram, Buckets>;

#[derive(Clone)]
pub(crate) struct Metrics {
    dispatched: Family<SchemaLabels, Counter>,
    refused: Family<RefusalLabels, Counter>,
    waiting: Family<SchemaLabels, Gauge>,
    executing: Family<SchemaLabels, Gauge>,
    seats: Family<SchemaLabels, Gauge>,
    waited: Histograms,
    executed: Histograms,
    nominal: Family<LevelLabels, Gauge>,
    lower: Family<LevelLabels, Gauge>,
    upper: Family<LevelLabels, Gauge>,
    current: Family<LevelLabels, Gauge>,
}

/// The handles of one flow schema.
#[derive(Clone)]
pub(crate) struct Handles {
    pub(crate) dispatched: Counter,
    pub(crate) waiting: Gauge,
    pub(crate) executing: Gauge,
    pub(crate) seats: Gauge,
    pub(crate) waited: Histogram,
    pub(crate) executed: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            dispatched: Family::default(),
            refused: Family::default(),
            waiting: Family::default(),
            executing: Family::default(),
            seats: Family::default(),
            waited: Family::new_with_constructor(Buckets),
            executed: Family::new_with_constructor(Buckets),
            nominal: Family::default(),
            lower: Family::default(),
            upper: Family::default(),
            current: Family::default(),
        }
    }
}

impl Metrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("apiserver_flowcontrol");
        registry.register("dispatched_requests", "Requests executed", self.dispatched.clone());
        registry.register("rejected_requests", "Requests rejected", self.refused.clone());
        registry.register("current_inqueue_requests", "Requests that wait", self.waiting.clone());
        registry.register("current_executing_requests", "Requests that execute", self.executing.clone());
        registry.register("current_executing_seats", "Seats that are taken", self.seats.clone());
        registry.register("request_wait_duration_seconds", "How long requests waited", self.waited.clone());
        registry.register("request_execution_seconds", "How long requests executed", self.executed.clone());
        registry.register("nominal_limit_seats", "Nominal number of execution seats of each level", self.nominal.clone());
        registry.register("lower_limit_seats", "Least number of execution seats of each level", self.lower.clone());
        registry.register("upper_limit_seats", "Greatest number of execution seats of each level", self.upper.clone());
        registry.register("current_limit_seats", "Number of execution seats of each level now", self.current.clone());
    }

    pub(crate) fn of(&self, level: &str, schema: &str) -> Handles {
        let labels = SchemaLabels { priority_level: level.into(), flow_schema: schema.into() };
        Handles {
            dispatched: self.dispatched.get_or_create(&labels).clone(),
            waiting: self.waiting.get_or_create(&labels).clone(),
            executing: self.executing.get_or_create(&labels).clone(),
            seats: self.seats.get_or_create(&labels).clone(),
            waited: self.waited.get_or_create(&labels).clone(),
            executed: self.executed.get_or_create(&labels).clone(),
        }
    }

    pub(crate) fn refuse(&self, level: &str, schema: &str, reason: &'static str) {
        let labels = RefusalLabels { priority_level: level.into(), flow_schema: schema.into(), reason };
        self.refused.get_or_create(&labels).inc();
    }

    pub(crate) fn limits(&self, level: &str, limits: Limits) {
        let labels = LevelLabels { priority_level: level.into() };
        self.nominal.get_or_create(&labels).set(limits.nominal as i64);
        self.lower.get_or_create(&labels).set(limits.lower as i64);
        self.upper.get_or_create(&labels).set(limits.upper as i64);
    }

    pub(crate) fn limit(&self, level: &str, seats: u64) {
        self.current.get_or_create(&LevelLabels { priority_level: level.into() }).set(seats as i64);
    }

    pub(crate) fn forget(&self, level: &str) {
        let labels = LevelLabels { priority_level: level.into() };
        for family in [&self.nominal, &self.lower, &self.upper, &self.current] {
            family.remove(&labels);
        }
    }
}
