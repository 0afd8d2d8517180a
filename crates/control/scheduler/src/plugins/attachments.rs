//! VolumeRestrictions, NodeVolumeLimits and VolumeZone: which volumes may be where and how many.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fram_api::storage;
use fram_machinery::{Map, Value, meta};

use crate::cache::{Cache, Change};
use crate::framework::{Plugin, Refusal, Sharing, Verdicts, View};
use crate::node::Node;
use crate::pod::Pod;

/// A view that looks at each node when it is asked: it is for pods with volumes that stand alone.
struct Asking<F> {
    why: F,
    lasting: bool,
    /// What it says was gathered from the pods of all nodes, so that it is made anew when one comes or goes.
    by_pods: bool,
}

impl<F: Fn(&Cache, &Node) -> Option<&'static str> + Send + Sync> View for Asking<F> {
    fn changed(&mut self, change: &Change, _: &Cache) -> bool {
        !(self.by_pods && matches!(change, Change::Placed(..) | Change::Removed(..)))
    }

    fn filter(&mut self, cache: &Cache, verdicts: &mut Verdicts) {
        for slot in verdicts.open().collect::<Vec<_>>() {
            if let Some(why) = (self.why)(cache, cache.at(slot)) {
                // The reasons of one view are told apart by their lengths.
                verdicts.refuse(slot, why.len() as u32);
            }
        }
    }

    fn refusal(&self, cache: &Cache, slot: usize) -> Option<Refusal> {
        (self.why)(cache, cache.at(slot)).map(|why| Refusal { reasons: vec![why.into()], lasting: self.lasting })
    }
}

/// The claims of a pod, by key.
fn claims<'a>(pod: &'a Pod, cache: &'a Cache) -> impl Iterator<Item = (String, &'a Arc<Value>)> {
    let key = |name: String| format!("{}/{name}", pod.namespace());
    storage::claims_of(&pod.object).map(key).filter_map(|key| cache.storage.claims.get(&key).map(|claim| (key, claim)))
}

pub(super) struct VolumeRestrictions;

const IN_USE: &str = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod";
const DISK: &str = "node(s) had no available disk";

fn is_for_one_pod(claim: &Value) -> bool {
    claim.list_at(&["spec", "accessModes"]).iter().any(|m| m.as_str() == Some("ReadWriteOncePod"))
}

/// Disks that pods on one node cannot share unless all of them only read: what they are, and whether this only reads. See
/// upstream's isVolumeConflict.
fn disks(pod: &Value) -> impl Iterator<Item = (String, bool)> {
    let sources = [
        ("gcePersistentDisk", "pdName", true),
        ("awsElasticBlockStore", "volumeID", false),
        ("iscsi", "iqn", true),
        ("rbd", "image", true),
    ];
    pod.list_at(&["spec", "volumes"]).iter().flat_map(move |volume| {
        sources.into_iter().filter_map(move |(kind, name, shared_by_readers)| {
            let source = volume.get(kind).filter(|s| !s.is_null())?;
            let part = if kind == "rbd" { source.str_at(&["pool"]) } else { "" };
            let reads = source.bool_at(&["readOnly"]) == Some(true) && shared_by_readers;
            Some((format!("{kind}/{part}/{}", source.str_at(&[name])), reads))
        })
    })
}

impl Plugin for VolumeRestrictions {
    fn name(&self) -> &'static str {
        "VolumeRestrictions"
    }

    fn sharing(&self, pod: &Pod, cache: &Cache) -> Sharing {
        let concerned = claims(pod, cache).any(|(_, claim)| is_for_one_pod(claim)) || disks(&pod.object).next().is_some();
        if concerned { Sharing::Alone } else { Sharing::Nothing }
    }

    fn view(&self, pod: &Arc<Pod>, cache: &Cache) -> Box<dyn View> {
        let exclusive: BTreeSet<String> = claims(pod, cache).filter(|(_, c)| is_for_one_pod(c)).map(|(key, _)| key).collect();
        let (own, uid): (BTreeMap<String, bool>, _) = (disks(&pod.object).collect(), pod.uid.clone());
        // A claim for one pod is in use wherever that pod is.
        let used =
            |node: &Node| node.pods.values().any(|other| other.uid != uid && claims(other, cache).any(|(key, _)| exclusive.contains(&key)));
        let by_pods = !exclusive.is_empty();
        let used_anywhere = !exclusive.is_empty() && cache.nodes().any(|(_, node)| used(node));
        let why = move |_: &Cache, node: &Node| {
            if used_anywhere {
                return Some(IN_USE);
            }
            let clash = |(disk, reads): (String, bool)| own.get(&disk).is_some_and(|own_reads| !(reads && *own_reads));
            node.pods.values().flat_map(|other| disks(&other.object)).any(clash).then_some(DISK)
        };
        Box::new(Asking { why, lasting: false, by_pods })
    }
}

