//! Admission webhooks as the server calls them: over TLS on loopback, by connections that are kept.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::harness::{Web, certificates, key, provider};
use base64::Engine;
use bytes::Bytes;
use fram_apiserver::nodes::{NoNodes, Nodes};
use fram_apiserver::pki::Pki;
use fram_client::Resource;
use fram_client::resources::CONFIG_MAPS;
use fram_machinery::{Status, Value, json, object};
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A webhook that allows everything, and counts who connects.
struct Hook {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    /// Told to end the connections that there are.
    end: watch::Sender<()>,
    _tasks: JoinSet<()>,
}

async fn review(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let asked = request.into_body().collect().await.unwrap().to_bytes();
    let uid = json::from_slice(&asked).unwrap().str_at(&["request", "uid"]).to_string();
    let answer = object!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": { "uid": uid, "allowed": true } });
    let body = Full::new(json::to_vec(&answer).into());
    Ok(Response::builder().header(header::CONTENT_TYPE, "application/json").body(body).unwrap())
}

impl Hook {
    async fn start(pki: &Pki) -> Self {
        let identity = pki.server("hook", &["localhost".to_string()]).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(certificates(&identity.certificate), key(&identity))
            .unwrap();
        let (tls, socket) = (tokio_rustls::TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let (address, connections, end) = (socket.local_addr().unwrap(), Arc::<AtomicUsize>::default(), watch::Sender::new(()));
        let mut tasks = JoinSet::new();
        let (counted, ended) = (connections.clone(), end.subscribe());
        tasks.spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = socket.accept().await {
                let (tls, counted, mut ended) = (tls.clone(), counted.clone(), ended.clone());
                ended.mark_unchanged();
                serving.spawn(async move {
                    let Ok(stream) = tls.accept(stream).await else { return };
                    counted.fetch_add(1, Ordering::Relaxed);
                    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(review));
                    tokio::select! {
                        _ = connection => {}
                        _ = ended.changed() => {}
                    }
                });
            }
        });
        Self { address, connections, end, _tasks: tasks }
    }

    fn configuration(&self, name: &str, ca_bundle: Option<&str>) -> Value {
        let mut hook = object!({ "name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": { "url": (format!("https://localhost:{}/check", self.address.port())) },
            "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"] }] });
        if let Some(pem) = ca_bundle {
            hook.set(&["clientConfig", "caBundle"], base64::engine::general_purpose::STANDARD.encode(pem));
        }
        object!({ "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "metadata": { "name": name }, "webhooks": [hook] })
    }
}

const CONFIGURATIONS: Resource = Resource::new("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations");

async fn make(web: &Web, name: &str) -> Result<Arc<Value>, Status> {
    let map = object!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name } });
    web.client().within(&CONFIG_MAPS, "default").create(map).await
}

#[tokio::test]
async fn a_connection_to_a_webhook_serves_many_requests_and_another_follows_when_it_has_ended() {
    let web = Web::start(async |_| Arc::new(NoNodes) as Arc<dyn Nodes>).await;
    let hook = Hook::start(&web.pki).await;
    web.tasks.spawn(web.server.clone().follow_webhooks(web.stop.clone()));
    let configuration = hook.configuration("counted", Some(&web.pki.ca_pem));
    web.client().all(&CONFIGURATIONS).create(configuration).await.unwrap();
    // The configuration is followed: it is heeded soon.
    let mut number = 0;
    while hook.connections.load(Ordering::Relaxed) == 0 {
        number += 1;
        make(&web, &format!("before-{number}")).await.unwrap();
    }
    for number in 0..5 {
        make(&web, &format!("with-{number}")).await.unwrap();
    }
    assert_eq!(hook.connections.load(Ordering::Relaxed), 1);
    hook.end.send(()).unwrap();
    make(&web, "after").await.unwrap();
    assert_eq!(hook.connections.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn without_a_bundle_the_authorities_of_the_system_decide() {
    let web = Web::start(async |_| Arc::new(NoNodes) as Arc<dyn Nodes>).await;
    let hook = Hook::start(&web.pki).await;
    web.tasks.spawn(web.server.clone().follow_webhooks(web.stop.clone()));
    web.client().all(&CONFIGURATIONS).create(hook.configuration("unknown", None)).await.unwrap();
    let mut number = 0;
    let refused = loop {
        number += 1;
        match make(&web, &format!("before-{number}")).await {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert!(refused.message.contains("failed calling webhook") && refused.message.contains("UnknownIssuer"), "{}", refused.message);
    assert_eq!(hook.connections.load(Ordering::Relaxed), 0);
}
