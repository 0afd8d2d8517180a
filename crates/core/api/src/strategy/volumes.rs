//! PersistentVolumes and their claims: the cells of their tables.

use fram_machinery::quantity::Quantity;
use fram_machinery::status::FieldError;
use fram_machinery::{Value, meta, names};

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
        meta::add_finalizer(object, VOLUME_PROTECTION);
    }

    fn stamp(&self, object: &mut Value, old: Option<&Value>, now: &str) {
        let phase = |volume: &Value| volume.str_at(&["status", "phase"]).to_string();
        if old.is_none_or(|old| phase(old) != phase(object)) {
            object.set(&["status", "lastPhaseTransitionTime"], now);
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
        if source(object) != source(old) {
            let why = "spec.persistentvolumesource is immutable after creation";
            errors.push(FieldError::forbidden("spec.persistentvolumesource", why));
        }
        let field = |volume: &Value, name: &str| volume.at(&["spec", name]).cloned();
        if field(object, "volumeMode") != field(old, "volumeMode") {
            errors.push(FieldError::invalid("volumeMode", field(object, "volumeMode"), "field is immutable"));
        }
        let affinity = field(old, "nodeAffinity");
        if affinity.is_some() && affinity != field(object, "nodeAffinity") {
            errors.push(FieldError::invalid("nodeAffinity", field(object, "nodeAffinity"), "field is immutable"));
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
    if let Some(required) = spec.at(&["nodeAffinity", "required"]) {
        super::pod::placement::node_selector(required, "spec.nodeAffinity.required", &mut errors);
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
    let at = format!("spec.{kind}");
    let path = source.str_at(&["path"]);
    match kind {
        "hostPath" => {
            volumes::backsteps(path, &format!("{at}.path"), errors);
            if path == "/" && spec.str_at(&["persistentVolumeReclaimPolicy"]) == "Recycle" {
                let why = "may not be 'recycle' for a hostPath mount of '/'";
                errors.push(FieldError::forbidden("spec.persistentVolumeReclaimPolicy", why));
            }
        }
        "local" => {
            volumes::backsteps(path, &format!("{at}.path"), errors);
            if spec.get("nodeAffinity").is_none() {
                errors.push(FieldError::required("spec.nodeAffinity", "Local volume requires node affinity"));
            }
        }
        "nfs" => volumes::absolute(path, &format!("{at}.path"), errors),
        "iscsi" => volumes::iscsi(source, &at, errors),
        "fc" => volumes::fibre_channel(source, &at, errors),
        "azureDisk" => volumes::azure_disk(source, &at, errors),
        "csi" => {
            volumes::driver_name(source.str_at(&["driver"]), &format!("{at}.driver"), errors);
            for field in [
                "controllerPublishSecretRef",
                "controllerExpandSecretRef",
                "nodePublishSecretRef",
                "nodeExpandSecretRef",
                "nodeStageSecretRef",
            ] {
                let Some(secret) = source.get(field) else { continue };
                for part in ["name", "namespace"].into_iter().filter(|p| secret.str_at(&[p]).is_empty()) {
                    errors.push(FieldError::required(format!("{at}.{field}.{part}"), ""));
                }
            }
        }
        _ => {}
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

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let provisioner = object.str_at(&["provisioner"]);
        if provisioner.is_empty() {
            errors.push(FieldError::required("provisioner", ""));
        } else if let Err(why) = names::qualified_name(&provisioner.to_lowercase()) {
            errors.push(FieldError::invalid("provisioner", provisioner, why));
        }
        parameter_errors(object, &mut errors);
        if object.get("volumeBindingMode").and_then(Value::as_str) == Some("") {
            errors.push(FieldError::not_supported("volumeBindingMode", "", &["Immediate", "WaitForFirstConsumer"]));
        }
        topology_errors(object.list_at(&["allowedTopologies"]), &mut errors);
        errors
    }
}

fn parameter_errors(object: &Value, errors: &mut Vec<FieldError>) {
    const MOST: usize = 512;
    const LONGEST: usize = 256 * 1024;
    let parameters = object.get("parameters").and_then(Value::as_map).cloned().unwrap_or_default();
    if parameters.len() > MOST {
        errors.push(FieldError::too_long("parameters", MOST));
    }
    if parameters.contains("") {
        errors.push(FieldError::invalid("parameters", "", "field can not be empty."));
    }
    if parameters.iter().map(|(k, v)| k.len() + v.as_str().map_or(0, str::len)).sum::<usize>() > LONGEST {
        errors.push(FieldError::too_long("parameters", LONGEST));
    }
}

fn topology_errors(terms: &[Value], errors: &mut Vec<FieldError>) {
    let mut before: Vec<Value> = vec![Value::Null];
    for (i, term) in terms.iter().enumerate() {
        let at = format!("allowedTopologies[{i}].matchLabelExpressions");
        let expressions = term.list_at(&["matchLabelExpressions"]);
        for (e, expression) in expressions.iter().enumerate() {
            let at = format!("{at}[{e}]");
            let (key, values) = (expression.str_at(&["key"]), expression.list_at(&["values"]));
            if values.is_empty() {
                errors.push(FieldError::required(format!("{at}.values"), ""));
            }
            for (v, value) in values.iter().enumerate().filter(|(v, value)| values[..*v].contains(value)) {
                errors.push(FieldError::duplicate(format!("{at}.values[{v}]"), value.clone()));
            }
            if let Err(why) = names::qualified_name(key) {
                errors.push(FieldError::invalid(format!("{at}.key"), key, why));
            }
            if expressions[..e].iter().any(|x| x.str_at(&["key"]) == key) {
                errors.push(FieldError::duplicate(format!("{at}.key"), key));
            }
        }
        let whole = if expressions.is_empty() { Value::Null } else { Value::from(expressions.to_vec()) };
        if before.contains(&whole) {
            errors.push(FieldError::duplicate(&at, ""));
        }
        before.push(whole);
    }
}

pub(super) struct CsiDriver;
impl Strategy for CsiDriver {
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let requests = object.list_at(&["spec", "tokenRequests"]);
        for (i, request) in requests.iter().enumerate() {
            let at = format!("spec.tokenRequests[{i}]");
            let audience = request.str_at(&["audience"]);
            if requests[..i].iter().any(|r| r.str_at(&["audience"]) == audience) {
                errors.push(FieldError::duplicate(format!("{at}.audience"), audience));
            }
            if let Some(seconds) = request.int_at(&["expirationSeconds"]).filter(|s| !(600..=1 << 32).contains(s)) {
                let why = "may not specify a duration less than 10 minutes or larger than 2^32 seconds";
                errors.push(FieldError::invalid(format!("{at}.expirationSeconds"), seconds, why));
            }
        }
        if object.at(&["spec", "fsGroupPolicy"]).and_then(Value::as_str) == Some("") {
            errors.push(FieldError::not_supported("spec.fsGroupPolicy", "", &["File", "None", "ReadWriteOnceWithFSType"]));
        }
        for mode in object.list_at(&["spec", "volumeLifecycleModes"]).iter().filter_map(Value::as_str) {
            if !["Persistent", "Ephemeral"].contains(&mode) {
                errors.push(FieldError::not_supported("spec.volumeLifecycleModes", mode, &["Ephemeral", "Persistent"]));
            }
        }
        if let Some(n) = object.int_at(&["spec", "nodeAllocatableUpdatePeriodSeconds"]).filter(|n| *n < 10) {
            let why = "must be greater than or equal to 10 seconds";
            errors.push(FieldError::invalid("spec.nodeAllocatableUpdatePeriodSeconds", n, why));
        }
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        // Upstream calls the first field so.
        let fields = [("attachRequired", "spec.attachedRequired"), ("volumeLifecycleModes", "spec.volumeLifecycleModes")];
        let changed = fields.iter().filter(|(f, _)| object.at(&["spec", f]) != old.at(&["spec", f]));
        changed.map(|(f, at)| FieldError::invalid(*at, object.at(&["spec", f]).cloned(), "field is immutable")).collect()
    }
}

pub(super) struct CsiNode;
impl Strategy for CsiNode {
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for (i, driver) in object.list_at(&["spec", "drivers"]).iter().enumerate() {
            let at = format!("spec.drivers[{i}]");
            super::pod::volumes::driver_name(driver.str_at(&["name"]), &format!("{at}.name"), &mut errors);
            match driver.str_at(&["nodeID"]) {
                "" => errors.push(FieldError::required(format!("{at}.nodeID"), "")),
                id if id.len() > 256 => errors.push(FieldError::invalid(format!("{at}.nodeID"), id, "must be 256 characters or less")),
                _ => {}
            }
            let keys = driver.list_at(&["topologyKeys"]);
            for (k, key) in keys.iter().enumerate() {
                let text = key.as_str().unwrap_or_default();
                if text.is_empty() {
                    errors.push(FieldError::required(format!("{at}.topologyKeys"), ""));
                } else if keys[..k].contains(key) {
                    errors.push(FieldError::duplicate(format!("{at}.topologyKeys"), text));
                } else if let Err(why) = names::qualified_name(text) {
                    errors.push(FieldError::invalid(format!("{at}.topologyKeys"), text, why));
                }
            }
        }
        errors
    }
}

pub(super) struct CsiStorageCapacity;
impl Strategy for CsiStorageCapacity {
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let class = object.str_at(&["storageClassName"]);
        if let Err(why) = names::dns_subdomain(class) {
            errors.push(FieldError::invalid("storageClassName", class, why));
        }
        for field in ["capacity", "maximumVolumeSize"] {
            if object.str_at(&[field]).parse::<Quantity>().is_ok_and(|q| q.is_negative()) {
                errors.push(FieldError::invalid(field, object.get(field).cloned(), "must be greater than or equal to 0"));
            }
        }
        errors
    }
}

