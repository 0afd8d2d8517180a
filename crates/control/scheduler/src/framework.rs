//! The scheduling cycle: filter the nodes, score those that are left, choose. Pure.
//!
//! What a plugin thinks of the nodes is a view, which is kept, brought up to date by what has changed, and shared by all pods
//! to which it would be the same: of pods that are alike only the first costs a look at every node.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::cache::{Cache, Change};
use crate::plugins::Slot;
use crate::pod::Pod;

/// Why a node does not take a pod, in upstream's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reasons: Vec<String>,
    /// It would stay the same if pods left the node; upstream's UnschedulableAndUnresolvable.
    pub(crate) lasting: bool,
}

impl Refusal {
    /// One that may end when pods leave the node.
    pub(crate) fn passing(reason: impl Into<String>) -> Self {
        Self { reasons: vec![reason.into()], lasting: false }
    }

    pub(crate) fn lasting(reason: impl Into<String>) -> Self {
        Self { reasons: vec![reason.into()], lasting: true }
    }
}

/// How many nodes gave each reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reasons(BTreeMap<String, usize>);

impl Reasons {
    pub(crate) fn add(&mut self, refusal: Refusal, times: usize) {
        refusal.reasons.into_iter().for_each(|reason| self.add_times(reason, times));
    }

    pub(crate) fn add_times(&mut self, reason: String, times: usize) {
        *self.0.entry(reason).or_default() += times;
    }

    /// The message of a FailedScheduling event; see upstream's FitError.
    pub(crate) fn message(&self, nodes: usize) -> String {
        if nodes == 0 {
            return "no nodes available to schedule pods".into();
        }
        let mut texts: Vec<String> = self.0.iter().filter(|(_, n)| **n > 0).map(|(reason, n)| format!("{n} {reason}")).collect();
        texts.sort();
        format!("0/{nodes} nodes are available: {}.", texts.join(", "))
    }
}

/// The best score that a plugin gives.
pub(crate) const MAX_SCORE: i64 = 100;

/// Who shares what a plugin thinks of the nodes.
pub(crate) enum Sharing {
    /// The plugin has no opinion on this pod.
    Nothing,
    /// Nobody.
    Alone,
    /// All pods for which it says the same text.
    With(String),
}

/// A plugin: where a pod may run, and where it would better run.
pub(crate) trait Plugin: Send + Sync {
    fn name(&self) -> &'static str;

    /// Why no node can take the pod, whatever the nodes are.
    fn pre_filter(&self, _pod: &Pod, _cache: &Cache) -> Result<(), String> {
        Ok(())
    }

    fn sharing(&self, pod: &Pod, cache: &Cache) -> Sharing;

    /// What it thinks of the nodes, for a pod and all that share with it.
    fn view(&self, pod: &Arc<Pod>, cache: &Cache) -> Box<dyn View>;
}

/// What a plugin thinks of each node.
pub(crate) trait View: Send + Sync {
    /// Takes in a change; false where the view has to be made anew.
    fn changed(&mut self, change: &Change, cache: &Cache) -> bool;

    /// Refuses those of the nodes that nobody has refused yet.
    fn filter(&mut self, _cache: &Cache, _verdicts: &mut Verdicts) {}

    /// Why one node is refused, where it is. Nodes that `filter` refuses with the same detail are refused for the same reasons.
    fn refusal(&self, _cache: &Cache, _slot: usize) -> Option<Refusal> {
        None
    }

    /// Scores of these nodes in their order, from 0 to 100; None where it has no opinion.
    fn score(&mut self, _cache: &Cache, _slots: &[usize]) -> Option<Vec<i64>> {
        None
    }
}

/// For each slot who refused it, if anyone did.
#[derive(Default)]
pub(crate) struct Verdicts {
    of: Vec<u32>,
    plugin: u32,
}

/// There is no node in the slot.
const ABSENT: u32 = u32::MAX;
/// Nobody looked at the node: there are enough others.
const ASIDE: u32 = u32::MAX - 1;
const DETAIL: u32 = (1 << 24) - 1;

