//! A server on an in-memory store that answers HTTPS on loopback, and clients of it.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use fram_api::Api;
use fram_apiserver::admission::{Chain, Webhooks};
use fram_apiserver::allocate::Allocators;
use fram_apiserver::bootstrap::Cluster;
use fram_apiserver::http_api::{Listener, serve};
use fram_apiserver::nodes::Nodes;
use fram_apiserver::pki::{Identity, Pki};
use fram_apiserver::registry::Registry;
use fram_apiserver::token::{DEFAULT_ISSUER, Tokens};
use fram_apiserver::{Environment, InProcess, Server, User};
use fram_client::Client;
use fram_store::{Embedded, Options};
use http::{HeaderMap, Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(super) fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().unwrap()
}

pub(super) fn roots(pem: &str) -> Arc<rustls::RootCertStore> {
    let mut roots = rustls::RootCertStore::empty();
    certificates(pem).into_iter().for_each(|c| roots.add(c).unwrap());
    Arc::new(roots)
}

pub(super) fn key(identity: &Identity) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap()
}

pub(super) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

pub(super) struct Web {
    pub(super) server: Arc<Server>,
    pub(super) pki: Pki,
    pub(super) address: SocketAddr,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
    _directory: tempfile::TempDir,
}

impl Drop for Web {
    fn drop(&mut self) {
        self.stop.cancel();
        self.tasks.close();
    }
}

impl Web {
    /// Serves until it is dropped; `nodes` makes the way to nodes.
    pub(super) async fn start(nodes: impl AsyncFnOnce(&Pki) -> Arc<dyn Nodes>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::open(directory.path()).unwrap();
        let nodes = nodes(&pki).await;
        let chain = Chain::standard().with_webhooks(Webhooks::new(nodes.clone()));
        let api = Arc::new(Api::builtin().unwrap());
        let store = Arc::new(Embedded::open(Options::in_memory()).unwrap());
        let registry = Registry::new(api, store, "/registry/", Environment::system(), chain, Allocators::default());
        let tokens = Tokens::new(registry.clone(), DEFAULT_ISSUER, &pki.service_account_key).unwrap();
        let server = Arc::new(Server::new(registry, tokens, nodes).with_front_proxy(&pki.front_proxy().unwrap()).unwrap());
        let cluster = Cluster {
            ca_pem: pki.ca_pem.clone(),
            front_proxy_ca_pem: pki.front_proxy_ca_pem.clone(),
            address: [192, 0, 2, 1].into(),
            port: 6443,
            cluster_domain: "cluster.local".into(),
            shared: false,
        };
        server.bootstrap(&cluster).await.unwrap();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let identity = pki.server("kube-apiserver", &["localhost".to_string()]).unwrap();
        let listener = Listener::new(socket, pki.server_config(&identity).unwrap());
        let address = listener.address().unwrap();
        tasks.spawn(serve(listener, server.clone(), stop.clone()));
        Self { server, pki, address, stop, tasks, _directory: directory }
    }

    /// The administrator in process.
    pub(super) fn client(&self) -> Client {
        let user = User::authenticated("admin", &["system:masters"]);
        Client::new(Arc::new(InProcess::new(self.server.clone(), user)), "test")
    }

    pub(super) async fn connect(&self, user: &str, groups: &[&str]) -> hyper::client::conn::http1::SendRequest<Full<Bytes>> {
        let identity = self.pki.client(user, groups).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots(&self.pki.ca_pem))
            .with_client_auth_cert(certificates(&identity.certificate), key(&identity))
            .unwrap();
        let stream = TcpStream::connect(self.address).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        self.tasks.spawn(async move {
            let _ended = connection.with_upgrades().await;
        });
        sender
    }

    /// What a client gets.
    pub(super) async fn get(&self, user: &str, groups: &[&str], path: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, Bytes) {
        self.send(user, groups, Method::GET, path, headers, Bytes::new()).await
    }

    pub(super) async fn send(
        &self,
        user: &str,
        groups: &[&str],
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> (u16, HeaderMap, Bytes) {
        let mut sender = self.connect(user, groups).await;
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, body) = sender.send_request(request.body(Full::new(body)).unwrap()).await.unwrap().into_parts();
        (parts.status.as_u16(), parts.headers, body.collect().await.unwrap().to_bytes())
    }
}
