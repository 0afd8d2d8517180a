//! HTTP extenders: programs that are asked about nodes beside the plugins. What is said is in `messages`; this file carries it.

mod messages;
#[cfg(test)]
pub(crate) mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use fram_client::remote::{Kubeconfig, RemoteError, dial};
use fram_machinery::normalize::parse_duration;
use fram_machinery::{Value, json};
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::configuration::{ExtenderSpec, ExtenderTls};
use crate::pod::Pod;
use crate::preemption::Candidate;
pub(crate) use messages::Filtered;

#[derive(Debug, thiserror::Error)]
pub enum ExtenderError {
    #[error("extender {0:?}: urlPrefix is no URL of http or https")]
    Url(String),
    #[error("extender: httpTimeout {0:?} is no duration")]
    Timeout(String),
    #[error("extender {0:?}: https needs caFile, caData or insecure in tlsConfig, or enableHTTPS")]
    NoAuthority(String),
    #[error("read {path:?}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("extender: {0} is not base64")]
    Base64(&'static str),
    #[error("connect to extender {address}: {source}")]
    Connect { address: String, source: std::io::Error },
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error("extender {url}: {source}")]
    Http { url: String, source: hyper::Error },
    #[error("failed {verb} with extender at URL {url}, code {code}")]
    Code { verb: String, url: String, code: u16 },
    #[error("extender {url}: no answer within {within:?}")]
    Late { url: String, within: Duration },
    #[error("extender {url}: {message}")]
    Answer { url: String, message: String },
}

/// Nobody waits longer for one, where nothing is said; see upstream's DefaultExtenderTimeout.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
pub(crate) struct Extender {
    /// Without a slash at its end.
    url: String,
    host: String,
    port: u16,
    /// Whom to trust, where it speaks TLS.
    access: Option<Kubeconfig>,
    pub(crate) filter_verb: String,
    pub(crate) preempt_verb: String,
    pub(crate) prioritize_verb: String,
    pub(crate) bind_verb: String,
    weight: i64,
    timeout: Duration,
    /// It knows the nodes: their names are enough.
    knows_nodes: bool,
    /// Only pods that ask for one of these resources concern it; all where there are none.
    managed: Vec<String>,
    /// Where it does not answer, pods are scheduled without it.
    pub(crate) ignorable: bool,
}

