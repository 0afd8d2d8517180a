//! Requests that another server answers: they are authorized here and handed on for their user, upgraded connections too. See upstream's
//! proxyHandler.

use std::sync::Arc;
use std::time::Duration;

use fram_machinery::Status;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use hyper::body::Incoming;

use super::proxy;
use crate::aggregator::transport::{self, Question, TransportError, identify};
use crate::aggregator::{ApiService, Offers};
use crate::authorize::Attributes;
use crate::path;
use crate::respond::{self, Body};
use crate::server::Server;
use crate::user::User;

const MOST_DOCUMENT: usize = 32 * 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn handle(
    server: Arc<Server>,
    user: User,
    service: Arc<ApiService>,
    asked: &Attributes,
    request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    server.authorizer.check(&user, asked)?;
    if !may_go_on(asked, request.uri().path()) {
        return Err(Status::no_such_path());
    }
    let outcome = hand_on(&server, &user, &service, request.uri().path_and_query().map_or("/", |p| p.as_str()).to_string(), request).await;
    server.requests.count(asked, is_offered(&server, &service, &asked.resource), false, &outcome, None);
    outcome
}

/// The OpenAPI v3 document that another server has, got for whoever asks.
pub(super) async fn document(
    server: &Server,
    user: &User,
    service: &ApiService,
    offers: &Offers,
    headers: &HeaderMap,
) -> Result<Response<Body>, Status> {
    let path = offers.get(&service.name).and_then(|offer| offer.version_3.clone()).ok_or_else(Status::no_such_path)?;
    let etag = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let question = Question { path: &path, accept: "application/json", etag, user, most: MOST_DOCUMENT, patience: PATIENCE };
    match transport::ask(server, service, &question).await {
        Ok(answer) => {
            let mut response = respond::bytes(answer.code, "application/json", answer.body);
            for name in [header::CONTENT_TYPE, header::ETAG, header::CACHE_CONTROL, header::EXPIRES, header::VARY] {
                if let Some(value) = answer.headers.get(&name) {
                    response.headers_mut().insert(name, value.clone());
                }
            }
            Ok(response)
        }
        Err(error) => Ok(unavailable(&error.to_string())),
    }
}

/// Whether a path says to the other server what it has said here: it is about a resource, or about the group's version itself,
/// and has no segments that lead elsewhere.
fn may_go_on(asked: &Attributes, path: &str) -> bool {
    let odd = |segment: &str| matches!(path::decode(segment).as_str(), "." | "..");
    let is_version = || path.trim_matches('/').split('/').count() == 3 && !path.contains("//");
    (!asked.resource.is_empty() || is_version()) && !path.split('/').any(odd)
}

/// Whether a resource is one of those that the server is known to have; others are not counted by their names.
fn is_offered(server: &Server, service: &ApiService, resource: &str) -> bool {
    let offers = server.aggregator.offers();
    let all = offers.get(&service.name).and_then(|offer| offer.resources.as_list().cloned()).unwrap_or_default();
    all.iter().any(|r| r.str_at(&["resource"]) == resource)
}

async fn hand_on(
    server: &Server,
    user: &User,
    service: &ApiService,
    target: String,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    if !server.is_available(service).await {
        return Ok(unavailable("service unavailable"));
    }
    let connection = match transport::connect(server, service).await {
        Ok(connection) => connection,
        Err(TransportError::Configuration(text)) => return Ok(plain(500, &text)),
        Err(error) => return Ok(unavailable(&error.to_string())),
    };
    let upgrade = request.headers().contains_key(header::UPGRADE);
    let headers = request.headers_mut();
    if !upgrade {
        drop_hops(headers);
    }
    identify(headers, user);
    let mut response = proxy::send(server, connection.stream, &target, &connection.host, request).await?;
    // Whoever asks would go elsewhere with the credentials that are for this server; see RejectForwardingRedirects.
    if response.status().is_redirection() && response.headers().contains_key(header::LOCATION) {
        return Ok(plain(502, "the backend attempted to redirect this request, which is not permitted"));
    }
    if !upgrade {
        drop_hops(response.headers_mut());
    }
    Ok(response)
}

/// The text that upstream's aggregator answers with, which is no Status.
fn plain(code: u16, text: &str) -> Response<Body> {
    let mut response = respond::bytes(code, "text/plain; charset=utf-8", format!("{text}\n"));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn unavailable(text: &str) -> Response<Body> {
    plain(503, text)
}

/// Removes what is about one connection only; RFC 9110 7.6.1.
fn drop_hops(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .collect();
    named.iter().for_each(|name| drop(headers.remove(name)));
    let hops = [header::CONNECTION, header::PROXY_AUTHENTICATE, header::PROXY_AUTHORIZATION, header::TE, header::TRAILER, header::UPGRADE];
    hops.iter().for_each(|name| drop(headers.remove(name)));
    ["keep-alive", "proxy-connection", "transfer-encoding"].iter().for_each(|name| drop(headers.remove(*name)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&str, &'static str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn what_is_about_one_connection_goes_no_further() {
        let mut hops = headers(&[("Connection", "x-hop, close"), ("X-Hop", "1"), ("Transfer-Encoding", "chunked"), ("Accept", "a")]);
        drop_hops(&mut hops);
        assert_eq!(hops, headers(&[("Accept", "a")]));
    }

    #[test]
    fn what_another_server_might_read_otherwise_does_not_reach_it() {
        let of = |path: &str| {
            let asked = path::parse(path).map_or_else(Attributes::default, |resource| resource.attributes("get"));
            may_go_on(&asked, path)
        };
        for path in ["/apis/a.com/v1", "/apis/a.com/v1/", "/apis/a.com/v1/things", "/apis/a.com/v1/namespaces/x/things/y/proxy/z%2F"] {
            assert!(of(path), "{path}");
        }
        let odd = ["/apis/a.com/v1//things", "/apis/a.com/v1/namespaces/x/things/..%2Fy", "/apis/a.com/v1/things/x%2Fsecret"];
        for path in odd.into_iter().chain(["/apis/a.com/v1/things/x/proxy/../../y", "/apis/a.com//v1", "/apis/a.com/v1/things/%2e%2e"]) {
            assert!(!of(path), "{path}");
        }
    }
}
