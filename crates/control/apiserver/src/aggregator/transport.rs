//! The way to the server behind an APIService: to one of its Service's endpoints over the node's own connection, by TLS as the front
//! proxy. What is asked is the caller's business.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fram_client::unverified;
use fram_machinery::{Status, Value};
use http::{HeaderMap, HeaderName, HeaderValue, Request, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::service::{ApiService, ServiceRef};
use crate::endpoints;
use crate::nodes::Stream;
use crate::registry::Place;
use crate::server::Server;
use crate::tls;
use crate::user::User;

#[derive(Debug, thiserror::Error)]
pub(crate) enum TransportError {
    /// The Service leads nowhere.
    #[error("service unavailable")]
    Unresolved,
    #[error("{0}")]
    Configuration(String),
    #[error("error trying to reach service: {0}")]
    Unreachable(String),
    #[error("could not read the answer: {0}")]
    Answer(String),
    #[error("timed out")]
    Timeout,
}

/// A connection, and the name under which the server is known.
pub(crate) struct Connection {
    pub(crate) stream: Box<dyn Stream>,
    pub(crate) host: String,
}

/// What a server answered.
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// How long a connection may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connects to the server behind an APIService.
pub(crate) async fn connect(server: &Server, service: &ApiService) -> Result<Connection, TransportError> {
    // A handshake is large: whoever might connect should not carry the space for it.
    tokio::time::timeout(PATIENCE, Box::pin(secured(server, service))).await.unwrap_or(Err(TransportError::Timeout))
}

async fn secured(server: &Server, service: &ApiService) -> Result<Connection, TransportError> {
    let target = service.service.as_ref().ok_or(TransportError::Unresolved)?;
    let bad = |e: &dyn std::fmt::Display| TransportError::Configuration(e.to_string());
    let config = match service.insecure {
        true => unverified::config(&[]).map_err(|e| bad(&e))?,
        false => tls::trusting(&service.ca_bundle).map_err(|e| bad(&e))?,
    };
    let config = tls::as_client(config, server.aggregator.identity());
    let host = target.host();
    let name = ServerName::try_from(host.clone()).map_err(|e| bad(&e))?;
    let stream = reach(server, target).await?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let stream = stream.map_err(|e| TransportError::Unreachable(format!("tls: {e}")))?;
    Ok(Connection { stream: Box::new(stream), host: format!("{host}:{}", target.port) })
}

/// A stream to one of the Service's endpoints, or to the name that it stands for.
async fn reach(server: &Server, target: &ServiceRef) -> Result<Box<dyn Stream>, TransportError> {
    let registry = &server.registry;
    let service = find(server, target).await.map_err(|_| TransportError::Unresolved)?;
    let unreachable = |e: &dyn std::fmt::Display| TransportError::Unreachable(e.to_string());
    if service.str_at(&["spec", "type"]) == "ExternalName" {
        let name = service.str_at(&["spec", "externalName"]);
        let port = u16::try_from(target.port).map_err(|e| unreachable(&e))?;
        return Ok(Box::new(tokio::net::TcpStream::connect((name, port)).await.map_err(|e| unreachable(&e))?));
    }
    let found: Result<(String, SocketAddr), Status> = endpoints::of_service(registry, &service, &target.port.to_string()).await;
    let (node, address) = found.map_err(|_| TransportError::Unresolved)?;
    endpoints::dial(&*server.nodes, &node, address).await.map_err(|e| unreachable(&e))
}

async fn find(server: &Server, target: &ServiceRef) -> Result<Value, Status> {
    let served = server.registry.served("", "v1", "services").ok_or_else(Status::no_such_path)?;
    let place = Place { served, namespace: target.namespace.clone(), name: target.name.clone() };
    server.registry.get_object(&place).await
}

/// What to get from a server, and as whom.
pub(crate) struct Question<'a> {
    pub(crate) path: &'a str,
    pub(crate) accept: &'static str,
    /// What is known already.
    pub(crate) etag: &'a str,
    pub(crate) user: &'a User,
    /// In bytes.
    pub(crate) most: usize,
    pub(crate) patience: Duration,
}

