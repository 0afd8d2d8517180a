//! Conversion between the versions of a kind. Of the built-in kinds few differ by more than `apiVersion`: Events,
//! HorizontalPodAutoscalers, and claims and slices of resource.k8s.io/v1beta1. Versions of a custom resource differ by their schemas only.

pub(crate) mod autoscaler;
mod devices;

use fram_machinery::{Value, normalize};

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
        ("HorizontalPodAutoscaler", _, "v1") => autoscaler::to_v1(&mut value, &to.schema, to.ty),
        ("HorizontalPodAutoscaler", _, "v2") => autoscaler::to_v2(&mut value),
        ("ResourceClaim" | "ResourceClaimTemplate" | "ResourceSlice", "resource.k8s.io", version) => {
            match (from.version == "v1beta1", version == "v1beta1") {
                (true, false) => devices::from_v1beta1(&mut value),
                (false, true) => devices::to_v1beta1(&mut value),
                _ => {}
            }
        }
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

#[cfg(test)]
mod tests {
    use fram_machinery::object;

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
    fn claims_and_slices_come_back_from_v1beta1_whole() {
        let api = Api::chosen(&"resource.k8s.io/v1beta1".parse().unwrap()).unwrap();
        let there_and_back = |name: &str, object: &Value| {
            let kind = |v| api.kind("resource.k8s.io", v, name).unwrap();
            let old = convert(object.clone(), kind("v1"), kind("v1beta1"));
            assert_eq!(convert(old.clone(), kind("v1beta1"), kind("v1")), *object);
            old
        };
        let requests = object!([{ "name": "a", "exactly": { "deviceClassName": "c", "count": 2, "allocationMode": "ExactCount" } },
            { "name": "b", "firstAvailable": [{ "name": "s", "deviceClassName": "c" }] }]);
        let claim =
            object!({ "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "spec": { "devices": { "requests": (requests) } } });
        let old = there_and_back("ResourceClaim", &claim);
        assert_eq!(old.list_at(&["spec", "devices", "requests"])[0].str_at(&["deviceClassName"]), "c");
        let devices = object!([{ "name": "d", "attributes": { "x": { "int": 1 } } }, { "name": "bare" }]);
        let slice = object!({ "apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "spec": { "devices": (devices) } });
        let old = there_and_back("ResourceSlice", &slice);
        assert!(old.list_at(&["spec", "devices"]).iter().all(|d| d.get("basic").is_some()), "{old:?}");
    }

    #[test]
    fn an_autoscaler_comes_back_from_v1_whole() {
        let api = Api::builtin().unwrap();
        let kind = |v| api.kind("autoscaling", v, "HorizontalPodAutoscaler").unwrap();
        let metric = object!({ "metric": { "name": "m" }, "describedObject": { "kind": "Ingress", "name": "i", "apiVersion": "networking.k8s.io/v1" },
            "target": { "type": "Value", "value": "5" } });
        let v2 = object!({ "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": { "name": "a" },
            "spec": { "maxReplicas": 1, "scaleTargetRef": { "kind": "Deployment", "name": "d" }, "metrics": [{ "type": "Object", "object": metric },
                        { "type": "Resource", "resource": { "name": "cpu", "target": { "type": "Utilization", "averageUtilization": 60 } } }],
                      "behavior": { "scaleUp": { "selectPolicy": "Max", "policies": [{ "type": "Pods", "value": 4, "periodSeconds": 15 }] } } },
            "status": { "currentReplicas": 1, "desiredReplicas": 1, "currentMetrics": [{ "type": "Resource",
                        "resource": { "name": "cpu", "current": { "averageUtilization": 7, "averageValue": "1" } } }],
                      "conditions": [{ "type": "AbleToScale", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z" }] } });
        let v1 = convert(v2.clone(), kind("v2"), kind("v1"));
        assert_eq!(v1.int_at(&["spec", "targetCPUUtilizationPercentage"]), Some(60));
        let current = "autoscaling.alpha.kubernetes.io/current-metrics";
        assert_eq!(
            v1.str_at(&["metadata", "annotations", current]),
            r#"[{"type":"Resource","resource":{"name":"cpu","currentAverageUtilization":7,"currentAverageValue":"1"}}]"#
        );
        assert_eq!(convert(v1, kind("v1"), kind("v2")), v2);
    }
}
