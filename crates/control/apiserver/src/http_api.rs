//! HTTP: requests to calls, answers to responses.

mod aggregated;
mod backend;
mod compress;
mod listen;
mod log;
mod objects;
mod options;
mod proxy;
mod rewrite;
mod tunnel;
mod watch;

use std::sync::Arc;

use fram_machinery::Status;
use http::{Method, Request, Response};
use hyper::body::Incoming;

use crate::accept::{Accept, Endpoint, Shape};
use crate::authenticate::authenticate;
use crate::authorize::Attributes;
use crate::discovery::{self, Known};
use crate::path::{self, Query};
use crate::respond::{self, Body};
use crate::server::Server;
use crate::user::User;

pub(crate) use compress::Whole;
pub use listen::{Listener, converse, serve};
pub(crate) use objects::delete_options;

/// Answers one request.
pub(crate) async fn handle(server: Arc<Server>, certificate: Option<User>, request: Request<Incoming>) -> Response<Body> {
    // What went wrong is said as the client wants it, or else in JSON.
    let shown = Accept::negotiate(request.headers(), Endpoint::Plain).unwrap_or(Accept::JSON);
    let zipped = compress::accepted(request.headers());
    let api = server.registry.api();
    let response = match route(server, certificate, request).await {
        Ok(response) => response,
        Err(status) => respond::status(&api, &status, shown),
    };
    if zipped { compress::large(response) } else { response }
}

async fn route(server: Arc<Server>, certificate: Option<User>, request: Request<Incoming>) -> Result<Response<Body>, Status> {
    let user = authenticate(&server, request.headers(), certificate.as_ref()).await?;
    let uri_path = request.uri().path().to_string();
    let elsewhere = server.aggregator.services().route(&uri_path).cloned();
    if let Some(service) = elsewhere {
        return aggregated::handle(server, user, service, request).await;
    }
    match path::parse(&uri_path) {
        Some(resource) if server.registry.served(&resource.group, &resource.version, &resource.plural).is_some() => {
            objects::handle(server, user, resource, request).await
        }
        None if uri_path == tunnel::PATH => tunnel::handle(&server, &user, request),
        _ => beside(&server, &user, &uri_path, &request).await,
    }
}

/// Paths that are not about objects.
async fn beside(server: &Server, user: &User, path: &str, request: &Request<Incoming>) -> Result<Response<Body>, Status> {
    let health =
        ["/healthz", "/livez", "/readyz"].into_iter().find(|p| path == *p || path.strip_prefix(*p).is_some_and(|r| r.starts_with('/')));
    let verb = request.method().as_str().to_lowercase();
    let attributes = Attributes { verb, path: path.into(), ..Default::default() };
    server.authorizer.check(user, &attributes).await?;
    if let Some(endpoint) = health {
        let verbose = Query::parse(request.uri().query()).has("verbose");
        return Ok(health_answer(server, endpoint, verbose));
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Err(Status::no_such_path());
    }
    let api = &server.registry.api();
    let show = |value: Option<fram_machinery::Value>, accept: Accept| {
        value.map(|v| respond::document(api, accept, &v)).ok_or_else(Status::no_such_path)
    };
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (services, offers) = (server.aggregator.services(), server.aggregator.offers());
    let known = Known { api, services: &services, offers: &offers };
    if let Some(service) = known.version_3_elsewhere(&parts) {
        return aggregated::document(server, user, service, &offers, request.headers()).await;
    }
    if let Some(response) = server.documents.handle(&known, &parts, request.headers()) {
        return Ok(response);
    }
    let accept = Accept::negotiate(request.headers(), Endpoint::Discovery)?;
    match parts.as_slice() {
        ["api" | "apis"] if accept.shape == Shape::Aggregated => {
            let document = discovery::aggregated(&known, parts[0] == "api");
            let content = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
            Ok(respond::bytes(200, content, fram_machinery::json::to_vec(&document)))
        }
        ["api"] => show(Some(discovery::api_versions("")), accept),
        ["api", version] => show(discovery::resource_list(api, "", version), accept),
        ["apis"] => show(Some(discovery::group_list(&known)), accept),
        ["apis", group] => show(discovery::group(&known, group), accept),
        ["apis", group, version] => show(discovery::resource_list(api, group, version), accept),
        ["metrics"] => Ok(respond::bytes(200, "application/openmetrics-text; version=1.0.0; charset=utf-8", server.requests.text())),
        ["version"] => show(Some(discovery::version()), accept),
        [".well-known", "openid-configuration"] => show(Some(server.tokens.discovery()), accept),
        ["openid", "v1", "jwks"] => show(Some(server.tokens.jwks()), accept),
        _ => Err(Status::no_such_path()),
    }
}

fn health_answer(server: &Server, endpoint: &str, verbose: bool) -> Response<Body> {
    let ready = server.ready.load(std::sync::atomic::Ordering::Acquire);
    let mut checks = vec![("ping", true), ("store", true)];
    if endpoint == "/readyz" {
        checks.push(("poststarthook/bootstrap", ready));
    }
    let healthy = checks.iter().all(|(_, ok)| *ok);
    let name = endpoint.trim_start_matches('/');
    let body = if healthy && !verbose {
        "ok".to_string()
    } else {
        let line =
            |(check, ok): &(&str, bool)| if *ok { format!("[+]{check} ok\n") } else { format!("[-]{check} failed: reason withheld\n") };
        let lines: String = checks.iter().map(line).collect();
        format!("{lines}{name} check {}\n", if healthy { "passed" } else { "failed" })
    };
    respond::bytes(if healthy { 200 } else { 500 }, "text/plain; charset=utf-8", body)
}