impl Verdicts {
    fn new(cache: &Cache) -> Self {
        let of = (0..cache.slots()).map(|slot| if cache.at(slot).object.is_some() { 0 } else { ABSENT });
        Self { of: of.collect(), plugin: 0 }
    }

    /// Refuses a node, unless it is already. The detail is the view's own.
    pub(crate) fn refuse(&mut self, slot: usize, detail: u32) {
        if self.of[slot] == 0 {
            self.of[slot] = (self.plugin + 1) << 24 | detail & DETAIL;
        }
    }

    /// Leaves a node out, as there are enough others.
    pub(crate) fn set_aside(&mut self, slot: usize) {
        if self.of[slot] == 0 {
            self.of[slot] = ASIDE;
        }
    }

    /// The nodes that nobody has refused.
    pub(crate) fn open(&self) -> impl Iterator<Item = usize> {
        self.of.iter().enumerate().filter(|(_, v)| **v == 0).map(|(slot, _)| slot)
    }

    /// Refuses nodes by a table of details, 0 for those that are taken.
    pub(crate) fn refuse_all(&mut self, details: &[u32]) {
        for (slot, detail) in details.iter().enumerate().filter(|(_, d)| **d != 0) {
            self.refuse(slot, *detail);
        }
    }
}

struct Kept {
    view: Box<dyn View>,
    /// Up to where in the log of changes it has read.
    position: u64,
    /// When it was last asked.
    used: u64,
}

impl Kept {
    fn catch_up(&mut self, cache: &Cache) -> bool {
        let Some(mut changes) = cache.since(self.position) else { return false };
        self.position = cache.position();
        changes.all(|change| self.view.changed(change, cache))
    }
}

/// So many views are kept for each plugin: a hundred shapes of pods in turn share their work, and at 5,000 nodes all of them take
/// some twenty megabytes.
const SHELF: usize = 128;

/// The plugins of a profile, and what they know of the nodes.
pub(crate) struct Framework {
    pub(crate) plugins: Vec<Slot>,
    shelves: Vec<HashMap<String, Kept>>,
    clock: u64,
}

/// Why no node takes a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// How many nodes there are, why they do not take it, and those of them that might if pods left.
    Unschedulable {
        nodes: usize,
        reasons: Reasons,
        clearable: Vec<String>,
        /// The plugins that refused nodes: only what may change their minds is worth another attempt.
        plugins: Vec<&'static str>,
    },
    /// No node was looked at, for this reason.
    Premature { nodes: usize, reason: String, plugin: &'static str },
}

/// The nodes that take a pod, or why none does.
pub(crate) enum Filtered {
    Feasible(Attempt, Vec<usize>),
    None(Attempt, Outcome),
}

/// One pod's way through the plugins, by their numbers, with their views of it.
pub(crate) struct Attempt {
    pub(crate) pod: Arc<Pod>,
    views: Vec<(usize, Option<String>, Kept)>,
    /// What the plugins said of each node.
    verdicts: Verdicts,
    /// Nodes that are refused beside them: for pods that are expected there, or by an extender.
    pub(crate) refused: BTreeMap<usize, Refusal>,
}

impl Framework {
    pub(crate) fn new(plugins: Vec<Slot>) -> Self {
        Self { shelves: plugins.iter().map(|_| HashMap::new()).collect(), plugins, clock: 0 }
    }

