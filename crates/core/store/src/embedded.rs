//! The embedded engine: all entries in a persistent ordered map in memory, every group of transactions in a write-ahead
//! log before it is acknowledged, checkpoints to keep the log short. It reads no disk after its start.

pub mod check;
mod checkpoint;
mod codec;
mod directory;
mod flip;
mod frame;
mod group;
mod import;
mod inbox;
mod log;
mod payload;
mod recovery;
mod writer;

use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot, watch};

use crate::cipher::Cipher;
use crate::clock::{Clock, SystemClock};
use crate::disk::{Disk, ModelDisk, OsDisk};
use crate::error::StoreError;
use crate::index::Selected;
use crate::snapshot::Snapshot;
use crate::state::validate;
use crate::store::Store;
use crate::timeline::{HistoryLimits, Timeline};
use crate::types::{Committed, Revision, Transaction};
use crate::watch::{Facet, Watch, WatchLimits};

use directory::Directory;
use inbox::{Inbox, Request};
use writer::Writer;

/// How an embedded store is opened.
#[derive(Clone)]
pub struct Options {
    /// The data directory; created when it is not there.
    pub directory: PathBuf,
    pub disk: Arc<dyn Disk>,
    pub clock: Arc<dyn Clock>,
    /// Where the salts of the files' checksums come from: a number that clients cannot guess.
    pub seed: u64,
    /// How long history is kept; etcd behind an API server keeps five minutes.
    pub history_window: Duration,
    /// How many bytes may be held by history alone; beyond that it is cut, whatever its age.
    pub history_bytes: usize,
    /// How many events, and bytes in events, may wait in a watch before it is ended.
    pub watch_events: usize,
    pub watch_bytes: usize,
    /// The largest transaction, in bytes of keys and values; etcd's default request limit.
    pub transaction_bytes: usize,
    /// About how many bytes are written with one flush at most.
    pub group_bytes: usize,
    /// How far the logs grow, at least, before a checkpoint replaces them.
    pub checkpoint_bytes: u64,
    /// By how many bytes a log is extended at once, in which what is committed next finds its place.
    pub log_room: usize,
    /// How many commits may wait for the disk; further ones wait for their turn to wait.
    pub waiting_commits: usize,
    /// How values look on disk; as they are, where it is None.
    pub cipher: Option<Arc<dyn Cipher>>,
}

impl Options {
    /// The defaults for a data directory on the real file system, with the system's clock.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            disk: Arc::new(OsDisk),
            clock: Arc::new(SystemClock),
            // The standard library's hashers are seeded by the operating system.
            seed: RandomState::new().hash_one(()),
            history_window: Duration::from_secs(300),
            history_bytes: 32 << 20,
            watch_events: 16_384,
            watch_bytes: 64 << 20,
            transaction_bytes: 3 << 19,
            group_bytes: 4 << 20,
            checkpoint_bytes: 16 << 20,
            log_room: 256 << 10,
            waiting_commits: 4_096,
            cipher: None,
        }
    }

    /// The defaults on a file system of its own in memory, which ends with the last store that uses it.
    pub fn in_memory() -> Self {
        Self { disk: Arc::new(ModelDisk::default()), ..Self::new("/") }
    }

    fn history_limits(&self) -> HistoryLimits {
        HistoryLimits { window: self.history_window, bytes: self.history_bytes }
    }

    fn watch_limits(&self) -> WatchLimits {
        WatchLimits { events: self.watch_events, bytes: self.watch_bytes }
    }
}

/// The salt of the files with this number.
fn salt_of(options: &Options, number: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&options.seed.to_le_bytes());
    hasher.update(&number.to_le_bytes());
    hasher.finalize()
}

