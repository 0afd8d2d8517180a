//! A store on a modelled disk that can be closed and opened again, and the helpers of these tests.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fram_store::disk::ModelDisk;
use fram_store::{Committed, Embedded, ManualClock, Operation, Options, Revision, Store, StoreError, Transaction, UnixMillis};

pub(crate) const DIRECTORY: &str = "/data";

#[derive(Clone)]
pub(crate) struct Rig {
    pub(crate) disk: ModelDisk,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) checkpoint_bytes: u64,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self { disk: ModelDisk::default(), clock: Arc::new(ManualClock::at(UnixMillis(1_000_000))), checkpoint_bytes: 16 << 20 }
    }

    pub(crate) fn with_checkpoints_after(checkpoint_bytes: u64) -> Self {
        Self { checkpoint_bytes, ..Self::new() }
    }

    pub(crate) fn options(&self) -> Options {
        Options {
            disk: Arc::new(self.disk.clone()),
            clock: self.clock.clone(),
            checkpoint_bytes: self.checkpoint_bytes,
            log_room: 4_096,
            seed: 7,
            ..Options::new(DIRECTORY)
        }
    }

    pub(crate) fn open(&self) -> Embedded {
        Embedded::open(self.options()).unwrap()
    }

    pub(crate) fn try_open(&self) -> Result<Embedded, StoreError> {
        Embedded::open(self.options())
    }

    /// The only file whose name starts with `prefix`.
    pub(crate) fn file(&self, prefix: &str) -> PathBuf {
        let mut files = self.files(prefix);
        assert_eq!(files.len(), 1, "{files:?}");
        files.remove(0)
    }

    pub(crate) fn files(&self, prefix: &str) -> Vec<PathBuf> {
        let is_wanted = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(prefix);
        self.disk.paths().into_iter().filter(is_wanted).collect()
    }
}

/// The length of a file's header, and of a record's.
pub(crate) const HEADER: usize = 32;
pub(crate) const FRAME_HEADER: usize = 24;

impl Rig {
    /// A log without the room behind its records, also as its content from now on.
    pub(crate) fn records(&self, log: &Path) -> Vec<u8> {
        let mut bytes = self.disk.content(log).unwrap();
        let length = |at: usize| bytes.get(at + 4..at + 8).map_or(0, |length| u32::from_le_bytes(length.try_into().unwrap()));
        let mut end = HEADER;
        while length(end) > 0 {
            end += FRAME_HEADER + length(end) as usize;
        }
        assert!(bytes.len() > end, "a log has room behind its records");
        bytes.truncate(end);
        self.disk.overwrite(log, bytes.clone());
        bytes
    }
}

pub(crate) async fn put(store: &Embedded, key: &str, value: &str) -> Result<Committed, StoreError> {
    store.commit(Transaction::new(vec![Operation::put(key, value.to_owned())])).await
}

/// Everything that a store holds, with all its numbers.
pub(crate) async fn dump(store: &Embedded) -> (Revision, Vec<String>) {
    let snapshot = store.snapshot(None).await.unwrap();
    (snapshot.revision(), snapshot.range(..).map(|entry| format!("{entry:?}")).collect())
}

/// A reproducible source of numbers: xorshift64*.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn coin(&mut self) -> bool {
        self.below(2) == 0
    }
}
