//! Equal parts of many objects, kept once: the pods of a workload differ in little more than their names, and clusters have tens of
//! thousands of them.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};

use fram_machinery::{Map, Value};

/// So many different parts are remembered. Beyond that the memory begins anew; what is shared already stays so.
const MOST: usize = 4096;

/// The parts of a pod that it has from its template, and those that follow from where it belongs.
const OF_PODS: [&[&str]; 11] = [
    &["metadata", "annotations"],
    &["metadata", "labels"],
    &["metadata", "ownerReferences"],
    &["spec", "affinity"],
    &["spec", "containers"],
    &["spec", "initContainers"],
    &["spec", "nodeSelector"],
    &["spec", "resourceClaims"],
    &["spec", "securityContext"],
    &["spec", "tolerations"],
    &["spec", "topologySpreadConstraints"],
];

/// The parts that were seen last.
#[derive(Default)]
pub(super) struct Parts {
    known: HashMap<u64, Value>,
    hasher: RandomState,
}

impl Parts {
    /// Has a pod share with others what it has in common with them.
    pub(super) fn share_pod(&mut self, pod: &mut Value) {
        for path in OF_PODS {
            if let Some(part) = pod.at(path).filter(|part| !part.is_empty()) {
                let known = self.known(part);
                pod.set(path, known);
            }
        }
        let volumes = pod.list_at(&["spec", "volumes"]);
        if !volumes.is_empty() {
            let volumes: Vec<Value> = volumes.iter().map(|volume| self.volume(volume)).collect();
            pod.set(&["spec", "volumes"], volumes);
        }
    }

    /// A volume that is made for one pod has a name of its own.
    fn volume(&mut self, volume: &Value) -> Value {
        let Some(map) = volume.as_map() else { return volume.clone() };
        let mut source = |value: &Value| if value.as_map().is_some() { self.known(value) } else { value.clone() };
        Value::Map(map.iter().map(|(key, value)| (key, source(value))).collect::<Map>())
    }

    /// The part itself, or the equal one that came before it.
    fn known(&mut self, part: &Value) -> Value {
        let mut hasher = self.hasher.build_hasher();
        digest(part, &mut hasher);
        let hash = hasher.finish();
        if let Some(known) = self.known.get(&hash).filter(|known| *known == part) {
            return known.clone();
        }
        if self.known.len() >= MOST {
            self.known.clear();
        }
        self.known.insert(hash, part.clone());
        part.clone()
    }
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
        assert!(std::sync::Arc::ptr_eq(&list(&first), &list(&second)));
        let sources = |pod: &Value| {
            let volume = &pod.list_at(&["spec", "volumes"])[0];
            volume.at(&["projected", "sources"]).and_then(Value::as_list).cloned().unwrap()
        };
        assert!(std::sync::Arc::ptr_eq(&sources(&first), &sources(&second)));
    }

    #[test]
    fn no_more_than_so_many_parts_are_remembered() {
        let mut parts = Parts::default();
        (0..2 * MOST as i64 + 1).for_each(|n| drop(parts.known(&object!([n]))));
        assert!(parts.known.len() <= MOST);
    }
}
