//! Calls of webhooks: by URL, or through a Service to one of its endpoints over the node's own connection. What is asked and
//! what an answer means is the caller's business.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use fram_machinery::{Value, json};
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use crate::endpoints;
use crate::nodes::{Nodes, Stream};
use crate::registry::{Place, Registry};
use crate::tls;

/// Larger answers are refused.
const MAX_ANSWER: usize = 3 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub(crate) enum WebhookError {
    #[error("invalid client configuration: {0}")]
    Configuration(String),
    #[error("{0}")]
    Unreachable(String),
    #[error("context deadline exceeded")]
    Timeout,
    #[error("the server answered with status {0}")]
    Answer(u16),
    #[error("could not read the answer: {0}")]
    Body(String),
}

/// Where a webhook is; read from the clientConfig of a configuration or definition.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Target {
    service: Option<Service>,
    url: String,
    ca_bundle: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq)]
struct Service {
    namespace: String,
    name: String,
    port: i64,
}

impl Target {
    pub(crate) fn read(client_config: &Value) -> Self {
        let ca = client_config.str_at(&["caBundle"]);
        let ca_bundle = base64::engine::general_purpose::STANDARD.decode(ca).unwrap_or_default();
        let Some(service) = client_config.get("service").filter(|s| !s.is_null()) else {
            return Self { service: None, url: client_config.str_at(&["url"]).into(), ca_bundle };
        };
        let (name, namespace) = (service.str_at(&["name"]).to_string(), service.str_at(&["namespace"]).to_string());
        let port = service.int_at(&["port"]).unwrap_or(443);
        let path = service.str_at(&["path"]);
        let slash = if path.starts_with('/') { "" } else { "/" };
        let url = format!("https://{name}.{namespace}.svc:{port}{slash}{path}");
        Self { service: Some(Service { namespace, name, port }), url, ca_bundle }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

/// The way to webhooks.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) nodes: Arc<dyn Nodes>,
}

impl Caller {
    /// Posts a document and returns the answer.
    pub(crate) async fn post(&self, registry: &Registry, target: &Target, body: &Value, timeout: Duration) -> Result<Value, WebhookError> {
        tokio::time::timeout(timeout, self.exchange(registry, target, json::to_vec(body), timeout))
            .await
            .unwrap_or(Err(WebhookError::Timeout))
    }

    async fn exchange(&self, registry: &Registry, target: &Target, body: Vec<u8>, timeout: Duration) -> Result<Value, WebhookError> {
        let uri: Uri = target.url.parse().map_err(|e| WebhookError::Configuration(format!("{:?}: {e}", target.url)))?;
        let host = uri.host().ok_or_else(|| WebhookError::Configuration(format!("{:?} names no host", target.url)))?;
        if uri.scheme_str() != Some("https") {
            return Err(WebhookError::Configuration(format!("{:?} is not https", target.url)));
        }
        let stream = match &target.service {
            Some(service) => self.to_service(registry, service).await?,
            None => to_url(host, uri.port_u16().unwrap_or(443)).await?,
        };
        let stream = secured(target, host, stream).await?;
        let broken = |e: hyper::Error| WebhookError::Unreachable(e.to_string());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let question = uri.query().map(|q| format!("{q}&")).unwrap_or_default();
        let request = Request::post(format!("{}?{question}timeout={}s", uri.path(), timeout.as_secs()))
            .header(header::HOST, uri.authority().map_or(host, |a| a.as_str()))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| WebhookError::Configuration(e.to_string()))?;
        let answer = async move {
            let response = sender.send_request(request).await.map_err(broken)?;
            let code = response.status().as_u16();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|e| WebhookError::Body(e.to_string()))?.to_bytes();
            if !(200..300).contains(&code) {
                return Err(WebhookError::Answer(code));
            }
            json::from_slice(&body).map_err(|e| WebhookError::Body(e.to_string()))
        };
        // The connection is driven until the answer is there, and ends when nobody asks any more.
        tokio::join!(answer, connection).0
    }

    async fn to_service(&self, registry: &Registry, service: &Service) -> Result<Box<dyn Stream>, WebhookError> {
        let unreachable = |status: fram_machinery::Status| WebhookError::Unreachable(status.message);
        let missing = || WebhookError::Unreachable(format!("service {:?} not found", service.name));
        let served = registry.served("", "v1", "services").ok_or_else(missing)?;
        let place = Place { served, namespace: service.namespace.clone(), name: service.name.clone() };
        let object = registry.get_object(&place).await.map_err(unreachable)?;
        let (node, address) = endpoints::of_service(registry, &object, &service.port.to_string()).await.map_err(unreachable)?;
        endpoints::dial(&*self.nodes, &node, address).await.map_err(unreachable)
    }
}

async fn to_url(host: &str, port: u16) -> Result<Box<dyn Stream>, WebhookError> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let connected = tokio::net::TcpStream::connect((host, port)).await;
    Ok(Box::new(connected.map_err(|e| WebhookError::Unreachable(format!("dial {host}:{port}: {e}")))?))
}

/// TLS with a server that the target's CA bundle vouches for.
async fn secured(
    target: &Target,
    host: &str,
    stream: Box<dyn Stream>,
) -> Result<tokio_rustls::client::TlsStream<Box<dyn Stream>>, WebhookError> {
    let config = tls::trusting(&target.ca_bundle).map_err(|e| WebhookError::Configuration(e.to_string()))?;
    // Services are known by their name, whichever address answers.
    let name = match &target.service {
        Some(service) => format!("{}.{}.svc", service.name, service.namespace),
        None => host.trim_start_matches('[').trim_end_matches(']').to_string(),
    };
    let name = ServerName::try_from(name).map_err(|e| WebhookError::Configuration(e.to_string()))?;
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    connected.map_err(|e| WebhookError::Unreachable(format!("tls: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    #[test]
    fn a_service_is_addressed_by_its_name_in_the_cluster() {
        let service = |path: Value| {
            let mut config = object!({ "service": { "name": "hook", "namespace": "ns" } });
            config.set(&["service", "path"], path);
            Target::read(&config).url
        };
        assert_eq!(service("/check".into()), "https://hook.ns.svc:443/check");
        assert_eq!(service(Value::Null), "https://hook.ns.svc:443/");
        assert_eq!(Target::read(&object!({ "url": "https://a.example/x" })).url, "https://a.example/x");
    }
}
