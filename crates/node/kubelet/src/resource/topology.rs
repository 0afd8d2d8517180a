//! Hints about NUMA nodes from those who give out resources, merged into one affinity by a policy. Pure; see upstream's
//! pkg/kubelet/cm/topologymanager and KEP-693.

use super::cpuset::CpuSet;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Policy {
    #[default]
    None,
    BestEffort,
    Restricted,
    SingleNumaNode,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Scope {
    #[default]
    Container,
    Pod,
}

impl Policy {
    pub(crate) const WORDS: [(&str, Self); 4] = [
        ("none", Self::None),
        ("best-effort", Self::BestEffort),
        ("restricted", Self::Restricted),
        ("single-numa-node", Self::SingleNumaNode),
    ];

    pub(crate) fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, policy)| *policy == self).map_or("", |(word, _)| word)
    }
}

impl Scope {
    pub(crate) const WORDS: [(&str, Self); 2] = [("container", Self::Container), ("pod", Self::Pod)];

    pub(crate) fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, scope)| *scope == self).map_or("", |(word, _)| word)
    }
}

/// NUMA nodes from which something can be had. No nodes named means any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hint {
    pub(crate) nodes: Option<CpuSet>,
    /// It could not be had from fewer nodes, not even on an empty machine.
    pub(crate) preferred: bool,
}

/// What one resource says: None where it does not care, an empty list where it cannot be had at all.
pub(crate) type Hints = Option<Vec<Hint>>;

/// Most combinations that are looked at. Eight nodes give 255 hints for each resource; upstream refuses more nodes than that.
const MOST_COMBINATIONS: usize = 1 << 20;

/// The affinity that fits all resources best; None where the policy takes none of them.
pub(crate) fn merge(policy: Policy, nodes: &CpuSet, resources: &[Hints]) -> Option<Hint> {
    let any = Hint { nodes: None, preferred: true };
    if policy == Policy::None {
        return Some(any);
    }
    let mut lists: Vec<Vec<Hint>> = Vec::new();
    for hints in resources {
        let list = match hints {
            None => vec![any.clone()],
            // It cannot be had with any affinity: that is nobody's preference.
            Some(list) if list.is_empty() => vec![Hint { nodes: None, preferred: false }],
            Some(list) => list.clone(),
        };
        lists.push(match policy {
            Policy::SingleNumaNode => list.into_iter().filter(|h| h.preferred && h.nodes.as_ref().is_none_or(|n| n.len() == 1)).collect(),
            _ => list,
        });
    }
    let best = best(nodes, &lists);
    match policy {
        Policy::BestEffort | Policy::None => Some(best),
        Policy::Restricted | Policy::SingleNumaNode => best.preferred.then_some(best),
    }
}

fn best(nodes: &CpuSet, lists: &[Vec<Hint>]) -> Hint {
    let widest = Hint { nodes: Some(nodes.clone()), preferred: false };
    let combinations = lists.iter().map(Vec::len).try_fold(1_usize, usize::checked_mul).unwrap_or(usize::MAX);
    if combinations == 0 || combinations > MOST_COMBINATIONS {
        return widest;
    }
    // Where not all resources can have what they prefer, none gets less than the neediest asks for at least.
    let least = |list: &Vec<Hint>| list.iter().filter_map(|h| h.nodes.as_ref()).map(CpuSet::len).min().unwrap_or(0);
    let neediest = lists.iter().map(least).max().unwrap_or(0);
    let mut best: Option<(Rank, Hint)> = None;
    let mut places = vec![0; lists.len()];
    loop {
        let merged = combine(nodes, places.iter().zip(lists).map(|(place, list)| &list[*place]));
        if let Some(merged) = merged {
            let rank = rank(&merged, nodes, neediest);
            if best.as_ref().is_none_or(|(known, _)| rank < *known) {
                best = Some((rank, merged));
            }
        }
        let Some(turn) = (0..places.len()).rev().find(|i| places[*i] + 1 < lists[*i].len()) else { break };
        places[turn] += 1;
        places[turn + 1..].fill(0);
    }
    best.map_or(widest, |(_, hint)| hint)
}

/// Lower is better: preferred, then closest to what is needed, then fewer nodes, then the first ones.
type Rank = (bool, usize, usize, CpuSet);

fn rank(hint: &Hint, nodes: &CpuSet, neediest: usize) -> Rank {
    let own = hint.nodes.clone().unwrap_or_else(|| nodes.clone());
    let away = if hint.preferred { 0 } else { own.len().abs_diff(neediest) };
    (!hint.preferred, away, own.len(), own)
}

