//! Records posted to a webhook as EventLists, in batches. The buffer is bounded: what does not fit, and what the webhook does not
//! take after the last try, is lost and counted. See upstream's buffered and webhook audit backends.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fram_client::remote::Kubeconfig;
use fram_machinery::{Value, json, object};
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use crate::{AuditError, Counters, Sink};

/// How records are gathered; the defaults are upstream's of the webhook.
#[derive(Debug, Clone, Copy)]
pub struct BatchOptions {
    pub buffer_size: usize,
    pub max_size: usize,
    pub max_wait: Duration,
    /// How many batches a second are sent at most, and how many at once after a pause.
    pub throttle_qps: f64,
    pub throttle_burst: f64,
    /// The time before a failed batch is sent again; each further time is one and a half of the one before.
    pub initial_backoff: Duration,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self {
            buffer_size: 10_000,
            max_size: 400,
            max_wait: Duration::from_secs(30),
            throttle_qps: 10.0,
            throttle_burst: 15.0,
            initial_backoff: Duration::from_secs(10),
        }
    }
}

/// How often a batch is sent; see webhook.DefaultRetryBackoffWithInitialDelay.
const TRIES: u32 = 5;
const FACTOR: f64 = 1.5;
/// How long one try may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How many batches are under way at once.
const UNDER_WAY: usize = 8;
/// How long what is buffered may take to go out at the end.
const FAREWELL: Duration = Duration::from_secs(5);
const MAX_ANSWER: usize = 64 * 1024;

#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("dial {0}: {1}")]
    Dial(String, std::io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("the request cannot be made: {0}")]
    Request(#[from] http::Error),
    #[error("the webhook answered with status {0}")]
    Answer(u16),
    #[error("the webhook did not answer in time")]
    Timeout,
}

/// The webhook sink: it only buffers; `run` sends.
pub struct Webhook {
    buffer: mpsc::Sender<Arc<Value>>,
}

impl Sink for Webhook {
    fn name(&self) -> &'static str {
        "buffered"
    }

    fn take(&self, event: &Arc<Value>) -> bool {
        self.buffer.try_send(event.clone()).is_ok()
    }
}

/// What sends the batches.
pub struct Sender {
    buffer: mpsc::Receiver<Arc<Value>>,
    options: BatchOptions,
    endpoint: Arc<Endpoint>,
    counters: Counters,
}

impl Webhook {
    /// The sink and its sender, for the server that a kubeconfig file names; its URL is posted to as it is.
    pub fn open(config: &Path, options: BatchOptions, counters: Counters) -> Result<(Self, Sender), AuditError> {
        let config = Kubeconfig::read(config).map_err(|e| AuditError::Webhook(e.to_string()))?;
        let endpoint = Arc::new(Endpoint::new(&config)?);
        let (sender, buffer) = mpsc::channel(options.buffer_size.max(1));
        Ok((Self { buffer: sender }, Sender { buffer, options, endpoint, counters }))
    }
}

impl Sender {
    /// Sends batches until `stop`, then what is still buffered, as far as it is taken in time.
    pub async fn run(mut self, stop: CancellationToken) {
        let over = async {
            stop.cancelled().await;
            tokio::time::sleep(FAREWELL).await;
        };
        let counters = self.counters.clone();
        let late = tokio::select! {
            () = self.send(&stop) => 0,
            () = over => self.buffer.len(),
        };
        if late > 0 {
            tracing::warn!(late, "the audit webhook does not take its last events");
            counters.lost("webhook", late);
        }
    }

    async fn send(&mut self, stop: &CancellationToken) {
        let (mut sending, places) = (JoinSet::new(), Arc::new(Semaphore::new(UNDER_WAY)));
        let mut throttle = Throttle::new(&self.options);
        loop {
            let batch = self.gather(stop).await;
            if batch.is_empty() {
                break;
            }
            while sending.try_join_next().is_some() {}
            if let Some(wait) = throttle.take(Instant::now()) {
                tokio::time::sleep(wait).await;
            }
            // While all places are taken the buffer fills, and then events are lost: the server does not wait for its auditor.
            let Ok(place) = places.clone().acquire_owned().await else { break };
            let (endpoint, counters, backoff, stop) =
                (self.endpoint.clone(), self.counters.clone(), self.options.initial_backoff, stop.clone());
            sending.spawn(async move {
                deliver(&endpoint, &counters, batch, backoff, &stop).await;
                drop(place);
            });
        }
        while sending.join_next().await.is_some() {}
    }