pub(super) struct NodeVolumeLimits;

/// The volumes that drivers of the CSI attach for a pod: driver and handle.
fn attached(pod: &Pod, cache: &Cache) -> BTreeSet<(String, String)> {
    let of = |(key, claim): (String, &Arc<Value>)| {
        let volume = cache.storage.volumes.get(claim.str_at(&["spec", "volumeName"]));
        if let Some(csi) = volume.and_then(|v| v.at(&["spec", "csi"])).filter(|c| !c.is_null()) {
            return Some((csi.str_at(&["driver"]).to_string(), csi.str_at(&["volumeHandle"]).to_string()));
        }
        // It is yet to be made: by the provisioner of its class, which is the driver's name.
        let class = cache.storage.classes.get(storage::class(claim)).filter(|_| volume.is_none())?;
        Some((class.str_at(&["provisioner"]).to_string(), key))
    };
    claims(pod, cache).filter_map(of).collect()
}

/// What is attached to a node: volumes that are still to be detached have their place too.
fn held(node: &Node, cache: &Cache) -> impl Iterator<Item = (String, String)> {
    cache.storage.attachments.of_node(node.name()).filter_map(|attachment| {
        let volume = cache.storage.volumes.get(attachment.str_at(&["spec", "source", "persistentVolumeName"]))?;
        let handle = volume.str_at(&["spec", "csi", "volumeHandle"]);
        (!handle.is_empty()).then(|| (attachment.str_at(&["spec", "attacher"]).into(), handle.into()))
    })
}

impl Plugin for NodeVolumeLimits {
    fn name(&self) -> &'static str {
        "NodeVolumeLimits"
    }

    fn sharing(&self, pod: &Pod, cache: &Cache) -> Sharing {
        if cache.storage.has_claims(&pod.object) { Sharing::Alone } else { Sharing::Nothing }
    }

    fn view(&self, pod: &Arc<Pod>, cache: &Cache) -> Box<dyn View> {
        let own = attached(pod, cache);
        let why = move |cache: &Cache, node: &Node| {
            let drivers = cache.storage.csi_nodes.get(node.name())?;
            let limit = |driver: &str| {
                let known = drivers.list_at(&["spec", "drivers"]).iter().find(|d| d.str_at(&["name"]) == driver);
                known.and_then(|d| d.int_at(&["allocatable", "count"]))
            };
            let limited: BTreeMap<&str, i64> = own.iter().filter_map(|(driver, _)| Some((driver.as_str(), limit(driver)?))).collect();
            if limited.is_empty() {
                return None;
            }
            let mut all: BTreeSet<(String, String)> = node.pods.values().flat_map(|other| attached(other, cache)).collect();
            all.extend(held(node, cache));
            let before = all.clone();
            all.extend(own.iter().cloned());
            let exceeds = |(driver, limit): (&str, i64)| {
                let count = |set: &BTreeSet<(String, String)>| set.iter().filter(|(d, _)| d == driver).count() as i64;
                count(&all) > count(&before) && count(&all) > limit
            };
            limited.into_iter().any(exceeds).then_some("node(s) exceed max volume count")
        };
        Box::new(Asking { why, lasting: false, by_pods: false })
    }
}

pub(super) struct VolumeZone;

const ZONES: [&str; 4] = [
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
];

/// The zones and regions that a pod's volumes name in their labels.
fn zones(pod: &Pod, cache: &Cache) -> Vec<(String, BTreeSet<String>)> {
    let volumes = claims(pod, cache).filter_map(|(_, claim)| cache.storage.volumes.get(claim.str_at(&["spec", "volumeName"])));
    let labels = |volume: &Arc<Value>| {
        let of = |(key, value): (&fram_machinery::Key, &Value)| {
            let values = value.as_str().unwrap_or_default().split("__").map(String::from).collect();
            ZONES.contains(&key.as_str()).then(|| (key.to_string(), values))
        };
        meta::labels(volume).as_map().into_iter().flat_map(Map::iter).filter_map(of).collect::<Vec<_>>()
    };
    volumes.flat_map(labels).collect()
}

