//! HorizontalPodAutoscalers: their limits, and the cells of their table.

use fram_machinery::quantity::Quantity;
use fram_machinery::status::FieldError;
use fram_machinery::{Value, names, object};

use super::{Strategy, joined};

pub(super) struct HorizontalPodAutoscaler;

impl Strategy for HorizontalPodAutoscaler {
    fn default(&self, object: &mut Value) {
        // In the version that is stored these mean nothing.
        if object.str_at(&["apiVersion"]) == "autoscaling/v2" {
            crate::convert::autoscaler::drop_annotations(object);
        }
        if object.at(&["spec", "behavior"]).is_some_and(|b| !b.is_null()) {
            let behavior = object.place(&["spec", "behavior"]);
            default_rules(behavior, "scaleUp", &UP);
            default_rules(behavior, "scaleDown", &DOWN);
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let (least, most) = (object.int_at(&["spec", "minReplicas"]), object.int_at(&["spec", "maxReplicas"]).unwrap_or(0));
        if least.is_some_and(|n| n < 1) {
            errors.push(FieldError::invalid("spec.minReplicas", least, "must be greater than or equal to 1"));
        }
        if most == 0 {
            errors.push(FieldError::required("spec.maxReplicas", "must be greater than 0"));
        } else if most < 1 {
            errors.push(FieldError::invalid("spec.maxReplicas", most, "must be greater than 0"));
        }
        if least.is_some_and(|n| most < n) {
            errors.push(FieldError::invalid("spec.maxReplicas", most, "must be greater than or equal to `minReplicas`"));
        }
        reference(object.at(&["spec", "scaleTargetRef"]).unwrap_or(&Value::Null), "spec.scaleTargetRef", &mut errors);
        let from_zero = |m: &Value| matches!(m.str_at(&["type"]), "Object" | "External");
        if least == Some(0) && !object.list_at(&["spec", "metrics"]).iter().any(from_zero) {
            let why = "must specify at least one Object or External metric to support scaling to zero replicas";
            errors.push(FieldError::forbidden("spec.metrics", why));
        }
        for (i, metric) in object.list_at(&["spec", "metrics"]).iter().enumerate() {
            metric_errors(metric, &format!("spec.metrics[{i}]"), &mut errors);
        }
        for direction in ["scaleUp", "scaleDown"] {
            if let Some(rules) = object.at(&["spec", "behavior", direction]) {
                scaling_errors(rules, &format!("spec.behavior.{direction}"), &mut errors);
            }
        }
        errors
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        target_version(object).into_iter().collect()
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let same = |f: &&str| object.str_at(&["spec", "scaleTargetRef", f]) == old.str_at(&["spec", "scaleTargetRef", f]);
        let changed = !["apiVersion", "kind"].iter().all(same);
        target_version(object).filter(|_| changed).into_iter().collect()
    }

    fn cell(&self, object: &Value, column: &str) -> Value {
        let target = |field: &str| object.str_at(&["spec", "scaleTargetRef", field]);
        match column {
            "Reference" => format!("{}/{}", target("kind"), target("name")).into(),
            "Targets" => targets(object),
            _ => Value::Null,
        }
    }
}

/// Policies that are taken where none are given: type and value, each for fifteen seconds.
const UP: [(&str, i64); 2] = [("Pods", 4), ("Percent", 100)];
const DOWN: [(&str, i64); 1] = [("Percent", 100)];

fn default_rules(behavior: &mut Value, direction: &str, policies: &[(&str, i64)]) {
    let rules = behavior.place(&[direction]);
    if direction == "scaleUp" && rules.get("stabilizationWindowSeconds").is_none() {
        rules.set(&["stabilizationWindowSeconds"], 0);
    }
    if rules.get("selectPolicy").is_none() {
        rules.set(&["selectPolicy"], "Max");
    }
    if rules.get("policies").is_none_or(Value::is_null) {
        let policy = |(ty, value): &(&str, i64)| object!({ "type": (*ty), "value": (*value), "periodSeconds": 15 });
        rules.set(&["policies"], policies.iter().map(policy).collect::<Vec<_>>());
    }
}

/// What is scaled has to be of a group; only one kind without can be scaled.
fn target_version(object: &Value) -> Option<FieldError> {
    let (version, kind) = ["apiVersion", "kind"].map(|f| object.str_at(&["spec", "scaleTargetRef", f])).into();
    let good = match version.matches('/').count() {
        0 => kind == "ReplicationController",
        1 => !version.starts_with('/') || kind == "ReplicationController",
        _ => false,
    };
    (!good).then(|| FieldError::invalid("spec.scaleTargetRef.apiVersion", version, "apiVersion must specify API group"))
}

fn reference(target: &Value, at: &str, errors: &mut Vec<FieldError>) {
    for field in ["kind", "name"] {
        let text = target.str_at(&[field]);
        if text.is_empty() {
            errors.push(FieldError::required(format!("{at}.{field}"), ""));
        } else if let Err(why) = names::path_segment(text) {
            errors.push(FieldError::invalid(format!("{at}.{field}"), text, why));
        }
    }
}

fn metric_errors(metric: &Value, at: &str, errors: &mut Vec<FieldError>) {
    const KINDS: [(&str, &str); 5] = [
        ("ContainerResource", "containerResource"),
        ("External", "external"),
        ("Object", "object"),
        ("Pods", "pods"),
        ("Resource", "resource"),
    ];
    let ty = metric.str_at(&["type"]);
    if ty.is_empty() {
        errors.push(FieldError::required(format!("{at}.type"), "must specify a metric source type"));
    }
    let Some((_, field)) = KINDS.iter().find(|(kind, _)| *kind == ty) else {
        let names = KINDS.map(|(kind, _)| kind);
        return errors.push(FieldError::not_supported(format!("{at}.type"), ty, &names));
    };
    let given = |f: &str| metric.get(f).is_some_and(|v| !v.is_null());
    let several = KINDS.iter().filter(|(_, f)| given(f)).count() > 1;
    for (_, other) in KINDS.iter().filter(|(_, f)| several && f != field && given(f)) {
        errors.push(FieldError::forbidden(format!("{at}.{other}"), "must populate the given metric source only"));
    }
    let Some(source) = metric.get(field).filter(|v| !v.is_null()) else {
        return errors.push(FieldError::required(format!("{at}.{field}"), "must populate information for the given metric source"));
    };
    let at = format!("{at}.{field}");
    if let Some(target) = source.get("target") {
        target_errors(target, &format!("{at}.target"), errors);
    }
    match *field {
        "resource" | "containerResource" => {
            let name = source.str_at(&["name"]);
            if name.is_empty() {
                errors.push(FieldError::required(format!("{at}.name"), "must specify a resource name"));
            } else if *field == "containerResource" && !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !name.contains('/') {
                errors.push(FieldError::invalid(format!("{at}.name"), name, "must be a standard resource for containers"));
            }
            let container = source.str_at(&["container"]);
            if *field == "containerResource" && container.is_empty() {
                errors.push(FieldError::required(format!("{at}.container"), "must specify a container"));
            } else if !container.is_empty()
                && let Err(why) = names::dns_label(container)
            {
                errors.push(FieldError::invalid(format!("{at}.container"), container, why));
            }
        }
        _ => {
            let name = source.str_at(&["metric", "name"]);
            if name.is_empty() {
                errors.push(FieldError::required(format!("{at}.metric.name"), "must specify a metric name"));
            } else if let Err(why) = names::path_segment(name) {
                errors.push(FieldError::invalid(format!("{at}.metric.name"), name, why));
            }
            if *field == "object" {
                reference(source.get("describedObject").unwrap_or(&Value::Null), &format!("{at}.describedObject"), errors);
            }
        }
    }
    let has = |f: &str| source.at(&["target", f]).is_some_and(|v| !v.is_null());
    let mut need = |names: [&str; 2], shown: &str| {
        if !names.iter().any(|n| has(n)) {
            errors.push(FieldError::required(format!("{at}.target.{shown}"), "must set a target"));
        } else if names[0] != names[1] && names.iter().all(|n| has(n)) {
            errors.push(FieldError::forbidden(format!("{at}.target.{}", names[0]), "may not set both targets"));
        }
    };
    match *field {
        "pods" => need(["averageValue", "averageValue"], "averageValue"),
        "object" => need(["value", "averageValue"], "averageValue"),
        "external" => need(["value", "averageValue"], "averageValue"),
        _ => need(["averageValue", "averageUtilization"], "averageUtilization"),
    }
}

fn target_errors(target: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let ty = target.str_at(&["type"]);
    if ty.is_empty() {
        errors.push(FieldError::required(format!("{at}.type"), "must specify a metric target type"));
    }
    if !["Utilization", "Value", "AverageValue"].contains(&ty) {
        errors.push(FieldError::invalid(format!("{at}.type"), ty, "must be either Utilization, Value, or AverageValue"));
    }
    for field in ["value", "averageValue"] {
        if target.str_at(&[field]).parse::<Quantity>().is_ok_and(|q| q.sign() != 1) {
            errors.push(FieldError::invalid(format!("{at}.{field}"), target.get(field).cloned(), "must be positive"));
        }
    }
    if let Some(n) = target.int_at(&["averageUtilization"]).filter(|n| *n < 1) {
        errors.push(FieldError::invalid(format!("{at}.averageUtilization"), n, "must be greater than 0"));
    }
}

fn scaling_errors(rules: &Value, at: &str, errors: &mut Vec<FieldError>) {
    if let Some(n) = rules.int_at(&["stabilizationWindowSeconds"]).filter(|n| !(0..=3600).contains(n)) {
        errors.push(FieldError::invalid(format!("{at}.stabilizationWindowSeconds"), n, "must be between 0 and 3600"));
    }
    if rules.str_at(&["tolerance"]).parse::<Quantity>().is_ok_and(|q| q.is_negative()) {
        errors.push(FieldError::invalid(format!("{at}.tolerance"), rules.get("tolerance").cloned(), "must be greater or equal to zero"));
    }
    let policies = rules.list_at(&["policies"]);
    if policies.is_empty() {
        errors.push(FieldError::required(format!("{at}.policies"), "must specify at least one Policy"));
    }
    for (i, policy) in policies.iter().enumerate() {
        let at = format!("{at}.policies[{i}]");
        if policy.str_at(&["type"]).is_empty() {
            errors.push(FieldError::not_supported(format!("{at}.type"), "", &["Percent", "Pods"]));
        }
        let value = policy.int_at(&["value"]).unwrap_or(0);
        if value <= 0 {
            errors.push(FieldError::invalid(format!("{at}.value"), value, "must be greater than zero"));
        }
        let period = policy.int_at(&["periodSeconds"]).unwrap_or(0);
        if !(1..=1800).contains(&period) {
            errors.push(FieldError::invalid(format!("{at}.periodSeconds"), period, "must be greater than zero and at most 1800"));
        }
    }
}

/// What each metric is and should be, as kubectl's printer formats them.
fn targets(object: &Value) -> Value {
    let percent = |n: Option<i64>| n.map_or("<unknown>".to_string(), |n| format!("{n}%"));
    if let Some(target) = object.int_at(&["spec", "targetCPUUtilizationPercentage"]) {
        let current = object.int_at(&["status", "currentCPUUtilizationPercentage"]);
        return format!("cpu: {}/{target}%", percent(current)).into();
    }
    let current = object.list_at(&["status", "currentMetrics"]);
    // Statuses stand in the order of the metrics.
    let metrics = object.list_at(&["spec", "metrics"]);
    let now_of = |metric: &Value| metrics.iter().position(|m| m == metric).and_then(|i| current.get(i));
    let one = |metric: &Value| {
        let ty = metric.str_at(&["type"]);
        let field = match ty {
            "Resource" => "resource",
            "ContainerResource" => "containerResource",
            "Pods" => return counted(metric, now_of(metric), "pods"),
            "Object" => return counted(metric, now_of(metric), "object"),
            _ => return counted(metric, now_of(metric), "external"),
        };
        let (name, container) = (metric.str_at(&[field, "name"]), metric.str_at(&[field, "container"]));
        let same =
            |m: &&Value| m.str_at(&["type"]) == ty && m.str_at(&[field, "name"]) == name && m.str_at(&[field, "container"]) == container;
        let now = current.iter().find(same);
        let text = match metric.str_at(&[field, "target", "averageValue"]) {
            "" => {
                let target = metric.int_at(&[field, "target", "averageUtilization"]).map_or("<auto>".to_string(), |n| format!("{n}%"));
                format!("{}/{target}", percent(now.and_then(|m| m.int_at(&[field, "current", "averageUtilization"]))))
            }
            target => {
                let value = now.map(|m| m.str_at(&[field, "current", "averageValue"])).filter(|v| !v.is_empty());
                format!("{}/{target}", value.unwrap_or("<unknown>"))
            }
        };
        format!("{name}: {text}")
    };
    match metrics.len() {
        0..=2 => joined(metrics.iter().map(one), "<none>").as_str().unwrap_or_default().replace(',', ", ").into(),
        n => format!("{} + {} more...", metrics[..2].iter().map(one).collect::<Vec<_>>().join(", "), n - 2).into(),
    }
}

/// A metric that is a number: what it is now and what it should be, of all pods or on average.
fn counted(metric: &Value, now: Option<&Value>, field: &str) -> String {
    let (kind, average) = match metric.str_at(&[field, "target", "averageValue"]) {
        "" => ("value", ""),
        _ if field == "pods" => ("averageValue", ""),
        _ => ("averageValue", " (avg)"),
    };
    let now = now.map(|m| m.str_at(&[field, "current", kind])).filter(|v| !v.is_empty()).unwrap_or("<unknown>");
    format!("{now}/{}{average}", metric.str_at(&[field, "target", kind]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    #[test]
    fn targets_show_what_is_and_what_should_be() {
        let metric = |name: &str| object!({ "type": "Resource", "resource": { "name": name, "target": { "averageUtilization": 50 } } });
        let scaler = object!({
            "spec": { "scaleTargetRef": { "kind": "Deployment", "name": "web" }, "metrics": [(metric("cpu")), (metric("memory"))] },
            "status": { "currentMetrics": [{ "type": "Resource", "resource": { "name": "cpu", "current": { "averageUtilization": 7 } } }] }
        });
        let cell = |column| HorizontalPodAutoscaler.cell(&scaler, column);
        assert_eq!([cell("Reference"), cell("Targets")], ["Deployment/web", "cpu: 7%/50%, memory: <unknown>/50%"].map(Value::from));
    }

    #[test]
    fn the_most_is_not_less_than_the_least_which_only_some_metrics_let_be_none() {
        let spec = |least: i64, most: i64| object!({ "spec": { "minReplicas": least, "maxReplicas": most, "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "web" } } });
        let count = |least, most| HorizontalPodAutoscaler.validate(&spec(least, most)).len();
        assert_eq!((count(1, 3), count(3, 1), count(0, 1)), (0, 1, 2));
    }
}
