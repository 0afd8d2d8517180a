//! Where the server tells its auditor what it does. The trail of a request travels with the task that answers it, as upstream's
//! audit context does; without a policy there is none, and nothing is done. What is recorded is fram-audit's business.

use std::net::SocketAddr;
use std::sync::Arc;

use fram_audit::{Asked, Audit, ObjectRef, Subject, Trail};
use fram_client::{Call, DeleteOptions, Verb};
use fram_machinery::{Status, Value, object};
use http::{HeaderMap, Uri, header};

use crate::authorize::Attributes;
use crate::registry::{Place, Registry};
use crate::server::{Answer, Performed, Server};
use crate::user::User;

tokio::task_local! {
    static TRAIL: Trail;
}

/// Answers a request on its trail.
pub(crate) async fn within<F: Future>(trail: Option<Trail>, answer: F) -> F::Output {
    match trail {
        Some(trail) => TRAIL.scope(trail, answer).await,
        None => answer.await,
    }
}

/// The trail of the request that this task answers.
pub(crate) fn current() -> Option<Trail> {
    TRAIL.try_with(Trail::clone).ok()
}

/// Says something about the request that this task answers; `value` is only made where it is recorded.
pub(crate) fn annotate(key: &str, value: impl FnOnce() -> String) {
    // Without a trail there is nobody to tell.
    let _ = TRAIL.try_with(|trail| trail.annotate(key, value));
}

/// The header by which clients and servers name a request.
pub(crate) const AUDIT_ID: &str = "audit-id";

fn subject<'a>(user: Option<&'a User>, a: &'a Attributes) -> Subject<'a> {
    Subject {
        user: user.map_or("", |u| &u.name),
        groups: user.map_or(&[], |u| &u.groups),
        verb: &a.verb,
        group: &a.group,
        resource: &a.resource,
        subresource: &a.subresource,
        namespace: &a.namespace,
        name: &a.name,
        path: &a.path,
    }
}

fn object_ref(a: &Attributes) -> Option<ObjectRef> {
    a.is_resource().then(|| ObjectRef {
        resource: a.resource.clone(),
        namespace: a.namespace.clone(),
        name: a.name.clone(),
        group: a.group.clone(),
        version: a.version.clone(),
        subresource: a.subresource.clone(),
        ..Default::default()
    })
}

/// What a request over HTTP says of itself.
pub(crate) struct Sent<'a> {
    pub(crate) id: &'a str,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) uri: &'a Uri,
    pub(crate) peer: SocketAddr,
}

/// The trail of a request over HTTP.
pub(crate) fn of_request(
    server: &Server,
    audit: &Arc<Audit>,
    user: Option<&User>,
    attributes: &Attributes,
    sent: &Sent<'_>,
) -> Option<Trail> {
    let asked = || Asked {
        id: sent.id.into(),
        uri: sent.uri.path_and_query().map_or("/", |p| p.as_str()).into(),
        verb: attributes.verb.clone(),
        user: user.map_or_else(|| object!({}), User::to_info),
        impersonated: None,
        source_ips: source_ips(sent.headers, sent.peer),
        user_agent: text(sent.headers, header::USER_AGENT.as_str()).into(),
        object: object_ref(attributes),
        received: server.registry.environment.now(),
    };
    match user {
        Some(_) => audit.begin(&subject(user, attributes), asked),
        None => audit.begin_unknown(&subject(user, attributes), asked),
    }
}

/// The ways by which a client tried to say who it is, in upstream's words.
pub(crate) fn attempted(headers: &HeaderMap, certificate: bool) -> Vec<&'static str> {
    let scheme = text(headers, header::AUTHORIZATION.as_str()).trim().split(' ').next().unwrap_or_default().to_ascii_lowercase();
    let tried = [("basic", scheme == "basic"), ("bearer", scheme == "bearer"), ("x509", certificate)];
    tried.into_iter().filter(|(_, tried)| *tried).map(|(way, _)| way).collect()
}

