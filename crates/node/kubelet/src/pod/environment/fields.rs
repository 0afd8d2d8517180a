//! Fields of a pod and of its resources as text: fieldRef and resourceFieldRef, in variables and downward API volumes. Pure.

use std::collections::BTreeMap;

use fram_machinery::quantity::Quantity;
use fram_machinery::{Value, meta};

use crate::pod::{self, resources};

/// What fields of a pod's status are at the time, and what stands for missing limits.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fields {
    pub host_ips: Vec<String>,
    pub pod_ips: Vec<String>,
    /// The node's allocatable resources.
    pub allocatable: BTreeMap<String, Quantity>,
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum FieldError {
    #[error("unsupported fieldPath: {0}")]
    Path(String),
    #[error("unsupported container resource: {0}")]
    Resource(String),
    #[error("container {0} not found")]
    NoContainer(String),
}

/// A field as text. Whole labels and annotations are one `key="value"` line for each.
pub(crate) fn field(pod: &Value, path: &str, fields: &Fields) -> Result<String, FieldError> {
    let joined = |ips: &[String]| ips.join(",");
    Ok(match path {
        "metadata.name" => meta::name(pod).to_string(),
        "metadata.namespace" => meta::namespace(pod).to_string(),
        "metadata.uid" => meta::uid(pod).to_string(),
        "metadata.labels" => lines(pod, "labels"),
        "metadata.annotations" => lines(pod, "annotations"),
        "spec.nodeName" => pod.str_at(&["spec", "nodeName"]).to_string(),
        "spec.serviceAccountName" => pod.str_at(&["spec", "serviceAccountName"]).to_string(),
        "status.hostIP" => fields.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => joined(&fields.host_ips),
        "status.podIP" => fields.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => joined(&fields.pod_ips),
        _ => return subscript(pod, path).ok_or_else(|| FieldError::Path(path.to_string())),
    })
}

/// `metadata.labels['key']`.
fn subscript(pod: &Value, path: &str) -> Option<String> {
    let (map, key) = path.strip_suffix("']")?.split_once("['")?;
    let map = match map {
        "metadata.labels" => "labels",
        "metadata.annotations" => "annotations",
        _ => return None,
    };
    Some(pod.at(&["metadata", map]).and_then(|m| m.get(key)).and_then(Value::as_str).unwrap_or_default().to_string())
}

fn lines(pod: &Value, map: &str) -> String {
    let entries = pod.at(&["metadata", map]).and_then(Value::as_map);
    let line = |(k, v): (&fram_machinery::Key, &Value)| format!("{k}={}", quoted(v.as_str().unwrap_or_default()));
    entries.into_iter().flat_map(|m| m.iter()).map(line).collect::<Vec<_>>().join("\n")
}

/// As Go's strconv.Quote for what occurs in annotations.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A request or limit divided by its divisor and rounded up. A missing limit is what the node can give.
pub(crate) fn resource_field(pod: &Value, container: &Value, reference: &Value, fields: &Fields) -> Result<String, FieldError> {
    let named = reference.str_at(&["containerName"]);
    let container = match named {
        "" => container,
        name => pod::find_container(pod, name).map(|(_, c)| c).ok_or_else(|| FieldError::NoContainer(name.to_string()))?,
    };
    let path = reference.str_at(&["resource"]);
    let (kind, name) = path.split_once('.').ok_or_else(|| FieldError::Resource(path.to_string()))?;
    if !matches!(kind, "limits" | "requests") {
        return Err(FieldError::Resource(path.to_string()));
    }
    let none = Value::Null;
    let own = resources::quantity(container.get("resources").unwrap_or(&none), kind, name);
    let amount = match own {
        Some(amount) => amount,
        // What all containers have together, and the node after that.
        None if kind == "limits" => match pod.at(&["spec", "resources"]).and_then(|whole| resources::quantity(whole, kind, name)) {
            Some(amount) => amount,
            None => fields.allocatable.get(name).copied().unwrap_or(Quantity::zero()),
        },
        None => Quantity::zero(),
    };
    let divisor = reference.get("divisor").and_then(resources::parse).filter(|d| !d.is_zero());
    let (amount, divisor) = match name {
        "cpu" => (amount.milli_value(), divisor.map_or(1000, |d| d.milli_value())),
        _ => (amount.value(), divisor.map_or(1, |d| d.value())),
    };
    let divided = amount.div_euclid(divisor.max(1)) + i64::from(amount.rem_euclid(divisor.max(1)) != 0);
    Ok(divided.to_string())
}
