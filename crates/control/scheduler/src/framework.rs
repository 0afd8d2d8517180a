//! The scheduling cycle: filter the nodes, score those that are left, choose. Pure.
//!
//! What a plugin thinks of the nodes is a view, which is kept, brought up to date by what has changed, and shared by all pods
//! to which it would be the same: of pods that are alike only the first costs a look at every node.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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

    /// The nodes that it might take, where it knows that it refuses all others; see upstream's PreFilterResult.
    fn only(&self, _cache: &Cache) -> Option<Vec<usize>> {
        None
    }

    /// Refuses those of the open nodes that it does not take.
    fn filter(&mut self, _cache: &Cache, _verdicts: &mut Verdicts) {}

    /// Why one node is refused, where it is. Nodes that `filter` refuses with the same detail are refused for the same reasons.
    fn refusal(&self, _cache: &Cache, _slot: usize) -> Option<Refusal> {
        None
    }

    /// Why it cannot say of any node whether it refuses it: the attempt has failed, as upstream's with a status of Error.
    fn failure(&self) -> Option<String> {
        None
    }

    /// Scores of these nodes in their order, from 0 to 100; None where it has no opinion.
    fn score(&mut self, _cache: &Cache, _slots: &[usize]) -> Option<Vec<i64>> {
        None
    }
}

/// For each slot who refused it, if anyone did. Nodes are looked at by parts.
#[derive(Default)]
pub(crate) struct Verdicts {
    of: Vec<u32>,
    /// The slots that are looked at now.
    part: Vec<usize>,
    /// How many of them are refused, or left out.
    closed: usize,
    plugin: u32,
    /// How many were left out, as there are enough others.
    aside: usize,
}

/// Nobody looked at the slot: there are enough other nodes, or there is no node in it.
const ASIDE: u32 = u32::MAX;
const DETAIL: u32 = (1 << 24) - 1;

impl Verdicts {
    fn new(cache: &Cache) -> Self {
        Self { of: vec![ASIDE; cache.slots()], part: Vec::new(), closed: 0, plugin: 0, aside: 0 }
    }

    /// Goes on to other nodes, about which nothing is said yet.
    fn look_at(&mut self, part: impl Iterator<Item = usize>) {
        self.part.clear();
        self.part.extend(part);
        self.closed = 0;
        self.part.iter().for_each(|slot| self.of[*slot] = 0);
    }

    /// Refuses a node, unless it is already. The detail is the view's own.
    pub(crate) fn refuse(&mut self, slot: usize, detail: u32) {
        if self.of[slot] == 0 {
            self.of[slot] = (self.plugin + 1) << 24 | detail & DETAIL;
            self.closed += 1;
        }
    }

    /// Leaves a node out, as there are enough others.
    pub(crate) fn set_aside(&mut self, slot: usize) {
        if self.of[slot] == 0 {
            self.of[slot] = ASIDE;
            self.aside += 1;
            self.closed += 1;
        }
    }

    /// The nodes that are looked at and that nobody has refused.
    pub(crate) fn open(&self) -> impl Iterator<Item = usize> {
        self.part.iter().copied().filter(|slot| self.of[*slot] == 0)
    }

    /// Refuses nodes by a table of details, 0 for those that are taken.
    pub(crate) fn refuse_all(&mut self, details: &[u32]) {
        let plugin = (self.plugin + 1) << 24;
        for slot in &self.part {
            let detail = details.get(*slot).copied().unwrap_or(0);
            if detail != 0 && self.of[*slot] == 0 {
                self.of[*slot] = plugin | detail & DETAIL;
                self.closed += 1;
            }
        }
    }
}

/// No more nodes than this are looked for in a cluster that has as few; see minFeasibleNodesToFind.
const FEWEST: usize = 100;
/// However large a cluster is, at least this part of its nodes is looked for; see minFeasibleNodesPercentageToFind.
const LEAST: usize = 5;

