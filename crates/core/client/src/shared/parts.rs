//! Equal parts of many objects, kept once: the pods of a workload differ in little more than their names, and clusters have tens of
//! thousands of them; machines of one sort have the same to give, and many of the same images.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};

use fram_machinery::{Key, Map, Value};

/// So many different parts are remembered without a look at who has them.
const FEW: usize = 4096;
/// And so many at all: where objects have nothing in common, to remember their parts would only cost.
const MOST: usize = 1 << 16;

/// The parts of a pod's spec that it has from its template. The whole spec is shared by the pods of a template on one node, these
/// by all of them.
const OF_SPECS: [&str; 8] = [
    "affinity",
    "containers",
    "initContainers",
    "nodeSelector",
    "resourceClaims",
    "securityContext",
    "tolerations",
    "topologySpreadConstraints",
];

/// The parts that objects have.
pub(super) struct Parts {
    known: HashMap<u64, Known>,
    hasher: RandomState,
    /// At so many, those that nobody has any more are forgotten.
    limit: usize,
}

struct Known {
    part: Value,
    /// How often it was met again since the last look at who has what.
    met: u32,
}

impl Default for Parts {
    fn default() -> Self {
        Self { known: HashMap::new(), hasher: RandomState::new(), limit: FEW }
    }
}

impl Parts {
    /// Has a pod share with others what it has in common with them.
    pub(super) fn share_pod(&mut self, pod: &mut Value) {
        let Value::Map(pod) = pod else { return };
        if let Some(Value::Map(metadata)) = pod.get_mut("metadata") {
            for key in ["annotations", "labels", "ownerReferences"] {
                self.share_at(metadata, key);
            }
            metadata.trim();
        }
        if let Some(spec) = pod.get_mut("spec") {
            self.share_with(spec, Self::share_spec);
        }
        if let Some(status) = pod.get_mut("status") {
            // Pods of which nothing runs are alike.
            match status {
                Value::Map(map) if map.contains("podIP") => {
                    self.share_at(map, "hostIPs");
                    map.trim();
                }
                _ => self.share_with(status, Self::share_entries),
            }
        }
        pod.trim();
    }

    /// Has a node share with others what it has in common with them.
    pub(super) fn share_node(&mut self, node: &mut Value) {
        let Value::Map(node) = node else { return };
        if let Some(Value::Map(metadata)) = node.get_mut("metadata") {
            self.share_at(metadata, "annotations");
            metadata.trim();
        }
        if let Some(status) = node.get_mut("status") {
            for list in ["conditions", "images"] {
                if !status.list_at(&[list]).is_empty() {
                    status.place(&[list]).make_list().make_mut().iter_mut().for_each(|one| *one = self.known(one));
                }
            }
            self.share_entries(status);
        }
        node.trim();
    }

    fn share_at(&mut self, map: &mut Map, key: &str) {
        if let Some(part) = map.get_mut(key).filter(|part| can_be_shared(part)) {
            let known = self.known(part);
            *part = known;
        }
    }

    /// Has the value be the equal one that came before it; a new one is made of shared parts first.
    fn share_with(&mut self, value: &mut Value, share: impl FnOnce(&mut Self, &mut Value)) {
        let hash = self.hash(value);
        match self.find(hash, value) {
            Some(known) => *value = known,
            None => {
                share(self, value);
                self.remember(hash, value.clone());
            }
        }
    }

    fn share_spec(&mut self, spec: &mut Value) {
        let Value::Map(map) = spec else { return };
        OF_SPECS.iter().for_each(|key| self.share_at(map, key));
        let volumes = map.get("volumes").and_then(Value::as_list).cloned();
        if let Some(volumes) = volumes.filter(|volumes| !volumes.is_empty()) {
            let volumes: Vec<Value> = volumes.iter().map(|volume| self.volume(volume)).collect();
            map.insert("volumes", volumes);
        }
        map.trim();
    }

    /// Every entry of a map, of itself.
    fn share_entries(&mut self, value: &mut Value) {
        let Value::Map(map) = value else { return };
        let keys: Vec<Key> = map.iter().filter(|(_, part)| can_be_shared(part)).map(|(key, _)| key.clone()).collect();
        keys.iter().for_each(|key| self.share_at(map, key));
        map.trim();
    }

