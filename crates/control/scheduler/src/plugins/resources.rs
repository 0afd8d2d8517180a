//! NodeResourcesFit and NodeResourcesBalancedAllocation.

use std::sync::Arc;

use super::per_node::{Judge, PerNode};
use crate::amounts::{Amounts, CPU, MEMORY, PODS, STORAGE};
use crate::cache::Cache;
use crate::framework::{MAX_SCORE, Plugin, Refusal, Sharing, View};
use crate::node::Node;
use crate::pod::Pod;

/// What is better; see ScoringStrategy.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Ranking {
    LeastAllocated,
    MostAllocated,
    /// Scores from 0 to 100 by utilization in per cent, with straight lines between these points.
    RequestedToCapacityRatio(Vec<(i64, i64)>),
}

/// See NodeResourcesFitArgs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fit {
    pub(crate) ranking: Ranking,
    /// Resources that scores count, and how much.
    pub(crate) resources: Vec<(String, i64)>,
    /// Extended resources that are not looked at: somebody else sees to them.
    pub(crate) ignored: Vec<String>,
    /// The same by the part of their names before the slash.
    pub(crate) ignored_groups: Vec<String>,
}

impl Default for Fit {
    fn default() -> Self {
        let resources = vec![(CPU.to_string(), 1), (MEMORY.to_string(), 1)];
        Self { ranking: Ranking::LeastAllocated, resources, ignored: Vec::new(), ignored_groups: Vec::new() }
    }
}

impl Fit {
    fn ignores(&self, name: &str) -> bool {
        let group = name.split_once('/').map(|(group, _)| group);
        self.ignored.iter().any(|n| n == name) || group.is_some_and(|group| self.ignored_groups.iter().any(|g| g == group))
    }
}

fn part(of: i128, whole: i128, scale: i128) -> i64 {
    i64::try_from(of.saturating_mul(scale) / whole).unwrap_or(i64::MAX)
}

impl Ranking {
    /// From 0 to 100; there is some of the resource.
    fn score(&self, used: i128, has: i128) -> i64 {
        let scale = i128::from(MAX_SCORE);
        match self {
            Self::LeastAllocated if used > has => 0,
            Self::LeastAllocated => part(has - used, has, scale),
            Self::MostAllocated => part(used.min(has), has, scale),
            Self::RequestedToCapacityRatio(shape) => between(shape, if used > has { 100 } else { part(used, has, 100) }),
        }
    }
}

/// The value at a point of a line that is given by some of its points, and level beyond them.
fn between(shape: &[(i64, i64)], at: i64) -> i64 {
    let Some(next) = shape.iter().position(|(x, _)| at <= *x) else { return shape.last().map_or(0, |(_, y)| *y) };
    if next == 0 {
        return shape[0].1;
    }
    let ((x0, y0), (x1, y1)) = (shape[next - 1], shape[next]);
    y0 + (y1 - y0) * (at - x0) / (x1 - x0)
}

/// The requests as text: pods that ask for the same share.
fn requests_of(pod: &Pod) -> Sharing {
    Sharing::With(pod.asks.text.clone())
}

pub(super) struct NodeResourcesFit {
    pub(super) arguments: Fit,
}

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn sharing(&self, pod: &Pod, cache: &Cache) -> Sharing {
        match cache.devices.extended(pod) {
            None => requests_of(pod),
            Some(extended) => Sharing::With(format!("{}{:?}", pod.asks.text, extended.resources().collect::<Vec<_>>())),
        }
    }

    fn view(&self, pod: &Arc<Pod>, cache: &Cache) -> Box<dyn View> {
        let extended = cache.devices.extended(pod);
        let elsewhere = extended.iter().flat_map(|e| e.resources()).map(String::from).collect();
        let mut wanted = Amounts::default();
        let counted = pod.asks.requests.iter().filter(|(name, n)| *n > 0 && !self.arguments.ignores(name));
        counted.for_each(|(name, n)| *wanted.entry(name) = n);
        PerNode::boxed(Fitting { pod: pod.clone(), wanted, elsewhere, arguments: self.arguments.clone() }, cache)
    }
}

struct Fitting {
    pod: Arc<Pod>,
    wanted: Amounts,
    /// Resources that are had as devices on nodes that do not have them themselves.
    elsewhere: Vec<String>,
    arguments: Fit,
}

impl Fitting {
    /// Whether there is less of a resource than is wanted.
    fn is_short(&self, node: &Node, name: &str, wanted: i128) -> bool {
        let has = node.allocatable.get(name);
        let delegated = has == 0 && self.elsewhere.iter().any(|n| n == name);
        !delegated && node.requested.get(name) + wanted > has
    }
}

const LASTING: u32 = 1 << 23;
const TOO_MANY: u32 = 1 << 22;
/// Further resources share the last bit.
const LAST: usize = 21;

impl Judge for Fitting {
    const PODS: bool = true;