/// The trail of a call in process.
pub(crate) fn of_call(server: &Server, audit: &Arc<Audit>, user: &User, attributes: &Attributes) -> Option<Trail> {
    audit.begin(&subject(Some(user), attributes), || Asked {
        id: server.registry.environment.uid(),
        uri: uri(attributes),
        verb: attributes.verb.clone(),
        user: user.to_info(),
        impersonated: None,
        source_ips: vec!["127.0.0.1".into()],
        user_agent: concat!("fram/", env!("CARGO_PKG_VERSION")).into(),
        object: object_ref(attributes),
        received: server.registry.environment.now(),
    })
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

/// The name of a request: the client's own, or a new one. It is sent back whether the request is recorded or not.
pub(crate) fn request_id(server: &Server, headers: &HeaderMap) -> String {
    match text(headers, AUDIT_ID) {
        "" => server.registry.environment.uid(),
        id => id.into(),
    }
}

/// Who sent it, behind those who passed it on; see upstream's utilnet.SourceIPs.
fn source_ips(headers: &HeaderMap, peer: SocketAddr) -> Vec<String> {
    let parse = |text: &str| text.trim().parse::<std::net::IpAddr>().ok();
    let mut ips: Vec<_> = text(headers, "x-forwarded-for").split(',').filter_map(parse).collect();
    if let Some(real) = parse(text(headers, "x-real-ip"))
        && !ips.contains(&real)
    {
        ips.push(real);
    }
    if ips.last() != Some(&peer.ip()) {
        ips.push(peer.ip());
    }
    ips.iter().map(ToString::to_string).collect()
}

/// The path that a call would have over HTTP.
fn uri(a: &Attributes) -> String {
    let mut out = if a.group.is_empty() { format!("/api/{}", a.version) } else { format!("/apis/{}/{}", a.group, a.version) };
    let of_namespace = a.resource == "namespaces" && a.group.is_empty();
    if !a.namespace.is_empty() && !of_namespace {
        out.push_str(&format!("/namespaces/{}", a.namespace));
    }
    for part in [&a.resource, &a.name, &a.subresource].into_iter().filter(|p| !p.is_empty()) {
        out.push('/');
        out.push_str(part);
    }
    out
}

/// Takes note of what a call brings.
pub(crate) fn asked(trail: &Trail, call: &Call) {
    match &call.verb {
        Verb::Create { object, .. } | Verb::Update { object, .. } => trail.request(object),
        Verb::Patch { patch, .. } => trail.patch(&patch.body),
        Verb::Delete(options) | Verb::DeleteCollection { delete: options, .. } => {
            if let Some(options) = delete_options(options) {
                trail.patch(&options);
            }
        }
        Verb::Get | Verb::List(_) => {}
    }
}

fn delete_options(options: &DeleteOptions) -> Option<Value> {
    let mut out = object!({});
    if let Some(seconds) = options.grace_period_seconds {
        out.set(&["gracePeriodSeconds"], seconds);
    }
    if let Some(propagation) = &options.propagation {
        out.set(&["propagationPolicy"], format!("{propagation:?}"));
    }
    let conditions = [("uid", &options.preconditions.uid), ("resourceVersion", &options.preconditions.resource_version)];
    for (field, text) in conditions.into_iter().filter_map(|(f, t)| Some((f, t.as_deref()?))) {
        out.set(&["preconditions", field], text);
    }
    if options.dry_run {
        out.set(&["dryRun"], object!(["All"]));
    }
    if out.is_empty() {
        return None;
    }
    out.set(&["kind"], "DeleteOptions");
    out.set(&["apiVersion"], "v1");
    Some(out)
}

/// Takes note of what a call led to.
pub(crate) fn answered(trail: &Trail, registry: &Registry, result: &Result<Performed, Status>) {
    match result {
        Err(status) => trail.answered(status.code, Some(status)),
        Ok(performed) => {
            let created = matches!(performed.answer, Answer::Object { created: true, .. } | Answer::Other { created: true, .. });
            trail.answered(if created { 201 } else { 200 }, None);
            trail.response(|| body(registry, &performed.answer));
        }
    }
}

/// The object of an answer, whatever encoding the client wants.
fn body(registry: &Registry, answer: &Answer) -> Option<Value> {
    let list = |place: &Place, metadata: Value, items: Vec<Value>| {
        let kind = place.kind();
        object!({ "kind": (&kind.list_kind), "apiVersion": (kind.api_version()), "metadata": metadata, "items": items })
    };
    Some(match answer {
        Answer::Stored { served, entry } => registry.decode(served, entry).ok()?,
        Answer::Object { object, .. } | Answer::Other { object, .. } | Answer::Deleted { object, .. } => object.clone(),
        Answer::List { place, listing } => {
            let decode = || listing.items.iter().map(|entry| registry.decode(&place.served, entry)).collect::<Result<_, _>>();
            let items = listing.objects.clone().map_or_else(decode, Ok).ok()?;
            list(place, object!({ "resourceVersion": (listing.revision.to_string()) }), items)
        }
        Answer::Objects { place, objects } => list(place, object!({}), objects.clone()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_pass_a_request_on_stand_before_who_sent_it_to_us() {
        let peer: SocketAddr = "192.0.2.9:1".parse().unwrap();
        let mut headers = HeaderMap::new();
        assert_eq!(source_ips(&headers, peer), ["192.0.2.9"]);
        headers.insert("x-forwarded-for", "198.51.100.1, junk, 198.51.100.2".parse().unwrap());
        headers.insert("x-real-ip", "198.51.100.1".parse().unwrap());
        assert_eq!(source_ips(&headers, peer), ["198.51.100.1", "198.51.100.2", "192.0.2.9"]);
        headers.insert("x-real-ip", "192.0.2.9".parse().unwrap());
        assert_eq!(source_ips(&headers, peer), ["198.51.100.1", "198.51.100.2", "192.0.2.9"]);
    }

    #[test]
    fn a_call_has_the_path_that_it_would_have_over_http() {
        let about = |group: &str, resource: &str, namespace: &str, name: &str, sub: &str| Attributes {
            group: group.into(),
            version: "v1".into(),
            resource: resource.into(),
            namespace: namespace.into(),
            name: name.into(),
            subresource: sub.into(),
            ..Default::default()
        };
        assert_eq!(uri(&about("", "pods", "a", "b", "status")), "/api/v1/namespaces/a/pods/b/status");
        assert_eq!(uri(&about("apps", "deployments", "", "", "")), "/apis/apps/v1/deployments");
        assert_eq!(uri(&about("", "namespaces", "a", "a", "")), "/api/v1/namespaces/a");
    }
}
