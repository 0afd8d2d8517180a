//! VolumeBinding: a pod runs where its volumes are, or can be made.

use crate::framework::{Cluster, Plugin, Refusal};
use crate::node::Node;
use crate::pod::Pod;

pub(super) struct VolumeBinding;

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn pre_filter(&self, pod: &Pod, cluster: &Cluster<'_>) -> Result<(), String> {
        cluster.storage.premature(&pod.object)
    }

    fn filter(&self, pod: &Pod, node: &Node, cluster: &Cluster<'_>) -> Result<(), Refusal> {
        cluster.storage.steps(&pod.object, node).map(drop).map_err(Refusal::lasting)
    }
}
