//! What a pod holds on its node beside containers: directories, volumes, cgroups, and the watches on its ConfigMaps and
//! Secrets. Taken before the first container, given back after the last. See kubelet.go's SyncTerminatedPod.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use fram_cri::LinuxContainerResources;
use fram_machinery::{Value, meta};
use tokio_util::sync::CancellationToken;

use super::phase::Event;
use super::sync::unless_ended;
use super::{Outcome, RETRY, Work};
use crate::clock;
use crate::context::Context;
use crate::observed::Observed;
use crate::pod::environment::{Sources, references};
use crate::pod::{self, PodId, resources};
use crate::volumes::{self, payload, persistent, projected};

/// Makes the pod's directories, cgroup and volumes; what exists already is brought up to date. Returns when the volumes
/// are to be renewed; None where `end` came first.
pub(super) async fn set_up(
    ctx: &Context,
    pod: &Arc<Value>,
    observed: &Observed,
    end: &CancellationToken,
) -> Result<Option<Option<Duration>>, Duration> {
    let id = PodId::of(pod);
    let parent = resources::cgroup_parent(&ctx.config.cgroup_root, pod);
    // One that is there already gets its limits in the order that a resize needs.
    let limits = LinuxContainerResources { pids_limit: ctx.config.pod_pids_limit, ..ctx.pod_limits(pod) };
    if let Err(error) = ctx.cgroups.ensure(&parent, &limits) {
        ctx.event(pod, true, "FailedCreatePodContainer", format!("unable to ensure pod container exists: {error}"));
        return Err(RETRY);
    }
    for dir in [ctx.config.pod_dir(&id.uid), ctx.config.pod_log_dir(&id.namespace, &id.name, &id.uid)] {
        if let Err(error) = std::fs::create_dir_all(&dir) {
            ctx.event(pod, true, "Failed", format!("error making pod data directories: create {dir:?}: {error}"));
            return Err(RETRY);
        }
    }
    let mut wanted: BTreeSet<_> = payload::references(pod).into_iter().collect();
    let sources = match unless_ended(end, ctx.objects.fetch(&id.namespace, wanted.iter().cloned())).await {
        None => return Ok(None),
        Some(Ok(sources)) => sources,
        Some(Err(error)) => {
            ctx.event(pod, true, "FailedMount", format!("Unable to attach or mount volumes: {error}"));
            return Err(RETRY);
        }
    };
    wanted.extend(pod::all_containers(pod).flat_map(|(_, c)| references(c)));
    ctx.objects.hold(&id.uid, &id.namespace, &wanted, &sources);
    let (mut renewals, mut again) = (Vec::new(), None::<Duration>);
    for volume in volumes::used(pod) {
        if end.is_cancelled() {
            return Ok(None);
        }
        // What is wrong with one volume does not keep the others from being renewed.
        match set_up_volume(ctx, pod, observed, volume, &sources).await {
            Ok(renewal) => renewals.extend(renewal),
            Err(delay) => again = again.into_iter().chain([delay]).min(),
        }
    }
    if let Some(again) = again {
        return Err(again);
    }
    let now = ctx.clock.now();
    Ok(Some(renewals.into_iter().min().map(|at| clock::since(at, now))))
}

async fn set_up_volume(
    ctx: &Context,
    pod: &Arc<Value>,
    observed: &Observed,
    volume: &Value,
    sources: &Sources,
) -> Result<Option<jiff::Timestamp>, Duration> {
    let fail = |error: volumes::VolumeError| {
        ctx.event(pod, true, "FailedMount", volumes::failure_message(volume, &error));
        RETRY
    };
    let (fetched, renewal) = projected::fetch(ctx, pod, volume).await.map_err(|not_yet| {
        ctx.event(pod, true, "FailedMount", volumes::failure_message(volume, &not_yet.message));
        not_yet.again
    })?;
    if let Some(name) = persistent::claim_of(pod, volume) {
        return mount_claim(ctx, pod, volume, &name).await.map(|()| None).map_err(fail);
    }
    let payload = match volumes::is_written(volume) {
        true => {
            let ips = observed.ready_sandbox().map(|s| s.network.ips().map(|ip| ip.to_string()).collect()).unwrap_or_default();
            Some(payload::payload(pod, volume, sources, &ctx.fields(ips), &fetched).map_err(|e| fail(e.into()))?)
        }
        false => None,
    };
    let (dir, owned, owned_volume) = (ctx.config.pod_dir(meta::uid(pod)), pod.clone(), volume.clone());
    let made = tokio::task::spawn_blocking(move || volumes::set_up(&owned, &owned_volume, &dir, payload.as_ref()));
    match made.await {
        Ok(made) => made.map_err(fail)?,
        Err(error) => {
            tracing::error!(pod = meta::name(pod), %error, "setting up a volume panicked");
            return Err(RETRY);
        }
    }
    Ok(renewal)
}

