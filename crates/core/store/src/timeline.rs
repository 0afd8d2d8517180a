//! What readers see of a store: the current root, the history behind it and the open watches. It is fed with durable
//! transactions, by whichever engine, and never does I/O.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::UnixMillis;
use crate::error::StoreError;
use crate::index::{Index, Selected};
use crate::snapshot::{Root, Snapshot};
use crate::types::{Event, EventKind, Revision};
use crate::watch::{Facet, Hub, Queue, Watch, WatchLimits, WatchSource};

/// What an event costs in history besides the value that it superseded.
const EVENT_BYTES: usize = 160;

/// After how many events a root is kept, which bounds the work of reading at an old revision.
const EVENTS_PER_ROOT: usize = 16_384;

/// Into how many steps the history window is divided: the grain of its end.
const WINDOW_STEPS: u32 = 16;

/// How many indexes are kept: every change is noted in each.
const INDEXES: usize = 16;

/// How much history is kept: until either limit is passed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HistoryLimits {
    pub(crate) window: Duration,
    pub(crate) bytes: usize,
}

/// The readers' side of a store.
pub(crate) struct Timeline {
    /// The revision that readers see, readable without the lock.
    published: Arc<AtomicU64>,
    inner: Mutex<Inner>,
}

struct Inner {
    revision: Revision,
    root: Root,
    history: History,
    hub: Hub,
    indexes: Vec<Index>,
    closed: bool,
}

impl Timeline {
    /// A timeline without history.
    pub(crate) fn new(revision: Revision, root: Root, history: HistoryLimits, watches: WatchLimits) -> Self {
        let inner =
            Inner { revision, root, history: History::new(revision, history), hub: Hub::new(watches), indexes: Vec::new(), closed: false };
        Self { published: Arc::new(AtomicU64::new(revision.0)), inner: Mutex::new(inner) }
    }

    /// The revision that readers see.
    pub(crate) fn revision(&self) -> Revision {
        Revision(self.published.load(Ordering::Acquire))
    }

    /// Makes transactions visible. `events` are theirs, in order, `root` is what they lead to.
    pub(crate) fn publish(&self, revision: Revision, root: Root, events: Vec<Event>, now: UnixMillis) {
        let events: Arc<[Event]> = events.into();
        let mut inner = self.inner.lock();
        debug_assert!(revision >= inner.revision, "revisions only grow");
        debug_assert!(events.is_sorted_by_key(|event| event.revision), "events come in the order of their revisions");
        inner.revision = revision;
        // The old root is dropped after the lock is released: it may be the last to hold many nodes.
        let _old = std::mem::replace(&mut inner.root, root.clone());
        inner.hub.publish(&events);
        inner.indexes.iter_mut().for_each(|index| events.iter().for_each(|event| index.note(event)));
        let _forgotten = inner.history.push(revision, root, events, now);
        self.published.store(revision.0, Ordering::Release);
        drop(inner);
    }

    /// Goes on from another state, without the changes that lead there: all watches end, and history begins anew.
    pub(crate) fn reset(&self, revision: Revision, root: Root) {
        let mut inner = self.inner.lock();
        let former = std::mem::replace(&mut inner.revision, revision);
        let _old = std::mem::replace(&mut inner.root, root);
        let limits = inner.history.limits;
        let _forgotten = std::mem::replace(&mut inner.history, History::new(revision, limits));
        let _indexes = std::mem::take(&mut inner.indexes);
        inner.hub.end(&StoreError::Compacted { revision: former, oldest: revision });
        self.published.store(revision.0, Ordering::Release);
        drop(inner);
    }

    /// Forgets history that is older than the window, and says when to look again.
    pub(crate) fn trim(&self, now: UnixMillis) -> Option<UnixMillis> {
        let mut inner = self.inner.lock();
        let _forgotten = inner.history.trim(now);
        let next = inner.history.next_trim();
        drop(inner);
        next
    }

