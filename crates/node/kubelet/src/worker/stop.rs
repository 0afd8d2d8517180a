//! Stops containers and pods: preStop hooks, grace, order of sidecars, and what a container says at its end. See
//! kuberuntime's killContainer and killContainersWithSyncResult.

use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fram_cri::{ContainerState, ContainerStatus};
use fram_machinery::Value;
use futures_util::future::join_all;
use tokio::time::Instant;

use super::actions::{Kill, KillReason};
use super::phase::Event;
use super::{Outcome, RETRY, Work};
use crate::context::Context;
use crate::hook;
use crate::observed::{ANNOTATION_MESSAGE_POLICY, Observed};
use crate::pod;
use crate::server::log_tail;
use crate::volumes::message_file;

/// The least time that a container gets, so that it sees its signal.
const LEAST_GRACE: Duration = Duration::from_secs(2);
const MESSAGE_LIMIT: usize = 4096;
const LOG_MESSAGE_LIMIT: usize = 2048;
const LOG_MESSAGE_LINES: usize = 80;

pub(super) struct Stopping {
    pub(super) ctx: Arc<Context>,
    pub(super) pod: Arc<Value>,
    pub(super) observed: Arc<Observed>,
    pub(super) grace: i64,
}

/// Stops everything of a pod.
pub(super) fn everything(stopping: Stopping) -> Work {
    Box::pin(async move {
        match stop_all(&stopping).await {
            Ok(()) => Outcome { event: Some(Event::Stopped), ..Outcome::default() },
            Err(delay) => Outcome { hold_pod: Some(delay), ..Outcome::default() },
        }
    })
}

async fn stop_all(stopping: &Stopping) -> Result<(), Duration> {
    let Stopping { ctx, pod, observed, grace } = stopping;
    let grace = Duration::from_secs(u64::try_from(*grace).unwrap_or(0));
    let deadline = Instant::now() + grace;
    let alive = |c: &&ContainerStatus| matches!(c.state, ContainerState::Running | ContainerState::Unknown);
    let order: HashMap<&str, usize> = pod::init_containers(pod)
        .iter()
        .enumerate()
        .filter(|(_, c)| pod::is_sidecar(c))
        .map(|(i, c)| (pod::container_name(c), i))
        .collect();
    let (mut sidecars, others): (Vec<_>, Vec<_>) =
        observed.containers.iter().filter(alive).partition(|c| order.contains_key(c.metadata.name.as_str()));
    let stop = |c: &ContainerStatus, grace: Duration| {
        let (name, id) = (c.metadata.name.clone(), c.id.clone());
        async move { stop_container(ctx, pod, observed, &name, &id, grace, None).await }
    };
    let mut failed = join_all(others.into_iter().map(|c| stop(c, grace))).await.into_iter().any(|ok| !ok);
    // Sidecars outlive what they serve, and end in the reverse of their order.
    sidecars.sort_by_key(|c| std::cmp::Reverse(order.get(c.metadata.name.as_str()).copied()));
    for sidecar in sidecars {
        let left = if grace.is_zero() { grace } else { deadline.saturating_duration_since(Instant::now()).max(LEAST_GRACE) };
        failed |= !stop(sidecar, left).await;
    }
    // One that was made and never started has no signal to see, and a process that waits in its cgroup.
    for made in observed.containers.iter().filter(|c| c.state == ContainerState::Created) {
        if let Err(error) = ctx.runtime.remove_container(&made.id).await {
            ctx.event(pod, true, "FailedKillPod", format!("error killing pod: {error}"));
            failed = true;
        }
    }
    for sandbox in &observed.sandboxes {
        if let Err(error) = ctx.runtime.stop_pod_sandbox(&sandbox.id).await {
            ctx.event(pod, true, "FailedKillPod", format!("error killing pod: {error}"));
            failed = true;
        }
    }
    if failed { Err(RETRY) } else { Ok(()) }
}

