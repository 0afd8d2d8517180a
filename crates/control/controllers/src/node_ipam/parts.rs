//! Which parts of the pod network are taken, and who waits for some. Clusters have thousands of nodes: none of it looks at all of them.
//! Pure.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use fram_api::AddressRange;
use fram_machinery::{Value, meta};

use super::{PodNetwork, given};

/// The parts of one range.
struct Range {
    range: AddressRange,
    prefix: u32,
    taken: BTreeSet<u128>,
    /// All parts before this one are taken.
    first: u128,
}

impl Range {
    fn count(&self) -> u128 {
        1 << (self.prefix - self.range.prefix())
    }

    fn free(&mut self) -> Option<u128> {
        let free = (self.first..self.count()).find(|number| !self.taken.contains(number));
        self.first = free.unwrap_or(self.count());
        free
    }

    fn release(&mut self, number: u128) {
        self.taken.remove(&number);
        self.first = self.first.min(number);
    }
}

pub(super) struct Parts {
    ranges: Vec<Range>,
    /// By node, of which range it has which part.
    by_node: HashMap<String, Vec<(usize, u128)>>,
    waiting: BTreeSet<String>,
    /// All nodes were asked for once: before, a part that somebody has just given could be given again.
    pub(super) complete: bool,
    /// Nodes that went while they were asked for.
    gone: BTreeSet<String>,
}

impl Parts {
    pub(super) fn new(network: &PodNetwork) -> Self {
        let range = |(range, prefix): &(AddressRange, u32)| Range { range: *range, prefix: *prefix, taken: BTreeSet::new(), first: 0 };
        let (by_node, waiting, gone) = Default::default();
        Self { ranges: network.ranges.iter().map(range).collect(), by_node, waiting, complete: false, gone }
    }

    /// These are all nodes.
    pub(super) fn complete(&mut self, nodes: &[Arc<Value>]) {
        let gone = std::mem::take(&mut self.gone);
        let there = nodes.iter().filter(|node| !gone.contains(meta::name(node)));
        there.for_each(|node| self.note(meta::name(node), &given(node)));
        self.complete = true;
    }

    /// A node has these parts, whoever gave them.
    pub(super) fn note(&mut self, node: &str, cidrs: &[&str]) {
        let known = |cidr: &&str| {
            let part: AddressRange = cidr.parse().ok()?;
            self.ranges.iter().enumerate().find_map(|(n, range)| Some((n, range.range.number(range.prefix, part)?)))
        };
        let parts: Vec<(usize, u128)> = cidrs.iter().filter_map(known).collect();
        if parts.is_empty() {
            return;
        }
        self.waiting.remove(node);
        self.gone.remove(node);
        for (range, number) in &parts {
            self.ranges[*range].taken.insert(*number);
        }
        self.by_node.insert(node.into(), parts);
    }

    /// A part of each range for a node, the same each time until they are given back; None where one has none left.
    pub(super) fn take(&mut self, node: &str) -> Option<Vec<String>> {
        if !self.by_node.contains_key(node) {
            let free: Option<Vec<u128>> = self.ranges.iter_mut().map(Range::free).collect();
            let Some(free) = free else {
                self.waiting.insert(node.into());
                return None;
            };
            for (range, number) in self.ranges.iter_mut().zip(&free) {
                range.taken.insert(*number);
            }
            self.waiting.remove(node);
            self.gone.remove(node);
            self.by_node.insert(node.into(), free.into_iter().enumerate().collect());
        }
        let part = |(n, number): &(usize, u128)| {
            let range = &self.ranges[*n];
            range.range.part(range.prefix, *number).to_string()
        };
        Some(self.by_node.get(node)?.iter().map(part).collect())
    }

    /// A node is gone; gives the one that is next to be asked about.
    pub(super) fn release(&mut self, node: &str) -> Option<String> {
        self.waiting.remove(node);
        if !self.complete {
            self.gone.insert(node.into());
        }
        for (range, number) in self.by_node.remove(node)? {
            self.ranges[range].release(number);
        }
        self.waiting.pop_first()
    }
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::super::NodeMasks;
    use super::*;

    fn parts(ranges: &str, masks: NodeMasks) -> Parts {
        Parts::new(&PodNetwork::new(&AddressRange::parse_list(ranges).unwrap(), masks).unwrap())
    }

    /// Of two parts.
    fn halves() -> Parts {
        parts("10.244.0.0/16", NodeMasks { any: Some(17), ..Default::default() })
    }

    fn taken(parts: &mut Parts, node: &str) -> Option<String> {
        parts.take(node).map(|cidrs| cidrs.join(","))
    }

    #[test]
    fn a_part_is_given_once_and_again_when_its_node_is_gone() {
        let mut parts = halves();
        assert_eq!(taken(&mut parts, "a").as_deref(), Some("10.244.0.0/17"));
        assert_eq!(taken(&mut parts, "a").as_deref(), Some("10.244.0.0/17"), "a second try gets the same");
        assert_eq!(taken(&mut parts, "b").as_deref(), Some("10.244.128.0/17"));
        assert_eq!((parts.take("c"), parts.take("d")), (None, None));
        assert_eq!(parts.release("a").as_deref(), Some("c"), "one waits for each part");
        assert_eq!(taken(&mut parts, "c").as_deref(), Some("10.244.0.0/17"));
        assert_eq!(parts.release("d"), None);
        assert_eq!(parts.release("b"), None);
        assert_eq!(taken(&mut parts, "e").as_deref(), Some("10.244.128.0/17"));
    }

    #[test]
    fn a_node_that_goes_while_all_are_asked_for_keeps_nothing() {
        let mut parts = halves();
        let node = |name: &str, cidr: &str| Arc::new(object!({ "metadata": { "name": name }, "spec": { "podCIDR": cidr } }));
        parts.release("a");
        parts.complete(&[node("a", "10.244.0.0/17"), node("b", "10.244.128.0/17"), node("c", "")]);
        assert_eq!((taken(&mut parts, "c").as_deref(), parts.take("d")), (Some("10.244.0.0/17"), None));
    }

    #[test]
    fn what_others_gave_is_taken() {
        let mut parts = halves();
        parts.note("a", &["10.244.0.0/17"]);
        parts.note("b", &["10.9.0.0/24"]);
        assert_eq!(taken(&mut parts, "c").as_deref(), Some("10.244.128.0/17"));
    }

    #[test]
    fn of_two_ranges_a_node_has_a_part_of_each_or_none() {
        let masks = NodeMasks { v4: Some(17), v6: Some(58), ..Default::default() };
        let mut parts = parts("10.244.0.0/16,fd00::/56", masks);
        parts.note("old", &["fd00::/58"]);
        assert_eq!(taken(&mut parts, "a").as_deref(), Some("10.244.0.0/17,fd00:0:0:40::/58"));
        assert_eq!(taken(&mut parts, "b").as_deref(), Some("10.244.128.0/17,fd00:0:0:80::/58"));
        assert_eq!(parts.take("c"), None, "of the second range there is one left");
        parts.note("d", &["fd00:0:0:c0::/58"]);
        assert_eq!(parts.release("a").as_deref(), Some("c"));
        assert_eq!(taken(&mut parts, "c").as_deref(), Some("10.244.0.0/17,fd00:0:0:40::/58"));
        assert_eq!(parts.release("old"), None);
        assert_eq!(parts.take("e"), None);
    }
}
