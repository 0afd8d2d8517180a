//! What can go wrong in a call of the runtime service: the gRPC codes that a kubelet tells apart, with their cause.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::image::ImageError;
use crate::network::NetworkError;

pub type CriResult<T> = Result<T, CriError>;

#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CriError {
    /// Nothing has that id (gRPC NOT_FOUND). Stop and remove never answer this: they are idempotent.
    #[error("{kind} {id:?} not found")]
    NotFound { kind: &'static str, id: String },
    /// Something with that name and attempt is there already (gRPC ALREADY_EXISTS).
    #[error("{kind} {name:?} already exists")]
    AlreadyExists { kind: &'static str, name: String },
    /// The request can never succeed as it is (gRPC INVALID_ARGUMENT).
    #[error("{0}")]
    InvalidArgument(String),
    /// The object is in a state that does not allow the operation (gRPC FAILED_PRECONDITION).
    #[error("{0}")]
    FailedPrecondition(String),
    /// The command did not end within its timeout and was killed (gRPC DEADLINE_EXCEEDED).
    #[error("{0}")]
    DeadlineExceeded(String),
    /// The other side cannot be reached now; a later try may succeed (gRPC UNAVAILABLE).
    #[error("{0}")]
    Unavailable(String),
    /// This runtime does not have the operation or the option (gRPC UNIMPLEMENTED).
    #[error("{0}")]
    Unimplemented(String),
    /// A limit of the node was reached: disk, pids, inotify (gRPC RESOURCE_EXHAUSTED).
    #[error("{0}")]
    ResourceExhausted(String),
    /// The container's first process could not be started: no such command, not executable, wrong user
    /// (what the kubelet shows as `RunContainerError`).
    #[error("{0}")]
    ContainerCannotRun(String),
    #[error("image: {0}")]
    Image(#[from] ImageError),
    #[error("network: {0}")]
    Network(#[from] NetworkError),
    #[error("{operation} {path:?}: {source}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    /// A fault of the runtime or of the kernel below it (gRPC INTERNAL).
    #[error("{0}")]
    Internal(String),
}

impl CriError {
    pub fn not_found(kind: &'static str, id: impl Into<String>) -> Self {
        CriError::NotFound { kind, id: id.into() }
    }

    pub fn io(operation: &'static str, path: impl AsRef<Path>, source: io::Error) -> Self {
        CriError::Io { operation, path: path.as_ref().to_path_buf(), source }
    }

    pub fn is_not_found(&self) -> bool {
        matches!(self, CriError::NotFound { .. })
    }

    /// Whether the same call may succeed later without a change by the caller.
    pub fn is_retriable(&self) -> bool {
        match self {
            CriError::Unavailable(_)
            | CriError::ResourceExhausted(_)
            | CriError::Io { .. }
            | CriError::Internal(_)
            | CriError::Network(_) => true,
            CriError::Image(error) => error.is_retriable(),
            _ => false,
        }
    }
}
