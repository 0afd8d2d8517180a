//! What is said to extenders and by them; see k8s.io/kube-scheduler/extender/v1. Pure. Names of fields in answers are taken in any
//! case, as Go's decoder takes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use fram_machinery::{Map, Value, meta, object};

use crate::framework::MAX_SCORE;
use crate::preemption::{Candidate, Preemption};

/// The best score that an extender gives.
const BEST: i64 = 10;

/// What an extender makes of nodes.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Filtered {
    pub(crate) kept: Vec<String>,
    /// Why others are refused, and whether that would stay the same if pods left.
    pub(crate) refused: BTreeMap<String, (String, bool)>,
}

fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let map = value.as_map()?;
    let found = map.get(name).or_else(|| map.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v));
    found.filter(|v| !v.is_null())
}

fn text(value: &Value, name: &str) -> String {
    field(value, name).and_then(Value::as_str).unwrap_or_default().to_string()
}

/// The error that an answer tells of.
pub(super) fn error(answer: &Value) -> Option<String> {
    Some(text(answer, "Error")).filter(|e| !e.is_empty())
}

/// ExtenderArgs.
pub(super) fn nodes(pod: &Value, nodes: &[Arc<Value>], by_name: bool) -> Value {
    match by_name {
        true => {
            let names: Vec<Value> = nodes.iter().map(|n| meta::name(n).into()).collect();
            object!({ "Pod": (pod.clone()), "Nodes": null, "NodeNames": names })
        }
        false => {
            let items: Vec<Value> = nodes.iter().map(|n| (**n).clone()).collect();
            object!({ "Pod": (pod.clone()), "Nodes": { "metadata": {}, "items": items }, "NodeNames": null })
        }
    }
}

/// ExtenderFilterResult.
pub(super) fn filtered(answer: &Value, asked: &[Arc<Value>]) -> Result<Filtered, String> {
    if let Some(error) = error(answer) {
        return Err(error);
    }
    let names = field(answer, "NodeNames").and_then(Value::as_list).map(|l| l.iter().filter_map(Value::as_str).map(String::from).collect());
    let items = || {
        let list = field(field(answer, "Nodes")?, "items").and_then(Value::as_list);
        Some(list.map(|l| l.iter().map(|n| meta::name(n).to_string()).collect()).unwrap_or_default())
    };
    let kept: Vec<String> = names.or_else(items).unwrap_or_default();
    if let Some(name) = kept.iter().find(|name| !asked.iter().any(|n| meta::name(n) == **name)) {
        return Err(format!("it claims a filtered node {name:?} which is not found in the input node list"));
    }
    let mut refused = BTreeMap::new();
    for (list, lasting) in [("FailedNodes", false), ("FailedAndUnresolvableNodes", true)] {
        let map = field(answer, list).and_then(Value::as_map);
        let failed =
            map.into_iter().flat_map(Map::iter).map(|(name, why)| (name.to_string(), why.as_str().unwrap_or_default().to_string()));
        refused.extend(failed.map(|(name, why)| (name, (why, lasting))));
    }
    Ok(Filtered { kept, refused })
}

/// HostPriorityList, in the measure of plugins.
pub(super) fn priorities(answer: &Value, weight: i64) -> Vec<(String, i64)> {
    let score = |p: &Value| field(p, "Score").and_then(Value::as_int).unwrap_or(0).clamp(0, BEST);
    let list = answer.as_list().map(|l| l.as_slice()).unwrap_or_default();
    list.iter().map(|p| (text(p, "Host"), score(p) * weight * (MAX_SCORE / BEST))).collect()
}

/// ExtenderPreemptionArgs.
pub(super) fn victims(pod: &Value, candidates: &[Candidate], by_uid: bool) -> Value {
    let mut by_node = Map::new();
    for candidate in candidates {
        let of = |victim: &Arc<crate::pod::Pod>| if by_uid { object!({ "UID": (&*victim.uid) }) } else { (*victim.object).clone() };
        let pods: Vec<Value> = candidate.preemption.victims.iter().map(of).collect();
        by_node.insert(candidate.preemption.node.as_str(), object!({ "Pods": pods, "NumPDBViolations": (candidate.violations as i64) }));
    }
    let field = if by_uid { "NodeNameToMetaVictims" } else { "NodeNameToVictims" };
    let mut args = object!({ "Pod": (pod.clone()) });
    args.set(&[field], Value::Map(by_node));
    args
}

/// ExtenderPreemptionResult: the candidates that are left, each with the victims that the extender names.
pub(super) fn left(answer: &Value, candidates: Vec<Candidate>) -> Result<Vec<Candidate>, String> {
    let map = field(answer, "NodeNameToMetaVictims").and_then(Value::as_map).cloned().unwrap_or_default();
    let mut out = Vec::new();
    for (node, said) in map.iter() {
        let Some(candidate) = candidates.iter().find(|c| c.preemption.node == **node) else {
            return Err(format!("it names the node {node:?}, which is no candidate"));
        };
        let uids =
            field(said, "Pods").and_then(Value::as_list).map(|l| l.iter().map(|p| text(p, "UID")).collect::<Vec<_>>()).unwrap_or_default();
        let find = |uid: &String| {
            let found = candidate.preemption.victims.iter().find(|v| *v.uid == **uid).cloned();
            found.ok_or_else(|| {
                format!("it claims to preempt pod (UID: {uid}) on node {node}, which is not found among those that could go")
            })
        };
        let victims = uids.iter().map(find).collect::<Result<_, _>>()?;
        let violations = field(said, "NumPDBViolations").and_then(Value::as_int).unwrap_or(0);
        let preemption = Preemption { node: node.to_string(), victims };
        out.push(Candidate { preemption, violations: usize::try_from(violations).unwrap_or(0) });
    }
    Ok(out)
}

/// ExtenderBindingArgs.
pub(super) fn binding(pod: &Value, node: &str) -> Value {
    object!({ "PodName": (meta::name(pod)), "PodNamespace": (meta::namespace(pod)), "PodUID": (meta::uid(pod)), "Node": node })
}
