//! The runtime service: everything the kubelet asks of a container runtime, and what the runtime says of itself.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::container::{Container, ContainerConfig, ContainerFilter, ContainerStatus};
use crate::error::CriResult;
use crate::event::ContainerEvents;
use crate::metrics::{MetricDescriptor, PodSandboxMetrics};
use crate::resources::LinuxContainerResources;
use crate::sandbox::{PodSandbox, PodSandboxConfig, PodSandboxFilter, PodSandboxStatus};
use crate::stats::{ContainerStats, ContainerStatsFilter, PodSandboxStats, PodSandboxStatsFilter};
use crate::stream::{ContainerStream, Duplex, ExecOptions};

/// What the runtime of this project calls itself, whichever way it is asked.
pub const OWN_NAME: &str = "fram";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VersionResponse {
    /// Of the kubelet's runtime API: `0.1.0`.
    pub version: String,
    pub runtime_name: String,
    pub runtime_version: String,
    /// `v1`.
    pub runtime_api_version: String,
}

/// `RuntimeReady` and `NetworkReady` are always there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RuntimeCondition {
    pub r#type: String,
    pub status: bool,
    pub reason: String,
    pub message: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RuntimeHandlerFeatures {
    pub recursive_read_only_mounts: bool,
    pub user_namespaces: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RuntimeHandler {
    /// Empty for the default handler.
    pub name: String,
    pub features: RuntimeHandlerFeatures,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RuntimeFeatures {
    pub supplemental_groups_policy: bool,
    pub user_namespaces_host_network: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RuntimeStatus {
    pub conditions: Vec<RuntimeCondition>,
    pub runtime_handlers: Vec<RuntimeHandler>,
    pub features: RuntimeFeatures,
    /// What a reader may want to know beyond the conditions: limits that this machine does not allow, for instance.
    pub info: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RuntimeConfig {
    pub pod_cidr: String,
}

/// Each output holds at most 16 MiB; what is beyond is dropped without an error (CVE-2022-1708).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecSyncResponse {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit_code: i32,
}

/// Ids are full ids. Stop and remove are idempotent: what is not there is stopped and removed already. A call that is
/// cancelled (its future dropped) leaves nothing half-made: the operation ends by itself or is undone.
#[async_trait]
pub trait RuntimeService: Send + Sync {
    async fn version(&self) -> CriResult<VersionResponse>;
    async fn status(&self) -> CriResult<RuntimeStatus>;
    async fn update_runtime_config(&self, config: &RuntimeConfig) -> CriResult<()>;

    /// Makes a sandbox with its network and returns its id when it is ready.
    async fn run_pod_sandbox(&self, config: &PodSandboxConfig, runtime_handler: &str) -> CriResult<String>;
    /// Kills what still runs, takes the network away. The sandbox stays listed as not ready.
    async fn stop_pod_sandbox(&self, pod_sandbox_id: &str) -> CriResult<()>;
    /// Stops it if need be, and removes it with its containers.
    async fn remove_pod_sandbox(&self, pod_sandbox_id: &str) -> CriResult<()>;
    async fn pod_sandbox_status(&self, pod_sandbox_id: &str) -> CriResult<PodSandboxStatus>;
    async fn list_pod_sandbox(&self, filter: &PodSandboxFilter) -> CriResult<Vec<PodSandbox>>;
    /// Limits of the whole pod were changed in its cgroup by the kubelet.
    async fn update_pod_sandbox_resources(
        &self,
        pod_sandbox_id: &str,
        overhead: Option<&LinuxContainerResources>,
        resources: Option<&LinuxContainerResources>,
    ) -> CriResult<()>;

    /// `sandbox_config` is that of `run_pod_sandbox`.
    async fn create_container(
        &self,
        pod_sandbox_id: &str,
        config: &ContainerConfig,
        sandbox_config: &PodSandboxConfig,
    ) -> CriResult<String>;
    async fn start_container(&self, container_id: &str) -> CriResult<()>;
    /// Sends the stop signal, waits `grace`, kills all processes, and returns when the container has ended.
    async fn stop_container(&self, container_id: &str, grace: Duration) -> CriResult<()>;
    /// Kills it if need be, and removes it; the log file stays.
    async fn remove_container(&self, container_id: &str) -> CriResult<()>;
    async fn list_containers(&self, filter: &ContainerFilter) -> CriResult<Vec<Container>>;
    async fn container_status(&self, container_id: &str) -> CriResult<ContainerStatus>;
    /// Fields that are zero or empty stay as they are.
    async fn update_container_resources(&self, container_id: &str, resources: &LinuxContainerResources) -> CriResult<()>;
    /// The kubelet has renamed the log file: continue in a new one at the same path.
    async fn reopen_container_log(&self, container_id: &str) -> CriResult<()>;
    /// Writes the state of a running container into an archive at `location`; a timeout of zero is the runtime's own. Who cannot, says so.
    async fn checkpoint_container(&self, _container_id: &str, _location: &str, _timeout: Duration) -> CriResult<()> {
        Err(crate::CriError::Unimplemented("checkpoints need CRIU, which this runtime does not drive".into()))
    }

    /// Runs a command to its end. `None` waits for ever; after the timeout the command is killed and the answer is
    /// `CriError::DeadlineExceeded`.
    async fn exec_sync(&self, container_id: &str, cmd: &[String], timeout: Option<Duration>) -> CriResult<ExecSyncResponse>;
    async fn exec(&self, container_id: &str, cmd: &[String], options: ExecOptions) -> CriResult<ContainerStream>;
    /// Streams of the first process; `options.tty` must be that of the container.
    async fn attach(&self, container_id: &str, options: ExecOptions) -> CriResult<ContainerStream>;
    /// One connection to a port on the sandbox's loopback. Called once for each connection.
    async fn port_forward(&self, pod_sandbox_id: &str, port: u16) -> CriResult<Box<dyn Duplex>>;

    async fn container_stats(&self, container_id: &str) -> CriResult<ContainerStats>;
    async fn list_container_stats(&self, filter: &ContainerStatsFilter) -> CriResult<Vec<ContainerStats>>;
    async fn pod_sandbox_stats(&self, pod_sandbox_id: &str) -> CriResult<PodSandboxStats>;
    async fn list_pod_sandbox_stats(&self, filter: &PodSandboxStatsFilter) -> CriResult<Vec<PodSandboxStats>>;

    /// What `list_pod_sandbox_metrics` tells. Who counts nothing beyond the stats, says so.
    async fn list_metric_descriptors(&self) -> CriResult<Vec<MetricDescriptor>> {
        Err(crate::CriError::Unimplemented("this runtime has no metrics".into()))
    }
    async fn list_pod_sandbox_metrics(&self) -> CriResult<Vec<PodSandboxMetrics>> {
        Err(crate::CriError::Unimplemented("this runtime has no metrics".into()))
    }

    /// A subscription to everything from now on. The first one after a start also gets a `Stopped` event for each exit
    /// that happened while nobody could be told, once. Subscribe first and list afterwards: then nothing is missed.
    async fn events(&self) -> CriResult<ContainerEvents>;
}
