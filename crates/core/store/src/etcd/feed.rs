//! What readers see follows etcd: all keys are read once, then one watch feeds the timeline, for as long as the store is open. When
//! it breaks off it goes on from where it was, at another member; what was compacted meanwhile is read anew.

use std::sync::Arc;
use std::time::Duration;

use fram_grpc::wire::Writer;
use fram_grpc::{Channel, GrpcError, Incoming};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::error::StoreError;
use crate::snapshot::Root;
use crate::timeline::Timeline;
use crate::types::{Entry, Key, Revision};

use super::cluster::{Cluster, Failure, RANGE, STATUS, WATCH, malformed};
use super::contents::{Change, Opener, apply};
use super::messages::{
    Range, Watched, keeps_progress_in_order, page, prefix_end, prefix_start, progress, version_of, watch as watch_request,
};

/// How many keys are read at once.
pub(crate) const PAGE: u64 = 1_000;
/// How far back history is read when the store is opened, so that clients that come from another server go on where they were.
const BACKLOG: u64 = 10_000;
/// Between two tries to follow.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// The keys of the store within etcd.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    pub(crate) start: Vec<u8>,
    pub(crate) end: Vec<u8>,
    /// Written to learn that everything before has been seen; nobody's but the engine's.
    pub(crate) barrier: String,
    /// By how much revisions are ahead of etcd's.
    pub(crate) shift: String,
    /// There while the store is copied into etcd; nobody opens it then.
    pub(crate) copy: Key,
}

impl Keys {
    pub(crate) fn of(prefix: &str) -> Self {
        Self {
            start: prefix_start(prefix.as_bytes()),
            end: prefix_end(prefix.as_bytes()),
            barrier: format!("{prefix}.fram/barrier"),
            shift: format!("{prefix}.fram/revisions"),
            copy: format!("{prefix}.fram/copy").into(),
        }
    }

    pub(crate) fn hold(&self, key: &str) -> bool {
        key.as_bytes() >= self.start.as_slice()
            && (self.end == [0] || key.as_bytes() < self.end.as_slice())
            && key != self.barrier
            && key != self.shift
    }
}

/// How far the feed has come.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    pub(crate) revision: Revision,
    /// The member that is followed answers progress requests behind the events before them.
    pub(crate) ordered: bool,
    /// Why it comes no further at present.
    pub(crate) trouble: Option<StoreError>,
}

/// What readers who wait ask of the feed.
#[derive(Default)]
pub(crate) struct Asks {
    pub(crate) progress: Notify,
    pub(crate) elsewhere: Notify,
    /// Not of readers: values that could not be opened may be openable now.
    pub(crate) anew: Notify,
}

/// Why the watch came to an end.
enum Ended {
    /// It can be begun again where it was.
    Broken(StoreError),
    /// What comes next is compacted.
    Compacted,
    /// etcd's history is not the one that was followed.
    Rewound(Revision),
    /// All values are to be opened again.
    Anew,
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        if failure.is_compacted() { Self::Compacted } else { Self::Broken(failure.into()) }
    }
}

impl From<GrpcError> for Ended {
    fn from(error: GrpcError) -> Self {
        Failure::of(&error).into()
    }
}

impl From<StoreError> for Ended {
    fn from(error: StoreError) -> Self {
        Self::Broken(error)
    }
}

pub(crate) struct Feed {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) keys: Keys,
    pub(crate) opener: Opener,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) timeline: Arc<Timeline>,
    pub(crate) progress: watch::Sender<Progress>,
    pub(crate) asks: Arc<Asks>,
    pub(crate) root: Root,
    pub(crate) revision: Revision,
}

/// All keys at a revision.
pub(crate) struct Loaded {
    pub(crate) root: Root,
    pub(crate) revision: Revision,
    pub(crate) stale: bool,
}

