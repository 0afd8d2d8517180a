//! Brings one blob from a registry into the content store: resumes after cuts, verifies, and never holds more than a few
//! pieces in memory. Hashing and writing happen on a blocking thread while the network runs on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use bytes::Bytes;
use fram_cri::{ProgressFn, PullProgress};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::content::{BlobWriter, ContentStore};
use crate::error::ImageError;
use crate::manifest::Descriptor;
use crate::registry::{Failures, RegistryError, Repository};

/// Pieces between the network and the disk.
const PIECES: usize = 16;
/// Less than this between two cuts does not count as progress; else a server could keep a pull alive for ever.
const MIN_PROGRESS: u64 = 64 << 10;

/// How far a pull is, told to everyone who waits for it.
#[derive(Default)]
pub(crate) struct Tracker {
    listeners: Mutex<Vec<ProgressFn>>,
    downloaded: AtomicU64,
    total: AtomicU64,
    unpacked: AtomicU32,
    layers: AtomicU32,
}

impl Tracker {
    pub(crate) fn listen(&self, listener: ProgressFn) {
        self.listeners.lock().push(listener);
    }

    pub(crate) fn expect(&self, bytes: u64, layers: u32) {
        self.total.fetch_add(bytes, Ordering::Relaxed);
        self.layers.fetch_add(layers, Ordering::Relaxed);
        self.tell();
    }

    pub(crate) fn downloaded(&self, bytes: u64) {
        self.downloaded.fetch_add(bytes, Ordering::Relaxed);
        self.tell();
    }

    pub(crate) fn unpacked(&self) {
        self.unpacked.fetch_add(1, Ordering::Relaxed);
        self.tell();
    }

    fn tell(&self) {
        let progress = PullProgress {
            downloaded_bytes: self.downloaded.load(Ordering::Relaxed),
            total_bytes: self.total.load(Ordering::Relaxed),
            unpacked_layers: self.unpacked.load(Ordering::Relaxed),
            layers: self.layers.load(Ordering::Relaxed),
        };
        for listener in self.listeners.lock().iter() {
            listener(progress);
        }
    }
}

enum Piece {
    Data(Bytes),
    Restart,
    /// The whole blob was sent: verify it and put it in place.
    Commit,
}

/// Everything that downloading a blob needs.
pub(crate) struct Downloader {
    pub(crate) content: ContentStore,
    pub(crate) repository: Repository,
    pub(crate) tracker: Arc<Tracker>,
}

impl Downloader {
    /// Makes sure that the blob is in the content store. The caller holds a lease on it.
    pub(crate) async fn fetch(&self, descriptor: &Descriptor) -> Result<(), ImageError> {
        match self.fetch_once(descriptor).await {
            // What was corrupt may have been an old partial file or one bad transfer; nothing of it is left now.
            Err(ImageError::CorruptBlob { .. }) => self.fetch_once(descriptor).await,
            result => result,
        }
    }

    async fn fetch_once(&self, descriptor: &Descriptor) -> Result<(), ImageError> {
        let (mut failures, mut told) = (Failures::new(self.repository.config()), 0);
        loop {
            let start = told;
            let Err(error) = self.take_turn(descriptor, &mut told).await else { return Ok(()) };
            if told >= start + MIN_PROGRESS {
                failures.forget();
            }
            let before = if let ImageError::Registry(error) = &error { failures.note(error) } else { None };
            let Some(before) = before else { return Err(error) };
            tracing::debug!(digest = %descriptor.digest, offset = told, %error, "blob transfer interrupted, resuming");
            tokio::time::sleep(self.repository.config().pause(before)).await;
        }
    }

    /// One transfer, with the blob's lock. A pull of the same blob from elsewhere has its turn before the next one, so that a
    /// registry that stalls does not hold up those that have what it holds back.
    async fn take_turn(&self, descriptor: &Descriptor, told: &mut u64) -> Result<(), ImageError> {
        let guard = self.content.writer_lock(&descriptor.digest).lock_owned().await;
        if self.content.size(&descriptor.digest) == Some(descriptor.size) {
            self.tell(descriptor.size, told);
            return Ok(());
        }
        let (content, digest, size) = (self.content.clone(), descriptor.digest.clone(), descriptor.size);
        let (writer, guard) = blocking(move || Ok((content.writer(&digest, size)?, guard))).await?;
        let offset = writer.offset();
        self.tell(offset, told);
        let (pieces, queue) = mpsc::channel(PIECES);
        // The lock moves to the thread: when a pull is dropped, the next one must not open the file before this one let go.
        let writing = tokio::task::spawn_blocking(move || {
            let result = write_pieces(writer, queue);
            drop(guard);
            result
        });
        let sent = if offset < size { self.send_from(descriptor, offset, told, &pieces).await } else { Ok(()) };
        if sent.is_ok() {
            // Fails only if the writer has ended with an error, which is what `writing` then gives.
            let _ = pieces.send(Piece::Commit).await;
        }
        drop(pieces);
        let written = writing.await.map_err(|e| ImageError::Worker(e.to_string()))?;
        // A full disk is the cause, the channel that closed because of it is not.
        written.and(sent.map_err(ImageError::from))
    }

    /// Tells how far the blob is; what is fetched a second time does not count again.
    fn tell(&self, offset: u64, told: &mut u64) {
        if offset > *told {
            self.tracker.downloaded(offset - *told);
            *told = offset;
        }
    }

    /// One transfer from `offset` on; ends early without an error when the writer does not want more.
    async fn send_from(
        &self,
        descriptor: &Descriptor,
        mut offset: u64,
        told: &mut u64,
        pieces: &mpsc::Sender<Piece>,
    ) -> Result<(), RegistryError> {
        let mut stream = self.repository.blob(&descriptor.digest, offset).await?;
        if stream.offset() != offset {
            offset = 0;
            if pieces.send(Piece::Restart).await.is_err() {
                return Ok(());
            }
            if stream.offset() != 0 {
                return Err(stream.cut("it continued elsewhere than asked"));
            }
        }
        while let Some(bytes) = stream.next().await? {
            offset += bytes.len() as u64;
            self.tell(offset, told);
            if pieces.send(Piece::Data(bytes)).await.is_err() {
                return Ok(());
            }
        }
        if offset < descriptor.size {
            return Err(stream.cut(&format!("it ended after {offset} of {} bytes", descriptor.size)));
        }
        Ok(())
    }
}

fn write_pieces(mut writer: BlobWriter, mut queue: mpsc::Receiver<Piece>) -> Result<(), ImageError> {
    while let Some(piece) = queue.blocking_recv() {
        match piece {
            Piece::Data(bytes) => writer.write(&bytes)?,
            Piece::Restart => writer.restart()?,
            Piece::Commit => return writer.commit(),
        }
    }
    // The sender gave up; the partial file stays for the next attempt.
    Ok(())
}

/// Runs file work where it may block.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, ImageError> + Send + 'static) -> Result<T, ImageError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| ImageError::Worker(e.to_string()))?
}
