//! NodeName and NodeAffinity: where the pod itself wants to run.

use fram_machinery::Value;
use fram_machinery::labels::Selector;

use crate::framework::{Cluster, Plugin, Refusal, normalize};
use crate::node::Node;
use crate::pod::Pod;

pub(super) struct NodeName;
impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn filter(&self, pod: &Pod, node: &Node, _: &Cluster<'_>) -> Result<(), Refusal> {
        match pod.node() {
            "" => Ok(()),
            name if name == node.name() => Ok(()),
            _ => Err(Refusal::lasting("node(s) didn't match the requested node name")),
        }
    }
}

/// One expression of a node selector term.
fn expression_matches(expression: &Value, get: impl Fn(&str) -> Option<String>) -> bool {
    let found = get(expression.str_at(&["key"]));
    let values: Vec<&str> = expression.list_at(&["values"]).iter().filter_map(Value::as_str).collect();
    let number = |text: &str| text.parse::<i64>().ok();
    let compare = |better: fn(i64, i64) -> bool| {
        let (Some(found), Some(bound)) = (found.as_deref().and_then(number), values.first().and_then(|v| number(v))) else { return false };
        better(found, bound)
    };
    match expression.str_at(&["operator"]) {
        "In" => found.as_deref().is_some_and(|f| values.contains(&f)),
        "NotIn" => found.as_deref().is_none_or(|f| !values.contains(&f)),
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        "Gt" => compare(|a, b| a > b),
        "Lt" => compare(|a, b| a < b),
        _ => false,
    }
}

/// Whether a node matches a term: all of its expressions; an empty term matches nothing.
pub(crate) fn term_matches(term: &Value, node: &Node) -> bool {
    let (labels, fields) = (term.list_at(&["matchExpressions"]), term.list_at(&["matchFields"]));
    let label = |key: &str| node.labels().get(key).and_then(Value::as_str).map(String::from);
    let field = |key: &str| (key == "metadata.name").then(|| node.name().to_string());
    !(labels.is_empty() && fields.is_empty())
        && labels.iter().all(|e| expression_matches(e, label))
        && fields.iter().all(|e| expression_matches(e, field))
}

/// Whether the pod's node selector and required affinity let it run on a node.
pub(crate) fn required_matches(pod: &Value, node: &Node) -> bool {
    let selector = pod.at(&["spec", "nodeSelector"]).and_then(Value::as_map);
    if selector.is_some_and(|s| !Selector::from_map(s).matches(node.labels())) {
        return false;
    }
    let required = pod.at(&["spec", "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"]);
    required.filter(|r| !r.is_null()).is_none_or(|r| r.list_at(&["nodeSelectorTerms"]).iter().any(|t| term_matches(t, node)))
}

pub(super) struct NodeAffinity;
impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn filter(&self, pod: &Pod, node: &Node, _: &Cluster<'_>) -> Result<(), Refusal> {
        let fits = required_matches(&pod.object, node);
        fits.then_some(()).ok_or_else(|| Refusal::lasting("node(s) didn't match Pod's node affinity/selector"))
    }

    fn score(&self, pod: &Pod, nodes: &[&Node], _: &Cluster<'_>) -> Option<Vec<i64>> {
        let preferred = pod.object.list_at(&["spec", "affinity", "nodeAffinity", "preferredDuringSchedulingIgnoredDuringExecution"]);
        if preferred.is_empty() {
            return None;
        }
        let weight = |node: &&Node| -> i64 {
            let met = preferred.iter().filter(|p| p.get("preference").is_some_and(|t| term_matches(t, node)));
            met.filter_map(|p| p.int_at(&["weight"])).sum()
        };
        Some(normalize(nodes.iter().map(weight).collect(), false))
    }
}

#[cfg(test)]
mod tests {
    use crate::plugins::testing::*;
    use fram_machinery::{Value, object};

    fn affinity(kind: &str, value: Value) -> Value {
        let mut spec = object!({});
        spec.set(&["affinity", "nodeAffinity", kind], value);
        spec
    }

    #[test]
    fn a_pod_runs_where_its_selector_and_affinity_say() {
        let cache = cache(vec![node("a", "4"), node("b", "4")]);
        check(&cache, object!({ "nodeSelector": { "kubernetes.io/hostname": "b" } }), "b");
        let terms = object!({ "nodeSelectorTerms": [{ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": ["b"] }] }] });
        check(&cache, affinity("requiredDuringSchedulingIgnoredDuringExecution", terms), "b");
        let nothing = object!({ "nodeSelectorTerms": [{}] });
        let none = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.";
        check(&cache, affinity("requiredDuringSchedulingIgnoredDuringExecution", nothing), none);
    }

    #[test]
    fn a_preference_outweighs_balance() {
        let cache = cache(vec![node("a", "8"), node("b", "4")]);
        let preference = object!([{ "weight": 10, "preference": {
            "matchExpressions": [{ "key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["a"] }] } }]);
        check(&cache, affinity("preferredDuringSchedulingIgnoredDuringExecution", preference), "b");
    }
}
