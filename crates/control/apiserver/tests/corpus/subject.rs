//! Whoever is asked: Fram in this process, over a pipe, or a server at an address. Both are spoken to in HTTP.

use std::sync::Arc;

use bytes::Bytes;
use fram_apiserver::{Server, User, http_api};
use fram_client::DeleteOptions;
use fram_client::resources::STORAGE_CLASSES;
use fram_machinery::{Value, json};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::common::server::{in_memory, server};

pub(crate) struct Subject {
    sender: SendRequest<Full<Bytes>>,
    /// Carries the connection; ended with the subject.
    _tasks: JoinSet<()>,
}

pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) body: Value,
}

/// A server with what a cluster has at its start.
pub(crate) async fn fram() -> Arc<Server> {
    let server = server(in_memory()).await;
    // A stock server comes without a storage class.
    let classes = crate::common::server::client_as(&server, administrator()).all(&STORAGE_CLASSES);
    classes.delete(fram_client::local_path::CLASS, DeleteOptions::default()).await.unwrap();
    server
}

/// As who shows a client certificate.
fn administrator() -> User {
    let extra = [("authentication.kubernetes.io/credential-id".to_string(), vec!["X509SHA256=00".to_string()])].into();
    User { extra, ..User::authenticated("admin", &["system:masters"]) }
}

impl Subject {
    /// Fram, as an administrator.
    pub(crate) async fn of(server: Arc<Server>) -> Self {
        let (near, far) = tokio::io::duplex(1 << 20);
        let mut tasks = JoinSet::new();
        let user = administrator();
        // Writes the status of definitions, as a stock server does by itself.
        let followed = server.clone().follow_definitions(CancellationToken::new());
        tasks.spawn(followed);
        let address = ([127, 0, 0, 1], 0).into();
        tasks.spawn(async move { http_api::converse(far, (address, Some(user)), false, server, CancellationToken::new()).await });
        Self::over(near, tasks).await
    }

    /// A server that takes the requests of this machine as an administrator's, at `HOST:PORT`.
    pub(crate) async fn at(address: &str) -> Self {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap_or_else(|e| panic!("connecting to {address}: {e}"));
        Self::over(stream, JoinSet::new()).await
    }

    async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, mut tasks: JoinSet<()>) -> Self {
        let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        tasks.spawn(async move { connection.await.unwrap() });
        Self { sender, _tasks: tasks }
    }

    pub(crate) async fn send(&mut self, method: &str, path: &str, content: &str, body: &Value) -> Answer {
        let bytes = if body.is_null() { Vec::new() } else { json::to_vec(body) };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "corpus")
            .header("accept", "application/json")
            .header("content-type", content)
            .body(Full::new(Bytes::from(bytes)))
            .unwrap_or_else(|e| panic!("{method} {path}: {e}"));
        self.sender.ready().await.unwrap();
        let response: Response<Incoming> = self.sender.send_request(request).await.unwrap_or_else(|e| panic!("{method} {path}: {e}"));
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let body = json::from_slice(&bytes).unwrap_or_else(|_| String::from_utf8_lossy(&bytes).as_ref().into());
        Answer { code, body }
    }
}
