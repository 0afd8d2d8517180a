//! What etcd holds as the store's entries: from its key-values and events to ours. Pure but for the cipher, which may ask somebody.

use std::sync::Arc;

use crate::cipher::{Cipher, Opened};
use crate::error::StoreError;
use crate::snapshot::Root;
use crate::types::{Entry, Event, EventKind, Key, Revision};

use super::cluster::Shift;
use super::leases;
use super::messages::{KeyValue, Observed};

/// A change that was observed, in clear.
#[derive(Debug)]
pub(crate) enum Change {
    Put(Entry),
    Delete(Key, Revision),
}

/// Opens values, on threads that may block where there is a cipher, and calls their revisions what the store calls them.
#[derive(Clone)]
pub(crate) struct Opener(pub(crate) Option<Arc<dyn Cipher>>, pub(crate) Shift);

/// Key-values as entries; those whose keys are not text are nobody's of Fram.
pub(crate) struct Entries {
    pub(crate) entries: Vec<Entry>,
    /// The cipher would write some of them otherwise now.
    pub(crate) stale: bool,
}

impl Opener {
    pub(crate) async fn entries(&self, kvs: Vec<KeyValue>) -> Result<Entries, StoreError> {
        self.apart(move |opener| opener.open_all(kvs)).await
    }

    pub(crate) async fn changes(&self, events: Vec<Observed>) -> Result<Vec<Change>, StoreError> {
        self.apart(move |opener| events.into_iter().filter_map(|event| opener.change(event).transpose()).collect()).await
    }

    /// Does work where it may block, if it may.
    async fn apart<T: Send + 'static>(&self, work: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static) -> Result<T, StoreError> {
        if self.0.is_none() {
            return work(self);
        }
        let opener = self.clone();
        // A panic there is told by the runtime; the threads end with the process.
        tokio::task::spawn_blocking(move || work(&opener)).await.unwrap_or(Err(StoreError::Closed))
    }

    fn open_all(&self, kvs: Vec<KeyValue>) -> Result<Entries, StoreError> {
        let mut out = Entries { entries: Vec::with_capacity(kvs.len()), stale: false };
        for kv in kvs {
            if let Some((entry, stale)) = self.entry(kv)? {
                out.entries.push(entry);
                out.stale |= stale;
            }
        }
        Ok(out)
    }

    fn change(&self, event: Observed) -> Result<Option<Change>, StoreError> {
        if event.deleted {
            let revision = self.1.told(event.kv.modified);
            return Ok(text(event.kv.key).map(|key| Change::Delete(key, revision)));
        }
        Ok(self.entry(event.kv)?.map(|(entry, _)| Change::Put(entry)))
    }

    fn entry(&self, kv: KeyValue) -> Result<Option<(Entry, bool)>, StoreError> {
        let Some(key) = text(kv.key) else { return Ok(None) };
        let opened = match &self.0 {
            Some(cipher) => {
                let opened = cipher.open(&key, &kv.value);
                opened.map_err(|source| StoreError::Cipher { key: key.clone(), operation: "decrypt", source })?
            }
            None => Opened::default(),
        };
        let entry = Entry {
            key,
            value: opened.value.map_or(kv.value, Into::into),
            created: self.1.told(kv.created),
            modified: self.1.told(kv.modified),
            version: kv.version,
            expires: leases::expiry(kv.lease),
        };
        Ok(Some((entry, opened.stale)))
    }
}

fn text(key: Vec<u8>) -> Option<Key> {
    String::from_utf8(key).ok().map(Key::from)
}

/// Makes the changes that come after a revision, and gives their events. Deletions of what is not there were seen before.
pub(crate) fn apply(root: &mut Root, after: Revision, changes: Vec<Change>) -> Vec<Event> {
    let mut events = Vec::with_capacity(changes.len());
    for change in changes {
        match change {
            Change::Put(entry) if entry.modified > after => {
                let (key, revision, entry) = (entry.key.clone(), entry.modified, Arc::new(entry));
                let previous = root.insert(key.clone(), Arc::clone(&entry));
                events.push(Event { revision, key, kind: EventKind::Put, entry: Some(entry), previous });
            }
            Change::Delete(key, revision) if revision > after => {
                if let Some(previous) = root.remove(&key) {
                    events.push(Event { revision, key, kind: EventKind::Delete, entry: None, previous: Some(previous) });
                }
            }
            Change::Put(_) | Change::Delete(..) => {}
        }
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, revision: u64) -> Change {
        let (key, modified) = (Key::from(key), Revision(revision));
        Change::Put(Entry { key, value: "x".into(), created: modified, modified, version: 1, expires: None })
    }

    #[test]
    fn changes_that_were_seen_before_are_left_out() {
        let mut root = Root::new();
        let first = apply(&mut root, Revision(1), vec![put("a", 2), put("b", 2), Change::Delete("a".into(), Revision(3))]);
        assert_eq!(first.len(), 3);
        let again = vec![put("a", 2), Change::Delete("a".into(), Revision(3)), Change::Delete("none".into(), Revision(4)), put("b", 4)];
        let events = apply(&mut root, Revision(3), again);
        assert_eq!(events.iter().map(|e| (e.key.as_str(), e.revision.0, e.previous.is_some())).collect::<Vec<_>>(), [("b", 4, true)]);
    }

    #[tokio::test]
    async fn keys_that_are_not_text_are_left_out() {
        let kv = |key: &[u8]| KeyValue { key: key.to_vec(), ..KeyValue::default() };
        let entries = Opener(None, Shift::default()).entries(vec![kv(b"a"), kv(b"\xff")]).await.unwrap().entries;
        assert_eq!(entries.iter().map(|e| e.key.as_str()).collect::<Vec<_>>(), ["a"]);
    }
}
