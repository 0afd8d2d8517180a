//! Plugins about nodes. TaintNodesByCondition: nothing is placed on a new node before it is known to be ready; the node lifecycle
//! controller takes the taint away. PodTopologyLabels: a pod's labels say in which zone and region it runs. NodeDeclaredFeatureValidator
//! and PodResizeValidator: of a running pod nothing is asked that its node cannot do.

use fram_api::quota;
use fram_machinery::quantity::Quantity;
use fram_machinery::{Status, StatusCause, Value, meta, object};

use super::{Operation, Plugin, Request};

const NOT_READY: &str = "node.kubernetes.io/not-ready";

pub(super) struct TaintNodesByCondition;

#[async_trait::async_trait]
impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.creates("", "Node")
    }

    async fn admit(&self, _request: &Request<'_>, mut object: Value, _old: Option<&Value>) -> Result<Value, Status> {
        let is_there = |t: &Value| t.str_at(&["key"]) == NOT_READY && t.str_at(&["effect"]) == "NoSchedule";
        if !object.list_at(&["spec", "taints"]).iter().any(is_there) {
            object.place(&["spec", "taints"]).make_list().push(object!({ "key": NOT_READY, "effect": "NoSchedule" }));
        }
        Ok(object)
    }
}

/// PodTopologyLabels (KEP-4742): what is bound to a node gets the node's labels of topology.
pub(super) struct PodTopologyLabels;

const TOPOLOGY: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

#[async_trait::async_trait]
impl Plugin for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.operation == Operation::Create && request.stored_kind().is("", "Pod") && matches!(request.subresource, "" | "binding")
    }

    async fn admit(&self, request: &Request<'_>, mut object: Value, _old: Option<&Value>) -> Result<Value, Status> {
        let node = match request.subresource {
            "binding" if object.str_at(&["target", "kind"]) != "Node" => "",
            "binding" => object.str_at(&["target", "name"]),
            _ => object.str_at(&["spec", "nodeName"]),
        };
        if node.is_empty() {
            return Ok(object);
        }
        // Whether the node is there is not for this plugin to say.
        for (key, value) in request.labels_of_node(node, &TOPOLOGY).await?.unwrap_or_default() {
            object.place(&["metadata", "labels"]).make_map().insert(key, value);
        }
        Ok(object)
    }
}

/// Whether a change of a pod that is bound to a node may have to be carried out there.
fn changes_bound(request: &Request<'_>, pod: &Value, old: &Value) -> bool {
    request.operation == Operation::Update
        && !pod.str_at(&["spec", "nodeName"]).is_empty()
        && meta::generation(pod) != meta::generation(old)
}

/// The node of a pod, which has to be there.
async fn node_of(request: &Request<'_>, pod: &Value) -> Result<Value, Status> {
    let name = pod.str_at(&["spec", "nodeName"]);
    let found = request.find("", "v1", "nodes", "", name).await?;
    found.ok_or_else(|| request.place.forbidden(&format!("node {name:?} not found")))
}

/// PodResizeValidator: a pod is not made larger than its node, which has to be one that can resize (KEP-1287).
pub(super) struct PodResizeValidator;

#[async_trait::async_trait]
impl Plugin for PodResizeValidator {
    fn name(&self) -> &'static str {
        "PodResizeValidator"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.stored_kind().is("", "Pod") && request.subresource == "resize"
    }

    async fn validate(&self, request: &Request<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), Status> {
        let (Some(pod), Some(old)) = (object, old) else { return Ok(()) };
        if !changes_bound(request, pod, old) {
            return Ok(());
        }
        let node = node_of(request, pod).await?;
        let refuse = |reason: &str, why: String| {
            let mut status = request.place.forbidden(&why);
            status.causes.push(StatusCause { reason: reason.into(), message: String::new(), field: String::new() });
            Err(status)
        };
        if let Some(system) = meta::label(&node, "kubernetes.io/os").filter(|system| *system != "linux") {
            let why = format!("pod resize is only supported on linux nodes, node {:?} is {system:?}", meta::name(&node));
            return refuse("UnsupportedPlatform", why);
        }
        let lacking = lacking(pod, &node);
        if !lacking.is_empty() {
            return refuse("NodeCapacity", format!("node didn't have enough allocatable resources: {}", lacking.join("; ")));
        }
        Ok(())
    }
}

