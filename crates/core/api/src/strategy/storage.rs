//! Kinds of storage.k8s.io: classes, and what drivers say of themselves, their nodes, capacities and attachments.

use fram_machinery::quantity::Quantity;
use fram_machinery::status::FieldError;
use fram_machinery::{Value, names};

use super::{Strategy, joined, named_default};

pub(super) struct StorageClass;
impl Strategy for StorageClass {
    fn cell(&self, object: &Value, column: &str) -> Value {
        match column {
            "Name" => named_default(object, "storageclass.kubernetes.io/is-default-class"),
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
        // An empty one is let through.
        let policy = object.str_at(&["reclaimPolicy"]);
        if !matches!(policy, "" | "Delete" | "Retain") {
            errors.push(FieldError::not_supported("reclaimPolicy", policy, &["Delete", "Retain"]));
        }
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
    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        let asked = |object: &Value| object.list_at(&["spec", "tokenRequests"]).to_vec();
        let is_new = old.is_none_or(|old| asked(old) != asked(object)) && !asked(object).is_empty();
        let said = object.at(&["spec", "serviceAccountTokenInSecrets"]).is_some_and(|v| !v.is_null());
        let about = "spec.serviceAccountTokenInSecrets is not set: a driver that can take tokens from secrets should have it true, as tokens in volume attributes end up in logs";
        if is_new && !said { vec![about.into()] } else { Vec::new() }
    }

    fn cell(&self, object: &Value, column: &str) -> Value {
        let part = |field: &str| object.list_at(&["spec", field]);
        match column {
            "TokenRequests" if object.at(&["spec", "tokenRequests"]).is_none_or(Value::is_null) => "<unset>".into(),
            "TokenRequests" => joined(part("tokenRequests").iter().map(|r| r.str_at(&["audience"]).to_string()), ""),
            _ => joined(part("volumeLifecycleModes").iter().filter_map(Value::as_str).map(String::from), "<none>"),
        }
    }

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
    fn cell(&self, object: &Value, _: &str) -> Value {
        Value::from(object.list_at(&["spec", "drivers"]).len() as i64)
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for (i, driver) in object.list_at(&["spec", "drivers"]).iter().enumerate() {
            let at = format!("spec.drivers[{i}]");
            super::pod::volumes::driver_name(driver.str_at(&["name"]), format_args!("{at}.name"), &mut errors);
            let drivers = object.list_at(&["spec", "drivers"]);
            if drivers[..i].iter().any(|d| d.str_at(&["name"]) == driver.str_at(&["name"])) {
                errors.push(FieldError::duplicate(format!("{at}.name"), driver.str_at(&["name"])));
            }
            match driver.str_at(&["nodeID"]) {
                "" => errors.push(FieldError::required(format!("{at}.nodeID"), "")),
                id if id.len() > 256 => errors.push(FieldError::invalid(format!("{at}.nodeID"), id, "must be 256 characters or less")),
                _ => {}
            }
            let keys = driver.list_at(&["topologyKeys"]);
            for (k, key) in keys.iter().enumerate() {
                let text = key.as_str().unwrap_or_default();
                if text.is_empty() {
                    errors.push(FieldError::required(&at, ""));
                }
                if keys[..k].contains(key) {
                    errors.push(FieldError::duplicate(&at, text));
                }
                if let Err(why) = names::qualified_name(text) {
                    errors.push(FieldError::invalid(&at, text, why));
                }
            }
        }
        errors
    }

    /// What a driver says of the node does not change; only how many volumes there is room for.
    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let fixed = |driver: &Value| {
            let mut driver = driver.clone();
            driver.remove(&["allocatable"]);
            driver
        };
        let mut errors = Vec::new();
        for driver in object.list_at(&["spec", "drivers"]) {
            let same = |d: &&Value| d.str_at(&["name"]) == driver.str_at(&["name"]);
            if old.list_at(&["spec", "drivers"]).iter().find(same).is_some_and(|before| fixed(before) != fixed(driver)) {
                errors.push(FieldError::invalid("spec.drivers", driver.clone(), "field is immutable"));
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
        if object.str_at(&["capacity"]).parse::<Quantity>().is_ok_and(|q| q.is_negative()) {
            errors.push(FieldError::invalid("capacity", object.get("capacity").cloned(), "must be greater than or equal to 0"));
        }
        errors
    }
}

pub(super) struct VolumeAttachment;
impl Strategy for VolumeAttachment {
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        super::pod::volumes::driver_name(object.str_at(&["spec", "attacher"]), format_args!("spec.attacher"), &mut errors);
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
            (None, true) => {
                let inline = object.at(&["spec", "source", "inlineVolumeSpec"]).unwrap_or(&Value::Null);
                super::volumes::inline_volume_errors(inline, "spec.source.inlineVolumeSpec", &mut errors);
            }
        }
        errors
    }
}

pub(super) struct VolumeAttributesClass;
impl Strategy for VolumeAttributesClass {
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let driver = object.str_at(&["driverName"]);
        if driver.is_empty() {
            errors.push(FieldError::required("driverName", ""));
        } else if let Err(why) = names::qualified_name(&driver.to_lowercase()) {
            errors.push(FieldError::invalid("driverName", driver, why));
        }
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
