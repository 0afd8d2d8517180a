//! Pod sandboxes: the values that name, configure and describe one.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::resources::LinuxContainerResources;
use crate::security::{LinuxSandboxSecurityContext, NamespaceOption};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsConfig {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    #[serde(rename = "UDP")]
    Udp,
    #[serde(rename = "SCTP")]
    Sctp,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortMapping {
    pub protocol: Protocol,
    pub container_port: u16,
    /// 0 means no mapping on the host.
    pub host_port: u16,
    /// `None` means every address of the host.
    pub host_ip: Option<IpAddr>,
}

/// What the sandbox's name and id are made from; with the attempt it is unique.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSandboxMetadata {
    pub name: String,
    pub uid: String,
    pub namespace: String,
    pub attempt: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinuxPodSandboxConfig {
    /// Parent of the containers' cgroups, below each controller's mount: `/kubepods/burstable/pod<uid>`. The kubelet
    /// makes it and sets its limits. Empty means the runtime's configured cgroup root.
    pub cgroup_parent: String,
    pub security_context: LinuxSandboxSecurityContext,
    pub sysctls: BTreeMap<String, String>,
    pub overhead: Option<LinuxContainerResources>,
    pub resources: Option<LinuxContainerResources>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSandboxConfig {
    pub metadata: PodSandboxMetadata,
    /// Empty for pods in the host's network namespace.
    pub hostname: String,
    /// Directory of the containers' log files: `/var/log/pods/<namespace>_<name>_<uid>`.
    pub log_directory: String,
    /// `None` means that containers see the node's resolv.conf.
    pub dns_config: Option<DnsConfig>,
    pub port_mappings: Vec<PortMapping>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub linux: LinuxPodSandboxConfig,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodSandboxState {
    #[serde(rename = "SANDBOX_READY")]
    Ready,
    #[default]
    #[serde(rename = "SANDBOX_NOTREADY")]
    NotReady,
}

/// Addresses of the pod, the primary one first. Empty for pods in the host's network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSandboxNetworkStatus {
    pub ip: Option<IpAddr>,
    pub additional_ips: Vec<IpAddr>,
}

impl PodSandboxNetworkStatus {
    pub fn from_ips(ips: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut ips = ips.into_iter();
        PodSandboxNetworkStatus { ip: ips.next(), additional_ips: ips.collect() }
    }

    pub fn ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.ip.iter().chain(&self.additional_ips).copied()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSandboxStatus {
    pub id: String,
    pub metadata: PodSandboxMetadata,
    pub state: PodSandboxState,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    pub network: PodSandboxNetworkStatus,
    pub namespaces: NamespaceOption,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub runtime_handler: String,
}

/// What `list_pod_sandbox` gives for each sandbox: a status without network and namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSandbox {
    pub id: String,
    pub metadata: PodSandboxMetadata,
    pub state: PodSandboxState,
    pub created_at: i64,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub runtime_handler: String,
}

/// All given conditions hold; the default matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSandboxFilter {
    pub id: Option<String>,
    pub state: Option<PodSandboxState>,
    /// Exact matches only.
    pub label_selector: BTreeMap<String, String>,
}

impl PodSandboxFilter {
    pub fn matches(&self, sandbox: &PodSandbox) -> bool {
        self.id.as_ref().is_none_or(|id| *id == sandbox.id)
            && self.state.is_none_or(|state| state == sandbox.state)
            && labels_match(&self.label_selector, &sandbox.labels)
    }
}

/// Whether `labels` holds every pair of `selector`.
pub(crate) fn labels_match(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}
