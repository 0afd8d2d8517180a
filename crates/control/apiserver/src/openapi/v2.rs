//! The OpenAPI v2 document: definitions, and the paths with what clients look up in them.

use std::sync::Arc;

use fram_api::{Api, Kind};
use fram_machinery::{Map, Value, object};

use super::schema::{Dialect, Schemas};

pub(super) fn document(api: &Api, kinds: &[Arc<Kind>]) -> Value {
    let mut schemas = Schemas::new(api, Dialect::V2);
    for kind in kinds {
        schemas.add_kind(kind);
    }
    object!({
        "swagger": "2.0", "info": { "title": "Kubernetes", "version": "v1.36.2" },
        "paths": (Map::new()), "definitions": (std::mem::take(&mut schemas.done))
    })
}
