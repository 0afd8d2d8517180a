//! Pods on one and on two nodes, each a network namespace that ends with the test: traffic, host ports, masquerading,
//! restarts, and nothing left. Needs root.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up its world fails")]

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::time::Duration;

use fram_cri::{NetworkAttachment, NetworkError, PodSandboxMetadata, PortMapping, Protocol, SandboxNetwork, SandboxNetworkConfig};
use fram_datapath::namespace::Namespace;
use fram_datapath::route::{Handle, VethPair};
use fram_datapath::{nft, purge, sysctl};
use fram_network::{NetworkConfig, Overlay, Peer, PodNetwork};

const PATIENCE: Duration = Duration::from_secs(3);

/// A node: a namespace with one link to its neighbour, and a pod network.
struct Node {
    folder: tempfile::TempDir,
    namespace: Namespace,
    ip: Ipv4Addr,
    cidr: &'static str,
    network: PodNetwork,
}

/// A second reference to a namespace, by way of its file descriptor.
fn again(namespace: &Namespace) -> Namespace {
    Namespace::open(&path_of(namespace)).unwrap()
}

fn path_of(namespace: &Namespace) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", namespace.as_fd().as_raw_fd()))
}

impl Node {
    fn new(namespace: Namespace, ip: Ipv4Addr, cidr: &'static str, overlay: Option<Overlay>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let network = Self::open(&folder, &namespace, ip, cidr, overlay);
        Self { folder, namespace, ip, cidr, network }
    }

    fn open(folder: &tempfile::TempDir, namespace: &Namespace, ip: Ipv4Addr, cidr: &str, overlay: Option<Overlay>) -> PodNetwork {
        let config = NetworkConfig {
            state_dir: folder.path().join("network"),
            cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
            pod_cidr: Some(cidr.parse().unwrap()),
            node_ip: Some(ip.into()),
            mtu: None,
            namespace: Some(again(namespace)),
        };
        PodNetwork::with_overlay(config, overlay).unwrap()
    }

    fn restart(self) -> Self {
        let Self { folder, namespace, ip, cidr, network } = self;
        drop(network);
        let network = Self::open(&folder, &namespace, ip, cidr, None);
        Self { folder, namespace, ip, cidr, network }
    }

    async fn pod(&self, name: &str, ports: &[PortMapping]) -> Pod {
        let namespace = Namespace::create().unwrap();
        let config = config(name, &namespace, ports);
        let status = self.network.setup(&config).await.unwrap();
        Pod { namespace, ip: status.ip.unwrap(), config }
    }
}

fn config(name: &str, namespace: &Namespace, ports: &[PortMapping]) -> SandboxNetworkConfig {
    SandboxNetworkConfig {
        pod_sandbox_id: format!("sandbox-of-{name}"),
        metadata: PodSandboxMetadata { name: name.into(), namespace: "default".into(), ..Default::default() },
        attachment: NetworkAttachment::Namespace(path_of(namespace)),
        port_mappings: ports.to_vec(),
        labels: Default::default(),
        annotations: Default::default(),
    }
}

struct Pod {
    namespace: Namespace,
    ip: IpAddr,
    config: SandboxNetworkConfig,
}

/// Two nodes on one segment, 10.50.0.1 and 10.50.0.2.
fn two_nodes() -> (Node, Node) {
    let (left, right) = (Namespace::create().unwrap(), Namespace::create().unwrap());
    let ips = [Ipv4Addr::new(10, 50, 0, 1), Ipv4Addr::new(10, 50, 0, 2)];
    left.run(|| {
        let (name, peer_name) = ("framx0", "eth0");
        let (mac, peer_mac) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        Handle::open()?.create_veth(&VethPair { name, mac, peer_name, peer_mac, peer_namespace: &right, mtu: 1500 })
    })
    .unwrap();
    for (namespace, name, ip) in [(&left, "framx0", ips[0]), (&right, "eth0", ips[1])] {
        namespace
            .run(|| {
                let mut handle = Handle::open()?;
                for name in ["lo", name] {
                    let link = handle.link(name)?.unwrap().index;
                    handle.set_up(link)?;
                }
                let link = handle.link(name)?.unwrap().index;
                handle.add_address(link, ip.into(), 24)
            })
            .unwrap();
    }
    (Node::new(left, ips[0], "10.244.1.0/24", None), Node::new(right, ips[1], "10.244.2.0/24", None))
}

