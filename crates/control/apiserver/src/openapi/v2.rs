//! The OpenAPI v2 document: the definitions of all kinds, and the paths of what is served.

use fram_api::Api;
use fram_docs::Docs;
use fram_machinery::{Map, Value, object};

use super::paths;
use super::schema::{Dialect, Schemas};

pub(super) fn document(api: &Api) -> Value {
    let mut docs = Docs::default();
    for kind in &api.kinds {
        docs.add(&kind.api_version());
    }
    let mut schemas = Schemas::new(api, Dialect::V2, docs);
    let mut all_paths = Map::new();
    for kind in &api.kinds {
        schemas.add_kind(kind);
        if !kind.plural.is_empty() {
            paths::add(&mut all_paths, kind, &api.schema.get(kind.ty).openapi_name, Dialect::V2);
        }
    }
    schemas.add_status();
    object!({
        "swagger": "2.0", "info": { "title": "Kubernetes", "version": "v1.36.2" },
        "paths": all_paths, "definitions": (std::mem::take(&mut schemas.done))
    })
}
