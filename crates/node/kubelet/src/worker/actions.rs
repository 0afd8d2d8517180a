//! What a pod that should run needs next, from its specification and what the runtime has of it. Pure; see kuberuntime's
//! computePodActions and computeInitContainerActions.

use std::collections::HashMap;

use fram_cri::{ContainerState, ContainerStatus};
use fram_machinery::{Value, meta};

use crate::observed::{ANNOTATION_HASH, Observed};
use crate::pod::{
    RESTART_ALL, all_containers, container_hash, container_name, containers, ephemeral_containers, init_containers, is_host_network,
    is_sidecar, restart_action, restart_policy, restarts_after_exit,
};
use crate::resize::{Change, change};

/// What the probes have found about one container instance; None where no verdict is reached, or no such probe exists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub startup: Option<bool>,
    pub liveness: Option<bool>,
    pub readiness: Option<bool>,
}

/// Verdicts by container id.
pub(crate) type Verdicts = HashMap<String, Verdict>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KillReason {
    Changed,
    LivenessProbe,
    StartupProbe,
    Unknown,
    Resize,
}

/// A container instance to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kill {
    pub id: String,
    pub name: String,
    pub reason: KillReason,
    pub message: String,
}

/// The plan for one pod. Containers are named; the order of `start` counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Actions {
    /// Everything of the pod is to be stopped; with `create_sandbox` it begins anew, without it the pod has ended.
    pub kill_pod: bool,
    /// The attempt of a sandbox to make.
    pub create_sandbox: Option<u32>,
    pub start: Vec<String>,
    pub kill: Vec<Kill>,
    /// Running containers whose limits are to be changed.
    pub update: Vec<String>,
    /// Containers to be ended at once and removed, in this order: the pod begins anew in its sandbox (KEP-5532).
    pub reset: Vec<String>,
}

impl Actions {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Actions::default()
    }
}

/// Whether a new sandbox is needed, and of which attempt; see runtimeutil.PodSandboxChanged.
pub(crate) fn sandbox_changed(pod: &Value, observed: &Observed) -> Option<u32> {
    let Some(newest) = observed.sandboxes.first() else { return Some(0) };
    let ready = observed.sandboxes.iter().filter(|s| s.state == fram_cri::PodSandboxState::Ready).count();
    let next = newest.metadata.attempt + 1;
    let without_address = !is_host_network(pod) && newest.network.ip.is_none();
    (ready != 1 || observed.ready_sandbox().is_none() || without_address).then_some(next)
}

/// Whether a container that does not run now is to be run (again); see kubecontainer.ShouldContainerBeRestarted.
pub(crate) fn should_run(pod: &Value, container: &Value, latest: Option<&ContainerStatus>) -> bool {
    if meta::is_terminating(pod) {
        return false;
    }
    match latest {
        None => true,
        Some(status) => match status.state {
            ContainerState::Running => false,
            ContainerState::Created | ContainerState::Unknown => true,
            ContainerState::Exited => restarts_after_exit(pod, container, i64::from(status.exit_code)),
        },
    }
}

/// Whether a container counts as started: it runs, and its startup probe (if any) has succeeded.
pub(crate) fn is_started(container: &Value, status: &ContainerStatus, verdicts: &Verdicts) -> bool {
    let probed = container.get("startupProbe").is_some();
    status.state == ContainerState::Running && (!probed || verdicts.get(&status.id).and_then(|v| v.startup) == Some(true))
}

fn defect(pod: &Value, container: &Value, status: &ContainerStatus, verdicts: &Verdicts) -> Option<(KillReason, String)> {
    let name = container_name(container);
    let hash = status.annotations.get(ANNOTATION_HASH);
    if hash.is_some_and(|h| *h != container_hash(container)) {
        return Some((KillReason::Changed, format!("Container {name} definition changed")));
    }
    let verdict = verdicts.get(&status.id).copied().unwrap_or_default();
    if verdict.liveness == Some(false) {
        return Some((KillReason::LivenessProbe, format!("Container {name} failed liveness probe")));
    }
    if verdict.startup == Some(false) {
        return Some((KillReason::StartupProbe, format!("Container {name} failed startup probe")));
    }
    if change(pod, container, status) == Change::Restart {
        return Some((KillReason::Resize, format!("Container {name} resize requires restart")));
    }
    None
}

