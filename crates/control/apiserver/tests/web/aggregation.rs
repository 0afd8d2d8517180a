//! Aggregation as clients see it: this server over HTTPS, and a small TLS server as the aggregated one, which believes the front proxy only.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::harness::{Web, certificates, key, provider, roots};
use base64::Engine;
use bytes::Bytes;
use fram_apiserver::nodes::{Nodes, Reached, Stream};
use fram_apiserver::pki::Pki;
use fram_client::resources::{API_SERVICES, CONFIG_MAPS, ENDPOINT_SLICES, SERVICES};
use fram_client::{Client, DeleteOptions, EventKind, ListOptions, PatchKind, Resource, SharedInformers};
use fram_machinery::{Status, Value, json, meta, object};
use futures_util::StreamExt;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

const NAME: &str = "v1.a.com";

/// Every endpoint is the aggregated server of the test.
struct Everywhere(SocketAddr);

#[async_trait::async_trait]
impl Nodes for Everywhere {
    async fn connect(&self, _node: &str) -> Reached {
        None
    }

    async fn dial(&self, _node: &str, _address: SocketAddr) -> Reached {
        let connected = TcpStream::connect(self.0).await;
        Some(connected.map(|stream| Box::new(stream) as Box<dyn Stream>).map_err(Status::internal))
    }
}

/// The aggregated server: it takes clients of the front proxy's authority only, and tells what it was asked.
async fn aggregated(pki: &Pki, tasks: &mut JoinSet<()>) -> SocketAddr {
    let identity = pki.server("api", &["api.default.svc".to_string()]).unwrap();
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots(&pki.front_proxy_ca_pem), provider()).build().unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&identity.certificate), key(&identity))
        .unwrap();
    let (tls, socket) = (tokio_rustls::TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let address = socket.local_addr().unwrap();
    tasks.spawn(async move {
        let (mut connections, upgrades) = (JoinSet::new(), TaskTracker::new());
        while let Ok((stream, _)) = socket.accept().await {
            let (tls, upgrades) = (tls.clone(), upgrades.clone());
            connections.spawn(async move {
                let Ok(stream) = tls.accept(stream).await else { return };
                let service = service_fn(|request| async { Ok::<_, std::convert::Infallible>(answer(request, &upgrades)) });
                let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                let _ended = connection.with_upgrades().await;
            });
        }
    });
    address
}

fn answer(mut request: Request<Incoming>, upgrades: &TaskTracker) -> Response<Full<Bytes>> {
    let show = |code: u16, value: Value| {
        Response::builder()
            .status(code)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new([json::to_vec(&value), b"\n".to_vec()].concat().into()))
            .unwrap()
    };
    match request.uri().path() {
        "/apis/a.com/v1" => show(
            200,
            object!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "a.com/v1", "resources": [
                { "name": "things", "singularName": "thing", "namespaced": true, "kind": "Thing",
                  "verbs": ["delete", "deletecollection", "get", "list", "watch"] }] }),
        ),
        "/openapi/v3" => show(200, object!({ "paths": { "apis/a.com/v1": { "serverRelativeURL": "/openapi/v3/apis/a.com/v1?hash=X" } } })),
        "/openapi/v3/apis/a.com/v1" => show(200, object!({ "openapi": "3.0.0", "theirs": true })),
        "/openapi/v2" => show(
            200,
            object!({ "swagger": "2.0", "paths": { "/apis/a.com/v1/things": {}, "/apis/b.com/v1/others": {} }, "definitions": {} }),
        ),
        "/apis/a.com/v1/away" => {
            Response::builder().status(302).header(header::LOCATION, "https://elsewhere.example").body(Full::default()).unwrap()
        }
        "/apis/a.com/v1/echo" => {
            let upgrade = hyper::upgrade::on(&mut request);
            upgrades.spawn(async move {
                let mut stream = TokioIo::new(upgrade.await.unwrap());
                let mut word = [0; 4];
                stream.read_exact(&mut word).await.unwrap();
                stream.write_all(&word).await.unwrap();
            });
            let response = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
            response.header(header::CONNECTION, "Upgrade").header(header::UPGRADE, "echo").body(Full::default()).unwrap()
        }
        _ if request.uri().query().is_some_and(|q| q.contains("watch=true")) => {
            show(200, object!({ "type": "ADDED", "object": { "metadata": { "name": "two" } } }))
        }
        path if path.starts_with("/apis/a.com/v1/") => {
            let all = |name: &str| -> Value {
                request.headers().get_all(name).iter().map(|v| Value::from(v.to_str().unwrap())).collect::<Vec<_>>().into()
            };
            show(
                200,
                object!({ "method": (request.method().as_str()), "target": (request.uri().to_string()), "user": (all("x-remote-user")),
                    "groups": (all("x-remote-group")), "authorization": (all("authorization")), "host": (all("host")) }),
            )
        }
        _ => show(404, object!({ "kind": "Status", "code": 404 })),
    }
}

