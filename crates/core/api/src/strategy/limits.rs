//! LimitRanges, ResourceQuotas and PodDisruptionBudgets: what their amounts and selectors have to obey.

use fram_machinery::quantity::Quantity;
use fram_machinery::status::FieldError;
use fram_machinery::{Key, Map, Value, names};

use super::Strategy;

fn map(value: &Value, field: &str) -> Map {
    value.get(field).and_then(Value::as_map).cloned().unwrap_or_default()
}

fn amount(value: Option<&Value>) -> Option<Quantity> {
    value?.as_str()?.parse().ok()
}

/// Resources that are known by their bare name.
const STANDARD: [&str; 16] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "requests.storage",
    "storage",
    "services.loadbalancers",
    "services.nodeports",
    "persistentvolumeclaims",
    "requests.hugepages-",
];

const COUNTED: [&str; 6] = ["resourcequotas", "services", "replicationcontrollers", "secrets", "configmaps", "pods"];

fn is_standard(name: &str) -> bool {
    STANDARD.contains(&name) || COUNTED.contains(&name) || name.starts_with("hugepages-") || name.starts_with("requests.hugepages-")
}

fn name_errors(name: &str, at: &str, errors: &mut Vec<FieldError>) {
    if let Err(why) = names::qualified_name(name) {
        errors.push(FieldError::invalid(at, name, why));
    } else if !name.contains('/') && !is_standard(name) {
        errors.push(FieldError::invalid(at, name, "must be a standard resource for quota or fully qualified"));
    }
}

pub(super) struct LimitRange;
impl Strategy for LimitRange {
    fn default(&self, object: &mut Value) {
        if object.list_at(&["spec", "limits"]).is_empty() {
            return;
        }
        for limit in object.place(&["spec", "limits"]).make_list().make_mut().iter_mut().filter(|l| l.str_at(&["type"]) == "Container") {
            // A default limit is the most, a default request the default limit or else the least.
            for (to, from) in [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")] {
                for (name, amount) in map(limit, from).iter() {
                    if map(limit, to).get(name).is_none() {
                        limit.place(&[to]).make_map().insert(name.clone(), amount.clone());
                    }
                }
            }
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut seen: Vec<&str> = Vec::new();
        for (i, limit) in object.list_at(&["spec", "limits"]).iter().enumerate() {
            let at = format!("spec.limits[{i}]");
            let ty = limit.str_at(&["type"]);
            let typed = !ty.is_empty() && (["Container", "Pod", "PersistentVolumeClaim"].contains(&ty) || ty.contains('/'));
            if !typed || names::qualified_name(ty).is_err() {
                errors.push(FieldError::invalid(format!("{at}.type"), ty, "must be a standard limit type or fully qualified"));
            }
            if seen.contains(&ty) {
                errors.push(FieldError::duplicate(format!("{at}.type"), ty));
            }
            seen.push(ty);
            limit_errors(limit, ty, &at, &mut errors);
        }
        errors
    }
}

fn limit_errors(limit: &Value, ty: &str, at: &str, errors: &mut Vec<FieldError>) {
    const FIELDS: [&str; 5] = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];
    let mut keys: Vec<String> = Vec::new();
    for field in FIELDS {
        for key in map(limit, field).keys() {
            name_errors(key, &format!("{at}.{field}[{key}]"), errors);
            if !keys.iter().any(|k| k == key.as_str()) {
                keys.push(key.to_string());
            }
        }
    }
    if ty == "Pod" {
        for field in ["default", "defaultRequest"].into_iter().filter(|f| !map(limit, f).is_empty()) {
            errors.push(FieldError::forbidden(format!("{at}.{field}"), "may not be specified when `type` is 'Pod'"));
        }
    }
    if ty == "PersistentVolumeClaim" && map(limit, "min").get("storage").is_none() && map(limit, "max").get("storage").is_none() {
        errors.push(FieldError::required(
            format!("{at}.limits"),
            "either minimum or maximum storage value is required, but neither was provided",
        ));
    }
    for key in keys {
        let of = |field: &str| amount(map(limit, field).get(&key));
        let (least, most, normal, asked) = (of("min"), of("max"), of("default"), of("defaultRequest"));
        let mut wrong = |field: &str, value: &Quantity, why: String| {
            errors.push(FieldError::invalid(format!("{at}.{field}[{key}]"), value.to_string(), why));
        };
        if let (Some(least), Some(most)) = (&least, &most)
            && least > most
        {
            wrong("min", least, format!("min value {least} is greater than max value {most}"));
        }
        for (field, value) in [("defaultRequest", &asked), ("default", &normal)] {
            if let (Some(value), Some(least)) = (value, &least)
                && least > value
            {
                wrong(field, value, format!("min value {least} is greater than the {field} value {value}"));
            }
            if let (Some(value), Some(most)) = (value, &most)
                && value > most
            {
                wrong(field, value, format!("the {field} value {value} is greater than max value {most}"));
            }
        }
        if let (Some(asked), Some(normal)) = (&asked, &normal)
            && asked > normal
        {
            wrong("defaultRequest", asked, format!("default request value {asked} is greater than default limit value {normal}"));
        }
        if let Some(ratio) = of("maxLimitRequestRatio") {
            if ratio.milli_value() < 1000 {
                wrong("maxLimitRequestRatio", &ratio, format!("ratio {ratio} is less than 1"));
            }
            if let (Some(least), Some(most)) = (&least, &most)
                && ratio.milli_value() as f64 / 1000.0 > most.milli_value() as f64 / least.milli_value() as f64
            {
                wrong("maxLimitRequestRatio", &ratio, format!("ratio {ratio} is greater than max/min"));
            }
        }
    }
}

