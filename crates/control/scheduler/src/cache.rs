//! All nodes with their pods, the pods that were assumed to be bound before the API says so, and a log of what changed, by which
//! those who computed something from the nodes bring it up to date.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use fram_machinery::{Value, meta};
use parking_lot::Mutex;

use crate::devices::Devices;
use crate::node::{Node, same_to_pods};
use crate::pod::Pod;
use crate::services::Services;
use crate::storage::Storage;

/// So many changes are remembered; who is further behind begins anew.
const LOG: usize = 1 << 12;

const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";

/// Something about a node that matters to pods. Nodes are known by their slot: a number that stays theirs.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// The node itself came, went or became another.
    Node(usize),
    Placed(usize, Arc<Pod>),
    Removed(usize, Arc<Pod>),
    /// The labels of namespaces.
    Namespaces,
}

/// The value that each slot's node has for one label, by numbers.
#[derive(Debug, Default)]
pub(crate) struct Column {
    /// For each slot; None where the node is not there or has no such label.
    pub(crate) domains: Vec<Option<u32>>,
    /// How many values there are.
    pub(crate) count: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Cache {
    slots: Vec<Node>,
    names: HashMap<String, usize>,
    /// Slots of nodes that are gone.
    free: Vec<usize>,
    /// How many nodes exist.
    count: usize,
    /// Pod UID to the slot of the node that holds it.
    placed: HashMap<Arc<str>, usize>,
    /// How many of the placed pods have terms of affinity.
    affine: usize,
    pub(crate) storage: Storage,
    pub(crate) services: Services,
    pub(crate) devices: Devices,
    namespaces: HashMap<String, Arc<Value>>,
    /// Pods for which room is being made, by their UIDs: they count on that node for pods of no more priority.
    nominated: BTreeMap<Arc<str>, (Arc<Pod>, String)>,
    /// The same by node.
    rooms: BTreeMap<String, Vec<Arc<Pod>>>,
    log: VecDeque<Change>,
    /// How many changes there have been.
    position: u64,
    columns: Mutex<HashMap<String, Arc<Column>>>,
    order: Mutex<Option<Arc<Vec<usize>>>>,
}

impl Cache {
    fn note(&mut self, change: Change) {
        if self.log.len() == LOG {
            self.log.pop_front();
        }
        self.log.push_back(change);
        self.position += 1;
    }

    /// There are other nodes, or they have other labels.
    fn relabelled(&mut self) {
        self.columns.get_mut().clear();
        *self.order.get_mut() = None;
    }

    /// How many changes there have been.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// What has changed since a position; None where that is no longer known.
    pub(crate) fn since(&self, position: u64) -> Option<impl Iterator<Item = &Change>> {
        let behind = usize::try_from(self.position.checked_sub(position)?).ok().filter(|n| *n <= self.log.len())?;
        Some(self.log.range(self.log.len() - behind..))
    }

    /// Forgets the latest changes, which have undone each other, where all of them are still known; true where it did. Whoever has
    /// taken them in has to go back too.
    pub(crate) fn rewind(&mut self, position: u64) -> bool {
        let undone = usize::try_from(self.position - position).unwrap_or(usize::MAX);
        let known = undone <= self.log.len();
        if known {
            self.log.truncate(self.log.len() - undone);
            self.position = position;
        }
        known
    }