fn has_succeeded(observed: &Observed, name: &str) -> bool {
    observed.latest(name).is_some_and(|s| s.state == ContainerState::Exited && s.exit_code == 0)
}

/// The plan for a pod that should run.
pub(crate) fn compute(pod: &Value, observed: &Observed, verdicts: &Verdicts) -> Actions {
    if let Some(attempt) = sandbox_changed(pod, observed) {
        return with_new_sandbox(pod, observed, attempt);
    }
    if let Some(reset) = to_reset(pod, observed) {
        return Actions { reset, ..Actions::default() };
    }
    let mut actions = Actions::default();
    for container in ephemeral_containers(pod) {
        // An ephemeral container is never run twice.
        if observed.latest(container_name(container)).is_none() {
            actions.start.push(container_name(container).to_string());
        }
    }
    let initialized = plan_init(pod, observed, verdicts, &mut actions);
    if actions.kill_pod || !initialized {
        return actions;
    }
    let starts_so_far = actions.start.len();
    let mut kept = 0;
    for container in containers(pod) {
        kept += usize::from(plan_main(pod, container, observed, verdicts, &mut actions));
    }
    if kept == 0 && actions.start.len() == starts_so_far && actions.kill.iter().all(|k| !is_main(pod, &k.name)) {
        // Sidecars do not keep a pod alive.
        actions = Actions { kill_pod: true, ..Actions::default() };
    }
    actions
}

/// Whether this instance of a container is the last one, and has ended with a code for which its rules ask to restart all.
pub(crate) fn asks_to_restart_all(pod: &Value, observed: &Observed, status: &ContainerStatus) -> bool {
    let name = status.metadata.name.as_str();
    let container = containers(pod).iter().chain(init_containers(pod)).find(|c| container_name(c) == name);
    let latest = observed.latest(name).is_some_and(|l| l.id == status.id);
    status.state == ContainerState::Exited
        && latest
        && container.is_some_and(|c| restart_action(c, i64::from(status.exit_code)) == Some(RESTART_ALL))
}

/// All containers of a pod in which one has ended with a code for which its rules ask to restart all of them. Those that asked
/// come last: as long as one of them is there, the rest is still to be done.
fn to_reset(pod: &Value, observed: &Observed) -> Option<Vec<String>> {
    let asks = |status: &&ContainerStatus| asks_to_restart_all(pod, observed, status);
    if !observed.containers.iter().any(|c| asks(&c)) {
        return None;
    }
    let ephemeral = |c: &&ContainerStatus| ephemeral_containers(pod).iter().any(|e| container_name(e) == c.metadata.name);
    let (asking, others): (Vec<_>, Vec<_>) = observed.containers.iter().filter(|c| !ephemeral(c)).partition(asks);
    Some(others.into_iter().chain(asking).map(|c| c.id.clone()).collect())
}

fn is_main(pod: &Value, name: &str) -> bool {
    containers(pod).iter().any(|c| container_name(c) == name)
}

fn with_new_sandbox(pod: &Value, observed: &Observed, attempt: u32) -> Actions {
    let ended = Actions { kill_pod: true, ..Actions::default() };
    let once = all_containers(pod).all(|(_, c)| !restarts_after_exit(pod, c, 1));
    if restart_policy(pod) == "Never" && once && attempt != 0 && !observed.containers.is_empty() {
        return ended;
    }
    let start: Vec<String> = containers(pod)
        .iter()
        .filter(|c| restarts_after_exit(pod, c, 0) || !has_succeeded(observed, container_name(c)))
        .map(|c| container_name(c).to_string())
        .collect();
    if start.is_empty() && !observed.containers.is_empty() {
        return ended;
    }
    let first = init_containers(pod).first().map(|c| vec![container_name(c).to_string()]);
    let kill_pod = !observed.is_empty();
    Actions { kill_pod, create_sandbox: Some(attempt), start: first.unwrap_or(start), ..Actions::default() }
}

