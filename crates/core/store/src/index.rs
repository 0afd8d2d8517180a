//! Which entries have which text in a field: kept from when that is first asked for, so that who asks for few among many is not shown
//! all of them. An index belongs to the newest state; older ones are read through.

use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;

use imbl::OrdSet;

use crate::snapshot::Snapshot;
use crate::types::{Entry, Event, Key};
use crate::watch::{Facet, Sides};

/// Of more than this part of the entries all are read through, which costs less than to look up each.
const FEW: usize = 4;

/// The entries of one collection by the texts of one of their fields.
pub(crate) struct Index {
    /// What the keys of the collection start with.
    collection: Box<str>,
    field: usize,
    read: fn(&[u8], usize) -> Option<&str>,
    by_text: HashMap<Box<str>, OrdSet<Key>>,
    /// Those whose text cannot be told concern everybody.
    untold: OrdSet<Key>,
    /// How many entries there are.
    count: usize,
}

impl Index {
    /// An index of the entries that are there. Takes time in proportion to them.
    pub(crate) fn new(collection: &str, facet: &Facet, snapshot: &Snapshot) -> Self {
        let (by_text, untold) = (HashMap::new(), OrdSet::new());
        let mut index = Self { field: facet.field, read: facet.read, collection: collection.into(), by_text, untold, count: 0 };
        for entry in snapshot.prefix(collection) {
            index.insert(entry);
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
        let sides = Sides::of(event, self.read, self.field);
        if matches!(sides, Some(Sides([Some(before), Some(after)])) if before == after) {
            return;
        }
        event.previous.iter().for_each(|entry| self.remove(entry));
        event.entry.iter().for_each(|entry| self.insert(entry));
    }

    fn insert(&mut self, entry: &Entry) {
        let keys = match (self.read)(&entry.value, self.field) {
            None => &mut self.untold,
            Some(text) => {
                if !self.by_text.contains_key(text) {
                    self.by_text.insert(text.into(), OrdSet::new());
                }
                self.by_text.get_mut(text).unwrap_or(&mut self.untold)
            }
        };
        self.count += usize::from(keys.insert(entry.key.clone()).is_none());
    }

    fn remove(&mut self, entry: &Entry) {
        let text = (self.read)(&entry.value, self.field);
        let Some(keys) = text.map_or(Some(&mut self.untold), |text| self.by_text.get_mut(text)) else { return };
        self.count -= usize::from(keys.remove(&entry.key).is_some());
        if let Some(text) = text.filter(|_| keys.is_empty()) {
            self.by_text.remove(text);
        }
    }

    /// The entries with a text at the index's state, which `snapshot` shows; takes no time.
    pub(crate) fn select(&self, text: &str, snapshot: Snapshot) -> Selected {
        let having = self.by_text.get(text).cloned().unwrap_or_default();
        let keys = (having.len() <= self.count / FEW).then(|| (having, self.untold.clone()));
        Selected { snapshot, keys }
    }
}

/// A state, and which of its entries concern a facet. Holds no lock.
pub struct Selected {
    snapshot: Snapshot,
    /// Those that have the text and those that may have it; None where it is as well to look at all.
    keys: Option<(OrdSet<Key>, OrdSet<Key>)>,
}

impl Selected {
    /// The state in which they were selected.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The entries that concern the facet, of those whose keys start with `prefix`, in the order of the keys; others may be among them.
    pub fn entries<'a>(&'a self, prefix: &'a str) -> Box<dyn Iterator<Item = &'a Arc<Entry>> + Send + 'a> {
        let Some((having, untold)) = &self.keys else { return Box::new(self.snapshot.prefix(prefix)) };
        let within = |keys: &'a OrdSet<Key>| {
            keys.range::<_, str>((Bound::Included(prefix), Bound::Unbounded)).take_while(move |key| key.starts_with(prefix)).peekable()
        };
        let (mut having, mut untold) = (within(having), within(untold));
        let keys = std::iter::from_fn(move || match (having.peek(), untold.peek()) {
            (Some(one), Some(other)) if one > other => untold.next(),
            (Some(_), _) => having.next(),
            (None, _) => untold.next(),
        });
        Box::new(keys.filter_map(|key| self.snapshot.get(key)))
    }
}
