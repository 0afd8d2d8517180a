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
use crate::path::{self, Query};
use crate::respond::{self, Body};
use crate::server::Server;
use crate::user::User;

const MOST_DOCUMENT: usize = 32 * 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn handle(
    server: Arc<Server>,
    user: User,
    service: Arc<ApiService>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    let asked = attributes(&request);
    server.authorizer.check(&user, &asked).await?;
    let outcome = hand_on(&server, &user, &service, request.uri().path_and_query().map_or("/", |p| p.as_str()).to_string(), request).await;
    server.requests.count(&asked, is_offered(&server, &service, &asked.resource), &outcome);
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

/// What the request is to authorization; see RequestInfoFactory.
fn attributes<B>(request: &Request<B>) -> Attributes {
    let uri_path = request.uri().path();
    let Some(path) = path::parse(uri_path) else {
        return Attributes { verb: request.method().as_str().to_lowercase(), path: uri_path.into(), ..Default::default() };
    };
    let query = Query::parse(request.uri().query());
    let watch = path.watch || query.flag("watch");
    let verb = path::verb(request.method(), &path, watch && request.method() == http::Method::GET && path.name.is_empty());
    let selected = if path.name.is_empty() { crate::server::selected_name(query.get("fieldSelector")) } else { None };
    Attributes {
        verb: verb.into(),
        group: path.group,
        version: path.version,
        resource: path.plural,
        subresource: path.subresource,
        namespace: path.namespace,
        name: selected.unwrap_or(path.name),
        fields: query.get("fieldSelector").into(),
        path: String::new(),
    }
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
    if !service.available {
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
    fn a_request_for_another_server_is_authorized_by_what_it_asks() {
        let of = |method: &str, uri: &str| {
            let a = attributes(&Request::builder().method(method).uri(uri).body(()).unwrap());
            (a.verb, a.resource, a.namespace, a.name, a.path)
        };
        let text =
            |v: &str, r: &str, ns: &str, n: &str, p: &str| (v.to_string(), r.to_string(), ns.to_string(), n.to_string(), p.to_string());
        assert_eq!(of("GET", "/apis/a.com/v1/namespaces/x/things?watch=true"), text("watch", "things", "x", "", ""));
        assert_eq!(of("GET", "/apis/a.com/v1/things?fieldSelector=metadata.name%3Dy"), text("list", "things", "", "y", ""));
        assert_eq!(of("DELETE", "/apis/a.com/v1/namespaces/x/things/y"), text("delete", "things", "x", "y", ""));
        assert_eq!(of("GET", "/apis/a.com/v1"), text("get", "", "", "", "/apis/a.com/v1"));
    }
}