    pub(crate) fn compact(&self, to: Revision) -> Result<(), StoreError> {
        let mut inner = self.inner.lock();
        inner.check_open()?;
        inner.check_reached(to)?;
        let _forgotten = inner.history.compact(to);
        drop(inner);
        Ok(())
    }

    pub(crate) fn oldest(&self) -> Result<Revision, StoreError> {
        let inner = self.inner.lock();
        inner.check_open()?;
        Ok(inner.history.oldest)
    }

    pub(crate) fn snapshot(&self, at: Option<Revision>) -> Result<Snapshot, StoreError> {
        let inner = self.inner.lock();
        inner.check_open()?;
        let at = at.unwrap_or(inner.revision);
        if at == inner.revision {
            return Ok(Snapshot::new(at, inner.root.clone()));
        }
        inner.check_readable(at)?;
        let (root, undo) = inner.history.path_back_to(at, &inner.root);
        drop(inner);
        Ok(Snapshot::new(at, undone(root, &undo, at)))
    }

    /// The newest state, and which of its entries concern the facet. `collection` is what the keys of all entries start with that have
    /// the field.
    pub(crate) fn select(&self, collection: &str, facet: &Facet) -> Result<Selected, StoreError> {
        let mut made: Option<(Revision, Index)> = None;
        loop {
            let mut inner = self.inner.lock();
            inner.check_open()?;
            let snapshot = Snapshot::new(inner.revision, inner.root.clone());
            if let Some(place) = inner.indexes.iter().position(|index| index.is_of(collection, facet)) {
                // Those that nobody asks for come to stand in front.
                let index = inner.indexes.remove(place);
                let selected = index.select(&facet.text, snapshot);
                inner.indexes.push(index);
                return Ok(selected);
            }
            if let Some((revision, index)) = made.take() {
                let _forgotten = inner.take_up(revision, index);
                continue;
            }
            drop(inner);
            // Others go on meanwhile; what they change is taken up afterwards.
            made = Some((snapshot.revision(), Index::new(collection, facet, &snapshot)));
        }
    }

    pub(crate) fn watch(self: &Arc<Self>, prefix: &str, facet: Option<Facet>, after: Revision) -> Result<Watch, StoreError> {
        let queue = Arc::new(Queue::new(prefix, facet, Arc::clone(&self.published)));
        let mut inner = self.inner.lock();
        inner.check_open()?;
        inner.check_readable(after)?;
        let missed = inner.history.since(after);
        inner.hub.add(Arc::clone(&queue));
        drop(inner);
        // The queue belongs to nobody yet who could read the later events that arrive meanwhile.
        let missed = missed.iter().flat_map(|events| events.iter()).filter(|event| event.revision > after && queue.concerns(event));
        queue.prepend(missed.cloned().collect());
        let source: Weak<Self> = Arc::downgrade(self);
        Ok(Watch::new(queue, source))
    }

    /// Ends all watches and refuses new readers. Snapshots that were taken stay good.
    pub(crate) fn close(&self) {
        let mut inner = self.inner.lock();
        inner.closed = true;
        inner.hub.end(&StoreError::Closed);
    }
}

impl WatchSource for Timeline {
    fn forget(&self, queue: &Arc<Queue>) {
        self.inner.lock().hub.remove(queue);
    }
}

impl Inner {
    /// Goes on with an index of a revision, unless what changed since is forgotten. Gives one that is let go for it.
    fn take_up(&mut self, revision: Revision, mut index: Index) -> Option<Index> {
        if self.check_readable(revision).is_err() {
            return Some(index);
        }
        let since = self.history.since(revision);
        since.iter().flat_map(|events| events.iter()).filter(|event| event.revision > revision).for_each(|event| index.note(event));
        self.indexes.push(index);
        (self.indexes.len() > INDEXES).then(|| self.indexes.remove(0))
    }

    fn check_open(&self) -> Result<(), StoreError> {
        if self.closed { Err(StoreError::Closed) } else { Ok(()) }
    }

    fn check_reached(&self, revision: Revision) -> Result<(), StoreError> {
        if revision > self.revision { Err(StoreError::FutureRevision { revision, current: self.revision }) } else { Ok(()) }
    }

