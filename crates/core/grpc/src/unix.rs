//! A server behind a Unix socket: one connection, made when it is needed and again when it has ended.

use std::path::{Path, PathBuf};

use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio_util::task::TaskTracker;

use crate::{Channel, GrpcError, Options};

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot connect to {}: {source}", path.display())]
    Connect { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Grpc(#[from] GrpcError),
}

/// Calls share its connection.
pub struct UnixEndpoint {
    path: PathBuf,
    max_message: usize,
    connection: Mutex<Option<Channel>>,
    tasks: TaskTracker,
}

impl UnixEndpoint {
    /// `max_message` is the largest answer that is taken.
    pub fn new(path: PathBuf, max_message: usize) -> Self {
        Self { path, max_message, connection: Mutex::new(None), tasks: TaskTracker::new() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub async fn channel(&self) -> Result<Channel, ConnectError> {
        let mut current = self.connection.lock().await;
        if let Some(channel) = current.as_mut()
            && channel.ready().await.is_ok()
        {
            return Ok(channel.clone());
        }
        let failed = |source| ConnectError::Connect { path: self.path.clone(), source };
        let stream = UnixStream::connect(&self.path).await.map_err(failed)?;
        let options = Options { authority: "localhost".into(), metadata: Vec::new(), max_message: self.max_message, keep_alive: None };
        let channel = Channel::new(stream, options, &self.tasks).await?;
        *current = Some(channel.clone());
        Ok(channel)
    }
}
