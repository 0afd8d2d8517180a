//! On which nodes a DaemonSet's pods are made and deleted, how they are replaced, and what the status says. Pure.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use fram_machinery::{Value, meta, object};
use jiff::Timestamp;

use crate::nodes;
use crate::pods::{self, available_in, created, is_available, is_ready, scaled};
use crate::revisions::HASH;

const GENERATION: &str = "pod-template-generation";
const GENERATION_ANNOTATION: &str = "deprecated.daemonset.template.generation";

pub(super) type Event = (bool, &'static str, String);

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) delete: Vec<Arc<Value>>,
    pub(super) create: Vec<Value>,
    pub(super) status: Value,
    pub(super) events: Vec<Event>,
    /// Nodes whose failed pod is deleted now: the next one waits longer.
    pub(super) failed: Vec<String>,
    pub(super) requeue: Option<Duration>,
}

/// What the plan is made from.
pub(super) struct View<'a> {
    pub(super) set: &'a Value,
    pub(super) nodes: &'a [Arc<Value>],
    pub(super) mine: &'a [Arc<Value>],
    /// The hash of the current revision.
    pub(super) hash: &'a str,
    pub(super) now: Timestamp,
    /// How long a failed pod of a node still has to wait before it is replaced.
    pub(super) wait: &'a dyn Fn(&str) -> Option<Duration>,
}

/// Whether a node is to have a pod of this template, which stands these taints, and whether one that it has may stay; see
/// NodeShouldRunDaemonPod.
fn fits(spec: &Value, tolerations: &[Value], node: &Value) -> (bool, bool) {
    let name = spec.str_at(&["nodeName"]);
    if !name.is_empty() && name != meta::name(node) || !nodes::selects(spec, node) {
        return (false, false);
    }
    let refused = || {
        let taints = nodes::untolerated(node.list_at(&["spec", "taints"]), tolerations);
        taints.map(|taint| taint.str_at(&["effect"])).filter(|effect| *effect != "PreferNoSchedule")
    };
    (refused().next().is_none(), !refused().any(|effect| effect == "NoExecute"))
}

/// The template's tolerations and those of every daemon; see AddOrUpdateDaemonPodTolerations.
fn tolerations(spec: &Value) -> Vec<Value> {
    let mut all = spec.list_at(&["tolerations"]).to_vec();
    let mut add = |key: &str, effect: &str| {
        let toleration = object!({ "key": key, "operator": "Exists", "effect": effect });
        if !all.contains(&toleration) {
            all.push(toleration);
        }
    };
    add("node.kubernetes.io/not-ready", "NoExecute");
    add("node.kubernetes.io/unreachable", "NoExecute");
    for key in ["disk-pressure", "memory-pressure", "pid-pressure", "unschedulable"] {
        add(&format!("node.kubernetes.io/{key}"), "NoSchedule");
    }
    if spec.bool_at(&["hostNetwork"]) == Some(true) {
        add("node.kubernetes.io/network-unavailable", "NoSchedule");
    }
    all
}

/// A node's pod of an older revision, and its pod of the current one.
type Pair = (Option<Arc<Value>>, Option<Arc<Value>>);

struct State<'a> {
    view: &'a View<'a>,
    /// The pods of each node, the oldest first.
    by_node: BTreeMap<&'a str, Vec<Arc<Value>>>,
    minimum: i64,
    plan: Plan,
}

