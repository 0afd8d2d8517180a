//! PersistentVolumeClaims: what they may ask for and change, where their data come from, and the cells of their table.

use fram_machinery::quantity::Quantity;
use fram_machinery::status::FieldError;
use fram_machinery::{Value, names};

use super::volumes::{access_mode_errors, access_modes, class, phase};
use super::{Strategy, warnings};

/// The rules of a claim's spec, also of one in a template; `at` is its field.
pub(crate) fn claim_spec_errors(spec: &Value, at: &str, errors: &mut Vec<FieldError>) {
    access_mode_errors(spec.list_at(&["accessModes"]), &format!("{at}.accessModes"), errors);
    if let Some(selector) = spec.get("selector") {
        super::label_selector_errors(selector, &format!("{at}.selector"), errors);
    }
    match spec.str_at(&["resources", "requests", "storage"]).parse::<Quantity>() {
        Err(_) => errors.push(FieldError::required(format!("{at}.resources[storage]"), "")),
        Ok(size) if size.is_negative() || size.is_zero() => {
            errors.push(FieldError::invalid(format!("{at}.resources[storage]"), size.to_string(), "must be greater than zero"));
        }
        Ok(_) => {}
    }
    for field in ["storageClassName", "volumeAttributesClassName"] {
        let name = spec.str_at(&[field]);
        if !name.is_empty()
            && let Err(why) = names::dns_subdomain(name)
        {
            errors.push(FieldError::invalid(format!("{at}.{field}"), name, why));
        }
    }
    if spec.get("volumeMode").and_then(Value::as_str) == Some("") {
        errors.push(FieldError::not_supported(format!("{at}.volumeMode"), "", &["Block", "Filesystem"]));
    }
    let (source, reference) = (spec.get("dataSource"), spec.get("dataSourceRef"));
    for (field, source) in [("dataSource", source), ("dataSourceRef", reference)] {
        let Some(source) = source else { continue };
        for part in ["name", "kind"].into_iter().filter(|p| source.str_at(&[p]).is_empty()) {
            errors.push(FieldError::required(format!("{at}.{field}.{part}"), ""));
        }
        let group = source.str_at(&["apiGroup"]);
        if group.is_empty() && !matches!(source.str_at(&["kind"]), "PersistentVolumeClaim" | "") {
            errors.push(FieldError::invalid(
                format!("{at}.{field}"),
                source.str_at(&["kind"]),
                "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
            ));
        } else if !group.is_empty()
            && let Err(why) = names::dns_subdomain(group)
        {
            errors.push(FieldError::invalid(format!("{at}.{field}.apiGroup"), group, why));
        }
    }
    if let (Some(source), Some(reference)) = (source, reference) {
        let differs = |f: &str| source.str_at(&[f]) != reference.str_at(&[f]);
        if ["apiGroup", "kind", "name"].iter().any(|f| differs(f)) {
            errors.push(FieldError::invalid(at, "", "must match dataSourceRef"));
        }
    }
}

/// The two fields that say where data come from say the same. The older one knows claims and snapshots only.
fn agree_on_source(spec: &mut Value) {
    let (old, new) = (spec.get("dataSource").cloned(), spec.get("dataSourceRef").cloned());
    match (old, new) {
        (Some(old), None) => spec.set(&["dataSourceRef"], old),
        (None, Some(new)) if new.str_at(&["namespace"]).is_empty() => spec.set(&["dataSource"], new),
        _ => {}
    }
}

fn drop_unknown_source(spec: &mut Value) {
    // Sources in other namespaces (CrossNamespaceVolumeDataSource) are alpha, and off.
    if !spec.str_at(&["dataSourceRef", "namespace"]).is_empty() {
        spec.remove(&["dataSourceRef"]);
    }
    let Some(source) = spec.get("dataSource") else { return };
    let known = match source.str_at(&["apiGroup"]) {
        "" => source.str_at(&["kind"]) == "PersistentVolumeClaim",
        "snapshot.storage.k8s.io" => source.str_at(&["kind"]) == "VolumeSnapshot",
        _ => false,
    };
    if !known {
        spec.remove(&["dataSource"]);
    }
}

pub(super) struct PersistentVolumeClaim;
impl Strategy for PersistentVolumeClaim {
    fn warnings(&self, object: &Value, _: Option<&Value>) -> Vec<String> {
        warnings::of_claim(object)
    }

    fn prepare_create(&self, object: &mut Value) {
        object.set(&["status", "phase"], "Pending");
        if object.get("spec").is_some() {
            drop_unknown_source(object.place(&["spec"]));
            agree_on_source(object.place(&["spec"]));
        }
    }

