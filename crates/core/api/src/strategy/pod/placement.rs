//! The rules of where pods run: affinity, tolerations, spreading.

use fram_machinery::status::FieldError;
use fram_machinery::{Value, names};

use super::At;

pub(super) fn validate(spec: &Value, path: At<'_>, errors: &mut Vec<FieldError>) {
    if let Some(affinity) = spec.at(&["affinity", "nodeAffinity"]) {
        node_affinity(affinity, format_args!("{path}.affinity.nodeAffinity"), errors);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(affinity) = spec.at(&["affinity", kind]) else { continue };
        let at = format_args!("{path}.affinity.{kind}");
        for (i, term) in affinity.list_at(&["requiredDuringSchedulingIgnoredDuringExecution"]).iter().enumerate() {
            pod_term(term, format_args!("{at}.requiredDuringSchedulingIgnoredDuringExecution[{i}]"), errors);
        }
        for (i, weighted) in affinity.list_at(&["preferredDuringSchedulingIgnoredDuringExecution"]).iter().enumerate() {
            let at = format_args!("{at}.preferredDuringSchedulingIgnoredDuringExecution[{i}].podAffinityTerm");
            pod_term(weighted.get("podAffinityTerm").unwrap_or(&Value::Null), at, errors);
        }
    }
    tolerations(spec.list_at(&["tolerations"]), format_args!("{path}.tolerations"), errors);
    spreading(spec, format_args!("{path}.topologySpreadConstraints"), errors);
}

/// What is wrong with the terms of a node affinity that is no pod's own.
pub fn node_affinity_errors(affinity: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    node_affinity(affinity, format_args!("{path}"), &mut errors);
    errors
}

fn node_affinity(affinity: &Value, at: At<'_>, errors: &mut Vec<FieldError>) {
    if let Some(required) = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") {
        node_selector(required, format_args!("{at}.requiredDuringSchedulingIgnoredDuringExecution"), errors);
    }
    for (i, preferred) in affinity.list_at(&["preferredDuringSchedulingIgnoredDuringExecution"]).iter().enumerate() {
        let at = format_args!("{at}.preferredDuringSchedulingIgnoredDuringExecution[{i}].preference");
        node_term(preferred.get("preference").unwrap_or(&Value::Null), at, errors);
    }
}

/// The terms of a node selector; that there are some is in the description.
pub(crate) fn node_selector(selector: &Value, at: At<'_>, errors: &mut Vec<FieldError>) {
    for (i, term) in selector.list_at(&["nodeSelectorTerms"]).iter().enumerate() {
        node_term(term, format_args!("{at}.nodeSelectorTerms[{i}]"), errors);
    }
}

