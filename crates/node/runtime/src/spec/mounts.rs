//! Mounts of a container: the kernel's file systems, the sandbox's files, and what the pod mounts.

use std::path::{Path, PathBuf};

use fram_cri::{ContainerConfig, Mount, MountPropagation};
use serde_json::{Value, json};

use super::{Input, SpecError};
use crate::protocol::StagedMount;

/// The mounts of the specification in their order, and the sources to stage for them.
pub(super) fn mounts(input: &Input) -> Result<(Vec<Value>, Vec<StagedMount>), SpecError> {
    let container = input.container;
    for mount in &container.mounts {
        validate(mount)?;
    }
    let taken: Vec<PathBuf> = container.mounts.iter().map(|mount| clean(&mount.container_path)).collect();
    let mut mounts: Vec<Value> = kernel_mounts(container.security_context.privileged)
        .into_iter()
        .filter(|mount| !taken.contains(&clean(mount["destination"].as_str().unwrap_or_default())))
        .collect();
    let own = [
        ("/etc/hostname", &input.files.hostname),
        ("/etc/hosts", &input.files.hosts),
        ("/etc/resolv.conf", &input.files.resolv_conf),
        ("/dev/shm", &input.files.shm),
    ];
    let readonly = container.security_context.readonly_rootfs;
    for (destination, source) in own {
        if source.as_os_str().is_empty() || taken.iter().any(|path| path == Path::new(destination)) {
            continue;
        }
        // The files of /etc are as writable as the root file system; /dev/shm always is.
        let mode = if readonly && destination != "/dev/shm" { "ro" } else { "rw" };
        mounts.push(json!({
            "destination": destination, "type": "bind", "source": source, "options": ["rbind", mode],
        }));
    }
    let mut staged = Vec::new();
    for index in by_depth(&container.mounts) {
        let (mount, stage) = pod_mount(input, index, &container.mounts[index]);
        mounts.push(mount);
        staged.push(stage);
    }
    Ok((mounts, staged))
}

/// A bidirectional mount reaches the host only from a shared tree; without one the tree is a slave of the host's, which
/// is what `HostToContainer` needs.
pub(super) fn rootfs_propagation(container: &ContainerConfig) -> &'static str {
    let bidirectional = container.mounts.iter().any(|mount| mount.propagation == MountPropagation::Bidirectional);
    if bidirectional { "shared" } else { "slave" }
}

fn validate(mount: &Mount) -> Result<(), SpecError> {
    let fail = |reason| Err(SpecError::Mount(mount.container_path.clone(), reason));
    if !mount.container_path.starts_with('/') {
        return fail("the container path is not absolute");
    }
    if mount.image.is_none() && !mount.host_path.starts_with('/') {
        return fail("the host path is not absolute");
    }
    if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
        return fail("id mappings are not supported");
    }
    if mount.recursive_read_only && !(mount.readonly && mount.propagation == MountPropagation::Private) {
        return fail("recursive read-only needs a read-only mount without propagation");
    }
    Ok(())
}

fn clean(path: &str) -> PathBuf {
    Path::new(path).components().collect()
}

/// Parents before what is mounted inside them; otherwise as the pod lists them.
fn by_depth(mounts: &[Mount]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..mounts.len()).collect();
    order.sort_by_key(|index| clean(&mounts[*index].container_path).components().count());
    order
}

fn pod_mount(input: &Input, index: usize, mount: &Mount) -> (Value, StagedMount) {
    let layers = input.image_mounts.iter().find(|(of, _)| *of == index).map(|(_, layers)| layers.clone());
    let path = input.staging.join(index.to_string());
    let stage = StagedMount {
        source: PathBuf::from(&mount.host_path),
        staged: path.clone(),
        propagation: mount.propagation,
        layers: layers.unwrap_or_default(),
        sub_path: PathBuf::from(&mount.image_sub_path),
    };
    let mode = match (mount.readonly || mount.image.is_some(), mount.recursive_read_only) {
        (true, true) => "rro",
        (true, false) => "ro",
        (false, _) => "rw",
    };
    let value = json!({
        "destination": mount.container_path, "type": "bind", "source": path, "options": ["rbind", mode],
    });
    (value, stage)
}

fn kernel_mounts(privileged: bool) -> Vec<Value> {
    let mode = if privileged { "rw" } else { "ro" };
    vec![
        json!({
            "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"],
        }),
        json!({
            "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        }),
        json!({
            "destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        }),
        json!({
            "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
            "options": ["nosuid", "noexec", "nodev"],
        }),
        json!({
            "destination": "/sys", "type": "sysfs", "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", mode],
        }),
        json!({
            "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", mode],
        }),
    ]
}
