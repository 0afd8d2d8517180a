//! OpenAPI documents, made from the descriptions: v2 in one piece, v3 by group version. They are made anew for each request,
//! since clients keep what they got: by ETag, and by the hash in the address.

mod gnostic;
mod paths;
mod schema;
mod v2;
mod v3;

use fram_api::Api;
use fram_docs::Docs;
use fram_machinery::{Value, json};
use http::{HeaderMap, HeaderValue, Response, header};

use crate::respond::{self, Body};

/// What Go clients ask for; the first is the older name, which is answered without one.
const PROTOBUF: [(&str, &str); 2] = [
    ("application/com.github.proto-openapi.spec.v2@v1.0+protobuf", "application/octet-stream"),
    ("application/com.github.proto-openapi.spec.v2.v1.0+protobuf", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"),
];

/// Answers /openapi/v2, /openapi/v3 and below; None for other paths.
pub(crate) fn handle(api: &Api, parts: &[&str], headers: &HeaderMap) -> Option<Response<Body>> {
    let show = |document: Value| tagged(headers, "application/json", json::to_vec(&document));
    match parts {
        ["openapi", "v2"] => {
            let document = v2::document(api);
            Some(match protobuf(headers) {
                Some(content_type) => tagged(headers, content_type, gnostic::document(&document)),
                None => show(document),
            })
        }
        ["openapi", "v3"] => Some(show(v3::index(api))),
        ["openapi", "v3", "api", version] => v3::document(api, "", version, Docs::of(version)).map(show),
        ["openapi", "v3", "apis", group, version] => v3::document(api, group, version, Docs::of(&format!("{group}/{version}"))).map(show),
        _ => None,
    }
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
    let tag = format!("\"{}\"", v3::hash(&bytes));
    let known = headers.get_all(header::IF_NONE_MATCH).iter().any(|v| v.to_str().is_ok_and(|v| v.split(',').any(|v| v.trim() == tag)));
    let mut response = if known { respond::bytes(304, content_type, Vec::new()) } else { respond::bytes(200, content_type, bytes) };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
        response.headers_mut().append(header::VARY, HeaderValue::from_static("Accept"));
    }
    response
}
