//! What is counted of EndpointSlices, in upstream's words (the metrics of endpointslice).

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::plan::Sizes;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Distribution {
    traffic_distribution: String,
}

/// Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Figures {
    added: Histogram,
    removed: Histogram,
    endpoints: Gauge,
    slices: Gauge,
    wanted_slices: Gauge,
    distributions: Family<Distribution, Gauge>,
}

impl Default for Figures {
    fn default() -> Self {
        let changes = || Histogram::new(exponential_buckets(2.0, 2.0, 15));
        let (endpoints, slices, wanted_slices, distributions) = Default::default();
        Self { added: changes(), removed: changes(), endpoints, slices, wanted_slices, distributions }
    }
}

fn change(gauge: &Gauge, before: usize, now: usize) {
    gauge.inc_by(i64::try_from(now).unwrap_or(0) - i64::try_from(before).unwrap_or(0));
}

impl Figures {
    pub(crate) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("endpoint_slice_controller");
        registry.register("endpoints_added_per_sync", "Number of endpoints added on each Service sync", self.added.clone());
        registry.register("endpoints_removed_per_sync", "Number of endpoints removed on each Service sync", self.removed.clone());
        registry.register("endpoints_desired", "Number of endpoints desired", self.endpoints.clone());
        registry.register("num_endpoint_slices", "Number of EndpointSlices", self.slices.clone());
        let about = "Number of EndpointSlices that would exist with perfect endpoint allocation";
        registry.register("desired_endpoint_slices", about, self.wanted_slices.clone());
        let about = "Number of Services using some specific trafficDistribution";
        registry.register("services_count_by_traffic_distribution", about, self.distributions.clone());
    }

    /// Nothing is known of any Service yet: a term begins.
    pub(super) fn begin(&self) {
        for gauge in [&self.endpoints, &self.slices, &self.wanted_slices] {
            gauge.set(0);
        }
        self.distributions.clear();
    }

    /// A Service had its turn.
    pub(super) fn synced(&self, sizes: &Sizes) {
        self.added.observe(sizes.added as f64);
        self.removed.observe(sizes.removed as f64);
    }

    /// There is more or less of a Service than there was.
    pub(super) fn hold(&self, before: &Sizes, now: &Sizes) {
        change(&self.endpoints, before.endpoints, now.endpoints);
        change(&self.slices, before.slices, now.slices);
        change(&self.wanted_slices, before.wanted_slices, now.wanted_slices);
    }

    /// A Service's traffic is distributed otherwise; nothing is said where it says nothing.
    pub(super) fn distribute(&self, before: &str, now: &str) {
        for (distribution, difference) in
            [(before, -1), (now, 1)].into_iter().filter(|(distribution, _)| !distribution.is_empty() && before != now)
        {
            self.distributions.get_or_create(&Distribution { traffic_distribution: distribution.into() }).inc_by(difference);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_upstreams_names_and_add_up_over_services() {
        let (figures, mut registry) = (Figures::default(), Registry::default());
        figures.register(&mut registry);
        let of = |endpoints, slices, wanted_slices| Sizes { endpoints, slices, wanted_slices, added: 3, removed: 0 };
        figures.synced(&of(5, 1, 1));
        figures.hold(&Sizes::default(), &of(5, 1, 1));
        figures.hold(&Sizes::default(), &of(150, 4, 2));
        figures.hold(&of(5, 1, 1), &of(2, 1, 1));
        figures.distribute("", "PreferClose");
        figures.distribute("", "PreferSameNode");
        figures.distribute("PreferClose", "PreferClose");
        figures.distribute("PreferSameNode", "");
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "endpoint_slice_controller_endpoints_added_per_sync_sum 3.0",
            "endpoint_slice_controller_endpoints_removed_per_sync_bucket{le=\"2.0\"} 1",
            "endpoint_slice_controller_endpoints_desired 152",
            "endpoint_slice_controller_num_endpoint_slices 5",
            "endpoint_slice_controller_desired_endpoint_slices 3",
            "endpoint_slice_controller_services_count_by_traffic_distribution{traffic_distribution=\"PreferClose\"} 1",
            "endpoint_slice_controller_services_count_by_traffic_distribution{traffic_distribution=\"PreferSameNode\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        figures.begin();
        assert_eq!((figures.endpoints.get(), figures.slices.get(), figures.wanted_slices.get()), (0, 0, 0));
    }
}
