//! The way from callers to the writer thread: commits gather here while the disk is busy, and the writer takes all of
//! them at once. The number of waiting commits is bounded by permits that callers wait for.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::error::StoreError;
use crate::types::{Committed, Transaction};

/// A commit that waits for its turn.
pub(crate) struct Request {
    pub(crate) transaction: Transaction,
    pub(crate) answer: oneshot::Sender<Result<Committed, StoreError>>,
    /// Held until the request is answered.
    pub(crate) _permit: OwnedSemaphorePermit,
}

/// What the writer has to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Commits, or a moment that was waited for.
    Work,
    /// Nothing more will come.
    Closed,
}

#[derive(Default)]
pub(crate) struct Inbox {
    state: Mutex<InboxState>,
    arrived: Condvar,
}

#[derive(Default)]
struct InboxState {
    requests: Vec<Request>,
    /// Something else than a request wants the writer's attention.
    nudged: bool,
    closed: bool,
}

impl Inbox {
    /// Adds a request; when the inbox is closed the request is dropped, which its caller sees.
    pub(crate) fn push(&self, request: Request) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        state.requests.push(request);
        drop(state);
        self.arrived.notify_one();
    }

    /// Has the writer look at the clock.
    pub(crate) fn nudge(&self) {
        self.state.lock().nudged = true;
        self.arrived.notify_one();
    }

    /// Takes no more requests. Those that are there are still worked on.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.arrived.notify_one();
    }

    /// Drops the requests that are there: the end of a writer that failed.
    pub(crate) fn abandon(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let abandoned = std::mem::take(&mut state.requests);
        drop(state);
        drop(abandoned);
    }

    /// Moves all requests into `requests`, which is empty; waits for one, a nudge, the end or `wait`.
    pub(crate) fn take(&self, requests: &mut Vec<Request>, wait: Option<Duration>) -> Turn {
        let mut state = self.state.lock();
        if state.requests.is_empty() && !state.nudged && !state.closed {
            match wait {
                Some(wait) => drop(self.arrived.wait_for(&mut state, wait)),
                None => self.arrived.wait(&mut state),
            }
        }
        state.nudged = false;
        std::mem::swap(&mut state.requests, requests);
        if requests.is_empty() && state.closed { Turn::Closed } else { Turn::Work }
    }
}
