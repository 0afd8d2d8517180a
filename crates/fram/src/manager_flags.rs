//! The flags of the controllers: kube-controller-manager's, by its names and with its defaults, and one of Fram's own.

use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fram_api::AddressRange;
use fram_controllers::{AddressPool, Directories, EvictionRates, NodeMasks, PodNetwork, PodNetworkError, Selection, UnknownController};

use crate::api_flags::duration;

/// How the controllers are run.
#[derive(clap::Args, Debug, Clone)]
#[command(next_help_heading = "Controllers")]
pub(crate) struct ManagerFlags {
    /// Which controllers run: `*` for all, `NAME` for one, `-NAME` for all but one, by upstream's names. An unknown name is answered with all
    /// that there are.
    #[arg(long, value_name = "NAMES", allow_hyphen_values = true, default_value = "*", value_parser = selection)]
    controllers: Selection,
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
    /// Provision volumes for classes of the provisioner kubernetes.io/host-path: directories below /tmp of this machine, which is for
    /// clusters of one node and for tests.
    #[arg(long)]
    enable_hostpath_provisioner: bool,
    /// How many bits of a node's part of the pods' range are the same for all of its pods: 24 of IPv4 and 64 of IPv6. For clusters of one
    /// range.
    #[arg(long, value_name = "BITS")]
    node_cidr_mask_size: Option<u32>,
    /// The same of its part of the range of IPv4.
    #[arg(long, value_name = "BITS")]
    node_cidr_mask_size_ipv4: Option<u32>,
    /// The same of its part of the range of IPv6.
    #[arg(long, value_name = "BITS")]
    node_cidr_mask_size_ipv6: Option<u32>,
}

fn selection(text: &str) -> Result<Selection, UnknownController> {
    Selection::new(text.split(',').map(|name| name.trim().to_string()).filter(|name| !name.is_empty()).collect())
}

impl ManagerFlags {
    pub(crate) fn selection(&self) -> Selection {
        self.controllers.clone()
    }

    pub(crate) fn pool(&self) -> AddressPool {
        self.load_balancer_pool.clone()
    }

    /// Of which parts these ranges are made.
    pub(crate) fn pod_network(&self, ranges: &[AddressRange]) -> Result<PodNetwork, PodNetworkError> {
        let masks = NodeMasks { any: self.node_cidr_mask_size, v4: self.node_cidr_mask_size_ipv4, v6: self.node_cidr_mask_size_ipv6 };
        PodNetwork::new(ranges, masks)
    }

    pub(crate) fn legacy_token_clean_up_period(&self) -> Duration {
        self.legacy_service_account_token_clean_up_period
    }

    pub(crate) fn host_path_directories(&self) -> Option<Arc<dyn Directories>> {
        self.enable_hostpath_provisioner.then(|| Arc::new(OwnDirectories) as _)
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

/// The directories of this machine.
struct OwnDirectories;

/// Runs what waits for the disk where it holds nobody up.
async fn on_disk(what: String, work: impl FnOnce() -> std::io::Result<()> + Send + 'static) -> Result<(), String> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| format!("{what}: {error}"))?;
    done.map_err(|error| format!("{what}: {error}"))
}

#[async_trait]
impl Directories for OwnDirectories {
    async fn make(&self, path: &Path) -> Result<(), String> {
        let (what, path) = (format!("cannot make {}", path.display()), path.to_owned());
        on_disk(what, move || std::fs::DirBuilder::new().recursive(true).mode(0o750).create(path)).await
    }

    async fn remove(&self, path: &Path) -> Result<(), String> {
        let (what, path) = (format!("cannot remove {}", path.display()), path.to_owned());
        on_disk(what, move || match std::fs::remove_dir_all(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed,
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn directories_are_made_once_and_removed_with_what_is_in_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        for _ in 0..2 {
            OwnDirectories.make(&path).await.unwrap();
        }
        std::fs::write(path.join("file"), "text").unwrap();
        for _ in 0..2 {
            OwnDirectories.remove(&path).await.unwrap();
        }
        assert!(!path.exists());
        std::fs::write(&path, "a file").unwrap();
        assert!(OwnDirectories.make(&path.join("c")).await.unwrap_err().starts_with("cannot make "));
    }
}
