//! Connections to webhooks, kept for a while: a handshake costs more than an admission.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http_body_util::Full;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Service, Target, WebhookError};
use crate::endpoints;
use crate::nodes::{Nodes, Stream};
use crate::registry::{Place, Registry};
use crate::tls;

/// How long a connection is kept that nobody uses; see Go's http.DefaultTransport.
const IDLE: Duration = Duration::from_secs(90);
/// How many are kept to one webhook.
const KEPT: usize = 16;
/// How many webhooks are known; with one more all are forgotten, and their connections end with their requests.
const MOST: usize = 128;

/// What has connections in common: where they lead, and who vouches for it.
#[derive(PartialEq, Eq, Hash)]
struct Destination {
    service: Option<Service>,
    authority: String,
    ca_bundle: Vec<u8>,
}

type Kept = Client<Connector, Full<Bytes>>;

#[derive(Default)]
pub(super) struct Connections(Mutex<HashMap<Destination, Kept>>);

impl Connections {
    /// The connections to a webhook at an address.
    pub(super) fn to(
        &self,
        target: &Target,
        uri: &Uri,
        connector: impl FnOnce() -> Result<Connector, WebhookError>,
    ) -> Result<Kept, WebhookError> {
        let authority = uri.authority().map_or_else(String::new, |authority| authority.as_str().to_ascii_lowercase());
        let destination = Destination { service: target.service.clone(), authority, ca_bundle: target.ca_bundle.clone() };
        if let Some(known) = self.0.lock().get(&destination) {
            return Ok(known.clone());
        }
        let made = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(KEPT)
            .build(connector()?);
        let mut known = self.0.lock();
        if known.len() >= MOST {
            known.clear();
        }
        Ok(known.entry(destination).or_insert(made).clone())
    }
}

/// Why there is no answer.
pub(super) fn failed(error: &Error) -> WebhookError {
    let mut causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    let own = causes.find_map(|cause| cause.downcast_ref::<WebhookError>());
    match own {
        Some(WebhookError::Configuration(why)) => WebhookError::Configuration(why.clone()),
        Some(other) => WebhookError::Unreachable(other.to_string()),
        None => WebhookError::Unreachable(std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)),
    }
}

/// Makes connections to one webhook.
#[derive(Clone)]
pub(super) struct Connector {
    nodes: Arc<dyn Nodes>,
    registry: Weak<Registry>,
    service: Option<Service>,
    config: Arc<ClientConfig>,
}

impl Connector {
    pub(super) fn new(nodes: Arc<dyn Nodes>, registry: Weak<Registry>, target: &Target) -> Result<Self, WebhookError> {
        let config = tls::trusting(&target.ca_bundle).map_err(|e| WebhookError::Configuration(e.to_string()))?;
        Ok(Self { nodes, registry, service: target.service.clone(), config: Arc::new(config) })
    }

    async fn connect(self, uri: Uri) -> Result<Secured, WebhookError> {
        let host = uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let stream = match &self.service {
            Some(service) => self.to_service(service).await?,
            None => to_address(host, uri.port_u16().unwrap_or(443)).await?,
        };
        // Services are known by their name, whichever address answers.
        let name = match &self.service {
            Some(service) => format!("{}.{}.svc", service.name, service.namespace),
            None => host.to_string(),
        };
        let name = ServerName::try_from(name).map_err(|e| WebhookError::Configuration(e.to_string()))?;
        let connected = TlsConnector::from(self.config).connect(name, stream).await;
        Ok(Secured(TokioIo::new(connected.map_err(|e| WebhookError::Unreachable(format!("tls: {e}")))?)))
    }

    async fn to_service(&self, service: &Service) -> Result<Box<dyn Stream>, WebhookError> {
        let unreachable = |status: fram_machinery::Status| WebhookError::Unreachable(status.message);
        let missing = || WebhookError::Unreachable(format!("service {:?} not found", service.name));
        let registry = self.registry.upgrade().ok_or_else(missing)?;
        let served = registry.served("", "v1", "services").ok_or_else(missing)?;
        let place = Place { served, namespace: service.namespace.clone(), name: service.name.clone() };
        let object = registry.get_object(&place).await.map_err(unreachable)?;
        let (node, address) = endpoints::of_service(&registry, &object, &service.port.to_string()).await.map_err(unreachable)?;
        endpoints::dial(&*self.nodes, &node, address).await.map_err(unreachable)
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = Secured;
    type Error = WebhookError;
    type Future = Pin<Box<dyn Future<Output = Result<Secured, WebhookError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), WebhookError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

async fn to_address(host: &str, port: u16) -> Result<Box<dyn Stream>, WebhookError> {
    let connected = tokio::net::TcpStream::connect((host, port)).await;
    Ok(Box::new(connected.map_err(|e| WebhookError::Unreachable(format!("dial {host}:{port}: {e}")))?))
}

/// A connection by TLS.
pub(super) struct Secured(TokioIo<TlsStream<Box<dyn Stream>>>);

impl Connection for Secured {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Secured {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl Write for Secured {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
