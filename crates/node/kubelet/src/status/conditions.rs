//! The conditions of a pod that the kubelet owns; see upstream's pkg/kubelet/status/generate.go. Pure.

use fram_machinery::{Value, meta, object};

use super::{Inputs, find};
use crate::clock;
use crate::pod;

/// A container's exit restarts all of them (KEP-5532).
const RESTARTING: &str = "AllContainersRestarting";
const OWNED: [&str; 8] = [
    RESTARTING,
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    crate::resize::PENDING,
    crate::resize::IN_PROGRESS,
];
const DISRUPTION: &str = "DisruptionTarget";

/// Whether the kubelet alone writes conditions of this type.
pub(crate) fn is_owned(ty: &str) -> bool {
    OWNED.contains(&ty)
}

const BY_KUBELET: &str = "TerminationByKubelet";

/// The conditions of an object, in which those of others stay, with the kubelet's own of `status`. DisruptionTarget is everybody's: what the
/// kubelet says of it takes the place of what others said; see PodConditionSharedByKubelet.
pub(crate) fn joined(object: &[Value], status: &[Value]) -> Vec<Value> {
    let is_target = |c: &Value| c.str_at(&["type"]) == DISRUPTION;
    let is_own = |c: &&Value| is_owned(c.str_at(&["type"])) || is_target(c) && c.str_at(&["reason"]) == BY_KUBELET;
    let ends = status.iter().any(|c| is_target(c) && is_own(&c));
    let replaced = |c: &Value| is_owned(c.str_at(&["type"])) || ends && is_target(c);
    let others = object.iter().filter(|c| !replaced(c));
    others.chain(status.iter().filter(is_own)).cloned().collect()
}

/// A condition before it is compared with its predecessor.
struct Condition {
    ty: &'static str,
    is_true: bool,
    reason: &'static str,
    message: String,
}

impl Condition {
    fn yes(ty: &'static str) -> Self {
        Self { ty, is_true: true, reason: "", message: String::new() }
    }

    fn no(ty: &'static str, reason: &'static str, message: String) -> Self {
        Self { ty, is_true: false, reason, message }
    }
}

/// Others' conditions as they are, then the kubelet's own.
pub(super) fn generate(inputs: &Inputs, statuses: &[Value], phase: &str, has_sandbox: bool) -> Vec<Value> {
    let old = inputs.pod.list_at(&["status", "conditions"]);
    let mut out: Vec<Value> = old.iter().filter(|c| !is_owned(c.str_at(&["type"]))).cloned().collect();
    if let Some(failure) = inputs.failure.filter(|f| f.disruption) {
        let target = Condition { ty: DISRUPTION, is_true: true, reason: BY_KUBELET, message: failure.message.clone() };
        out.retain(|c| c.str_at(&["type"]) != target.ty);
        out.push(finish(inputs, target));
    }
    let sandbox = match has_sandbox && !inputs.ended {
        true => Condition::yes("PodReadyToStartContainers"),
        false => Condition::no("PodReadyToStartContainers", "", String::new()),
    };
    let containers_ready = containers_ready(inputs.pod, statuses, phase);
    let ready = ready(inputs.pod, &out, &containers_ready);
    for condition in [sandbox, initialized(inputs, statuses, phase), ready, containers_ready, Condition::yes("PodScheduled")] {
        out.push(finish(inputs, condition));
    }
    if pod::could_restart_all(inputs.pod) {
        out.push(finish(inputs, restarting(inputs, phase)));
    }
    out.extend(inputs.resize.iter().map(|condition| of_resize(inputs, condition)));
    out
}

/// True from the exit that asks for it until nothing of the former containers is left; see
/// GenerateAllContainersRestartingCondition.
fn restarting(inputs: &Inputs, phase: &str) -> Condition {
    let own = |name: &str| pod::find_container(inputs.pod, name).is_some_and(|(role, _)| role != pod::Role::Ephemeral);
    if phase == "Failed" {
        return Condition::no(RESTARTING, "PodFailed", String::new());
    }
    match inputs.restarts_all() && inputs.observed.containers.iter().any(|c| own(&c.metadata.name)) {
        true => Condition {
            ty: RESTARTING,
            is_true: true,
            reason: "RestartAllContainersStarted",
            message: "container exited with restart policy rule".into(),
        },
        false => Condition::no(RESTARTING, "", String::new()),
    }
}

/// A condition of a resize keeps its time as long as its reason stays; see updatedPodResizeCondition.
fn of_resize(inputs: &Inputs, condition: &Value) -> Value {
    let old = meta::condition(inputs.pod, condition.str_at(&["type"]));
    let old = old.filter(|c| c.str_at(&["reason"]) == condition.str_at(&["reason"]));
    let since = old.map(|c| c.str_at(&["lastTransitionTime"])).filter(|t| !t.is_empty());
    let mut out = condition.clone();
    out.set(&["lastProbeTime"], Value::Null);
    out.set(&["lastTransitionTime"], since.map_or_else(|| clock::time(inputs.now), String::from));
    out
}

