//! NodeUnschedulable and TaintToleration.

use fram_machinery::Value;

use crate::framework::{Cluster, Plugin, Refusal, normalize};
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

pub(super) struct NodeUnschedulable;
impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn filter(&self, pod: &Pod, node: &Node, _: &Cluster<'_>) -> Result<(), Refusal> {
        let cordoned = node.object.as_deref().and_then(|o| o.bool_at(&["spec", "unschedulable"])) == Some(true);
        let taint = fram_machinery::object!({ "key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule" });
        if cordoned && !tolerated(pod, &taint) {
            return Err(Refusal::lasting("node(s) were unschedulable"));
        }
        Ok(())
    }
}

pub(super) struct TaintToleration;
impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn weight(&self) -> i64 {
        3
    }

    fn filter(&self, pod: &Pod, node: &Node, _: &Cluster<'_>) -> Result<(), Refusal> {
        let hard = |t: &&Value| matches!(t.str_at(&["effect"]), "NoSchedule" | "NoExecute");
        match node.taints().iter().filter(hard).all(|t| tolerated(pod, t)) {
            true => Ok(()),
            false => Err(Refusal::lasting("node(s) had untolerated taint(s)")),
        }
    }

    fn score(&self, pod: &Pod, nodes: &[&Node], _: &Cluster<'_>) -> Option<Vec<i64>> {
        let soft = |t: &&Value| t.str_at(&["effect"]) == "PreferNoSchedule" && !tolerated(pod, t);
        Some(normalize(nodes.iter().map(|n| n.taints().iter().filter(soft).count() as i64).collect(), true))
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
        let cache = cache(vec![tainted]);
        check(&cache, object!({}), "0/1 nodes are available: 1 node(s) had untolerated taint(s).");
        check(&cache, object!({ "tolerations": [{ "key": "k", "operator": "Equal", "value": "v" }] }), "a");
        check(&cache, object!({ "tolerations": [{ "operator": "Exists" }] }), "a");
    }

    #[test]
    fn a_cordoned_node_takes_nothing() {
        let mut cordoned = node("a", "4");
        cordoned.set(&["spec", "unschedulable"], true);
        check(&cache(vec![cordoned]), object!({}), "0/1 nodes are available: 1 node(s) were unschedulable.");
    }
}
