//! What one reader of an informer has not seen yet: at most one change for each key, so that a slow reader costs no more
//! than the keys it is behind by, and never holds up another.

use std::collections::BTreeMap;
use std::sync::Arc;

use fram_machinery::{Value, meta};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// From what the reader last saw of an object to what it is now. At least one side is there.
#[derive(Debug, Clone, PartialEq)]
pub struct Delta {
    pub old: Option<Arc<Value>>,
    pub new: Option<Arc<Value>>,
}

impl Delta {
    /// The object as it is or, where it is gone, as it was.
    pub fn object(&self) -> &Value {
        self.new.as_deref().or(self.old.as_deref()).unwrap_or(&Value::Null)
    }

    /// `namespace/name`.
    pub fn key(&self) -> String {
        meta::key(self.object())
    }
}

/// The key of an object, and what became of what stood there.
pub(super) type Change = (Arc<str>, Delta);

#[derive(Default)]
struct Pending {
    deltas: BTreeMap<Arc<str>, Delta>,
    closed: bool,
}

#[derive(Default)]
pub(super) struct Subscriber {
    pending: Mutex<Pending>,
    wake: Notify,
}

impl Subscriber {
    /// Notes changes by their keys; changes that were not read yet become one with them.
    pub(super) fn note(&self, changes: &[Change]) {
        let mut pending = self.pending.lock();
        for (key, change) in changes {
            match pending.deltas.get_mut(key) {
                Some(delta) => {
                    delta.new.clone_from(&change.new);
                    if delta.old.is_none() && delta.new.is_none() {
                        // It came and went unseen.
                        pending.deltas.remove(key);
                    }
                }
                None => drop(pending.deltas.insert(key.clone(), change.clone())),
            }
        }
        drop(pending);
        self.wake.notify_one();
    }

    pub(super) fn close(&self) {
        self.pending.lock().closed = true;
        self.wake.notify_one();
    }
}

/// A reader of an informer's changes.
pub struct Subscription {
    subscriber: Arc<Subscriber>,
}

impl Subscription {
    pub(super) fn new(subscriber: Arc<Subscriber>) -> Self {
        Self { subscriber }
    }

    /// Everything that changed since the last call, each key once; waits for something to change. None when the informer
    /// has ended. Safe to cancel.
    pub async fn changed(&mut self) -> Option<Vec<Delta>> {
        loop {
            let woken = self.subscriber.wake.notified();
            {
                let mut pending = self.subscriber.pending.lock();
                if !pending.deltas.is_empty() {
                    return Some(std::mem::take(&mut pending.deltas).into_values().collect());
                }
                if pending.closed {
                    return None;
                }
            }
            woken.await;
        }
    }
}
