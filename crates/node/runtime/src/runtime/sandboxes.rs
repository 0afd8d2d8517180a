//! Making, stopping and removing pod sandboxes.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fram_cri::{ContainerEventType, CriError, CriResult, NamespaceMode, NetworkAttachment, PodSandboxConfig, SandboxNetworkConfig};
use nix::mount::{MntFlags, umount2};
use tokio::process::Command;

use super::containers::KILL_TIMEOUT;
use super::{Inner, blocking, recover};
use crate::client::{self, Client, ClientError};
use crate::durable::{self, Sync};
use crate::protocol::{Request, SandboxSetup};
use crate::records::{self, SANDBOX_FILE, SandboxRecord, new_id, sysctl_is_namespaced};
use crate::shim::{NETNS, READY, SETUP_FILE, SHM, USERNS, clock};
use crate::state::Sandbox;

/// The handler of Fram's own runtime; the empty one means it too.
pub(crate) const HANDLER: &str = "fram";

pub(super) async fn run(inner: Arc<Inner>, config: PodSandboxConfig, handler: String) -> CriResult<String> {
    check(&config, &handler, inner.config.handlers.contains_key(&handler))?;
    let id = new_id().map_err(|error| CriError::io("read", "/dev/urandom", error))?;
    let record = SandboxRecord { id: id.clone(), config, runtime_handler: handler, created_at: clock::now(), ..SandboxRecord::default() };
    let sandbox = Arc::new(Sandbox::new(inner.layout.sandbox(&id), record));
    reserve(&inner, &sandbox)?;
    let _turn = sandbox.turn.lock().await;
    if let Err(error) = make(&inner, &sandbox).await {
        sandbox.stopping.store(true, Ordering::SeqCst);
        inner.sandboxes.lock().remove(&id);
        let record = sandbox.record.lock().clone();
        discard(&inner, &sandbox.dir, Some(record)).await;
        return Err(error);
    }
    inner.publish(&id, &id, ContainerEventType::Created);
    inner.publish(&id, &id, ContainerEventType::Started);
    Ok(id)
}

fn check(config: &PodSandboxConfig, handler: &str, is_configured: bool) -> CriResult<()> {
    if !matches!(handler, "" | HANDLER) && !is_configured {
        return Err(CriError::InvalidArgument(format!("no runtime for handler {handler:?} is configured")));
    }
    let options = &config.linux.security_context.namespace_options;
    let ids = records::id_range(options).map_err(|why| CriError::InvalidArgument(why.into()))?;
    if ids.is_some() && is_configured {
        return Err(CriError::Unimplemented(format!("user namespaces are not supported with the handler {handler:?}")));
    }
    if ids.is_some() && !crate::kernel::has_user_namespaces() {
        return Err(CriError::Unimplemented("user namespaces need Linux 6.3 or later".into()));
    }
    let (host_network, host_ipc) = (options.network == NamespaceMode::Node, options.ipc == NamespaceMode::Node);
    for name in config.linux.sysctls.keys() {
        if !sysctl_is_namespaced(name, host_network, host_ipc) {
            return Err(CriError::InvalidArgument(format!("sysctl {name:?} is not one of the pod's own namespaces")));
        }
    }
    Ok(())
}

/// Makes the sandbox known, unless one of the same name and attempt is.
fn reserve(inner: &Inner, sandbox: &Arc<Sandbox>) -> CriResult<()> {
    let mut sandboxes = inner.sandboxes.lock();
    let metadata = sandbox.record.lock().config.metadata.clone();
    if sandboxes.values().any(|other| other.record.lock().config.metadata == metadata) {
        let name = format!("{}/{} attempt {}", metadata.namespace, metadata.name, metadata.attempt);
        return Err(CriError::AlreadyExists { kind: "pod sandbox", name });
    }
    sandboxes.insert(sandbox.id.clone(), sandbox.clone());
    Ok(())
}

async fn make(inner: &Arc<Inner>, sandbox: &Arc<Sandbox>) -> CriResult<()> {
    let record = sandbox.record.lock().clone();
    let (dir, config) = (sandbox.dir.clone(), inner.config.clone());
    let files_of = record.clone();
    blocking(move || write_files(&dir, &files_of, &config)).await?;
    spawn_shim(inner, &sandbox.dir).await?;
    let (client, _) = recover::connect(sandbox).await?;
    inner.listen(sandbox.clone(), client);
    if !record.host_network() {
        let network = inner.network.setup(&network_config(&sandbox.dir, &record)).await?;
        sandbox.record.lock().network = network;
    }
    let record = {
        let mut record = sandbox.record.lock();
        record.complete = true;
        record.clone()
    };
    let path = sandbox.dir.join(SANDBOX_FILE);
    blocking(move || Ok(durable::write_json(&path, &record, Sync::Yes)?)).await?;
    sandbox.ready.store(true, Ordering::SeqCst);
    Ok(())
}