    /// The views of a pod, up to date.
    fn attempt(&mut self, pod: &Arc<Pod>, cache: &Cache) -> Attempt {
        self.clock += 1;
        let mut views = Vec::with_capacity(self.plugins.len());
        for (number, slot) in self.plugins.iter().enumerate() {
            let key = match slot.plugin.sharing(pod, cache) {
                Sharing::Nothing => continue,
                Sharing::Alone => None,
                Sharing::With(key) => Some(key),
            };
            let kept = key.as_ref().and_then(|key| self.shelves[number].remove(key));
            let kept = kept.and_then(|mut kept| kept.catch_up(cache).then_some(kept));
            let fresh = || Kept { view: slot.plugin.view(pod, cache), position: cache.position(), used: 0 };
            let mut kept = kept.unwrap_or_else(fresh);
            kept.used = self.clock;
            views.push((number, key, kept));
        }
        Attempt { pod: pod.clone(), views, verdicts: Verdicts::default(), refused: BTreeMap::new() }
    }

    /// Keeps what the attempt knows for the next of its sort.
    pub(crate) fn end(&mut self, attempt: Attempt) {
        for (number, key, kept) in attempt.views {
            let Some(key) = key else { continue };
            let shelf = &mut self.shelves[number];
            if shelf.len() >= SHELF
                && let Some(oldest) = shelf.iter().min_by_key(|(_, kept)| kept.used).map(|(key, _)| key.clone())
            {
                shelf.remove(&oldest);
            }
            shelf.insert(key, kept);
        }
    }

    /// Which nodes take a pod. Where room was made for it, that node alone, if it does.
    pub(crate) fn filter(&mut self, pod: &Arc<Pod>, cache: &mut Cache) -> Filtered {
        let early = self.plugins.iter().filter(|s| s.filters).find_map(|s| Some((s, s.plugin.pre_filter(pod, cache).err()?)));
        if let Some((slot, reason)) = early {
            let outcome = Outcome::Premature { nodes: cache.count(), reason, plugin: slot.plugin.name() };
            let attempt = Attempt { pod: pod.clone(), views: Vec::new(), verdicts: Verdicts::default(), refused: BTreeMap::new() };
            return Filtered::None(attempt, outcome);
        }
        let mut attempt = self.attempt(pod, cache);
        if let Some(slot) = cache.nominated_node(&pod.uid).and_then(|name| cache.slot(name))
            && self.fits(&mut attempt, cache, slot).is_ok()
        {
            return Filtered::Feasible(attempt, vec![slot]);
        }
        let mut verdicts = Verdicts::new(cache);
        for (number, _, kept) in attempt.views.iter_mut().filter(|(number, ..)| self.plugins[*number].filters) {
            verdicts.plugin = *number as u32;
            kept.view.filter(cache, &mut verdicts);
        }
        for slot in cache.rooms() {
            if verdicts.of.get(slot) == Some(&0)
                && !cache.expected_at(pod, slot).is_empty()
                && let Err(refusal) = self.fits(&mut attempt, cache, slot)
            {
                attempt.refused.insert(slot, refusal);
            }
        }
        let feasible: Vec<usize> = verdicts.open().filter(|slot| !attempt.refused.contains_key(slot)).collect();
        attempt.verdicts = verdicts;
        if feasible.is_empty() {
            let outcome = self.unschedulable(&attempt, cache);
            return Filtered::None(attempt, outcome);
        }
        Filtered::Feasible(attempt, feasible)
    }

    /// Why no node is left.
    pub(crate) fn unschedulable(&self, attempt: &Attempt, cache: &Cache) -> Outcome {
        let mut groups: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (slot, verdict) in attempt.verdicts.of.iter().enumerate().filter(|(_, v)| ![0, ABSENT, ASIDE].contains(*v)) {
            groups.entry(*verdict).or_default().push(slot);
        }
        let (mut reasons, mut clearable, mut plugins) = (Reasons::default(), Vec::new(), Vec::new());
        for (verdict, slots) in groups {
            let plugin = (verdict >> 24) as usize - 1;
            let view = attempt.views.iter().find(|(number, ..)| *number == plugin).map(|(.., kept)| &kept.view);
            let Some(refusal) = view.and_then(|view| view.refusal(cache, *slots.first()?)) else { continue };
            if !refusal.lasting {
                clearable.extend(slots.iter().map(|slot| cache.at(*slot).name().to_string()));
            }
            reasons.add(refusal, slots.len());
            plugins.push(self.plugins[plugin].plugin.name());
        }
        for (slot, refusal) in &attempt.refused {
            clearable.extend((!refusal.lasting).then(|| cache.at(*slot).name().to_string()));
            reasons.add(refusal.clone(), 1);
        }
        if !attempt.refused.is_empty() {
            // Anything may change an extender's mind, or free what is kept for others.
            plugins.clear();
        }
        plugins.dedup();
        Outcome::Unschedulable { nodes: cache.count(), reasons, clearable, plugins }
    }

