//! The two ends of a watch: the `Watch` that a consumer reads, and the `Hub` that routes published events to the
//! watches that they concern. Buffers are bounded: a watch that falls behind is ended.

mod hub;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::error::StoreError;
use crate::types::{Event, Revision};

pub(crate) use hub::Hub;

/// What a watch yields.
#[derive(Clone, Debug)]
pub enum WatchItem {
    /// Changes in the order of their revisions; a transaction is never split over two batches.
    Events(Arc<[Event]>),
    /// Nothing matched up to and including this revision beyond what was yielded before. Comes after
    /// `ProgressRequester::request` only.
    Progress(Revision),
}

/// The reading end of a watch. Dropping it ends the watch.
pub struct Watch {
    queue: Arc<Queue>,
    source: Weak<dyn WatchSource>,
}

/// Which of a prefix's changes concern a watch: those of entries that have, or had, a text in one of their fields. What a field of a
/// value is, only who writes the values knows.
#[derive(Clone, Debug)]
pub struct Facet {
    /// Tells the text of a field from a value. Where it cannot tell, the change concerns everybody.
    pub read: fn(&[u8], usize) -> Option<&str>,
    pub field: usize,
    pub text: Box<str>,
}

impl Facet {
    pub(crate) fn concerns(&self, event: &Event) -> bool {
        Sides::of(event, self.read, self.field).is_none_or(|sides| sides.has(&self.text))
    }
}

/// The texts of one field before and after a change.
pub(crate) struct Sides<'a>(pub(crate) [Option<&'a str>; 2]);

impl<'a> Sides<'a> {
    /// None where the text of one side cannot be told.
    pub(crate) fn of(event: &'a Event, read: fn(&[u8], usize) -> Option<&str>, field: usize) -> Option<Self> {
        let mut texts = [None; 2];
        for (entry, text) in [&event.previous, &event.entry].into_iter().zip(&mut texts) {
            if let Some(entry) = entry {
                *text = Some(read(&entry.value, field)?);
            }
        }
        Some(Self(texts))
    }

    fn has(&self, text: &str) -> bool {
        self.0.contains(&Some(text))
    }
}

/// Where a watch comes from.
pub(crate) trait WatchSource: Send + Sync {
    /// Forgets a watch whose reader has gone.
    fn forget(&self, queue: &Arc<Queue>);
}

impl Watch {
    pub(crate) fn new(queue: Arc<Queue>, source: Weak<dyn WatchSource>) -> Self {
        Self { queue, source }
    }

    /// Waits for the next item. Dropping the future loses nothing. After an error every further call returns it again.
    pub async fn next(&mut self) -> Result<WatchItem, StoreError> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// `next` for callers that poll.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<WatchItem, StoreError>> {
        self.queue.poll(context)
    }

    /// A handle that asks the watch to report how far it has come.
    pub fn progress_requester(&self) -> ProgressRequester {
        ProgressRequester(Arc::clone(&self.queue))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(source) = self.source.upgrade() {
            source.forget(&self.queue);
        }
    }
}

/// Asks a watch for progress, from outside the task that reads it.
#[derive(Clone)]
pub struct ProgressRequester(Arc<Queue>);

impl ProgressRequester {
    /// Has the watch yield a `WatchItem::Progress`, at least at the store's revision at the time of this call, once
    /// everything before it was yielded. Requests that come together are answered together.
    pub fn request(&self) {
        let mut state = self.0.state.lock();
        state.progress_requested = true;
        state.wake();
    }
}

/// How much may wait in one watch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WatchLimits {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
}

/// Where published events wait for one consumer.
pub(crate) struct Queue {
    prefix: Box<str>,
    facet: Option<Facet>,
    /// The store's published revision, shared with the timeline. It is raised only after the events were pushed, so who
    /// reads it first and then finds the queue empty has seen everything up to it.
    published: Arc<AtomicU64>,
    state: Mutex<QueueState>,
}

#[derive(Default)]
struct QueueState {
    batches: VecDeque<Batch>,
    events: usize,
    bytes: usize,
    progress_requested: bool,
    ended: Option<StoreError>,
    waker: Option<Waker>,
}

/// A batch and what it counts against the limits.
struct Batch {
    items: Arc<[Event]>,
    events: usize,
    bytes: usize,
}

impl QueueState {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Queue {
    pub(crate) fn new(prefix: &str, facet: Option<Facet>, published: Arc<AtomicU64>) -> Self {
        Self { prefix: prefix.into(), facet, published, state: Mutex::default() }
    }

    /// Whether the watch has to hear of a change.
    pub(crate) fn concerns(&self, event: &Event) -> bool {
        event.key.starts_with(&*self.prefix) && self.facet.as_ref().is_none_or(|facet| facet.concerns(event))
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<Result<WatchItem, StoreError>> {
        let published = Revision(self.published.load(Ordering::Acquire));
        let mut state = self.state.lock();
        if let Some(batch) = state.batches.pop_front() {
            state.events -= batch.events;
            state.bytes -= batch.bytes;
            return Poll::Ready(Ok(WatchItem::Events(batch.items)));
        }
        if let Some(error) = &state.ended {
            return Poll::Ready(Err(error.clone()));
        }
        if std::mem::take(&mut state.progress_requested) {
            return Poll::Ready(Ok(WatchItem::Progress(published)));
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// Puts what happened before the watch was opened in front of everything. It is exempt from the limits: history
    /// holds it anyway.
    pub(crate) fn prepend(&self, items: Arc<[Event]>) {
        let mut state = self.state.lock();
        if state.ended.is_none() && !items.is_empty() {
            state.batches.push_front(Batch { items, events: 0, bytes: 0 });
        }
    }

    /// Adds a batch; false when the consumer is too far behind, and the watch ended. An empty queue takes any batch.
    fn push(&self, items: &Arc<[Event]>, limits: WatchLimits) -> bool {
        let (events, bytes) = (items.len(), items.iter().map(weight).sum());
        let mut state = self.state.lock();
        let full = state.events + events > limits.events || state.bytes + bytes > limits.bytes;
        if full && state.events > 0 {
            let buffered = state.events;
            *state =
                QueueState { ended: Some(StoreError::WatcherTooSlow { buffered }), waker: state.waker.take(), ..QueueState::default() };
            state.wake();
            return false;
        }
        state.events += events;
        state.bytes += bytes;
        state.batches.push_back(Batch { items: Arc::clone(items), events, bytes });
        state.wake();
        true
    }

    /// Ends the watch once its consumer has read what is there.
    fn end(&self, error: StoreError) {
        let mut state = self.state.lock();
        state.ended.get_or_insert(error);
        state.wake();
    }
}

/// The bytes that a waiting event may keep alive.
fn weight(event: &Event) -> usize {
    let value = |entry: &Option<Arc<crate::types::Entry>>| entry.as_ref().map_or(0, |entry| entry.value.len());
    value(&event.entry) + value(&event.previous)
}
