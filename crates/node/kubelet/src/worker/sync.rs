//! The next piece of work for a pod that should run: which of the planned containers may be started now, and the order of
//! sandbox, volumes and containers. See kubelet.go's SyncPod.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use fram_cri::ContainerState;
use fram_machinery::{Value, meta};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::actions::{Actions, compute, should_run};
use super::phase::{Event, Failure};
use super::start::{Starting, start_container};
use super::{Outcome, RETRY, Work, Worker, resizing, stop};
use crate::clock;
use crate::context::Context;
use crate::devices::ADMISSION_ERROR;
use crate::dra;
use crate::metrics::Took;
use crate::node::machine;
use crate::observed::Observed;
use crate::pod::{self, PodId, RESTART_ALL};
use crate::sandbox;
use crate::user_namespaces;

impl Worker {
    /// Plans, and begins what may be begun now.
    pub(super) fn next_sync(&mut self) -> Option<Work> {
        let mut actions = compute(&self.pod, &self.observed, &self.verdicts.lock());
        if actions.kill_pod && actions.create_sandbox.is_none() {
            self.step(Event::Ended { grace: pod::grace_period(&self.pod) });
            return self.next_work();
        }
        if !self.is_due() {
            return None;
        }
        if let Some((name, ended)) = who_asked(&actions, &self.observed)
            && let Some((delay, left)) = self.backoff.remaining(RESTART_ALL, ended, self.ctx.clock.now())
        {
            self.tell_crash_loop(&name, delay);
            self.hold_pod = Some(Instant::now() + left);
            return None;
        }
        let renew = self.renew_volumes.is_some_and(|at| at <= Instant::now());
        let volumes = !self.volumes_ready || renew;
        self.hold_back(&mut actions);
        let held = self.hold_resize.is_some_and(|at| at > Instant::now());
        let resize = !held && (!actions.update.is_empty() || self.cgroup.as_ref() != Some(&self.ctx.pod_limits(&self.pod)));
        if held {
            actions.update.clear();
        }
        if actions.is_empty() && !volumes && !resize {
            return None;
        }
        self.volumes_ready = true;
        self.replacing = actions.kill.iter().filter(|k| actions.start.contains(&k.name)).map(|k| k.id.clone()).collect();
        // With the last status: how often containers were restarted may stand nowhere else.
        let (ctx, pod, observed) = (self.ctx.clone(), self.pod_with_status(), self.observed.clone());
        let end = self.end.clone();
        Some(Box::pin(sync(Sync { ctx, pod, observed, actions, volumes, resize, end })))
    }

    /// Takes out of the plan what has to wait: containers that crashed again, and those whose last try failed.
    fn hold_back(&mut self, actions: &mut Actions) {
        let now = Instant::now();
        let planned = std::mem::take(&mut actions.start);
        for name in planned {
            if self.holds.get(&name).is_some_and(|at| *at > now) {
                continue;
            }
            match self.crash_loop(&name) {
                Some((delay, left)) => {
                    self.tell_crash_loop(&name, delay);
                    self.holds.insert(name, now + left);
                }
                None => actions.start.push(name),
            }
        }
    }

    fn tell_crash_loop(&mut self, name: &str, delay: Duration) {
        let message = format!("back-off {} restarting failed container={name} pod={}", go_seconds(delay), pod_words(&self.id));
        if self.waiting.get(name).is_none_or(|(_, m)| *m != message) {
            let text = format!("Back-off restarting failed container {name} in pod {}", pod_words(&self.id));
            self.ctx.container_event(&self.pod, name, true, "BackOff", text);
        }
        self.waiting.insert(name.to_string(), ("CrashLoopBackOff".into(), message));
    }

    fn crash_loop(&self, name: &str) -> Option<(Duration, Duration)> {
        let ended = self.observed.latest(name).filter(|c| c.state == ContainerState::Exited)?;
        let container = pod::find_container(&self.pod, name).map(|(_, c)| c)?;
        debug_assert!(should_run(&self.pod, container, Some(ended)) || pod::init_containers(&self.pod).contains(container));
        let key = format!("{name}_{}", pod::container_hash(container));
        self.backoff.remaining(&key, clock::from_nanos(ended.finished_at)?, self.ctx.clock.now())
    }
}