/// What all of these hints have in common; None where that is nothing.
fn combine<'a>(nodes: &CpuSet, hints: impl Iterator<Item = &'a Hint>) -> Option<Hint> {
    let (mut common, mut first, mut preferred) = (nodes.clone(), None::<&CpuSet>, true);
    for hint in hints {
        preferred &= hint.preferred;
        if let Some(own) = &hint.nodes {
            // Resources on different nodes are no preferred placement, even where they overlap.
            preferred &= *first.get_or_insert(own) == own;
            common = common.intersection(own);
        }
    }
    if common.is_empty() {
        return None;
    }
    let nodes = if first.is_some() { Some(common) } else { None };
    Some(Hint { nodes, preferred })
}

/// All sets of some of the nodes, the small ones first.
pub(crate) fn subsets(nodes: &CpuSet) -> Vec<CpuSet> {
    let ids: Vec<u32> = nodes.iter().take(16).collect();
    let mut out: Vec<CpuSet> = (1_u32..1 << ids.len())
        .map(|bits| ids.iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1).map(|(_, id)| *id).collect())
        .collect();
    out.sort_by_key(|s| (s.len(), s.clone()));
    out
}

/// Hints of a resource: the sets of nodes from which `wanted` can be had, of which those are preferred than which no smaller set
/// would do on an empty machine. `total` and `free` say how much some nodes have.
pub(crate) fn hints(nodes: &CpuSet, wanted: i64, total: impl Fn(&CpuSet) -> i64, free: impl Fn(&CpuSet) -> Option<i64>) -> Vec<Hint> {
    let sets = subsets(nodes);
    let least = sets.iter().filter(|s| total(s) >= wanted).map(CpuSet::len).min().unwrap_or(usize::MAX);
    sets.into_iter()
        .filter(|s| free(s).is_some_and(|free| free >= wanted))
        .map(|s| Hint { preferred: s.len() == least, nodes: Some(s) })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> CpuSet {
        CpuSet::parse(text).unwrap()
    }

    fn hint(text: &str, preferred: bool) -> Hint {
        Hint { nodes: Some(set(text)), preferred }
    }

    #[test]
    fn policies_differ_in_what_they_take() {
        let one = || vec![hint("0", true), hint("1", true), hint("0-1", false)];
        let second = || vec![hint("1", true), hint("0-1", false)];
        let wide = || vec![hint("0-1", true)];
        let any = Hint { nodes: None, preferred: true };
        use Policy::{BestEffort, None as No, Restricted, SingleNumaNode};
        for (policy, resources, expect) in [
            (No, vec![Some(one()), Some(vec![])], Some(any.clone())),
            (BestEffort, vec![None], Some(any.clone())),
            (SingleNumaNode, vec![None, None], Some(any)),
            (BestEffort, vec![Some(one())], Some(hint("0", true))),
            (Restricted, vec![Some(one()), Some(second())], Some(hint("1", true))),
            (SingleNumaNode, vec![Some(one()), None, Some(second())], Some(hint("1", true))),
            // The second resource needs both nodes, the first could have had one: not preferred.
            (BestEffort, vec![Some(one()), Some(wide())], Some(hint("0-1", false))),
            (Restricted, vec![Some(one()), Some(wide())], None),
            (Restricted, vec![Some(wide())], Some(hint("0-1", true))),
            (SingleNumaNode, vec![Some(wide())], None),
            (BestEffort, vec![Some(vec![hint("0", true)]), Some(vec![hint("1", true)])], Some(hint("0-1", false))),
            (Restricted, vec![Some(vec![hint("0", true)]), Some(vec![hint("1", true)])], None),
            (Restricted, vec![Some(vec![])], None),
        ] {
            assert_eq!(merge(policy, &set("0-1"), &resources), expect, "{policy:?} {resources:?}");
        }
    }

    #[test]
    fn hints_are_the_sets_that_have_enough_and_the_smallest_possible_are_preferred() {
        let free = |s: &CpuSet| Some(s.iter().map(|n| if n == 0 { 1 } else { 4 }).sum());
        let made = hints(&set("0-1"), 3, |s| 4 * i64::try_from(s.len()).unwrap(), free);
        assert_eq!(made, [hint("1", true), hint("0-1", false)]);
        let none = hints(&set("0-1"), 6, |s| 4 * i64::try_from(s.len()).unwrap(), free);
        assert_eq!(none, []);
        let both = hints(&set("0-1"), 5, |s| 4 * i64::try_from(s.len()).unwrap(), free);
        assert_eq!(both, [hint("0-1", true)]);
    }

    #[test]
    fn subsets_are_all_of_them_with_the_small_ones_first() {
        let texts: Vec<String> = subsets(&set("0,2-3")).iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["0", "2", "3", "0,2", "0,3", "2-3", "0,2-3"]);
    }
}
