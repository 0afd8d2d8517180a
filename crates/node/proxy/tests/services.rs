//! Services for real: pods of fram-network in namespaces that end with the test, and clients in pods, on the node and outside.
//! Needs root.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up its world fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use fram_cri::{NetworkAttachment, PodSandboxMetadata, SandboxNetwork, SandboxNetworkConfig};
use fram_datapath::namespace::Namespace;
use fram_datapath::nft::{Family, Table};
use fram_datapath::route::{Handle, Route, VethPair};
use fram_datapath::{nft, purge};
use fram_network::{NetworkConfig, PodNetwork};
use fram_proxy::{
    Checks, Endpoint, EndpointPort, EndpointSlice, HealthServer, Protocol, Proxy, ProxyConfig, Service, ServicePort, TrafficPolicy,
};

const PATIENCE: Duration = Duration::from_secs(3);
const NODE: Ipv4Addr = Ipv4Addr::new(10, 50, 0, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 50, 0, 2);
const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 2);
const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

fn again(namespace: &Namespace) -> Namespace {
    Namespace::open(&path_of(namespace)).unwrap()
}

fn path_of(namespace: &Namespace) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", namespace.as_fd().as_raw_fd()))
}

/// A node with pod network and proxy, and a machine outside of the cluster.
struct Cluster {
    _folder: tempfile::TempDir,
    node: Namespace,
    outside: Namespace,
    network: PodNetwork,
    proxy: Proxy,
}

struct Pod {
    namespace: Namespace,
    ip: IpAddr,
}

impl Cluster {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (node, outside) = (Namespace::create().unwrap(), Namespace::create().unwrap());
        node.run(|| {
            let (mac, peer_mac) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
            let (name, peer_name) = ("framx0", "eth0");
            Handle::open()?.create_veth(&VethPair { name, mac, peer_name, peer_mac, peer_namespace: &outside, mtu: 1500 })
        })
        .unwrap();
        for (namespace, name, ip) in [(&node, "framx0", NODE), (&outside, "eth0", OUTSIDE)] {
            let configure = || {
                let mut handle = Handle::open()?;
                for name in ["lo", name] {
                    let link = handle.link(name)?.unwrap().index;
                    handle.set_up(link)?;
                }
                let link = handle.link(name)?.unwrap().index;
                handle.add_address(link, ip.into(), 24)
            };
            namespace.run(configure).unwrap();
        }
        let network = PodNetwork::open(NetworkConfig {
            state_dir: folder.path().join("network"),
            cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
            pod_cidr: Some("10.244.1.0/24".parse().unwrap()),
            node_ip: Some(NODE.into()),
            mtu: None,
            namespace: Some(again(&node)),
        })
        .unwrap();
        let proxy = proxy(&node);
        Self { _folder: folder, node, outside, network, proxy }
    }

    async fn pod(&self, name: &str) -> Pod {
        let namespace = Namespace::create().unwrap();
        let config = SandboxNetworkConfig {
            pod_sandbox_id: name.into(),
            metadata: PodSandboxMetadata { name: name.into(), ..Default::default() },
            attachment: NetworkAttachment::Namespace(path_of(&namespace)),
            port_mappings: Vec::new(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
        };
        let ip = self.network.setup(&config).await.unwrap().ip.unwrap();
        Pod { namespace, ip }
    }
}

fn proxy(node: &Namespace) -> Proxy {
    Proxy::open(ProxyConfig {
        node_name: "here".into(),
        node_ips: vec![NODE.into()],
        pod_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        node_local_ips: vec![DNS.into()],
        namespace: Some(again(node)),
    })
    .unwrap()
}

fn service(protocol: Protocol) -> Service {
    Service {
        namespace: "ns".into(),
        name: "web".into(),
        cluster_ips: vec![CLUSTER_IP.into()],
        ports: vec![ServicePort { name: "p".into(), protocol, port: 80, node_port: Some(30080) }],
        ..Default::default()
    }
}

fn slice<'a>(protocol: Protocol, pods: impl IntoIterator<Item = &'a Pod>) -> EndpointSlice {
    let endpoint = |pod: &Pod| Endpoint { addresses: vec![pod.ip], node_name: Some("here".into()), ..Default::default() };
    EndpointSlice {
        namespace: "ns".into(),
        service: "web".into(),
        ports: vec![EndpointPort { name: "p".into(), protocol, port: Some(8080) }],
        endpoints: pods.into_iter().map(endpoint).collect(),
    }
}

fn listen(pod: &Pod) -> TcpListener {
    pod.namespace.run(|| Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8080)).unwrap())).unwrap()
}

