//! Ways to kubelets: through the connection that a node's agent holds, or else, as upstream's server goes, by TLS to the address that the
//! Node tells. Who answers there has to show a certificate of an authority that is trusted for it; upstream asks that only where it is told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fram_machinery::{Reason, Status, Value, meta};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::authenticate::certificate_user;
use crate::endpoints;
use crate::nodes::{Nodes, Stream, unreachable};
use crate::pki::Identity;
use crate::registry::{Place, Registry};
use crate::server::Server;
use crate::tls::{ClientIdentity, TlsError, as_client, trusting};

/// How long a kubelet may take until it has been connected to.
const PATIENCE: Duration = Duration::from_secs(10);

/// The kinds of a node's addresses by which its kubelet is asked, the best first; those that kubeadm chooses.
const PREFERRED: [&str; 3] = ["InternalIP", "ExternalIP", "Hostname"];

/// Opens streams to kubelets.
#[derive(Clone)]
pub(crate) struct Kubelets {
    nodes: Arc<dyn Nodes>,
    registry: Arc<Registry>,
    /// None where only agents' connections are used.
    tls: Option<Tls>,
}

#[derive(Clone)]
struct Tls {
    config: Arc<ClientConfig>,
    /// The same, for who does not want to know who answers.
    unverified: Arc<ClientConfig>,
    /// The authority is the cluster's, which signs for a node as what it is: another node's certificate, or this server's, is not its.
    names_nodes: bool,
}

impl Server {
    /// Goes to kubelets without an agent by TLS, with this certificate. Theirs is of the cluster's authority and names their node, or of one
    /// in `authorities`; both are PEM.
    pub fn with_kubelet_client(mut self, cluster: &str, authorities: Option<&str>, identity: &Identity) -> Result<Self, TlsError> {
        let trusted = trusting(authorities.unwrap_or(cluster).as_bytes())?;
        let identity = ClientIdentity::read(identity)?;
        let config = Arc::new(as_client(trusted, Some(&identity)));
        let unverified = Arc::new(as_client(fram_client::unverified::config(&[])?, Some(&identity)));
        self.kubelets.tls = Some(Tls { config, unverified, names_nodes: authorities.is_none() });
        Ok(self)
    }
}

impl Kubelets {
    pub(crate) fn new(nodes: Arc<dyn Nodes>, registry: Arc<Registry>) -> Self {
        Self { nodes, registry, tls: None }
    }

    /// A new stream to the kubelet of a node, or why there is none.
    pub(crate) async fn connect(&self, node: &str) -> Result<Box<dyn Stream>, Status> {
        self.connect_to(node, true).await
    }

    /// The same; where it is not to be `verified`, whoever answers at the node's address is taken for its kubelet, by who asks.
    pub(crate) async fn connect_to(&self, node: &str, verified: bool) -> Result<Box<dyn Stream>, Status> {
        if let Some(reached) = self.nodes.connect(node).await {
            return reached;
        }
        let tls = self.tls.clone().ok_or_else(|| unreachable(node))?;
        let record = self.record(node).await?;
        let (host, port) = (address(&record)?, port(&record).ok_or_else(|| no_address(&record))?);
        let failed =
            |e: std::io::Error| Status::new(Reason::ServiceUnavailable, format!("error dialing the kubelet at {host}:{port}: {e}"));
        let name = ServerName::try_from(host.clone()).map_err(|e| failed(std::io::Error::other(e)))?;
        let connected = async {
            let config = if verified { tls.config } else { tls.unverified };
            let stream = secured(config, name, resolved(&host, port).await?).await?;
            if verified && tls.names_nodes && !is_of(&stream, node) {
                return Err(std::io::Error::other("another one than the node answers there"));
            }
            Ok(stream)
        };
        let stream = tokio::time::timeout(PATIENCE, connected).await;
        Ok(Box::new(stream.map_err(|_| failed(std::io::ErrorKind::TimedOut.into()))?.map_err(failed)?))
    }

    pub(crate) async fn record(&self, node: &str) -> Result<Value, Status> {
        let served = self.registry.served("", "v1", "nodes").ok_or_else(Status::no_such_path)?;
        self.registry.get_object(&Place { served, namespace: String::new(), name: node.into() }).await
    }
}

fn no_address(node: &Value) -> Status {
    Status::new(Reason::ServiceUnavailable, format!("node {:?} tells no address at which it could be asked", meta::name(node)))
}

