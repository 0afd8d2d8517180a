//! PersistentVolumes and their claims: the cells of their tables.

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

pub(super) struct PersistentVolumeClaim;
impl Strategy for PersistentVolumeClaim {
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
