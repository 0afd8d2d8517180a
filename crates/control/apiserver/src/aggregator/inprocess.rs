//! Calls of components of the same process about what another server answers: collection of garbage and the end of namespaces reach its
//! objects, too. They are authorized and handed on like any other.

use std::time::Duration;

use bytes::Bytes;
use fram_client::remote::{events, of_call, of_watch, reply};
use fram_client::{Call, ListOptions, Reply, Resource, WatchStream};
use fram_machinery::{Reason, Status, json};
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use super::service::ApiService;
use super::transport;
use crate::authorize::Attributes;
use crate::server::Server;
use crate::user::User;

/// See upstream's requestTimeout of calls that are not watches.
const PATIENCE: Duration = Duration::from_secs(60);
const MOST: usize = 64 * 1024 * 1024;

pub(crate) async fn call(server: &Server, user: &User, service: &ApiService, call: Call) -> Result<Reply, Status> {
    server.authorizer.check(user, &crate::server::attributes_of(&call))?;
    let answer = async {
        let response = send(server, user, service, of_call(&call)?).await?;
        let failed = !response.status().is_success();
        let body = read(response).await?;
        match json::from_slice(&body) {
            Ok(status) if failed => Err(Status::from_object(&status)),
            Err(_) if failed => Err(unavailable(&String::from_utf8_lossy(&body))),
            value => Ok(reply(&call, value.map_err(Status::internal)?)),
        }
    };
    tokio::time::timeout(PATIENCE, answer).await.unwrap_or_else(|_| Err(unavailable("the aggregated server does not answer")))
}

pub(crate) async fn watch(
    server: &Server,
    user: &User,
    service: &ApiService,
    (resource, namespace): (&Resource, &str),
    options: ListOptions,
    asked: &Attributes,
) -> Result<WatchStream, Status> {
    server.authorizer.check(user, asked)?;
    let response = send(server, user, service, of_watch(resource, namespace, &options)?).await?;
    if response.status().is_success() {
        return Ok(events(response, ()));
    }
    let body = read(response).await?;
    Err(json::from_slice(&body).map_or_else(|_| unavailable(&String::from_utf8_lossy(&body)), |status| Status::from_object(&status)))
}

fn unavailable(text: &str) -> Status {
    Status::new(Reason::ServiceUnavailable, text.trim_end())
}

async fn read(response: Response<Incoming>) -> Result<Bytes, Status> {
    Ok(Limited::new(response.into_body(), MOST).collect().await.map_err(Status::internal)?.to_bytes())
}

async fn send(server: &Server, user: &User, service: &ApiService, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Status> {
    if !server.is_available(service).await {
        return Err(unavailable("service unavailable"));
    }
    let failed = |e: &dyn std::fmt::Display| unavailable(&e.to_string());
    let connection = transport::connect(server, service).await.map_err(|e| failed(&e))?;
    let host = HeaderValue::try_from(connection.host).map_err(|e| failed(&e))?;
    request.headers_mut().insert(header::HOST, host);
    transport::identify(request.headers_mut(), user);
    let (mut sender, driven) = hyper::client::conn::http1::handshake(TokioIo::new(connection.stream)).await.map_err(|e| failed(&e))?;
    // It ends with the answer's body, whoever reads it.
    server.streams.spawn(async move {
        if let Err(error) = driven.await {
            tracing::debug!(%error, "connection to an aggregated server ended early");
        }
    });
    sender.send_request(request).await.map_err(|e| failed(&e))
}