/// What a pod asks for that its node has not got even when it is empty.
fn lacking(pod: &Value, node: &Value) -> Vec<String> {
    let requests = quota::requests(pod);
    let lacks = ["cpu", "memory"].into_iter().filter_map(|name| {
        let number = |amount: &Quantity| if name == "cpu" { amount.milli_value() } else { amount.value() };
        let allocatable = node.at(&["status", "allocatable", name]).and_then(|q| q.as_str()?.parse().ok()).unwrap_or(Quantity::zero());
        let requested = requests.get(name).copied().unwrap_or(Quantity::zero());
        let text = || format!("{name}, requested: {}, allocatable: {}", number(&requested), number(&allocatable));
        (requested > allocatable).then(text)
    });
    lacks.collect()
}

/// NodeDeclaredFeatureValidator (KEP-5328): what a change of a pod needs, its node has to have declared.
pub(super) struct NodeDeclaredFeatureValidator;

#[async_trait::async_trait]
impl Plugin for NodeDeclaredFeatureValidator {
    fn name(&self) -> &'static str {
        "NodeDeclaredFeatureValidator"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.operation == Operation::Update && request.stored_kind().is("", "Pod") && matches!(request.subresource, "" | "resize")
    }

    async fn validate(&self, request: &Request<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), Status> {
        let (Some(pod), Some(old)) = (object, old) else { return Ok(()) };
        if !changes_bound(request, pod, old) {
            return Ok(());
        }
        let needed = needed_by_change(pod, old);
        if needed.is_empty() {
            return Ok(());
        }
        let found = node_of(request, pod).await?;
        let declared = found.list_at(&["status", "declaredFeatures"]);
        let missing: Vec<&str> = needed.into_iter().filter(|name| !declared.iter().any(|d| d.as_str() == Some(*name))).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let why = format!("pod update requires features {} which are not available on node {:?}", missing.join(", "), meta::name(&found));
        Err(request.place.forbidden(&why))
    }
}

/// What a kubelet has to have declared to carry out a change, by the features' names; see component-helpers/nodedeclaredfeatures.
fn needed_by_change(pod: &Value, old: &Value) -> Vec<&'static str> {
    let level = |pod: &Value| pod.at(&["spec", "resources"]).cloned();
    let init = |pod: &Value| -> Vec<Option<Value>> {
        let list = pod.list_at(&["spec", "initContainers"]).iter();
        list.filter(|c| c.str_at(&["restartPolicy"]) != "Always").map(|c| c.get("resources").cloned()).collect()
    };
    [
        ("InPlacePodLevelResourcesVerticalScaling", level(pod) != level(old)),
        ("InPlacePodVerticalScalingInitContainers", init(pod) != init(old)),
    ]
    .into_iter()
    .filter_map(|(name, needed)| needed.then_some(name))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_needs_what_it_changes() {
        let pod = |level: &str, init: &str, sidecar: &str| {
            let amount = |cpu: &str| object!({ "requests": { "cpu": cpu } });
            let containers = object!([
                { "name": "i", "resources": (amount(init)) },
                { "name": "s", "restartPolicy": "Always", "resources": (amount(sidecar)) }
            ]);
            object!({ "spec": { "resources": (amount(level)), "initContainers": containers } })
        };
        let old = pod("1", "1", "1");
        assert!(needed_by_change(&pod("1", "1", "2"), &old).is_empty());
        assert_eq!(needed_by_change(&pod("1", "2", "1"), &old), ["InPlacePodVerticalScalingInitContainers"]);
        assert_eq!(needed_by_change(&pod("2", "1", "1"), &old), ["InPlacePodLevelResourcesVerticalScaling"]);
    }
}
