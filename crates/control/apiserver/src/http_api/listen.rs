//! The listener: TLS, one task per connection, drained at the end.

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::authenticate::certificate_user;
use crate::limits::{Limits, MAX_HEAD};
use crate::server::Server;
use crate::user::User;

use super::Peer;
use super::guard::Guarded;

/// A bound socket that speaks TLS.
pub struct Listener {
    socket: TcpListener,
    tls: TlsAcceptor,
}

impl Listener {
    /// Takes a socket that is bound, so that a port in use is known before anything else is done.
    pub fn new(socket: TcpListener, tls: rustls::ServerConfig) -> Self {
        Self { socket, tls: TlsAcceptor::from(Arc::new(tls)) }
    }

    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// How long nobody is let in after a failure: the first pause and the longest, as in Go's http.Server.
const PAUSES: (std::time::Duration, std::time::Duration) = (std::time::Duration::from_millis(5), std::time::Duration::from_secs(1));

/// How long a client may take for its TLS handshake.
const HANDSHAKE: std::time::Duration = std::time::Duration::from_secs(10);

/// Serves until `stop`; then watches end, requests get the time that they may take, and what goes on is ended.
pub async fn serve(listener: Listener, server: Arc<Server>, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    let mut pause = PAUSES.0;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "connection task failed");
                }
            }
            accepted = listener.socket.accept() => match accepted {
                Ok((stream, address)) => {
                    let (tls, server, stop) = (listener.tls.clone(), server.clone(), stop.clone());
                    connections.spawn(connection(stream, address, tls, server, stop));
                    pause = PAUSES.0;
                }
                // Without descriptors the next try would fail at once, and the one after it.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
            }
        }
    }
    // From here on clients are refused, and go elsewhere.
    drop(listener);
    server.ending.cancel();
    let drained = async { while connections.join_next().await.is_some() {} };
    // Requests get the time that they may take. What lasts as long as its client likes does not hold up the end.
    let answered = async {
        server.busy.close();
        server.busy.wait().await;
        tokio::time::sleep(FAREWELL).await;
    };
    tokio::select! {
        biased;
        () = drained => return,
        () = answered => {}
        () = tokio::time::sleep(server.limits.request) => tracing::warn!("requests are cut off by the end of the server"),
    }
    connections.shutdown().await;
}

/// How long the last answers may take to reach their clients.
const FAREWELL: std::time::Duration = std::time::Duration::from_secs(2);

async fn connection(stream: TcpStream, address: SocketAddr, tls: TlsAcceptor, server: Arc<Server>, stop: CancellationToken) {
    // Small answers must not wait for an acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let stream = match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => return tracing::debug!("TLS handshake took too long"),
    };
    let certificates = stream.get_ref().1.peer_certificates();
    let certificate = certificates.and_then(|c| c.first()).and_then(|c| certificate_user(c));
    let multiplexed = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    converse(stream, (address, certificate), multiplexed, server, stop).await;
}

/// Speaks HTTP over a stream whose other end is known by its address and its certificate; `multiplexed` says that it is HTTP/2.
pub async fn converse<S>(
    stream: S,
    (address, certificate): (SocketAddr, Option<User>),
    multiplexed: bool,
    server: Arc<Server>,
    stop: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = server.limits.clone();
    let peer = Arc::new(Peer { address, certificate, upgraded: Arc::default(), unsent: Arc::default() });
    let unsent = peer.unsent.clone();
    let stream = Guarded::new(stream, limits.head, limits.stall, peer.upgraded.clone());
    let service = service_fn(move |request| {
        let (server, peer) = (server.clone(), peer.clone());
        async move { Ok::<_, std::convert::Infallible>(super::handle(server, &peer, request).await) }
    });
    let builder = builder(&limits, multiplexed);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        biased;
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = unsent.overdue() => return tracing::info!(client = %address, "an answer was not taken in time: its connection is closed"),
        ended = connection.as_mut() => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended early");
    }
}

/// The protocol that was agreed on in the TLS handshake, with its limits.
fn builder(limits: &Limits, multiplexed: bool) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.head).max_buf_size(MAX_HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(MAX_HEAD as u32)
        // Who opens streams only to reset them is cut off; see CVE-2023-44487.
        .max_pending_accept_reset_streams(RESETS)
        // A network that was cut sends no end, and a client that stopped answers no question.
        .keep_alive_interval(SILENCE)
        .keep_alive_timeout(SILENCE);
    if multiplexed { builder.http2_only() } else { builder.http1_only() }
}

const RESETS: usize = 100;
const SILENCE: std::time::Duration = std::time::Duration::from_secs(30);
