//! PersistentVolumes: what they may say and change, and the cells of their table. Claims are in `claims`, classes and what drivers
//! say of themselves in `storage`.

use fram_machinery::quantity::Quantity;
use fram_machinery::status::FieldError;
use fram_machinery::{Value, meta, names};

use super::{Strategy, joined, warnings};

use crate::storage::CLASS as CLASS_ANNOTATION;

/// Access modes as kubectl abbreviates them.
pub(super) fn access_modes(list: &[Value]) -> Value {
    let short = |mode: &Value| match mode.as_str().unwrap_or_default() {
        "ReadWriteOnce" => "RWO".to_string(),
        "ReadOnlyMany" => "ROX".to_string(),
        "ReadWriteMany" => "RWX".to_string(),
        "ReadWriteOncePod" => "RWOP".to_string(),
        other => other.to_string(),
    };
    joined(list.iter().map(short), "")
}

pub(super) fn class(object: &Value) -> Value {
    meta::annotation(object, CLASS_ANNOTATION).unwrap_or_else(|| object.str_at(&["spec", "storageClassName"])).into()
}

/// The phase, unless the object ends.
pub(super) fn phase(object: &Value) -> Value {
    if meta::is_terminating(object) { "Terminating".into() } else { object.str_at(&["status", "phase"]).into() }
}

pub(super) struct PersistentVolume;
impl Strategy for PersistentVolume {
    fn warnings(&self, object: &Value, _: Option<&Value>) -> Vec<String> {
        warnings::of_volume(object)
    }

