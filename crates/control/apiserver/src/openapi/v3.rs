//! The OpenAPI v3 documents: one per group version, with the paths of its resources.

use fram_api::{Api, Kind};
use fram_machinery::{Map, Value, json, object};

use super::schema::{Dialect, Schemas};

fn served(api: &Api) -> Vec<(&'static str, &'static str)> {
    let mut all: Vec<(&str, &str)> = api.kinds.iter().filter(|k| !k.plural.is_empty()).map(|k| (k.group, k.version)).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn root(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// The index, with a hash of each document so that clients can cache them.
pub(super) fn index(api: &Api) -> Value {
    let mut paths = Map::new();
    for (group, version) in served(api) {
        let path = root(group, version);
        let bytes = document(api, group, version).map(|d| json::to_vec(&d)).unwrap_or_default();
        let hash = ring::digest::digest(&ring::digest::SHA256, &bytes);
        let hash: String = hash.as_ref().iter().map(|b| format!("{b:02X}")).collect();
        let url = format!("/openapi/v3/{path}?hash={hash}");
        paths.insert(path, object!({ "serverRelativeURL": url }));
    }
    object!({ "paths": paths })
}

pub(super) fn document(api: &Api, group: &str, version: &str) -> Option<Value> {
    let kinds: Vec<&Kind> = api.kinds.iter().map(|k| &**k).filter(|k| k.group == group && k.version == version).collect();
    if kinds.is_empty() {
        return None;
    }
    let mut schemas = Schemas::new(api, Dialect::V3);
    let mut paths = Map::new();
    for kind in kinds {
        schemas.add_kind(kind);
        if !kind.plural.is_empty() {
            add_paths(&mut paths, kind, &root(group, version));
        }
    }
    Some(object!({
        "openapi": "3.0.0", "info": { "title": "Kubernetes", "version": "v1.36.2" },
        "paths": paths, "components": { "schemas": (std::mem::take(&mut schemas.done)) }
    }))
}

/// The verbs of Kubernetes by the methods of HTTP, for collections and for objects.
const COLLECTION: [(&str, &str); 3] = [("get", "list"), ("post", "create"), ("delete", "deletecollection")];
const OBJECT: [(&str, &str); 4] = [("get", "get"), ("put", "update"), ("patch", "patch"), ("delete", "delete")];

fn add_paths(paths: &mut Map, kind: &Kind, root: &str) {
    let scope = if kind.is_namespaced() { "/namespaces/{namespace}" } else { "" };
    let collection = format!("/{root}{scope}/{}", kind.plural);
    let object_path = format!("{collection}/{{name}}");
    for (path, methods) in [(collection, &COLLECTION[..]), (object_path, &OBJECT[..])] {
        let mut operations = Map::new();
        for (method, verb) in methods.iter().filter(|(_, verb)| kind.has_verb(verb)) {
            operations.insert(*method, operation(kind, verb));
        }
        if !operations.is_empty() {
            paths.insert(path, operations);
        }
    }
}

/// An operation: its kind, and the query parameters by which clients tell what the server can do.
fn operation(kind: &Kind, verb: &str) -> Value {
    let action = match verb {
        "create" => "post",
        "update" => "put",
        other => other,
    };
    let names: &[&str] = match verb {
        "create" | "update" => &["dryRun", "fieldManager", "fieldValidation"],
        "patch" => &["dryRun", "fieldManager", "fieldValidation", "force"],
        "delete" => &["dryRun", "gracePeriodSeconds", "propagationPolicy"],
        "list" => &["labelSelector", "fieldSelector", "limit", "continue", "resourceVersion", "watch"],
        _ => &[],
    };
    let parameter = |n: &&str| object!({ "name": (*n), "in": "query", "schema": { "type": "string", "uniqueItems": true } });
    let parameters: Vec<Value> = names.iter().map(parameter).collect();
    let mut out = object!({
        "parameters": parameters, "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": { "group": (kind.group), "kind": (kind.kind), "version": (kind.version) },
        "responses": { "200": { "description": "OK" } }
    });
    if verb == "patch" {
        let types = [
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
            "application/apply-patch+yaml",
        ];
        let content: Map = types.into_iter().map(|t| (t, object!({}))).collect();
        out.set(&["requestBody", "content"], content);
    }
    out
}
