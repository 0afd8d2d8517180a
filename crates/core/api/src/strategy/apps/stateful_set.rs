//! StatefulSets: their claim templates, how they are updated, and what of them may change.

use fram_machinery::status::FieldError;
use fram_machinery::{Map, Value, meta, names};

use super::super::{Strategy, warnings};
use super::{count_errors, default_template, selector_errors, template_errors, workload_cell};

/// A StatefulSet whose template has the volumes that its pods get from claims.
fn with_claims(set: &Value) -> Value {
    let mut set = set.clone();
    let names: Vec<String> =
        set.list_at(&["spec", "volumeClaimTemplates"]).iter().map(|c| c.str_at(&["metadata", "name"]).to_string()).collect();
    let volumes =
        |name: &String| fram_machinery::object!({ "name": (name.as_str()), "persistentVolumeClaim": { "claimName": (name.as_str()) } });
    let own = set.list_at(&["spec", "template", "spec", "volumes"]).iter().filter(|v| names.iter().all(|n| n != v.str_at(&["name"])));
    // Of two templates of one name the later one counts.
    let named = names.iter().enumerate().filter(|(i, n)| !names[..*i].contains(n)).map(|(_, n)| volumes(n));
    let all: Vec<Value> = own.cloned().chain(named).collect();
    if !names.is_empty() {
        set.set(&["spec", "template", "spec", "volumes"], all);
    }
    set
}

pub(in super::super) struct StatefulSet;
impl Strategy for StatefulSet {
    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        warnings::of_template(object, old, &["spec", "template"])
    }

    fn default(&self, object: &mut Value) {
        default_template(object);
        if object.str_at(&["spec", "updateStrategy", "type"]).is_empty() {
            object.set(&["spec", "updateStrategy", "type"], "RollingUpdate");
            object.place(&["spec", "updateStrategy", "rollingUpdate"]).make_map();
        }
        let rolling = object.at(&["spec", "updateStrategy", "rollingUpdate"]).is_some_and(|r| !r.is_null());
        if rolling && object.at(&["spec", "updateStrategy", "rollingUpdate", "partition"]).is_none() {
            object.set(&["spec", "updateStrategy", "rollingUpdate", "partition"], 0);
        }
        if !object.list_at(&["spec", "volumeClaimTemplates"]).is_empty() {
            for claim in object.place(&["spec", "volumeClaimTemplates"]).make_list().make_mut() {
                claim.set(&["apiVersion"], "v1");
                claim.set(&["kind"], "PersistentVolumeClaim");
                claim.set(&["status", "phase"], "Pending");
            }
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
        let policy = object.str_at(&["spec", "podManagementPolicy"]);
        if !["OrderedReady", "Parallel"].contains(&policy) {
            let why = "must be 'OrderedReady' or 'Parallel'";
            errors.push(FieldError::invalid("spec.podManagementPolicy", policy, why));
        }
        let rolling = object.at(&["spec", "updateStrategy", "rollingUpdate"]).filter(|r| !r.is_null());
        match object.str_at(&["spec", "updateStrategy", "type"]) {
            "" => errors.push(FieldError::required("spec.updateStrategy", "")),
            "RollingUpdate" => {}
            "OnDelete" => {
                if let Some(rolling) = rolling {
                    let why = "only allowed for updateStrategy 'RollingUpdate'";
                    errors.push(FieldError::invalid("spec.updateStrategy.rollingUpdate", rolling.clone(), why));
                }
            }
            other => {
                let why = "must be 'RollingUpdate' or 'OnDelete'";
                errors.push(FieldError::invalid("spec.updateStrategy", other, why));
            }
        }
        errors
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let name = object.str_at(&["spec", "serviceName"]);
        if !name.is_empty()
            && let Err(why) = names::dns1035_label(name)
        {
            errors.push(FieldError::invalid("spec.serviceName", name, why));
        }
        // Names of the set's pods are labels, so its own has to be one.
        if let (false, Err(why)) = (meta::name(object).is_empty(), names::dns_label(meta::name(object))) {
            errors.push(FieldError::invalid("metadata.name", meta::name(object), why));
        }
        for (i, claim) in object.list_at(&["spec", "volumeClaimTemplates"]).iter().enumerate() {
            let spec = claim.get("spec").unwrap_or(&Value::Null);
            crate::strategy::claims::claim_spec_errors(spec, &format!("spec.volumeClaimTemplates[{i}].spec"), &mut errors);
        }
        errors
    }

    fn validate_subresource(&self, subresource: &str, object: &Value, old: &Value) -> Vec<FieldError> {
        match subresource {
            "status" => count_errors(object, old, &["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"]),
            _ => Vec::new(),
        }
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
