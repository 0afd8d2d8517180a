//! Jobs: defaults that depend on one another, the generated selector, and the cells of the table. What their status may say is in
//! `status`, what they say of failures and successes of their pods in `policy`, CronJobs are in `cron`.

mod cron;
mod policy;
mod status;

use fram_machinery::labels::Selector;
use fram_machinery::status::FieldError;
use fram_machinery::{Value, meta, names, object};

use super::{Strategy, container_cell, printed_selector, warnings};

pub(super) use cron::CronJob;

pub(super) struct Job;

impl Strategy for Job {
    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        warnings::of_maker(object, old, &["spec", "template"])
    }

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
        follow_template(object);
    }

    fn prepare_create(&self, object: &mut Value) {
        if object.bool_at(&["spec", "manualSelector"]) == Some(true) {
            return;
        }
        // Labels that were taken from the template go on to follow it.
        let follows = object.at(&["metadata", "labels"]) == object.at(&["spec", "template", "metadata", "labels"]);
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
        if object.at(&["spec", "selector"]).is_none() {
            object.set(&["spec", "selector"], object!({ "matchLabels": { "batch.kubernetes.io/controller-uid": uid } }));
        }
        let labels = object.at(&["spec", "template", "metadata", "labels"]).cloned();
        if follows && labels.is_some() && !meta::labels(object).is_empty() {
            object.set(&["metadata", "labels"], labels);
        }
    }

    fn read_back(&self, object: &mut Value) {
        follow_template(object);
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = job_errors(object.get("spec").unwrap_or(&Value::Null), "spec");
        selector_errors(object, &mut errors);
        if object.str_at(&["spec", "completionMode"]) == "Indexed"
            && let Some(last) = object.int_at(&["spec", "completions"]).filter(|n| *n > 0)
            && names::dns_label(&format!("{}-{}", meta::name(object), last - 1)).is_err()
        {
            let why = "will not able to create pod with invalid DNS label";
            errors.push(FieldError::invalid("metadata.name", meta::name(object), why));
        }
        errors
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        prefixed_labels(object)
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let had = |key: &&str| old.at(&["spec", "template", "metadata", "labels", key]).is_some();
        let mut errors = if PREFIXED.iter().all(had) { prefixed_labels(object) } else { Vec::new() };
        for field in ["selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
            if object.at(&["spec", field]) != old.at(&["spec", field]) {
                errors.push(FieldError::invalid(format!("spec.{field}"), object.at(&["spec", field]).cloned(), "field is immutable"));
            }
        }
        template_changes(object, old, &mut errors);
        let indexed = object.str_at(&["spec", "completionMode"]) == "Indexed";
        let completions = |job: &Value| job.int_at(&["spec", "completions"]);
        let elastic = indexed && (completions(object).is_none() || completions(object) == object.int_at(&["spec", "parallelism"]));
        if !elastic && completions(object) != completions(old) {
            errors.push(FieldError::invalid("spec.completions", completions(object), "field is immutable"));
        }
        errors
    }

    fn validate_subresource(&self, subresource: &str, object: &Value, old: &Value) -> Vec<FieldError> {
        if subresource == "status" { status::errors(object, old) } else { Vec::new() }
    }

    fn cell(&self, object: &Value, column: &str) -> Value {
        let spec = object.at(&["spec", "template", "spec"]);
        match column {
            "Status" => state(object).into(),
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

/// A Job without labels has those of its template.
fn follow_template(job: &mut Value) {
    let labels = job.at(&["spec", "template", "metadata", "labels"]).cloned().unwrap_or_default();
    if meta::labels(job).is_empty() && !labels.is_empty() {
        job.set(&["metadata", "labels"], labels);
    }
}

/// A template changes only while its Job waits with no pods: where they run, their labels, and what their containers need.
fn template_changes(job: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let suspended = old.bool_at(&["spec", "suspend"]) == Some(true);
    let fresh = old.str_at(&["status", "startTime"]).is_empty() || meta::condition_is_true(old, "Suspended");
    let waits = suspended && fresh && old.int_at(&["status", "active"]).unwrap_or(0) == 0;
    let template = |job: &Value| {
        let mut template = job.at(&["spec", "template"]).cloned().unwrap_or_default();
        if waits {
            for path in [&["spec", "nodeSelector"][..], &["spec", "tolerations"], &["spec", "affinity", "nodeAffinity"]] {
                template.remove(path);
            }
            template.remove(&["spec", "schedulingGates"]);
            if template.at(&["spec", "affinity"]).is_some_and(Value::is_empty) {
                template.remove(&["spec", "affinity"]);
            }
            for field in ["labels", "annotations"] {
                template.remove(&["metadata", field]);
            }
            for list in ["containers", "initContainers"] {
                if !template.list_at(&["spec", list]).is_empty() {
                    template.place(&["spec", list]).make_list().make_mut().iter_mut().for_each(|c| drop(c.remove(&["resources"])));
                }
            }
        }
        template
    };
    let (new, before) = (template(job), template(old));
    let why = "field is immutable";
    if waits && new.get("spec") != before.get("spec") {
        errors.push(FieldError::invalid("spec.template.spec", job.at(&["spec", "template", "spec"]).cloned(), why));
    } else if !waits && new != before {
        errors.push(FieldError::invalid("spec.template", job.at(&["spec", "template"]).cloned(), why));
    }
}

const PREFIXED: [&str; 2] = ["batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name"];

/// The labels that a generated selector comes with, under their names of today; Jobs of long ago lack them.
fn prefixed_labels(job: &Value) -> Vec<FieldError> {
    if job.bool_at(&["spec", "manualSelector"]) == Some(true) || job.at(&["spec", "selector"]).is_none() {
        return Vec::new();
    }
    let lacks = |key: &&str| job.at(&["spec", "template", "metadata", "labels", key]).is_none();
    let lacking = PREFIXED.into_iter().filter(lacks);
    lacking.map(|key| FieldError::required(format!("spec.template.metadata.labels[{key}]"), "must be set by the server")).collect()
}

/// The selector is the server's own unless it is the author's, and then it has to match.
fn selector_errors(object: &Value, errors: &mut Vec<FieldError>) {
    let manual = object.bool_at(&["spec", "manualSelector"]) == Some(true);
    let labels = object.at(&["spec", "template", "metadata", "labels"]).unwrap_or(&Value::Null);
    let selector = object.at(&["spec", "selector"]);
    let parsed = Selector::from_object(selector);
    if let Some(selector) = selector.filter(|_| !manual) {
        let own = object!({ "matchLabels": { "batch.kubernetes.io/controller-uid": (meta::uid(object)) } });
        let legacy = object!({ "matchLabels": { "controller-uid": (meta::uid(object)) } });
        for key in ["controller-uid", "job-name"].into_iter().filter(|k| labels.get(k).is_none()) {
            errors.push(FieldError::required(format!("spec.template.metadata.labels[{key}]"), "must be set by the server"));
        }
        if *selector != own && *selector != legacy {
            errors.push(FieldError::invalid("spec.selector", selector.clone(), "`selector` not auto-generated"));
        }
    }
    if selector.is_none() {
        errors.push(FieldError::required("spec.selector", ""));
    }
    if parsed.is_ok_and(|s| s.is_none_or(|s| !s.matches(labels))) {
        let why = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid("spec.template.metadata.labels", labels.clone(), why));
    }
}

/// From how many completions on an indexed Job with a limit per index is held shorter, and how short; see completionsSoftLimit.
const MANY: i64 = 100_000;
const MOST_OF_MANY: i64 = 10_000;

/// The rules of a Job's spec, also of one in a CronJob; `at` is its field.
fn job_errors(spec: &Value, at: &str) -> Vec<FieldError> {
    let template = spec.at(&["template", "spec"]).unwrap_or(&Value::Null);
    let mut errors = super::pod::validate_spec(template, &format!("{at}.template.spec"));
    super::apps::no_ephemeral(template, &format!("{at}.template.spec"), &mut errors);
    let policy = template.str_at(&["restartPolicy"]);
    let field = format!("{at}.template.spec.restartPolicy");
    match policy {
        "OnFailure" | "Never" => {}
        "" | "Always" => errors.push(FieldError::required(field, "valid values: \"OnFailure\", \"Never\"")),
        other => errors.push(FieldError::not_supported(field, other, &["OnFailure", "Never"])),
    }
    let number = |name: &str| spec.int_at(&[name]);
    let indexed = spec.str_at(&["completionMode"]) == "Indexed";
    let mut wrong = |name: &str, why: &str| errors.push(FieldError::invalid(format!("{at}.{name}"), number(name), why));
    if indexed && number("parallelism").is_some_and(|n| n > 100_000) {
        wrong("parallelism", "must be less than or equal to 100000 when completion mode is Indexed");
    }
    for name in ["backoffLimitPerIndex", "maxFailedIndexes"] {
        if number(name).is_some() && spec.get("completionMode").is_none_or(|m| m.as_str() == Some("NonIndexed")) {
            wrong(name, "requires indexed completion mode");
        }
    }
    if let (Some(most), Some(all)) = (number("maxFailedIndexes"), number("completions"))
        && most > all
    {
        wrong("maxFailedIndexes", "must be less than or equal to `completions`");
    }
    if number("maxFailedIndexes").is_some_and(|n| n > 100_000) {
        wrong("maxFailedIndexes", "must be less than or equal to 100000");
    }
    if number("maxFailedIndexes").is_some() && number("backoffLimitPerIndex").is_none() {
        errors.push(FieldError::required(format!("{at}.backoffLimitPerIndex"), "when maxFailedIndexes is specified"));
    }
    if indexed && number("completions").is_some_and(|n| n > MANY) && number("backoffLimitPerIndex").is_some() {
        let why = "must be less than or equal to 10000 when completions are above 100000 and used with backoff limit per index";
        let limited = ["parallelism", "maxFailedIndexes"].into_iter().filter(|f| number(f).is_some_and(|n| n > MOST_OF_MANY));
        errors.extend(limited.map(|f| FieldError::invalid(format!("{at}.{f}"), number(f), why)));
        if number("maxFailedIndexes").is_none() {
            errors.push(FieldError::required(format!("{at}.maxFailedIndexes"), "must be specified when completions is above 100000"));
        }
    }
    if indexed && number("completions").is_none() {
        errors.push(FieldError::required(format!("{at}.completions"), "when completion mode is Indexed"));
    }
    if let Some(manager) = spec.get("managedBy").and_then(Value::as_str) {
        let valid = manager.split_once('/').is_some_and(|(domain, path)| names::dns_subdomain(domain).is_ok() && !path.is_empty());
        if manager.is_empty() {
            errors.push(FieldError::required(format!("{at}.managedBy"), ""));
        } else if !valid {
            errors.push(FieldError::invalid(
                format!("{at}.managedBy"),
                manager,
                "must be a domain-prefixed path (such as \"acme.io/foo\")",
            ));
        }
        if manager.len() > 63 {
            errors.push(FieldError::too_long(format!("{at}.managedBy"), 63));
        }
    }
    policy::failure_policy(spec, template, at, &mut errors);
    policy::success_policy(spec, indexed, at, &mut errors);
    errors
}

fn state(job: &Value) -> &'static str {
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