    fn default(&self, object: &mut Value) {
        // Not in the description, since the same spec within a VolumeAttachment has no defaults.
        for (field, value) in [("persistentVolumeReclaimPolicy", "Retain"), ("volumeMode", "Filesystem")] {
            let given = object.at(&["spec", field]).is_some_and(|v| !v.is_null() && (field == "volumeMode" || v.as_str() != Some("")));
            if !given {
                object.set(&["spec", field], value);
            }
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        object.set(&["status", "phase"], "Pending");
    }

    /// See PrepareForUpdate of upstream's persistentvolumeStatusStrategy.
    fn stamp(&self, object: &mut Value, old: Option<&Value>, now: &str) {
        const TIME: [&str; 2] = ["status", "lastPhaseTransitionTime"];
        let phase = |volume: &Value| volume.str_at(&["status", "phase"]).to_string();
        let (given, before) = (object.str_at(&TIME).to_string(), old.map(|old| old.str_at(&TIME).to_string()));
        match (old.is_some_and(|old| phase(old) == phase(object)), before) {
            (_, None) => object.set(&TIME, now),
            (true, Some(before)) if given.is_empty() && !before.is_empty() => object.set(&TIME, before),
            (false, Some(before)) if given.is_empty() || given == before => object.set(&TIME, now),
            _ => {}
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        volume_errors(object.get("spec").unwrap_or(&Value::Null))
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let source = |volume: &Value| {
            let spec = volume.get("spec").and_then(Value::as_map).cloned().unwrap_or_default();
            SOURCES.iter().find_map(|kind| Some(((*kind).to_string(), spec.get(kind)?.clone())))
        };
        // Expansion may be made possible later on.
        const EXPAND: [&str; 3] = ["spec", "csi", "controllerExpandSecretRef"];
        let mut comparable = object.clone();
        if old.at(&EXPAND).is_none_or(Value::is_null) {
            comparable.remove(&EXPAND);
        }
        if source(&comparable) != source(old) {
            let why = "spec.persistentvolumesource is immutable after creation";
            errors.push(FieldError::forbidden("spec.persistentvolumesource", why));
        }
        let field = |volume: &Value, name: &str| volume.at(&["spec", name]).cloned();
        if field(object, "volumeMode") != field(old, "volumeMode") {
            errors.push(FieldError::invalid("volumeMode", field(object, "volumeMode"), "field is immutable"));
        }
        let affinity = field(old, "nodeAffinity");
        if affinity.is_some() && !same_affinity(affinity.as_ref(), field(object, "nodeAffinity").as_ref()) {
            errors.push(FieldError::invalid("nodeAffinity", field(object, "nodeAffinity"), "field is immutable"));
        }
        const CLASS: &str = "volumeAttributesClassName";
        if field(old, CLASS).is_some_and(|c| !c.is_null()) && field(object, CLASS).is_none_or(|c| c.is_null()) {
            errors.push(FieldError::forbidden(format!("spec.{CLASS}"), "update from non-nil value to nil is forbidden"));
        }
        errors
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

/// Labels of nodes that have another name by now; see upstream's betaToGALabel.
const NEWER_LABELS: [(&str, &str); 5] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
];

/// Whether an affinity is what it was, but for keys that have their newer name now.
fn same_affinity(old: Option<&Value>, new: Option<&Value>) -> bool {
    fn same(old: &Value, new: &Value) -> bool {
        match (old, new) {
            (Value::List(a), Value::List(b)) => a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| same(a, b)),
            (Value::Map(a), Value::Map(b)) => {
                a.len() == b.len()
                    && a.iter().all(|(k, v)| match (b.get(k), k.as_str()) {
                        (Some(w), "key") => {
                            let newer = NEWER_LABELS.iter().find(|(o, _)| v.as_str() == Some(o)).map_or("", |(_, n)| n);
                            v == w || w.as_str() == Some(newer)
                        }
                        (Some(w), _) => same(v, w),
                        (None, _) => false,
                    })
            }
            (a, b) => a == b,
        }
    }
    match (old, new) {
        (Some(old), Some(new)) => same(old, new),
        (old, new) => old == new,
    }
}

/// A volume within a VolumeAttachment: one of CSI with nothing that only a volume of its own has.
pub(super) fn inline_volume_errors(spec: &Value, at: &str, errors: &mut Vec<FieldError>) {
    const WHY: &str = "may not be specified in the context of inline volumes";
    for field in ["claimRef", "capacity", "nodeAffinity", "storageClassName"] {
        if spec.get(field).is_some_and(|v| !v.is_null() && !v.is_empty()) {
            errors.push(FieldError::forbidden(format!("{at}.{field}"), WHY));
        }
    }
    for (field, only) in [("persistentVolumeReclaimPolicy", "Retain"), ("volumeMode", "Filesystem")] {
        if !matches!(spec.str_at(&[field]), "") && spec.str_at(&[field]) != only {
            errors.push(FieldError::forbidden(format!("{at}.{field}"), &format!("may only be {only} in the context of inline volumes")));
        }
    }
    if spec.get("csi").is_none_or(Value::is_null) {
        errors.push(FieldError::required(format!("{at}.csi"), "has to be specified in the context of inline volumes"));
    }
    access_mode_errors(spec.list_at(&["accessModes"]), &format!("{at}.accessModes"), errors);
}

/// What a volume is made of.
const SOURCES: [&str; 22] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

fn volume_errors(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    access_mode_errors(spec.list_at(&["accessModes"]), "spec.accessModes", &mut errors);
    let capacity = spec.get("capacity").and_then(Value::as_map).cloned().unwrap_or_default();
    if capacity.is_empty() {
        errors.push(FieldError::required("spec.capacity", ""));
    }
    if !capacity.contains("storage") || capacity.len() > 1 {
        let names: Vec<Value> = capacity.keys().map(|k| Value::from(k.as_str())).collect();
        errors.push(FieldError::not_supported("spec.capacity", names, &["storage"]));
    }
    for (name, amount) in capacity.iter() {
        let at = format!("spec.capacity[{name}]");
        match amount.as_str().and_then(|a| a.parse::<Quantity>().ok()) {
            Some(size) if size.is_negative() => errors.push(FieldError::invalid(&at, amount.clone(), "must be greater than or equal to 0")),
            Some(size) if size.is_zero() => errors.push(FieldError::invalid(&at, amount.clone(), "must be greater than zero")),
            _ => {}
        }
    }
    let mut found = SOURCES.iter().filter_map(|kind| Some((*kind, spec.get(kind)?)));
    match found.next() {
        None => errors.push(FieldError::required("spec", "must specify a volume type")),
        Some((kind, source)) => volume_source_errors(kind, source, spec, &mut errors),
    }
    errors.extend(found.map(|(kind, _)| FieldError::forbidden(format!("spec.{kind}"), "may not specify more than 1 volume type")));
    match spec.get("nodeAffinity").filter(|a| !a.is_null()).map(|a| a.get("required").filter(|r| !r.is_null())) {
        Some(Some(required)) => super::pod::placement::node_selector(required, format_args!("spec.nodeAffinity.required"), &mut errors),
        Some(None) => errors.push(FieldError::required("spec.nodeAffinity.required", "must specify required node constraints")),
        None => {}
    }
    if let Some(class) = spec.get("volumeAttributesClassName").and_then(Value::as_str) {
        if class.is_empty() {
            errors.push(FieldError::required("spec.volumeAttributesClassName", "an empty string is disallowed"));
        }
        if spec.get("csi").is_none() {
            errors.push(FieldError::required("spec.csi", "has to be specified when using volumeAttributesClassName"));
        }
    }
    for field in ["storageClassName", "volumeAttributesClassName"] {
        let name = spec.str_at(&[field]);
        if !name.is_empty()
            && let Err(why) = names::dns_subdomain(name)
        {
            errors.push(FieldError::invalid(format!("spec.{field}"), name, why));
        }
    }
    errors
}

fn volume_source_errors(kind: &str, source: &Value, spec: &Value, errors: &mut Vec<FieldError>) {
    use super::pod::volumes;
    let at = format_args!("spec.{kind}");
    let path = source.str_at(&["path"]);
    match kind {
        "hostPath" => {
            volumes::backsteps(path, format_args!("{at}.path"), errors);
            if path == "/" && spec.str_at(&["persistentVolumeReclaimPolicy"]) == "Recycle" {
                let why = "may not be 'recycle' for a hostPath mount of '/'";
                errors.push(FieldError::forbidden("spec.persistentVolumeReclaimPolicy", why));
            }
        }
        "local" => {
            volumes::backsteps(path, format_args!("{at}.path"), errors);
            if spec.get("nodeAffinity").is_none() {
                errors.push(FieldError::required("spec.nodeAffinity", "Local volume requires node affinity"));
            }
        }
        "nfs" => volumes::absolute(path, format_args!("{at}.path"), errors),
        "iscsi" => volumes::iscsi(source, at, errors),
        "fc" => volumes::fibre_channel(source, at, errors),
        "azureDisk" => volumes::azure_disk(source, at, errors),
        "csi" => {
            volumes::driver_name(source.str_at(&["driver"]), format_args!("{at}.driver"), errors);
            for field in ["controllerPublishSecretRef", "controllerExpandSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"] {
                let Some(secret) = source.get(field) else { continue };
                for (part, rule) in [("name", names::dns_subdomain as super::NameRule), ("namespace", names::dns_label)] {
                    let (at, text) = (format!("{at}.{field}.{part}"), secret.str_at(&[part]));
                    match text {
                        "" => errors.push(FieldError::required(at, "")),
                        _ => errors.extend(rule(text).err().map(|why| FieldError::invalid(at, text, why))),
                    }
                }
            }
        }
        _ => {}
    }
}

pub(super) fn access_mode_errors(modes: &[Value], at: &str, errors: &mut Vec<FieldError>) {
    const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
    if modes.is_empty() {
        errors.push(FieldError::required(at, "at least 1 access mode is required"));
    }
    for mode in modes.iter().filter_map(Value::as_str).filter(|m| !MODES.contains(m)) {
        errors.push(FieldError::not_supported(at, mode, &MODES));
    }
    if modes.len() > 1 && modes.iter().any(|m| m.as_str() == Some("ReadWriteOncePod")) {
        errors.push(FieldError::forbidden(at, "may not use ReadWriteOncePod with other access modes"));
    }
}
