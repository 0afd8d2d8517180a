//! Small kinds of the core group: namespaces, configuration, secrets, accounts.

use base64::Engine;
use fram_machinery::meta;
use fram_machinery::status::FieldError;
use fram_machinery::{Value, names};

use super::{NameRule, Strategy};

pub(super) struct Namespace;
impl Strategy for Namespace {
    fn name_rule(&self) -> NameRule {
        names::dns_label
    }

    fn default(&self, object: &mut Value) {
        let name = meta::name(object).to_string();
        if !name.is_empty() {
            meta::set_label(object, "kubernetes.io/metadata.name", &name);
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        // One whose name was made only now.
        self.default(object);
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

    fn marks_deletion(&self) -> bool {
        true
    }

    fn prepare_delete(&self, object: &mut Value) {
        object.set(&["status", "phase"], "Terminating");
    }

    fn validate_subresource(&self, subresource: &str, object: &Value, _: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let phase = if meta::is_terminating(object) { "Terminating" } else { "Active" };
        if subresource == "status" && object.str_at(&["status", "phase"]) != phase {
            // Upstream writes the field with a capital.
            let why = format!("may only be '{phase}'");
            errors.push(FieldError::invalid("status.Phase", object.str_at(&["status", "phase"]), why));
        }
        for (i, finalizer) in object.list_at(&["spec", "finalizers"]).iter().enumerate().filter(|_| subresource == "finalize") {
            let text = finalizer.as_str().unwrap_or_default();
            let known = text == "kubernetes" || text.contains('/');
            if names::qualified_name(text).is_err() || !known {
                let why = "name is neither a standard finalizer name nor is it fully qualified";
                errors.push(FieldError::invalid(format!("spec.finalizers[{i}]"), text, why));
            }
        }
        errors
    }

    fn is_held(&self, object: &Value) -> bool {
        !object.list_at(&["spec", "finalizers"]).is_empty()
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

/// Bytes of all values in a map, as `size` counts them.
fn data_size(object: &Value, field: &str, size: fn(&str) -> usize) -> usize {
    let map = object.get(field).and_then(Value::as_map);
    map.into_iter().flat_map(|m| m.iter()).map(|(_, v)| v.as_str().map_or(0, size)).sum()
}

pub(super) struct ConfigMap;
impl Strategy for ConfigMap {
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = data_key_errors(object, &["data", "binaryData"]);
        if data_size(object, "data", str::len) + data_size(object, "binaryData", super::decoded_size) > MAX_DATA {
            errors.push(FieldError::too_long("[]", MAX_DATA));
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

pub(super) struct ComponentStatus;
impl Strategy for ComponentStatus {
    fn cell(&self, object: &Value, column: &str) -> Value {
        let conditions = object.list_at(&["conditions"]);
        let Some(healthy) = conditions.iter().find(|c| c.str_at(&["type"]) == "Healthy") else { return "".into() };
        let text = match column {
            "Status" => match healthy.str_at(&["status"]) {
                "True" => "Healthy",
                "False" => "Unhealthy",
                _ => "Unknown",
            },
            "Message" => healthy.str_at(&["message"]),
            _ => healthy.str_at(&["error"]),
        };
        text.into()
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
        if data_size(object, "data", super::decoded_size) > MAX_DATA {
            errors.push(FieldError::too_long("data", MAX_DATA));
        }
        secret_type_errors(object, &mut errors);
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

/// What a Secret of one of the known types has to have.
fn secret_type_errors(object: &Value, errors: &mut Vec<FieldError>) {
    let data = |key: &str| object.at(&["data", key]).and_then(Value::as_str);
    let mut need = |key: &str| {
        if data(key).is_none() {
            errors.push(FieldError::required(format!("data[{key}]"), ""));
        }
    };
    match object.str_at(&["type"]) {
        "kubernetes.io/dockercfg" => need(".dockercfg"),
        "kubernetes.io/dockerconfigjson" => need(".dockerconfigjson"),
        "kubernetes.io/ssh-auth" => need("ssh-privatekey"),
        "kubernetes.io/tls" => ["tls.crt", "tls.key"].into_iter().for_each(need),
        "kubernetes.io/basic-auth" if data("username").is_none() && data("password").is_none() => {
            ["username", "password"].into_iter().for_each(need);
        }
        "kubernetes.io/service-account-token" => {
            let account = "kubernetes.io/service-account.name";
            if meta::annotation(object, account).unwrap_or_default().is_empty() {
                errors.push(FieldError::required(format!("metadata.annotations[{account}]"), ""));
            }
        }
        _ => {}
    }
    for (ty, key) in [("kubernetes.io/dockercfg", ".dockercfg"), ("kubernetes.io/dockerconfigjson", ".dockerconfigjson")] {
        let Some(encoded) = data(key).filter(|_| object.str_at(&["type"]) == ty) else { continue };
        let decoded = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap_or_default();
        if !fram_machinery::json::from_slice(&decoded).is_ok_and(|v| v.as_map().is_some()) {
            errors.push(FieldError::invalid(format!("data[{key}]"), "<secret contents redacted>", "invalid character in JSON"));
        }
    }
}

pub(super) struct ServiceAccount;
impl Strategy for ServiceAccount {
    fn prepare_create(&self, object: &mut Value) {
        keep_secret_names(object);
    }

    fn prepare_update(&self, object: &mut Value, _: &Value) {
        keep_secret_names(object);
    }

    fn cell(&self, object: &Value, _: &str) -> Value {
        Value::from(object.list_at(&["secrets"]).len() as i64)
    }
}

/// Of the secrets that an account refers to only the name is kept; see upstream's cleanSecretReferences.
fn keep_secret_names(object: &mut Value) {
    if object.list_at(&["secrets"]).is_empty() {
        return;
    }
    for secret in object.place(&["secrets"]).make_list().make_mut() {
        *secret = fram_machinery::object!({ "name": (secret.str_at(&["name"])) });
    }
}
