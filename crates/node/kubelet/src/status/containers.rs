//! Statuses of the containers of one list of a pod; see kubelet_pods.go's convertToAPIContainerStatuses. Pure.

use fram_cri::{ContainerState, ContainerStatus};
use fram_machinery::{Map, Value, meta, object};

use super::Inputs;
use crate::clock;
use crate::observed::restart_count;
use crate::pod::{self, Role};
use crate::volumes;
use crate::worker::actions::{is_started, should_run};

const UNKNOWN: &str = "ContainerStatusUnknown";
/// Of a container that was ended and removed because another's exit restarts all of them (KEP-5532).
pub(super) const RESTARTING_ALL: &str = "RestartingAllContainers";
/// What is assumed of a container that vanished: that it was killed.
const LOST_EXIT_CODE: i64 = 137;

/// One status for each container of the list, main and ephemeral ones sorted by name.
pub(super) fn statuses(inputs: &Inputs, role: Role) -> Vec<Value> {
    let list = inputs.pod.list_at(&["spec", role.field()]);
    let mut out: Vec<Value> = list.iter().map(|c| status(inputs, role, c)).collect();
    if role != Role::Init {
        out.sort_by(|a, b| a.str_at(&["name"]).cmp(b.str_at(&["name"])));
    }
    out
}

fn status(inputs: &Inputs, role: Role, container: &Value) -> Value {
    let name = pod::container_name(container);
    let old = old_status(inputs.pod, role, name);
    let mut seen = inputs.observed.containers.iter().filter(|c| c.metadata.name == name);
    let mut status = match seen.next() {
        Some(newest) => {
            let mut status = converted(inputs.pod, container, newest);
            if newest.state == ContainerState::Created {
                // Made and about to start: to its readers it waits as before.
                status.set(&["state", "waiting", "reason"], waiting_reason(inputs, role));
            }
            let before = seen.next().filter(|c| c.state == ContainerState::Exited).map(terminated);
            if let Some(last) = before.or_else(|| old.and_then(|o| told_before(o, &status)).cloned()) {
                status.set(&["lastState", "terminated"], last);
            }
            if newest.state == ContainerState::Unknown {
                lose(&mut status, old);
            }
            status
        }
        None => missing(inputs, role, container, old),
    };
    wait(inputs, role, container, &mut status);
    readiness(inputs, role, container, &mut status);
    if role == Role::Main {
        health(inputs, name, old, &mut status);
    }
    status.set(&["volumeMounts"], volume_mounts(container, inputs.mounts_recursively));
    if status.list_at(&["volumeMounts"]).is_empty() {
        status.remove(&["volumeMounts"]);
    }
    status
}

/// A pod that ends gives its devices back; how they were then stays told, since it may be why it has failed.
fn health(inputs: &Inputs, name: &str, old: Option<&Value>, status: &mut Value) {
    const FIELD: &[&str] = &["allocatedResourcesStatus"];
    match inputs.health.get(name).filter(|health| !health.is_empty()) {
        Some(health) => status.set(FIELD, health.clone()),
        None if inputs.ending => old.and_then(|old| old.at(FIELD)).into_iter().for_each(|known| status.set(FIELD, known.clone())),
        None => {}
    }
}

/// What the last status tells of the instance before this one, of which the runtime may have no traces any more.
fn told_before<'a>(old: &'a Value, new: &Value) -> Option<&'a Value> {
    let ended = old.at(&["state", "terminated"]).filter(|_| old.str_at(&["containerID"]) != new.str_at(&["containerID"]));
    ended.or_else(|| old.at(&["lastState", "terminated"]))
}

/// Whether a container's rules ask to restart all containers after an end that a status tells of.
pub(super) fn asks_to_restart_all(container: &Value, ended: &Value) -> bool {
    pod::restart_action(container, ended.int_at(&["exitCode"]).unwrap_or(0)) == Some(pod::RESTART_ALL)
}

pub(super) fn old_status<'a>(pod: &'a Value, role: Role, name: &str) -> Option<&'a Value> {
    let field = match role {
        Role::Init => "initContainerStatuses",
        Role::Main => "containerStatuses",
        Role::Ephemeral => "ephemeralContainerStatuses",
    };
    super::find(pod.list_at(&["status", field]), name)
}

fn base(container: &Value, image: &str, count: i64) -> Value {
    object!({
        "name": (pod::container_name(container)), "image": image, "imageID": "", "restartCount": count,
        "ready": false, "started": false, "state": {}, "lastState": {}
    })
}

