//! Extended resources that device classes stand behind (KEP-5004): where a node does not have such a resource itself, the pod gets
//! devices of the class by a claim that is made for it. Pure; see upstream's extendeddynamicresources.go.

use std::collections::BTreeMap;
use std::sync::Arc;

use fram_machinery::quantity::Quantity;
use fram_machinery::{Map, Value, meta, object};

use super::Devices;
use crate::node::Node;
use crate::pod::Pod;

/// On a claim that was made for a pod's extended resources; see ExtendedResourceClaimAnnotation.
const ANNOTATION: &str = "resource.kubernetes.io/extended-resource-claim";
/// Before the name of a class: the resource that each class stands behind; see ResourceDeviceClassPrefix.
const OF_CLASS: &str = "deviceclass.resource.kubernetes.io/";
/// No claim in the API has such a name.
const UNMADE: &str = "<extended-resources>-";

/// Resources of a pod, with the classes behind them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Extended {
    pod: Arc<Value>,
    classes: BTreeMap<String, String>,
}

/// A claim that is to be made, and which request of it is for which resource of which container.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) claim: Arc<Value>,
    pub(crate) mappings: Vec<Value>,
}

/// Whether a claim is yet to be made.
pub(crate) fn is_unmade(claim: &Value) -> bool {
    meta::name(claim).starts_with(UNMADE)
}

/// The pod for whose extended resources a claim was made, by its UID.
pub(super) fn pod_of(claim: &Value) -> Option<&str> {
    let made = meta::annotation(claim, ANNOTATION) == Some("true");
    let owner = meta::controller_of(claim).filter(|owner| made && owner.str_at(&["kind"]) == "Pod");
    owner.map(|owner| owner.str_at(&["uid"]))
}

/// Whether a claim was made for the extended resources of this pod.
pub(crate) fn is_for(claim: &Value, pod_uid: &str) -> bool {
    pod_of(claim) == Some(pod_uid)
}

/// As which claim a pod's extended resources are counted before the API has it.
pub(super) fn key_of_unmade(namespace: &str, uid: &str) -> String {
    format!("{namespace}/{UNMADE}{uid}")
}

