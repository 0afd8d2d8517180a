//! Creating, starting, stopping and removing containers. Creating only writes files; the kernel hears of a container
//! when it is started.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fram_cri::{
    ContainerConfig, ContainerEventType, ContainerState, CriError, CriResult, LinuxContainerResources, PodSandboxConfig, RootFilesystem,
};

use super::{Inner, blocking, sandboxes::remove_directory};
use crate::cdi;
use crate::cgroup::Cgroups;
use crate::client::{self, ClientError};
use crate::devices;
use crate::durable::{self, Sync};
use crate::protocol::{self, OverlayMount, Request, Response, StartContainer};
use crate::records::{CONTAINER_FILE, ContainerRecord, START_FILE, SandboxRecord, new_id};
use crate::seccomp::{self, Instruction};
use crate::shim::{SHM, USERNS, clock};
use crate::spec::{self, Input, Plan, SandboxFiles, Seccomp, SpecError};
use crate::state::{Container, Sandbox};

/// How long a killed process may take to end before that is an error: uninterruptible I/O, most of all.
pub(super) const KILL_TIMEOUT: Duration = Duration::from_secs(120);

impl From<SpecError> for CriError {
    fn from(error: SpecError) -> CriError {
        match error {
            SpecError::Unsupported(_) => CriError::Unimplemented(error.to_string()),
            error => CriError::InvalidArgument(error.to_string()),
        }
    }
}

pub(super) async fn create(inner: Arc<Inner>, sandbox_id: String, config: ContainerConfig) -> CriResult<String> {
    let sandbox = inner.sandbox(&sandbox_id)?;
    let _turn = sandbox.turn.lock().await;
    if !sandbox.is_ready() {
        return Err(CriError::FailedPrecondition(format!("pod sandbox {sandbox_id:?} is not ready")));
    }
    let same = |other: &Arc<Container>| other.record.lock().config.metadata == config.metadata;
    if inner.containers_of(&sandbox_id).iter().any(same) {
        let name = format!("{} attempt {}", config.metadata.name, config.metadata.attempt);
        return Err(CriError::AlreadyExists { kind: "container", name });
    }
    let id = new_id().map_err(|error| CriError::io("read", "/dev/urandom", error))?;
    let holders = holders(&id, &config);
    match make(&inner, &sandbox, &id, config).await {
        Ok(container) => {
            inner.containers.lock().insert(id.clone(), Arc::new(container));
            inner.publish(&id, &sandbox_id, ContainerEventType::Created);
            Ok(id)
        }
        Err(error) => {
            let dir = inner.layout.container(&sandbox_id, &id);
            let undone = blocking(move || remove_directory(&dir)).await.err();
            let released = release(&inner, holders).await.err();
            if undone.is_some() || released.is_some() {
                tracing::warn!(container = id, ?undone, ?released, "cannot undo a container that failed");
            }
            Err(error)
        }
    }
}

async fn make(inner: &Arc<Inner>, sandbox: &Sandbox, id: &str, config: ContainerConfig) -> CriResult<Container> {
    let image = inner.images.root_filesystem(&config.image, id).await?;
    let mut image_mounts = Vec::new();
    for (index, mount) in config.mounts.iter().enumerate() {
        if let Some(image) = &mount.image {
            image_mounts.push((index, inner.images.root_filesystem(image, &holder_of_mount(id, index)).await?.layers));
        }
    }
    let sandbox_record = sandbox.record.lock().clone();
    let (inner, dir, id) = (inner.clone(), sandbox.dir.clone(), id.to_owned());
    blocking(move || {
        for (index, layers) in &image_mounts {
            if let Some(mount) = config.mounts.get(*index) {
                super::image_volume::check(layers, &mount.image_sub_path, &mount.container_path)?;
            }
        }
        let (container, rootfs) = (inner.layout.container(&sandbox_id_of(&dir), &id), inner.layout.rootfs.clone());
        let paths = Paths { sandbox: dir, container, rootfs };
        write(&inner, &paths, &id, &sandbox_record, config, image, &image_mounts)
    })
    .await
}

/// A holder holds one image only.
fn holder_of_mount(id: &str, index: usize) -> String {
    format!("{id}/{index}")
}

/// The container that a holder stands for.
pub(super) fn container_of(holder: &str) -> &str {
    holder.split_once('/').map_or(holder, |(id, _)| id)
}

/// What holds a container's own image, and those that it mounts.
fn holders(id: &str, config: &ContainerConfig) -> Vec<String> {
    let mounts = config.mounts.iter().enumerate().filter(|(_, mount)| mount.image.is_some());
    std::iter::once(id.to_owned()).chain(mounts.map(|(index, _)| holder_of_mount(id, index))).collect()
}

