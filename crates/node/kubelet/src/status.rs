//! The status of a pod as the API shows it, made from its specification, its last status and what the runtime has of it.
//! Pure but for the writer, which sends what changed.

mod conditions;
pub(crate) use conditions::joined;
mod containers;
#[cfg(test)]
mod tests;
pub(crate) mod writer;

use std::collections::HashMap;

use fram_machinery::{Map, Value, meta, object};
use jiff::Timestamp;

use crate::clock;
use crate::observed::Observed;
use crate::pod::resources::pod_total;
use crate::pod::{self, Role};
use crate::worker::Failure;
use crate::worker::actions::{Verdicts, asks_to_restart_all, sandbox_changed};

/// Why a container waits, by its name: reason and message.
pub(crate) type Waiting = HashMap<String, (String, String)>;

/// All that a status is made from.
pub(crate) struct Inputs<'a> {
    /// With the last status that was written.
    pub pod: &'a Value,
    pub observed: &'a Observed,
    pub verdicts: &'a Verdicts,
    pub waiting: &'a Waiting,
    /// How the devices of main containers are, by their names.
    pub health: &'a HashMap<String, Vec<Value>>,
    pub host_ips: &'a [String],
    /// The runtime makes what is mounted below a read-only mount read-only as well, where the mount asks for it.
    pub mounts_recursively: bool,
    /// The conditions that tell of a resize, without their times.
    pub resize: &'a [Value],
    /// The kubelet ended the pod.
    pub failure: Option<&'a Failure>,
    /// Nothing is to be run again, whatever the restart policy says: the pod is past SyncPod.
    pub ending: bool,
    /// Nothing runs any more: the phase may become terminal.
    pub ended: bool,
    pub now: Timestamp,
}

impl Inputs<'_> {
    /// Whether an exit asks to restart all containers, as the runtime or the last status tells; see ShouldAllContainersRestart.
    fn restarts_all(&self) -> bool {
        let told = |(role, c): (Role, &Value)| {
            let ended = containers::old_status(self.pod, role, pod::container_name(c)).and_then(|s| s.at(&["state", "terminated"]));
            role != Role::Ephemeral && ended.is_some_and(|e| containers::asks_to_restart_all(c, e))
        };
        let seen = |c| asks_to_restart_all(self.pod, self.observed, c);
        self.observed.containers.iter().any(seen) || pod::all_containers(self.pod).any(told)
    }
}

/// The whole status. Conditions of others stay as they are.
pub(crate) fn generate(inputs: &Inputs) -> Value {
    let pod = inputs.pod;
    let old = pod.get("status").unwrap_or(&Value::Null);
    let init = containers::statuses(inputs, Role::Init);
    let main = containers::statuses(inputs, Role::Main);
    let ephemeral = containers::statuses(inputs, Role::Ephemeral);
    let all: Vec<Value> = init.iter().chain(&main).cloned().collect();

    let phase = settle_phase(inputs, phase(inputs, &all), old.str_at(&["phase"]));
    let mut status = Map::new();
    status.insert("phase", phase);
    let (reason, message) = match inputs.failure {
        Some(failure) => (failure.reason.as_str(), failure.message.as_str()),
        None if phase == old.str_at(&["phase"]) => (old.str_at(&["reason"]), old.str_at(&["message"])),
        None => ("", ""),
    };
    for (key, text) in [("reason", reason), ("message", message)] {
        if !text.is_empty() {
            status.insert(key, text);
        }
    }
    let needs_sandbox = sandbox_changed(pod, inputs.observed).is_some();
    status.insert("conditions", conditions::generate(inputs, &all, phase, !needs_sandbox));
    for (key, list) in [("initContainerStatuses", init), ("containerStatuses", main), ("ephemeralContainerStatuses", ephemeral)] {
        if !list.is_empty() {
            status.insert(key, list);
        }
    }
    addresses(inputs, old, &mut status);
    status.insert("qosClass", pod::qos_class(pod));
    let start = old.str_at(&["startTime"]);
    status.insert("startTime", if start.is_empty() { clock::time(inputs.now) } else { start.to_string() });
    let generation = meta::generation(pod);
    if generation > 0 {
        status.insert("observedGeneration", generation);
    }
    for kept in ["nominatedNodeName", "resourceClaimStatuses", "resize", "extendedResourceClaimStatus"] {
        if let Some(value) = old.get(kept) {
            status.insert(kept, value.clone());
        }
    }
    resources(inputs, old, &mut status);
    Value::Map(status)
}

/// What the pod as a whole is allocated, and has: the same, unless a resize is under way. See convertToAPIPodLevelResourcesStatus.
fn resources(inputs: &Inputs, old: &Value, status: &mut Map) {
    let total = |kind: &str| -> Map { pod_total(inputs.pod, kind).iter().map(|(k, v)| (k.as_str(), v.to_string())).collect() };
    let (requests, limits) = (total("requests"), total("limits"));
    let resizing = inputs.resize.iter().any(|c| c.str_at(&["type"]) == crate::resize::IN_PROGRESS);
    match old.get("resources").filter(|_| resizing) {
        Some(before) => status.insert("resources", before.clone()),
        None => {
            let mut has = inputs.pod.at(&["spec", "resources"]).and_then(Value::as_map).cloned().unwrap_or_default();
            for (kind, amounts) in [("requests", &requests), ("limits", &limits)] {
                if !amounts.is_empty() {
                    has.insert(kind, amounts.clone());
                }
            }
            status.insert("resources", has);
        }
    }
    if !requests.is_empty() {
        status.insert("allocatedResources", requests);
    }
}

