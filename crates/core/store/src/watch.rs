//! The two ends of a watch: the `Watch` that a consumer reads, and the `Hub` that routes published events to the
//! watches whose prefix matches. Buffers are bounded: a watch that falls behind is ended.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::error::StoreError;
use crate::types::{Event, Revision};

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
    pub(crate) fn new(prefix: &str, published: Arc<AtomicU64>) -> Self {
        Self { prefix: prefix.into(), published, state: Mutex::default() }
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

/// All open watches of a store by prefix. An event costs one look-up per distinct length of prefix and the delivery to
/// the watches that match, however many others there are.
pub(crate) struct Hub {
    by_prefix: HashMap<Box<str>, Vec<Arc<Queue>>>,
    /// How many distinct prefixes there are of each length.
    lengths: BTreeMap<usize, usize>,
    limits: WatchLimits,
}

impl Hub {
    pub(crate) fn new(limits: WatchLimits) -> Self {
        Self { by_prefix: HashMap::new(), lengths: BTreeMap::new(), limits }
    }

    pub(crate) fn add(&mut self, queue: Arc<Queue>) {
        let queues = self.by_prefix.entry(queue.prefix.clone()).or_insert_with(|| {
            *self.lengths.entry(queue.prefix.len()).or_default() += 1;
            Vec::new()
        });
        queues.push(queue);
    }

    pub(crate) fn remove(&mut self, queue: &Arc<Queue>) {
        if let Some(queues) = self.by_prefix.get_mut(&queue.prefix) {
            queues.retain(|other| !Arc::ptr_eq(other, queue));
        }
        self.forget_if_empty(&queue.prefix);
    }

    /// Delivers the events of whole transactions, in order.
    pub(crate) fn publish(&mut self, events: &Arc<[Event]>) {
        for (prefix, indices) in self.route(events) {
            let batch = if indices.len() == events.len() {
                Arc::clone(events)
            } else {
                indices.into_iter().map(|index| events[index].clone()).collect()
            };
            if let Some(queues) = self.by_prefix.get_mut(&prefix) {
                queues.retain(|queue| queue.push(&batch, self.limits));
            }
            self.forget_if_empty(&prefix);
        }
    }

    /// Which events concern which prefixes.
    fn route(&self, events: &[Event]) -> HashMap<Box<str>, Vec<usize>> {
        let mut routes: HashMap<Box<str>, Vec<usize>> = HashMap::new();
        for (index, event) in events.iter().enumerate() {
            let lengths = self.lengths.keys().take_while(|length| **length <= event.key.len());
            for prefix in lengths.filter_map(|length| event.key.get(..*length)) {
                if let Some(indices) = routes.get_mut(prefix) {
                    indices.push(index);
                } else if let Some((prefix, _)) = self.by_prefix.get_key_value(prefix) {
                    routes.insert(prefix.clone(), vec![index]);
                }
            }
        }
        routes
    }

    /// Ends every watch.
    pub(crate) fn end(&mut self, error: &StoreError) {
        for queue in std::mem::take(&mut self.by_prefix).into_values().flatten() {
            queue.end(error.clone());
        }
        self.lengths.clear();
    }

    fn forget_if_empty(&mut self, prefix: &str) {
        if self.by_prefix.get(prefix).is_some_and(Vec::is_empty) {
            self.by_prefix.remove(prefix);
            if let Some(count) = self.lengths.get_mut(&prefix.len()) {
                *count -= 1;
                if *count == 0 {
                    self.lengths.remove(&prefix.len());
                }
            }
        }
    }
}
