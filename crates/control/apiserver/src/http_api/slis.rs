//! What health checks have found, at /metrics/slis; see KEP-3466.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::requests::{encoded, process};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Check {
    name: String,
    r#type: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    name: String,
    r#type: String,
    status: &'static str,
}

/// Each check's last outcome, and how often it had which.
pub(crate) struct Slis {
    registry: Arc<Registry>,
    last: Family<Check, Gauge>,
    total: Family<Outcome, Counter>,
}

impl Default for Slis {
    fn default() -> Self {
        let (mut registry, last, total) = (Registry::default(), Family::default(), Family::default());
        registry.register("kubernetes_healthcheck", "This metric records the result of a single healthcheck.", Family::clone(&last));
        // The encoder adds `_total`.
        registry.register("kubernetes_healthchecks", "This metric records the results of all healthcheck.", Family::clone(&total));
        registry.register_collector(Box::new(process::Started));
        Self { registry: Arc::new(registry), last, total }
    }
}

impl Slis {
    /// Notes what a check of an endpoint, such as `/livez`, has found.
    pub(super) fn observe(&self, name: &str, endpoint: &str, healthy: bool) {
        let (name, r#type) = (name.to_string(), endpoint.trim_start_matches('/').to_string());
        self.last.get_or_create(&Check { name: name.clone(), r#type: r#type.clone() }).set(i64::from(healthy));
        self.total.get_or_create(&Outcome { name, r#type, status: if healthy { "success" } else { "error" } }).inc();
    }

    /// In the text format of OpenMetrics.
    pub(super) fn text(&self) -> String {
        encoded(&self.registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_has_its_last_outcome_and_the_number_of_each() {
        let slis = Slis::default();
        [true, true, false].into_iter().for_each(|healthy| slis.observe("ping", "/livez", healthy));
        let text = slis.text();
        assert!(text.contains("kubernetes_healthcheck{name=\"ping\",type=\"livez\"} 0\n"), "{text}");
        assert!(text.contains("kubernetes_healthchecks_total{name=\"ping\",type=\"livez\",status=\"success\"} 2\n"), "{text}");
        assert!(text.contains("kubernetes_healthchecks_total{name=\"ping\",type=\"livez\",status=\"error\"} 1\n"), "{text}");
    }
}