fn connect(from: &Namespace, to: impl Into<IpAddr>, port: u16) -> io::Result<TcpStream> {
    let address = SocketAddr::new(to.into(), port);
    from.run(|| Ok(TcpStream::connect_timeout(&address, PATIENCE))).unwrap()
}

/// The sources of the connections that wait at a listener.
fn accepted(listener: &TcpListener) -> Vec<IpAddr> {
    listener.set_nonblocking(true).unwrap();
    std::iter::from_fn(|| listener.accept().ok()).map(|(_, source)| source.ip()).collect()
}

#[track_caller]
fn assert_refused(from: &Namespace, to: impl Into<IpAddr> + Copy, port: u16) {
    let error = connect(from, to, port).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{error} from {from:?} to {}:{port}", to.into());
}

#[tokio::test]
async fn a_cluster_ip_balances_connections_from_pods_and_from_the_node() {
    let cluster = Cluster::new();
    let (a, b, client) = (cluster.pod("a").await, cluster.pod("b").await, cluster.pod("c").await);
    let listeners = [listen(&a), listen(&b)];
    cluster.proxy.apply(vec![service(Protocol::Tcp)], vec![slice(Protocol::Tcp, [&a, &b])]).await.unwrap();
    for (from, source) in [(&client.namespace, Some(client.ip)), (&cluster.node, None)] {
        for _ in 0..30 {
            connect(from, CLUSTER_IP, 80).unwrap();
        }
        for listener in &listeners {
            let sources = accepted(listener);
            assert!((3..=27).contains(&sources.len()), "{} of 30 connections", sources.len());
            assert!(source.is_none_or(|ip| sources.iter().all(|s| *s == ip)), "a pod's address is kept");
        }
    }
}

#[tokio::test]
async fn a_pod_reaches_itself_through_its_own_service() {
    let cluster = Cluster::new();
    let a = cluster.pod("a").await;
    let listener = listen(&a);
    cluster.proxy.apply(vec![service(Protocol::Tcp)], vec![slice(Protocol::Tcp, [&a])]).await.unwrap();
    connect(&a.namespace, CLUSTER_IP, 80).unwrap();
    assert_eq!(accepted(&listener), [IpAddr::from(NODE)]);
}

#[tokio::test]
async fn a_node_port_serves_the_outside_and_keeps_the_clients_address_if_the_policy_is_local() {
    let cluster = Cluster::new();
    let a = cluster.pod("a").await;
    let listener = listen(&a);
    let mut elsewhere = slice(Protocol::Tcp, [&a]);
    elsewhere.endpoints[0].node_name = Some("there".into());
    for (policy, slice, sources) in [
        (TrafficPolicy::Cluster, slice(Protocol::Tcp, [&a]), vec![IpAddr::from(NODE)]),
        (TrafficPolicy::Local, slice(Protocol::Tcp, [&a]), vec![IpAddr::from(OUTSIDE)]),
        (TrafficPolicy::Local, elsewhere, vec![]),
    ] {
        let service = Service { external_traffic_policy: policy, ..service(Protocol::Tcp) };
        cluster.proxy.apply(vec![service], vec![slice]).await.unwrap();
        let address = SocketAddr::new(NODE.into(), 30080);
        // Where no local endpoint is, the connection is dropped without an answer, so that a load balancer goes elsewhere.
        let patience = if sources.is_empty() { Duration::from_millis(300) } else { PATIENCE };
        let connected = cluster.outside.run(|| Ok(TcpStream::connect_timeout(&address, patience))).unwrap();
        assert_eq!(connected.map_err(|e| e.kind()).err(), sources.is_empty().then_some(io::ErrorKind::TimedOut));
        assert_eq!(accepted(&listener), sources, "{policy:?}");
        connect(&cluster.node, NODE, 30080).unwrap();
        assert_eq!(accepted(&listener).len(), 1, "the node itself is served in any case");
    }
}

