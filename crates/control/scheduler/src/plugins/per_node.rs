//! Views whose opinion of a node depends on that node alone: a table by slot, of which a change touches one row.

use crate::cache::{Cache, Change};
use crate::framework::{Refusal, Verdicts, View};
use crate::node::Node;

/// What there is to know of one node.
pub(super) trait Judge: Send + Sync + 'static {
    /// Whether pods on the node matter, or only the node itself.
    const PODS: bool;

    /// 0 where the node is taken.
    fn detail(&self, _node: &Node) -> u32 {
        0
    }

    /// The reasons of a refused node.
    fn refusal(&self, _detail: u32, _node: &Node) -> Option<Refusal> {
        None
    }

    /// Its score before it is compared with others.
    fn raw(&self, _node: &Node) -> i64 {
        0
    }

    /// Raw scores as scores.
    fn scores(&self, _raw: Vec<i64>) -> Option<Vec<i64>> {
        None
    }

    /// The nodes that can be taken at all, by name, and the detail of all others; None where each has to be looked at.
    fn only(&self) -> Option<(Vec<String>, u32)> {
        None
    }
}

pub(super) struct PerNode<J> {
    judge: J,
    details: Vec<u32>,
    raw: Vec<i64>,
    refused: usize,
}

impl<J: Judge> PerNode<J> {
    pub(super) fn boxed(judge: J, cache: &Cache) -> Box<dyn View> {
        let mut view = Self { judge, details: vec![0; cache.slots()], raw: vec![0; cache.slots()], refused: 0 };
        if let Some((names, other)) = view.judge.only() {
            view.details.fill(other);
            view.refused = view.details.len();
            names.iter().filter_map(|name| cache.slot(name)).for_each(|slot| view.look(cache, slot));
        } else {
            cache.nodes().for_each(|(slot, _)| view.look(cache, slot));
        }
        Box::new(view)
    }

    fn look(&mut self, cache: &Cache, slot: usize) {
        if slot >= self.details.len() {
            self.details.resize(slot + 1, 0);
            self.raw.resize(slot + 1, 0);
        }
        let node = cache.at(slot);
        let detail = if node.object.is_some() { self.judge.detail(node) } else { 0 };
        self.refused += usize::from(detail != 0);
        self.refused -= usize::from(self.details[slot] != 0);
        self.details[slot] = detail;
        self.raw[slot] = self.judge.raw(node);
    }
}

impl<J: Judge> View for PerNode<J> {
    fn changed(&mut self, change: &Change, cache: &Cache) -> bool {
        match change {
            Change::Node(slot) => self.look(cache, *slot),
            Change::Placed(slot, _) | Change::Removed(slot, _) if J::PODS => self.look(cache, *slot),
            _ => {}
        }
        true
    }

    fn only(&self, cache: &Cache) -> Option<Vec<usize>> {
        let (names, _) = self.judge.only()?;
        Some(names.iter().filter_map(|name| cache.slot(name)).collect())
    }

    fn filter(&mut self, _: &Cache, verdicts: &mut Verdicts) {
        if self.refused > 0 {
            verdicts.refuse_all(&self.details);
        }
    }

    fn refusal(&self, cache: &Cache, slot: usize) -> Option<Refusal> {
        let detail = *self.details.get(slot)?;
        if detail == 0 { None } else { self.judge.refusal(detail, cache.at(slot)) }
    }

    fn score(&mut self, _: &Cache, slots: &[usize]) -> Option<Vec<i64>> {
        self.judge.scores(slots.iter().map(|slot| self.raw[*slot]).collect())
    }
}
