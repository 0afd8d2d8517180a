//! Which volume a claim is bound to, and the phases of both. Pure.

use std::sync::Arc;

use fram_machinery::labels::Selector;
use fram_machinery::quantity::Quantity;
use fram_machinery::{Value, meta, object};

pub(super) const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
pub(super) const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
pub(super) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
pub(super) const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";

pub(super) fn class(object: &Value) -> &str {
    meta::annotation(object, CLASS).unwrap_or_else(|| object.str_at(&["spec", "storageClassName"]))
}

fn claim_reference(volume: &Value) -> Option<&Value> {
    volume.at(&["spec", "claimRef"]).filter(|r| !r.is_null())
}

/// Whether a volume is set aside for a claim: by name, and by UID where it says one.
pub(super) fn is_for(volume: &Value, claim: &Value) -> bool {
    claim_reference(volume).is_some_and(|r| {
        let uid = r.str_at(&["uid"]);
        r.str_at(&["name"]) == meta::name(claim)
            && r.str_at(&["namespace"]) == meta::namespace(claim)
            && (uid.is_empty() || uid == meta::uid(claim))
    })
}

fn capacity(volume: &Value) -> Quantity {
    volume.str_at(&["spec", "capacity", "storage"]).parse().unwrap_or(Quantity::zero())
}

/// Whether a volume can serve a claim at all; a volume that is set aside need not match its selector or class.
fn serves(volume: &Value, claim: &Value) -> bool {
    let mode = |o: &Value| if o.str_at(&["spec", "volumeMode"]) == "Block" { "Block" } else { "Filesystem" };
    let modes = volume.list_at(&["spec", "accessModes"]);
    let wanted: Quantity = claim.str_at(&["spec", "resources", "requests", "storage"]).parse().unwrap_or(Quantity::zero());
    mode(volume) == mode(claim)
        && claim.list_at(&["spec", "accessModes"]).iter().all(|m| modes.contains(m))
        && capacity(volume) >= wanted
        && !meta::is_terminating(volume)
}

/// The volume for a claim: one that is set aside for it, else the smallest that is free and fits.
pub(super) fn find(claim: &Value, volumes: &[Arc<Value>]) -> Option<Arc<Value>> {
    if let Some(own) = volumes.iter().find(|v| is_for(v, claim) && serves(v, claim)) {
        return Some(own.clone());
    }
    let selector = Selector::from_object(claim.at(&["spec", "selector"]).filter(|s| !s.is_null())).ok()?;
    let attributes = |o: &Value| o.str_at(&["spec", "volumeAttributesClassName"]).to_string();
    let free = |v: &&Arc<Value>| {
        claim_reference(v).is_none()
            && v.str_at(&["status", "phase"]) == "Available"
            && class(v) == class(claim)
            && attributes(v) == attributes(claim)
            && selector.as_ref().is_none_or(|s| s.matches(meta::labels(v)))
            && serves(v, claim)
    };
    volumes.iter().filter(free).min_by_key(|v| (capacity(v), meta::name(v).to_string())).cloned()
}

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
    status
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
    fn binding_is_written_on_both_sides_once() {
        let (claim, volume) = (claim(object!({})), volume("v", "3Gi", object!({})));
        let volume = bound_volume(&volume, &claim).unwrap();
        assert_eq!((volume.str_at(&["spec", "claimRef", "uid"]), meta::annotation(&volume, BOUND_BY_CONTROLLER)), ("u", Some("yes")));
        assert!(bound_volume(&volume, &claim).is_none());
        let bound = bound_claim(&claim, &volume).unwrap();
        assert_eq!(bound.str_at(&["spec", "volumeName"]), "v");
        assert!(bound_claim(&bound, &volume).is_none());
        assert_eq!(bound_claim_status(&bound, &volume).str_at(&["capacity", "storage"]), "3Gi");
        assert_eq!((volume_phase(&volume, Some(&claim)), volume_phase(&volume, None)), ("Bound", "Released"));
    }
}