/// Mounts what is behind a claim.
async fn mount_claim(ctx: &Context, pod: &Arc<Value>, volume: &Value, name: &str) -> Result<(), volumes::VolumeError> {
    let found = ctx.objects.find_claim(meta::namespace(pod), name).await;
    let (claim, bound) = found.map_err(|status| persistent::ClaimError::Api(status.to_string()))?;
    let source = persistent::source(name, claim.as_deref(), bound.as_deref(), ctx.config.volumes_dir.as_deref())?;
    let target = volumes::path(&ctx.config.pod_dir(meta::uid(pod)), volume);
    let owned = pod.clone();
    let mounted = tokio::task::spawn_blocking(move || persistent::mount_at(&owned, &source, &target)).await;
    mounted.map_err(|error| persistent::ClaimError::Api(error.to_string()))?
}

/// Gives back volumes and cgroup. What remains (logs, exit codes) stays for those who ask, until the pod is deleted.
pub(super) fn everything(ctx: Arc<Context>, pod: Arc<Value>) -> Work {
    Box::pin(async move {
        let uid = meta::uid(&pod).to_string();
        if let Err(error) = ctx.dra.unprepare(&uid).await {
            tracing::warn!(pod = meta::name(&pod), %error, "a pod's dynamic resources could not be taken back, it is tried again");
            return Outcome { hold_pod: Some(RETRY), ..Outcome::default() };
        }
        ctx.objects.release(&uid);
        ctx.tokens.forget(&uid);
        ctx.trust.forget(&uid);
        ctx.certificates.forget(&uid);
        ctx.images.forget(&uid);
        ctx.devices.release(&uid);
        ctx.user_namespaces.release(&uid);
        ctx.metrics.forget(&uid);
        if ctx.managers.release(&uid) {
            crate::resource::pool::level(&ctx).await;
        }
        let dir = ctx.config.pod_dir(&uid);
        let (cgroups, parents) = (ctx.cgroups.clone(), resources::cgroup_candidates(&ctx.config.cgroup_root, &uid));
        let released = tokio::task::spawn_blocking(move || {
            volumes::tear_down(&dir.join("volume-subpaths")).map_err(|e| e.to_string())?;
            volumes::tear_down(&dir.join("volumes")).map_err(|e| e.to_string())?;
            parents.iter().try_for_each(|parent| cgroups.remove(parent)).map_err(|e| e.to_string())
        });
        match released.await {
            Ok(Ok(())) => Outcome { event: Some(Event::Released), ..Outcome::default() },
            Ok(Err(error)) => {
                tracing::warn!(pod = meta::name(&pod), %error, "a pod's volumes or cgroup could not be released");
                Outcome { hold_pod: Some(RETRY), ..Outcome::default() }
            }
            Err(error) => {
                tracing::error!(pod = meta::name(&pod), %error, "releasing a pod panicked");
                Outcome { hold_pod: Some(RETRY), ..Outcome::default() }
            }
        }
    })
}

/// Takes away the last traces. A failure leaves them to the next start of the kubelet.
pub(super) fn remains(ctx: Arc<Context>, pod: Arc<Value>, observed: Arc<Observed>) -> Work {
    Box::pin(async move {
        for sandbox in &observed.sandboxes {
            if let Err(error) = ctx.runtime.remove_pod_sandbox(&sandbox.id).await {
                tracing::warn!(sandbox = sandbox.id, %error, "a sandbox could not be removed");
            }
        }
        let id = PodId::of(&pod);
        let dir = ctx.config.pod_dir(&id.uid);
        let logs = ctx.config.pod_log_dir(&id.namespace, &id.name, &id.uid);
        let removed = tokio::task::spawn_blocking(move || {
            let gone = volumes::tear_down(&dir).map_err(|e| e.to_string());
            match std::fs::remove_dir_all(&logs) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(format!("remove {logs:?}: {error}")),
                _ => gone,
            }
        });
        if let Ok(Err(error)) = removed.await {
            tracing::warn!(pod = %id, %error, "a pod's directories could not be removed");
        }
        Outcome { removed: true, ..Outcome::default() }
    })
}