    /// Whether every plugin lets the pod run on a node, as the cache is now.
    fn accepts(&self, attempt: &mut Attempt, cache: &Cache, slot: usize) -> Result<(), Refusal> {
        for (number, _, kept) in attempt.views.iter_mut().filter(|(number, ..)| self.plugins[*number].filters) {
            if !kept.catch_up(cache) {
                kept.view = self.plugins[*number].plugin.view(&attempt.pod, cache);
                kept.position = cache.position();
            }
            if let Some(refusal) = kept.view.refusal(cache, slot) {
                return Err(refusal);
            }
        }
        Ok(())
    }

    /// As `accepts`, also beside the pods for which room is being made on the node. Without them too: they may never come.
    pub(crate) fn fits(&self, attempt: &mut Attempt, cache: &mut Cache, slot: usize) -> Result<(), Refusal> {
        let expected: Vec<Arc<Pod>> = cache.expected_at(&attempt.pod, slot).into_iter().filter(|pod| !cache.holds(&pod.uid)).collect();
        if !expected.is_empty() {
            let position = cache.position();
            expected.iter().for_each(|pod| cache.put(pod.clone(), slot));
            let beside = self.accepts(attempt, cache, slot);
            expected.iter().for_each(|pod| drop(cache.take(&pod.uid)));
            self.go_back(attempt, cache, position);
            beside?;
        }
        self.accepts(attempt, cache, slot)
    }

    /// Forgets changes that have undone each other, here and in the attempt's views.
    pub(crate) fn go_back(&self, attempt: &mut Attempt, cache: &mut Cache, position: u64) {
        for (number, _, kept) in &mut attempt.views {
            if !kept.catch_up(cache) {
                kept.view = self.plugins[*number].plugin.view(&attempt.pod, cache);
                kept.position = cache.position();
            }
        }
        if cache.rewind(position) {
            attempt.views.iter_mut().for_each(|(.., kept)| kept.position = position);
        }
    }

    /// The scores of nodes, in their order.
    pub(crate) fn score(&self, attempt: &mut Attempt, cache: &Cache, slots: &[usize]) -> Vec<i64> {
        let mut totals = vec![0i64; slots.len()];
        for (number, _, kept) in attempt.views.iter_mut().filter(|(number, ..)| self.plugins[*number].weight > 0) {
            for (total, score) in totals.iter_mut().zip(kept.view.score(cache, slots).unwrap_or_default()) {
                *total += score * self.plugins[*number].weight;
            }
        }
        totals
    }
}

/// The best of the nodes. Of equal ones `tie` decides: a number that differs from call to call.
pub(crate) fn best(slots: &[usize], totals: &[i64], tie: u64) -> Option<usize> {
    let best = totals.iter().max()?;
    let equal = || slots.iter().zip(totals).filter(|(_, total)| *total == best).map(|(slot, _)| *slot);
    equal().nth((tie % equal().count() as u64) as usize)
}

/// Brings raw scores into 0..=100; where less is better they are turned round. See helper.DefaultNormalizeScore.
pub(crate) fn normalize(mut scores: Vec<i64>, reverse: bool) -> Vec<i64> {
    let most = scores.iter().max().copied().unwrap_or(0);
    for score in &mut scores {
        let scaled = if most == 0 { 0 } else { *score * MAX_SCORE / most };
        *score = if reverse { MAX_SCORE - scaled } else { scaled };
    }
    scores
}
