//! From CRI configurations to what the shim runs: the OCI specification, the mounts, the user and the privileges.
//! Pure: what must be read from the machine (device numbers, cgroup version) is handed in.

mod capabilities;
mod mounts;
mod process;
mod resources;
mod user;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use fram_cri::{ContainerConfig, ImageConfig, NamespaceMode, PodSandboxConfig, SecurityProfile, Signal, SupplementalGroupsPolicy};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;

use crate::protocol::{IdRange, PidNamespace, RootMount};
use crate::seccomp::Profile;

pub(crate) use capabilities::{CAPABILITIES, capability_bits, capability_names};
pub(crate) use user::{UserError, home, resolve_user};

#[derive(Debug, Error, PartialEq, Eq)]
pub enum SpecError {
    #[error("no command specified: neither the container nor its image has one")]
    NoCommand,
    #[error("environment variable {0:?} is not valid")]
    Environment(String),
    #[error("unknown capability {0:?}")]
    Capability(String),
    #[error("mount {0:?} is not valid: {1}")]
    Mount(String, &'static str),
    #[error("working directory {0:?} is not absolute")]
    WorkingDirectory(String),
    #[error("stop signal {0:?} of the image is not known")]
    StopSignal(String),
    #[error("{0} is not supported by this runtime")]
    Unsupported(&'static str),
}

/// Capabilities as bits, in the kernel's numbering. Effective, permitted and bounding sets are one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Privileges {
    pub capabilities: u64,
    /// Kept by users other than root too; a part of `capabilities`.
    pub ambient: u64,
    pub no_new_privs: bool,
}

/// Who the first process should be; names are looked up in the container's own /etc/passwd and /etc/group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct UserRequest {
    /// As the image has it: `user`, `uid`, `user:group`, `uid:gid`, or empty.
    pub image_user: String,
    pub run_as_user: Option<i64>,
    pub run_as_group: Option<i64>,
    pub run_as_username: String,
    pub supplemental_groups: Vec<i64>,
    pub strict: bool,
}

/// A device node of the host that the container gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostDevice {
    pub container_path: PathBuf,
    pub block: bool,
    pub major: u64,
    pub minor: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// A subset of `rwm`.
    pub permissions: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seccomp<'a> {
    Default,
    Unconfined,
    /// Absolute path.
    Localhost(&'a str),
}

/// Files and directories that every container of a sandbox gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SandboxFiles {
    pub resolv_conf: PathBuf,
    pub hostname: PathBuf,
    pub hosts: PathBuf,
    pub shm: PathBuf,
}

/// All that a plan depends on.
pub(crate) struct Input<'a> {
    pub container_id: &'a str,
    pub sandbox: &'a PodSandboxConfig,
    pub files: &'a SandboxFiles,
    pub container: &'a ContainerConfig,
    pub image: &'a ImageConfig,
    pub rootfs: &'a Path,
    /// The devices of `container.devices`, or all of the host's for a privileged container.
    pub devices: &'a [HostDevice],
    /// `hooks` of the OCI specification; null for none.
    pub hooks: &'a Value,
    /// Layers of image volumes, by their index in `container.mounts`.
    pub image_mounts: &'a [(usize, Vec<PathBuf>)],
    /// The sandbox's user namespace, and what its users are on the node.
    pub user_namespace: Option<(PathBuf, IdRange)>,
    /// Where the container's cgroup goes when the sandbox names no parent.
    pub cgroup_root: &'a str,
    pub cgroup_v2: bool,
}

#[derive(Debug)]
pub(crate) struct Plan<'a> {
    /// `config.json` of the OCI runtime specification, but for the user.
    pub spec: Value,
    pub mounts: Vec<RootMount>,
    pub user: UserRequest,
    pub privileges: Privileges,
    pub seccomp: Seccomp<'a>,
    pub pid_namespace: PidNamespace,
    pub cgroup: String,
    pub stop_signal: Signal,
    pub oom_score_adj: Option<i32>,
}

pub(crate) fn plan<'a>(input: &Input<'a>) -> Result<Plan<'a>, SpecError> {
    let container = input.container;
    let context = &container.security_context;
    refuse_unsupported(container)?;
    let privileges = capabilities::privileges(context)?;
    let (namespaced, mounts) = mounts::mounts(input)?;
    let cgroup = cgroup_path(input);
    let linux = json!({
        "namespaces": namespaces(input),
        "cgroupsPath": cgroup,
        "resources": resources::resources(container, input.devices, input.cgroup_v2),
        "devices": input.devices.iter().map(device).collect::<Vec<_>>(),
        "maskedPaths": if context.privileged { &[][..] } else { &context.masked_paths[..] },
        "readonlyPaths": if context.privileged { &[][..] } else { &context.readonly_paths[..] },
        "rootfsPropagation": mounts::rootfs_propagation(container),
    });
    let mut spec = json!({
        "ociVersion": "1.2.0",
        "root": { "path": input.rootfs, "readonly": context.readonly_rootfs },
        "process": {
            "terminal": container.tty,
            "user": { "uid": 0, "gid": 0 },
            "args": process::args(container, input.image)?,
            "env": process::environment(container, input.image, &input.sandbox.hostname)?,
            "cwd": process::working_directory(container, input.image)?,
            "noNewPrivileges": privileges.no_new_privs,
        },
        "mounts": namespaced,
        "linux": linux,
    });
    if !input.hooks.is_null() {
        spec["hooks"] = input.hooks.clone();
    }
    Ok(Plan {
        spec,
        mounts,
        user: user_request(container, input.image),
        privileges,
        seccomp: seccomp(context.privileged, context.seccomp.as_ref()),
        pid_namespace: pid_namespace(container),
        cgroup,
        stop_signal: stop_signal(container, input.image)?,
        oom_score_adj: i32::try_from(container.resources.oom_score_adj.clamp(-1000, 1000)).ok(),
    })
}

