//! Which PersistentVolumes serve which claims: what the controller that binds them and the scheduler have to agree on. Pure.

use std::sync::Arc;

use fram_machinery::labels::Selector;
use fram_machinery::quantity::Quantity;
use fram_machinery::{Value, meta};

pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// The names of a pod's claims, those of its ephemeral volumes too.
pub fn claims_of(pod: &Value) -> impl Iterator<Item = String> {
    pod.list_at(&["spec", "volumes"]).iter().filter_map(|volume| claim_of(pod, volume))
}

/// The name of the claim behind a volume of a pod.
pub fn claim_of(pod: &Value, volume: &Value) -> Option<String> {
    match volume.str_at(&["persistentVolumeClaim", "claimName"]) {
        "" if is_ephemeral(volume) => Some(format!("{}-{}", meta::name(pod), volume.str_at(&["name"]))),
        "" => None,
        name => Some(name.to_string()),
    }
}

/// Whether a volume has a claim that is made for it.
pub fn is_ephemeral(volume: &Value) -> bool {
    volume.get("ephemeral").is_some_and(|e| !e.is_null())
}

/// Whether a claim has its volume.
pub fn is_bound(claim: &Value) -> bool {
    !claim.str_at(&["spec", "volumeName"]).is_empty() && meta::annotation(claim, BIND_COMPLETED).is_some()
}

/// Whether claims of a class wait for the node of the first pod that uses them.
pub fn waits_for_consumer(class: &Value) -> bool {
    class.str_at(&["volumeBindingMode"]) == "WaitForFirstConsumer"
}

/// The class of a volume or claim.
pub fn class(object: &Value) -> &str {
    meta::annotation(object, CLASS).unwrap_or_else(|| object.str_at(&["spec", "storageClassName"]))
}

/// The claim that a volume is for, where it is for one.
pub fn claim_reference(volume: &Value) -> Option<&Value> {
    volume.at(&["spec", "claimRef"]).filter(|r| !r.is_null())
}

/// Whether a volume is set aside for a claim: by name, and by UID where it says one.
pub fn is_for(volume: &Value, claim: &Value) -> bool {
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

/// The volume for a claim among those that are `allowed`: one that is set aside for it, else the smallest that is free and fits.
pub fn find(claim: &Value, volumes: &[Arc<Value>], allowed: impl Fn(&Value) -> bool) -> Option<Arc<Value>> {
    if let Some(own) = volumes.iter().find(|v| is_for(v, claim) && serves(v, claim) && allowed(v)) {
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
            && allowed(v)
    };
    volumes.iter().filter(free).min_by_key(|v| (capacity(v), meta::name(v).to_string())).cloned()
}
