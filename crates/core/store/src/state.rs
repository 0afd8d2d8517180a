//! The store's contents and the decision whether and how a transaction changes them. Pure: the same changes applied to
//! the same state give the same state, while serving and while recovering.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use imbl::OrdSet;

use crate::clock::UnixMillis;
use crate::error::StoreError;
use crate::snapshot::Root;
use crate::types::{Entry, Event, EventKind, Key, MAX_KEY_BYTES, MAX_OPERATIONS, Operation, Revision, Transaction};

/// A change that was decided on: what the log holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Put { key: Key, value: Bytes, expires: Option<UnixMillis> },
    Delete { key: Key },
}

/// What becomes of a transaction whose conditions hold.
pub(crate) struct Decision {
    pub(crate) changes: Vec<Change>,
    /// What each operation found.
    pub(crate) previous: Vec<Option<Arc<Entry>>>,
}

/// All entries at a revision. A clone costs nothing and is not affected by later changes.
#[derive(Clone)]
pub(crate) struct State {
    pub(crate) revision: Revision,
    pub(crate) root: Root,
    /// The keys that expire, soonest first.
    expiries: OrdSet<(UnixMillis, Key)>,
}

impl Default for State {
    fn default() -> Self {
        Self { revision: Revision::EMPTY, root: Root::new(), expiries: OrdSet::new() }
    }
}

impl State {
    /// A state without entries at a revision, for a checkpoint to be loaded into.
    pub(crate) fn at(revision: Revision) -> Self {
        Self { revision, ..Self::default() }
    }

    /// Judges the transaction and, if all its conditions hold, returns what it changes. A deletion of an absent
    /// key is no change.
    pub(crate) fn decide(&self, transaction: Transaction, now: UnixMillis) -> Result<Decision, StoreError> {
        for condition in transaction.conditions {
            let current = self.root.get(condition.key());
            if !condition.holds(current.map(AsRef::as_ref)) {
                return Err(StoreError::Conflict { current: current.cloned(), key: condition.key().clone() });
            }
        }
        let previous: Vec<_> = transaction.operations.iter().map(|operation| self.root.get(operation.key()).cloned()).collect();
        let changes = transaction.operations.into_iter().zip(&previous).filter_map(|(operation, previous)| match operation {
            Operation::Put { key, value, ttl } => Some(Change::Put { key, value, expires: ttl.map(|ttl| now.after(ttl)) }),
            Operation::Delete { key } => previous.as_ref().map(|_| Change::Delete { key }),
        });
        Ok(Decision { changes: changes.collect(), previous })
    }

    /// Makes the changes of the next transaction and returns their events.
    pub(crate) fn apply(&mut self, changes: Vec<Change>) -> Vec<Event> {
        self.revision = self.revision.next();
        changes.into_iter().map(|change| self.apply_one(change)).collect()
    }

    fn apply_one(&mut self, change: Change) -> Event {
        let revision = self.revision;
        let (key, kind, entry, previous) = match change {
            Change::Delete { key } => {
                let previous = self.root.remove(&key);
                (key, EventKind::Delete, None, previous)
            }
            Change::Put { key, value, expires } => {
                let (created, version) = self.root.get(&key).map_or((revision, 1), |entry| (entry.created, entry.version + 1));
                let entry = Arc::new(Entry { key: key.clone(), value, created, modified: revision, version, expires });
                let previous = self.root.insert(key.clone(), Arc::clone(&entry));
                (key, EventKind::Put, Some(entry), previous)
            }
        };
        if let Some(expires) = previous.as_ref().and_then(|entry| entry.expires) {
            self.expiries.remove(&(expires, key.clone()));
        }
        if let Some(expires) = entry.as_ref().and_then(|entry| entry.expires) {
            self.expiries.insert((expires, key.clone()));
        }
        Event { revision, key, kind, entry, previous }
    }

    /// Takes over an entry as it was, without history: how a checkpoint is loaded.
    pub(crate) fn restore(&mut self, entry: Entry) {
        if let Some(expires) = entry.expires {
            self.expiries.insert((expires, entry.key.clone()));
        }
        self.root.insert(entry.key.clone(), Arc::new(entry));
    }

    /// Puts an entry in the place of one that differs from it in the value alone.
    pub(crate) fn replace(&mut self, entry: Entry) {
        self.root.insert(entry.key.clone(), Arc::new(entry));
    }

    /// When the next key expires.
    pub(crate) fn next_expiry(&self) -> Option<UnixMillis> {
        self.expiries.get_min().map(|(expires, _)| *expires)
    }

    /// The keys that have expired, soonest first, at most `limit` of them.
    pub(crate) fn expired(&self, now: UnixMillis, limit: usize) -> Vec<Key> {
        self.expiries.iter().take_while(|(expires, _)| *expires <= now).take(limit).map(|(_, key)| key.clone()).collect()
    }
}

/// Checks what can be said of a transaction without looking at the state.
pub(crate) fn validate(transaction: &Transaction, limit: usize) -> Result<(), StoreError> {
    let operations = &transaction.operations;
    within("number of operations", operations.len(), MAX_OPERATIONS)?;
    within("number of conditions", transaction.conditions.len(), MAX_OPERATIONS)?;
    within("transaction", operations.iter().map(Operation::size).sum(), limit)?;
    let mut keys = HashSet::with_capacity(operations.len());
    for key in operations.iter().map(Operation::key) {
        within("key", key.len(), MAX_KEY_BYTES)?;
        if !keys.insert(key) {
            return Err(StoreError::DuplicateKey { key: key.clone() });
        }
    }
    Ok(())
}

fn within(what: &'static str, size: usize, limit: usize) -> Result<(), StoreError> {
    if size > limit { Err(StoreError::TooLarge { what, size, limit }) } else { Ok(()) }
}

/// How long nothing is done about expired keys after a failed write, so that a broken disk is not hammered.
pub(crate) const EXPIRY_BACKOFF: Duration = Duration::from_secs(1);
