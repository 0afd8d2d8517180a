//! The workload kinds of apps/v1, and ReplicationControllers. StatefulSets are in `stateful_set`.

mod stateful_set;

use fram_machinery::labels::Selector;
use fram_machinery::status::FieldError;
use fram_machinery::{Key, Map, Value, meta};

use super::limits::{number_or_percent, percent};
use super::pod::default_pod_spec;
use super::{Strategy, container_cell, joined, printed_selector, warnings};

pub(super) use stateful_set::StatefulSet;

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
    let mismatch = || FieldError::invalid("spec.template.metadata.labels", labels.clone(), "`selector` does not match template `labels`");
    match Selector::from_object(object.at(&["spec", "selector"])) {
        Ok(None) => vec![FieldError::required(field, ""), mismatch()],
        Err(e) => vec![FieldError::invalid(field, object.at(&["spec", "selector"]).cloned(), e.to_string())],
        Ok(_) if lacks_values(object.at(&["spec", "selector"]).unwrap_or(&Value::Null)) => {
            vec![FieldError::invalid(
                field,
                object.at(&["spec", "selector"]).cloned(),
                "for 'in', 'notin' operators, values set can't be empty",
            )]
        }
        Ok(Some(s)) if s.is_everything() => {
            vec![FieldError::invalid(field, object.at(&["spec", "selector"]).cloned(), "empty selector is invalid")]
        }
        Ok(Some(s)) if !s.matches(labels) => vec![mismatch()],
        Ok(Some(_)) => Vec::new(),
    }
}

fn lacks_values(selector: &Value) -> bool {
    let listed = |e: &&Value| matches!(e.str_at(&["operator"]), "In" | "NotIn");
    selector.list_at(&["matchExpressions"]).iter().filter(listed).any(|e| e.list_at(&["values"]).is_empty())
}

/// What a template of pods that are kept running may not say.
pub(super) fn template_errors(object: &Value) -> Vec<FieldError> {
    let spec = object.at(&["spec", "template", "spec"]).unwrap_or(&Value::Null);
    let mut errors = super::pod::validate_spec(spec, "spec.template.spec");
    let value = spec.str_at(&["restartPolicy"]);
    if value != "Always" && !value.is_empty() {
        errors.push(FieldError::not_supported("spec.template.spec.restartPolicy", value, &["Always"]));
    }
    if spec.int_at(&["activeDeadlineSeconds"]).is_some() {
        let why = "activeDeadlineSeconds in ReplicaSet is not Supported";
        errors.push(FieldError::forbidden("spec.template.spec.activeDeadlineSeconds", why));
    }
    no_ephemeral(spec, "spec.template.spec", &mut errors);
    errors
}

pub(super) fn no_ephemeral(spec: &Value, at: &str, errors: &mut Vec<FieldError>) {
    if !spec.list_at(&["ephemeralContainers"]).is_empty() {
        let why = "ephemeral containers not allowed in pod template";
        errors.push(FieldError::forbidden(format!("{at}.ephemeralContainers"), why));
    }
}

/// Counts of a status that are parts of another count.
fn count_errors(object: &Value, old: &Value, parts: &[&str]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let count = |object: &Value, field: &str| object.int_at(&["status", field]).unwrap_or(0);
    let all = count(object, "replicas");
    for field in parts.iter().filter(|f| count(object, f) > all) {
        errors.push(FieldError::invalid(format!("status.{field}"), count(object, field), "cannot be greater than status.replicas"));
    }
    if parts.contains(&"availableReplicas") && count(object, "availableReplicas") > count(object, "readyReplicas") {
        let why = "cannot be greater than readyReplicas";
        errors.push(FieldError::invalid("status.availableReplicas", count(object, "availableReplicas"), why));
    }
    if let Some(before) = old.int_at(&["status", "collisionCount"])
        && count(object, "collisionCount") < before
    {
        errors.push(FieldError::invalid("status.collisionCount", count(object, "collisionCount"), "cannot be decremented"));
    }
    errors
}

fn is_zero(value: Option<&Value>) -> bool {
    match value {
        Some(Value::Int(n)) => *n == 0,
        Some(Value::String(s)) => percent(s).is_none_or(|n| n == 0),
        _ => true,
    }
}

