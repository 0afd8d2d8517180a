//! HorizontalPodAutoscalers: their limits, and the cells of their table.

use fram_machinery::Value;
use fram_machinery::status::FieldError;

use super::{Strategy, joined};

pub(super) struct HorizontalPodAutoscaler;

impl Strategy for HorizontalPodAutoscaler {
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let (least, most) = (object.int_at(&["spec", "minReplicas"]), object.int_at(&["spec", "maxReplicas"]).unwrap_or(0));
        if least.is_some_and(|n| n < 1) {
            errors.push(FieldError::invalid("spec.minReplicas", least, "must be greater than or equal to 1"));
        }
        if most < 1 {
            errors.push(FieldError::invalid("spec.maxReplicas", most, "must be greater than 0"));
        }
        if least.is_some_and(|n| most < n) {
            errors.push(FieldError::invalid("spec.maxReplicas", most, "must be greater than or equal to `minReplicas`"));
        }
        for field in ["kind", "name"] {
            if object.str_at(&["spec", "scaleTargetRef", field]).is_empty() {
                errors.push(FieldError::required(format!("spec.scaleTargetRef.{field}"), ""));
            }
        }
        errors
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

/// What each metric is and should be, as kubectl's printer formats them.
fn targets(object: &Value) -> Value {
    let percent = |n: Option<i64>| n.map_or("<unknown>".to_string(), |n| format!("{n}%"));
    if let Some(target) = object.int_at(&["spec", "targetCPUUtilizationPercentage"]) {
        let current = object.int_at(&["status", "currentCPUUtilizationPercentage"]);
        return format!("cpu: {}/{target}%", percent(current)).into();
    }
    let current = object.list_at(&["status", "currentMetrics"]);
    let one = |metric: &Value| {
        let ty = metric.str_at(&["type"]);
        let field = match ty {
            "Resource" => "resource",
            "ContainerResource" => "containerResource",
            other => return format!("<{}>", other.to_lowercase()),
        };
        let (name, container) = (metric.str_at(&[field, "name"]), metric.str_at(&[field, "container"]));
        let same =
            |m: &&Value| m.str_at(&["type"]) == ty && m.str_at(&[field, "name"]) == name && m.str_at(&[field, "container"]) == container;
        let now = current.iter().find(same);
        let text = match metric.str_at(&[field, "target", "averageValue"]) {
            "" => {
                let target = percent(metric.int_at(&[field, "target", "averageUtilization"]));
                format!("{}/{target}", percent(now.and_then(|m| m.int_at(&[field, "current", "averageUtilization"]))))
            }
            target => {
                let value = now.map(|m| m.str_at(&[field, "current", "averageValue"])).filter(|v| !v.is_empty());
                format!("{}/{target}", value.unwrap_or("<unknown>"))
            }
        };
        format!("{name}: {text}")
    };
    let metrics = object.list_at(&["spec", "metrics"]);
    match metrics.len() {
        0..=2 => joined(metrics.iter().map(one), "<none>").as_str().unwrap_or_default().replace(',', ", ").into(),
        n => format!("{} + {} more...", metrics[..2].iter().map(one).collect::<Vec<_>>().join(", "), n - 2).into(),
    }
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
    fn the_most_is_not_less_than_the_least() {
        let spec = |least: i64, most: i64| object!({ "spec": { "minReplicas": least, "maxReplicas": most, "scaleTargetRef": { "kind": "Deployment", "name": "web" } } });
        let count = |least, most| HorizontalPodAutoscaler.validate(&spec(least, most)).len();
        assert_eq!((count(1, 3), count(3, 1), count(0, 1)), (0, 1, 1));
    }
}
