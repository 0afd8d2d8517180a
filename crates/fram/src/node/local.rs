//! The way from the API server to the kubelet of the same process: a pipe in memory.

use std::sync::OnceLock;

use fram_apiserver::nodes::{Nodes, Stream, unreachable};
use fram_kubelet::Kubelet;
use fram_machinery::Status;
use tokio_util::task::TaskTracker;

/// Bytes that may wait in a pipe, in either direction.
const PIPE: usize = 64 * 1024;

/// Reaches one node, once its kubelet is there.
#[derive(Default)]
pub(crate) struct LocalNode {
    kubelet: OnceLock<(String, Kubelet)>,
    tasks: TaskTracker,
}

impl LocalNode {
    /// From now on the node can be reached.
    pub(crate) fn set(&self, name: &str, kubelet: Kubelet) {
        // A process runs one kubelet; a second one would not be reached.
        let _first = self.kubelet.set((name.to_string(), kubelet));
    }
}

#[async_trait::async_trait]
impl Nodes for LocalNode {
    async fn connect(&self, node: &str) -> Result<Box<dyn Stream>, Status> {
        let Some((_, kubelet)) = self.kubelet.get().filter(|(name, _)| name == node) else { return Err(unreachable(node)) };
        let (ours, theirs) = tokio::io::duplex(PIPE);
        let kubelet = kubelet.clone();
        self.tasks.spawn(async move { kubelet.serve(theirs).await });
        Ok(Box::new(ours))
    }
}
