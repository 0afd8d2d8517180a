//! Calls of `v2.KeyManagementService` over a Unix socket: one connection, made again when it has ended.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use fram_grpc::{Channel, GrpcError, Options};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio_util::task::TaskTracker;

#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("cannot connect to {}: {source}", path.display())]
    Connect { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Grpc(#[from] GrpcError),
    #[error("no answer in time")]
    Timeout,
}

const SERVICE: &str = "/v2.KeyManagementService/";
const MAX_ANSWER: usize = 256 * 1024;

pub(super) struct Endpoint {
    path: PathBuf,
    timeout: Duration,
    connection: Mutex<Option<Channel>>,
    tasks: TaskTracker,
}

impl Endpoint {
    pub(super) fn new(path: PathBuf, timeout: Duration) -> Self {
        Self { path, timeout, connection: Mutex::new(None), tasks: TaskTracker::new() }
    }

    /// Calls a method with an encoded message; returns the encoded answer.
    pub(super) async fn call(&self, method: &str, message: Vec<u8>) -> Result<Bytes, CallError> {
        let exchange = async { Ok(self.channel().await?.unary(&format!("{SERVICE}{method}"), &message).await?) };
        tokio::time::timeout(self.timeout, exchange).await.unwrap_or(Err(CallError::Timeout))
    }

    async fn channel(&self) -> Result<Channel, CallError> {
        let mut current = self.connection.lock().await;
        if let Some(channel) = current.as_mut()
            && channel.ready().await.is_ok()
        {
            return Ok(channel.clone());
        }
        let failed = |source| CallError::Connect { path: self.path.clone(), source };
        let stream = UnixStream::connect(&self.path).await.map_err(failed)?;
        let options = Options { authority: "localhost".into(), metadata: Vec::new(), max_message: MAX_ANSWER, keep_alive: None };
        let channel = Channel::new(stream, options, &self.tasks).await?;
        *current = Some(channel.clone());
        Ok(channel)
    }
}