/// Reads all keys at a revision; at the latest where none is named.
async fn load_at(cluster: &Cluster, keys: &Keys, opener: &Opener, at: Option<Revision>) -> Result<Loaded, Ended> {
    let mut loaded = Loaded { root: Root::new(), revision: at.unwrap_or_default(), stale: false };
    let mut start = keys.start.clone();
    let mut at = at;
    loop {
        let answer = cluster.read(RANGE, &page(&start, &keys.end, PAGE, at.map(|at| cluster.shift().raw(at)))).await?;
        let range = Range::read(&answer).map_err(malformed)?;
        if at.is_none() {
            let revision = cluster.shift().told(range.revision.0);
            (loaded.revision, at) = (revision, Some(revision));
        }
        if let Some(last) = range.kvs.last() {
            start.clone_from(&last.key);
            start.push(0);
        }
        let entries = opener.entries(range.kvs).await?;
        loaded.stale |= entries.stale;
        let seen = entries.entries.into_iter().filter(|entry| *entry.key != *keys.barrier && *entry.key != *keys.shift);
        loaded.root.extend(seen.map(|entry| (entry.key.clone(), Arc::new(entry))));
        if !range.more {
            return Ok(loaded);
        }
    }
}

/// Reads all keys as they were a while ago, as far as history goes back, for the watch to go on from there.
pub(crate) async fn load(cluster: &Cluster, keys: &Keys, opener: &Opener) -> Result<Loaded, StoreError> {
    let current = cluster.revision(&keys.start).await?;
    let back = Revision(current.0.saturating_sub(BACKLOG).max(cluster.shift().told(Revision::EMPTY.0).0));
    let oldest = compacted(cluster, keys, back).await?.max(back);
    match load_at(cluster, keys, opener, Some(oldest)).await {
        Ok(loaded) => return Ok(loaded),
        Err(Ended::Broken(error)) => return Err(error),
        // Another server has compacted meanwhile, and will not do so again soon.
        Err(Ended::Compacted | Ended::Rewound(_) | Ended::Anew) => {}
    }
    load_at(cluster, keys, opener, None).await.map_err(|ended| match ended {
        Ended::Broken(error) => error,
        Ended::Compacted | Ended::Rewound(_) | Ended::Anew => {
            StoreError::Unavailable { reason: "its history is compacted faster than it is read".into() }
        }
    })
}

/// The revision that was compacted to, where that is later than `from`.
async fn compacted(cluster: &Cluster, keys: &Keys, from: Revision) -> Result<Revision, StoreError> {
    match cluster.read(RANGE, &page(&keys.start, &[], 1, Some(cluster.shift().raw(from)))).await {
        Ok(_) => return Ok(from),
        Err(failure) if failure.is_compacted() => {}
        Err(failure) => return Err(failure.into()),
    }
    // Only a watch tells the revision.
    let broken = |error: GrpcError| StoreError::from(Failure::of(&error));
    let channel = cluster.dial(cluster.preferred()).await?;
    let (_outgoing, mut incoming) =
        channel.stream(WATCH, &watch_request(&keys.start, &[], cluster.shift().raw(from)).0).await.map_err(broken)?;
    while let Some(message) = incoming.next().await.map_err(broken)? {
        let answer = Watched::read(&message).map_err(malformed)?;
        if answer.compacted > Revision(0) {
            return Ok(cluster.shift().told(answer.compacted.0));
        }
        if answer.canceled {
            break;
        }
    }
    Err(StoreError::Unavailable { reason: "it does not say how far its history goes back".into() })
}

