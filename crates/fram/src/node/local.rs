//! The way from the API server to the kubelet of the same process: a pipe in memory.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use fram_apiserver::nodes::{Nodes, Reached, Stream, unreachable};
use fram_kubelet::Kubelet;
use fram_machinery::{Reason, Status};
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

/// How long a connection to a pod may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes that may wait in a pipe, in either direction.
const PIPE: usize = 64 * 1024;

/// Reaches one node, once its kubelet is there.
pub(crate) struct LocalNode {
    /// The name of the one that is to be.
    expected: Option<String>,
    kubelet: OnceLock<(String, Kubelet)>,
    tasks: TaskTracker,
}

impl LocalNode {
    pub(crate) fn new(expected: Option<String>) -> Self {
        Self { expected, kubelet: OnceLock::new(), tasks: TaskTracker::new() }
    }

    /// The kubelet, if the node is this one. Before it is there, whoever asks comes again: its pods are not where others would look for them.
    fn of(&self, node: &str) -> Option<Result<&Kubelet, Status>> {
        match self.kubelet.get() {
            Some((name, kubelet)) => (name == node).then_some(Ok(kubelet)),
            None => (self.expected.as_deref() == Some(node)).then(|| Err(unreachable(node))),
        }
    }

    /// From now on the node can be reached.
    pub(crate) fn set(&self, name: &str, kubelet: Kubelet) {
        // A process runs one kubelet; a second one would not be reached.
        let _first = self.kubelet.set((name.to_string(), kubelet));
    }
}

#[async_trait::async_trait]
impl Nodes for LocalNode {
    async fn connect(&self, node: &str) -> Reached {
        let kubelet = match self.of(node)? {
            Ok(kubelet) => kubelet.clone(),
            Err(status) => return Some(Err(status)),
        };
        let (ours, theirs) = tokio::io::duplex(PIPE);
        self.tasks.spawn(async move { kubelet.serve(theirs).await });
        Some(Ok(Box::new(ours)))
    }

    async fn dial(&self, node: &str, address: SocketAddr) -> Reached {
        if let Err(status) = self.of(node)? {
            return Some(Err(status));
        }
        let refused = |e: std::io::Error| Status::new(Reason::ServiceUnavailable, format!("error trying to reach {address}: {e}"));
        let connected = match tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await {
            Ok(connected) => connected,
            Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
        };
        Some(connected.map(|stream| Box::new(stream) as Box<dyn Stream>).map_err(refused))
    }
}
