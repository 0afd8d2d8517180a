//! A closed loop: so many clients, each with one request under way, until a number of operations is done.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use fram_client::remote::Remote;
use futures_util::future::try_join_all;
use http::Request;
use http_body_util::{BodyExt, Full};

use crate::subject::Subject;

/// What a number of operations took.
pub struct Figures {
    operations: usize,
    /// CPU time of the server, user and system.
    cpu: Duration,
    wall: Duration,
    /// Sorted.
    latencies: Vec<Duration>,
}

impl Figures {
    pub fn new(operations: usize, cpu: Duration, wall: Duration, mut latencies: Vec<Duration>) -> Self {
        latencies.sort_unstable();
        Self { operations, cpu, wall, latencies }
    }

    /// How many operations there were in a second.
    pub fn rate(&self) -> f64 {
        self.operations as f64 / self.wall.as_secs_f64()
    }

    /// CPU time of the server by operation, in microseconds.
    pub fn cost(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.operations as f64
    }

    fn quantile(&self, of_a_thousand: usize) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        self.latencies.get(last * of_a_thousand / 1000).map_or(0.0, |l| l.as_secs_f64() * 1e3)
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1} us CPU, {:.0}/s, ", self.cost(), self.rate())?;
        write!(f, "median {:.1} ms, p99 {:.1} ms", self.quantile(500), self.quantile(990))
    }
}

/// Sends a request and reads the whole answer, which has to be a success.
pub async fn ask(remote: &Remote, request: Request<Full<Bytes>>) -> Result<Bytes> {
    let what = format!("{} {}", request.method(), request.uri());
    let response = remote.send(request).await.map_err(|status| anyhow::anyhow!("{what}: {status:?}"))?;
    let code = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    ensure!(code.is_success(), "{what}: {code}: {}", String::from_utf8_lossy(&body));
    Ok(body)
}

/// Asks for `operations` things, by the clients of the subject at once; `request` makes each by its number.
pub async fn drive(
    subject: &Subject,
    clients: &[Arc<Remote>],
    operations: usize,
    request: impl Fn(usize) -> Request<Full<Bytes>>,
) -> Result<Figures> {
    let next = AtomicUsize::new(0);
    let (cpu, begun) = (subject.cpu(), Instant::now());
    let one = async |client: &Remote| {
        let mut latencies = Vec::with_capacity(operations / clients.len() + 1);
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= operations {
                return Ok::<_, anyhow::Error>(latencies);
            }
            let request = request(number);
            let sent = Instant::now();
            ask(client, request).await?;
            latencies.push(sent.elapsed());
        }
    };
    let latencies = try_join_all(clients.iter().map(|client| one(client))).await?.concat();
    let wall = begun.elapsed();
    Ok(Figures::new(operations, subject.cpu() - cpu, wall, latencies))
}
