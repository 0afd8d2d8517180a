//! OpenAPI documents, made from the descriptions: v2 in one piece, v3 by group version. What was made once is kept until the
//! kinds that it describes change.

mod custom;
mod schema;
mod v2;
mod v3;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use fram_api::{Api, Kind};
use fram_machinery::{Map, json, object};
use http::{HeaderMap, Response, header};
use parking_lot::Mutex;

use crate::respond::{self, Body};

/// A document with the kinds that it describes.
struct Document {
    kinds: Vec<Arc<Kind>>,
    bytes: Bytes,
    hash: String,
}

/// The documents that were made, by group version; v2 is the one without.
#[derive(Default)]
pub(crate) struct Documents {
    made: Mutex<HashMap<String, Arc<Document>>>,
}

impl Documents {
    /// The document of this name about these kinds, made anew where they are not those of last time.
    fn get(&self, name: &str, kinds: Vec<Arc<Kind>>, make: impl FnOnce(&[Arc<Kind>]) -> fram_machinery::Value) -> Arc<Document> {
        let same = |d: &Arc<Document>| d.kinds.len() == kinds.len() && d.kinds.iter().zip(&kinds).all(|(a, b)| Arc::ptr_eq(a, b));
        if let Some(document) = self.made.lock().get(name).filter(|d| same(d)) {
            return document.clone();
        }
        let bytes = json::to_vec(&make(&kinds));
        let hash = ring::digest::digest(&ring::digest::SHA512, &bytes);
        let hash: String = hash.as_ref().iter().map(|b| format!("{b:02X}")).collect();
        let document = Arc::new(Document { kinds, bytes: bytes.into(), hash });
        self.made.lock().insert(name.into(), document.clone());
        document
    }

    /// Forgets the documents of group versions that are not served any more.
    fn forget(&self, served: &[String]) {
        self.made.lock().retain(|name, _| name == V2 || served.contains(name));
    }

    /// Answers /openapi/v2, /openapi/v3 and below; None for other paths.
    pub(crate) fn handle(&self, api: &Api, parts: &[&str], headers: &HeaderMap) -> Option<Response<Body>> {
        let document = match parts {
            ["openapi", "v2"] => self.get(V2, api.kinds().cloned().collect(), |kinds| v2::document(api, kinds)),
            ["openapi", "v3"] => return Some(respond::bytes(200, "application/json", self.index(api))),
            ["openapi", "v3", "api", version] => self.group_version(api, "", version)?,
            ["openapi", "v3", "apis", group, version] => self.group_version(api, group, version)?,
            _ => return None,
        };
        Some(answer(&document, headers))
    }

    fn group_version(&self, api: &Api, group: &str, version: &str) -> Option<Arc<Document>> {
        let kinds: Vec<Arc<Kind>> = api.kinds().filter(|k| k.group == group && k.version == version).cloned().collect();
        if kinds.is_empty() {
            return None;
        }
        Some(self.get(&v3::root(group, version), kinds, |kinds| v3::document(api, kinds)))
    }

    /// The index of v3, with a hash of each document so that clients can cache them.
    fn index(&self, api: &Api) -> Vec<u8> {
        let mut by_root: HashMap<String, Vec<Arc<Kind>>> = HashMap::new();
        for kind in api.kinds() {
            by_root.entry(v3::root(&kind.group, &kind.version)).or_default().push(kind.clone());
        }
        by_root.retain(|_, kinds| kinds.iter().any(|k| !k.plural.is_empty()));
        self.forget(&by_root.keys().cloned().collect::<Vec<_>>());
        let entry = |(root, kinds): (String, Vec<Arc<Kind>>)| {
            let document = self.get(&root, kinds, |kinds| v3::document(api, kinds));
            let url = format!("/openapi/v3/{root}?hash={}", document.hash);
            (root, object!({ "serverRelativeURL": url }))
        };
        let paths: Map = by_root.into_iter().map(entry).collect();
        json::to_vec(&object!({ "paths": paths }))
    }
}

const V2: &str = "v2";

fn answer(document: &Document, headers: &HeaderMap) -> Response<Body> {
    let tag = format!("\"{}\"", document.hash);
    let known = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()).is_some_and(|known| known == tag);
    let mut response = if known {
        respond::bytes(304, "application/json", Bytes::new())
    } else {
        respond::bytes(200, "application/json", document.bytes.clone())
    };
    if let Ok(tag) = tag.parse() {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}