    fn slot_of(&mut self, name: &str) -> usize {
        if let Some(slot) = self.names.get(name) {
            return *slot;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Node::default());
            self.slots.len() - 1
        });
        self.names.insert(name.to_string(), slot);
        slot
    }

    fn free_if_empty(&mut self, name: &str) {
        let Some(slot) = self.names.get(name).copied() else { return };
        if self.slots[slot].pods.is_empty() && self.slots[slot].object.is_none() {
            self.slots[slot] = Node::default();
            self.names.remove(name);
            self.free.push(slot);
        }
    }

    /// Takes in a node; true where it is another to pods than it was.
    pub(crate) fn set_node(&mut self, name: &str, object: Arc<Value>) -> bool {
        let slot = self.slot_of(name);
        let before = self.slots[slot].object.clone();
        if before.as_deref().is_some_and(|before| same_to_pods(before, &object)) {
            self.slots[slot].object = Some(object);
            return false;
        }
        self.count += usize::from(before.is_none());
        if before.is_none_or(|before| meta::labels(&before) != meta::labels(&object)) {
            self.relabelled();
        }
        self.slots[slot].set_object(object);
        self.note(Change::Node(slot));
        true
    }

    pub(crate) fn remove_node(&mut self, name: &str) {
        let Some(slot) = self.names.get(name).copied() else { return };
        if self.slots[slot].object.take().is_some() {
            self.count -= 1;
            self.relabelled();
            self.note(Change::Node(slot));
        }
        self.free_if_empty(name);
    }

    pub(crate) fn set_namespace(&mut self, name: &str, object: Option<Arc<Value>>) {
        let old = match &object {
            Some(object) => self.namespaces.insert(name.into(), object.clone()),
            None => self.namespaces.remove(name),
        };
        let labels = |o: &Option<Arc<Value>>| o.as_deref().map(|o| meta::labels(o).clone());
        if labels(&old) != labels(&object) {
            self.note(Change::Namespaces);
        }
    }

    pub(crate) fn namespaces(&self) -> &HashMap<String, Arc<Value>> {
        &self.namespaces
    }

    /// Places a pod on a node, wherever it was before. Both what the API says and what is assumed come here.
    pub(crate) fn place(&mut self, pod: Arc<Pod>, node: &str) {
        self.forget_nomination(&pod.uid);
        let slot = self.slot_of(node);
        if self.placed.get(&pod.uid) == Some(&slot)
            && let Some(held) = self.slots[slot].pods.get_mut(&pod.uid)
            && held.counts_as(&pod)
        {
            *held = pod;
            return;
        }
        self.remove(&pod.uid);
        // Where the pod was the last on a node that is not there, the slot went with it.
        let slot = self.slot_of(node);
        self.put(pod, slot);
    }

    /// Counts a pod in a slot: for good, or to see what if.
    pub(crate) fn put(&mut self, pod: Arc<Pod>, slot: usize) {
        self.placed.insert(pod.uid.clone(), slot);
        self.affine += usize::from(pod.affinity.is_some());
        self.slots[slot].add_pod(pod.clone());
        self.note(Change::Placed(slot, pod));
    }

    /// Takes a pod out of the slot that counts it: for good, or to see what if.
    pub(crate) fn take(&mut self, uid: &str) -> Option<(usize, Arc<Pod>)> {
        let slot = self.placed.remove(uid)?;
        let pod = self.slots[slot].remove_pod(uid)?;
        self.affine -= usize::from(pod.affinity.is_some());
        self.note(Change::Removed(slot, pod.clone()));
        Some((slot, pod))
    }

    /// Takes a pod away; true where it was there.
    pub(crate) fn remove(&mut self, uid: &str) -> bool {
        let Some((slot, _)) = self.take(uid) else { return false };
        if self.slots[slot].object.is_none()
            && let Some(name) = self.names.iter().find(|(_, s)| **s == slot).map(|(name, _)| name.clone())
        {
            self.free_if_empty(&name);
        }
        true
    }

    pub(crate) fn holds(&self, uid: &str) -> bool {
        self.placed.contains_key(uid)
    }

    /// The slot of the node that counts a pod.
    pub(crate) fn slot_of_pod(&self, uid: &str) -> Option<usize> {
        self.placed.get(uid).copied()
    }

    /// The pod as it is counted.
    pub(crate) fn pod(&self, uid: &str) -> Option<&Arc<Pod>> {
        self.slots[*self.placed.get(uid)?].pods.get(uid)
    }

    /// How many pods are placed.
    pub(crate) fn pods(&self) -> usize {
        self.placed.len()
    }

    /// How many of the placed pods have terms of affinity.
    pub(crate) fn affine(&self) -> usize {
        self.affine
    }

    /// Room is being made for a pod on a node.
    pub(crate) fn nominate(&mut self, pod: Arc<Pod>, node: &str) {
        self.forget_nomination(&pod.uid);
        self.rooms.entry(node.to_string()).or_default().push(pod.clone());
        self.nominated.insert(pod.uid.clone(), (pod, node.to_string()));
    }

    pub(crate) fn forget_nomination(&mut self, uid: &str) -> bool {
        let Some((_, node)) = self.nominated.remove(uid) else { return false };
        if let Some(room) = self.rooms.get_mut(&node) {
            room.retain(|pod| *pod.uid != *uid);
            if room.is_empty() {
                self.rooms.remove(&node);
            }
        }
        true
    }

    pub(crate) fn nominated_node(&self, uid: &str) -> Option<&str> {
        self.nominated.get(uid).map(|(_, node)| node.as_str())
    }

    /// Pods of this or more priority for which room is being made on a node, other than this one.
    pub(crate) fn expected_at(&self, pod: &Pod, slot: usize) -> Vec<Arc<Pod>> {
        let room = self.rooms.get(self.slots[slot].name()).map(Vec::as_slice).unwrap_or_default();
        room.iter().filter(|other| other.uid != pod.uid && other.priority >= pod.priority).cloned().collect()
    }

    /// The slots where room is being made for anyone, in their order.
    pub(crate) fn rooms(&self) -> Vec<usize> {
        let mut slots: Vec<usize> = self.rooms.keys().filter_map(|node| self.slot(node)).collect();
        slots.sort_unstable();
        slots
    }

    /// The slot of a node that exists.
    pub(crate) fn slot(&self, name: &str) -> Option<usize> {
        self.names.get(name).copied().filter(|slot| self.slots[*slot].object.is_some())
    }

    /// What is in a slot; there may be no node.
    pub(crate) fn at(&self, slot: usize) -> &Node {
        &self.slots[slot]
    }

    /// One more than the highest slot.
    pub(crate) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// How many nodes exist.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// The nodes that exist, with their slots.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (usize, &Node)> {
        self.slots.iter().enumerate().filter(|(_, n)| n.object.is_some())
    }

    /// The slots of the nodes that exist, zone after zone in turn: whoever looks at some in this order sees all zones.
    pub(crate) fn order(&self) -> Arc<Vec<usize>> {
        self.order.lock().get_or_insert_with(|| Arc::new(zone_by_zone(self.nodes()))).clone()
    }

    /// Which values the nodes have for a label.
    pub(crate) fn column(&self, label: &str) -> Arc<Column> {
        let mut columns = self.columns.lock();
        if let Some(column) = columns.get(label) {
            return column.clone();
        }
        let mut numbers: HashMap<&str, u32> = HashMap::new();
        let mut domains = vec![None; self.slots.len()];
        for (slot, node) in self.nodes() {
            if let Some(value) = node.labels().get(label).and_then(Value::as_str) {
                let next = numbers.len() as u32;
                domains[slot] = Some(*numbers.entry(value).or_insert(next));
            }
        }
        let column = Arc::new(Column { count: numbers.len(), domains });
        columns.insert(label.to_string(), column.clone());
        column
    }
}