struct Cell {
    web: Web,
    client: Client,
    _servers: JoinSet<()>,
}

async fn start() -> Cell {
    let mut servers = JoinSet::new();
    let mut backend = None;
    let web = Web::start(async |pki: &Pki| {
        let address = *backend.insert(aggregated(pki, &mut servers).await);
        Arc::new(Everywhere(address)) as Arc<dyn Nodes>
    })
    .await;
    let client = web.client();
    let informers = SharedInformers::new(client.clone(), web.tasks.clone(), web.stop.clone());
    web.server.start_aggregation(&informers, &web.tasks, &web.stop);
    servers.spawn(web.server.clone().follow_definitions(web.stop.clone()));
    Cell { web, client, _servers: servers }
}

fn service() -> Value {
    object!({ "metadata": { "name": "api" }, "spec": { "ports": [{ "name": "https", "port": 443 }] } })
}

fn slice() -> Value {
    object!({ "metadata": { "name": "api-1", "labels": { "kubernetes.io/service-name": "api" } }, "addressType": "IPv4",
        "endpoints": [{ "addresses": ["10.1.2.3"], "nodeName": "n", "conditions": { "ready": true } }],
        "ports": [{ "name": "https", "port": 6443, "protocol": "TCP" }] })
}

impl Cell {
    fn api_service(&self) -> Value {
        let bundle = base64::engine::general_purpose::STANDARD.encode(&self.web.pki.ca_pem);
        object!({ "metadata": { "name": NAME }, "spec": { "group": "a.com", "version": "v1", "groupPriorityMinimum": 19000,
            "versionPriority": 10, "caBundle": bundle, "service": { "namespace": "default", "name": "api" } } })
    }

