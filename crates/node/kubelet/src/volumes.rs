//! Volumes of pods: directories made, filled, mounted and taken away again. What a volume contains is decided in `payload`.
//! See upstream's pkg/volume; of its plugins those that need no storage system are here.

mod atomic;
pub(crate) mod certificate;
mod mounts;
pub(crate) mod payload;
pub(crate) mod persistent;
mod subpath;
pub(crate) use subpath::beneath;
pub(crate) mod projected;
pub(crate) mod token;
pub(crate) mod trust;
mod variables;
pub(crate) use variables::variable_files;

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use fram_client::{Client, ListOptions, Resource};
use fram_machinery::{Reason, Status, Value};
use nix::mount::{MsFlags, mount};

use crate::pod::resources;
pub(crate) use mounts::{container_mounts, host_files, message_file, recursive, relabel};
use payload::Payload;

#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("{operation} {path:?}: {source}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("hostPath type check failed: {0:?} is not a {1}")]
    HostPath(PathBuf, &'static str),
    #[error("no volume plugin matched: volumes of kind {0} are not supported by this node")]
    Unsupported(String),
    #[error(transparent)]
    Payload(#[from] payload::PayloadError),
    #[error("volume {0:?} is not among the pod's volumes")]
    Unknown(String),
    #[error(transparent)]
    Claim(#[from] persistent::ClaimError),
    #[error("path {0:?} leads out of its volume")]
    Escapes(String),
    #[error("volume {0:?} requested recursive read-only mode, but it is not supported by the runtime")]
    Recursive(String),
    #[error("{0:?} is not a file of variables")]
    Variables(String),
}

pub(crate) fn io_error(operation: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> VolumeError {
    let path = path.as_ref().to_path_buf();
    move |source| VolumeError::Io { operation, path, source }
}

/// What sort of volume it is: the name of the field beside `name`.
pub(crate) fn kind(volume: &Value) -> &str {
    volume.as_map().and_then(|m| m.keys().find(|k| k.as_str() != "name")).map_or("emptyDir", |k| k.as_str())
}

/// Whether the kubelet writes the volume's files, and keeps them current.
pub(crate) fn is_written(volume: &Value) -> bool {
    matches!(kind(volume), "configMap" | "secret" | "downwardAPI" | "projected")
}

fn plugin(kind: &str) -> &'static str {
    match kind {
        "configMap" => "kubernetes.io~configmap",
        "secret" => "kubernetes.io~secret",
        "downwardAPI" => "kubernetes.io~downward-api",
        "projected" => "kubernetes.io~projected",
        "persistentVolumeClaim" | "ephemeral" => "kubernetes.io~local-volume",
        _ => "kubernetes.io~empty-dir",
    }
}

/// Where a volume is found on the node.
pub(crate) fn path(pod_dir: &Path, volume: &Value) -> PathBuf {
    match kind(volume) {
        "hostPath" => volume.str_at(&["hostPath", "path"]).into(),
        kind => pod_dir.join("volumes").join(plugin(kind)).join(volume.str_at(&["name"])),
    }
}

pub(crate) fn find<'a>(pod: &'a Value, name: &str) -> Option<&'a Value> {
    pod.list_at(&["spec", "volumes"]).iter().find(|v| v.str_at(&["name"]) == name)
}

/// Makes one volume ready. `payload` is what a written volume contains. Doing it again changes only what differs.
pub(crate) fn set_up(pod: &Value, volume: &Value, pod_dir: &Path, payload: Option<&Payload>) -> Result<(), VolumeError> {
    let dir = path(pod_dir, volume);
    let fs_group = pod.at(&["spec", "securityContext"]).and_then(|c| c.int_at(&["fsGroup"])).and_then(|g| u32::try_from(g).ok());
    match kind(volume) {
        "emptyDir" => empty_dir(pod, volume, &dir, fs_group),
        "hostPath" => host_path(volume, &dir),
        "configMap" | "downwardAPI" => {
            make_dir(&dir, 0o777)?;
            atomic::write(&dir, payload.unwrap_or(&Payload::new()), fs_group)
        }
        "secret" | "projected" => {
            make_dir(&dir, 0o777)?;
            // Secrets stay off the disk.
            if !is_mount_point(&dir)? {
                mount_tmpfs(&dir, None)?;
            }
            atomic::write(&dir, payload.unwrap_or(&Payload::new()), fs_group)
        }
        // The runtime mounts images; what is behind claims is mounted when it is known.
        "image" | "persistentVolumeClaim" | "ephemeral" => Ok(()),
        other => Err(VolumeError::Unsupported(other.to_string())),
    }
}

