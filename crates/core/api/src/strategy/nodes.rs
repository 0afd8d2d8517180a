//! Nodes: ranges of pod addresses, taints, and the cells of their table.

use std::collections::BTreeSet;

use fram_machinery::quantity::Quantity;
use fram_machinery::status::FieldError;
use fram_machinery::{Key, Value, meta, names};

use super::network::strict_cidr;
use super::{Strategy, joined};

pub(super) struct Node;
impl Strategy for Node {
    fn default(&self, object: &mut Value) {
        if object.at(&["status", "allocatable"]).is_none()
            && let Some(capacity) = object.at(&["status", "capacity"]).cloned()
        {
            object.set(&["status", "allocatable"], capacity);
        }
        // The one range and the list of them say the same.
        let first = object.list_at(&["spec", "podCIDRs"]).first().cloned();
        match (object.str_at(&["spec", "podCIDR"]).to_string(), first) {
            (one, first) if !one.is_empty() && first.as_ref().and_then(Value::as_str) != Some(one.as_str()) => {
                object.set(&["spec", "podCIDRs"], vec![Value::from(one)]);
            }
            (one, Some(first)) if one.is_empty() => object.set(&["spec", "podCIDR"], first),
            _ => {}
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if let Some(text) = meta::annotation(object, AVOID_PODS).filter(|t| !t.is_empty())
            && !fram_machinery::json::from_slice(text.as_bytes()).is_ok_and(|v| v.as_map().is_some())
        {
            errors.push(FieldError::invalid("metadata.annotations.AvoidPods", AVOID_PODS, "invalid character in JSON"));
        }
        taint_errors(object.list_at(&["spec", "taints"]), &mut errors);
        let ranges = object.list_at(&["spec", "podCIDRs"]);
        let found: Vec<_> = ranges.iter().map(|r| strict_cidr(r.as_str().unwrap_or_default())).collect();
        for (i, range) in ranges.iter().enumerate().filter(|(i, _)| found[*i].is_none()) {
            let why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            errors.push(FieldError::invalid(format!("spec.podCIDRs[{i}]"), range.clone(), why));
        }
        let one_family = found.len() == 2 && found[0].is_some_and(|a| found[1].is_some_and(|b| a.0.is_ipv4() == b.0.is_ipv4()));
        if found.len() > 2 || one_family {
            let why = "may specify no more than one CIDR for each IP family";
            errors.push(FieldError::invalid("spec.podCIDRs", ranges.to_vec(), why));
        }
        errors
    }

    fn prepare_create(&self, object: &mut Value) {
        drop_config_source(object);
    }

    fn prepare_update(&self, object: &mut Value, old: &Value) {
        if old.at(&["spec", "configSource"]).is_none_or(Value::is_null) {
            drop_config_source(object);
        }
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let before = old.list_at(&["spec", "podCIDRs"]);
        if !before.is_empty() && object.list_at(&["spec", "podCIDRs"]) != before {
            let why = "node updates may not change podCIDR except from \"\" to valid";
            errors.push(FieldError::forbidden("spec.podCIDRs", why));
        }
        let provider = |node: &Value| node.str_at(&["spec", "providerID"]).to_string();
        if !provider(old).is_empty() && provider(object) != provider(old) {
            let why = "node updates may not change providerID except from \"\" to valid";
            errors.push(FieldError::forbidden("spec.providerID", why));
        }
        errors
    }

    fn validate_subresource(&self, subresource: &str, object: &Value, _: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if subresource != "status" {
            return errors;
        }
        let addresses = object.list_at(&["status", "addresses"]);
        for (i, address) in addresses.iter().enumerate().filter(|(i, address)| addresses[..*i].contains(address)) {
            errors.push(FieldError::duplicate(format!("status.addresses[{i}]"), address.clone()));
        }
        for field in ["capacity", "allocatable"] {
            for (name, amount) in object.at(&["status", field]).and_then(Value::as_map).iter().flat_map(|m| m.iter()) {
                if amount.as_str().and_then(|a| a.parse::<Quantity>().ok()).is_some_and(|q| q.is_negative()) {
                    let why = "must be greater than or equal to 0";
                    errors.push(FieldError::invalid(format!("status.{field}.{name}"), amount.clone(), why));
                }
            }
        }
        errors
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
                let role = |(key, value): (&Key, &Value)| match key.strip_prefix("node-role.kubernetes.io/") {
                    None if key.as_str() == "kubernetes.io/role" => value.as_str().map(String::from),
                    role => role.map(String::from),
                };
                let roles: BTreeSet<String> = labels.iter().filter_map(role).filter(|role| !role.is_empty()).collect();
                joined(roles.into_iter(), "<none>")
            }
            "Kernel-Version" => {
                let about = |field: &str| object.str_at(&["status", "nodeInfo", field]);
                let version = if about("kernelVersion").is_empty() { "<unknown>" } else { about("kernelVersion") };
                match about("architecture") {
                    "" => version.into(),
                    machine => format!("{version} ({machine})").into(),
                }
            }
            "Internal-IP" => address("InternalIP"),
            "External-IP" => address("ExternalIP"),
            _ => Value::Null,
        }
    }
}

const AVOID_PODS: &str = "scheduler.alpha.kubernetes.io/preferAvoidPods";

/// Configuration that kubelets took from a ConfigMap is long gone (DynamicKubeletConfig).
fn drop_config_source(node: &mut Value) {
    node.remove(&["spec", "configSource"]);
}

/// Upstream names taints as if they were metadata.
fn taint_errors(taints: &[Value], errors: &mut Vec<FieldError>) {
    for (i, taint) in taints.iter().enumerate() {
        let at = format!("metadata.taints[{i}]");
        let (key, value, effect) = (taint.str_at(&["key"]), taint.str_at(&["value"]), taint.str_at(&["effect"]));
        if let Err(why) = names::qualified_name(key) {
            errors.push(FieldError::invalid(format!("{at}.key"), key, why));
        }
        if let Err(why) = names::label_value(value) {
            errors.push(FieldError::invalid(format!("{at}.value"), value, why));
        }
        match effect {
            "" => errors.push(FieldError::required(format!("{at}.effect"), "")),
            "NoSchedule" | "PreferNoSchedule" | "NoExecute" => {}
            other => {
                let known = ["NoExecute", "NoSchedule", "PreferNoSchedule"];
                errors.push(FieldError::not_supported(format!("{at}.effect"), other, &known));
            }
        }
        if taints[..i].iter().any(|t| t.str_at(&["key"]) == key && t.str_at(&["effect"]) == effect) {
            errors.push(FieldError::duplicate(at, taint.clone()));
        }
    }
}
