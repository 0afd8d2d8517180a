//! Small kinds of the core group.

use base64::Engine;
use fram_machinery::meta;
use fram_machinery::status::FieldError;
use fram_machinery::{Value, names};

use super::{NameRule, Strategy, joined};

pub(super) struct Namespace;
impl Strategy for Namespace {
    fn name_rule(&self) -> NameRule {
        names::dns_label
    }

    fn prepare_create(&self, object: &mut Value) {
        let name = meta::name(object).to_string();
        meta::set_label(object, "kubernetes.io/metadata.name", &name);
        object.set(&["status", "phase"], "Active");
        let finalizers = object.place(&["spec", "finalizers"]).make_list();
        if !finalizers.iter().any(|f| f.as_str() == Some("kubernetes")) {
            finalizers.push("kubernetes".into());
        }
    }

    fn prepare_update(&self, object: &mut Value, old: &Value) {
        let name = meta::name(object).to_string();
        meta::set_label(object, "kubernetes.io/metadata.name", &name);
        // Spec finalizers change only through the finalize subresource.
        object.set(&["spec"], old.get("spec").cloned());
    }

    fn prepare_delete(&self, object: &mut Value) {
        object.set(&["status", "phase"], "Terminating");
    }

    fn is_held(&self, object: &Value) -> bool {
        !object.list_at(&["spec", "finalizers"]).is_empty()
    }
}

pub(super) struct Node;
impl Strategy for Node {
    fn default(&self, object: &mut Value) {
        if object.at(&["status", "allocatable"]).is_none()
            && let Some(capacity) = object.at(&["status", "capacity"]).cloned()
        {
            object.set(&["status", "allocatable"], capacity);
        }
    }

    fn field(&self, object: &Value, path: &str) -> Option<String> {
        (path == "spec.unschedulable").then(|| object.bool_at(&["spec", "unschedulable"]).unwrap_or(false).to_string())
    }

    fn cell(&self, object: &Value, column: &str) -> Value {
        let address = |ty: &str| {
            let found = object.list_at(&["status", "addresses"]).iter().find(|a| a.str_at(&["type"]) == ty);
            Value::from(found.map_or("<none>", |a| a.str_at(&["address"])))
        };
        match column {
            "Status" => {
                let ready = match meta::condition(object, "Ready").map(|c| c.str_at(&["status"])) {
                    Some("True") => "Ready",
                    Some(_) => "NotReady",
                    None => "Unknown",
                };
                let cordoned = object.bool_at(&["spec", "unschedulable"]) == Some(true);
                Value::from(if cordoned { format!("{ready},SchedulingDisabled") } else { ready.to_string() })
            }
            "Roles" => {
                let labels = meta::labels(object).as_map().cloned().unwrap_or_default();
                let roles = labels.keys().filter_map(|k| k.strip_prefix("node-role.kubernetes.io/").map(String::from));
                joined(roles.collect::<Vec<_>>().into_iter(), "<none>")
            }
            "Kernel-Version" => object.str_at(&["status", "nodeInfo", "kernelVersion"]).into(),
            "Internal-IP" => address("InternalIP"),
            "External-IP" => address("ExternalIP"),
            _ => Value::Null,
        }
    }
}

fn data_key_errors(object: &Value, fields: &[&str]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for field in fields {
        for key in object.get(field).and_then(Value::as_map).iter().flat_map(|m| m.keys()) {
            if let Err(why) = names::config_key(key) {
                errors.push(FieldError::invalid(format!("{field}[{key}]"), key.as_str(), why));
            }
        }
    }
    errors
}

fn immutable_errors(object: &Value, old: &Value, fields: &[&str]) -> Vec<FieldError> {
    const WHY: &str = "field is immutable when `immutable` is set";
    if old.bool_at(&["immutable"]) != Some(true) {
        return Vec::new();
    }
    let mut errors = Vec::new();
    if object.bool_at(&["immutable"]) != Some(true) {
        errors.push(FieldError::forbidden("immutable", WHY));
    }
    let changed = |f: &&&str| object.get(f).filter(|v| !v.is_empty()) != old.get(f).filter(|v| !v.is_empty());
    errors.extend(fields.iter().filter(changed).map(|f| FieldError::forbidden(*f, WHY)));
    errors
}

/// Objects larger than this are refused, as upstream's MaxSecretSize.
const MAX_DATA: usize = 1024 * 1024;

fn data_size(object: &Value, fields: &[&str]) -> usize {
    let maps = fields.iter().filter_map(|f| object.get(f).and_then(Value::as_map));
    maps.flat_map(|m| m.iter()).map(|(_, v)| v.as_str().map_or(0, str::len)).sum()
}