/// Whether a class may stand behind a resource; see IsDRAExtendedResourceName.
fn may_be_extended(name: &str) -> bool {
    name.starts_with(OF_CLASS) || name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

impl Devices {
    /// The class behind a resource. Of several that name it the newest counts, and of those the first by name.
    pub(crate) fn class_behind(&self, resource: &str) -> Option<&str> {
        if !may_be_extended(resource) {
            return None;
        }
        if let Some(name) = resource.strip_prefix(OF_CLASS) {
            return self.classes.get_key_value(name).map(|(name, _)| name.as_str());
        }
        let naming = self.classes.values().filter(|class| class.str_at(&["spec", "extendedResourceName"]) == resource);
        let rank = |class: &&Arc<Value>| {
            (class.str_at(&["metadata", "creationTimestamp"]).to_string(), std::cmp::Reverse(meta::name(class).to_string()))
        };
        naming.max_by_key(rank).map(|class| meta::name(class))
    }

    /// What of a pod's resources classes stand behind; None where there is none.
    pub(crate) fn extended(&self, pod: &Pod) -> Option<Extended> {
        let asked = pod.asks.requests.iter().filter(|(_, n)| *n > 0);
        let classes: BTreeMap<String, String> =
            asked.filter_map(|(name, _)| Some((name.to_string(), self.class_behind(name)?.to_string()))).collect();
        (!classes.is_empty()).then(|| Extended { pod: pod.object.clone(), classes })
    }

    /// The claim that was made for the pod's extended resources at an attempt before.
    pub(crate) fn made_for(&self, pod: &Pod) -> Option<&Arc<Value>> {
        self.claims.get(self.made.get(&*pod.uid)?)
    }
}

impl Extended {
    pub(crate) fn resources(&self) -> impl Iterator<Item = &str> {
        self.classes.keys().map(String::as_str)
    }

    /// The claim by which the pod has on a node what the node itself does not have; None where it has all.
    pub(crate) fn wanted_on(&self, node: &Node) -> Option<Wanted> {
        self.wanted(|resource| node.allocatable.get(resource) == 0)
    }

    fn wanted(&self, lacks: impl Fn(&str) -> bool) -> Option<Wanted> {
        let missing = self.classes.iter().filter(|(resource, _)| lacks(resource));
        let mut requests = Requests { containers: containers(&self.pod), requests: Vec::new(), mappings: Vec::new() };
        missing.for_each(|(resource, class)| requests.add(resource, class));
        let Requests { mut requests, mappings, .. } = requests;
        if requests.is_empty() {
            return None;
        }
        requests.sort_by(|a, b| a.str_at(&["name"]).cmp(b.str_at(&["name"])));
        let (name, namespace, uid) = (meta::name(&self.pod), meta::namespace(&self.pod), meta::uid(&self.pod));
        let mut claim = object!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
            "metadata": {
                "namespace": namespace, "name": (format!("{UNMADE}{uid}")), "uid": (format!("{UNMADE}{uid}")),
                "generateName": (format!("{name}-extended-resources-")),
                "ownerReferences": [{ "apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid, "controller": true }]
            },
            "spec": { "devices": { "requests": requests } }
        });
        meta::set_annotation(&mut claim, ANNOTATION, "true");
        Some(Wanted { claim: Arc::new(claim), mappings })
    }
}

/// The object to be created for a claim that is not made yet.
pub(crate) fn to_be_made(claim: &Value) -> Value {
    let mut out = claim.clone();
    out.remove(&["metadata", "name"]);
    out.remove(&["metadata", "uid"]);
    out
}

/// What the pod's status says of the claim that was made.
pub(crate) fn status(claim: &Value, mappings: &[Value]) -> Value {
    object!({ "extendedResourceClaimStatus": { "resourceClaimName": (meta::name(claim)), "requestMappings": (mappings.to_vec()) } })
}

/// Init containers and then the others, and whether each ends before the next begins.
fn containers(pod: &Value) -> Vec<(&Value, bool)> {
    let of = |list: &'static str| pod.list_at(&["spec", list]).iter();
    let short = |c: &Value| c.str_at(&["restartPolicy"]) != "Always";
    of("initContainers").map(|c| (c, short(c))).chain(of("containers").map(|c| (c, false))).collect()
}

struct Requests<'a> {
    containers: Vec<(&'a Value, bool)>,
    requests: Vec<Value>,
    mappings: Vec<Value>,
}

/// A request of one container for one resource.
struct Request {
    name: String,
    count: i64,
}

impl Requests<'_> {
    /// The requests for one resource. Devices of a container that stays are used by the init containers before it, and those that
    /// init containers need beyond are one request, the largest of theirs. See createRequestsAndMappings.
    fn add(&mut self, resource: &str, class: &str) {
        let (mut lasting, mut mappings): (Vec<Option<Request>>, Vec<(usize, String)>) = (Vec::new(), Vec::new());
        for (at, (container, short)) in self.containers.iter().enumerate() {
            let count = asked(container, resource).filter(|_| !short);
            lasting.push(count.map(|count| Request { name: request_name(at, container, resource), count }));
            mappings.extend(lasting[at].iter().map(|r| (at, r.name.clone())));
        }
        let mut largest: Option<Request> = None;
        let (mut passing, mut names) = (Vec::new(), Vec::new());
        for (at, (container, short)) in self.containers.iter().enumerate() {
            let Some(mut count) = asked(container, resource).filter(|_| *short) else { continue };
            for request in lasting[at..].iter().flatten() {
                if count <= 0 {
                    break;
                }
                count -= request.count;
                passing.push((at, request.name.clone()));
            }
            if count > 0 {
                let name = request_name(at, container, resource);
                passing.push((at, name.clone()));
                names.push(name.clone());
                if largest.as_ref().is_none_or(|l| l.count < count) {
                    largest = Some(Request { name, count });
                }
            }
        }
        if let Some(largest) = &largest {
            let own = passing.iter_mut().filter(|(_, name)| names.contains(name));
            own.for_each(|(_, name)| name.clone_from(&largest.name));
        }
        for request in largest.into_iter().chain(lasting.into_iter().flatten()) {
            self.requests.push(object!({ "name": (request.name), "exactly": {
                "deviceClassName": class, "allocationMode": "ExactCount", "count": (request.count) } }));
        }
        for (at, request) in mappings.into_iter().chain(passing) {
            let container = self.containers[at].0.str_at(&["name"]);
            self.mappings.push(object!({ "containerName": container, "resourceName": resource, "requestName": request }));
        }
    }
}

/// How much of a resource a container asks for; None where it does not.
fn asked(container: &Value, resource: &str) -> Option<i64> {
    let text = container.at(&["resources", "requests", resource])?.as_str()?;
    text.parse::<Quantity>().ok().map(|q| q.value()).filter(|n| *n > 0)
}

