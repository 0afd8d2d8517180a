//! Registry authentication: WWW-Authenticate challenges (RFC 9110, section 11), Basic, and the distribution token protocol.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::Full;
use parking_lot::Mutex;

use super::config::{Endpoint, USER_AGENT};
use super::hosts::Tls;
use super::{RegistryClient, RegistryError, Way};

const MAX_TOKEN_BODY: usize = 256 << 10;
/// The protocol's default when a token does not say how long it lives.
const DEFAULT_LIFETIME: u64 = 60;
/// A token this close to its end may not survive the request it is for.
const MARGIN: Duration = Duration::from_secs(10);

/// What a pull secret holds. `Debug` shows no secret.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Credentials {
    pub username: String,
    pub password: String,
    /// An OAuth2 refresh token, exchanged for a bearer token.
    pub identity_token: String,
    /// A bearer token for the registry itself, sent as it is.
    pub registry_token: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

impl Credentials {
    /// From `auth` of docker's config.json: base64 of `username:password`.
    pub fn from_basic(auth: &str) -> Option<Self> {
        let text = String::from_utf8(BASE64.decode(auth.trim()).ok()?).ok()?;
        let (username, password) = text.split_once(':')?;
        Some(Self { username: username.into(), password: password.trim_end_matches('\0').into(), ..Default::default() })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.username.is_empty() && self.identity_token.is_empty() && self.registry_token.is_empty()
    }

    fn basic(&self) -> Option<HeaderValue> {
        let text = BASE64.encode(format!("{}:{}", self.username, self.password));
        if self.username.is_empty() { None } else { secret(&format!("Basic {text}")) }
    }
}

fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// The challenges that can be answered, in the server's order.
pub(crate) fn parse_challenges<'a>(headers: impl IntoIterator<Item = &'a HeaderValue>) -> Vec<Challenge> {
    headers.into_iter().filter_map(|h| h.to_str().ok()).filter_map(parse_challenge).collect()
}

fn parse_challenge(text: &str) -> Option<Challenge> {
    let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut parameters = parse_parameters(rest);
    Some(Challenge::Bearer { realm: parameters.remove("realm")?, service: parameters.remove("service"), scope: parameters.remove("scope") })
}

/// `key=value, key="quoted \" value"`.
fn parse_parameters(text: &str) -> HashMap<String, String> {
    let mut parameters = HashMap::new();
    let mut rest = text.trim_start();
    while let Some((key, after)) = rest.split_once('=') {
        let mut value = String::new();
        let mut characters = after.chars();
        if after.starts_with('"') {
            characters.next();
            while let Some(c) = characters.next() {
                match c {
                    '"' => break,
                    '\\' => value.extend(characters.next()),
                    other => value.push(other),
                }
            }
        } else {
            value.extend(characters.by_ref().take_while(|c| *c != ','));
        }
        parameters.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        rest = characters.as_str().trim_start_matches([',', ' ']);
    }
    parameters
}

#[derive(PartialEq, Eq, Hash)]
struct TokenKey {
    scheme: &'static str,
    authority: String,
    path: String,
    tls: Tls,
    scope: String,
    credentials: Option<Credentials>,
}

impl TokenKey {
    fn of(endpoint: &Endpoint, scope: &str) -> Self {
        let Endpoint { scheme, authority, path, tls, credentials, .. } = endpoint.clone();
        Self { scheme, authority, path, tls, scope: scope.to_owned(), credentials }
    }
}

/// Tokens by endpoint, scope and the credentials they were given for, so that no pull profits from another's secret, and nobody is sent
/// what was meant for somebody who was better known.
#[derive(Default)]
pub(super) struct TokenCache(Mutex<HashMap<TokenKey, (HeaderValue, Instant)>>);

impl TokenCache {
    pub(super) fn cached(&self, endpoint: &Endpoint, scope: &str) -> Option<HeaderValue> {
        let key = TokenKey::of(endpoint, scope);
        let tokens = self.0.lock();
        tokens.get(&key).filter(|(_, until)| *until > Instant::now() + MARGIN).map(|(value, _)| value.clone())
    }

    fn keep(&self, endpoint: &Endpoint, scope: &str, value: &HeaderValue, lifetime: u64) {
        let now = Instant::now();
        let key = TokenKey::of(endpoint, scope);
        let mut tokens = self.0.lock();
        tokens.retain(|_, (_, until)| *until > now);
        tokens.insert(key, (value.clone(), now + Duration::from_secs(lifetime.min(3600))));
    }
}

#[derive(serde::Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
}

impl RegistryClient {
    /// An Authorization header that answers one of the challenges, if any can be answered.
    pub(super) async fn authenticate(
        &self,
        way: &Way,
        scope: &str,
        challenges: &[Challenge],
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let endpoint = &way.endpoint;
        let credentials = endpoint.credentials.as_ref().filter(|c| !c.is_empty());
        for challenge in challenges {
            match challenge {
                Challenge::Bearer { realm, service, scope: wanted } => {
                    if let Some(token) = credentials.map(|c| &c.registry_token).filter(|t| !t.is_empty()) {
                        return Ok(secret(&format!("Bearer {token}")));
                    }
                    let scope_to_ask = wanted.as_deref().unwrap_or(scope);
                    let (header, lifetime) = self.fetch_token(way, realm, service.as_deref(), scope_to_ask).await?;
                    self.tokens.keep(endpoint, scope, &header, lifetime);
                    return Ok(Some(header));
                }
                Challenge::Basic => {
                    if let Some(header) = credentials.and_then(Credentials::basic) {
                        self.tokens.keep(endpoint, scope, &header, 3600);
                        return Ok(Some(header));
                    }
                }
            }
        }
        Ok(None)
    }

