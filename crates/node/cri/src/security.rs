//! Security contexts of sandboxes and containers: users, capabilities, namespaces, seccomp, AppArmor and SELinux options.

use serde::{Deserialize, Serialize};

use crate::container::IdMapping;

/// Whose namespace is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceMode {
    /// One namespace for all containers of the pod.
    #[default]
    Pod,
    /// One namespace for each container.
    Container,
    /// The node's namespace.
    Node,
    /// The namespace of the container named by `target_id` (ephemeral containers).
    Target,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NamespaceOption {
    /// `Pod` or `Node`.
    pub network: NamespaceMode,
    /// `Container` is what a Kubernetes pod gets unless `shareProcessNamespace`; mind that the default here is `Pod`.
    pub pid: NamespaceMode,
    /// `Pod` or `Node`.
    pub ipc: NamespaceMode,
    /// Container whose pid namespace is joined when `pid` is `Target`.
    pub target_id: String,
    pub userns_options: Option<UserNamespace>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UserNamespace {
    /// `Pod` or `Node`.
    pub mode: NamespaceMode,
    pub uids: Vec<IdMapping>,
    pub gids: Vec<IdMapping>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SupplementalGroupsPolicy {
    /// The groups of the request and those of the image's /etc/group.
    #[default]
    Merge,
    /// Only the groups of the request.
    Strict,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SecurityProfile {
    #[default]
    RuntimeDefault,
    Unconfined,
    /// A profile on the node: an absolute path (seccomp) or a loaded profile's name (AppArmor).
    Localhost(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SeLinuxOption {
    pub user: String,
    pub role: String,
    pub r#type: String,
    pub level: String,
}

/// Names as in a pod's `securityContext.capabilities`: without `CAP_`, `ALL` for every one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capability {
    pub add_capabilities: Vec<String>,
    pub drop_capabilities: Vec<String>,
    pub add_ambient_capabilities: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinuxSandboxSecurityContext {
    pub namespace_options: NamespaceOption,
    pub selinux_options: Option<SeLinuxOption>,
    pub run_as_user: Option<i64>,
    pub run_as_group: Option<i64>,
    pub readonly_rootfs: bool,
    pub supplemental_groups: Vec<i64>,
    pub supplemental_groups_policy: SupplementalGroupsPolicy,
    /// Whether the sandbox may hold privileged containers.
    pub privileged: bool,
    /// `None` means the runtime's default.
    pub seccomp: Option<SecurityProfile>,
    pub apparmor: Option<SecurityProfile>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinuxContainerSecurityContext {
    pub capabilities: Capability,
    /// All capabilities and devices, no masked or read-only paths, no seccomp; see `privileged` in api.proto.
    pub privileged: bool,
    pub namespace_options: NamespaceOption,
    pub selinux_options: Option<SeLinuxOption>,
    /// At most one of `run_as_user` and `run_as_username` is given; neither means the image's user.
    pub run_as_user: Option<i64>,
    /// Only with `run_as_user` or `run_as_username`.
    pub run_as_group: Option<i64>,
    pub run_as_username: String,
    pub readonly_rootfs: bool,
    pub supplemental_groups: Vec<i64>,
    pub supplemental_groups_policy: SupplementalGroupsPolicy,
    pub no_new_privs: bool,
    /// Used as given, so an empty list masks nothing; ignored when privileged.
    pub masked_paths: Vec<String>,
    /// Used as given, so an empty list protects nothing; ignored when privileged.
    pub readonly_paths: Vec<String>,
    /// `None` means the runtime's default: Fram is secure when nobody said anything, unlike containerd.
    pub seccomp: Option<SecurityProfile>,
    pub apparmor: Option<SecurityProfile>,
}
