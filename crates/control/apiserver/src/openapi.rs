//! OpenAPI documents, made from the descriptions: v2 in one piece, v3 by group version. They are made anew for each request,
//! since clients keep what they got: by ETag, and by the hash in the address. Kept is what tells them that nothing changed.

mod custom;
mod gnostic;
mod paths;
mod schema;
mod v2;
mod v3;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use fram_api::{Api, Kind};
use fram_docs::Docs;
use fram_machinery::{Map, Value, json, object};
use http::{HeaderMap, HeaderValue, Response, header};
use parking_lot::Mutex;

use crate::respond::{self, Body};

/// What Go clients ask for; the first is the older name, which is answered without one.
const PROTOBUF: [(&str, &str); 2] = [
    ("application/com.github.proto-openapi.spec.v2@v1.0+protobuf", "application/octet-stream"),
    ("application/com.github.proto-openapi.spec.v2.v1.0+protobuf", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"),
];

const JSON: &str = "application/json";
const V2: &str = "v2";

/// The hash of a document with the kinds that it describes.
struct Hashed {
    kinds: Vec<Arc<Kind>>,
    hash: Arc<str>,
}

/// The hashes of the documents, by group version; v2 is the one without.
#[derive(Default)]
pub(crate) struct Documents {
    hashes: Mutex<HashMap<String, Hashed>>,
}

impl Documents {
    /// The hash of the document of this name about these kinds, made anew where they are not those of last time.
    fn hash(&self, name: &str, kinds: &[Arc<Kind>], make: impl FnOnce() -> Value) -> Arc<str> {
        let same = |d: &&Hashed| d.kinds.len() == kinds.len() && d.kinds.iter().zip(kinds).all(|(a, b)| Arc::ptr_eq(a, b));
        if let Some(known) = self.hashes.lock().get(name).filter(same) {
            return known.hash.clone();
        }
        let digest = ring::digest::digest(&ring::digest::SHA512, &json::to_vec(&make()));
        let hash: Arc<str> = digest.as_ref().iter().map(|b| format!("{b:02X}")).collect::<String>().into();
        self.hashes.lock().insert(name.into(), Hashed { kinds: kinds.to_vec(), hash: hash.clone() });
        hash
    }

    /// Forgets the documents of group versions that are not served any more.
    fn forget(&self, served: &[String]) {
        self.hashes.lock().retain(|name, _| name == V2 || served.contains(name));
    }

    /// Answers /openapi/v2, /openapi/v3 and below; None for other paths.
    pub(crate) fn handle(&self, api: &Api, parts: &[&str], headers: &HeaderMap) -> Option<Response<Body>> {
        match parts {
            ["openapi", "v2"] => Some(self.v2(api, headers)),
            ["openapi", "v3"] => Some(respond::bytes(200, JSON, self.index(api))),
            ["openapi", "v3", "api", version] => self.group_version(api, "", version, headers),
            ["openapi", "v3", "apis", group, version] => self.group_version(api, group, version, headers),
            _ => None,
        }
    }

    fn v2(&self, api: &Api, headers: &HeaderMap) -> Response<Body> {
        let kinds: Vec<Arc<Kind>> = api.kinds().cloned().collect();
        let hash = self.hash(V2, &kinds, || v2::document(api, &kinds, Docs::default()));
        let document = || {
            let mut docs = Docs::default();
            kinds.iter().for_each(|kind| docs.add(&kind.api_version()));
            v2::document(api, &kinds, docs)
        };
        match protobuf(headers) {
            Some(content_type) => tagged(headers, content_type, &format!("{hash}-pb"), || gnostic::document(&document())),
            None => tagged(headers, JSON, &hash, || json::to_vec(&document())),
        }
    }

    fn group_version(&self, api: &Api, group: &str, version: &str, headers: &HeaderMap) -> Option<Response<Body>> {
        let kinds: Vec<Arc<Kind>> = api.kinds().filter(|k| k.group == group && k.version == version).cloned().collect();
        let first = kinds.first()?;
        let hash = self.v3_hash(api, &paths::root(group, version), &kinds);
        let docs = || Docs::of(&first.api_version());
        Some(tagged(headers, JSON, &hash, || json::to_vec(&v3::document(api, &kinds, docs()))))
    }

    fn v3_hash(&self, api: &Api, root: &str, kinds: &[Arc<Kind>]) -> Arc<str> {
        // The texts of fields change with the program only.
        self.hash(root, kinds, || v3::document(api, kinds, Docs::default()))
    }

    /// The index of v3, with a hash of each document so that clients can cache them.
    fn index(&self, api: &Api) -> Vec<u8> {
        let mut by_root: HashMap<String, Vec<Arc<Kind>>> = HashMap::new();
        for kind in api.kinds() {
            by_root.entry(paths::root(&kind.group, &kind.version)).or_default().push(kind.clone());
        }
        by_root.retain(|_, kinds| kinds.iter().any(|k| !k.plural.is_empty()));
        self.forget(&by_root.keys().cloned().collect::<Vec<_>>());
        let entry = |(root, kinds): (String, Vec<Arc<Kind>>)| {
            let url = format!("/openapi/v3/{root}?hash={}", self.v3_hash(api, &root, &kinds));
            (root, object!({ "serverRelativeURL": url }))
        };
        let paths: Map = by_root.into_iter().map(entry).collect();
        json::to_vec(&object!({ "paths": paths }))
    }
}

/// The content type of the answer where the client would rather have protobuf.
fn protobuf(headers: &HeaderMap) -> Option<&'static str> {
    let accept = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok());
    let wanted = accept.flat_map(|v| v.split(',')).map(|v| v.split(';').next().unwrap_or_default().trim());
    wanted.into_iter().find_map(|w| match w {
        JSON | "*/*" => Some(None),
        _ => PROTOBUF.iter().find(|(asked, _)| *asked == w).map(|(_, answer)| Some(*answer)),
    })?
}

/// An answer with an ETag, or 304 where the client has it already.
fn tagged(headers: &HeaderMap, content_type: &str, hash: &str, document: impl FnOnce() -> Vec<u8>) -> Response<Body> {
    let tag = format!("\"{hash}\"");
    let known = headers.get_all(header::IF_NONE_MATCH).iter().any(|v| v.to_str().is_ok_and(|v| v.split(',').any(|v| v.trim() == tag)));
    let mut response = if known { respond::bytes(304, content_type, Bytes::new()) } else { respond::bytes(200, content_type, document()) };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
        response.headers_mut().append(header::VARY, HeaderValue::from_static("Accept"));
    }
    response
}