/// By the places of the container and of the resource among those that it asks for.
fn request_name(container: usize, spec: &Value, resource: &str) -> String {
    let names = spec.at(&["resources", "requests"]).and_then(Value::as_map).into_iter().flat_map(Map::keys);
    let at = names.into_iter().position(|name| name.as_str() == resource).unwrap_or(0);
    format!("container-{container}-request-{at}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(name: &str, resource: &str, created: &str) -> Arc<Value> {
        Arc::new(object!({ "metadata": { "name": name, "creationTimestamp": created }, "spec": { "extendedResourceName": resource } }))
    }

    fn devices() -> Devices {
        let mut devices = Devices::default();
        for (name, resource, created) in [
            ("old", "d.io/gpu", "2026-01-01T00:00:00Z"),
            ("b", "d.io/gpu", "2026-01-02T00:00:00Z"),
            ("a", "d.io/gpu", "2026-01-02T00:00:00Z"),
        ] {
            devices.set_class(name, Some(class(name, resource, created)));
        }
        devices
    }

    #[test]
    fn the_newest_class_stands_behind_a_resource_and_each_behind_one_of_its_own() {
        let table = [
            ("d.io/gpu", Some("a")),
            ("deviceclass.resource.kubernetes.io/old", Some("old")),
            ("deviceclass.resource.kubernetes.io/none", None),
            ("d.io/other", None),
            ("cpu", None),
            ("kubernetes.io/gpu", None),
        ];
        for (resource, expect) in table {
            assert_eq!(devices().class_behind(resource), expect, "{resource}");
        }
    }

    fn container(name: &str, gpus: &str) -> Value {
        object!({ "name": name, "resources": { "requests": { "cpu": "1", "d.io/gpu": gpus } } })
    }

    /// The requests of the claim with their counts, and which container uses which, for these containers.
    fn found(init: Vec<Value>, all: Vec<Value>) -> (String, String) {
        let pod = Pod::alone(object!({ "metadata": { "name": "p", "namespace": "ns", "uid": "u" },
            "spec": { "initContainers": init, "containers": all } }));
        let wanted = devices().extended(&pod).unwrap().wanted(|_| true).unwrap();
        let requests = wanted.claim.list_at(&["spec", "devices", "requests"]).iter();
        let requests = requests.map(|r| format!("{}={}", r.str_at(&["name"]), r.int_at(&["exactly", "count"]).unwrap()));
        let mappings = wanted.mappings.iter().map(|m| format!("{}:{}", m.str_at(&["containerName"]), m.str_at(&["requestName"])));
        let short = |texts: Vec<String>| texts.join(" ").replace("container-", "").replace("-request-1", "");
        (short(requests.collect()), short(mappings.collect()))
    }

    #[test]
    fn init_containers_use_the_devices_of_those_that_come_after_them() {
        let sidecar = |name: &str, gpus: &str| {
            let mut container = container(name, gpus);
            container.set(&["restartPolicy"], "Always");
            container
        };
        let table = [
            (vec![], vec![container("a", "1"), container("b", "2")], "0=1 1=2", "a:0 b:1"),
            (vec![container("i", "1")], vec![container("a", "2")], "1=2", "a:1 i:1"),
            (vec![container("i", "3")], vec![container("a", "2")], "0=1 1=2", "a:1 i:1 i:0"),
            (vec![container("i", "1"), container("j", "2")], vec![object!({ "name": "a" })], "1=2", "i:1 j:1"),
            (vec![sidecar("s", "1"), container("i", "2")], vec![container("a", "1")], "0=1 1=1 2=1", "s:0 a:2 i:2 i:1"),
        ];
        for (init, all, requests, mappings) in table {
            let text = format!("{init:?} {all:?}");
            assert_eq!(found(init, all), (requests.to_string(), mappings.to_string()), "{text}");
        }
    }

    #[test]
    fn a_node_that_has_the_resource_itself_needs_no_claim() {
        let pod = Pod::alone(
            object!({ "metadata": { "name": "p", "namespace": "ns", "uid": "u" }, "spec": { "containers": [(container("a", "1"))] } }),
        );
        let extended = devices().extended(&pod).unwrap();
        let mut node = crate::plugins::testing::node("n", "4");
        assert!(extended.wanted_on(&of(&node)).is_some_and(|w| is_unmade(&w.claim) && pod_of(&w.claim) == Some("u")));
        node.set(&["status", "allocatable", "d.io/gpu"], "1");
        assert_eq!(extended.wanted_on(&of(&node)), None);
    }

    fn of(object: &Value) -> Node {
        let mut node = Node::default();
        node.set_object(Arc::new(object.clone()));
        node
    }
}
