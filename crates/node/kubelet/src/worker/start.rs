//! Starts one container: image, environment, mounts, creation, start, postStart hook. See kuberuntime's startContainer.

use std::time::Duration;

use fram_cri::{ContainerConfig, ContainerState, CriError, Mount, PodSandboxConfig, PodSandboxStatus};
use fram_machinery::{Value, meta, object};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::RETRY;
use super::sync::unless_ended;
use crate::clock;
use crate::container::{self, Making};
use crate::context::Context;
use crate::dra;
use crate::hook;
use crate::images::keyring::Keyring;
use crate::images::provider::PodIdentity;
use crate::images::{NoImage, Telling};
use crate::metrics::Count;
use crate::node::machine;
use crate::observed::{Observed, restart_count};
use crate::pod::environment::{self, Reference};
use crate::pod::{self, Role};
use crate::resource::pool;
use crate::sandbox::{self, hosts};
use crate::volumes;

pub(super) struct Starting<'a> {
    pub(super) ctx: &'a Context,
    pub(super) pod: &'a Value,
    pub(super) observed: &'a Observed,
    pub(super) sandbox: &'a PodSandboxStatus,
    pub(super) config: &'a PodSandboxConfig,
    /// Nothing more is to be begun.
    pub(super) end: &'a CancellationToken,
}

/// Why a container does not run: the reason and message of its waiting state.
pub(super) struct Failure {
    pub(super) reason: &'static str,
    pub(super) message: String,
    pub(super) retry_after: Duration,
}

pub(super) struct Tried {
    pub(super) result: Result<(), Failure>,
    /// Back-off key and end of the instance that this one replaces.
    pub(super) replaced: Option<(String, Timestamp)>,
}

fn failure(reason: &'static str, message: impl ToString) -> Failure {
    Failure { reason, message: message.to_string(), retry_after: RETRY }
}

/// The pod is to end, so the container is not started any more: nobody hears of this failure.
fn ended() -> Failure {
    failure("ContainerCreating", "")
}

struct Teller<'a> {
    ctx: &'a Context,
    pod: &'a Value,
    container: &'a str,
}

impl Telling for Teller<'_> {
    fn event(&self, warning: bool, reason: &'static str, message: String) {
        self.ctx.container_event(self.pod, self.container, warning, reason, message);
    }
}

pub(super) async fn start_container(starting: &Starting<'_>, name: &str) -> Tried {
    let Some((role, spec)) = pod::find_container(starting.pod, name) else { return Tried { result: Ok(()), replaced: None } };
    let latest = starting.observed.latest(name);
    let ended = latest.filter(|c| c.state == ContainerState::Exited).and_then(|c| clock::from_nanos(c.finished_at));
    let key = format!("{name}_{}", pod::container_hash(spec));
    let replaced = ended.map(|at| (key, at));
    Tried { result: start(starting, role, spec).await, replaced }
}

async fn start(starting: &Starting<'_>, role: Role, spec: &Value) -> Result<(), Failure> {
    let Starting { ctx, pod, .. } = starting;
    let name = pod::container_name(spec);
    let teller = Teller { ctx, pod, container: name };
    let keyring = unless_ended(starting.end, keyring(ctx, pod)).await.ok_or_else(ended)?;
    // Pulls go on for others who wait for them; a pod that is to end does not.
    let ensured = unless_ended(starting.end, async {
        let image = ctx.images.ensure(meta::uid(pod), spec, &keyring, starting.config, &teller).await.map_err(no_image)?;
        ctx.collector.used(&image.id);
        pull_volumes(starting, spec, &keyring, &teller).await.map(|()| image)
    });
    let image = ensured.await.unwrap_or_else(|| Err(ended()))?;
    let previous = starting.observed.latest(name).map(|c| restart_count(c) + i64::from(c.state != ContainerState::Created));
    let attempt = u32::try_from(previous.unwrap_or_else(|| told_restarts(pod, name))).unwrap_or(0);
    let environment = unless_ended(starting.end, environment_of(starting, spec)).await.ok_or_else(ended)?;
    let environment = environment.map_err(|why| {
        teller.event(true, "Failed", format!("Error: {why}"));
        failure("CreateContainerConfigError", why)
    })?;
    let mounts = mounts(starting, spec, &environment, attempt).await.map_err(|why| {
        teller.event(true, "Failed", format!("Error: {why}"));
        failure("CreateContainerConfigError", why)
    })?;
    let target = match role {
        Role::Ephemeral => starting.observed.active(spec.str_at(&["targetContainerName"])).map(|c| c.id.clone()),
        _ => None,
    };
    let making = Making {
        pod,
        container: spec,
        restart_count: attempt,
        image: &image,
        environment,
        mounts,
        resources: ctx.container_limits(pod, spec),
        target_id: target,
        seccomp_default: ctx.config.seccomp_default,
        root: &ctx.config.root_dir,
    };
    let mut config = container::config(making).map_err(|why| {
        teller.event(true, "Failed", format!("Error: {why}"));
        failure("CreateContainerConfigError", why)
    })?;
    if let Some(own) = &starting.config.linux.security_context.namespace_options.userns_options {
        for mount in &mut config.mounts {
            (mount.uid_mappings, mount.gid_mappings) = (own.uids.clone(), own.gids.clone());
        }
        config.security_context.namespace_options.userns_options = Some(own.clone());
    }
    let prepared = unless_ended(starting.end, ctx.devices.prepare(meta::uid(pod), name, &mut config)).await.ok_or_else(ended)?;
    prepared.map_err(|why| {
        teller.event(true, "Failed", format!("Error: {why}"));
        failure("CreateContainerConfigError", why)
    })?;
    if dra::concerns(pod) {
        let claims = ctx.dra.claims();
        let ids = dra::claims::devices_of(&claims, pod, spec).into_iter().flat_map(|(_, _, device)| &device.cdi_ids);
        config.cdi_devices.extend(ids.cloned());
    }
    if starting.end.is_cancelled() {
        return Err(ended());
    }
    remove_older(starting, name).await;
    if ctx.managers.is_exclusive(meta::uid(pod)) {
        // Others leave its processors before it comes.
        pool::level(ctx).await;
    }
    let created = ctx.runtime.create_container(&starting.sandbox.id, &config, starting.config).await;
    count_image_volumes(ctx, &config, created.as_ref().err());
    let id = created.map_err(|why| {
        teller.event(true, "Failed", format!("Error: {why}"));
        failure("CreateContainerError", why)
    })?;
    teller.event(false, "Created", "Container created".into());
    if config.resources.cpuset_cpus != ctx.container_limits(pod, spec).cpuset_cpus {
        pool::level(ctx).await;
    }
    if let Err(why) = ctx.runtime.start_container(&id).await {
        teller.event(true, "Failed", format!("Error: {why}"));
        // The instance that failed to run tells its back-off from now on.
        return Err(Failure { retry_after: Duration::ZERO, ..failure("RunContainerError", why) });
    }
    teller.event(false, "Started", "Container started".into());
    post_start(starting, spec, &id, &teller).await
}

