//! A thin client of the OCI distribution API: manifests and blobs of one repository, through mirrors, with authentication.
//! It verifies manifests; blobs are verified by the content store that they stream into. Pushing is not done here.

mod auth;
mod config;
mod hosts;
mod transport;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_RANGE, LOCATION, RANGE, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;

pub use auth::Credentials;
#[cfg(test)]
pub(crate) use auth::parse_challenges;
pub use config::RegistryConfig;
pub use hosts::HostsError;

use crate::digest::{Digest, Hasher};
use crate::error::{ErrorKind, IoError};
use crate::manifest::{DOCKER_LIST, DOCKER_MANIFEST, MAX_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use crate::reference::Reference;
use config::Endpoint;

const MAX_REDIRECTS: usize = 5;
const MAX_ERROR_BODY: usize = 16 << 10;

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("{what} not found in registry {host}{}", detail(.message))]
    NotFound { host: String, what: String, message: String },
    #[error("registry {host} refuses access to {what}{}", detail(.message))]
    Unauthorized { host: String, what: String, message: String },
    #[error("cannot reach {host}: {reason}")]
    Unreachable { host: String, reason: String },
    #[error("registry {host} answered {status} for {what}{}", detail(.message))]
    Status { host: String, status: StatusCode, what: String, message: String },
    #[error("{host} sent nothing for {seconds} s")]
    Stalled { host: String, seconds: u64 },
    #[error("the transfer from {host} was cut: {reason}")]
    Cut { host: String, reason: String },
    #[error("registry {host} sent {what} with digest {found}, wanted {wanted}")]
    WrongDigest { host: String, what: String, wanted: Digest, found: Digest },
    #[error("registry {host} gave an answer that makes no sense: {reason}")]
    BadAnswer { host: String, reason: String },
    #[error(transparent)]
    Hosts(#[from] HostsError),
    #[error("cannot set up TLS to {host}: {reason}")]
    Tls { host: String, reason: String },
    #[error(transparent)]
    Io(#[from] IoError),
}

fn detail(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

impl RegistryError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Unauthorized { .. } => ErrorKind::Unauthorized,
            Self::Unreachable { .. } | Self::Status { .. } | Self::Stalled { .. } | Self::Cut { .. } => ErrorKind::Network,
            Self::WrongDigest { .. } | Self::BadAnswer { .. } => ErrorKind::Corrupt,
            // The node's own files are at fault, until somebody mends them.
            Self::Hosts(_) | Self::Tls { .. } => ErrorKind::Internal,
            Self::Io(e) => e.kind(),
        }
    }

    /// Whether asking again soon may help, so that it is worth doing before telling the caller.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Stalled { .. } | Self::Cut { .. } => true,
            Self::Status { status, .. } => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
            _ => false,
        }
    }
}

/// Failures without any progress in between, up to the limit of attempts.
pub(crate) struct Failures {
    spent: u32,
    limit: u32,
}

impl Failures {
    pub(crate) fn new(config: &RegistryConfig) -> Self {
        Self { spent: 0, limit: config.attempts }
    }

    /// Where there is somebody else to ask, nobody is asked twice.
    fn once() -> Self {
        Self { spent: 0, limit: 1 }
    }

    pub(crate) fn forget(&mut self) {
        self.spent = 0;
    }

    /// Counts one; gives how many there were before, or nothing when it is time to tell the caller. A server that stalls has
    /// cost a whole timeout already, so the second time is the last.
    pub(crate) fn note(&mut self, error: &RegistryError) -> Option<u32> {
        let before = self.spent;
        self.spent += if matches!(error, RegistryError::Stalled { .. }) { self.limit.div_ceil(2) } else { 1 };
        (error.is_transient() && self.spent < self.limit).then_some(before)
    }
}

/// The client: connections and tokens, shared by all pulls.
pub struct RegistryClient {
    config: RegistryConfig,
    /// For addresses of which nothing particular is said.
    http: transport::HttpClient,
    tokens: auth::TokenCache,
}

/// Access to one repository with one set of credentials.
pub(crate) struct Repository {
    client: Arc<RegistryClient>,
    ways: Vec<Way>,
    name: String,
}

/// An address, and the connections to it. Where it has TLS of its own these are of one pull: what one registry's file trusts is trusted
/// for no other.
struct Way {
    endpoint: Endpoint,
    http: transport::HttpClient,
    /// To wherever else it sends us, with the same authorities trusted and nothing else of its TLS.
    elsewhere: transport::HttpClient,
}

impl Way {
    /// Whether manifests are to be had there by their digests, or by tags.
    fn has(&self, by_digest: bool) -> bool {
        if by_digest { self.endpoint.pulls } else { self.endpoint.resolves }
    }