/// A number that is not negative, or a percentage; of at most a hundred where `most` says so.
fn share(object: &Value, path: &[&str], most: bool, errors: &mut Vec<FieldError>) {
    let at = path.join(".");
    match object.at(path) {
        Some(Value::String(text)) if !most && percent(text).is_some() => {}
        value => number_or_percent(value, &at, errors),
    }
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
    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        warnings::of_maker(object, old, &["spec", "template"])
    }

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
        let (deadline, ready) = (object.int_at(&["spec", "progressDeadlineSeconds"]), object.int_at(&["spec", "minReadySeconds"]));
        if let Some(deadline) = deadline.filter(|d| *d <= ready.unwrap_or(0)) {
            errors.push(FieldError::invalid("spec.progressDeadlineSeconds", deadline, "must be greater than minReadySeconds"));
        }
        let strategy = object.str_at(&["spec", "strategy", "type"]);
        if !["Recreate", "RollingUpdate"].contains(&strategy) {
            errors.push(FieldError::not_supported("spec.strategy", strategy, &["Recreate", "RollingUpdate"]));
        }
        let rolling = object.at(&["spec", "strategy", "rollingUpdate"]).filter(|r| !r.is_null());
        if strategy == "Recreate" && rolling.is_some() {
            let why = "may not be specified when strategy `type` is 'Recreate'";
            errors.push(FieldError::forbidden("spec.strategy.rollingUpdate", why));
        }
        if let Some(rolling) = rolling.filter(|_| strategy == "RollingUpdate") {
            share(object, &["spec", "strategy", "rollingUpdate", "maxUnavailable"], true, &mut errors);
            share(object, &["spec", "strategy", "rollingUpdate", "maxSurge"], false, &mut errors);
            if is_zero(rolling.get("maxUnavailable")) && is_zero(rolling.get("maxSurge")) {
                let why = "may not be 0 when `maxSurge` is 0";
                errors.push(FieldError::invalid("spec.strategy.rollingUpdate.maxUnavailable", 0, why));
            }
        }
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        immutable_selector(object, old)
    }

    fn validate_subresource(&self, subresource: &str, object: &Value, old: &Value) -> Vec<FieldError> {
        match subresource {
            "status" => count_errors(object, old, &["updatedReplicas", "readyReplicas", "availableReplicas"]),
            _ => Vec::new(),
        }
    }

    fn cell(&self, object: &Value, column: &str) -> Value {
        workload_cell(object, column)
    }
}

pub(super) struct ReplicaSet;
impl Strategy for ReplicaSet {
    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        warnings::of_maker(object, old, &["spec", "template"])
    }

    fn default(&self, object: &mut Value) {
        default_template(object);
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = selector_errors(object);
        errors.extend(template_errors(object));
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        immutable_selector(object, old)
    }

    fn validate_subresource(&self, subresource: &str, object: &Value, old: &Value) -> Vec<FieldError> {
        match subresource {
            "status" => count_errors(object, old, &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"]),
            _ => Vec::new(),
        }
    }

    fn cell(&self, object: &Value, column: &str) -> Value {
        workload_cell(object, column)
    }
}

pub(super) struct DaemonSet;
impl Strategy for DaemonSet {
    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        warnings::of_template(object, old, &["spec", "template"])
    }

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
        if meta::annotation(object, TEMPLATE_GENERATION).is_none() {
            object.set(&["metadata", "annotations", TEMPLATE_GENERATION], "0");
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        // What is wrong with the parts of the selector is said of these only.
        let selector = object.at(&["spec", "selector"]);
        let malformed = Selector::from_object(selector).is_err() || selector.is_some_and(lacks_values);
        let mut errors = if malformed { Vec::new() } else { selector_errors(object) };
        errors.retain(|e| !e.is_required());
        errors.extend(template_errors(object));
        match object.str_at(&["spec", "updateStrategy", "type"]) {
            "OnDelete" => {}
            "RollingUpdate" => rolling_errors(object, &mut errors),
            other => errors.push(FieldError::not_supported("spec.updateStrategy", other, &["OnDelete", "RollingUpdate"])),
        }
        errors
    }

    fn prepare_create(&self, object: &mut Value) {
        object.set(&["metadata", "annotations", TEMPLATE_GENERATION], "1");
    }

    fn prepare_update(&self, object: &mut Value, old: &Value) {
        let before = meta::annotation(old, TEMPLATE_GENERATION).and_then(|t| t.parse::<i64>().ok()).unwrap_or(0);
        let changed = object.at(&["spec", "template"]) != old.at(&["spec", "template"]);
        let now = if changed { before + 1 } else { before };
        if now > 0 {
            object.set(&["metadata", "annotations", TEMPLATE_GENERATION], now.to_string());
        }
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        immutable_selector(object, old)
    }

    fn validate_subresource(&self, subresource: &str, object: &Value, old: &Value) -> Vec<FieldError> {
        if subresource == "status" { count_errors(object, old, &[]) } else { Vec::new() }
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

/// The generation of a DaemonSet's template, which old clients read.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn rolling_errors(object: &Value, errors: &mut Vec<FieldError>) {
    const AT: &str = "spec.updateStrategy.rollingUpdate";
    let Some(rolling) = object.at(&["spec", "updateStrategy", "rollingUpdate"]) else {
        return errors.push(FieldError::required(AT, ""));
    };
    share(object, &["spec", "updateStrategy", "rollingUpdate", "maxUnavailable"], true, errors);
    share(object, &["spec", "updateStrategy", "rollingUpdate", "maxSurge"], true, errors);
    let (unavailable, surge) = (is_zero(rolling.get("maxUnavailable")), is_zero(rolling.get("maxSurge")));
    if unavailable && surge {
        let why = "cannot be 0 when maxSurge is 0";
        errors.push(FieldError::required(format!("{AT}.maxUnavailable"), why));
    } else if !unavailable && !surge {
        let why = "may not be set when maxUnavailable is non-zero";
        errors.push(FieldError::invalid(format!("{AT}.maxSurge"), rolling.get("maxSurge").cloned(), why));
    }
}

