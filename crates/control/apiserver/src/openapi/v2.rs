//! The OpenAPI v2 document: the definitions of all kinds, and the paths of what is served.

use std::collections::BTreeSet;
use std::sync::Arc;

use fram_api::{Api, Kind};
use fram_docs::Docs;
use fram_machinery::{Map, Value, object};

use super::paths;
use super::schema::{Dialect, Schemas};

pub(super) fn document(api: &Api, kinds: &[Arc<Kind>]) -> Value {
    let own = kinds.iter().filter(|k| k.custom.is_none());
    let versions: BTreeSet<String> = own.map(|k| k.api_version()).collect();
    let mut docs = Docs::default();
    versions.iter().for_each(|version| docs.add(version));
    let mut schemas = Schemas::new(api, Dialect::V2, docs);
    let mut all_paths = Map::new();
    for kind in kinds {
        schemas.add_kind(kind);
        if !kind.plural.is_empty() {
            paths::add(&mut all_paths, kind, Dialect::V2);
        }
    }
    schemas.add_status();
    object!({
        "swagger": "2.0", "info": { "title": "Kubernetes", "version": "v1.36.2" },
        "paths": all_paths, "definitions": (std::mem::take(&mut schemas.done))
    })
}
