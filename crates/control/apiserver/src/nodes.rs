//! Streams to nodes: the API server reaches kubelets and pods through connections that the nodes' agents hold, so that it need not
//! be on the pod network.

use std::net::SocketAddr;

use fram_machinery::Status;
use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream to a kubelet's HTTP server.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What an agent's connection led to; None where no agent of the node is connected.
pub type Reached = Option<Result<Box<dyn Stream>, Status>>;

/// Opens streams through agents' connections.
#[async_trait::async_trait]
pub trait Nodes: Send + Sync {
    /// A new stream to the kubelet of a node.
    async fn connect(&self, node: &str) -> Reached;

    /// A new stream from a node to an address that it can reach: a pod's, or its own.
    async fn dial(&self, node: &str, address: SocketAddr) -> Reached;

    /// A node's agent has connected: its stream replaces an earlier one. Returns when the stream has ended.
    async fn tunnel(&self, _node: &str, _stream: Box<dyn Stream>) {}
}

/// No node has an agent.
pub struct NoNodes;

#[async_trait::async_trait]
impl Nodes for NoNodes {
    async fn connect(&self, _node: &str) -> Reached {
        None
    }

    async fn dial(&self, _node: &str, _address: SocketAddr) -> Reached {
        None
    }
}

/// The answer where no agent of the node is connected, nor another way there.
pub fn unreachable(node: &str) -> Status {
    Status::new(fram_machinery::Reason::ServiceUnavailable, format!("no connection to the kubelet of node {node:?}"))
}
