//! TCP and TLS connections for the registry client, pooled by hyper-util; decides which certificates to trust per host.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::config::RegistryConfig;

pub(super) type HttpClient = Client<Connector, Full<Bytes>>;

/// Where distributions keep the certificates they trust.
const SYSTEM_BUNDLES: [&str; 4] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"];

pub(super) fn client(config: &RegistryConfig) -> HttpClient {
    let ca_files = config.hosts.iter().filter_map(|(name, host)| host.ca_file.clone().map(|file| (name.clone(), file))).collect();
    let connector = Connector { shared: Arc::new(Shared { ca_files, system: OnceLock::new(), timeout: config.connect_timeout }) };
    Client::builder(TokioExecutor::new())
        .pool_idle_timeout(Duration::from_secs(30))
        .pool_timer(hyper_util::rt::TokioTimer::new())
        .pool_max_idle_per_host(4)
        .build(connector)
}

#[derive(Clone)]
pub(super) struct Connector {
    shared: Arc<Shared>,
}

struct Shared {
    ca_files: BTreeMap<String, PathBuf>,
    /// Read once, when the first TLS connection needs it.
    system: OnceLock<Arc<ClientConfig>>,
    timeout: Duration,
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let shared = self.shared.clone();
        Box::pin(async move {
            match tokio::time::timeout(shared.timeout, shared.connect(&uri)).await {
                Ok(result) => result.map(TokioIo::new),
                Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "connecting took too long")),
            }
        })
    }
}

impl Shared {
    async fn connect(&self, uri: &Uri) -> io::Result<Stream> {
        let invalid = |reason: &str| io::Error::new(io::ErrorKind::InvalidInput, reason.to_owned());
        let authority = uri.authority().ok_or_else(|| invalid("address without a host"))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let secure = uri.scheme_str() == Some("https");
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let tcp = TcpStream::connect((host, port)).await?;
        tcp.set_nodelay(true)?;
        if !secure {
            return Ok(Stream::Plain(tcp));
        }
        let name = ServerName::try_from(host.to_owned()).map_err(|_| invalid("invalid host name"))?;
        let tls = TlsConnector::from(self.tls(authority.as_str())?).connect(name, tcp).await?;
        Ok(Stream::Tls(Box::new(tls)))
    }

    fn tls(&self, authority: &str) -> io::Result<Arc<ClientConfig>> {
        if let Some(file) = self.ca_files.get(authority) {
            return tls_config(file);
        }
        if let Some(config) = self.system.get() {
            return Ok(config.clone());
        }
        let bundle = SYSTEM_BUNDLES.iter().map(Path::new).find(|p| p.exists()).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, "no CA certificates on this system (package ca-certificates), and none configured")
        })?;
        let config = tls_config(bundle)?;
        Ok(self.system.get_or_init(|| config).clone())
    }
}

fn tls_config(bundle: &Path) -> io::Result<Arc<ClientConfig>> {
    let fail = |reason: String| io::Error::new(io::ErrorKind::InvalidData, format!("CA file {}: {reason}", bundle.display()));
    let mut roots = RootCertStore::empty();
    let certificates: Vec<_> = CertificateDer::pem_file_iter(bundle)
        .map_err(|e| fail(e.to_string()))?
        .collect::<Result<_, _>>()
        .map_err(|e| fail(e.to_string()))?;
    // System bundles hold certificates that webpki cannot read; the others still count.
    if roots.add_parsable_certificates(certificates).0 == 0 {
        return Err(fail("no usable certificate".into()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| fail(e.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// A connection, encrypted or not.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_read(cx, buffer),
            Self::Tls(s) => Pin::new(s).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_write(cx, bytes),
            Self::Tls(s) => Pin::new(s).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_flush(cx),
            Self::Tls(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_shutdown(cx),
            Self::Tls(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}
