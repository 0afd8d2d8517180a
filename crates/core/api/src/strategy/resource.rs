//! Claims for devices, their templates, and device classes: requests, constraints, configuration, and what a claim got. What
//! a single field has to obey is in the description; slices of devices are in `slice`, rules that taint
//! them in `tainting`.

mod slice;
mod tainting;

use crate::devices::DeviceSelector;
use std::collections::HashSet;

use fram_machinery::status::FieldError;
use fram_machinery::{Value, names};

use super::Strategy;
use super::limits::condition_errors;
use super::pod::placement::node_selector;

pub(super) use slice::{ResourceSlice, is_semantic_version};
pub(super) use tainting::{DeviceTaintRule, ResourcePoolStatusRequest};

/// See OpaqueParametersMaxLength and AllocatedDeviceStatusDataMaxLength.
const LONGEST_PARAMETERS: usize = 10 * 1024;
/// See CELSelectorExpressionMaxLength.
const LONGEST_EXPRESSION: usize = 10 * 1024;
/// See AllocatedDeviceStatusMaxConditions.
const MOST_CONDITIONS: usize = 8;

pub(super) struct DeviceClass;
impl Strategy for DeviceClass {
    fn checks_base_names(&self) -> bool {
        false
    }

    fn validate(&self, class: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        selectors(class.list_at(&["spec", "selectors"]), "spec.selectors", &mut errors);
        for (i, config) in class.list_at(&["spec", "config"]).iter().enumerate() {
            parameters(config.at(&["opaque", "parameters"]), &format!("spec.config[{i}].opaque.parameters"), &mut errors);
        }
        if let Some(name) = class.at(&["spec", "extendedResourceName"]).and_then(Value::as_str)
            && !is_extended(name)
        {
            errors.push(FieldError::invalid("spec.extendedResourceName", name, "must be a valid extended resource name"));
        }
        errors
    }
}

pub(super) struct ResourceClaim;
impl Strategy for ResourceClaim {
    fn default(&self, claim: &mut Value) {
        default_counts(claim, &["spec", "devices", "requests"]);
    }

    fn prepare_create(&self, claim: &mut Value) {
        claim.remove(&["status"]);
    }

    /// A claim's spec never changes, so it is looked at once.
    fn validate_create(&self, claim: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if let Some(devices) = claim.at(&["spec", "devices"]) {
            requests(devices, "spec.devices", &mut errors);
            claim_errors(devices, "spec.devices", &mut errors);
        }
        errors
    }

    /// Who takes an allocation away need not know of what drivers have said about its devices; see dropDeallocatedStatusDevices.
    fn prepare_subresource(&self, subresource: &str, claim: &mut Value, old: &Value) {
        if subresource != "status" {
            return;
        }
        let allocated = |claim: &Value| -> HashSet<[String; 4]> {
            let results = claim.list_at(&["status", "allocation", "devices", "results"]).iter();
            results.map(|device| device_id(device).map(String::from)).collect()
        };
        let (before, now) = (allocated(old), allocated(claim));
        let devices = claim.list_at(&["status", "devices"]);
        let stays = |device: &&Value| {
            let id = device_id(device).map(String::from);
            now.contains(&id) || !before.contains(&id)
        };
        let kept: Vec<Value> = devices.iter().filter(stays).cloned().collect();
        if kept.len() == devices.len() {
            return;
        }
        match kept.is_empty() {
            true => drop(claim.remove(&["status", "devices"])),
            false => claim.set(&["status", "devices"], kept),
        }
    }

    fn validate_subresource(&self, subresource: &str, claim: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if subresource == "status" {
            status(claim, old, &mut errors);
        }
        errors
    }

    fn cell(&self, claim: &Value, _: &str) -> Value {
        let mut states = Vec::new();
        if fram_machinery::meta::is_terminating(claim) {
            states.push("deleted");
        }
        if claim.at(&["status", "allocation"]).is_some_and(|a| !a.is_null()) {
            states.push("allocated");
        }
        if !claim.list_at(&["status", "reservedFor"]).is_empty() {
            states.push("reserved");
        }
        if states.is_empty() {
            states.push("pending");
        }
        states.join(",").into()
    }
}

pub(super) struct ResourceClaimTemplate;
impl Strategy for ResourceClaimTemplate {
    fn default(&self, template: &mut Value) {
        default_counts(template, &["spec", "spec", "devices", "requests"]);
    }

    fn validate(&self, template: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if let Some(devices) = template.at(&["spec", "spec", "devices"]) {
            requests(devices, "spec.spec.devices", &mut errors);
        }
        errors
    }

