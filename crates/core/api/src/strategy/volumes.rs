//! PersistentVolumes and their claims: the cells of their tables.

use fram_machinery::quantity::Quantity;
use fram_machinery::status::FieldError;
use fram_machinery::{Value, meta};

use super::{Strategy, joined};

const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// Access modes as kubectl abbreviates them.
fn access_modes(list: &[Value]) -> Value {
    let short = |mode: &Value| match mode.as_str().unwrap_or_default() {
        "ReadWriteOnce" => "RWO".to_string(),
        "ReadOnlyMany" => "ROX".to_string(),
        "ReadWriteMany" => "RWX".to_string(),
        "ReadWriteOncePod" => "RWOP".to_string(),
        other => other.to_string(),
    };
    joined(list.iter().map(short), "")
}

fn class(object: &Value) -> Value {
    meta::annotation(object, CLASS_ANNOTATION).unwrap_or_else(|| object.str_at(&["spec", "storageClassName"])).into()
}

/// The phase, unless the object ends.
fn phase(object: &Value) -> Value {
    if meta::is_terminating(object) { "Terminating".into() } else { object.str_at(&["status", "phase"]).into() }
}

pub(super) struct PersistentVolume;
impl Strategy for PersistentVolume {
    fn prepare_create(&self, object: &mut Value) {
        object.set(&["status", "phase"], "Pending");
    }

    fn cell(&self, object: &Value, column: &str) -> Value {
        match column {
            "Capacity" => object.str_at(&["spec", "capacity", "storage"]).into(),
            "Access Modes" => access_modes(object.list_at(&["spec", "accessModes"])),
            "Status" => phase(object),
            "Claim" => match object.at(&["spec", "claimRef"]).filter(|c| !c.is_null()) {
                Some(claim) => format!("{}/{}", claim.str_at(&["namespace"]), claim.str_at(&["name"])).into(),
                None => "".into(),
            },
            "StorageClass" => class(object),
            _ => Value::Null,
        }
    }
}

pub(super) struct StorageClass;
impl Strategy for StorageClass {
    fn cell(&self, object: &Value, column: &str) -> Value {
        match column {
            "Name" if meta::annotation(object, "storageclass.kubernetes.io/is-default-class") == Some("true") => {
                format!("{} (default)", meta::name(object)).into()
            }
            "Name" => meta::name(object).into(),
            _ => Value::Null,
        }
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for (field, why) in [
            ("parameters", "updates to parameters are forbidden."),
            ("provisioner", "updates to provisioner are forbidden."),
            ("reclaimPolicy", "updates to reclaimPolicy are forbidden."),
            ("volumeBindingMode", "updates to volumeBindingMode are forbidden."),
        ] {
            if object.get(field) != old.get(field) {
                errors.push(FieldError::forbidden(field, why));
            }
        }
        errors
    }
}

pub(super) struct PersistentVolumeClaim;
impl Strategy for PersistentVolumeClaim {
    fn prepare_create(&self, object: &mut Value) {
        object.set(&["status", "phase"], "Pending");
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if object.list_at(&["spec", "accessModes"]).is_empty() {
            errors.push(FieldError::required("spec.accessModes", "at least 1 access mode is required"));
        }
        if object.at(&["spec", "resources", "requests", "storage"]).is_none() {
            errors.push(FieldError::required("spec.resources[storage]", ""));
        }
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        const WHY: &str = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        const SIZE: [&str; 4] = ["spec", "resources", "requests", "storage"];
        let mut errors = Vec::new();
        let rest = |claim: &Value, before: &Value| {
            let mut spec = claim.get("spec").cloned().unwrap_or_default();
            // A volume, and for those without a class a default class, are given once.
            for field in ["volumeName", "storageClassName"] {
                if before.str_at(&["spec", field]).is_empty() {
                    spec.remove(&[field]);
                }
            }
            spec.remove(&["volumeAttributesClassName"]);
            spec.remove(&SIZE[1..]);
            spec
        };
        if rest(object, old) != rest(old, old) {
            errors.push(FieldError::forbidden("spec", WHY));
        }
        let size = |claim: &Value| claim.str_at(&SIZE).parse::<Quantity>().ok();
        if size(object) != size(old) && old.str_at(&["status", "phase"]) != "Bound" {
            errors.push(FieldError::forbidden("spec", WHY));
        } else if size(object) < size(old) {
            errors.push(FieldError::forbidden("spec.resources.requests.storage", "field can not be less than previous value"));
        }
        errors
    }

    fn cell(&self, object: &Value, column: &str) -> Value {
        let bound = !object.str_at(&["spec", "volumeName"]).is_empty();
        match column {
            "Status" => phase(object),
            "Capacity" if bound => object.str_at(&["status", "capacity", "storage"]).into(),
            "Access Modes" if bound => access_modes(object.list_at(&["status", "accessModes"])),
            "Capacity" | "Access Modes" => "".into(),
            "StorageClass" => class(object),
            _ => Value::Null,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    #[test]
    fn a_bound_claim_may_only_ask_for_more() {
        let claim = |size: &str, class: &str, phase: &str| {
            object!({ "spec": { "accessModes": ["ReadWriteOnce"], "storageClassName": class, "volumeName": "v",
                "resources": { "requests": { "storage": size } } }, "status": { "phase": phase } })
        };
        let check = |new: Value, old: Value| PersistentVolumeClaim.validate_update(&new, &old).len();
        assert_eq!(check(claim("2Gi", "c", "Bound"), claim("1Gi", "c", "Bound")), 0);
        assert_eq!(check(claim("1Gi", "c", "Bound"), claim("2Gi", "c", "Bound")), 1);
        assert_eq!(check(claim("2Gi", "c", "Pending"), claim("1Gi", "c", "Pending")), 1);
        assert_eq!(check(claim("1Gi", "d", "Bound"), claim("1Gi", "c", "Bound")), 1);
    }

    #[test]
    fn a_bound_claim_shows_its_volume() {
        let claim = object!({ "spec": { "volumeName": "v", "storageClassName": "c" },
            "status": { "phase": "Bound", "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"] } });
        let cell = |column| PersistentVolumeClaim.cell(&claim, column);
        assert_eq!(
            [cell("Status"), cell("Capacity"), cell("Access Modes"), cell("StorageClass")],
            ["Bound", "1Gi", "RWO", "c"].map(Value::from)
        );
    }
}
