//! Which entries have which text in a field: kept from when that is first asked for, so that who asks for few among many is not shown
//! all of them. An index belongs to the newest state; older ones are read through.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use crate::snapshot::{Root, Snapshot};
use crate::types::{Entry, Event, Key};
use crate::watch::{Facet, Sides};

/// The entries of one collection by the texts of one of their fields.
pub(crate) struct Index {
    /// What the keys of the collection start with.
    collection: Box<str>,
    field: usize,
    read: fn(&[u8], usize) -> Option<&str>,
    by_text: HashMap<Box<str>, BTreeSet<Key>>,
    /// Those whose text cannot be told concern everybody.
    untold: BTreeSet<Key>,
}

impl Index {
    /// An index of the entries that are there. Takes time in proportion to them.
    pub(crate) fn new(collection: &str, facet: &Facet, snapshot: &Snapshot) -> Self {
        let (collection, by_text, untold) = (Box::from(collection), HashMap::new(), BTreeSet::new());
        let mut index = Self { field: facet.field, read: facet.read, collection, by_text, untold };
        for entry in snapshot.prefix(&index.collection.clone()) {
            index.insert((index.read)(&entry.value, index.field), &entry.key);
        }
        index
    }

    pub(crate) fn is_of(&self, collection: &str, facet: &Facet) -> bool {
        *self.collection == *collection && self.field == facet.field
    }

    /// Takes up what changed.
    pub(crate) fn note(&mut self, event: &Event) {
        if !event.key.starts_with(&*self.collection) {
            return;
        }
        let Some(Sides([before, after])) = Sides::of(event, self.read, self.field) else {
            if let Some(previous) = &event.previous {
                self.remove((self.read)(&previous.value, self.field), &event.key);
            }
            if let Some(entry) = &event.entry {
                self.insert((self.read)(&entry.value, self.field), &event.key);
            }
            return;
        };
        if before == after {
            return;
        }
        if before.is_some() {
            self.remove(before, &event.key);
        }
        if after.is_some() {
            self.insert(after, &event.key);
        }
    }

    fn insert(&mut self, text: Option<&str>, key: &Key) {
        let keys = match text {
            None => &mut self.untold,
            Some(text) if self.by_text.contains_key(text) => self.by_text.get_mut(text).unwrap_or(&mut self.untold),
            Some(text) => self.by_text.entry(text.into()).or_default(),
        };
        keys.insert(key.clone());
    }

    fn remove(&mut self, text: Option<&str>, key: &Key) {
        let Some(text) = text else {
            self.untold.remove(key);
            return;
        };
        let Some(keys) = self.by_text.get_mut(text) else { return };
        keys.remove(key);
        if keys.is_empty() {
            self.by_text.remove(text);
        }
    }

    /// The entries with a text whose keys start with `prefix`, and those that may have it, in the order of their keys.
    pub(crate) fn entries(&self, prefix: &str, text: &str, root: &Root) -> Vec<Arc<Entry>> {
        fn within<'a>(keys: &'a BTreeSet<Key>, prefix: &'a str) -> impl Iterator<Item = &'a Key> {
            keys.range::<str, _>((Bound::Included(prefix), Bound::Unbounded)).take_while(move |key| key.starts_with(prefix))
        }
        let having = self.by_text.get(text).into_iter().flat_map(|keys| within(keys, prefix));
        let mut keys: Vec<&Key> = having.chain(within(&self.untold, prefix)).collect();
        if !self.untold.is_empty() {
            keys.sort_unstable();
        }
        keys.into_iter().filter_map(|key| root.get(key).cloned()).collect()
    }
}
