//! How recent a reader can rely on being: what the latest revision is, by word of a majority, and waiting until the feed is there.
//! Readers that come together share one question.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use crate::error::StoreError;
use crate::types::Revision;

use super::cluster::{Cluster, PUT};
use super::feed::{Asks, Keys, Progress};
use super::messages::{PutLease, put};

/// How long the events are waited for that a revision most likely belongs to, before progress is asked for: they are under way.
const EVENTS: Duration = Duration::from_millis(20);
/// The same where asking means a write: long, since a revision that is nobody's of ours is rare, and a machine may be busy.
const EVENTS_BEFORE_WRITE: Duration = Duration::from_secs(1);
/// The same where the last revision that was waited for was somebody else's.
const EVENTS_AMONG_OTHERS: Duration = Duration::from_millis(5);
/// Between two requests for progress.
const AGAIN: Duration = Duration::from_millis(250);
/// After how many requests without an answer the feed is sent to another member.
const HANGING: u32 = 6;

type Answer = Result<Revision, StoreError>;

#[derive(Default)]
struct Questions {
    /// Somebody is asking at present.
    asking: bool,
    waiting: Vec<oneshot::Sender<Answer>>,
}

pub(crate) struct Freshness {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) keys: Keys,
    pub(crate) progress: watch::Receiver<Progress>,
    pub(crate) asks: Arc<Asks>,
    tasks: TaskTracker,
    questions: Mutex<Questions>,
    /// Held by the one who writes the barrier.
    barrier: tokio::sync::Mutex<()>,
    /// Others than this store's servers write to etcd as well.
    among_others: AtomicBool,
}

impl Freshness {
    pub(crate) fn new(cluster: Arc<Cluster>, keys: Keys, progress: watch::Receiver<Progress>, asks: Arc<Asks>, tasks: TaskTracker) -> Self {
        Self {
            cluster,
            keys,
            progress,
            asks,
            tasks,
            questions: Mutex::default(),
            barrier: tokio::sync::Mutex::default(),
            among_others: AtomicBool::new(false),
        }
    }

    /// The revision of the latest transaction, as of some moment after the call began.
    pub(crate) async fn current(self: &Arc<Self>) -> Answer {
        let (answer, answered) = oneshot::channel();
        let begin = {
            let mut questions = self.questions.lock();
            questions.waiting.push(answer);
            !std::mem::replace(&mut questions.asking, true)
        };
        if begin {
            self.tasks.spawn(Arc::clone(self).ask());
        }
        answered.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Asks for as long as anybody waits. Who comes while a question is under way needs the next one.
    async fn ask(self: Arc<Self>) {
        loop {
            let waiting = {
                let mut questions = self.questions.lock();
                questions.asking = !questions.waiting.is_empty();
                std::mem::take(&mut questions.waiting)
            };
            if waiting.is_empty() {
                return;
            }
            let answer = self.cluster.revision(&self.keys.start).await;
            for asked in waiting {
                // Who does not wait any more needs no answer.
                let _ = asked.send(answer.clone());
            }
        }
    }

    /// Waits until the feed has reached a revision that etcd has reached.
    pub(crate) async fn reached(&self, revision: Revision) -> Result<(), StoreError> {
        let mut progress = self.progress.clone();
        let there = |progress: &Progress| progress.revision >= revision;
        let patience = match (self.among_others.load(Ordering::Relaxed), progress.borrow().ordered) {
            (true, _) => EVENTS_AMONG_OTHERS,
            (false, true) => EVENTS,
            (false, false) => EVENTS_BEFORE_WRITE,
        };
        if let Ok(done) = timeout(patience, progress.wait_for(there)).await {
            self.among_others.store(false, Ordering::Relaxed);
            return done.map(drop).map_err(|_| StoreError::Closed);
        }
        self.among_others.store(true, Ordering::Relaxed);
        // No event of ours comes where somebody else's transaction has the revision.
        let deadline = Instant::now() + self.cluster.patience;
        for request in 1.. {
            self.ask_for_progress().await;
            if let Ok(done) = timeout(AGAIN, progress.wait_for(there)).await {
                return done.map(drop).map_err(|_| StoreError::Closed);
            }
            if request % HANGING == 0 {
                self.asks.elsewhere.notify_one();
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        let trouble = progress.borrow().trouble.clone();
        Err(trouble.unwrap_or_else(|| StoreError::Unavailable { reason: format!("its watch has not reached revision {revision} in time") }))
    }

    /// Has the feed learn how far etcd is. Members whose answers may overtake events are not asked: a key is written in their place,
    /// whose event comes behind all others.
    async fn ask_for_progress(&self) {
        if self.progress.borrow().ordered {
            self.asks.progress.notify_one();
            return;
        }
        let Ok(_turn) = self.barrier.try_lock() else { return };
        if let Err(failure) = self.cluster.write(PUT, &put(self.keys.barrier.as_bytes(), b"", PutLease::Set(0))).await {
            tracing::debug!(?failure, "the barrier could not be written");
        }
    }
}