/// Gets a document from the server behind an APIService.
pub(crate) async fn ask(server: &Server, service: &ApiService, question: &Question<'_>) -> Result<Answer, TransportError> {
    tokio::time::timeout(question.patience, Box::pin(exchange(server, service, question))).await.unwrap_or(Err(TransportError::Timeout))
}

async fn exchange(server: &Server, service: &ApiService, question: &Question<'_>) -> Result<Answer, TransportError> {
    let Connection { stream, host } = connect(server, service).await?;
    let broken = |e: hyper::Error| TransportError::Unreachable(e.to_string());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let request = Request::get(question.path).header(header::HOST, host).header(header::ACCEPT, question.accept);
    let request = if question.etag.is_empty() { request } else { request.header(header::IF_NONE_MATCH, question.etag) };
    let mut request = request.body(Empty::<Bytes>::new()).map_err(|e| TransportError::Configuration(format!("{}: {e}", question.path)))?;
    identify(request.headers_mut(), question.user);
    let answer = async move {
        let (parts, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
        let body = Limited::new(body, question.most).collect().await.map_err(|e| TransportError::Answer(e.to_string()))?;
        Ok(Answer { code: parts.status.as_u16(), headers: parts.headers, body: body.to_bytes() })
    };
    // The connection is driven until the answer is there, and ends when nobody asks any more.
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        _ = connection => answer.await,
    }
}

const REMOTE: &str = "x-remote-";
const REMOTE_USER: HeaderName = HeaderName::from_static("x-remote-user");
const REMOTE_UID: HeaderName = HeaderName::from_static("x-remote-uid");
const REMOTE_GROUP: HeaderName = HeaderName::from_static("x-remote-group");

/// Says for whom the front proxy asks, in place of whatever the client said; see SetAuthProxyHeaders.
pub(crate) fn identify(headers: &mut HeaderMap, user: &User) {
    let given: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with(REMOTE)).cloned().collect();
    given.iter().for_each(|name| drop(headers.remove(name)));
    let mut add = |name: HeaderName, value: &str| {
        // A name that no header can hold is nobody's.
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            headers.append(name, value);
        }
    };
    add(REMOTE_USER, &user.name);
    if !user.uid.is_empty() {
        add(REMOTE_UID, &user.uid);
    }
    user.groups.iter().for_each(|group| add(REMOTE_GROUP, group));
    for (key, values) in &user.extra {
        if let Ok(name) = HeaderName::from_bytes(format!("x-remote-extra-{}", escaped(key)).as_bytes()) {
            values.iter().for_each(|value| add(name.clone(), value));
        }
    }
}

/// A key of extra information as a part of a header's name: what no name may have is percent-encoded, and the percent sign itself.
/// Headers know no case, so capitals do not survive.
fn escaped(key: &str) -> String {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&b);
    key.bytes().map(|b| if legal(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_server_says_for_whom_it_asks() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("X-Remote-User", "root"), ("X-Remote-Group", "system:masters"), ("X-Remote-Extra-a", "b"), ("Accept", "x")] {
            headers.insert(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static(value));
        }
        let mut user = User::authenticated("jane", &["dev"]);
        user.uid = "42".into();
        user.extra.insert("example.com/scopes".into(), vec!["a".into(), "b".into()]);
        identify(&mut headers, &user);
        let all = |name: &str| headers.get_all(name).iter().map(|v| v.to_str().unwrap().to_string()).collect::<Vec<_>>();
        assert_eq!(all("x-remote-user"), ["jane"]);
        assert_eq!(all("x-remote-uid"), ["42"]);
        assert_eq!(all("x-remote-group"), ["dev", "system:authenticated"]);
        assert_eq!(all("x-remote-extra-example.com%2fscopes"), ["a", "b"]);
        assert_eq!((all("x-remote-extra-a").len(), all("accept")), (0, vec!["x".to_string()]));
    }
}
