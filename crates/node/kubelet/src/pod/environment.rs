//! Environment variables of containers: own ones, those taken from ConfigMaps, Secrets, fields and files in volumes, and those of
//! Services.
//! Pure; see kubelet_pods.go's makeEnvironmentVariables.

mod expand;
mod fields;
mod file;
mod services;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use fram_machinery::{Value, meta};

pub(crate) use expand::expand;
use file::FileError;

pub(crate) use fields::{FieldError, Fields, field, resource_field};
pub(crate) use services::variables as service_variables;

/// Which object a pod takes values from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Reference {
    ConfigMap(String),
    Secret(String),
}

/// What files in volumes hold, by the volume and the path in it; what does not exist is not in it.
pub(crate) type Files = BTreeMap<(String, String), String>;

/// The objects that the references of a pod lead to; what does not exist is not in it.
pub(crate) type Sources = HashMap<Reference, Arc<Value>>;

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum EnvironmentError {
    #[error("configmap {0:?} not found")]
    NoConfigMap(String),
    #[error("secret {0:?} not found")]
    NoSecret(String),
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey { kind: &'static str, namespace: String, name: String, key: String },
    #[error("environment variable key {key:?} not found in file {path:?} of volume {volume:?}")]
    NoFileKey { volume: String, path: String, key: String },
    #[error("couldn't parse env file {path:?} of volume {volume:?}: {source}")]
    File { volume: String, path: String, source: FileError },
    #[error(transparent)]
    Field(#[from] FieldError),
}

/// The objects that a container's environment is made from.
pub(crate) fn references(container: &Value) -> Vec<Reference> {
    let mut out = Vec::new();
    let mut add = |name: &str, of: fn(String) -> Reference| {
        if !name.is_empty() {
            out.push(of(name.to_string()));
        }
    };
    for from in container.list_at(&["envFrom"]) {
        add(from.str_at(&["configMapRef", "name"]), Reference::ConfigMap);
        add(from.str_at(&["secretRef", "name"]), Reference::Secret);
    }
    for variable in container.list_at(&["env"]) {
        add(variable.str_at(&["valueFrom", "configMapKeyRef", "name"]), Reference::ConfigMap);
        add(variable.str_at(&["valueFrom", "secretKeyRef", "name"]), Reference::Secret);
    }
    out
}

/// The text of one key of a ConfigMap, or of a Secret, whose values are in base64.
pub(crate) fn value_of(object: &Value, key: &str, secret: bool) -> Option<Vec<u8>> {
    use base64::Engine;
    let decode = |text: &str| base64::engine::general_purpose::STANDARD.decode(text).ok();
    if secret {
        return object.at(&["data"])?.get(key)?.as_str().and_then(decode);
    }
    let plain = object.at(&["data"]).and_then(|d| d.get(key)).and_then(Value::as_str).map(|t| t.as_bytes().to_vec());
    plain.or_else(|| object.at(&["binaryData"])?.get(key)?.as_str().and_then(decode))
}

fn text_of(object: &Value, key: &str, secret: bool) -> Option<String> {
    value_of(object, key, secret).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// The container's variables in order; of two with one name the later counts.
pub(crate) fn variables(
    pod: &Value,
    container: &Value,
    sources: &Sources,
    services: &BTreeMap<String, String>,
    fields: &Fields,
    files: &Files,
) -> Result<Vec<(String, String)>, EnvironmentError> {
    let mut out: Vec<(String, String)> = Vec::new();
    let mut known: HashMap<String, String> = HashMap::new();
    for from in container.list_at(&["envFrom"]) {
        for (name, value) in taken(from, sources)? {
            known.insert(name.clone(), value.clone());
            out.push((name, value));
        }
    }
    for variable in container.list_at(&["env"]) {
        let name = variable.str_at(&["name"]);
        let plain = variable.str_at(&["value"]);
        let value = match variable.get("valueFrom") {
            _ if !plain.is_empty() => Some(expand(plain, |name| known.get(name).or_else(|| services.get(name)).cloned())),
            Some(from) => match from.get("fileKeyRef") {
                Some(reference) => in_file(reference, files)?,
                None => referred(pod, container, from, sources, fields)?,
            },
            None => Some(String::new()),
        };
        if let Some(value) = value {
            known.insert(name.to_string(), value.clone());
            out.push((name.to_string(), value));
        }
    }
    out.extend(services.iter().filter(|(name, _)| !known.contains_key(*name)).map(|(n, v)| (n.clone(), v.clone())));
    Ok(last_of_each(out))
}

fn last_of_each(list: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut seen = HashSet::new();
    let mut out: Vec<_> = list.into_iter().rev().filter(|(name, _)| seen.insert(name.clone())).collect();
    out.reverse();
    out
}

/// Everything of one `envFrom` source.
fn taken(from: &Value, sources: &Sources) -> Result<Vec<(String, String)>, EnvironmentError> {
    let prefix = from.str_at(&["prefix"]);
    let (reference, secret) = match (from.get("configMapRef"), from.get("secretRef")) {
        (Some(r), _) => (r, false),
        (None, Some(r)) => (r, true),
        (None, None) => return Ok(Vec::new()),
    };
    let name = reference.str_at(&["name"]).to_string();
    let key = if secret { Reference::Secret(name.clone()) } else { Reference::ConfigMap(name.clone()) };
    let Some(object) = sources.get(&key) else {
        return match (reference.bool_at(&["optional"]), secret) {
            (Some(true), _) => Ok(Vec::new()),
            (_, true) => Err(EnvironmentError::NoSecret(name)),
            (_, false) => Err(EnvironmentError::NoConfigMap(name)),
        };
    };
    let keys = object.get("data").and_then(Value::as_map).into_iter().flat_map(|m| m.keys());
    Ok(keys.filter_map(|key| Some((format!("{prefix}{key}"), text_of(object, key, secret)?))).collect())
}

fn in_file(reference: &Value, files: &Files) -> Result<Option<String>, EnvironmentError> {
    let [volume, path, key] = ["volumeName", "path", "key"].map(|field| reference.str_at(&[field]).to_owned());
    let text = files.get(&(volume.clone(), path.clone()));
    match text.map_or(Ok(None), |text| file::value_in(text, &key)) {
        Ok(None) if reference.bool_at(&["optional"]) != Some(true) => Err(EnvironmentError::NoFileKey { volume, path, key }),
        Ok(value) => Ok(value),
        Err(source) => Err(EnvironmentError::File { volume, path, source }),
    }
}

/// The value of one `valueFrom`; None where it is optional and absent.
fn referred(pod: &Value, container: &Value, from: &Value, sources: &Sources, fields: &Fields) -> Result<Option<String>, EnvironmentError> {
    if let Some(reference) = from.get("fieldRef") {
        return Ok(Some(field(pod, reference.str_at(&["fieldPath"]), fields)?));
    }
    if let Some(reference) = from.get("resourceFieldRef") {
        return Ok(Some(resource_field(pod, container, reference, fields)?));
    }
    let (reference, secret, kind) = match (from.get("configMapKeyRef"), from.get("secretKeyRef")) {
        (Some(r), _) => (r, false, "ConfigMap"),
        (None, Some(r)) => (r, true, "Secret"),
        (None, None) => return Ok(Some(String::new())),
    };
    let (name, key) = (reference.str_at(&["name"]).to_string(), reference.str_at(&["key"]));
    let optional = reference.bool_at(&["optional"]) == Some(true);
    let at = if secret { Reference::Secret(name.clone()) } else { Reference::ConfigMap(name.clone()) };
    match sources.get(&at) {
        None if optional => Ok(None),
        None if secret => Err(EnvironmentError::NoSecret(name)),
        None => Err(EnvironmentError::NoConfigMap(name)),
        Some(object) => match text_of(object, key, secret) {
            Some(value) => Ok(Some(value)),
            None if optional => Ok(None),
            None => Err(EnvironmentError::NoKey { kind, namespace: meta::namespace(pod).into(), name, key: key.into() }),
        },
    }
}

#[cfg(test)]
mod tests;
