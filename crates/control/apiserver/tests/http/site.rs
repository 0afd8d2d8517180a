//! A server on loopback, and clients of it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use fram_api::Api;
use fram_apiserver::admission::Chain;
use fram_apiserver::allocate::Allocators;
use fram_apiserver::bootstrap::Cluster;
use fram_apiserver::http_api::{Listener, serve};
use fram_apiserver::nodes::NoNodes;
use fram_apiserver::pki::Pki;
use fram_apiserver::registry::Registry;
use fram_apiserver::token::{DEFAULT_ISSUER, Tokens};
use fram_apiserver::{Environment, Server};
use fram_client::remote::{Kubeconfig, Remote};
use fram_machinery::{Value, json};
use fram_store::{Embedded, Options};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

pub(crate) struct Site {
    pub(crate) server: Arc<Server>,
    pub(crate) address: SocketAddr,
    pki: Pki,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: JoinSet<()>,
    _folder: tempfile::TempDir,
}

impl Site {
    /// Starts a server as `make` wants it.
    pub(crate) async fn start(make: impl FnOnce(Server) -> Server) -> Self {
        Self::start_on(|_| Options::in_memory(), make).await
    }

    /// Starts a server whose store is as `options` wants it, given a folder.
    pub(crate) async fn start_on(options: impl FnOnce(&Path) -> Options, make: impl FnOnce(Server) -> Server) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::open(&folder.path().join("pki")).unwrap();
        let store = Arc::new(Embedded::open(options(&folder.path().join("store"))).unwrap());
        let api = Arc::new(Api::builtin().unwrap());
        let registry = Registry::new(api, store, "/registry/", Environment::system(), Chain::standard(), Allocators::default());
        let tokens = Tokens::new(registry.clone(), DEFAULT_ISSUER, &pki.service_account_key).unwrap();
        let server = Arc::new(make(Server::new(registry, tokens, Arc::new(NoNodes))));
        let cluster = Cluster {
            ca_pem: "ca".into(),
            front_proxy_ca_pem: "ca".into(),
            address: [192, 0, 2, 1].into(),
            port: 6443,
            cluster_domain: "cluster.local".into(),
            shared: false,
        };
        server.bootstrap(&cluster).await.unwrap();
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let identity = pki.server("kube-apiserver", &["127.0.0.1".into()]).unwrap();
        let listener = Listener::new(socket, pki.server_config(&identity).unwrap());
        let (address, stop, mut tasks) = (listener.address().unwrap(), CancellationToken::new(), JoinSet::new());
        tasks.spawn(serve(listener, server.clone(), stop.clone()));
        Self { server, address, pki, stop, tasks, _folder: folder }
    }

    /// Access with a certificate of this user.
    pub(crate) fn access(&self, user: &str, groups: &[&str]) -> Kubeconfig {
        let identity = self.pki.client(user, groups).unwrap();
        Kubeconfig { identity: Some((identity.certificate, identity.key)), ..self.anonymous() }
    }

    pub(crate) fn anonymous(&self) -> Kubeconfig {
        Kubeconfig { server: format!("https://{}", self.address), ca: self.pki.ca_pem.clone(), ..Kubeconfig::default() }
    }

    /// A connection on which nothing has been said yet.
    pub(crate) async fn raw(&self, user: &str, groups: &[&str]) -> TlsStream<TcpStream> {
        let tls = TlsConnector::from(Arc::new(self.access(user, groups).tls(b"http/1.1").unwrap()));
        let stream = TcpStream::connect(self.address).await.unwrap();
        tls.connect(ServerName::IpAddress(self.address.ip().into()), stream).await.unwrap()
    }

    pub(crate) fn client(&self, user: &str, groups: &[&str]) -> Remote {
        Remote::new(&self.access(user, groups)).unwrap()
    }
}

/// Asks again and again until it is so: what the server does by itself it tells nobody.
pub(crate) async fn until(so: impl AsyncFn() -> bool) {
    let wait = async {
        while !so().await {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), wait).await.unwrap();
}

/// A request with a JSON body, or none.
pub(crate) fn request(method: &str, path: &str, body: Option<&Value>) -> Request<Full<Bytes>> {
    let body = body.map(json::to_vec).unwrap_or_default();
    Request::builder().method(method).uri(path).header("content-type", "application/json").body(Full::new(body.into())).unwrap()
}

/// The object of an answer.
pub(crate) async fn object_of(response: Response<Incoming>) -> Value {
    json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
}
