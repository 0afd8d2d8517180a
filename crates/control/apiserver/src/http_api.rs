//! HTTP: requests to calls, answers to responses.

mod aggregated;
mod backend;
mod compress;
mod guard;
mod health;
mod info;
mod listen;
mod log;
mod objects;
mod options;
mod pretty;
mod proxy;
mod rewrite;
mod slis;
mod tunnel;
mod unsent;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fram_flowcontrol::Class;
use fram_machinery::Status;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::accept::{Accept, Endpoint, Shape};
use crate::audit::{self, Sent};
use crate::authenticate::{authenticate, impersonate};
use crate::authorize::Attributes;
use crate::discovery::{self, Known};
use crate::flow::{self, Held};
use crate::limits;
use crate::path::Query;
use crate::requests::encoded;
use crate::respond::{self, Body};
use crate::server::Server;
use crate::user::User;

use info::Info;
use unsent::Unsent;

pub(crate) use compress::Whole;
pub(crate) use health::store as store_health;
pub use listen::{Listener, converse, serve};
pub(crate) use objects::delete_options;
pub(crate) use slis::Slis;

/// What metrics are sent as.
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Who is at the other end of a connection.
#[derive(Clone)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// The user of its certificate.
    pub(crate) certificate: Option<User>,
    /// Its connection became a stream of another protocol.
    pub(crate) upgraded: Arc<AtomicBool>,
    pub(crate) unsent: Arc<Unsent>,
}

/// How flow control let a request in, and what it holds until its answer has been sent.
struct Ticket {
    class: Option<Class>,
    held: Held,
}

impl Default for Ticket {
    fn default() -> Self {
        Self { class: None, held: Held::Nothing }
    }
}

/// Answers one request.
pub(crate) async fn handle(server: Arc<Server>, peer: &Peer, request: Request<Incoming>) -> Response<Body> {
    let bodiless = request.method() == Method::HEAD;
    let zipped = compress::accepted(request.headers()) && server.switches.compresses;
    let pretty = pretty::wanted(&request);
    let response = answer(server, peer, request).await;
    if bodiless {
        // HTTP/2 leaves that to who answers: bytes after such a head are a broken protocol.
        return response.map(|_| respond::nothing());
    }
    let response = if pretty { pretty::indented(response) } else { response };
    if zipped { compress::large(response) } else { response }
}

async fn answer(server: Arc<Server>, peer: &Peer, request: Request<Incoming>) -> Response<Body> {
    // What went wrong is said as the client wants it, or else in JSON.
    let shown = Accept::negotiate(request.headers(), Endpoint::Plain).unwrap_or(Accept::JSON);
    let api = server.registry.api();
    let info = Info::read(&server, &request);
    let user = authenticate(&server, request.headers(), peer.certificate.as_ref()).await;
    let id = audit::request_id(&server, request.headers());
    let sent = Sent { id: &id, headers: request.headers(), uri: request.uri(), peer: peer.address };
    let trail = server.audit.as_ref().and_then(|a| audit::of_request(&server, a, user.as_ref().ok(), &info.attributes, &sent));
    let user = match user {
        Ok(user) => user,
        Err(status) => {
            if let Some(trail) = trail {
                trail.refused(&status, &audit::attempted(request.headers(), peer.certificate.is_some()));
            }
            return named(respond::status(&api, &status, shown), &id);
        }
    };
    let (long, begun) = (info.is_long_running(), Instant::now());
    let mut ticket = Ticket::default();
    let most = server.limits.request;
    let limit = if long { Ok(None) } else { limits::time_of(info.query.get("timeout"), most).map(Some) };
    // What lasts is counted until its body has been sent, what does not until it has been made.
    // Of what is written neither sizes nor an end is told.
    let told = info.resource.is_some() && (long || matches!(info.attributes.verb.as_str(), "get" | "list"));
    let series = told.then(|| server.requests.series(&info.attributes, server.is_known(&info.attributes)));
    let (busy, lasting) = match long {
        true => (None, Some((server.long.token(), series.as_ref().map(|series| series.begin())))),
        false => (Some((server.busy.token(), server.requests.enter(&info.attributes))), None),
    };
    let result = match limit {
        Err(why) => Err(Status::bad_request(why)),
        Ok(limit) => {
            // On the heap once, rather than in each of the futures around it.
            let answer = Box::pin(route(server, user, info, request, &mut ticket));
            let answer = audit::within(trail.clone(), answer);
            match limit {
                Some(limit) => tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| Err(too_late())),
                None => answer.await,
            }
        }
    };
    drop(busy);
    let (mut response, failure) = match result {
        Ok(response) => (response, None),
        Err(status) => (respond::status(&api, &status, shown), Some(status)),
    };
    for (name, value) in ticket.class.iter().flat_map(flow::headers) {
        response.headers_mut().insert(name, value);
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        peer.upgraded.store(true, Ordering::Relaxed);
    }
    let code = response.status().as_u16();
    if let (Some(series), Some(size)) = (series, response.extensions().get::<Whole>()) {
        series.sized(size.0);
    }
    // The body of a watch outlives this function, and with it the request.
    let response = match (lasting, trail.clone()) {
        (None, _) => peer.unsent.hold(response, begun + most, ticket.held),
        (Some(lasting), None) => response.map(|body| respond::holding(body, lasting)),
        (Some(lasting), Some(trail)) => response.map(|body| respond::holding(body, (lasting, trail))),
    };
    if let Some(trail) = trail {
        trail.answered(code, failure.as_ref());
        if long {
            trail.started();
        }
    }
    named(response, &id)
}

fn not_for(method: &str) -> Status {
    Status::new(fram_machinery::Reason::MethodNotAllowed, format!("{method} is not supported here"))
}

