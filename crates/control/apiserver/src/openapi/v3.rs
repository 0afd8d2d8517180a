//! The OpenAPI v3 documents: one per group version, with the paths of its resources.

use std::sync::Arc;

use fram_api::{Api, Kind};
use fram_machinery::{Map, Value, object};

use super::schema::{Dialect, Schemas};

/// `api/v1` or `apis/apps/v1`.
pub(super) fn root(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// The document of the kinds of one group version.
pub(super) fn document(api: &Api, kinds: &[Arc<Kind>]) -> Value {
    let mut schemas = Schemas::new(api, Dialect::V3);
    let mut paths = Map::new();
    for kind in kinds {
        schemas.add_kind(kind);
        if !kind.plural.is_empty() {
            add_paths(&mut paths, kind, &root(&kind.group, &kind.version));
        }
    }
    object!({
        "openapi": "3.0.0", "info": { "title": "Kubernetes", "version": "v1.36.2" },
        "paths": paths, "components": { "schemas": (std::mem::take(&mut schemas.done)) }
    })
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
        "x-kubernetes-group-version-kind": { "group": (&kind.group), "kind": (&kind.kind), "version": (&kind.version) },
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
