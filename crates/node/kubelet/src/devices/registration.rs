//! How plugins make themselves known: by calling Register on the kubelet's socket, or by a socket of their own in the registry,
//! which the kubelet asks. See upstream's devicemanager/plugin/v1beta1/server.go and pkg/kubelet/pluginmanager.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fram_grpc::UnixEndpoint;
use fram_grpc::message::Message;
use fram_grpc::server::{self, Call, Reply, ServerOptions, Service, Status};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::messages::{Empty, PluginInfo, RegisterRequest, RegistrationStatus};
use super::{DeviceError, DeviceManager, MAX_MESSAGE};
use crate::activity::Activity;
use crate::dra::DraManager;

const VERSION: &str = "v1beta1";

/// Takes registrations of plugins.
pub(crate) struct Registry {
    pub(crate) devices: Arc<DeviceManager>,
    pub(crate) dra: Arc<DraManager>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

/// Extended resources have a domain that is not Kubernetes' own; see v1helper.IsExtendedResourceName.
fn is_extended(name: &str) -> bool {
    let Some((domain, rest)) = name.split_once('/') else { return false };
    !domain.is_empty() && !rest.is_empty() && !rest.contains('/') && domain != "kubernetes.io" && !domain.ends_with(".kubernetes.io")
}

impl Registry {
    fn register(&self, resource: &str, versions: &[String], socket: PathBuf) -> Result<(), String> {
        if !versions.iter().any(|v| v == VERSION) {
            return Err(format!("requested API version {versions:?} is not supported by kubelet. Supported version is {VERSION}"));
        }
        if !is_extended(resource) {
            return Err(format!("the ResourceName {resource:?} is invalid"));
        }
        tracing::info!(resource, ?socket, "a device plugin has registered");
        self.tasks.spawn(self.devices.clone().follow(resource.to_string(), socket, self.stop.clone()));
        Ok(())
    }
}

impl Service for Registry {
    async fn call(&self, method: &str, mut call: Call) -> Result<Reply, Status> {
        if method != "/v1beta1.Registration/Register" {
            return Err(Status::unknown_method(method));
        }
        let request: RegisterRequest = call.message().await?;
        // The endpoint is a file beside the socket, nowhere else.
        if Path::new(&request.endpoint).file_name().is_none_or(|n| n != request.endpoint.as_str()) {
            return Err(Status::new(server::INVALID_ARGUMENT, format!("invalid endpoint {:?}", request.endpoint)));
        }
        let socket = self.devices.dir().join(&request.endpoint);
        let registered = self.register(&request.resource_name, &[request.version], socket);
        registered.map_err(|why| Status::new(server::INVALID_ARGUMENT, why)).map(|()| Reply::message(&Empty {}))
    }
}

/// Serves the socket on which plugins register. Sockets of former plugins go: they wait for that to register again.
pub(crate) async fn serve(registry: Arc<Registry>) {
    let (dir, stop) = (registry.devices.dir().to_path_buf(), registry.stop.clone());
    for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
        use std::os::unix::fs::FileTypeExt;
        if entry.file_type().is_ok_and(|t| t.is_socket())
            && let Err(error) = std::fs::remove_file(entry.path())
        {
            tracing::warn!(path = ?entry.path(), %error, "the socket of a former plugin could not be removed");
        }
    }
    match server::listen(&dir.join("kubelet.sock")) {
        Ok(listener) => server::serve(listener, registry, ServerOptions::default(), stop).await,
        Err(error) => tracing::error!(%error, "device plugins cannot register"),
    }
}

/// Which file a socket is: a plugin that starts again makes another one, often under the same name.
type Birth = (u64, i64, i64);

