//! Puts the resources in place that are allocated to a running pod: its cgroup is raised before its containers, and lowered after
//! them. See kuberuntime's doPodResizeAction.

use std::collections::HashMap;

use fram_cri::{ContainerState, ContainerStatus, LinuxContainerResources};
use fram_machinery::{Value, meta};

use super::actions::Actions;
use super::phase::Phase;
use super::{Outcome, RETRY, Worker};
use crate::cgroup::Direction;
use crate::context::Context;
use crate::observed::Observed;
use crate::pod::{self, resources};
use crate::resize;

impl Worker {
    /// The conditions that tell of the pod's resize now; tells of its end.
    pub(super) fn resize_conditions(&mut self) -> Vec<Value> {
        if self.state.phase != Phase::SyncPod {
            return Vec::new();
        }
        let allocations = &self.ctx.allocations;
        let in_progress = resize::in_progress(&self.pod, &self.observed);
        let conditions = allocations.conditions(&self.id.uid, in_progress);
        let now = conditions.iter().any(|c| c.str_at(&["type"]) == resize::IN_PROGRESS);
        if self.resizing && !now {
            let text = resize::summary("Pod resize completed", &self.pod, allocations.generation(&self.id.uid), "");
            self.ctx.event(&self.pod, false, "ResizeCompleted", text);
        }
        self.resizing = now;
        conditions
    }
}

/// Notes in `outcome` what the pod's cgroup has now, or when to try again.
pub(super) async fn put_in_place(ctx: &Context, pod: &Value, observed: &Observed, actions: &Actions, outcome: &mut Outcome) {
    let uid = meta::uid(pod);
    match actuate(ctx, pod, observed, &actions.update).await {
        Ok(wanted) => {
            outcome.cgroup = Some(wanted);
            ctx.allocations.tried(uid, None);
        }
        Err(error) => {
            outcome.hold_resize = Some(RETRY);
            if ctx.allocations.tried(uid, Some(&error)) {
                let text = resize::summary("Pod resize error", pod, ctx.allocations.generation(uid), &error);
                ctx.event(pod, true, "ResizeError", text);
            }
        }
    }
}

async fn actuate(ctx: &Context, pod: &Value, observed: &Observed, update: &[String]) -> Result<LinuxContainerResources, String> {
    let wanted = ctx.pod_limits(pod);
    let parent = resources::cgroup_parent(&ctx.config.cgroup_root, pod);
    let running = |name: &String| observed.latest(name).filter(|c| c.state == ContainerState::Running);
    let changed: Vec<(&Value, &ContainerStatus)> =
        update.iter().filter_map(|name| Some((pod::find_container(pod, name)?.1, running(name)?))).collect();
    check_usage(ctx, pod, observed, &changed).await?;
    let adjust = |direction| ctx.cgroups.adjust(&parent, &wanted, direction).map_err(|error| error.to_string());
    adjust(Direction::Raise)?;
    for (container, status) in changed {
        // What the kernel notes of a process at its start stays.
        let limits = ctx.container_limits(pod, container);
        let limits = LinuxContainerResources { oom_score_adj: 0, ..limits };
        ctx.runtime.update_container_resources(&status.id, &limits).await.map_err(|error| error.to_string())?;
    }
    adjust(Direction::Lower)?;
    if let Some(sandbox) = observed.ready_sandbox()
        && let Err(error) = ctx.runtime.update_pod_sandbox_resources(&sandbox.id, None, Some(&wanted)).await
    {
        tracing::info!(pod = meta::name(pod), %error, "the runtime was not told of a sandbox's resources");
    }
    Ok(wanted)
}

/// Memory limits are not lowered below what is in use: the kernel would kill instead of refusing.
async fn check_usage(ctx: &Context, pod: &Value, observed: &Observed, changed: &[(&Value, &ContainerStatus)]) -> Result<(), String> {
    let limit = |c: &Value| resources::container_resources(pod, c, 1).memory_limit_in_bytes;
    let lowered: Vec<_> = changed
        .iter()
        .filter(|(c, s)| limit(c) > 0 && (s.resources.memory_limit_in_bytes == 0 || limit(c) < s.resources.memory_limit_in_bytes))
        .collect();
    if lowered.is_empty() {
        return Ok(());
    }
    let Some(sandbox) = observed.ready_sandbox() else { return Ok(()) };
    let stats = ctx.runtime.pod_sandbox_stats(&sandbox.id).await.map_err(|error| format!("unable to read memory usage: {error}"))?;
    let bytes = |n: Option<u64>| n.and_then(|n| i64::try_from(n).ok());
    let mut usage: HashMap<String, i64> = HashMap::new();
    usage.extend(bytes(stats.memory.working_set_bytes).map(|n| (String::new(), n)));
    for container in &stats.containers {
        usage.extend(bytes(container.memory.working_set_bytes).map(|n| (container.attributes.metadata.name.clone(), n)));
    }
    let of_pod = resources::pod_resources(pod).memory_limit_in_bytes;
    let pod_limit = (of_pod > 0).then(|| (String::new(), of_pod));
    let limits: Vec<(String, i64)> =
        pod_limit.into_iter().chain(lowered.iter().map(|(c, _)| (pod::container_name(c).to_string(), limit(c)))).collect();
    resize::too_low(&limits, |name| usage.get(name).copied()).map_or(Ok(()), Err)
}
