//! Opening a data directory: the newest checkpoint, the logs after it, and the judgement on their ends.

use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;

use crate::cipher::Cipher;
use crate::clock::UnixMillis;
use crate::error::StoreError;
use crate::state::{Change, State};
use crate::timeline::Timeline;
use crate::types::{Event, EventKind, Key, Revision};

use super::Options;
use super::codec::Decoder;
use super::directory::{Directory, FIRST_LOG};
use super::frame::{FRAME_HEADER, FileHeader, FileKind, holds_later_frame, is_room, read_frame};
use super::log::{Found, Log};

/// A store as it was when it was last written to.
pub(crate) struct Recovered {
    pub(crate) state: State,
    pub(crate) timeline: Arc<Timeline>,
    pub(crate) log: Log,
    /// The bytes in all logs since the checkpoint.
    pub(crate) log_bytes: u64,
    pub(crate) checkpoint_bytes: u64,
    /// Some values would be written differently now.
    pub(crate) stale: bool,
}

/// Opens the values that are read, and takes note of those that are stale.
pub(crate) struct Opener {
    cipher: Option<Arc<dyn Cipher>>,
    stale: bool,
}

impl Opener {
    pub(crate) fn open(&mut self, key: &Key, stored: Bytes) -> Result<Bytes, StoreError> {
        let Some(cipher) = &self.cipher else { return Ok(stored) };
        let fail = |source| StoreError::Cipher { key: key.clone(), operation: "decrypt", source };
        let opened = cipher.open(key, &stored).map_err(fail)?;
        self.stale |= opened.stale;
        Ok(opened.value.map_or(stored, Bytes::from))
    }
}

/// Reads the directory and makes it ready to be written to.
pub(crate) fn recover(directory: &Arc<Directory>, options: &Options) -> Result<Recovered, StoreError> {
    if !directory.check_format()? {
        Log::create(directory, FIRST_LOG, Revision::EMPTY, options)?;
        // The log's name is durable before the format file's: a formatted directory without a log has lost it.
        directory.sync()?;
        directory.format()?;
    }
    // A killed process leaves names that are not durable; what they replace is removed only after they are.
    directory.sync()?;
    let contents = directory.contents()?;
    for name in &contents.unfinished {
        directory.remove(&directory.path.join(name))?;
    }
    let mut opener = Opener { cipher: options.cipher.clone(), stale: false };
    let (state, checkpoint_bytes, first) = match contents.checkpoints.last() {
        Some(number) => {
            let (state, size) = super::checkpoint::read(directory, *number, &mut opener)?;
            directory.remove_before(*number)?;
            (state, size, *number)
        }
        None => (State::default(), 0, FIRST_LOG),
    };
    let logs: Vec<u64> = contents.logs.into_iter().filter(|number| *number >= first).collect();
    check_row(directory, first, &logs)?;
    let timeline = Timeline::new(state.revision, state.root.clone(), options.history_limits(), options.watch_limits());
    let replay = Replay { directory, options, state, timeline, opener };
    replay.run(&logs, checkpoint_bytes)
}

fn check_row(directory: &Directory, first: u64, logs: &[u64]) -> Result<(), StoreError> {
    let expected = first..first + (logs.len() as u64).max(1);
    match expected.clone().zip(logs.iter().copied().map(Some).chain([None])).find(|(expected, found)| Some(*expected) != *found) {
        Some((missing, _)) => Err(StoreError::corrupt(directory.log_path(missing), 0, "log is missing")),
        None => Ok(()),
    }
}

struct Replay<'a> {
    directory: &'a Arc<Directory>,
    options: &'a Options,
    state: State,
    timeline: Timeline,
    opener: Opener,
}

/// A log as it was read.
struct LogFile {
    header: FileHeader,
    bytes: Vec<u8>,
}

