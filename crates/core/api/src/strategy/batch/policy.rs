//! What Jobs say of failures and successes of their pods: exit codes, conditions, indexes.

use fram_machinery::status::FieldError;
use fram_machinery::{Value, names};

pub(super) fn failure_policy(spec: &Value, template: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let Some(policy) = spec.get("podFailurePolicy").filter(|p| !p.is_null()) else { return };
    if template.str_at(&["restartPolicy"]) == "OnFailure" {
        let why = "only \"Never\" is supported when podFailurePolicy is specified";
        errors.push(FieldError::invalid(format!("{at}.template.spec.restartPolicy"), template.str_at(&["restartPolicy"]), why));
    }
    if spec.str_at(&["podReplacementPolicy"]) == "TerminatingOrFailed" {
        errors.push(FieldError::not_supported(format!("{at}.podReplacementPolicy"), "TerminatingOrFailed", &["Failed"]));
    }
    let known: Vec<&str> =
        ["containers", "initContainers"].iter().flat_map(|l| template.list_at(&[l]).iter().map(|c| c.str_at(&["name"]))).collect();
    for (i, rule) in policy.list_at(&["rules"]).iter().enumerate() {
        let at = format!("{at}.podFailurePolicy.rules[{i}]");
        match rule.str_at(&["action"]) {
            "" => {
                errors.push(FieldError::required(format!("{at}.action"), "valid values: \"Count\", \"FailIndex\", \"FailJob\", \"Ignore\""))
            }
            "FailIndex" if spec.get("backoffLimitPerIndex").is_none() => {
                errors.push(FieldError::invalid(format!("{at}.action"), "FailIndex", "requires the backoffLimitPerIndex to be set"));
            }
            _ => {}
        }
        let codes = rule.get("onExitCodes").filter(|c| !c.is_null());
        let conditions = rule.list_at(&["onPodConditions"]);
        match (codes, conditions.is_empty()) {
            (Some(_), false) => {
                errors.push(FieldError::invalid(&at, "", "specifying both OnExitCodes and OnPodConditions is not supported"))
            }
            (None, true) => errors.push(FieldError::invalid(&at, "", "specifying one of OnExitCodes and OnPodConditions is required")),
            _ => {}
        }
        if let Some(codes) = codes {
            exit_codes(codes, &known, &format!("{at}.onExitCodes"), errors);
        }
        for (c, condition) in conditions.iter().enumerate() {
            let at = format!("{at}.onPodConditions[{c}]");
            let ty = condition.str_at(&["type"]);
            if let Err(why) = names::qualified_name(ty) {
                errors.push(FieldError::invalid(format!("{at}.type"), ty, why));
            }
            if condition.str_at(&["status"]).is_empty() {
                errors.push(FieldError::required(format!("{at}.status"), "valid values: \"False\", \"True\", \"Unknown\""));
            }
        }
    }
}

fn exit_codes(codes: &Value, known: &[&str], at: &str, errors: &mut Vec<FieldError>) {
    let operator = codes.str_at(&["operator"]);
    if operator.is_empty() {
        errors.push(FieldError::required(format!("{at}.operator"), "valid values: \"In\", \"NotIn\""));
    }
    if let Some(name) = codes.get("containerName").and_then(Value::as_str).filter(|n| !known.contains(n)) {
        errors.push(FieldError::invalid(
            format!("{at}.containerName"),
            name,
            "must be one of the container or initContainer names in the pod template",
        ));
    }
    let values = codes.list_at(&["values"]);
    if values.is_empty() {
        errors.push(FieldError::invalid(format!("{at}.values"), "", "at least one value is required"));
    } else if values.len() > 255 {
        errors.push(FieldError::too_many(format!("{at}.values"), values.len(), 255));
    }
    for (v, value) in values.iter().enumerate() {
        if operator == "In" && value.as_int() == Some(0) {
            errors.push(FieldError::invalid(format!("{at}.values[{v}]"), 0, "must not be 0 for the In operator"));
        }
        if values[..v].contains(value) {
            errors.push(FieldError::duplicate(format!("{at}.values[{v}]"), value.clone()));
        }
    }
    if !values.windows(2).all(|w| w[0].as_int() <= w[1].as_int()) {
        errors.push(FieldError::invalid(format!("{at}.values"), values.to_vec(), "must be ordered"));
    }
}

pub(super) fn success_policy(spec: &Value, indexed: bool, at: &str, errors: &mut Vec<FieldError>) {
    let Some(policy) = spec.get("successPolicy").filter(|p| !p.is_null()) else { return };
    let at = format!("{at}.successPolicy");
    if !indexed {
        return errors.push(FieldError::invalid(&at, policy.clone(), "requires indexed completion mode"));
    }
    let all = spec.int_at(&["completions"]).unwrap_or(0);
    if policy.list_at(&["rules"]).is_empty() {
        errors
            .push(FieldError::required(format!("{at}.rules"), "at least one rules must be specified when the successPolicy is specified"));
    }
    for (i, rule) in policy.list_at(&["rules"]).iter().enumerate() {
        let at = format!("{at}.rules[{i}]");
        let (text, count) = (rule.get("succeededIndexes").and_then(Value::as_str), rule.int_at(&["succeededCount"]));
        if text.is_none() && count.is_none() {
            errors.push(FieldError::required(&at, "at least one of succeededCount or succeededIndexes must be specified"));
        }
        let chosen = text.map(|text| index_count(text, all));
        if let Some(None) = chosen {
            errors.push(FieldError::invalid(format!("{at}.succeededIndexes"), text.unwrap_or_default(), "error parsing succeededIndexes"));
        }
        let at = format!("{at}.succeededCount");
        let Some(count) = count else { continue };
        if count < 0 {
            errors.push(FieldError::invalid(&at, count, "must be greater than or equal to 0"));
        }
        if count > all {
            errors.push(FieldError::invalid(&at, count, "must be less than or equal to the number of specified completions"));
        }
        if chosen.is_some_and(|chosen| count > chosen.unwrap_or(0)) {
            errors.push(FieldError::invalid(
                &at,
                count,
                "must be less than or equal to the number of indexes in the specified succeededIndexes field",
            ));
        }
    }
}

/// The parts of a list of indexes such as `0,2-4`, first and last; None for one that is malformed or beyond `all`.
pub(super) fn indexes(text: &str, all: i64) -> impl Iterator<Item = Option<(i64, i64)>> {
    text.split(',').filter(move |_| !text.is_empty()).map(move |part| {
        let (first, last) = part.split_once('-').map_or((part, None), |(f, l)| (f, Some(l)));
        let first: i64 = first.parse().ok().filter(|n| *n < all)?;
        match last {
            Some(last) => last.parse().ok().filter(|last| (first + 1..all).contains(last)).map(|last| (first, last)),
            None => Some((first, first)),
        }
    })
}

/// How many indexes a list has; None where it is malformed, not ordered or beyond `all`.
pub(super) fn index_count(text: &str, all: i64) -> Option<i64> {
    indexes(text, all)
        .try_fold((0, -1), |(count, before), part| {
            let (first, last) = part.filter(|(first, _)| *first > before)?;
            Some((count + last - first + 1, last))
        })
        .map(|(count, _)| count)
}