/// Only what went wrong with an image is a volume's fault.
fn count_image_volumes(ctx: &Context, config: &ContainerConfig, failed: Option<&CriError>) {
    let families = &ctx.metrics.families;
    let volumes = config.mounts.iter().filter(|mount| mount.image.is_some()).count() as u64;
    families.count(Count::ImageVolumesRequested, &[], volumes);
    match failed {
        None => families.count(Count::ImageVolumesMounted, &[], volumes),
        Some(CriError::Image(_)) => families.count(Count::ImageVolumeErrors, &[], volumes),
        Some(_) => {}
    }
}

/// The images that the container mounts as volumes (KEP-4639) are pulled as its own is.
async fn pull_volumes(starting: &Starting<'_>, spec: &Value, keyring: &Keyring, teller: &Teller<'_>) -> Result<(), Failure> {
    let Starting { ctx, pod, .. } = starting;
    let mounted = spec.list_at(&["volumeMounts"]).iter().filter_map(|m| volumes::find(pod, m.str_at(&["name"])));
    for source in mounted.filter_map(|v| v.get("image")) {
        let image = object!({ "image": (source.str_at(&["reference"])), "imagePullPolicy": (source.str_at(&["pullPolicy"])) });
        let ensured = ctx.images.ensure(meta::uid(pod), &image, keyring, starting.config, teller).await.map_err(no_image)?;
        ctx.collector.used(&ensured.id);
    }
    Ok(())
}

fn no_image(no: NoImage) -> Failure {
    Failure { reason: no.reason, message: no.message, retry_after: no.retry_after.unwrap_or(RETRY) }
}

/// How often the API server was told that the container was restarted; what is left of it where the runtime lost all traces.
fn told_restarts(pod: &Value, name: &str) -> i64 {
    let lists = ["containerStatuses", "initContainerStatuses"];
    let told = lists.iter().flat_map(|l| pod.list_at(&["status", l])).find(|s| s.str_at(&["name"]) == name);
    // A status without an instance counts the one that is to come.
    told.map_or(0, |s| s.int_at(&["restartCount"]).unwrap_or(0) + i64::from(!s.str_at(&["containerID"]).is_empty()))
}

async fn keyring(ctx: &Context, pod: &Value) -> Keyring {
    let text = |text: &str| text.to_string();
    let identity = PodIdentity {
        namespace: text(meta::namespace(pod)),
        name: text(meta::name(pod)),
        uid: text(meta::uid(pod)),
        // Pods from files have none.
        account: text(pod.str_at(&["spec", "serviceAccountName"])),
    };
    let mut keyring = Keyring::of(identity);
    let names = pod.list_at(&["spec", "imagePullSecrets"]).iter().map(|s| Reference::Secret(s.str_at(&["name"]).to_string()));
    // A secret that is missing or cannot be read leaves the pull to succeed or fail without it, as upstream.
    match ctx.objects.fetch(meta::namespace(pod), names).await {
        Ok(sources) => sources.values().for_each(|secret| keyring.add_secret(secret)),
        Err(error) => tracing::info!(pod = meta::name(pod), %error, "pull secrets could not be read"),
    }
    keyring
}

