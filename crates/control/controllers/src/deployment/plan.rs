//! What a Deployment's ReplicaSets and status should be. Pure.

use std::sync::Arc;

use fram_machinery::{Value, json, meta, names, object};
use jiff::Timestamp;

use super::{history, rolling, status};

pub(super) const HASH: &str = "pod-template-hash";
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX: &str = "deployment.kubernetes.io/max-replicas";

/// Something to write, in the order in which it is to be written.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    Create(Value),
    /// A set, and how many replicas it has had so far.
    Update(Value, i64),
    Delete(String),
    /// The revision goes into the Deployment's annotations.
    SetRevision(String),
}

pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    pub(super) status: Value,
    /// Seconds after which the progress deadline has to be looked at.
    pub(super) requeue: Option<u64>,
}

/// A set while the plan is made.
#[derive(Debug, Clone)]
pub(super) struct Set {
    pub(super) object: Value,
    pub(super) replicas: i64,
    pub(super) is_new: bool,
}

impl Set {
    fn of(object: &Value, is_new: bool) -> Self {
        Self { object: object.clone(), replicas: object.int_at(&["spec", "replicas"]).unwrap_or(0), is_new }
    }

    pub(super) fn available(&self) -> i64 {
        self.object.int_at(&["status", "availableReplicas"]).unwrap_or(0)
    }

    pub(super) fn created(&self) -> &str {
        self.object.str_at(&["metadata", "creationTimestamp"])
    }
}

/// The numbers of a roll-out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) desired: i64,
    pub(super) surge: i64,
    pub(super) unavailable: i64,
}

/// An absolute number, or a percentage of `total`.
fn scaled(value: Option<&Value>, total: i64, round_up: bool) -> i64 {
    match value {
        Some(Value::Int(n)) => *n,
        Some(Value::String(text)) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let product = percent * total;
            if round_up { (product + 99) / 100 } else { product / 100 }
        }
        _ => 0,
    }
}

impl Bounds {
    pub(super) fn of(deployment: &Value) -> Self {
        let desired = deployment.int_at(&["spec", "replicas"]).unwrap_or(1);
        if deployment.str_at(&["spec", "strategy", "type"]) != "RollingUpdate" {
            return Self { desired, surge: 0, unavailable: 0 };
        }
        let rolling = deployment.at(&["spec", "strategy", "rollingUpdate"]).cloned().unwrap_or_default();
        let surge = scaled(rolling.get("maxSurge"), desired, true);
        let unavailable = scaled(rolling.get("maxUnavailable"), desired, false);
        // Both zero by rounding would stop every roll-out; see ResolveFenceposts.
        let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable.min(desired) };
        Self { desired, surge, unavailable }
    }

    pub(super) fn most(&self) -> i64 {
        if self.desired == 0 { 0 } else { self.desired + self.surge }
    }
}

fn template_without_hash(template: Option<&Value>) -> Value {
    let mut template = template.cloned().unwrap_or_default();
    template.remove(&["metadata", "labels", HASH]);
    if template.at(&["metadata", "labels"]).is_some_and(Value::is_empty) {
        template.remove(&["metadata", "labels"]);
    }
    template
}

pub(super) fn same_template(set: &Value, deployment: &Value) -> bool {
    template_without_hash(set.at(&["spec", "template"])) == template_without_hash(deployment.at(&["spec", "template"]))
}

/// The set with the Deployment's template; of several the oldest.
pub(super) fn current_set(deployment: &Value, sets: &[Arc<Value>]) -> Option<Arc<Value>> {
    let same = sets.iter().filter(|s| same_template(s, deployment));
    same.min_by_key(|s| (s.str_at(&["metadata", "creationTimestamp"]).to_string(), meta::name(s).to_string())).cloned()
}

/// A short text that stands for a template: FNV-1a in the alphabet of generated names.
fn hash(deployment: &Value) -> String {
    let template = json::to_vec(&template_without_hash(deployment.at(&["spec", "template"])));
    let collisions = deployment.int_at(&["status", "collisionCount"]).unwrap_or(0);
    let salt = if collisions > 0 { collisions.to_le_bytes().to_vec() } else { Vec::new() };
    let sum = template.iter().chain(&salt).fold(0x811c_9dc5u32, |h, b| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193));
    sum.to_string().bytes().map(|b| names::SUFFIX_ALPHABET[usize::from(b) % names::SUFFIX_ALPHABET.len()] as char).collect()
}

