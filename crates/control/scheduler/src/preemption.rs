//! Preemption: which pods of less priority have to go so that a pod finds room, and on which node. Pure; see upstream's
//! pkg/scheduler/framework/preemption and its plugin defaultpreemption.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::Arc;

use fram_machinery::labels::Selector;
use fram_machinery::{Value, meta};

use crate::cache::Cache;
use crate::framework::{Attempt, Framework, Reasons, Refusal};
use crate::pod::Pod;

/// So many nodes that could be cleared are compared, or this part of all nodes in per cent if that is more; see DefaultPreemptionArgs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) percentage: usize,
    pub(crate) absolute: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { percentage: 10, absolute: 100 }
    }
}

/// The node that is cleared, and the pods that leave it.
#[derive(Debug, Clone)]
pub(crate) struct Preemption {
    pub(crate) node: String,
    pub(crate) victims: Vec<Arc<Pod>>,
}

/// One node that could be cleared, and how many budgets that would break.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) preemption: Preemption,
    pub(crate) violations: usize,
}

/// Whether a pod may preempt now, or why not: not when it never does, nor while those that it preempted are still leaving.
pub(crate) fn may_preempt(pod: &Pod, cache: &Cache) -> Result<(), String> {
    if never_preempts(pod) {
        return Err("not eligible due to preemptionPolicy=Never.".into());
    }
    match waits_for_leaving(pod, cache) {
        true => Err("not eligible due to a terminating pod on the nominated node.".into()),
        false => Ok(()),
    }
}

fn never_preempts(pod: &Pod) -> bool {
    pod.object.str_at(&["spec", "preemptionPolicy"]) == "Never"
}

/// Whether those that were preempted on the node where room is made for a pod are still leaving.
pub(crate) fn waits_for_leaving(pod: &Pod, cache: &Cache) -> bool {
    let Some(node) = cache.nominated_node(&pod.uid).and_then(|name| cache.slot(name)) else { return false };
    let leaving = |other: &Arc<Pod>| {
        meta::is_terminating(&other.object)
            && other.priority < pod.priority
            && meta::condition(&other.object, "DisruptionTarget").is_some_and(|c| c.str_at(&["reason"]) == "PreemptionByScheduler")
    };
    !never_preempts(pod) && cache.at(node).pods.values().any(leaving)
}

/// Nodes that could be cleared for a pod, of the `clearable` ones: those that refused it for a reason that may pass. Where clearing
/// none of them helps, why.
pub(crate) fn candidates(
    framework: &Framework,
    attempt: &mut Attempt,
    cache: &mut Cache,
    clearable: &[String],
    budgets: &[Arc<Value>],
    limits: Limits,
) -> Result<Vec<Candidate>, String> {
    let mut reasons = Reasons::default();
    let count = cache.count();
    reasons.add_times("Preemption is not helpful for scheduling".into(), count.saturating_sub(clearable.len()));
    let enough = (count * limits.percentage / 100).max(limits.absolute);
    let mut slots: Vec<usize> = clearable.iter().filter_map(|name| cache.slot(name)).collect::<HashSet<_>>().into_iter().collect();
    slots.sort_unstable();
    // Not the same nodes each time are looked at first.
    let start = attempt.pod.uid.bytes().fold(0usize, |sum, b| sum.wrapping_mul(31).wrapping_add(b.into())) % slots.len().max(1);
    slots.rotate_left(start);
    let budgets = Budgets::read(budgets);
    let mut candidates = Vec::new();
    for slot in slots {
        match candidate(framework, attempt, cache, slot, &budgets) {
            Ok(found) => candidates.push(found),
            Err(refusal) => reasons.add(refusal, 1),
        }
        if candidates.len() >= enough {
            break;
        }
    }
    if candidates.is_empty() { Err(reasons.message(count)) } else { Ok(candidates) }
}

/// Fewest broken budgets, then the least important victims: by the highest priority, the sum, the count, the shortest run.
pub(crate) fn best(candidates: Vec<Candidate>) -> Option<Preemption> {
    let order = |c: &Candidate| {
        let victims = &c.preemption.victims;
        let highest = victims.iter().map(|v| v.priority).max().unwrap_or(i64::MIN);
        let sum: i64 = victims.iter().map(|v| v.priority + i64::from(i32::MAX) + 1).sum();
        let earliest = victims.iter().filter(|v| v.priority == highest).map(|v| started(v)).min();
        (c.violations, highest, sum, victims.len(), Reverse(earliest))
    };
    candidates.into_iter().min_by_key(order).map(|c| c.preemption)
}

/// When a pod began, to be compared; one that has not begun yet is the youngest.
fn started(pod: &Pod) -> (bool, String) {
    let at = pod.object.str_at(&["status", "startTime"]);
    (at.is_empty(), at.to_string())
}

