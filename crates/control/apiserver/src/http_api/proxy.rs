//! Requests that a kubelet answers: logs, exec, attach, port-forward. The server authorizes, finds the pod's node and
//! hands the bytes through; the kubelet speaks the streaming protocols.

use std::sync::Arc;

use fram_machinery::{Status, Value, meta, object};
use http::{Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use crate::admission::{Operation, Request as AdmissionRequest};
use crate::authorize::Attributes;
use crate::kubelets;
use crate::nodes::Stream;
use crate::path::{Query, ResourcePath};
use crate::registry::{Place, Served, Write};
use crate::respond::Body;
use crate::server::Server;
use crate::user::User;

pub(super) async fn handle(
    server: Arc<Server>,
    user: User,
    path: ResourcePath,
    query: Query,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    let verb = match *request.method() {
        http::Method::POST => "create",
        _ if path.subresource == "log" => "get",
        _ if path.subresource == "proxy" => crate::path::verb(request.method(), &path, false),
        _ => "get",
    };
    let attributes = path.attributes(verb);
    let Place { served, .. } = server.place_of(&super::objects::resource_of(&path), &path.namespace, &path.name, false)?;
    server.authorizer.check(&user, &attributes)?;
    // A WebSocket begins with GET, yet what it does in a container is a creation, and asks for that right too; see upstream's
    // AuthorizePodWebsocketUpgradeCreatePermission.
    if attributes.verb == "get" && matches!(path.subresource.as_str(), "exec" | "attach" | "portforward") {
        server.authorizer.check(&user, &Attributes { verb: "create".into(), ..attributes.clone() })?;
    }
    if served.kind.subresource(&path.subresource).is_none() {
        return Err(Status::no_such_path());
    }
    if path.subresource != "log" {
        admit(&server, &user, &served, &path, &query).await?;
    }
    if path.subresource == "proxy" && path.plural != "nodes" {
        if let Some(response) = redirect(&path, &request) {
            return Ok(response);
        }
        let backend = super::backend::find(&server, &path).await?;
        let stream = backend.connect(&server).await?;
        let query = request.uri().query().map(|q| format!("?{q}")).unwrap_or_default();
        // Which slash ends the path matters to the one who is asked.
        let slash = if request.uri().path().ends_with('/') && !path.rest.is_empty() { "/" } else { "" };
        let host = backend.address.to_string();
        let prefix = prefix(request.uri().path(), &path.rest);
        // A compressed answer could not be rewritten.
        request.headers_mut().remove(header::ACCEPT_ENCODING);
        let response = send(&server, stream, &format!("/{}{slash}{query}", path.rest), &host, request).await?;
        return Ok(super::rewrite::answer(response, &prefix, &host));
    }
    let place = Place { served, namespace: path.namespace.clone(), name: path.name.clone() };
    let (stream, target) = match (path.plural.as_str(), path.subresource.as_str()) {
        ("pods", "log" | "exec" | "attach" | "portforward") => {
            let pod = server.registry.get_object(&place).await?;
            let target = pod_target(&pod, &path.subresource, &query, request.uri().query().unwrap_or_default())?;
            // There is no log yet, which is no error.
            if path.subresource == "log" && pod.str_at(&["spec", "nodeName"]).is_empty() {
                return Ok(crate::respond::bytes(200, "text/plain", ""));
            }
            // Of logs alone the client may say that it does not matter who answers.
            let verified = path.subresource != "log" || !query.flag("insecureSkipTLSVerifyBackend");
            (server.kubelets.connect_to(&node_of(&pod)?, verified).await?, target)
        }
        ("nodes", "proxy") => {
            let asked = NodePort::parse(&path.name)?;
            let query = request.uri().query().map(|q| format!("?{q}")).unwrap_or_default();
            (asked.connect(&server).await?, format!("/{}{query}", path.rest))
        }
        (plural, sub) => return Err(Status::method_not_allowed(&path.group, plural, sub)),
    };
    let response = send(&server, stream, &target, "kubelet", request).await?;
    if path.subresource == "log" { super::log::answer(response).await } else { Ok(response) }
}

/// Whom `[SCHEME:]NAME[:PORT]` means; see utilnet.SplitSchemeNamePort.
#[derive(Debug, PartialEq)]
struct NodePort {
    node: String,
    /// None for the kubelet's.
    port: Option<u16>,
    tls: bool,
}

impl NodePort {
    fn parse(name: &str) -> Result<Self, Status> {
        let bad = || Status::bad_request(format!("invalid node request {name:?}"));
        let parts: Vec<&str> = name.split(':').collect();
        let (scheme, node, port) = match parts.as_slice() {
            [node] => ("", *node, ""),
            [node, port] => ("", *node, *port),
            [scheme @ ("" | "http" | "https"), node, port] => (*scheme, *node, *port),
            _ => return Err(bad()),
        };
        let port = if port.is_empty() { None } else { Some(port.parse().ok().filter(|port| *port > 0).ok_or_else(bad)?) };
        Ok(Self { node: node.to_string(), port, tls: scheme == "https" })
    }

    /// A stream to the kubelet, or to what else listens on the node.
    async fn connect(self, server: &Server) -> Result<Box<dyn Stream>, Status> {
        let record = server.kubelets.record(&self.node).await?;
        match self.port.filter(|port| kubelets::port(&record) != Some(*port)) {
            None => server.kubelets.connect(&self.node).await,
            Some(port) => {
                let host = kubelets::address(&record)?;
                let failed =
                    |e| Status::new(fram_machinery::Reason::ServiceUnavailable, format!("error trying to reach {host}:{port}: {e}"));
                let address = kubelets::resolved(&host, port).await.map_err(failed)?;
                super::backend::Backend { node: self.node, address, tls: self.tls }.connect(server).await
            }
        }
    }
}

/// Admission of a connection: it is about the options with which one connects.
async fn admit(server: &Server, user: &User, served: &Served, path: &ResourcePath, query: &Query) -> Result<(), Status> {
    let options = connect_options(path, query)?;
    let place = Place { served: served.clone(), namespace: path.namespace.clone(), name: path.name.clone() };
    let write = Write { user: user.clone(), ..Default::default() };
    let mut request = AdmissionRequest::new(&server.registry, &place, &path.subresource, Operation::Connect, &write);
    let options = server.registry.admission.admit(&mut request, options, None).await?;
    server.registry.admission.validate(&request, Some(&options), None).await
}

/// The options object of a connection, such as PodAttachOptions.
fn connect_options(path: &ResourcePath, query: &Query) -> Result<Value, Status> {
    let kind = match (path.plural.as_str(), path.subresource.as_str()) {
        ("pods", "exec") => "PodExecOptions",
        ("pods", "attach") => "PodAttachOptions",
        ("pods", "portforward") => "PodPortForwardOptions",
        ("services", _) => "ServiceProxyOptions",
        ("nodes", _) => "NodeProxyOptions",
        _ => "PodProxyOptions",
    };
    let mut options = object!({ "kind": kind, "apiVersion": "v1" });
    if path.subresource == "proxy" {
        options.set(&["path"], path.rest.as_str());
        return Ok(options);
    }
    for flag in ["stdin", "stdout", "stderr", "tty"].into_iter().filter(|f| query.flag(f)) {
        options.set(&[flag], true);
    }
    if !query.get("container").is_empty() {
        options.set(&["container"], query.get("container"));
    }
    let command: Vec<Value> = query.all("command").map(Value::from).collect();
    if !command.is_empty() {
        options.set(&["command"], command);
    }
    let ports: Vec<Value> = ports_of(query)?.into_iter().map(|port| Value::from(i64::from(port))).collect();
    if !ports.is_empty() {
        options.set(&["ports"], ports);
    }
    Ok(options)
}

/// Relative links of what is proxied need the path to end with a slash.
fn redirect(path: &ResourcePath, request: &Request<Incoming>) -> Option<Response<Body>> {
    let reads = matches!(*request.method(), http::Method::GET | http::Method::HEAD);
    let upgrade = request.headers().contains_key(header::UPGRADE);
    if !path.rest.is_empty() || request.uri().path().ends_with('/') || !reads || upgrade {
        return None;
    }
    let query = request.uri().query().map(|q| format!("?{q}")).unwrap_or_default();
    let location = header::HeaderValue::try_from(format!("{}/{query}", request.uri().path())).ok()?;
    let mut response = crate::respond::bytes(301, "text/plain", "");
    response.headers_mut().insert(header::LOCATION, location);
    Some(response)
}

/// The path below which a pod or Service is proxied, without a slash at its end.
fn prefix(path: &str, rest: &str) -> String {
    let path = path.trim_end_matches('/');
    path.strip_suffix(rest).unwrap_or(path).trim_end_matches('/').to_string()
}

fn node_of(pod: &Value) -> Result<String, Status> {
    match pod.str_at(&["spec", "nodeName"]) {
        "" => Err(Status::bad_request(format!("pod {} does not have a host assigned", meta::name(pod)))),
        node => Ok(node.to_string()),
    }
}

/// The container that is meant: the one named, the annotated default, or the only one.
fn container_of(pod: &Value, asked: &str) -> Result<String, Status> {
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    let all: Vec<&str> = lists.iter().flat_map(|l| pod.list_at(&["spec", l])).map(|c| c.str_at(&["name"])).collect();
    let name = meta::name(pod);
    if !asked.is_empty() {
        return match all.contains(&asked) {
            true => Ok(asked.to_string()),
            false => Err(Status::bad_request(format!("container {asked} is not valid for pod {name}"))),
        };
    }
    if let Some(default) = meta::annotation(pod, "kubectl.kubernetes.io/default-container").filter(|d| all.contains(d)) {
        return Ok(default.to_string());
    }
    let main: Vec<&str> = pod.list_at(&["spec", "containers"]).iter().map(|c| c.str_at(&["name"])).collect();
    match main.as_slice() {
        [one] => Ok(one.to_string()),
        many => Err(Status::bad_request(format!("a container name must be specified for pod {name}, choose one of: [{}]", many.join(" ")))),
    }
}

/// The ports that are to be forwarded: one or several in each value.
fn ports_of(query: &Query) -> Result<Vec<u16>, Status> {
    let all = query.all("ports").flat_map(|value| value.split(','));
    all.map(|port| port.parse().map_err(|_| Status::bad_request(format!("ports: {port:?} is not a port")))).collect()
}

/// The kubelet's path for a pod's stream.
fn pod_target(pod: &Value, subresource: &str, query: &Query, raw: &str) -> Result<String, Status> {
    let (namespace, name) = (meta::namespace(pod), meta::name(pod));
    if subresource == "portforward" {
        let ports: Vec<String> = ports_of(query)?.iter().map(u16::to_string).collect();
        let ports = if ports.is_empty() { String::new() } else { format!("?port={}", ports.join(",")) };
        return Ok(format!("/portForward/{namespace}/{name}{ports}"));
    }
    let container = container_of(pod, query.get("container"))?;
    if subresource == "log" {
        super::log::check(query)?;
        let rest: Vec<&str> = raw.split('&').filter(|p| !p.is_empty() && !p.starts_with("container=")).collect();
        return Ok(format!("/containerLogs/{namespace}/{name}/{container}?{}", rest.join("&")));
    }
    // The kubelet's own words for them, older than those of the API.
    let words = [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")];
    let mut asked: Vec<String> = words.iter().filter(|(flag, _)| query.flag(flag)).map(|(_, word)| format!("{word}=1")).collect();
    asked.extend(raw.split('&').filter(|p| p.starts_with("command=")).map(String::from));
    Ok(format!("/{subresource}/{namespace}/{name}/{container}?{}", asked.join("&")))
}

/// Sends the request over a stream and hands the answer back; an upgraded connection is joined byte by byte.
pub(super) async fn send(
    server: &Server,
    stream: Box<dyn Stream>,
    target: &str,
    host: &str,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    let bad = |e: &dyn std::fmt::Display| Status::new(fram_machinery::Reason::ServiceUnavailable, format!("error dialing backend: {e}"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| bad(&e))?;
    let upgrade = request.headers().contains_key(header::UPGRADE);
    let client_side = upgrade.then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let uri: Uri = target.parse().map_err(|e| Status::bad_request(format!("bad path: {e}")))?;
    let mut forwarded = Request::new(body);
    *forwarded.method_mut() = parts.method;
    *forwarded.uri_mut() = uri;
    *forwarded.headers_mut() = parts.headers;
    crate::authenticate::strip(forwarded.headers_mut());
    let host = header::HeaderValue::try_from(host).map_err(|e| bad(&e))?;
    forwarded.headers_mut().insert(header::HOST, host);
    server.streams.spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to a kubelet ended early");
        }
    });
    let mut response = sender.send_request(forwarded).await.map_err(|e| bad(&e))?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(client_side) = client_side
    {
        let node_side = hyper::upgrade::on(&mut response);
        let trail = crate::audit::current();
        server.streams.spawn(async move {
            join(client_side, node_side).await;
            // The request lasted as long as its stream.
            drop(trail);
        });
    }
    Ok(response.map(|body| body.map_err(std::io::Error::other).boxed_unsync()))
}

