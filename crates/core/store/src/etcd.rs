//! The engine on etcd: transactions are etcd's own, with its revisions, so that several servers agree; reads and watches are served
//! from memory, which one watch of etcd feeds. Keys stand in etcd as they are, values as the cipher has them.

mod cluster;
mod compactor;
mod contents;
mod copy;
mod endpoint;
mod feed;
mod freshness;
mod leases;
mod messages;
mod rewrite;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cipher::Cipher;
use crate::clock::{Clock, SystemClock};
use crate::error::StoreError;
use crate::index::Selected;
use crate::snapshot::Snapshot;
use crate::state::validate;
use crate::store::Store;
use crate::timeline::{HistoryLimits, Timeline};
use crate::types::{Committed, Condition, Entry, Operation, Revision, Transaction};
use crate::watch::{Facet, Watch, WatchLimits};

use cluster::{Cluster, STATUS, TXN, malformed};
use contents::Opener;
pub use endpoint::Tls;
use feed::{Asks, Feed, Keys, Progress};
use freshness::Freshness;
use leases::Leases;
use messages::{KeyValue, PutLease, Step, Txn, compare, delete, get, put, size_of, txn};

/// How a store on etcd is opened.
#[derive(Clone)]
pub struct EtcdOptions {
    /// The members: `https://host:port` or `http://host:port`.
    pub servers: Vec<String>,
    pub tls: Option<Tls>,
    /// What all keys of the store start with; etcd may hold others' keys beside them.
    pub prefix: String,
    /// The clock of history and of expiry as it is told; keys expire by etcd's own.
    pub clock: Arc<dyn Clock>,
    /// How much history each server keeps in memory: so long, and so many bytes.
    pub history_window: Duration,
    pub history_bytes: usize,
    /// How many events, and bytes in events, may wait in a watch before it is ended.
    pub watch_events: usize,
    pub watch_bytes: usize,
    /// The largest transaction, in bytes of keys and values; etcd has a limit of its own, --max-request-bytes.
    pub transaction_bytes: usize,
    /// How often etcd is compacted to where it was at the time before; never where it is None.
    pub compaction_interval: Option<Duration>,
    /// How long a call goes from member to member before it fails; the store's opening takes twice as long.
    pub patience: Duration,
    /// How values look in etcd; as they are, where it is None.
    pub cipher: Option<Arc<dyn Cipher>>,
}

impl EtcdOptions {
    /// The defaults for these members, as kube-apiserver has them.
    pub fn new(servers: Vec<String>, prefix: &str) -> Self {
        Self {
            servers,
            tls: None,
            prefix: prefix.into(),
            clock: Arc::new(SystemClock),
            history_window: Duration::from_secs(300),
            history_bytes: 32 << 20,
            watch_events: 16_384,
            watch_bytes: 64 << 20,
            transaction_bytes: 3 << 19,
            compaction_interval: Some(Duration::from_secs(300)),
            patience: Duration::from_secs(10),
            cipher: None,
        }
    }

    fn timeline(&self, loaded: &feed::Loaded) -> Timeline {
        let history = HistoryLimits { window: self.history_window, bytes: self.history_bytes };
        let watches = WatchLimits { events: self.watch_events, bytes: self.watch_bytes };
        Timeline::new(loaded.revision, loaded.root.clone(), history, watches)
    }
}

