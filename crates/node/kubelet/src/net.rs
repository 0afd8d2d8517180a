//! The requests that probes and hooks make: HTTP and HTTPS without verification, TCP, and the gRPC health check. Each is one
//! connection; the caller sets the time limit. See upstream's pkg/probe.

use std::sync::Arc;

use bytes::Bytes;
use fram_machinery::Value;
use http::header::{HOST, HeaderName, HeaderValue, USER_AGENT};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// As much of an answer as probes read.
const BODY_LIMIT: usize = 10 << 10;
const MOST_REDIRECTS: usize = 10;

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NetError(String);

fn failed(what: impl std::fmt::Display) -> NetError {
    NetError(what.to_string())
}

/// Where an `httpGet` of a probe or hook goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HttpTarget {
    pub https: bool,
    pub host: String,
    pub port: u16,
    /// With its query.
    pub path: String,
    pub headers: Vec<(String, String)>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum TargetError {
    #[error("couldn't find port: {0}")]
    Port(String),
    #[error("no address to connect to")]
    NoAddress,
}

/// A port by number, or by the name that the container gives it.
pub(crate) fn port(action: &Value, container: &Value) -> Result<u16, TargetError> {
    let named =
        |name: &str| container.list_at(&["ports"]).iter().find(|p| p.str_at(&["name"]) == name).and_then(|p| p.int_at(&["containerPort"]));
    let number = match action.get("port") {
        Some(Value::String(text)) => text.parse().ok().or_else(|| named(text)),
        Some(other) => other.as_int(),
        None => None,
    };
    let found = number.and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0);
    found.ok_or_else(|| TargetError::Port(action.get("port").map(fram_machinery::json::to_string).unwrap_or_default()))
}

/// The host that an action names, or the pod's address.
pub(crate) fn host(action: &Value, pod_ip: Option<&str>) -> Result<String, TargetError> {
    match action.str_at(&["host"]) {
        "" => pod_ip.map(String::from).ok_or(TargetError::NoAddress),
        host => Ok(host.to_string()),
    }
}

impl HttpTarget {
    pub(crate) fn of(action: &Value, container: &Value, pod_ip: Option<&str>) -> Result<Self, TargetError> {
        let path = action.str_at(&["path"]);
        let header = |h: &Value| (h.str_at(&["name"]).to_string(), h.str_at(&["value"]).to_string());
        Ok(Self {
            https: action.str_at(&["scheme"]).eq_ignore_ascii_case("https"),
            host: host(action, pod_ip)?,
            port: port(action, container)?,
            path: if path.starts_with('/') { path.to_string() } else { format!("/{path}") },
            headers: action.list_at(&["httpHeaders"]).iter().map(header).collect(),
        })
    }

    fn authority(&self) -> String {
        if self.host.contains(':') { format!("[{}]:{}", self.host, self.port) } else { format!("{}:{}", self.host, self.port) }
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://{}{}", if self.https { "https" } else { "http" }, self.authority(), self.path)
    }
}

pub(crate) async fn tcp(host: &str, port: u16) -> Result<TcpStream, NetError> {
    TcpStream::connect((host, port)).await.map_err(|error| {
        // Go's words, which people and tests look for.
        let why = match error.kind() {
            std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_string(),
            std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_string(),
            std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_string(),
            std::io::ErrorKind::TimedOut => "i/o timeout".to_string(),
            _ => error.to_string(),
        };
        failed(format!("dial tcp {host}:{port}: {why}"))
    })
}

/// What an HTTP probe got: the status, and the beginning of the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HttpAnswer {
    pub status: u16,
    pub body: String,
}

/// A GET that follows redirects to the same host; one to another host is the answer.
pub(crate) async fn http_get(target: &HttpTarget, agent: &str) -> Result<HttpAnswer, NetError> {
    let mut target = target.clone();
    for _ in 0..MOST_REDIRECTS {
        let (answer, location) = get_once(&target, agent).await?;
        let Some(location) = location.filter(|_| (300..400).contains(&answer.status)) else { return Ok(answer) };
        let uri: Uri = location.parse().map_err(failed)?;
        if uri.host().is_some_and(|h| h.trim_matches(['[', ']']) != target.host) {
            return Ok(answer);
        }
        if let Some(scheme) = uri.scheme_str() {
            target.https = scheme == "https";
            target.port = uri.port_u16().unwrap_or(if target.https { 443 } else { 80 });
        }
        target.path = uri.path_and_query().map_or_else(|| "/".to_string(), ToString::to_string);
    }
    Err(failed(format!("Get {:?}: stopped after {MOST_REDIRECTS} redirects", target.url())))
}

async fn get_once(target: &HttpTarget, agent: &str) -> Result<(HttpAnswer, Option<String>), NetError> {
    let stream = tcp(&target.host, target.port).await.map_err(|e| failed(format!("Get {:?}: {e}", target.url())))?;
    if !target.https {
        return exchange(target, agent, stream).await;
    }
    let connector = tokio_rustls::TlsConnector::from(Arc::new(fram_client::unverified::config(&[]).map_err(failed)?));
    let name = ServerName::try_from(target.host.clone()).map_err(failed)?;
    let stream = connector.connect(name, stream).await.map_err(|e| failed(format!("Get {:?}: {e}", target.url())))?;
    exchange(target, agent, stream).await
}

