//! Authentication: client certificates and bearer tokens. Who shows neither is anonymous; who shows a bad one is refused.

use std::collections::{BTreeMap, BTreeSet};

use fram_machinery::Status;
use http::{HeaderMap, header};

use crate::bootstrap_token::{self, BootstrapToken};
use crate::server::Server;
use crate::user::{AUTHENTICATED, User};

/// What tells credentials of one user apart; see upstream's CredentialIDKey.
const CREDENTIAL: &str = "authentication.kubernetes.io/credential-id";

/// The user of a verified client certificate: common name and organisations.
pub(crate) fn certificate_user(der: &[u8]) -> Option<User> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    let mut groups: Vec<String> = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(String::from).collect();
    groups.push(AUTHENTICATED.into());
    let digest = ring::digest::digest(&ring::digest::SHA256, der);
    let id: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let extra = [(CREDENTIAL.to_string(), vec![format!("X509SHA256={id}")])].into();
    Some(User { name: name.into(), groups, extra, ..Default::default() })
}

/// The user of a request.
pub(crate) async fn authenticate(server: &Server, headers: &HeaderMap, certificate: Option<&User>) -> Result<User, Status> {
    Ok(match (bearer(headers), certificate) {
        (Some(token), _) => token_user(server, &token).await?.ok_or_else(Status::unauthorized)?,
        (None, Some(user)) => user.clone(),
        (None, None) => User::anonymous(),
    })
}

/// The user of a bearer token: a bootstrap token by its form, else a service account's.
async fn token_user(server: &Server, token: &str) -> Result<Option<User>, Status> {
    if let Some(token) = BootstrapToken::parse(token) {
        return bootstrap_token::authenticate(&server.registry, &token).await;
    }
    let audiences = [server.tokens.issuer().to_string()];
    Ok(server.tokens.verify(token, &audiences).await?.map(|(user, _)| user))
}

pub(crate) fn bearer(headers: &HeaderMap) -> Option<String> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_string());
    }
    // Browsers cannot set headers on WebSockets: the token travels as a subprotocol.
    let protocols = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    let token = protocols.flat_map(|v| v.split(',')).find_map(|p| p.trim().strip_prefix(TOKEN_PROTOCOL))?;
    let raw = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, token.trim_end_matches('=')).ok()?;
    String::from_utf8(raw).ok()
}

/// The subprotocol by which a browser shows its token.
const TOKEN_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// Takes away what a client proved itself by: its credentials end here, and whoever a request is handed on to must not get
/// them.
pub(crate) fn strip(headers: &mut HeaderMap) {
    headers.remove(header::AUTHORIZATION);
    let impersonation: Vec<_> = headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    impersonation.iter().for_each(|name| drop(headers.remove(name)));
    let offered: Vec<String> = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(|p| p.trim().to_string())
        .collect();
    if offered.iter().any(|p| p.starts_with(TOKEN_PROTOCOL)) {
        let rest: Vec<&str> = offered.iter().map(String::as_str).filter(|p| !p.starts_with(TOKEN_PROTOCOL)).collect();
        headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
        if let Ok(rest) = header::HeaderValue::try_from(rest.join(", "))
            && !rest.is_empty()
        {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, rest);
        }
    }
}

/// Every value of a header. One that is not text is refused: left out, the request would be carried out as somebody else.
fn texts(headers: &HeaderMap, name: &str) -> Result<Vec<String>, Status> {
    let text = |value: &header::HeaderValue| String::from_utf8(value.as_bytes().to_vec());
    let all = headers.get_all(name).iter().map(text).collect::<Result<Vec<_>, _>>();
    all.map_err(|_| Status::bad_request(format!("the header {name} is not UTF-8")))
}