/// Plans one main container; true when it runs and is to go on.
fn plan_main(pod: &Value, container: &Value, observed: &Observed, verdicts: &Verdicts, actions: &mut Actions) -> bool {
    let name = container_name(container).to_string();
    let status = observed.latest(&name);
    let Some(status) = status.filter(|s| s.state == ContainerState::Running) else {
        if should_run(pod, container, status) {
            if let Some(lost) = status.filter(|s| s.state == ContainerState::Unknown) {
                let message = format!("Container is in {:?} state, try killing it before restart", "unknown");
                actions.kill.push(Kill { id: lost.id.clone(), name: name.clone(), reason: KillReason::Unknown, message });
            }
            actions.start.push(name);
        }
        return false;
    };
    let Some((reason, mut message)) = defect(pod, container, status, verdicts) else {
        plan_update(pod, container, status, actions);
        return true;
    };
    // A changed container is restarted whatever the policy says.
    if matches!(reason, KillReason::Changed | KillReason::Resize) || restarts_after_exit(pod, container, 137) {
        message.push_str(", will be restarted");
        actions.start.push(name.clone());
    }
    actions.kill.push(Kill { id: status.id.clone(), name, reason, message });
    false
}

fn plan_update(pod: &Value, container: &Value, status: &ContainerStatus, actions: &mut Actions) {
    if change(pod, container, status) == Change::Update {
        actions.update.push(container_name(container).to_string());
    }
}

/// Plans the init containers; true when the main containers may be started.
fn plan_init(pod: &Value, observed: &Observed, verdicts: &Verdicts, actions: &mut Actions) -> bool {
    let list = init_containers(pod);
    // Once a main container was made in this sandbox, init containers are done with and only sidecars are looked after.
    let past = containers(pod).iter().any(|c| observed.active(container_name(c)).is_some());
    let reached = list.iter().rposition(|c| observed.active(container_name(c)).is_some());
    for (i, container) in list.iter().enumerate() {
        let name = container_name(container);
        let status = observed.active(name);
        if is_sidecar(container) {
            let begun = past || status.is_some() || reached.is_some_and(|r| i < r);
            let started = plan_sidecar(pod, container, status, verdicts, begun || is_next(i, reached), actions);
            if !past && !started && reached.is_none_or(|r| i >= r) {
                return false;
            }
            continue;
        }
        if past || reached.is_some_and(|r| i < r) {
            continue;
        }
        if let Some(status) = status.filter(|s| s.state == ContainerState::Running) {
            plan_update(pod, container, status, actions);
            return false;
        }
        match status.map(|s| (s.state, s.exit_code)) {
            Some((ContainerState::Exited, 0)) => {}
            Some((ContainerState::Exited, code)) if !restarts_after_exit(pod, container, i64::from(code)) => {
                *actions = Actions { kill_pod: true, ..Actions::default() };
                return false;
            }
            _ => {
                actions.start.push(name.to_string());
                return false;
            }
        }
    }
    true
}

/// Whether an init container follows those that were reached.
fn is_next(i: usize, reached: Option<usize>) -> bool {
    reached.map_or(i == 0, |r| i > r)
}

/// Plans one sidecar; true when it has started and is well.
fn plan_sidecar(
    pod: &Value,
    container: &Value,
    status: Option<&ContainerStatus>,
    verdicts: &Verdicts,
    wanted: bool,
    actions: &mut Actions,
) -> bool {
    let name = container_name(container).to_string();
    match status {
        Some(status) if status.state == ContainerState::Running => match defect(pod, container, status, verdicts) {
            Some((reason, message)) => {
                let message = format!("{message}, will be restarted");
                actions.kill.push(Kill { id: status.id.clone(), name: name.clone(), reason, message });
                actions.start.push(name);
                false
            }
            None => {
                plan_update(pod, container, status, actions);
                is_started(container, status, verdicts)
            }
        },
        _ => {
            if wanted {
                actions.start.push(name);
            }
            false
        }
    }
}

#[cfg(test)]
mod tests;