/// What clearing one node takes: all pods of less priority leave, then as many as fit come back, the most important first. All of
/// it is only supposed.
fn candidate(
    framework: &Framework,
    attempt: &mut Attempt,
    cache: &mut Cache,
    slot: usize,
    budgets: &Budgets,
) -> Result<Candidate, Refusal> {
    let mut lower: Vec<Arc<Pod>> = cache.at(slot).pods.values().filter(|p| p.priority < attempt.pod.priority).cloned().collect();
    if lower.is_empty() {
        return Err(Refusal::lasting("No preemption victims found for incoming pod"));
    }
    lower.sort_by_cached_key(|p| (Reverse(p.priority), started(p)));
    let position = cache.position();
    lower.iter().for_each(|victim| drop(cache.take(&victim.uid)));
    let found = match framework.fits(attempt, cache, slot) {
        Ok(()) => Ok(victims(framework, attempt, cache, slot, budgets.split(&lower))),
        Err(refusal) => Err(refusal),
    };
    lower.iter().filter(|pod| !cache.holds(&pod.uid)).cloned().collect::<Vec<_>>().into_iter().for_each(|pod| cache.put(pod, slot));
    framework.go_back(attempt, cache, position);
    let (mut victims, violations) = found?;
    victims.sort_by_cached_key(|p| (Reverse(p.priority), started(p)));
    match victims.is_empty() {
        false => Ok(Candidate { preemption: Preemption { node: cache.at(slot).name().to_string(), victims }, violations }),
        // Something else than these pods was in the way, and it is no more.
        true => Err(Refusal::passing("No preemption victims found for incoming pod")),
    }
}

/// Puts back what has room beside the pod, those first that budgets protect; says who has not, and how many budgets that breaks.
fn victims(
    framework: &Framework,
    attempt: &mut Attempt,
    cache: &mut Cache,
    slot: usize,
    (violating, others): (Vec<Arc<Pod>>, Vec<Arc<Pod>>),
) -> (Vec<Arc<Pod>>, usize) {
    let (mut victims, mut violations) = (Vec::new(), 0);
    for (candidates, violates) in [(violating, true), (others, false)] {
        for victim in candidates {
            cache.put(victim.clone(), slot);
            if framework.fits(attempt, cache, slot).is_err() {
                cache.take(&victim.uid);
                victims.push(victim);
                violations += usize::from(violates);
            }
        }
    }
    (victims, violations)
}

/// The disruption budgets: what each covers, and how many disruptions it allows.
struct Budgets(Vec<(Arc<Value>, Selector, i64)>);

impl Budgets {
    fn read(budgets: &[Arc<Value>]) -> Self {
        let read = |b: &Arc<Value>| {
            let selector = Selector::from_object(b.at(&["spec", "selector"])).ok().flatten()?;
            Some((b.clone(), selector, b.int_at(&["status", "disruptionsAllowed"]).unwrap_or(0)))
        };
        Self(budgets.iter().filter_map(read).collect())
    }