/// PodTemplates, ControllerRevisions, ReplicationControllers.
pub(super) struct PodTemplate;
impl Strategy for PodTemplate {
    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        warnings::of_template(object, old, &["template"])
    }

    fn cell(&self, object: &Value, column: &str) -> Value {
        match column {
            "Containers" => container_cell(object.at(&["template", "spec"]), "name"),
            "Images" => container_cell(object.at(&["template", "spec"]), "image"),
            _ => {
                let labels = object.at(&["template", "metadata", "labels"]).and_then(Value::as_map);
                let one = |(key, value): (&Key, &Value)| format!("{key}={}", value.as_str().unwrap_or_default());
                joined(labels.into_iter().flat_map(Map::iter).map(one), "<none>")
            }
        }
    }

    fn default(&self, object: &mut Value) {
        if object.at(&["template", "spec"]).is_some() {
            default_pod_spec(object.place(&["template", "spec"]));
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let spec = object.at(&["template", "spec"]).unwrap_or(&Value::Null);
        let mut errors = super::pod::validate_spec(spec, "template.spec");
        no_ephemeral(spec, "template.spec", &mut errors);
        errors
    }
}

pub(super) struct ControllerRevision;
impl Strategy for ControllerRevision {
    fn cell(&self, object: &Value, _: &str) -> Value {
        let owners = meta::owner_references(object);
        let Some(owner) = owners.iter().find(|o| o.bool_at(&["controller"]) == Some(true)) else { return Value::Null };
        let group = owner.str_at(&["apiVersion"]).split_once('/').map_or(String::new(), |(group, _)| format!(".{group}"));
        format!("{}{group}/{}", owner.str_at(&["kind"]).to_lowercase(), owner.str_at(&["name"])).into()
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        match object.get("data") {
            None | Some(Value::Null) => vec![FieldError::required("data", "data is mandatory")],
            Some(_) => Vec::new(),
        }
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        if object.get("data") == old.get("data") {
            return Vec::new();
        }
        vec![FieldError::invalid("data", object.get("data").cloned(), "field is immutable")]
    }
}

pub(super) struct ReplicationController;
impl Strategy for ReplicationController {
    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        warnings::of_maker(object, old, &["spec", "template"])
    }

    fn checks_base_names(&self) -> bool {
        false
    }

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
        let mut errors = Vec::new();
        let selector = object.at(&["spec", "selector"]).and_then(Value::as_map).cloned().unwrap_or_default();
        let labels = object.at(&["spec", "template", "metadata", "labels"]).unwrap_or(&Value::Null);
        if selector.is_empty() {
            errors.push(FieldError::required("spec.selector", ""));
        }
        if object.at(&["spec", "template"]).is_none_or(Value::is_null) {
            errors.push(FieldError::required("spec.template", ""));
            return errors;
        }
        if !selector.is_empty() && !Selector::from_map(&selector).matches(labels) {
            let why = "`selector` does not match template `labels`";
            errors.push(FieldError::invalid("spec.template.metadata.labels", labels.clone(), why));
        }
        errors.extend(template_errors(object));
        errors
    }

    fn validate_subresource(&self, subresource: &str, object: &Value, old: &Value) -> Vec<FieldError> {
        match subresource {
            "status" => count_errors(object, old, &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"]),
            _ => Vec::new(),
        }
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
