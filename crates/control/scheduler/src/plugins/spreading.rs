//! PodTopologySpread: constraints of the pod, and by default a soft spread over nodes and zones of pods with the same
//! labels. See KEP-895 and KEP-1258.

use std::collections::HashMap;

use fram_machinery::labels::Selector;
use fram_machinery::{Value, meta, object};

use super::affinity::required_matches;
use crate::framework::{Cluster, MAX_SCORE, Plugin, Refusal};
use crate::node::Node;
use crate::pod::Pod;

pub(super) struct PodTopologySpread;

/// A constraint, read.
struct Constraint {
    key: String,
    max_skew: i64,
    min_domains: i64,
    hard: bool,
    selector: Selector,
    /// Nodes that the pod's own affinity excludes do not count.
    honors_affinity: bool,
    honors_taints: bool,
}

fn constraints(pod: &Pod) -> Vec<Constraint> {
    let read = |c: &Value| Constraint {
        key: c.str_at(&["topologyKey"]).into(),
        max_skew: c.int_at(&["maxSkew"]).unwrap_or(1),
        min_domains: c.int_at(&["minDomains"]).unwrap_or(1),
        hard: c.str_at(&["whenUnsatisfiable"]) != "ScheduleAnyway",
        selector: Selector::from_object(c.get("labelSelector")).ok().flatten().unwrap_or_default(),
        honors_affinity: c.str_at(&["nodeAffinityPolicy"]) != "Ignore",
        honors_taints: c.str_at(&["nodeTaintsPolicy"]) == "Honor",
    };
    let own: Vec<Constraint> = pod.object.list_at(&["spec", "topologySpreadConstraints"]).iter().map(read).collect();
    if !own.is_empty() {
        return own;
    }
    // Pods of one owner are told from others by their labels.
    let Some(labels) = meta::labels(&pod.object).as_map().filter(|l| !l.is_empty() && meta::controller_of(&pod.object).is_some()) else {
        return Vec::new();
    };
    let soft = |key: &str, skew: i64| {
        read(
            &object!({ "topologyKey": key, "maxSkew": skew, "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": { "matchLabels": (labels.clone()) } }),
        )
    };
    vec![soft("kubernetes.io/hostname", 3), soft("topology.kubernetes.io/zone", 5)]
}

fn domain<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    node.labels().get(key).and_then(Value::as_str)
}

/// How many matching pods each domain holds.
fn counts<'a>(constraint: &Constraint, pod: &Pod, nodes: impl Iterator<Item = &'a Node>) -> HashMap<&'a str, i64> {
    let mut counts = HashMap::new();
    let namespace = meta::namespace(&pod.object);
    for node in nodes {
        let Some(domain) = domain(node, &constraint.key) else { continue };
        let tainted = constraint.honors_taints && !super::taints::tolerates_all(pod, node);
        if constraint.honors_affinity && !required_matches(&pod.object, node) || tainted {
            continue;
        }
        let matching = |p: &&std::sync::Arc<Pod>| {
            meta::namespace(&p.object) == namespace
                && !meta::is_terminating(&p.object)
                && constraint.selector.matches(meta::labels(&p.object))
        };
        *counts.entry(domain).or_default() += node.pods.values().filter(matching).count() as i64;
    }
    counts
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn filter(&self, pod: &Pod, node: &Node, cluster: &Cluster<'_>) -> Result<(), Refusal> {
        if pod.object.list_at(&["spec", "topologySpreadConstraints"]).is_empty() {
            return Ok(());
        }
        for constraint in constraints(pod).iter().filter(|c| c.hard) {
            let Some(here) = domain(node, &constraint.key) else {
                let reason = "node(s) didn't match pod topology spread constraints (missing required label)";
                return Err(Refusal::lasting(reason));
            };
            let counts = counts(constraint, pod, cluster.nodes.iter().copied());
            let too_few = (counts.len() as i64) < constraint.min_domains;
            let least = if too_few { 0 } else { counts.values().min().copied().unwrap_or(0) };
            let own = i64::from(constraint.selector.matches(meta::labels(&pod.object)));
            if counts.get(here).copied().unwrap_or(0) + own - least > constraint.max_skew {
                return Err(Refusal::passing("node(s) didn't match pod topology spread constraints"));
            }
        }
        Ok(())
    }

    /// Fewer matching pods in the node's domains are better.
    fn score(&self, pod: &Pod, nodes: &[&Node], cluster: &Cluster<'_>) -> Option<Vec<i64>> {
        let soft: Vec<Constraint> = constraints(pod).into_iter().filter(|c| !c.hard).collect();
        if soft.is_empty() {
            return None;
        }
        let mut raw = vec![0i64; nodes.len()];
        for constraint in &soft {
            let counts = counts(constraint, pod, cluster.nodes.iter().copied());
            for (score, node) in raw.iter_mut().zip(nodes) {
                if let Some(here) = domain(node, &constraint.key) {
                    *score += counts.get(here).copied().unwrap_or(0) * 100 + constraint.max_skew - 1;
                }
            }
        }
        let (least, most) = (raw.iter().min().copied()?, raw.iter().max().copied()?);
        if most == 0 {
            return Some(vec![MAX_SCORE; nodes.len()]);
        }
        Some(raw.into_iter().map(|n| MAX_SCORE * (most + least - n) / most).collect())
    }
}

#[cfg(test)]
mod tests {
    use crate::plugins::testing::*;
    use fram_machinery::object;

    #[test]
    fn a_hard_constraint_bounds_the_skew() {
        let mut cache = cache(vec![node("a", "8"), node("b", "1")]);
        let spec = || {
            object!({ "topologySpreadConstraints": [{ "topologyKey": "kubernetes.io/hostname", "maxSkew": 1,
                "whenUnsatisfiable": "DoNotSchedule", "labelSelector": { "matchLabels": { "app": "x" } } }],
                "containers": [{ "resources": { "requests": { "cpu": "800m" } } }] })
        };
        check(&cache, spec(), "a");
        cache.place(pod("1", spec()), "a");
        check(&cache, spec(), "b");
        cache.place(pod("2", spec()), "b");
        check(&cache, spec(), "a");
        cache.place(pod("3", spec()), "a");
        let none = "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match pod topology spread constraints.";
        check(&cache, spec(), none);
    }
}