pub(super) struct ResourceQuota;
impl Strategy for ResourceQuota {
    fn cell(&self, object: &Value, column: &str) -> Value {
        let hard = object.at(&["status", "hard"]).and_then(Value::as_map);
        let shown = hard.into_iter().flat_map(Map::iter).filter(|(name, _)| name.starts_with("limits.") == (column == "Limit"));
        let used = |name: &str| match object.str_at(&["status", "used", name]) {
            "" => "0".to_string(),
            used => used.to_string(),
        };
        let one = |(name, hard): (&Key, &Value)| format!("{name}: {}/{}", used(name), hard.as_str().unwrap_or_default());
        shown.map(one).collect::<Vec<_>>().join(", ").into()
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let null = Value::Null;
        let spec = object.get("spec").unwrap_or(&null);
        amounts(&map(spec, "hard"), "spec.hard", &mut errors);
        scopes(spec, &mut errors);
        scope_selector(spec, &mut errors);
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let scopes = |quota: &Value| {
            let mut list: Vec<String> = quota.list_at(&["spec", "scopes"]).iter().filter_map(Value::as_str).map(String::from).collect();
            list.sort();
            list
        };
        if scopes(object) == scopes(old) {
            return Vec::new();
        }
        vec![FieldError::invalid("spec.scopes", object.at(&["spec", "scopes"]).cloned(), "field is immutable")]
    }

    fn validate_subresource(&self, _: &str, object: &Value, _: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for field in ["hard", "used"] {
            amounts(&map(object.get("status").unwrap_or(&Value::Null), field), &format!("status.{field}"), &mut errors);
        }
        errors
    }
}

fn amounts(hard: &Map, at: &str, errors: &mut Vec<FieldError>) {
    for (name, value) in hard.iter() {
        let at = format!("{at}[{name}]");
        name_errors(name, &at, errors);
        let Some(quantity) = amount(Some(value)) else { continue };
        let counted = COUNTED.contains(&name.as_str())
            || name.starts_with("count/")
            || matches!(name.as_str(), "persistentvolumeclaims" | "services.nodeports" | "services.loadbalancers");
        if quantity.is_negative() {
            errors.push(FieldError::invalid(at, value.clone(), "must be greater than or equal to 0"));
        } else if counted && quantity.milli_value() % 1000 != 0 {
            errors.push(FieldError::invalid(at, value.clone(), "must be an integer"));
        }
    }
}

const SCOPES: [&str; 7] =
    ["BestEffort", "CrossNamespacePodAffinity", "NotBestEffort", "NotTerminating", "PriorityClass", "Terminating", "VolumeAttributesClass"];

/// Whether the amounts of a resource can be told apart by a scope.
fn fits(scope: &str, resource: &str) -> bool {
    let of_pods = matches!(
        resource,
        "pods"
            | "cpu"
            | "memory"
            | "requests.cpu"
            | "requests.memory"
            | "limits.cpu"
            | "limits.memory"
            | "ephemeral-storage"
            | "requests.ephemeral-storage"
            | "limits.ephemeral-storage"
    ) || resource.starts_with("count/pods");
    match scope {
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => resource.contains("persistentvolumeclaims") || resource.contains("requests.storage"),
        _ => of_pods || resource.contains('/') || resource.contains("hugepages-"),
    }
}

fn scopes(spec: &Value, errors: &mut Vec<FieldError>) {
    let scopes: Vec<&str> = spec.list_at(&["scopes"]).iter().filter_map(Value::as_str).collect();
    let mut wrong = |why: &str| errors.push(FieldError::invalid("spec.scopes", spec.get("scopes").cloned(), why));
    for scope in &scopes {
        if !SCOPES.contains(scope) {
            wrong("unsupported scope");
        } else if map(spec, "hard").keys().any(|name| is_standard(name) && !fits(scope, name)) {
            wrong("unsupported scope applied to resource");
        }
    }
    for (one, other) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if scopes.contains(&one) && scopes.contains(&other) {
            wrong("conflicting scopes");
        }
    }
}

