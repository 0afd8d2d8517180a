//! What feature gates switch of the server itself, and how all of them are shown (component-base's metric of them). What goes with kinds is
//! in `fram-api`.

use std::fmt;

use fram_api::{FeatureGates, Stage};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

/// What may be on or off, looked up once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Switches {
    /// Large answers are compressed for clients that take that.
    pub(crate) compresses: bool,
    /// A watch may begin with what there is.
    pub(crate) watch_lists: bool,
    /// Each server has a Lease by which others know of it.
    pub(crate) has_lease: bool,
}

impl Switches {
    pub(crate) fn of(gates: &FeatureGates) -> Self {
        let [compresses, watch_lists, has_lease] =
            ["APIResponseCompression", "WatchList", "APIServerIdentity"].map(|name| gates.is_on(name));
        Self { compresses, watch_lists, has_lease }
    }
}

/// The gates as metrics.
#[derive(Debug)]
pub(crate) struct Shown(pub(crate) Vec<(&'static str, Stage, bool)>);

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let about = "Feature gates by name and stage: 1 where what a gate switches is on, 0 where it is off.";
        let mut family = encoder.encode_descriptor("kubernetes_feature_enabled", about, None, MetricType::Gauge)?;
        for (name, stage, on) in &self.0 {
            let labels = [("name", *name), ("stage", stage.name())];
            ConstGauge::new(i64::from(*on)).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