/// What a GET gives, whole or not at all. Unlike a probe's, the server of an https URL has to be who it says it is, by the machine's
/// own authorities.
pub(crate) async fn fetch(target: &HttpTarget, largest: usize) -> Result<(http::StatusCode, Bytes), NetError> {
    const AGENT: &str = "kubelet";
    let stream = tcp(&target.host, target.port).await?;
    let mut driver = JoinSet::new();
    let response = if target.https {
        let connector = tokio_rustls::TlsConnector::from(trusting().await?);
        let name = ServerName::try_from(target.host.clone()).map_err(failed)?;
        let stream = connector.connect(name, stream).await.map_err(|e| failed(format!("Get {:?}: {e}", target.url())))?;
        send(target, AGENT, stream, &mut driver).await?
    } else {
        send(target, AGENT, stream, &mut driver).await?
    };
    let status = response.status();
    let body = Limited::new(response.into_body(), largest).collect().await.map_err(failed)?;
    Ok((status, body.to_bytes()))
}

/// TLS to servers whose certificates the machine's own authorities have signed. Those are read once.
async fn trusting() -> Result<Arc<rustls::ClientConfig>, NetError> {
    static KNOWN: tokio::sync::OnceCell<Arc<rustls::ClientConfig>> = tokio::sync::OnceCell::const_new();
    let load = || async {
        // Hundreds of files may be read for it.
        let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await.map_err(failed)?;
        let mut roots = rustls::RootCertStore::empty();
        // One that cannot be read is not trusted, and that is all.
        roots.add_parsable_certificates(found.certs);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(failed)?;
        Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
    };
    KNOWN.get_or_try_init(load).await.cloned()
}

async fn exchange<S>(target: &HttpTarget, agent: &str, stream: S) -> Result<(HttpAnswer, Option<String>), NetError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    // Ends with this function: dropping the set drops the connection.
    let mut driver = JoinSet::new();
    let response = send(target, agent, stream, &mut driver).await?;
    let status = response.status().as_u16();
    let location = response.headers().get(http::header::LOCATION).and_then(|l| l.to_str().ok()).map(String::from);
    // A body that is too long or breaks off does not change the verdict.
    let body = Limited::new(response.into_body(), BODY_LIMIT).collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    let body = String::from_utf8_lossy(&body).into_owned();
    Ok((HttpAnswer { status, body }, location))
}

/// Sends a GET; the connection lives in `driver`.
async fn send<S>(
    target: &HttpTarget,
    agent: &str,
    stream: S,
    driver: &mut JoinSet<hyper::Result<()>>,
) -> Result<Response<Incoming>, NetError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut request = Request::get(&target.path).body(Empty::<Bytes>::new()).map_err(failed)?;
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::try_from(target.authority()).map_err(failed)?);
    headers.insert(USER_AGENT, HeaderValue::try_from(agent).map_err(failed)?);
    headers.insert(http::header::ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    for (name, value) in &target.headers {
        let name = HeaderName::try_from(name.as_str()).map_err(failed)?;
        match name == HOST || name == USER_AGENT || name == http::header::ACCEPT {
            true => headers.insert(name, HeaderValue::try_from(value.as_str()).map_err(failed)?),
            false => {
                headers.append(name, HeaderValue::try_from(value.as_str()).map_err(failed)?);
                None
            }
        };
    }
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    driver.spawn(connection);
    sender.send_request(request).await.map_err(|e| failed(format!("Get {:?}: {e}", target.url())))
}

/// Asks grpc.health.v1.Health/Check; Ok(true) is SERVING. The two messages are small enough to be written by hand.
pub(crate) async fn grpc_health(host: &str, port: u16, service: &str) -> Result<bool, NetError> {
    let stream = tcp(host, port).await?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(failed)?;
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let mut message = Vec::new();
    if !service.is_empty() {
        let length = u8::try_from(service.len()).ok().filter(|n| *n < 128).ok_or_else(|| failed("the service's name is too long"))?;
        message.extend([0x0a, length]);
        message.extend(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
    frame.extend(message);
    let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let request = Request::post(format!("http://{authority}/grpc.health.v1.Health/Check"))
        .header(http::header::CONTENT_TYPE, "application/grpc")
        .header(http::header::TE, "trailers")
        .body(Full::new(Bytes::from(frame)))
        .map_err(failed)?;
    let response = sender.send_request(request).await.map_err(failed)?;
    let code = |headers: &http::HeaderMap| headers.get("grpc-status").and_then(|s| s.to_str().ok()).map(String::from);
    let early = code(response.headers());
    let body = Limited::new(response.into_body(), BODY_LIMIT).collect().await.map_err(failed)?;
    let status = early.or_else(|| body.trailers().and_then(code));
    let bytes = body.to_bytes();
    match status.as_deref() {
        // HealthCheckResponse { status = 1: SERVING }, after the five bytes that say how long it is.
        Some("0") => Ok(bytes.get(5..7) == Some(&[0x08, 0x01])),
        Some(other) => Err(failed(format!("error: health rpc probe failed with gRPC status {other}"))),
        None => Err(failed("error: this server does not implement the grpc health protocol (grpc.health.v1.Health)")),
    }
}
