//! Plugins about nodes. TaintNodesByCondition: nothing is placed on a new node before it is known to be ready; the node lifecycle
//! controller takes the taint away. NodeDeclaredFeatureValidator: of a running pod nothing is asked that its node cannot do.

use fram_machinery::{Status, Value, meta, object};

use super::{Operation, Plugin, Request};

const NOT_READY: &str = "node.kubernetes.io/not-ready";

pub(super) struct TaintNodesByCondition;

#[async_trait::async_trait]
impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    async fn admit(&self, request: &Request<'_>, mut object: Value, _old: Option<&Value>) -> Result<Value, Status> {
        if !request.is_about("", "Node") || request.operation != Operation::Create {
            return Ok(object);
        }
        let is_there = |t: &Value| t.str_at(&["key"]) == NOT_READY && t.str_at(&["effect"]) == "NoSchedule";
        if !object.list_at(&["spec", "taints"]).iter().any(is_there) {
            object.place(&["spec", "taints"]).make_list().push(object!({ "key": NOT_READY, "effect": "NoSchedule" }));
        }
        Ok(object)
    }
}

/// NodeDeclaredFeatureValidator (KEP-5328): what a change of a pod needs, its node has to have declared.
pub(super) struct NodeDeclaredFeatureValidator;

#[async_trait::async_trait]
impl Plugin for NodeDeclaredFeatureValidator {
    fn name(&self) -> &'static str {
        "NodeDeclaredFeatureValidator"
    }

    async fn validate(&self, request: &Request<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), Status> {
        let (Some(pod), Some(old)) = (object, old) else { return Ok(()) };
        let concerned = request.stored_kind().is("", "Pod") && matches!(request.subresource, "" | "resize");
        let node = pod.str_at(&["spec", "nodeName"]);
        if !concerned || request.operation != Operation::Update || node.is_empty() || meta::generation(pod) == meta::generation(old) {
            return Ok(());
        }
        let needed = needed_by_change(pod, old);
        if needed.is_empty() {
            return Ok(());
        }
        let found = request.find("", "v1", "nodes", "", node).await?;
        let found = found.ok_or_else(|| request.place.forbidden(&format!("node {node:?} not found")))?;
        let declared = found.list_at(&["status", "declaredFeatures"]);
        let missing: Vec<&str> = needed.into_iter().filter(|name| !declared.iter().any(|d| d.as_str() == Some(*name))).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let why = format!("pod update requires features {} which are not available on node {node:?}", missing.join(", "));
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