fn listen(namespace: &Namespace, address: impl Into<IpAddr>, port: u16) -> TcpListener {
    let address = SocketAddr::new(address.into(), port);
    namespace.run(|| Ok(TcpListener::bind(address).unwrap())).unwrap()
}

/// Connects from a namespace; gives the source address that the listener saw.
fn reach(from: &Namespace, to: impl Into<IpAddr>, port: u16, listener: &TcpListener) -> IpAddr {
    let stream = connect(from, to, port).unwrap();
    let (_, source) = listener.accept().unwrap();
    drop(stream);
    source.ip()
}

fn connect(from: &Namespace, to: impl Into<IpAddr>, port: u16) -> io::Result<TcpStream> {
    let address = SocketAddr::new(to.into(), port);
    from.run(|| Ok(TcpStream::connect_timeout(&address, PATIENCE))).unwrap()
}

fn tcp(host_port: u16, container_port: u16, host_ip: &str) -> PortMapping {
    PortMapping { protocol: Protocol::Tcp, container_port, host_port, host_ip: host_ip.parse().ok() }
}

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

#[tokio::test]
async fn pods_of_one_node_reach_each_other_and_the_node_without_translation() {
    let (node, _other) = two_nodes();
    let (a, b) = (node.pod("a", &[]).await, node.pod("b", &[]).await);
    assert_ne!(a.ip, b.ip);
    let listener = listen(&b.namespace, ANY, 80);
    assert_eq!(reach(&a.namespace, b.ip, 80, &listener), a.ip);
    assert_eq!(reach(&node.namespace, b.ip, 80, &listener), IpAddr::from(node.ip));
    assert_eq!(reach(&b.namespace, Ipv4Addr::LOCALHOST, 80, &listener), IpAddr::from(Ipv4Addr::LOCALHOST));
    let on_node = listen(&node.namespace, node.ip, 8080);
    assert_eq!(reach(&a.namespace, node.ip, 8080, &on_node), a.ip);
}

#[tokio::test]
async fn pods_of_two_nodes_reach_each_other_and_are_masqueraded_towards_the_world_only() {
    let (one, two) = two_nodes();
    let peer = |node: &Node| vec![Peer { node_ip: node.ip.into(), pod_cidrs: vec![node.cidr.parse().unwrap()] }];
    assert_eq!(one.network.set_peers(peer(&two)).await.unwrap(), []);
    assert_eq!(two.network.set_peers(peer(&one)).await.unwrap(), []);
    let (a, b) = (one.pod("a", &[]).await, two.pod("b", &[]).await);
    let listener = listen(&b.namespace, ANY, 80);
    assert_eq!(reach(&a.namespace, b.ip, 80, &listener), a.ip);
    assert_eq!(reach(&one.namespace, b.ip, 80, &listener), IpAddr::from(one.ip));
    let world = listen(&two.namespace, two.ip, 9000);
    assert_eq!(reach(&a.namespace, two.ip, 9000, &world), IpAddr::from(one.ip), "the world sees the node");

    let far = Peer { node_ip: "192.168.77.1".parse().unwrap(), pod_cidrs: vec!["10.244.7.0/24".parse().unwrap()] };
    let unreachable = one.network.set_peers(vec![far]).await.unwrap();
    assert_eq!(unreachable.len(), 1, "a node that is not on the segment is reported");
    assert!(one.namespace.run(|| Handle::open()?.routes()).unwrap().iter().all(|r| r.gateway.is_none()), "the old peer's route is gone");
}

