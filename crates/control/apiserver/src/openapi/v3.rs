//! The OpenAPI v3 documents: one per group version, with the paths of its resources.

use std::sync::Arc;

use fram_api::{Api, Kind};
use fram_docs::Docs;
use fram_machinery::{Map, Value, object};

use super::paths;
use super::schema::{Dialect, Schemas};

/// The document of the kinds of one group version.
pub(super) fn document(api: &Api, kinds: &[Arc<Kind>], docs: Docs) -> Value {
    let mut schemas = Schemas::new(api, Dialect::V3, docs);
    let mut all_paths = Map::new();
    for kind in kinds {
        schemas.add_kind(kind);
        if !kind.plural.is_empty() {
            paths::add(&mut all_paths, kind, Dialect::V3);
        }
    }
    schemas.add_status();
    object!({
        "openapi": "3.0.0", "info": { "title": "Kubernetes", "version": "v1.36.2" },
        "paths": all_paths, "components": { "schemas": (std::mem::take(&mut schemas.done)) }
    })
}
