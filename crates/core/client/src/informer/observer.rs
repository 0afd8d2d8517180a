//! A reader of an informer that is told of changes by the informer itself, so that a change that does not concern it costs a look and
//! no entry in a queue.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::Delta;
use crate::resources::Resource;

type Tell = Box<dyn FnMut(&Delta) + Send>;

pub(super) struct Observer {
    resource: Resource,
    tell: Mutex<Tell>,
}

impl Observer {
    pub(super) fn new(resource: Resource, tell: impl FnMut(&Delta) + Send + 'static) -> Self {
        Self { resource, tell: Mutex::new(Box::new(tell)) }
    }

    /// Nobody else tells this observer anything until what is returned is dropped.
    pub(super) fn begin(&self) -> Telling<'_> {
        Telling { resource: &self.resource, tell: self.tell.lock() }
    }

    pub(super) fn tell<'a>(&self, deltas: impl Iterator<Item = &'a Delta>) {
        let mut telling = self.begin();
        deltas.for_each(|delta| telling.tell(delta));
    }

    /// Whether only the informer holds it.
    pub(super) fn has_ended(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) == 1
    }
}

pub(super) struct Telling<'a> {
    resource: &'a Resource,
    tell: MutexGuard<'a, Tell>,
}

impl Telling<'_> {
    /// A reader that panics misses that change; the informer and its other readers go on.
    pub(super) fn tell(&mut self, delta: &Delta) {
        let tell = &mut *self.tell;
        if catch_unwind(AssertUnwindSafe(|| tell(delta))).is_err() {
            tracing::error!(resource = %self.resource, key = delta.key(), "a reader of a change panicked");
        }
    }
}

/// Ends when it is dropped.
#[must_use = "an observation ends when it is dropped"]
pub struct Observation {
    _observer: Arc<Observer>,
}

impl Observation {
    pub(super) fn new(observer: Arc<Observer>) -> Self {
        Self { _observer: observer }
    }
}