/// Adds the times: a condition that did not change its status keeps the time of its transition.
fn finish(inputs: &Inputs, condition: Condition) -> Value {
    let status = if condition.is_true { "True" } else { "False" };
    let old = meta::condition(inputs.pod, condition.ty).filter(|c| c.str_at(&["status"]) == status);
    let since = match old.map(|c| c.str_at(&["lastTransitionTime"])) {
        None | Some("") => clock::time(inputs.now),
        Some(since) => since.to_string(),
    };
    let mut out = object!({ "type": (condition.ty), "status": status, "lastProbeTime": null, "lastTransitionTime": since });
    let generation = meta::generation(inputs.pod);
    if generation > 0 {
        out.set(&["observedGeneration"], generation);
    }
    if !condition.reason.is_empty() {
        out.set(&["reason"], condition.reason);
    }
    if !condition.message.is_empty() {
        out.set(&["message"], condition.message);
    }
    out
}

fn names(list: &[&str]) -> String {
    format!("[{}]", list.join(" "))
}

fn messages(unknown: &[&str], lacking: &[&str], what: &str) -> String {
    let mut out = Vec::new();
    if !unknown.is_empty() {
        out.push(format!("containers with unknown status: {}", names(unknown)));
    }
    if !lacking.is_empty() {
        out.push(format!("containers with {what} status: {}", names(lacking)));
    }
    out.join(", ")
}

fn containers_ready(pod: &Value, statuses: &[Value], phase: &str) -> Condition {
    const TYPE: &str = "ContainersReady";
    let (mut unknown, mut unready) = (Vec::new(), Vec::new());
    let sidecars = pod::init_containers(pod).iter().filter(|c| pod::is_sidecar(c));
    for name in sidecars.chain(pod::containers(pod)).map(pod::container_name) {
        match find(statuses, name) {
            None => unknown.push(name),
            Some(status) if status.bool_at(&["ready"]) != Some(true) => unready.push(name),
            Some(_) => {}
        }
    }
    if phase == "Succeeded" && unknown.is_empty() {
        return Condition::no(TYPE, "PodCompleted", String::new());
    }
    if phase == "Failed" {
        return Condition::no(TYPE, "PodFailed", String::new());
    }
    match messages(&unknown, &unready, "unready") {
        message if message.is_empty() => Condition::yes(TYPE),
        message => Condition::no(TYPE, "ContainersNotReady", message),
    }
}

fn ready(pod: &Value, others: &[Value], containers: &Condition) -> Condition {
    const TYPE: &str = "Ready";
    if !containers.is_true {
        return Condition::no(TYPE, containers.reason, containers.message.clone());
    }
    let unmet = pod.list_at(&["spec", "readinessGates"]).iter().filter_map(|gate| {
        let ty = gate.str_at(&["conditionType"]);
        match others.iter().find(|c| c.str_at(&["type"]) == ty) {
            None => Some(format!("corresponding condition of pod readiness gate {ty:?} does not exist.")),
            Some(c) if c.str_at(&["status"]) != "True" => {
                Some(format!("the status of pod readiness gate {ty:?} is not \"True\", but {}", c.str_at(&["status"])))
            }
            Some(_) => None,
        }
    });
    match unmet.collect::<Vec<_>>().join(", ") {
        message if message.is_empty() => Condition::yes(TYPE),
        message => Condition::no(TYPE, "ReadinessGatesNotReady", message),
    }
}

fn initialized(inputs: &Inputs, statuses: &[Value], phase: &str) -> Condition {
    const TYPE: &str = "Initialized";
    let pod = inputs.pod;
    let (mut unknown, mut incomplete) = (Vec::new(), Vec::new());
    for container in pod::init_containers(pod) {
        let name = pod::container_name(container);
        let field = if pod::is_sidecar(container) { "started" } else { "ready" };
        match find(statuses, name) {
            None => unknown.push(name),
            Some(status) if status.bool_at(&[field]) != Some(true) => incomplete.push(name),
            Some(_) => {}
        }
    }
    if phase == "Succeeded" && unknown.is_empty() {
        return Condition { reason: "PodCompleted", ..Condition::yes(TYPE) };
    }
    let begun = |status: &Value| {
        status.at(&["state", "running"]).or(status.at(&["state", "terminated"])).or(status.at(&["lastState", "terminated"])).is_some()
    };
    let any_begun = pod::containers(pod).iter().filter_map(|c| find(statuses, pod::container_name(c))).any(begun);
    match messages(&unknown, &incomplete, "incomplete") {
        message if message.is_empty() || any_begun => Condition::yes(TYPE),
        // Init containers that run again because all are restarted do not take it back.
        _ if pod::could_restart_all(pod) && meta::condition_is_true(pod, TYPE) => Condition::yes(TYPE),
        message => Condition::no(TYPE, "ContainersNotInitialized", message),
    }
}
