//! A group: the transactions that become durable with one flush, decided one after the other on a copy of the state.
//! Pure: the writer makes it durable, then publishes it, or throws it away.

use std::sync::Arc;

use crate::cipher::Cipher;
use crate::clock::UnixMillis;
use crate::error::StoreError;
use crate::state::{Change, State};
use crate::types::{Committed, Event, Transaction};

use super::codec::{write_transaction, write_u64};
use super::frame::{FRAME_HEADER, start_frame};

/// Transactions on their way to the disk.
pub(crate) struct Group {
    /// The state that the group leads to.
    pub(crate) state: State,
    pub(crate) events: Vec<Event>,
    pub(crate) now: UnixMillis,
    /// The frame that the log is to hold, not yet sealed.
    pub(crate) frame: Vec<u8>,
    cipher: Option<Arc<dyn Cipher>>,
}

impl Group {
    /// An empty group on top of `state`. `frame` is a buffer to reuse.
    pub(crate) fn new(state: State, now: UnixMillis, mut frame: Vec<u8>, cipher: Option<Arc<dyn Cipher>>) -> Self {
        start_frame(&mut frame);
        write_u64(&mut frame, now.0);
        Self { state, events: Vec::new(), now, frame, cipher }
    }

    /// Whether there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// The bytes that are to be written.
    pub(crate) fn size(&self) -> usize {
        self.frame.len() - FRAME_HEADER
    }

    /// Judges a transaction by the state that the group has so far, and takes it up.
    pub(crate) fn consider(&mut self, transaction: Transaction) -> Result<Committed, StoreError> {
        let decision = self.state.decide(transaction, self.now)?;
        let sealed = match &self.cipher {
            Some(cipher) => sealed(cipher.as_ref(), &decision.changes)?,
            None => None,
        };
        self.take_up(decision.changes, sealed);
        Ok(Committed { revision: self.state.revision, previous: decision.previous })
    }

    /// Deletes the keys that have expired, each in a transaction of its own.
    pub(crate) fn expire(&mut self, limit: usize) {
        for key in self.state.expired(self.now, limit) {
            self.take_up(vec![Change::Delete { key }], None);
        }
    }

    /// `sealed` is what is written in place of the changes.
    fn take_up(&mut self, changes: Vec<Change>, sealed: Option<Vec<Change>>) {
        if changes.is_empty() {
            return;
        }
        write_transaction(&mut self.frame, self.state.revision.next(), sealed.as_ref().unwrap_or(&changes));
        self.events.extend(self.state.apply(changes));
    }
}

/// The changes as they are to be on disk; None where that makes no difference.
fn sealed(cipher: &dyn Cipher, changes: &[Change]) -> Result<Option<Vec<Change>>, StoreError> {
    let mut out: Option<Vec<Change>> = None;
    for (index, change) in changes.iter().enumerate() {
        let Change::Put { key, value, expires } = change else { continue };
        let fail = |source| StoreError::Cipher { key: key.clone(), operation: "encrypt", source };
        if let Some(value) = cipher.seal(key, value).map_err(fail)? {
            let put = Change::Put { key: key.clone(), value: value.into(), expires: *expires };
            out.get_or_insert_with(|| changes.to_vec())[index] = put;
        }
    }
    Ok(out)
}