#[tokio::test]
async fn host_ports_lead_to_the_pod_from_outside_from_the_node_and_from_the_pod_itself() {
    let (node, outside) = two_nodes();
    let pod = node.pod("a", &[tcp(8080, 80, ""), tcp(9090, 81, "127.0.0.1")]).await;
    let neighbour = node.pod("b", &[]).await;
    let listener = listen(&pod.namespace, ANY, 80);
    let local_only = listen(&pod.namespace, ANY, 81);
    assert_eq!(reach(&outside.namespace, node.ip, 8080, &listener), IpAddr::from(outside.ip), "the client's address is kept");
    reach(&node.namespace, node.ip, 8080, &listener);
    reach(&node.namespace, Ipv4Addr::LOCALHOST, 8080, &listener);
    reach(&node.namespace, Ipv4Addr::LOCALHOST, 9090, &local_only);
    assert_eq!(reach(&neighbour.namespace, node.ip, 8080, &listener), neighbour.ip);
    assert_ne!(reach(&pod.namespace, node.ip, 8080, &listener), pod.ip, "hairpin traffic must not seem to come from the pod itself");
    assert!(connect(&outside.namespace, node.ip, 9090).is_err());

    let clash = config("c", &pod.namespace, &[tcp(8080, 1, "")]);
    assert!(matches!(node.network.setup(&clash).await, Err(NetworkError::PortInUse(_))));
    node.network.teardown(&pod.config).await.unwrap();
    assert!(connect(&outside.namespace, node.ip, 8080).is_err());
}

#[tokio::test]
async fn a_udp_host_port_follows_its_pod_although_the_client_keeps_its_port() {
    let (node, outside) = two_nodes();
    let mapping = PortMapping { protocol: Protocol::Udp, container_port: 53, host_port: 5353, host_ip: None };
    let client = outside.namespace.run(|| Ok(UdpSocket::bind((ANY, 0)).unwrap())).unwrap();
    for name in ["first", "second"] {
        let pod = node.pod(name, std::slice::from_ref(&mapping)).await;
        let server = pod.namespace.run(|| Ok(UdpSocket::bind((ANY, 53)).unwrap())).unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        client.send_to(name.as_bytes(), (node.ip, 5353)).unwrap();
        let mut buffer = [0; 16];
        let (n, _) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], name.as_bytes());
        node.network.teardown(&pod.config).await.unwrap();
    }
}

#[tokio::test]
async fn pods_cannot_reach_what_listens_on_the_nodes_loopback() {
    let (node, _other) = two_nodes();
    let pod = node.pod("a", &[]).await;
    let _listener = listen(&node.namespace, Ipv4Addr::LOCALHOST, 7000);
    pod.namespace
        .run(|| {
            // As an attacker in the pod would, with a route for loopback addresses towards the node.
            let output = std::process::Command::new("sh")
                .args(["-c", "sysctl -qw net.ipv4.conf.eth0.route_localnet=1 && ip addr del 127.0.0.1/8 dev lo && ip route add 127.0.0.1/32 via 169.254.1.1 dev eth0"])
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let connected = TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, 7000).into(), Duration::from_millis(500));
            assert!(connected.is_err(), "a pod reached the node's loopback");
            Ok(())
        })
        .unwrap();
}

#[tokio::test]
async fn a_restart_keeps_addresses_traffic_and_host_ports() {
    let (node, outside) = two_nodes();
    let a = node.pod("a", &[tcp(8080, 80, "")]).await;
    let listener = listen(&a.namespace, ANY, 80);
    let node = node.restart();
    assert_eq!(node.network.status(&a.config.pod_sandbox_id).await.unwrap().unwrap().ip, Some(a.ip));
    reach(&outside.namespace, node.ip, 8080, &listener);
    let again = node.network.setup(&a.config).await.unwrap();
    assert_eq!(again.ip, Some(a.ip));
    let b = node.pod("b", &[]).await;
    assert_ne!(b.ip, a.ip, "an address in use is not given again");
    assert_eq!(node.network.release_except(vec![a.config.pod_sandbox_id.clone()]).await.unwrap(), 1);
    assert_eq!(node.network.status(&b.config.pod_sandbox_id).await.unwrap(), None);
}