pub(super) fn plan(deployment: &Value, sets: &[Arc<Value>], old_pods: bool, now: Timestamp) -> Plan {
    let current = current_set(deployment, sets);
    let is_current = |s: &Value| current.as_ref().is_some_and(|c| meta::uid(c) == meta::uid(s));
    let mut all: Vec<Set> = sets.iter().map(|s| Set::of(s, is_current(s))).collect();
    let mut steps = Vec::new();
    if meta::is_terminating(deployment) {
        return finish(deployment, &all, steps, now);
    }
    let bounds = Bounds::of(deployment);
    let paused = deployment.bool_at(&["spec", "paused"]) == Some(true);
    let is_scaling =
        all.iter().any(|s| s.replicas > 0 && meta::annotation(&s.object, DESIRED).is_some_and(|d| d != bounds.desired.to_string()));
    let recreate = deployment.str_at(&["spec", "strategy", "type"]) == "Recreate";
    if paused || is_scaling {
        rolling::scale(&mut all, bounds, recreate);
    } else {
        if current.is_none() && !(recreate && (old_pods || all.iter().any(|s| s.replicas > 0))) {
            all.push(Set { object: new_set(deployment), replicas: 0, is_new: true });
        }
        if recreate {
            rolling::recreate(&mut all, bounds, old_pods);
        } else {
            rolling::roll(&mut all, bounds);
        }
    }
    let revision = history::revision(sets, current.as_deref());
    for set in &all {
        steps.extend(write(set, deployment, bounds, &revision, current.is_some()));
    }
    let has_new = all.iter().any(|s| s.is_new);
    if has_new && meta::annotation(deployment, REVISION) != Some(&revision) {
        steps.push(Step::SetRevision(revision));
    }
    if !paused {
        steps.extend(history::surplus(deployment, &all).into_iter().map(Step::Delete));
    }
    finish(deployment, &all, steps, now)
}

fn finish(deployment: &Value, all: &[Set], steps: Vec<Step>, now: Timestamp) -> Plan {
    let (status, requeue) = status::status(deployment, all, now);
    Plan { steps, status, requeue }
}

/// A set of the Deployment's template, without pods yet.
fn new_set(deployment: &Value) -> Value {
    let hash = hash(deployment);
    let mut template = deployment.at(&["spec", "template"]).cloned().unwrap_or_default();
    template.set(&["metadata", "labels", HASH], hash.as_str());
    let mut selector = deployment.at(&["spec", "selector"]).cloned().unwrap_or_default();
    selector.set(&["matchLabels", HASH], hash.as_str());
    let mut set = object!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": { "name": (format!("{}-{hash}", meta::name(deployment))), "namespace": (meta::namespace(deployment)),
            "labels": (template.at(&["metadata", "labels"]).cloned()),
            "ownerReferences": [(meta::controller_reference(deployment))] },
        "spec": { "selector": selector, "template": template }
    });
    if let Some(seconds) = deployment.int_at(&["spec", "minReadySeconds"]).filter(|s| *s > 0) {
        set.set(&["spec", "minReadySeconds"], seconds);
    }
    set
}

/// The write that brings a set to its planned size and annotations; None where it is there.
fn write(set: &Set, deployment: &Value, bounds: Bounds, revision: &str, exists: bool) -> Option<Step> {
    let mut object = set.object.clone();
    object.set(&["spec", "replicas"], set.replicas);
    if set.is_new {
        history::copy_annotations(deployment, &mut object);
        history::note_revision(&mut object, revision);
        let seconds = deployment.int_at(&["spec", "minReadySeconds"]).unwrap_or(0);
        if object.int_at(&["spec", "minReadySeconds"]).unwrap_or(0) != seconds {
            object.set(&["spec", "minReadySeconds"], seconds);
        }
    }
    if set.is_new || set.replicas > 0 {
        meta::set_annotation(&mut object, DESIRED, &bounds.desired.to_string());
        meta::set_annotation(&mut object, MAX, &bounds.most().to_string());
    }
    if set.is_new && !exists {
        return Some(Step::Create(object));
    }
    let former = set.object.int_at(&["spec", "replicas"]).unwrap_or(0);
    (object != set.object).then_some(Step::Update(object, former))
}