    /// A batch that is full or has waited long enough; an empty one only at the end.
    async fn gather(&mut self, stop: &CancellationToken) -> Vec<Arc<Value>> {
        let mut batch = Vec::new();
        let mut end = None;
        while batch.len() < self.options.max_size {
            let limit = async {
                match end {
                    Some(end) => tokio::time::sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    while batch.len() < self.options.max_size && let Ok(event) = self.buffer.try_recv() {
                        batch.push(event);
                    }
                    return batch;
                }
                event = self.buffer.recv() => match event {
                    Some(event) => batch.push(event),
                    None => return batch,
                },
                () = limit => return batch,
            }
            end.get_or_insert_with(|| Instant::now() + self.options.max_wait);
        }
        batch
    }
}

/// A token bucket for batches.
struct Throttle {
    qps: f64,
    burst: f64,
    tokens: f64,
    last: Option<Instant>,
}

impl Throttle {
    fn new(options: &BatchOptions) -> Self {
        Self {
            qps: options.throttle_qps.max(0.001),
            burst: options.throttle_burst.max(1.0),
            tokens: options.throttle_burst.max(1.0),
            last: None,
        }
    }

    /// Takes a token; says how long to wait for it where there is none.
    fn take(&mut self, now: Instant) -> Option<Duration> {
        if let Some(last) = self.last {
            self.tokens = (self.tokens + (now - last).as_secs_f64() * self.qps).min(self.burst);
        }
        self.last = Some(now);
        self.tokens -= 1.0;
        (self.tokens < 0.0).then(|| Duration::from_secs_f64(-self.tokens / self.qps))
    }
}

async fn deliver(endpoint: &Endpoint, counters: &Counters, batch: Vec<Arc<Value>>, backoff: Duration, stop: &CancellationToken) {
    let count = batch.len();
    let body = Bytes::from(json::to_vec(&event_list(batch)));
    let mut wait = backoff;
    for left in (0..TRIES).rev() {
        let sent = tokio::time::timeout(TIMEOUT, endpoint.post(body.clone())).await.unwrap_or(Err(SendError::Timeout));
        let error = match sent {
            Ok(()) => return,
            Err(error) => error,
        };
        if left == 0 || stop.is_cancelled() {
            tracing::error!(%error, count, "audit events are lost");
            return counters.lost("webhook", count);
        }
        tracing::warn!(%error, count, ?wait, "audit events are sent again");
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = tokio::time::sleep(wait) => {}
        }
        wait = wait.mul_f64(FACTOR);
    }
}

fn event_list(batch: Vec<Arc<Value>>) -> Value {
    let items: Vec<Value> = batch.iter().map(|event| (**event).clone()).collect();
    object!({ "kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, "items": items })
}

/// Where the webhook is.
struct Endpoint {
    uri: Uri,
    host: String,
    port: u16,
    tls: Option<TlsConnector>,
    token: Option<String>,
}

impl Endpoint {
    fn new(config: &Kubeconfig) -> Result<Self, AuditError> {
        let wrong = |why: String| AuditError::Webhook(format!("server {:?}: {why}", config.server));
        let uri: Uri = config.server.parse().map_err(|e: http::uri::InvalidUri| wrong(e.to_string()))?;
        let host = uri.host().ok_or_else(|| wrong("no host is named".into()))?.to_string();
        let (tls, port) = match uri.scheme_str() {
            Some("http") => (None, 80),
            Some("https") => {
                let tls = config.tls(b"http/1.1").map_err(|e| AuditError::Webhook(e.to_string()))?;
                (Some(TlsConnector::from(Arc::new(tls))), 443)
            }
            _ => return Err(wrong("http or https is needed".into())),
        };
        Ok(Self { port: uri.port_u16().unwrap_or(port), host, tls, token: config.token.clone(), uri })
    }

    async fn post(&self, body: Bytes) -> Result<(), SendError> {
        let address = format!("{}:{}", self.host, self.port);
        let failed = |e| SendError::Dial(address.clone(), e);
        let stream = TcpStream::connect(&address).await.map_err(failed)?;
        match &self.tls {
            None => self.exchange(stream, body).await,
            Some(tls) => {
                let bare = self.host.trim_start_matches('[').trim_end_matches(']').to_string();
                let name = ServerName::try_from(bare).map_err(|e| failed(std::io::Error::other(e)))?;
                let stream = tls.connect(name, stream).await.map_err(failed)?;
                self.exchange(stream, body).await
            }
        }
    }

    async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S, body: Bytes) -> Result<(), SendError> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let path = self.uri.path_and_query().map_or("/", |p| p.as_str());
        let mut request = Request::post(path)
            .header(header::HOST, format!("{}:{}", self.host, self.port))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, "fram");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body))?;
        let answer = async move {
            let response = sender.send_request(request).await?;
            let code = response.status();
            // What it says does not matter, but it is read, so that the webhook is not cut off while it speaks.
            let _ = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            if code.is_success() { Ok(()) } else { Err(SendError::Answer(code.as_u16())) }
        };
        tokio::join!(answer, connection).0
    }
}

#[cfg(test)]
mod tests;
