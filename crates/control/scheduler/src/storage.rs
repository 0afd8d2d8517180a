//! The volumes of the cluster as the scheduler sees them, and what a pod's claims need on a node. Pure; see upstream's
//! plugin volumebinding.

use std::collections::HashMap;
use std::sync::Arc;

use fram_api::storage::{self, SELECTED_NODE};
use fram_machinery::labels::Selector;
use fram_machinery::quantity::Quantity;
use fram_machinery::{Value, meta};

use crate::node::Node;
use crate::plugins::term_matches;

/// By their keys: `namespace/name` of claims and capacities, names of all others.
#[derive(Debug, Default)]
pub(crate) struct Storage {
    pub(crate) claims: HashMap<String, Arc<Value>>,
    pub(crate) volumes: HashMap<String, Arc<Value>>,
    pub(crate) classes: HashMap<String, Arc<Value>>,
    /// What drivers say about each node, by its name.
    pub(crate) csi_nodes: HashMap<String, Arc<Value>>,
    /// What is attached to nodes, also where no pod uses it any more.
    pub(crate) attachments: Attachments,
    /// The drivers themselves, and where they have how much room.
    pub(crate) drivers: HashMap<String, Arc<Value>>,
    pub(crate) capacities: HashMap<String, Arc<Value>>,
}

/// VolumeAttachments by their nodes, and then by their names. There may be as many as pods.
#[derive(Debug, Default)]
pub(crate) struct Attachments(HashMap<String, HashMap<String, Arc<Value>>>);

impl Attachments {
    pub(crate) fn insert(&mut self, name: &str, attachment: Arc<Value>) {
        let node = attachment.str_at(&["spec", "nodeName"]).to_string();
        self.0.entry(node).or_default().insert(name.into(), attachment);
    }

    /// Takes one away, as it was last known.
    pub(crate) fn remove(&mut self, name: &str, attachment: &Value) {
        let node = attachment.str_at(&["spec", "nodeName"]);
        if let Some(of_node) = self.0.get_mut(node) {
            of_node.remove(name);
            if of_node.is_empty() {
                self.0.remove(node);
            }
        }
    }

    pub(crate) fn of_node(&self, node: &str) -> impl Iterator<Item = &Arc<Value>> {
        self.0.get(node).into_iter().flat_map(HashMap::values)
    }
}

/// What has to be written before a pod is bound.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    /// The claim takes a volume that is there.
    Take { claim: Arc<Value>, volume: Arc<Value> },
    /// A volume is made for the claim on the pod's node.
    Provision { claim: Arc<Value> },
}

/// What the claims of a pod need: found once for all nodes.
pub(crate) struct Needs(Vec<Need>);

enum Need {
    /// The claim's own volume, if that is there.
    Its(Option<Arc<Value>>),
    /// One of some, or one that is made.
    One { claim: Arc<Value>, choice: Choice },
}

/// The volumes that a claim may take, the best first. Those that only nodes with some label reach, as volumes that are a part of one node
/// are, are looked at for no others: there may be as many as nodes.
struct Choice {
    volumes: Vec<Arc<Value>>,
    /// By label and its value, the volumes whose nodes all have it.
    by_label: HashMap<String, HashMap<String, Vec<usize>>>,
    /// All others.
    anywhere: Vec<usize>,
}

impl Choice {
    fn new(volumes: Vec<&Arc<Value>>) -> Self {
        let mut choice = Self { volumes: volumes.into_iter().cloned().collect(), by_label: HashMap::new(), anywhere: Vec::new() };
        for (at, volume) in choice.volumes.iter().enumerate() {
            let Some(labels) = labels_of(volume) else {
                choice.anywhere.push(at);
                continue;
            };
            for (label, value) in labels {
                choice.by_label.entry(label.into()).or_default().entry(value.into()).or_default().push(at);
            }
        }
        choice
    }