    /// Waits until the APIService says this of itself.
    async fn until_available(&self, reason: &str) {
        let options = ListOptions { field_selector: format!("metadata.name={NAME}"), ..Default::default() };
        let services = self.client.all(&API_SERVICES);
        let mut watch = services.watch(options).await.unwrap();
        let is = |o: &Value| meta::condition(o, "Available").is_some_and(|c| c.str_at(&["reason"]) == reason);
        let seen = async {
            if services.find(NAME).await.unwrap().is_some_and(|o| is(&o)) {
                return;
            }
            loop {
                let event = watch.next().await.unwrap().unwrap();
                if event.kind != EventKind::Bookmark && is(&event.object) {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), seen).await.unwrap();
    }

    async fn json(&self, path: &str, headers: &[(&str, &str)]) -> Value {
        let (code, _, body) = self.web.get("root", &["system:masters"], path, headers).await;
        assert_eq!(code, 200, "{path}: {}", String::from_utf8_lossy(&body));
        json::from_slice(&body).unwrap()
    }

    async fn serve_a_com(&self) {
        self.client.within(&SERVICES, "default").create(service()).await.unwrap();
        self.client.within(&ENDPOINT_SLICES, "default").create(slice()).await.unwrap();
        self.client.all(&API_SERVICES).create(self.api_service()).await.unwrap();
        self.until_available("Passed").await;
    }
}

#[tokio::test]
async fn a_request_reaches_the_aggregated_server_as_its_user() {
    let cell = start().await;
    cell.serve_a_com().await;
    let forged =
        [("x-remote-user", "forged"), ("x-remote-group", "forged"), ("impersonate-user", "jane"), ("impersonate-group", "system:masters")];
    let seen = cell.json("/apis/a.com/v1/namespaces/x/things?limit=5&a=b%20c", &forged).await;
    assert_eq!(seen.str_at(&["target"]), "/apis/a.com/v1/namespaces/x/things?limit=5&a=b%20c");
    assert_eq!(seen.get("user"), Some(&object!(["jane"])));
    assert_eq!(seen.get("groups"), Some(&object!(["system:masters", "system:authenticated"])));
    assert_eq!((seen.get("authorization"), seen.get("host")), (Some(&object!([])), Some(&object!(["api.default.svc:443"]))));
    let (code, _, body) = cell.web.get("jane", &[], "/apis/a.com/v1/namespaces/x/things", &[]).await;
    let text = String::from_utf8_lossy(&body);
    assert!(code == 403 && text.contains(r#"cannot list resource \"things\" in API group \"a.com\""#), "{code}: {text}");
    let (code, _, body) = cell.web.get("root", &["system:masters"], "/apis/a.com/v1/away", &[]).await;
    assert_eq!((code, &body[..]), (502, &b"the backend attempted to redirect this request, which is not permitted\n"[..]));
}

#[tokio::test]
async fn components_of_the_same_process_reach_what_another_server_answers() {
    let cell = start().await;
    cell.serve_a_com().await;
    let things = cell.client.within(&Resource::new("a.com", "v1", "things"), "x");
    let seen = things.get("one").await.unwrap();
    assert_eq!((seen.str_at(&["target"]), seen.get("user")), ("/apis/a.com/v1/namespaces/x/things/one", Some(&object!(["admin"]))));
    let mut events = things.watch(ListOptions { field_selector: "metadata.name=two".into(), ..Default::default() }).await.unwrap();
    let event = events.next().await.unwrap().unwrap();
    assert_eq!((event.kind, meta::name(&event.object)), (EventKind::Added, "two"));
    let user = fram_apiserver::User::authenticated("jane", &[]);
    let jane = Client::new(Arc::new(fram_apiserver::InProcess::new(cell.web.server.clone(), user)), "test");
    let refused = jane.within(&Resource::new("a.com", "v1", "things"), "x").get("one").await.unwrap_err();
    assert_eq!(refused.code, 403);
    let mut kinds = cell.web.server.follow_aggregated();
    let kept = tokio::time::timeout(Duration::from_secs(30), kinds.wait_for(|kinds| !kinds.is_empty())).await.unwrap().unwrap().clone();
    assert_eq!((kept[0].kind.as_str(), kept[0].namespaced), ("Thing", true));
}

#[tokio::test]
async fn what_another_server_has_is_unknown_while_it_does_not_say() {
    let cell = start().await;
    let mut unheard = cell.web.server.follow_unheard();
    let mut until = async |expect: &[&str]| {
        let heard = unheard.wait_for(|unheard| unheard.iter().eq(expect));
        tokio::time::timeout(Duration::from_secs(30), heard).await.unwrap().unwrap();
    };
    until(&[]).await;
    cell.client.all(&API_SERVICES).create(cell.api_service()).await.unwrap();
    until(&["a.com/v1"]).await;
    cell.client.within(&SERVICES, "default").create(service()).await.unwrap();
    cell.client.within(&ENDPOINT_SLICES, "default").create(slice()).await.unwrap();
    until(&[]).await;
    cell.client.within(&ENDPOINT_SLICES, "default").delete("api-1", DeleteOptions::default()).await.unwrap();
    until(&["a.com/v1"]).await;
    // What it had is followed all the same: it may come back.
    assert_eq!(cell.web.server.follow_aggregated().borrow().len(), 1);
    cell.client.all(&API_SERVICES).delete(NAME, DeleteOptions::default()).await.unwrap();
    until(&[]).await;
}

#[tokio::test]
async fn upgraded_connections_pass() {
    let cell = start().await;
    cell.serve_a_com().await;
    let mut sender = cell.web.connect("root", &["system:masters"]).await;
    let request = Request::get("/apis/a.com/v1/echo").header(header::HOST, "localhost").header(header::CONNECTION, "Upgrade");
    let response = sender.send_request(request.header(header::UPGRADE, "echo").body(Full::default()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    stream.write_all(b"fram").await.unwrap();
    let mut word = [0; 4];
    stream.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"fram");
}

#[tokio::test]
async fn availability_follows_service_and_endpoints() {
    let cell = start().await;
    let services = cell.client.within(&SERVICES, "default");
    cell.client.all(&API_SERVICES).create(cell.api_service()).await.unwrap();
    cell.until_available("ServiceNotFound").await;
    let (code, headers, body) = cell.web.get("root", &["system:masters"], "/apis/a.com/v1/things", &[]).await;
    assert_eq!((code, &body[..]), (503, &b"service unavailable\n"[..]));
    assert_eq!(headers[header::CONTENT_TYPE], "text/plain; charset=utf-8");
    services.create(service()).await.unwrap();
    cell.until_available("EndpointsNotFound").await;
    let slices = cell.client.within(&ENDPOINT_SLICES, "default");
    let mut waiting = slice();
    waiting.set(&["endpoints"], object!([{ "addresses": ["10.1.2.3"], "nodeName": "n", "conditions": { "ready": false } }]));
    slices.create(waiting).await.unwrap();
    cell.until_available("MissingEndpoints").await;
    let ready = object!({ "endpoints": [{ "addresses": ["10.1.2.3"], "nodeName": "n", "conditions": { "ready": true } }] });
    slices.patch("api-1", "", PatchKind::Merge, ready).await.unwrap();
    cell.until_available("Passed").await;
    let wrong = object!({ "spec": { "caBundle": (base64::engine::general_purpose::STANDARD.encode(&cell.web.pki.front_proxy_ca_pem)) } });
    cell.client.all(&API_SERVICES).patch(NAME, "", PatchKind::Merge, wrong).await.unwrap();
    cell.until_available("FailedDiscoveryCheck").await;
    let ports = object!({ "spec": { "ports": [{ "name": "https", "port": 8443 }] } });
    services.patch("api", "", PatchKind::Merge, ports).await.unwrap();
    cell.until_available("ServicePortError").await;
}

#[tokio::test]
async fn what_the_aggregated_server_offers_is_discovered() {
    let cell = start().await;
    cell.serve_a_com().await;
    let groups = cell.json("/apis", &[]).await;
    let names: Vec<&str> = groups.list_at(&["groups"]).iter().map(|g| g.str_at(&["name"])).collect();
    assert_eq!(names[..4], ["apiregistration.k8s.io", "a.com", "apps", "events.k8s.io"]);
    assert_eq!(cell.json("/apis/a.com", &[]).await.str_at(&["preferredVersion", "groupVersion"]), "a.com/v1");
    assert_eq!(cell.json("/apis/a.com/v1", &[]).await.str_at(&["resources"]), "");
    let accept = [("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")];
    // What they offer is asked after they were found available.
    let version = async {
        loop {
            let all = cell.json("/apis", &accept).await;
            let version = all.list_at(&["items"])[1].list_at(&["versions"])[0].clone();
            let index = cell.json("/openapi/v3", &[]).await;
            let both = cell.json("/openapi/v2", &[]).await.at(&["paths", "/apis/a.com/v1/things"]).is_some();
            if version.str_at(&["freshness"]) == "Current" && index.at(&["paths", "apis/a.com/v1"]).is_some() && both {
                return (version, index);
            }
            tokio::task::yield_now().await;
        }
    };
    let (version, index) = tokio::time::timeout(Duration::from_secs(30), version).await.unwrap();
    assert_eq!(version.list_at(&["resources"])[0].str_at(&["responseKind", "kind"]), "Thing");
    let url = index.str_at(&["paths", "apis/a.com/v1", "serverRelativeURL"]).to_string();
    assert_eq!(url, "/openapi/v3/apis/a.com/v1?hash=X");
    assert_eq!(cell.json(&url, &[]).await.bool_at(&["theirs"]), Some(true));
    let document = cell.json("/openapi/v2", &[]).await;
    assert!(document.at(&["paths", "/apis/b.com/v1/others"]).is_none());
    cell.client.all(&API_SERVICES).delete(NAME, DeleteOptions::default()).await.unwrap();
    let gone = async { while cell.web.get("root", &["system:masters"], "/apis/a.com", &[]).await.0 != 404 {} };
    tokio::time::timeout(Duration::from_secs(30), gone).await.unwrap();
}

#[tokio::test]
async fn this_servers_own_group_versions_have_api_services() {
    let cell = start().await;
    let services = cell.client.all(&API_SERVICES);
    let apps = services.get("v1.apps").await.unwrap();
    assert_eq!(meta::label(&apps, "kube-aggregator.kubernetes.io/automanaged"), Some("onstart"));
    assert_eq!((apps.int_at(&["spec", "groupPriorityMinimum"]), apps.int_at(&["spec", "versionPriority"])), (Some(17_800), Some(15)));
    assert_eq!(meta::condition(&apps, "Available").unwrap().str_at(&["reason"]), "Local");
    let map = cell.client.within(&CONFIG_MAPS, "kube-system").get("extension-apiserver-authentication").await.unwrap();
    assert_eq!(map.str_at(&["data", "requestheader-client-ca-file"]), cell.web.pki.front_proxy_ca_pem);
    let definition = object!({ "metadata": { "name": "foos.example.com" }, "spec": { "group": "example.com", "scope": "Namespaced",
        "names": { "plural": "foos", "kind": "Foo" },
        "versions": [{ "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": { "type": "object" } } }] } });
    let definitions = cell.client.all(&fram_client::Resource::new("apiextensions.k8s.io", "v1", "customresourcedefinitions"));
    let mut watch = services.watch(ListOptions::default()).await.unwrap();
    definitions.create(definition).await.unwrap();
    let mut until = async |kind: EventKind| {
        let seen = async {
            loop {
                let event = watch.next().await.unwrap().unwrap();
                if event.kind == kind && meta::name(&event.object) == "v1.example.com" {
                    return event.object;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), seen).await.unwrap()
    };
    let made = until(EventKind::Added).await;
    assert_eq!(meta::label(&made, "kube-aggregator.kubernetes.io/automanaged"), Some("true"));
    definitions.delete("foos.example.com", DeleteOptions::default()).await.unwrap();
    until(EventKind::Deleted).await;
}