fn pod_ips(starting: &Starting<'_>) -> Vec<String> {
    if pod::is_host_network(starting.pod) {
        return starting.ctx.host_ips();
    }
    starting.sandbox.network.ips().map(|ip| ip.to_string()).collect()
}

async fn environment_of(starting: &Starting<'_>, spec: &Value) -> Result<Vec<(String, String)>, String> {
    let Starting { ctx, pod, .. } = starting;
    let sources = ctx.objects.fetch(meta::namespace(pod), environment::references(spec)).await.map_err(|status| status.to_string())?;
    // Without the Services a container might miss the API server for its whole life.
    // Static pods do not wait for the API server.
    if !pod::is_static(pod) {
        ctx.services.synced().await;
    }
    let services = environment::service_variables(&ctx.services.list(), pod);
    let fields = ctx.fields(pod_ips(starting));
    let files = variable_files(starting, spec).await?;
    environment::variables(pod, spec, &sources, &services, &fields, &files).map_err(|error| error.to_string())
}

async fn variable_files(starting: &Starting<'_>, spec: &Value) -> Result<environment::Files, String> {
    let Starting { ctx, pod, .. } = starting;
    if spec.list_at(&["env"]).iter().all(|variable| variable.at(&["valueFrom", "fileKeyRef"]).is_none()) {
        return Ok(environment::Files::new());
    }
    let (dir, pod, spec) = (ctx.config.pod_dir(meta::uid(pod)), (*pod).clone(), spec.clone());
    let files = tokio::task::spawn_blocking(move || volumes::variable_files(&pod, &spec, &dir)).await;
    files.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

async fn mounts(starting: &Starting<'_>, spec: &Value, environment: &[(String, String)], attempt: u32) -> Result<Vec<Mount>, String> {
    let Starting { ctx, pod, .. } = starting;
    let (hostname, domain) = sandbox::hostname(pod, &ctx.config.cluster_domain);
    let host_file = match pod::is_host_network(pod) {
        true => std::fs::read_to_string("/etc/hosts").unwrap_or_default(),
        false => String::new(),
    };
    let hosts = hosts::content(pod, &pod_ips(starting), &hostname, &domain, &host_file);
    let (dir, recursively) = (ctx.config.pod_dir(meta::uid(pod)), ctx.mounts_recursively(pod));
    let (pod, spec, environment) = ((*pod).clone(), spec.clone(), environment.to_vec());
    let made = tokio::task::spawn_blocking(move || {
        let mut mounts = volumes::container_mounts(&pod, &spec, &dir, &environment, recursively)?;
        let own = volumes::host_files(&spec, &mounts, &dir, &hosts, attempt)?;
        mounts.extend(own);
        if machine::has_selinux() {
            volumes::relabel(&pod, &spec, &mut mounts);
        }
        Ok::<_, volumes::VolumeError>(mounts)
    });
    match made.await {
        Ok(Ok(mounts)) => Ok(mounts),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// Of the instances of a container only the last is kept, for its logs and exit code; one that never ran has neither.
async fn remove_older(starting: &Starting<'_>, name: &str) {
    let mut instances = starting.observed.containers.iter().filter(|c| c.metadata.name == name);
    let last_run = instances.clone().find(|c| c.state != ContainerState::Created).map(|c| c.id.as_str());
    for container in instances.by_ref().filter(|c| Some(c.id.as_str()) != last_run) {
        if let Err(error) = starting.ctx.runtime.remove_container(&container.id).await {
            tracing::info!(container = container.id, %error, "an old container could not be removed");
            continue;
        }
        let log = std::path::Path::new(&container.log_path);
        if log.starts_with(&starting.ctx.config.log_dir)
            && let Err(error) = std::fs::remove_file(log)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::info!(?log, %error, "an old log could not be removed");
        }
    }
}

async fn post_start(starting: &Starting<'_>, spec: &Value, id: &str, teller: &Teller<'_>) -> Result<(), Failure> {
    let Starting { ctx, pod, .. } = starting;
    let Some(handler) = spec.at(&["lifecycle", "postStart"]) else { return Ok(()) };
    let target = hook::Target { runtime: &*ctx.runtime, container: spec, container_id: id, pod_ip: pod_ips(starting).first().cloned() };
    let Some(Err(error)) = unless_ended(starting.end, hook::run(handler, &target)).await else { return Ok(()) };
    tracing::info!(pod = meta::name(pod), container = teller.container, %error, "postStart hook failed");
    teller.event(true, "FailedPostStartHook", "PostStartHook failed".into());
    let grace = Duration::from_secs(u64::try_from(pod::grace_period(pod)).unwrap_or(0));
    teller.event(false, "Killing", "FailedPostStartHook".into());
    if let Some(Err(error)) = unless_ended(starting.end, ctx.runtime.stop_container(id, grace)).await {
        tracing::warn!(container = id, %error, "a container whose postStart hook failed could not be stopped");
    }
    Err(failure("PostStartHookError", error))
}