async fn join(client: hyper::upgrade::OnUpgrade, node: hyper::upgrade::OnUpgrade) {
    let joined = async {
        let (client, node) = (client.await?, node.await?);
        let (mut client, mut node) = (TokioIo::new(client), TokioIo::new(node));
        if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut node).await {
            tracing::debug!(%error, "stream to a kubelet ended early");
        }
        Ok::<_, hyper::Error>(())
    };
    if let Err(error) = joined.await {
        tracing::debug!(%error, "a stream was not upgraded");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_named_alone_or_with_scheme_and_port() {
        let asked = |port, tls| Some(NodePort { node: "n".into(), port, tls });
        for (name, expect) in [
            ("n", asked(None, false)),
            ("n:10250", asked(Some(10250), false)),
            ("https:n:22", asked(Some(22), true)),
            ("http:n:", asked(None, false)),
            (":n:10250", asked(Some(10250), false)),
            ("ftp:n:10250", None),
            ("n:0", None),
            ("n:70000", None),
            ("n:1:2:3", None),
        ] {
            assert_eq!(NodePort::parse(name).ok(), expect, "{name}");
        }
    }

    #[test]
    fn kubelets_are_asked_in_their_own_words() {
        let pod = fram_machinery::object!({ "metadata": { "name": "p", "namespace": "d" }, "spec": { "containers": [{ "name": "c" }] } });
        for (subresource, raw, target) in [
            ("exec", "command=a%20b&command=c&stdin=true&stdout=1&tty=false", "/exec/d/p/c?input=1&output=1&command=a%20b&command=c"),
            ("attach", "container=c&stderr=true&tty=true", "/attach/d/p/c?error=1&tty=1"),
            ("portforward", "ports=80&ports=443,8080", "/portForward/d/p?port=80,443,8080"),
            ("portforward", "", "/portForward/d/p"),
            ("log", "container=c&follow=true&tailLines=3", "/containerLogs/d/p/c?follow=true&tailLines=3"),
        ] {
            assert_eq!(pod_target(&pod, subresource, &Query::parse(Some(raw)), raw).unwrap(), target);
        }
        let wrong = pod_target(&pod, "portforward", &Query::parse(Some("ports=80,http")), "ports=80,http");
        assert!(wrong.unwrap_err().message.contains("\"http\" is not a port"));
    }
}
