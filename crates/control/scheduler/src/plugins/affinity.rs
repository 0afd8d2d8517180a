//! NodeName and NodeAffinity: where the pod itself wants to run.

use std::sync::Arc;

use fram_machinery::Value;
use fram_machinery::labels::Selector;

use super::per_node::{Judge, PerNode};
use super::text_of;
use crate::cache::Cache;
use crate::framework::{Plugin, Refusal, Sharing, View, normalize};
use crate::node::Node;
use crate::pod::Pod;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub(super) struct NodeName;

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn sharing(&self, pod: &Pod, _: &Cache) -> Sharing {
        if pod.node().is_empty() { Sharing::Nothing } else { Sharing::With(pod.node().into()) }
    }

    fn view(&self, pod: &Arc<Pod>, cache: &Cache) -> Box<dyn View> {
        PerNode::boxed(Named(pod.node().into()), cache)
    }
}

struct Named(String);

impl Judge for Named {
    const PODS: bool = false;

    fn detail(&self, node: &Node) -> u32 {
        (node.name() != self.0).into()
    }

    fn refusal(&self, _: u32, _: &Node) -> Option<Refusal> {
        Some(Refusal::lasting("node(s) didn't match the requested node name"))
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
    pod.at(&["spec", "affinity", "nodeAffinity"]).is_none_or(|affinity| satisfies(affinity, node))
}

/// Whether a node meets what a NodeAffinity requires.
fn satisfies(affinity: &Value, node: &Node) -> bool {
    let required = affinity.get(REQUIRED).filter(|r| !r.is_null());
    required.is_none_or(|r| r.list_at(&["nodeSelectorTerms"]).iter().any(|t| term_matches(t, node)))
}

pub(super) struct NodeAffinity {
    /// Counts beside each pod's own; see NodeAffinityArgs.addedAffinity.
    pub(super) added: Value,
}

fn own(pod: &Pod) -> Option<&Value> {
    pod.object.at(&["spec", "affinity", "nodeAffinity"]).filter(|a| !a.is_null())
}

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn sharing(&self, pod: &Pod, _: &Cache) -> Sharing {
        let selector = pod.object.at(&["spec", "nodeSelector"]).filter(|s| !s.is_null());
        if selector.is_none() && own(pod).is_none() && self.added.is_null() {
            return Sharing::Nothing;
        }
        Sharing::With(text_of(&[selector, own(pod)]))
    }

    fn view(&self, pod: &Arc<Pod>, cache: &Cache) -> Box<dyn View> {
        PerNode::boxed(Matching { pod: pod.clone(), added: self.added.clone() }, cache)
    }
}

struct Matching {
    pod: Arc<Pod>,
    added: Value,
}

impl Matching {
    fn preferred(&self) -> impl Iterator<Item = &Value> {
        self.added.list_at(&[PREFERRED]).iter().chain(own(&self.pod).map_or(&[][..], |a| a.list_at(&[PREFERRED])))
    }
}

const NOT_THE_PODS: u32 = 1;
const NOT_THE_SCHEDULERS: u32 = 2;

impl Judge for Matching {
    const PODS: bool = false;

    fn detail(&self, node: &Node) -> u32 {
        match (satisfies(&self.added, node), required_matches(&self.pod.object, node)) {
            (false, _) => NOT_THE_SCHEDULERS,
            (true, false) => NOT_THE_PODS,
            (true, true) => 0,
        }
    }

    fn refusal(&self, detail: u32, _: &Node) -> Option<Refusal> {
        Some(Refusal::lasting(match detail {
            NOT_THE_SCHEDULERS => "node(s) didn't match scheduler-enforced node affinity",
            _ => "node(s) didn't match Pod's node affinity/selector",
        }))
    }

    fn raw(&self, node: &Node) -> i64 {
        let met = self.preferred().filter(|p| p.get("preference").is_some_and(|t| term_matches(t, node)));
        met.filter_map(|p| p.int_at(&["weight"])).sum()
    }

    fn scores(&self, raw: Vec<i64>) -> Option<Vec<i64>> {
        self.preferred().next().is_some().then(|| normalize(raw, false))
    }

    /// The pods of a DaemonSet name their nodes; see upstream's GetAffinityTerms and PreFilterResult.
    fn only(&self) -> Option<(Vec<String>, u32)> {
        if !self.added.is_null() {
            return None;
        }
        let terms = own(&self.pod)?.get(REQUIRED)?.list_at(&["nodeSelectorTerms"]);
        let named = |term: &Value| {
            let fields = term.list_at(&["matchFields"]).iter();
            let mut exact = fields.filter(|f| f.str_at(&["key"]) == "metadata.name" && f.str_at(&["operator"]) == "In");
            exact.next().map(|f| f.list_at(&["values"]).iter().filter_map(Value::as_str).map(String::from).collect::<Vec<_>>())
        };
        let names: Vec<Vec<String>> = terms.iter().map(named).collect::<Option<_>>()?;
        Some((names.concat(), NOT_THE_PODS))
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
        let mut cache = cache(vec![node("a", "4"), node("b", "4")]);
        check(&mut cache, object!({ "nodeSelector": { "kubernetes.io/hostname": "b" } }), "b");
        let terms = object!({ "nodeSelectorTerms": [{ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": ["b"] }] }] });
        check(&mut cache, affinity("requiredDuringSchedulingIgnoredDuringExecution", terms), "b");
        let nothing = object!({ "nodeSelectorTerms": [{}] });
        let none = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.";
        check(&mut cache, affinity("requiredDuringSchedulingIgnoredDuringExecution", nothing), none);
    }

    #[test]
    fn a_preference_outweighs_balance() {
        let mut cache = cache(vec![node("a", "8"), node("b", "4")]);
        let preference = object!([{ "weight": 10, "preference": {
            "matchExpressions": [{ "key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["a"] }] } }]);
        check(&mut cache, affinity("preferredDuringSchedulingIgnoredDuringExecution", preference), "b");
    }
}
