//! The server: UDP and TCP on each address. What the zone knows is answered at once; what others must be asked runs as a task
//! of its own, so that a slow upstream delays nobody else.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::answer::{self, Outcome};
use crate::forward::{ForwardError, Forwarder};
use crate::zone::Zone;

/// An ExternalName may lead to another one; a loop of them must end.
const MAX_ALIASES: usize = 8;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    #[error("cannot listen on {address} ({transport}): {source}")]
    Bind { address: SocketAddr, transport: &'static str, source: io::Error },
    #[error("a DNS listener ended: {0}")]
    Listener(String),
}

#[derive(Debug, Clone)]
pub struct DnsConfig {
    pub addresses: Vec<SocketAddr>,
    /// Where names outside of the cluster are asked, in order; see [`crate::upstreams`].
    pub upstreams: Vec<SocketAddr>,
    /// How long one upstream may take.
    pub upstream_timeout: Duration,
    /// How long a TCP connection may be idle.
    pub idle_timeout: Duration,
    pub max_connections: usize,
    /// Queries that wait for upstreams at the same time; more are refused.
    pub max_forwards: usize,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            upstreams: Vec::new(),
            upstream_timeout: Duration::from_secs(2),
            idle_timeout: Duration::from_secs(10),
            max_connections: 256,
            max_forwards: 1000,
        }
    }
}

/// Bound sockets, not yet served.
pub struct DnsServer {
    sockets: Vec<(Arc<UdpSocket>, TcpListener)>,
    shared: Shared,
    max_connections: usize,
}

#[derive(Clone)]
struct Shared {
    forwarder: Arc<Forwarder>,
    forwards: Arc<Semaphore>,
    idle_timeout: Duration,
}

impl DnsServer {
    /// Binds UDP and TCP on every address; with port 0 both get the same free one.
    pub async fn bind(config: DnsConfig) -> Result<Self, DnsError> {
        let mut sockets = Vec::new();
        for address in &config.addresses {
            let failed = |transport| move |source| DnsError::Bind { address: *address, transport, source };
            let tcp = TcpListener::bind(address).await.map_err(failed("TCP"))?;
            let bound = tcp.local_addr().map_err(failed("TCP"))?;
            let udp = UdpSocket::bind(bound).await.map_err(failed("UDP"))?;
            sockets.push((Arc::new(udp), tcp));
        }
        let own: Vec<SocketAddr> = sockets.iter().filter_map(|(_, tcp)| tcp.local_addr().ok()).collect();
        let upstreams = config.upstreams.into_iter().filter(|upstream| !own.contains(upstream)).collect();
        let shared = Shared {
            forwarder: Arc::new(Forwarder::new(upstreams, config.upstream_timeout)),
            forwards: Arc::new(Semaphore::new(config.max_forwards)),
            idle_timeout: config.idle_timeout,
        };
        Ok(Self { sockets, shared, max_connections: config.max_connections })
    }

    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(|(_, tcp)| tcp.local_addr().ok()).collect()
    }

    /// Serves until cancelled. The zone may change at any time; each query sees the newest.
    pub async fn run(self, zone: watch::Receiver<Arc<Zone>>, shutdown: CancellationToken) -> Result<(), DnsError> {
        let mut listeners = JoinSet::new();
        let connections = Arc::new(Semaphore::new(self.max_connections));
        for (udp, tcp) in self.sockets {
            let (shared, zone_for_udp) = (self.shared.clone(), zone.clone());
            listeners.spawn(shared.serve_udp(udp, zone_for_udp));
            listeners.spawn(self.shared.clone().serve_tcp(tcp, zone.clone(), connections.clone()));
        }
        // Dropping the sets ends the tasks: an unanswered query is asked again by its client.
        tokio::select! {
            biased;
            () = shutdown.cancelled() => Ok(()),
            ended = listeners.join_next() => match ended {
                None => Ok(()),
                Some(Ok(error)) => Err(DnsError::Listener(error.to_string())),
                Some(Err(error)) => Err(DnsError::Listener(error.to_string())),
            },
        }
    }
}

