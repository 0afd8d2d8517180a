//! Jobs: defaults that depend on one another, the generated selector, and the cells of the table.

use fram_machinery::status::FieldError;
use fram_machinery::{Value, meta, object};

use super::{Strategy, container_cell, printed_selector};

pub(super) struct Job;

impl Strategy for Job {
    fn default(&self, object: &mut Value) {
        super::apps::default_template(object);
        let spec = object.place(&["spec"]);
        if spec.get("completions").is_none() && spec.get("parallelism").is_none() {
            spec.set(&["completions"], 1);
        }
        let per_index = spec.get("backoffLimitPerIndex").is_some();
        let replacement = if spec.get("podFailurePolicy").is_some() { "Failed" } else { "TerminatingOrFailed" };
        let defaults = [
            ("parallelism", Value::Int(1)),
            ("backoffLimit", Value::Int(if per_index { i32::MAX.into() } else { 6 })),
            ("completionMode", "NonIndexed".into()),
            ("suspend", false.into()),
            ("manualSelector", false.into()),
            ("podReplacementPolicy", replacement.into()),
        ];
        for (field, value) in defaults {
            if spec.get(field).is_none_or(Value::is_null) {
                spec.set(&[field], value);
            }
        }
        let labels = object.at(&["spec", "template", "metadata", "labels"]).cloned().unwrap_or_default();
        if meta::labels(object).is_empty() && !labels.is_empty() {
            object.set(&["metadata", "labels"], labels);
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        if object.bool_at(&["spec", "manualSelector"]) == Some(true) {
            return;
        }
        let (uid, name) = (meta::uid(object).to_string(), meta::name(object).to_string());
        let labels = object.place(&["spec", "template", "metadata", "labels"]).make_map();
        for (key, value) in [
            ("batch.kubernetes.io/controller-uid", &uid),
            ("controller-uid", &uid),
            ("batch.kubernetes.io/job-name", &name),
            ("job-name", &name),
        ] {
            labels.insert(key, value.as_str());
        }
        object.set(&["spec", "selector"], object!({ "matchLabels": { "batch.kubernetes.io/controller-uid": uid } }));
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let spec = object.at(&["spec", "template", "spec"]).unwrap_or(&Value::Null);
        let mut errors = super::pod::validate_spec(spec, "spec.template.spec");
        let policy = spec.str_at(&["restartPolicy"]);
        if !["OnFailure", "Never"].contains(&policy) {
            let field = "spec.template.spec.restartPolicy";
            errors.push(FieldError {
                field: field.into(),
                problem: fram_machinery::status::Problem::NotSupported {
                    value: policy.into(),
                    supported: vec!["OnFailure".into(), "Never".into()],
                },
            });
        }
        for field in ["parallelism", "completions", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"] {
            if object.int_at(&["spec", field]).is_some_and(|n| n < 0) {
                let value = object.at(&["spec", field]).cloned();
                errors.push(FieldError::invalid(format!("spec.{field}"), value, "must be greater than or equal to 0"));
            }
        }
        if object.str_at(&["spec", "completionMode"]) == "Indexed" && object.at(&["spec", "completions"]).is_none() {
            errors.push(FieldError::required("spec.completions", "when completion mode is Indexed"));
        }
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let suspended = old.bool_at(&["spec", "suspend"]) == Some(true);
        for field in ["selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
            if object.at(&["spec", field]) != old.at(&["spec", field]) {
                errors.push(FieldError::invalid(format!("spec.{field}"), object.at(&["spec", field]).cloned(), "field is immutable"));
            }
        }
        if !suspended && object.at(&["spec", "template"]) != old.at(&["spec", "template"]) {
            errors.push(FieldError::invalid("spec.template", object.at(&["spec", "template"]).cloned(), "field is immutable"));
        }
        let indexed = old.str_at(&["spec", "completionMode"]) == "Indexed";
        if !indexed && object.at(&["spec", "completions"]) != old.at(&["spec", "completions"]) {
            errors.push(FieldError::invalid("spec.completions", object.at(&["spec", "completions"]).cloned(), "field is immutable"));
        }
        errors
    }

    fn cell(&self, object: &Value, column: &str) -> Value {
        let spec = object.at(&["spec", "template", "spec"]);
        match column {
            "Status" => status(object).into(),
            "Completions" => {
                let done = object.int_at(&["status", "succeeded"]).unwrap_or(0);
                match (object.int_at(&["spec", "completions"]), object.int_at(&["spec", "parallelism"]).unwrap_or(0)) {
                    (Some(all), _) => format!("{done}/{all}").into(),
                    (None, n) if n > 1 => format!("{done}/1 of {n}").into(),
                    (None, _) => format!("{done}/1").into(),
                }
            }
            "Duration" => duration(object),
            "Containers" => container_cell(spec, "name"),
            "Images" => container_cell(spec, "image"),
            "Selector" => printed_selector(object.at(&["spec", "selector"])),
            _ => Value::Null,
        }
    }
}

fn status(job: &Value) -> &'static str {
    for (condition, text) in [
        ("Complete", "Complete"),
        ("Failed", "Failed"),
        ("Suspended", "Suspended"),
        ("FailureTarget", "FailureTarget"),
        ("SuccessCriteriaMet", "SuccessCriteriaMet"),
    ] {
        if meta::condition_is_true(job, condition) {
            return text;
        }
    }
    if meta::is_terminating(job) { "Terminating" } else { "Running" }
}

/// Since when a Job runs, which the table shows as an age; of a finished one how long it ran.
fn duration(job: &Value) -> Value {
    match (job.str_at(&["status", "startTime"]), job.str_at(&["status", "completionTime"])) {
        ("", _) => "".into(),
        (start, "") => start.into(),
        (start, end) => seconds_between(start, end).map_or_else(|| "".into(), |s| format!("{s}s").into()),
    }
}

/// Seconds from one time to another, as objects carry them.
fn seconds_between(start: &str, end: &str) -> Option<i64> {
    let (start, end): (jiff::Timestamp, jiff::Timestamp) = (start.parse().ok()?, end.parse().ok()?);
    Some(end.as_second() - start.as_second())
}

/// CronJobs: the cells of the table.
pub(super) struct CronJob;

impl Strategy for CronJob {
    fn default(&self, object: &mut Value) {
        if object.at(&["spec", "jobTemplate", "spec", "template", "spec"]).is_some() {
            super::pod::default_pod_spec(object.place(&["spec", "jobTemplate", "spec", "template", "spec"]));
        }
    }

    fn cell(&self, object: &Value, column: &str) -> Value {
        let spec = object.at(&["spec", "jobTemplate", "spec", "template", "spec"]);
        match column {
            "Suspend" => object.bool_at(&["spec", "suspend"]).unwrap_or(false).into(),
            "Active" => Value::from(object.list_at(&["status", "active"]).len() as i64),
            "Last Schedule" => match object.str_at(&["status", "lastScheduleTime"]) {
                "" => "<none>".into(),
                time => time.into(),
            },
            "Containers" => container_cell(spec, "name"),
            "Images" => container_cell(spec, "image"),
            "Selector" => printed_selector(object.at(&["spec", "jobTemplate", "spec", "selector"])),
            _ => Value::Null,
        }
    }
}