async fn release(inner: &Inner, holders: Vec<String>) -> CriResult<()> {
    for holder in holders {
        inner.images.release_root_filesystem(&holder).await?;
    }
    Ok(())
}

/// A sandbox's directory is named by its id.
fn sandbox_id_of(dir: &Path) -> String {
    dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

struct Paths {
    sandbox: PathBuf,
    container: PathBuf,
    rootfs: PathBuf,
}

fn write(
    inner: &Inner,
    paths: &Paths,
    id: &str,
    of: &SandboxRecord,
    config: ContainerConfig,
    image: RootFilesystem,
    image_mounts: &[(usize, Vec<PathBuf>)],
) -> CriResult<Container> {
    let (dir, sandbox, ids) = (&paths.container, &of.config, of.ids());
    fs::create_dir_all(dir).map_err(|error| CriError::io("create", dir, error))?;
    let files = sandbox_files(&paths.sandbox, sandbox);
    let mut planned = config.clone();
    let injected = cdi::inject(&inner.config.cdi_dirs, &mut planned)?;
    let mut devices = devices::look_up(&config)?;
    devices.extend(injected.devices);
    if !inner.cgroups.has("hugetlb") {
        // Kubelets send a limit for every size that the kernel has, and most of them are zero. What cannot be limited is not counted
        // either; a limit that lets pages be had still needs the controller.
        planned.resources.hugepage_limits.retain(|limit| limit.limit > 0);
    }
    let mut plan = spec::plan(&Input {
        container_id: id,
        sandbox,
        files: &files,
        container: &planned,
        image: &image.config,
        rootfs: &paths.rootfs,
        devices: &devices,
        hooks: &injected.hooks,
        image_mounts,
        user_namespace: ids.map(|ids| (paths.sandbox.join(USERNS), ids)),
        cgroup_root: &inner.config.cgroup_root,
        cgroup_v2: inner.cgroups.is_v2(),
    })?;
    let log_path = match config.log_path.as_str() {
        "" => PathBuf::new(),
        path => Path::new(&sandbox.log_directory).join(path),
    };
    let runtime = other_runtime(inner, &sandbox_id_of(&paths.sandbox))?;
    let filter = if runtime.is_some() {
        let profile = profile(&plan)?;
        spec::complete(&mut plan, profile.as_ref());
        Vec::new()
    } else if plan.seccomp == Seccomp::Default {
        inner.filters.of(&plan.privileges).map_err(invalid_profile)?
    } else {
        profile(&plan)?.map_or(Ok(Vec::new()), |profile| seccomp::compile(&profile)).map_err(invalid_profile)?
    };
    let record = ContainerRecord {
        id: id.to_owned(),
        pod_sandbox_id: sandbox_id_of(&paths.sandbox),
        image_ref: image.image_ref,
        image_id: image.image_id,
        created_at: clock::now(),
        log_path: log_path.display().to_string(),
        cgroup: plan.cgroup.clone(),
        stop_signal: plan.stop_signal,
        exit_reported: false,
        config,
    };
    let layers = [vec![inner.layout.mount_points.clone()], image.layers].concat();
    durable::write_json(&dir.join("config.json"), &plan.spec, Sync::No)?;
    durable::write_json(&dir.join(START_FILE), &StartContainer { runtime, ids, ..start(paths, &record, plan, filter, layers) }, Sync::No)?;
    // The last one: with it the container exists.
    durable::write_json(&dir.join(CONTAINER_FILE), &record, Sync::No)?;
    Ok(Container::new(dir.clone(), record, Default::default()))
}

fn sandbox_files(dir: &Path, sandbox: &PodSandboxConfig) -> SandboxFiles {
    let host_ipc = sandbox.linux.security_context.namespace_options.ipc == fram_cri::NamespaceMode::Node;
    SandboxFiles {
        resolv_conf: dir.join("resolv.conf"),
        hostname: dir.join("hostname"),
        hosts: dir.join("hosts"),
        shm: if host_ipc { "/dev/shm".into() } else { dir.join(SHM) },
    }
}

fn start(paths: &Paths, record: &ContainerRecord, plan: Plan<'_>, seccomp: Vec<Instruction>, layers: Vec<PathBuf>) -> StartContainer {
    let dir = &paths.container;
    StartContainer {
        container_id: record.id.clone(),
        dir: dir.clone(),
        rootfs: OverlayMount { layers, upper: dir.join("upper"), work: dir.join("work"), target: paths.rootfs.clone() },
        mounts: plan.mounts,
        user: plan.user,
        privileges: plan.privileges,
        seccomp,
        pid_namespace: plan.pid_namespace,
        cgroup: plan.cgroup,
        log_path: Some(PathBuf::from(&record.log_path)).filter(|path| !path.as_os_str().is_empty()),
        stdin: record.config.stdin,
        stdin_once: record.config.stdin_once,
        tty: record.config.tty,
        oom_score_adj: plan.oom_score_adj,
        ids: None,
        runtime: None,
    }
}

/// The OCI runtime that the sandbox's handler stands for.
fn other_runtime(inner: &Inner, sandbox_id: &str) -> CriResult<Option<PathBuf>> {
    let handler = inner.sandbox(sandbox_id)?.record.lock().runtime_handler.clone();
    Ok(inner.config.handlers.get(&handler).cloned())
}

fn invalid_profile(error: seccomp::SeccompError) -> CriError {
    CriError::InvalidArgument(error.to_string())
}

fn profile(plan: &Plan<'_>) -> CriResult<Option<seccomp::Profile>> {
    Ok(match plan.seccomp {
        Seccomp::Unconfined => None,
        Seccomp::Default => Some(seccomp::default_profile(&spec::bounding_names(&plan.privileges))),
        Seccomp::Localhost(path) => {
            let json = fs::read_to_string(path).map_err(|error| CriError::io("read seccomp profile", path, error))?;
            Some(seccomp::parse(&json).map_err(invalid_profile)?)
        }
    })
}

pub(super) async fn begin(inner: Arc<Inner>, id: String) -> CriResult<()> {
    let container = inner.container(&id)?;
    let _turn = container.turn.lock().await;
    if container.state() != ContainerState::Created {
        return Err(CriError::FailedPrecondition(format!("container {id:?} was started already")));
    }
    let sandbox = inner.sandbox(&container.sandbox_id)?;
    if !sandbox.is_ready() {
        return Err(CriError::FailedPrecondition(format!("pod sandbox {:?} is not ready", sandbox.id)));
    }
    let path = container.dir.join(START_FILE);
    let request = fs::read(&path).map_err(|error| CriError::io("read", path, error))?;
    let frame = protocol::encode_start(&request).map_err(ClientError::from)?;
    match client::ask_in_frame(&sandbox.dir, &frame).await? {
        Response::Started { run, warnings } => {
            for warning in warnings {
                tracing::warn!(container = id, warning, "a container runs with less than it asked for");
            }
            inner.advance(run);
            Ok(())
        }
        Response::StartFailed { run } => {
            let message = run.exit.as_ref().map(|exit| exit.message.clone()).unwrap_or_default();
            inner.advance(run);
            Err(CriError::ContainerCannotRun(message))
        }
        other => Err(client::unexpected(&other).into()),
    }
}

pub(super) async fn stop(inner: Arc<Inner>, id: String, grace: Duration) -> CriResult<()> {
    let Ok(container) = inner.container(&id) else { return Ok(()) };
    if container.state() == ContainerState::Created {
        // It may be starting.
        drop(container.turn.lock().await);
    }
    // From here on no turn is taken: a stop with a shorter grace may overtake one that waits.
    if container.state() != ContainerState::Running {
        return Ok(());
    }
    let signal = container.record.lock().stop_signal.number();
    if !grace.is_zero() {
        send_signal(&inner, &container, signal, false).await?;
        if ended_within(&container, grace).await {
            return Ok(());
        }
    }
    kill(&inner, &container).await
}

async fn kill(inner: &Inner, container: &Container) -> CriResult<()> {
    send_signal(inner, container, libc::SIGKILL, true).await?;
    if ended_within(container, KILL_TIMEOUT).await {
        return Ok(());
    }
    let id = &container.id;
    Err(CriError::DeadlineExceeded(format!("container {id:?} was killed but has not ended")))
}

async fn send_signal(inner: &Inner, container: &Container, signal: i32, all: bool) -> CriResult<()> {
    let sandbox = inner.sandbox(&container.sandbox_id)?;
    let request = Request::Signal { container_id: container.id.clone(), signal, all };
    match client::ask(&sandbox.dir, &request).await {
        // Without a shim its end is about to be known.
        Ok(_) | Err(ClientError::Connect { .. } | ClientError::Closed) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn ended_within(container: &Container, time: Duration) -> bool {
    let mut run = container.run.subscribe();
    let ended = run.wait_for(|run| run.state == ContainerState::Exited);
    tokio::time::timeout(time, ended).await.is_ok()
}

pub(super) async fn remove(inner: Arc<Inner>, id: String) -> CriResult<()> {
    let Ok(container) = inner.container(&id) else { return Ok(()) };
    let _turn = container.turn.lock().await;
    if container.state() == ContainerState::Running {
        kill(&inner, &container).await?;
    }
    if let Ok(sandbox) = inner.sandbox(&container.sandbox_id)
        && sandbox.is_ready()
    {
        let request = Request::Forget { container_id: id.clone() };
        match client::ask(&sandbox.dir, &request).await {
            Ok(_) | Err(ClientError::Connect { .. } | ClientError::Closed) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let (cgroups, cgroup, of) = (inner.cgroups.clone(), container.record.lock().cgroup.clone(), container.clone());
    let remove_files = move || {
        {
            let _nobody_writes = of.record.lock();
            of.removing.store(true, Ordering::SeqCst);
        }
        remove_directory(&of.dir)
    };
    remove_cgroup_and(cgroups, cgroup, remove_files).await?;
    let holders = holders(&id, &container.record.lock().config);
    release(&inner, holders).await?;
    if inner.containers.lock().remove(&id).is_some() {
        inner.publish(&id, &container.sandbox_id, ContainerEventType::Deleted);
    }
    Ok(())
}

/// Nothing is done with an empty name: that would be the root of the hierarchies.
pub(super) async fn remove_cgroup(cgroups: Cgroups, cgroup: String) -> CriResult<()> {
    remove_cgroup_and(cgroups, cgroup, || Ok(())).await
}

/// Removes a cgroup, and does what has to come behind that on the same thread. A process that is still dying keeps its cgroup busy, and
/// version 1 has no event for its last one's end.
async fn remove_cgroup_and(
    cgroups: Cgroups,
    cgroup: String,
    then: impl Fn() -> CriResult<()> + Send + std::marker::Sync + 'static,
) -> CriResult<()> {
    let (shared, mut tries) = (Arc::new((cgroups, cgroup, then)), 0);
    loop {
        let work = shared.clone();
        let done = blocking(move || {
            let (cgroups, cgroup, then) = &*work;
            match try_to_remove(cgroups, cgroup) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy && tries < 200 => Ok(false),
                removed => removed.map_err(|error| CriError::io("remove cgroup", cgroup, error)).and_then(|()| then()).map(|()| true),
            }
        });
        if done.await? {
            return Ok(());
        }
        tries += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn try_to_remove(cgroups: &Cgroups, cgroup: &str) -> io::Result<()> {
    if cgroup.trim_matches('/').is_empty() {
        return Ok(());
    }
    // The shim has removed it in most cases.
    cgroups.remove_everywhere(cgroup).or_else(|_| {
        cgroups.kill(cgroup);
        cgroups.remove_everywhere(cgroup)
    })
}

pub(super) async fn update(inner: Arc<Inner>, id: String, resources: LinuxContainerResources) -> CriResult<()> {
    let container = inner.container(&id)?;
    let _turn = container.turn.lock().await;
    if container.state() != ContainerState::Running {
        return Err(CriError::FailedPrecondition(format!("container {id:?} is not running")));
    }
    let mut record = container.record.lock().clone();
    let (cgroups, cgroup, new) = (inner.cgroups.clone(), record.cgroup.clone(), resources.clone());
    blocking(move || cgroups.update(&cgroup, &new).map_err(|error| CriError::io("update cgroup", &cgroup, error))).await?;
    merge(&mut record.config.resources, resources);
    let (path, written) = (container.dir.join(CONTAINER_FILE), record.clone());
    container.record.lock().config.resources = record.config.resources;
    blocking(move || Ok(durable::write_json(&path, &written, Sync::No)?)).await
}

/// Fields that are given replace those that were.
fn merge(old: &mut LinuxContainerResources, new: LinuxContainerResources) {
    let number = |old: &mut i64, new: i64| *old = if new == 0 { *old } else { new };
    number(&mut old.cpu_period, new.cpu_period);
    number(&mut old.cpu_quota, new.cpu_quota);
    number(&mut old.cpu_shares, new.cpu_shares);
    number(&mut old.memory_limit_in_bytes, new.memory_limit_in_bytes);
    number(&mut old.memory_swap_limit_in_bytes, new.memory_swap_limit_in_bytes);
    number(&mut old.oom_score_adj, new.oom_score_adj);
    number(&mut old.pids_limit, new.pids_limit);
    let text = |old: &mut String, new: String| {
        if !new.is_empty() {
            *old = new;
        }
    };
    text(&mut old.cpuset_cpus, new.cpuset_cpus);
    text(&mut old.cpuset_mems, new.cpuset_mems);
    old.unified.extend(new.unified);
}