impl Shared {
    /// Ends only with an error.
    async fn serve_udp(self, socket: Arc<UdpSocket>, zone: watch::Receiver<Arc<Zone>>) -> io::Error {
        let mut buffer = vec![0; usize::from(u16::MAX)];
        let mut forwards = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                Some(_) = forwards.join_next() => {}
                received = socket.recv_from(&mut buffer) => match received {
                    Ok((n, client)) => {
                        let Ok(query) = answer::read(&buffer[..n]) else { continue };
                        match self.decide(&zone, &query) {
                            Outcome::Reply(reply) => send(&socket, client, &query, reply).await,
                            outcome => {
                                let (shared, socket, zone) = (self.clone(), socket.clone(), zone.clone());
                                forwards.spawn(async move {
                                    let reply = shared.by_asking(&zone, &query, outcome).await;
                                    send(&socket, client, &query, reply).await;
                                });
                            }
                        }
                    }
                    // A client that went away makes the kernel report its ICMP error here; it concerns nobody else.
                    Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset) => {}
                    Err(e) => return e,
                },
            }
        }
    }

    async fn serve_tcp(self, listener: TcpListener, zone: watch::Receiver<Arc<Zone>>, connections: Arc<Semaphore>) -> io::Error {
        let mut clients = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                Some(_) = clients.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        // Over the limit, a connection is closed at once rather than left waiting.
                        let Ok(permit) = connections.clone().try_acquire_owned() else { continue };
                        let (shared, zone) = (self.clone(), zone.clone());
                        clients.spawn(async move {
                            let _permit = permit;
                            if let Err(error) = shared.serve_connection(stream, zone).await {
                                tracing::debug!(%error, "DNS connection ended");
                            }
                        });
                    }
                    // Either it concerns that one connection, or descriptors are short until others close theirs.
                    Err(error) => {
                        tracing::debug!(%error, "DNS connection was not accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    async fn serve_connection(&self, mut stream: TcpStream, zone: watch::Receiver<Arc<Zone>>) -> io::Result<()> {
        loop {
            let length = match tokio::time::timeout(self.idle_timeout, stream.read_u16()).await {
                Ok(Ok(length)) => length,
                Ok(Err(e)) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Ok(Err(e)) => return Err(e),
                Err(_) => return Ok(()),
            };
            let mut buffer = vec![0; usize::from(length)];
            tokio::time::timeout(self.idle_timeout, stream.read_exact(&mut buffer)).await??;
            let query = answer::read(&buffer)?;
            let reply = match self.decide(&zone, &query) {
                Outcome::Reply(reply) => reply,
                outcome => self.by_asking(&zone, &query, outcome).await,
            };
            let bytes = reply.to_vec().map_err(io::Error::other)?;
            let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
            let answer = [&length.to_be_bytes(), bytes.as_slice()].concat();
            tokio::time::timeout(self.idle_timeout, stream.write_all(&answer)).await??;
        }
    }

    /// What to do about a query, by the newest zone.
    fn decide(&self, zone: &watch::Receiver<Arc<Zone>>, query: &Message) -> Outcome {
        let zone = zone.borrow().clone();
        answer::answer(&zone, query)
    }

    async fn by_asking(&self, zone: &watch::Receiver<Arc<Zone>>, query: &Message, outcome: Outcome) -> Message {
        let Ok(_permit) = self.forwards.try_acquire() else { return answer::failure(query, ResponseCode::Refused) };
        match outcome {
            Outcome::Reply(reply) => reply,
            Outcome::Forward { without_upstream } => match self.forwarder.resolve(query).await {
                Ok(reply) => reply,
                Err(ForwardError::NoUpstream) => answer::failure(query, without_upstream),
                Err(error) => {
                    tracing::debug!(%error, "DNS query failed");
                    answer::failure(query, ResponseCode::ServFail)
                }
            },
            Outcome::Chase { reply, target } => self.chase(zone, query, reply, target).await,
        }
    }

    /// Follows aliases within the zone, then asks upstream for what lies outside.
    async fn chase(
        &self,
        zone: &watch::Receiver<Arc<Zone>>,
        query: &Message,
        mut reply: Message,
        mut target: hickory_proto::rr::Name,
    ) -> Message {
        for _ in 0..MAX_ALIASES {
            let mut next = query.clone();
            next.queries.iter_mut().for_each(|question| {
                question.set_name(target.clone());
            });
            let zone = zone.borrow().clone();
            match answer::answer(&zone, &next) {
                Outcome::Reply(found) => {
                    reply.add_answers(found.answers);
                    reply.add_authorities(found.authorities);
                    return reply;
                }
                Outcome::Chase { reply: found, target: further } => {
                    reply.add_answers(found.answers);
                    target = further;
                }
                Outcome::Forward { .. } => {
                    if let Err(error) = self.forwarder.chase(query, &mut reply, target).await {
                        // The alias itself is true and may be all that was wanted.
                        tracing::debug!(%error, "target of an ExternalName was not resolved");
                    }
                    return reply;
                }
            }
        }
        answer::failure(query, ResponseCode::ServFail)
    }
}

async fn send(socket: &UdpSocket, client: SocketAddr, query: &Message, reply: Message) {
    if let Some(bytes) = answer::encode_udp(query, reply)
        && let Err(error) = socket.send_to(&bytes, client).await
    {
        tracing::debug!(%error, client = %client.ip(), "DNS answer was not sent");
    }
}
