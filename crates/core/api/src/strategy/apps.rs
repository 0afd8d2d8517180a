//! The workload kinds of apps/v1, and ReplicationControllers.

use fram_machinery::labels::Selector;
use fram_machinery::status::FieldError;
use fram_machinery::{Map, Value, meta};

use super::pod::default_pod_spec;
use super::{Strategy, container_cell, printed_selector};

/// Conditional defaults of the pod template at `spec.template`.
pub(crate) fn default_template(object: &mut Value) {
    if object.at(&["spec", "template", "spec"]).is_some() {
        default_pod_spec(object.place(&["spec", "template", "spec"]));
    }
}

/// The selector must not be empty and must match the template's labels.
fn selector_errors(object: &Value) -> Vec<FieldError> {
    let field = "spec.selector";
    let labels = object.at(&["spec", "template", "metadata", "labels"]).unwrap_or(&Value::Null);
    match Selector::from_object(object.at(&["spec", "selector"])) {
        Ok(None) => vec![FieldError::required(field, "")],
        Err(e) => vec![FieldError::invalid(field, object.at(&["spec", "selector"]).cloned(), e.to_string())],
        Ok(Some(s)) if s.is_everything() => {
            vec![FieldError::invalid(field, object.at(&["spec", "selector"]).cloned(), "empty selector is invalid")]
        }
        Ok(Some(s)) if !s.matches(labels) => {
            vec![FieldError::invalid("spec.template.metadata.labels", labels.clone(), "`selector` does not match template `labels`")]
        }
        Ok(Some(_)) => Vec::new(),
    }
}

fn template_errors(object: &Value) -> Vec<FieldError> {
    let spec = object.at(&["spec", "template", "spec"]).unwrap_or(&Value::Null);
    let mut errors = super::pod::validate_spec(spec, "spec.template.spec");
    if spec.str_at(&["restartPolicy"]) != "Always" {
        let value = spec.str_at(&["restartPolicy"]);
        errors.push(FieldError::not_supported("spec.template.spec.restartPolicy", value, &["Always"]));
    }
    errors
}

fn not_negative(object: &Value, fields: &[&str]) -> Vec<FieldError> {
    let bad = |f: &&&str| object.int_at(&["spec", f]).is_some_and(|n| n < 0);
    let error = |f: &&str| FieldError::invalid(format!("spec.{f}"), object.at(&["spec", f]).cloned(), "must be greater than or equal to 0");
    fields.iter().filter(bad).map(error).collect()
}

fn immutable_selector(object: &Value, old: &Value) -> Vec<FieldError> {
    let (new, old) = (object.at(&["spec", "selector"]), old.at(&["spec", "selector"]));
    if new == old { Vec::new() } else { vec![FieldError::invalid("spec.selector", new.cloned(), "field is immutable")] }
}

fn workload_cell(object: &Value, column: &str) -> Value {
    let spec = object.at(&["spec", "template", "spec"]);
    match column {
        "Containers" => container_cell(spec, "name"),
        "Images" => container_cell(spec, "image"),
        "Selector" => printed_selector(object.at(&["spec", "selector"])),
        "Ready" => {
            let n = |path: &[&str]| object.int_at(path).unwrap_or(0);
            format!("{}/{}", n(&["status", "readyReplicas"]), n(&["spec", "replicas"])).into()
        }
        _ => Value::Null,
    }
}

pub(super) struct Deployment;
impl Strategy for Deployment {
    fn default(&self, object: &mut Value) {
        default_template(object);
        if object.str_at(&["spec", "strategy", "type"]) == "RollingUpdate" {
            let rolling = object.place(&["spec", "strategy", "rollingUpdate"]).make_map();
            for field in ["maxUnavailable", "maxSurge"] {
                if rolling.get(field).is_none_or(Value::is_null) {
                    rolling.insert(field, "25%");
                }
            }
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = selector_errors(object);
        errors.extend(template_errors(object));
        errors.extend(not_negative(object, &["replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"]));
        let strategy = object.str_at(&["spec", "strategy", "type"]);
        if !["Recreate", "RollingUpdate"].contains(&strategy) {
            errors.push(FieldError::not_supported("spec.strategy.type", strategy, &["Recreate", "RollingUpdate"]));
        }
        if strategy == "Recreate" && object.at(&["spec", "strategy", "rollingUpdate"]).is_some_and(|r| !r.is_null()) {
            let why = "may not be specified when strategy `type` is 'Recreate'";
            errors.push(FieldError::forbidden("spec.strategy.rollingUpdate", why));
        }
        let zero = |f: &str| match object.at(&["spec", "strategy", "rollingUpdate", f]) {
            Some(Value::Int(0)) => true,
            Some(Value::String(s)) => s.trim_end_matches('%') == "0",
            _ => false,
        };
        if zero("maxUnavailable") && zero("maxSurge") {
            let why = "may not be 0 when `maxSurge` is 0";
            errors.push(FieldError::invalid("spec.strategy.rollingUpdate.maxUnavailable", 0, why));
        }
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        immutable_selector(object, old)
    }

    fn cell(&self, object: &Value, column: &str) -> Value {
        workload_cell(object, column)
    }
}

pub(super) struct ReplicaSet;
impl Strategy for ReplicaSet {
    fn default(&self, object: &mut Value) {
        default_template(object);
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = selector_errors(object);
        errors.extend(template_errors(object));
        errors.extend(not_negative(object, &["replicas", "minReadySeconds"]));
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        immutable_selector(object, old)
    }

