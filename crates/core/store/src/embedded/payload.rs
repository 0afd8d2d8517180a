//! What stands in a frame, for whoever reads it to check it: the key and revision at a byte, and the state that follows from frames,
//! some of which may be lost. Pure.

use crate::state::{Change, State};
use crate::types::{EventKind, Key, Revision};

use super::codec::Decoder;

/// What a byte belongs to, as far as that can be said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) revision: Option<Revision>,
    pub(crate) key: Option<Key>,
}

/// What a byte of a checkpoint's frame belongs to.
pub(crate) fn in_checkpoint(payload: &[u8], byte: usize) -> Place {
    let mut decoder = Decoder(payload);
    while let Ok(entry) = decoder.entry() {
        if payload.len() - decoder.0.len() > byte {
            return Place { revision: Some(entry.modified), key: Some(entry.key) };
        }
    }
    Place::default()
}

/// What a byte of a log's frame belongs to.
pub(crate) fn in_log(payload: &[u8], byte: usize) -> Place {
    let mut decoder = Decoder(payload);
    let mut place = Place::default();
    // The time of the group stands before its transactions.
    let Ok(_) = decoder.u64() else { return place };
    while let Ok((revision, count)) = decoder.transaction_head() {
        place = Place { revision: Some(revision), key: None };
        for _ in 0..count {
            let Ok(change) = decoder.change() else { return place };
            if payload.len() - decoder.0.len() > byte {
                let (Change::Put { key, .. } | Change::Delete { key }) = change;
                return Place { revision: Some(revision), key: Some(key) };
            }
        }
    }
    place
}

/// The state that follows from what was read.
#[derive(Default)]
pub(crate) struct Reading {
    pub(crate) state: State,
    /// Something before could not be read: what does not follow from the state may follow from that.
    lossy: bool,
}

impl Reading {
    pub(crate) fn start(&mut self, revision: Revision) {
        self.state = State::at(revision);
    }

    pub(crate) fn lose(&mut self) {
        self.lossy = true;
    }

    /// Takes up the entries of a checkpoint's frame.
    pub(crate) fn entries(&mut self, payload: &[u8]) -> Result<(), String> {
        let mut decoder = Decoder(payload);
        while !decoder.is_empty() {
            let entry = decoder.entry().map_err(|error| error.to_string())?;
            self.state.restore(entry);
        }
        Ok(())
    }

    /// Whether a log that starts from a revision follows.
    pub(crate) fn goes_on_from(&mut self, revision: Revision) -> Result<(), String> {
        let expected = std::mem::replace(&mut self.state.revision, revision);
        if revision == expected || self.lossy {
            return Ok(());
        }
        self.lossy = true;
        Err(format!("log starts at revision {revision}, {expected} was expected"))
    }

    /// Makes the changes of a log's frame.
    pub(crate) fn group(&mut self, payload: &[u8]) -> Result<(), (Place, String)> {
        let mut decoder = Decoder(payload);
        let malformed = |error: super::codec::Malformed| (Place::default(), error.to_string());
        decoder.u64().map_err(malformed)?;
        while !decoder.is_empty() {
            let (revision, changes) = decoder.transaction().map_err(malformed)?;
            let place = |key: Option<Key>| Place { revision: Some(revision), key };
            let expected = self.state.revision.next();
            self.state.revision = Revision(revision.0.saturating_sub(1));
            let events = self.state.apply(changes);
            if revision != expected && !self.lossy {
                self.lossy = true;
                return Err((place(None), format!("transaction {revision} stands where {expected} was expected")));
            }
            let absent = events.iter().find(|event| event.kind == EventKind::Delete && event.previous.is_none());
            if let Some(event) = absent.filter(|_| !self.lossy) {
                return Err((place(Some(event.key.clone())), "a key is deleted that is absent".into()));
            }
        }
        Ok(())
    }
}
