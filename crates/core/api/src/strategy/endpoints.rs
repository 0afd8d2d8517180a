//! Endpoints and EndpointSlices: addresses, hints and ports.

use fram_machinery::status::FieldError;
use fram_machinery::{Value, meta, names};

use super::{NameRule, Strategy, joined};

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
        object.place(&["endpoints"]).make_list().make_mut().iter_mut().for_each(|e| drop(e.remove(&["deprecatedTopology"])));
    }
}

fn slice_endpoints(slice: &Value) -> Vec<FieldError> {
    let (mut errors, ty) = (Vec::new(), slice.str_at(&["addressType"]));
    for (i, endpoint) in slice.list_at(&["endpoints"]).iter().enumerate() {
        slice_endpoint(endpoint, ty, &format!("endpoints[{i}]"), &mut errors);
    }
    errors
}

fn slice_endpoint(endpoint: &Value, ty: &str, at: &str, errors: &mut Vec<FieldError>) {
    let addresses = endpoint.list_at(&["addresses"]);
    if addresses.is_empty() {
        errors.push(FieldError::required(format!("{at}.addresses"), "must contain at least 1 address"));
    }
    for (i, address) in addresses.iter().enumerate() {
        let text = address.as_str().unwrap_or_default();
        let (all, at) = (format!("{at}.addresses"), format!("{at}.addresses[{i}]"));
        match (ty, text.parse::<std::net::IpAddr>()) {
            ("FQDN", _) => errors.extend(names::dns_subdomain(text).err().map(|why| FieldError::invalid(at, text, why))),
            ("IPv4" | "IPv6", Ok(ip)) if ip.is_ipv4() != (ty == "IPv4") => {
                errors.push(FieldError::invalid(all, text, format!("must be an {ty} address")));
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
            if let Err(why) = rule(name) {
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

    fn prepare_update(&self, object: &mut Value, old: &Value) {
        // Upstream counts what was asked for, before it is dropped.
        if object.list_at(&["endpoints"]).iter().any(|e| e.get("deprecatedTopology").is_some()) {
            object.set(&["metadata", "generation"], meta::generation(old) + 1);
        }
        drop_topology(object);
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        slice_endpoints(object)
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let changed = object.list_at(&["endpoints"]) != old.list_at(&["endpoints"]);
        if changed { slice_endpoints(object) } else { Vec::new() }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
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