/// A store on etcd. Dropping it ends its tasks.
pub struct Etcd {
    cluster: Arc<Cluster>,
    keys: Keys,
    timeline: Arc<Timeline>,
    freshness: Arc<Freshness>,
    leases: Leases,
    opener: Opener,
    clock: Arc<dyn Clock>,
    transaction_bytes: usize,
    rewrite: Arc<Notify>,
    asks: Arc<Asks>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Etcd {
    /// Reads what etcd holds and begins to follow it. Has to be called in a tokio runtime, which does the store's work.
    pub async fn open(options: EtcdOptions) -> Result<Self, StoreError> {
        Self::opened(options, false).await
    }

    /// Only who copies a store into etcd opens it before the copy is whole.
    async fn opened(options: EtcdOptions, for_a_copy: bool) -> Result<Self, StoreError> {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let cluster = Arc::new(Cluster::new(&options.servers, options.tls.as_ref(), options.patience, tasks.clone())?);
        let keys = Keys::of(&options.prefix);
        let shift = patiently(options.patience * 2, || cluster.learn_shift(&keys.shift)).await?;
        if !for_a_copy && copy::is_unfinished(&cluster, &keys).await? {
            return Err(StoreError::Options("a copy into this etcd has not come to its end: it has to be made again".into()));
        }
        let opener = Opener(options.cipher.clone(), shift);
        let loading = patiently(options.patience * 2, || feed::load(&cluster, &keys, &opener));
        let loaded = loading.await?;
        let timeline = Arc::new(options.timeline(&loaded));
        let progress = watch::Sender::new(Progress { revision: loaded.revision, ordered: false, trouble: None });
        let (asks, rewrite) = (Arc::<Asks>::default(), Arc::<Notify>::default());
        let freshness = Arc::new(Freshness::new(cluster.clone(), keys.clone(), progress.subscribe(), asks.clone(), tasks.clone()));
        let feed = Feed {
            cluster: cluster.clone(),
            keys: keys.clone(),
            opener: opener.clone(),
            clock: options.clock.clone(),
            timeline: timeline.clone(),
            progress,
            asks: asks.clone(),
            root: loaded.root,
            revision: loaded.revision,
        };
        tasks.spawn(feed.run(stop.clone()));
        tasks.spawn(trim(timeline.clone(), options.clock.clone(), stop.clone()));
        if let Some(interval) = options.compaction_interval {
            tasks.spawn(compactor::run(cluster.clone(), keys.barrier.clone(), interval, stop.clone()));
        }
        if let Some(cipher) = options.cipher {
            // A copy is written with the present keys anyway, and what says that it goes on stays as it is.
            if loaded.stale && !for_a_copy {
                rewrite.notify_one();
            }
            tasks.spawn(rewrite_when_asked(cluster.clone(), keys.clone(), cipher, rewrite.clone(), stop.clone()));
        }
        let (clock, transaction_bytes) = (options.clock, options.transaction_bytes);
        let store = Self {
            cluster,
            keys,
            timeline,
            freshness,
            leases: Leases::default(),
            opener,
            clock,
            transaction_bytes,
            rewrite,
            asks,
            stop,
            tasks,
        };
        // What was read is a while old, so that history reaches back.
        store.revision().await?;
        Ok(store)
    }

    /// Writes all values anew that the cipher would write otherwise now, beside what goes on. The store does the same by itself
    /// when it finds such values at its start.
    pub fn rewrite(&self) {
        let sealed = |cipher: &dyn Cipher, root: Snapshot| root.prefix("").any(|entry| cipher.is_sealed(&entry.value));
        if let (Some(cipher), Ok(root)) = (&self.opener.0, self.timeline.snapshot(None))
            && sealed(cipher.as_ref(), root)
        {
            self.asks.anew.notify_one();
        }
        self.rewrite.notify_one();
    }

    /// Fails with why etcd is not followed at present: then readers who want to be sure to see the latest have to wait.
    pub fn health(&self) -> Result<(), StoreError> {
        self.check_open()?;
        self.freshness.progress.borrow().trouble.clone().map_or(Ok(()), Err)
    }

    fn check_open(&self) -> Result<(), StoreError> {
        self.timeline.oldest().map(drop)
    }

    /// The latest revision, which readers of this store see from here on.
    async fn fresh(&self) -> Result<Revision, StoreError> {
        self.check_open()?;
        let current = self.freshness.current().await?;
        self.freshness.reached(current).await?;
        Ok(current)
    }

    /// Waits for a revision that another server may have been told of already.
    async fn known(&self, revision: Revision) -> Result<(), StoreError> {
        if revision <= self.timeline.revision() {
            return Ok(());
        }
        let current = self.freshness.current().await?;
        if revision > current {
            return Err(StoreError::FutureRevision { revision, current });
        }
        self.freshness.reached(revision).await
    }

    /// The operations as etcd has them, and the leases that they use.
    async fn steps(&self, operations: &[Operation]) -> Result<(Vec<Step>, Vec<u64>), StoreError> {
        let (mut steps, mut leases) = (Vec::with_capacity(operations.len()), Vec::new());
        let mut known: Option<(Duration, u64)> = None;
        for operation in operations {
            steps.push(match operation {
                Operation::Delete { key } => Step::Delete(delete(key.as_bytes())),
                Operation::Put { key, value, ttl } => {
                    let lease = match (*ttl, known) {
                        (None, _) => 0,
                        (Some(ttl), Some((same, lease))) if ttl == same => lease,
                        (Some(ttl), _) => {
                            let lease = self.leases.get(&self.cluster, ttl, self.clock.now()).await?;
                            known = Some((ttl, lease));
                            leases.push(lease);
                            lease
                        }
                    };
                    let sealed = match &self.opener.0 {
                        Some(cipher) => {
                            let sealed = cipher.seal(key, value);
                            sealed.map_err(|source| StoreError::Cipher { key: key.clone(), operation: "encrypt", source })?
                        }
                        None => None,
                    };
                    Step::Put(put(key.as_bytes(), sealed.as_deref().unwrap_or(value), PutLease::Set(lease)))
                }
            });
        }
        Ok((steps, leases))
    }

    /// Commits once more where a lease ended before it was used.
    async fn send(&self, transaction: &Transaction) -> Result<Txn, StoreError> {
        let compares: Vec<_> = transaction.conditions.iter().map(|condition| compare(condition, self.cluster.shift())).collect();
        let reads: Vec<_> = transaction.conditions.iter().map(|condition| Step::Get(get(condition.key().as_bytes()))).collect();
        let mut is_second = false;
        loop {
            let (steps, leases) = self.steps(&transaction.operations).await?;
            let request = txn(&compares, &steps, &reads);
            match self.cluster.write(TXN, &request).await {
                Ok(answer) => {
                    let unread = |_| StoreError::OutcomeUnknown { reason: "its answer is malformed".into() };
                    return Txn::read(&answer).map_err(unread);
                }
                Err(failure) if failure.is_lease_gone() && !is_second => {
                    self.leases.forget(&leases).await;
                    is_second = true;
                }
                Err(failure) if failure.is_too_large() => {
                    return Err(StoreError::TooLarge { what: "request to etcd", size: request.0.len(), limit: self.transaction_bytes });
                }
                Err(failure) => return Err(failure.into()),
            }
        }
    }

    /// What was found under keys, in clear.
    async fn found(&self, found: Vec<Option<KeyValue>>) -> Result<Vec<Option<Arc<Entry>>>, StoreError> {
        let there: Vec<bool> = found.iter().map(Option::is_some).collect();
        let opened = self.opener.entries(found.into_iter().flatten().collect()).await?;
        let mut opened = opened.entries.into_iter().map(Arc::new);
        Ok(there.into_iter().map(|there| if there { opened.next() } else { None }).collect())
    }
}

#[async_trait]
impl Store for Etcd {
    async fn commit(&self, transaction: Transaction) -> Result<Committed, StoreError> {
        validate(&transaction, self.transaction_bytes)?;
        self.check_open()?;
        let mut keys = transaction.operations.iter().map(Operation::key).chain(transaction.conditions.iter().map(Condition::key));
        if let Some(key) = keys.find(|key| !self.keys.hold(key)) {
            return Err(StoreError::Options(format!("{key} is no key of this store")));
        }
        let answer = self.send(&transaction).await?;
        if !answer.succeeded {
            let found = self.found(answer.found).await?;
            let failed = transaction.conditions.iter().zip(found).find(|(condition, found)| !condition.holds(found.as_deref()));
            return Err(match failed {
                Some((condition, current)) => StoreError::Conflict { key: condition.key().clone(), current },
                None => StoreError::Unavailable { reason: "it found a condition unmet that holds".into() },
            });
        }
        let committed = Committed { revision: self.cluster.shift().told(answer.revision.0), previous: self.found(answer.found).await? };
        // It is committed, whether or not this server sees it in time; who reads it will wait again.
        if let Err(error) = self.freshness.reached(committed.revision).await {
            tracing::warn!(%error, revision = committed.revision.0, "what was committed is not seen yet");
        }
        Ok(committed)
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.fresh().await
    }