fn network_config(dir: &Path, record: &SandboxRecord) -> SandboxNetworkConfig {
    SandboxNetworkConfig {
        pod_sandbox_id: record.id.clone(),
        metadata: record.config.metadata.clone(),
        attachment: NetworkAttachment::Namespace(dir.join(NETNS)),
        port_mappings: record.config.port_mappings.clone(),
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
    }
}

fn write_files(dir: &Path, record: &SandboxRecord, config: &crate::RuntimeConfig) -> CriResult<()> {
    fs::create_dir_all(dir.join("containers")).map_err(|error| CriError::io("create", dir, error))?;
    durable::write_json(&dir.join(SANDBOX_FILE), record, Sync::No)?;
    let linux = &record.config.linux;
    let options = &linux.security_context.namespace_options;
    let setup = SandboxSetup {
        pod_sandbox_id: record.id.clone(),
        hostname: record.config.hostname.clone(),
        host_network: record.host_network(),
        host_ipc: options.ipc == NamespaceMode::Node,
        shared_pid: options.pid == NamespaceMode::Pod,
        sysctls: records::sysctls(&linux.sysctls, record.host_network(), record.ids().is_some()),
        shm_size: config.shm_size,
        cgroup: config.shim_cgroup.clone(),
        cgroup_mount: config.cgroup_mount.clone(),
        ids: record.ids(),
        open_files: config.open_files,
    };
    durable::write_json(&dir.join(SETUP_FILE), &setup, Sync::No)?;
    let resolv_conf = match &record.config.dns_config {
        Some(dns) => records::resolv_conf(dns),
        None => fs::read_to_string(&config.resolv_conf).unwrap_or_default(),
    };
    let hostname = match record.config.hostname.as_str() {
        "" => nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default(),
        hostname => hostname.to_owned(),
    };
    for (name, text) in [("resolv.conf", resolv_conf), ("hostname", format!("{hostname}\n")), ("hosts", records::HOSTS.to_owned())] {
        let path = dir.join(name);
        fs::write(&path, text).map_err(|error| CriError::io("write", &path, error))?;
    }
    Ok(())
}

/// Starts a shim and waits until it serves. The process started here ends at once; the shim is its orphan.
async fn spawn_shim(inner: &Inner, dir: &Path) -> CriResult<()> {
    let Some((program, arguments)) = inner.config.shim_command.split_first() else {
        return Err(CriError::Internal("no shim command is configured".into()));
    };
    let mut command = Command::new(program);
    // Whatever Fram was given in its environment is none of the pods' business.
    command.args(arguments).arg(dir).env_clear().stdin(std::process::Stdio::null());
    let output = command.output().await.map_err(|error| CriError::io("start the shim", program, error))?;
    let said = String::from_utf8_lossy(&output.stdout);
    if said != READY {
        let complaint = String::from_utf8_lossy(&output.stderr);
        return Err(CriError::Internal(format!("the shim did not start: {} {}", said.trim(), complaint.trim())));
    }
    Ok(())
}

pub(super) async fn stop(inner: Arc<Inner>, id: String) -> CriResult<()> {
    let Ok(sandbox) = inner.sandbox(&id) else { return Ok(()) };
    let _turn = sandbox.turn.lock().await;
    stop_in_turn(&inner, &sandbox).await
}

async fn stop_in_turn(inner: &Arc<Inner>, sandbox: &Arc<Sandbox>) -> CriResult<()> {
    let record = sandbox.record.lock().clone();
    if record.stopped {
        return Ok(());
    }
    sandbox.stopping.store(true, Ordering::SeqCst);
    let was_ready = sandbox.ready.swap(false, Ordering::SeqCst);
    end_shim(&sandbox.dir).await;
    for container in inner.containers_of(&sandbox.id) {
        inner.settle(&container);
    }
    if !record.host_network() {
        inner.network.teardown(&network_config(&sandbox.dir, &record)).await?;
    }
    unmount(&sandbox.dir)?;
    let record = {
        let mut record = sandbox.record.lock();
        record.stopped = true;
        record.clone()
    };
    let path = sandbox.dir.join(SANDBOX_FILE);
    blocking(move || Ok(durable::write_json(&path, &record, Sync::Yes)?)).await?;
    if was_ready {
        inner.publish(&sandbox.id, &sandbox.id, ContainerEventType::Stopped);
    }
    Ok(())
}

