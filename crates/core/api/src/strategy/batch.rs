//! Jobs: defaults that depend on one another, the generated selector, and the cells of the table.

use fram_machinery::labels::Selector;
use fram_machinery::status::FieldError;
use fram_machinery::{Value, meta, names, object};

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
        if follows || meta::labels(object).is_empty() {
            object.set(&["metadata", "labels"], labels);
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = job_errors(object.get("spec").unwrap_or(&Value::Null), "spec");
        selector_errors(object, &mut errors);
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
        let changed =
            if suspended { placed(object) != placed(old) } else { object.at(&["spec", "template"]) != old.at(&["spec", "template"]) };
        if changed {
            errors.push(FieldError::invalid("spec.template", object.at(&["spec", "template"]).cloned(), "field is immutable"));
        }
        let indexed = old.str_at(&["spec", "completionMode"]) == "Indexed";
        let completions = |job: &Value| job.int_at(&["spec", "completions"]);
        let elastic = indexed && completions(object).is_some() && completions(object) == object.int_at(&["spec", "parallelism"]);
        if !elastic && completions(object) != completions(old) {
            errors.push(FieldError::invalid("spec.completions", completions(object), "field is immutable"));
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

/// A template without what a suspended Job may still change: where its pods run, and their labels.
fn placed(job: &Value) -> Value {
    let mut template = job.at(&["spec", "template"]).cloned().unwrap_or_default();
    for field in ["nodeSelector", "tolerations", "affinity", "schedulingGates"] {
        template.remove(&["spec", field]);
    }
    for field in ["labels", "annotations"] {
        template.remove(&["metadata", field]);
    }
    for list in ["containers", "initContainers"] {
        if !template.list_at(&["spec", list]).is_empty() {
            template.place(&["spec", list]).make_list().iter_mut().for_each(|c| drop(c.remove(&["resources"])));
        }
    }
    template
}

/// The selector is the server's own unless it is the author's, and then it has to match.
fn selector_errors(object: &Value, errors: &mut Vec<FieldError>) {
    let manual = object.bool_at(&["spec", "manualSelector"]) == Some(true);
    let labels = object.at(&["spec", "template", "metadata", "labels"]).unwrap_or(&Value::Null);
    let selector = object.at(&["spec", "selector"]);
    let parsed = Selector::from_object(selector);
    if !manual {
        let own = object!({ "matchLabels": { "batch.kubernetes.io/controller-uid": (meta::uid(object)) } });
        let legacy = object!({ "matchLabels": { "controller-uid": (meta::uid(object)) } });
        for key in ["controller-uid", "job-name"].into_iter().filter(|k| labels.get(k).is_none()) {
            errors.push(FieldError::required(format!("spec.template.metadata.labels[{key}]"), "must be set by the server"));
        }
        if selector.is_none_or(|s| *s != own && *s != legacy) {
            errors.push(FieldError::invalid("spec.selector", selector.cloned(), "`selector` not auto-generated"));
        }
    }
    if selector.is_none() {
        errors.push(FieldError::required("spec.selector", ""));
    }
    if !parsed.is_ok_and(|s| s.is_some_and(|s| s.matches(labels))) {
        let why = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid("spec.template.metadata.labels", labels.clone(), why));
    }
}

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
        if number(name).is_some() && !indexed {
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
    if indexed && number("completions").is_none() {
        errors.push(FieldError::required(format!("{at}.completions"), "when completion mode is Indexed"));
    }
    if let Some(manager) = spec.get("managedBy").and_then(Value::as_str) {
        let valid = manager.split_once('/').is_some_and(|(domain, path)| names::dns_subdomain(domain).is_ok() && !path.is_empty());
        if !valid {
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
    failure_policy(spec, template, at, &mut errors);
    success_policy(spec, indexed, at, &mut errors);
    errors
}

fn failure_policy(spec: &Value, template: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let Some(policy) = spec.get("podFailurePolicy").filter(|p| !p.is_null()) else { return };
    if template.str_at(&["restartPolicy"]) != "Never" {
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

fn success_policy(spec: &Value, indexed: bool, at: &str, errors: &mut Vec<FieldError>) {
    let Some(policy) = spec.get("successPolicy").filter(|p| !p.is_null()) else { return };
    let at = format!("{at}.successPolicy");
    if !indexed {
        errors.push(FieldError::invalid(&at, policy.clone(), "requires indexed completion mode"));
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
        if let Some(Some(chosen)) = chosen
            && count > chosen
        {
            errors.push(FieldError::invalid(
                &at,
                count,
                "must be less than or equal to the number of indexes in the specified succeededIndexes field",
            ));
        }
    }
}

/// How many indexes a list such as `0,2-4` has; None where it is malformed, not ordered or beyond `all`.
fn index_count(text: &str, all: i64) -> Option<i64> {
    if text.is_empty() {
        return Some(0);
    }
    let (mut last, mut count) = (-1, 0);
    for part in text.split(',') {
        let (first, end) = part.split_once('-').unwrap_or((part, part));
        let (first, end): (i64, i64) = (first.parse().ok()?, end.parse().ok()?);
        if first <= last || end < first || end >= all {
            return None;
        }
        count += end - first + 1;
        last = end;
    }
    Some(count)
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

/// Whether a text is a schedule of five fields, or one of the names for them.
fn is_schedule(text: &str) -> bool {
    if let Some(name) = text.strip_prefix('@') {
        let every = |rest: &str| fram_machinery::normalize::parse_duration(rest).is_some();
        return matches!(name, "yearly" | "annually" | "monthly" | "weekly" | "daily" | "midnight" | "hourly")
            || name.strip_prefix("every ").is_some_and(every);
    }
    const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
    const FIELDS: [(i64, i64, &[&str]); 5] = [(0, 59, &[]), (0, 23, &[]), (1, 31, &[]), (1, 12, &MONTHS), (0, 6, &DAYS)];
    let fields: Vec<&str> = text.split_whitespace().collect();
    fields.len() == FIELDS.len() && fields.iter().zip(FIELDS).all(|(field, limits)| field.split(',').all(|p| is_range(p, limits)))
}

/// `*`, a number, a range, each with a step or without.
fn is_range(text: &str, (least, most, names): (i64, i64, &[&str])) -> bool {
    let (range, step) = text.split_once('/').map_or((text, None), |(range, step)| (range, Some(step)));
    if step.is_some_and(|s| !s.parse::<i64>().is_ok_and(|n| n > 0)) {
        return false;
    }
    if matches!(range, "*" | "?") {
        return true;
    }
    let number = |text: &str| {
        let named = names.iter().position(|n| n.eq_ignore_ascii_case(text)).map(|i| i as i64 + least);
        named.or_else(|| text.parse().ok()).filter(|n| (least..=most).contains(n))
    };
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    matches!((number(first), number(last)), (Some(first), Some(last)) if first <= last)
}

/// CronJobs: the cells of the table.
pub(super) struct CronJob;

impl Strategy for CronJob {
    fn default(&self, object: &mut Value) {
        if object.at(&["spec", "jobTemplate", "spec", "template", "spec"]).is_some() {
            super::pod::default_pod_spec(object.place(&["spec", "jobTemplate", "spec", "template", "spec"]));
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let null = Value::Null;
        let job = object.at(&["spec", "jobTemplate", "spec"]).unwrap_or(&null);
        let mut errors = job_errors(job, "spec.jobTemplate.spec");
        if job.bool_at(&["manualSelector"]) == Some(true) {
            errors.push(FieldError::not_supported("spec.jobTemplate.spec.manualSelector", true, &["false"]));
        }
        let schedule = object.str_at(&["spec", "schedule"]);
        if !schedule.is_empty() && !is_schedule(schedule) {
            errors.push(FieldError::invalid("spec.schedule", schedule, "failed to parse the schedule"));
        }
        if let Some(zone) = object.at(&["spec", "timeZone"]).and_then(Value::as_str) {
            let plain = zone.split('/').all(|p| !p.is_empty() && p.bytes().all(|c| c.is_ascii_alphanumeric() || b"_+-.".contains(&c)));
            if !plain || zone.eq_ignore_ascii_case("local") || jiff::tz::TimeZone::get(zone).is_err() {
                errors.push(FieldError::invalid("spec.timeZone", zone, "unknown time zone"));
            }
        }
        errors
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        // The names of its Jobs have a time behind it, and are labels.
        let name = meta::name(object);
        if name.len() <= 52 {
            return Vec::new();
        }
        vec![FieldError::invalid("metadata.name", name, "must be no more than 52 characters")]
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
