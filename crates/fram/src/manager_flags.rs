//! The flags of the controllers: kube-controller-manager's, by its names and with its defaults, and one of Fram's own.

use std::time::Duration;

use fram_controllers::{AddressPool, EvictionRates};

use crate::api_flags::duration;

/// How the controllers are run.
#[derive(clap::Args, Debug, Clone)]
#[command(next_help_heading = "Controllers")]
pub(crate) struct ManagerFlags {
    /// The addresses that Services of type LoadBalancer are given, such as 192.0.2.10-192.0.2.20,192.0.2.64/28. They have to be on the
    /// nodes' own network segment or routed to it, and nobody else's. Without them such Services wait, as without a cloud.
    #[arg(long, value_name = "RANGES", default_value = "")]
    load_balancer_pool: AddressPool,
    /// From how many nodes in a second pods are evicted in a zone whose nodes fail, while the zone is healthy.
    #[arg(long, value_name = "N", default_value_t = EvictionRates::default().healthy)]
    node_eviction_rate: f32,
    /// The same in a zone that is unhealthy; 0 in one of a small cluster.
    #[arg(long, value_name = "N", default_value_t = EvictionRates::default().unhealthy)]
    secondary_node_eviction_rate: f32,
    /// The part of a zone's nodes (at least three) that must not be ready for the zone to be unhealthy.
    #[arg(long, value_name = "PART", default_value_t = EvictionRates::default().threshold)]
    unhealthy_zone_threshold: f32,
    /// Up to how many nodes a zone is small: nobody is evicted there while it is unhealthy.
    #[arg(long, value_name = "N", default_value_t = EvictionRates::default().large)]
    large_cluster_size_threshold: usize,
    /// How long a service account's token in a Secret that was made unasked may go unused before it is marked as invalid, and then
    /// before it is deleted.
    #[arg(long, value_name = "DURATION", default_value = "8760h0m0s", value_parser = duration)]
    legacy_service_account_token_clean_up_period: Duration,
}

impl ManagerFlags {
    pub(crate) fn pool(&self) -> AddressPool {
        self.load_balancer_pool.clone()
    }

    pub(crate) fn legacy_token_clean_up_period(&self) -> Duration {
        self.legacy_service_account_token_clean_up_period
    }

    pub(crate) fn eviction_rates(&self) -> EvictionRates {
        EvictionRates {
            healthy: self.node_eviction_rate,
            unhealthy: self.secondary_node_eviction_rate,
            threshold: self.unhealthy_zone_threshold,
            large: self.large_cluster_size_threshold,
        }
    }
}