    fn prepare_update(&self, object: &mut Value, _: &Value) {
        if object.get("spec").is_some() {
            agree_on_source(object.place(&["spec"]));
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        claim_spec_errors(object.get("spec").unwrap_or(&Value::Null), "spec", &mut errors);
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        const WHY: &str = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        const SIZE: [&str; 4] = ["spec", "resources", "requests", "storage"];
        let mut errors = Vec::new();
        let rest = |claim: &Value, before: &Value| {
            let mut spec = claim.get("spec").cloned().unwrap_or_default();
            // A volume, and for those without a class a default class, are given once.
            for field in ["volumeName", "storageClassName"] {
                if before.str_at(&["spec", field]).is_empty() {
                    spec.remove(&[field]);
                }
            }
            spec.remove(&["volumeAttributesClassName"]);
            spec.remove(&SIZE[1..]);
            spec
        };
        if rest(object, old) != rest(old, old) {
            errors.push(FieldError::forbidden("spec", WHY));
        }
        let bound = old.str_at(&["status", "phase"]) == "Bound";
        let size = |claim: &Value| claim.str_at(&SIZE).parse::<Quantity>().ok();
        if size(object) != size(old) && !bound {
            errors.push(FieldError::forbidden("spec", WHY));
        }
        // What an expansion did not get may be given up again.
        let has = object.str_at(&["status", "capacity", "storage"]).parse::<Quantity>().ok();
        if size(object) < size(old) && size(object) <= has.or(Some(Quantity::from_milli(0))) {
            errors.push(FieldError::forbidden("spec.resources.requests.storage", "field can not be less than status.capacity"));
        }
        let class = |claim: &Value| claim.str_at(&["spec", "volumeAttributesClassName"]).to_string();
        if class(object) != class(old) && !bound {
            errors.push(FieldError::forbidden("spec", WHY));
        }
        if object.at(&["spec", "volumeMode"]) != old.at(&["spec", "volumeMode"]) {
            errors.push(FieldError::invalid("volumeMode", object.at(&["spec", "volumeMode"]).cloned(), "field is immutable"));
        }
        errors
    }

    fn validate_subresource(&self, subresource: &str, object: &Value, _: &Value) -> Vec<FieldError> {
        const STATES: [&str; 5] = [
            "ControllerResizeInProgress",
            "ControllerResizeInfeasible",
            "NodeResizePending",
            "NodeResizeInProgress",
            "NodeResizeInfeasible",
        ];
        let mut errors = Vec::new();
        if subresource != "status" {
            return errors;
        }
        for field in ["capacity", "allocatedResources"] {
            for (name, amount) in object.at(&["status", field]).and_then(Value::as_map).iter().flat_map(|m| m.iter()) {
                if field == "allocatedResources" && names::qualified_name(name).is_err() {
                    errors.push(FieldError::invalid(format!("status.{field}"), name.as_str(), names::QUALIFIED_NAME));
                } else if amount.as_str().and_then(|a| a.parse::<Quantity>().ok()).is_some_and(|q| q.is_negative()) {
                    errors.push(FieldError::invalid(
                        format!("status.{field}[{name}]"),
                        amount.clone(),
                        "must be greater than or equal to 0",
                    ));
                }
            }
        }
        let at = "status.allocatedResourceStatuses";
        for (name, state) in object.at(&["status", "allocatedResourceStatuses"]).and_then(Value::as_map).iter().flat_map(|m| m.iter()) {
            if let Err(why) = names::qualified_name(name) {
                errors.push(FieldError::invalid(at, name.as_str(), why));
            } else if !STATES.contains(&state.as_str().unwrap_or_default()) {
                errors.push(FieldError::not_supported(at, state.clone(), &STATES));
            }
        }
        errors
    }

    fn cell(&self, object: &Value, column: &str) -> Value {
        let bound = !object.str_at(&["spec", "volumeName"]).is_empty();
        match column {
            "Status" => phase(object),
            "Capacity" if bound => object.str_at(&["status", "capacity", "storage"]).into(),
            "Access Modes" if bound => access_modes(object.list_at(&["status", "accessModes"])),
            "Capacity" | "Access Modes" => "".into(),
            "StorageClass" => class(object),
            _ => Value::Null,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    #[test]
    fn a_bound_claim_may_only_ask_for_more() {
        let claim = |size: &str, class: &str, phase: &str| {
            object!({ "spec": { "accessModes": ["ReadWriteOnce"], "storageClassName": class, "volumeName": "v",
                "resources": { "requests": { "storage": size } } }, "status": { "phase": phase, "capacity": { "storage": "1Gi" } } })
        };
        let check = |new: Value, old: Value| PersistentVolumeClaim.validate_update(&new, &old).len();
        assert_eq!(check(claim("2Gi", "c", "Bound"), claim("1Gi", "c", "Bound")), 0);
        assert_eq!(check(claim("1Gi", "c", "Bound"), claim("2Gi", "c", "Bound")), 1);
        assert_eq!(check(claim("2Gi", "c", "Bound"), claim("3Gi", "c", "Bound")), 0, "what an expansion did not get is given up");
        assert_eq!(check(claim("2Gi", "c", "Pending"), claim("1Gi", "c", "Pending")), 1);
        assert_eq!(check(claim("1Gi", "d", "Bound"), claim("1Gi", "c", "Bound")), 1);
    }

    #[test]
    fn a_bound_claim_shows_its_volume() {
        let claim = object!({ "spec": { "volumeName": "v", "storageClassName": "c" },
            "status": { "phase": "Bound", "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"] } });
        let cell = |column| PersistentVolumeClaim.cell(&claim, column);
        assert_eq!(
            [cell("Status"), cell("Capacity"), cell("Access Modes"), cell("StorageClass")],
            ["Bound", "1Gi", "RWO", "c"].map(Value::from)
        );
    }
}
