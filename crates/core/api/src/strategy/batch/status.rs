//! What the status of a Job may say, and become: a finished Job stays finished, and says all that its readers rely on. Rules are
//! held only against what a write changes, since a status may lag behind a changed spec; see upstream's
//! JobStatusValidationOptions.

use std::collections::HashSet;

use fram_machinery::status::FieldError;
use fram_machinery::{Value, meta};

use super::policy::{index_count, indexes};

/// A status before and after a write.
struct Change<'a> {
    job: &'a Value,
    old: &'a Value,
}

impl Change<'_> {
    fn has_changed(&self, field: &str) -> bool {
        self.job.at(&["status", field]) != self.old.at(&["status", field])
    }

    fn is(&self, condition: &str) -> bool {
        meta::condition_is_true(self.job, condition)
    }

    fn was(&self, condition: &str) -> bool {
        meta::condition_is_true(self.old, condition)
    }

    fn turns(&self, condition: &str) -> bool {
        self.is(condition) != self.was(condition)
    }

    fn is_finished(&self) -> bool {
        self.is("Complete") || self.is("Failed")
    }

    fn finishes(&self) -> bool {
        self.is_finished() != (self.was("Complete") || self.was("Failed"))
    }

    fn count(&self, field: &str) -> i64 {
        self.job.int_at(&["status", field]).unwrap_or(0)
    }

    fn spec(&self, field: &str) -> Option<&Value> {
        self.job.at(&["spec", field]).filter(|v| !v.is_null())
    }

    fn text(&self, field: &str) -> &str {
        self.job.str_at(&["status", field])
    }
}

pub(super) fn errors(job: &Value, old: &Value) -> Vec<FieldError> {
    let change = Change { job, old };
    let mut errors = Vec::new();
    counts(&change, &mut errors);
    uncounted(&change, &mut errors);
    conditions(&change, &mut errors);
    times(&change, &mut errors);
    index_lists(&change, &mut errors);
    errors
}

fn counts(change: &Change<'_>, errors: &mut Vec<FieldError>) {
    let mut wrong = |field: &str, why: &str| errors.push(FieldError::invalid(format!("status.{field}"), change.count(field), why));
    let finished = change.is_finished();
    for field in ["active", "terminating"] {
        if finished && change.count(field) > 0 && (change.finishes() || change.has_changed(field)) {
            wrong(field, "must be 0 for a finished job");
        }
    }
    if change.count("ready") > change.count("active") && (change.has_changed("ready") || change.has_changed("active")) {
        wrong("ready", "cannot set more ready pods than active");
    }
    let elastic = change.job.str_at(&["spec", "completionMode"]) == "Indexed" && change.spec("completions") == change.spec("parallelism");
    let shrinks = |field: &str| change.count(field) < change.old.int_at(&["status", field]).unwrap_or(0);
    if shrinks("failed") {
        wrong("failed", "cannot decrease the failed counter");
    }
    if !elastic && shrinks("succeeded") {
        wrong("succeeded", "cannot decrease the succeeded counter");
    }
}

fn uncounted(change: &Change<'_>, errors: &mut Vec<FieldError>) {
    let mut seen: HashSet<&str> = HashSet::new();
    for list in ["succeeded", "failed"] {
        for (i, uid) in change.job.list_at(&["status", "uncountedTerminatedPods", list]).iter().enumerate() {
            let at = format!("status.uncountedTerminatedPods.{list}[{i}]");
            let again = !seen.insert(uid.as_str().unwrap_or_default());
            if uid.as_str() == Some("") {
                errors.push(FieldError::invalid(at, "", "must not be empty"));
            } else if again {
                errors.push(FieldError::duplicate(at, uid.clone()));
            }
        }
    }
    let concerned = change.finishes() || change.has_changed("uncountedTerminatedPods");
    if concerned && change.is_finished() && !seen.is_empty() {
        let value = change.job.at(&["status", "uncountedTerminatedPods"]).cloned();
        errors.push(FieldError::invalid("status.uncountedTerminatedPods", value, "must be empty for finished job"));
    }
}