/// How many nodes that take a pod are enough to choose among, where the profile wants so many of a hundred, 0 for what suits the
/// size of the cluster; see upstream's numFeasibleNodesToFind.
fn enough(percentage: usize, nodes: usize) -> usize {
    let percentage = match percentage {
        0 => 50usize.saturating_sub(nodes / 125).max(LEAST),
        said => said,
    };
    (nodes * percentage / 100).max(FEWEST).min(nodes)
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

/// How often a plugin was asked since somebody looked: by pods, and by nodes for pods.
#[derive(Default)]
struct Asked([AtomicU64; 4]);

/// Extension points at which plugins are counted one by one.
#[derive(Clone, Copy)]
enum Point {
    PreFilter,
    Filter,
    PreScore,
    Score,
}

impl Asked {
    const POINTS: [(Point, &'static str); 4] =
        [(Point::PreFilter, "PreFilter"), (Point::Filter, "Filter"), (Point::PreScore, "PreScore"), (Point::Score, "Score")];

    fn note(&self, point: Point, times: usize) {
        self.0[point as usize].fetch_add(times as u64, Ordering::Relaxed);
    }
}

/// Plugins that say nothing of a pod before they see nodes, as upstream's of the name.
const WITHOUT_PRE_FILTER: [&str; 5] =
    ["NodeUnschedulable", "NodeName", "TaintToleration", "ImageLocality", "NodeResourcesBalancedAllocation"];
const WITHOUT_PRE_SCORE: [&str; 2] = ["ImageLocality", "DynamicResources"];

/// The plugins of a profile, and what they know of the nodes.
pub(crate) struct Framework {
    pub(crate) plugins: Vec<Slot>,
    asked: Vec<Asked>,
    shelves: Vec<HashMap<String, Kept>>,
    clock: u64,
    /// How many of a hundred nodes are looked for; 0 for what suits the size of the cluster.
    percentage: usize,
    /// Where in the order of nodes the next look begins, so that each has its turn.
    start: usize,
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

impl Filtered {
    /// No node was looked at.
    pub(crate) fn unseen(pod: &Arc<Pod>, outcome: Outcome) -> Self {
        Self::None(Attempt::new(pod.clone(), Vec::new()), outcome)
    }
}

/// One pod's way through the plugins, by their numbers, with their views of it.
pub(crate) struct Attempt {
    pub(crate) pod: Arc<Pod>,
    views: Vec<(usize, Option<String>, Kept)>,
    /// What the plugins said of each node.
    verdicts: Verdicts,
    /// Nodes that are refused beside them: for pods that are expected there, or by an extender.
    pub(crate) refused: BTreeMap<usize, Refusal>,
    /// Only the node where room was made for the pod has been looked at.
    pub(crate) nominated: bool,
}

impl Attempt {
    fn new(pod: Arc<Pod>, views: Vec<(usize, Option<String>, Kept)>) -> Self {
        Self { pod, views, verdicts: Verdicts::default(), refused: BTreeMap::new(), nominated: false }
    }
}

impl Framework {
    pub(crate) fn new(plugins: Vec<Slot>, percentage: usize) -> Self {
        let (shelves, asked) = plugins.iter().map(|_| (HashMap::new(), Asked::default())).collect();
        Self { shelves, asked, plugins, clock: 0, percentage, start: 0 }
    }

    /// How often each plugin was asked at each extension point since the last call; those that were not are left out.
    pub(crate) fn take_asked(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        self.plugins.iter().zip(&self.asked).flat_map(|(slot, asked)| {
            let taken =
                |(point, name): (Point, &'static str)| (slot.plugin.name(), name, asked.0[point as usize].swap(0, Ordering::Relaxed));
            Asked::POINTS.into_iter().map(taken).filter(|(.., times)| *times > 0)
        })
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
            if slot.filters && !WITHOUT_PRE_FILTER.contains(&slot.plugin.name()) {
                self.asked[number].note(Point::PreFilter, 1);
            }
            views.push((number, key, kept));
        }
        Attempt::new(pod.clone(), views)
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

    /// A pod's way, where any node could take it at all.
    pub(crate) fn prepare(&mut self, pod: &Arc<Pod>, cache: &Cache) -> Result<Attempt, Outcome> {
        let early = self.plugins.iter().filter(|s| s.filters).find_map(|s| Some((s, s.plugin.pre_filter(pod, cache).err()?)));
        if let Some((slot, reason)) = early {
            return Err(Outcome::Premature { nodes: cache.count(), reason, plugin: slot.plugin.name() });
        }
        Ok(self.attempt(pod, cache))
    }

    /// Which nodes take a pod. Where room was made for it, that node alone, if it does.
    pub(crate) fn filter(&mut self, mut attempt: Attempt, cache: &mut Cache) -> Filtered {
        if let Some(slot) = cache.nominated_node(&attempt.pod.uid).and_then(|name| cache.slot(name))
            && self.fits(&mut attempt, cache, slot).is_ok()
        {
            attempt.nominated = true;
            return Filtered::Feasible(attempt, vec![slot]);
        }
        self.filter_all(attempt, cache)
    }

    /// Which of all nodes take a pod, wherever room was made for it.
    pub(crate) fn filter_all(&mut self, mut attempt: Attempt, cache: &mut Cache) -> Filtered {
        attempt.nominated = false;
        attempt.refused.clear();
        attempt.verdicts = Verdicts::new(cache);
        let narrow = attempt.views.iter().find_map(|(.., kept)| kept.view.only(cache));
        let mut feasible = narrow.map(|slots| self.look_at(&mut attempt, cache, slots.into_iter())).unwrap_or_default();
        if feasible.is_empty() {
            feasible = self.look_around(&mut attempt, cache);
        }
        if feasible.is_empty() {
            let outcome = self.unschedulable(&attempt, cache);
            return Filtered::None(attempt, outcome);
        }
        Filtered::Feasible(attempt, feasible)
    }

    /// Looks at nodes until there are enough, beginning where the look before ended.
    fn look_around(&mut self, attempt: &mut Attempt, cache: &mut Cache) -> Vec<usize> {
        let order = cache.order();
        let enough = enough(self.percentage, order.len());
        let (mut feasible, mut seen) = (Vec::with_capacity(enough), 0);
        while seen < order.len() && feasible.len() + attempt.verdicts.aside < enough {
            // Where only some are missing, looking for each alone would cost more than some too many.
            let size = (enough - feasible.len() - attempt.verdicts.aside).max(FEWEST / 2).min(order.len() - seen);
            let from = self.start + seen;
            let part = (from..from + size).map(|place| order[place % order.len()]);
            feasible.extend(self.look_at(attempt, cache, part));
            seen += size;
        }
        self.start = (self.start + seen) % order.len().max(1);
        feasible
    }

    /// Asks all plugins about some nodes; gives those that take the pod.
    fn look_at(&self, attempt: &mut Attempt, cache: &mut Cache, part: impl Iterator<Item = usize>) -> Vec<usize> {
        let mut verdicts = std::mem::take(&mut attempt.verdicts);
        verdicts.look_at(part);
        for (number, _, kept) in attempt.views.iter_mut().filter(|(number, ..)| self.plugins[*number].filters) {
            verdicts.plugin = *number as u32;
            self.asked[*number].note(Point::Filter, verdicts.part.len() - verdicts.closed);
            kept.view.filter(cache, &mut verdicts);
        }
        let open: Vec<usize> = verdicts.open().collect();
        attempt.verdicts = verdicts;
        let rooms = cache.rooms();
        let expects = |slot: &usize| rooms.binary_search(slot).is_ok();
        open.into_iter().filter(|slot| !expects(slot) || self.fits_beside(attempt, cache, *slot)).collect()
    }

    /// Whether an open node takes the pod also beside those for which room is being made there.
    fn fits_beside(&self, attempt: &mut Attempt, cache: &mut Cache, slot: usize) -> bool {
        if cache.expected_at(&attempt.pod, slot).is_empty() {
            return true;
        }
        let fits = self.fits(attempt, cache, slot);
        fits.map_err(|refusal| attempt.refused.insert(slot, refusal)).is_ok()
    }

    /// Why an attempt could not go on.
    pub(crate) fn failure(&self, attempt: &Attempt) -> Option<String> {
        let failed = |(number, _, kept): &(usize, Option<String>, Kept)| Some((self.plugins[*number].plugin.name(), kept.view.failure()?));
        let (plugin, why) = attempt.views.iter().find_map(failed)?;
        Some(format!("running {plugin:?} filter plugin: {why}"))
    }

    /// Why no node is left.
    pub(crate) fn unschedulable(&self, attempt: &Attempt, cache: &Cache) -> Outcome {
        let mut groups: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (slot, verdict) in attempt.verdicts.of.iter().enumerate().filter(|(_, v)| ![0, ASIDE].contains(*v)) {
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
            let Some(scores) = kept.view.score(cache, slots) else { continue };
            self.asked[*number].note(Point::Score, slots.len());
            if !WITHOUT_PRE_SCORE.contains(&self.plugins[*number].plugin.name()) {
                self.asked[*number].note(Point::PreScore, 1);
            }
            for (total, score) in totals.iter_mut().zip(scores) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::*;
    use crate::plugins::{Arguments, standard};
    use fram_machinery::object;

    #[test]
    fn the_larger_a_cluster_is_the_smaller_the_part_that_is_looked_for() {
        let table = [(0, 0, 0), (0, 99, 99), (0, 150, 100), (0, 1000, 420), (0, 5000, 500), (0, 6000, 300), (40, 1000, 400), (100, 7, 7)];
        for (percentage, nodes, expect) in table {
            assert_eq!(enough(percentage, nodes), expect, "{percentage} % of {nodes}");
        }
    }

    /// As many nodes as this, of which every other one is too small for the pod.
    fn half_of(nodes: usize) -> Cache {
        cache((0..nodes).map(|n| node(&format!("n{n}"), if n % 2 == 0 { "1" } else { "4" })).collect())
    }

    fn two_cpus(uid: &str) -> Arc<Pod> {
        pod(uid, object!({ "containers": [{ "resources": { "requests": { "cpu": "2" } } }] }))
    }

    #[test]
    fn nodes_take_turns_in_being_looked_at() {
        let mut cache = half_of(800);
        let mut framework = Framework::new(standard(&Arguments::default()), 25);
        let mut looks = Vec::new();
        for n in 0..2 {
            let Filtered::Feasible(attempt, slots) = filter(&mut framework, &two_cpus(&n.to_string()), &mut cache) else {
                panic!("no node")
            };
            framework.end(attempt);
            assert!((200..=250).contains(&slots.len()) && slots.iter().all(|slot| slot % 2 == 1), "{}", slots.len());
            looks.push(slots);
        }
        assert!(looks[1].iter().all(|slot| !looks[0].contains(slot)), "the second look begins where the first ended");
    }

    #[test]
    fn how_often_plugins_are_asked_is_counted() {
        // Of four nodes two are cordoned, and one of the others is too small.
        let mut nodes = vec![node("a", "4"), node("b", "1"), node("c", "4"), node("d", "4")];
        nodes[2..].iter_mut().for_each(|node| node.set(&["spec", "unschedulable"], true));
        let mut cache = cache(nodes);
        let mut framework = Framework::new(standard(&Arguments::default()), 0);
        let pod = two_cpus("p");
        let Filtered::Feasible(mut attempt, slots) = filter(&mut framework, &pod, &mut cache) else { panic!("no node") };
        framework.score(&mut attempt, &cache, &slots);
        framework.end(attempt);
        let asked: HashMap<(&str, &str), u64> = framework.take_asked().map(|(plugin, point, times)| ((plugin, point), times)).collect();
        let times = |plugin: &'static str, point: &'static str| asked.get(&(plugin, point)).copied().unwrap_or(0);
        assert_eq!((times("NodeUnschedulable", "PreFilter"), times("NodeUnschedulable", "Filter")), (0, 4));
        assert_eq!((times("NodeResourcesFit", "PreFilter"), times("NodeResourcesFit", "Filter")), (1, 2));
        assert_eq!((times("NodeResourcesFit", "PreScore"), times("NodeResourcesFit", "Score")), (1, 1));
        assert_eq!(times("InterPodAffinity", "Filter"), 0, "it has no opinion on this pod");
        assert_eq!(framework.take_asked().count(), 0);
    }

    #[test]
    fn all_nodes_are_looked_at_before_a_pod_is_refused() {
        let mut cache = half_of(300);
        cache.set_node("large", Arc::new(node("large", "64")));
        let mut framework = Framework::new(standard(&Arguments::default()), 10);
        let of = |n: &str| object!({ "containers": [{ "resources": { "requests": { "cpu": n } } }] });
        for _ in 0..3 {
            check_with(&mut framework, &mut cache, of("8"), "large");
        }
        check_with(&mut framework, &mut cache, of("65"), "0/301 nodes are available: 301 Insufficient cpu.");
    }
}