    fn check_readable(&self, revision: Revision) -> Result<(), StoreError> {
        self.check_reached(revision)?;
        let oldest = self.history.oldest;
        if revision < oldest { Err(StoreError::Compacted { revision, oldest }) } else { Ok(()) }
    }
}

/// Takes back the events after `at`, the latest first.
fn undone(mut root: Root, undo: &[Arc<[Event]>], at: Revision) -> Root {
    for event in undo.iter().rev().flat_map(|events| events.iter().rev()).filter(|event| event.revision > at) {
        match &event.previous {
            Some(previous) => root.insert(event.key.clone(), Arc::clone(previous)),
            None => root.remove(&event.key),
        };
    }
    root
}

/// The events of the recent past, oldest first. Older states are found by taking events back, so that history costs the
/// values that it alone holds and no copies of the tree.
struct History {
    limits: HistoryLimits,
    /// The oldest revision that can be read; the events after it are all here.
    oldest: Revision,
    groups: VecDeque<Group>,
    bytes: usize,
    /// Roots from time to time, to start taking back from.
    roots: VecDeque<(Revision, Root)>,
    events_since_root: usize,
}

/// Transactions that became durable together.
struct Group {
    last: Revision,
    time: UnixMillis,
    bytes: usize,
    events: Arc<[Event]>,
}

impl History {
    fn new(oldest: Revision, limits: HistoryLimits) -> Self {
        Self { limits, oldest, groups: VecDeque::new(), bytes: 0, roots: VecDeque::new(), events_since_root: 0 }
    }

    /// Adds a group; returns what was forgotten for it, for the caller to drop outside of its lock.
    fn push(&mut self, last: Revision, root: Root, events: Arc<[Event]>, time: UnixMillis) -> Forgotten {
        if !events.is_empty() {
            let bytes = events.iter().map(cost).sum();
            self.bytes += bytes;
            self.events_since_root += events.len();
            self.groups.push_back(Group { last, time, bytes, events });
            if self.events_since_root >= EVENTS_PER_ROOT {
                self.events_since_root = 0;
                self.roots.push_back((last, root));
            }
        }
        self.trim(time)
    }

    fn trim(&mut self, now: UnixMillis) -> Forgotten {
        let mut bytes = self.bytes;
        let mut oldest = self.oldest;
        for group in &self.groups {
            if bytes <= self.limits.bytes && group.time.after(self.limits.window) > now {
                break;
            }
            bytes -= group.bytes;
            oldest = group.last;
        }
        self.compact(oldest)
    }

    /// When the window next leaves something behind, rounded up so that a quiet store is seldom woken.
    fn next_trim(&self) -> Option<UnixMillis> {
        let first = self.groups.front()?;
        Some(first.time.after(self.limits.window).after(self.limits.window / WINDOW_STEPS))
    }

    fn compact(&mut self, to: Revision) -> Forgotten {
        let mut forgotten = Forgotten::default();
        self.oldest = self.oldest.max(to);
        while let Some(group) = self.groups.pop_front_if(|group| group.last <= to) {
            self.bytes -= group.bytes;
            forgotten.groups.push(group);
        }
        while let Some((_, root)) = self.roots.pop_front_if(|(revision, _)| *revision < to) {
            forgotten.roots.push(root);
        }
        forgotten
    }

    /// The groups that have events after `revision`; the first may begin before it.
    fn since(&self, revision: Revision) -> Vec<Arc<[Event]>> {
        let start = self.groups.partition_point(|group| group.last <= revision);
        self.groups.range(start..).map(|group| Arc::clone(&group.events)).collect()
    }

    /// The nearest root at or after `revision` and the groups that lead from there back to it.
    fn path_back_to(&self, revision: Revision, current: &Root) -> (Root, Vec<Arc<[Event]>>) {
        let mut undo = self.since(revision);
        let nearest = self.roots.partition_point(|(at, _)| *at < revision);
        let Some((at, root)) = self.roots.get(nearest) else { return (current.clone(), undo) };
        let start = self.groups.partition_point(|group| group.last <= revision);
        let end = self.groups.partition_point(|group| group.last <= *at);
        undo.truncate(end.saturating_sub(start));
        (root.clone(), undo)
    }
}

