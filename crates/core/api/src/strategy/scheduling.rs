//! PriorityClasses and RuntimeClasses: what pods were given by one must stay true of it.

use fram_machinery::quantity::Quantity;
use fram_machinery::status::FieldError;
use fram_machinery::{Value, meta, names};

use super::Strategy;

/// Classes of users end here; higher values are the system's own.
const HIGHEST_USER_PRIORITY: i64 = 1_000_000_000;

pub(super) struct PriorityClass;

impl Strategy for PriorityClass {
    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let known = ["system-cluster-critical", "system-node-critical"];
        if meta::name(object).starts_with("system-") && !known.contains(&meta::name(object)) {
            let why = "priority class names with 'system-' prefix are reserved for system use only";
            return vec![FieldError::forbidden("metadata.name", why)];
        }
        Vec::new()
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let value = object.int_at(&["value"]).unwrap_or(0);
        let system = matches!(meta::name(object), "system-cluster-critical" | "system-node-critical");
        if value > HIGHEST_USER_PRIORITY && !system {
            let why = format!("maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}");
            return vec![FieldError::forbidden("value", &why)];
        }
        match object.get("preemptionPolicy").and_then(Value::as_str) {
            Some("") => vec![FieldError::required("preemptionPolicy", "")],
            None | Some("Never" | "PreemptLowerPriority") => Vec::new(),
            Some(other) => vec![FieldError::not_supported("preemptionPolicy", other, &["PreemptLowerPriority", "Never"])],
        }
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if object.int_at(&["value"]) != old.int_at(&["value"]) {
            errors.push(FieldError::forbidden("value", "may not be changed in an update."));
        }
        if object.get("preemptionPolicy") != old.get("preemptionPolicy") {
            errors.push(FieldError::invalid("preemptionPolicy", object.str_at(&["preemptionPolicy"]), "field is immutable"));
        }
        errors
    }
}

/// RuntimeClasses: what pods of a class need beside their containers, and where they run.
pub(super) struct RuntimeClass;

impl Strategy for RuntimeClass {
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let handler = object.str_at(&["handler"]);
        if handler.is_empty() {
            errors.push(FieldError::required("handler", ""));
        } else if let Err(why) = names::dns_label(handler) {
            errors.push(FieldError::invalid("handler", handler, why));
        }
        for (name, amount) in object.at(&["overhead", "podFixed"]).and_then(Value::as_map).iter().flat_map(|m| m.iter()) {
            // Upstream checks them as the limits of a container, and names them so.
            let at = format!("overhead.limits[{name}]");
            let known = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
            if names::qualified_name(name).is_err() || !known && !name.contains('/') {
                errors.push(FieldError::invalid(&at, name.as_str(), "must be a standard resource for containers"));
            } else if amount.as_str().and_then(|a| a.parse::<Quantity>().ok()).is_some_and(|q| q.is_negative()) {
                errors.push(FieldError::invalid(at, amount.clone(), "must be greater than or equal to 0"));
            }
        }
        let selector = object.at(&["scheduling", "nodeSelector"]).and_then(Value::as_map).cloned().unwrap_or_default();
        super::label_map_errors(&selector, "scheduling.nodeSelector", &mut errors);
        let tolerations = object.list_at(&["scheduling", "tolerations"]);
        super::pod::placement::tolerations(tolerations, format_args!("scheduling.tolerations"), &mut errors);
        for (i, toleration) in tolerations.iter().enumerate().filter(|(i, toleration)| tolerations[..*i].contains(toleration)) {
            errors.push(FieldError::duplicate(format!("scheduling.tolerations[{i}]"), toleration.clone()));
        }
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        if object.get("handler") == old.get("handler") {
            return Vec::new();
        }
        vec![FieldError::invalid("handler", object.str_at(&["handler"]), "field is immutable")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    #[test]
    fn a_class_keeps_its_value_and_policy() {
        let class = |value: i64, policy: &str| object!({ "metadata": { "name": "c" }, "value": value, "preemptionPolicy": policy });
        let count = |new: Value| PriorityClass.validate_update(&new, &class(1, "Never")).len();
        assert_eq!((count(class(1, "Never")), count(class(2, "Never")), count(class(2, "PreemptLowerPriority"))), (0, 1, 2));
        assert_eq!(PriorityClass.validate(&class(2_000_000_000, "Never")).len(), 1);
    }
}
