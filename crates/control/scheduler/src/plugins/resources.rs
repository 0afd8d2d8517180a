//! NodeResourcesFit and NodeResourcesBalancedAllocation.

use crate::framework::{Cluster, MAX_SCORE, Plugin, Refusal};
use crate::node::{Node, scored_requests};
use crate::pod::Pod;

pub(super) struct NodeResourcesFit;

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn filter(&self, pod: &Pod, node: &Node, _: &Cluster<'_>) -> Result<(), Refusal> {
        let mut refusal = Refusal { reasons: Vec::new(), lasting: false };
        if let Some(most) = node.allocatable.get("pods")
            && node.pods.len() as i64 + 1 > *most
        {
            refusal.reasons.push("Too many pods".into());
        }
        for (name, wanted) in pod.requests.iter().filter(|(_, n)| **n > 0) {
            let has = node.allocatable.get(name).copied().unwrap_or(0);
            let taken = node.requested.get(name).copied().unwrap_or(0);
            if taken + wanted > has {
                refusal.reasons.push(format!("Insufficient {name}"));
                refusal.lasting |= *wanted > has;
            }
        }
        if refusal.reasons.is_empty() { Ok(()) } else { Err(refusal) }
    }

    /// Less allocated is better, cpu and memory alike.
    fn score(&self, pod: &Pod, nodes: &[&Node], _: &Cluster<'_>) -> Option<Vec<i64>> {
        let wanted = scored_requests(pod);
        let score = |node: &&Node| {
            let each = ["cpu", "memory"].map(|name| {
                let has = node.allocatable.get(name).copied().unwrap_or(0);
                let used = node.scored.get(name).copied().unwrap_or(0) + wanted.get(name).copied().unwrap_or(0);
                if has == 0 || used > has { 0 } else { ((has - used) as i128 * i128::from(MAX_SCORE) / i128::from(has)) as i64 }
            });
            each.iter().sum::<i64>() / 2
        };
        Some(nodes.iter().map(score).collect())
    }
}

pub(super) struct BalancedAllocation;

impl Plugin for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    /// The closer the shares of cpu and memory, the better; a pod that asks for nothing has no opinion.
    fn score(&self, pod: &Pod, nodes: &[&Node], _: &Cluster<'_>) -> Option<Vec<i64>> {
        if pod.requests.values().all(|n| *n == 0) {
            return None;
        }
        let score = |node: &&Node| {
            let share = |name: &str| {
                let has = node.allocatable.get(name).copied().unwrap_or(0).max(1) as f64;
                let used = node.requested.get(name).copied().unwrap_or(0) + pod.requests.get(name).copied().unwrap_or(0);
                (used as f64 / has).min(1.0)
            };
            let deviation = ((share("cpu") - share("memory")) / 2.0).abs();
            ((1.0 - deviation) * MAX_SCORE as f64) as i64
        };
        Some(nodes.iter().map(score).collect())
    }
}

#[cfg(test)]
mod tests {
    use crate::plugins::testing::*;
    use fram_machinery::{Value, object};

    fn cpu(n: &str) -> Value {
        object!({ "containers": [{ "resources": { "requests": { "cpu": n } } }] })
    }

    #[test]
    fn a_pod_that_does_not_fit_names_what_is_short() {
        let mut cache = cache(vec![node("a", "2"), node("b", "1")]);
        check(&cache, cpu("1500m"), "a");
        check(&cache, cpu("3"), "0/2 nodes are available: 2 Insufficient cpu.");
        cache.place(pod("1", cpu("1")), "a");
        check(&cache, cpu("1500m"), "0/2 nodes are available: 2 Insufficient cpu.");
    }

    #[test]
    fn the_emptier_node_is_chosen() {
        let mut cache = cache(vec![node("a", "4"), node("b", "4")]);
        cache.place(pod("1", cpu("1")), "a");
        check(&cache, cpu("100m"), "b");
    }

    #[test]
    fn a_node_takes_only_so_many_pods() {
        let mut small = node("a", "4");
        small.set(&["status", "allocatable", "pods"], "1");
        let mut cache = cache(vec![small]);
        cache.place(pod("1", object!({})), "a");
        check(&cache, object!({}), "0/1 nodes are available: 1 Too many pods.");
    }
}