    /// The connections to an address.
    fn to(&self, uri: &Uri) -> &transport::HttpClient {
        let is_own = self.endpoint.base().is_ok_and(|own| origin(&own) == origin(uri));
        if is_own { &self.http } else { &self.elsewhere }
    }
}

/// A manifest or index as the registry gave it.
pub(crate) struct RawManifest {
    pub(crate) digest: Digest,
    pub(crate) bytes: Bytes,
}

impl RegistryClient {
    pub fn new(config: RegistryConfig) -> Self {
        let http = transport::client(config.connect_timeout, None);
        Self { config, http, tokens: auth::TokenCache::default() }
    }

    pub(crate) fn config(&self) -> &RegistryConfig {
        &self.config
    }

    pub(crate) async fn repository(
        self: &Arc<Self>,
        reference: &Reference,
        credentials: Option<Credentials>,
    ) -> Result<Repository, RegistryError> {
        let (client, registry) = (self.clone(), reference.registry().to_owned());
        let ways = tokio::task::spawn_blocking(move || client.ways(&registry, credentials.as_ref())).await;
        let ways = ways.map_err(|error| RegistryError::Tls { host: reference.registry().to_owned(), reason: error.to_string() })??;
        Ok(Repository { client: self.clone(), ways, name: reference.repository().to_owned() })
    }

    /// Reads what is said of a registry.
    fn ways(&self, registry: &str, credentials: Option<&Credentials>) -> Result<Vec<Way>, RegistryError> {
        let hosts = self.config.hosts_dir.as_ref().map(|directory| hosts::load(directory, registry)).transpose()?.flatten();
        let way = |endpoint: Endpoint| {
            let trusting = hosts::Tls { authorities: endpoint.tls.authorities.clone(), ..hosts::Tls::default() };
            let elsewhere = self.connections(&endpoint.authority, &trusting)?;
            let http = if trusting == endpoint.tls { elsewhere.clone() } else { self.connections(&endpoint.authority, &endpoint.tls)? };
            Ok(Way { endpoint, http, elsewhere })
        };
        config::endpoints(registry, hosts, credentials).into_iter().map(way).collect()
    }

    fn connections(&self, host: &str, tls: &hosts::Tls) -> Result<transport::HttpClient, RegistryError> {
        if *tls == hosts::Tls::default() {
            return Ok(self.http.clone());
        }
        let own = transport::tls_of(tls).map_err(|error| RegistryError::Tls { host: host.to_owned(), reason: error.to_string() })?;
        Ok(transport::client(self.config.connect_timeout, Some(own)))
    }

    /// One exchange without redirects; the answer's head must come within the read timeout.
    async fn exchange(&self, way: &Way, request: Request<Full<Bytes>>, host: &str) -> Result<Response<Incoming>, RegistryError> {
        let limit = self.config.connect_timeout + self.config.read_timeout;
        match tokio::time::timeout(limit, way.to(request.uri()).request(request)).await {
            Err(_) => Err(RegistryError::Stalled { host: host.to_owned(), seconds: limit.as_secs() }),
            Ok(Err(e)) => Err(RegistryError::Unreachable { host: host.to_owned(), reason: root_cause(&e) }),
            Ok(Ok(response)) => Ok(response),
        }
    }
}

impl Repository {
    pub(crate) fn config(&self) -> &RegistryConfig {
        &self.client.config
    }

    /// The manifest or index of a tag or digest, from the first endpoint that has it. What comes for a digest has it.
    pub(crate) async fn manifest(&self, target: &str) -> Result<RawManifest, RegistryError> {
        let mut failed = Failed::default();
        let by_digest = target.parse::<Digest>().is_ok();
        let last = self.ways.iter().rposition(|way| way.has(by_digest));
        for (position, way) in self.ways.iter().enumerate() {
            if !way.has(by_digest) {
                continue;
            }
            let mut failures = if Some(position) == last { Failures::new(&self.client.config) } else { Failures::once() };
            loop {
                let error = match self.manifest_from(way, target).await {
                    Ok(manifest) => return Ok(manifest),
                    Err(error) => error,
                };
                let Some(before) = failures.note(&error) else {
                    failed.note(&way.endpoint, error);
                    break;
                };
                tokio::time::sleep(self.client.config.pause(before)).await;
            }
        }
        Err(failed.into_error(&self.name))
    }

