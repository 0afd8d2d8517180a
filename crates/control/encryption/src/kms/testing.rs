//! A key management service for tests: it speaks the real protocol over a real socket, and its cipher is a name and a mask.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::net::UnixListener;
use tokio::sync::oneshot;

use fram_grpc::wire::{Writer, fields};

/// What the service says of itself.
pub(crate) struct State {
    pub(crate) key_id: String,
    pub(crate) health: String,
    pub(crate) decrypted: usize,
}

pub(crate) struct Service {
    pub(crate) path: PathBuf,
    pub(crate) state: Arc<Mutex<State>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Service {
    pub(crate) fn start(folder: &Path) -> Self {
        let path = folder.join("kms.sock");
        let state = Arc::new(Mutex::new(State { key_id: "key-1".into(), health: "ok".into(), decrypted: 0 }));
        let (stop, stopped) = oneshot::channel::<()>();
        let (socket, shared) = (path.clone(), state.clone());
        let (bound, ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = UnixListener::bind(socket).unwrap();
                bound.send(()).unwrap();
                let mut connections = tokio::task::JoinSet::new();
                let accept = async {
                    loop {
                        let (stream, _) = listener.accept().await.unwrap();
                        let shared = shared.clone();
                        let service = service_fn(move |request| answer(shared.clone(), request));
                        connections.spawn(async move {
                            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                        });
                    }
                };
                tokio::select! {
                    () = accept => {}
                    _ = stopped => {}
                }
            });
        });
        ready.recv().unwrap();
        Self { path, state, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn masked(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|b| b ^ 0x5a).collect()
}

type Answer = Response<StreamBody<stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>>;

async fn answer(state: Arc<Mutex<State>>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let path = request.uri().path().to_string();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let fields: BTreeMap<u64, Vec<u8>> = fields(&body[5..]).map(|f| f.unwrap()).map(|(n, f)| (n, f.bytes().unwrap().to_vec())).collect();
    let mut state = state.lock();
    let given = |n: u64| fields.get(&n).cloned().unwrap_or_default();
    let mut status = "0";
    let message = match path.as_str() {
        "/v2.KeyManagementService/Status" => {
            Writer::default().bytes(1, b"v2").bytes(2, state.health.as_bytes()).bytes(3, state.key_id.as_bytes())
        }
        "/v2.KeyManagementService/Encrypt" => {
            assert!(!given(2).is_empty(), "a uid is needed");
            let annotations = BTreeMap::from([("a.example".to_string(), b"note".to_vec())]);
            Writer::default().bytes(1, &masked(&given(1))).bytes(2, state.key_id.as_bytes()).map(3, &annotations)
        }
        "/v2.KeyManagementService/Decrypt" => {
            state.decrypted += 1;
            if !given(3).starts_with(b"key-") || given(4).is_empty() {
                status = "3";
            }
            Writer::default().bytes(1, &masked(&given(1)))
        }
        other => panic!("{other}"),
    };
    let mut out = vec![0];
    out.extend_from_slice(&(message.0.len() as u32).to_be_bytes());
    out.extend_from_slice(&message.0);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.parse().unwrap());
    let frames = vec![Ok(Frame::data(Bytes::from(out))), Ok(Frame::trailers(trailers))];
    let mut response = Response::new(StreamBody::new(stream::iter(frames)));
    response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    Ok(response)
}
