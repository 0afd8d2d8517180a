//! What is written when a claim is bound to a volume, and the phases of both. Pure.

use fram_machinery::{Value, meta, object};

pub(super) use fram_api::storage::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, PROVISIONED_BY, SELECTED_NODE, claim_reference, class, find, is_block, is_for,
};

/// The volume with its reference to the claim; None where it has it.
pub(super) fn bound_volume(volume: &Value, claim: &Value) -> Option<Value> {
    if claim_reference(volume).is_some_and(|r| r.str_at(&["uid"]) == meta::uid(claim)) {
        return None;
    }
    let mut out = volume.clone();
    if claim_reference(volume).is_none() {
        meta::set_annotation(&mut out, BOUND_BY_CONTROLLER, "yes");
    }
    let reference = object!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": (meta::namespace(claim)), "name": (meta::name(claim)),
        "uid": (meta::uid(claim)), "resourceVersion": (meta::resource_version(claim)) });
    out.set(&["spec", "claimRef"], reference);
    Some(out)
}

/// The claim with the name of its volume; None where it has all of it.
pub(super) fn bound_claim(claim: &Value, volume: &Value) -> Option<Value> {
    let mut out = claim.clone();
    if claim.str_at(&["spec", "volumeName"]) != meta::name(volume) {
        out.set(&["spec", "volumeName"], meta::name(volume));
        meta::set_annotation(&mut out, BOUND_BY_CONTROLLER, "yes");
    }
    meta::set_annotation(&mut out, BIND_COMPLETED, "yes");
    (out != *claim).then_some(out)
}

pub(super) fn bound_claim_status(claim: &Value, volume: &Value) -> Value {
    let mut status = claim.get("status").filter(|s| !s.is_null()).cloned().unwrap_or(object!({}));
    let was = status.str_at(&["phase"]) == "Bound";
    status.set(&["phase"], "Bound");
    status.set(&["accessModes"], volume.at(&["spec", "accessModes"]).cloned());
    // Once bound, what is resized says its capacity itself.
    if !was || status.at(&["capacity"]).is_none() {
        status.set(&["capacity"], volume.at(&["spec", "capacity"]).cloned());
    }
    // So does what changes its attributes later.
    let attributes = volume.at(&["spec", "volumeAttributesClassName"]).filter(|name| !name.is_null());
    match (was, attributes) {
        (true, _) => {}
        (false, Some(name)) => status.set(&["currentVolumeAttributesClassName"], name.clone()),
        (false, None) => drop(status.remove(&["currentVolumeAttributesClassName"])),
    }
    status
}

pub(super) fn is_released(volume: &Value) -> bool {
    matches!(volume.str_at(&["status", "phase"]), "Released" | "Failed")
}

/// What a volume is to the claim that it refers to.
#[derive(Debug, PartialEq)]
pub(super) enum Hold {
    /// It is the claim's, or will be, or there is no such claim.
    Given,
    /// It was made for the claim, which has another one.
    Elsewhere,
    /// The claim has another one: so the volume looks when it is free again.
    Free(Value),
    /// They cannot go together.
    Mismatch,
}

/// See syncVolume and unbindVolume.
pub(super) fn hold(volume: &Value, claim: Option<&Value>) -> Hold {
    let Some(claim) = claim.filter(|_| !volume.str_at(&["spec", "claimRef", "uid"]).is_empty()) else { return Hold::Given };
    let named = claim.str_at(&["spec", "volumeName"]);
    if named.is_empty() {
        return if is_block(volume) == is_block(claim) { Hold::Given } else { Hold::Mismatch };
    }
    if named == meta::name(volume) {
        return Hold::Given;
    }
    let made_for_it = meta::annotation(volume, PROVISIONED_BY).is_some();
    if made_for_it && volume.str_at(&["spec", "persistentVolumeReclaimPolicy"]) == "Delete" {
        return Hold::Elsewhere;
    }
    let mut free = volume.clone();
    if meta::annotation(volume, BOUND_BY_CONTROLLER).is_some() {
        free.remove(&["spec", "claimRef"]);
        free.remove(&["metadata", "annotations", BOUND_BY_CONTROLLER]);
    } else {
        // Somebody set it aside for claims of this name.
        free.remove(&["spec", "claimRef", "uid"]);
    }
    Hold::Free(free)
}

