//! Device nodes of the host, looked up for containers that ask for them.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use fram_cri::{ContainerConfig, CriError, CriResult};
use nix::sys::stat::{major, minor};

use crate::spec::HostDevice;

/// What a privileged container does not get from the host's /dev: directories that the container has of its own.
const SKIPPED: [&str; 6] = ["pts", "shm", "fd", "mqueue", "console", "ptmx"];

pub(crate) fn look_up(container: &ContainerConfig) -> CriResult<Vec<HostDevice>> {
    let mut devices = Vec::new();
    if container.security_context.privileged {
        let dev = Path::new("/dev");
        walk(dev, dev, "rwm", &mut devices).map_err(|error| CriError::io("list devices in", dev, error))?;
    }
    for device in &container.devices {
        let host = Path::new(&device.host_path);
        let inside = if device.container_path.is_empty() { host } else { Path::new(&device.container_path) };
        let permissions = if device.permissions.is_empty() { "rwm" } else { &device.permissions };
        let failed = |error| CriError::io("look up device", host, error);
        let before = devices.len();
        if fs::metadata(host).map_err(failed)?.is_dir() {
            walk(host, inside, permissions, &mut devices).map_err(failed)?;
        } else {
            devices.extend(node(host, inside, permissions).map_err(failed)?);
        }
        if devices.len() == before {
            return Err(CriError::InvalidArgument(format!("{:?} is not a device", device.host_path)));
        }
    }
    Ok(devices)
}

fn walk(host: &Path, inside: &Path, permissions: &str, devices: &mut Vec<HostDevice>) -> io::Result<()> {
    for entry in fs::read_dir(host)?.flatten() {
        let (host, inside) = (entry.path(), inside.join(entry.file_name()));
        let Ok(kind) = entry.file_type() else { continue };
        if SKIPPED.iter().any(|skipped| entry.file_name() == *skipped) {
            continue;
        }
        if kind.is_dir() {
            walk(&host, &inside, permissions, devices)?;
        } else if kind.is_char_device() || kind.is_block_device() {
            // One that went away meanwhile is not there to be given.
            devices.extend(node(&host, &inside, permissions).ok().flatten());
        }
    }
    Ok(())
}

pub(crate) fn node(host: &Path, inside: &Path, permissions: &str) -> io::Result<Option<HostDevice>> {
    let metadata = fs::metadata(host)?;
    let kind = metadata.file_type();
    let is_device = kind.is_char_device() || kind.is_block_device();
    Ok(is_device.then(|| HostDevice {
        container_path: inside.to_path_buf(),
        block: kind.is_block_device(),
        major: major(metadata.rdev()),
        minor: minor(metadata.rdev()),
        mode: metadata.mode(),
        uid: metadata.uid(),
        gid: metadata.gid(),
        permissions: permissions.to_owned(),
    }))
}
