//! The connection that the agent keeps to the server, over which the server reaches the kubelet and the node's pods.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use fram_client::remote::{Kubeconfig, Servers};
use fram_kubelet::Kubelet;
use http::{StatusCode, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::mux::{self, End, Lane, Opener};
use crate::tunnels::read_line;

/// How long a connection may take to be made.
const PATIENCE: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A connection that has lasted so long was a good one: the next failure is the first.
const GOOD: Duration = Duration::from_secs(30);

/// A TLS connection to one of the servers that notices when the network is cut.
pub(super) async fn dial(servers: &Servers, tls: rustls::ClientConfig) -> anyhow::Result<TlsStream<TcpStream>> {
    let stream = servers.dial(&TlsConnector::from(Arc::new(tls))).await?;
    // A network that was cut sends no end: the kernel asks for one.
    let socket = stream.get_ref().0;
    setsockopt(socket, sockopt::KeepAlive, &true)?;
    setsockopt(socket, sockopt::TcpKeepIdle, &10)?;
    setsockopt(socket, sockopt::TcpKeepInterval, &5)?;
    setsockopt(socket, sockopt::TcpKeepCount, &3)?;
    Ok(stream)
}

pub(super) struct Link {
    pub(super) kubelet: Kubelet,
    pub(super) identity: watch::Receiver<Kubeconfig>,
    pub(super) servers: Servers,
    pub(super) lanes: TaskTracker,
}

impl Link {
    /// Keeps the connection until `stop`.
    pub(super) async fn keep(self, stop: CancellationToken) {
        let mut pause = FIRST_PAUSE;
        loop {
            let begun = Instant::now();
            let identity = self.identity.borrow().clone();
            match stop.run_until_cancelled(self.once(&identity, &stop)).await {
                None => return,
                Some(Ok(())) => tracing::info!("the server ended the connection, another is made"),
                Some(Err(error)) => tracing::warn!(error = format!("{error:#}"), "no connection to the server, will be tried again"),
            }
            if begun.elapsed() > GOOD {
                pause = FIRST_PAUSE;
            }
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One connection, from its making to its end.
    async fn once(&self, identity: &Kubeconfig, stop: &CancellationToken) -> anyhow::Result<()> {
        let mut passings = self.servers.passings();
        let stream = dial(&self.servers, identity.tls(b"http/1.1")?).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let mut connections = tokio::task::JoinSet::new();
        connections.spawn(connection.with_upgrades());
        let request = http::Request::get("/fram/v1/tunnel")
            .header(header::HOST, "kubernetes")
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "fram-tunnel")
            .body(Empty::<Bytes>::new())?;
        let asked = tokio::time::timeout(PATIENCE, sender.send_request(request)).await;
        let mut response = asked.context("the server does not answer")??;
        let status = response.status();
        anyhow::ensure!(status == StatusCode::SWITCHING_PROTOCOLS, "the server refused the connection: {status}");
        let stream = hyper::upgrade::on(&mut response).await?;
        // The agent opens no streams of its own; the asker lives as long as the connection.
        let (_opener, asked) = Opener::new();
        let accept = |lane| {
            let (kubelet, stop) = (self.kubelet.clone(), stop.clone());
            self.lanes.spawn(async move {
                if let Some(Err(error)) = stop.run_until_cancelled(serve(kubelet, lane)).await {
                    tracing::debug!(error = format!("{error:#}"), "a stream of the server ended early");
                }
            });
        };
        tokio::select! {
            driven = mux::drive(Box::new(TokioIo::new(stream)), End::Agent, asked, accept) => driven?,
            // Who is asked for everything else is to reach the node too.
            Ok(()) = passings.changed() => {}
        }
        Ok(())
    }
}

/// Serves one stream: its first line says what it is for.
async fn serve(kubelet: Kubelet, mut lane: Lane) -> anyhow::Result<()> {
    let line = read_line(&mut lane).await?;
    match line.split_once(' ') {
        None if line == "kubelet" => {
            lane.write_all(b"ok\n").await?;
            lane.flush().await?;
            kubelet.serve(lane).await;
        }
        Some(("dial", address)) => {
            let address: SocketAddr = address.parse()?;
            let dialed = tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await;
            match dialed.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut)).flatten() {
                Ok(mut stream) => {
                    lane.write_all(b"ok\n").await?;
                    lane.flush().await?;
                    copy_bidirectional(&mut lane, &mut stream).await?;
                }
                Err(error) => {
                    lane.write_all(format!("{address}: {error}\n").as_bytes()).await?;
                    lane.shutdown().await?;
                }
            }
        }
        _ => {
            lane.write_all(b"this agent does not know what the stream is for\n").await?;
            lane.shutdown().await?;
        }
    }
    Ok(())
}
