//! Unary gRPC calls of `v2.KeyManagementService` over a Unix socket: HTTP/2 with a length in front of each message and the status
//! behind it. One connection, made again when it has ended.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio_util::task::TaskTracker;

#[derive(Debug, thiserror::Error)]
pub(crate) enum GrpcError {
    #[error("cannot connect to {}: {source}", path.display())]
    Connect { path: PathBuf, source: std::io::Error },
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("the request cannot be made: {0}")]
    Request(#[from] http::Error),
    #[error("no answer in time")]
    Timeout,
    #[error("the answer is malformed")]
    Malformed,
    #[error("rpc error: code = {code} desc = {message}")]
    Status { code: String, message: String },
}

const SERVICE: &str = "/v2.KeyManagementService/";
const MAX_ANSWER: usize = 256 * 1024;

pub(super) struct Endpoint {
    path: PathBuf,
    timeout: Duration,
    connection: Mutex<Option<SendRequest<Full<Bytes>>>>,
    tasks: TaskTracker,
}

impl Endpoint {
    pub(super) fn new(path: PathBuf, timeout: Duration) -> Self {
        Self { path, timeout, connection: Mutex::new(None), tasks: TaskTracker::new() }
    }

    /// Calls a method with an encoded message; returns the encoded answer.
    pub(super) async fn call(&self, method: &str, message: Vec<u8>) -> Result<Vec<u8>, GrpcError> {
        tokio::time::timeout(self.timeout, self.exchange(method, message)).await.unwrap_or(Err(GrpcError::Timeout))
    }

    async fn exchange(&self, method: &str, message: Vec<u8>) -> Result<Vec<u8>, GrpcError> {
        let mut body = vec![0];
        body.extend_from_slice(&u32::try_from(message.len()).map_err(|_| GrpcError::Malformed)?.to_be_bytes());
        body.extend_from_slice(&message);
        let request = Request::post(format!("http://localhost{SERVICE}{method}"))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .header(header::USER_AGENT, "fram")
            .body(Full::new(Bytes::from(body)))?;
        let response = self.sender().await?.send_request(request).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|_| GrpcError::Malformed)?;
        // Who refuses at once puts the status into the head.
        let trailers = body.trailers().unwrap_or(&head.headers);
        let text = |name: &str| trailers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_string();
        match text("grpc-status").as_str() {
            "0" => {}
            code => return Err(GrpcError::Status { code: code.into(), message: text("grpc-message") }),
        }
        let bytes = body.to_bytes();
        let (head, message) = bytes.split_first_chunk::<5>().ok_or(GrpcError::Malformed)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if head[0] != 0 || message.len() != length {
            return Err(GrpcError::Malformed);
        }
        Ok(message.to_vec())
    }

    async fn sender(&self) -> Result<SendRequest<Full<Bytes>>, GrpcError> {
        let mut current = self.connection.lock().await;
        if let Some(sender) = current.as_mut()
            && sender.ready().await.is_ok()
        {
            return Ok(sender.clone());
        }
        let failed = |source| GrpcError::Connect { path: self.path.clone(), source };
        let stream = UnixStream::connect(&self.path).await.map_err(failed)?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        self.tasks.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to a key management service ended");
            }
        });
        *current = Some(sender.clone());
        Ok(sender)
    }
}
