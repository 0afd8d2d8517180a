//! Learns what the servers behind APIServices offer: a reconciler that asks them for discovery and OpenAPI when their APIService changes,
//! and once a minute, since nothing tells when they offer something else. See upstream's discoveryManager and openapi controllers.

use std::sync::Arc;
use std::time::Duration;

use fram_client::resources::API_SERVICES;
use fram_client::{Action, Controller, Delta, SharedInformers};
use fram_machinery::{Reason, Status, Value, json, meta};
use http::header;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::follow::place;
use super::offers::{Offer, from_legacy, resources_in};
use super::service::ApiService;
use super::transport::{self, Answer, Question, TransportError};
use crate::openapi::merge;
use crate::server::Server;
use crate::user::{MASTERS, User};

/// See discoveryRefreshInterval.
const AGAIN: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(5);
/// Documents of OpenAPI are large, and take time to make; see specDownloadTimeout.
const PATIENCE_FOR_OPENAPI: Duration = Duration::from_secs(60);
const MOST: usize = 32 * 1024 * 1024;
const JSON: &str = "application/json";
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

pub(super) fn start(server: &Arc<Server>, informers: &SharedInformers, tasks: &TaskTracker, stop: &CancellationToken) {
    let controller = Controller::new("discovery-manager", 2).watches_deltas(&informers.get(&API_SERVICES), concerns);
    let (server, stop) = (server.clone(), stop.clone());
    tasks.spawn(async move { controller.run(move |name| learn(server.clone(), name), stop).await });
}

/// What is offered may be another thing with another spec, or when the server can be asked again.
fn concerns(delta: &Delta) -> Vec<String> {
    let of = |object: &Option<Arc<Value>>| object.as_ref().map(|o| (o.get("spec").cloned(), meta::condition_is_true(o, "Available")));
    if of(&delta.old) == of(&delta.new) { Vec::new() } else { vec![delta.key()] }
}

async fn learn(server: Arc<Server>, name: String) -> Result<Action, Status> {
    let forget = || server.aggregator.change_offers(|offers| offers.with(&name, None));
    let object = match server.registry.get_object(&place(&server.registry, &name)?).await {
        Err(status) if status.is(Reason::NotFound) => {
            forget();
            return Ok(Action::Done);
        }
        object => object?,
    };
    let service = ApiService::read(&object);
    if service.service.is_none() {
        forget();
        return Ok(Action::Done);
    }
    let known = server.aggregator.offers().get(&name).map(|o| (**o).clone()).unwrap_or_default();
    let (offer, outcome) = heard(&server, &service, known.clone()).await;
    if server.aggregator.offers().get(&name).is_none_or(|before| **before != offer) {
        server.aggregator.change_offers(|offers| offers.with(&name, Some(offer)));
    }
    match outcome {
        Ok(()) => Ok(Action::After(AGAIN)),
        // One that cannot be asked is asked again when it can; see `concerns`.
        Err(_) if !service.available => Ok(Action::After(AGAIN)),
        Err(error) => Err(Status::new(Reason::ServiceUnavailable, error.to_string())),
    }
}

/// What is offered now; of what cannot be had, what was known before.
async fn heard(server: &Server, service: &ApiService, mut offer: Offer) -> (Offer, Result<(), TransportError>) {
    let outcome = match resources(server, service).await {
        Ok(resources) => {
            offer.resources = resources;
            offer.fresh = true;
            Ok(())
        }
        Err(error) => {
            offer.fresh = false;
            return (offer, Err(error));
        }
    };
    match version_3(server, service).await {
        Ok(address) => offer.version_3 = address,
        Err(error) => return (offer, Err(error)),
    }
    match version_2(server, service, &offer.tag_2).await {
        Ok(Some((document, tag))) => {
            offer.version_2 = document;
            offer.tag_2 = tag;
        }
        Ok(None) => {}
        Err(error) => return (offer, Err(error)),
    }
    (offer, outcome)
}

fn read(answer: &Answer) -> Result<Value, TransportError> {
    json::from_slice(&answer.body).map_err(|e| TransportError::Answer(e.to_string()))
}

fn refused(path: &str, answer: &Answer) -> TransportError {
    TransportError::Answer(format!("bad status from {path}: {}", answer.code))
}

/// The resources of the group version: by aggregated discovery, or by the old form where the server knows no other.
async fn resources(server: &Server, service: &ApiService) -> Result<Value, TransportError> {
    let user = User { name: "system:kube-aggregator".into(), groups: vec![MASTERS.into()], ..Default::default() };
    let question = Question { path: "/apis", accept: AGGREGATED, etag: "", user: &user, most: MOST, patience: PATIENCE };
    let answer = transport::ask(server, service, &question).await?;
    let content = answer.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if answer.code == 200 && content.contains("as=APIGroupDiscoveryList") {
        return Ok(resources_in(&read(&answer)?, &service.group, &service.version));
    }
    if answer.code == 503 {
        return Err(refused(question.path, &answer));
    }
    let path = service.root();
    let answer = transport::ask(server, service, &Question { path: &path, accept: JSON, ..question }).await?;
    if answer.code != 200 {
        return Err(refused(&path, &answer));
    }
    Ok(from_legacy(&read(&answer)?))
}

fn openapi_user() -> User {
    User { name: "system:aggregator".into(), ..Default::default() }
}

/// Where the server has the OpenAPI v3 document of the group version; None where it has none.
async fn version_3(server: &Server, service: &ApiService) -> Result<Option<String>, TransportError> {
    let user = openapi_user();
    let question = Question { path: "/openapi/v3", accept: JSON, etag: "", user: &user, most: MOST, patience: PATIENCE_FOR_OPENAPI };
    let answer = transport::ask(server, service, &question).await?;
    match answer.code {
        200 => {
            let root = service.root();
            let index = read(&answer)?;
            let address = index.str_at(&["paths", root.trim_start_matches('/'), "serverRelativeURL"]);
            Ok((!address.is_empty()).then(|| address.to_string()))
        }
        404 => Ok(None),
        _ => Err(refused(question.path, &answer)),
    }
}

/// The part of the server's OpenAPI v2 document about the group version, and its tag; None where nothing changed.
async fn version_2(server: &Server, service: &ApiService, etag: &str) -> Result<Option<(Option<Arc<Value>>, String)>, TransportError> {
    let user = openapi_user();
    let question = Question { path: "/openapi/v2", accept: JSON, etag, user: &user, most: MOST, patience: PATIENCE_FOR_OPENAPI };
    let answer = transport::ask(server, service, &question).await?;
    match answer.code {
        200 => {
            let document = merge::about(&read(&answer)?, &format!("{}/", service.root()));
            let tag = answer.headers.get(header::ETAG).and_then(|v| v.to_str().ok()).unwrap_or_default();
            Ok(Some((Some(Arc::new(document)), tag.to_string())))
        }
        304 => Ok(None),
        404 => Ok(Some((None, String::new()))),
        _ => Err(refused(question.path, &answer)),
    }
}
