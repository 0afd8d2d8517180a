//! Reading all of a data directory without changing it, and naming everything that is not as it was written: the file, the place in
//! it, and the revision and key that it concerns. Where one bit was flipped it is told which, and reading goes on with it put right.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::StoreError;
use crate::types::{Key, Revision};

use super::Options;
use super::directory::{Directory, FIRST_LOG};
use super::frame::{FRAME_HEADER, FileHeader, FileKind, FrameHeader, checksum, holds_later_frame, is_room};
use super::payload::{self, Place, Reading};
use super::{flip, flip::Flip};

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub path: PathBuf,
    /// The byte in the file.
    pub offset: u64,
    /// The transaction that it concerns, as far as that can be said.
    pub revision: Option<Revision>,
    /// The key that it concerns, as far as that can be said.
    pub key: Option<Key>,
    pub reason: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: byte {}", self.path.display(), self.offset)?;
        if let Some(revision) = self.revision {
            write!(f, ", revision {revision}")?;
        }
        if let Some(key) = &self.key {
            write!(f, ", key {key}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub findings: Vec<Finding>,
    /// What is no damage, but worth knowing.
    pub notes: Vec<String>,
    pub files: usize,
    pub bytes: u64,
    pub keys: usize,
    pub revision: Revision,
}

/// Reads the data directory that the options name. Nothing is written, and nobody else may have it open.
pub fn check(options: &Options) -> Result<Report, StoreError> {
    // It is not to be created by being looked for.
    options.disk.list(&options.directory).map_err(|source| StoreError::io(&options.directory, "list", source))?;
    let directory = Directory::open(Arc::clone(&options.disk), options.directory.clone())?;
    if !directory.check_format()? {
        return Err(StoreError::NotAStore { path: directory.path.clone(), found: "no format file".into() });
    }
    let contents = directory.contents()?;
    let mut check = Check { directory: &directory, reading: Reading::default(), report: Report::default() };
    for name in contents.unfinished {
        check.report.notes.push(format!("{}: was never finished, and goes at the next start", directory.path.join(name).display()));
    }
    let first = contents.checkpoints.last().copied();
    if let Some(number) = first {
        check.checkpoint(number)?;
    }
    let first = first.unwrap_or(FIRST_LOG);
    let logs: Vec<u64> = contents.logs.into_iter().filter(|number| *number >= first).collect();
    let last = logs.last().copied().unwrap_or(first).max(first);
    for number in first..=last {
        if logs.contains(&number) {
            check.log(number, number == last)?;
        } else {
            check.find(&directory.log_path(number), 0, Place::default(), "log is missing");
        }
    }
    check.report.keys = check.reading.state.root.len();
    check.report.revision = check.reading.state.revision;
    Ok(check.report)
}

struct Check<'a> {
    directory: &'a Directory,
    reading: Reading,
    report: Report,
}

