//! The socket in the data directory, for root on this machine: what the Kubernetes API does not have, which is the node's
//! images and how the process itself fares. It is no second way to the cluster's objects.

mod chunks;
mod processes;

use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use anyhow::Context;
use bytes::Bytes;
use fram_image::{ErrorKind, ImageError, ImageInfo, ImageStore};
use fram_machinery::{Map, Reason, Status, Value, json, object};
use http::{Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::heap;
use chunks::Chunks;

/// A part of the process that goes on as long as it does.
struct Component {
    name: &'static str,
    since: Timestamp,
    tasks: TaskTracker,
    /// Tasks that it began with; fewer means that one has ended.
    count: usize,
}

/// What the desk knows. The parts of the process tell it when they start.
pub(crate) struct Desk {
    since: Timestamp,
    cgroup_root: String,
    images: OnceLock<Arc<ImageStore>>,
    node: OnceLock<String>,
    components: Mutex<Vec<Component>>,
}

impl Desk {
    pub(crate) fn new(cgroup_root: &str) -> Arc<Self> {
        Arc::new(Self {
            since: Timestamp::now(),
            cgroup_root: cgroup_root.into(),
            images: OnceLock::new(),
            node: OnceLock::new(),
            components: Mutex::default(),
        })
    }

    /// A component runs as these tasks.
    pub(crate) fn started(&self, name: &'static str, tasks: &TaskTracker) {
        let component = Component { name, since: Timestamp::now(), tasks: tasks.clone(), count: tasks.len() };
        self.components.lock().push(component);
    }

    /// Parts of the process run from now on, without which it would end.
    pub(crate) fn bears(&self, names: &[&'static str]) {
        names.iter().for_each(|name| self.started(name, &TaskTracker::new()));
    }

    /// The node of this process, and its images.
    pub(crate) fn set_node(&self, name: &str, images: Option<Arc<ImageStore>>) {
        // A process runs one node.
        let _first = (self.node.set(name.into()), images.map(|images| self.images.set(images)));
    }

    /// Opens the socket and serves it until `stop`.
    pub(crate) fn open(self: Arc<Self>, data: &Path, tasks: &TaskTracker, stop: &CancellationToken) -> anyhow::Result<()> {
        let path = data.join(fram_cli::SOCKET);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
        let at = fram_cli::socket_path(data).and_then(|(_folder, path)| UnixListener::bind(path));
        let listener = at.with_context(|| format!("cannot listen at {}", path.display()))?;
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, private).with_context(|| format!("cannot set the mode of {}", path.display()))?;
        tasks.spawn(self.serve(listener, stop.clone()));
        Ok(())
    }

    async fn serve(self: Arc<Self>, listener: UnixListener, stop: CancellationToken) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(ended) = connections.join_next(), if !connections.is_empty() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a connection to the local socket failed");
                    }
                }
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) if is_ours(&stream) => { connections.spawn(self.clone().converse(stream)); }
                    Ok(_) => tracing::warn!("another user tried to use the local socket"),
                    Err(error) => tracing::warn!(%error, "cannot accept a connection to the local socket"),
                }
            }
        }
    }

    async fn converse(self: Arc<Self>, stream: UnixStream) {
        let service = hyper::service::service_fn(|request| {
            let desk = self.clone();
            async move { Ok::<_, Infallible>(desk.answer(request).await) }
        });
        if let Err(error) = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
            tracing::debug!(%error, "a connection to the local socket ended early");
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_string();
        let steps: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let outcome = match (request.method(), &steps[..]) {
            (&Method::GET, ["status"]) => self.status().await,
            (&Method::GET, ["images"]) => self.images().map(|images| list(images)),
            (&Method::POST, ["images"]) => self.import(request).await,
            (&Method::DELETE, ["images", name]) => self.remove(name).await,
            (&Method::PUT, ["pinned-images", name]) => self.pin(name, true).await,
            (&Method::DELETE, ["pinned-images", name]) => self.pin(name, false).await,
            _ => Err(Status::no_such_path()),
        };
        let (code, value) = match outcome {
            Ok(value) => (200, value),
            Err(status) => (status.code, status.to_object()),
        };
        let mut response = Response::new(Full::new(json::to_vec(&value).into()));
        *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        response
    }

    fn images(&self) -> Result<&Arc<ImageStore>, Status> {
        self.images
            .get()
            .ok_or_else(|| Status::new(Reason::ServiceUnavailable, "no node with images of its own runs here, or it is still starting"))
    }

    async fn import(&self, request: Request<Incoming>) -> Result<Value, Status> {
        let images = self.images()?.clone();
        let (chunks, sender) = Chunks::pair();
        let mut body = request.into_body();
        let feed = async move {
            while let Some(frame) = body.frame().await {
                let chunk = frame.map_err(std::io::Error::other).map(|f| f.into_data().unwrap_or_default());
                if sender.send(chunk).await.is_err() {
                    // The import has failed, and says why itself; the rest is read so that the answer is.
                    while let Some(Ok(_)) = body.frame().await {}
                    return;
                }
            }
        };
        let (imported, ()) = tokio::join!(images.import_from(Box::new(chunks)), feed);
        let ids = imported.map_err(refused)?;
        let found = images.list().into_iter().filter(|i| ids.contains(&i.id));
        Ok(object!({ "items": (found.map(|i| image(&i)).collect::<Vec<_>>()) }))
    }

    async fn pin(&self, name: &str, pinned: bool) -> Result<Value, Status> {
        self.images()?.set_pinned(&decoded(name), pinned).await.map_err(refused)?;
        Ok(object!({ "pinned": pinned }))
    }

    async fn remove(&self, name: &str) -> Result<Value, Status> {
        let name = decoded(name);
        let removed = self.images()?.remove(&name).await.map_err(refused)?;
        if removed.images == 0 {
            return Err(refused(ImageError::NotPresent(name)));
        }
        Ok(object!({ "images": (count(removed.images as u64)), "bytes": (count(removed.bytes)) }))
    }

    async fn status(&self) -> Result<Value, Status> {
        let shims = format!("{}-shim", self.cgroup_root.trim_end_matches('/'));
        let counted =
            tokio::task::spawn_blocking(move || (processes::own(), processes::code(), processes::in_cgroup(&shims), heap::by_component()));
        let (own, code, shims, held) = counted.await.map_err(Status::internal)?;
        // Where it cannot be told whose memory it is, everything else is worth telling all the more.
        let held = held.inspect_err(|error| tracing::warn!("{error:#}")).ok();
        let of = |name: &str| held.as_ref().map(|held| held.get(name).copied().unwrap_or(0));
        let components = self.components.lock().iter().map(|c| c.value(of(c.name))).collect::<Vec<_>>();
        Ok(object!({
            "version": (env!("CARGO_PKG_VERSION")), "pid": (i64::from(std::process::id())), "since": (self.since.to_string()),
            "node": (self.node.get().map(String::as_str).unwrap_or_default()), "components": components,
            "process": (memory(&own)), "code": (count(code)), "resolution": (count(heap::PERIOD as u64)), "shims": (memory(&shims))
        }))
    }
}