pub(super) struct ConfigMap;
impl Strategy for ConfigMap {
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = data_key_errors(object, &["data", "binaryData"]);
        if data_size(object, &["data", "binaryData"]) > MAX_DATA {
            errors.push(FieldError::too_long("", MAX_DATA));
        }
        for key in object.get("data").and_then(Value::as_map).iter().flat_map(|m| m.keys()) {
            if object.at(&["binaryData", key]).is_some() {
                errors.push(FieldError::invalid(format!("data[{key}]"), key.as_str(), "duplicate of key present in binaryData"));
            }
        }
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        immutable_errors(object, old, &["data", "binaryData"])
    }

    fn cell(&self, object: &Value, _: &str) -> Value {
        let count = |f| object.get(f).and_then(Value::as_map).map_or(0, |m| m.len());
        Value::from((count("data") + count("binaryData")) as i64)
    }
}

pub(super) struct Secret;
impl Strategy for Secret {
    fn default(&self, object: &mut Value) {
        if object.str_at(&["type"]).is_empty() {
            object.set(&["type"], "Opaque");
        }
        let Some(Value::Map(plain)) = object.remove(&["stringData"]) else { return };
        for (key, value) in plain.iter() {
            let encoded = base64::engine::general_purpose::STANDARD.encode(value.as_str().unwrap_or_default());
            object.place(&["data"]).make_map().insert(key.clone(), encoded);
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = data_key_errors(object, &["data"]);
        if data_size(object, &["data"]) / 4 * 3 > MAX_DATA {
            errors.push(FieldError::too_long("data", MAX_DATA));
        }
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = immutable_errors(object, old, &["data"]);
        if object.str_at(&["type"]) != old.str_at(&["type"]) {
            errors.push(FieldError::invalid("type", object.str_at(&["type"]), "field is immutable"));
        }
        errors
    }

    fn cell(&self, object: &Value, _: &str) -> Value {
        Value::from(object.get("data").and_then(Value::as_map).map_or(0, |m| m.len()) as i64)
    }
}

pub(super) struct ServiceAccount;
impl Strategy for ServiceAccount {
    fn cell(&self, object: &Value, _: &str) -> Value {
        Value::from(object.list_at(&["secrets"]).len() as i64)
    }
}

pub(super) struct Endpoints;
impl Strategy for Endpoints {
    fn cell(&self, object: &Value, _: &str) -> Value {
        let mut all = Vec::new();
        for subset in object.list_at(&["subsets"]) {
            for address in subset.list_at(&["addresses"]) {
                let ports = subset.list_at(&["ports"]);
                let ip = address.str_at(&["ip"]);
                all.extend(ports.iter().map(|p| format!("{ip}:{}", p.int_at(&["port"]).unwrap_or(0))));
                if ports.is_empty() {
                    all.push(ip.to_string());
                }
            }
        }
        if all.is_empty() {
            return "<none>".into();
        }
        let more = all.len().saturating_sub(3);
        let text = all[..all.len().min(3)].join(",");
        if more > 0 { format!("{text} + {more} more...").into() } else { text.into() }
    }
}

pub(super) struct EndpointSlice;
impl Strategy for EndpointSlice {
    fn cell(&self, object: &Value, column: &str) -> Value {
        match column {
            "Ports" => {
                joined(object.list_at(&["ports"]).iter().map(|p| p.int_at(&["port"]).map_or("*".into(), |n| n.to_string())), "<unset>")
            }
            "Endpoints" => {
                let all = object.list_at(&["endpoints"]).iter().flat_map(|e| e.list_at(&["addresses"]));
                let all: Vec<&str> = all.filter_map(Value::as_str).collect();
                match all.len() {
                    0 => "<unset>".into(),
                    n if n > 3 => format!("{} + {} more...", all[..3].join(","), n - 3).into(),
                    _ => all.join(",").into(),
                }
            }
            _ => Value::Null,
        }
    }
}

pub(super) struct Event;
impl Strategy for Event {
    fn field(&self, object: &Value, path: &str) -> Option<String> {
        (path == "source").then(|| match object.str_at(&["source", "component"]) {
            "" => object.str_at(&["reportingComponent"]).to_string(),
            component => component.to_string(),
        })
    }

    fn cell(&self, object: &Value, column: &str) -> Value {
        let time = |paths: &[&[&str]]| {
            let found = paths.iter().map(|p| object.str_at(p)).find(|t| !t.is_empty());
            Value::from(found.unwrap_or("<unknown>"))
        };
        match column {
            "Last Seen" => time(&[&["series", "lastObservedTime"], &["lastTimestamp"], &["eventTime"], &["firstTimestamp"]]),
            "First Seen" => time(&[&["firstTimestamp"], &["eventTime"]]),
            "Object" => {
                let involved = object.get("involvedObject").cloned().unwrap_or_default();
                format!("{}/{}", involved.str_at(&["kind"]).to_lowercase(), involved.str_at(&["name"])).into()
            }
            "Source" => match (object.str_at(&["source", "component"]), object.str_at(&["source", "host"])) {
                (component, "") => component.into(),
                (component, host) => format!("{component}, {host}").into(),
            },
            "Count" => Value::from(object.int_at(&["series", "count"]).or(object.int_at(&["count"])).unwrap_or(1)),
            "Message" => object.str_at(&["message"]).trim().into(),
            _ => Value::Null,
        }
    }
}
