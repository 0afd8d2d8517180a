//! The pod network by plugins of others, after the CNI specification 1.1: their configuration is found, they are run in order, and what
//! they answered is kept until they are asked to undo it. Host ports are theirs too.

mod config;
mod plugin;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use fram_cri::{NetworkAttachment, NetworkError, PodSandboxNetworkStatus, SandboxNetwork, SandboxNetworkConfig};
use fram_datapath::namespace::Namespace;
use fram_datapath::route;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Mutex;

use crate::durable;

use config::NetworkList;
use plugin::{Invocation, PluginError};

/// The interface that the first network is reached by.
const INTERFACE: &str = "eth0";

#[derive(Debug, thiserror::Error)]
pub enum CniError {
    #[error("{operation} {path:?}: {source}")]
    Io { operation: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{path:?} is no network configuration: {why}")]
    Config { path: PathBuf, why: String },
    #[error("no network configuration in {0:?}")]
    Missing(PathBuf),
    #[error("sandbox attachment {0} is not one that plugins know")]
    Attachment(String),
    #[error("cannot bring up the loopback: {0}")]
    Loopback(String),
    #[error(transparent)]
    Plugin(#[from] PluginError),
    #[error("the plugins gave the sandbox no address")]
    NoAddress,
}

impl From<CniError> for NetworkError {
    fn from(error: CniError) -> Self {
        match &error {
            CniError::Missing(_) => Self::NotReady(error.to_string()),
            CniError::Plugin(plugin) if plugin.is_temporary() => Self::NotReady(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// Where things are.
#[derive(Debug, Clone)]
pub struct CniConfig {
    /// Configurations; the first by name counts, as with other runtimes.
    pub conf_dir: PathBuf,
    /// Plugins, looked for in this order.
    pub bin_dirs: Vec<PathBuf>,
    /// What is attached, a file for each sandbox.
    pub state_dir: PathBuf,
}

/// What a sandbox was given, and by which configuration: that undoes it, whatever has changed since.
#[derive(Debug, Serialize, Deserialize)]
struct Attached {
    list: NetworkList,
    bin_dirs: Vec<PathBuf>,
    result: Value,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct CniNetwork {
    config: Arc<CniConfig>,
    /// One step at a time for each sandbox.
    turns: Arc<Mutex<HashMap<String, Arc<Mutex<()>>>>>,
}

impl CniNetwork {
    pub fn open(config: CniConfig) -> Result<Self, CniError> {
        let failed = |source| CniError::Io { operation: "create", path: config.state_dir.clone(), source };
        std::fs::create_dir_all(&config.state_dir).map_err(failed)?;
        Ok(Self { config: Arc::new(config), turns: Arc::default() })
    }

    fn list(&self) -> Result<NetworkList, CniError> {
        config::first(&self.config.conf_dir)?.ok_or_else(|| CniError::Missing(self.config.conf_dir.clone()))
    }

    async fn turn(&self, sandbox: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = self.turns.lock().await.entry(sandbox.to_owned()).or_default().clone();
        turn.lock_owned().await
    }

    fn state(&self, sandbox: &str) -> PathBuf {
        self.config.state_dir.join(format!("{sandbox}.json"))
    }

    /// What is damaged is as good as the present configuration: to undo that is better than never to be able to.
    fn attached(&self, sandbox: &str) -> Result<Option<Attached>, CniError> {
        let path = self.state(sandbox);
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|source| CniError::Io { operation: "read", path: path.clone(), source })?,
        };
        if let Err(error) = serde_json::from_slice::<Attached>(&text) {
            tracing::warn!(?path, %error, "what a sandbox was attached by cannot be read: it is undone by what is configured now");
            let attached = Attached { list: self.list()?, bin_dirs: self.config.bin_dirs.clone(), result: Value::Null };
            return Ok(Some(attached));
        }
        serde_json::from_slice(&text).map(Some).map_err(|error| CniError::Config { path, why: error.to_string() })
    }

    /// Written before the plugins run, and again with their answer: after a crash it is known what may have to be undone.
    fn keep(&self, sandbox: &str, attached: &Attached) -> Result<(), CniError> {
        let path = self.state(sandbox);
        let failed = |source| CniError::Io { operation: "write", path: path.clone(), source };
        let text = serde_json::to_vec(attached).map_err(|error| failed(error.into()))?;
        durable::replace(&path, &text).map_err(failed)
    }

    async fn attach(&self, config: &SandboxNetworkConfig) -> Result<Value, CniError> {
        let sandbox = &config.pod_sandbox_id;
        if let Some(attached) = self.attached(sandbox)?.filter(|attached| !addresses(&attached.result).is_empty()) {
            return Ok(attached.result);
        }
        let netns = namespace(config)?;
        loopback(netns).await?;
        let mut attached = Attached { list: self.list()?, bin_dirs: self.config.bin_dirs.clone(), result: Value::Null };
        self.keep(sandbox, &attached)?;
        for plugin in &attached.list.plugins {
            let stdin = config::request(&attached.list, plugin, config, &attached.result);
            let answer = invocation("ADD", config, Some(netns), &attached.bin_dirs).run(config::kind(plugin), &stdin).await;
            match answer {
                Ok(result) => attached.result = result,
                Err(error) => {
                    if let Err(again) = self.detach(config, &attached).await {
                        tracing::warn!(sandbox, error = %again, "cannot undo a network that failed");
                    }
                    return Err(error.into());
                }
            }
        }
        if addresses(&attached.result).is_empty() {
            self.detach(config, &attached).await?;
            return Err(CniError::NoAddress);
        }
        self.keep(sandbox, &attached)?;
        Ok(attached.result)
    }

    /// The last plugin first.
    async fn detach(&self, config: &SandboxNetworkConfig, attached: &Attached) -> Result<(), CniError> {
        let netns = namespace(config).ok().filter(|path| path.exists());
        for plugin in attached.list.plugins.iter().rev() {
            let stdin = config::request(&attached.list, plugin, config, &attached.result);
            invocation("DEL", config, netns, &attached.bin_dirs).run(config::kind(plugin), &stdin).await?;
        }
        match std::fs::remove_file(self.state(&config.pod_sandbox_id)) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(CniError::Io { operation: "remove", path: self.state(&config.pod_sandbox_id), source })
            }
            _ => Ok(()),
        }
    }
}

fn invocation<'a>(
    command: &'static str,
    config: &'a SandboxNetworkConfig,
    netns: Option<&'a Path>,
    bin_dirs: &'a [PathBuf],
) -> Invocation<'a> {
    Invocation { command, container_id: &config.pod_sandbox_id, netns, interface: INTERFACE, args: config::args(config), bin_dirs }
}

fn namespace(config: &SandboxNetworkConfig) -> Result<&Path, CniError> {
    match &config.attachment {
        NetworkAttachment::Namespace(path) => Ok(path),
        other => Err(CniError::Attachment(format!("{other:?}"))),
    }
}

/// The loopback is the runtime's to bring up.
async fn loopback(netns: &Path) -> Result<(), CniError> {
    let path = netns.to_path_buf();
    let up = tokio::task::spawn_blocking(move || {
        Namespace::open(&path)?.run(|| {
            let mut handle = route::Handle::open()?;
            match handle.link("lo")? {
                Some(link) => handle.set_up(link.index),
                None => Ok(()),
            }
        })
    });
    let failed = |why: String| CniError::Loopback(why);
    up.await.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))
}

