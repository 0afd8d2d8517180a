//! What a volume of a directory below /tmp looks like, and when it is over. Pure.

use fram_api::storage::{PROVISIONED_BY, SELECTED_NODE, class};
use fram_machinery::{Value, meta, object};

pub(super) const PROVISIONER: &str = "kubernetes.io/host-path";
const DIRECTORY: &str = "/tmp/hostpath_pv/";

/// Whether a claim has to get a volume from here now: it names this provisioner. There is one node, so none has to be chosen; where one
/// has been, the claim names it.
pub(super) fn is_mine(claim: &Value) -> bool {
    meta::annotation(claim, "volume.kubernetes.io/storage-provisioner") == Some(PROVISIONER)
        && meta::annotation(claim, SELECTED_NODE).is_none_or(|node| !node.is_empty())
        && claim.str_at(&["spec", "volumeName"]).is_empty()
        && !meta::is_terminating(claim)
}

/// The directory of a volume from here that is used up; no other directory is ever removed.
pub(super) fn over(volume: &Value) -> Option<&str> {
    let path = volume.str_at(&["spec", "hostPath", "path"]);
    let own = path.strip_prefix(DIRECTORY).is_some_and(|rest| !rest.is_empty() && !rest.starts_with('.') && !rest.contains('/'));
    let is_over = meta::annotation(volume, PROVISIONED_BY) == Some(PROVISIONER)
        && volume.str_at(&["spec", "persistentVolumeReclaimPolicy"]) == "Delete"
        && volume.str_at(&["status", "phase"]) == "Released";
    (own && is_over && !meta::is_terminating(volume)).then_some(path)
}

/// The volume for a claim, or why there can be none. Its name and directory are the same whenever it is tried.
pub(super) fn volume(claim: &Value, of: &Value) -> Result<Value, &'static str> {
    if claim.str_at(&["spec", "volumeMode"]) == "Block" {
        return Err("kubernetes.io/host-path does not support block volume provisioning");
    }
    if claim.at(&["spec", "selector"]).is_some_and(|s| !s.is_null()) {
        return Err("claim.Spec.Selector is not supported for dynamic provisioning");
    }
    let policy = match of.str_at(&["reclaimPolicy"]) {
        "" => "Delete",
        policy => policy,
    };
    let mut volume = object!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": { "name": (format!("pvc-{}", meta::uid(claim))), "annotations": { "kubernetes.io/createdby": "hostpath-dynamic-provisioner" } },
        "spec": {
            "accessModes": (claim.list_at(&["spec", "accessModes"]).to_vec()),
            "capacity": { "storage": (claim.str_at(&["spec", "resources", "requests", "storage"])) },
            "claimRef": { "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": (meta::namespace(claim)),
                "name": (meta::name(claim)), "uid": (meta::uid(claim)), "resourceVersion": (meta::resource_version(claim)) },
            "hostPath": { "path": (format!("{DIRECTORY}{}", meta::uid(claim))) },
            "persistentVolumeReclaimPolicy": policy, "storageClassName": (class(claim)), "volumeMode": "Filesystem"
        }
    });
    if let Some(attributes) = claim.at(&["spec", "volumeAttributesClassName"]).filter(|name| !name.is_null()) {
        volume.set(&["spec", "volumeAttributesClassName"], attributes.clone());
    }
    meta::set_annotation(&mut volume, PROVISIONED_BY, PROVISIONER);
    Ok(volume)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(provisioner: &str) -> Value {
        let mut claim = object!({ "metadata": { "name": "data", "namespace": "ns", "uid": "u" }, "spec": {
            "storageClassName": "host", "accessModes": ["ReadWriteMany"], "resources": { "requests": { "storage": "1Gi" } } } });
        meta::set_annotation(&mut claim, "volume.kubernetes.io/storage-provisioner", provisioner);
        claim
    }

    fn made(policy: &str) -> Value {
        volume(&claim(PROVISIONER), &object!({ "reclaimPolicy": policy })).unwrap()
    }

    #[test]
    fn a_claim_that_names_this_provisioner_gets_a_directory_of_its_own() {
        assert!(is_mine(&claim(PROVISIONER)) && !is_mine(&claim("other.example/p")));
        let volume = made("Retain");
        assert_eq!(volume.str_at(&["spec", "hostPath", "path"]), "/tmp/hostpath_pv/u");
        assert_eq!(volume.str_at(&["spec", "persistentVolumeReclaimPolicy"]), "Retain");
        let mut block = claim(PROVISIONER);
        block.set(&["spec", "volumeMode"], "Block");
        assert!(super::volume(&block, &Value::Null).is_err());
    }

    #[test]
    fn only_directories_from_here_are_removed_and_only_where_the_volume_says_so() {
        let released = |policy: &str, path: &str| {
            let mut volume = made(policy);
            volume.set(&["status", "phase"], "Released");
            volume.set(&["spec", "hostPath", "path"], path);
            over(&volume).is_some()
        };
        assert!(released("Delete", "/tmp/hostpath_pv/u") && !released("Retain", "/tmp/hostpath_pv/u"));
        for path in ["/tmp/hostpath_pv/", "/tmp/hostpath_pv/..", "/tmp/hostpath_pv/../../etc", "/etc", "/tmp/hostpath_pv/u/v", ""] {
            assert!(!released("Delete", path), "{path}");
        }
        assert!(over(&made("Delete")).is_none());
    }
}