/// As many of each zone as of the others, as far as they go; see upstream's nodeTree.
fn zone_by_zone<'a>(nodes: impl Iterator<Item = (usize, &'a Node)>) -> Vec<usize> {
    let mut zones: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut ranked: Vec<(usize, usize)> = Vec::new();
    for (slot, node) in nodes {
        let label = |name: &str| node.labels().get(name).and_then(Value::as_str).unwrap_or_default();
        let rank = zones.entry((label(REGION), label(ZONE))).or_default();
        ranked.push((*rank, slot));
        *rank += 1;
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, slot)| slot).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amounts::CPU;
    use crate::plugins::testing::{cache, node, pod};
    use fram_machinery::object;

    fn taken(cache: &Cache) -> Vec<i128> {
        cache.nodes().map(|(_, n)| n.requested.get(CPU)).collect()
    }

    fn one_cpu(uid: &str) -> Arc<Pod> {
        pod(uid, object!({ "containers": [{ "resources": { "requests": { "cpu": "1" } } }] }))
    }

    #[test]
    fn a_pod_is_counted_once_wherever_it_is_placed() {
        let mut cache = cache(vec![node("a", "4"), node("b", "4")]);
        cache.place(one_cpu("1"), "a");
        cache.place(one_cpu("1"), "b");
        assert_eq!(taken(&cache), [0, 1000]);
        assert!(cache.remove("1") && !cache.remove("1"));
    }

    #[test]
    fn nodes_come_zone_after_zone_in_turn() {
        let within = |name: &str, zone: &str| {
            let mut node = node(name, "4");
            node.place(&["metadata", "labels"]).make_map().insert(ZONE, zone);
            node
        };
        let mut cache = cache(vec![within("a", "1"), within("b", "1"), within("c", "1"), within("d", "2"), within("e", "2")]);
        assert_eq!(*cache.order(), [0, 3, 1, 4, 2]);
        cache.remove_node("a");
        assert_eq!(*cache.order(), [1, 3, 2, 4]);
    }

    #[test]
    fn a_node_that_stays_where_it_is_changes_neither_the_order_nor_what_is_known_of_labels() {
        let mut cache = cache(vec![node("a", "4"), node("b", "4")]);
        let (order, column) = (cache.order(), cache.column("kubernetes.io/hostname"));
        let mut tainted = node("a", "4");
        tainted.set(&["spec", "taints"], object!([{ "key": "k", "effect": "NoExecute" }]));
        assert!(cache.set_node("a", Arc::new(tainted.clone())));
        assert!(Arc::ptr_eq(&order, &cache.order()) && Arc::ptr_eq(&column, &cache.column("kubernetes.io/hostname")));
        meta::set_label(&mut tainted, ZONE, "z");
        assert!(cache.set_node("a", Arc::new(tainted)));
        assert!(!Arc::ptr_eq(&order, &cache.order()) && !Arc::ptr_eq(&column, &cache.column("kubernetes.io/hostname")));
        assert_eq!(*cache.order(), [0, 1]);
        cache.remove_node("a");
        assert_eq!(*cache.order(), [1]);
    }

    #[test]
    fn what_was_undone_leaves_no_trace() {
        let mut cache = cache(vec![node("a", "4")]);
        cache.place(one_cpu("1"), "a");
        let position = cache.position();
        let (slot, pod) = cache.take("1").unwrap();
        cache.put(one_cpu("2"), 0);
        assert_eq!(cache.since(position).map(Iterator::count), Some(2));
        cache.take("2");
        cache.put(pod, slot);
        assert!(cache.rewind(position));
        assert_eq!((taken(&cache), cache.position()), (vec![1000], position));
        assert!(cache.since(position + 1).is_none());
    }

    #[test]
    fn a_slot_is_given_again_when_its_node_and_all_pods_are_gone() {
        let mut cache = cache(vec![node("a", "4")]);
        cache.place(one_cpu("1"), "a");
        cache.remove_node("a");
        assert_eq!((cache.count(), cache.slot("a")), (0, None));
        cache.set_node("b", Arc::new(node("b", "4")));
        assert_eq!(cache.slots(), 2);
        cache.remove("1");
        cache.set_node("c", Arc::new(node("c", "4")));
        assert_eq!((cache.slots(), cache.slot("c")), (2, Some(0)));
    }
}