    /// A volume that is made for one pod has a name of its own.
    fn volume(&mut self, volume: &Value) -> Value {
        let Some(map) = volume.as_map() else { return volume.clone() };
        let mut source = |value: &Value| if value.as_map().is_some() { self.known(value) } else { value.clone() };
        Value::Map(map.iter().map(|(key, value)| (key, source(value))).collect::<Map>())
    }

    /// The part itself, or the equal one that came before it.
    fn known(&mut self, part: &Value) -> Value {
        let hash = self.hash(part);
        if let Some(known) = self.find(hash, part) {
            return known;
        }
        self.remember(hash, part.clone());
        part.clone()
    }

    fn hash(&self, part: &Value) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        digest(part, &mut hasher);
        hasher.finish()
    }

    fn find(&mut self, hash: u64, part: &Value) -> Option<Value> {
        let known = self.known.get_mut(&hash).filter(|known| known.part == *part)?;
        known.met = known.met.saturating_add(1);
        Some(known.part.clone())
    }

    fn remember(&mut self, hash: u64, part: Value) {
        if self.known.len() >= self.limit {
            self.known.retain(|_, known| known.part.is_shared());
            // A part that objects have in common is met with each of them, one that is a single object's when that object changes.
            let mut least = 1_u32;
            while self.known.len() > MOST / 2 {
                self.known.retain(|_, known| known.met >= least);
                least = least.saturating_mul(2);
            }
            self.known.values_mut().for_each(|known| known.met = 0);
            self.limit = (2 * self.known.len()).max(FEW);
        }
        self.known.insert(hash, Known { part, met: 0 });
    }
}

/// Numbers and short texts are no larger than what would share them.
fn can_be_shared(part: &Value) -> bool {
    matches!(part, Value::List(_) | Value::Map(_)) && !part.is_empty()
}