/// An open embedded store. Dropping it closes it and waits until its files are closed.
pub struct Embedded {
    inbox: Arc<Inbox>,
    timeline: Arc<Timeline>,
    permits: Arc<Semaphore>,
    transaction_bytes: usize,
    writer: Mutex<Option<JoinHandle<()>>>,
    done: watch::Receiver<bool>,
    rewrite: Arc<AtomicBool>,
    /// The bytes in its files.
    size: Arc<AtomicU64>,
}

impl Embedded {
    /// Opens a data directory and recovers what it holds. Blocks on the disk.
    pub fn open(options: Options) -> Result<Self, StoreError> {
        let directory = Arc::new(Directory::open(Arc::clone(&options.disk), options.directory.clone())?);
        let recovered = recovery::recover(&directory, &options)?;
        let inbox = Arc::new(Inbox::default());
        let nudged = Arc::downgrade(&inbox);
        options.clock.on_change(Box::new(move || {
            if let Some(inbox) = nudged.upgrade() {
                inbox.nudge();
            }
        }));
        let timeline = Arc::clone(&recovered.timeline);
        let permits = Arc::new(Semaphore::new(options.waiting_commits));
        let transaction_bytes = options.transaction_bytes;
        let path = options.directory.clone();
        let rewrite = Arc::new(AtomicBool::new(false));
        let size = Arc::new(AtomicU64::new(recovered.log_bytes + recovered.checkpoint_bytes));
        let writer = Writer::new(options, directory, Arc::clone(&inbox), recovered, Arc::clone(&rewrite), Arc::clone(&size));
        let (ended, done) = watch::channel(false);
        let work = move || {
            writer.run();
            ended.send_replace(true);
        };
        let writer = std::thread::Builder::new().name("store-writer".into()).spawn(work);
        let writer = writer.map_err(|source| StoreError::io(path, "start the writer of", source))?;
        Ok(Self { inbox, timeline, permits, transaction_bytes, writer: Mutex::new(Some(writer)), done, rewrite, size })
    }

    /// Writes all values to disk anew, as the cipher has them now, beside what goes on. The store does the same by itself when it
    /// finds values at its start that its cipher calls stale.
    pub fn rewrite(&self) {
        self.rewrite.store(true, Ordering::Release);
        self.inbox.nudge();
    }
}

#[async_trait]
impl Store for Embedded {
    async fn commit(&self, transaction: Transaction) -> Result<Committed, StoreError> {
        validate(&transaction, self.transaction_bytes)?;
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let (answer, answered) = oneshot::channel();
        self.inbox.push(Request { transaction, answer, _permit: permit });
        answered.await.unwrap_or(Err(StoreError::Closed))
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.timeline.oldest()?;
        Ok(self.timeline.revision())
    }

    async fn snapshot(&self, at: Option<Revision>) -> Result<Snapshot, StoreError> {
        self.timeline.snapshot(at)
    }

    fn seen(&self) -> Result<Snapshot, StoreError> {
        self.timeline.snapshot(None)
    }

    fn seen_of(&self, collection: &str, facet: &Facet) -> Result<Selected, StoreError> {
        self.timeline.select(collection, facet)
    }

    async fn watch_facet(&self, prefix: &str, facet: Option<Facet>, after: Revision) -> Result<Watch, StoreError> {
        self.timeline.watch(prefix, facet, after)
    }

    async fn compact(&self, to: Revision) -> Result<(), StoreError> {
        self.timeline.compact(to)
    }

    async fn oldest(&self) -> Result<Revision, StoreError> {
        self.timeline.oldest()
    }

    async fn size(&self) -> Result<u64, StoreError> {
        self.timeline.oldest()?;
        Ok(self.size.load(Ordering::Relaxed))
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.inbox.close();
        // The sender lives as long as the writer: its end, even by a panic, ends the wait.
        let _ = self.done.clone().wait_for(|done| *done).await;
        Ok(())
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.inbox.close();
        if let Some(writer) = self.writer.lock().take() {
            // A panic was told by the writer itself.
            let _ = writer.join();
        }
    }
}
