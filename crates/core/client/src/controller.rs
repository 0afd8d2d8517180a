//! The reconciler harness: informers name the keys to look at, a queue joins and delays them, workers reconcile one key at a
//! time. What a key needs is the reconciler's part.

pub mod queue;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fram_machinery::Value;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::informer::{Delta, Informer};
use queue::Queue;

/// What a successful reconciliation asks for next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing until something changes.
    Done,
    /// Look again after this time; a change comes earlier.
    After(Duration),
}

/// What a controller has done since it started. `depth` is how many keys are ready now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub adds: u64,
    pub reconciles: u64,
    pub retries: u64,
    pub depth: u64,
    /// How long keys were ready before their turn.
    pub waits: Durations,
    /// How long reconciliations took.
    pub work: Durations,
    /// How long those under way have taken so far: all together, and the longest.
    pub unfinished: (Duration, Duration),
}

/// The upper bounds of the times that are told apart, in seconds; those of upstream's workqueues.
const BOUNDS: [f64; 12] = [1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1000.0];

/// How many took how long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Durations {
    sum: Duration,
    /// By bounds; the last has none.
    counts: [u64; BOUNDS.len() + 1],
}

impl Durations {
    fn note(&mut self, took: Duration) {
        self.sum += took;
        let seconds = took.as_secs_f64();
        self.counts[BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len())] += 1;
    }

    /// Their sum in seconds, how many there were, and how many within each bound but not the one before.
    pub fn told(&self) -> (f64, u64, Vec<(f64, u64)>) {
        let bounds = BOUNDS.into_iter().chain([f64::MAX]);
        (self.sum.as_secs_f64(), self.counts.iter().sum(), bounds.zip(self.counts).collect())
    }
}

/// The queues of the controllers of a process, by their names. Clones share it.
#[derive(Clone, Default)]
pub struct Queues {
    all: Arc<Mutex<BTreeMap<&'static str, Enqueuer>>>,
}

impl std::fmt::Debug for Queues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.all.lock().keys()).finish()
    }
}

impl Queues {
    /// Counts a controller too; in place of an earlier one of its name, whose term is over.
    pub fn add(&self, controller: &Controller) {
        self.all.lock().insert(controller.name, controller.enqueuer());
    }

    pub fn counts(&self) -> Vec<(&'static str, Counts)> {
        self.all.lock().iter().map(|(name, queue)| (*name, queue.counts())).collect()
    }
}

#[derive(Default)]
struct Counters {
    adds: AtomicU64,
    reconciles: AtomicU64,
    retries: AtomicU64,
    waits: Mutex<Durations>,
    work: Mutex<Durations>,
}

struct Inner {
    queue: Mutex<Queue>,
    wake: Notify,
    counters: Counters,
}

/// The way to a controller's queue from outside its informers. Clones share it.
#[derive(Clone)]
pub struct Enqueuer {
    inner: Arc<Inner>,
}

impl Enqueuer {
    /// Asks for a key to be reconciled; many requests before its turn are one.
    pub fn add(&self, key: impl Into<String>) {
        self.inner.counters.adds.fetch_add(1, Ordering::Relaxed);
        self.inner.queue.lock().add(key.into(), Instant::now());
        self.inner.wake.notify_one();
    }

    /// Asks for a key to be reconciled after a time; an earlier request wins.
    pub fn add_after(&self, key: impl Into<String>, delay: Duration) {
        self.inner.counters.adds.fetch_add(1, Ordering::Relaxed);
        self.inner.queue.lock().add_at(key.into(), Instant::now() + delay);
        self.inner.wake.notify_one();
    }

    pub fn counts(&self) -> Counts {
        let counters = &self.inner.counters;
        let (depth, unfinished) = {
            let (queue, now) = (self.inner.queue.lock(), Instant::now());
            (queue.ready() as u64, (queue.under_way(now).sum(), queue.under_way(now).max().unwrap_or_default()))
        };
        Counts {
            adds: counters.adds.load(Ordering::Relaxed),
            reconciles: counters.reconciles.load(Ordering::Relaxed),
            retries: counters.retries.load(Ordering::Relaxed),
            depth,
            waits: *counters.waits.lock(),
            work: *counters.work.lock(),
            unfinished,
        }
    }
}

type Mapper = Box<dyn Fn(&Delta) -> Vec<String> + Send + Sync>;

/// A controller before it runs.
pub struct Controller {
    name: &'static str,
    workers: usize,
    sources: Vec<(Informer, Mapper)>,
    needs: Vec<Informer>,
    enqueuer: Enqueuer,
}

impl Controller {
    /// A controller that reconciles at most `workers` keys at once.
    pub fn new(name: &'static str, workers: usize) -> Self {
        let inner = Inner { queue: Mutex::default(), wake: Notify::new(), counters: Counters::default() };
        Self { name, workers: workers.max(1), sources: Vec::new(), needs: Vec::new(), enqueuer: Enqueuer { inner: Arc::new(inner) } }
    }