pub(super) struct VolumeAttachment;
impl Strategy for VolumeAttachment {
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        super::pod::volumes::driver_name(object.str_at(&["spec", "attacher"]), "spec.attacher", &mut errors);
        let node = object.str_at(&["spec", "nodeName"]);
        if let Err(why) = names::dns_subdomain(node) {
            errors.push(FieldError::invalid("spec.nodeName", node, why));
        }
        let name = object.at(&["spec", "source", "persistentVolumeName"]).and_then(Value::as_str);
        let inline = object.at(&["spec", "source", "inlineVolumeSpec"]).is_some_and(|s| !s.is_null());
        match (name, inline) {
            (None, false) => {
                errors.push(FieldError::required("spec.source", "must specify exactly one of inlineVolumeSpec and persistentVolumeName"))
            }
            (Some(_), true) => {
                errors.push(FieldError::forbidden("spec.source", "must specify exactly one of inlineVolumeSpec and persistentVolumeName"))
            }
            (Some(name), false) => {
                if name.is_empty() {
                    errors.push(FieldError::required("spec.source.persistentVolumeName", "must specify non empty persistentVolumeName"));
                }
                if let Err(why) = names::dns_subdomain(name) {
                    errors.push(FieldError::invalid("spec.source.persistentVolumeName", name, why));
                }
            }
            (None, true) => {}
        }
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        if object.get("spec") == old.get("spec") {
            return Vec::new();
        }
        vec![FieldError::invalid("spec", object.get("spec").cloned(), "field is immutable")]
    }

    fn validate_subresource(&self, _: &str, object: &Value, _: &Value) -> Vec<FieldError> {
        let code = |f: &&str| object.int_at(&["status", f, "errorCode"]).is_some_and(|n| n < 0);
        let wrong = ["attachError", "detachError"].into_iter().filter(code);
        wrong
            .map(|f| {
                FieldError::invalid(
                    format!("status.{f}.errorCode"),
                    object.int_at(&["status", f, "errorCode"]),
                    "must be greater than or equal to 0",
                )
            })
            .collect()
    }
}