#[tokio::test]
async fn who_is_in_no_source_range_does_not_get_through_to_a_load_balancers_address() {
    let cluster = Cluster::new();
    let a = cluster.pod("a").await;
    let listener = listen(&a);
    let address = Ipv4Addr::new(192, 0, 2, 80);
    cluster.outside.run(|| Handle::open()?.replace_route(&Route::via("192.0.2.0/24".parse().unwrap(), NODE.into()))).unwrap();
    let [whole, sides, one] = ["0.0.0.0/0", "10.50.0.0/30", "10.50.0.2/32"];
    for (ranges, passes) in [
        (None, true),
        (Some(vec!["10.50.0.0/31", "10.50.0.3/32", "10.50.0.2/30"]), true),
        (Some(vec!["10.50.0.0/31", "10.50.0.3/32", "10.50.1.0/24"]), false),
        (Some(vec![sides]), true),
        (Some(vec![one]), true),
        (Some(Vec::new()), false),
        (Some(vec![whole]), true),
    ] {
        let source_ranges = ranges.clone().map(|ranges| ranges.into_iter().map(|r| r.parse().unwrap()).collect());
        let service = Service { load_balancer_ips: vec![address.into()], source_ranges, ..service(Protocol::Tcp) };
        cluster.proxy.apply(vec![service], vec![slice(Protocol::Tcp, [&a])]).await.unwrap();
        let patience = if passes { PATIENCE } else { Duration::from_millis(300) };
        let to = SocketAddr::new(address.into(), 80);
        let connected = cluster.outside.run(|| Ok(TcpStream::connect_timeout(&to, patience))).unwrap();
        assert_eq!(connected.map_err(|e| e.kind()).err(), (!passes).then_some(io::ErrorKind::TimedOut), "{ranges:?}");
        assert_eq!(accepted(&listener).len(), usize::from(passes), "{ranges:?}");
        connect(&cluster.outside, NODE, 30080).unwrap();
        assert_eq!(accepted(&listener).len(), 1, "node ports are open to everyone");
    }
}

#[tokio::test]
async fn services_without_endpoints_and_ports_without_services_are_refused_at_once() {
    let cluster = Cluster::new();
    let client = cluster.pod("c").await;
    cluster.proxy.apply(vec![service(Protocol::Tcp)], Vec::new()).await.unwrap();
    for from in [&client.namespace, &cluster.node] {
        assert_refused(from, CLUSTER_IP, 80);
        assert_refused(from, CLUSTER_IP, 81);
        assert_refused(from, Ipv4Addr::new(10, 96, 200, 1), 80);
        assert_refused(from, NODE, 30080);
    }
    assert_refused(&cluster.outside, NODE, 30080);
}

#[tokio::test]
async fn clients_stick_to_their_endpoint_until_it_is_gone() {
    let cluster = Cluster::new();
    let pods = [cluster.pod("a").await, cluster.pod("b").await, cluster.pod("c").await];
    let client = cluster.pod("client").await;
    let listeners: Vec<_> = pods.iter().map(listen).collect();
    let service = Service { session_affinity: Some(Duration::from_secs(10_800)), ..service(Protocol::Tcp) };
    cluster.proxy.apply(vec![service.clone()], vec![slice(Protocol::Tcp, &pods)]).await.unwrap();
    let mut left: BTreeSet<usize> = (0..3).collect();
    while !left.is_empty() {
        for _ in 0..20 {
            connect(&client.namespace, CLUSTER_IP, 80).unwrap();
        }
        let counts: Vec<_> = listeners.iter().map(|l| accepted(l).len()).collect();
        let chosen = counts.iter().position(|n| *n == 20).unwrap_or_else(|| panic!("not sticky: {counts:?}"));
        assert!(left.remove(&chosen));
        let remaining = left.iter().map(|n| &pods[*n]);
        cluster.proxy.apply(vec![service.clone()], vec![slice(Protocol::Tcp, remaining)]).await.unwrap();
    }
    assert_refused(&client.namespace, CLUSTER_IP, 80);
}

#[tokio::test]
async fn a_udp_client_that_keeps_its_port_follows_the_endpoints() {
    let cluster = Cluster::new();
    let pods = [cluster.pod("a").await, cluster.pod("b").await];
    let client = cluster.pod("client").await;
    let servers = pods.each_ref().map(|pod| {
        let server = pod.namespace.run(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 8080)).unwrap())).unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        server
    });
    let socket = client.namespace.run(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap())).unwrap();
    cluster.proxy.apply(vec![service(Protocol::Udp)], Vec::new()).await.unwrap();
    // Refused, but tracked all the same on some kernels; the error of the refusal is read here.
    let _ = socket.send_to(b"early", (CLUSTER_IP, 80));
    for (pod, server) in pods.iter().zip(&servers) {
        cluster.proxy.apply(vec![service(Protocol::Udp)], vec![slice(Protocol::Udp, [pod])]).await.unwrap();
        while socket.send_to(b"x", (CLUSTER_IP, 80)).is_err() {}
        let (_, source) = server.recv_from(&mut [0; 8]).unwrap();
        assert_eq!(source.ip(), client.ip);
    }
}

