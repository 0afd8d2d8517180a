//! MutatingWebhookConfigurations and ValidatingWebhookConfigurations: names, clients, rules, match conditions.

use std::collections::BTreeSet;

use fram_cel::Program;
use fram_machinery::status::FieldError;
use fram_machinery::{Value, names};

use super::Strategy;
use crate::policy::compile_condition;

pub(super) struct WebhookConfiguration;

const MOST_CONDITIONS: usize = 64;

impl Strategy for WebhookConfiguration {
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut seen = BTreeSet::new();
        for (i, hook) in object.list_at(&["webhooks"]).iter().enumerate() {
            let at = format!("webhooks[{i}]");
            webhook(hook, &at, &mut errors);
            if !seen.insert(hook.str_at(&["name"])) {
                errors.push(FieldError::duplicate(format!("{at}.name"), hook.str_at(&["name"])));
            }
        }
        errors
    }

    fn cell(&self, object: &Value, column: &str) -> Value {
        match column {
            "Webhooks" => Value::Int(object.list_at(&["webhooks"]).len() as i64),
            _ => Value::Null,
        }
    }
}

fn webhook(hook: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let name = hook.str_at(&["name"]);
    if name.is_empty() {
        errors.push(FieldError::required(format!("{at}.name"), ""));
    } else if names::dns_subdomain(name).is_err() || name.split('.').count() < 3 {
        let why = "should be a domain with at least three segments separated by dots";
        errors.push(FieldError::invalid(format!("{at}.name"), name, why));
    }
    let versions = hook.list_at(&["admissionReviewVersions"]);
    let at_versions = format!("{at}.admissionReviewVersions");
    if versions.is_empty() {
        errors.push(FieldError::required(at_versions, "must specify one of v1, v1beta1"));
    } else if !versions.iter().any(|v| matches!(v.as_str(), Some("v1" | "v1beta1"))) {
        let why = "must include at least one of v1, v1beta1";
        errors.push(FieldError::invalid(at_versions, Value::from(versions.to_vec()), why));
    }
    if hook.str_at(&["sideEffects"]).is_empty() {
        errors.push(FieldError::required(format!("{at}.sideEffects"), "must specify one of None, NoneOnDryRun"));
    }
    let seconds = hook.int_at(&["timeoutSeconds"]).unwrap_or(10);
    if !(1..=30).contains(&seconds) {
        let why = "the timeout value must be between 1 and 30 seconds";
        errors.push(FieldError::invalid(format!("{at}.timeoutSeconds"), seconds, why));
    }
    client(hook, at, errors);
    for (i, each) in hook.list_at(&["rules"]).iter().enumerate() {
        rule(each, &format!("{at}.rules[{i}]"), errors);
    }
    conditions(hook, at, compile_condition, errors);
}

/// A RuleWithOperations.
pub(super) fn rule(rule: &Value, at: &str, errors: &mut Vec<FieldError>) {
    for field in ["operations", "apiGroups", "apiVersions", "resources"] {
        let all = rule.list_at(&[field]);
        let path = format!("{at}.{field}");
        if all.is_empty() {
            errors.push(FieldError::required(path, ""));
        } else if field != "resources" && all.len() > 1 && all.iter().any(|v| v.as_str() == Some("*")) {
            let why = "if '*' is present, must not specify other values";
            errors.push(FieldError::invalid(path, Value::from(all.to_vec()), why));
        }
    }
}

fn client(hook: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let given = |field: &str| hook.at(&["clientConfig", field]).is_some_and(|v| !v.is_null());
    if given("url") == given("service") {
        errors.push(FieldError::required(format!("{at}.clientConfig"), "exactly one of url or service is required"));
    } else if given("url") {
        let url = hook.str_at(&["clientConfig", "url"]);
        if !url.starts_with("https://") {
            let why = "'https' is the only allowed URL scheme; desired format: https://host[/path]";
            errors.push(FieldError::invalid(format!("{at}.clientConfig.url"), url, why));
        }
    } else {
        for field in ["namespace", "name"] {
            if hook.str_at(&["clientConfig", "service", field]).is_empty() {
                errors.push(FieldError::required(format!("{at}.clientConfig.service.{field}"), ""));
            }
        }
    }
}

/// The match conditions of a webhook or policy.
pub(super) fn conditions(hook: &Value, at: &str, compile: impl Fn(&str) -> Result<Program, String>, errors: &mut Vec<FieldError>) {
    let all = hook.list_at(&["matchConditions"]);
    if all.len() > MOST_CONDITIONS {
        let problem = fram_machinery::status::Problem::TooMany { actual: all.len(), limit: MOST_CONDITIONS };
        errors.push(FieldError { field: format!("{at}.matchConditions"), problem });
    }
    for (i, condition) in all.iter().enumerate() {
        let (name, expression) = (condition.str_at(&["name"]), condition.str_at(&["expression"]));
        let place = format!("{at}.matchConditions[{i}]");
        if let Err(why) = names::qualified_name(name) {
            errors.push(FieldError::invalid(format!("{place}.name"), name, why));
        }
        if all[..i].iter().any(|c| c.str_at(&["name"]) == name) {
            errors.push(FieldError::duplicate(format!("{place}.name"), name));
        }
        if expression.trim().is_empty() {
            errors.push(FieldError::required(format!("{place}.expression"), ""));
        } else if let Err(why) = compile(expression) {
            errors.push(FieldError::invalid(format!("{place}.expression"), expression, why));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    #[test]
    fn a_condition_that_does_not_compile_is_refused() {
        let hook = |expression: &str| {
            object!({ "webhooks": [{ "name": "a.b.c", "admissionReviewVersions": ["v1"], "sideEffects": "None",
                "clientConfig": { "service": { "namespace": "n", "name": "s" } }, "matchConditions": [{ "name": "x", "expression": expression }] }] })
        };
        assert!(WebhookConfiguration.validate(&hook("object.metadata.namespace == 'x'")).is_empty());
        for bad in ["... [] bad expression", "unknown.x"] {
            let errors = WebhookConfiguration.validate(&hook(bad));
            assert!(errors[0].to_string().contains("compilation failed"), "{bad}: {errors:?}");
        }
    }
}