fn addresses(inputs: &Inputs, old: &Value, status: &mut Map) {
    let list = |ips: &[String]| -> Vec<Value> { ips.iter().map(|ip| object!({ "ip": (ip.as_str()) })).collect() };
    if let Some(first) = inputs.host_ips.first() {
        status.insert("hostIP", first.as_str());
        status.insert("hostIPs", list(inputs.host_ips));
    }
    let sandbox = inputs.observed.ready_sandbox();
    let own: Vec<String> = match sandbox {
        _ if pod::is_host_network(inputs.pod) => inputs.host_ips.to_vec(),
        Some(sandbox) => sandbox.network.ips().map(|ip| ip.to_string()).collect(),
        None => Vec::new(),
    };
    if let Some(first) = own.first() {
        status.insert("podIP", first.as_str());
        status.insert("podIPs", list(&own));
    } else if !old.str_at(&["podIP"]).is_empty() {
        // A pod keeps the address that it last had, so that what is left of it can be told by it.
        for key in ["podIP", "podIPs"] {
            if let Some(value) = old.get(key) {
                status.insert(key, value.clone());
            }
        }
    }
}

/// A terminal phase is final, and is not shown before everything has stopped.
fn settle_phase(inputs: &Inputs, phase: &'static str, old: &str) -> &'static str {
    match old {
        "Failed" => return "Failed",
        "Succeeded" => return "Succeeded",
        _ => {}
    }
    if inputs.failure.is_some() && inputs.ended {
        return "Failed";
    }
    let terminal = matches!(phase, "Succeeded" | "Failed");
    match (terminal, inputs.ended) {
        (true, false) => match old {
            "Running" => "Running",
            _ if inputs.observed.containers.is_empty() => "Pending",
            _ => "Running",
        },
        // A pod that was deleted before anything of it ran has failed.
        (false, true) if inputs.ending => "Failed",
        _ => phase,
    }
}

#[derive(Default)]
struct Tally {
    pending_init: usize,
    pending_sidecars: usize,
    failed_init: usize,
    running: usize,
    waiting: usize,
    stopped: usize,
    for_good: usize,
    succeeded: usize,
    unknown: usize,
}

/// See kubelet_pods.go's getPhase.
fn phase(inputs: &Inputs, statuses: &[Value]) -> &'static str {
    let pod = inputs.pod;
    let mut tally = Tally::default();
    for container in pod::init_containers(pod) {
        let status = find(statuses, pod::container_name(container));
        if pod::is_sidecar(container) { tally.sidecar(status) } else { tally.init(pod, container, status) }
    }
    for container in pod::containers(pod) {
        tally.main(pod, container, find(statuses, pod::container_name(container)));
    }
    let initialized =
        pod::containers(pod).iter().any(|c| inputs.observed.active(pod::container_name(c)).is_some_and(|s| s.started_at != 0));
    if tally.failed_init > 0 {
        return "Failed";
    }
    if tally.pending_init > 0 || (tally.pending_sidecars > 0 && !initialized) || tally.waiting > 0 {
        return "Pending";
    }
    if tally.running > 0 && tally.unknown == 0 {
        return "Running";
    }
    if tally.running == 0 && tally.stopped > 0 && tally.unknown == 0 {
        let all_succeeded = tally.stopped == tally.succeeded;
        let over = inputs.ending || tally.stopped == tally.for_good;
        return match (over, all_succeeded) {
            (false, _) => "Running",
            (true, true) => "Succeeded",
            (true, false) => "Failed",
        };
    }
    "Pending"
}

impl Tally {
    fn init(&mut self, pod: &Value, container: &Value, status: Option<&Value>) {
        match status.and_then(exit_code) {
            Some(0) => {}
            Some(code) => self.failed_init += usize::from(!runs_again(pod, container, status, code)),
            None => self.pending_init += 1,
        }
    }

    fn sidecar(&mut self, status: Option<&Value>) {
        let Some(status) = status else {
            self.unknown += 1;
            return;
        };
        if status.at(&["state", "running"]).is_some() {
            self.pending_sidecars += usize::from(status.bool_at(&["started"]) != Some(true));
            self.running += 1;
        } else if exit_code(status).is_none() {
            self.pending_sidecars += 1;
            self.waiting += 1;
        }
    }

    fn main(&mut self, pod: &Value, container: &Value, status: Option<&Value>) {
        let Some(status) = status else {
            self.unknown += 1;
            return;
        };
        if status.at(&["state", "running"]).is_some() {
            self.running += 1;
        } else if let Some(code) = exit_code(status) {
            self.stopped += 1;
            self.for_good += usize::from(!runs_again(pod, container, Some(status), code));
            self.succeeded += usize::from(code == 0 && status.at(&["state", "terminated"]).is_some());
        } else {
            self.waiting += 1;
        }
    }
}

/// Whether a container that has ended with this code is to be run again, by its own rules or because all are.
fn runs_again(pod: &Value, container: &Value, status: Option<&Value>, code: i64) -> bool {
    let reason = status.map(|s| s.str_at(&["lastState", "terminated", "reason"]));
    reason == Some(containers::RESTARTING_ALL) || pod::restarts_after_exit(pod, container, code)
}

/// The exit code of a container that has ended, or that waits for its next run.
fn exit_code(status: &Value) -> Option<i64> {
    let ended = |at: &[&str]| status.at(at).map(|t| t.int_at(&["exitCode"]).unwrap_or(0));
    match status.at(&["state", "running"]) {
        Some(_) => None,
        None => ended(&["state", "terminated"]).or_else(|| ended(&["lastState", "terminated"])),
    }
}

fn find<'a>(statuses: &'a [Value], name: &str) -> Option<&'a Value> {
    statuses.iter().find(|s| s.str_at(&["name"]) == name)
}
