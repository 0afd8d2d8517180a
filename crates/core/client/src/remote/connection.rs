//! One HTTP/2 connection, made when it is needed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::task::TaskTracker;

use super::Kubeconfig;

#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("kubeconfig {}: {reason}", path.display())]
    Kubeconfig { path: PathBuf, reason: String },
    #[error("{what} is not PEM: {reason}")]
    Pem { what: &'static str, reason: String },
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("bad server address {0:?}")]
    Address(String),
    #[error("cannot connect to {address}: {source}")]
    Connect { address: String, source: std::io::Error },
    #[error("connection: {0}")]
    Http(#[from] hyper::Error),
}

impl RemoteError {
    /// Whether nobody listens at the server's address.
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Connect { source, .. } if source.kind() == std::io::ErrorKind::ConnectionRefused)
    }
}

pub(super) struct Connection {
    host: String,
    port: u16,
    name: ServerName<'static>,
    connectors: parking_lot::RwLock<Connectors>,
    token: Option<HeaderValue>,
    current: Mutex<Option<SendRequest<Full<Bytes>>>>,
    tasks: TaskTracker,
}

/// TLS as a kubeconfig says; its protocols are named in ALPN.
pub(super) fn tls_config(config: &Kubeconfig, protocol: &[u8]) -> Result<rustls::ClientConfig, RemoteError> {
    let pem = |what| move |e: rustls::pki_types::pem::Error| RemoteError::Pem { what, reason: e.to_string() };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(config.ca.as_bytes()) {
        roots.add(certificate.map_err(pem("certificate authority"))?)?;
    }
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut tls = match &config.identity {
        Some((certificate, key)) => {
            let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<Vec<_>, _>>();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(pem("client key"))?;
            builder.with_client_auth_cert(chain.map_err(pem("client certificate"))?, key)?
        }
        None => builder.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![protocol.to_vec()];
    Ok(tls)
}

/// TLS for the shared connection, and for those that become streams, which HTTP/2 does not know.
struct Connectors {
    shared: TlsConnector,
    upgraded: TlsConnector,
}

impl Connectors {
    fn new(config: &Kubeconfig) -> Result<Self, RemoteError> {
        let connector = |protocol| Ok::<_, RemoteError>(TlsConnector::from(Arc::new(tls_config(config, protocol)?)));
        Ok(Self { shared: connector(b"h2")?, upgraded: connector(b"http/1.1")? })
    }
}

/// What came of a request to upgrade.
pub enum Upgrade {
    /// The answer's headers, and the stream that the connection is now.
    Stream(http::HeaderMap, Box<TokioIo<Upgraded>>),
    Refused(Response<Incoming>),
}

/// A connection over which nothing comes for this long is asked whether it lives, and given up when it does not answer:
/// a network that was cut sends no end.
const SILENCE: Duration = Duration::from_secs(10);

impl Connection {
    /// Connections made from now on show another identity; what goes on over the present one goes on.
    pub(super) async fn renew(&self, config: &Kubeconfig) -> Result<(), RemoteError> {
        *self.connectors.write() = Connectors::new(config)?;
        *self.current.lock().await = None;
        Ok(())
    }

    pub(super) fn new(config: &Kubeconfig) -> Result<Self, RemoteError> {
        let bad = || RemoteError::Address(config.server.clone());
        let uri: Uri = config.server.parse().map_err(|_| bad())?;
        let host = uri.host().ok_or_else(bad)?.to_string();
        let token = config.token.as_ref().map(|t| HeaderValue::try_from(format!("Bearer {t}"))).transpose();
        Ok(Self {
            name: ServerName::try_from(host.clone()).map_err(|_| bad())?,
            port: uri.port_u16().unwrap_or(443),
            host,
            connectors: parking_lot::RwLock::new(Connectors::new(config)?),
            token: token.map_err(|_| RemoteError::Kubeconfig { path: PathBuf::new(), reason: "the token is not a header value".into() })?,
            current: Mutex::new(None),
            tasks: TaskTracker::new(),
        })
    }

    /// Sends a request whose URI is path and query. A connection that has ended is made anew, once.
    pub(super) async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>, RemoteError> {
        let bad = || RemoteError::Address(request.uri().to_string());
        let path = request.uri().path_and_query().ok_or_else(bad)?.clone();
        let authority = format!("{}:{}", self.host, self.port);
        let uri = Uri::builder().scheme("https").authority(authority).path_and_query(path).build().map_err(|_| bad())?;
        *request.uri_mut() = uri;
        if let Some(token) = &self.token {
            request.headers_mut().insert(header::AUTHORIZATION, token.clone());
        }
        let mut sender = self.sender().await?;
        Ok(sender.send_request(request).await?)
    }

    async fn dial(&self, tls: TlsConnector) -> Result<TlsStream<TcpStream>, RemoteError> {
        let address = format!("{}:{}", self.host, self.port);
        let failed = |source| RemoteError::Connect { address: address.clone(), source };
        let stream = TcpStream::connect(&address).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        tls.connect(self.name.clone(), stream).await.map_err(failed)
    }

    /// Sends a request that asks for another protocol, over a connection of its own.
    pub(super) async fn upgrade(&self, mut request: Request<Full<Bytes>>) -> Result<Upgrade, RemoteError> {
        let tls = self.connectors.read().upgraded.clone();
        let stream = self.dial(tls).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        self.tasks.spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to the API server ended");
            }
        });
        let host = format!("{}:{}", self.host, self.port);
        let host = HeaderValue::try_from(&host).map_err(|_| RemoteError::Address(host))?;
        request.headers_mut().insert(header::HOST, host);
        if let Some(token) = &self.token {
            request.headers_mut().insert(header::AUTHORIZATION, token.clone());
        }
        let mut response = sender.send_request(request).await?;
        if response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Upgrade::Refused(response));
        }
        let stream = hyper::upgrade::on(&mut response).await?;
        Ok(Upgrade::Stream(response.into_parts().0.headers, Box::new(TokioIo::new(stream))))
    }

    async fn sender(&self) -> Result<SendRequest<Full<Bytes>>, RemoteError> {
        let mut current = self.current.lock().await;
        if let Some(sender) = current.as_mut()
            && sender.ready().await.is_ok()
        {
            return Ok(sender.clone());
        }
        let tls = self.connectors.read().shared.clone();
        let stream = self.dial(tls).await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(SILENCE)
            .keep_alive_timeout(SILENCE)
            .handshake(TokioIo::new(stream))
            .await?;
        self.tasks.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to the API server ended");
            }
        });
        *current = Some(sender.clone());
        Ok(sender)
    }
}