    fn validate_create(&self, template: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        super::label_errors(template.at(&["spec", "metadata"]).unwrap_or(&Value::Null), "spec.metadata", &mut errors);
        if let Some(devices) = template.at(&["spec", "spec", "devices"]) {
            claim_errors(devices, "spec.spec.devices", &mut errors);
        }
        errors
    }

    fn validate_update(&self, template: &Value, old: &Value) -> Vec<FieldError> {
        let same = template.get("spec") == old.get("spec");
        (!same).then(|| FieldError::invalid("spec", template.get("spec").cloned(), "field is immutable")).into_iter().collect()
    }
}

/// See IsExtendedResourceName: qualified, not of Kubernetes, and not the name of a quota.
pub fn is_extended(name: &str) -> bool {
    let foreign = name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.");
    foreign && names::qualified_name(&format!("requests.{name}")).is_ok()
}

/// A request of a number of devices is for one where it says no other number.
fn default_counts(object: &mut Value, path: &[&str]) {
    let one = |request: &mut Value| {
        if request.str_at(&["allocationMode"]) == "ExactCount" && request.int_at(&["count"]).unwrap_or(0) == 0 {
            request.set(&["count"], 1);
        }
    };
    if object.list_at(path).is_empty() {
        return;
    }
    for request in object.place(path).make_list().make_mut() {
        if request.get("exactly").is_some_and(|e| e.as_map().is_some()) {
            one(request.place(&["exactly"]));
        }
        if !request.list_at(&["firstAvailable"]).is_empty() {
            request.place(&["firstAvailable"]).make_list().make_mut().iter_mut().for_each(one);
        }
    }
}

/// Names of requests, and that each says in one way what it is for.
fn requests(devices: &Value, at: &str, errors: &mut Vec<FieldError>) {
    for (i, request) in devices.list_at(&["requests"]).iter().enumerate() {
        let at = format!("{at}.requests[{i}]");
        label(request.str_at(&["name"]), format!("{at}.name"), errors);
        let others = request.list_at(&["firstAvailable"]);
        match (request.get("exactly").is_some_and(|e| !e.is_null()), !others.is_empty()) {
            (false, false) => errors.push(FieldError::required(&at, "exactly one of `exactly` or `firstAvailable` is required")),
            (true, true) => {
                let why = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
                errors.push(FieldError::invalid(&at, Value::Null, why));
            }
            _ => {}
        }
        for (s, other) in others.iter().enumerate() {
            label(other.str_at(&["name"]), format!("{at}.firstAvailable[{s}].name"), errors);
        }
    }
}

fn claim_errors(devices: &Value, at: &str, errors: &mut Vec<FieldError>) {
    for (i, request) in devices.list_at(&["requests"]).iter().enumerate() {
        let at = format!("{at}.requests[{i}]");
        if let Some(exact) = request.get("exactly").filter(|e| !e.is_null()) {
            wanted(exact, &format!("{at}.exactly"), errors);
        }
        for (s, other) in request.list_at(&["firstAvailable"]).iter().enumerate() {
            wanted(other, &format!("{at}.firstAvailable[{s}]"), errors);
        }
    }
    for (i, constraint) in devices.list_at(&["constraints"]).iter().enumerate() {
        let at = format!("{at}.constraints[{i}]");
        references(devices, constraint, &at, errors);
        match ["matchAttribute", "distinctAttribute"].into_iter().find_map(|f| Some((f, constraint.get(f)?.as_str()?))) {
            Some((field, name)) => fully_qualified(name, &format!("{at}.{field}"), errors),
            None => errors.push(FieldError::required(at, "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required")),
        }
    }
    for (i, config) in devices.list_at(&["config"]).iter().enumerate() {
        let at = format!("{at}.config[{i}]");
        references(devices, config, &at, errors);
        parameters(config.at(&["opaque", "parameters"]), &format!("{at}.opaque.parameters"), errors);
    }
}

/// What one request, or one of its alternatives, asks for.
fn wanted(request: &Value, at: &str, errors: &mut Vec<FieldError>) {
    selectors(request.list_at(&["selectors"]), &format!("{at}.selectors"), errors);
    let count = request.int_at(&["count"]).unwrap_or(0);
    match request.str_at(&["allocationMode"]) {
        "All" if count != 0 => {
            let why = "must not be specified when allocationMode is 'All'";
            errors.push(FieldError::invalid(format!("{at}.count"), count, why));
        }
        "ExactCount" if count <= 0 => errors.push(FieldError::invalid(format!("{at}.count"), count, "must be greater than zero")),
        _ => {}
    }
    for (i, toleration) in request.list_at(&["tolerations"]).iter().enumerate() {
        let (at, value) = (format!("{at}.tolerations[{i}].value"), toleration.str_at(&["value"]));
        match toleration.str_at(&["operator"]) {
            "Exists" if !value.is_empty() => errors.push(FieldError::invalid(at, value, "must be empty for operator `Exists`")),
            "Equal" => errors.extend(names::label_value(value).err().map(|why| FieldError::invalid(at, value, why))),
            _ => {}
        }
    }
}

