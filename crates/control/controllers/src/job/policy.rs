//! What a Job's failure and success policies say of pods and indexes; see KEP-3329 and KEP-3998. Pure.

use fram_machinery::{Value, meta};

use super::indexes::{self, Indexes};
use crate::pods;

/// What a failed pod means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Count,
    Ignore,
    FailIndex,
    /// The Job fails, with this message.
    FailJob(String),
}

/// The action of the first rule that speaks of a pod, and why it does.
fn matching<'a>(job: &'a Value, pod: &Value) -> Option<(&'a str, String)> {
    for (i, rule) in job.list_at(&["spec", "podFailurePolicy", "rules"]).iter().enumerate() {
        let action = rule.str_at(&["action"]);
        let at = format!("{}/{}", meta::namespace(pod), meta::name(pod));
        let message = if let Some(codes) = rule.get("onExitCodes").filter(|c| !c.is_null()) {
            exit_code(pod, codes).map(|(container, code)| {
                format!("Container {container} for pod {at} failed with exit code {code} matching {action} rule at index {i}")
            })
        } else {
            let patterns = rule.list_at(&["onPodConditions"]);
            condition(pod, patterns).map(|ty| format!("Pod {at} has condition {ty} matching {action} rule at index {i}"))
        };
        if let Some(message) = message {
            return Some((action, message));
        }
    }
    None
}

pub(super) fn judge(job: &Value, pod: &Value) -> Verdict {
    match matching(job, pod) {
        Some(("Ignore", _)) => Verdict::Ignore,
        Some(("FailIndex", _)) => Verdict::FailIndex,
        Some(("FailJob", message)) => Verdict::FailJob(message),
        _ => Verdict::Count,
    }
}

/// What is done about a pod that has failed, where a rule says it.
pub(super) fn action<'a>(job: &'a Value, pod: &Value) -> Option<&'a str> {
    matching(job, pod).map(|(action, _)| action).filter(|_| pods::phase(pod) == "Failed")
}

/// The first container whose exit code a rule speaks of; zero is never one.
fn exit_code<'a>(pod: &'a Value, rule: &Value) -> Option<(&'a str, i64)> {
    let name = rule.get("containerName").and_then(Value::as_str);
    let values: Vec<i64> = rule.list_at(&["values"]).iter().filter_map(Value::as_int).collect();
    let wanted_in = rule.str_at(&["operator"]) == "In";
    let all = pod.list_at(&["status", "containerStatuses"]).iter().chain(pod.list_at(&["status", "initContainerStatuses"]));
    let of = |status: &'a Value| {
        let code = status.int_at(&["state", "terminated", "exitCode"]).filter(|c| *c != 0)?;
        let container = status.str_at(&["name"]);
        (name.is_none_or(|n| n == container) && values.contains(&code) == wanted_in).then_some((container, code))
    };
    all.filter_map(of).next()
}

fn condition<'a>(pod: &'a Value, patterns: &[Value]) -> Option<&'a str> {
    let matches = |c: &&Value| {
        patterns.iter().any(|p| {
            let status = if p.str_at(&["status"]).is_empty() { "True" } else { p.str_at(&["status"]) };
            p.str_at(&["type"]) == c.str_at(&["type"]) && status == c.str_at(&["status"])
        })
    };
    pod.list_at(&["status", "conditions"]).iter().find(matches).map(|c| c.str_at(&["type"]))
}

/// The message of the first success rule that the succeeded indexes meet.
pub(super) fn success(job: &Value, succeeded: &Indexes, completions: i64) -> Option<String> {
    if succeeded.is_empty() {
        return None;
    }
    let met = |rule: &Value| {
        let count = rule.int_at(&["succeededCount"]);
        match rule.get("succeededIndexes").and_then(Value::as_str) {
            Some(text) => {
                let required = indexes::parse(text, completions);
                let have = required.intersection(succeeded).count();
                !required.is_empty() && (have == required.len() || count.is_some_and(|c| have as i64 >= c))
            }
            None => count.is_some_and(|c| succeeded.len() as i64 >= c),
        }
    };
    let found = job.list_at(&["spec", "successPolicy", "rules"]).iter().position(met)?;
    Some(format!("Matched rules at index {found}"))
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    fn job(rule: Value) -> Value {
        object!({ "spec": { "podFailurePolicy": { "rules": [rule] } } })
    }

    #[test]
    fn exit_codes_match_by_container_and_operator_and_zero_never_does() {
        let pod = object!({ "metadata": { "namespace": "ns", "name": "p" },
            "status": { "containerStatuses": [{ "name": "main", "state": { "terminated": { "exitCode": 42 } } }] } });
        let rule = object!({ "action": "FailJob", "onExitCodes": { "containerName": "main", "operator": "In", "values": [42] } });
        let message = "Container main for pod ns/p failed with exit code 42 matching FailJob rule at index 0";
        assert_eq!(judge(&job(rule), &pod), Verdict::FailJob(message.into()));
        let other = object!({ "action": "Ignore", "onExitCodes": { "operator": "NotIn", "values": [42] } });
        assert_eq!(judge(&job(other), &pod), Verdict::Count);
        let mut fine = pod.clone();
        fine.set(&["status", "containerStatuses"], object!([{ "name": "main", "state": { "terminated": { "exitCode": 0 } } }]));
        let any = object!({ "action": "FailIndex", "onExitCodes": { "operator": "NotIn", "values": [1] } });
        assert_eq!((judge(&job(any.clone()), &fine), judge(&job(any), &pod)), (Verdict::Count, Verdict::FailIndex));
    }

    #[test]
    fn a_disruption_can_be_ignored() {
        let pod = object!({ "status": { "conditions": [{ "type": "DisruptionTarget", "status": "True" }] } });
        let rule = object!({ "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget", "status": "True" }] });
        assert_eq!(judge(&job(rule), &pod), Verdict::Ignore);
    }

    #[test]
    fn the_rule_that_speaks_of_a_failed_pod_says_what_was_done() {
        let mut pod = object!({ "status": { "phase": "Failed", "conditions": [{ "type": "DisruptionTarget", "status": "True" }] } });
        let rule = |action: &str| job(object!({ "action": action, "onPodConditions": [{ "type": "DisruptionTarget", "status": "True" }] }));
        assert_eq!(["Ignore", "Count", "FailJob"].map(|name| action(&rule(name), &pod) == Some(name)), [true; 3]);
        pod.set(&["status", "phase"], "Succeeded");
        assert_eq!(action(&rule("Ignore"), &pod), None);
        assert_eq!(action(&job(object!({ "action": "Ignore" })), &object!({ "status": { "phase": "Failed" } })), None);
    }

    #[test]
    fn success_needs_the_indexes_or_enough_of_them() {
        let job = |rule: Value| object!({ "spec": { "successPolicy": { "rules": [rule] } } });
        let done = indexes::parse("0,2", 10);
        assert!(success(&job(object!({ "succeededIndexes": "0,2" })), &done, 10).is_some());
        assert!(success(&job(object!({ "succeededIndexes": "0-3" })), &done, 10).is_none());
        assert!(success(&job(object!({ "succeededIndexes": "0-3", "succeededCount": 2 })), &done, 10).is_some());
        assert!(success(&job(object!({ "succeededCount": 3 })), &done, 10).is_none());
    }
}