    async fn snapshot(&self, at: Option<Revision>) -> Result<Snapshot, StoreError> {
        match at {
            None => drop(self.fresh().await?),
            Some(at) => {
                self.check_open()?;
                self.known(at).await?;
                self.timeline.trim(self.clock.now());
            }
        }
        self.timeline.snapshot(at)
    }

    fn seen(&self) -> Result<Snapshot, StoreError> {
        self.check_open()?;
        self.timeline.snapshot(None)
    }

    fn seen_of(&self, collection: &str, facet: &Facet) -> Result<Selected, StoreError> {
        self.check_open()?;
        self.timeline.select(collection, facet)
    }

    async fn watch_facet(&self, prefix: &str, facet: Option<Facet>, after: Revision) -> Result<Watch, StoreError> {
        self.check_open()?;
        self.known(after).await?;
        self.timeline.watch(prefix, facet, after)
    }

    async fn compact(&self, to: Revision) -> Result<(), StoreError> {
        self.check_open()?;
        self.known(to).await?;
        compactor::compact(&self.cluster, Revision(self.cluster.shift().raw(to))).await?;
        self.timeline.compact(to)
    }

    async fn oldest(&self) -> Result<Revision, StoreError> {
        self.timeline.trim(self.clock.now());
        self.timeline.oldest()
    }

