//! OpenAPI documents, made from the descriptions: v2 in one piece, v3 by group version. They are made anew for each request,
//! since clients keep what they got: by ETag, and by the hash in the address. Of a document that was made only its hash is
//! kept, until the kinds that it describes change.

mod custom;
mod gnostic;
pub(crate) mod merge;
mod parameters;
mod paths;
mod schema;
mod v2;
mod v3;

use std::collections::HashMap;
use std::sync::Arc;

use fram_api::{Api, Kind};
use fram_docs::Docs;
use fram_machinery::{Map, json, object};
use http::{HeaderMap, HeaderValue, Response, header};
use parking_lot::Mutex;

use crate::aggregator::Offer;
use crate::discovery::Known;
use crate::respond::{self, Body};

/// What Go clients ask for; the first is the older name, which is answered without one.
const PROTOBUF: [(&str, &str); 2] = [
    ("application/com.github.proto-openapi.spec.v2@v1.0+protobuf", "application/octet-stream"),
    ("application/com.github.proto-openapi.spec.v2.v1.0+protobuf", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"),
];

/// The kinds that a document describes, and its hash.
struct Made {
    kinds: Vec<Arc<Kind>>,
    hash: String,
}

/// The hashes of the documents that were made, by content type and group version.
#[derive(Default)]
pub(crate) struct Documents {
    made: Mutex<HashMap<String, Made>>,
}

/// The kinds by the group versions under which they are served, as paths.
fn by_root(api: &Api) -> HashMap<String, Vec<Arc<Kind>>> {
    let mut all: HashMap<String, Vec<Arc<Kind>>> = HashMap::new();
    for kind in api.kinds() {
        all.entry(paths::root(&kind.group, &kind.version)).or_default().push(kind.clone());
    }
    all.retain(|_, kinds| kinds.iter().any(|k| !k.plural.is_empty()));
    all
}

impl Documents {
    /// The hash of a document about these kinds where it is known.
    fn known(&self, name: &str, kinds: &[Arc<Kind>]) -> Option<String> {
        let made = self.made.lock();
        let same = |m: &&Made| m.kinds.len() == kinds.len() && m.kinds.iter().zip(kinds).all(|(a, b)| Arc::ptr_eq(a, b));
        made.get(name).filter(same).map(|m| m.hash.clone())
    }

    fn keep(&self, name: &str, kinds: Vec<Arc<Kind>>, hash: &str) {
        self.made.lock().insert(name.into(), Made { kinds, hash: hash.into() });
    }

    /// Answers /openapi/v2, /openapi/v3 and below; None for other paths.
    pub(crate) fn handle(&self, known: &Known, parts: &[&str], headers: &HeaderMap) -> Option<Response<Body>> {
        let api = known.api;
        match parts {
            ["openapi", "v2"] => Some(self.version_2(known, headers)),
            ["openapi", "v3"] => Some(tagged(headers, "application/json", self.index(known))),
            ["openapi", "v3", "api", version] => self.version_3(api, "", version, headers),
            ["openapi", "v3", "apis", group, version] => self.version_3(api, group, version, headers),
            _ => None,
        }
    }

    fn version_2(&self, known: &Known, headers: &HeaderMap) -> Response<Body> {
        let protobuf = protobuf(headers);
        let content_type = protobuf.unwrap_or("application/json");
        let others = others(known);
        let own = |k: &&Arc<Kind>| known.services.answering(&k.group, &k.version).is_none();
        let kinds: Vec<Arc<Kind>> = known.api.kinds().filter(own).cloned().collect();
        // Of what others say no hash is kept: it is theirs to change.
        if let Some(hash) = self.known(content_type, &kinds).filter(|hash| others.is_empty() && has(headers, hash)) {
            return with_tag(respond::bytes(304, content_type, Vec::new()), &hash);
        }
        let document = v2::Document::new(known.api, &kinds);
        let mut theirs = others.iter().filter_map(|offer| offer.version_2.as_ref()).peekable();
        let bytes = match (theirs.peek().is_some(), protobuf.is_some()) {
            (false, false) => document.json(),
            (false, true) => document.protobuf(),
            (true, as_protobuf) => {
                let mut document = document.whole();
                theirs.for_each(|theirs| merge::add(&mut document, theirs));
                if as_protobuf { gnostic::document(&document) } else { json::to_vec(&document) }
            }
        };
        let hash = hash(&bytes);
        self.keep(content_type, kinds, &hash);
        answer(headers, content_type, bytes, &hash)
    }

    fn version_3(&self, api: &Api, group: &str, version: &str, headers: &HeaderMap) -> Option<Response<Body>> {
        let kinds: Vec<Arc<Kind>> = api.kinds().filter(|k| k.group == group && k.version == version).cloned().collect();
        let name = kinds.first()?.api_version();
        // A group of somebody else has texts for what every object has.
        let mut docs = Docs::of(&name);
        docs.add(fram_docs::META);
        Some(tagged(headers, "application/json", json::to_vec(&v3::document(api, &kinds, docs))))
    }

    /// The index of v3, with a hash of each document so that clients can cache them.
    fn index(&self, known: &Known) -> Vec<u8> {
        let api = known.api;
        let mut all = by_root(api);
        all.retain(|root, _| known.services.route(&format!("/{root}")).is_none());
        self.made.lock().retain(|name, _| !name.starts_with("api") || all.contains_key(name));
        let mut paths = Map::new();
        for (root, kinds) in all {
            let hash = self.known(&root, &kinds).unwrap_or_else(|| {
                // The texts of fields change with the program only, and then others do.
                let hash = hash(&json::to_vec(&v3::document(api, &kinds, Docs::default())));
                self.keep(&root, kinds, &hash);
                hash
            });
            let url = format!("/openapi/v3/{root}?hash={hash}");
            paths.insert(root, object!({ "serverRelativeURL": url }));
        }
        // Theirs carry the hashes that they gave them.
        for service in known.services.remote() {
            if let Some(url) = known.offers.get(&service.name).and_then(|offer| offer.version_3.as_deref()) {
                paths.insert(service.root().trim_start_matches('/').to_string(), object!({ "serverRelativeURL": url }));
            }
        }
        json::to_vec(&object!({ "paths": paths }))
    }
}

/// What the other servers offer.
fn others(known: &Known) -> Vec<Arc<Offer>> {
    known.services.remote().filter_map(|service| known.offers.get(&service.name).cloned()).collect()
}

/// SHA-256 in hexadecimal digits.
fn hash(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|b| format!("{b:02X}")).collect()
}

