//! The listener: TLS, one task per connection, drained at the end.

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::authenticate::certificate_user;
use crate::server::Server;
use crate::user::User;

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

/// How long a client may take for its TLS handshake.
const HANDSHAKE: std::time::Duration = std::time::Duration::from_secs(10);

/// Serves until `stop`, then lets running requests finish for a moment and ends what goes on, watches among them.
pub async fn serve(listener: Listener, server: Arc<Server>, stop: CancellationToken) {
    let mut connections = JoinSet::new();
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
                Ok((stream, _)) => {
                    let (tls, server, stop) = (listener.tls.clone(), server.clone(), stop.clone());
                    connections.spawn(connection(stream, tls, server, stop));
                }
                Err(error) => tracing::warn!(%error, "cannot accept a connection"),
            }
        }
    }
    let drain = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(std::time::Duration::from_secs(2), drain).await.is_err() {
        connections.shutdown().await;
    }
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, server: Arc<Server>, stop: CancellationToken) {
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
    let user: Option<User> = certificates.and_then(|c| c.first()).and_then(|c| certificate_user(c));
    converse(stream, user, server, stop).await;
}

/// Speaks HTTP over a stream whose other end is known: as that user, or as whom each request shows itself to be.
pub async fn converse<S>(stream: S, user: Option<User>, server: Arc<Server>, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let (server, user) = (server.clone(), user.clone());
        async move { Ok::<_, std::convert::Infallible>(super::handle(server, user, request).await) }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        biased;
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        ended = connection.as_mut() => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended early");
    }
}
