//! Calls of webhooks: by URL, or through a Service to one of its endpoints over the node's own connection. What is asked and
//! what an answer means is the caller's business.

mod connections;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use fram_machinery::{Value, json};
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};

use crate::nodes::Nodes;
use crate::registry::Registry;
use connections::{Connections, Connector, failed};

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

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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
    connections: Arc<Connections>,
}

impl Caller {
    pub(crate) fn new(nodes: Arc<dyn Nodes>) -> Self {
        Self { nodes, connections: Arc::default() }
    }

    /// Posts a document and returns the answer.
    pub(crate) async fn post(&self, registry: &Registry, target: &Target, body: &Value, timeout: Duration) -> Result<Value, WebhookError> {
        tokio::time::timeout(timeout, self.exchange(registry, target, json::to_vec(body), timeout))
            .await
            .unwrap_or(Err(WebhookError::Timeout))
    }

    async fn exchange(&self, registry: &Registry, target: &Target, body: Vec<u8>, timeout: Duration) -> Result<Value, WebhookError> {
        let uri: Uri = target.url.parse().map_err(|e| WebhookError::Configuration(format!("{:?}: {e}", target.url)))?;
        if uri.host().is_none() {
            return Err(WebhookError::Configuration(format!("{:?} names no host", target.url)));
        }
        if uri.scheme_str() != Some("https") {
            return Err(WebhookError::Configuration(format!("{:?} is not https", target.url)));
        }
        let query = if uri.query().is_some() { '&' } else { '?' };
        let body = Bytes::from(body);
        let request = || {
            let request = Request::post(format!("{}{query}timeout={}s", target.url, timeout.as_secs()));
            let request = request.header(header::CONTENT_TYPE, "application/json").header(header::ACCEPT, "application/json");
            request.body(Full::new(body.clone())).map_err(|e| WebhookError::Configuration(e.to_string()))
        };
        let client = self.connections.to(target, &uri, || Connector::new(self.nodes.clone(), registry.weak(), target))?;
        let response = match client.request(request()?).await {
            // A connection that was kept may have ended just now. Reviews may be asked for twice; see the contract of webhooks.
            Err(error) if !error.is_connect() => client.request(request()?).await,
            other => other,
        };
        let response = response.map_err(|error| failed(&error))?;
        let code = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|e| WebhookError::Body(e.to_string()))?.to_bytes();
        if !(200..300).contains(&code) {
            return Err(WebhookError::Answer(code));
        }
        json::from_slice(&body).map_err(|e| WebhookError::Body(e.to_string()))
    }
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