/// The container whose exit has all containers restarted, and when that was. It is the last to be removed, and a pod that begins anew
/// again and again waits as a container does that fails again and again.
fn who_asked(actions: &Actions, observed: &Observed) -> Option<(String, jiff::Timestamp)> {
    let id = actions.reset.last()?;
    let asking = observed.containers.iter().find(|c| c.id == *id)?;
    Some((asking.metadata.name.clone(), clock::from_nanos(asking.finished_at)?))
}

/// `name_namespace(uid)`, as upstream's format.Pod.
pub(crate) fn pod_words(id: &PodId) -> String {
    format!("{}_{}({})", id.name, id.namespace, id.uid)
}

/// As Go prints whole seconds: `10s`, `1m20s`, `5m0s`.
fn go_seconds(duration: Duration) -> String {
    match duration.as_secs() {
        s if s < 60 => format!("{s}s"),
        s => format!("{}m{}s", s / 60, s % 60),
    }
}

struct Sync {
    ctx: Arc<Context>,
    pod: Arc<Value>,
    observed: Arc<Observed>,
    actions: Actions,
    volumes: bool,
    resize: bool,
    /// Nothing more is to be begun.
    end: CancellationToken,
}

/// Waits for something that may be given up in the middle, until it is there or the work is to end.
pub(super) async fn unless_ended<T>(end: &CancellationToken, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = end.cancelled() => None,
        done = work => Some(done),
    }
}

async fn sync(sync: Sync) -> Outcome {
    let mut outcome = Outcome::default();
    let volumes = sync.volumes;
    let (ctx, begun) = (sync.ctx.clone(), Instant::now());
    let operation = if sync.actions.create_sandbox == Some(0) { "create" } else { "sync" };
    if let Err(delay) = carry_out(sync, &mut outcome).await {
        outcome.hold_pod = Some(delay);
    }
    ctx.metrics.families.took(Took::PodSync, &[operation], begun.elapsed());
    outcome.volumes_failed = volumes && outcome.volumes.is_none();
    outcome
}