#[tokio::test]
async fn an_address_served_on_the_node_itself_is_left_alone() {
    let cluster = Cluster::new();
    let client = cluster.pod("c").await;
    cluster.network.add_local_address(DNS.into()).await.unwrap();
    cluster.network.add_local_address(DNS.into()).await.unwrap();
    let service = Service { cluster_ips: vec![DNS.into()], ..service(Protocol::Udp) };
    cluster.proxy.apply(vec![service], Vec::new()).await.unwrap();
    let server = cluster.node.run(|| Ok(UdpSocket::bind((DNS, 80)).unwrap())).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    for from in [&client.namespace, &cluster.node] {
        let socket = from.run(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap())).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(b"?", (DNS, 80)).unwrap();
        let (_, asker) = server.recv_from(&mut [0; 8]).unwrap();
        server.send_to(b"!", asker).unwrap();
        let (_, source) = socket.recv_from(&mut [0; 8]).unwrap();
        assert_eq!(source, SocketAddr::from((DNS, 80)));
    }
    cluster.node.run(purge::purge).unwrap();
    assert!(cluster.node.run(purge::count).unwrap().is_zero());
}

#[tokio::test]
async fn a_table_that_someone_deleted_is_made_anew_and_purge_leaves_nothing() {
    let cluster = Cluster::new();
    let a = cluster.pod("a").await;
    let listener = listen(&a);
    let slices = || vec![slice(Protocol::Tcp, [&a])];
    assert!(cluster.proxy.apply(vec![service(Protocol::Tcp)], slices()).await.unwrap().rebuilt);
    let unchanged = cluster.proxy.apply(vec![service(Protocol::Tcp)], slices()).await.unwrap();
    assert_eq!((unchanged.rebuilt, unchanged.bytes), (false, 0), "nothing is sent when nothing changes");
    cluster.node.run(purge::purge).unwrap();
    assert!(cluster.node.run(purge::count).unwrap().is_zero());
    assert!(cluster.proxy.apply(Vec::new(), Vec::new()).await.unwrap().rebuilt);
    drop(listener);
}

/// A small deterministic random number generator, for repeatable variety.
struct Lcg(u64);

impl Lcg {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

fn many(count: u32, random: &mut Lcg) -> (Vec<Service>, Vec<EndpointSlice>) {
    let mut all = (Vec::new(), Vec::new());
    for n in 0..count {
        let name = format!("s{n}");
        let policy = |random: &mut Lcg| if random.below(4) == 0 { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
        let service = Service {
            name: name.clone(),
            cluster_ips: vec![Ipv4Addr::from_bits(CLUSTER_IP.to_bits() + n).into()],
            session_affinity: (random.below(4) == 0).then_some(Duration::from_secs(100)),
            external_traffic_policy: policy(random),
            internal_traffic_policy: policy(random),
            ..service(Protocol::Tcp)
        };
        let mut service = service;
        service.ports[0].node_port = (random.below(2) == 0).then_some(30_000 + n as u16);
        let endpoint = |random: &mut Lcg| Endpoint {
            addresses: vec![[10, 244, 1, random.below(20) as u8].into()],
            node_name: Some(if random.below(2) == 0 { "here" } else { "there" }.into()),
            ..Default::default()
        };
        let endpoints = (0..random.below(5)).map(|_| endpoint(random)).collect();
        let slice = EndpointSlice { service: name, endpoints, ..slice(Protocol::Tcp, []) };
        if random.below(8) != 0 {
            all.0.push(service);
            all.1.push(slice);
        }
    }
    all
}

/// What the kernel holds, without the numbers of slots, which depend on history.
fn content(namespace: &Namespace) -> BTreeMap<&'static str, BTreeSet<nft::Element>> {
    let table = Table::new(Family::Ip, "fram-services");
    let names = [
        "frontends",
        "external",
        "masquerade",
        "endpoints",
        "external-endpoints",
        "no-endpoints",
        "cluster-ips",
        "hairpin",
        "restricted",
        "sources",
    ];
    let read = |name: &'static str| {
        let elements = nft::Handle::open()?.elements(&table, name)?.into_iter();
        let without_slot = |(key, value): (Vec<u8>, Vec<u8>)| (key[..key.len().min(12)].to_vec(), value);
        Ok((name, elements.map(without_slot).collect()))
    };
    namespace.run(|| names.into_iter().map(read).collect()).unwrap()
}

