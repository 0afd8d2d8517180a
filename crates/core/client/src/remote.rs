//! Access over the network: an HTTP/2 connection with TLS, shared by calls and watches, made again when it ends. Where there are
//! more watches than a server lets one connection carry, further connections carry them.

mod address;
mod connection;
#[cfg(test)]
mod fuzz;
mod kubeconfig;
mod lines;
mod request;
mod servers;
mod warning;

use bytes::Bytes;
use fram_machinery::{Status, Value, json};
use futures_util::StreamExt;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::options::ListOptions;
use crate::resources::Resource;
use crate::transport::{Call, EventKind, Page, Reply, Transport, WatchEvent, WatchStream};
use connection::Connection;

pub use connection::{RemoteError, Upgrade};
pub use kubeconfig::{Context, Kubeconfig};
pub use lines::Lines;
pub use request::{Query, encoded, of_call, of_watch, path};
pub use servers::{Servers, dial};

/// A transport to an API server as the user of a kubeconfig.
pub struct Remote {
    /// The first carries all calls too.
    lanes: Mutex<Vec<Arc<Lane>>>,
    /// Of connections that are yet to be made.
    config: Mutex<Kubeconfig>,
    servers: Servers,
}

/// A connection, and how many watches go over it.
struct Lane {
    connection: Connection,
    watches: AtomicUsize,
}

/// A watch's place in its lane.
struct Place(Arc<Lane>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.watches.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many watches go over one connection. Servers let a client have a hundred streams; some are left for calls.
const WATCHES: usize = 64;

impl Remote {
    /// Prepares access; the connection is made by the first call.
    pub fn new(config: &Kubeconfig) -> Result<Self, RemoteError> {
        let servers = Servers::of(config)?;
        let first = Arc::new(Lane { connection: Connection::new(config, servers.clone())?, watches: AtomicUsize::new(0) });
        Ok(Self { lanes: Mutex::new(vec![first]), config: Mutex::new(config.clone()), servers })
    }

    /// The servers over which it is had.
    pub fn servers(&self) -> Servers {
        self.servers.clone()
    }

    fn first(&self) -> Arc<Lane> {
        self.lanes.lock()[0].clone()
    }

    /// A place for a watch, over a new connection where all others are full.
    fn place(&self) -> Result<Place, RemoteError> {
        let mut lanes = self.lanes.lock();
        let lane = match lanes.iter().find(|lane| lane.watches.load(Ordering::Relaxed) < WATCHES) {
            Some(lane) => lane.clone(),
            None => {
                let lane = Arc::new(Lane {
                    connection: Connection::new(&self.config.lock(), self.servers.clone())?,
                    watches: AtomicUsize::new(0),
                });
                lanes.push(lane.clone());
                lane
            }
        };
        lane.watches.fetch_add(1, Ordering::Relaxed);
        Ok(Place(lane))
    }

    /// Tells someone what the server warns of in its answers.
    pub fn with_warnings(mut self, warned: impl Fn(&str) + Send + Sync + 'static) -> Self {
        // Only calls are warned of, and all of them go over the first connection, which nobody shares yet.
        if let Some(first) = self.lanes.get_mut().first_mut().and_then(Arc::get_mut) {
            first.connection.warned = Some(Arc::new(warned));
        }
        self
    }

    /// Shows another certificate from now on; server and trust stay.
    pub async fn renew(&self, config: &Kubeconfig) -> Result<(), RemoteError> {
        *self.config.lock() = config.clone();
        let lanes = self.lanes.lock().clone();
        for lane in lanes {
            lane.connection.renew(config).await?;
        }
        Ok(())
    }

    /// Sends a request for a path with query; tells failures of the connection from answers of the server.
    pub async fn request(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, RemoteError> {
        self.first().connection.send(request).await
    }

    /// Sends a request that asks for another protocol with the header Upgrade.
    pub async fn upgrade(&self, request: Request<Full<Bytes>>) -> Result<Upgrade, RemoteError> {
        self.first().connection.upgrade(request).await
    }

    /// Sends a request for a path with query.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Status> {
        self.first().connection.send(request).await.map_err(unreachable)
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
        let place = self.place().map_err(unreachable)?;
        let response = place.0.connection.send(request).await.map_err(unreachable)?;
        if !response.status().is_success() {
            let body = response.into_body().collect().await.map_err(Status::internal)?.to_bytes();
            return Err(Status::from_object(&json::from_slice(&body).map_err(Status::internal)?));
        }
        Ok(events(response, place))
    }
}

fn unreachable(error: RemoteError) -> Status {
    Status::new(fram_machinery::Reason::ServiceUnavailable, error.to_string())
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

/// The events of a watch that began; `held` is kept for as long as they are read.
pub fn events<T: Send + 'static>(response: Response<Incoming>, held: T) -> WatchStream {
    futures_util::stream::unfold(Some((Lines::new(response), held)), next_event).boxed()
}

type State<T> = Option<(Lines, T)>;

/// The next event of a watch. Its error is its last item; without one it ended as it should.
async fn next_event<T>(state: State<T>) -> Option<(Result<WatchEvent, Status>, State<T>)> {
    let (mut lines, held) = state?;
    match lines.next().await {
        Ok(None) => None,
        Err(error) => Some((Err(Status::internal(error)), None)),
        Ok(Some(line)) => Some(match event(&line) {
            Ok(event) => (Ok(event), Some((lines, held))),
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