/// Upstream names the list of requirements, not the requirement.
fn scope_selector(spec: &Value, errors: &mut Vec<FieldError>) {
    let at = "spec.scopeSelector.matchExpressions";
    for requirement in spec.list_at(&["scopeSelector", "matchExpressions"]) {
        let (scope, operator) = (requirement.str_at(&["scopeName"]), requirement.str_at(&["operator"]));
        let values = requirement.list_at(&["values"]);
        if !SCOPES.contains(&scope) {
            errors.push(FieldError::invalid(format!("{at}.scopeName"), scope, "unsupported scope"));
        } else if map(spec, "hard").keys().any(|name| is_standard(name) && !fits(scope, name)) {
            errors.push(FieldError::invalid(at, scope, "unsupported scope applied to resource"));
        }
        let by_value = matches!(scope, "PriorityClass" | "VolumeAttributesClass" | "");
        if SCOPES.contains(&scope) && !by_value && operator != "Exists" {
            errors.push(FieldError::invalid(format!("{at}.operator"), operator, "must be 'Exist' when scope is any of these"));
        }
        match operator {
            "In" | "NotIn" if values.is_empty() => {
                errors.push(FieldError::required(format!("{at}.values"), "must be at least one value when `operator` is 'In' or 'NotIn'"));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errors.push(FieldError::invalid(
                    format!("{at}.values"),
                    values.to_vec(),
                    "must be no value when `operator` is 'Exist' or 'DoesNotExist'",
                ));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.push(FieldError::invalid(format!("{at}.operator"), other, "not a valid selector operator")),
        }
    }
}

/// A number that is not negative, or a percentage of at most a hundred.
pub(super) fn number_or_percent(value: Option<&Value>, at: &str, errors: &mut Vec<FieldError>) {
    match value {
        Some(Value::Int(n)) if *n < 0 => errors.push(FieldError::invalid(at, *n, "must be greater than or equal to 0")),
        Some(Value::String(text)) => match percent(text) {
            None => {
                errors.push(FieldError::invalid(at, &**text, "a valid percent string must be a numeric string followed by an ending '%'"))
            }
            Some(n) if n > 100 => errors.push(FieldError::invalid(at, &**text, "must not be greater than 100%")),
            Some(_) => {}
        },
        _ => {}
    }
}

pub(super) fn percent(text: &str) -> Option<i64> {
    let digits = text.strip_suffix('%')?;
    (!digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit())).then(|| digits.parse().ok())?
}

pub(super) struct PodDisruptionBudget;
impl Strategy for PodDisruptionBudget {
    fn name_rule(&self) -> super::NameRule {
        names::path_segment
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let field = |name: &str| object.at(&["spec", name]).filter(|v| !v.is_null());
        if field("minAvailable").is_some() && field("maxUnavailable").is_some() {
            errors.push(FieldError::invalid("spec", object.get("spec").cloned(), "minAvailable and maxUnavailable cannot be both set"));
        }
        for name in ["minAvailable", "maxUnavailable"] {
            number_or_percent(field(name), &format!("spec.{name}"), &mut errors);
        }
        errors
    }

    fn validate_subresource(&self, _: &str, object: &Value, _: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        condition_errors(object.list_at(&["status", "conditions"]), "status.conditions", &mut errors);
        errors
    }
}

/// The rules of metav1.Condition.
pub(super) fn condition_errors(conditions: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    for (i, condition) in conditions.iter().enumerate() {
        let at = format!("{path}[{i}]");
        let text = |field: &str| condition.str_at(&[field]);
        if conditions[..i].iter().any(|c| c.str_at(&["type"]) == text("type")) {
            errors.push(FieldError::duplicate(format!("{at}.type"), text("type")));
        }
        if let Err(why) = names::qualified_name(text("type")) {
            errors.push(FieldError::invalid(format!("{at}.type"), text("type"), why));
        }
        if !["True", "False", "Unknown"].contains(&text("status")) {
            errors.push(FieldError::not_supported(format!("{at}.status"), text("status"), &["False", "True", "Unknown"]));
        }
        if let Some(n) = condition.int_at(&["observedGeneration"]).filter(|n| *n < 0) {
            errors.push(FieldError::invalid(format!("{at}.observedGeneration"), n, "must be greater than or equal to zero"));
        }
        if text("lastTransitionTime").is_empty() {
            errors.push(FieldError::required(format!("{at}.lastTransitionTime"), "must be set"));
        }
        let reason = text("reason");
        let word = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b',' | b':');
        let edges = reason.starts_with(|c: char| c.is_ascii_alphabetic()) && !reason.ends_with([',', ':']);
        if reason.is_empty() {
            errors.push(FieldError::required(format!("{at}.reason"), "must be set"));
        } else if !edges || !reason.bytes().all(word) {
            let why = "a condition reason must start with alphabetic character";
            errors.push(FieldError::invalid(format!("{at}.reason"), reason, why));
        }
        if reason.len() > 1024 {
            errors.push(FieldError::too_long(format!("{at}.reason"), 1024));
        }
        if text("message").len() > 32 * 1024 {
            errors.push(FieldError::too_long(format!("{at}.message"), 32 * 1024));
        }
    }
}