/// Follows the registry's directory: whoever puts a socket there is asked what it is.
pub(crate) async fn follow(registry: Arc<Registry>, dir: PathBuf) {
    if let Err(error) = std::fs::create_dir_all(&dir) {
        tracing::error!(?dir, %error, "plugins cannot register: the directory cannot be made");
        return;
    }
    let mut known: BTreeMap<(PathBuf, Birth), DropGuard> = BTreeMap::new();
    let stop = registry.stop.clone();
    stop.run_until_cancelled(async {
        let (mut folders, mut activity) = (Vec::new(), None);
        loop {
            let there = folders_of(&dir);
            if activity.is_none() || there != folders {
                activity = Some(Activity::of_folders(&there));
                folders = there;
                // What came before it was watched is seen by looking again.
                continue;
            }
            let there = sockets(&folders);
            known.retain(|socket, _| there.contains(socket));
            for socket in there {
                known.entry(socket).or_insert_with_key(|(path, _)| {
                    let gone = registry.stop.child_token();
                    registry.tasks.spawn(attend(registry.clone(), path.clone(), gone.clone()));
                    gone.drop_guard()
                });
            }
            if let Some(activity) = &mut activity {
                activity.changed().await;
            }
        }
    })
    .await;
}

/// The directory and the folders in it, as plugins keep their sockets in either.
fn folders_of(dir: &Path) -> Vec<PathBuf> {
    let inner = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).filter(|p| p.is_dir());
    let mut all: Vec<PathBuf> = std::iter::once(dir.to_path_buf()).chain(inner).collect();
    all.sort();
    all
}

fn sockets(folders: &[PathBuf]) -> BTreeSet<(PathBuf, Birth)> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let all = folders.iter().flat_map(|dir| std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()));
    let socket = |path: PathBuf| {
        let found = std::fs::symlink_metadata(&path).ok().filter(|m| m.file_type().is_socket())?;
        Some((path, (found.ino(), found.ctime(), found.ctime_nsec())))
    };
    all.filter_map(socket).collect()
}

/// The pauses between tries: a socket is there a moment before anybody listens. Upstream's pluginmanager has the same.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(120));

/// Asks a plugin who it is until it says so, or until `gone`; and sees to its end, where nothing else tells of that.
async fn attend(registry: Arc<Registry>, path: PathBuf, gone: CancellationToken) {
    let mut pause = PAUSES.0;
    loop {
        match gone.run_until_cancelled(introduce(&registry, &path)).await {
            None => return,
            Some(Ok(None)) => return,
            Some(Ok(Some(Driver { name: driver, socket, tells_health }))) => {
                match tells_health {
                    true => drop(gone.run_until_cancelled(registry.dra.follow_health(&driver, &socket)).await),
                    false => gone.cancelled().await,
                }
                registry.stop.run_until_cancelled(registry.dra.deregister(&driver, &socket)).await;
                return;
            }
            Some(Err(error)) => tracing::warn!(?path, %error, "a plugin could not be registered, it is tried again"),
        }
        if gone.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// A driver of dynamic resources.
struct Driver {
    name: String,
    socket: PathBuf,
    tells_health: bool,
}

/// Registers a plugin, and says so where it is a driver.
async fn introduce(registry: &Registry, path: &Path) -> Result<Option<Driver>, DeviceError> {
    let endpoint = UnixEndpoint::new(path.to_path_buf(), MAX_MESSAGE);
    let channel = endpoint.channel().await?;
    let bytes = channel.unary("/pluginregistration.Registration/GetInfo", &Empty {}.encode()).await?;
    let info = PluginInfo::decode(&bytes).map_err(|_| DeviceError::Malformed(path.display().to_string()))?;
    let socket = if info.endpoint.is_empty() { path.to_path_buf() } else { PathBuf::from(&info.endpoint) };
    let mut driver = None;
    let outcome = match info.kind.as_str() {
        "DevicePlugin" => registry.register(&info.name, &info.supported_versions, socket),
        "DRAPlugin" => {
            let tells_health = info.supported_versions.iter().any(|v| v == crate::dra::HEALTH);
            driver = Some(Driver { name: info.name.clone(), socket: socket.clone(), tells_health });
            registry.dra.register(&info.name, &info.supported_versions, socket)
        }
        other => Err(format!("plugins of type {other:?} are not supported by this node")),
    };
    let status = RegistrationStatus { plugin_registered: outcome.is_ok(), error: outcome.clone().err().unwrap_or_default() };
    channel.unary("/pluginregistration.Registration/NotifyRegistrationStatus", &status.encode()).await?;
    Ok(driver.filter(|_| outcome.is_ok()))
}

#[cfg(test)]
mod tests;