impl Extender {
    pub(crate) fn new(spec: &ExtenderSpec) -> Result<Self, ExtenderError> {
        let bad = || ExtenderError::Url(spec.url_prefix.clone());
        let uri: Uri = spec.url_prefix.parse().map_err(|_| bad())?;
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => spec.enable_https,
            _ => return Err(bad()),
        };
        let timeout = match spec.http_timeout.as_str() {
            "" => PATIENCE,
            text => parse_duration(text)
                .and_then(|n| u64::try_from(n).ok())
                .map(Duration::from_nanos)
                .ok_or_else(|| ExtenderError::Timeout(text.into()))?,
        };
        let host = uri.host().ok_or_else(bad)?.trim_matches(['[', ']']).to_string();
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        Ok(Self {
            url: spec.url_prefix.trim_end_matches('/').into(),
            access: if secure { Some(access(&host, port, spec)?) } else { None },
            host,
            port,
            filter_verb: spec.filter_verb.clone(),
            preempt_verb: spec.preempt_verb.clone(),
            prioritize_verb: spec.prioritize_verb.clone(),
            bind_verb: spec.bind_verb.clone(),
            weight: spec.weight,
            timeout: if timeout.is_zero() { PATIENCE } else { timeout },
            knows_nodes: spec.node_cache_capable,
            managed: spec.managed_resources.iter().map(|r| r.name.clone()).collect(),
            ignorable: spec.ignorable,
        })
    }

    /// Whether the pod concerns it.
    pub(crate) fn wants(&self, pod: &Pod) -> bool {
        let lists = ["containers", "initContainers"].into_iter().flat_map(|list| pod.object.list_at(&["spec", list]));
        let asks = |c: &Value| self.managed.iter().any(|r| ["requests", "limits"].iter().any(|l| c.at(&["resources", l, r]).is_some()));
        self.managed.is_empty() || lists.into_iter().any(asks)
    }

    pub(crate) async fn filter(&self, pod: &Pod, nodes: &[Arc<Value>]) -> Result<Filtered, ExtenderError> {
        let answer = self.send(&self.filter_verb, &messages::nodes(&pod.object, nodes, self.knows_nodes)).await?;
        messages::filtered(&answer, nodes).map_err(|message| self.wrong(message))
    }

    /// Scores by node, weighed.
    pub(crate) async fn prioritize(&self, pod: &Pod, nodes: &[Arc<Value>]) -> Result<Vec<(String, i64)>, ExtenderError> {
        let answer = self.send(&self.prioritize_verb, &messages::nodes(&pod.object, nodes, self.knows_nodes)).await?;
        Ok(messages::priorities(&answer, self.weight))
    }

    /// Which of the candidates are left, and what each takes.
    pub(crate) async fn preempt(&self, pod: &Pod, candidates: Vec<Candidate>) -> Result<Vec<Candidate>, ExtenderError> {
        let answer = self.send(&self.preempt_verb, &messages::victims(&pod.object, &candidates, self.knows_nodes)).await?;
        messages::left(&answer, candidates).map_err(|message| self.wrong(message))
    }

    pub(crate) async fn bind(&self, pod: &Pod, node: &str) -> Result<(), ExtenderError> {
        let answer = self.send(&self.bind_verb, &messages::binding(&pod.object, node)).await?;
        messages::error(&answer).map_or(Ok(()), |message| Err(self.wrong(message)))
    }

    fn wrong(&self, message: String) -> ExtenderError {
        ExtenderError::Answer { url: self.url.clone(), message }
    }

    async fn send(&self, verb: &str, body: &Value) -> Result<Value, ExtenderError> {
        let late = |_| ExtenderError::Late { url: self.url.clone(), within: self.timeout };
        tokio::time::timeout(self.timeout, self.exchange(verb, body)).await.map_err(late)?
    }

    async fn exchange(&self, verb: &str, body: &Value) -> Result<Value, ExtenderError> {
        let url = format!("{}/{verb}", self.url);
        match &self.access {
            Some(access) => self.converse(dial(&access.server, access.tls(b"http/1.1")?).await?, verb, &url, body).await,
            None => {
                let address = format!("{}:{}", self.host, self.port);
                let stream = TcpStream::connect((self.host.as_str(), self.port)).await;
                self.converse(stream.map_err(|source| ExtenderError::Connect { address, source })?, verb, &url, body).await
            }
        }
    }

    async fn converse(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        verb: &str,
        url: &str,
        body: &Value,
    ) -> Result<Value, ExtenderError> {
        let failed = |source| ExtenderError::Http { url: url.into(), source };
        let uri: Uri = url.parse().map_err(|_| ExtenderError::Url(url.into()))?;
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        let request = Request::post(path)
            .header(header::HOST, uri.authority().map_or("", |a| a.as_str()))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(json::to_vec(body))))
            .map_err(|_| ExtenderError::Url(url.into()))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        let asked = async {
            let response = sender.send_request(request).await.map_err(failed)?;
            let code = response.status().as_u16();
            if code != 200 {
                return Err(ExtenderError::Code { verb: verb.into(), url: url.into(), code });
            }
            let bytes = response.into_body().collect().await.map_err(failed)?.to_bytes();
            json::from_slice(&bytes).map_err(|error| self.wrong(error.to_string()))
        };
        let (mut asked, mut connection) = (std::pin::pin!(asked), std::pin::pin!(connection));
        tokio::select! {
            biased;
            answer = &mut asked => answer,
            // It was closed behind the answer, or fails what is asked.
            _ = &mut connection => asked.await,
        }
    }
}

fn access(host: &str, port: u16, spec: &ExtenderSpec) -> Result<Kubeconfig, ExtenderError> {
    let none = ExtenderTls::default();
    let tls = spec.tls_config.as_ref().unwrap_or(&none);
    let no_authority = tls.ca_file.is_empty() && tls.ca_data.is_empty();
    // As upstream: who sets enableHTTPS and names no authority trusts whoever answers.
    let insecure = tls.insecure || spec.enable_https && no_authority;
    if no_authority && !insecure {
        return Err(ExtenderError::NoAuthority(spec.url_prefix.clone()));
    }
    let pem = |file: &str, data: &str, what: &'static str| match (file, data) {
        (_, data) if !data.is_empty() => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(data).map_err(|_| ExtenderError::Base64(what))?;
            String::from_utf8(bytes).map_err(|_| ExtenderError::Base64(what))
        }
        ("", _) => Ok(String::new()),
        (file, _) => std::fs::read_to_string(file).map_err(|source| ExtenderError::Read { path: file.into(), source }),
    };
    let (certificate, key) = (pem(&tls.cert_file, &tls.cert_data, "certData")?, pem(&tls.key_file, &tls.key_data, "keyData")?);
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_string() };
    Ok(Kubeconfig {
        server: format!("https://{host}:{port}"),
        ca: pem(&tls.ca_file, &tls.ca_data, "caData")?,
        server_name: Some(tls.server_name.clone()).filter(|n| !n.is_empty()),
        insecure,
        identity: (!certificate.is_empty()).then_some((certificate, key)),
        token: None,
    })
}