    fn detail(&self, node: &Node) -> u32 {
        let mut detail = 0;
        if !node.allocatable.lacks(PODS) && node.pods.len() as i128 + 1 > node.allocatable.get(PODS) {
            detail |= TOO_MANY;
        }
        for (i, (name, wanted)) in self.wanted.iter().enumerate() {
            if self.is_short(node, name, wanted) {
                detail |= 1 << i.min(LAST);
                detail |= if wanted > node.allocatable.get(name) { LASTING } else { 0 };
            }
        }
        detail
    }

    fn refusal(&self, detail: u32, node: &Node) -> Option<Refusal> {
        let mut reasons = Vec::new();
        if detail & TOO_MANY != 0 {
            reasons.push("Too many pods".into());
        }
        let short = |(name, wanted): &(&fram_machinery::Key, i128)| self.is_short(node, name, *wanted);
        reasons.extend(self.wanted.iter().filter(short).map(|(name, _)| format!("Insufficient {name}")));
        Some(Refusal { reasons, lasting: detail & LASTING != 0 })
    }

    fn raw(&self, node: &Node) -> i64 {
        let by_ratio = matches!(self.arguments.ranking, Ranking::RequestedToCapacityRatio(_));
        let (mut sum, mut weights) = (0, 0);
        for (name, weight) in &self.arguments.resources {
            let has = node.allocatable.get(name);
            let used = match name.as_str() {
                CPU | MEMORY => node.scored.get(name) + self.pod.asks.scored.get(name),
                STORAGE => node.requested.get(name) + self.pod.asks.requests.get(name),
                // What the pod does not ask for says nothing about where it should be.
                _ if self.pod.asks.requests.get(name) == 0 => continue,
                _ => node.requested.get(name) + self.pod.asks.requests.get(name),
            };
            if has == 0 {
                continue;
            }
            let score = self.arguments.ranking.score(used, has);
            if score > 0 || !by_ratio {
                sum += score * weight;
                weights += weight;
            }
        }
        match weights {
            0 => 0,
            // Upstream rounds here, and nowhere else.
            _ if by_ratio => (sum + weights / 2) / weights,
            _ => sum / weights,
        }
    }

    fn scores(&self, raw: Vec<i64>) -> Option<Vec<i64>> {
        Some(raw)
    }
}

pub(super) struct BalancedAllocation {
    pub(super) resources: Vec<String>,
}

impl Plugin for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    /// A pod that asks for nothing has no opinion.
    fn sharing(&self, pod: &Pod, _: &Cache) -> Sharing {
        match self.resources.iter().all(|name| pod.asks.requests.get(name) == 0) {
            true => Sharing::Nothing,
            false => requests_of(pod),
        }
    }

    fn view(&self, pod: &Arc<Pod>, cache: &Cache) -> Box<dyn View> {
        PerNode::boxed(Balancing { pod: pod.clone(), resources: self.resources.clone() }, cache)
    }
}

struct Balancing {
    pod: Arc<Pod>,
    resources: Vec<String>,
}

impl Balancing {
    /// From 50 to 100: the closer the shares of the resources, the better.
    fn balance(&self, node: &Node, with_pod: bool) -> i64 {
        let share = |name: &String| {
            let (has, pod) = (node.allocatable.get(name), self.pod.asks.requests.get(name));
            let used = node.requested.get(name) + if with_pod { pod } else { 0 };
            let counts = has > 0 && (pod > 0 || matches!(name.as_str(), CPU | MEMORY | STORAGE));
            counts.then(|| (used as f64 / has as f64).min(1.0))
        };
        let shares: Vec<f64> = self.resources.iter().filter_map(share).collect();
        let mean = shares.iter().sum::<f64>() / shares.len().max(1) as f64;
        let deviation = match shares[..] {
            [] | [_] => 0.0,
            [a, b] => ((a - b) / 2.0).abs(),
            _ => (shares.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / shares.len() as f64).sqrt(),
        };
        ((1.0 - deviation) * MAX_SCORE as f64) as i64
    }
}

impl Judge for Balancing {
    const PODS: bool = true;

    /// What the pod makes of the balance; see upstream's balancedResourceScorer.
    fn raw(&self, node: &Node) -> i64 {
        MAX_SCORE / 2 + (MAX_SCORE / 2 + self.balance(node, true) - self.balance(node, false)) / 2
    }