    /// The best that a node reaches and that is allowed.
    fn best(&self, node: &Node, allowed: impl Fn(&Value) -> bool) -> Option<&Arc<Value>> {
        let here = self.by_label.iter().filter_map(|(label, values)| values.get(node.labels().get(label)?.as_str()?));
        let fits = |at: &&usize| allowed(&self.volumes[**at]) && reaches(&self.volumes[**at], node);
        let best = here.chain([&self.anywhere]).filter_map(|all| all.iter().find(fits)).min();
        best.map(|at| &self.volumes[*at])
    }
}

/// Labels and values of which each node that reaches a volume has one; None where nothing is known of them.
fn labels_of(volume: &Value) -> Option<Vec<(&str, &str)>> {
    let terms = volume.list_at(&["spec", "nodeAffinity", "required", "nodeSelectorTerms"]);
    let mut labels = Vec::new();
    for term in terms {
        let one_of = term.list_at(&["matchExpressions"]).iter().find(|e| e.str_at(&["operator"]) == "In")?;
        let values = one_of.list_at(&["values"]).iter().filter_map(Value::as_str);
        labels.extend(values.map(|value| (one_of.str_at(&["key"]), value)));
    }
    (!terms.is_empty()).then_some(labels)
}

const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
const CONFLICT: &str = "node(s) didn't find available persistent volumes to bind";
const NO_ROOM: &str = "node(s) did not have enough free storage";

impl Storage {
    fn claims_of<'a>(&'a self, pod: &'a Value) -> impl Iterator<Item = (String, Option<&'a Arc<Value>>)> {
        let namespace = meta::namespace(pod);
        storage::claims_of(pod).map(move |name| {
            let claim = self.claims.get(&format!("{namespace}/{name}"));
            (name, claim)
        })
    }

    pub(crate) fn has_claims(&self, pod: &Value) -> bool {
        storage::claims_of(pod).next().is_some()
    }

    fn waits(&self, claim: &Value) -> bool {
        claim.str_at(&["spec", "volumeName"]).is_empty()
            && self.classes.get(storage::class(claim)).is_some_and(|class| storage::waits_for_consumer(class))
    }

    /// Why a pod cannot run anywhere yet.
    pub(crate) fn premature(&self, pod: &Value) -> Result<(), String> {
        let mut immediate = false;
        for (name, claim) in self.claims_of(pod) {
            let Some(claim) = claim else {
                let ephemeral = pod
                    .list_at(&["spec", "volumes"])
                    .iter()
                    .any(|v| storage::is_ephemeral(v) && storage::claim_of(pod, v).is_some_and(|of| of == name));
                return Err(match ephemeral {
                    true => format!("waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}"),
                    false => format!("persistentvolumeclaim {name:?} not found"),
                });
            };
            if claim.str_at(&["status", "phase"]) == "Lost" {
                let volume = claim.str_at(&["spec", "volumeName"]);
                return Err(format!("persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"));
            }
            if meta::is_terminating(claim) {
                return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
            }
            immediate |= !storage::is_bound(claim) && !self.waits(claim);
        }
        if immediate { Err("pod has unbound immediate PersistentVolumeClaims".into()) } else { Ok(()) }
    }

    /// What the pod's claims need, wherever it runs.
    pub(crate) fn needs(&self, pod: &Value) -> Needs {
        let need = |claim: &Arc<Value>| match storage::is_bound(claim) {
            true => Need::Its(self.volumes.get(claim.str_at(&["spec", "volumeName"])).cloned()),
            false => Need::One { claim: claim.clone(), choice: Choice::new(storage::candidates(claim, self.volumes.values())) },
        };
        Needs(self.claims_of(pod).filter_map(|(_, claim)| claim.map(need)).collect())
    }

    /// What is to be done before a pod with these needs can run on a node, or why it cannot.
    pub(crate) fn steps(&self, needs: &Needs, node: &Node) -> Result<Vec<Step>, String> {
        let mut steps: Vec<Step> = Vec::new();
        for need in &needs.0 {
            match need {
                Need::Its(None) => return Err("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)".into()),
                Need::Its(Some(volume)) if !reaches(volume, node) => {
                    return Err("node(s) didn't match PersistentVolume's node affinity".into());
                }
                Need::Its(Some(_)) => {}
                Need::One { claim, choice } => steps.push(self.step(claim, choice, node, &steps)?),
            }
        }
        Ok(steps)
    }

    fn step(&self, claim: &Arc<Value>, choice: &Choice, node: &Node, before: &[Step]) -> Result<Step, String> {
        let selected = meta::annotation(claim, SELECTED_NODE);
        if selected.is_some_and(|selected| selected != node.name()) {
            return Err(CONFLICT.into());
        }
        let taken = |v: &Value| before.iter().any(|s| matches!(s, Step::Take { volume, .. } if meta::name(volume) == meta::name(v)));
        // Where a node was chosen already, a volume is being made there.
        if selected.is_none()
            && let Some(volume) = choice.best(node, |v| !taken(v))
        {
            return Ok(Step::Take { claim: claim.clone(), volume: volume.clone() });
        }
        let class = self.classes.get(storage::class(claim)).ok_or(CONFLICT)?;
        let topologies = class.list_at(&["allowedTopologies"]);
        let allowed = topologies.is_empty() || topologies.iter().any(|term| in_topology(term, node));
        match class.str_at(&["provisioner"]) {
            "" | NO_PROVISIONER => Err(CONFLICT.into()),
            _ if !allowed => Err(CONFLICT.into()),
            _ if !self.has_room(claim, class, node) => Err(NO_ROOM.into()),
            _ => Ok(Step::Provision { claim: claim.clone() }),
        }
    }

    /// Whether a driver that says where it has room has enough for the claim where the node reaches it; see KEP-1472.
    fn has_room(&self, claim: &Value, class: &Value, node: &Node) -> bool {
        let tells = |driver: &&Arc<Value>| driver.bool_at(&["spec", "storageCapacity"]) == Some(true);
        let wanted = claim.at(&["spec", "resources", "requests", "storage"]).and_then(Value::as_str);
        let wanted = wanted.and_then(|text| text.parse::<Quantity>().ok()).map(|q| q.value());
        let (Some(_), Some(wanted)) = (self.drivers.get(class.str_at(&["provisioner"])).filter(tells), wanted) else { return true };
        let reached = |capacity: &Value| {
            let topology = capacity.get("nodeTopology").filter(|t| !t.is_null());
            let selector = topology.and_then(|topology| Selector::from_object(Some(topology)).ok().flatten());
            selector.is_some_and(|selector| selector.matches(node.labels()))
        };
        let mut of_class = self.capacities.values().filter(|c| c.str_at(&["storageClassName"]) == meta::name(class));
        of_class.any(|capacity| limit(capacity).is_some_and(|most| most >= wanted) && reached(capacity))
    }
}

