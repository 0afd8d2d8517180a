//! Which parts of the pod network are taken, and who waits for some. Clusters have thousands of nodes: none of it looks at all of them.
//! Pure.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use fram_api::AddressRange;
use fram_machinery::{Value, meta};

use super::{PodNetwork, given};

/// The parts of one range.
struct Range {
    range: AddressRange,
    prefix: u32,
    /// By number, how many have addresses of it: nodes that got theirs when parts were of another size may share one.
    taken: BTreeMap<u128, usize>,
    /// All parts before this one are taken.
    first: u128,
}

impl Range {
    fn count(&self) -> u128 {
        1 << (self.prefix - self.range.prefix())
    }

    /// The one of these that is one of the parts and nobody's, or any that is nobody's.
    fn free(&mut self, wished: &[AddressRange]) -> Option<AddressRange> {
        let is_free = |part: &&AddressRange| {
            let mut numbers = self.range.numbers(self.prefix, **part);
            part.prefix() == self.prefix && self.range.covers(**part) && numbers.all(|number| !self.taken.contains_key(&number))
        };
        if let Some(part) = wished.iter().find(is_free) {
            return Some(*part);
        }
        let free = (self.first..self.count()).find(|number| !self.taken.contains_key(number));
        self.first = free.unwrap_or(self.count());
        free.map(|number| self.range.part(self.prefix, number))
    }

    fn occupy(&mut self, part: AddressRange) {
        for number in self.range.numbers(self.prefix, part) {
            *self.taken.entry(number).or_default() += 1;
        }
    }

    fn release(&mut self, part: AddressRange) {
        for number in self.range.numbers(self.prefix, part) {
            if let Entry::Occupied(mut taken) = self.taken.entry(number) {
                *taken.get_mut() -= 1;
                if *taken.get() == 0 {
                    taken.remove();
                    self.first = self.first.min(number);
                }
            }
        }
    }
}

pub(super) struct Parts {
    ranges: Vec<Range>,
    /// By node, what it has of the ranges, whoever gave it and however large it is.
    by_node: HashMap<String, Vec<AddressRange>>,
    waiting: BTreeSet<String>,
    /// All nodes were asked for once: before, a part that somebody has just given could be given again.
    pub(super) complete: bool,
    /// Nodes that went while they were asked for.
    gone: BTreeSet<String>,
}

impl Parts {
    pub(super) fn new(network: &PodNetwork) -> Self {
        let range = |(range, prefix): &(AddressRange, u32)| Range { range: *range, prefix: *prefix, taken: BTreeMap::new(), first: 0 };
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
        let concerns = |part: &AddressRange| self.ranges.iter().any(|range| range.range.overlaps(*part));
        let parts: Vec<AddressRange> = cidrs.iter().filter_map(|cidr| cidr.parse().ok()).filter(concerns).collect();
        if !parts.is_empty() {
            self.give_back(node);
            self.give(node, parts);
        }
    }

    fn give(&mut self, node: &str, parts: Vec<AddressRange>) {
        self.waiting.remove(node);
        self.gone.remove(node);
        for range in &mut self.ranges {
            parts.iter().for_each(|part| range.occupy(*part));
        }
        self.by_node.insert(node.into(), parts);
    }

    /// What the node had until now.
    fn give_back(&mut self, node: &str) -> Option<Vec<AddressRange>> {
        let parts = self.by_node.remove(node)?;
        for range in &mut self.ranges {
            parts.iter().for_each(|part| range.release(*part));
        }
        Some(parts)
    }

    /// A part of each range for a node, the same each time until they are given back; None where one has none left. One that was made
    /// again under its name gets what it had, and of other ranges what is free.
    pub(super) fn take(&mut self, node: &str) -> Option<Vec<String>> {
        let had = self.give_back(node).unwrap_or_default();
        let free: Option<Vec<AddressRange>> = self.ranges.iter_mut().map(|range| range.free(&had)).collect();
        let Some(parts) = free else {
            self.waiting.insert(node.into());
            return None;
        };
        let said = parts.iter().map(AddressRange::to_string).collect();
        self.give(node, parts);
        Some(said)
    }

    /// A node is gone; gives the one that is next to be asked about.
    pub(super) fn release(&mut self, node: &str) -> Option<String> {
        self.waiting.remove(node);
        if !self.complete {
            self.gone.insert(node.into());
        }
        self.give_back(node)?;
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

    #[test]
    fn parts_of_another_size_are_taken_where_they_are() {
        let mut parts = halves();
        parts.note("a", &["10.244.0.0/24"]);
        parts.note("b", &["10.244.1.0/24"]);
        parts.note("b", &["10.244.1.0/24"]);
        assert_eq!(taken(&mut parts, "c").as_deref(), Some("10.244.128.0/17"));
        assert_eq!(parts.take("d"), None);
        assert_eq!(parts.release("a").as_deref(), Some("d"));
        assert_eq!(parts.take("d"), None, "the other is still there");
        assert_eq!(parts.release("b").as_deref(), Some("d"));
        assert_eq!(taken(&mut parts, "d").as_deref(), Some("10.244.0.0/17"));
        let mut smaller = self::parts("10.244.0.0/16", NodeMasks { any: Some(18), ..Default::default() });
        smaller.note("a", &["10.244.0.0/17"]);
        assert_eq!(taken(&mut smaller, "b").as_deref(), Some("10.244.128.0/18"));
        assert_eq!(smaller.release("a"), None);
        assert_eq!(taken(&mut smaller, "c").as_deref(), Some("10.244.0.0/18"));
    }

    #[test]
    fn a_node_that_is_made_again_has_a_part_of_each_range() {
        let masks = || NodeMasks { v4: Some(17), v6: Some(58), ..Default::default() };
        let mut parts = parts("10.244.0.0/16,fd00::/56", masks());
        parts.note("a", &["10.244.128.0/17"]);
        assert_eq!(taken(&mut parts, "a").as_deref(), Some("10.244.128.0/17,fd00::/58"));
        parts.note("b", &["10.244.0.0/24"]);
        assert_eq!(taken(&mut parts, "b").as_deref(), Some("10.244.0.0/17,fd00:0:0:40::/58"), "parts of another size are given up");
    }
}