fn converted(pod: &Value, container: &Value, seen: &ContainerStatus) -> Value {
    let image = match seen.image.user_specified_image.as_str() {
        "" => container.str_at(&["image"]),
        image => image,
    };
    let mut status = base(container, image, restart_count(seen));
    status.set(&["imageID"], seen.image_ref.as_str());
    status.set(&["containerID"], container_id(&seen.id));
    match seen.state {
        ContainerState::Running => status.set(&["state", "running"], object!({ "startedAt": (clock::time_of_nanos(seen.started_at)) })),
        ContainerState::Exited => status.set(&["state", "terminated"], terminated(seen)),
        ContainerState::Created | ContainerState::Unknown => status.set(&["state", "waiting"], Map::new()),
    }
    resources(pod, container, seen, &mut status);
    if let Some(user) = &seen.user {
        let groups: Vec<Value> = user.supplemental_groups.iter().map(|g| Value::from(*g)).collect();
        status.set(&["user", "linux"], object!({ "uid": (user.uid), "gid": (user.gid), "supplementalGroups": groups }));
    }
    status
}

fn resources(pod: &Value, container: &Value, seen: &ContainerStatus, status: &mut Value) {
    if let Some(shown) = crate::resize::shown(pod, container, seen) {
        status.set(&["resources"], shown);
    }
    if let Some(requests) = container.at(&["resources", "requests"]).filter(|r| !r.is_empty()) {
        status.set(&["allocatedResources"], requests.clone());
    }
}

/// The id as the API writes it: with the runtime's name, which clients only take off.
pub(crate) fn container_id(id: &str) -> String {
    format!("fram://{id}")
}

fn terminated(seen: &ContainerStatus) -> Value {
    let reason = seen.reason.map_or(if seen.exit_code == 0 { "Completed" } else { "Error" }, |r| r.as_str());
    let mut out = object!({
        "exitCode": (seen.exit_code), "reason": reason, "containerID": (container_id(&seen.id)),
        "startedAt": (clock::time_of_nanos(seen.started_at)), "finishedAt": (clock::time_of_nanos(seen.finished_at))
    });
    if !seen.message.is_empty() {
        out.set(&["message"], seen.message.as_str());
    }
    out
}

/// The runtime has no state for a container that ran when last heard of.
fn lose(status: &mut Value, old: Option<&Value>) {
    if old.is_some_and(|o| o.at(&["state", "running"]).is_some()) {
        let message = "The container could not be located when the pod was terminated";
        let lost = object!({ "exitCode": LOST_EXIT_CODE, "reason": UNKNOWN, "message": message, "startedAt": null, "finishedAt": null });
        status.set(&["state"], object!({ "terminated": lost }));
        let count = old.and_then(|o| o.int_at(&["restartCount"])).unwrap_or(0);
        status.set(&["restartCount"], count + 1);
    }
}

/// Why a container that has not run yet waits.
fn waiting_reason(inputs: &Inputs, role: Role) -> &'static str {
    let has_init = !pod::init_containers(inputs.pod).is_empty();
    if has_init && role != Role::Ephemeral { "PodInitializing" } else { "ContainerCreating" }
}

/// A container of which the runtime knows nothing.
fn missing(inputs: &Inputs, role: Role, container: &Value, old: Option<&Value>) -> Value {
    let mut status = base(container, container.str_at(&["image"]), 0);
    status.set(&["state", "waiting", "reason"], waiting_reason(inputs, role));
    let Some(old) = old else { return initialized(inputs, role, container, status) };
    if role != Role::Ephemeral && old.at(&["state", "waiting"]).is_none() && inputs.restarts_all() {
        return removed(container, old, status);
    }
    if old.at(&["state", "terminated"]).is_some() {
        return old.clone();
    }
    status.set(&["restartCount"], old.int_at(&["restartCount"]).unwrap_or(0));
    status.set(&["lastState"], old.get("lastState").cloned().unwrap_or_else(|| Map::new().into()));
    if old.at(&["state", "running"]).is_some() && status.at(&["lastState", "terminated"]).is_none() {
        let message = "The container could not be located when the pod was deleted.  The container used to be Running";
        let lost = object!({ "exitCode": LOST_EXIT_CODE, "reason": UNKNOWN, "message": message, "startedAt": null, "finishedAt": null });
        status.set(&["lastState", "terminated"], lost);
        if !meta::is_terminating(inputs.pod) {
            status.set(&["restartCount"], status.int_at(&["restartCount"]).unwrap_or(0) + 1);
        }
    }
    initialized(inputs, role, container, status)
}

