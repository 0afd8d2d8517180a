//! The server of streams that a runtime gives URLs of, as a stock kubelet and crictl expect it: each URL is good for one request, and
//! not for long. See upstream's staging/src/k8s.io/kubelet/pkg/cri/streaming.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fram_cri::grpc::StreamUrls;
use fram_cri::{CriError, CriResult, ExecOptions, RuntimeService};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rand::RngCore;
use tokio::net::{TcpListener, TcpStream};

use crate::answer::{Answer, Body, refuse};
use crate::query::Query;
use crate::{Sessions, exec, forward};

/// How long a URL is good, and how many may wait; upstream's cacheTTL and maxInFlight.
const LIFETIME: Duration = Duration::from_secs(60);
const MOST: usize = 1000;

#[derive(Debug, Clone, PartialEq)]
enum Wanted {
    Exec { container: String, cmd: Vec<String>, options: ExecOptions },
    Attach { container: String, options: ExecOptions },
    PortForward { sandbox: String },
}

impl Wanted {
    fn path(&self) -> &'static str {
        match self {
            Self::Exec { .. } => "exec",
            Self::Attach { .. } => "attach",
            Self::PortForward { .. } => "portforward",
        }
    }
}

/// What URLs were given for and nobody has come for yet, by their tokens.
#[derive(Debug, Default)]
struct Tickets(HashMap<String, (Instant, Wanted)>);

impl Tickets {
    fn add(&mut self, token: String, wanted: Wanted, now: Instant) -> CriResult<()> {
        if self.0.len() >= MOST {
            self.0.retain(|_, (given, _)| now.duration_since(*given) < LIFETIME);
        }
        if self.0.len() >= MOST {
            return Err(CriError::ResourceExhausted("maximum number of in-flight requests exceeded".into()));
        }
        self.0.insert(token, (now, wanted));
        Ok(())
    }

    fn take(&mut self, token: &str, now: Instant) -> Option<Wanted> {
        let (given, wanted) = self.0.remove(token)?;
        (now.duration_since(given) < LIFETIME).then_some(wanted)
    }
}

/// Gives URLs and answers them. Clones share it.
#[derive(Clone)]
pub struct StreamServer {
    address: SocketAddr,
    tickets: Arc<Mutex<Tickets>>,
    runtime: Arc<dyn RuntimeService>,
    sessions: Sessions,
}

impl StreamServer {
    /// Listens at an address, which should be the loopback's: who knows a URL may use it.
    pub async fn bind(address: SocketAddr, runtime: Arc<dyn RuntimeService>, sessions: Sessions) -> std::io::Result<(Self, TcpListener)> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok((Self { address, tickets: Arc::default(), runtime, sessions }, listener))
    }

    /// Serves until the sessions' end.
    pub async fn run(self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.sessions.stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let server = self.clone();
                    self.sessions.spawn(async move { server.connection(stream).await });
                }
                Err(error) => {
                    // Out of descriptors, most likely: others may give theirs back.
                    tracing::warn!(%error, "cannot accept a connection for streams");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn connection(self, stream: TcpStream) {
        // Keystrokes are small and should not wait for more.
        let _ = stream.set_nodelay(true);
        let service = hyper::service::service_fn(|request| {
            let answer = self.answer(request).unwrap_or_else(|refusal| *refusal);
            async move { Ok::<Response<Body>, Infallible>(answer) }
        });
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection for streams ended early");
        }
    }

    fn answer(&self, request: Request<Incoming>) -> Answer {
        let not_found = || refuse(StatusCode::NOT_FOUND, "404 page not found");
        if !matches!(*request.method(), Method::GET | Method::POST) {
            return Err(refuse(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed"));
        }
        let (kind, token) = request.uri().path().trim_start_matches('/').split_once('/').ok_or_else(not_found)?;
        let wanted = self.tickets.lock().take(token, Instant::now());
        let wanted = wanted.filter(|wanted| wanted.path() == kind).ok_or_else(not_found)?;
        let runtime = self.runtime.clone();
        match wanted {
            Wanted::Exec { container, cmd, options } => {
                let open = async move { runtime.exec(&container, &cmd, options).await };
                exec::accept(&self.sessions, request, options, Box::pin(open), "error executing command in container")
            }
            Wanted::Attach { container, options } => {
                let open = async move { exec::attached(runtime.attach(&container, options)).await };
                exec::accept(&self.sessions, request, options, Box::pin(open), "error attaching to container")
            }
            Wanted::PortForward { sandbox } => {
                let query = Query::parse(request.uri().query().unwrap_or_default());
                forward::accept(&self.sessions, runtime, sandbox, &query, request)
            }
        }
    }

    fn url(&self, wanted: Wanted) -> CriResult<String> {
        let mut bytes = [0; 16];
        rand::rng().fill_bytes(&mut bytes);
        let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let url = format!("http://{}/{}/{token}", self.address, wanted.path());
        self.tickets.lock().add(token, wanted, Instant::now())?;
        Ok(url)
    }
}

impl StreamUrls for StreamServer {
    fn exec(&self, container_id: &str, cmd: &[String], options: ExecOptions) -> CriResult<String> {
        self.url(Wanted::Exec { container: container_id.to_owned(), cmd: cmd.to_vec(), options })
    }

    fn attach(&self, container_id: &str, options: ExecOptions) -> CriResult<String> {
        self.url(Wanted::Attach { container: container_id.to_owned(), options })
    }

    fn port_forward(&self, pod_sandbox_id: &str) -> CriResult<String> {
        self.url(Wanted::PortForward { sandbox: pod_sandbox_id.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_good_once_and_not_for_long() {
        let (mut tickets, now) = (Tickets::default(), Instant::now());
        let wanted = || Wanted::PortForward { sandbox: "s".into() };
        tickets.add("a".into(), wanted(), now).unwrap();
        tickets.add("b".into(), wanted(), now).unwrap();
        assert_eq!(tickets.take("a", now), Some(wanted()));
        assert_eq!((tickets.take("a", now), tickets.take("b", now + LIFETIME)), (None, None));
    }

    #[test]
    fn tickets_that_nobody_comes_for_make_room_when_they_are_old() {
        let (mut tickets, now) = (Tickets::default(), Instant::now());
        let wanted = || Wanted::PortForward { sandbox: "s".into() };
        for number in 0..MOST {
            tickets.add(number.to_string(), wanted(), now).unwrap();
        }
        assert!(tickets.add("more".into(), wanted(), now).is_err());
        assert!(tickets.add("later".into(), wanted(), now + LIFETIME).is_ok());
    }
}
