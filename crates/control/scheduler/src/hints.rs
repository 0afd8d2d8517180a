//! Which of the waiting pods a happening may help: those whose refusal it may end. Pure; upstream's queueing hints.

use std::collections::HashSet;

use fram_api::devices::claims_of_pod;
use fram_api::storage;

use crate::cache::Cache;
use crate::node::Node;
use crate::plugins::admits;
use crate::pod::Pod;

/// Something that may let a waiting pod in.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Happening<'a> {
    /// A node came or became another.
    Node(usize),
    NodeGone,
    /// A pod left this slot, or room that was kept for one somewhere is free.
    Left(Option<usize>),
    /// A pod was placed.
    Placed,
    /// Volumes, their classes, or what nodes and drivers have of them.
    Storage,
    /// These claims, by key: nobody else waits for them.
    Claims(&'a HashSet<String>),
    /// What was attached to a node is not any more.
    Detached,
    Namespaces,
    /// There are more devices or free ones, or other classes.
    Devices,
    /// These claims of devices, by key, of which none has given any back.
    DeviceClaims(&'a HashSet<String>),
}

impl Happening<'_> {
    /// As metrics name it.
    pub(crate) fn event(self) -> &'static str {
        match self {
            Self::Node(_) => "NodeUpdate",
            Self::NodeGone => "NodeDelete",
            Self::Left(_) => "AssignedPodDelete",
            Self::Placed => "AssignedPodAdd",
            Self::Storage => "PersistentVolumeUpdate",
            Self::Claims(_) => "PersistentVolumeClaimUpdate",
            Self::Detached => "VolumeAttachmentDelete",
            Self::Namespaces => "NamespaceUpdate",
            Self::Devices | Self::DeviceClaims(_) => "ResourceClaimUpdate",
        }
    }
}

/// Plugins for which it matters where other pods are, beyond what they take.
const BY_PODS: [&str; 2] = ["PodTopologySpread", "InterPodAffinity"];
const BY_STORAGE: [&str; 4] = ["VolumeBinding", "VolumeRestrictions", "VolumeZone", "NodeVolumeLimits"];
const BY_DEVICES: [&str; 1] = ["DynamicResources"];
const BY_ROOM: [&str; 2] = ["NodeResourcesFit", "NodePorts"];

/// Whether the node could take the pod by what it has, if there is as much as the second says.
fn has_room(pod: &Pod, node: &Node, cache: &Cache, beside_others: bool) -> bool {
    let taken = |name: &str| if beside_others { node.requested.get(name) } else { 0 };
    pod.asks.requests.iter().all(|(name, wanted)| {
        let has = node.allocatable.get(name);
        wanted == 0 || taken(name) + wanted <= has || has == 0 && cache.devices.class_behind(name).is_some()
    })
}

/// Whether a claim of the pod is among these.
fn has_one_of<T: std::fmt::Display>(pod: &Pod, keys: &HashSet<String>, mut names: impl Iterator<Item = T>) -> bool {
    names.any(|name| keys.contains(&format!("{}/{name}", pod.namespace())))
}

/// Whether a pod that these plugins refused is worth another attempt.
pub(crate) fn helps(happening: Happening<'_>, cache: &Cache, pod: &Pod, refused_by: &[&'static str]) -> bool {
    let by = |plugins: &[&str]| refused_by.iter().any(|name| plugins.contains(name));
    match happening {
        // Where domains come or go, other nodes may be open.
        Happening::Node(_) if by(&BY_PODS) || by(&BY_STORAGE) || by(&BY_DEVICES) => true,
        Happening::Node(slot) => admits(pod, cache.at(slot)) && has_room(pod, cache.at(slot), cache, false),
        // The fewest pods of a domain may be more now, or nobody may be left whom to be near.
        Happening::NodeGone => by(&BY_PODS),
        Happening::Left(_) if by(&BY_PODS) || by(&["VolumeRestrictions", "NodeVolumeLimits"]) => true,
        Happening::Left(None) => by(&BY_ROOM),
        Happening::Left(Some(slot)) => by(&BY_ROOM) && admits(pod, cache.at(slot)) && has_room(pod, cache.at(slot), cache, true),
        // The first of those that want to be near, or one more in the domain that has the fewest.
        Happening::Placed => by(&BY_PODS),
        Happening::Storage => by(&BY_STORAGE),
        Happening::Claims(keys) => by(&BY_STORAGE) && has_one_of(pod, keys, storage::claims_of(&pod.object)),
        Happening::Detached => by(&["NodeVolumeLimits"]),
        Happening::DeviceClaims(keys) => {
            by(&BY_DEVICES) && has_one_of(pod, keys, claims_of_pod(&pod.object).filter_map(|(_, object)| object))
        }
        // A class may stand behind a resource now.
        Happening::Devices => by(&BY_DEVICES) || by(&BY_ROOM) && cache.devices.concern(pod),
        Happening::Namespaces => by(&["InterPodAffinity"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::*;
    use fram_machinery::object;

    #[test]
    fn only_what_may_end_a_refusal_is_worth_another_attempt() {
        let cache = cache(vec![node("a", "1")]);
        let cpu = |n: &str| pod("p", object!({ "containers": [{ "resources": { "requests": { "cpu": n } } }] }));
        let elsewhere = pod("p", object!({ "nodeSelector": { "kubernetes.io/hostname": "b" } }));
        let keys = HashSet::from(["ns/mine".to_string()]);
        let with_claims = pod(
            "p",
            object!({ "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": "mine" } }],
                "resourceClaims": [{ "name": "d", "resourceClaimName": "mine" }] }),
        );
        let table: [(Happening<'_>, &Pod, &[&'static str], bool); 19] = [
            (Happening::Node(0), &cpu("1"), &["NodeResourcesFit"], true),
            (Happening::Node(0), &cpu("2"), &["NodeResourcesFit"], false),
            (Happening::Node(0), &elsewhere, &["NodeAffinity"], false),
            (Happening::NodeGone, &cpu("1"), &["PodTopologySpread"], true),
            (Happening::NodeGone, &cpu("1"), &["NodeResourcesFit"], false),
            (Happening::Left(Some(0)), &cpu("1"), &["NodeResourcesFit"], true),
            (Happening::Left(Some(0)), &cpu("1"), &["NodeAffinity"], false),
            (Happening::Placed, &cpu("1"), &["InterPodAffinity"], true),
            (Happening::Placed, &cpu("1"), &["NodeResourcesFit"], false),
            (Happening::Storage, &cpu("1"), &["VolumeBinding"], true),
            (Happening::Claims(&keys), &with_claims, &["VolumeBinding"], true),
            (Happening::Claims(&keys), &cpu("1"), &["VolumeBinding"], false),
            (Happening::Claims(&keys), &with_claims, &["NodeResourcesFit"], false),
            (Happening::Detached, &with_claims, &["NodeVolumeLimits"], true),
            (Happening::Detached, &with_claims, &["VolumeBinding"], false),
            (Happening::Devices, &cpu("1"), &["DynamicResources"], true),
            (Happening::DeviceClaims(&keys), &with_claims, &["DynamicResources"], true),
            (Happening::DeviceClaims(&keys), &cpu("1"), &["DynamicResources"], false),
            (Happening::Storage, &cpu("1"), &["NodeResourcesFit"], false),
        ];
        for (n, (happening, pod, refused_by, expect)) in table.into_iter().enumerate() {
            assert_eq!(helps(happening, &cache, pod, refused_by), expect, "{n}");
        }
    }
}