/// A container that was removed because all are restarted. That of the exit that asked for it tells of this exit.
fn removed(container: &Value, old: &Value, mut status: Value) -> Value {
    let message = "The container is removed because RestartAllContainers in place";
    status.set(&["state"], object!({ "waiting": { "reason": RESTARTING_ALL, "message": message } }));
    let asked = old.at(&["state", "terminated"]).filter(|ended| asks_to_restart_all(container, ended)).cloned();
    let ended =
        || object!({ "exitCode": LOST_EXIT_CODE, "reason": RESTARTING_ALL, "message": message, "startedAt": null, "finishedAt": null });
    status.set(&["lastState", "terminated"], asked.unwrap_or_else(ended));
    status.set(&["restartCount"], old.int_at(&["restartCount"]).unwrap_or(0) + 1);
    status
}

/// An init container whose traces are gone has succeeded where a main container was made since.
fn initialized(inputs: &Inputs, role: Role, container: &Value, mut status: Value) -> Value {
    let past = pod::containers(inputs.pod).iter().any(|c| inputs.observed.active(pod::container_name(c)).is_some());
    if role == Role::Init && past && !pod::is_sidecar(container) {
        let message =
            "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally";
        let done = object!({ "exitCode": 0, "reason": "Completed", "message": message, "startedAt": null, "finishedAt": null });
        status.set(&["state"], object!({ "terminated": done }));
    }
    status
}

/// A container that is to be run (again) and cannot yet is waiting, for the reason that was noted.
fn wait(inputs: &Inputs, role: Role, container: &Value, status: &mut Value) {
    let name = pod::container_name(container);
    let latest = inputs.observed.latest(name);
    let succeeded = latest.is_some_and(|s| s.state == ContainerState::Exited && s.exit_code == 0);
    let done = match role {
        Role::Init => succeeded && !pod::is_sidecar(container),
        Role::Main => false,
        Role::Ephemeral => latest.is_some(),
    };
    if done || inputs.ending || !should_run(inputs.pod, container, latest) {
        return;
    }
    let Some((reason, message)) = inputs.waiting.get(name) else { return };
    if let Some(ended) = status.at(&["state", "terminated"]).cloned() {
        status.set(&["lastState"], object!({ "terminated": ended }));
    }
    let mut waiting = object!({ "reason": (reason.as_str()) });
    if !message.is_empty() {
        waiting.set(&["message"], message.as_str());
    }
    status.set(&["state"], object!({ "waiting": waiting }));
}

/// See prober_manager.go's UpdatePodStatus.
fn readiness(inputs: &Inputs, role: Role, container: &Value, status: &mut Value) {
    let name = pod::container_name(container);
    let running = inputs.observed.latest(name).filter(|_| status.at(&["state", "running"]).is_some());
    let started = running.is_some_and(|s| is_started(container, s, inputs.verdicts));
    status.set(&["started"], started);
    let ready = match role {
        Role::Init if !pod::is_sidecar(container) => {
            status.at(&["state", "terminated"]).is_some_and(|t| t.int_at(&["exitCode"]) == Some(0))
        }
        Role::Ephemeral => {
            status.remove(&["started"]);
            false
        }
        _ => running.is_some_and(|s| started && is_ready(inputs, container, s)),
    };
    status.set(&["ready"], ready);
}

fn is_ready(inputs: &Inputs, container: &Value, status: &ContainerStatus) -> bool {
    let verdict = inputs.verdicts.get(&status.id).and_then(|v| v.readiness);
    verdict.unwrap_or(container.get("readinessProbe").is_none())
}

fn volume_mounts(container: &Value, recursively: bool) -> Vec<Value> {
    let mount = |m: &Value| {
        let read_only = m.bool_at(&["readOnly"]) == Some(true);
        let mut out = object!({ "name": (m.str_at(&["name"])), "mountPath": (m.str_at(&["mountPath"])) });
        if read_only {
            out.set(&["readOnly"], true);
            let recursive = matches!(volumes::recursive(m, recursively), Ok(true));
            out.set(&["recursiveReadOnly"], if recursive { "Enabled" } else { "Disabled" });
        }
        out
    };
    container.list_at(&["volumeMounts"]).iter().map(mount).collect()
}
