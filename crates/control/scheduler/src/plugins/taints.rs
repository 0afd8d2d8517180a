//! NodeUnschedulable and TaintToleration.

use std::sync::Arc;

use fram_machinery::{Value, object};

use super::per_node::{Judge, PerNode};
use super::text_of;
use crate::cache::Cache;
use crate::framework::{Plugin, Refusal, Sharing, View, normalize};
use crate::node::Node;
use crate::pod::Pod;

/// Whether a toleration covers a taint; see Toleration.ToleratesTaint.
fn tolerates(toleration: &Value, taint: &Value) -> bool {
    let (effect, key) = (toleration.str_at(&["effect"]), toleration.str_at(&["key"]));
    if !effect.is_empty() && effect != taint.str_at(&["effect"]) || !key.is_empty() && key != taint.str_at(&["key"]) {
        return false;
    }
    match toleration.str_at(&["operator"]) {
        "Exists" => true,
        _ => !key.is_empty() && toleration.str_at(&["value"]) == taint.str_at(&["value"]),
    }
}

fn tolerated(pod: &Pod, taint: &Value) -> bool {
    pod.object.list_at(&["spec", "tolerations"]).iter().any(|t| tolerates(t, taint))
}

/// Whether nothing about a node's taints keeps the pod away.
pub(super) fn tolerates_all(pod: &Pod, node: &Node) -> bool {
    let hard = |t: &&Value| matches!(t.str_at(&["effect"]), "NoSchedule" | "NoExecute");
    node.taints().iter().filter(hard).all(|t| tolerated(pod, t))
}

pub(super) fn tolerations(pod: &Pod) -> Option<&Value> {
    pod.object.at(&["spec", "tolerations"])
}

fn is_cordoned(node: &Node) -> bool {
    node.object.as_deref().and_then(|o| o.bool_at(&["spec", "unschedulable"])) == Some(true)
}

fn tolerates_cordons(pod: &Pod) -> bool {
    tolerated(pod, &object!({ "key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule" }))
}

/// Whether the node is cordoned, to a pod that minds.
pub(super) fn cordoned_for(pod: &Pod, node: &Node) -> bool {
    is_cordoned(node) && !tolerates_cordons(pod)
}

pub(super) struct NodeUnschedulable;

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn sharing(&self, pod: &Pod, _: &Cache) -> Sharing {
        if tolerates_cordons(pod) { Sharing::Nothing } else { Sharing::With(String::new()) }
    }

    fn view(&self, _: &Arc<Pod>, cache: &Cache) -> Box<dyn View> {
        PerNode::boxed(Cordoned, cache)
    }
}

struct Cordoned;

impl Judge for Cordoned {
    const PODS: bool = false;

    fn detail(&self, node: &Node) -> u32 {
        is_cordoned(node).into()
    }

    fn refusal(&self, _: u32, _: &Node) -> Option<Refusal> {
        Some(Refusal::lasting("node(s) were unschedulable"))
    }
}

pub(super) struct TaintToleration;

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn sharing(&self, pod: &Pod, _: &Cache) -> Sharing {
        Sharing::With(text_of(&[tolerations(pod)]))
    }

    fn view(&self, pod: &Arc<Pod>, cache: &Cache) -> Box<dyn View> {
        PerNode::boxed(Tolerating(pod.clone()), cache)
    }
}

struct Tolerating(Arc<Pod>);

impl Judge for Tolerating {
    const PODS: bool = false;

    fn detail(&self, node: &Node) -> u32 {
        (!tolerates_all(&self.0, node)).into()
    }

    fn refusal(&self, _: u32, _: &Node) -> Option<Refusal> {
        Some(Refusal::lasting("node(s) had untolerated taint(s)"))
    }

    fn raw(&self, node: &Node) -> i64 {
        let soft = |t: &&Value| t.str_at(&["effect"]) == "PreferNoSchedule" && !tolerated(&self.0, t);
        node.taints().iter().filter(soft).count() as i64
    }

    fn scores(&self, raw: Vec<i64>) -> Option<Vec<i64>> {
        raw.iter().any(|n| *n > 0).then(|| normalize(raw, true))
    }
}

#[cfg(test)]
mod tests {
    use crate::plugins::testing::*;
    use fram_machinery::object;

    #[test]
    fn a_taint_keeps_away_what_does_not_tolerate_it() {
        let mut tainted = node("a", "4");
        tainted.set(&["spec", "taints"], object!([{ "key": "k", "value": "v", "effect": "NoSchedule" }]));
        let mut cache = cache(vec![tainted]);
        check(&mut cache, object!({}), "0/1 nodes are available: 1 node(s) had untolerated taint(s).");
        check(&mut cache, object!({ "tolerations": [{ "key": "k", "operator": "Equal", "value": "v" }] }), "a");
        check(&mut cache, object!({ "tolerations": [{ "operator": "Exists" }] }), "a");
    }

    #[test]
    fn a_cordoned_node_takes_nothing() {
        let mut cordoned = node("a", "4");
        cordoned.set(&["spec", "unschedulable"], true);
        check(&mut cache(vec![cordoned]), object!({}), "0/1 nodes are available: 1 node(s) were unschedulable.");
    }
}