fn node_term(term: &Value, at: At<'_>, errors: &mut Vec<FieldError>) {
    for (i, requirement) in term.list_at(&["matchExpressions"]).iter().enumerate() {
        let at = format_args!("{at}.matchExpressions[{i}]");
        let values = requirement.list_at(&["values"]);
        match requirement.str_at(&["operator"]) {
            "In" | "NotIn" if values.is_empty() => {
                errors.push(FieldError::required(format!("{at}.values"), "must be specified when `operator` is 'In' or 'NotIn'"));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errors.push(FieldError::forbidden(
                    format!("{at}.values"),
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                ));
            }
            "Gt" | "Lt" if values.len() != 1 => {
                errors.push(FieldError::required(format!("{at}.values"), "must be specified single value when `operator` is 'Lt' or 'Gt'"));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            text => errors.push(FieldError::invalid(format!("{at}.operator"), text, "not a valid selector operator")),
        }
        crate::strategy::requirement_errors(requirement, &at.to_string(), errors);
    }
    for (i, requirement) in term.list_at(&["matchFields"]).iter().enumerate() {
        let at = format_args!("{at}.matchFields[{i}]");
        let (key, values) = (requirement.str_at(&["key"]), requirement.list_at(&["values"]));
        match requirement.str_at(&["operator"]) {
            "In" | "NotIn" if values.len() != 1 => {
                errors.push(FieldError::required(
                    format!("{at}.values"),
                    "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
                ));
            }
            "In" | "NotIn" => {}
            text => errors.push(FieldError::invalid(format!("{at}.operator"), text, "not a valid selector operator")),
        }
        if key != "metadata.name" {
            errors.push(FieldError::invalid(format!("{at}.key"), key, "not a valid field selector key"));
        } else {
            for (v, value) in values.iter().enumerate() {
                if let Err(why) = names::dns_subdomain(value.as_str().unwrap_or_default()) {
                    errors.push(FieldError::invalid(format!("{at}.values[{v}]"), value.clone(), why));
                }
            }
        }
    }
}

fn pod_term(term: &Value, at: At<'_>, errors: &mut Vec<FieldError>) {
    for namespace in term.list_at(&["namespaces"]) {
        let text = namespace.as_str().unwrap_or_default();
        if let Err(why) = names::dns_label(text) {
            errors.push(FieldError::invalid(format!("{at}.namespace"), text, why));
        }
    }
    let (matching, differing) = (term.list_at(&["matchLabelKeys"]), term.list_at(&["mismatchLabelKeys"]));
    label_keys(matching, term.get("labelSelector"), format_args!("{at}.matchLabelKeys"), errors);
    label_keys(differing, term.get("labelSelector"), format_args!("{at}.mismatchLabelKeys"), errors);
    for (i, key) in matching.iter().enumerate() {
        if differing.contains(key) {
            errors.push(FieldError::invalid(
                format!("{at}.matchLabelKeys[{i}]"),
                key.clone(),
                "exists in both matchLabelKeys and mismatchLabelKeys",
            ));
        }
    }
    topology_key(term, at, errors);
}

fn topology_key(term: &Value, at: At<'_>, errors: &mut Vec<FieldError>) {
    let key = term.str_at(&["topologyKey"]);
    if let Err(why) = names::qualified_name(key) {
        errors.push(FieldError::invalid(format!("{at}.topologyKey"), key, why));
    }
}

/// Keys of labels whose values are taken from the pod; they need a selector that they go into.
fn label_keys(keys: &[Value], selector: Option<&Value>, at: At<'_>, errors: &mut Vec<FieldError>) {
    if !keys.is_empty() && selector.is_none() {
        errors.push(FieldError::forbidden(at, "must not be specified when labelSelector is not set"));
    }
    for (i, key) in keys.iter().enumerate() {
        let text = key.as_str().unwrap_or_default();
        if let Err(why) = names::qualified_name(text) {
            errors.push(FieldError::invalid(format!("{at}[{i}]"), text, why));
        }
    }
}

pub(crate) fn tolerations(list: &[Value], path: At<'_>, errors: &mut Vec<FieldError>) {
    for (i, toleration) in list.iter().enumerate() {
        let at = format_args!("{path}[{i}]");
        let text = |field: &str| toleration.str_at(&[field]);
        if !text("key").is_empty()
            && let Err(why) = names::qualified_name(text("key"))
        {
            errors.push(FieldError::invalid(format!("{at}.key"), text("key"), why));
        }
        if text("key").is_empty() && text("operator") != "Exists" {
            let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(FieldError::invalid(format!("{at}.operator"), text("operator"), why));
        }
        if toleration.int_at(&["tolerationSeconds"]).is_some() && text("effect") != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(format!("{at}.effect"), text("effect"), why));
        }
        match text("operator") {
            "" | "Equal" => {
                if let Err(why) = names::label_value(text("value")) {
                    errors.push(FieldError::invalid(format!("{at}.operator"), text("value"), why));
                }
            }
            "Exists" if !text("value").is_empty() => {
                let why = "value must be empty when `operator` is 'Exists'";
                errors.push(FieldError::invalid(format!("{at}.operator"), text("value"), why));
            }
            _ => {}
        }
    }
}

fn spreading(spec: &Value, path: At<'_>, errors: &mut Vec<FieldError>) {
    let list = spec.list_at(&["topologySpreadConstraints"]);
    for (i, constraint) in list.iter().enumerate() {
        let at = format_args!("{path}[{i}]");
        let pair = (constraint.str_at(&["topologyKey"]), constraint.str_at(&["whenUnsatisfiable"]));
        let again = |c: &Value| (c.str_at(&["topologyKey"]), c.str_at(&["whenUnsatisfiable"])) == pair;
        if list[i + 1..].iter().any(again) {
            errors.push(FieldError::duplicate(format!("{at}.{{topologyKey, whenUnsatisfiable}}"), format!("{{{}, {}}}", pair.0, pair.1)));
        }
        if !["DoNotSchedule", "ScheduleAnyway"].contains(&pair.1) {
            let field = format!("{at}.whenUnsatisfiable");
            errors.push(FieldError::not_supported(field, pair.1, &["DoNotSchedule", "ScheduleAnyway"]));
        }
        if constraint.int_at(&["minDomains"]).is_some() && pair.1 != "DoNotSchedule" {
            let why = "can only use minDomains if whenUnsatisfiable=DoNotSchedule";
            errors.push(FieldError::invalid(format!("{at}.minDomains"), constraint.int_at(&["minDomains"]).unwrap_or(0), why));
        }
        let selector = constraint.get("labelSelector");
        let keys = constraint.list_at(&["matchLabelKeys"]);
        label_keys(keys, selector, format_args!("{at}.matchLabelKeys"), errors);
        let selected: Vec<&str> = selector
            .and_then(|s| s.get("matchLabels"))
            .and_then(Value::as_map)
            .into_iter()
            .flat_map(|m| m.keys().map(|k| k.as_str()))
            .chain(selector.into_iter().flat_map(|s| s.list_at(&["matchExpressions"]).iter().map(|e| e.str_at(&["key"]))))
            .collect();
        for (k, key) in keys.iter().enumerate() {
            if key.as_str().is_some_and(|key| selected.contains(&key)) {
                let why = "exists in both matchLabelKeys and labelSelector";
                // Upstream's path leaves out the name of the list.
                errors.push(FieldError::invalid(format!("{at}[{k}]"), key.clone(), why));
            }
        }
    }
}
