//! What can go wrong in a store, said so that a caller can act on it without reading text.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::cipher::CipherError;
use crate::types::{Entry, Key, Revision};

/// The error of every store call. Cheap to clone, because one failed write answers many commits.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A condition did not hold; nothing was applied.
    #[error("conflict on {key}")]
    Conflict {
        key: Key,
        /// What the condition was judged against.
        current: Option<Arc<Entry>>,
    },
    /// The history that is needed is gone: list again and go on from there.
    #[error("revision {revision} is compacted, the oldest one kept is {oldest}")]
    Compacted { revision: Revision, oldest: Revision },
    /// The store has not reached the revision yet.
    #[error("revision {revision} is in the future, the current one is {current}")]
    FutureRevision { revision: Revision, current: Revision },
    /// The transaction is over a limit; nothing was applied.
    #[error("{what} is too large: {size} exceeds the limit of {limit}")]
    TooLarge { what: &'static str, size: usize, limit: usize },
    /// The transaction touches a key twice; nothing was applied.
    #[error("transaction touches {key} more than once")]
    DuplicateKey { key: Key },
    /// The watcher did not keep up and was ended; watch again after the last revision that it has seen.
    #[error("watcher fell behind and was ended, {buffered} events were waiting")]
    WatcherTooSlow { buffered: usize },
    /// The store is closed or its writer has failed.
    #[error("store is closed")]
    Closed,
    /// A file could not be read or written. A commit that fails with this error was not applied. Only when a failed
    /// flush is followed by a crash before the store could write again is its outcome unknown.
    #[error("cannot {operation} {}: {error}", path.display())]
    Io {
        path: PathBuf,
        operation: &'static str,
        /// Not a source: the text has it, for those who show nothing but that; others would show it twice.
        error: Arc<io::Error>,
    },
    /// A file does not hold what was once acknowledged.
    #[error("{} is corrupt at byte {offset}: {reason}", path.display())]
    Corrupt { path: PathBuf, offset: u64, reason: String },
    /// A value cannot be encrypted, and its transaction was not applied; or it cannot be decrypted, and is none that the cipher leaves sealed.
    #[error("cannot {operation} the value of {key}: {source}")]
    Cipher { key: Key, operation: &'static str, source: CipherError },
    /// The database behind the store did not take the call; nothing was applied.
    #[error("etcd cannot be reached: {reason}")]
    Unavailable { reason: String },
    /// The database behind the store was asked to commit and did not say whether it did.
    #[error("etcd did not say whether it committed: {reason}")]
    OutcomeUnknown { reason: String },
    /// The database behind the store has reached its quota; nothing was applied.
    #[error("etcd has no space left: compact and defragment it, then disarm its alarm")]
    NoSpace,
    /// The database behind the store refused the call for a reason of its own; nothing was applied.
    #[error("etcd refused: {message}")]
    Refused { code: u32, message: String },
    /// The store was told to work in a way that cannot be.
    #[error("{0}")]
    Options(String),
    /// Another process has the data directory open.
    #[error("data directory {} is in use by another process", path.display())]
    Locked { path: PathBuf },
    /// The data directory was written by a version that this one does not understand.
    #[error("data directory {} has format {found:?}, this version reads {expected:?}", path.display())]
    Version { path: PathBuf, found: String, expected: &'static str },
    /// The directory holds something else than a store.
    #[error("{} is not a data directory of the store: it holds {found}", path.display())]
    NotAStore { path: PathBuf, found: String },
}

impl StoreError {
    /// Whether the same call can succeed later without a change to its arguments.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Io { .. }
            | Self::FutureRevision { .. }
            | Self::WatcherTooSlow { .. }
            | Self::Locked { .. }
            | Self::Unavailable { .. }
            | Self::NoSpace => true,
            Self::Conflict { .. }
            | Self::Compacted { .. }
            | Self::TooLarge { .. }
            | Self::DuplicateKey { .. }
            | Self::Closed
            | Self::Corrupt { .. }
            | Self::Version { .. }
            | Self::NotAStore { .. }
            | Self::OutcomeUnknown { .. }
            | Self::Refused { .. }
            | Self::Options(_)
            | Self::Cipher { .. } => false,
        }
    }

    /// Whether the write was refused because there is no room for it.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Io { error, .. } => matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded),
            Self::NoSpace => true,
            _ => false,
        }
    }

    pub(crate) fn io(path: impl Into<PathBuf>, operation: &'static str, error: io::Error) -> Self {
        Self::Io { path: path.into(), operation, error: Arc::new(error) }
    }

    pub(crate) fn corrupt(path: impl Into<PathBuf>, offset: u64, reason: impl Into<String>) -> Self {
        Self::Corrupt { path: path.into(), offset, reason: reason.into() }
    }
}
