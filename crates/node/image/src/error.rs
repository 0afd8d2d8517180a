//! The crate's one public error: what went wrong with an image, and of which sort it is, so that the kubelet can choose a
//! reason (ErrImagePull, ErrImageNeverPull, InvalidImageName...) and whether to retry without reading text.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::DigestError;
use crate::import::ArchiveError;
use crate::layer::LayerError;
use crate::manifest::ManifestError;
use crate::reference::ReferenceError;
use crate::registry::RegistryError;

/// What a caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The reference is malformed: retrying is useless.
    InvalidReference,
    /// The registry (or the local store) does not have it.
    NotFound,
    /// Credentials are missing, wrong or insufficient.
    Unauthorized,
    /// The registry cannot be reached, stalls or answers with a server error: a retry may help.
    Network,
    /// What arrived is not what its digest or its format promises.
    Corrupt,
    /// The image exists, but not for this operating system and architecture.
    WrongPlatform,
    /// No space, no inodes or no quota left.
    DiskFull,
    /// A format or media type that is not supported, or a limit that was exceeded.
    Unsupported,
    /// The local disk or process failed in another way.
    Internal,
}

/// A file operation that failed: which one, and on what.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}: {source}", path.display())]
pub struct IoError {
    pub operation: &'static str,
    pub path: PathBuf,
    pub source: io::Error,
}

impl IoError {
    pub fn kind(&self) -> ErrorKind {
        kind_of_io(&self.source)
    }
}

pub(crate) fn kind_of_io(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::DiskFull,
        _ => ErrorKind::Internal,
    }
}

/// Adds path and operation to an I/O result.
pub(crate) trait IoContext<T> {
    fn at(self, operation: &'static str, path: impl AsRef<Path>) -> Result<T, IoError>;
}

impl<T, E: Into<io::Error>> IoContext<T> for Result<T, E> {
    fn at(self, operation: &'static str, path: impl AsRef<Path>) -> Result<T, IoError> {
        self.map_err(|source| IoError { operation, path: path.as_ref().to_path_buf(), source: source.into() })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error(transparent)]
    Digest(#[from] DigestError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Layer(#[from] LayerError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Io(#[from] IoError),
    #[error("image {0:?} is not present")]
    NotPresent(String),
    #[error("blob {digest} is corrupt: {reason}")]
    CorruptBlob { digest: String, reason: String },
    #[error("image store {} is in use by another process", .0.display())]
    Locked(PathBuf),
    #[error("image index {} cannot be read: {reason}", path.display())]
    BadIndex { path: PathBuf, reason: String },
    #[error("the image worker ended before its work was done: {0}")]
    Worker(String),
}

impl ImageError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Reference(_) | Self::Digest(_) => ErrorKind::InvalidReference,
            Self::Registry(e) => e.kind(),
            Self::Manifest(e) => e.kind(),
            Self::Layer(e) => e.kind(),
            Self::Archive(e) => e.kind(),
            Self::Io(e) => e.kind(),
            Self::NotPresent(_) => ErrorKind::NotFound,
            Self::CorruptBlob { .. } => ErrorKind::Corrupt,
            Self::Locked(_) | Self::BadIndex { .. } | Self::Worker(_) => ErrorKind::Internal,
        }
    }

    /// Whether the same call may succeed later without anyone changing anything here.
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind(), ErrorKind::Network | ErrorKind::DiskFull | ErrorKind::Corrupt)
    }
}
