//! Which PersistentVolumes serve which claims: what the controller that binds them and the scheduler have to agree on. Pure.

use std::sync::Arc;

use fram_machinery::labels::Selector;
use fram_machinery::quantity::Quantity;
use fram_machinery::{Value, meta};

pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Where volumes and claims named their class before they had a field for it.
pub const CLASS: &str = "volume.beta.kubernetes.io/storage-class";

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
    let modes = volume.list_at(&["spec", "accessModes"]);
    let wanted: Quantity = claim.str_at(&["spec", "resources", "requests", "storage"]).parse().unwrap_or(Quantity::zero());
    is_block(volume) == is_block(claim)
        && claim.list_at(&["spec", "accessModes"]).iter().all(|m| modes.contains(m))
        && capacity(volume) >= wanted
        && attributes(volume) == attributes(claim)
        && !meta::is_terminating(volume)
}

/// Whether a volume or claim is a device and no file system.
pub fn is_block(object: &Value) -> bool {
    object.str_at(&["spec", "volumeMode"]) == "Block"
}

/// The VolumeAttributesClass that a volume or claim asks for.
fn attributes(object: &Value) -> &str {
    object.str_at(&["spec", "volumeAttributesClassName"])
}

/// Why a volume that a claim asks for by name, and that nobody has, cannot be its; see checkVolumeSatisfyClaim.
pub fn mismatch(volume: &Value, claim: &Value) -> Option<&'static str> {
    if class(volume) != class(claim) {
        return Some("storageClassName does not match");
    }
    if attributes(volume) != attributes(claim) {
        return Some("volumeAttributesClassName does not match");
    }
    let wanted: Quantity = claim.str_at(&["spec", "resources", "requests", "storage"]).parse().unwrap_or(Quantity::zero());
    match () {
        () if serves(volume, claim) => None,
        () if meta::is_terminating(volume) => Some("the volume is marked for deletion"),
        () if capacity(volume) < wanted => Some("requested PV is too small"),
        () if is_block(volume) != is_block(claim) => Some("incompatible volumeMode"),
        () => Some("incompatible accessMode"),
    }
}

/// The volumes that may become a claim's, the best first: those that are set aside for it, then those that are free and fit, the
/// smallest first.
pub fn candidates<'a>(claim: &Value, volumes: impl Iterator<Item = &'a Arc<Value>>) -> Vec<&'a Arc<Value>> {
    let selector = Selector::from_object(claim.at(&["spec", "selector"]).filter(|s| !s.is_null()));
    let free = |v: &Value| {
        claim_reference(v).is_none()
            && v.str_at(&["status", "phase"]) == "Available"
            && class(v) == class(claim)
            && selector.as_ref().is_ok_and(|s| s.as_ref().is_none_or(|s| s.matches(meta::labels(v))))
    };
    let of = |v: &Value| (free(v) || is_for(v, claim)) && serves(v, claim);
    let mut found: Vec<&Arc<Value>> = volumes.filter(|v| of(v)).collect();
    found.sort_by_cached_key(|v| (!is_for(v, claim), capacity(v), meta::name(v).to_string()));
    found
}

/// The volume for a claim.
pub fn find(claim: &Value, volumes: &[Arc<Value>]) -> Option<Arc<Value>> {
    candidates(claim, volumes.iter()).first().copied().cloned()
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    fn claim(class: &str, attributes: &str) -> Value {
        object!({ "metadata": { "name": "c", "namespace": "ns" }, "spec": { "storageClassName": class, "volumeAttributesClassName": attributes,
            "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "2Gi" } } } })
    }

    fn volume(size: &str, class: &str, attributes: &str) -> Value {
        object!({ "metadata": { "name": "v" }, "status": { "phase": "Available" }, "spec": { "storageClassName": class,
            "volumeAttributesClassName": attributes, "accessModes": ["ReadWriteOnce"], "capacity": { "storage": size } } })
    }

    #[test]
    fn a_volume_that_is_asked_for_by_name_has_to_fit_all_the_same() {
        for (volume, why) in [
            (volume("2Gi", "a", "gold"), None),
            (volume("1Gi", "a", "gold"), Some("requested PV is too small")),
            (volume("2Gi", "b", "gold"), Some("storageClassName does not match")),
            (volume("2Gi", "a", "silver"), Some("volumeAttributesClassName does not match")),
        ] {
            assert_eq!(mismatch(&volume, &claim("a", "gold")), why);
        }
    }

    #[test]
    fn a_volume_of_other_attributes_is_not_found_even_where_it_is_set_aside() {
        let mut aside = volume("2Gi", "a", "silver");
        assert!(find(&claim("a", "gold"), &[Arc::new(aside.clone())]).is_none());
        aside.set(&["spec", "claimRef"], object!({ "name": "c", "namespace": "ns" }));
        assert!(find(&claim("a", "gold"), &[Arc::new(aside.clone())]).is_none());
        assert!(find(&claim("a", "silver"), &[Arc::new(aside)]).is_some());
    }

    #[test]
    fn the_best_volume_is_the_one_that_is_set_aside_and_then_the_smallest_that_is_free() {
        let named = |name: &str, size: &str, class: &str, held_by: &str| {
            let mut volume = volume(size, class, "gold");
            volume.set(&["metadata", "name"], name);
            if !held_by.is_empty() {
                volume.set(&["spec", "claimRef"], object!({ "namespace": "ns", "name": held_by }));
            }
            Arc::new(volume)
        };
        let volumes = [
            named("large", "9Gi", "a", ""),
            named("twin", "3Gi", "a", ""),
            named("fits", "3Gi", "a", ""),
            named("small", "1Gi", "a", ""),
            named("other", "3Gi", "b", ""),
            named("held", "3Gi", "a", "d"),
            named("aside", "5Gi", "b", "c"),
        ];
        let names = |found: Vec<&Arc<Value>>| found.into_iter().map(|v| meta::name(v).to_string()).collect::<Vec<_>>();
        assert_eq!(names(candidates(&claim("a", "gold"), volumes.iter())), ["aside", "fits", "twin", "large"]);
        assert_eq!(names(candidates(&claim("c", "gold"), volumes[..6].iter())), [""; 0]);
    }
}
