//! The write-ahead log: one file that frames are appended to, each durable before the next, with room for more behind them. It knows
//! how far it can be trusted after a failed write; what the frames mean is not its business.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::disk::DiskFile;
use crate::error::StoreError;
use crate::types::Revision;

use super::directory::Directory;
use super::frame::{FileHeader, FileKind, seal_frame};
use super::{Options, salt_of};

/// What is known of the bytes at the end of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tail {
    /// All of the file is durable.
    Clean,
    /// A write was cut short: what is beyond the good length has to go before the next one.
    Dirty,
    /// A flush failed. The kernel may have dropped the pages and will not say so again, so nothing after this point can
    /// be known to be on the medium: the file has to be left behind.
    Untrusted,
}

/// The log file that is written to.
pub(crate) struct Log {
    path: PathBuf,
    file: Box<dyn DiskFile>,
    header: FileHeader,
    /// How much of the file is good.
    length: u64,
    /// The bytes in the file; those behind the good ones are zeros.
    room: u64,
    /// So many zeros are written behind a frame for which there was no room. A flush of what is written over them has neither a new
    /// length nor new blocks to make durable beside it, which is half of the work and most of the time.
    ahead: usize,
    /// The number of the next frame.
    sequence: u64,
    tail: Tail,
    /// The directory whose flush failed after the file got its name; nothing may be acknowledged until it succeeds.
    unnamed: Option<Arc<Directory>>,
}

/// A log as recovery found it.
pub(crate) struct Found {
    pub(crate) header: FileHeader,
    /// The part of the file that is whole.
    pub(crate) good: Vec<u8>,
    /// The bytes in the file.
    pub(crate) room: u64,
    /// Whether there is something else than zeros behind that part.
    pub(crate) torn: bool,
    /// How many frames there are.
    pub(crate) sequence: u64,
    /// Where the last of them starts.
    pub(crate) last_frame: usize,
}

impl Log {
    /// Creates the log with this number. After an error there is none.
    pub(crate) fn create(directory: &Arc<Directory>, number: u64, revision: Revision, options: &Options) -> Result<Self, StoreError> {
        let path = directory.log_path(number);
        let unfinished = Directory::unfinished(&path);
        let header = FileHeader { kind: FileKind::Log, salt: salt_of(options, number), number, revision };
        let bytes = header.to_bytes();
        let mut file = directory.disk.create(&unfinished).map_err(|source| StoreError::io(&path, "create", source))?;
        file.append(&bytes).map_err(|source| StoreError::io(&path, "write", source))?;
        file.sync().map_err(|source| StoreError::io(&path, "flush", source))?;
        directory.rename(&unfinished, &path)?;
        // From here the file exists, and its base revision tells recovery where its predecessor ends: it must be used
        // even if its name is not durable yet.
        let unnamed = directory.sync().is_err().then(|| Arc::clone(directory));
        let length = bytes.len() as u64;
        Ok(Self { path, file, header, length, room: length, ahead: options.log_room, sequence: 0, tail: Tail::Clean, unnamed })
    }

    /// Goes on with a log that was recovered.
    pub(crate) fn resume(directory: &Directory, found: Found, options: &Options) -> Result<Self, StoreError> {
        let Found { header, good, room, torn, sequence, last_frame } = found;
        let path = directory.log_path(header.number);
        let file = directory.disk.append_to(&path).map_err(|source| StoreError::io(&path, "open", source))?;
        let tail = if torn { Tail::Dirty } else { Tail::Clean };
        let mut log = Self { path, file, header, length: good.len() as u64, room, ahead: options.log_room, sequence, tail, unnamed: None };
        if torn {
            log.cut()?;
        }
        // A killed process leaves a record that was written but not flushed, or whose flush failed, after which the
        // system takes it for clean. Readers will see it from now on, so a loss of power must not take it back: it is
        // written again. The records before it were durable before it was written.
        let rewritten = good.get(last_frame..).map(|frame| log.file.overwrite(last_frame as u64, frame));
        rewritten.transpose().map_err(|source| StoreError::io(&log.path, "write", source))?;
        log.flush()?;
        Ok(log)
    }

    pub(crate) fn number(&self) -> u64 {
        self.header.number
    }

    /// The bytes in the file, without the room behind them.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Whether the log has to be left behind before anything else can be written.
    pub(crate) fn is_untrusted(&self) -> bool {
        self.tail == Tail::Untrusted
    }

    /// Seals the frame and appends it durably. After an error the frame is not part of the log.
    pub(crate) fn append(&mut self, frame: &mut [u8]) -> Result<(), StoreError> {
        self.ensure_named()?;
        if self.tail != Tail::Clean {
            self.cut()?;
        }
        seal_frame(frame, self.header.salt, self.sequence);
        if let Err(source) = self.write(frame) {
            self.tail = Tail::Dirty;
            // Room is given back at once when that is possible; otherwise before the next frame.
            let _ = self.cut();
            return Err(StoreError::io(&self.path, "write", source));
        }
        self.flush()?;
        self.length += frame.len() as u64;
        self.sequence += 1;
        Ok(())
    }

    /// Writes behind what is good, and room for more where that does not suffice.
    fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        let (within, beyond) = frame.split_at(frame.len().min((self.room - self.length) as usize));
        if !within.is_empty() {
            self.file.overwrite(self.length, within)?;
        }
        if beyond.is_empty() {
            return Ok(());
        }
        self.file.append(beyond)?;
        self.room += beyond.len() as u64;
        match self.file.append(&vec![0; self.ahead]) {
            Ok(()) => self.room += self.ahead as u64,
            // The frame is written, and it alone is wanted: a disk may have no room but for it.
            Err(_) => self.tail = Tail::Dirty,
        }
        Ok(())
    }

    /// Makes sure that the file's name is durable. Before that nothing may rely on the file.
    pub(crate) fn ensure_named(&mut self) -> Result<(), StoreError> {
        if let Some(directory) = &self.unnamed {
            directory.sync()?;
            self.unnamed = None;
        }
        Ok(())
    }

    fn cut(&mut self) -> Result<(), StoreError> {
        self.file.truncate(self.length).map_err(|source| StoreError::io(&self.path, "truncate", source))?;
        self.room = self.length;
        self.tail = Tail::Clean;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        self.file.sync().map_err(|source| {
            self.tail = Tail::Untrusted;
            StoreError::io(&self.path, "flush", source)
        })
    }
}
