//! The one thread that changes the store: it takes what has gathered in the inbox, decides it, makes it durable with
//! one flush, publishes it and answers. It owns the log and starts checkpoints.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use crate::cipher::Opened;
use crate::clock::UnixMillis;
use crate::error::StoreError;
use crate::state::{EXPIRY_BACKOFF, State};
use crate::timeline::Timeline;
use crate::types::Entry;

use super::checkpoint::{self, Contents};
use super::directory::Directory;
use super::group::Group;
use super::inbox::{Inbox, Request, Turn};
use super::log::Log;
use super::recovery::Recovered;
use super::{Options, salt_of};

/// The most keys that one group deletes because they expired.
const EXPIRED_PER_GROUP: usize = 1_000;

/// What a buffer may keep of the room that an exceptionally large group needed.
const KEPT_BUFFER: usize = 1024 * 1024;

pub(crate) struct Writer {
    options: Options,
    directory: Arc<Directory>,
    inbox: Arc<Inbox>,
    timeline: Arc<Timeline>,
    /// What is durable and published.
    state: State,
    log: Log,
    /// The bytes in the logs since the last checkpoint.
    log_bytes: u64,
    checkpoint_bytes: u64,
    /// How far the logs have to grow before a checkpoint is tried again after one failed.
    retry_at: u64,
    running: Option<Running>,
    /// Nothing may be acknowledged until a checkpoint has replaced a log that cannot be trusted.
    needs_checkpoint: bool,
    /// A checkpoint is wanted, however short the log: values on disk are to be written as they would be now.
    rewrite: Arc<AtomicBool>,
    /// The bytes in all files, for those who ask.
    size: Arc<AtomicU64>,
    no_expiry_before: Option<UnixMillis>,
    buffer: Vec<u8>,
}

/// A checkpoint that is being written by its own thread.
struct Running {
    thread: JoinHandle<Result<Option<u64>, StoreError>>,
    stop: Arc<AtomicBool>,
    /// The bytes in the logs that it replaces.
    replaces: u64,
    /// It writes values as they would be written now, in place of how they are.
    rewrites: bool,
}

impl Writer {
    pub(crate) fn new(
        options: Options,
        directory: Arc<Directory>,
        inbox: Arc<Inbox>,
        recovered: Recovered,
        rewrite: Arc<AtomicBool>,
        size: Arc<AtomicU64>,
    ) -> Self {
        rewrite.store(recovered.stale, Ordering::Relaxed);
        Self {
            options,
            directory,
            inbox,
            timeline: recovered.timeline,
            state: recovered.state,
            log: recovered.log,
            log_bytes: recovered.log_bytes,
            checkpoint_bytes: recovered.checkpoint_bytes,
            retry_at: 0,
            running: None,
            needs_checkpoint: false,
            rewrite,
            size,
            no_expiry_before: None,
            buffer: Vec::new(),
        }
    }

    /// Works until the inbox is closed and empty.
    pub(crate) fn run(mut self) {
        // Also after a panic nobody waits for an answer that will not come.
        let _guard = CloseOnDrop { inbox: Arc::clone(&self.inbox), timeline: Arc::clone(&self.timeline) };
        let mut requests = Vec::new();
        self.checkpoint_if_due();
        loop {
            let now = self.options.clock.now();
            let wake = self.next_wake(now);
            let wait = wake.and_then(|time| self.options.clock.wait_until(time));
            match self.inbox.take(&mut requests, wait) {
                Turn::Work => self.turn(&mut requests),
                Turn::Closed => break,
            }
        }
        self.stop_checkpoint();
    }

    fn next_wake(&self, now: UnixMillis) -> Option<UnixMillis> {
        let expiry = self.state.next_expiry().map(|expiry| expiry.max(self.no_expiry_before.unwrap_or_default()));
        [expiry, self.timeline.trim(now)].into_iter().flatten().min()
    }

