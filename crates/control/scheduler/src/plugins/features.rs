//! NodeDeclaredFeatures: pods run where the kubelet can do what they need beyond what every kubelet can. See KEP-5328.

use std::sync::Arc;

use fram_machinery::Value;

use super::per_node::{Judge, PerNode};
use crate::cache::Cache;
use crate::framework::{Plugin, Refusal, Sharing, View};
use crate::node::Node;
use crate::pod::Pod;

/// What a pod needs a kubelet to have declared, by the features' names; see component-helpers/nodedeclaredfeatures.
fn needed(pod: &Value) -> Vec<&'static str> {
    let containers = ["initContainers", "containers"].into_iter().flat_map(|list| pod.list_at(&["spec", list]));
    let mut rules = containers.flat_map(|c| c.list_at(&["restartPolicyRules"]));
    let restarts_all = rules.any(|rule| rule.str_at(&["action"]) == "RestartAllContainers");
    let is = |field: &str, value: bool| pod.bool_at(&["spec", field]) == Some(value);
    [
        ("RestartAllContainersOnContainerExits", restarts_all),
        ("UserNamespacesHostNetworkSupport", is("hostNetwork", true) && is("hostUsers", false)),
    ]
    .into_iter()
    .filter_map(|(name, needed)| needed.then_some(name))
    .collect()
}

pub(super) struct NodeDeclaredFeatures;

impl Plugin for NodeDeclaredFeatures {
    fn name(&self) -> &'static str {
        "NodeDeclaredFeatures"
    }

    fn sharing(&self, pod: &Pod, _: &Cache) -> Sharing {
        match needed(&pod.object).as_slice() {
            [] => Sharing::Nothing,
            names => Sharing::With(names.join(" ")),
        }
    }

    fn view(&self, pod: &Arc<Pod>, cache: &Cache) -> Box<dyn View> {
        PerNode::boxed(Needing(needed(&pod.object)), cache)
    }
}

struct Needing(Vec<&'static str>);

impl Judge for Needing {
    const PODS: bool = false;

    fn detail(&self, node: &Node) -> u32 {
        let declared = node.object.as_deref().map_or(&[][..], |o| o.list_at(&["status", "declaredFeatures"]));
        let has = |name: &&str| declared.iter().any(|d| d.as_str() == Some(name));
        (!self.0.iter().all(has)).into()
    }

    fn refusal(&self, _: u32, _: &Node) -> Option<Refusal> {
        Some(Refusal::lasting("node(s) didn't match Pod's required features"))
    }
}

#[cfg(test)]
mod tests {
    use crate::plugins::testing::*;
    use fram_machinery::object;

    #[test]
    fn a_pod_runs_where_its_features_are_declared() {
        let mut capable = node("b", "1");
        capable.set(&["status", "declaredFeatures"], object!(["RestartAllContainersOnContainerExits"]));
        let mut cache = cache(vec![node("a", "4"), capable]);
        let rule = object!({ "action": "RestartAllContainers", "exitCodes": { "operator": "In", "values": [1] } });
        let restarting = || object!({ "containers": [{ "restartPolicyRules": [(rule.clone())] }] });
        check(&mut cache, restarting(), "b");
        check(&mut cache, object!({}), "a");
        let both = object!({ "hostNetwork": true, "hostUsers": false });
        check(&mut cache, both, "0/2 nodes are available: 2 node(s) didn't match Pod's required features.");
        cache.remove_node("b");
        check(&mut cache, restarting(), "0/1 nodes are available: 1 node(s) didn't match Pod's required features.");
    }
}
