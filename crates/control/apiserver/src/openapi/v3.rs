//! The OpenAPI v3 documents: one per group version, with the paths of its resources.

use fram_api::{Api, Kind};
use fram_docs::Docs;
use fram_machinery::{Map, Value, json, object};

use super::paths::{self, root};
use super::schema::{Dialect, Schemas};

fn served(api: &Api) -> Vec<(&'static str, &'static str)> {
    let mut all: Vec<(&str, &str)> = api.kinds.iter().filter(|k| !k.plural.is_empty()).map(|k| (k.group, k.version)).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// The index, with a hash of each document so that clients can cache them.
pub(super) fn index(api: &Api) -> Value {
    let mut paths = Map::new();
    for (group, version) in served(api) {
        let path = root(group, version);
        // The texts of fields change with the program only, and then others do.
        let bytes = document(api, group, version, Docs::default()).map(|d| json::to_vec(&d)).unwrap_or_default();
        let url = format!("/openapi/v3/{path}?hash={}", hash(&bytes));
        paths.insert(path, object!({ "serverRelativeURL": url }));
    }
    object!({ "paths": paths })
}

/// SHA-256 in hexadecimal digits.
pub(super) fn hash(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|b| format!("{b:02X}")).collect()
}

pub(super) fn document(api: &Api, group: &str, version: &str, docs: Docs) -> Option<Value> {
    let kinds: Vec<&Kind> = api.kinds.iter().map(|k| &**k).filter(|k| k.group == group && k.version == version).collect();
    if kinds.is_empty() {
        return None;
    }
    let mut schemas = Schemas::new(api, Dialect::V3, docs);
    let mut paths = Map::new();
    for kind in kinds {
        schemas.add_kind(kind);
        if !kind.plural.is_empty() {
            paths::add(&mut paths, kind, &api.schema.get(kind.ty).openapi_name, Dialect::V3);
        }
    }
    schemas.add_status();
    Some(object!({
        "openapi": "3.0.0", "info": { "title": "Kubernetes", "version": "v1.36.2" },
        "paths": paths, "components": { "schemas": (std::mem::take(&mut schemas.done)) }
    }))
}