/// The content type of the answer where the client would rather have protobuf.
fn protobuf(headers: &HeaderMap) -> Option<&'static str> {
    let accept = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok());
    let wanted = accept.flat_map(|v| v.split(',')).map(|v| v.split(';').next().unwrap_or_default().trim());
    wanted.into_iter().find_map(|w| match w {
        "application/json" | "*/*" => Some(None),
        _ => PROTOBUF.iter().find(|(asked, _)| *asked == w).map(|(_, answer)| Some(*answer)),
    })?
}

/// An answer with an ETag, or 304 where the client has it already.
fn tagged(headers: &HeaderMap, content_type: &str, bytes: Vec<u8>) -> Response<Body> {
    let hash = hash(&bytes);
    answer(headers, content_type, bytes, &hash)
}

/// Whether the client has the document of this hash.
fn has(headers: &HeaderMap, hash: &str) -> bool {
    let tag = format!("\"{hash}\"");
    headers.get_all(header::IF_NONE_MATCH).iter().any(|v| v.to_str().is_ok_and(|v| v.split(',').any(|v| v.trim() == tag)))
}

fn answer(headers: &HeaderMap, content_type: &str, bytes: Vec<u8>, hash: &str) -> Response<Body> {
    let known = has(headers, hash);
    let response = if known { respond::bytes(304, content_type, Vec::new()) } else { respond::bytes(200, content_type, bytes) };
    with_tag(response, hash)
}

fn with_tag(mut response: Response<Body>, hash: &str) -> Response<Body> {
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{hash}\"")) {
        response.headers_mut().insert(header::ETAG, tag);
        response.headers_mut().append(header::VARY, HeaderValue::from_static("Accept"));
    }
    response
}