fn selectors(selectors: &[Value], at: &str, errors: &mut Vec<FieldError>) {
    for (i, selector) in selectors.iter().enumerate() {
        if selector.get("cel").is_none_or(Value::is_null) {
            continue;
        }
        let (at, text) = (format!("{at}[{i}].cel.expression"), selector.str_at(&["cel", "expression"]));
        if text.len() > LONGEST_EXPRESSION {
            errors.push(FieldError::too_long(at, LONGEST_EXPRESSION));
            continue;
        }
        if let Err(why) = DeviceSelector::compile(text) {
            errors.push(FieldError::invalid(at, text, why));
        }
    }
}

/// The requests that a constraint, a configuration or a result is about.
fn references(devices: &Value, about: &Value, at: &str, errors: &mut Vec<FieldError>) {
    for (i, name) in about.list_at(&["requests"]).iter().enumerate() {
        reference(devices, name.as_str().unwrap_or_default(), format!("{at}.requests[{i}]"), errors);
    }
}

/// A request, or a request and one of its alternatives.
fn reference(devices: &Value, name: &str, at: String, errors: &mut Vec<FieldError>) {
    const WHY: &str = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
    let (request, alternative) = name.split_once('/').map_or((name, None), |(r, a)| (r, Some(a)));
    if alternative.is_some_and(|a| a.contains('/')) {
        return errors.push(FieldError::invalid(at, name, WHY));
    }
    [Some(request), alternative].into_iter().flatten().for_each(|part| label(part, at.clone(), errors));
    let named = |list: &[Value], name: &str| list.iter().find(|r| r.str_at(&["name"]) == name).cloned();
    let found = named(devices.list_at(&["requests"]), request);
    let known = found.is_some_and(|r| alternative.is_none_or(|a| named(r.list_at(&["firstAvailable"]), a).is_some()));
    if !known {
        errors.push(FieldError::invalid(at, name, WHY));
    }
}

/// What is handed on to a driver: a JSON object of limited size. That it is given is in the description.
fn parameters(value: Option<&Value>, at: &str, errors: &mut Vec<FieldError>) {
    let Some(value) = value.filter(|v| !v.is_null()) else { return };
    if fram_machinery::json::to_vec(value).len() > LONGEST_PARAMETERS {
        errors.push(FieldError::too_long(at, LONGEST_PARAMETERS));
    } else if value.as_map().is_none() {
        errors.push(FieldError::invalid(at, "<value omitted>", "must be a valid JSON object"));
    }
}

fn label(name: &str, at: String, errors: &mut Vec<FieldError>) {
    errors.extend(names::dns_label(name).err().map(|why| FieldError::invalid(at, name, why)));
}

/// A name with or without a domain; see upstream's resource.QualifiedName.
fn qualified(name: &str, at: &str, errors: &mut Vec<FieldError>) {
    let (domain, id) = name.split_once('/').map_or((None, name), |(d, id)| (Some(d), id));
    match domain {
        Some("") => errors.push(FieldError::invalid(at, "", "the domain must not be empty")),
        Some(domain) => driver(domain, at, errors),
        None => {}
    }
    if id.is_empty() && domain.is_some() {
        errors.push(FieldError::invalid(at, "", "the name must not be empty"));
    } else {
        identifier(id, at, errors);
    }
}

fn fully_qualified(name: &str, at: &str, errors: &mut Vec<FieldError>) {
    qualified(name, at, errors);
    if !name.contains('/') {
        let why = "a fully qualified name must be a domain and a name separated by a slash";
        errors.push(FieldError::invalid(at, name, why));
    }
}

/// An identifier of the language C of at most 32 bytes; see DeviceMaxIDLength.
fn identifier(id: &str, at: &str, errors: &mut Vec<FieldError>) {
    const LONGEST: usize = 32;
    if id.len() > LONGEST {
        errors.push(FieldError::too_long(at, LONGEST));
    }
    let starts = id.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts || !id.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_') {
        let why = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')";
        errors.push(FieldError::invalid(at, id, why));
    }
}

fn driver(name: &str, at: &str, errors: &mut Vec<FieldError>) {
    const LONGEST: usize = 63;
    if name.len() > LONGEST {
        errors.push(FieldError::too_long(at, LONGEST));
    }
    errors.extend(names::dns_subdomain(&name.to_lowercase()).err().map(|why| FieldError::invalid(at, name, why)));
}

