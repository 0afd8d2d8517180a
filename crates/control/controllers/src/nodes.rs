//! Whether a pod may be on a node: node selectors, node affinity, taints and tolerations. Pure.

use fram_machinery::{Value, meta, object};

/// Whether a toleration stands a taint; see ToleratesTaint.
pub(crate) fn tolerates(toleration: &Value, taint: &Value) -> bool {
    let effect = toleration.str_at(&["effect"]);
    if !effect.is_empty() && effect != taint.str_at(&["effect"]) {
        return false;
    }
    let key = toleration.str_at(&["key"]);
    if !key.is_empty() && key != taint.str_at(&["key"]) {
        return false;
    }
    match toleration.str_at(&["operator"]) {
        "Exists" => true,
        "" | "Equal" => !key.is_empty() && toleration.str_at(&["value"]) == taint.str_at(&["value"]),
        _ => false,
    }
}

/// The taints of a node that none of the tolerations stands.
pub(crate) fn untolerated<'a>(taints: &'a [Value], tolerations: &'a [Value]) -> impl Iterator<Item = &'a Value> {
    taints.iter().filter(|taint| !tolerations.iter().any(|t| tolerates(t, taint)))
}

/// Whether a pod's node selector and required node affinity fit a node.
pub(crate) fn selects(spec: &Value, node: &Value) -> bool {
    let selector = spec.at(&["nodeSelector"]).and_then(Value::as_map);
    let selected = selector.is_none_or(|s| s.iter().all(|(k, v)| meta::label(node, k) == v.as_str()));
    let required = spec.at(&["affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"]).filter(|r| !r.is_null());
    selected && required.is_none_or(|r| r.list_at(&["nodeSelectorTerms"]).iter().any(|t| term(t, node)))
}

fn term(term: &Value, node: &Value) -> bool {
    let (labels, fields) = (term.list_at(&["matchExpressions"]), term.list_at(&["matchFields"]));
    // A term without requirements matches nothing.
    if labels.is_empty() && fields.is_empty() {
        return false;
    }
    let field = |key: &str| (key == "metadata.name").then(|| meta::name(node));
    labels.iter().all(|r| requirement(r, meta::label(node, r.str_at(&["key"]))))
        && fields.iter().all(|r| requirement(r, field(r.str_at(&["key"]))))
}

fn requirement(requirement: &Value, value: Option<&str>) -> bool {
    let values = requirement.list_at(&["values"]);
    let one_of = |v: &str| values.iter().any(|w| w.as_str() == Some(v));
    let bound = || values.first().and_then(Value::as_str).and_then(|v| v.parse::<i64>().ok());
    let number = || value.and_then(|v| v.parse::<i64>().ok());
    match requirement.str_at(&["operator"]) {
        "In" => value.is_some_and(one_of),
        "NotIn" => !value.is_some_and(one_of),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => number().zip(bound()).is_some_and(|(n, b)| n > b),
        "Lt" => number().zip(bound()).is_some_and(|(n, b)| n < b),
        _ => false,
    }
}

/// Restricts a pod to one node by its name, whatever its affinity said of node terms; see
/// ReplaceDaemonSetPodNodeNameNodeAffinity.
pub(crate) fn pin(pod: &mut Value, node: &str) {
    let terms = object!([{ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": [node] }] }]);
    let path = ["spec", "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"];
    pod.set(&path, terms);
}

/// The node of a pod, or the one that it is restricted to.
pub(crate) fn target(pod: &Value) -> &str {
    let node = pod.str_at(&["spec", "nodeName"]);
    if !node.is_empty() {
        return node;
    }
    let path = ["spec", "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"];
    let fields = pod.list_at(&path).iter().flat_map(|t| t.list_at(&["matchFields"]));
    let named = fields.filter(|f| f.str_at(&["key"]) == "metadata.name").find_map(|f| f.list_at(&["values"]).first()?.as_str());
    named.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn affinity_terms_are_alternatives_of_requirements_that_all_hold() {
        let node = object!({ "metadata": { "name": "n1", "labels": { "disk": "ssd", "cores": "8" } } });
        let spec = |terms: Value| object!({ "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": terms } } } });
        let ssd = object!({ "matchExpressions": [{ "key": "disk", "operator": "In", "values": ["ssd"] }, { "key": "cores", "operator": "Gt", "values": ["4"] }] });
        let other = object!({ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": ["n2"] }] });
        assert!(selects(&spec(object!([(other.clone()), ssd])), &node));
        assert!(!selects(&spec(object!([other])), &node));
        assert!(!selects(&spec(object!([{}])), &node));
        assert!(!selects(&object!({ "nodeSelector": { "disk": "hdd" } }), &node));
    }

    #[test]
    fn a_toleration_without_key_stands_every_taint_of_its_effect() {
        let taint = object!({ "key": "a", "value": "b", "effect": "NoExecute" });
        for (toleration, expected) in [
            (object!({ "operator": "Exists" }), true),
            (object!({ "operator": "Exists", "effect": "NoSchedule" }), false),
            (object!({ "key": "a", "value": "b" }), true),
            (object!({ "key": "a", "operator": "Equal", "value": "c" }), false),
        ] {
            assert_eq!(tolerates(&toleration, &taint), expected, "{toleration:?}");
        }
    }

    #[test]
    fn a_pinned_pod_names_its_target() {
        let mut pod = object!({ "spec": {} });
        pin(&mut pod, "n1");
        assert_eq!(target(&pod), "n1");
    }
}
