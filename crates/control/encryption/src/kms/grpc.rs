//! Calls of `v2.KeyManagementService` over a Unix socket.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use fram_grpc::{ConnectError, GrpcError, UnixEndpoint};

#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Grpc(#[from] GrpcError),
    #[error("no answer in time")]
    Timeout,
}

const SERVICE: &str = "/v2.KeyManagementService/";
const MAX_ANSWER: usize = 256 * 1024;

pub(super) struct Endpoint {
    server: UnixEndpoint,
    timeout: Duration,
}

impl Endpoint {
    pub(super) fn new(path: PathBuf, timeout: Duration) -> Self {
        Self { server: UnixEndpoint::new(path, MAX_ANSWER), timeout }
    }

    /// Calls a method with an encoded message; returns the encoded answer.
    pub(super) async fn call(&self, method: &str, message: Vec<u8>) -> Result<Bytes, CallError> {
        let exchange = async { Ok(self.server.channel().await?.unary(&format!("{SERVICE}{method}"), &message).await?) };
        tokio::time::timeout(self.timeout, exchange).await.unwrap_or(Err(CallError::Timeout))
    }
}