#[tokio::test]
async fn after_many_changes_the_kernel_holds_what_it_would_hold_from_scratch() {
    for seed in 1..=5 {
        let mut random = Lcg(seed);
        let (changed, fresh) = (Namespace::create().unwrap(), Namespace::create().unwrap());
        let (changing, starting) = (proxy_in(&changed), proxy_in(&fresh));
        for round in 0..12 {
            let (services, slices) = many(30, &mut random);
            let applied = changing.apply(services.clone(), slices.clone()).await.unwrap();
            assert_eq!(applied.rebuilt, round == 0);
            if round == 11 {
                starting.apply(services, slices).await.unwrap();
            }
        }
        assert_eq!(content(&changed), content(&fresh), "seed {seed}");
        let listing = changed.run(|| Ok(std::process::Command::new("nft").args(["list", "ruleset"]).output().unwrap())).unwrap();
        assert!(listing.status.success(), "{}", String::from_utf8_lossy(&listing.stderr));
    }
}

/// A proxy in a bare namespace; there is no link to route over.
fn proxy_in(namespace: &Namespace) -> Proxy {
    namespace
        .run(|| {
            let mut handle = Handle::open()?;
            let link = handle.link("lo")?.unwrap().index;
            handle.add_address(link, NODE.into(), 32)?;
            handle.set_up(link)
        })
        .unwrap();
    proxy(namespace)
}

#[tokio::test]
async fn five_thousand_services_load_in_seconds_even_unoptimised_and_a_change_costs_little() {
    let namespace = Namespace::create().unwrap();
    let proxy = proxy_in(&namespace);
    let mut services = Vec::new();
    let mut slices = Vec::new();
    for n in 0..5000_u32 {
        let name = format!("s{n}");
        let cluster_ips = vec![Ipv4Addr::from_bits(CLUSTER_IP.to_bits() + n).into()];
        let mut service = Service { name: name.clone(), cluster_ips, ..service(Protocol::Tcp) };
        service.ports[0].node_port = None;
        let endpoint = |k: u32| Endpoint { addresses: vec![Ipv4Addr::from_bits(0x0af4_0000 + 2 * n + k).into()], ..Default::default() };
        services.push(service);
        slices.push(EndpointSlice { service: name, endpoints: vec![endpoint(0), endpoint(1)], ..slice(Protocol::Tcp, []) });
    }
    let start = Instant::now();
    let all = proxy.apply(services.clone(), slices.clone()).await.unwrap();
    let load = start.elapsed();
    slices[17].endpoints.pop();
    let start = Instant::now();
    let one = proxy.apply(services, slices).await.unwrap();
    println!("5,000 services: {load:?} for {} bytes; one endpoint less: {:?} for {} bytes", all.bytes, start.elapsed(), one.bytes);
    assert!(load < Duration::from_secs(5), "{load:?}");
    assert!(one.bytes < 2000, "{} bytes", one.bytes);
}

/// The first line and the last of the answer of a health check.
fn checked(from: &Namespace, port: u16) -> io::Result<(String, String)> {
    use std::io::{Read, Write};
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(NODE.into(), port), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        Ok((head.lines().next().unwrap_or_default().to_string(), body.to_string()))
    };
    from.run(|| Ok(ask())).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancer_learns_on_a_port_of_its_own_which_nodes_have_endpoints() {
    const PORT: u16 = 31000;
    let cluster = Cluster::new();
    let service = Service { health_check_port: Some(PORT), ..service(Protocol::Tcp) };
    let mut server = HealthServer::new(cluster.proxy.clone());
    let here = Endpoint { addresses: vec!["10.244.1.9".parse().unwrap()], node_name: Some("here".into()), ..Default::default() };
    let slice =
        |endpoints| EndpointSlice { namespace: service.namespace.clone(), service: service.name.clone(), endpoints, ..Default::default() };
    let mut tell = |slices: &[EndpointSlice], services: &[Service]| {
        let refused = server.apply(Checks::new(services, slices, "here", true));
        assert!(refused.is_empty(), "{refused:?}");
    };
    tell(&[slice(vec![here])], std::slice::from_ref(&service));
    let (line, body) = checked(&cluster.outside, PORT).unwrap();
    assert_eq!(line, "HTTP/1.1 200 OK");
    assert!(body.contains("\"localEndpoints\": 1"), "{body}");
    tell(&[slice(Vec::new())], std::slice::from_ref(&service));
    assert_eq!(checked(&cluster.outside, PORT).unwrap().0, "HTTP/1.1 503 Service Unavailable");
    tell(&[], &[]);
    let closed = Instant::now() + PATIENCE;
    while checked(&cluster.outside, PORT).is_ok() {
        assert!(Instant::now() < closed, "the port of a Service that is gone is still answered");
    }
}
