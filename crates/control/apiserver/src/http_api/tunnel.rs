//! The connection that a node's agent keeps open: it is upgraded and handed to `Nodes`, which opens streams over it.

use std::sync::Arc;

use fram_machinery::{Reason, Status};
use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use crate::respond::{self, Body};
use crate::server::Server;
use crate::user::User;

pub(super) const PATH: &str = "/fram/v1/tunnel";
const PROTOCOL: &str = "fram-tunnel";

/// A node's identity opens the way to that node and no other; nobody else may.
pub(super) fn handle(server: &Arc<Server>, user: &User, mut request: Request<Incoming>) -> Result<Response<Body>, Status> {
    let Some(node) = user.node().map(String::from) else {
        let text = format!("forbidden: User {:?} is not a node and cannot connect to {PATH:?}", user.name);
        return Err(Status::new(Reason::Forbidden, text));
    };
    let asked = request.headers().get(header::UPGRADE).and_then(|v| v.to_str().ok());
    if !asked.is_some_and(|p| p.eq_ignore_ascii_case(PROTOCOL)) {
        return Err(Status::bad_request(format!("this path speaks {PROTOCOL} only: ask for it with the header Upgrade")));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let nodes = server.nodes.clone();
    server.streams.spawn(async move {
        match upgrade.await {
            Ok(stream) => nodes.tunnel(&node, Box::new(TokioIo::new(stream))).await,
            Err(error) => tracing::warn!(%node, %error, "an agent's connection was not upgraded"),
        }
    });
    let mut response = respond::bytes(200, "text/plain", "");
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().clear();
    response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(header::UPGRADE, header::HeaderValue::from_static(PROTOCOL));
    Ok(response)
}
