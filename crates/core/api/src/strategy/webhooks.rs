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
    for (i, version) in versions.iter().enumerate() {
        let (at, text) = (format!("{at}.admissionReviewVersions[{i}]"), version.as_str().unwrap_or_default());
        if versions[..i].contains(version) {
            errors.push(FieldError::invalid(at, text, "duplicate version"));
        } else if let Err(why) = names::dns1035_label(text) {
            errors.push(FieldError::invalid(at, text, why));
        }
    }
    if hook.get("sideEffects").is_none_or(Value::is_null) {
        errors.push(FieldError::required(format!("{at}.sideEffects"), "must specify one of None, NoneOnDryRun"));
    }
    let seconds = hook.int_at(&["timeoutSeconds"]).unwrap_or(10);
    if !(1..=30).contains(&seconds) {
        let why = "the timeout value must be between 1 and 30 seconds";
        errors.push(FieldError::invalid(format!("{at}.timeoutSeconds"), seconds, why));
    }
    client(hook.get("clientConfig").unwrap_or(&Value::Null), &format!("{at}.clientConfig"), errors);
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
    resources(rule.list_at(&["resources"]), &format!("{at}.resources"), errors);
}

/// Resources with wildcards for themselves or their subresources, of which none may be within another.
fn resources(all: &[Value], at: &str, errors: &mut Vec<FieldError>) {
    let texts: Vec<&str> = all.iter().map(|v| v.as_str().unwrap_or_default()).collect();
    for (i, text) in texts.iter().enumerate() {
        let at = format!("{at}[{i}]");
        if text.is_empty() {
            errors.push(FieldError::required(&at, ""));
        }
        let Some((resource, sub)) = text.split_once('/') else { continue };
        for wider in [format!("{resource}/*"), format!("*/{sub}")] {
            if texts[..i].contains(&wider.as_str()) {
                errors.push(FieldError::invalid(&at, *text, format!("if '{wider}' is present, must not specify {text}")));
            }
        }
    }
    let mut wrong = |why: &str| errors.push(FieldError::invalid(at, Value::from(all.to_vec()), why));
    if texts.len() > 1 && texts.contains(&"*/*") {
        wrong("if '*/*' is present, must not specify other resources");
    }
    // Only the last one without a subresource counts, as upstream has it.
    let plain = texts.iter().rfind(|t| !t.contains('/')).is_some_and(|t| *t != "*");
    if plain && texts.contains(&"*") {
        wrong("if '*' is present, must not specify other resources without subresources");
    }
}

/// Where a webhook is: a URL or a service; `at` is the field of the client's configuration.
pub(super) fn client(config: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let given = |field: &str| config.get(field).filter(|v| !v.is_null());
    match (given("url"), given("service")) {
        (Some(url), None) => self::url(url.as_str().unwrap_or_default(), &format!("{at}.url"), errors),
        (None, Some(service)) => self::service(service, &format!("{at}.service"), errors),
        _ => errors.push(FieldError::required(at, "exactly one of url or service is required")),
    }
}

fn url(url: &str, at: &str, errors: &mut Vec<FieldError>) {
    const FORM: &str = "; desired format: https://host[/path]";
    let mut wrong = |why: &str| errors.push(FieldError::invalid(at, url, format!("{why}{FORM}")));
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    if scheme != "https" {
        wrong("'https' is the only allowed URL scheme");
    }
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if scheme.is_empty() || host.is_empty() {
        wrong("host must be specified");
    }
    if host.contains('@') {
        wrong("user information is not permitted in the URL");
    }
    if rest.split_once('#').is_some_and(|(_, fragment)| !fragment.is_empty()) {
        wrong("fragments are not permitted in the URL");
    }
    let query = rest.split('#').next().and_then(|r| r.split_once('?'));
    if query.is_some_and(|(_, query)| !query.is_empty()) {
        wrong("query parameters are not permitted in the URL");
    }
}

fn service(service: &Value, at: &str, errors: &mut Vec<FieldError>) {
    // Upstream takes the one for the other when it says which is missing.
    for (field, told) in [("name", "namespace"), ("namespace", "name")] {
        if service.str_at(&[field]).is_empty() {
            errors.push(FieldError::required(format!("{at}.{told}"), ""));
        }
    }
    let port = service.int_at(&["port"]).unwrap_or(443);
    errors.extend(names::port_number(port).err().map(|why| FieldError::invalid(format!("{at}.port"), port, why)));
    let path = service.str_at(&["path"]);
    if matches!(path, "" | "/") {
        return;
    }
    let mut wrong = |why: String| errors.push(FieldError::invalid(format!("{at}.path"), path, why));
    if !path.starts_with('/') {
        wrong("must start with a '/'".into());
    }
    let inner = path.get(1..).unwrap_or_default();
    for (i, step) in inner.strip_suffix('/').unwrap_or(inner).split('/').enumerate() {
        if step.is_empty() {
            wrong(format!("segment[{i}] may not be empty"));
        } else if let Err(why) = names::dns_subdomain(step) {
            wrong(format!("segment[{i}]: {why}"));
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
        if name.is_empty() {
            errors.push(FieldError::required(format!("{place}.name"), ""));
        } else if let Err(why) = names::qualified_name(name) {
            errors.push(FieldError::invalid(format!("{place}.name"), name, why));
        }
        if all[..i].iter().any(|c| c.str_at(&["name"]) == name && !name.is_empty()) {
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