pub(super) struct VolumeAttributesClass;
impl Strategy for VolumeAttributesClass {
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        super::pod::volumes::driver_name(object.str_at(&["driverName"]), "driverName", &mut errors);
        if object.get("parameters").and_then(Value::as_map).is_none_or(|m| m.is_empty()) {
            errors.push(FieldError::required("parameters", "must contain at least one key/value pair"));
        }
        parameter_errors(object, &mut errors);
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let changed = ["driverName", "parameters"].into_iter().filter(|f| object.get(f) != old.get(f));
        changed.map(|f| FieldError::forbidden(f, "updates to this field are forbidden.")).collect()
    }
}

const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";

/// The rules of a claim's spec, also of one in a template; `at` is its field.
pub(crate) fn claim_spec_errors(spec: &Value, at: &str, errors: &mut Vec<FieldError>) {
    access_mode_errors(spec.list_at(&["accessModes"]), &format!("{at}.accessModes"), errors);
    if let Some(selector) = spec.get("selector") {
        super::label_selector_errors(selector, &format!("{at}.selector"), errors);
    }
    match spec.str_at(&["resources", "requests", "storage"]).parse::<Quantity>() {
        Err(_) => errors.push(FieldError::required(format!("{at}.resources[storage]"), "")),
        Ok(size) if size.is_negative() || size.is_zero() => {
            errors.push(FieldError::invalid(format!("{at}.resources[storage]"), size.to_string(), "must be greater than zero"));
        }
        Ok(_) => {}
    }
    for field in ["storageClassName", "volumeAttributesClassName"] {
        let name = spec.str_at(&[field]);
        if !name.is_empty()
            && let Err(why) = names::dns_subdomain(name)
        {
            errors.push(FieldError::invalid(format!("{at}.{field}"), name, why));
        }
    }
    if spec.get("volumeMode").and_then(Value::as_str) == Some("") {
        errors.push(FieldError::not_supported(format!("{at}.volumeMode"), "", &["Block", "Filesystem"]));
    }
    let (source, reference) = (spec.get("dataSource"), spec.get("dataSourceRef"));
    for (field, source) in [("dataSource", source), ("dataSourceRef", reference)] {
        let Some(source) = source else { continue };
        for part in ["name", "kind"].into_iter().filter(|p| source.str_at(&[p]).is_empty()) {
            errors.push(FieldError::required(format!("{at}.{field}.{part}"), ""));
        }
        let group = source.str_at(&["apiGroup"]);
        if group.is_empty() && !matches!(source.str_at(&["kind"]), "PersistentVolumeClaim" | "") {
            errors.push(FieldError::invalid(
                format!("{at}.{field}"),
                source.str_at(&["kind"]),
                "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
            ));
        } else if !group.is_empty()
            && let Err(why) = names::dns_subdomain(group)
        {
            errors.push(FieldError::invalid(format!("{at}.{field}.apiGroup"), group, why));
        }
    }
    if let (Some(source), Some(reference)) = (source, reference) {
        let differs = |f: &str| source.str_at(&[f]) != reference.str_at(&[f]);
        if ["apiGroup", "kind", "name"].iter().any(|f| differs(f)) {
            errors.push(FieldError::invalid(at, "", "must match dataSourceRef"));
        }
    }
}

