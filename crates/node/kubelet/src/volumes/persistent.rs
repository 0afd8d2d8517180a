//! Volumes behind claims: directories of this node, as local and hostPath PersistentVolumes name them. See upstream's
//! pkg/volume/local.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use fram_client::local_path;
use fram_machinery::{Value, meta};
use nix::mount::{MsFlags, mount};

use super::{VolumeError, atomic, host_path, io_error, make_dir, mount_point};

/// Why a claim leads to nothing that could be mounted.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum ClaimError {
    #[error("{0}")]
    Api(String),
    #[error("persistentvolumeclaim {0:?} not found")]
    Missing(String),
    #[error("persistentvolumeclaim {0:?} is not bound")]
    Unbound(String),
    #[error("persistentvolumeclaim {0:?} is bound to persistentvolume {1:?}, which is not there or another claim's")]
    Misbound(String, String),
    #[error("persistentvolume {0:?} is of a kind that this node does not support")]
    Unsupported(String),
    #[error("path {0:?} does not exist")]
    NoPath(PathBuf),
}

/// The directory behind a claim.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Source {
    path: PathBuf,
    /// It is made where it is missing.
    make: bool,
    /// A hostPath volume, in the form of a pod's; its group is never changed.
    host: Option<Value>,
}

/// The name of the claim behind a volume of a pod.
pub(crate) fn claim_of(pod: &Value, volume: &Value) -> Option<String> {
    match super::kind(volume) {
        "persistentVolumeClaim" => Some(volume.str_at(&["persistentVolumeClaim", "claimName"]).to_string()),
        "ephemeral" => Some(format!("{}-{}", meta::name(pod), volume.str_at(&["name"]))),
        _ => None,
    }
}

/// What a claim and its volume lead to; `own` is where this node keeps volumes of its own.
pub(crate) fn source(name: &str, claim: Option<&Value>, volume: Option<&Value>, own: Option<&Path>) -> Result<Source, ClaimError> {
    let claim = claim.ok_or_else(|| ClaimError::Missing(name.into()))?;
    let named = claim.str_at(&["spec", "volumeName"]);
    if named.is_empty() || claim.str_at(&["status", "phase"]) != "Bound" {
        return Err(ClaimError::Unbound(name.into()));
    }
    let is_its = |v: &&Value| v.str_at(&["spec", "claimRef", "uid"]) == meta::uid(claim);
    let volume = volume.filter(is_its).ok_or_else(|| ClaimError::Misbound(name.into(), named.into()))?;
    if let Some(local) = volume.at(&["spec", "local"]).filter(|l| !l.is_null()) {
        let path = PathBuf::from(local.str_at(&["path"]));
        let provisioned = meta::annotation(volume, "pv.kubernetes.io/provisioned-by") == Some(local_path::PROVISIONER);
        let make = provisioned && own.is_some_and(|own| path.parent() == Some(own));
        return Ok(Source { path, make, host: None });
    }
    match volume.at(&["spec", "hostPath"]).filter(|h| !h.is_null()) {
        Some(host) => {
            let host_volume = fram_machinery::object!({ "hostPath": (host.clone()) });
            Ok(Source { path: host.str_at(&["path"]).into(), make: false, host: Some(host_volume) })
        }
        None => Err(ClaimError::Unsupported(named.into())),
    }
}

/// Mounts the directory below the pod's own; once.
pub(crate) fn mount_at(pod: &Value, source: &Source, target: &Path) -> Result<(), VolumeError> {
    if is_mounted(target)? {
        return Ok(());
    }
    if source.make && !source.path.exists() {
        make_dir(&source.path, 0o777)?;
    }
    if let Some(host) = &source.host {
        host_path(host, &source.path)?;
    }
    if !source.path.exists() {
        return Err(ClaimError::NoPath(source.path.clone()).into());
    }
    match source.path.is_dir() {
        true => make_dir(target, 0o750)?,
        false => {
            target.parent().map_or(Ok(()), |parent| make_dir(parent, 0o750))?;
            fs::write(target, b"").map_err(io_error("create", target))?;
        }
    }
    let group = pod.at(&["spec", "securityContext"]).and_then(|c| c.int_at(&["fsGroup"])).and_then(|g| u32::try_from(g).ok());
    if let Some(group) = group.filter(|_| source.host.is_none()) {
        let on_mismatch = pod.str_at(&["spec", "securityContext", "fsGroupChangePolicy"]) == "OnRootMismatch";
        let found = fs::metadata(&source.path).map_err(io_error("read", &source.path))?;
        if !on_mismatch || found.gid() != group || found.mode() & 0o2770 != 0o2770 {
            own_all(&source.path, group)?;
        }
    }
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    let mounted = mount(Some(&source.path), target, None::<&str>, flags, None::<&str>);
    mounted.map_err(|errno| io_error("mount", &source.path)(errno.into()))
}