    async fn fetch_token(&self, way: &Way, realm: &str, service: Option<&str>, scope: &str) -> Result<(HeaderValue, u64), RegistryError> {
        let endpoint = &way.endpoint;
        let bad = |reason: String| RegistryError::BadAnswer { host: endpoint.authority.clone(), reason };
        let realm_uri: Uri = realm.parse().map_err(|e| bad(format!("token realm {realm:?}: {e}")))?;
        let host = realm_uri.authority().ok_or_else(|| bad(format!("token realm {realm:?} has no host")))?.to_string();
        // A registry reached over TLS must not talk us into sending a password in the clear.
        if realm_uri.scheme_str() != Some("https") && !endpoint.is_plain_http() {
            return Err(bad(format!("token realm {realm:?} is not https")));
        }
        let request = token_request(&realm_uri, service, scope, endpoint.credentials.as_ref()).map_err(|e| bad(e.to_string()))?;
        let response = self.exchange(way, request, &host).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::BAD_REQUEST => {
                return Err(RegistryError::Unauthorized { host, what: scope.to_owned(), message: "no token for these credentials".into() });
            }
            _ => return Err(self.refused(response, &host, format!("a token for {scope}")).await),
        }
        let body = self.small_body(response, &host, MAX_TOKEN_BODY).await?;
        let answer: TokenAnswer = serde_json::from_slice(&body).map_err(|e| bad(format!("token answer: {e}")))?;
        let token = answer.token.or(answer.access_token).filter(|t| !t.is_empty()).ok_or_else(|| bad("empty token".into()))?;
        let header = secret(&format!("Bearer {token}")).ok_or_else(|| bad("unusable token".into()))?;
        Ok((header, answer.expires_in.unwrap_or(DEFAULT_LIFETIME)))
    }
}

/// GET with Basic, or the OAuth2 POST when there is a refresh token (distribution spec/auth/{token,oauth}.md).
fn token_request(
    realm: &Uri,
    service: Option<&str>,
    scope: &str,
    credentials: Option<&Credentials>,
) -> Result<Request<Full<Bytes>>, http::Error> {
    let mut fields: Vec<(&str, &str)> = service.map(|s| ("service", s)).into_iter().chain([("scope", scope)]).collect();
    let builder = Request::builder().header(http::header::USER_AGENT, USER_AGENT);
    if let Some(credentials) = credentials.filter(|c| !c.identity_token.is_empty()) {
        fields.extend([("grant_type", "refresh_token"), ("client_id", "fram"), ("refresh_token", credentials.identity_token.as_str())]);
        let body = Full::from(form(&fields));
        return builder.method(Method::POST).uri(realm.clone()).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(body);
    }
    let separator = if realm.query().is_some() { '&' } else { '?' };
    let builder = builder.uri(format!("{realm}{separator}{}", form(&fields)));
    match credentials.and_then(Credentials::basic) {
        Some(basic) => builder.header(AUTHORIZATION, basic).body(Full::default()),
        None => builder.body(Full::default()),
    }
}

fn form(fields: &[(&str, &str)]) -> String {
    fields.iter().map(|(k, v)| format!("{k}={}", percent_encode(v))).collect::<Vec<_>>().join("&")
}

fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte as char),
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_as_servers_write_them() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| Challenge::Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
            scope: scope.map(Into::into),
        };
        for (text, expect) in [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/x:pull,push""#,
                Some(bearer("https://auth.docker.io/token", Some("registry.docker.io"), Some("repository:library/x:pull,push"))),
            ),
            (r#"bearer service=a, realm="b\"c""#, Some(bearer("b\"c", Some("a"), None))),
            (r#"Basic realm="x""#, Some(Challenge::Basic)),
            ("Basic", Some(Challenge::Basic)),
            (r#"Bearer service="no realm""#, None),
            ("Negotiate", None),
            ("", None),
        ] {
            assert_eq!(parse_challenge(text), expect, "{text}");
        }
    }

    #[test]
    fn a_docker_auth_field_gives_user_and_password_and_debug_hides_them() {
        let credentials = Credentials::from_basic(&BASE64.encode("user:pass:word")).unwrap();
        assert_eq!((credentials.username.as_str(), credentials.password.as_str()), ("user", "pass:word"));
        assert!(!format!("{credentials:?}").contains("pass"));
        assert!(Credentials::from_basic("!!").is_none());
    }

    #[test]
    fn a_token_request_carries_service_and_scope_encoded() {
        let request = token_request(&"https://a/t?x=1".parse().unwrap(), Some("s p"), "repository:a/b:pull", None).unwrap();
        assert_eq!(request.uri(), "https://a/t?x=1&service=s%20p&scope=repository%3Aa%2Fb%3Apull");
    }
}
