//! CronJobs: their schedules, and the cells of their table. The rules of the Jobs that they make are the Job's own.

use fram_machinery::status::FieldError;
use fram_machinery::{Value, meta};

use super::super::{Strategy, container_cell, printed_selector, warnings};
use super::job_errors;

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
pub(in super::super) struct CronJob;

impl Strategy for CronJob {
    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        warnings::of_maker(object, old, &["spec", "jobTemplate", "spec", "template"])
    }

    fn default(&self, object: &mut Value) {
        if object.at(&["spec", "jobTemplate", "spec", "template", "spec"]).is_some() {
            super::super::pod::default_pod_spec(object.place(&["spec", "jobTemplate", "spec", "template", "spec"]));
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let null = Value::Null;
        let job = object.at(&["spec", "jobTemplate", "spec"]).unwrap_or(&null);
        let mut errors = job_errors(job, "spec.jobTemplate.spec");
        if let Some(selector) = job.get("selector").filter(|selector| !selector.is_null()) {
            let error = FieldError::invalid("spec.jobTemplate.spec.selector", selector.clone(), "`selector` will be auto-generated");
            errors.push(error);
        }
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
            // A text in spite of its column's type, as upstream.
            "Suspend" if object.bool_at(&["spec", "suspend"]) == Some(true) => "True".into(),
            "Suspend" => "False".into(),
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
