//! DeviceTaintRules, by which an administrator taints devices, and ResourcePoolStatusRequests, which ask what pools have left.

use fram_machinery::status::FieldError;
use fram_machinery::{Value, meta};

use super::slice::taint_errors;
use crate::strategy::Strategy;
use crate::strategy::limits::condition_errors;

pub(in crate::strategy) struct DeviceTaintRule;
impl Strategy for DeviceTaintRule {
    /// A new taint counts from now on, and so does one with another effect; see the strategy's PrepareForUpdate.
    fn stamp(&self, rule: &mut Value, old: Option<&Value>, now: &str) {
        let changed = old.is_some_and(|old| {
            let taint = |rule: &Value| ["key", "value", "effect"].map(|f| rule.str_at(&["spec", "taint", f]).to_string());
            taint(rule) != taint(old) && old.at(&["spec", "taint", "timeAdded"]) == rule.at(&["spec", "taint", "timeAdded"])
        });
        if changed || rule.str_at(&["spec", "taint", "timeAdded"]).is_empty() {
            rule.set(&["spec", "taint", "timeAdded"], now);
        }
    }

    fn validate(&self, rule: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        taint_errors(rule.at(&["spec", "taint"]).unwrap_or(&Value::Null), "spec.taint", &mut errors);
        errors
    }

    fn validate_subresource(&self, _: &str, rule: &Value, _: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        condition_errors(rule.list_at(&["status", "conditions"]), "status.conditions", &mut errors);
        errors
    }

    fn cell(&self, rule: &Value, column: &str) -> Value {
        match column {
            "TimeAdded" => rule.str_at(&["spec", "taint", "timeAdded"]).into(),
            _ => Value::Null,
        }
    }
}

/// See ResourcePoolStatusRequest of resource.k8s.io/v1alpha3.
pub(in crate::strategy) struct ResourcePoolStatusRequest;
impl Strategy for ResourcePoolStatusRequest {
    fn validate_subresource(&self, _: &str, request: &Value, _: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        condition_errors(request.list_at(&["status", "conditions"]), "status.conditions", &mut errors);
        errors
    }

    fn cell(&self, request: &Value, column: &str) -> Value {
        let is = |ty: &str| meta::condition(request, ty).is_some_and(|c| c.str_at(&["status"]) == "True");
        let pools = request.list_at(&["status", "pools"]);
        let sum = |field: &str| -> Value {
            if is("Failed") || request.get("status").is_none() {
                return "-".into();
            }
            pools.iter().filter_map(|p| p.int_at(&[field])).sum::<i64>().to_string().into()
        };
        let found = request.int_at(&["status", "poolCount"]).unwrap_or(0);
        match column {
            "Total" => sum("totalDevices"),
            "Available" => sum("availableDevices"),
            "Allocated" => sum("allocatedDevices"),
            "Unavailable" => sum("unavailableDevices"),
            "Errors" if is("Failed") || request.get("status").is_none() => "-".into(),
            "Errors" => pools.iter().filter(|p| p.get("validationError").is_some()).count().to_string().into(),
            "Pools" => found.into(),
            "Status" if is("Complete") && found > pools.len() as i64 => format!("Complete ({}/{found} pools)", pools.len()).into(),
            "Status" if is("Complete") => "Complete".into(),
            "Status" if is("Failed") => "Failed".into(),
            "Status" => "Pending".into(),
            "Completed" => match meta::condition(request, "Complete").filter(|_| is("Complete")) {
                Some(condition) => condition.str_at(&["lastTransitionTime"]).into(),
                None => "<none>".into(),
            },
            _ => Value::Null,
        }
    }
}
