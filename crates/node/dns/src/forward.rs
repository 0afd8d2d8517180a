//! Asking upstream resolvers: UDP from a fresh port each time, TCP when the answer does not fit, the next one when one is
//! silent. Answers are kept in the cache.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::Name;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::answer::{MAX_UDP, read, reply_to};
use crate::cache::Cache;

/// How often the list of upstreams is gone through.
const ROUNDS: usize = 2;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    #[error("no upstream resolver is configured")]
    NoUpstream,
    #[error("no upstream resolver answers: {0}")]
    Silent(String),
}

pub(crate) struct Forwarder {
    upstreams: Vec<SocketAddr>,
    timeout: Duration,
    cache: Mutex<Cache>,
}

impl Forwarder {
    pub(crate) fn new(upstreams: Vec<SocketAddr>, timeout: Duration) -> Self {
        Self { upstreams, timeout, cache: Mutex::default() }
    }

    /// The answer to a client's query for a name that is not ours.
    pub(crate) async fn resolve(&self, query: &Message) -> Result<Message, ForwardError> {
        let mut reply = reply_to(query);
        let [question] = query.queries.as_slice() else {
            reply.metadata.response_code = ResponseCode::FormErr;
            return Ok(reply);
        };
        let dnssec = query.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
        let found = self.ask(question, dnssec, query.metadata.recursion_desired).await?;
        reply.metadata.response_code = found.metadata.response_code;
        reply.metadata.authentic_data = found.metadata.authentic_data;
        reply.answers = found.answers;
        reply.authorities = found.authorities;
        reply.additionals = found.additionals;
        Ok(reply)
    }

    /// Appends what an alias's target has to an answer.
    pub(crate) async fn chase(&self, query: &Message, reply: &mut Message, target: Name) -> Result<(), ForwardError> {
        let Some(question) = query.queries.first() else { return Ok(()) };
        let mut question = question.clone();
        question.set_name(target);
        let found = self.ask(&question, false, true).await?;
        reply.metadata.response_code = found.metadata.response_code;
        reply.add_answers(found.answers);
        Ok(())
    }

    async fn ask(&self, question: &Query, dnssec: bool, recursion: bool) -> Result<Message, ForwardError> {
        if let Some(kept) = self.cache(|cache| cache.get(question, dnssec, Instant::now())) {
            return Ok(kept);
        }
        let mut failure = ForwardError::NoUpstream;
        for upstream in self.upstreams.iter().cycle().take(self.upstreams.len() * ROUNDS) {
            match tokio::time::timeout(self.timeout, exchange(*upstream, question, dnssec, recursion)).await {
                Ok(Ok(message)) => {
                    self.cache(|cache| cache.put(question, dnssec, message.clone(), Instant::now()));
                    return Ok(message);
                }
                Ok(Err(error)) => failure = ForwardError::Silent(format!("{upstream}: {error}")),
                Err(_) => failure = ForwardError::Silent(format!("{upstream}: no answer in {:?}", self.timeout)),
            }
        }
        Err(failure)
    }

    fn cache<T>(&self, with: impl FnOnce(&mut Cache) -> T) -> T {
        // A panic while the lock was held leaves a cache that is still a cache.
        with(&mut self.cache.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

/// One question to one server.
async fn exchange(upstream: SocketAddr, question: &Query, dnssec: bool, recursion: bool) -> io::Result<Message> {
    let mut message = Message::new(hickory_proto::op::Message::query().metadata.id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = recursion;
    message.add_query(question.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(MAX_UDP).set_version(0).set_dnssec_ok(dnssec);
    message.set_edns(edns);
    let bytes = message.to_vec().map_err(io::Error::other)?;
    let answer = over_udp(upstream, &message, &bytes).await?;
    if !answer.metadata.truncation {
        return Ok(answer);
    }
    over_tcp(upstream, &message, &bytes).await
}

async fn over_udp(upstream: SocketAddr, asked: &Message, bytes: &[u8]) -> io::Result<Message> {
    let local: SocketAddr = if upstream.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(upstream).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let n = socket.recv(&mut buffer).await?;
        // Anything else is noise or a forgery; the right answer may still come.
        if let Ok(answer) = read(&buffer[..n])
            && is_answer(asked, &answer)
        {
            return Ok(answer);
        }
    }
}

async fn over_tcp(upstream: SocketAddr, asked: &Message, bytes: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(upstream).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    let answer = read(&buffer)?;
    if is_answer(asked, &answer) { Ok(answer) } else { Err(io::Error::other("an answer to another question")) }
}

fn is_answer(asked: &Message, answer: &Message) -> bool {
    answer.metadata.id == asked.metadata.id && answer.metadata.message_type == MessageType::Response && answer.queries == asked.queries
}