/// How much a driver can make in one volume.
fn limit(capacity: &Value) -> Option<i64> {
    let amount = |field: &str| capacity.get(field).and_then(Value::as_str)?.parse::<Quantity>().ok().map(|q| q.value());
    amount("maximumVolumeSize").or_else(|| amount("capacity"))
}

/// Whether a node reaches a volume.
fn reaches(volume: &Value, node: &Node) -> bool {
    let required = volume.at(&["spec", "nodeAffinity", "required"]).filter(|r| !r.is_null());
    required.is_none_or(|r| r.list_at(&["nodeSelectorTerms"]).iter().any(|term| term_matches(term, node)))
}

fn in_topology(term: &Value, node: &Node) -> bool {
    term.list_at(&["matchLabelExpressions"]).iter().all(|expression| {
        let label = node.labels().get(expression.str_at(&["key"]));
        label.is_some_and(|label| expression.list_at(&["values"]).contains(label))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    fn node(name: &str) -> Node {
        let mut node = Node::default();
        node.set_object(Arc::new(object!({ "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } } })));
        node
    }

    fn storage(claim: Value, volume: Option<&str>) -> Storage {
        let mut claim = claim;
        for (path, value) in [(["metadata", "name"], "c"), (["metadata", "namespace"], "ns"), (["metadata", "uid"], "u")] {
            claim.set(&path, value);
        }
        claim.set(&["spec", "accessModes"], object!(["ReadWriteOnce"]));
        let mut storage = Storage::default();
        storage.claims.insert("ns/c".into(), Arc::new(claim));
        for (name, mode, provisioner) in
            [("late", "WaitForFirstConsumer", "x"), ("none", "WaitForFirstConsumer", NO_PROVISIONER), ("now", "Immediate", "x")]
        {
            let class = object!({ "metadata": { "name": name }, "volumeBindingMode": mode, "provisioner": provisioner });
            storage.classes.insert(name.into(), Arc::new(class));
        }
        if let Some(class) = volume {
            let term = object!({ "matchExpressions": [{ "key": "kubernetes.io/hostname", "operator": "In", "values": ["a"] }] });
            let spec = object!({ "storageClassName": class, "accessModes": ["ReadWriteOnce"], "capacity": { "storage": "1Gi" },
                "nodeAffinity": { "required": { "nodeSelectorTerms": [term] } } });
            let volume = object!({ "metadata": { "name": "v" }, "spec": spec, "status": { "phase": "Available" } });
            storage.volumes.insert("v".into(), Arc::new(volume));
        }
        storage
    }

    fn check(storage: &Storage, on: &str) -> String {
        let pod = object!({ "metadata": { "namespace": "ns" }, "spec": { "volumes": [{ "name": "d", "persistentVolumeClaim": { "claimName": "c" } }] } });
        match storage.premature(&pod).and_then(|()| storage.steps(&storage.needs(&pod), &node(on))) {
            Ok(steps) => match steps.as_slice() {
                [] => "nothing".into(),
                [Step::Take { volume, .. }] => format!("take {}", meta::name(volume)),
                [Step::Provision { .. }] => "provision".into(),
                more => format!("{} steps", more.len()),
            },
            Err(why) => why,
        }
    }

    #[test]
    fn a_claim_that_waits_takes_a_volume_of_the_node_or_asks_for_one() {
        let claim = |class: &str| object!({ "spec": { "storageClassName": class } });
        assert_eq!(check(&storage(claim("late"), None), "b"), "provision");
        assert_eq!(check(&storage(claim("late"), Some("late")), "a"), "take v");
        let mut chosen = claim("late");
        meta::set_annotation(&mut chosen, SELECTED_NODE, "a");
        assert_eq!(check(&storage(chosen.clone(), Some("late")), "a"), "provision");
        assert_eq!(check(&storage(chosen, Some("late")), "b"), CONFLICT);
        assert_eq!(check(&storage(claim("none"), Some("none")), "b"), CONFLICT);
        assert_eq!(check(&storage(claim("now"), None), "a"), "pod has unbound immediate PersistentVolumeClaims");
        assert_eq!(check(&Storage::default(), "a"), "persistentvolumeclaim \"c\" not found");
    }

    #[test]
    fn of_many_volumes_a_node_gets_the_smallest_that_it_reaches() {
        let mut storage = storage(object!({ "spec": { "storageClassName": "none" } }), None);
        let mut add = |name: &str, size: &str, terms: Value| {
            let required = if terms.is_null() { Value::Null } else { object!({ "nodeSelectorTerms": terms }) };
            let spec = object!({ "storageClassName": "none", "accessModes": ["ReadWriteOnce"], "capacity": { "storage": size },
                "nodeAffinity": { "required": required } });
            let volume = object!({ "metadata": { "name": name }, "spec": spec, "status": { "phase": "Available" } });
            storage.volumes.insert(name.into(), Arc::new(volume));
        };
        let on = |hosts: &[&str]| {
            let values: Vec<Value> = hosts.iter().map(|host| Value::from(*host)).collect();
            object!({ "matchExpressions": [{ "key": "kubernetes.io/hostname", "operator": "In", "values": values }] })
        };
        let labelled = object!({ "matchExpressions": [{ "key": "kubernetes.io/hostname", "operator": "Exists" }] });
        add("a2", "2Gi", object!([(on(&["a"]))]));
        add("ab3", "3Gi", object!([(on(&["b", "a"]))]));
        add("b1", "1Gi", object!([(on(&["b"]))]));
        add("cd1", "1Gi", object!([(on(&["c"])), (on(&["d"]))]));
        add("labelled5", "5Gi", object!([labelled, (on(&["a"]))]));
        add("never", "1Gi", object!([]));
        for (node, volume) in [("a", "a2"), ("b", "b1"), ("c", "cd1"), ("d", "cd1"), ("e", "labelled5")] {
            assert_eq!(check(&storage, node), format!("take {volume}"), "{node}");
        }
        let every = |node: &str| {
            let pod = object!({ "metadata": { "namespace": "ns" }, "spec": { "volumes": [
                { "name": "d", "persistentVolumeClaim": { "claimName": "c" } }, { "name": "e", "persistentVolumeClaim": { "claimName": "c2" } }] } });
            let mut storage = Storage {
                claims: storage.claims.clone(),
                volumes: storage.volumes.clone(),
                classes: storage.classes.clone(),
                ..Storage::default()
            };
            let mut second = (*storage.claims["ns/c"]).clone();
            second.set(&["metadata", "name"], "c2");
            storage.claims.insert("ns/c2".into(), Arc::new(second));
            let steps = storage.steps(&storage.needs(&pod), &self::node(node)).unwrap();
            let name = |step: &Step| match step {
                Step::Take { volume, .. } => meta::name(volume).to_string(),
                Step::Provision { .. } => "new".into(),
            };
            steps.iter().map(name).collect::<Vec<_>>()
        };
        assert_eq!(every("a"), ["a2", "ab3"]);
        assert_eq!(every("c"), ["cd1", "labelled5"]);
    }

    #[test]
    fn a_volume_is_made_where_its_driver_has_room_as_far_as_it_says() {
        let claim = || object!({ "spec": { "storageClassName": "late", "resources": { "requests": { "storage": "2Gi" } } } });
        let with = |tells: bool, capacities: &[(&str, Value)]| {
            let mut storage = storage(claim(), None);
            let driver = object!({ "metadata": { "name": "x" }, "spec": { "storageCapacity": tells } });
            storage.drivers.insert("x".into(), Arc::new(driver));
            for (number, (class, room)) in capacities.iter().enumerate() {
                let mut capacity = room.clone();
                capacity.set(&["storageClassName"], *class);
                storage.capacities.insert(format!("ns/{number}"), Arc::new(capacity));
            }
            check(&storage, "a")
        };
        let room = |host: &str, most: &str, size: &str| {
            let labels = object!({ "kubernetes.io/hostname": host });
            let mut capacity = object!({ "nodeTopology": { "matchLabels": labels }, "capacity": size });
            if !most.is_empty() {
                capacity.set(&["maximumVolumeSize"], most);
            }
            capacity
        };
        assert_eq!(with(false, &[]), "provision");
        assert_eq!(with(true, &[]), NO_ROOM);
        assert_eq!(with(true, &[("late", room("a", "", "1Gi")), ("late", room("a", "", "2Gi"))]), "provision");
        assert_eq!(with(true, &[("late", room("a", "1Gi", "9Gi"))]), NO_ROOM);
        assert_eq!(with(true, &[("late", room("b", "", "9Gi")), ("none", room("a", "", "9Gi"))]), NO_ROOM);
        assert_eq!(with(true, &[("late", object!({ "capacity": "9Gi" }))]), NO_ROOM);
    }

    #[test]
    fn a_bound_claim_leads_to_the_nodes_of_its_volume() {
        let bound = object!({ "metadata": { "annotations": { "pv.kubernetes.io/bind-completed": "yes" } },
            "spec": { "storageClassName": "late", "volumeName": "v" } });
        let storage = storage(bound, Some("late"));
        assert_eq!(check(&storage, "a"), "nothing");
        assert_eq!(check(&storage, "b"), "node(s) didn't match PersistentVolume's node affinity");
    }

    #[test]
    fn a_claim_whose_volume_is_being_made_stays_with_its_node() {
        let selected = object!({ "metadata": { "annotations": { "volume.kubernetes.io/selected-node": "a" } }, "spec": { "storageClassName": "late" } });
        let storage = storage(selected, None);
        assert_eq!((check(&storage, "a").as_str(), check(&storage, "b").as_str()), ("provision", CONFLICT));
    }
}
