//! The OpenAPI v2 document: the definitions of all kinds, and the paths of what is served.

use std::collections::BTreeSet;
use std::sync::Arc;

use fram_api::{Api, Kind};
use fram_docs::Docs;
use fram_machinery::{Map, Value, json, object};

use super::schema::{Dialect, Schemas};
use super::{gnostic, parameters, paths};

/// The document, whose paths are made when they are asked for: all of them at once take several times the room of their text.
pub(super) struct Document<'a> {
    kinds: &'a [Arc<Kind>],
    /// Everything but the paths.
    rest: Value,
}

impl<'a> Document<'a> {
    pub(super) fn new(api: &Api, kinds: &'a [Arc<Kind>]) -> Self {
        let own = kinds.iter().filter(|k| k.custom.is_none());
        let versions: BTreeSet<String> = own.map(|k| k.api_version()).collect();
        let mut docs = Docs::default();
        versions.iter().for_each(|version| docs.add(version));
        let mut schemas = Schemas::new(api, Dialect::V2, docs);
        kinds.iter().for_each(|kind| schemas.add_kind(kind));
        schemas.add_status();
        let definitions = std::mem::take(&mut schemas.done);
        let info = object!({ "title": "Kubernetes", "version": "v1.36.2" });
        Self {
            kinds,
            rest: object!({ "swagger": "2.0", "info": info, "definitions": definitions, "parameters": (parameters::of_document()) }),
        }
    }

    /// The paths of one kind after the other.
    fn paths(&self) -> impl Iterator<Item = Map> + '_ {
        self.kinds.iter().filter(|kind| !kind.plural.is_empty()).map(|kind| {
            let mut own = Map::new();
            paths::add(&mut own, kind, Dialect::V2);
            own
        })
    }

    /// The document as JSON.
    pub(super) fn json(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.push(b'{');
        for (name, member) in self.rest.as_map().into_iter().flat_map(Map::iter) {
            json::write_string(&mut out, name.as_str());
            out.push(b':');
            json::write(&mut out, member);
            out.push(b',');
        }
        out.extend_from_slice(b"\"paths\":{");
        let mut first = true;
        for own in self.paths() {
            for (path, item) in own.iter() {
                if !std::mem::take(&mut first) {
                    out.push(b',');
                }
                json::write_string(&mut out, path.as_str());
                out.push(b':');
                json::write(&mut out, item);
            }
        }
        out.extend_from_slice(b"}}");
        out
    }

    /// The same in protobuf.
    pub(super) fn protobuf(&self) -> Vec<u8> {
        gnostic::document_of(&self.rest, self.paths())
    }

    /// The whole of it, to be merged with those of other servers.
    pub(super) fn whole(mut self) -> Value {
        let entries = self.paths().flat_map(Map::into_entries).collect();
        self.rest.set(&["paths"], Map::from_entries(entries));
        self.rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_path_by_path_is_the_whole_document() {
        let api = Api::builtin().unwrap();
        let kinds: Vec<Arc<Kind>> = api.kinds().cloned().collect();
        let (json, protobuf) = (Document::new(&api, &kinds).json(), Document::new(&api, &kinds).protobuf());
        let whole = Document::new(&api, &kinds).whole();
        assert!(whole.at(&["paths", "/api/v1/namespaces/{namespace}/pods/{name}/log"]).is_some());
        let list = whole.list_at(&["paths", "/api/v1/pods", "get", "parameters"]);
        let selector = object!({ "$ref": "#/parameters/labelSelector" });
        assert!(list.contains(&selector), "{list:?}");
        let delete = whole.list_at(&["paths", "/api/v1/namespaces/{namespace}/pods", "delete", "parameters"]);
        let paged = object!({ "$ref": "#/parameters/continue" });
        assert!(delete.contains(&selector) && delete.contains(&paged), "{delete:?}");
        let about = whole.str_at(&["parameters", "labelSelector", "description"]);
        assert_eq!(about, "Only objects whose labels match; all, if empty.");
        assert!(json::from_slice(&json).unwrap() == whole);
        // Nothing stands there twice.
        assert_eq!([json.len(), protobuf.len()], [json::to_vec(&whole).len(), gnostic::document(&whole).len()]);
    }
}
