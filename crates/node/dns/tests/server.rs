//! The server over real sockets on loopback, with upstreams that the test plays itself.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up its world fails")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fram_dns::{DnsConfig, DnsServer, Service, ServiceKind, Zone, ZoneConfig};
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(5);

fn zone(services: &[(&str, ServiceKind)]) -> Arc<Zone> {
    let service = |(name, kind): &(&str, ServiceKind)| Service {
        namespace: "ns".into(),
        name: (*name).to_owned(),
        kind: kind.clone(),
        ports: Vec::new(),
    };
    let services: Vec<_> = services.iter().map(service).collect();
    Arc::new(Zone::new(ZoneConfig::default(), &services, &[]))
}

fn web() -> (&'static str, ServiceKind) {
    ("web", ServiceKind::ClusterIp(vec!["10.96.0.10".parse().unwrap()]))
}

struct Rig {
    address: SocketAddr,
    zone: watch::Sender<Arc<Zone>>,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
}

impl Rig {
    async fn start(zone: Arc<Zone>, upstreams: Vec<SocketAddr>) -> Self {
        let config = DnsConfig {
            addresses: vec![(Ipv4Addr::LOCALHOST, 0).into()],
            upstreams,
            upstream_timeout: Duration::from_millis(200),
            ..DnsConfig::default()
        };
        let server = DnsServer::bind(config).await.unwrap();
        let address = server.local_addresses()[0];
        let (sender, receiver) = watch::channel(zone);
        let (shutdown, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let token = shutdown.clone();
        tasks.spawn(async move { server.run(receiver, token).await.unwrap() });
        Self { address, zone: sender, shutdown, tasks }
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Message {
        udp(self.address, &question(name, kind)).await
    }
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

async fn udp(server: SocketAddr, query: &Message) -> Message {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.send_to(&query.to_vec().unwrap(), server).await.unwrap();
    let mut buffer = vec![0; 65_535];
    let n = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().unwrap();
    let reply = Message::from_vec(&buffer[..n]).unwrap();
    assert_eq!(reply.metadata.id, query.metadata.id);
    reply
}

async fn tcp(stream: &mut TcpStream, query: &Message) -> Message {
    let bytes = query.to_vec().unwrap();
    stream.write_u16(bytes.len() as u16).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut buffer = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut buffer).await.unwrap();
    Message::from_vec(&buffer).unwrap()
}

fn data(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

/// An upstream on UDP and TCP that gives `count` addresses, cut over UDP if there are many; it counts the questions.
struct Upstream {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Upstream {
    async fn start(count: u8) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let socket = UdpSocket::bind(address).await.unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        let counter = asked.clone();
        tasks.spawn(async move {
            let mut buffer = vec![0; 4096];
            loop {
                let (n, client) = socket.recv_from(&mut buffer).await.unwrap();
                counter.fetch_add(1, Ordering::SeqCst);
                let query = Message::from_vec(&buffer[..n]).unwrap();
                // A forged answer first: it must be passed over.
                let mut forged = reply(&query, 1);
                forged.metadata.id ^= 1;
                forged.answers[0].data = RData::A(A::new(6, 6, 6, 6));
                socket.send_to(&forged.to_vec().unwrap(), client).await.unwrap();
                let answer = reply(&query, count);
                let answer = if count > 20 { answer.truncate() } else { answer };
                socket.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
            }
        });
        tasks.spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = vec![0; usize::from(stream.read_u16().await.unwrap())];
                stream.read_exact(&mut buffer).await.unwrap();
                let bytes = reply(&Message::from_vec(&buffer).unwrap(), count).to_vec().unwrap();
                stream.write_u16(bytes.len() as u16).await.unwrap();
                stream.write_all(&bytes).await.unwrap();
            }
        });
        Self { address, asked, _tasks: tasks }
    }
}

fn reply(query: &Message, count: u8) -> Message {
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.add_queries(query.queries.iter().cloned());
    let name = query.queries[0].name().clone();
    reply.add_answers((0..count).map(|n| Record::from_rdata(name.clone(), 300, RData::A(A::new(192, 0, 2, n)))));
    reply
}

/// An address where nobody answers.
async fn silent() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