impl Component {
    fn value(&self, held: Option<u64>) -> Value {
        let running = self.tasks.len();
        object!({ "name": (self.name), "since": (self.since.to_string()), "healthy": (running >= self.count),
            "tasks": (count(running as u64)), "began": (count(self.count as u64)), "held": (held.map(count)) })
    }
}

fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn memory(usage: &processes::Usage) -> Value {
    object!({ "processes": (count(usage.processes)), "rss": (count(usage.rss)), "pss": (count(usage.pss)) })
}

fn decoded(name: &str) -> String {
    percent_encoding::percent_decode_str(name).decode_utf8_lossy().into_owned()
}

fn list(images: &ImageStore) -> Value {
    object!({ "items": (images.list().iter().map(image).collect::<Vec<_>>()) })
}

fn image(info: &ImageInfo) -> Value {
    let texts = |names: &[String]| names.iter().map(|n| Value::from(n.as_str())).collect::<Vec<_>>();
    let mut value = Map::new();
    value.insert("id", info.id.to_string());
    value.insert("repoTags", texts(&info.repo_tags));
    value.insert("repoDigests", texts(&info.repo_digests));
    value.insert("size", count(info.size));
    value.insert("pinned", info.pinned);
    value.into()
}

fn refused(error: ImageError) -> Status {
    let reason = match error.kind() {
        ErrorKind::NotFound => Reason::NotFound,
        ErrorKind::InvalidReference | ErrorKind::Corrupt | ErrorKind::Unsupported | ErrorKind::WrongPlatform => Reason::BadRequest,
        _ => Reason::InternalError,
    };
    Status::new(reason, error.to_string())
}

/// Whether the peer is root, or whoever runs this process.
fn is_ours(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == nix::unistd::geteuid().as_raw())
}