impl Check<'_> {
    fn find(&mut self, path: &Path, offset: usize, place: Place, reason: impl Into<String>) {
        let Place { revision, key } = place;
        self.report.findings.push(Finding { path: path.into(), offset: offset as u64, revision, key, reason: reason.into() });
    }

    fn read(&mut self, path: &Path) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::new();
        let file = self.directory.disk.read(path);
        file.and_then(|mut file| file.read_to_end(&mut bytes)).map_err(|source| StoreError::io(path, "read", source))?;
        self.report.files += 1;
        self.report.bytes += bytes.len() as u64;
        Ok(bytes)
    }

    fn checkpoint(&mut self, number: u64) -> Result<(), StoreError> {
        let path = self.directory.checkpoint_path(number);
        let bytes = self.read(&path)?;
        let Some(header) = self.header(&path, &bytes, FileKind::Checkpoint, number) else { return Ok(()) };
        self.reading.start(header.revision);
        let mut frames = Frames::of(bytes, header.salt, false);
        loop {
            match self.frame(&path, &mut frames, payload::in_checkpoint) {
                // The frame without entries is the end mark.
                Next::Frame(payload) if payload.is_empty() => return Ok(()),
                Next::Frame(payload) => {
                    let (offset, outcome) = (frames.offset - payload.len(), self.reading.entries(&payload));
                    if let Err(reason) = outcome {
                        self.find(&path, offset, Place::default(), reason);
                    }
                }
                Next::Skipped => self.reading.lose(),
                Next::End => {
                    self.find(&path, frames.offset, Place::default(), "file ends too early");
                    self.reading.lose();
                    return Ok(());
                }
            }
        }
    }

    fn log(&mut self, number: u64, is_last: bool) -> Result<(), StoreError> {
        let path = self.directory.log_path(number);
        let bytes = self.read(&path)?;
        let Some(header) = self.header(&path, &bytes, FileKind::Log, number) else { return Ok(()) };
        if let Err(reason) = self.reading.goes_on_from(header.revision) {
            self.find(&path, 0, Place::default(), reason);
        }
        let next = if is_last { None } else { self.base_of(number + 1) };
        let mut frames = Frames::of(bytes, header.salt, is_last);
        // Behind the revision from which the next log starts stands what was refused when it was written.
        while !is_room(&frames.bytes[frames.offset..]) && next.is_none_or(|next| self.reading.state.revision < next) {
            match self.frame(&path, &mut frames, payload::in_log) {
                Next::Frame(payload) => {
                    let (start, outcome) = (frames.offset - payload.len(), self.reading.group(&payload));
                    if let Err((place, reason)) = outcome {
                        self.find(&path, start, place, reason);
                    }
                }
                Next::Skipped => self.reading.lose(),
                Next::End if is_last => {
                    let at = frames.offset;
                    self.report.notes.push(format!("{}: byte {at}: an unfinished write, which goes at the next start", path.display()));
                    return Ok(());
                }
                Next::End => {
                    self.find(&path, frames.offset, Place::default(), "damaged record before the end of the log");
                    self.reading.lose();
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The revision from which a log starts, where its header can be read.
    fn base_of(&self, number: u64) -> Option<Revision> {
        let mut bytes = Vec::new();
        let file = self.directory.disk.read(&self.directory.log_path(number)).ok()?;
        file.take(FileHeader::LENGTH as u64).read_to_end(&mut bytes).ok()?;
        FileHeader::read(FileKind::Log, &bytes).map(|header| header.revision)
    }

    /// The header of a file; put right where one bit of it is wrong.
    fn header(&mut self, path: &Path, bytes: &[u8], kind: FileKind, number: u64) -> Option<FileHeader> {
        let right = |header: &FileHeader| header.number == number;
        if let Some(header) = FileHeader::read(kind, bytes).filter(right) {
            return Some(header);
        }
        let mended = bytes.get(..FileHeader::LENGTH).and_then(|bytes| mend(bytes, 0));
        match mended.and_then(|(mended, at, bit)| Some((FileHeader::read(kind, &mended).filter(right)?, at, bit))) {
            Some((header, at, bit)) => {
                self.find(path, at, Place::default(), format!("bit {bit} of the file's header was flipped"));
                Some(header)
            }
            None => {
                self.find(path, 0, Place::default(), "bad header: nothing in the file can be read");
                self.reading.lose();
                None
            }
        }
    }

    /// The payload of the next frame, put right where one bit of the frame is wrong.
    fn frame(&mut self, path: &Path, frames: &mut Frames, locate: impl Fn(&[u8], usize) -> Place) -> Next {
        let start = frames.offset;
        let Some(header) = frames.header() else {
            let Some((header, at, bit)) = frames.mended_header() else { return self.skip(path, frames) };
            self.find(path, start + at, Place::default(), format!("bit {bit} of a record's header was flipped"));
            return self.payload(path, frames, header, locate);
        };
        self.payload(path, frames, header, locate)
    }

    fn payload(&mut self, path: &Path, frames: &mut Frames, header: FrameHeader, locate: impl Fn(&[u8], usize) -> Place) -> Next {
        let start = frames.offset + FRAME_HEADER;
        let Some(payload) = start.checked_add(header.length).and_then(|end| frames.bytes.get(start..end)) else { return Next::End };
        let mut payload = payload.to_vec();
        (frames.offset, frames.sequence) = (start + payload.len(), header.sequence + 1);
        if header.fits(&payload, frames.salt) {
            return Next::Frame(payload);
        }
        let computed = checksum(frames.salt, &payload);
        match flip::locate(payload.len(), computed, header.payload_checksum) {
            Some(Flip::Covered { byte, bit }) => {
                payload[byte] ^= 1 << bit;
                let place = locate(&payload, byte);
                self.find(path, start + byte, place, format!("bit {bit} was flipped"));
                Next::Frame(payload)
            }
            // A write that was cut short is none that was acknowledged.
            _ if frames.may_be_torn && !holds_later_frame(&frames.bytes[start..], frames.salt, header.sequence) => {
                (frames.offset, frames.sequence) = (start - FRAME_HEADER, header.sequence);
                Next::End
            }
            _ => {
                let place = locate(&payload, 0);
                self.find(path, start, place, "checksum does not match; more than one bit is wrong");
                Next::Skipped
            }
        }
    }

    /// Goes to the next frame that can be read.
    fn skip(&mut self, path: &Path, frames: &mut Frames) -> Next {
        let start = frames.offset;
        let found = (start + 1..frames.bytes.len()).find_map(|at| {
            let header = FrameHeader::read(&frames.bytes[at..], frames.salt)?;
            (header.sequence > frames.sequence).then_some((at, header.sequence))
        });
        let Some((at, sequence)) = found else { return Next::End };
        self.find(path, start, Place::default(), format!("{} bytes cannot be read", at - start));
        (frames.offset, frames.sequence) = (at, sequence);
        Next::Skipped
    }
}

/// What follows in a file.
enum Next {
    Frame(Vec<u8>),
    /// There was something that could not be read.
    Skipped,
    /// Nothing that can be read.
    End,
}

/// A file on the way through its frames.
struct Frames {
    bytes: Vec<u8>,
    salt: u32,
    offset: usize,
    sequence: u64,
    /// Its last frame may have been cut short when it was written.
    may_be_torn: bool,
}

impl Frames {
    fn of(bytes: Vec<u8>, salt: u32, may_be_torn: bool) -> Self {
        Self { bytes, salt, offset: FileHeader::LENGTH, sequence: 0, may_be_torn }
    }

    fn header(&self) -> Option<FrameHeader> {
        let rest = self.bytes.get(self.offset..)?;
        FrameHeader::read(rest, self.salt).filter(|header| header.sequence == self.sequence)
    }

    fn mended_header(&self) -> Option<(FrameHeader, usize, u8)> {
        let bytes = self.bytes.get(self.offset..self.offset + FRAME_HEADER)?;
        let (mended, at, bit) = mend(bytes, self.salt)?;
        let header = FrameHeader::read(&mended, self.salt).filter(|header| header.sequence == self.sequence)?;
        Some((header, at, bit))
    }
}

/// A header with its checksum at its end, with the one bit put right that is wrong, and where that is.
fn mend(bytes: &[u8], salt: u32) -> Option<(Vec<u8>, usize, u8)> {
    let (covered, written) = bytes.split_last_chunk::<4>()?;
    let (at, bit) = match flip::locate(covered.len(), checksum(salt, covered), u32::from_le_bytes(*written))? {
        Flip::Covered { byte, bit } => (byte, bit),
        Flip::Checksum { bit } => (covered.len() + usize::from(bit / 8), bit % 8),
    };
    let mut mended = bytes.to_vec();
    mended[at] ^= 1 << bit;
    Some((mended, at, bit))
}