fn access_mode_errors(modes: &[Value], at: &str, errors: &mut Vec<FieldError>) {
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

/// The two fields that say where data come from say the same. The older one knows claims and snapshots only.
fn agree_on_source(spec: &mut Value) {
    let (old, new) = (spec.get("dataSource").cloned(), spec.get("dataSourceRef").cloned());
    match (old, new) {
        (Some(old), None) => spec.set(&["dataSourceRef"], old),
        (None, Some(new)) if new.str_at(&["namespace"]).is_empty() => spec.set(&["dataSource"], new),
        _ => {}
    }
}

fn drop_unknown_source(spec: &mut Value) {
    let Some(source) = spec.get("dataSource") else { return };
    let known = match source.str_at(&["apiGroup"]) {
        "" => source.str_at(&["kind"]) == "PersistentVolumeClaim",
        "snapshot.storage.k8s.io" => source.str_at(&["kind"]) == "VolumeSnapshot",
        _ => false,
    };
    if !known {
        spec.remove(&["dataSource"]);
    }
}

pub(super) struct PersistentVolumeClaim;
impl Strategy for PersistentVolumeClaim {
    fn prepare_create(&self, object: &mut Value) {
        object.set(&["status", "phase"], "Pending");
        meta::add_finalizer(object, CLAIM_PROTECTION);
        if object.get("spec").is_some() {
            drop_unknown_source(object.place(&["spec"]));
            agree_on_source(object.place(&["spec"]));
        }
    }

    fn prepare_update(&self, object: &mut Value, _: &Value) {
        if object.get("spec").is_some() {
            agree_on_source(object.place(&["spec"]));
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        claim_spec_errors(object.get("spec").unwrap_or(&Value::Null), "spec", &mut errors);
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
        let bound = old.str_at(&["status", "phase"]) == "Bound";
        let size = |claim: &Value| claim.str_at(&SIZE).parse::<Quantity>().ok();
        if size(object) != size(old) && !bound {
            errors.push(FieldError::forbidden("spec", WHY));
        }
        if size(object) < size(old) {
            errors.push(FieldError::forbidden("spec.resources.requests.storage", "field can not be less than previous value"));
        }
        let class = |claim: &Value| claim.str_at(&["spec", "volumeAttributesClassName"]).to_string();
        if class(object) != class(old) && !bound {
            errors.push(FieldError::forbidden("spec", WHY));
        }
        if object.at(&["spec", "volumeMode"]) != old.at(&["spec", "volumeMode"]) {
            errors.push(FieldError::invalid("volumeMode", object.at(&["spec", "volumeMode"]).cloned(), "field is immutable"));
        }
        errors
    }

    fn validate_subresource(&self, _: &str, object: &Value, _: &Value) -> Vec<FieldError> {
        const STATES: [&str; 5] = [
            "ControllerResizeInProgress",
            "ControllerResizeInfeasible",
            "NodeResizePending",
            "NodeResizeInProgress",
            "NodeResizeInfeasible",
        ];
        let mut errors = Vec::new();
        for field in ["capacity", "allocatedResources"] {
            for (name, amount) in object.at(&["status", field]).and_then(Value::as_map).iter().flat_map(|m| m.iter()) {
                if names::qualified_name(name).is_err() {
                    let at = if field == "capacity" { format!("status.capacity[{name}]") } else { format!("status.{field}") };
                    errors.push(FieldError::invalid(at, name.as_str(), names::QUALIFIED_NAME));
                } else if amount.as_str().and_then(|a| a.parse::<Quantity>().ok()).is_some_and(|q| q.is_negative()) {
                    errors.push(FieldError::invalid(
                        format!("status.{field}[{name}]"),
                        amount.clone(),
                        "must be greater than or equal to 0",
                    ));
                }
            }
        }
        let at = "status.allocatedResourceStatuses";
        for (name, state) in object.at(&["status", "allocatedResourceStatuses"]).and_then(Value::as_map).iter().flat_map(|m| m.iter()) {
            if let Err(why) = names::qualified_name(name) {
                errors.push(FieldError::invalid(at, name.as_str(), why));
            } else if !STATES.contains(&state.as_str().unwrap_or_default()) {
                errors.push(FieldError::not_supported(at, state.clone(), &STATES));
            }
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