#[tokio::test]
async fn teardown_is_idempotent_works_without_the_namespace_and_purge_leaves_nothing() {
    let (node, _other) = two_nodes();
    let before = node.namespace.run(purge::count).unwrap();
    let pod = node.pod("a", &[tcp(8080, 80, "")]).await;
    let Pod { namespace, ip, config } = pod;
    drop(namespace);
    node.network.teardown(&config).await.unwrap();
    node.network.teardown(&config).await.unwrap();
    assert_eq!(node.namespace.run(purge::count).unwrap(), before);
    let refused = connect(&node.namespace, ip, 80).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::HostUnreachable, "an address without a pod is refused at once");

    node.pod("b", &[tcp(8080, 80, "")]).await;
    node.network.purge().await.unwrap();
    assert!(node.namespace.run(purge::count).unwrap().is_zero());
    assert!(node.namespace.run(|| nft::Handle::open()?.tables()).unwrap().is_empty());
}

#[tokio::test]
async fn without_a_pod_cidr_the_network_is_not_ready_until_it_is_told() {
    let namespace = Namespace::create().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let state_dir = folder.path().to_path_buf();
    let settings = NetworkConfig {
        state_dir,
        cluster_cidrs: Vec::new(),
        pod_cidr: None,
        node_ip: None,
        mtu: Some(1400),
        namespace: Some(again(&namespace)),
    };
    let network = PodNetwork::open(settings).unwrap();
    let pod = Namespace::create().unwrap();
    assert!(matches!(network.ready().await, Err(NetworkError::NotReady(_))));
    assert!(matches!(network.setup(&config("a", &pod, &[])).await, Err(NetworkError::NotReady(_))));
    assert!(network.update_pod_cidr("nonsense").await.is_err());
    network.update_pod_cidr("fd00::/64,10.244.3.0/24").await.unwrap();
    network.ready().await.unwrap();
    let status = network.setup(&config("a", &pod, &[])).await.unwrap();
    assert_eq!(status.ip, Some("10.244.3.2".parse().unwrap()));
    assert_eq!(pod.run(|| Handle::open()?.link("eth0")).unwrap().unwrap().mtu, 1400);
}

#[tokio::test]
async fn a_setup_that_fails_leaves_nothing() {
    let (node, _other) = two_nodes();
    let before = node.namespace.run(purge::count).unwrap();
    let nowhere = Namespace::create().unwrap();
    let mut broken = config("a", &nowhere, &[]);
    broken.attachment = NetworkAttachment::Namespace("/nonexistent".into());
    assert!(node.network.setup(&broken).await.is_err());
    // A namespace that has an eth0 already.
    let taken = node.pod("b", &[]).await;
    assert!(node.network.setup(&config("c", &taken.namespace, &[])).await.is_err());
    assert_eq!(node.network.status("sandbox-of-c").await.unwrap(), None);
    node.network.teardown(&taken.config).await.unwrap();
    assert_eq!(node.namespace.run(purge::count).unwrap(), before);
}