    /// Pods whose eviction would break a disruption budget, and the others; see filterPodsWithPDBViolation.
    fn split(&self, pods: &[Arc<Pod>]) -> (Vec<Arc<Pod>>, Vec<Arc<Pod>>) {
        let mut left: Vec<i64> = self.0.iter().map(|(.., allowed)| *allowed).collect();
        pods.iter().cloned().partition(|pod| {
            let mut violates = false;
            for ((budget, selector, _), allowed) in self.0.iter().zip(&mut left) {
                let counted = budget.at(&["status", "disruptedPods", meta::name(&pod.object)]).is_some();
                let covers = meta::namespace(budget) == pod.namespace() && selector.matches(pod.labels());
                if covers && !counted {
                    *allowed -= 1;
                    violates |= *allowed < 0;
                }
            }
            violates
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framework::{Filtered, Outcome};
    use crate::plugins::testing::*;
    use fram_machinery::object;

    fn spec(cpu: &str, priority: i64) -> Value {
        object!({ "priority": priority, "containers": [{ "name": "c", "resources": { "requests": { "cpu": cpu } } }] })
    }

    fn check(cache: &mut Cache, new: Value, budgets: &[Arc<Value>]) -> String {
        let (mut framework, pod) = (framework(), pod("new", new));
        let Filtered::None(mut attempt, Outcome::Unschedulable { clearable, .. }) = filter(&mut framework, &pod, cache) else {
            return "fits".into();
        };
        let before = cache.position();
        let found = match candidates(&framework, &mut attempt, cache, &clearable, budgets, Limits::default()) {
            Ok(found) => best(found).unwrap(),
            Err(why) => return why,
        };
        assert_eq!(cache.position(), before);
        let victims: Vec<&str> = found.victims.iter().map(|v| &*v.uid).collect();
        format!("{}: {}", found.node, victims.join(","))
    }

    #[test]
    fn only_as_many_pods_leave_as_have_to_and_the_least_important_first() {
        let mut cache = cache(vec![node("a", "4")]);
        cache.place(pod("low", spec("2", 1)), "a");
        cache.place(pod("mid", spec("2", 5)), "a");
        assert_eq!(check(&mut cache, spec("2", 10), &[]), "a: low");
        assert_eq!(check(&mut cache, spec("4", 10), &[]), "a: mid,low");
        assert_eq!(check(&mut cache, spec("4", 5), &[]), "0/1 nodes are available: 1 Insufficient cpu.");
        let none = "0/1 nodes are available: 1 No preemption victims found for incoming pod.";
        assert_eq!(check(&mut cache, spec("4", 1), &[]), none);
        assert_eq!(check(&mut cache, spec("5", 10), &[]), "0/1 nodes are available: 1 Preemption is not helpful for scheduling.");
    }

    #[test]
    fn of_equals_those_that_have_not_begun_leave_first() {
        let mut cache = cache(vec![node("a", "4")]);
        let mut old = (*pod("old", spec("2", 1)).object).clone();
        old.set(&["status", "startTime"], "2026-01-01T00:00:00Z");
        for waiting in ["first", "later"] {
            let begun = Arc::new(Pod::alone(old.clone()));
            cache.place(begun, "a");
            cache.place(pod(waiting, spec("2", 1)), "a");
            assert_eq!(check(&mut cache, spec("2", 10), &[]), format!("a: {waiting}"));
            cache.remove(waiting);
        }
    }

    #[test]
    fn the_node_with_the_least_important_victims_is_cleared() {
        let mut cache = cache(vec![node("a", "2"), node("b", "2")]);
        cache.place(pod("5", spec("2", 5)), "a");
        cache.place(pod("1", spec("2", 1)), "b");
        assert_eq!(check(&mut cache, spec("1", 10), &[]), "b: 1");
    }

    #[test]
    fn budgets_are_kept_where_another_choice_exists() {
        let mut cache = cache(vec![node("a", "2"), node("b", "2")]);
        cache.place(pod("1", spec("2", 1)), "a");
        let other = object!({ "metadata": { "name": "2", "namespace": "other", "uid": "2" }, "spec": (spec("2", 5)) });
        cache.place(Arc::new(Pod::alone(other)), "b");
        let budget = object!({ "metadata": { "namespace": "ns" }, "spec": { "selector": { "matchLabels": { "app": "x" } } },
            "status": { "disruptionsAllowed": 0 } });
        assert_eq!(check(&mut cache, spec("1", 10), &[Arc::new(budget)]), "b: 2");
    }

    #[test]
    fn room_that_is_made_for_another_pod_is_not_given_twice() {
        let mut cache = cache(vec![node("a", "4")]);
        cache.place(pod("1", spec("2", 1)), "a");
        cache.place(pod("2", spec("2", 1)), "a");
        cache.nominate(pod("first", spec("2", 10)), "a");
        assert_eq!(check(&mut cache, spec("2", 10), &[]).len(), "a: 1,2".len());
        // It is for one that is more important.
        assert_eq!(check(&mut cache, spec("2", 11), &[]).len(), "a: 1".len());
    }

    #[test]
    fn a_pod_that_never_preempts_does_not() {
        let mut polite = spec("1", 10);
        polite.set(&["preemptionPolicy"], "Never");
        let refused = may_preempt(&pod("new", polite), &Cache::default());
        assert_eq!(refused.unwrap_err(), "not eligible due to preemptionPolicy=Never.");
        assert_eq!(may_preempt(&pod("new", spec("1", 10)), &Cache::default()), Ok(()));
    }

    #[test]
    fn a_pod_waits_for_those_that_were_preempted_on_its_node_alone() {
        let victim = |uid: &str, priority: i64, leaves: bool, reason: &str| {
            let mut object = object!({ "metadata": { "name": uid, "namespace": "ns", "uid": uid }, "spec": (spec("1", priority)),
                "status": { "conditions": [{ "type": "DisruptionTarget", "status": "True", "reason": reason }] } });
            if leaves {
                object.set(&["metadata", "deletionTimestamp"], "2026-01-01T00:00:00Z");
            }
            Arc::new(Pod::alone(object))
        };
        let preempted = "PreemptionByScheduler";
        let mut polite = spec("1", 10);
        polite.set(&["preemptionPolicy"], "Never");
        let table = [
            ("a", spec("1", 10), victim("v", 1, true, preempted), true),
            ("b", spec("1", 10), victim("v", 1, true, preempted), false),
            ("a", spec("1", 10), victim("v", 1, false, preempted), false),
            ("a", spec("1", 10), victim("v", 1, true, "EvictionByEvictionAPI"), false),
            ("a", spec("1", 10), victim("v", 10, true, preempted), false),
            ("a", polite, victim("v", 1, true, preempted), false),
        ];
        for (n, (nominated, new, victim, expect)) in table.into_iter().enumerate() {
            let (mut cache, new) = (cache(vec![node("a", "4"), node("b", "4")]), pod("new", new));
            cache.place(victim, "a");
            assert!(!waits_for_leaving(&new, &cache), "{n}: nobody makes room for it");
            cache.nominate(new.clone(), nominated);
            assert_eq!(waits_for_leaving(&new, &cache), expect, "{n}");
        }
    }
}
