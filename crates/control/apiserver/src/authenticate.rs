//! Authentication: client certificates and bearer tokens. Who shows neither is anonymous; who shows a bad one is refused.

use fram_machinery::Status;
use http::{HeaderMap, header};

use crate::bootstrap_token::{self, BootstrapToken};
use crate::server::Server;
use crate::user::{AUTHENTICATED, User};

/// The user of a verified client certificate: common name and organisations.
pub(crate) fn certificate_user(der: &[u8]) -> Option<User> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    let mut groups: Vec<String> = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(String::from).collect();
    groups.push(AUTHENTICATED.into());
    Some(User { name: name.into(), groups, ..Default::default() })
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
    Ok(server.tokens.verify(token, &audiences).await.map(|(user, _)| user))
}

fn bearer(headers: &HeaderMap) -> Option<String> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_string());
    }
    // Browsers cannot set headers on WebSockets: the token travels as a subprotocol.
    let protocols = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    let token = protocols.flat_map(|v| v.split(',')).find_map(|p| p.trim().strip_prefix("base64url.bearer.authorization.k8s.io."))?;
    let raw = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, token.trim_end_matches('=')).ok()?;
    String::from_utf8(raw).ok()
}

/// Another user, where headers ask to act as one and the user may.
pub(crate) async fn impersonate(server: &Server, headers: &HeaderMap, user: &User) -> Result<Option<User>, Status> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_string();
    let all = |name: &str| headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).map(String::from).collect::<Vec<_>>();
    let (name, mut groups, uid) = (text("impersonate-user"), all("impersonate-group"), text("impersonate-uid"));
    if name.is_empty() {
        if groups.is_empty() && uid.is_empty() {
            return Ok(None);
        }
        return Err(Status::bad_request("requested impersonation of groups or a uid without impersonating a user"));
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
    for (group, resource, namespace, name) in asked {
        let attributes = crate::authorize::Attributes {
            verb: "impersonate".into(),
            group: group.into(),
            version: "v1".into(),
            resource: resource.into(),
            namespace: namespace.into(),
            name,
            ..Default::default()
        };
        server.authorizer.allows(user, &attributes).await?;
    }
    if let Some((namespace, _)) = service_account.filter(|_| groups.is_empty()) {
        groups = vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")];
    }
    if name == crate::user::ANONYMOUS {
        groups.push(crate::user::UNAUTHENTICATED.into());
    } else if !groups.iter().any(|g| g == AUTHENTICATED) {
        groups.push(AUTHENTICATED.into());
    }
    Ok(Some(User { name, uid, groups, extra: Default::default() }))
}