impl Plugin for VolumeZone {
    fn name(&self) -> &'static str {
        "VolumeZone"
    }

    fn sharing(&self, pod: &Pod, cache: &Cache) -> Sharing {
        if zones(pod, cache).is_empty() { Sharing::Nothing } else { Sharing::Alone }
    }

    fn view(&self, pod: &Arc<Pod>, cache: &Cache) -> Box<dyn View> {
        let zones = zones(pod, cache);
        let why = move |_: &Cache, node: &Node| {
            let label = |key: &str| node.labels().get(key).and_then(Value::as_str);
            // A node without any of these labels is in a cluster without zones.
            if ZONES.iter().all(|key| label(key).is_none()) {
                return None;
            }
            let current = |key: &str| key.replace("failure-domain.beta.kubernetes.io", "topology.kubernetes.io");
            let inside = |(key, values): &(String, BTreeSet<String>)| {
                let found = label(key).or_else(|| label(&current(key)));
                found.is_some_and(|value| values.contains(value))
            };
            (!zones.iter().all(inside)).then_some("node(s) had no available volume zone")
        };
        Box::new(Asking { why, lasting: true, by_pods: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::*;
    use fram_machinery::object;

    fn with_claim(uid: &str, claim: &str) -> Arc<Pod> {
        pod(uid, object!({ "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": claim } }] }))
    }

    /// Two nodes, and claims of these access modes that are bound to volumes of the same names.
    fn cluster(claims: &[(&str, &str)]) -> Cache {
        let mut zoned = node("b", "4");
        zoned.set(&["metadata", "labels", "topology.kubernetes.io/zone"], "z2");
        let mut first = node("a", "4");
        first.set(&["metadata", "labels", "topology.kubernetes.io/zone"], "z1");
        let mut cache = cache(vec![first, zoned]);
        for (name, mode) in claims {
            let claim = object!({ "metadata": { "name": (*name), "namespace": "ns", "annotations": { "pv.kubernetes.io/bind-completed": "yes" } },
                "spec": { "volumeName": (*name), "accessModes": [(*mode)] } });
            let volume = object!({ "metadata": { "name": (*name) }, "spec": { "csi": { "driver": "d.io", "volumeHandle": (*name) } } });
            cache.storage.claims.insert(format!("ns/{name}"), Arc::new(claim));
            cache.storage.volumes.insert((*name).into(), Arc::new(volume));
        }
        cache
    }

    #[test]
    fn a_claim_for_one_pod_is_for_one_pod() {
        let mut cache = cluster(&[("one", "ReadWriteOncePod"), ("many", "ReadWriteOnce")]);
        for claim in ["one", "many"] {
            cache.place(with_claim(claim, claim), "a");
        }
        let said = schedule(&mut framework(), &with_claim("new", "one"), &mut cache);
        assert_eq!(said, format!("0/2 nodes are available: 2 {IN_USE}."));
        assert!(["a", "b"].contains(&schedule(&mut framework(), &with_claim("new", "many"), &mut cache).as_str()));
    }

    #[test]
    fn a_disk_is_shared_by_readers_only() {
        let mut cache = cluster(&[]);
        let with =
            |read_only: bool| object!({ "volumes": [{ "name": "v", "gcePersistentDisk": { "pdName": "d", "readOnly": read_only } }] });
        cache.place(pod("1", with(true)), "a");
        cache.remove_node("b");
        check(&mut cache, with(true), "a");
        check(&mut cache, with(false), "0/1 nodes are available: 1 node(s) had no available disk.");
    }

    #[test]
    fn a_node_has_so_many_volumes_of_a_driver() {
        let mut cache = cluster(&[("1", "ReadWriteOnce"), ("2", "ReadWriteOnce")]);
        cache.remove_node("b");
        let limit = object!({ "spec": { "drivers": [{ "name": "d.io", "allocatable": { "count": 1 } }] } });
        cache.storage.csi_nodes.insert("a".into(), Arc::new(limit));
        cache.place(with_claim("p", "1"), "a");
        assert_eq!(schedule(&mut framework(), &with_claim("new", "1"), &mut cache), "a");
        let said = schedule(&mut framework(), &with_claim("new", "2"), &mut cache);
        assert_eq!(said, "0/1 nodes are available: 1 node(s) exceed max volume count.");
        // A volume whose pod has gone is there until it is detached.
        let attachment = object!({ "spec": { "attacher": "d.io", "nodeName": "a", "source": { "persistentVolumeName": "1" } } });
        cache.remove("p");
        cache.storage.attachments.insert("va", Arc::new(attachment.clone()));
        assert_eq!(schedule(&mut framework(), &with_claim("new", "2"), &mut cache), said);
        assert_eq!(schedule(&mut framework(), &with_claim("new", "1"), &mut cache), "a");
        cache.storage.attachments.remove("va", &attachment);
        assert_eq!(schedule(&mut framework(), &with_claim("new", "2"), &mut cache), "a");
    }

    #[test]
    fn a_pod_goes_to_the_zone_of_its_volume() {
        let mut cache = cluster(&[("1", "ReadWriteOnce")]);
        let mut volume = (*cache.storage.volumes["1"]).clone();
        volume.set(&["metadata", "labels"], object!({ "failure-domain.beta.kubernetes.io/zone": "z2__z3" }));
        cache.storage.volumes.insert("1".into(), Arc::new(volume));
        assert_eq!(schedule(&mut framework(), &with_claim("new", "1"), &mut cache), "b");
    }
}
