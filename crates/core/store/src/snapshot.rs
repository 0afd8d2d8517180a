//! A view of all keys at one revision. It is persistent: it holds no lock, never changes, and costs nothing to clone.

use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use imbl::OrdMap;

use crate::types::{Entry, Key, Revision};

/// All entries by key. Clones share their nodes.
pub(crate) type Root = OrdMap<Key, Arc<Entry>>;

/// All keys and their entries at one revision.
#[derive(Clone)]
pub struct Snapshot {
    revision: Revision,
    root: Root,
}

impl Snapshot {
    pub(crate) fn new(revision: Revision, root: Root) -> Self {
        Self { revision, root }
    }

    /// The revision that the snapshot shows.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The entry of a key.
    pub fn get(&self, key: &str) -> Option<&Arc<Entry>> {
        self.root.get(key)
    }

    /// The entries within a range of keys, in the order of the keys, from either end.
    pub fn range<'a>(&'a self, range: impl RangeBounds<str>) -> impl DoubleEndedIterator<Item = &'a Arc<Entry>> + 'a {
        let range = (range.start_bound(), range.end_bound());
        // The map panics on a range whose end lies before its start; to callers such a range is just empty.
        let entries = (!is_empty(&range)).then(|| self.root.range::<_, str>(range));
        entries.into_iter().flatten().map(|(_, entry)| entry)
    }

    /// The entries whose key starts with `prefix`, in the order of the keys.
    pub fn prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Arc<Entry>> + 'a {
        self.prefix_after(prefix, None)
    }

    /// The entries whose key starts with `prefix` and comes after `last`: the next page of a list.
    pub fn prefix_after<'a>(&'a self, prefix: &'a str, last: Option<&'a str>) -> impl Iterator<Item = &'a Arc<Entry>> + 'a {
        let start = match last {
            Some(last) if last >= prefix => Bound::Excluded(last),
            _ => Bound::Included(prefix),
        };
        self.root.range::<_, str>((start, Bound::Unbounded)).take_while(move |(key, _)| key.starts_with(prefix)).map(|(_, entry)| entry)
    }

    /// How many keys lie in a range; takes time in proportion to the answer.
    pub fn count(&self, range: impl RangeBounds<str>) -> usize {
        self.range(range).count()
    }

    /// How many keys there are in all.
    pub fn len(&self) -> usize {
        self.root.len()
    }

    /// Whether there is no key at all.
    pub fn is_empty(&self) -> bool {
        self.root.is_empty()
    }
}

fn is_empty(range: &(Bound<&str>, Bound<&str>)) -> bool {
    match range {
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (Bound::Included(start) | Bound::Excluded(start), Bound::Excluded(end)) | (Bound::Excluded(start), Bound::Included(end)) => {
            start >= end
        }
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
    }
}