/// A bind mount is on the same device as its parent, so the kernel's table has to be asked.
fn is_mounted(target: &Path) -> Result<bool, VolumeError> {
    let Ok(real) = target.canonicalize() else { return Ok(false) };
    let table = fs::read_to_string("/proc/self/mountinfo").map_err(io_error("read", "/proc/self/mountinfo"))?;
    Ok(table.lines().filter_map(mount_point).any(|point| point == real))
}

/// Gives everything in a volume to a group; see upstream's SetVolumeOwnership.
fn own_all(path: &Path, group: u32) -> Result<(), VolumeError> {
    let kind = fs::symlink_metadata(path).map_err(io_error("read", path))?;
    if kind.is_symlink() {
        return std::os::unix::fs::lchown(path, None, Some(group)).map_err(io_error("change the owner of", path));
    }
    if !kind.is_dir() {
        chown(path, None, Some(group)).map_err(io_error("change the owner of", path))?;
        let mode = fs::Permissions::from_mode(kind.mode() | 0o660);
        return fs::set_permissions(path, mode).map_err(io_error("change the mode of", path));
    }
    atomic::own_dir(path, group)?;
    let entries = fs::read_dir(path).map_err(io_error("read", path))?;
    entries.flatten().try_for_each(|entry| own_all(&entry.path(), group))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    fn claim(phase: &str) -> Value {
        object!({ "metadata": { "uid": "u" }, "spec": { "volumeName": "v" }, "status": { "phase": phase } })
    }

    fn volume(uid: &str, spec: Value) -> Value {
        let mut volume = object!({ "metadata": { "name": "v" }, "spec": spec });
        volume.set(&["spec", "claimRef", "uid"], uid);
        volume
    }

    #[test]
    fn a_claim_leads_to_the_directory_of_its_volume() {
        let local = volume("u", object!({ "local": { "path": "/x/v" } }));
        let found = source("c", Some(&claim("Bound")), Some(&local), None).unwrap();
        assert_eq!((found.path.to_str(), found.make), (Some("/x/v"), false));
        let mut own = local.clone();
        meta::set_annotation(&mut own, "pv.kubernetes.io/provisioned-by", local_path::PROVISIONER);
        assert!(source("c", Some(&claim("Bound")), Some(&own), Some(Path::new("/x"))).unwrap().make);
        assert!(!source("c", Some(&claim("Bound")), Some(&own), Some(Path::new("/y"))).unwrap().make);
    }

    #[test]
    fn what_is_not_bound_to_each_other_is_not_mounted() {
        let local = object!({ "local": { "path": "/x/v" } });
        assert_eq!(source("c", None, None, None), Err(ClaimError::Missing("c".into())));
        assert_eq!(source("c", Some(&claim("Pending")), None, None), Err(ClaimError::Unbound("c".into())));
        let others = volume("other", local);
        assert_eq!(source("c", Some(&claim("Bound")), Some(&others), None), Err(ClaimError::Misbound("c".into(), "v".into())));
        let csi = volume("u", object!({ "csi": {} }));
        assert_eq!(source("c", Some(&claim("Bound")), Some(&csi), None), Err(ClaimError::Unsupported("v".into())));
    }

    #[test]
    fn a_directory_is_made_given_to_the_group_and_mounted_once() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("volumes/v");
        let target = root.path().join("pod/volumes/d");
        let source = Source { path: path.clone(), make: true, host: None };
        let pod = object!({ "spec": { "securityContext": { "fsGroup": 4321 } } });
        mount_at(&pod, &source, &target).unwrap();
        fs::write(target.join("f"), b"x").unwrap();
        mount_at(&pod, &source, &target).unwrap();
        assert_eq!(fs::read(path.join("f")).unwrap(), b"x");
        assert_eq!(fs::metadata(&path).unwrap().gid(), 4321);
        crate::volumes::tear_down(&root.path().join("pod")).unwrap();
        assert!(path.join("f").exists() && !target.exists());
    }
}
