//! What readers see of a store: the current root, the history behind it and the open watches. It is fed with durable
//! transactions, by whichever engine, and never does I/O.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::UnixMillis;
use crate::error::StoreError;
use crate::index::Index;
use crate::snapshot::{Root, Snapshot};
use crate::types::{Entry, Event, EventKind, Revision};
use crate::watch::{Facet, Hub, Queue, Watch, WatchLimits, WatchSource};

/// What an event costs in history besides the value that it superseded.
const EVENT_BYTES: usize = 160;

/// After how many events a root is kept, which bounds the work of reading at an old revision.
const EVENTS_PER_ROOT: usize = 16_384;

/// Into how many steps the history window is divided: the grain of its end.
const WINDOW_STEPS: u32 = 16;

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

    /// The newest state, and its entries that start with `prefix` and concern the facet, in the order of their keys; others may be among
    /// them. `collection` is what the keys of all entries start with that have the field.
    pub(crate) fn select(&self, collection: &str, prefix: &str, facet: &Facet) -> Result<(Snapshot, Vec<Arc<Entry>>), StoreError> {
        let mut made: Option<(Revision, Index)> = None;
        loop {
            let mut inner = self.inner.lock();
            inner.check_open()?;
            let snapshot = Snapshot::new(inner.revision, inner.root.clone());
            if let Some(index) = inner.indexes.iter().find(|index| index.is_of(collection, facet)) {
                let entries = index.entries(prefix, &facet.text, &inner.root);
                return Ok((snapshot, entries));
            }
            if let Some((revision, index)) = made.take() {
                inner.take_up(revision, index);
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
    /// Goes on with an index of a revision, unless what changed since is forgotten.
    fn take_up(&mut self, revision: Revision, mut index: Index) {
        if self.check_readable(revision).is_ok() {
            let since = self.history.since(revision);
            since.iter().flat_map(|events| events.iter()).filter(|event| event.revision > revision).for_each(|event| index.note(event));
            self.indexes.push(index);
        }
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
