//! Streams to nodes: the API server reaches kubelets through connections that the nodes' agents hold, so that it need not
//! be on the pod network.

use std::net::SocketAddr;

use fram_machinery::Status;
use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream to a kubelet's HTTP server.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Opens streams to kubelets.
#[async_trait::async_trait]
pub trait Nodes: Send + Sync {
    /// A new stream to the kubelet of a node, or why there is none.
    async fn connect(&self, node: &str) -> Result<Box<dyn Stream>, Status>;

    /// A new stream from a node to an address that it can reach: a pod's, or its own.
    async fn dial(&self, node: &str, address: SocketAddr) -> Result<Box<dyn Stream>, Status>;

    /// A node's agent has connected: its stream replaces an earlier one. Returns when the stream has ended.
    async fn tunnel(&self, _node: &str, _stream: Box<dyn Stream>) {}
}

/// No node can be reached.
pub struct NoNodes;

#[async_trait::async_trait]
impl Nodes for NoNodes {
    async fn connect(&self, node: &str) -> Result<Box<dyn Stream>, Status> {
        Err(unreachable(node))
    }

    async fn dial(&self, node: &str, _address: SocketAddr) -> Result<Box<dyn Stream>, Status> {
        Err(unreachable(node))
    }
}

/// The answer where no agent of the node is connected.
pub fn unreachable(node: &str) -> Status {
    Status::new(fram_machinery::Reason::ServiceUnavailable, format!("no connection to the kubelet of node {node:?}"))
}