    async fn size(&self) -> Result<u64, StoreError> {
        self.check_open()?;
        size_of(&self.cluster.read(STATUS, &fram_grpc::wire::Writer::default()).await?).map_err(malformed)
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.timeline.close();
        self.stop.cancel();
        Ok(())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.stop.cancel();
        self.tasks.close();
    }
}

/// Tries again what fails because etcd is not there yet, for some time.
async fn patiently<T, F>(patience: Duration, work: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let deadline = tokio::time::Instant::now() + patience;
    loop {
        match work().await {
            Err(error @ (StoreError::Unavailable { .. } | StoreError::OutcomeUnknown { .. })) if tokio::time::Instant::now() < deadline => {
                tracing::debug!(%error, "etcd is not there yet");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            done => return done,
        }
    }
}

/// Forgets history when its time has come.
async fn trim(timeline: Arc<Timeline>, clock: Arc<dyn Clock>, stop: CancellationToken) {
    /// Where nothing is to be forgotten yet, what comes stays at least this part of the usual window.
    const IDLE: Duration = Duration::from_secs(20);
    loop {
        let now = clock.now();
        let wait = timeline.trim(now).and_then(|next| clock.wait_until(next)).unwrap_or(IDLE);
        if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
            return;
        }
    }
}

/// Writes values anew whenever that is asked for, and again after a while where it failed.
async fn rewrite_when_asked(cluster: Arc<Cluster>, keys: Keys, cipher: Arc<dyn Cipher>, asked: Arc<Notify>, stop: CancellationToken) {
    const AGAIN: Duration = Duration::from_secs(10);
    loop {
        if stop.run_until_cancelled(asked.notified()).await.is_none() {
            return;
        }
        match stop.run_until_cancelled(rewrite::rewrite(&cluster, &keys, &cipher)).await {
            None => return,
            Some(Ok(written)) => tracing::info!(written, "all values are in etcd as the current encryption configuration has them"),
            Some(Err(error)) => {
                tracing::warn!(%error, "not all values could be written as the current encryption configuration has them");
                if stop.run_until_cancelled(tokio::time::sleep(AGAIN)).await.is_none() {
                    return;
                }
                asked.notify_one();
            }
        }
    }
}
