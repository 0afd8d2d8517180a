//! The mounts of one container: its volumes, or parts of them, and the files that the kubelet keeps for it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use fram_cri::{ImageSpec, Mount, MountPropagation};
use fram_machinery::Value;

use super::{VolumeError, find, io_error, is_written, kind, path, subpath};
use crate::container::message_path;
use crate::pod;
use crate::pod::environment::expand;

/// The mounts that a container asks for. `environment` is what `subPathExpr` is expanded from; `recursively` says whether the runtime can make
/// all that is mounted below a mount read-only with it.
pub(crate) fn container_mounts(
    pod: &Value,
    container: &Value,
    pod_dir: &Path,
    environment: &[(String, String)],
    recursively: bool,
) -> Result<Vec<Mount>, VolumeError> {
    let mut out = Vec::new();
    for (index, mount) in container.list_at(&["volumeMounts"]).iter().enumerate() {
        let name = mount.str_at(&["name"]);
        let volume = find(pod, name).ok_or_else(|| VolumeError::Unknown(name.to_string()))?;
        let of_claim = volume.bool_at(&["persistentVolumeClaim", "readOnly"]) == Some(true);
        let read_only = mount.bool_at(&["readOnly"]) == Some(true) || of_claim;
        let mut made = Mount {
            container_path: absolute(mount.str_at(&["mountPath"])),
            readonly: read_only,
            propagation: match mount.str_at(&["mountPropagation"]) {
                "HostToContainer" => MountPropagation::HostToContainer,
                "Bidirectional" => MountPropagation::Bidirectional,
                _ => MountPropagation::Private,
            },
            recursive_read_only: read_only && recursive(mount, recursively)?,
            ..Mount::default()
        };
        let sub_path = sub_path(mount, environment)?;
        if kind(volume) == "image" {
            made.image = Some(ImageSpec::new(volume.str_at(&["image", "reference"])));
            made.image_sub_path = sub_path;
            made.readonly = true;
        } else {
            let whole = path(pod_dir, volume);
            made.host_path = match sub_path.as_str() {
                "" => whole,
                sub => {
                    let target = pod_dir.join("volume-subpaths").join(name).join(pod::container_name(container)).join(index.to_string());
                    subpath::bind(&whole, sub, &target)?
                }
            }
            .display()
            .to_string();
        }
        out.push(made);
    }
    Ok(out)
}

/// Whether a mount is read-only with all that is mounted below it (KEP-3857); one that insists on it is not made without.
pub(crate) fn recursive(mount: &Value, supported: bool) -> Result<bool, VolumeError> {
    match mount.str_at(&["recursiveReadOnly"]) {
        "IfPossible" => Ok(supported),
        "Enabled" if supported => Ok(true),
        "Enabled" => Err(VolumeError::Recursive(mount.str_at(&["name"]).to_string())),
        _ => Ok(false),
    }
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_string() } else { format!("/{path}") }
}

fn sub_path(mount: &Value, environment: &[(String, String)]) -> Result<String, VolumeError> {
    let expression = mount.str_at(&["subPathExpr"]);
    let found = |name: &str| environment.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone());
    let sub = match expression {
        "" => mount.str_at(&["subPath"]).to_string(),
        expression => expand(expression, found),
    };
    let outside = sub.starts_with('/') || sub.split('/').any(|step| step == "..");
    // What could not be expanded must not become a directory of that name.
    let unexpanded = !expression.is_empty() && sub.contains("$(");
    if outside || unexpanded { Err(VolumeError::Escapes(sub)) } else { Ok(sub) }
}

/// Files of the kubelet's own in the container: the pod's hosts file, and where the container leaves its last message.
/// Returns their mounts; a mount of the container at the same path wins.
pub(crate) fn host_files(container: &Value, own: &[Mount], pod_dir: &Path, hosts: &str, attempt: u32) -> Result<Vec<Mount>, VolumeError> {
    let taken = |at: &str| own.iter().any(|m| m.container_path == at);
    let mut out = Vec::new();
    if !taken("/etc/hosts") {
        let file = pod_dir.join("etc-hosts");
        write(&file, hosts, 0o644)?;
        out.push(Mount { container_path: "/etc/hosts".into(), host_path: file.display().to_string(), ..Mount::default() });
    }
    let message = message_path(container);
    if !taken(message) {
        let file = message_file(pod_dir, pod::container_name(container), attempt);
        // Whoever the container runs as writes it.
        write(&file, "", 0o666)?;
        out.push(Mount { container_path: message.into(), host_path: file.display().to_string(), ..Mount::default() });
    }
    Ok(out)
}

/// Marks what the runtime has to label for the container, where the kernel has SELinux: what the kubelet itself has made for the pod. Other
/// volumes may be the node's own or in use elsewhere, and are labelled by who owns them.
pub(crate) fn relabel(pod: &Value, container: &Value, mounts: &mut [Mount]) {
    let asked = container.list_at(&["volumeMounts"]);
    for mount in mounts {
        let volume = asked.iter().find(|m| absolute(m.str_at(&["mountPath"])) == mount.container_path).map(|m| m.str_at(&["name"]));
        let managed = |volume: &Value| is_written(volume) || kind(volume) == "emptyDir";
        mount.selinux_relabel = volume.is_none_or(|name| find(pod, name).is_some_and(managed));
    }
}

/// Where a container's termination message is found on the node.
pub(crate) fn message_file(pod_dir: &Path, container: &str, attempt: u32) -> PathBuf {
    pod_dir.join("containers").join(container).join(attempt.to_string())
}

fn write(file: &Path, text: &str, mode: u32) -> Result<(), VolumeError> {
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir).map_err(io_error("create", dir))?;
    }
    // In place: containers that run already have this very file mounted.
    fs::write(file, text).map_err(io_error("write", file))?;
    fs::set_permissions(file, fs::Permissions::from_mode(mode)).map_err(io_error("change the mode of", file))
}