    /// Reconciles the keys that `keys` gives for each object that appears, changes or goes; of a change it is asked for
    /// the object as it was and as it is.
    #[must_use]
    pub fn watches(self, informer: &Informer, keys: impl Fn(&Value) -> Vec<String> + Send + Sync + 'static) -> Self {
        self.watches_deltas(informer, move |delta| {
            let sides = [delta.old.as_deref(), delta.new.as_deref()];
            sides.into_iter().flatten().flat_map(&keys).collect()
        })
    }

    /// As `watches`, for keys that depend on what changed. The informer asks for them before it goes on; see `Informer::observe`.
    #[must_use]
    pub fn watches_deltas(mut self, informer: &Informer, keys: impl Fn(&Delta) -> Vec<String> + Send + Sync + 'static) -> Self {
        self.sources.push((informer.clone(), Box::new(keys)));
        self
    }

    /// Waits for the informer's first list too: reconciliations look at it, and its changes are no reason for any.
    #[must_use]
    pub fn needs(mut self, informer: &Informer) -> Self {
        self.needs.push(informer.clone());
        self
    }

    /// The objects of the informer by their own keys.
    #[must_use]
    pub fn owns(self, informer: &Informer) -> Self {
        self.watches_deltas(informer, |delta| vec![delta.key()])
    }

    pub fn enqueuer(&self) -> Enqueuer {
        self.enqueuer.clone()
    }

    /// Waits until every informer has its first list, then reconciles until `stop`; reconciliations under way then are
    /// dropped at their next await. A reconciliation that fails or panics is tried again with a growing delay.
    pub async fn run<R, F, E>(self, reconcile: R, stop: CancellationToken)
    where
        R: Fn(String) -> F,
        F: Future<Output = Result<Action, E>> + Send + 'static,
        E: Display + Send + 'static,
    {
        let Self { name, workers, sources, needs, enqueuer } = self;
        for informer in needs.iter().chain(sources.iter().map(|(informer, _)| informer)) {
            if stop.run_until_cancelled(informer.synced()).await.is_none() {
                return;
            }
        }
        let observe = |(informer, keys): (Informer, Mapper)| {
            let enqueuer = enqueuer.clone();
            informer.observe(move |delta| keys(delta).into_iter().for_each(|key| enqueuer.add(key)))
        };
        let _observations: Vec<_> = sources.into_iter().map(observe).collect();
        let mut loop_ = Loop { name, workers, inner: enqueuer.inner.clone(), running: JoinSet::new(), keys: Default::default() };
        stop.run_until_cancelled(loop_.turn(reconcile)).await;
    }
}

/// The one task that hands out keys. A reconciliation is a task of its own, so that a panic costs only that try.
struct Loop<E> {
    name: &'static str,
    workers: usize,
    inner: Arc<Inner>,
    running: JoinSet<Result<Action, E>>,
    keys: HashMap<tokio::task::Id, (String, Instant)>,
}

impl<E: Display + Send + 'static> Loop<E> {
    async fn turn<R, F>(&mut self, reconcile: R)
    where
        R: Fn(String) -> F,
        F: Future<Output = Result<Action, E>> + Send + 'static,
    {
        loop {
            let inner = self.inner.clone();
            let woken = inner.wake.notified();
            inner.queue.lock().advance(Instant::now());
            while self.running.len() < self.workers {
                let Some((key, waited)) = inner.queue.lock().take(Instant::now()) else { break };
                inner.counters.waits.lock().note(waited);
                inner.counters.reconciles.fetch_add(1, Ordering::Relaxed);
                let id = self.running.spawn(reconcile(key.clone())).id();
                self.keys.insert(id, (key, Instant::now()));
            }
            let due = inner.queue.lock().next_due();
            tokio::select! {
                () = woken => {}
                Some(ended) = self.running.join_next_with_id() => self.ended(ended),
                () = sleep_until(due) => {}
            }
        }
    }

    fn ended(&mut self, ended: Result<(tokio::task::Id, Result<Action, E>), tokio::task::JoinError>) {
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let Some((key, since)) = self.keys.remove(&id) else { return };
        self.inner.counters.work.lock().note(since.elapsed());
        let mut queue = self.inner.queue.lock();
        let now = Instant::now();
        match ended {
            Ok((_, Ok(Action::Done))) => queue.done(&key),
            Ok((_, Ok(Action::After(delay)))) => queue.done_until(&key, now + delay),
            Ok((_, Err(error))) => {
                let delay = queue.failed(&key, now);
                self.inner.counters.retries.fetch_add(1, Ordering::Relaxed);
                tracing::info!(controller = self.name, key, %error, ?delay, "reconciliation failed, will be tried again");
            }
            Err(error) => {
                let delay = queue.failed(&key, now);
                self.inner.counters.retries.fetch_add(1, Ordering::Relaxed);
                tracing::error!(controller = self.name, key, %error, ?delay, "reconciliation panicked, will be tried again");
            }
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
