//! Access over the network: one HTTP/2 connection with TLS, shared by all calls and watches, made again when it ends.

mod address;
mod connection;
mod kubeconfig;
mod lines;
mod request;
mod warning;

use bytes::Bytes;
use fram_machinery::{Status, Value, json};
use futures_util::StreamExt;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use std::sync::Arc;

use crate::options::ListOptions;
use crate::resources::Resource;
use crate::transport::{Call, EventKind, Page, Reply, Transport, WatchEvent, WatchStream};
use connection::Connection;

pub use connection::{RemoteError, Upgrade, dial};
pub use kubeconfig::{Context, Kubeconfig};
pub use lines::Lines;
pub use request::{Query, encoded, of_call, of_watch, path};

/// A transport to an API server as the user of a kubeconfig.
pub struct Remote {
    connection: Connection,
}

impl Remote {
    /// Prepares access; the connection is made by the first call.
    pub fn new(config: &Kubeconfig) -> Result<Self, RemoteError> {
        Ok(Self { connection: Connection::new(config)? })
    }

    /// Tells someone what the server warns of in its answers.
    pub fn with_warnings(mut self, warned: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.connection.warned = Some(Arc::new(warned));
        self
    }

    /// Shows another certificate from now on; server and trust stay.
    pub async fn renew(&self, config: &Kubeconfig) -> Result<(), RemoteError> {
        self.connection.renew(config).await
    }

    /// Sends a request for a path with query; tells failures of the connection from answers of the server.
    pub async fn request(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, RemoteError> {
        self.connection.send(request).await
    }

    /// Sends a request that asks for another protocol with the header Upgrade.
    pub async fn upgrade(&self, request: Request<Full<Bytes>>) -> Result<Upgrade, RemoteError> {
        self.connection.upgrade(request).await
    }

    /// Sends a request for a path with query.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Status> {
        let unreachable = |e: RemoteError| Status::new(fram_machinery::Reason::ServiceUnavailable, e.to_string());
        self.connection.send(request).await.map_err(unreachable)
    }

    async fn value(&self, request: Request<Full<Bytes>>) -> Result<Value, Status> {
        let response = self.send(request).await?;
        let failed = !response.status().is_success();
        let body = response.into_body().collect().await.map_err(Status::internal)?.to_bytes();
        let value = json::from_slice(&body).map_err(Status::internal)?;
        if failed { Err(Status::from_object(&value)) } else { Ok(value) }
    }
}

#[async_trait::async_trait]
impl Transport for Remote {
    async fn call(&self, call: Call) -> Result<Reply, Status> {
        Ok(reply(&call, self.value(request::of_call(&call)?).await?))
    }

    async fn watch(&self, resource: &Resource, namespace: &str, options: ListOptions) -> Result<WatchStream, Status> {
        let request = request::of_watch(resource, namespace, &options)?;
        let response = self.send(request).await?;
        if !response.status().is_success() {
            let body = response.into_body().collect().await.map_err(Status::internal)?.to_bytes();
            return Err(Status::from_object(&json::from_slice(&body).map_err(Status::internal)?));
        }
        Ok(events(response))
    }
}

/// What a server's answer to a call means.
pub fn reply(call: &Call, value: Value) -> Reply {
    let is_list = matches!(call.verb, crate::Verb::List(_) | crate::Verb::DeleteCollection { .. });
    if !is_list || value.get("items").is_none() {
        return if is_list { Reply::Page(Page::default()) } else { Reply::Object(Arc::new(value)) };
    }
    let kind = value.str_at(&["kind"]).trim_end_matches("List").to_string();
    let version = value.str_at(&["apiVersion"]).to_string();
    let item = |item: &Value| {
        // The items of a list do not say their kind.
        let mut item = item.clone();
        item.set(&["kind"], kind.as_str());
        item.set(&["apiVersion"], version.as_str());
        Arc::new(item)
    };
    Reply::Page(Page {
        resource_version: value.str_at(&["metadata", "resourceVersion"]).into(),
        continue_token: value.str_at(&["metadata", "continue"]).into(),
        items: value.list_at(&["items"]).iter().map(item).collect(),
    })
}

/// The events of a watch that began.
pub fn events(response: Response<Incoming>) -> WatchStream {
    futures_util::stream::unfold(Some(Lines::new(response)), next_event).boxed()
}

/// The next event of a watch. Its error is its last item; without one it ended as it should.
async fn next_event(lines: Option<Lines>) -> Option<(Result<WatchEvent, Status>, Option<Lines>)> {
    let mut lines = lines?;
    match lines.next().await {
        Ok(None) => None,
        Err(error) => Some((Err(Status::internal(error)), None)),
        Ok(Some(line)) => Some(match event(&line) {
            Ok(event) => (Ok(event), Some(lines)),
            Err(status) => (Err(status), None),
        }),
    }
}

fn event(line: &[u8]) -> Result<WatchEvent, Status> {
    let frame = json::from_slice(line).map_err(Status::internal)?;
    let object = frame.get("object").cloned().unwrap_or_default();
    let kind = match frame.str_at(&["type"]) {
        "ADDED" => EventKind::Added,
        "MODIFIED" => EventKind::Modified,
        "DELETED" => EventKind::Deleted,
        "BOOKMARK" => EventKind::Bookmark,
        _ => return Err(Status::from_object(&object)),
    };
    Ok(WatchEvent { kind, object: Arc::new(object) })
}