/// Ends the shim and all that it holds, if it is there. When this returns the ends of its containers are on disk.
async fn end_shim(dir: &Path) {
    let ended = match Client::connect(dir).await {
        Ok(mut client) => {
            let asked = tokio::time::timeout(KILL_TIMEOUT, client.ask(&Request::Shutdown, &[])).await;
            asked.unwrap_or_else(|_| Err(ClientError::Io(std::io::ErrorKind::TimedOut.into())))
        }
        Err(error) => Err(error),
    };
    match ended {
        Ok(_) | Err(ClientError::Connect { .. } | ClientError::Closed) => {}
        Err(error) => return tracing::warn!(?dir, %error, "the shim did not end as it should"),
    }
    let dir = dir.to_path_buf();
    let gone = blocking(move || {
        client::wait_until_dead(&dir);
        Ok(())
    });
    // It has nothing left to do, so this takes no time; but nothing may wait for ever.
    let _ = tokio::time::timeout(KILL_TIMEOUT, gone).await;
}

/// What the shim has mounted for the sandbox. It lasts beyond the shim, so that the network can be taken away after it.
fn unmount(dir: &Path) -> CriResult<()> {
    for name in [NETNS, SHM, USERNS] {
        let path = dir.join(name);
        match umount2(&path, MntFlags::MNT_DETACH) {
            // Not mounted, or not even there.
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(error) => return Err(CriError::io("unmount", &path, error.into())),
        }
    }
    Ok(())
}

pub(super) async fn remove(inner: Arc<Inner>, id: String) -> CriResult<()> {
    let Ok(sandbox) = inner.sandbox(&id) else { return Ok(()) };
    {
        let _turn = sandbox.turn.lock().await;
        stop_in_turn(&inner, &sandbox).await?;
    }
    for container in inner.containers_of(&id) {
        super::containers::remove(inner.clone(), container.id.clone()).await?;
    }
    let _turn = sandbox.turn.lock().await;
    if let Some(cgroup) = own_cgroup(&inner, &sandbox) {
        super::containers::remove_cgroup(inner.cgroups.clone(), cgroup).await?;
    }
    let dir = sandbox.dir.clone();
    blocking(move || remove_directory(&dir)).await?;
    if inner.sandboxes.lock().remove(&id).is_some() {
        inner.publish(&id, &id, ContainerEventType::Deleted);
    }
    Ok(())
}

/// The pod's cgroup, where it is the runtime's: nobody has named one, and this is the pod's last sandbox.
fn own_cgroup(inner: &Inner, sandbox: &Sandbox) -> Option<String> {
    let uid = {
        let config = &sandbox.record.lock().config;
        Some(config.metadata.uid.clone()).filter(|uid| !uid.is_empty() && config.linux.cgroup_parent.is_empty())?
    };
    let others = inner.sandboxes.lock();
    let shared = others.values().any(|other| other.id != sandbox.id && other.record.lock().config.metadata.uid == uid);
    (!shared).then(|| format!("{}/{uid}", inner.config.cgroup_root))
}

pub(super) fn remove_directory(dir: &Path) -> CriResult<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(CriError::io("remove", dir, error)),
        _ => Ok(()),
    }
}

/// Undoes a sandbox that was half made, or whose record is lost.
pub(super) async fn discard(inner: &Inner, dir: &Path, record: Option<SandboxRecord>) {
    end_shim(dir).await;
    let record = record.unwrap_or_else(|| {
        let id = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        SandboxRecord { id, ..SandboxRecord::default() }
    });
    if !record.host_network()
        && let Err(error) = inner.network.teardown(&network_config(dir, &record)).await
    {
        tracing::warn!(?dir, %error, "cannot take the network of a failed sandbox away");
    }
    let removed = unmount(dir).and_then(|()| remove_directory(dir));
    if let Err(error) = removed {
        tracing::warn!(?dir, %error, "cannot remove a failed sandbox");
    }
}
