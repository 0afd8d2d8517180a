//! Preemption: which pods of less priority have to go so that a pod finds room, and on which node. Pure; see upstream's
//! pkg/scheduler/framework/preemption and its plugin defaultpreemption.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::Arc;

use fram_machinery::labels::Selector;
use fram_machinery::{Value, meta};

use crate::cache::Cache;
use crate::framework::{Cluster, Reasons, Refusal, fits};
use crate::node::Node;
use crate::pod::Pod;

/// So many nodes that could be cleared are compared, or a tenth of them if that is more; see DefaultPreemptionArgs.
const FEWEST_CANDIDATES: usize = 100;

/// The node that is cleared, and the pods that leave it.
#[derive(Debug, Clone)]
pub(crate) struct Preemption {
    pub(crate) node: String,
    pub(crate) victims: Vec<Arc<Pod>>,
}

struct Candidate {
    preemption: Preemption,
    violations: usize,
}

/// Whether a pod may preempt now, or why not: not when it never does, nor while those that it preempted are still leaving.
pub(crate) fn may_preempt(pod: &Pod, cache: &Cache) -> Result<(), String> {
    if pod.object.str_at(&["spec", "preemptionPolicy"]) == "Never" {
        return Err("not eligible due to preemptionPolicy=Never.".into());
    }
    let Some(node) = cache.nominated_node(&pod.uid).and_then(|name| cache.node(name)) else { return Ok(()) };
    let leaving = |other: &Arc<Pod>| {
        meta::is_terminating(&other.object)
            && other.priority < pod.priority
            && meta::condition(&other.object, "DisruptionTarget").is_some_and(|c| c.str_at(&["reason"]) == "PreemptionByScheduler")
    };
    match node.pods.values().any(leaving) {
        true => Err("not eligible due to a terminating pod on the nominated node.".into()),
        false => Ok(()),
    }
}

/// The best node to clear for a pod, of the `clearable` ones: those that refused it for a reason that may pass. Where clearing
/// none of them helps, why.
pub(crate) fn preempt(pod: &Pod, cache: &Cache, clearable: &[String], budgets: &[Arc<Value>]) -> Result<Preemption, String> {
    let nodes: Vec<&Node> = cache.nodes().collect();
    let mut reasons = Reasons::default();
    reasons.add_times("Preemption is not helpful for scheduling".into(), nodes.len().saturating_sub(clearable.len()));
    let enough = (clearable.len() / 10).max(FEWEST_CANDIDATES);
    let clearable: HashSet<&str> = clearable.iter().map(String::as_str).collect();
    let mut candidates = Vec::new();
    // Not the same nodes each time are looked at first.
    let start = pod.uid.bytes().fold(0usize, |sum, b| sum.wrapping_mul(31).wrapping_add(b.into())) % nodes.len().max(1);
    for i in (0..nodes.len()).map(|i| (i + start) % nodes.len()).filter(|i| clearable.contains(nodes[*i].name())) {
        match candidate(pod, cache, &nodes, i, budgets) {
            Ok(found) => candidates.push(found),
            Err(refusal) => reasons.add(refusal),
        }
        if candidates.len() >= enough {
            break;
        }
    }
    // Fewest broken budgets, then the least important victims: by the highest priority, the sum, the count, the shortest run.
    let order = |c: &Candidate| {
        let victims = &c.preemption.victims;
        let highest = victims.iter().map(|v| v.priority).max().unwrap_or(i64::MIN);
        let sum: i64 = victims.iter().map(|v| v.priority + i64::from(i32::MAX) + 1).sum();
        let earliest = victims.iter().filter(|v| v.priority == highest).map(|v| started(v)).min();
        (c.violations, highest, sum, victims.len(), Reverse(earliest))
    };
    let best = candidates.into_iter().min_by_key(order).map(|c| c.preemption);
    best.ok_or_else(|| reasons.message(nodes.len()))
}

fn started(pod: &Pod) -> String {
    pod.object.str_at(&["status", "startTime"]).to_string()
}

/// What clearing one node takes: all pods of less priority leave, then as many as fit come back, the most important first.
fn candidate(pod: &Pod, cache: &Cache, nodes: &[&Node], i: usize, budgets: &[Arc<Value>]) -> Result<Candidate, Refusal> {
    let mut lower: Vec<Arc<Pod>> = nodes[i].pods.values().filter(|p| p.priority < pod.priority).cloned().collect();
    if lower.is_empty() {
        return Err(Refusal::lasting("No preemption victims found for incoming pod"));
    }
    let mut node = nodes[i].clone();
    lower.iter().for_each(|victim| node.remove_pod(&victim.uid));
    let has_room = |node: &Node| {
        let mut all = nodes.to_vec();
        all[i] = node;
        let cluster = Cluster::new(all, cache);
        fits(pod, node, &cluster, cache)
    };
    has_room(&node)?;
    lower.sort_by_key(|p| (Reverse(p.priority), started(p)));
    let (violating, others) = split_by_budgets(&lower, budgets);
    let mut victims = Vec::new();
    let mut violations = 0;
    for (candidates, violates) in [(violating, true), (others, false)] {
        for victim in candidates {
            node.add_pod(victim.clone());
            if has_room(&node).is_err() {
                node.remove_pod(&victim.uid);
                victims.push(victim);
                violations += usize::from(violates);
            }
        }
    }
    victims.sort_by_key(|p| (Reverse(p.priority), started(p)));
    let preemption = Preemption { node: node.name().to_string(), victims };
    match preemption.victims.is_empty() {
        false => Ok(Candidate { preemption, violations }),
        // Something else than these pods was in the way, and it is no more.
        true => Err(Refusal::passing("No preemption victims found for incoming pod")),
    }
}