fn make_dir(dir: &Path, mode: u32) -> Result<(), VolumeError> {
    fs::create_dir_all(dir).map_err(io_error("create", dir))?;
    // The mode of a new directory is subject to the umask.
    fs::set_permissions(dir, fs::Permissions::from_mode(mode)).map_err(io_error("change the mode of", dir))
}

fn empty_dir(pod: &Value, volume: &Value, dir: &Path, fs_group: Option<u32>) -> Result<(), VolumeError> {
    if dir.exists() {
        return Ok(());
    }
    make_dir(dir, 0o777)?;
    let medium = volume.str_at(&["emptyDir", "medium"]);
    match medium {
        "Memory" => {
            let own = volume.at(&["emptyDir", "sizeLimit"]).and_then(resources::parse).map(|q| q.value());
            let of_pod = Some(resources::pod_resources(pod).memory_limit_in_bytes).filter(|n| *n > 0);
            let size = own.filter(|n| *n > 0).into_iter().chain(of_pod).min();
            // Its root has the mode 1777, which is left as it is, as upstream's setupDir does.
            mount_tmpfs(dir, size)?;
        }
        "" => {}
        other => match other.strip_prefix("HugePages") {
            Some(size) => mount_huge_pages(pod, volume, dir, size)?,
            None => return Err(VolumeError::Unsupported(format!("emptyDir with medium {other}"))),
        },
    }
    match fs_group {
        Some(group) => atomic::own_dir(dir, group),
        None => Ok(()),
    }
}

fn mount_tmpfs(dir: &Path, size: Option<i64>) -> Result<(), VolumeError> {
    let options = size.map(|n| format!("size={n}"));
    let mounted = mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), options.as_deref());
    mounted.map_err(|errno| io_error("mount tmpfs at", dir)(errno.into()))
}

/// `size` is empty or `-SIZE`: without one the pod must use one size only; see getPageSizeMountOption.
fn mount_huge_pages(pod: &Value, volume: &Value, dir: &Path, size: &str) -> Result<(), VolumeError> {
    let unfit = |why: &str| VolumeError::Unsupported(format!("emptyDir of huge pages: {why}"));
    let wanted: Vec<i64> = resources::pod_total(pod, "limits")
        .iter()
        .filter(|(_, amount)| !amount.is_zero())
        .filter_map(|(name, _)| name.strip_prefix("hugepages-")?.parse::<fram_machinery::quantity::Quantity>().ok())
        .map(|q| q.value())
        .collect();
    let page = match size.strip_prefix('-') {
        Some(text) => {
            let page = text.parse::<fram_machinery::quantity::Quantity>().map_err(|_| unfit("the medium names no size"))?.value();
            if wanted.contains(&page) { page } else { return Err(unfit("the pod asks for no pages of that size")) }
        }
        None => match wanted.as_slice() {
            [page] => *page,
            [] => return Err(unfit("the pod asks for none")),
            _ => return Err(unfit("the medium has to name one of the pod's sizes")),
        },
    };
    let limit =
        volume.at(&["emptyDir", "sizeLimit"]).and_then(resources::parse).map(|q| format!(",size={}", q.value())).unwrap_or_default();
    let options = format!("pagesize={page}{limit}");
    let mounted = mount(Some("nodev"), dir, Some("hugetlbfs"), MsFlags::empty(), Some(options.as_str()));
    mounted.map_err(|errno| io_error("mount hugetlbfs at", dir)(errno.into()))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).map_err(io_error("change the mode of", dir))
}

/// A directory on another device than its parent.
pub(crate) fn is_mount_point(dir: &Path) -> Result<bool, VolumeError> {
    let device = |p: &Path| fs::metadata(p).map(|m| m.dev()).map_err(io_error("read", p));
    let Some(parent) = dir.parent() else { return Ok(true) };
    Ok(device(dir)? != device(parent)?)
}

