//! Conversion between the versions of a kind. Only two built-in kinds are served in more than one: Events and
//! HorizontalPodAutoscalers. Versions of a custom resource differ by their schemas only.

use fram_machinery::{Value, normalize, object};

use crate::kind::Kind;

/// Converts an object of kind `from` to kind `to`; the same object where both are the same version. Of a custom resource
/// whose definition has changed, the object is brought into the form that it would have today.
pub fn convert(mut value: Value, from: &Kind, to: &Kind) -> Value {
    if let Some(custom) = &to.custom {
        return if custom.outdated || from.version != to.version { renewed(value, to) } else { value };
    }
    if from.group == to.group && from.version == to.version {
        return value;
    }
    match (from.kind.as_str(), to.group.as_str(), to.version.as_str()) {
        ("Event", "events.k8s.io", _) => rename(&mut value, &EVENT_NAMES, false),
        ("Event", "", _) => rename(&mut value, &EVENT_NAMES, true),
        ("HorizontalPodAutoscaler", _, "v1") => autoscaler_to_v1(&mut value),
        ("HorizontalPodAutoscaler", _, "v2") => autoscaler_to_v2(&mut value),
        _ => {}
    }
    value.set(&["apiVersion"], to.api_version());
    value
}

/// An object of a custom resource under today's schema; one that does not even have the right metadata stays as it is.
fn renewed(mut value: Value, kind: &Kind) -> Value {
    value.set(&["apiVersion"], kind.api_version());
    match normalize::decode(&kind.schema, kind.ty, value.clone()) {
        Ok(decoded) => {
            let mut value = decoded.value;
            normalize::apply_defaults(&kind.schema, kind.ty, &mut value);
            value
        }
        Err(_) => value,
    }
}

/// Field names of Events: in the core group, and in events.k8s.io.
const EVENT_NAMES: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

fn rename(value: &mut Value, names: &[(&'static str, &'static str)], to_core: bool) {
    for &(core, new) in names {
        let (from, to) = if to_core { (new, core) } else { (core, new) };
        if let Some(item) = value.remove(&[from]) {
            value.set(&[to], item);
        }
    }
}

fn autoscaler_to_v1(value: &mut Value) {
    let cpu = |m: &&Value| m.str_at(&["type"]) == "Resource" && m.str_at(&["resource", "name"]) == "cpu";
    let target = value.list_at(&["spec", "metrics"]).iter().find(cpu);
    let target = target.and_then(|m| m.int_at(&["resource", "target", "averageUtilization"]));
    let current = value.list_at(&["status", "currentMetrics"]).iter().find(cpu);
    let current = current.and_then(|m| m.int_at(&["resource", "current", "averageUtilization"]));
    let rest: Vec<Value> = value.list_at(&["spec", "metrics"]).iter().filter(|m| !cpu(m)).cloned().collect();
    let annotate = |value: &mut Value, name: &str, item: Option<Value>| {
        if let Some(item) = item.filter(|i| !i.is_empty()) {
            let key = format!("autoscaling.alpha.kubernetes.io/{name}");
            fram_machinery::meta::set_annotation(value, &key, &fram_machinery::json::to_string(&item));
        }
    };
    value.remove(&["spec", "metrics"]);
    annotate(value, "metrics", Some(rest.into()));
    for (annotation, path) in
        [("behavior", ["spec", "behavior"]), ("conditions", ["status", "conditions"]), ("current-metrics", ["status", "currentMetrics"])]
    {
        let item = value.remove(&path);
        annotate(value, annotation, item);
    }
    if let Some(target) = target {
        value.set(&["spec", "targetCPUUtilizationPercentage"], target);
    }
    if let Some(current) = current {
        value.set(&["status", "currentCPUUtilizationPercentage"], current);
    }
}

fn autoscaler_to_v2(value: &mut Value) {
    let mut take = |name: &str| {
        let key = format!("autoscaling.alpha.kubernetes.io/{name}");
        let text = value.remove(&["metadata", "annotations", &key])?;
        fram_machinery::json::from_slice(text.as_str()?.as_bytes()).ok()
    };
    let (metrics, behavior) = (take("metrics"), take("behavior"));
    let (conditions, current) = (take("conditions"), take("current-metrics"));
    let mut all = metrics.as_ref().and_then(Value::as_list).map(|l| l.to_vec()).unwrap_or_default();
    if let Some(target) = value.remove(&["spec", "targetCPUUtilizationPercentage"]) {
        all.push(object!({
            "type": "Resource",
            "resource": { "name": "cpu", "target": { "type": "Utilization", "averageUtilization": target } }
        }));
    }
    if !all.is_empty() {
        value.set(&["spec", "metrics"], all);
    }
    value.remove(&["status", "currentCPUUtilizationPercentage"]);
    let parts = [(["spec", "behavior"], behavior), (["status", "conditions"], conditions), (["status", "currentMetrics"], current)];
    for (path, item) in parts {
        if let Some(item) = item {
            value.set(&path, item);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Api;

    #[test]
    fn an_event_keeps_its_fields_under_other_names() {
        let api = Api::builtin().unwrap();
        let (core, new) = (api.kind("", "v1", "Event").unwrap(), api.kind("events.k8s.io", "v1", "Event").unwrap());
        let event = object!({ "apiVersion": "v1", "kind": "Event", "involvedObject": { "name": "x" }, "message": "m" });
        let converted = convert(event.clone(), core, new);
        assert_eq!(converted.str_at(&["regarding", "name"]), "x");
        assert_eq!(converted.str_at(&["apiVersion"]), "events.k8s.io/v1");
        assert_eq!(convert(converted, new, core), event);
    }

    #[test]
    fn an_autoscaler_comes_back_from_v1_whole() {
        let api = Api::builtin().unwrap();
        let kind = |v| api.kind("autoscaling", v, "HorizontalPodAutoscaler").unwrap();
        let v2 = object!({ "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": { "annotations": {} },
            "spec": { "metrics": [{ "type": "Resource", "resource": { "name": "cpu", "target": { "type": "Utilization", "averageUtilization": 60 } } }],
                      "behavior": { "scaleUp": { "selectPolicy": "Max" } } } });
        let v1 = convert(v2.clone(), kind("v2"), kind("v1"));
        assert_eq!(v1.int_at(&["spec", "targetCPUUtilizationPercentage"]), Some(60));
        assert_eq!(convert(v1, kind("v1"), kind("v2")), v2);
    }
}
