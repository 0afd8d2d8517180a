//! The scheduling cycle: filter the nodes, score those that are left, choose. Pure.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use fram_machinery::Value;

use crate::cache::Cache;
use crate::node::Node;
use crate::plugins::{self, Surroundings};
use crate::pod::Pod;
use crate::storage::Storage;

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
    pub(crate) fn add(&mut self, refusal: Refusal) {
        refusal.reasons.into_iter().for_each(|reason| self.add_times(reason, 1));
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

/// One view of all nodes for the plugins that look beyond one.
pub(crate) struct Cluster<'a> {
    pub(crate) nodes: Vec<&'a Node>,
    pub(crate) storage: &'a Storage,
    pub(crate) namespaces: &'a HashMap<String, Arc<Value>>,
    surroundings: OnceCell<Surroundings>,
}

impl<'a> Cluster<'a> {
    /// A view of these nodes, for one pod.
    pub(crate) fn new(nodes: Vec<&'a Node>, cache: &'a Cache) -> Self {
        Self { nodes, storage: &cache.storage, namespaces: &cache.namespaces, surroundings: OnceCell::new() }
    }

    /// The pods that matter for the pod's affinity, counted when they are first asked for.
    pub(crate) fn surroundings(&self, pod: &Pod) -> &Surroundings {
        self.surroundings.get_or_init(|| Surroundings::of(pod, &self.nodes, self.namespaces))
    }
}

/// A plugin: where a pod may run, and where it would better run.
pub(crate) trait Plugin: Send + Sync {
    fn name(&self) -> &'static str;

    /// How much its scores count.
    fn weight(&self) -> i64 {
        1
    }

    /// Why no node can take the pod, whatever the nodes are.
    fn pre_filter(&self, _pod: &Pod, _cluster: &Cluster<'_>) -> Result<(), String> {
        Ok(())
    }

    fn filter(&self, _pod: &Pod, _node: &Node, _cluster: &Cluster<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    /// Raw scores of the nodes that passed, in their order; None where the plugin has no opinion on this pod.
    fn score(&self, _pod: &Pod, _nodes: &[&Node], _cluster: &Cluster<'_>) -> Option<Vec<i64>> {
        None
    }
}

/// What became of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Chosen(String),
    /// How many nodes there are, why they do not take it, and those of them that might if pods left.
    Unschedulable {
        nodes: usize,
        reasons: Reasons,
        clearable: Vec<String>,
    },
    /// No node was looked at, for this reason.
    Premature {
        nodes: usize,
        reason: String,
    },
}

/// Whether every plugin lets the pod run on a node.
fn accepts(pod: &Pod, node: &Node, cluster: &Cluster<'_>) -> Result<(), Refusal> {
    plugins::standard().iter().try_for_each(|plugin| {
        plugin.filter(pod, node, cluster).inspect_err(|refusal| {
            tracing::trace!(plugin = plugin.name(), pod = pod.key, node = node.name(), ?refusal, "a node does not take a pod");
        })
    })
}

/// As `accepts`, also beside the pods for which room is being made on the node. Without them too: they may never come.
pub(crate) fn fits(pod: &Pod, node: &Node, cluster: &Cluster<'_>, cache: &Cache) -> Result<(), Refusal> {
    let counts = |other: &&Arc<Pod>| other.uid != pod.uid && other.priority >= pod.priority;
    let expected: Vec<&Arc<Pod>> = cache.nominated_on(node.name()).filter(counts).collect();
    if !expected.is_empty() {
        let mut fuller = node.clone();
        expected.into_iter().for_each(|other| fuller.add_pod(other.clone()));
        let nodes = cluster.nodes.iter().map(|n| if n.name() == node.name() { &fuller } else { *n }).collect();
        accepts(pod, &fuller, &Cluster::new(nodes, cache))?;
    }
    accepts(pod, node, cluster)
}

/// Chooses a node for a pod. Of equal nodes `tie` decides: a number that differs from call to call.
pub(crate) fn schedule(pod: &Pod, cache: &Cache, tie: u64) -> Outcome {
    let plugins = plugins::standard();
    let cluster = Cluster::new(cache.nodes().collect(), cache);
    if let Some(reason) = plugins.iter().find_map(|p| p.pre_filter(pod, &cluster).err()) {
        return Outcome::Premature { nodes: cluster.nodes.len(), reason };
    }
    let (mut reasons, mut clearable) = (Reasons::default(), Vec::new());
    let mut feasible = Vec::new();
    // Room was made for the pod there; others are looked at only where that was in vain.
    if let Some(node) = cache.nominated_node(&pod.uid).and_then(|name| cache.node(name)).filter(|n| n.object.is_some())
        && fits(pod, node, &cluster, cache).is_ok()
    {
        return Outcome::Chosen(node.name().to_string());
    }
    for node in &cluster.nodes {
        match fits(pod, node, &cluster, cache) {
            Ok(()) => feasible.push(*node),
            Err(refusal) => {
                if !refusal.lasting {
                    clearable.push(node.name().to_string());
                }
                reasons.add(refusal);
            }
        }
    }
    if feasible.is_empty() {
        return Outcome::Unschedulable { nodes: cluster.nodes.len(), reasons, clearable };
    }
    let mut totals = vec![0i64; feasible.len()];
    for plugin in plugins.iter().filter(|_| feasible.len() > 1) {
        for (total, score) in totals.iter_mut().zip(plugin.score(pod, &feasible, &cluster).unwrap_or_default()) {
            *total += score * plugin.weight();
        }
    }
    let best = totals.iter().max().copied().unwrap_or(0);
    let equal: Vec<&&Node> = feasible.iter().zip(&totals).filter(|(_, t)| **t == best).map(|(n, _)| n).collect();
    let chosen = equal[(tie % equal.len() as u64) as usize];
    Outcome::Chosen(chosen.name().to_string())
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