    fn turn(&mut self, requests: &mut Vec<Request>) {
        let mut waiting = requests.drain(..).peekable();
        loop {
            let now = self.options.clock.now();
            let mut group = Group::new(self.state.clone(), now, std::mem::take(&mut self.buffer), self.options.cipher.clone());
            if self.no_expiry_before.is_none_or(|time| time <= now) {
                self.no_expiry_before = None;
                group.expire(EXPIRED_PER_GROUP);
            }
            let mut answers = Vec::new();
            while group.size() < self.options.group_bytes
                && let Some(request) = waiting.next()
            {
                let result = group.consider(request.transaction);
                answers.push((request.answer, result, request._permit));
            }
            let failed = self.finish(group).err();
            for (answer, result, permit) in answers {
                // Also a conflict is only told when what it was judged against is durable. A caller that has gone away
                // is no failure.
                let _ = answer.send(failed.clone().map_or(result, Err));
                drop(permit);
            }
            self.checkpoint_if_due();
            self.size.store(self.log_bytes + self.checkpoint_bytes, Ordering::Relaxed);
            if waiting.peek().is_none() {
                break;
            }
        }
    }

    /// Makes a group durable and visible, or leaves everything as it was.
    fn finish(&mut self, mut group: Group) -> Result<(), StoreError> {
        if !group.is_empty() {
            if let Err(error) = self.persist(&mut group) {
                self.no_expiry_before = Some(group.now.after(EXPIRY_BACKOFF));
                return Err(error);
            }
            let Group { state, events, now, .. } = &mut group;
            self.timeline.publish(state.revision, state.root.clone(), std::mem::take(events), *now);
            self.state = state.clone();
        }
        self.buffer = group.frame;
        self.buffer.clear();
        self.buffer.shrink_to(KEPT_BUFFER);
        Ok(())
    }

    fn persist(&mut self, group: &mut Group) -> Result<(), StoreError> {
        self.regain_trust()?;
        let before = self.log.length();
        self.log.append(&mut group.frame)?;
        self.log_bytes += self.log.length() - before;
        Ok(())
    }

    /// After a failed flush what the log holds is unknown, but memory holds everything that was acknowledged: a
    /// checkpoint of it makes the log superfluous.
    fn regain_trust(&mut self) -> Result<(), StoreError> {
        if self.log.is_untrusted() {
            self.stop_checkpoint();
            self.rotate()?;
            self.needs_checkpoint = true;
        }
        if self.needs_checkpoint {
            // A checkpoint must not become durable before the log that continues it.
            self.log.ensure_named()?;
            let contents = self.contents();
            let salt = salt_of(&self.options, contents.number);
            let size = checkpoint::write(&self.directory, &contents, salt, self.options.cipher.as_deref(), &AtomicBool::new(false))?;
            self.needs_checkpoint = false;
            self.checkpoint_bytes = size.unwrap_or_default();
            self.log_bytes = self.log.length();
            self.remove_superfluous();
        }
        Ok(())
    }

    fn contents(&self) -> Contents {
        Contents { number: self.log.number(), revision: self.state.revision, root: self.state.root.clone() }
    }

    /// Goes on in a new log that starts from the published state.
    fn rotate(&mut self) -> Result<(), StoreError> {
        let number = self.log.number() + 1;
        self.log = Log::create(&self.directory, number, self.state.revision, &self.options)?;
        self.log_bytes += self.log.length();
        Ok(())
    }

    fn remove_superfluous(&self) {
        if let Err(error) = self.directory.remove_before(self.log.number()) {
            tracing::warn!(%error, "superfluous files stay until the next checkpoint");
        }
    }

    /// Starts a checkpoint when the logs have grown by more than what a checkpoint costs, and takes note of one that is
    /// done.
    fn checkpoint_if_due(&mut self) {
        self.note_checkpoint();
        let wanted = self.rewrite.load(Ordering::Acquire);
        let grown = self.log_bytes >= self.options.checkpoint_bytes.max(self.checkpoint_bytes);
        let due = (grown || wanted) && self.log_bytes >= self.retry_at;
        if !due || self.running.is_some() || self.log.is_untrusted() || self.needs_checkpoint {
            return;
        }
        if wanted {
            self.reopen();
        }
        if let Err(error) = self.start_checkpoint() {
            self.checkpoint_failed(&error);
        }
    }

