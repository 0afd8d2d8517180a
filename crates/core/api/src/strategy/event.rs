//! Events: what they have to say, which is more where they are written through events.k8s.io, and the cells of their table.

use fram_machinery::status::FieldError;
use fram_machinery::{Value, meta, names};

use super::{NameRule, Strategy};

/// See ReportingInstanceLengthLimit and its like.
const LONGEST: usize = 128;
const LONGEST_NOTE: usize = 1024;

pub(super) struct Event;
impl Strategy for Event {
    fn name_rule(&self) -> NameRule {
        names::path_segment
    }

    fn validate(&self, event: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let (own, involved) = (meta::namespace(event), event.str_at(&["involvedObject", "namespace"]));
        let timed = !event.str_at(&["eventTime"]).is_empty();
        // Events about objects without a namespace are in the default one.
        let right = match (involved.is_empty(), timed) {
            (true, false) => own == "default",
            (true, true) => matches!(own, "default" | "kube-system"),
            (false, timed) => timed || own == involved,
        };
        if !right {
            errors.push(FieldError::invalid("involvedObject.namespace", involved, "does not match event.namespace"));
        }
        if !timed {
            return errors;
        }
        for (field, most) in [("reportingComponent", 0), ("reportingInstance", LONGEST), ("action", LONGEST), ("reason", LONGEST)] {
            let text = event.str_at(&[field]);
            if text.is_empty() {
                errors.push(FieldError::required(field, ""));
            }
            if most > 0 && text.len() > most {
                errors.push(FieldError::invalid(field, "", format!("can have at most {most} characters")));
            }
        }
        let component = event.str_at(&["reportingComponent"]);
        if let Err(why) = names::qualified_name(component) {
            errors.push(FieldError::invalid("reportingComponent", component, why));
        }
        if event.str_at(&["message"]).len() > LONGEST_NOTE {
            errors.push(FieldError::invalid("message", "", format!("can have at most {LONGEST_NOTE} characters")));
        }
        errors
    }

    fn field(&self, object: &Value, path: &str) -> Option<String> {
        (path == "source").then(|| match object.str_at(&["source", "component"]) {
            "" => object.str_at(&["reportingComponent"]).to_string(),
            component => component.to_string(),
        })
    }

    fn cell(&self, object: &Value, column: &str) -> Value {
        OLD.cell(object, column)
    }
}

/// What the fields are called in a version.
struct Fields {
    first: &'static str,
    last: &'static str,
    count: &'static str,
    source: &'static str,
    object: &'static str,
    message: &'static str,
    component: &'static str,
}

const OLD: Fields = Fields {
    first: "firstTimestamp",
    last: "lastTimestamp",
    count: "count",
    source: "source",
    object: "involvedObject",
    message: "message",
    component: "reportingComponent",
};

const NEW: Fields = Fields {
    first: "deprecatedFirstTimestamp",
    last: "deprecatedLastTimestamp",
    count: "deprecatedCount",
    source: "deprecatedSource",
    object: "regarding",
    message: "note",
    component: "reportingController",
};

impl Fields {
    fn cell(&self, event: &Value, column: &str) -> Value {
        let time = |paths: &[&[&str]]| {
            let found = paths.iter().map(|p| event.str_at(p)).find(|t| !t.is_empty());
            Value::from(found.unwrap_or("<unknown>"))
        };
        let either = |path: &[&str], other: &str| match event.str_at(path) {
            "" => event.str_at(&[other]).to_string(),
            text => text.to_string(),
        };
        match column {
            "Last Seen" => time(&[&["series", "lastObservedTime"], &[self.last], &[self.first], &["eventTime"]]),
            "First Seen" => time(&[&[self.first], &["eventTime"]]),
            "Object" => {
                let part = |field: &str| event.str_at(&[self.object, field]);
                let slash = if part("name").is_empty() { "" } else { "/" };
                format!("{}{slash}{}", part("kind").to_lowercase(), part("name")).into()
            }
            "Source" => {
                let (component, host) =
                    (either(&[self.source, "component"], self.component), either(&[self.source, "host"], "reportingInstance"));
                if host.is_empty() { component.into() } else { format!("{component}, {host}").into() }
            }
            "Count" => match event.int_at(&["series", "count"]).or(event.int_at(&[self.count])) {
                None | Some(0) => Value::Int(1),
                Some(count) => Value::Int(count),
            },
            "Message" => event.str_at(&[self.message]).trim().into(),
            _ => Value::Null,
        }
    }
}

/// Events of events.k8s.io, which are stored as those of the core group, and are held stricter.
pub(super) struct NewEvent;
impl Strategy for NewEvent {
    fn cell(&self, object: &Value, column: &str) -> Value {
        NEW.cell(object, column)
    }

    fn name_rule(&self) -> NameRule {
        names::dns_subdomain
    }

    fn validate_asked(&self, event: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
        for error in errors.iter_mut().filter(|e| e.field == "reportingComponent") {
            error.field = "reportingController".into();
        }
        match old {
            None => created(event, errors),
            Some(old) => changed(event, old, errors),
        }
    }
}

fn series(event: &Value, errors: &mut Vec<FieldError>) {
    let Some(series) = event.get("series").filter(|s| !s.is_null()) else { return };
    if series.int_at(&["count"]).unwrap_or(0) < 2 {
        errors.push(FieldError::invalid("series.count", "", "should be at least 2"));
    }
    if series.str_at(&["lastObservedTime"]).is_empty() {
        errors.push(FieldError::required("series.lastObservedTime", ""));
    }
}

fn created(event: &Value, errors: &mut Vec<FieldError>) {
    series(event, errors);
    if event.str_at(&["eventTime"]).is_empty() {
        errors.push(FieldError::required("eventTime", ""));
    }
    let ty = event.str_at(&["type"]);
    if !matches!(ty, "Normal" | "Warning") {
        errors.push(FieldError::invalid("type", "", format!("has invalid value: {ty}")));
    }
    let source = ["component", "host"].iter().any(|f| !event.str_at(&["source", f]).is_empty());
    let given = |field: &str| match field {
        "count" => event.int_at(&["count"]).unwrap_or(0) != 0,
        "source" => source,
        time => !event.str_at(&[time]).is_empty(),
    };
    for field in ["firstTimestamp", "lastTimestamp", "count", "source"].into_iter().filter(|f| given(f)) {
        errors.push(FieldError::invalid(field, "", "needs to be unset"));
    }
}

/// Only the series of an event goes on.
fn changed(event: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    const FIXED: [(&str, &str); 13] = [
        ("involvedObject", "involvedObject"),
        ("reason", "reason"),
        ("message", "message"),
        ("source", "source"),
        ("firstTimestamp", "firstTimestamp"),
        ("lastTimestamp", "lastTimestamp"),
        ("count", "count"),
        ("type", "type"),
        ("eventTime", "eventTime"),
        ("action", "action"),
        ("related", "related"),
        ("reportingComponent", "reportingController"),
        ("reportingInstance", "reportingInstance"),
    ];
    if event.get("series") != old.get("series") {
        series(event, errors);
    }
    let given = |v: &Value, f: &str| v.get(f).filter(|v| !v.is_null() && !v.is_empty()).cloned();
    for (field, name) in FIXED.into_iter().filter(|(f, _)| given(event, f) != given(old, f)) {
        errors.push(FieldError::invalid(name, event.get(field).cloned(), "field is immutable"));
    }
}