/// Two nodes on different segments with a router in between, which knows nothing of pods.
fn nodes_beyond_a_router() -> (Node, Node, Namespace) {
    let router = Namespace::create().unwrap();
    let node = |n: u8, cidr| {
        let namespace = Namespace::create().unwrap();
        let (ip, gateway) = (Ipv4Addr::new(10, 60, n, 2), Ipv4Addr::new(10, 60, n, 1));
        let name = format!("framr{n}");
        router
            .run(|| {
                let (mac, peer_mac) = ([2, 0, 0, 0, n, 1], [2, 0, 0, 0, n, 2]);
                let mut handle = Handle::open()?;
                handle.create_veth(&VethPair { name: &name, mac, peer_name: "eth0", peer_mac, peer_namespace: &namespace, mtu: 1500 })?;
                let link = handle.link(&name)?.unwrap().index;
                handle.set_up(link)?;
                handle.add_address(link, gateway.into(), 24)?;
                sysctl::set("ipv4/ip_forward", "1")
            })
            .unwrap();
        namespace
            .run(|| {
                let mut handle = Handle::open()?;
                for name in ["lo", "eth0"] {
                    let link = handle.link(name)?.unwrap().index;
                    handle.set_up(link)?;
                }
                let link = handle.link("eth0")?.unwrap().index;
                handle.add_address(link, ip.into(), 24)
            })
            .unwrap();
        // Not by our own hand: what we add is ours, and goes when no peer needs it.
        let gateway = gateway.to_string();
        let arguments = ["route", "add", "default", "via", gateway.as_str()];
        let added = namespace.run(|| Ok(std::process::Command::new("ip").args(arguments).status().unwrap())).unwrap();
        assert!(added.success());
        Node::new(namespace, ip, cidr, Some(Overlay::default()))
    };
    (node(1, "10.244.1.0/24"), node(2, "10.244.2.0/24"), router)
}

#[tokio::test]
async fn nodes_beyond_a_router_are_joined_by_an_overlay() {
    let (one, two, _router) = nodes_beyond_a_router();
    for (node, other) in [(&one, &two), (&two, &one)] {
        let peer = Peer { node_ip: other.ip.into(), pod_cidrs: vec![other.cidr.parse().unwrap()] };
        assert_eq!(node.network.set_peers(vec![peer]).await.unwrap(), []);
    }
    let (a, b) = (one.pod("a", &[]).await, two.pod("b", &[]).await);
    let listener = listen(&b.namespace, ANY, 80);
    assert_eq!(reach(&a.namespace, b.ip, 80, &listener), a.ip);
    assert_eq!(reach(&one.namespace, b.ip, 80, &listener), IpAddr::from([10, 244, 1, 0]), "the node itself comes through the tunnel");
    assert_eq!(a.namespace.run(|| Handle::open()?.link("eth0")).unwrap().unwrap().mtu, 1450);
    one.network.set_peers(Vec::new()).await.unwrap();
    assert!(connect(&a.namespace, b.ip, 80).is_err());
    one.network.purge().await.unwrap();
    assert!(one.namespace.run(purge::count).unwrap().is_zero());
}

#[tokio::test]
async fn an_address_that_could_not_be_announced_is_announced_again() {
    let (namespace, neighbour) = (Namespace::create().unwrap(), Namespace::create().unwrap());
    let ip = Ipv4Addr::new(10, 50, 0, 1);
    namespace
        .run(|| {
            let mut handle = Handle::open()?;
            let (name, peer_name) = ("framx0", "eth0");
            let (mac, peer_mac) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
            handle.create_veth(&VethPair { name, mac, peer_name, peer_mac, peer_namespace: &neighbour, mtu: 1500 })?;
            let link = handle.link(name)?.unwrap().index;
            handle.add_address(link, ip.into(), 24)
        })
        .unwrap();
    let node = Node::new(namespace, ip, "10.244.1.0/24", None);
    let held = || std::iter::once(IpAddr::from([192, 0, 2, 10])).collect();
    for _ in 0..2 {
        assert!(node.network.hold_addresses(held()).await.is_err(), "nothing is sent over a link that is down");
    }
    for (namespace, link) in [(&node.namespace, "framx0"), (&neighbour, "eth0")] {
        namespace
            .run(|| {
                Handle::open().and_then(|mut h| {
                    let index = h.link(link)?.unwrap().index;
                    h.set_up(index)
                })
            })
            .unwrap();
    }
    node.network.hold_addresses(held()).await.unwrap();
}