pub(super) fn plan(view: &View<'_>) -> Plan {
    let mut by_node: BTreeMap<&str, Vec<Arc<Value>>> = BTreeMap::new();
    // A pod that has ended and is going leaves its place.
    for pod in view.mine.iter().filter(|p| !(meta::is_terminating(p) && pods::has_ended(p))) {
        by_node.entry(nodes::target(pod)).or_default().push(pod.clone());
    }
    for pods in by_node.values_mut() {
        pods.sort_by_cached_key(|p| (created(p), meta::name(p).to_string()));
    }
    let minimum = view.set.int_at(&["spec", "minReadySeconds"]).unwrap_or(0);
    let mut state = State { view, by_node, minimum, plan: Plan::default() };
    let spec = view.set.at(&["spec", "template", "spec"]).unwrap_or(&Value::Null);
    let tolerations = tolerations(spec);
    let fitting: Vec<(Arc<Value>, bool, bool)> =
        view.nodes.iter().map(|n| (n.clone(), fits(spec, &tolerations, n))).map(|(n, (r, c))| (n, r, c)).collect();
    if !meta::is_terminating(view.set) {
        state.manage(&fitting);
        let rolls = view.set.str_at(&["spec", "updateStrategy", "type"]) != "OnDelete";
        if rolls && state.plan.create.is_empty() && state.plan.delete.is_empty() {
            let desired = fitting.iter().filter(|(_, run, _)| *run).count() as i64;
            state.roll(desired);
        }
    }
    state.status(&fitting);
    state.plan.requeue = state.plan.requeue.into_iter().chain(view.mine.iter().filter_map(|p| available_in(p, minimum, view.now))).min();
    state.plan
}

