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

fn data_size(object: &Value, fields: &[&str]) -> usize {
    let maps = fields.iter().filter_map(|f| object.get(f).and_then(Value::as_map));
    maps.flat_map(|m| m.iter()).map(|(_, v)| v.as_str().map_or(0, str::len)).sum()
}

pub(super) struct ConfigMap;
impl Strategy for ConfigMap {
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = data_key_errors(object, &["data", "binaryData"]);
        if data_size(object, &["data", "binaryData"]) > MAX_DATA {
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
    for secret in object.place(&["secrets"]).make_list() {
        *secret = fram_machinery::object!({ "name": (secret.str_at(&["name"])) });
    }
}

pub(super) struct Endpoints;
impl Strategy for Endpoints {
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for (s, subset) in object.list_at(&["subsets"]).iter().enumerate() {
            let at = format!("subsets[{s}]");
            if subset.list_at(&["addresses"]).is_empty() && subset.list_at(&["notReadyAddresses"]).is_empty() {
                errors.push(FieldError::required(&at, "must specify `addresses` or `notReadyAddresses`"));
            }
            for list in ["addresses", "notReadyAddresses"] {
                for (i, address) in subset.list_at(&[list]).iter().enumerate() {
                    endpoint_address(address, &format!("{at}.{list}[{i}]"), &mut errors);
                }
            }
            let ports = subset.list_at(&["ports"]);
            for (i, port) in ports.iter().enumerate() {
                endpoint_port(port, ports.len() > 1, &format!("{at}.ports[{i}]"), &mut errors);
            }
        }
        errors
    }

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

/// The older field is not kept; see upstream's dropTopologyOnV1.
fn drop_topology(object: &mut Value) {
    if !object.list_at(&["endpoints"]).is_empty() {
        object.place(&["endpoints"]).make_list().iter_mut().for_each(|e| drop(e.remove(&["deprecatedTopology"])));
    }
}

fn slice_endpoint(endpoint: &Value, ty: &str, at: &str, errors: &mut Vec<FieldError>) {
    let addresses = endpoint.list_at(&["addresses"]);
    if addresses.is_empty() {
        errors.push(FieldError::required(format!("{at}.addresses"), "must contain at least 1 address"));
    }
    for (i, address) in addresses.iter().enumerate() {
        let text = address.as_str().unwrap_or_default();
        let at = format!("{at}.addresses[{i}]");
        match (ty, text.parse::<std::net::IpAddr>()) {
            ("FQDN", _) => errors.extend(names::dns_subdomain(text).err().map(|why| FieldError::invalid(at, text, why))),
            ("IPv4" | "IPv6", Ok(ip)) if ip.is_ipv4() != (ty == "IPv4") => {
                errors.push(FieldError::invalid(at, text, format!("must be an {ty} address")));
            }
            ("IPv4" | "IPv6", _) => super::network::special_address(text, &at, errors),
            _ => {}
        }
    }
    for (field, rule) in [("hostname", names::dns_label as NameRule), ("nodeName", names::dns_subdomain)] {
        if let Some(text) = endpoint.get(field).and_then(Value::as_str)
            && let Err(why) = rule(text)
        {
            errors.push(FieldError::invalid(format!("{at}.{field}"), text, why));
        }
    }
    for (list, rule) in [("forZones", names::label_value as NameRule), ("forNodes", names::dns_subdomain)] {
        let hints = endpoint.list_at(&["hints", list]);
        for (i, hint) in hints.iter().enumerate() {
            let at = format!("{at}.hints.{list}[{i}].name");
            let name = hint.str_at(&["name"]);
            if hints[..i].iter().any(|h| h.str_at(&["name"]) == name) {
                errors.push(FieldError::duplicate(&at, name));
            }
            if name.is_empty() && list == "forZones" {
                errors.push(FieldError::required(at, ""));
            } else if let Err(why) = rule(name) {
                errors.push(FieldError::invalid(at, name, why));
            }
        }
    }
}

fn endpoint_address(address: &Value, at: &str, errors: &mut Vec<FieldError>) {
    super::network::special_address(address.str_at(&["ip"]), &format!("{at}.ip"), errors);
    let hostname = address.str_at(&["hostname"]);
    if !hostname.is_empty()
        && let Err(why) = names::dns_label(hostname)
    {
        errors.push(FieldError::invalid(format!("{at}.hostname"), hostname, why));
    }
    if let Some(node) = address.get("nodeName").and_then(Value::as_str)
        && let Err(why) = names::dns_subdomain(node)
    {
        errors.push(FieldError::invalid(format!("{at}.nodeName"), node, why));
    }
}

fn endpoint_port(port: &Value, named: bool, at: &str, errors: &mut Vec<FieldError>) {
    let name = port.str_at(&["name"]);
    if name.is_empty() && named {
        errors.push(FieldError::required(format!("{at}.name"), ""));
    } else if !name.is_empty()
        && let Err(why) = names::dns_label(name)
    {
        errors.push(FieldError::invalid(format!("{at}.name"), name, why));
    }
    let number = port.int_at(&["port"]).unwrap_or(0);
    errors.extend(names::port_number(number).err().map(|why| FieldError::invalid(format!("{at}.port"), number, why)));
    if let Some(protocol) = port.get("appProtocol").and_then(Value::as_str)
        && let Err(why) = names::qualified_name(protocol)
    {
        errors.push(FieldError::invalid(format!("{at}.appProtocol"), protocol, why));
    }
}

pub(super) struct EndpointSlice;
impl Strategy for EndpointSlice {
    fn prepare_create(&self, object: &mut Value) {
        drop_topology(object);
    }

