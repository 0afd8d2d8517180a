//! The plugins of the default profile that there are, in the order in which they filter.

mod affinity;
mod images;
mod interpod;
mod ports;
mod resources;
mod spreading;
mod taints;
mod volumes;

pub(crate) use affinity::term_matches;
pub(crate) use images::of_node as images_of_node;
pub(crate) use interpod::{Surroundings, Terms};

use crate::framework::Plugin;

/// The default profile.
pub(crate) fn standard() -> &'static [&'static dyn Plugin] {
    &[
        &taints::NodeUnschedulable,
        &affinity::NodeName,
        &taints::TaintToleration,
        &affinity::NodeAffinity,
        &ports::NodePorts,
        &resources::NodeResourcesFit,
        &volumes::VolumeBinding,
        &resources::BalancedAllocation,
        &spreading::PodTopologySpread,
        &interpod::InterPodAffinity,
        &images::ImageLocality,
    ]
}

#[cfg(test)]
pub(crate) mod testing {
    //! Small clusters for the tests of plugins.
    use std::sync::Arc;

    use fram_machinery::{Value, object};

    use crate::cache::Cache;
    use crate::framework::{Outcome, schedule};
    use crate::pod::Pod;

    pub(crate) fn node(name: &str, cpu: &str) -> Value {
        object!({ "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
            "status": { "allocatable": { "cpu": cpu, "memory": "4Gi", "pods": "110" } } })
    }

    pub(crate) fn pod(uid: &str, spec: Value) -> Arc<Pod> {
        let object = object!({ "metadata": { "name": uid, "namespace": "ns", "uid": uid, "labels": { "app": "x" } }, "spec": spec });
        Arc::new(Pod::new(Arc::new(object)))
    }

    pub(crate) fn cache(nodes: Vec<Value>) -> Cache {
        let mut cache = Cache::default();
        for node in nodes {
            let node = Arc::new(node);
            cache.set_node(node.str_at(&["metadata", "name"]), node.clone());
        }
        cache
    }

    #[track_caller]
    pub(crate) fn check(cache: &Cache, spec: Value, expect: &str) {
        match schedule(&pod("new", spec), cache, 0) {
            Outcome::Chosen(node) => assert_eq!(node, expect),
            Outcome::Unschedulable { nodes, reasons, .. } => assert_eq!(reasons.message(nodes), expect),
            Outcome::Premature { reason, .. } => assert_eq!(reason, expect),
        }
    }
}