/// An error says after which time the rest is tried again; what it was is told already.
async fn carry_out(sync: Sync, outcome: &mut Outcome) -> Result<(), Duration> {
    let Sync { ctx, pod, observed, actions, volumes, resize, end } = sync;
    if actions.kill_pod {
        unless_ended(&end, stop::leftovers(&ctx, &pod, &observed)).await.unwrap_or(Ok(()))?;
    }
    for id in &actions.reset {
        if end.is_cancelled() {
            return Ok(());
        }
        reset(&ctx, &pod, &observed, id).await?;
    }
    if let Some((_, ended)) = who_asked(&actions, &observed) {
        outcome.restarted.push((RESTART_ALL.to_string(), ended));
    }
    if !actions.reset.is_empty() || end.is_cancelled() {
        return Ok(());
    }
    if actions.create_sandbox == Some(0) && !allocate_devices(&ctx, &pod, outcome, &end).await? {
        return Ok(());
    }
    if volumes {
        match super::release::set_up(&ctx, &pod, &observed, &end).await? {
            Some(renewal) => outcome.volumes = Some(renewal),
            None => return Ok(()),
        }
    }
    if end.is_cancelled() {
        return Ok(());
    }
    if dra::concerns(&pod) && (actions.create_sandbox.is_some() || !actions.start.is_empty()) {
        unless_ended(&end, prepare_claims(&ctx, &pod)).await.unwrap_or(Ok(()))?;
    }
    if end.is_cancelled() {
        return Ok(());
    }
    let mut sandbox = None;
    let own_users = pod.bool_at(&["spec", "hostUsers"]) == Some(false);
    if let Some(attempt) = actions.create_sandbox {
        ctx.metrics.count_pod(own_users, false);
        let made = create_sandbox(&ctx, &pod, attempt).await;
        sandbox = Some(made.inspect_err(|_| ctx.metrics.count_pod(own_users, true))?);
        remove_older_sandboxes(&ctx, &observed).await;
    } else if let Some(ready) = observed.ready_sandbox() {
        let config = sandbox_config(&ctx, &pod, ready.metadata.attempt)?;
        sandbox = Some((ready.clone(), config));
    }
    let Some((status, config)) = sandbox else { return Ok(()) };
    for kill in &actions.kill {
        unless_ended(&end, stop::one(&ctx, &pod, &observed, kill)).await.unwrap_or(Ok(()))?;
    }
    if end.is_cancelled() {
        return Ok(());
    }
    if resize {
        resizing::put_in_place(&ctx, &pod, &observed, &actions, outcome).await;
    }
    let starting = Starting { ctx: &ctx, pod: &pod, observed: &observed, sandbox: &status, config: &config, end: &end };
    for name in &actions.start {
        if end.is_cancelled() {
            return Ok(());
        }
        let tried = start_container(&starting, name).await;
        let failed = tried.result.as_ref().err().filter(|_| !end.is_cancelled());
        let kind = pod::find_container(&pod, name).map_or("container", |(role, _)| role.metric());
        ctx.metrics.count_container(kind, None);
        if let Some(failure) = failed {
            ctx.metrics.count_container(kind, Some(failure.reason));
            if own_users && actions.create_sandbox.is_some() {
                ctx.metrics.count_user_namespaced_error();
            }
        }
        if let Some(ended) = tried.replaced {
            outcome.restarted.push(ended);
        }
        match tried.result {
            // It did not fail, it was told to end.
            Err(_) if end.is_cancelled() => return Ok(()),
            Ok(()) => outcome.waiting.push((name.clone(), None)),
            Err(failure) => {
                outcome.waiting.push((name.clone(), Some((failure.reason.to_string(), failure.message))));
                outcome.holds.push((name.clone(), failure.retry_after));
            }
        }
    }
    Ok(())
}

/// Plugins decide whether a pod comes in at all: one that refuses what the pod was reserved ends it. False where it has to end.
async fn allocate_devices(ctx: &Context, pod: &Value, outcome: &mut Outcome, end: &CancellationToken) -> Result<bool, Duration> {
    match unless_ended(end, ctx.devices.allocate(meta::uid(pod))).await {
        None => Ok(false),
        Some(Ok(())) => Ok(true),
        Some(Err(error)) if error.is_refusal() => {
            let message = format!("Pod was rejected: Allocate failed due to {error}, which is unexpected");
            ctx.event(pod, true, ADMISSION_ERROR, message.clone());
            ctx.metrics.count_rejection(ADMISSION_ERROR);
            let failure = Failure { reason: ADMISSION_ERROR.into(), message, disruption: false };
            outcome.event = Some(Event::Failed { grace: 0, failure });
            Ok(false)
        }
        Some(Err(error)) => {
            tracing::warn!(pod = meta::name(pod), %error, "a device plugin did not answer, it is asked again");
            Err(RETRY)
        }
    }
}

/// Before anything of the pod runs, what is allocated to it is prepared.
async fn prepare_claims(ctx: &Context, pod: &Value) -> Result<(), Duration> {
    ctx.dra.prepare(pod).await.map_err(|error| {
        let message = format!("Failed to prepare dynamic resources: prepare dynamic resources: {error}");
        ctx.event(pod, true, "FailedPrepareDynamicResources", message);
        RETRY
    })
}

/// Ends a container without grace and removes it; its log stays.
async fn reset(ctx: &Context, pod: &Value, observed: &Observed, id: &str) -> Result<(), Duration> {
    let Some(container) = observed.containers.iter().find(|c| c.id == id) else { return Ok(()) };
    if container.state == ContainerState::Running {
        let name = &container.metadata.name;
        ctx.container_event(pod, name, false, "Killing", format!("Stopping container {name}"));
        ctx.runtime.stop_container(id, Duration::ZERO).await.map_err(|error| {
            ctx.event(pod, true, "FailedKillPod", format!("error killing container {name}: {error}"));
            RETRY
        })?;
    }
    ctx.runtime.remove_container(id).await.map_err(|error| {
        tracing::warn!(container = id, %error, "a container could not be removed before its pod begins anew");
        RETRY
    })
}

