//! gRPC over hyper, both sides: unary calls and streams to one server over a connection that the caller made, and services on a
//! listener. Messages are written by hand or described by a table of their fields; there is no code generation and no name
//! resolution, and which server to ask is the caller's decision.

mod body;
mod incoming;
pub mod message;
pub mod server;
mod unix;
pub mod wire;

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{Request, Response, header};
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use body::Body;
pub use incoming::Incoming;
pub use unix::{ConnectError, UnixEndpoint};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum GrpcError {
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("the request cannot be made: {0}")]
    Request(#[from] http::Error),
    #[error("the answer is malformed")]
    Malformed,
    /// A status other than OK, by its number in google.rpc.Code.
    #[error("rpc error: code = {code} desc = {message}")]
    Status { code: u32, message: String },
}

impl GrpcError {
    /// Whether the server cannot have seen the request.
    pub fn is_unsent(&self) -> bool {
        match self {
            Self::Http(error) => error.is_canceled(),
            Self::Request(_) => true,
            Self::Malformed | Self::Status { .. } => false,
        }
    }
}

impl From<wire::Malformed> for GrpcError {
    fn from(_: wire::Malformed) -> Self {
        Self::Malformed
    }
}

/// How a connection is kept and what is taken from it.
#[derive(Debug, Clone)]
pub struct Options {
    /// `host:port`, as servers are to see it.
    pub authority: String,
    /// Headers that each call carries.
    pub metadata: Vec<(&'static str, &'static str)>,
    /// The largest message that is taken.
    pub max_message: usize,
    /// After how long without an answer to a ping, sent so often, the connection is given up.
    pub keep_alive: Option<(Duration, Duration)>,
}

/// A connection to one server. Clones share it.
#[derive(Clone)]
pub struct Channel {
    sender: SendRequest<Body>,
    options: Options,
}

/// How much the server may send before it has to be read; large, since lists and watches come over few streams.
const WINDOW: u32 = 8 << 20;

/// The length of what stands before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

impl Channel {
    /// Speaks HTTP/2 over a connection; `tasks` holds the task that drives it, which ends with the connection.
    pub async fn new<S>(stream: S, options: Options, tasks: &TaskTracker) -> Result<Self, GrpcError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).initial_stream_window_size(WINDOW).initial_connection_window_size(2 * WINDOW);
        if let Some((interval, timeout)) = options.keep_alive {
            builder.keep_alive_interval(interval).keep_alive_timeout(timeout).keep_alive_while_idle(true);
        }
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        tasks.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a gRPC connection ended");
            }
        });
        Ok(Self { sender, options })
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Waits until the connection takes a call; fails where it has ended.
    pub async fn ready(&mut self) -> Result<(), GrpcError> {
        Ok(self.sender.ready().await?)
    }

    /// Calls a method, `/package.Service/Method`, with an encoded message; gives the encoded answer.
    pub async fn unary(&self, method: &str, message: &[u8]) -> Result<Bytes, GrpcError> {
        let response = self.send(method, Body::once(framed(message)?)).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, self.options.max_message + PREFIX).collect().await.map_err(cut_short)?;
        // Who refuses at once puts the status into the head.
        incoming::check(body.trailers().unwrap_or(&head.headers))?;
        let bytes = body.to_bytes();
        let (prefix, _) = bytes.split_first_chunk::<PREFIX>().ok_or(GrpcError::Malformed)?;
        let message = bytes.slice(PREFIX..);
        if incoming::length(*prefix)? != message.len() {
            return Err(GrpcError::Malformed);
        }
        Ok(message)
    }

    /// Calls a method that answers with a stream. The request ends with its message: servers that expect one may wait for that before
    /// they say anything, as grpc-go does.
    pub async fn listen(&self, method: &str, message: &[u8]) -> Result<Incoming, GrpcError> {
        self.answers(method, Body::once(framed(message)?)).await
    }

    /// Opens a stream in both directions with its first message, which servers wait for before they say anything. It ends
    /// when either half is dropped.
    pub async fn stream(&self, method: &str, first: &[u8]) -> Result<(Outgoing, Incoming), GrpcError> {
        let (sender, receiver) = mpsc::unbounded_channel();
        // The receiver is still here.
        let _ = sender.send(framed(first)?);
        Ok((Outgoing(sender), self.answers(method, Body::open(receiver)).await?))
    }

    async fn answers(&self, method: &str, body: Body) -> Result<Incoming, GrpcError> {
        let (head, body) = self.send(method, body).await?.into_parts();
        if head.headers.contains_key("grpc-status") {
            incoming::check(&head.headers)?;
        }
        Ok(Incoming::answers(body, self.options.max_message))
    }

    async fn send(&self, method: &str, body: Body) -> Result<Response<hyper::body::Incoming>, GrpcError> {
        let mut request = Request::post(format!("http://{}{method}", self.options.authority))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .header(header::USER_AGENT, "fram");
        for (name, value) in &self.options.metadata {
            request = request.header(*name, *value);
        }
        Ok(self.sender.clone().send_request(request.body(body)?).await?)
    }
}

/// A body that could not be read to its end, for a reason of the connection or because it is too large.
fn cut_short(error: Box<dyn std::error::Error + Send + Sync>) -> GrpcError {
    error.downcast::<hyper::Error>().map_or(GrpcError::Malformed, |error| GrpcError::Http(*error))
}

/// A message with what stands before it.
fn framed(message: &[u8]) -> Result<Bytes, GrpcError> {
    let mut framed = BytesMut::with_capacity(PREFIX + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).map_err(|_| GrpcError::Malformed)?);
    framed.put_slice(message);
    Ok(framed.freeze())
}

/// The half of a stream that is written to. Messages wait without bound: callers send few and small ones.
pub struct Outgoing(mpsc::UnboundedSender<Bytes>);

impl Outgoing {
    /// Sends a message; false when the stream has ended.
    pub fn send(&self, message: &[u8]) -> bool {
        framed(message).is_ok_and(|framed| self.0.send(framed).is_ok())
    }
}