    fn prepare_update(&self, object: &mut Value, _: &Value) {
        drop_topology(object);
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let ty = object.str_at(&["addressType"]);
        for (i, endpoint) in object.list_at(&["endpoints"]).iter().enumerate() {
            slice_endpoint(endpoint, ty, &format!("endpoints[{i}]"), &mut errors);
        }
        let ports = object.list_at(&["ports"]);
        for (i, port) in ports.iter().enumerate() {
            let at = format!("ports[{i}]");
            let name = port.str_at(&["name"]);
            if !name.is_empty()
                && let Err(why) = names::dns_label(name)
            {
                errors.push(FieldError::invalid(format!("{at}.name"), name, why));
            }
            if ports[..i].iter().any(|p| p.str_at(&["name"]) == name) {
                errors.push(FieldError::duplicate(format!("{at}.name"), name));
            }
            if let Some(protocol) = port.get("appProtocol").and_then(Value::as_str)
                && let Err(why) = names::qualified_name(protocol)
            {
                errors.push(FieldError::invalid(format!("{at}.appProtocol"), protocol, why));
            }
        }
        errors
    }

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
    fn name_rule(&self) -> NameRule {
        names::path_segment
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let (own, involved) = (meta::namespace(object), object.str_at(&["involvedObject", "namespace"]));
        // Events about objects without a namespace are in the default one.
        if own != involved && !(involved.is_empty() && own == "default") {
            errors.push(FieldError::invalid("involvedObject.namespace", involved, "does not match event.namespace"));
        }
        if object.str_at(&["eventTime"]).is_empty() {
            return errors;
        }
        for (field, most) in [("reportingComponent", 0), ("reportingInstance", 128), ("action", 128), ("reason", 128)] {
            let text = object.str_at(&[field]);
            if text.is_empty() {
                errors.push(FieldError::required(field, ""));
            }
            if most > 0 && text.len() > most {
                errors.push(FieldError::invalid(field, "", format!("can have at most {most} characters")));
            }
        }
        let component = object.str_at(&["reportingComponent"]);
        if let Err(why) = names::qualified_name(component) {
            errors.push(FieldError::invalid("reportingComponent", component, why));
        }
        if object.str_at(&["message"]).len() > 1024 {
            errors.push(FieldError::invalid("message", "", "can have at most 1024 characters"));
        }
        errors
    }

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