fn refuse_unsupported(container: &ContainerConfig) -> Result<(), SpecError> {
    if matches!(container.security_context.apparmor, Some(SecurityProfile::Localhost(_))) {
        return Err(SpecError::Unsupported("an AppArmor profile"));
    }
    Ok(())
}

/// Writes into the specification what Fram's own executor applies behind it: for runtimes that know the specification alone.
pub(crate) fn complete(plan: &mut Plan<'_>, profile: Option<&Profile>) {
    let names = |bits: u64| capability_names(bits).map(|name| format!("CAP_{name}")).collect::<Vec<_>>();
    let (all, ambient) = (names(plan.privileges.capabilities), names(plan.privileges.ambient));
    plan.spec["process"]["capabilities"] =
        json!({ "bounding": all, "effective": all, "permitted": all, "inheritable": ambient, "ambient": ambient });
    // Nothing in it is younger, and older ones refuse what they do not know.
    plan.spec["ociVersion"] = "1.0.2".into();
    if let Some(profile) = profile {
        plan.spec["linux"]["seccomp"] = profile.oci();
    }
}

/// Names without `CAP_`, as the default seccomp profile asks for them.
pub(crate) fn bounding_names(privileges: &Privileges) -> BTreeSet<String> {
    capability_names(privileges.capabilities).map(str::to_owned).collect()
}

/// The network, IPC and UTS namespaces are those of the shim, which every process of the sandbox is a child of, so they
/// need no entry. A pid namespace that is joined gets its path from the shim.
fn namespaces(input: &Input) -> Vec<Value> {
    let mut namespaces = vec![json!({ "type": "mount" })];
    if let Some((path, _)) = &input.user_namespace {
        namespaces.push(json!({ "type": "user", "path": path }));
    }
    if pid_namespace(input.container) == PidNamespace::Container {
        namespaces.push(json!({ "type": "pid" }));
    }
    if input.cgroup_v2 && !input.container.security_context.privileged {
        namespaces.push(json!({ "type": "cgroup" }));
    }
    namespaces
}

fn pid_namespace(container: &ContainerConfig) -> PidNamespace {
    let options = &container.security_context.namespace_options;
    match options.pid {
        NamespaceMode::Container => PidNamespace::Container,
        NamespaceMode::Pod => PidNamespace::Pod,
        NamespaceMode::Node => PidNamespace::Node,
        NamespaceMode::Target => PidNamespace::Target(options.target_id.clone()),
    }
}

fn cgroup_path(input: &Input) -> String {
    let parent = match input.sandbox.linux.cgroup_parent.as_str() {
        "" => format!("{}/{}", input.cgroup_root, input.sandbox.metadata.uid),
        parent => parent.to_owned(),
    };
    format!("/{}/{}", parent.trim_matches('/'), input.container_id)
}

fn device(device: &HostDevice) -> Value {
    json!({
        "path": device.container_path,
        "type": if device.block { "b" } else { "c" },
        "major": device.major,
        "minor": device.minor,
        "fileMode": device.mode & 0o7777,
        "uid": device.uid,
        "gid": device.gid,
    })
}

fn user_request(container: &ContainerConfig, image: &ImageConfig) -> UserRequest {
    let context = &container.security_context;
    UserRequest {
        image_user: image.user.clone(),
        run_as_user: context.run_as_user,
        run_as_group: context.run_as_group,
        run_as_username: context.run_as_username.clone(),
        supplemental_groups: context.supplemental_groups.clone(),
        strict: context.supplemental_groups_policy == SupplementalGroupsPolicy::Strict,
    }
}

fn seccomp(privileged: bool, profile: Option<&SecurityProfile>) -> Seccomp<'_> {
    match profile {
        _ if privileged => Seccomp::Unconfined,
        None | Some(SecurityProfile::RuntimeDefault) => Seccomp::Default,
        Some(SecurityProfile::Unconfined) => Seccomp::Unconfined,
        Some(SecurityProfile::Localhost(path)) => Seccomp::Localhost(path),
    }
}

fn stop_signal(container: &ContainerConfig, image: &ImageConfig) -> Result<Signal, SpecError> {
    match container.stop_signal {
        Some(signal) => Ok(signal),
        None if image.stop_signal.is_empty() => Ok(Signal::TERM),
        None => image.stop_signal.parse().map_err(|_| SpecError::StopSignal(image.stop_signal.clone())),
    }
}

#[cfg(test)]
mod tests;