/// What tells devices apart: driver, pool, name, and the share of it.
fn device_id(device: &Value) -> [&str; 4] {
    ["driver", "pool", "device", "shareID"].map(|f| device.str_at(&[f]))
}

fn share(device: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let Some(id) = device.get("shareID").and_then(Value::as_str) else { return };
    let dash = |i: usize| matches!(i, 8 | 13 | 18 | 23);
    let good =
        id.len() == 36 && id.bytes().enumerate().all(|(i, c)| if dash(i) { c == b'-' } else { matches!(c, b'0'..=b'9' | b'a'..=b'f') });
    if !good {
        errors.push(FieldError::invalid(format!("{at}.shareID"), id, "must be a lowercase UUID in 8-4-4-4-12 format"));
    }
}

fn status(claim: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let allocation = claim.at(&["status", "allocation"]).filter(|a| !a.is_null());
    let before = old.at(&["status", "allocation"]).filter(|a| !a.is_null());
    let reserved = claim.list_at(&["status", "reservedFor"]);
    if !reserved.is_empty() {
        let added = || reserved.iter().any(|r| !old.list_at(&["status", "reservedFor"]).contains(r));
        if allocation.is_none() {
            errors.push(FieldError::forbidden("status.reservedFor", "may not be specified when `allocated` is not set"));
        } else if fram_machinery::meta::is_terminating(claim) && added() {
            let why = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
            errors.push(FieldError::forbidden("status.reservedFor", why));
        }
    }
    let results = allocation.map_or(&[][..], |a| a.list_at(&["devices", "results"]));
    for (i, device) in claim.list_at(&["status", "devices"]).iter().enumerate() {
        allocated_device(device, results, &format!("status.devices[{i}]"), errors);
    }
    match (before, allocation) {
        (Some(before), Some(now)) if before != now => {
            errors.push(FieldError::invalid("status.allocation", now.clone(), "field is immutable"));
        }
        (None, Some(now)) => allocation_result(claim, now, "status.allocation", errors),
        _ => {}
    }
}

fn allocated_device(device: &Value, results: &[Value], at: &str, errors: &mut Vec<FieldError>) {
    label(device.str_at(&["device"]), format!("{at}.device"), errors);
    share(device, at, errors);
    if !results.iter().any(|r| device_id(r) == device_id(device)) {
        let id = device_id(device)[..3].join("/");
        errors.push(FieldError::invalid(at, id, "must be an allocated device in the claim"));
    }
    let conditions = device.list_at(&["conditions"]);
    if conditions.len() > MOST_CONDITIONS {
        errors.push(FieldError::too_many(format!("{at}.conditions"), conditions.len(), MOST_CONDITIONS));
    }
    condition_errors(conditions, &format!("{at}.conditions"), errors);
    parameters(device.get("data"), &format!("{at}.data"), errors);
    for (i, address) in device.list_at(&["networkData", "ips"]).iter().enumerate() {
        let text = address.as_str().unwrap_or_default();
        let good = text.split_once('/').and_then(|(ip, bits)| {
            let (ip, bits) = (ip.parse::<std::net::IpAddr>().ok()?, bits.parse::<u8>().ok()?);
            Some(text == format!("{ip}/{bits}") && bits <= if ip.is_ipv4() { 32 } else { 128 })
        });
        if good != Some(true) {
            let why = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
            errors.push(FieldError::invalid(format!("{at}.networkData.ips[{i}]"), text, why));
        }
    }
}

fn allocation_result(claim: &Value, allocation: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let devices = claim.at(&["spec", "devices"]).unwrap_or(&Value::Null);
    for (i, result) in allocation.list_at(&["devices", "results"]).iter().enumerate() {
        let at = format!("{at}.devices.results[{i}]");
        reference(devices, result.str_at(&["request"]), format!("{at}.request"), errors);
        label(result.str_at(&["device"]), format!("{at}.device"), errors);
        share(result, &at, errors);
        slice::binding_conditions(result, &at, errors);
    }
    for (i, config) in allocation.list_at(&["devices", "config"]).iter().enumerate() {
        let at = format!("{at}.devices.config[{i}]");
        references(devices, config, &at, errors);
        parameters(config.at(&["opaque", "parameters"]), &format!("{at}.opaque.parameters"), errors);
    }
    if let Some(selector) = allocation.get("nodeSelector").filter(|s| !s.is_null()) {
        node_selector(selector, format_args!("{at}.nodeSelector"), errors);
    }
}