fn host_path(volume: &Value, path: &Path) -> Result<(), VolumeError> {
    let exists = path.exists();
    let refuse = |what| Err(VolumeError::HostPath(path.to_path_buf(), what));
    let is = |test: fn(&fs::FileType) -> bool| fs::metadata(path).is_ok_and(|m| test(&m.file_type()));
    match volume.str_at(&["hostPath", "type"]) {
        // Where nothing is said, container runtimes make what is missing, and pods rely on it.
        "DirectoryOrCreate" | "" if !exists => make_dir(path, 0o755),
        "FileOrCreate" if !exists => {
            let made = fs::OpenOptions::new().create(true).append(true).open(path);
            made.map(drop).map_err(io_error("create", path))?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).map_err(io_error("change the mode of", path))
        }
        "Directory" | "DirectoryOrCreate" if !is(fs::FileType::is_dir) => refuse("directory"),
        "File" | "FileOrCreate" if !is(fs::FileType::is_file) => refuse("file"),
        "Socket" if !is(fs::FileType::is_socket) => refuse("socket file"),
        "CharDevice" if !is(fs::FileType::is_char_device) => refuse("character device"),
        "BlockDevice" if !is(fs::FileType::is_block_device) => refuse("block device"),
        _ => Ok(()),
    }
}

/// Undoes every mount below a pod's directory and removes it. Volumes of the host are only unmounted, never emptied.
pub(crate) fn tear_down(pod_dir: &Path) -> Result<(), VolumeError> {
    if !pod_dir.exists() {
        return Ok(());
    }
    let table = fs::read_to_string("/proc/self/mountinfo").map_err(io_error("read", "/proc/self/mountinfo"))?;
    let real = pod_dir.canonicalize().map_err(io_error("resolve", pod_dir))?;
    let mut points: Vec<PathBuf> = table.lines().filter_map(mount_point).filter(|p| p.starts_with(&real)).collect();
    // The deepest first, and those mounted over one another from the top.
    points.reverse();
    for point in points {
        let flags = nix::mount::MntFlags::UMOUNT_NOFOLLOW | nix::mount::MntFlags::MNT_DETACH;
        nix::mount::umount2(&point, flags).map_err(|errno| io_error("unmount", &point)(errno.into()))?;
    }
    fs::remove_dir_all(pod_dir).map_err(io_error("remove", pod_dir))
}

/// The fifth field of a mountinfo line, with its octal escapes undone.
fn mount_point(line: &str) -> Option<PathBuf> {
    let field = line.split(' ').nth(4)?;
    let mut out = Vec::new();
    let mut bytes = field.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'\\' {
            let digits = [bytes.next()?, bytes.next()?, bytes.next()?];
            out.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 8).ok()?);
        } else {
            out.push(byte);
        }
    }
    Some(PathBuf::from(String::from_utf8(out).ok()?))
}

/// The volumes that containers of the pod mount, in order; others are not set up.
pub(crate) fn used(pod: &Value) -> Vec<&Value> {
    let mounted =
        |name: &str| crate::pod::all_containers(pod).any(|(_, c)| c.list_at(&["volumeMounts"]).iter().any(|m| m.str_at(&["name"]) == name));
    pod.list_at(&["spec", "volumes"]).iter().filter(|v| mounted(v.str_at(&["name"]))).collect()
}

/// One block of PEM.
fn pem_text(block: &pem::Pem) -> String {
    pem::encode_config(block, pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF))
}

/// Certificates as PEM, without headers and with nothing between them.
fn certificates_pem(certificates: impl IntoIterator<Item = Vec<u8>>) -> String {
    certificates.into_iter().map(|der| pem_text(&pem::Pem::new("CERTIFICATE", der))).collect()
}

/// Whether the API server serves a resource at all; `fields` is what this node may list of it.
async fn served(client: &Client, resource: &Resource, fields: &str) -> Result<bool, Status> {
    let options = ListOptions { field_selector: fields.into(), limit: 1, ..ListOptions::default() };
    match client.all(resource).list(options).await {
        Ok(_) => Ok(true),
        Err(status) if status.is(Reason::NotFound) => Ok(false),
        Err(status) => Err(status),
    }
}

/// Shown in events: which pod and volume it is about.
pub(crate) fn failure_message(volume: &Value, error: &dyn std::fmt::Display) -> String {
    format!("MountVolume.SetUp failed for volume {:?} : {error}", volume.str_at(&["name"]))
}

/// The name of the pod's service account.
pub(crate) fn service_account(pod: &Value) -> &str {
    match pod.str_at(&["spec", "serviceAccountName"]) {
        "" => "default",
        name => name,
    }
}

#[cfg(test)]
mod tests;