#[tokio::test]
async fn cluster_names_are_answered_over_udp_and_tcp_and_follow_the_zone() {
    let rig = Rig::start(zone(&[web()]), Vec::new()).await;
    assert_eq!(data(&rig.ask("web.ns.svc.cluster.local.", RecordType::A).await), ["10.96.0.10"]);
    let mut stream = TcpStream::connect(rig.address).await.unwrap();
    for _ in 0..3 {
        let reply = tcp(&mut stream, &question("web.ns.svc.cluster.local.", RecordType::A)).await;
        assert_eq!(data(&reply), ["10.96.0.10"], "one connection serves many queries");
    }
    rig.zone.send(zone(&[])).unwrap();
    let gone = rig.ask("web.ns.svc.cluster.local.", RecordType::A).await;
    assert_eq!(gone.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn other_names_are_asked_upstream_once_and_kept() {
    let (upstream, (_socket, dead)) = (Upstream::start(1).await, silent().await);
    let rig = Rig::start(zone(&[]), vec![dead, upstream.address]).await;
    for name in ["example.com.", "EXAMPLE.com.", "example.com."] {
        let reply = rig.ask(name, RecordType::A).await;
        assert_eq!(data(&reply), ["192.0.2.0"], "the forged answer was passed over, the silent server left behind");
        assert!(!reply.metadata.authoritative && reply.metadata.recursion_available);
    }
    assert_eq!(upstream.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_upstream_answer_that_was_cut_is_fetched_over_tcp() {
    let upstream = Upstream::start(200).await;
    let rig = Rig::start(zone(&[]), vec![upstream.address]).await;
    let mut stream = TcpStream::connect(rig.address).await.unwrap();
    assert_eq!(tcp(&mut stream, &question("many.example.", RecordType::A)).await.answers.len(), 200);
    let cut = rig.ask("many.example.", RecordType::A).await;
    assert!(cut.metadata.truncation && !cut.answers.is_empty());
}

#[tokio::test]
async fn an_external_name_brings_its_targets_addresses_from_inside_or_outside() {
    let upstream = Upstream::start(1).await;
    let services = [
        web(),
        ("inside", ServiceKind::ExternalName("web.ns.svc.cluster.local".into())),
        ("outside", ServiceKind::ExternalName("example.com".into())),
        ("loop", ServiceKind::ExternalName("loop.ns.svc.cluster.local".into())),
    ];
    let rig = Rig::start(zone(&services), vec![upstream.address]).await;
    let inside = rig.ask("inside.ns.svc.cluster.local.", RecordType::A).await;
    assert_eq!(data(&inside), ["web.ns.svc.cluster.local.", "10.96.0.10"]);
    let outside = rig.ask("outside.ns.svc.cluster.local.", RecordType::A).await;
    assert_eq!(data(&outside), ["example.com.", "192.0.2.0"]);
    let endless = rig.ask("loop.ns.svc.cluster.local.", RecordType::A).await;
    assert_eq!(endless.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn without_an_upstream_that_answers_clients_are_told_and_cluster_names_do_not_wait() {
    let (_socket, dead) = silent().await;
    let rig = Rig::start(zone(&[web()]), vec![dead]).await;
    let (slow, fast) = tokio::join!(rig.ask("example.com.", RecordType::A), async {
        let start = std::time::Instant::now();
        let reply = rig.ask("web.ns.svc.cluster.local.", RecordType::A).await;
        (reply, start.elapsed())
    });
    assert_eq!(slow.metadata.response_code, ResponseCode::ServFail);
    assert!(fast.1 < Duration::from_millis(200), "{:?}", fast.1);
    let none = Rig::start(zone(&[]), Vec::new()).await;
    assert_eq!(none.ask("example.com.", RecordType::A).await.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(none.ask("1.0.0.10.in-addr.arpa.", RecordType::PTR).await.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn garbage_is_ignored_and_shutdown_ends_everything() {
    let mut rig = Rig::start(zone(&[web()]), Vec::new()).await;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    for garbage in [&b""[..], b"x", &[0xff; 600]] {
        socket.send_to(garbage, rig.address).await.unwrap();
    }
    let mut stream = TcpStream::connect(rig.address).await.unwrap();
    stream.write_all(&[0, 5, 1, 2, 3, 4, 5]).await.unwrap();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0, "the connection is closed");
    assert_eq!(data(&rig.ask("web.ns.svc.cluster.local.", RecordType::A).await), ["10.96.0.10"]);
    rig.shutdown.cancel();
    tokio::time::timeout(PATIENCE, rig.tasks.join_next()).await.unwrap().unwrap().unwrap();
    assert!(UdpSocket::bind(rig.address).await.is_ok(), "the port is free again");
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = taken.local_addr().unwrap();
    let error = DnsServer::bind(DnsConfig { addresses: vec![address], ..DnsConfig::default() }).await.err().unwrap();
    assert!(error.to_string().starts_with(&format!("cannot listen on {address} (TCP)")), "{error}");
}
