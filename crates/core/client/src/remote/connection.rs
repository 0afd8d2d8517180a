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
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;

use super::{Kubeconfig, Servers, warning};
use crate::unverified;

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
    #[error("the server's address {0:?} is not https: nothing is sent without TLS")]
    NotTls(String),
    #[error("no certificate authority is given for the server, and those of the system are not asked: add certificate-authority-data")]
    NoAuthority,
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

/// Who is told what a server warns of.
pub(super) type Warned = Arc<dyn Fn(&str) + Send + Sync>;

pub(super) struct Connection {
    servers: Servers,
    pub(super) warned: Option<Warned>,
    connectors: parking_lot::RwLock<Connectors>,
    token: Option<HeaderValue>,
    current: Mutex<Option<SendRequest<Full<Bytes>>>>,
    tasks: TaskTracker,
}

/// TLS as a kubeconfig says; its protocols are named in ALPN.
pub(super) fn tls_config(config: &Kubeconfig, protocol: &[u8]) -> Result<rustls::ClientConfig, RemoteError> {
    let pem = |what| move |e: rustls::pki_types::pem::Error| RemoteError::Pem { what, reason: e.to_string() };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let builder = if config.insecure {
        builder.dangerous().with_custom_certificate_verifier(unverified::verifier(&provider))
    } else {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(config.ca.as_bytes()) {
            roots.add(certificate.map_err(pem("certificate authority"))?)?;
        }
        if roots.is_empty() {
            return Err(RemoteError::NoAuthority);
        }
        builder.with_root_certificates(roots)
    };
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

    pub(super) fn new(config: &Kubeconfig, servers: Servers) -> Result<Self, RemoteError> {
        let token = config.token.as_ref().map(|t| HeaderValue::try_from(format!("Bearer {t}"))).transpose();
        Ok(Self {
            servers,
            warned: None,
            connectors: parking_lot::RwLock::new(Connectors::new(config)?),
            token: token.map_err(|_| RemoteError::Kubeconfig { path: PathBuf::new(), reason: "the token is not a header value".into() })?,
            current: Mutex::new(None),
            tasks: TaskTracker::new(),
        })
    }

    /// Sends a request whose URI is path and query. A connection that has ended is made anew, once.
    pub(super) async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>, RemoteError> {
        let uri = Uri::builder().scheme("https").authority(self.servers.home().authority.as_str());
        let uri = uri.path_and_query(self.servers.home().path(request.uri())?).build();
        *request.uri_mut() = uri.map_err(|_| RemoteError::Address(self.servers.home().authority.clone()))?;
        if let Some(token) = &self.token {
            request.headers_mut().insert(header::AUTHORIZATION, token.clone());
        }
        let mut sender = self.sender().await?;
        let response = sender.send_request(request).await?;
        self.servers.answered(response.status());
        self.pass_on_warnings(&response);
        Ok(response)
    }

    fn pass_on_warnings(&self, response: &Response<Incoming>) {
        let Some(warned) = &self.warned else { return };
        let headers = response.headers().get_all(header::WARNING).iter();
        headers.flat_map(|h| warning::texts(&String::from_utf8_lossy(h.as_bytes()))).for_each(|text| warned(&text));
    }

    /// Sends a request that asks for another protocol, over a connection of its own.
    pub(super) async fn upgrade(&self, mut request: Request<Full<Bytes>>) -> Result<Upgrade, RemoteError> {
        let tls = self.connectors.read().upgraded.clone();
        let stream = self.servers.dial(&tls).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        self.tasks.spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to the API server ended");
            }
        });
        let bad = |_| RemoteError::Address(self.servers.home().authority.clone());
        let host = HeaderValue::try_from(&self.servers.home().authority).map_err(bad)?;
        request.headers_mut().insert(header::HOST, host);
        *request.uri_mut() = Uri::from(self.servers.home().path(request.uri())?);
        if let Some(token) = &self.token {
            request.headers_mut().insert(header::AUTHORIZATION, token.clone());
        }
        let mut response = sender.send_request(request).await?;
        self.pass_on_warnings(&response);
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
        let (tls, mut passings) = (self.connectors.read().shared.clone(), self.servers.passings());
        let stream = self.servers.dial(&tls).await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(SILENCE)
            .keep_alive_timeout(SILENCE)
            .handshake(TokioIo::new(stream))
            .await?;
        self.tasks.spawn(async move {
            tokio::select! {
                ended = connection => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "the connection to the API server ended");
                    }
                }
                // With the connection end its watches, which begin anew at another server.
                Ok(()) = passings.changed() => {}
            }
        });
        *current = Some(sender.clone());
        Ok(sender)
    }
}
