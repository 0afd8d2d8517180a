//! Containers: the values that name, configure and describe one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::image::ImageSpec;
use crate::resources::LinuxContainerResources;
use crate::sandbox::labels_match;
use crate::security::LinuxContainerSecurityContext;
use crate::signal::Signal;

/// With the sandbox it is unique.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerMetadata {
    pub name: String,
    pub attempt: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KeyValue {
    pub key: String,
    pub value: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountPropagation {
    #[default]
    Private,
    HostToContainer,
    Bidirectional,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IdMapping {
    pub host_id: u32,
    pub container_id: u32,
    pub length: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    pub container_path: String,
    /// A file or directory that exists; symlinks are followed. Empty when `image` is given.
    pub host_path: String,
    pub readonly: bool,
    pub selinux_relabel: bool,
    pub propagation: MountPropagation,
    pub uid_mappings: Vec<IdMapping>,
    pub gid_mappings: Vec<IdMapping>,
    /// Needs `readonly` and private propagation.
    pub recursive_read_only: bool,
    /// Mounts the root file system of an image, read-only (image volumes, KEP-4639).
    pub image: Option<ImageSpec>,
    pub image_sub_path: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    pub container_path: String,
    pub host_path: String,
    /// A subset of `rwm`.
    pub permissions: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    pub metadata: ContainerMetadata,
    pub image: ImageSpec,
    /// Replaces the image's entrypoint; then the image's own arguments are dropped too.
    pub command: Vec<String>,
    /// Replaces the image's arguments.
    pub args: Vec<String>,
    /// Empty means the image's.
    pub working_dir: String,
    pub envs: Vec<KeyValue>,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    /// CDI device names; resolved by the runtime.
    pub cdi_devices: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// Relative to the sandbox's `log_directory`: `<container>/<attempt>.log`. Empty means no log.
    pub log_path: String,
    pub stdin: bool,
    /// Standard input is closed when the first attach that used it ends.
    pub stdin_once: bool,
    pub tty: bool,
    pub resources: LinuxContainerResources,
    pub security_context: LinuxContainerSecurityContext,
    /// `None` means the image's stop signal, or SIGTERM.
    pub stop_signal: Option<Signal>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    #[serde(rename = "CONTAINER_CREATED")]
    Created,
    #[serde(rename = "CONTAINER_RUNNING")]
    Running,
    #[serde(rename = "CONTAINER_EXITED")]
    Exited,
    /// The shim cannot be reached and left no record.
    #[default]
    #[serde(rename = "CONTAINER_UNKNOWN")]
    Unknown,
}

/// Why a container is in its state, as `ContainerStatus.reason` carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerReason {
    /// Exit code 0.
    Completed,
    /// Any other exit code.
    Error,
    /// The kernel killed a process of it for exceeding its memory limit.
    #[serde(rename = "OOMKilled")]
    OomKilled,
    /// The first process could not be started; the message says why.
    #[serde(alias = "ContainerCannotRun")]
    StartError,
    /// The shim died and the exit code with it; code 255.
    Unknown,
}

impl ContainerReason {
    pub fn as_str(self) -> &'static str {
        match self {
            ContainerReason::Completed => "Completed",
            ContainerReason::Error => "Error",
            ContainerReason::OomKilled => "OOMKilled",
            ContainerReason::StartError => "StartError",
            ContainerReason::Unknown => "Unknown",
        }
    }
}

/// The user that the first process began with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerUser {
    pub uid: u32,
    pub gid: u32,
    pub supplemental_groups: Vec<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerStatus {
    pub id: String,
    pub pod_sandbox_id: String,
    pub metadata: ContainerMetadata,
    pub state: ContainerState,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// 0 until started.
    pub started_at: i64,
    /// 0 until ended.
    pub finished_at: i64,
    /// 128 + signal number for a process that a signal ended.
    pub exit_code: i32,
    pub image: ImageSpec,
    /// Digested reference of the image, or its id.
    pub image_ref: String,
    pub image_id: String,
    /// Only of exited containers.
    pub reason: Option<ContainerReason>,
    pub message: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub mounts: Vec<Mount>,
    /// Absolute.
    pub log_path: String,
    pub resources: LinuxContainerResources,
    pub user: Option<ContainerUser>,
    /// The signal that stopping sends first.
    pub stop_signal: Signal,
}

/// What `list_containers` gives for each container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Container {
    pub id: String,
    pub pod_sandbox_id: String,
    pub metadata: ContainerMetadata,
    pub image: ImageSpec,
    pub image_ref: String,
    pub image_id: String,
    pub state: ContainerState,
    pub created_at: i64,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

/// All given conditions hold; the default matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerFilter {
    pub id: Option<String>,
    pub state: Option<ContainerState>,
    pub pod_sandbox_id: Option<String>,
    /// Exact matches only.
    pub label_selector: BTreeMap<String, String>,
}

impl ContainerFilter {
    pub fn matches(&self, container: &Container) -> bool {
        self.id.as_ref().is_none_or(|id| *id == container.id)
            && self.state.is_none_or(|state| state == container.state)
            && self.pod_sandbox_id.as_ref().is_none_or(|id| *id == container.pod_sandbox_id)
            && labels_match(&self.label_selector, &container.labels)
    }
}
