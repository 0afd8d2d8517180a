//! The parameters of operations: what each is for, and which value it takes.

use fram_machinery::{Map, Value, object};

use super::schema::Dialect;

struct Parameter {
    name: &'static str,
    ty: &'static str,
    about: &'static str,
    /// Described once for a whole document of version 2. Clients look for the others in each operation.
    shared: bool,
}

const fn shared(name: &'static str, ty: &'static str, about: &'static str) -> Parameter {
    Parameter { name, ty, about, shared: true }
}

const fn own(name: &'static str, ty: &'static str, about: &'static str) -> Parameter {
    Parameter { name, ty, about, shared: false }
}

static ALL: [Parameter; 19] = [
    shared("allowWatchBookmarks", "boolean", "Ask for watch events of type BOOKMARK, which tell how far the watch has come."),
    shared("continue", "string", "The token that a list ended with, to get what comes after it. Not for watches."),
    shared("fieldSelector", "string", "A selector to restrict the list of returned objects by their fields. Defaults to everything."),
    shared("gracePeriodSeconds", "integer", "Seconds until the object is deleted; zero means at once. Defaults to a value of the object."),
    shared("labelSelector", "string", "A selector to restrict the list of returned objects by their labels. Defaults to everything."),
    shared("limit", "integer", "The most objects that a list returns; if there are more it has a token by which to continue."),
    shared("orphanDependents", "boolean", "Deprecated: use propagationPolicy. Whether dependent objects stay."),
    shared("propagationPolicy", "string", "Whether and how dependent objects are deleted: Orphan, Background or Foreground."),
    shared("resourceVersion", "string", "Sets a constraint on what resource versions a request may be served from."),
    shared("resourceVersionMatch", "string", "How resourceVersion is applied to list calls: NotOlderThan or Exact."),
    shared("sendInitialEvents", "boolean", "Begin a watch with an event for each object that there is, and a bookmark."),
    shared("timeoutSeconds", "integer", "Timeout for list and watch calls, whatever they are doing."),
    shared(
        "watch",
        "boolean",
        "Watch for changes to the described resources and return them as a stream of add, update, and remove notifications.",
    ),
    own("dryRun", "string", "Modifications are not persisted where this is All."),
    own("fieldManager", "string", "The name of the actor or entity that is making these changes."),
    own("fieldValidation", "string", "What is done about unknown and duplicate fields: Ignore, Warn or Strict."),
    own("force", "boolean", "Take conflicting fields from their managers. For apply requests only."),
    own("name", "string", "Name of the object."),
    own("namespace", "string", "Object name and auth scope, such as for teams and projects."),
];

/// A parameter of an operation, in the `query` or in the `path`.
pub(super) fn parameter(dialect: Dialect, name: &str, place: &str) -> Value {
    match (ALL.iter().find(|parameter| parameter.name == name), dialect) {
        (Some(parameter), Dialect::V2) if parameter.shared => object!({ "$ref": (format!("#/parameters/{name}")) }),
        (Some(parameter), _) => described(dialect, parameter, place),
        (None, _) => described(dialect, &own("", "string", ""), place),
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
    ALL.iter().filter(|p| p.shared).map(|p| (p.name, described(Dialect::V2, p, "query"))).collect()
}
