//! The nouns of the store: revisions, keys, entries, transactions and events. Values only: nothing here does I/O,
//! takes a lock or asks for the time.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::UnixMillis;

/// The number of operations that a transaction may have.
pub const MAX_OPERATIONS: usize = 100;

/// The longest key, in bytes.
pub const MAX_KEY_BYTES: usize = u16::MAX as usize;

/// The place of a transaction in the one total order of a store.
///
/// An empty store is at revision 1, as in etcd, so that no list ever carries resourceVersion "0", which means
/// "any version" to Kubernetes clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision of a store that nothing was ever written to.
    pub const EMPTY: Self = Self(1);

    /// The revision that follows this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A key: text that is cheap to clone, ordered by its bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for Key {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Key {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl From<String> for Key {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, formatter)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// One version of the value under a key. Shared as `Arc<Entry>` by snapshots, events and history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: Key,
    /// The bytes as they were put; the store never looks into them.
    pub value: Bytes,
    /// The revision that put the key when it was absent.
    pub created: Revision,
    /// The revision that put this value.
    pub modified: Revision,
    /// How many times the key was put since `created`, starting with 1.
    pub version: u64,
    /// When the store deletes the key by itself; `None` means never.
    pub expires: Option<UnixMillis>,
}

/// What has to hold for a transaction to be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The key has no entry.
    Absent(Key),
    /// The key's entry was last put at exactly this revision.
    ModifiedAt(Key, Revision),
    /// The key has an entry.
    Exists(Key),
}

impl Condition {
    /// The key that the condition speaks of.
    pub fn key(&self) -> &Key {
        match self {
            Self::Absent(key) | Self::ModifiedAt(key, _) | Self::Exists(key) => key,
        }
    }

    /// Whether the condition holds for the key's current entry.
    pub fn holds(&self, current: Option<&Entry>) -> bool {
        match self {
            Self::Absent(_) => current.is_none(),
            Self::Exists(_) => current.is_some(),
            Self::ModifiedAt(_, revision) => current.is_some_and(|entry| entry.modified == *revision),
        }
    }
}

/// One change of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Sets the value of a key. Without `ttl` the key lives until it is deleted, whatever its earlier entry said.
    Put { key: Key, value: Bytes, ttl: Option<Duration> },
    /// Removes a key; removing an absent key changes nothing and is no error.
    Delete { key: Key },
}

impl Operation {
    /// A put without expiry.
    pub fn put(key: impl Into<Key>, value: impl Into<Bytes>) -> Self {
        Self::Put { key: key.into(), value: value.into(), ttl: None }
    }

    /// A deletion.
    pub fn delete(key: impl Into<Key>) -> Self {
        Self::Delete { key: key.into() }
    }

    /// The key that the operation touches.
    pub fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }

    /// The bytes of key and value.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Put { key, value, .. } => key.len() + value.len(),
            Self::Delete { key } => key.len(),
        }
    }
}

/// Conditions and operations that succeed or fail as one, with one revision. Each key may be touched once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    pub conditions: Vec<Condition>,
    pub operations: Vec<Operation>,
}

impl Transaction {
    /// A transaction without conditions.
    pub fn new(operations: Vec<Operation>) -> Self {
        Self { conditions: Vec::new(), operations }
    }

    /// The transaction with one more condition.
    #[must_use]
    pub fn when(mut self, condition: Condition) -> Self {
        self.conditions.push(condition);
        self
    }
}

/// A transaction that was applied and is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The transaction's own revision; when it changed nothing, the revision that it was judged at.
    pub revision: Revision,
    /// What each operation found under its key, in the order of the operations.
    pub previous: Vec<Option<Arc<Entry>>>,
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Put,
    Delete,
}

/// One change of one key, as watchers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The revision of the transaction that made the change; its other events carry the same one.
    pub revision: Revision,
    pub key: Key,
    pub kind: EventKind,
    /// The entry after the change; `None` exactly when `kind` is `Delete`.
    pub entry: Option<Arc<Entry>>,
    /// The entry before the change.
    pub previous: Option<Arc<Entry>>,
}