impl Replay<'_> {
    fn run(mut self, logs: &[u64], checkpoint_bytes: u64) -> Result<Recovered, StoreError> {
        let mut log_bytes = 0;
        let mut last = None;
        for (index, number) in logs.iter().enumerate() {
            let next = logs.get(index + 1).map(|next| self.header(*next)).transpose()?;
            let log = self.read(*number)?;
            if log.header.revision != self.state.revision {
                let reason = format!("log starts at revision {}, {} was expected", log.header.revision, self.state.revision);
                return Err(StoreError::corrupt(self.directory.log_path(*number), 0, reason));
            }
            let found = self.replay(log, next.map(|header| header.revision))?;
            log_bytes += found.good.len() as u64;
            last = Some(found);
        }
        let found = last.ok_or_else(|| StoreError::corrupt(self.directory.log_path(FIRST_LOG), 0, "log is missing"))?;
        if found.torn {
            let path = self.directory.log_path(found.header.number);
            tracing::warn!(path = %path.display(), offset = found.good.len(), "cutting off an unfinished write");
        }
        let log = Log::resume(self.directory, found, self.options)?;
        Ok(Recovered { state: self.state, timeline: Arc::new(self.timeline), log, log_bytes, checkpoint_bytes, stale: self.opener.stale })
    }

    fn header(&self, number: u64) -> Result<FileHeader, StoreError> {
        let path = self.directory.log_path(number);
        let mut bytes = Vec::new();
        let file = self.directory.disk.read(&path);
        file.and_then(|file| file.take(FileHeader::LENGTH as u64).read_to_end(&mut bytes))
            .map_err(|source| StoreError::io(&path, "read", source))?;
        self.parse_header(number, &bytes)
    }

    fn parse_header(&self, number: u64, bytes: &[u8]) -> Result<FileHeader, StoreError> {
        FileHeader::read(FileKind::Log, bytes)
            .filter(|header| header.number == number)
            .ok_or_else(|| StoreError::corrupt(self.directory.log_path(number), 0, "bad header"))
    }

    fn read(&self, number: u64) -> Result<LogFile, StoreError> {
        let path = self.directory.log_path(number);
        let mut bytes = Vec::new();
        let file = self.directory.disk.read(&path);
        file.and_then(|mut file| file.read_to_end(&mut bytes)).map_err(|source| StoreError::io(&path, "read", source))?;
        Ok(LogFile { header: self.parse_header(number, &bytes)?, bytes })
    }

    /// Applies the frames of a log. `until` is the revision that the next log starts from: the log must lead there, and
    /// whatever follows it was refused when it was written.
    fn replay(&mut self, log: LogFile, until: Option<Revision>) -> Result<Found, StoreError> {
        let LogFile { header, bytes: mut good } = log;
        let path = self.directory.log_path(header.number);
        let corrupt = |offset: usize, reason: String| StoreError::corrupt(&path, offset as u64, reason);
        let mut offset = FileHeader::LENGTH;
        let (mut sequence, mut last_frame) = (0, offset);
        while !is_room(&good[offset..]) && until.is_none_or(|until| self.state.revision < until) {
            let rest = &good[offset..];
            let Some(payload) = read_frame(rest, header.salt, sequence) else {
                if until.is_some() || holds_later_frame(rest, header.salt, sequence) {
                    return Err(corrupt(offset, "damaged record before the end of the log".into()));
                }
                break;
            };
            let group = read_group(&mut self.state, payload, &mut self.opener).map_err(|e| match e {
                Unreadable::Damaged(reason) => corrupt(offset, reason),
                Unreadable::Sealed(error) => error,
            })?;
            self.timeline.publish(self.state.revision, self.state.root.clone(), group.events, group.time);
            last_frame = offset;
            offset += FRAME_HEADER + payload.len();
            sequence += 1;
        }
        if let Some(until) = until.filter(|until| *until != self.state.revision) {
            return Err(corrupt(offset, format!("log ends at revision {}, {until} was expected", self.state.revision)));
        }
        let room = good.len() as u64;
        let torn = !is_room(&good[offset..]);
        good.truncate(offset);
        Ok(Found { header, good, room, torn, sequence, last_frame })
    }
}

struct Group {
    time: UnixMillis,
    events: Vec<Event>,
}

/// Why a frame cannot be applied.
enum Unreadable {
    Damaged(String),
    Sealed(StoreError),
}

/// Applies the transactions of one frame.
fn read_group(state: &mut State, payload: &[u8], opener: &mut Opener) -> Result<Group, Unreadable> {
    let malformed = |error: super::codec::Malformed| Unreadable::Damaged(error.to_string());
    let mut decoder = Decoder(payload);
    let time = UnixMillis(decoder.u64().map_err(malformed)?);
    let mut events = Vec::new();
    while !decoder.is_empty() {
        let (revision, mut changes): (Revision, Vec<Change>) = decoder.transaction().map_err(malformed)?;
        if revision != state.revision.next() {
            return Err(Unreadable::Damaged(format!("transaction {revision} follows {}", state.revision)));
        }
        for change in &mut changes {
            if let Change::Put { key, value, .. } = change {
                *value = opener.open(key, std::mem::take(value)).map_err(Unreadable::Sealed)?;
            }
        }
        events.extend(state.apply(changes));
    }
    match events.iter().find(|event| event.kind == EventKind::Delete && event.previous.is_none()) {
        Some(event) => Err(Unreadable::Damaged(format!("transaction {} deletes {}, which is absent", event.revision, event.key))),
        None => Ok(Group { time, events }),
    }
}
