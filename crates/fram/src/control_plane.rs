//! The control plane: store, keys, API server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use fram_apiserver::admission::Webhooks;
use fram_apiserver::allocate::Allocators;
use fram_apiserver::bootstrap::Cluster;
use fram_apiserver::http_api::Listener;
use fram_apiserver::masters;
use fram_apiserver::nodes::Nodes;
use fram_apiserver::pki::{Identity, KUBELET_CLIENT, Pki, write_private};
use fram_apiserver::registry::Registry;
use fram_apiserver::token::{DEFAULT_ISSUER, Tokens};
use fram_apiserver::{Environment, InProcess, Server, User};
use fram_client::Client;
use tokio::net::TcpListener;

use crate::api_flags::ApiFlags;

pub(crate) async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

pub(crate) struct ControlPlane {
    pub(crate) server: Arc<Server>,
    pub(crate) pki: Arc<Pki>,
    identity: Identity,
    url: String,
    pub(crate) cluster: Arc<Cluster>,
    /// What posts records to the audit webhook.
    pub(crate) audit_sender: Option<fram_audit::Sender>,
    pub(crate) encryption: Arc<fram_encryption::Encryption>,
}

impl ControlPlane {
    /// Opens the data directory; nothing is served on the socket yet.
    pub(crate) async fn open(
        data: &Path,
        flags: &ApiFlags,
        allocators: Allocators,
        socket: TcpListener,
        node_ip: IpAddr,
        nodes: Arc<dyn Nodes>,
    ) -> anyhow::Result<(Self, Listener)> {
        let listen = socket.local_addr().context("the socket has no address")?;
        let environment = Environment::system();
        let (audit, audit_sender) = flags.auditor(&environment, data)?;
        let prefix = flags.etcd.prefix();
        let encryption = flags.encryption(data)?;
        let (store, checks) = flags.etcd.open(data, &encryption).await?;
        let pki = Arc::new(Pki::open(&flags.etcd.cert_dir(data))?);
        let shared = flags.etcd.is_shared();
        if shared {
            masters::agree_on_keys(&store, &prefix, &pki.fingerprint()).await?;
        }
        let gates = flags.gates()?;
        let (api, admission) = (Arc::new(flags.api(&gates)?), flags.admission()?);
        let address = match listen.ip() {
            IpAddr::V4(ip) if !ip.is_unspecified() => ip,
            _ => Ipv4Addr::LOCALHOST,
        };
        let mut names = server_names(&allocators, address);
        names.push(node_ip.to_string());
        names.dedup();
        let identity = pki.server("kube-apiserver", &names)?;
        let listener = Listener::new(socket, pki.server_config(&identity)?);
        let port = listen.port();
        let admission = admission.with_webhooks(Webhooks::new(nodes.clone()));
        let registry = Registry::new(api, store, &prefix, environment, admission, allocators);
        let tokens = Tokens::new(registry.clone(), DEFAULT_ISSUER, &pki.service_account_key)?;
        let server = Server::new(registry, tokens, nodes).with_front_proxy(&pki.front_proxy()?)?;
        let server = server.with_kubelet_client(&pki.ca_pem, flags.kubelet_authorities()?.as_deref(), &pki.client(KUBELET_CLIENT, &[])?)?;
        let server = flags.limited(server).with_checks(checks).with_feature_gates(&gates);
        let server = Arc::new(match audit {
            Some(audit) => server.with_audit(audit),
            None => server,
        });
        // The Service's endpoint must be an address that is not loopback; see the validation of Endpoints.
        let advertised = match node_ip {
            IpAddr::V4(ip) if address.is_loopback() => ip,
            _ => address,
        };
        let cluster = Arc::new(Cluster {
            ca_pem: pki.ca_pem.clone(),
            front_proxy_ca_pem: pki.front_proxy_ca_pem.clone(),
            address: advertised,
            port,
            cluster_domain: "cluster.local".into(),
            shared,
        });
        Ok((Self { server, pki, identity, url: format!("https://{address}:{port}"), cluster, audit_sender, encryption }, listener))
    }

    /// Makes the first objects.
    pub(crate) async fn bootstrap(&self) -> anyhow::Result<()> {
        Ok(self.server.bootstrap(&self.cluster).await?)
    }

    /// The URL at which clients reach the server.
    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// Serves the same API at another address.
    pub(crate) async fn listen_also(&self, address: SocketAddr) -> anyhow::Result<Listener> {
        let tls = self.pki.server_config(&self.identity)?;
        Ok(Listener::new(bind(address).await?, tls))
    }

    /// Writes the administrator's kubeconfig.
    pub(crate) fn write_kubeconfig(&self, path: &Path) -> anyhow::Result<()> {
        let identity = self.pki.client("kubernetes-admin", &["system:masters"])?;
        let text = self.pki.kubeconfig(&self.url(), "kubernetes-admin", &identity);
        Ok(write_private(path, &text)?)
    }

    /// A client in process for a component.
    pub(crate) fn client(&self, user: User, field_manager: &str) -> Client {
        Client::new(Arc::new(InProcess::new(self.server.clone(), user)), field_manager)
    }
}

fn server_names(allocators: &Allocators, address: Ipv4Addr) -> Vec<String> {
    let mut names: Vec<String> =
        ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"]
            .into_iter()
            .map(String::from)
            .collect();
    names.extend([allocators.service_ip(1).to_string(), "127.0.0.1".into()]);
    if !address.is_loopback() {
        names.push(address.to_string());
    }
    names
}