/// What is asked of `userextras`: the header's key, percent-decoded, and its values.
pub(crate) fn extras(headers: &HeaderMap) -> Result<BTreeMap<String, Vec<String>>, Status> {
    const PREFIX: &str = "impersonate-extra-";
    let keys: BTreeSet<&str> = headers.keys().filter_map(|name| name.as_str().strip_prefix(PREFIX)).collect();
    keys.into_iter().map(|key| Ok((crate::path::decode(key), texts(headers, &format!("{PREFIX}{key}"))?))).collect()
}

/// Another user, where headers ask to act as one and the user may.
pub(crate) async fn impersonate(server: &Server, headers: &HeaderMap, user: &User) -> Result<Option<User>, Status> {
    let one = |name: &str| texts(headers, name).map(|all| all.into_iter().next().unwrap_or_default());
    let (name, uid) = (one("impersonate-user")?, one("impersonate-uid")?);
    let (mut groups, extra) = (texts(headers, "impersonate-group")?, extras(headers)?);
    if name.is_empty() {
        if groups.is_empty() && uid.is_empty() && extra.is_empty() {
            return Ok(None);
        }
        return Err(Status::bad_request("requested impersonation of groups, a uid or extras without impersonating a user"));
    }
    let mut asked = Vec::new();
    let service_account = name.strip_prefix("system:serviceaccount:").and_then(|r| r.split_once(':'));
    match service_account {
        Some((namespace, account)) => asked.push(("", "serviceaccounts", namespace, account.to_string())),
        None => asked.push(("", "users", "", name.clone())),
    }
    asked.extend(groups.iter().map(|g| ("", "groups", "", g.clone())));
    if !uid.is_empty() {
        asked.push(("authentication.k8s.io", "uids", "", uid.clone()));
    }
    let mut asked: Vec<_> = asked.into_iter().map(|(g, r, ns, name)| (g, r.to_string(), String::new(), ns, name)).collect();
    for (key, values) in &extra {
        asked.extend(values.iter().map(|v| ("authentication.k8s.io", "userextras".to_string(), key.clone(), "", v.clone())));
    }
    for (group, resource, subresource, namespace, name) in asked {
        let attributes = crate::authorize::Attributes {
            verb: "impersonate".into(),
            group: group.into(),
            version: "v1".into(),
            resource,
            subresource,
            namespace: namespace.into(),
            name,
            ..Default::default()
        };
        server.authorizer.allows(user, &attributes)?;
    }
    if let Some((namespace, _)) = service_account.filter(|_| groups.is_empty()) {
        groups = vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")];
    }
    if name == crate::user::ANONYMOUS {
        groups.push(crate::user::UNAUTHENTICATED.into());
    } else if !groups.iter().any(|g| g == AUTHENTICATED) {
        groups.push(AUTHENTICATED.into());
    }
    Ok(Some(User { name, uid, groups, extra: extra.into_iter().collect() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_proved_itself_by_is_not_handed_on() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer t"),
            ("impersonate-user", "u"),
            ("impersonate-extra-k", "v"),
            ("sec-websocket-protocol", "v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.dA"),
            ("accept", "*/*"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        strip(&mut headers);
        assert_eq!((headers.len(), headers["sec-websocket-protocol"].to_str().unwrap()), (2, "v4.channel.k8s.io"));
    }

    #[test]
    fn headers_that_are_not_ascii_are_read_and_those_that_are_not_text_refused() {
        let mut headers = HeaderMap::new();
        headers.insert("impersonate-user", header::HeaderValue::from_bytes("jörg".as_bytes()).unwrap());
        assert_eq!(texts(&headers, "impersonate-user").unwrap(), ["jörg"]);
        headers.insert("impersonate-user", header::HeaderValue::from_bytes(b"j\xf6rg").unwrap());
        assert!(texts(&headers, "impersonate-user").is_err());
        headers.insert("impersonate-extra-a%2fb", "v".parse().unwrap());
        assert_eq!(extras(&headers).unwrap(), [("a/b".to_string(), vec!["v".to_string()])].into());
    }
}