fn digest(value: &Value, hasher: &mut impl Hasher) {
    std::mem::discriminant(value).hash(hasher);
    match value {
        Value::Null => {}
        Value::Bool(b) => b.hash(hasher),
        Value::Int(i) => i.hash(hasher),
        Value::Float(f) => f.to_bits().hash(hasher),
        Value::String(s) => s.hash(hasher),
        Value::List(list) => {
            list.len().hash(hasher);
            list.iter().for_each(|value| digest(value, hasher));
        }
        Value::Map(map) => {
            map.len().hash(hasher);
            for (key, value) in map.iter() {
                key.hash(hasher);
                digest(value, hasher);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    #[test]
    fn pods_that_are_alike_share_what_they_have_in_common() {
        let pod = |name: &str| {
            object!({ "metadata": { "name": name, "labels": { "app": "x" } }, "spec": {
                "containers": [{ "name": "c", "image": "i" }],
                "volumes": [{ "name": name, "projected": { "sources": [{ "secret": { "name": "s" } }] } }] } })
        };
        let mut parts = Parts::default();
        let (mut first, mut second) = (pod("a"), pod("b"));
        parts.share_pod(&mut first);
        parts.share_pod(&mut second);
        assert_eq!((&first, &second), (&pod("a"), &pod("b")));
        let list = |pod: &Value| pod.at(&["spec", "containers"]).and_then(Value::as_list).cloned().unwrap();
        assert!(std::ptr::eq(list(&first).as_slice(), list(&second).as_slice()));
        let sources = |pod: &Value| {
            let volume = &pod.list_at(&["spec", "volumes"])[0];
            volume.at(&["projected", "sources"]).and_then(Value::as_list).cloned().unwrap()
        };
        assert!(std::ptr::eq(sources(&first).as_slice(), sources(&second).as_slice()));
    }

    #[test]
    fn pods_of_one_node_share_all_of_their_spec_and_pods_of_others_what_they_have_from_their_template() {
        let pod = |name: &str, node: &str| {
            object!({ "metadata": { "name": name }, "spec": { "containers": [{ "name": "c" }], "nodeName": node, "dnsPolicy": "ClusterFirst" },
                "status": { "phase": "Pending", "conditions": [{ "type": "PodScheduled", "lastTransitionTime": "then" }] } })
        };
        let mut parts = Parts::default();
        let mut shared = |name: &str, node: &str| {
            let mut object = pod(name, node);
            parts.share_pod(&mut object);
            assert_eq!(object, pod(name, node));
            object
        };
        let (a, b, c) = (shared("a", "x"), shared("b", "x"), shared("c", "y"));
        let same = |one: &Value, other: &Value, path: &[&str]| match (one.at(path).unwrap(), other.at(path).unwrap()) {
            (Value::List(one), Value::List(other)) => std::ptr::eq(one.as_slice(), other.as_slice()),
            (Value::Map(one), Value::Map(other)) => one.shares(other),
            _ => panic!("no such part"),
        };
        assert!(same(&a, &b, &["spec"]) && same(&a, &c, &["status"]));
        assert!(!same(&a, &c, &["spec"]) && same(&a, &c, &["spec", "containers"]));
    }

    #[test]
    fn nodes_share_what_they_can_give_and_the_images_that_they_have() {
        let node = |name: &str, images: &[&str]| {
            let images: Vec<Value> = images.iter().map(|image| object!({ "names": [(*image)], "sizeBytes": 1 })).collect();
            object!({ "metadata": { "name": name, "labels": { "host": name } }, "status": { "allocatable": { "cpu": "4" }, "images": images,
                "addresses": [{ "type": "Hostname", "address": name }],
                "conditions": [{ "type": "Ready", "status": "True", "lastHeartbeatTime": name }, { "type": "DiskPressure", "status": "False" }] } })
        };
        let mut parts = Parts::default();
        let mut shared = |name: &str, images: &[&str]| {
            let mut object = node(name, images);
            parts.share_node(&mut object);
            assert_eq!(object, node(name, images));
            object
        };
        let (a, b) = (shared("a", &["x", "y"]), shared("b", &["y"]));
        let map = |node: &Value, list: &str, i: usize| node.list_at(&["status", list])[i].as_map().cloned().unwrap();
        assert!(map(&a, "images", 1).shares(&map(&b, "images", 0)) && map(&a, "conditions", 1).shares(&map(&b, "conditions", 1)));
        let gives = |node: &Value| node.at(&["status", "allocatable"]).and_then(Value::as_map).cloned().unwrap();
        assert!(gives(&a).shares(&gives(&b)));
    }

    #[test]
    fn parts_that_nobody_has_are_forgotten_and_the_others_are_not() {
        let mut parts = Parts::default();
        let held: Vec<Value> = (0..FEW as i64).map(|n| parts.known(&object!([n]))).collect();
        (0..10 * FEW as i64).for_each(|n| drop(parts.known(&object!(["passing", n]))));
        assert!(parts.known.len() <= 2 * FEW);
        assert!(held.iter().all(|part| parts.find(parts.hash(part), part).is_some()));
    }

    #[test]
    fn where_nothing_is_alike_only_so_many_parts_are_remembered() {
        let mut parts = Parts::default();
        let all: Vec<Value> = (0..2 * MOST as i64).map(|n| parts.known(&object!([n]))).collect();
        assert!(parts.known.len() <= MOST, "{} of {}", parts.known.len(), all.len());
    }

    #[test]
    fn what_objects_have_in_common_is_remembered_also_where_each_of_them_changes() {
        let mut parts = Parts::default();
        let common = |n: i64| object!(["common", (n % 10)]);
        let first: Vec<Value> = (0..10).map(|n| parts.known(&common(n))).collect();
        let mut all = Vec::new();
        for n in 0..2 * MOST as i64 {
            all.push(parts.known(&object!([n])));
            for _ in 0..2 {
                parts.known(&object!([n]));
                parts.known(&common(n));
            }
        }
        let same = |one: &Value, other: &Value| std::ptr::eq(one.list_at(&[]), other.list_at(&[]));
        assert!((0..10).all(|n| same(&parts.known(&common(n)), &first[n as usize])));
        assert!(parts.known.len() <= MOST, "{} of {}", parts.known.len(), all.len());
    }
}
