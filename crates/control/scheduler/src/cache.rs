//! All nodes with their pods, and the pods that were assumed to be bound before the API says so.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use fram_machinery::Value;

use crate::node::Node;
use crate::pod::Pod;
use crate::storage::Storage;

#[derive(Debug, Default)]
pub(crate) struct Cache {
    nodes: BTreeMap<String, Node>,
    /// Pod UID to the node that holds it.
    placed: HashMap<String, String>,
    pub(crate) storage: Storage,
    pub(crate) namespaces: HashMap<String, Arc<Value>>,
    /// Pods for which room is being made, by their UIDs: they count on that node for pods of no more priority.
    nominated: HashMap<String, (Arc<Pod>, String)>,
}

impl Cache {
    pub(crate) fn set_node(&mut self, name: &str, object: Arc<Value>) {
        self.nodes.entry(name.to_string()).or_default().set_object(object);
    }

    pub(crate) fn remove_node(&mut self, name: &str) {
        if let Some(node) = self.nodes.get_mut(name) {
            node.object = None;
            if node.pods.is_empty() {
                self.nodes.remove(name);
            }
        }
    }

    /// Places a pod on a node, wherever it was before. Both what the API says and what is assumed come here.
    pub(crate) fn place(&mut self, pod: Arc<Pod>, node: &str) {
        self.remove(&pod.uid);
        self.nominated.remove(&pod.uid);
        self.placed.insert(pod.uid.clone(), node.to_string());
        self.nodes.entry(node.to_string()).or_default().add_pod(pod);
    }

    /// Takes a pod away; true where it was there.
    pub(crate) fn remove(&mut self, uid: &str) -> bool {
        let Some(name) = self.placed.remove(uid) else { return false };
        if let Some(node) = self.nodes.get_mut(&name) {
            node.remove_pod(uid);
            if node.pods.is_empty() && node.object.is_none() {
                self.nodes.remove(&name);
            }
        }
        true
    }

    pub(crate) fn holds(&self, uid: &str) -> bool {
        self.placed.contains_key(uid)
    }

    /// Room is being made for a pod on a node.
    pub(crate) fn nominate(&mut self, pod: Arc<Pod>, node: &str) {
        self.nominated.insert(pod.uid.clone(), (pod, node.to_string()));
    }

    pub(crate) fn forget_nomination(&mut self, uid: &str) {
        self.nominated.remove(uid);
    }

    pub(crate) fn nominated_node(&self, uid: &str) -> Option<&str> {
        self.nominated.get(uid).map(|(_, node)| node.as_str())
    }

    /// Pods for which room is being made on a node.
    pub(crate) fn nominated_on<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Arc<Pod>> {
        self.nominated.values().filter(move |(_, on)| on == node).map(|(pod, _)| pod)
    }

    pub(crate) fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// The nodes that exist, in the order of their names.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|n| n.object.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    #[test]
    fn a_pod_is_counted_once_wherever_it_is_placed() {
        let mut cache = Cache::default();
        let node = |name: &str| Arc::new(object!({ "metadata": { "name": name }, "status": { "allocatable": { "cpu": "4" } } }));
        cache.set_node("a", node("a"));
        cache.set_node("b", node("b"));
        let pod = object!({ "metadata": { "uid": "1" }, "spec": { "containers": [{ "resources": { "requests": { "cpu": "1" } } }] } });
        let pod = Arc::new(Pod::new(Arc::new(pod)));
        cache.place(pod.clone(), "a");
        cache.place(pod, "b");
        let taken: Vec<i64> = cache.nodes().map(|n| n.requested.get("cpu").copied().unwrap_or(0)).collect();
        assert_eq!(taken, [0, 1000]);
        assert!(cache.remove("1") && !cache.remove("1"));
    }
}
