//! What a worker has not heard yet. Letters of one sort are joined, so that a busy worker is never behind by more than a few.

use std::sync::Arc;

use fram_machinery::Value;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::phase::Failure;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Letter {
    /// The pod as the API server has it now.
    Pod(Arc<Value>),
    /// The API server no longer has it.
    Removed,
    /// The kubelet ends it, within these seconds or those of the pod.
    Failed { failure: Failure, grace: Option<i64> },
    /// A ConfigMap or Secret that it refers to has changed.
    SourcesChanged,
    /// Something happened to its containers, or a probe has a new verdict.
    Runtime,
}

#[derive(Default)]
pub(crate) struct Mailbox {
    letters: Mutex<Vec<Letter>>,
    notify: Notify,
}

impl Mailbox {
    pub(crate) fn post(&self, letter: Letter) {
        let mut letters = self.letters.lock();
        match &letter {
            Letter::Pod(_) => letters.retain(|l| !matches!(l, Letter::Pod(_))),
            same => letters.retain(|l| l != same),
        }
        letters.push(letter);
        drop(letters);
        self.notify.notify_one();
    }

    pub(crate) fn take(&self) -> Vec<Letter> {
        std::mem::take(&mut self.letters.lock())
    }

    /// Returns when there may be letters. Safe to cancel.
    pub(crate) async fn wait(&self) {
        self.notify.notified().await;
    }
}