/// Stops what is left in a sandbox that died, before a new one is made.
pub(super) async fn leftovers(ctx: &Arc<Context>, pod: &Arc<Value>, observed: &Arc<Observed>) -> Result<(), Duration> {
    let stopping = Stopping { ctx: ctx.clone(), pod: pod.clone(), observed: observed.clone(), grace: pod::grace_period(pod) };
    stop_all(&stopping).await
}

/// Stops one container that is to be replaced, or that its probes condemned.
pub(super) async fn one(ctx: &Context, pod: &Value, observed: &Observed, kill: &Kill) -> Result<(), Duration> {
    let spec = pod::find_container(pod, &kill.name).map(|(_, c)| c);
    let probe = match kill.reason {
        KillReason::LivenessProbe => "livenessProbe",
        KillReason::StartupProbe => "startupProbe",
        KillReason::Changed | KillReason::Unknown | KillReason::Resize => "",
    };
    let own = spec.and_then(|c| c.get(probe)).and_then(|p| p.int_at(&["terminationGracePeriodSeconds"]));
    let grace = Duration::from_secs(u64::try_from(own.unwrap_or_else(|| pod::grace_period(pod))).unwrap_or(0));
    match stop_container(ctx, pod, observed, &kill.name, &kill.id, grace, Some(&kill.message)).await {
        true => Ok(()),
        false => Err(RETRY),
    }
}

/// Stops one container; the preStop hook uses up part of the grace period. False where it failed.
async fn stop_container(
    ctx: &Context,
    pod: &Value,
    observed: &Observed,
    name: &str,
    id: &str,
    grace: Duration,
    message: Option<&str>,
) -> bool {
    let text = message.map_or_else(|| format!("Stopping container {name}"), String::from);
    ctx.container_event(pod, name, false, "Killing", text);
    let begun = Instant::now();
    let spec = pod::find_container(pod, name).map(|(_, c)| c);
    if let Some((spec, handler)) = spec.and_then(|c| Some((c, c.at(&["lifecycle", "preStop"])?)))
        && !grace.is_zero()
    {
        let pod_ip = match pod::is_host_network(pod) {
            true => ctx.host_ips().first().cloned(),
            false => observed.ready_sandbox().and_then(|s| s.network.ip).map(|ip| ip.to_string()),
        };
        let target = hook::Target { runtime: &*ctx.runtime, container: spec, container_id: id, pod_ip };
        match tokio::time::timeout(grace, hook::run(handler, &target)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::info!(pod = fram_machinery::meta::name(pod), container = name, %error, "preStop hook failed");
                ctx.container_event(pod, name, true, "FailedPreStopHook", "PreStopHook failed");
            }
            Err(_) => tracing::info!(pod = fram_machinery::meta::name(pod), container = name, "preStop hook took the whole grace period"),
        }
    }
    let left = if grace.is_zero() { grace } else { grace.saturating_sub(begun.elapsed()).max(LEAST_GRACE.min(grace)) };
    match ctx.runtime.stop_container(id, left).await {
        Ok(()) => true,
        Err(error) => {
            ctx.event(pod, true, "FailedKillPod", format!("error killing container {name}: {error}"));
            false
        }
    }
}

/// What a container said at its end: its message file, the end of its log where it asked for that, or the runtime's word.
pub(super) fn termination_message(pod_dir: &Path, container: &ContainerStatus) -> String {
    let file = message_file(pod_dir, &container.metadata.name, container.metadata.attempt);
    let own = tail(&file, MESSAGE_LIMIT);
    if !own.is_empty() {
        return own;
    }
    let from_log = container.annotations.get(ANNOTATION_MESSAGE_POLICY).is_some_and(|p| p == "FallbackToLogsOnError");
    if from_log && container.exit_code != 0 {
        let log = log_tail(Path::new(&container.log_path), LOG_MESSAGE_LINES, LOG_MESSAGE_LIMIT);
        if !log.is_empty() {
            return log;
        }
    }
    container.message.clone()
}

/// The last bytes of a file, as text; empty where there is none.
fn tail(path: &Path, limit: usize) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(limit as u64)))?;
        let mut out = Vec::new();
        file.take(limit as u64).read_to_end(&mut out)?;
        Ok(out)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}
