//! Which claims and volumes are the embedded storage's, and what its volumes look like. Pure.

use std::path::Path;
use std::sync::Arc;

use fram_api::storage::{PROVISIONED_BY, SELECTED_NODE, class};
use fram_client::local_path::{DIRECTORY, NODE, PROVISIONER, label_of};
use fram_machinery::{Value, meta, object};

/// Whether a claim has to get a volume from here now: it names this provisioner, and its node is chosen.
pub(super) fn is_mine(claim: &Value) -> bool {
    meta::annotation(claim, "volume.kubernetes.io/storage-provisioner") == Some(PROVISIONER)
        && meta::annotation(claim, SELECTED_NODE).is_some_and(|node| !node.is_empty())
        && claim.str_at(&["spec", "volumeName"]).is_empty()
        && !meta::is_terminating(claim)
}

/// Whether a volume from here is used up and to be deleted.
pub(super) fn is_over(volume: &Value) -> bool {
    meta::annotation(volume, PROVISIONED_BY) == Some(PROVISIONER)
        && volume.str_at(&["spec", "persistentVolumeReclaimPolicy"]) == "Delete"
        && volume.str_at(&["status", "phase"]) == "Released"
        && !meta::is_terminating(volume)
}

/// A volume from here by whose label its node does not find it, with that label.
pub(super) fn labelled(volume: &Value) -> Option<Value> {
    let label = label_of(meta::annotation(volume, NODE).filter(|_| meta::has_finalizer(volume, PROVISIONER))?);
    if meta::label(volume, NODE) == Some(&label) {
        return None;
    }
    let mut volume = volume.clone();
    volume.set(&["metadata", "labels", NODE], label);
    Some(volume)
}

/// The same name whenever it is tried, so that a claim never gets two volumes.
pub(super) fn volume_name(claim: &Value) -> String {
    format!("pvc-{}", meta::uid(claim))
}

/// The node that was selected, if it keeps volumes.
pub(super) fn node(name: &str, nodes: &[Arc<Value>]) -> Option<Arc<Value>> {
    nodes.iter().find(|n| meta::name(n) == name && meta::annotation(n, DIRECTORY).is_some()).cloned()
}

/// The volume for a claim on a node, or why there can be none.
pub(super) fn volume(claim: &Value, of: &Value, node: &Value) -> Result<Value, &'static str> {
    if claim.str_at(&["spec", "volumeMode"]) == "Block" {
        return Err("only volumes with a file system are supported");
    }
    if claim.list_at(&["spec", "accessModes"]).iter().any(|mode| !matches!(mode.as_str(), Some("ReadWriteOnce" | "ReadWriteOncePod"))) {
        return Err("only the access modes ReadWriteOnce and ReadWriteOncePod are supported");
    }
    if claim.at(&["spec", "selector"]).is_some_and(|s| !s.is_null()) {
        return Err("claim.spec.selector is not supported");
    }
    let name = volume_name(claim);
    let directory = format!("{name}_{}_{}", meta::namespace(claim), meta::name(claim));
    let path = Path::new(meta::annotation(node, DIRECTORY).unwrap_or_default()).join(directory);
    let host = meta::label(node, "kubernetes.io/hostname").unwrap_or(meta::name(node));
    let term = object!({ "matchExpressions": [{ "key": "kubernetes.io/hostname", "operator": "In", "values": [host] }] });
    let policy = match of.str_at(&["reclaimPolicy"]) {
        "" => "Delete",
        policy => policy,
    };
    let mut volume = object!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": { "name": name, "annotations": {}, "labels": {}, "finalizers": [PROVISIONER] },
        "spec": {
            "accessModes": (claim.list_at(&["spec", "accessModes"]).to_vec()),
            "capacity": { "storage": (claim.str_at(&["spec", "resources", "requests", "storage"])) },
            "claimRef": { "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": (meta::namespace(claim)),
                "name": (meta::name(claim)), "uid": (meta::uid(claim)), "resourceVersion": (meta::resource_version(claim)) },
            "local": { "path": (path.display().to_string()) },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [term] } },
            "persistentVolumeReclaimPolicy": policy, "storageClassName": (class(claim)), "volumeMode": "Filesystem"
        }
    });
    meta::set_annotation(&mut volume, PROVISIONED_BY, PROVISIONER);
    meta::set_annotation(&mut volume, NODE, meta::name(node));
    volume.set(&["metadata", "labels", NODE], label_of(meta::name(node)));
    Ok(volume)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim() -> Value {
        let mut claim = object!({ "metadata": { "name": "data", "namespace": "ns", "uid": "u" }, "spec": {
            "storageClassName": "local-path", "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } } });
        meta::set_annotation(&mut claim, "volume.kubernetes.io/storage-provisioner", PROVISIONER);
        meta::set_annotation(&mut claim, SELECTED_NODE, "n");
        claim
    }

    fn host() -> Value {
        let mut node = object!({ "metadata": { "name": "n", "labels": { "kubernetes.io/hostname": "h" } } });
        meta::set_annotation(&mut node, DIRECTORY, "/data/volumes");
        node
    }

    #[test]
    fn a_volume_lies_on_its_node_and_is_held_until_that_has_removed_it() {
        let volume = volume(&claim(), &object!({ "reclaimPolicy": "Retain" }), &host()).unwrap();
        assert_eq!(volume.str_at(&["spec", "local", "path"]), "/data/volumes/pvc-u_ns_data");
        assert_eq!(volume.str_at(&["spec", "persistentVolumeReclaimPolicy"]), "Retain");
        assert!(meta::has_finalizer(&volume, PROVISIONER) && meta::annotation(&volume, NODE) == Some("n"));
    }

    #[test]
    fn a_node_finds_its_volumes_by_a_label_whatever_was_done_to_it() {
        let made = volume(&claim(), &object!({}), &host()).unwrap();
        assert_eq!((meta::label(&made, NODE), labelled(&made)), (Some("n"), None));
        let mut other = made.clone();
        other.set(&["metadata", "labels", NODE], "m");
        assert_eq!(labelled(&other), Some(made));
        assert_eq!(labelled(&object!({ "metadata": { "name": "another's" } })), None);
    }

    #[test]
    fn only_a_claim_whose_node_is_chosen_gets_a_volume() {
        assert!(is_mine(&claim()));
        let mut early = claim();
        meta::set_annotation(&mut early, SELECTED_NODE, "");
        assert!(!is_mine(&early));
        assert!(node("n", &[Arc::new(host())]).is_some() && node("m", &[Arc::new(host())]).is_none());
    }

    #[test]
    fn what_a_directory_cannot_be_is_refused() {
        for (path, value) in [("volumeMode", object!("Block")), ("accessModes", object!(["ReadWriteMany"]))] {
            let mut claim = claim();
            claim.set(&["spec", path], value);
            assert!(volume(&claim, &Value::Null, &host()).is_err(), "{path}");
        }
    }

    #[test]
    fn a_released_volume_is_deleted_unless_it_is_retained() {
        let released = |policy: &str| {
            let mut volume = volume(&claim(), &object!({ "reclaimPolicy": policy }), &host()).unwrap();
            volume.set(&["status", "phase"], "Released");
            is_over(&volume)
        };
        assert!(released("Delete") && !released("Retain"));
    }
}
