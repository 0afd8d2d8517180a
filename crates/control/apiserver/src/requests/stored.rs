//! How much is stored, in upstream's words (apiserver/pkg/storage/etcd3/metrics).

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::registry::{CORE, Registry};

/// The store of a registry. What it has is counted when it is asked for.
pub(crate) struct StoredObjects {
    registry: Weak<Registry>,
    /// The size of its files in bytes, as it was last told; 0 before.
    size: Arc<AtomicU64>,
}

impl fmt::Debug for StoredObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoredObjects")
    }
}

impl StoredObjects {
    pub(crate) fn of(registry: &Registry, size: Arc<AtomicU64>) -> Self {
        Self { registry: registry.weak(), size }
    }
}

/// How many objects there are of each resource, with the group and the plural.
fn counts(registry: &Registry) -> Vec<(String, String, i64)> {
    let mut counts: Vec<(String, String, i64)> = Vec::new();
    let Ok(snapshot) = registry.store.seen() else { return counts };
    let api = registry.api();
    let kinds = api.kinds().chain(api.custom().map(|c| &c.stored)).filter(|kind| kind.storage);
    let resources: HashSet<(&str, &str)> = kinds.map(|kind| (&*kind.group, &*kind.plural)).collect();
    for entry in snapshot.prefix(&registry.prefix) {
        let mut parts = entry.key[registry.prefix.len()..].split('/');
        let (Some(group), Some(plural), Some(_)) = (parts.next(), parts.next(), parts.next()) else { continue };
        // Keys come in their order: those of a resource one after another.
        match counts.last_mut().filter(|(g, p, _)| g == group && p == plural) {
            Some((.., count)) => *count += 1,
            None => counts.push((group.into(), plural.into(), 1)),
        }
    }
    // What else is under the prefix is none of the API's.
    counts.retain(|(group, plural, _)| resources.contains(&(if group == CORE { "" } else { group }, plural)));
    counts
}

impl Collector for StoredObjects {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(registry) = self.registry.upgrade() else { return Ok(()) };
        let all = counts(&registry);
        let about = "Number of stored objects at the time of last check split by kind.";
        let mut family = encoder.encode_descriptor("apiserver_storage_objects", about, None, MetricType::Gauge)?;
        for (group, plural, count) in &all {
            let resource = if group == CORE { plural.clone() } else { format!("{plural}.{group}") };
            ConstGauge::new(*count).encode(family.encode_family(&[("resource", resource)])?)?;
        }
        let about = "Number of stored objects at the time of last check split by kind.";
        let mut family = encoder.encode_descriptor("apiserver_resource_objects", about, None, MetricType::Gauge)?;
        for (group, plural, count) in &all {
            let group = if group == CORE { "" } else { group };
            ConstGauge::new(*count).encode(family.encode_family(&[("group", group), ("resource", plural)])?)?;
        }
        let about = "Size of the storage database file physically allocated in bytes.";
        let mut family = encoder.encode_descriptor("apiserver_storage_size_bytes", about, None, MetricType::Gauge)?;
        let size = self.size.load(Ordering::Relaxed);
        if size > 0 {
            ConstGauge::new(i64::try_from(size).unwrap_or(i64::MAX)).encode(family.encode_family(&[("storage_cluster_id", "etcd-0")])?)?;
        }
        Ok(())
    }
}