/// The addresses of a result, without their prefixes.
fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result.get("ips").and_then(Value::as_array).into_iter().flatten().filter_map(|ip| ip.get("address"));
    // As results looked before version 0.3.0.
    let former = ["ip4", "ip6"].into_iter().filter_map(|family| result.get(family)?.get("ip"));
    ips.chain(former).filter_map(|ip| ip.as_str()?.split('/').next()?.parse().ok()).collect()
}

#[async_trait]
impl SandboxNetwork for CniNetwork {
    async fn ready(&self) -> Result<(), NetworkError> {
        Ok(self.list().map(drop)?)
    }

    async fn setup(&self, config: &SandboxNetworkConfig) -> Result<PodSandboxNetworkStatus, NetworkError> {
        let _turn = self.turn(&config.pod_sandbox_id).await;
        Ok(PodSandboxNetworkStatus::from_ips(addresses(&self.attach(config).await?)))
    }

    async fn teardown(&self, config: &SandboxNetworkConfig) -> Result<(), NetworkError> {
        let sandbox = &config.pod_sandbox_id;
        let turn = self.turn(sandbox).await;
        if let Some(attached) = self.attached(sandbox)? {
            self.detach(config, &attached).await?;
        }
        drop(turn);
        let mut turns = self.turns.lock().await;
        // Who waits for the same turn has it; who comes from now on waits for this lock first.
        if turns.get(sandbox).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            turns.remove(sandbox);
        }
        Ok(())
    }

    async fn status(&self, pod_sandbox_id: &str) -> Result<Option<PodSandboxNetworkStatus>, NetworkError> {
        let attached = self.attached(pod_sandbox_id)?;
        let ips = attached.map(|attached| addresses(&attached.result)).filter(|ips| !ips.is_empty());
        Ok(ips.map(PodSandboxNetworkStatus::from_ips))
    }

    /// Plugins have their ranges from their configuration.
    async fn update_pod_cidr(&self, _: &str) -> Result<(), NetworkError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