/// The phase of a volume; `claim` is what its reference leads to, by name and UID.
pub(super) fn volume_phase(volume: &Value, claim: Option<&Value>) -> &'static str {
    let Some(reference) = claim_reference(volume) else { return "Available" };
    match (reference.str_at(&["uid"]), claim) {
        // Set aside, not bound yet.
        ("", _) => "Available",
        (_, Some(_)) => "Bound",
        (_, None) if volume.str_at(&["status", "phase"]) == "Failed" => "Failed",
        (_, None) => "Released",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn volume(name: &str, size: &str, spec: Value) -> Arc<Value> {
        let mut volume = object!({ "metadata": { "name": name }, "spec": { "capacity": { "storage": size }, "accessModes": ["ReadWriteOnce"] }, "status": { "phase": "Available" } });
        for (k, v) in spec.as_map().unwrap().iter() {
            volume.set(&["spec", k], v.clone());
        }
        Arc::new(volume)
    }

    fn claim(spec: Value) -> Value {
        let mut claim = object!({ "metadata": { "name": "c", "namespace": "ns", "uid": "u" },
            "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "2Gi" } } } });
        for (k, v) in spec.as_map().unwrap().iter() {
            claim.set(&["spec", k], v.clone());
        }
        claim
    }

    fn found(claim: &Value, volumes: &[Arc<Value>]) -> String {
        find(claim, volumes).map(|v| meta::name(&v).to_string()).unwrap_or_default()
    }

    #[test]
    fn the_smallest_volume_that_fits_is_taken() {
        let volumes = [volume("big", "10Gi", object!({})), volume("fit", "3Gi", object!({})), volume("small", "1Gi", object!({}))];
        assert_eq!(found(&claim(object!({})), &volumes), "fit");
        assert_eq!(found(&claim(object!({ "storageClassName": "gold" })), &volumes), "");
        assert_eq!(found(&claim(object!({ "accessModes": ["ReadWriteMany"] })), &volumes), "");
        assert_eq!(found(&claim(object!({ "volumeMode": "Block" })), &volumes), "");
        assert_eq!(found(&claim(object!({ "selector": { "matchLabels": { "a": "b" } } })), &volumes), "");
    }

    #[test]
    fn a_volume_that_is_set_aside_goes_to_its_claim_only() {
        let aside = |name: &str| object!({ "claimRef": { "namespace": "ns", "name": name } });
        let volumes = [volume("mine", "10Gi", aside("c")), volume("fit", "3Gi", object!({})), volume("other", "2Gi", aside("d"))];
        assert_eq!(found(&claim(object!({})), &volumes), "mine");
    }

    #[test]
    fn a_volume_whose_claim_has_another_one_is_free_again() {
        let held = |name: &str, by_controller: bool, provisioned: bool, policy: &str| {
            let reference =
                object!({ "claimRef": { "namespace": "ns", "name": "c", "uid": "u" }, "persistentVolumeReclaimPolicy": policy });
            let mut volume = (*volume(name, "1Gi", reference)).clone();
            if by_controller {
                meta::set_annotation(&mut volume, BOUND_BY_CONTROLLER, "yes");
            }
            if provisioned {
                meta::set_annotation(&mut volume, PROVISIONED_BY, "p");
            }
            volume
        };
        let has_other = claim(object!({ "volumeName": "other" }));
        assert_eq!(hold(&held("v", true, false, "Retain"), Some(&claim(object!({ "volumeName": "v" })))), Hold::Given);
        assert_eq!(hold(&held("v", true, false, "Retain"), Some(&claim(object!({})))), Hold::Given);
        assert_eq!(hold(&held("v", true, false, "Retain"), None), Hold::Given);
        assert_eq!(hold(&held("v", true, false, "Retain"), Some(&claim(object!({ "volumeMode": "Block" })))), Hold::Mismatch);
        assert_eq!(hold(&held("v", false, true, "Delete"), Some(&has_other)), Hold::Elsewhere);
        let Hold::Free(free) = hold(&held("v", true, true, "Retain"), Some(&has_other)) else { panic!("not free") };
        assert_eq!((claim_reference(&free), meta::annotation(&free, BOUND_BY_CONTROLLER)), (None, None));
        let Hold::Free(aside) = hold(&held("v", false, false, "Delete"), Some(&has_other)) else { panic!("not free") };
        assert_eq!(claim_reference(&aside), Some(&object!({ "namespace": "ns", "name": "c" })));
        assert_eq!(volume_phase(&aside, None), "Available");
    }

    #[test]
    fn binding_is_written_on_both_sides_once() {
        let (claim, volume) = (claim(object!({})), volume("v", "3Gi", object!({})));
        let volume = bound_volume(&volume, &claim).unwrap();
        assert_eq!((volume.str_at(&["spec", "claimRef", "uid"]), meta::annotation(&volume, BOUND_BY_CONTROLLER)), ("u", Some("yes")));
        assert!(bound_volume(&volume, &claim).is_none());
        let bound = bound_claim(&claim, &volume).unwrap();
        assert_eq!(bound.str_at(&["spec", "volumeName"]), "v");
        assert!(bound_claim(&bound, &volume).is_none());
        assert_eq!(bound_claim_status(&bound, &volume).str_at(&["capacity", "storage"]), "3Gi");
        let mut gold = volume.clone();
        gold.set(&["spec", "volumeAttributesClassName"], "gold");
        let mut status = bound_claim_status(&bound, &gold);
        assert_eq!(status.str_at(&["currentVolumeAttributesClassName"]), "gold");
        status.set(&["currentVolumeAttributesClassName"], "silver");
        let mut modified = bound.clone();
        modified.set(&["status"], status.clone());
        assert_eq!(bound_claim_status(&modified, &gold), status, "what a driver has changed since stays");
        assert_eq!((volume_phase(&volume, Some(&claim)), volume_phase(&volume, None)), ("Bound", "Released"));
    }
}