/// Pods whose eviction would break a disruption budget, and the others; see filterPodsWithPDBViolation.
fn split_by_budgets(pods: &[Arc<Pod>], budgets: &[Arc<Value>]) -> (Vec<Arc<Pod>>, Vec<Arc<Pod>>) {
    let read = |b: &Arc<Value>| {
        let selector = Selector::from_object(b.at(&["spec", "selector"])).ok().flatten()?;
        Some((b.clone(), selector, b.int_at(&["status", "disruptionsAllowed"]).unwrap_or(0)))
    };
    let mut left: Vec<(Arc<Value>, Selector, i64)> = budgets.iter().filter_map(read).collect();
    pods.iter().cloned().partition(|pod| {
        let mut violates = false;
        for (budget, selector, allowed) in &mut left {
            let counted = budget.at(&["status", "disruptedPods", meta::name(&pod.object)]).is_some();
            let covers = meta::namespace(budget) == meta::namespace(&pod.object) && selector.matches(meta::labels(&pod.object));
            if covers && !counted {
                *allowed -= 1;
                violates |= *allowed < 0;
            }
        }
        violates
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framework::{Outcome, schedule};
    use crate::plugins::testing::*;
    use fram_machinery::object;

    fn spec(cpu: &str, priority: i64) -> Value {
        object!({ "priority": priority, "containers": [{ "name": "c", "resources": { "requests": { "cpu": cpu } } }] })
    }

    fn check(cache: &Cache, new: Value, budgets: &[Arc<Value>]) -> String {
        let pod = pod("new", new);
        let Outcome::Unschedulable { clearable, .. } = schedule(&pod, cache, 0) else { return "fits".into() };
        let found = match preempt(&pod, cache, &clearable, budgets) {
            Ok(found) => found,
            Err(why) => return why,
        };
        let victims: Vec<&str> = found.victims.iter().map(|v| v.uid.as_str()).collect();
        format!("{}: {}", found.node, victims.join(","))
    }

    #[test]
    fn only_as_many_pods_leave_as_have_to_and_the_least_important_first() {
        let mut cache = cache(vec![node("a", "4")]);
        cache.place(pod("low", spec("2", 1)), "a");
        cache.place(pod("mid", spec("2", 5)), "a");
        assert_eq!(check(&cache, spec("2", 10), &[]), "a: low");
        assert_eq!(check(&cache, spec("4", 10), &[]), "a: mid,low");
        assert_eq!(check(&cache, spec("4", 5), &[]), "0/1 nodes are available: 1 Insufficient cpu.");
        let none = "0/1 nodes are available: 1 No preemption victims found for incoming pod.";
        assert_eq!(check(&cache, spec("4", 1), &[]), none);
        assert_eq!(check(&cache, spec("5", 10), &[]), "0/1 nodes are available: 1 Preemption is not helpful for scheduling.");
    }

    #[test]
    fn the_node_with_the_least_important_victims_is_cleared() {
        let mut cache = cache(vec![node("a", "2"), node("b", "2")]);
        cache.place(pod("5", spec("2", 5)), "a");
        cache.place(pod("1", spec("2", 1)), "b");
        assert_eq!(check(&cache, spec("1", 10), &[]), "b: 1");
    }

    #[test]
    fn budgets_are_kept_where_another_choice_exists() {
        let mut cache = cache(vec![node("a", "2"), node("b", "2")]);
        cache.place(pod("1", spec("2", 1)), "a");
        let other = object!({ "metadata": { "name": "2", "namespace": "other", "uid": "2" }, "spec": (spec("2", 5)) });
        cache.place(Arc::new(Pod::new(Arc::new(other))), "b");
        let budget = object!({ "metadata": { "namespace": "ns" }, "spec": { "selector": { "matchLabels": { "app": "x" } } },
            "status": { "disruptionsAllowed": 0 } });
        assert_eq!(check(&cache, spec("1", 10), &[Arc::new(budget)]), "b: 2");
    }

    #[test]
    fn room_that_is_made_for_another_pod_is_not_given_twice() {
        let mut cache = cache(vec![node("a", "4")]);
        cache.place(pod("1", spec("2", 1)), "a");
        cache.place(pod("2", spec("2", 1)), "a");
        cache.nominate(pod("first", spec("2", 10)), "a");
        assert_eq!(check(&cache, spec("2", 10), &[]).len(), "a: 1,2".len());
        // It is for one that is more important.
        assert_eq!(check(&cache, spec("2", 11), &[]).len(), "a: 1".len());
    }

    #[test]
    fn a_pod_that_never_preempts_does_not() {
        let mut polite = spec("1", 10);
        polite.set(&["preemptionPolicy"], "Never");
        let refused = may_preempt(&pod("new", polite), &Cache::default());
        assert_eq!(refused.unwrap_err(), "not eligible due to preemptionPolicy=Never.");
        assert_eq!(may_preempt(&pod("new", spec("1", 10)), &Cache::default()), Ok(()));
    }
}
