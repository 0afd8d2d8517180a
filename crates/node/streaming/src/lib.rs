//! Exec, attach and port-forward as Kubernetes' clients speak them: SPDY/3.1 and WebSocket. The server's side answers requests and
//! goes on as sessions; what a session carries is opened by the caller. The kubelet serves clients by it, and the runtime stock
//! kubelets.

pub mod answer;
mod client;
pub mod exec;
pub mod forward;
#[cfg(test)]
mod fuzz;
mod idle;
pub mod query;
mod server;
mod spdy;
pub mod websocket;

pub use client::StreamClient;
pub use server::StreamServer;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Who owns sessions: they end with `stop` at the latest.
#[derive(Debug, Clone)]
pub struct Sessions {
    pub tasks: TaskTracker,
    pub stop: CancellationToken,
    /// They end when nothing has moved for this time; None for never.
    pub idle: Option<Duration>,
}

impl Sessions {
    pub(crate) fn spawn(&self, session: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(session).await;
        });
    }
}
