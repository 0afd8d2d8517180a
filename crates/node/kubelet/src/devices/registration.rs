//! How plugins make themselves known: by calling Register on the kubelet's socket, or by a socket of their own in the registry,
//! which the kubelet asks. See upstream's devicemanager/plugin/v1beta1/server.go and pkg/kubelet/pluginmanager.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fram_grpc::UnixEndpoint;
use fram_grpc::message::Message;
use fram_grpc::server::{self, Call, Reply, ServerOptions, Service, Status};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::messages::{Empty, PluginInfo, RegisterRequest, RegistrationStatus};
use super::{DeviceError, DeviceManager, MAX_MESSAGE};
use crate::activity::Activity;

const VERSION: &str = "v1beta1";

/// Takes registrations of device plugins.
pub(crate) struct Registry {
    pub(crate) devices: Arc<DeviceManager>,
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

/// Follows the registry's directory: whoever puts a socket there is asked what it is.
pub(crate) async fn follow(registry: Arc<Registry>, dir: PathBuf) {
    if let Err(error) = std::fs::create_dir_all(&dir) {
        tracing::error!(?dir, %error, "plugins cannot register: the directory cannot be made");
        return;
    }
    let (_quiet, nothing) = watch::channel(0);
    let mut activity = Activity::watch(&dir.join("any"), nothing);
    let mut known: BTreeSet<PathBuf> = BTreeSet::new();
    let stop = registry.stop.clone();
    stop.run_until_cancelled(async {
        loop {
            let there = sockets(&dir);
            known.retain(|path| there.contains(path));
            for path in there {
                if known.insert(path.clone()) {
                    registry.tasks.spawn(ask(registry.clone(), path));
                }
            }
            activity.changed().await;
        }
    })
    .await;
}

/// The sockets below the directory, at most one folder deep, as plugins keep them.
fn sockets(dir: &Path) -> BTreeSet<PathBuf> {
    use std::os::unix::fs::FileTypeExt;
    let list = |dir: &Path| -> Vec<PathBuf> { std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect() };
    let mut all = list(dir);
    let folders: Vec<PathBuf> = all.iter().filter(|p| p.is_dir()).cloned().collect();
    all.extend(folders.iter().flat_map(|p| list(p)));
    all.into_iter().filter(|p| std::fs::symlink_metadata(p).is_ok_and(|m| m.file_type().is_socket())).collect()
}

async fn ask(registry: Arc<Registry>, path: PathBuf) {
    let stop = registry.stop.clone();
    if let Some(Err(error)) = stop.run_until_cancelled(introduce(&registry, &path)).await {
        tracing::warn!(?path, %error, "a plugin could not be registered");
    }
}

async fn introduce(registry: &Registry, path: &Path) -> Result<(), DeviceError> {
    let endpoint = UnixEndpoint::new(path.to_path_buf(), MAX_MESSAGE);
    let channel = endpoint.channel().await?;
    let bytes = channel.unary("/pluginregistration.Registration/GetInfo", &Empty {}.encode()).await?;
    let info = PluginInfo::decode(&bytes).map_err(|_| DeviceError::Malformed(path.display().to_string()))?;
    let socket = if info.endpoint.is_empty() { path.to_path_buf() } else { PathBuf::from(&info.endpoint) };
    let outcome = match info.kind.as_str() {
        "DevicePlugin" => registry.register(&info.name, &info.supported_versions, socket),
        other => Err(format!("plugins of type {other:?} are not supported by this node")),
    };
    let status = RegistrationStatus { plugin_registered: outcome.is_ok(), error: outcome.err().unwrap_or_default() };
    channel.unary("/pluginregistration.Registration/NotifyRegistrationStatus", &status.encode()).await?;
    Ok(())
}

#[cfg(test)]
mod tests;