impl Feed {
    /// Follows etcd until it is told to stop.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut member = self.cluster.preferred();
        let mut pause = PAUSES.0;
        loop {
            let before = self.revision;
            let Some(ended) = stop.run_until_cancelled(self.follow(member)).await else { return };
            match ended {
                Ended::Broken(error) => {
                    tracing::warn!(%error, member = self.cluster.name(member), revision = self.revision.0, "following etcd was interrupted");
                    self.progress.send_modify(|progress| progress.trouble = Some(error));
                    member = self.cluster.after(member);
                }
                Ended::Compacted | Ended::Anew => {
                    let Some(reloaded) = stop.run_until_cancelled(self.reload()).await else { return };
                    if let Err(error) = reloaded {
                        self.progress.send_modify(|progress| progress.trouble = Some(error));
                    }
                }
                Ended::Rewound(to) => {
                    tracing::error!(
                        "etcd is at revision {to}, behind {}, which was read from it: was it restored from a backup? The store is closed",
                        self.revision
                    );
                    self.timeline.close();
                    return;
                }
            }
            pause = if self.revision > before { PAUSES.0 } else { (pause * 2).min(PAUSES.1) };
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// Watches at a member until that ends.
    async fn follow(&mut self, member: usize) -> Ended {
        match self.try_follow(member).await {
            Ok(()) => Ended::Broken(StoreError::Unavailable { reason: "the watch has ended".into() }),
            Err(ended) => ended,
        }
    }

    async fn try_follow(&mut self, member: usize) -> Result<(), Ended> {
        let current = self.cluster.revision(&self.keys.start).await?;
        if current < self.revision {
            return Err(Ended::Rewound(current));
        }
        let channel = self.cluster.dial(member).await?;
        let ordered = is_ordered(&channel).await?;
        let request = watch_request(&self.keys.start, &self.keys.end, self.cluster.shift().raw(self.revision.next()));
        let (outgoing, mut incoming) = opened(&channel, &request).await?;
        let asks = Arc::clone(&self.asks);
        // What readers complained of was the member before.
        tokio::select! {
            biased;
            () = asks.elsewhere.notified() => {}
            () = std::future::ready(()) => {}
        }
        loop {
            tokio::select! {
                biased;
                message = incoming.next() => {
                    let Some(message) = message? else { return Ok(()) };
                    self.take(Watched::read(&message).map_err(malformed)?, ordered).await?;
                }
                () = asks.elsewhere.notified() => {
                    return Err(Ended::Broken(StoreError::Unavailable { reason: "readers waited too long".into() }));
                }
                () = asks.anew.notified() => return Err(Ended::Anew),
                () = asks.progress.notified() => {
                    outgoing.send(&progress().0);
                }
            }
        }
    }

    /// Takes over what the watch says.
    async fn take(&mut self, answer: Watched, ordered: bool) -> Result<(), Ended> {
        if answer.canceled {
            let reason = format!("the watch was cancelled: {}", answer.reason);
            return Err(if answer.compacted > Revision(0) { Ended::Compacted } else { Ended::Broken(StoreError::Unavailable { reason }) });
        }
        if answer.created {
            self.progress.send_modify(|progress| (progress.ordered, progress.trouble) = (ordered, None));
            return Ok(());
        }
        // An answer without events says that there are none up to its revision.
        let reached = self.cluster.shift().told(answer.events.last().map_or(answer.revision.0, |last| last.kv.modified));
        if reached > self.revision {
            let changes = self.opener.changes(answer.events).await?;
            self.publish(reached, changes);
        }
        Ok(())
    }

    fn publish(&mut self, reached: Revision, mut changes: Vec<Change>) {
        changes.retain(|change| match change {
            Change::Put(Entry { key, .. }) | Change::Delete(key, _) => **key != *self.keys.barrier && **key != *self.keys.shift,
        });
        let events = apply(&mut self.root, self.revision, changes);
        self.revision = reached;
        self.timeline.publish(reached, self.root.clone(), events, self.clock.now());
        self.progress.send_modify(|progress| progress.revision = reached);
    }

    /// Begins anew with what etcd holds now. Those who watch are told that something is missing between.
    async fn reload(&mut self) -> Result<(), StoreError> {
        let loaded = load_at(&self.cluster, &self.keys, &self.opener, None).await.map_err(|ended| match ended {
            Ended::Broken(error) => error,
            _ => StoreError::Unavailable { reason: "its history is compacted while it is read".into() },
        })?;
        tracing::warn!(from = self.revision.0, to = loaded.revision.0, "all keys were read anew from etcd");
        (self.root, self.revision) = (loaded.root, loaded.revision);
        self.timeline.reset(self.revision, self.root.clone());
        self.progress.send_modify(|progress| progress.revision = self.revision);
        Ok(())
    }
}

/// How long a member may take to accept a watch.
const PATIENCE: Duration = Duration::from_secs(3);

async fn is_ordered(channel: &Channel) -> Result<bool, Ended> {
    let answer = within(channel.unary(STATUS, &Writer::default().0)).await?;
    Ok(keeps_progress_in_order(&version_of(&answer).map_err(malformed)?))
}

async fn opened(channel: &Channel, request: &Writer) -> Result<(fram_grpc::Outgoing, Incoming), Ended> {
    within(channel.stream(WATCH, &request.0)).await
}

async fn within<T>(call: impl Future<Output = Result<T, GrpcError>>) -> Result<T, Ended> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Ended::Broken(StoreError::Unavailable { reason: "no answer in time".into() })),
    }
}