fn conditions(change: &Change<'_>, errors: &mut Vec<FieldError>) {
    let (complete, failed) = (change.is("Complete"), change.is("Failed"));
    let (met, target) = (change.is("SuccessCriteriaMet"), change.is("FailureTarget"));
    let ends = change.turns("Complete");
    let stopped = ["Failed", "Complete", "FailureTarget", "SuccessCriteriaMet"].into_iter().find(|c| change.was(c) && !change.is(c));
    let rules = [
        (complete && failed && (ends || change.turns("Failed")), "cannot set Complete=True and Failed=true conditions"),
        (complete && target && (ends || change.turns("FailureTarget")), "cannot set Complete=True and FailureTarget=true conditions"),
        (
            failed && !target && (change.turns("Failed") || change.has_changed("failedIndexes")),
            "cannot set Failed=True condition without the FailureTarget=true condition",
        ),
        (
            complete && !met && (ends || change.turns("SuccessCriteriaMet")),
            "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
        ),
        (met && failed, "cannot set SuccessCriteriaMet=True and Failed=true conditions"),
        (met && target, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions"),
        (
            complete && !met && change.spec("successPolicy").is_some(),
            "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
        ),
        (stopped.is_some(), "cannot disable a terminal condition"),
        (
            change.was("Complete") && !change.was("SuccessCriteriaMet") && met,
            "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions",
        ),
    ];
    let broken = rules.iter().filter(|(broken, _)| *broken);
    errors.extend(broken.map(|(_, why)| FieldError::invalid("status.conditions", Value::Null, *why)));
}

fn times(change: &Change<'_>, errors: &mut Vec<FieldError>) {
    let mut wrong = |field: &str, why: &str| errors.push(FieldError::invalid(format!("status.{field}"), change.text(field), why));
    let (start, end) = (change.text("startTime"), change.text("completionTime"));
    let (started, ended) = (change.has_changed("startTime"), change.has_changed("completionTime"));
    let turns = change.turns("Complete") || ended;
    if !end.is_empty() && !change.is("Complete") && turns {
        wrong("completionTime", "cannot set completionTime when there is no Complete=True condition");
    }
    // Both are in UTC and of one form, so that their texts are in their order.
    if !start.is_empty() && !end.is_empty() && end < start && (started || ended) {
        wrong("completionTime", "must be equal to or after `startTime`");
    }
    if ended && !end.is_empty() && !change.old.str_at(&["status", "completionTime"]).is_empty() {
        wrong("completionTime", "field is immutable");
    }
    let resumes = change.was("Suspended") && meta::condition(change.job, "Suspended").is_some_and(|c| c.str_at(&["status"]) == "False");
    let suspended = change.job.bool_at(&["spec", "suspend"]) == Some(true);
    if started && !change.old.str_at(&["status", "startTime"]).is_empty() && !suspended && !resumes {
        wrong("startTime", "field is immutable for unsuspended job once set");
    }
    if end.is_empty() && change.is("Complete") && turns {
        errors.push(FieldError::required("status.completionTime", "completionTime is required for Complete jobs"));
    }
    let idle = suspended && change.spec("completions").and_then(Value::as_int) == Some(0);
    if start.is_empty() && change.is_finished() && (change.finishes() || started) && !idle {
        errors.push(FieldError::required("status.startTime", "startTime is required for finished job"));
    }
}

fn index_lists(change: &Change<'_>, errors: &mut Vec<FieldError>) {
    let mut wrong = |field: &str, why: &str| errors.push(FieldError::invalid(format!("status.{field}"), change.text(field), why));
    let all = change.spec("completions").and_then(Value::as_int);
    let (done, lost) = (change.text("completedIndexes"), change.text("failedIndexes"));
    let told = change.job.at(&["status", "failedIndexes"]).is_some_and(|v| !v.is_null());
    if change.has_changed("completedIndexes") {
        if all.is_some_and(|all| index_count(done, all).is_none()) {
            wrong("completedIndexes", "error parsing completedIndexes");
        }
        if !done.is_empty() && change.job.str_at(&["spec", "completionMode"]) != "Indexed" {
            wrong("completedIndexes", "cannot set non-empty completedIndexes when non-indexed completion mode");
        }
    }
    let per_index = change.spec("backoffLimitPerIndex").is_some();
    if change.has_changed("failedIndexes") && told {
        if all.is_some_and(|all| per_index && index_count(lost, all).is_none()) {
            wrong("failedIndexes", "error parsing failedIndexes");
        }
        if !per_index {
            wrong("failedIndexes", "cannot set non-null failedIndexes when backoffLimitPerIndex is null");
        }
    }
    if let Some(all) = all.filter(|_| change.has_changed("failedIndexes") || change.has_changed("completedIndexes")) {
        let done: Vec<_> = indexes(done, all).flatten().collect();
        if indexes(lost, all).flatten().any(|(first, last)| done.iter().any(|d| d.0 <= last && first <= d.1)) {
            wrong("failedIndexes", "failedIndexes and completedIndexes overlap");
        }
    }
}

#[cfg(test)]
mod tests {
    use fram_machinery::{Value, object};

    use super::errors;

    fn job(status: Value) -> Value {
        object!({ "spec": { "completions": 3, "completionMode": "Indexed", "parallelism": 2 }, "status": status })
    }

    #[test]
    fn a_status_says_what_its_readers_rely_on() {
        let condition = |ty: &str| object!({ "type": ty, "status": "True" });
        let (met, complete) = (condition("SuccessCriteriaMet"), condition("Complete"));
        let ended = object!({ "conditions": [(met.clone()), (complete.clone())], "startTime": "2026-01-01T00:00:00Z",
            "completionTime": "2026-01-01T00:00:01Z", "succeeded": 3, "completedIndexes": "0-2" });
        let running = object!({ "startTime": "2026-01-01T00:00:00Z", "active": 2, "ready": 1 });
        let table: [(&str, Value, Value, &[&str]); 7] = [
            ("a job ends", running.clone(), ended.clone(), &[]),
            ("an ended one starts again", ended.clone(), running.clone(), &["status.succeeded", "status.conditions"]),
            (
                "more are ready than run",
                running.clone(),
                object!({ "startTime": "2026-01-01T00:00:00Z", "active": 1, "ready": 2 }),
                &["status.ready"],
            ),
            (
                "it ends at no time",
                running.clone(),
                object!({ "conditions": [met, complete], "startTime": "2026-01-01T00:00:00Z" }),
                &["status.completionTime"],
            ),
            ("an index too many", object!({}), object!({ "completedIndexes": "0-3" }), &["status.completedIndexes"]),
            ("an old index too many", object!({ "completedIndexes": "0-3" }), object!({ "completedIndexes": "0-3", "active": 1 }), &[]),
            (
                "a pod counted twice",
                object!({}),
                object!({ "uncountedTerminatedPods": { "succeeded": ["a"], "failed": ["a"] } }),
                &["status.uncountedTerminatedPods.failed[0]"],
            ),
        ];
        for (what, old, new, fields) in table {
            let found: Vec<String> = errors(&job(new), &job(old)).into_iter().map(|e| e.field).collect();
            assert_eq!(found, fields, "{what}");
        }
    }
}
