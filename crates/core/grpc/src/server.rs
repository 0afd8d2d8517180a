//! The side that answers: services on a listener, each call as it comes. A call whose client goes away or whose time is over is
//! dropped where it stands.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::Frame;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::message::Message;
use crate::{GrpcError, Incoming, WINDOW, framed};

/// Numbers of google.rpc.Code that this crate itself gives.
pub const INVALID_ARGUMENT: u32 = 3;
pub const DEADLINE_EXCEEDED: u32 = 4;
pub const UNIMPLEMENTED: u32 = 12;
pub const INTERNAL: u32 = 13;

/// How a call failed, by its number in google.rpc.Code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    pub code: u32,
    pub message: String,
}

impl Status {
    pub fn new(code: u32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The answer to a method that nobody has.
    pub fn unknown_method(method: &str) -> Self {
        Self::new(UNIMPLEMENTED, format!("unknown method {method}"))
    }
}

impl From<GrpcError> for Status {
    fn from(error: GrpcError) -> Self {
        match error {
            GrpcError::Malformed => Self::new(INVALID_ARGUMENT, "the request is malformed or too large"),
            error => Self::new(INTERNAL, error.to_string()),
        }
    }
}

/// One call: the messages of its client.
pub struct Call {
    incoming: Incoming,
}

impl Call {
    /// The only message of a call that has one.
    pub async fn message<M: Message>(&mut self) -> Result<M, Status> {
        self.next().await?.ok_or_else(|| Status::new(INVALID_ARGUMENT, "the call has no message"))
    }

    /// The next message of a client's stream; None at its end.
    pub async fn next<M: Message>(&mut self) -> Result<Option<M>, Status> {
        let Some(bytes) = self.incoming.next().await? else { return Ok(None) };
        M::decode(&bytes).map(Some).map_err(|_| Status::new(INVALID_ARGUMENT, "the message cannot be understood"))
    }
}

/// What a call is answered with.
pub enum Reply {
    Message(Vec<u8>),
    /// Messages until the stream's end, or until one that is an error.
    Stream(Messages),
}

/// Encoded messages as they come.
pub type Messages = BoxStream<'static, Result<Vec<u8>, Status>>;

impl Reply {
    pub fn message(message: &impl Message) -> Self {
        Self::Message(message.encode())
    }
}

/// What answers calls.
pub trait Service: Send + Sync + 'static {
    /// `method` is `/package.Service/Method`.
    fn call(&self, method: &str, call: Call) -> impl Future<Output = Result<Reply, Status>> + Send;
}

/// How a listener serves.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// The largest message that is taken.
    pub max_message: usize,
    /// How long calls may go on after the end was asked for.
    pub drain: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self { max_message: 16 << 20, drain: Duration::from_secs(5) }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{operation} {path:?}: {source}")]
pub struct ListenError {
    operation: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Listens on a Unix socket that only its owner may use. A socket that is there already is replaced: its server is gone, or is
/// about to be.
pub fn listen(path: &Path) -> Result<UnixListener, ListenError> {
    let failed = |operation| move |source| ListenError { operation, path: path.to_path_buf(), source };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed("create the folder of"))?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(there) if there.file_type().is_socket() => std::fs::remove_file(path).map_err(failed("remove"))?,
        // What is no socket makes binding fail, and stays.
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed("listen on"))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed("protect"))?;
    Ok(listener)
}

/// Serves connections until `stop`, and then lets calls end.
pub async fn serve<S: Service>(listener: UnixListener, service: Arc<S>, options: ServerOptions, stop: CancellationToken) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(connection(stream, service.clone(), options.clone(), stop.clone()));
            }
            Err(error) => {
                // Out of descriptors, most likely: others may give theirs back.
                tracing::warn!(%error, "cannot accept a gRPC connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    connections.close();
    connections.wait().await;
}

/// Serves one connection, of whatever kind.
pub async fn connection<S: Service>(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    service: Arc<S>,
    options: ServerOptions,
    stop: CancellationToken,
) {
    let max_message = options.max_message;
    let service = hyper::service::service_fn(move |request| {
        let service = service.clone();
        async move { Ok::<_, Infallible>(answer(&*service, request, max_message).await) }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).initial_stream_window_size(WINDOW).initial_connection_window_size(2 * WINDOW);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        biased;
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(options.drain, connection.as_mut()).await.unwrap_or(Ok(()))
        }
        ended = connection.as_mut() => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a gRPC connection ended early");
    }
}

async fn answer<S: Service>(service: &S, request: Request<hyper::body::Incoming>, max_message: usize) -> Response<Answer> {
    let (head, body) = request.into_parts();
    let deadline = head.headers.get("grpc-timeout").and_then(|value| timeout(value.to_str().ok()?));
    let call = service.call(head.uri.path(), Call { incoming: Incoming::requests(body, max_message) });
    let outcome = match deadline {
        // A box, so that every call is not as large as the largest.
        Some(time) => tokio::time::timeout(time, Box::pin(call))
            .await
            .unwrap_or_else(|_| Err(Status::new(DEADLINE_EXCEEDED, "context deadline exceeded"))),
        None => Box::pin(call).await,
    };
    let answer = match outcome {
        Ok(Reply::Message(message)) => match framed(&message) {
            Ok(bytes) => Answer::Message(bytes),
            Err(error) => Answer::End(error.into()),
        },
        Ok(Reply::Stream(messages)) => Answer::Stream(messages),
        Err(status) => Answer::End(status),
    };
    let mut response = Response::new(answer);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// The header `grpc-timeout`: digits and a unit.
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => number.checked_mul(3600).map(Duration::from_secs),
        "M" => number.checked_mul(60).map(Duration::from_secs),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// The body of an answer: its messages, and the status as trailers.
enum Answer {
    Message(Bytes),
    Stream(Messages),
    End(Status),
    Done,
}

/// What gRPC has escaped in `grpc-message`: everything but printable ASCII, and the escape itself.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');

fn trailers(status: &Status) -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.code.into());
    if !status.message.is_empty() {
        let escaped = utf8_percent_encode(&status.message, ESCAPED).to_string();
        trailers.insert("grpc-message", HeaderValue::try_from(escaped).unwrap_or_else(|_| HeaderValue::from_static("")));
    }
    Frame::trailers(trailers)
}

const OK: Status = Status { code: 0, message: String::new() };

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match &mut *self {
            Self::Message(bytes) => {
                let frame = Frame::data(std::mem::take(bytes));
                *self = Self::End(OK);
                frame
            }
            Self::Stream(messages) => {
                let status = match std::task::ready!(messages.as_mut().poll_next(context)) {
                    Some(Ok(message)) => match framed(&message) {
                        Ok(bytes) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                        Err(error) => error.into(),
                    },
                    Some(Err(status)) => status,
                    None => OK,
                };
                *self = Self::Done;
                trailers(&status)
            }
            Self::End(status) => {
                let frame = trailers(status);
                *self = Self::Done;
                frame
            }
            Self::Done => return Poll::Ready(None),
        };
        Poll::Ready(Some(Ok(next)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Done)
    }
}

#[cfg(test)]
mod tests;
