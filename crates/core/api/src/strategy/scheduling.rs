//! PriorityClasses: what pods were given by one must stay true of it.

use fram_machinery::status::FieldError;
use fram_machinery::{Value, meta};

use super::Strategy;

/// Classes of users end here; higher values are the system's own.
const HIGHEST_USER_PRIORITY: i64 = 1_000_000_000;

pub(super) struct PriorityClass;

impl Strategy for PriorityClass {
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let value = object.int_at(&["value"]).unwrap_or(0);
        let system = matches!(meta::name(object), "system-cluster-critical" | "system-node-critical");
        if value > HIGHEST_USER_PRIORITY && !system {
            let why = format!("maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}");
            return vec![FieldError::forbidden("value", &why)];
        }
        Vec::new()
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