    fn scores(&self, raw: Vec<i64>) -> Option<Vec<i64>> {
        Some(raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framework::Framework;
    use crate::plugins::testing::*;
    use crate::plugins::{Arguments, standard};
    use fram_machinery::{Value, object};

    fn cpu(n: &str) -> Value {
        object!({ "containers": [{ "resources": { "requests": { "cpu": n } } }] })
    }

    #[test]
    fn a_pod_that_does_not_fit_names_what_is_short() {
        let mut cache = cache(vec![node("a", "2"), node("b", "1")]);
        check(&mut cache, cpu("1500m"), "a");
        check(&mut cache, cpu("3"), "0/2 nodes are available: 2 Insufficient cpu.");
        cache.place(pod("1", cpu("1")), "a");
        check(&mut cache, cpu("1500m"), "0/2 nodes are available: 2 Insufficient cpu.");
    }

    #[test]
    fn no_request_is_too_large_to_be_refused() {
        let mut cache = cache(vec![node("a", "2")]);
        cache.place(pod("1", cpu("1")), "a");
        check(&mut cache, cpu("9223372036854775807"), "0/1 nodes are available: 1 Insufficient cpu.");
        let much = || object!({ "resources": { "requests": { "memory": "8Ei" } } });
        check(&mut cache, object!({ "containers": [(much()), (much())] }), "0/1 nodes are available: 1 Insufficient memory.");
        cache.place(pod("2", object!({ "containers": [(much()), (much())] })), "a");
        cache.remove("2");
        check(&mut cache, cpu("1"), "a");
    }

    #[test]
    fn the_emptier_node_is_chosen() {
        let mut cache = cache(vec![node("a", "4"), node("b", "4")]);
        cache.place(pod("1", cpu("1")), "a");
        check(&mut cache, cpu("100m"), "b");
    }

    #[test]
    fn the_fuller_node_is_chosen_where_the_profile_says_so() {
        let ratio = Ranking::RequestedToCapacityRatio(vec![(0, 0), (100, 100)]);
        for ranking in [Ranking::MostAllocated, ratio] {
            let mut cache = cache(vec![node("a", "4"), node("b", "4")]);
            cache.place(pod("1", cpu("2")), "b");
            let fit = Fit { ranking, resources: vec![(CPU.into(), 1)], ..Fit::default() };
            let mut framework = Framework::new(standard(&Arguments { fit, ..Arguments::default() }), 0);
            check_with(&mut framework, &mut cache, cpu("100m"), "b");
        }
    }

    #[test]
    fn what_the_node_has_of_storage_counts_for_pods_that_ask_for_none() {
        let storage = |name: &str, amount: &str| {
            let mut node = node(name, "4");
            node.set(&["status", "allocatable", "ephemeral-storage"], amount);
            node
        };
        let mut cache = cache(vec![storage("a", "10Gi"), storage("b", "10Gi")]);
        let user = object!({ "containers": [{ "resources": { "requests": { "ephemeral-storage": "5Gi" } } }] });
        cache.place(pod("1", user), "a");
        let fit = Fit { resources: vec![(STORAGE.into(), 1)], ..Fit::default() };
        let slots = standard(&Arguments { fit, ..Arguments::default() });
        let alone = slots.into_iter().filter(|slot| slot.plugin.name() == "NodeResourcesFit").collect();
        let mut framework = Framework::new(alone, 0);
        for n in 0..4 {
            check_with(&mut framework, &mut cache, cpu("100m"), "b");
            cache.place(pod(&format!("other-{n}"), object!({})), "b");
        }
    }

    #[test]
    fn a_line_is_straight_between_its_points_and_level_beyond() {
        let shape = [(20, 0), (60, 10), (100, 0)];
        assert_eq!([0, 20, 40, 60, 80, 100].map(|x| between(&shape, x)), [0, 0, 5, 10, 5, 0]);
        let ratio = Ranking::RequestedToCapacityRatio(vec![(0, 0), (100, 100)]);
        assert_eq!([(0, 4), (1, 3), (11, 20), (5, 4)].map(|(used, has)| ratio.score(used, has)), [0, 33, 55, 100]);
    }

    #[test]
    fn a_node_takes_only_so_many_pods() {
        let mut small = node("a", "4");
        small.set(&["status", "allocatable", "pods"], "1");
        let mut cache = cache(vec![small]);
        cache.place(pod("1", object!({})), "a");
        check(&mut cache, object!({}), "0/1 nodes are available: 1 Too many pods.");
    }

    #[test]
    fn pods_that_are_alike_see_what_the_others_before_them_took() {
        let mut cache = cache(vec![node("a", "2"), node("b", "1")]);
        let mut framework = framework();
        let mut chosen = Vec::new();
        for n in 0..4 {
            let said = schedule(&mut framework, &pod(&n.to_string(), cpu("1")), &mut cache);
            if n < 3 {
                cache.place(pod(&n.to_string(), cpu("1")), &said);
            }
            chosen.push(said);
        }
        assert_eq!(chosen, ["a", "a", "b", "0/2 nodes are available: 2 Insufficient cpu."]);
        cache.remove("1");
        check_with(&mut framework, &mut cache, cpu("1"), "a");
    }

    #[test]
    fn what_is_ignored_is_not_looked_at() {
        let asks = || object!({ "containers": [{ "resources": { "requests": { "example.com/x": "1" } } }] });
        let mut cache = cache(vec![node("a", "2")]);
        check(&mut cache, asks(), "0/1 nodes are available: 1 Insufficient example.com/x.");
        let fit = Fit { ignored_groups: vec!["example.com".into()], ..Fit::default() };
        let mut framework = Framework::new(standard(&Arguments { fit, ..Arguments::default() }), 0);
        check_with(&mut framework, &mut cache, asks(), "a");
    }
}
