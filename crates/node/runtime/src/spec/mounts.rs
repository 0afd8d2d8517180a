//! Mounts of a container: the kernel's file systems, the sandbox's files, and what the pod mounts.

use std::path::{Path, PathBuf};

use fram_cri::{ContainerConfig, Mount, MountPropagation};
use serde_json::{Value, json};

use super::{Input, SpecError};
use crate::protocol::{IdRange, MountSource, RootMount};

/// The group of terminals.
const TTY: u32 = 5;

/// The mounts that must wait for the container's own namespaces, for the specification; and all others, in their order.
pub(super) fn mounts(input: &Input) -> Result<(Vec<Value>, Vec<RootMount>), SpecError> {
    let container = input.container;
    for mount in &container.mounts {
        validate(mount)?;
    }
    let taken: Vec<PathBuf> = container.mounts.iter().map(|mount| clean(&mount.container_path)).collect();
    let is_free = |mount: &RootMount| !taken.contains(&mount.destination);
    let ids = input.user_namespace.as_ref().map(|(_, ids)| *ids).unwrap_or_default();
    let mut mounts: Vec<RootMount> = kernel_mounts(container.security_context.privileged, input.cgroup_v2, ids);
    mounts.extend(sandbox_mounts(input));
    mounts.retain(is_free);
    let order = by_depth(&container.mounts);
    mounts.extend(order.into_iter().map(|index| pod_mount(input, index, &container.mounts[index])));
    Ok((namespaced_mounts(container.security_context.privileged, input.cgroup_v2), mounts))
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
    if clean(&mount.container_path).starts_with("/proc") {
        return fail("nothing can be mounted in /proc");
    }
    if mount.image.is_none() && !mount.host_path.starts_with('/') {
        return fail("the host path is not absolute");
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

fn attributes(text: &str) -> Vec<String> {
    text.split_ascii_whitespace().map(str::to_owned).collect()
}

/// The files of /etc are as writable as the root file system; /dev/shm always is.
fn sandbox_mounts(input: &Input) -> Vec<RootMount> {
    let files = input.files;
    let etc = if input.container.security_context.readonly_rootfs { "ro" } else { "" };
    let own = [
        ("/etc/hostname", &files.hostname, etc),
        ("/etc/hosts", &files.hosts, etc),
        ("/etc/resolv.conf", &files.resolv_conf, etc),
        ("/dev/shm", &files.shm, "nosuid nodev noexec"),
    ];
    let mount = |(destination, source, mode): (&str, &PathBuf, &str)| RootMount {
        destination: destination.into(),
        source: MountSource::Bind { path: source.clone(), propagation: MountPropagation::Private },
        attributes: attributes(mode),
    };
    own.into_iter().map(mount).collect()
}

fn pod_mount(input: &Input, index: usize, mount: &Mount) -> RootMount {
    let layers = input.image_mounts.iter().find(|(of, _)| *of == index).map(|(_, layers)| layers.clone());
    let source = match layers {
        Some(layers) => MountSource::Image { layers, sub_path: PathBuf::from(&mount.image_sub_path) },
        None => MountSource::Bind { path: PathBuf::from(&mount.host_path), propagation: mount.propagation },
    };
    let mode = match (mount.readonly || mount.image.is_some(), mount.recursive_read_only) {
        (true, true) => "rro",
        (true, false) => "ro",
        (false, _) => "",
    };
    RootMount { destination: clean(&mount.container_path), source, attributes: attributes(mode) }
}

/// A mount of /proc shows the pid namespace, one of a version 2 hierarchy the cgroup namespace, of who makes it.
fn namespaced_mounts(privileged: bool, cgroup_v2: bool) -> Vec<Value> {
    let mut mounts = vec![json!({
        "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"],
    })];
    if cgroup_v2 {
        let mode = if privileged { "rw" } else { "ro" };
        mounts.push(json!({
            "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", mode],
        }));
    }
    mounts
}

/// What belongs to the container's root there belongs to whoever that is on the node.
fn kernel_mounts(privileged: bool, cgroup_v2: bool, ids: IdRange) -> Vec<RootMount> {
    let mode = if privileged { "" } else { " ro" };
    let system = |destination: &str, kind: &str, options: &[(&str, &str)], mode: &str| RootMount {
        destination: destination.into(),
        source: MountSource::Filesystem {
            kind: kind.into(),
            options: options.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
        },
        attributes: attributes(mode),
    };
    let (uid, gid, tty) = (ids.uid.to_string(), ids.gid.to_string(), (ids.gid + TTY).to_string());
    let pts = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", tty.as_str())];
    let dev = [("mode", "755"), ("size", "65536k"), ("uid", uid.as_str()), ("gid", gid.as_str())];
    let mut mounts = vec![
        system("/dev", "tmpfs", &dev, "nosuid"),
        system("/dev/pts", "devpts", &pts, "nosuid noexec"),
        system("/dev/mqueue", "mqueue", &[], "nosuid noexec nodev"),
        system("/sys", "sysfs", &[], &format!("nosuid noexec nodev{mode}")),
    ];
    if !cgroup_v2 {
        mounts.push(RootMount {
            destination: "/sys/fs/cgroup".into(),
            source: MountSource::Cgroup,
            attributes: attributes(&format!("nosuid noexec nodev{mode}")),
        });
    }
    mounts
}