/// A request took too long. What it had begun may still come about.
fn too_late() -> Status {
    Status::new(fram_machinery::Reason::Timeout, "Timeout: request did not complete within the requested timeout")
}

/// Names the request to its client.
fn named(mut response: Response<Body>, id: &str) -> Response<Body> {
    if let Ok(id) = id.parse() {
        response.headers_mut().insert(audit::AUDIT_ID, id);
    }
    response
}

async fn route(
    server: Arc<Server>,
    user: User,
    info: Info,
    request: Request<Incoming>,
    ticket: &mut Ticket,
) -> Result<Response<Body>, Status> {
    let user = match impersonate(&server, request.headers(), &user).await? {
        Some(other) => {
            if let Some(trail) = audit::current() {
                trail.acts_as(other.to_info());
            }
            other
        }
        None => user,
    };
    // Streams to pods and nodes hold no seat: they last too long, and cost little. A watch holds one until it has begun.
    let watch = info.attributes.verb == "watch";
    let mut begins = Held::Nothing;
    if watch || !info.is_long_running() {
        let (class, held) = server.flow.enter(&user, &info.attributes, info.listed()).await;
        ticket.class = class;
        *(if watch { &mut begins } else { &mut ticket.held }) = held?;
    }
    if let Some(service) = info.elsewhere {
        return Box::pin(aggregated::handle(server, user, service, &info.attributes, request)).await;
    }
    let answer = match info.resource {
        Some(resource) => Box::pin(objects::handle(server, user, resource, info.query, request)).await,
        None if info.attributes.path == tunnel::PATH => tunnel::handle(&server, &user, request),
        None => beside(&server, &user, &info.attributes, &request).await,
    };
    drop(begins);
    answer
}

/// Whether a path has a document, which nobody writes. A resource that is not served has none: who writes there is told that nothing is
/// there, since clients take 405 for a resource that is there and has not the verb.
fn is_read_only(known: &Known<'_>, parts: &[&str]) -> bool {
    match parts {
        ["api" | "apis" | "version"] | ["openapi", "v2" | "v3", ..] | ["metrics", ..] => true,
        ["api", version] => discovery::resource_list(known.api, "", version).is_some(),
        ["apis", group] => discovery::group(known, group).is_some(),
        ["apis", group, version] => discovery::resource_list(known.api, group, version).is_some(),
        _ => false,
    }
}

/// Paths that are not about objects.
async fn beside(server: &Server, user: &User, attributes: &Attributes, request: &Request<Incoming>) -> Result<Response<Body>, Status> {
    let path = attributes.path.as_str();
    let health =
        ["/healthz", "/livez", "/readyz"].into_iter().find(|p| path == *p || path.strip_prefix(*p).is_some_and(|r| r.starts_with('/')));
    server.authorizer.check(user, attributes)?;
    if let Some(endpoint) = health {
        return Ok(health::answer(server, endpoint, path, &Query::parse(request.uri().query())).await);
    }
    let api = &server.registry.settled_api().await;
    let show = |value: Option<fram_machinery::Value>, order: &[&str], accept: Accept| {
        value.map(|v| respond::document(api, accept, order, &v)).ok_or_else(Status::no_such_path)
    };
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (services, offers) = (server.aggregator.services(), server.aggregator.offers());
    let known = Known { api, services: &services, offers: &offers };
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Err(if is_read_only(&known, &parts) { not_for(request.method().as_str()) } else { Status::no_such_path() });
    }
    if let Some(service) = known.version_3_elsewhere(&parts) {
        return Box::pin(aggregated::document(server, user, service, &offers, request.headers())).await;
    }
    if let Some(response) = server.documents.handle(&known, &parts, request.headers()) {
        return Ok(response);
    }
    let text = match parts.as_slice() {
        ["debug", "api_priority_and_fairness", table] => server.flow.dump(table).map(|text| ("text/plain; charset=utf-8", text)),
        ["metrics"] => Some((METRICS, server.metrics_text().await)),
        ["metrics", "slis"] => Some((METRICS, server.slis.text())),
        ["metrics", "resources"] => Some((METRICS, encoded(&server.pod_resources.lock()))),
        _ => None,
    };
    // There is one form of these, whatever who asks would like best.
    if let Some((content, text)) = text {
        return Ok(respond::bytes(200, content, text));
    }
    let accept = Accept::negotiate(request.headers(), Endpoint::Discovery)?;
    match parts.as_slice() {
        ["api" | "apis"] if accept.shape == Shape::Aggregated => {
            let document = discovery::aggregated(&known, parts[0] == "api");
            let content = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
            Ok(respond::bytes(200, content, fram_machinery::json::to_vec_in_order(&document, discovery::AGGREGATED)))
        }
        [""] => show(Some(discovery::index(&known)), &[], accept),
        ["api"] => show(Some(discovery::api_versions("")), discovery::GROUPS, accept),
        ["api", version] => show(discovery::resource_list(api, "", version), discovery::RESOURCES, accept),
        ["apis"] => show(Some(discovery::group_list(&known)), discovery::GROUPS, accept),
        ["apis", group] => show(discovery::group(&known, group), discovery::GROUPS, accept),
        ["apis", group, version] => show(discovery::resource_list(api, group, version), discovery::RESOURCES, accept),
        ["version"] => show(Some(discovery::version()), discovery::VERSION, accept),
        [".well-known", "openid-configuration"] => show(Some(server.tokens.discovery()), &[], accept),
        // RFC 7517.
        ["openid", "v1", "jwks"] => {
            let keys = fram_machinery::json::to_vec(&server.tokens.jwks());
            Ok(respond::bytes(200, "application/jwk-set+json", keys))
        }
        _ => Err(Status::no_such_path()),
    }
}
