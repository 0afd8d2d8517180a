//! OpenAPI documents, made from the descriptions: v2 in one piece, v3 by group version.

mod schema;
mod v2;
mod v3;

use fram_api::Api;
use fram_machinery::json;
use http::{HeaderMap, Response};

use crate::respond::{self, Body};

/// Answers /openapi/v2, /openapi/v3 and below; None for other paths.
pub(crate) fn handle(api: &Api, parts: &[&str], _headers: &HeaderMap) -> Option<Response<Body>> {
    let show = |document| respond::bytes(200, "application/json", json::to_vec(&document));
    match parts {
        ["openapi", "v2"] => Some(show(v2::document(api))),
        ["openapi", "v3"] => Some(show(v3::index(api))),
        ["openapi", "v3", "api", version] => v3::document(api, "", version).map(show),
        ["openapi", "v3", "apis", group, version] => v3::document(api, group, version).map(show),
        _ => None,
    }
}
