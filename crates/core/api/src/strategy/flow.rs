//! Flow control: which requests a FlowSchema takes, and how a priority level shares what the server can do.

use fram_machinery::status::FieldError;
use fram_machinery::{Value, meta, names};

use super::Strategy;

const VERBS: [&str; 10] = ["*", "create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

pub(super) struct FlowSchema;
impl Strategy for FlowSchema {
    fn cell(&self, object: &Value, _: &str) -> Value {
        meta::condition(object, "Dangling").map_or("?", |c| c.str_at(&["status"])).into()
    }

    fn default(&self, object: &mut Value) {
        if object.int_at(&["spec", "matchingPrecedence"]).unwrap_or(0) == 0 {
            object.set(&["spec", "matchingPrecedence"], 1000);
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let precedence = object.int_at(&["spec", "matchingPrecedence"]).unwrap_or(0);
        let exempt = fram_machinery::meta::name(object) == "exempt";
        if !(1..=10000).contains(&precedence) {
            errors.push(FieldError::invalid("spec.matchingPrecedence", precedence, "must be a value between 1 and 10000"));
        } else if precedence == 1 && !exempt {
            errors.push(FieldError::invalid(
                "spec.matchingPrecedence",
                precedence,
                "only the schema named 'exempt' may have matchingPrecedence 1",
            ));
        }
        if let Some(method) = object.at(&["spec", "distinguisherMethod"]).filter(|m| !m.is_null())
            && method.str_at(&["type"]).is_empty()
        {
            errors.push(FieldError::not_supported("spec.distinguisherMethod.type", "", &["ByNamespace", "ByUser"]));
        }
        let level = object.str_at(&["spec", "priorityLevelConfiguration", "name"]);
        if level.is_empty() {
            errors.push(FieldError::required("spec.priorityLevelConfiguration.name", "must reference a priority level"));
        } else if let Err(why) = names::dns_subdomain(level) {
            errors.push(FieldError::invalid("spec.priorityLevelConfiguration.name", level, why));
        }
        for (i, rule) in object.list_at(&["spec", "rules"]).iter().enumerate() {
            rule_errors(rule, &format!("spec.rules[{i}]"), &mut errors);
        }
        errors
    }

    fn validate_subresource(&self, _: &str, object: &Value, _: &Value) -> Vec<FieldError> {
        condition_errors(object)
    }
}

fn condition_errors(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let conditions = object.list_at(&["status", "conditions"]);
    for (i, condition) in conditions.iter().enumerate() {
        let ty = condition.str_at(&["type"]);
        let at = format!("status.conditions[{i}].type");
        if ty.is_empty() {
            errors.push(FieldError::required(&at, "must not be empty"));
        }
        if conditions[..i].iter().any(|c| c.str_at(&["type"]) == ty) {
            errors.push(FieldError::duplicate(at, ty));
        }
    }
    errors
}

fn rule_errors(rule: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let subjects = rule.list_at(&["subjects"]);
    if subjects.is_empty() {
        errors.push(FieldError::required(format!("{at}.subjects"), "subjects must contain at least one value"));
    }
    for (i, subject) in subjects.iter().enumerate() {
        subject_errors(subject, &format!("{at}.subjects[{i}]"), errors);
    }
    let (resources, others) = (rule.list_at(&["resourceRules"]), rule.list_at(&["nonResourceRules"]));
    if resources.is_empty() && others.is_empty() {
        errors.push(FieldError::required(at, "at least one of resourceRules and nonResourceRules has to be non-empty"));
    }
    for (i, resource) in resources.iter().enumerate() {
        let at = format!("{at}.resourceRules[{i}]");
        verb_errors(resource, &at, errors);
        for field in ["apiGroups", "resources"] {
            list_errors(resource, field, &at, errors);
        }
        let namespaces = resource.list_at(&["namespaces"]);
        if namespaces.is_empty() && resource.bool_at(&["clusterScope"]) != Some(true) {
            errors.push(FieldError::required(
                format!("{at}.namespaces"),
                "resource rules that are not cluster scoped must supply at least one namespace",
            ));
        }
    }
    for (i, other) in others.iter().enumerate() {
        let at = format!("{at}.nonResourceRules[{i}]");
        verb_errors(other, &at, errors);
        list_errors(other, "nonResourceURLs", &at, errors);
        for (u, url) in other.list_at(&["nonResourceURLs"]).iter().enumerate() {
            let text = url.as_str().unwrap_or_default();
            let plain = text.strip_suffix("/*").unwrap_or(text);
            let valid = text == "*" || (text.starts_with('/') && !plain.contains('*') && !text.contains("//") && !text.contains(' '));
            if !valid {
                errors.push(FieldError::invalid(format!("{at}.nonResourceURLs[{u}]"), text, "must be a path that starts with '/'"));
            }
        }
    }
}

fn list_errors(rule: &Value, field: &str, at: &str, errors: &mut Vec<FieldError>) {
    let list = rule.list_at(&[field]);
    let at = format!("{at}.{field}");
    if list.is_empty() {
        errors.push(FieldError::required(at, "must contain at least one value"));
    } else if list.len() > 1 && list.iter().any(|v| v.as_str() == Some("*")) {
        errors.push(FieldError::invalid(at, list.to_vec(), "if '*' is present, must not specify other values"));
    }
}

fn verb_errors(rule: &Value, at: &str, errors: &mut Vec<FieldError>) {
    list_errors(rule, "verbs", at, errors);
    let verbs = rule.list_at(&["verbs"]);
    if verbs.iter().any(|v| !VERBS.contains(&v.as_str().unwrap_or_default())) && at.contains("resourceRules") {
        errors.push(FieldError::not_supported(format!("{at}.verbs"), verbs.to_vec(), &VERBS));
    }
}

fn subject_errors(subject: &Value, at: &str, errors: &mut Vec<FieldError>) {
    const KINDS: [(&str, &str); 3] = [("User", "user"), ("Group", "group"), ("ServiceAccount", "serviceAccount")];
    let kind = subject.str_at(&["kind"]);
    let Some((_, field)) = KINDS.iter().find(|(k, _)| *k == kind) else {
        if kind.is_empty() {
            errors.push(FieldError::not_supported(format!("{at}.kind"), "", &["Group", "ServiceAccount", "User"]));
        }
        return;
    };
    for (_, other) in KINDS.iter().filter(|(_, f)| f != field && subject.get(f).is_some_and(|v| !v.is_null())) {
        errors.push(FieldError::forbidden(format!("{at}.{other}"), "is forbidden when subject kind is another"));
    }
    let Some(inner) = subject.get(field).filter(|v| !v.is_null()) else {
        return errors.push(FieldError::required(format!("{at}.{field}"), "is required by the subject kind"));
    };
    let at = format!("{at}.{field}");
    let name = inner.str_at(&["name"]);
    if name.is_empty() {
        errors.push(FieldError::required(format!("{at}.name"), ""));
    }
    if *field != "serviceAccount" {
        return;
    }
    if !name.is_empty()
        && name != "*"
        && let Err(why) = names::dns_subdomain(name)
    {
        errors.push(FieldError::invalid(format!("{at}.name"), name, why));
    }
    match inner.str_at(&["namespace"]) {
        "" => errors.push(FieldError::required(format!("{at}.namespace"), "must specify namespace for service account")),
        text => errors.extend(names::dns_label(text).err().map(|why| FieldError::invalid(format!("{at}.namespace"), text, why))),
    }
}

pub(super) struct PriorityLevel;
impl Strategy for PriorityLevel {
    fn default(&self, object: &mut Value) {
        const AT: [&str; 4] = ["spec", "limited", "limitResponse", "queuing"];
        if object.at(&AT).is_none_or(Value::is_null) {
            return;
        }
        for (field, value) in [("queues", 64), ("handSize", 8), ("queueLengthLimit", 50)] {
            if object.place(&AT).int_at(&[field]).unwrap_or(0) == 0 {
                object.place(&AT).set(&[field], value);
            }
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let null = Value::Null;
        let spec = object.get("spec").unwrap_or(&null);
        let given = |f: &str| spec.get(f).is_some_and(|v| !v.is_null());
        let ty = spec.str_at(&["type"]);
        let exempt = fram_machinery::meta::name(object) == "exempt";
        if (ty == "Exempt") != exempt && matches!(ty, "Exempt" | "Limited") {
            let why = "type must be 'Exempt' if and only if `name` is 'exempt'";
            errors.push(FieldError::invalid("spec.type", ty, why));
        }
        match ty {
            "Exempt" if given("limited") => {
                errors.push(FieldError::forbidden("spec.limited", "must be nil if the type is not Limited"));
            }
            "Limited" => {
                if given("exempt") {
                    errors.push(FieldError::forbidden("spec.exempt", "must be nil if the type is Limited"));
                }
                match spec.get("limited").filter(|v| !v.is_null()) {
                    Some(limited) => limited_errors(limited, &mut errors),
                    None => errors.push(FieldError::required("spec.limited", "must not be empty when type is Limited")),
                }
            }
            "" => errors.push(FieldError::not_supported("spec.type", "", &["Exempt", "Limited"])),
            _ => {}
        }
        errors
    }

    fn validate_subresource(&self, _: &str, object: &Value, _: &Value) -> Vec<FieldError> {
        condition_errors(object)
    }
}

fn limited_errors(limited: &Value, errors: &mut Vec<FieldError>) {
    let at = "spec.limited";
    if let Some(n) = limited.int_at(&["nominalConcurrencyShares"]).filter(|n| *n < 0) {
        errors.push(FieldError::invalid(format!("{at}.nominalConcurrencyShares"), n, "must be a non-negative integer"));
    }
    if let Some(n) = limited.int_at(&["lendablePercent"]).filter(|n| !(0..=100).contains(n)) {
        errors.push(FieldError::invalid(format!("{at}.lendablePercent"), n, "must be between 0 and 100, inclusive"));
    }
    if let Some(n) = limited.int_at(&["borrowingLimitPercent"]).filter(|n| *n < 0) {
        errors.push(FieldError::invalid(format!("{at}.borrowingLimitPercent"), n, "if specified, must be a non-negative integer"));
    }
    let at = format!("{at}.limitResponse");
    let queuing = limited.at(&["limitResponse", "queuing"]).filter(|q| !q.is_null());
    match (limited.str_at(&["limitResponse", "type"]), queuing) {
        ("Reject", Some(_)) => {
            errors.push(FieldError::forbidden(format!("{at}.queuing"), "must be nil if limited.limitResponse.type is not Limited"))
        }
        ("Queue", None) => {
            errors.push(FieldError::required(format!("{at}.queuing"), "must not be empty if limited.limitResponse.type is Limited"))
        }
        ("Queue", Some(queuing)) => queuing_errors(queuing, &format!("{at}.queuing"), errors),
        ("", _) => errors.push(FieldError::not_supported(format!("{at}.type"), "", &["Queue", "Reject"])),
        _ => {}
    }
}

fn queuing_errors(queuing: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let number = |field: &str| queuing.int_at(&[field]).unwrap_or(0);
    let (queues, hand) = (number("queues"), number("handSize"));
    if number("queueLengthLimit") <= 0 {
        errors.push(FieldError::invalid(format!("{at}.queueLengthLimit"), number("queueLengthLimit"), "must be positive"));
    }
    if queues <= 0 {
        errors.push(FieldError::invalid(format!("{at}.queues"), queues, "must be positive"));
    } else if queues > 10_000_000 {
        errors.push(FieldError::invalid(format!("{at}.queues"), queues, "must not be greater than 10000000"));
    }
    // A hand is dealt from 60 bits of a hash.
    let entropy = (queues.max(1) as f64).log2() * hand as f64;
    if hand <= 0 {
        errors.push(FieldError::invalid(format!("{at}.handSize"), hand, "must be positive"));
    } else if hand > queues {
        errors.push(FieldError::invalid(format!("{at}.handSize"), hand, "should not be greater than queues"));
    } else if entropy > 60.0 {
        errors.push(FieldError::invalid(
            format!("{at}.handSize"),
            hand,
            "required entropy bits of deckSize and handSize should not be greater than 60",
        ));
    }
}