    async fn manifest_from(&self, way: &Way, target: &str) -> Result<RawManifest, RegistryError> {
        let mut headers = HeaderMap::new();
        for media_type in [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST] {
            headers.append(ACCEPT, http::HeaderValue::from_static(media_type));
        }
        let host = &way.endpoint.authority;
        let response = self.get(way, &format!("manifests/{target}"), headers).await?;
        let bytes = self.client.small_body(response, host, MAX_MANIFEST as usize).await?;
        let wanted: Option<Digest> = target.parse().ok();
        let mut hasher = Hasher::new(wanted.as_ref().map_or(crate::digest::Algorithm::Sha256, Digest::algorithm));
        hasher.update(&bytes);
        let found = hasher.finish();
        match wanted {
            Some(wanted) if wanted != found => {
                Err(RegistryError::WrongDigest { host: host.clone(), what: "a manifest".into(), wanted, found })
            }
            _ => Ok(RawManifest { digest: found, bytes }),
        }
    }

    /// Starts a blob's transfer at `offset`. The server may ignore the offset: see [`BlobStream::offset`].
    pub(crate) async fn blob(&self, digest: &Digest, offset: u64) -> Result<BlobStream, RegistryError> {
        let mut failed = Failed::default();
        for way in self.ways.iter().filter(|way| way.endpoint.pulls) {
            match self.blob_from(way, digest, offset).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failed.note(&way.endpoint, error),
            }
        }
        Err(failed.into_error(&self.name))
    }

    async fn blob_from(&self, way: &Way, digest: &Digest, offset: u64) -> Result<BlobStream, RegistryError> {
        let mut headers = HeaderMap::new();
        if offset > 0
            && let Ok(range) = format!("bytes={offset}-").parse()
        {
            headers.insert(RANGE, range);
        }
        let host = &way.endpoint.authority;
        let response = self.get(way, &format!("blobs/{digest}"), headers).await?;
        let offset = match response.status() {
            StatusCode::PARTIAL_CONTENT => range_start(response.headers())
                .ok_or_else(|| RegistryError::BadAnswer { host: host.clone(), reason: "206 without a usable Content-Range".into() })?,
            _ => 0,
        };
        Ok(BlobStream { offset, body: response.into_body(), host: host.clone(), timeout: self.client.config.read_timeout })
    }

    /// A GET below `/v2/<name>/` with authentication and redirects; any status but 200 and 206 is an error.
    async fn get(&self, way: &Way, what: &str, headers: HeaderMap) -> Result<Response<Incoming>, RegistryError> {
        let (endpoint, host) = (&way.endpoint, &way.endpoint.authority);
        let uri = endpoint.uri(&self.name, what).map_err(|reason| RegistryError::BadAnswer { host: host.clone(), reason })?;
        let scope = format!("repository:{}:pull", self.name);
        let mut authorization = self.client.tokens.cached(endpoint, &scope);
        let mut challenged = false;
        loop {
            let (response, at) = self.client.follow(way, &uri, &headers, authorization.as_ref()).await?;
            let status = response.status();
            if status == StatusCode::OK || status == StatusCode::PARTIAL_CONTENT {
                return Ok(response);
            }
            // Only the address itself says who is to be shown the secret, not whoever it redirects to.
            if status == StatusCode::UNAUTHORIZED && !challenged && origin(&at) == origin(&uri) {
                challenged = true;
                let challenges = auth::parse_challenges(response.headers().get_all(WWW_AUTHENTICATE));
                if let Some(header) = self.client.authenticate(way, &scope, &challenges).await? {
                    authorization = Some(header);
                    continue;
                }
            }
            return Err(self.client.refused(response, host, format!("{}/{what}", self.name)).await);
        }
    }
}