    fn cell(&self, object: &Value, column: &str) -> Value {
        workload_cell(object, column)
    }
}

pub(super) struct DaemonSet;
impl Strategy for DaemonSet {
    fn default(&self, object: &mut Value) {
        default_template(object);
        if object.str_at(&["spec", "updateStrategy", "type"]) == "RollingUpdate" {
            let rolling = object.place(&["spec", "updateStrategy", "rollingUpdate"]).make_map();
            for (field, value) in [("maxUnavailable", 1), ("maxSurge", 0)] {
                if rolling.get(field).is_none_or(Value::is_null) {
                    rolling.insert(field, value);
                }
            }
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = selector_errors(object);
        errors.extend(template_errors(object));
        errors.extend(not_negative(object, &["minReadySeconds", "revisionHistoryLimit"]));
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        immutable_selector(object, old)
    }

    fn cell(&self, object: &Value, column: &str) -> Value {
        match column {
            "Node Selector" => {
                let map = object.at(&["spec", "template", "spec", "nodeSelector"]).and_then(Value::as_map).cloned().unwrap_or_default();
                if map.is_empty() { "<none>".into() } else { Selector::from_map(&map).to_string().into() }
            }
            _ => workload_cell(object, column),
        }
    }
}

/// A StatefulSet whose template has the volumes that its pods get from claims.
fn with_claims(set: &Value) -> Value {
    let mut set = set.clone();
    let names: Vec<String> =
        set.list_at(&["spec", "volumeClaimTemplates"]).iter().map(|c| c.str_at(&["metadata", "name"]).to_string()).collect();
    let volumes =
        |name: &String| fram_machinery::object!({ "name": (name.as_str()), "persistentVolumeClaim": { "claimName": (name.as_str()) } });
    let own = set.list_at(&["spec", "template", "spec", "volumes"]).iter().filter(|v| names.iter().all(|n| n != v.str_at(&["name"])));
    let all: Vec<Value> = own.cloned().chain(names.iter().map(volumes)).collect();
    if !names.is_empty() {
        set.set(&["spec", "template", "spec", "volumes"], all);
    }
    set
}

pub(super) struct StatefulSet;
impl Strategy for StatefulSet {
    fn default(&self, object: &mut Value) {
        default_template(object);
        let unset = object.str_at(&["spec", "updateStrategy", "type"]).is_empty();
        if unset {
            object.set(&["spec", "updateStrategy", "type"], "RollingUpdate");
            object.place(&["spec", "updateStrategy", "rollingUpdate"]).make_map();
        }
        let rolling = object.at(&["spec", "updateStrategy", "rollingUpdate"]).is_some_and(|r| !r.is_null());
        if rolling && object.at(&["spec", "updateStrategy", "rollingUpdate", "partition"]).is_none() {
            object.set(&["spec", "updateStrategy", "rollingUpdate", "partition"], 0);
        }
        for when in ["whenDeleted", "whenScaled"] {
            if object.str_at(&["spec", "persistentVolumeClaimRetentionPolicy", when]).is_empty() {
                object.set(&["spec", "persistentVolumeClaimRetentionPolicy", when], "Retain");
            }
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = selector_errors(object);
        errors.extend(template_errors(&with_claims(object)));
        errors.extend(not_negative(object, &["replicas", "minReadySeconds"]));
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        const MUTABLE: &[&str] = &[
            "replicas",
            "ordinals",
            "template",
            "updateStrategy",
            "revisionHistoryLimit",
            "persistentVolumeClaimRetentionPolicy",
            "minReadySeconds",
        ];
        let frozen = |o: &Value| {
            let mut spec: Map = o.get("spec").and_then(Value::as_map).cloned().unwrap_or_default();
            spec.retain(|k, _| !MUTABLE.contains(&k.as_str()));
            spec
        };
        if frozen(object) == frozen(old) {
            return Vec::new();
        }
        let why = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        vec![FieldError::forbidden("spec", why)]
    }

    fn cell(&self, object: &Value, column: &str) -> Value {
        workload_cell(object, column)
    }
}

pub(super) struct ReplicationController;
impl Strategy for ReplicationController {
    fn default(&self, object: &mut Value) {
        default_template(object);
        let labels = object.at(&["spec", "template", "metadata", "labels"]).cloned().unwrap_or_default();
        if !labels.is_empty() {
            if object.at(&["spec", "selector"]).is_none_or(Value::is_empty) {
                object.set(&["spec", "selector"], labels.clone());
            }
            if meta::labels(object).is_empty() {
                object.set(&["metadata", "labels"], labels);
            }
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = not_negative(object, &["replicas", "minReadySeconds"]);
        let selector = object.at(&["spec", "selector"]).and_then(Value::as_map).cloned().unwrap_or_default();
        let labels = object.at(&["spec", "template", "metadata", "labels"]).unwrap_or(&Value::Null);
        if selector.is_empty() {
            errors.push(FieldError::required("spec.selector", ""));
        } else if !Selector::from_map(&selector).matches(labels) {
            let why = "`selector` does not match template `labels`";
            errors.push(FieldError::invalid("spec.template.metadata.labels", labels.clone(), why));
        }
        errors.extend(template_errors(object));
        errors
    }

    fn cell(&self, object: &Value, column: &str) -> Value {
        match column {
            "Selector" => {
                let map = object.at(&["spec", "selector"]).and_then(Value::as_map).cloned().unwrap_or_default();
                Selector::from_map(&map).to_string().into()
            }
            _ => workload_cell(object, column),
        }
    }
}
