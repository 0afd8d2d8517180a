//! The pod network as the runtime sees it: something that attaches a sandbox and says which addresses it got.

use std::collections::BTreeMap;
use std::path::PathBuf;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::sandbox::{PodSandboxMetadata, PodSandboxNetworkStatus, PortMapping};

#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// No pod CIDR yet, no route, a plugin that is missing: a later try may succeed.
    #[error("not ready: {0}")]
    NotReady(String),
    /// Every address of the node's range is taken.
    #[error("no free address: {0}")]
    AddressesExhausted(String),
    /// A host port that another pod has.
    #[error("port in use: {0}")]
    PortInUse(String),
    #[error("{0}")]
    Failed(String),
}

/// Where the network is attached. Other isolation classes add a tap device here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum NetworkAttachment {
    /// A bind-mounted network namespace that exists already, with nothing configured in it, not even the loopback.
    Namespace(PathBuf),
}

/// All that an attachment is made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxNetworkConfig {
    pub pod_sandbox_id: String,
    pub metadata: PodSandboxMetadata,
    pub attachment: NetworkAttachment,
    pub port_mappings: Vec<PortMapping>,
    pub labels: BTreeMap<String, String>,
    /// Bandwidth (`kubernetes.io/ingress-bandwidth`) and third-party plugins read these.
    pub annotations: BTreeMap<String, String>,
}

/// Called for pods with a network namespace of their own only; never for host-network pods.
#[async_trait]
pub trait SandboxNetwork: Send + Sync {
    /// Why `RuntimeStatus` should say `NetworkReady: false`, if it should.
    async fn ready(&self) -> Result<(), NetworkError>;

    /// Brings up the loopback, attaches the sandbox and maps its host ports. A second call for the same sandbox gives
    /// the same addresses. After an error nothing of it is left.
    async fn setup(&self, config: &SandboxNetworkConfig) -> Result<PodSandboxNetworkStatus, NetworkError>;

    /// Undoes `setup` and gives the addresses back. Idempotent, and works when the namespace is gone already.
    async fn teardown(&self, config: &SandboxNetworkConfig) -> Result<(), NetworkError>;

    /// The addresses that the sandbox has now; `None` when it was never set up or is torn down.
    async fn status(&self, pod_sandbox_id: &str) -> Result<Option<PodSandboxNetworkStatus>, NetworkError>;

    /// The node's pod range became known or changed (CRI `UpdateRuntimeConfig`).
    async fn update_pod_cidr(&self, pod_cidr: &str) -> Result<(), NetworkError>;
}