/// What history let go of. Dropping it may free much, so that is done outside of the lock.
#[derive(Default)]
struct Forgotten {
    groups: Vec<Group>,
    roots: Vec<Root>,
}

/// The bytes that history holds because of the event: the value that it superseded. The value of a deletion counts here
/// as well; a value that is still current does not.
fn cost(event: &Event) -> usize {
    debug_assert_eq!(event.kind == EventKind::Delete, event.entry.is_none());
    EVENT_BYTES + event.key.len() + event.previous.as_ref().map_or(0, |entry| entry.value.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Entry, Key};

    fn text(value: &[u8], _field: usize) -> Option<&str> {
        std::str::from_utf8(value).ok()
    }

    fn facet(field: usize) -> Facet {
        Facet { read: text, field, text: "x".into() }
    }

    fn timeline() -> Timeline {
        let history = HistoryLimits { window: Duration::from_secs(60), bytes: 1 << 20 };
        Timeline::new(Revision::EMPTY, Root::new(), history, WatchLimits { events: 100, bytes: 1 << 20 })
    }

    /// Puts, or deletes, a key.
    fn change(timeline: &Timeline, key: &str, value: Option<&str>) {
        let revision = timeline.revision().next();
        let mut root = timeline.snapshot(None).map(|_| timeline.inner.lock().root.clone()).unwrap_or_default();
        let key = Key::from(key);
        let previous = root.get(&key).cloned();
        let value = value.map(|value| value.as_bytes().to_vec().into());
        let entry = value.map(|value| {
            let key = key.clone();
            Arc::new(Entry { key, value, created: revision, modified: revision, version: 1, expires: None })
        });
        let kind = if entry.is_some() { EventKind::Put } else { EventKind::Delete };
        match &entry {
            Some(entry) => root.insert(key.clone(), entry.clone()),
            None => root.remove(&key),
        };
        timeline.publish(revision, root, vec![Event { revision, key, kind, entry, previous }], UnixMillis(0));
    }

    fn selected(timeline: &Timeline, field: usize) -> String {
        let selected = timeline.select("k", &facet(field)).unwrap_or_else(|error| panic!("{error}"));
        let keys = selected.entries("k").map(|entry| entry.key.to_string()).collect::<Vec<_>>();
        keys.join(" ")
    }

    #[test]
    fn what_changes_while_an_index_is_made_is_taken_up() {
        let timeline = timeline();
        for number in 0..20 {
            change(&timeline, &format!("k{number:02}"), Some("y"));
        }
        change(&timeline, "k00", Some("x"));
        change(&timeline, "k01", Some("x"));
        let snapshot = timeline.snapshot(None).unwrap_or_else(|error| panic!("{error}"));
        let index = Index::new("k", &facet(0), &snapshot);
        change(&timeline, "k02", Some("x"));
        change(&timeline, "k00", Some("y"));
        change(&timeline, "k01", None);
        assert!(timeline.inner.lock().take_up(snapshot.revision(), index).is_none());
        assert_eq!(selected(&timeline, 0), "k02");
        let forgotten = Index::new("k", &facet(0), &snapshot);
        timeline.compact(timeline.revision()).unwrap_or_else(|error| panic!("{error}"));
        assert!(timeline.inner.lock().take_up(snapshot.revision(), forgotten).is_some(), "what changed since is forgotten");
    }

    #[test]
    fn what_nobody_asks_for_any_more_is_let_go() {
        let timeline = timeline();
        change(&timeline, "k", Some("x"));
        for field in 0..2 * INDEXES {
            assert_eq!((selected(&timeline, field), selected(&timeline, 0)), ("k".into(), "k".into()));
        }
        let inner = timeline.inner.lock();
        assert!(inner.indexes.len() == INDEXES && inner.indexes.iter().any(|index| index.is_of("k", &facet(0))));
    }
}