impl RegistryClient {
    /// Follows redirects; gives where they ended, too. Authorization and the address' own headers go to it only, never to where it redirects
    /// to.
    async fn follow(
        &self,
        way: &Way,
        uri: &Uri,
        headers: &HeaderMap,
        authorization: Option<&http::HeaderValue>,
    ) -> Result<(Response<Incoming>, Uri), RegistryError> {
        let host = &way.endpoint.authority;
        let (home, mut uri) = (origin(uri), uri.clone());
        for _ in 0..=MAX_REDIRECTS {
            let mut request = Request::new(Full::default());
            *request.method_mut() = Method::GET;
            *request.headers_mut() = headers.clone();
            request.headers_mut().insert(http::header::USER_AGENT, http::HeaderValue::from_static(config::USER_AGENT));
            if origin(&uri) == home {
                for (name, value) in &way.endpoint.headers {
                    request.headers_mut().append(name, value.clone());
                }
                if let Some(value) = authorization {
                    request.headers_mut().insert(AUTHORIZATION, value.clone());
                }
            }
            *request.uri_mut() = uri.clone();
            let response = self.exchange(way, request, uri.authority().map_or(host, |a| a.as_str())).await?;
            if !response.status().is_redirection() {
                return Ok((response, uri));
            }
            let bad = |reason: String| RegistryError::BadAnswer { host: host.clone(), reason };
            let location =
                response.headers().get(LOCATION).and_then(|l| l.to_str().ok()).ok_or_else(|| bad("redirect to nowhere".into()))?;
            let next = resolve(&uri, location).ok_or_else(|| bad(format!("redirect to {location:?}")))?;
            if uri.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                return Err(bad("redirect from https to http".into()));
            }
            uri = next;
        }
        Err(RegistryError::BadAnswer { host: host.clone(), reason: format!("more than {MAX_REDIRECTS} redirects") })
    }

    async fn small_body(&self, response: Response<Incoming>, host: &str, limit: usize) -> Result<Bytes, RegistryError> {
        let body = Limited::new(response.into_body(), limit).collect();
        match tokio::time::timeout(self.config.read_timeout, body).await {
            Err(_) => Err(RegistryError::Stalled { host: host.to_owned(), seconds: self.config.read_timeout.as_secs() }),
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(e)) if e.is::<http_body_util::LengthLimitError>() => {
                Err(RegistryError::BadAnswer { host: host.to_owned(), reason: format!("more than {limit} bytes") })
            }
            Ok(Err(e)) => Err(RegistryError::Cut { host: host.to_owned(), reason: root_cause(e.as_ref()) }),
        }
    }

    async fn refused(&self, response: Response<Incoming>, host: &str, what: String) -> RegistryError {
        let status = response.status();
        let body = self.small_body(response, host, MAX_ERROR_BODY).await.unwrap_or_default();
        let (host, message) = (host.to_owned(), error_message(&body));
        match status {
            StatusCode::NOT_FOUND => RegistryError::NotFound { host, what, message },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryError::Unauthorized { host, what, message },
            _ => RegistryError::Status { host, status, what, message },
        }
    }
}

/// Mirrors are asked in order, then the registry itself, whose answer is the one reported if all fail.
#[derive(Default)]
struct Failed(Option<RegistryError>);

impl Failed {
    fn note(&mut self, endpoint: &Endpoint, error: RegistryError) {
        tracing::debug!(host = %endpoint.authority, %error, "registry endpoint failed");
        self.0 = Some(error);
    }

    fn into_error(self, repository: &str) -> RegistryError {
        self.0.unwrap_or_else(|| RegistryError::BadAnswer { host: repository.to_owned(), reason: "no endpoint".into() })
    }
}

/// A blob in transfer.
pub(crate) struct BlobStream {
    offset: u64,
    body: Incoming,
    host: String,
    timeout: Duration,
}

impl BlobStream {
    /// Where in the blob the first piece belongs.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// An error for a transfer that did not go as it should.
    pub(crate) fn cut(&self, reason: &str) -> RegistryError {
        RegistryError::Cut { host: self.host.clone(), reason: reason.to_owned() }
    }

    /// The next piece; `None` at the end. A server that sends nothing for the read timeout is an error.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            let frame = tokio::time::timeout(self.timeout, self.body.frame())
                .await
                .map_err(|_| RegistryError::Stalled { host: self.host.clone(), seconds: self.timeout.as_secs() })?;
            match frame {
                None => return Ok(None),
                Some(Err(e)) => return Err(RegistryError::Cut { host: self.host.clone(), reason: root_cause(&e) }),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

/// Scheme, host and port (RFC 6454): who shares them is the same.
fn origin(uri: &Uri) -> (Option<String>, Option<String>, Option<u16>) {
    let scheme = uri.scheme_str().map(str::to_ascii_lowercase);
    let usual = if scheme.as_deref() == Some("https") { 443 } else { 80 };
    let port = uri.authority().map(|authority| authority.port_u16().unwrap_or(usual));
    (scheme, uri.host().map(str::to_ascii_lowercase), port)
}

fn range_start(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    let uri: Uri = location.parse().ok()?;
    if uri.scheme().is_some() {
        return Some(uri);
    }
    let mut parts = uri.into_parts();
    parts.scheme = base.scheme().cloned();
    parts.authority = parts.authority.or_else(|| base.authority().cloned());
    Uri::from_parts(parts).ok()
}

/// The messages of the distribution API's error document.
fn error_message(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Document {
        errors: Vec<Item>,
    }
    #[derive(serde::Deserialize)]
    struct Item {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(document) = serde_json::from_slice::<Document>(body) else { return String::new() };
    let items: Vec<_> = document.errors.iter().map(|i| if i.message.is_empty() { &i.code } else { &i.message }).take(3).collect();
    items.into_iter().map(|m| m.chars().take(200).collect::<String>()).collect::<Vec<_>>().join(", ")
}

/// The innermost cause says what happened (`connection refused`); the outer ones say only that something did.
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