impl State<'_> {
    fn surge(&self, desired: i64) -> i64 {
        let path = ["spec", "updateStrategy", "rollingUpdate", "maxSurge"];
        scaled(self.view.set.at(&path), desired, true).unwrap_or(0)
    }

    fn is_new(&self, pod: &Value) -> bool {
        let generation = meta::annotation(self.view.set, GENERATION_ANNOTATION);
        meta::label(pod, HASH) == Some(self.view.hash) || generation.is_some() && meta::label(pod, GENERATION) == generation
    }

    fn is_available(&self, pod: &Value) -> bool {
        is_available(pod, self.minimum, self.view.now)
    }

    fn manage(&mut self, fitting: &[(Arc<Value>, bool, bool)]) {
        let desired = fitting.iter().filter(|(_, run, _)| *run).count() as i64;
        let surges = self.surge(desired) > 0;
        for (node, run, stay) in fitting {
            let name = meta::name(node);
            let here = self.by_node.get(name).cloned().unwrap_or_default();
            // Whoever wants no gap does not wait for the old one's end.
            let is_free = here.is_empty() || surges && here.iter().all(|p| meta::is_terminating(p));
            if *run && is_free {
                let pod = new_pod(self.view.set, name, self.view.hash);
                self.plan.create.push(pod);
            } else if *stay {
                self.tidy(name, &here, surges);
            } else {
                self.plan.delete.extend(here.into_iter().filter(|p| !meta::is_terminating(p)));
            }
        }
        // What waits for a node that is gone never runs; what ran there is the pod collector's.
        let known: HashSet<&str> = fitting.iter().map(|(n, _, _)| meta::name(n)).collect();
        for (name, here) in &self.by_node {
            if !known.contains(*name) {
                let waits = |p: &&Arc<Value>| p.str_at(&["spec", "nodeName"]).is_empty() && !meta::is_terminating(p);
                self.plan.delete.extend(here.iter().filter(waits).cloned());
            }
        }
    }

    /// Ended pods are replaced; of those that run the oldest stays, and with a surge the oldest of each revision.
    fn tidy(&mut self, node: &str, here: &[Arc<Value>], surges: bool) {
        let mut running = Vec::new();
        for pod in here.iter().filter(|p| !meta::is_terminating(p)) {
            let at = format!("daemon pod {}/{} on node {node}", meta::namespace(pod), meta::name(pod));
            match pods::phase(pod) {
                "Failed" => {
                    if let Some(wait) = (self.view.wait)(node) {
                        self.plan.requeue = Some(self.plan.requeue.map_or(wait, |r| r.min(wait)));
                        continue;
                    }
                    self.plan.events.push((true, "FailedDaemonPod", format!("Found failed {at}, will try to kill it")));
                    self.plan.failed.push(node.to_string());
                    self.plan.delete.push(pod.clone());
                }
                "Succeeded" => {
                    self.plan.events.push((false, "SucceededDaemonPod", format!("Found succeeded {at}, will try to delete it")));
                    self.plan.delete.push(pod.clone());
                }
                _ => running.push(pod.clone()),
            }
        }
        if running.len() < 2 {
            return;
        }
        let kept = running.first().cloned();
        let other =
            surges.then(|| running.iter().find(|p| kept.as_ref().is_some_and(|k| self.is_new(p) != self.is_new(k))).cloned()).flatten();
        let keeps = |p: &Arc<Value>| [&kept, &other].into_iter().flatten().any(|k| meta::uid(k) == meta::uid(p));
        self.plan.delete.extend(running.into_iter().filter(|p| !keeps(p)));
    }

    /// The old and the new pod of a node; None where `tidy` still has to do.
    fn pair(&self, here: &[Arc<Value>]) -> Option<Pair> {
        let (mut old, mut new) = (None, None);
        for pod in here.iter().filter(|p| !meta::is_terminating(p)) {
            let place = if self.is_new(pod) { &mut new } else { &mut old };
            if place.replace(pod.clone()).is_some() {
                return None;
            }
        }
        Some((old, new))
    }

    fn roll(&mut self, desired: i64) {
        let surge = self.surge(desired);
        if surge > 0 {
            return self.roll_by_surge(surge);
        }
        let path = ["spec", "updateStrategy", "rollingUpdate", "maxUnavailable"];
        // Percentages round up, so that a roll-out always goes on.
        let most = scaled(self.view.set.at(&path), desired, true).unwrap_or(1).max(1);
        let (mut unavailable, mut free, mut candidates) = (0, Vec::new(), Vec::new());
        for here in self.by_node.values() {
            match self.pair(here) {
                Some((None, Some(new))) if self.is_available(&new) => {}
                Some((Some(old), None)) if self.is_available(&old) => candidates.push(old),
                // What does not serve may go at no cost.
                Some((Some(old), None)) => free.push(old),
                _ => unavailable += 1,
            }
        }
        unavailable += free.len() as i64;
        let left = usize::try_from(most - unavailable).unwrap_or(0);
        self.plan.delete.extend(free.into_iter().chain(candidates.into_iter().take(left)));
    }

    fn roll_by_surge(&mut self, surge: i64) {
        let (mut surging, mut free, mut candidates) = (0, Vec::new(), Vec::new());
        let mut done = Vec::new();
        for (node, here) in &self.by_node {
            match self.pair(here) {
                None => surging += 1,
                Some((Some(old), None)) if self.is_available(&old) => candidates.push(*node),
                Some((Some(_), None)) => free.push(*node),
                // What serves no better than its successor need not be waited with.
                Some((Some(old), Some(new))) if self.is_available(&new) || !is_ready(&old) => done.push(old),
                Some((Some(_), Some(_))) => surging += 1,
                Some((None, _)) => {}
            }
        }
        self.plan.delete.extend(done);
        let left = usize::try_from(surge - surging).unwrap_or(0);
        for node in free.into_iter().chain(candidates.into_iter().take(left)) {
            let pod = new_pod(self.view.set, node, self.view.hash);
            self.plan.create.push(pod);
        }
    }

    fn status(&mut self, fitting: &[(Arc<Value>, bool, bool)]) {
        let (mut desired, mut current, mut misscheduled, mut ready, mut available, mut updated) = (0, 0, 0, 0, 0, 0);
        for (node, run, _) in fitting {
            let here = self.by_node.get(meta::name(node)).map(Vec::as_slice).unwrap_or_default();
            if !run {
                misscheduled += i64::from(!here.is_empty());
                continue;
            }
            desired += 1;
            current += i64::from(!here.is_empty());
            let is_ready = here.iter().any(|p| is_ready(p));
            ready += i64::from(is_ready);
            available += i64::from(here.iter().any(|p| self.is_available(p)));
            updated += i64::from(here.iter().any(|p| self.is_new(p)));
        }
        let mut status = object!({ "currentNumberScheduled": current, "numberMisscheduled": misscheduled, "desiredNumberScheduled": desired,
            "numberReady": ready });
        let counts = [
            ("updatedNumberScheduled", updated),
            ("numberAvailable", available),
            ("numberUnavailable", desired - available),
            ("observedGeneration", meta::generation(self.view.set)),
        ];
        for (field, n) in counts.into_iter().filter(|(_, n)| *n != 0) {
            status.set(&[field], n);
        }
        for field in ["collisionCount", "conditions"] {
            if let Some(value) = self.view.set.at(&["status", field]) {
                status.set(&[field], value.clone());
            }
        }
        self.plan.status = status;
    }
}

