//! The parameters of operations: what each is for, and which value it takes.

use fram_machinery::{Map, Value, object};

use super::schema::Dialect;

/// A parameter that operations have.
pub(super) struct Parameter {
    pub(super) name: &'static str,
    ty: &'static str,
    about: &'static str,
}

const fn parameter(name: &'static str, ty: &'static str, about: &'static str) -> Parameter {
    Parameter { name, ty, about }
}

pub(super) const ALLOW_WATCH_BOOKMARKS: Parameter =
    parameter("allowWatchBookmarks", "boolean", "Ask for watch events of type BOOKMARK, which tell how far the watch has come.");
pub(super) const CONTINUE: Parameter =
    parameter("continue", "string", "The token that a list ended with, to get what comes after it. Not for watches.");
pub(super) const FIELD_SELECTOR: Parameter = parameter("fieldSelector", "string", "Only objects whose fields match; all, if empty.");
pub(super) const GRACE_PERIOD_SECONDS: Parameter = parameter(
    "gracePeriodSeconds",
    "integer",
    "Seconds until the object is deleted; zero means at once. Defaults to a value of the object.",
);
pub(super) const LABEL_SELECTOR: Parameter = parameter("labelSelector", "string", "Only objects whose labels match; all, if empty.");
pub(super) const LIMIT: Parameter =
    parameter("limit", "integer", "The most objects that a list returns; if there are more it has a token by which to continue.");
pub(super) const ORPHAN_DEPENDENTS: Parameter =
    parameter("orphanDependents", "boolean", "Deprecated: use propagationPolicy. Whether dependent objects stay.");
pub(super) const PROPAGATION_POLICY: Parameter =
    parameter("propagationPolicy", "string", "Whether and how dependent objects are deleted: Orphan, Background or Foreground.");
pub(super) const RESOURCE_VERSION: Parameter = parameter("resourceVersion", "string", "How old the answer may be.");
pub(super) const RESOURCE_VERSION_MATCH: Parameter =
    parameter("resourceVersionMatch", "string", "What resourceVersion means to a list: NotOlderThan or Exact.");
pub(super) const SEND_INITIAL_EVENTS: Parameter =
    parameter("sendInitialEvents", "boolean", "Begin a watch with an event for each object that there is, and a bookmark.");
pub(super) const TIMEOUT_SECONDS: Parameter =
    parameter("timeoutSeconds", "integer", "Seconds after which a list or a watch is given up, or ends.");
pub(super) const WATCH: Parameter = parameter("watch", "boolean", "Send changes as they happen instead of a list.");
pub(super) const DRY_RUN: Parameter = parameter("dryRun", "string", "Where this is All, nothing is stored.");
pub(super) const FIELD_MANAGER: Parameter = parameter("fieldManager", "string", "Who writes, as managedFields will call it.");
pub(super) const FIELD_VALIDATION: Parameter =
    parameter("fieldValidation", "string", "What is done about unknown and duplicate fields: Ignore, Warn or Strict.");
pub(super) const FORCE: Parameter = parameter("force", "boolean", "Take conflicting fields from their managers. For apply requests only.");
pub(super) const NAME: Parameter = parameter("name", "string", "Name of the object.");
pub(super) const NAMESPACE: Parameter = parameter("namespace", "string", "The namespace of the object.");

/// Those that are described once for a whole document of version 2. Clients look for the others in each operation.
static SHARED: [Parameter; 13] = [
    ALLOW_WATCH_BOOKMARKS,
    CONTINUE,
    FIELD_SELECTOR,
    GRACE_PERIOD_SECONDS,
    LABEL_SELECTOR,
    LIMIT,
    ORPHAN_DEPENDENTS,
    PROPAGATION_POLICY,
    RESOURCE_VERSION,
    RESOURCE_VERSION_MATCH,
    SEND_INITIAL_EVENTS,
    TIMEOUT_SECONDS,
    WATCH,
];

impl Parameter {
    /// How an operation says that it has the parameter, in the `query` or in the `path`.
    pub(super) fn of_operation(&self, dialect: Dialect, place: &str) -> Value {
        match dialect {
            Dialect::V2 if SHARED.iter().any(|p| p.name == self.name) => object!({ "$ref": (format!("#/parameters/{}", self.name)) }),
            _ => described(dialect, self, place),
        }
    }
}

fn described(dialect: Dialect, parameter: &Parameter, place: &str) -> Value {
    let mut out = object!({ "name": (parameter.name), "in": place, "description": (parameter.about) });
    if place == "path" {
        out.set(&["required"], true);
    }
    let into: &[&str] = if dialect == Dialect::V2 { &[] } else { &["schema"] };
    out.set(&[into, &["type"]].concat(), parameter.ty);
    out.set(&[into, &["uniqueItems"]].concat(), true);
    out
}

/// Those that a document of version 2 describes once.
pub(super) fn of_document() -> Map {
    SHARED.iter().map(|p| (p.name, described(Dialect::V2, p, "query"))).collect()
}