/// Where a node is.
pub(crate) fn address(node: &Value) -> Result<String, Status> {
    let told = node.list_at(&["status", "addresses"]);
    let of_kind = |kind: &&str| told.iter().find(|a| a.str_at(&["type"]) == *kind).map(|a| a.str_at(&["address"]).to_string());
    PREFERRED.iter().find_map(of_kind).ok_or_else(|| no_address(node))
}

/// Where its kubelet listens, if it tells.
pub(crate) fn port(node: &Value) -> Option<u16> {
    let port = node.int_at(&["status", "daemonEndpoints", "kubeletEndpoint", "Port"])?;
    u16::try_from(port).ok().filter(|port| *port > 0)
}

/// Where a host of this name is that may be dialed.
pub(crate) async fn resolved(host: &str, port: u16) -> std::io::Result<SocketAddr> {
    let mut found = tokio::net::lookup_host((host, port)).await?;
    let allowed = found.find(|found| endpoints::address(&found.ip().to_string(), port.into()).is_ok());
    allowed.ok_or_else(|| std::io::Error::other("address not allowed"))
}

/// Whether who answers has shown the certificate of this node's kubelet.
fn is_of(stream: &TlsStream<TcpStream>, node: &str) -> bool {
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    shown.and_then(|certificate| certificate_user(certificate)).is_some_and(|user| user.name.strip_prefix("system:node:") == Some(node))
}

/// A stream by TLS to who has a certificate for the name at this address.
async fn secured(config: Arc<ClientConfig>, name: ServerName<'static>, address: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    // What is typed is not to wait for more.
    stream.set_nodelay(true)?;
    TlsConnector::from(config).connect(name, stream).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{KUBELET_CLIENT, Pki};
    use fram_machinery::object;

    #[test]
    fn a_kubelet_is_asked_at_the_address_that_its_node_tells() {
        let node = |addresses: Value, port: i64| {
            object!({ "metadata": { "name": "n" },
                "status": { "addresses": (addresses), "daemonEndpoints": { "kubeletEndpoint": { "Port": port } } } })
        };
        let host = object!({ "type": "Hostname", "address": "n.example" });
        let ip = object!({ "type": "InternalIP", "address": "192.0.2.7" });
        let both = || Value::from(vec![host.clone(), ip.clone()]);
        let found = |node: Value| (address(&node).ok(), port(&node));
        assert_eq!(found(node(both(), 10250)), (Some("192.0.2.7".to_string()), Some(10250)));
        assert_eq!(found(node(vec![host.clone()].into(), 9)), (Some("n.example".to_string()), Some(9)));
        assert_eq!(found(node(Value::from(Vec::<Value>::new()), 70_000)), (None, None));
        assert_eq!(port(&node(both(), 0)), None);
    }

    #[tokio::test]
    async fn who_answers_has_to_be_vouched_for_and_is_shown_who_asks() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [ours, other] = folders.each_ref().map(|folder| Pki::open(folder.path()).unwrap());
        let identity = ours.client(KUBELET_CLIENT, &[]).unwrap();
        let client = || Arc::new(as_client(trusting(ours.ca_pem.as_bytes()).unwrap(), Some(&ClientIdentity::read(&identity).unwrap())));
        for (authority, name, is_good) in [(&ours, "n.example", true), (&ours, "m.example", false), (&other, "n.example", false)] {
            let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = socket.local_addr().unwrap();
            let shown = authority.server("system:node:n", &[name.to_string()]).unwrap();
            // The authority of those who ask is the cluster's, whoever vouches for the kubelet.
            let config = crate::pki::server_config(&ours.ca_pem, &shown, authority.directory()).unwrap();
            let answering = async {
                let (stream, _) = socket.accept().await.unwrap();
                let stream = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(stream).await.ok()?;
                Some(stream.get_ref().1.peer_certificates()?.len())
            };
            let (stream, shown) = tokio::join!(secured(client(), "n.example".try_into().unwrap(), address), answering);
            assert_eq!(stream.is_ok(), is_good, "{name}");
            assert!(stream.is_err() || stream.as_ref().is_ok_and(|stream| is_of(stream, "n") && !is_of(stream, "m")));
            assert_eq!(shown, is_good.then_some(1));
        }
    }
}
