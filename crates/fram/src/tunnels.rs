//! The server's ways to nodes: its own by a pipe, others through the connections that their agents hold. A stream begins
//! with a line that says what it is for, `kubelet` or `dial ADDRESS`; the agent answers `ok` or what failed.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use fram_apiserver::nodes::{Nodes, Reached, Stream};
use fram_machinery::{Reason, Status};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use crate::mux::{self, End, Opener};
use crate::node::LocalNode;

/// How long an agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// Longer lines than this are nobody's.
const MOST_LINE: usize = 1024;

/// One agent's connection.
struct Link {
    opener: Opener,
    /// Ends it when a newer one takes its place.
    replaced: CancellationToken,
}

/// All nodes that can be reached.
pub(crate) struct Tunnels {
    pub(crate) local: LocalNode,
    links: Mutex<HashMap<String, Link>>,
}

impl Tunnels {
    /// Those of a process that is to run the node of this name itself, or none.
    pub(crate) fn new(node: Option<String>) -> Self {
        Self { local: LocalNode::new(node), links: Mutex::default() }
    }

    /// A stream through a node's agent, for what the line says; None where no agent of the node is connected.
    async fn through(&self, node: &str, line: &str) -> Reached {
        let opener = self.links.lock().get(node).map(|link| link.opener.clone())?;
        let failed = |why: String| Status::new(Reason::ServiceUnavailable, format!("error trying to reach node {node:?}: {why}"));
        let opened = async {
            let mut lane = opener.open().await.ok_or_else(|| failed("its agent has gone".into()))?;
            lane.write_all(format!("{line}\n").as_bytes()).await.map_err(|e| failed(e.to_string()))?;
            lane.flush().await.map_err(|e| failed(e.to_string()))?;
            match read_line(&mut lane).await.map_err(|e| failed(e.to_string()))?.as_str() {
                "ok" => Ok(Box::new(lane) as Box<dyn Stream>),
                error => Err(failed(error.into())),
            }
        };
        let outcome = tokio::time::timeout(PATIENCE, opened).await;
        Some(outcome.unwrap_or_else(|_| Err(failed("its agent does not answer".into()))))
    }
}

/// A line without its end. It is read byte by byte, for what follows is not ours.
pub(crate) async fn read_line(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<String> {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await? {
            b'\n' => return String::from_utf8(line).map_err(std::io::Error::other),
            _ if line.len() >= MOST_LINE => return Err(std::io::Error::other("the line is too long")),
            byte => line.push(byte),
        }
    }
}

#[async_trait::async_trait]
impl Nodes for Tunnels {
    async fn connect(&self, node: &str) -> Reached {
        match self.through(node, "kubelet").await {
            Some(outcome) => Some(outcome),
            None => self.local.connect(node).await,
        }
    }

    async fn dial(&self, node: &str, address: SocketAddr) -> Reached {
        match self.through(node, &format!("dial {address}")).await {
            Some(outcome) => Some(outcome),
            None => self.local.dial(node, address).await,
        }
    }

    async fn tunnel(&self, node: &str, stream: Box<dyn Stream>) {
        let (opener, asked) = Opener::new();
        let replaced = CancellationToken::new();
        let stale = self.links.lock().insert(node.into(), Link { opener, replaced: replaced.clone() });
        if let Some(stale) = stale {
            stale.replaced.cancel();
        }
        tracing::info!(node, "the node's agent is connected");
        // Agents are asked, they do not ask: what one opens is closed at once.
        let ended = replaced.run_until_cancelled(mux::drive(stream, End::Server, asked, drop)).await;
        match ended {
            None => return tracing::info!(node, "a newer connection of the node's agent took the place of an older one"),
            Some(Ok(())) => tracing::info!(node, "the node's agent has gone"),
            Some(Err(error)) => tracing::warn!(node, %error, "the connection of the node's agent ended"),
        }
        let mut links = self.links.lock();
        if !replaced.is_cancelled() {
            links.remove(node);
        }
    }
}