    /// Tries again to open the values for which there was no key. Where that succeeds, readers begin anew: what they saw cannot have
    /// been of use.
    fn reopen(&mut self) {
        let Some(cipher) = self.options.cipher.clone() else { return };
        let sealed: Vec<_> = self.state.root.values().filter(|entry| cipher.is_sealed(&entry.value)).cloned().collect();
        let mut opened = false;
        for entry in sealed {
            if let Ok(Opened { value: Some(value), .. }) = cipher.open(&entry.key, &entry.value) {
                self.state.replace(Entry { value: value.into(), ..Entry::clone(&entry) });
                opened = true;
            }
        }
        if opened {
            self.timeline.reset(self.state.revision, self.state.root.clone());
        }
    }

    fn start_checkpoint(&mut self) -> Result<(), StoreError> {
        let replaces = self.log_bytes;
        // What is wanted from here on is for the next one.
        let rewrites = self.rewrite.swap(false, Ordering::AcqRel);
        if let Err(error) = self.begin_checkpoint(replaces, rewrites) {
            self.rewrite.fetch_or(rewrites, Ordering::AcqRel);
            return Err(error);
        }
        Ok(())
    }

    fn begin_checkpoint(&mut self, replaces: u64, rewrites: bool) -> Result<(), StoreError> {
        self.rotate()?;
        // A checkpoint must not become durable before the log that continues it.
        self.log.ensure_named()?;
        let (directory, contents) = (Arc::clone(&self.directory), self.contents());
        let (salt, stop) = (salt_of(&self.options, contents.number), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let (inbox, cipher) = (Arc::clone(&self.inbox), self.options.cipher.clone());
        let work = move || {
            let result = checkpoint::write(&directory, &contents, salt, cipher.as_deref(), &stopped);
            if let Ok(Some(_)) = result
                && let Err(error) = directory.remove_before(contents.number)
            {
                tracing::warn!(%error, "superfluous files stay until the next checkpoint");
            }
            inbox.nudge();
            result
        };
        let thread = std::thread::Builder::new().name("store-checkpoint".into()).spawn(work);
        let thread = thread.map_err(|source| StoreError::io(&self.directory.path, "start a checkpoint of", source))?;
        self.running = Some(Running { thread, stop, replaces, rewrites });
        Ok(())
    }

    fn note_checkpoint(&mut self) {
        let Some(running) = self.running.take_if(|running| running.thread.is_finished()) else { return };
        let (rewrites, replaces) = (running.rewrites, running.replaces);
        match running.thread.join() {
            Ok(Ok(Some(size))) => {
                if rewrites {
                    tracing::info!("all values are on disk as the current encryption configuration has them");
                }
                self.checkpoint_bytes = size;
                self.log_bytes -= replaces;
                self.retry_at = 0;
            }
            Ok(Ok(None)) => {}
            Ok(Err(error)) => {
                self.rewrite.fetch_or(rewrites, Ordering::AcqRel);
                self.checkpoint_failed(&error);
            }
            Err(_) => tracing::error!("the checkpoint thread panicked"),
        }
    }

    fn checkpoint_failed(&mut self, error: &StoreError) {
        self.retry_at = self.log_bytes + self.options.checkpoint_bytes;
        tracing::warn!(%error, "checkpoint failed, the log goes on growing");
    }

    fn stop_checkpoint(&mut self) {
        if let Some(running) = &self.running {
            running.stop.store(true, Ordering::Relaxed);
        }
        if let Some(running) = self.running.take() {
            // Whether it was stopped or done makes no difference: the next start or checkpoint clears up.
            let _ = running.thread.join();
        }
    }
}

struct CloseOnDrop {
    inbox: Arc<Inbox>,
    timeline: Arc<Timeline>,
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("the store's writer panicked, the store is closed");
        }
        self.inbox.abandon();
        self.timeline.close();
    }
}