fn new_pod(set: &Value, node: &str, hash: &str) -> Value {
    let mut pod = pods::from_template(set, set.at(&["spec", "template"]));
    meta::set_label(&mut pod, HASH, hash);
    if let Some(generation) = meta::annotation(set, GENERATION_ANNOTATION) {
        meta::set_label(&mut pod, GENERATION, generation);
    }
    let tolerations = tolerations(pod.get("spec").unwrap_or(&Value::Null));
    pod.set(&["spec", "tolerations"], tolerations);
    nodes::pin(&mut pod, node);
    pod
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(strategy: Value) -> Value {
        object!({ "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": { "name": "d", "namespace": "ns", "uid": "set" },
            "spec": { "updateStrategy": strategy, "template": { "metadata": { "labels": { "a": "b" } }, "spec": { "containers": [] } } } })
    }

    fn rolling(field: &str, value: i64) -> Value {
        let mut strategy = object!({ "type": "RollingUpdate", "rollingUpdate": {} });
        strategy.set(&["rollingUpdate", field], value);
        set(strategy)
    }

    fn node(name: &str, taints: Value) -> Arc<Value> {
        Arc::new(object!({ "metadata": { "name": name }, "spec": { "taints": taints } }))
    }

    fn pod(name: &str, node: &str, hash: &str, ready: bool) -> Arc<Value> {
        let status = if ready { "True" } else { "False" };
        Arc::new(
            object!({ "metadata": { "name": name, "uid": name, "labels": { "controller-revision-hash": hash }, "creationTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "nodeName": node }, "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": status, "lastTransitionTime": "2026-01-01T00:00:00Z" }] } }),
        )
    }

    fn plan_of(set: &Value, nodes: &[Arc<Value>], mine: &[Arc<Value>]) -> Plan {
        let now = "2026-01-01T01:00:00Z".parse().unwrap();
        plan(&View { set, nodes, mine, hash: "new", now, wait: &|_| None })
    }

    fn changes(plan: &Plan) -> (Vec<&str>, Vec<&str>) {
        (plan.create.iter().map(nodes::target).collect(), plan.delete.iter().map(|p| meta::name(p)).collect())
    }

    #[test]
    fn each_node_that_fits_gets_a_pod_of_its_own() {
        let tainted = |effect: &str| object!([{ "key": "k", "effect": effect }]);
        let not_ready = object!([{ "key": "node.kubernetes.io/not-ready", "effect": "NoExecute" }]);
        let nodes =
            [node("a", object!([])), node("b", tainted("NoSchedule")), node("c", not_ready), node("d", tainted("PreferNoSchedule"))];
        let plan = plan_of(&set(object!({})), &nodes, &[]);
        assert_eq!(changes(&plan).0, ["a", "c", "d"]);
        assert_eq!(plan.status.int_at(&["desiredNumberScheduled"]), Some(3));
    }

    #[test]
    fn a_pod_stays_on_a_node_that_takes_no_new_ones_but_leaves_one_that_evicts() {
        let nodes =
            [node("a", object!([{ "key": "k", "effect": "NoSchedule" }])), node("b", object!([{ "key": "k", "effect": "NoExecute" }]))];
        let plan = plan_of(&set(object!({})), &nodes, &[pod("p", "a", "new", true), pod("q", "b", "new", true)]);
        assert_eq!(changes(&plan), (vec![], vec!["q"]));
        assert_eq!(plan.status.int_at(&["numberMisscheduled"]), Some(2));
    }

    #[test]
    fn a_failed_pod_is_replaced_with_back_off_and_a_second_one_goes() {
        let nodes = [node("a", object!([]))];
        let mut failed = (*pod("f", "a", "new", false)).clone();
        failed.set(&["status", "phase"], "Failed");
        let failed = [Arc::new(failed)];
        let view = View {
            set: &set(object!({})),
            nodes: &nodes,
            mine: &failed,
            hash: "new",
            now: Timestamp::UNIX_EPOCH,
            wait: &|_| Some(Duration::from_secs(3)),
        };
        let waiting = plan(&view);
        assert_eq!((waiting.delete.len(), waiting.requeue), (0, Some(Duration::from_secs(3))));
        assert_eq!(plan_of(view.set, &nodes, &failed).events[0].1, "FailedDaemonPod");
        let twins = [pod("p", "a", "new", true), pod("q", "a", "new", true)];
        assert_eq!(changes(&plan_of(view.set, &nodes, &twins)).1, ["q"]);
    }

    #[test]
    fn a_roll_out_takes_no_more_than_may_be_missing_but_broken_pods_at_once() {
        let nodes: Vec<_> = ["a", "b", "c"].map(|n| node(n, object!([]))).to_vec();
        let all = [pod("p", "a", "old", true), pod("q", "b", "old", true), pod("r", "c", "new", true)];
        assert_eq!(changes(&plan_of(&rolling("maxUnavailable", 1), &nodes, &all)).1, ["p"]);
        let broken = [pod("p", "a", "old", false), pod("q", "b", "old", true), pod("r", "c", "new", true)];
        assert_eq!(changes(&plan_of(&rolling("maxUnavailable", 1), &nodes, &broken)).1, ["p"]);
        let starting = [pod("p", "a", "old", true), pod("q", "b", "old", true), pod("r", "c", "new", false)];
        assert!(changes(&plan_of(&rolling("maxUnavailable", 1), &nodes, &starting)).1.is_empty());
        assert!(changes(&plan_of(&set(object!({ "type": "OnDelete" })), &nodes, &all)).1.is_empty());
    }

    #[test]
    fn a_surge_starts_the_new_pod_before_the_old_one_goes() {
        let nodes: Vec<_> = ["a", "b"].map(|n| node(n, object!([]))).to_vec();
        let set = rolling("maxSurge", 1);
        let old = [pod("p", "a", "old", true), pod("q", "b", "old", true)];
        assert_eq!(changes(&plan_of(&set, &nodes, &old)), (vec!["a"], vec![]));
        let starting = [old[0].clone(), old[1].clone(), pod("r", "a", "new", false)];
        assert_eq!(changes(&plan_of(&set, &nodes, &starting)), (vec![], vec![]));
        let ready = [old[0].clone(), old[1].clone(), pod("r", "a", "new", true)];
        assert_eq!(changes(&plan_of(&set, &nodes, &ready)), (vec!["b"], vec!["p"]));
        let mut going = (*old[0]).clone();
        going.set(&["metadata", "deletionTimestamp"], "2026-01-01T00:30:00Z");
        let going = [Arc::new(going), pod("s", "b", "new", true)];
        assert_eq!(changes(&plan_of(&set, &nodes, &going)), (vec!["a"], vec![]));
        assert!(changes(&plan_of(&rolling("maxUnavailable", 1), &nodes, &going)).0.is_empty());
        let neither = [pod("p", "a", "old", false), old[1].clone(), pod("r", "a", "new", false)];
        assert_eq!(changes(&plan_of(&set, &nodes, &neither)), (vec!["b"], vec!["p"]));
    }
}