async fn create_sandbox(
    ctx: &Context,
    pod: &Value,
    attempt: u32,
) -> Result<(fram_cri::PodSandboxStatus, fram_cri::PodSandboxConfig), Duration> {
    if attempt > 0 {
        ctx.event(pod, false, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.");
    }
    let handler = runtime_handler(ctx, pod)?;
    if pod.bool_at(&["spec", "hostUsers"]) == Some(false) {
        let known = ctx.runtime.status().await.map_err(|error| error.to_string());
        known.and_then(|status| user_namespaces::supported(&status.runtime_handlers, &handler)).map_err(|why| {
            ctx.event(pod, true, "FailedCreatePodSandBox", format!("Failed to create pod sandbox: {why}"));
            RETRY
        })?;
    }
    if attempt == 0 && sandbox::wants_selinux(pod) {
        tell_of_missing_labels(ctx, pod).await;
    }
    let config = sandbox_config(ctx, pod, attempt)?;
    let made = match ctx.runtime.run_pod_sandbox(&config, &handler).await {
        Ok(id) => ctx.runtime.pod_sandbox_status(&id).await,
        Err(error) => Err(error),
    };
    match made {
        Ok(status) => Ok((status, config)),
        Err(error) => {
            ctx.event(pod, true, "FailedCreatePodSandBox", format!("Failed to create pod sandbox: {error}"));
            Err(RETRY)
        }
    }
}

async fn tell_of_missing_labels(ctx: &Context, pod: &Value) {
    // A runtime that does not say its name is not this program's.
    let runtime = ctx.runtime.version().await.unwrap_or_default().runtime_name;
    if let Some(why) = sandbox::unlabelled(machine::has_selinux(), &runtime) {
        ctx.event(pod, true, "SELinuxNotEnabled", format!("seLinuxOptions have no effect: {why}"));
    }
}

fn sandbox_config(ctx: &Context, pod: &Value, attempt: u32) -> Result<fram_cri::PodSandboxConfig, Duration> {
    let mut config = sandbox::config(pod, attempt, &ctx.config, &ctx.resolv_conf());
    let own = ctx.user_namespaces.take(pod).map_err(|error| {
        ctx.event(pod, true, "FailedCreatePodSandBox", format!("Failed to create pod sandbox: {error}"));
        RETRY
    })?;
    config.linux.security_context.namespace_options.userns_options = own;
    Ok(config)
}

/// Sandboxes that died are kept only for the last instance of a container in them, whose exit code is still told.
async fn remove_older_sandboxes(ctx: &Context, observed: &Observed) {
    let is_last = |c: &fram_cri::ContainerStatus| observed.latest(&c.metadata.name).is_some_and(|last| last.id == c.id);
    let needed = |id: &str| observed.containers.iter().any(|c| c.pod_sandbox_id == id && is_last(c));
    for sandbox in observed.sandboxes.iter().filter(|s| !needed(&s.id)) {
        if let Err(error) = ctx.runtime.remove_pod_sandbox(&sandbox.id).await {
            tracing::info!(sandbox = sandbox.id, %error, "an old sandbox could not be removed");
        }
    }
}

/// The runtime's own name for the pod's RuntimeClass.
fn runtime_handler(ctx: &Context, pod: &Value) -> Result<String, Duration> {
    let class = pod.str_at(&["spec", "runtimeClassName"]);
    if class.is_empty() {
        return Ok(String::new());
    }
    match ctx.runtime_classes.get(class) {
        Some(found) => Ok(found.str_at(&["handler"]).to_string()),
        None => {
            let message = format!("Failed to create pod sandbox: failed to get sandbox runtime: RuntimeClass {class:?} not found");
            ctx.event(pod, true, "FailedCreatePodSandBox", message);
            Err(RETRY)
        }
    }
}
