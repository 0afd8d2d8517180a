//! Checkpoints: all entries at one revision in one file, written beside the running store and read at its start.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cipher::Cipher;
use crate::error::StoreError;
use crate::snapshot::Root;
use crate::state::State;
use crate::types::{Entry, Revision};

use super::codec::{Decoder, write_entry};
use super::directory::Directory;
use super::frame::{FRAME_HEADER, FileHeader, FileKind, FrameHeader, seal_frame, start_frame};
use super::recovery::Opener;

/// About how much of a checkpoint is in memory at a time.
const FRAME_BYTES: usize = 256 * 1024;

/// The contents of a store, as a checkpoint is made of them.
pub(crate) struct Contents {
    pub(crate) number: u64,
    pub(crate) revision: Revision,
    pub(crate) root: Root,
}

/// Writes a checkpoint and makes it the one that counts. Returns its size, or `None` when `stop` was raised first.
pub(crate) fn write(
    directory: &Directory,
    contents: &Contents,
    salt: u32,
    cipher: Option<&dyn Cipher>,
    stop: &AtomicBool,
) -> Result<Option<u64>, StoreError> {
    let path = directory.checkpoint_path(contents.number);
    let unfinished = Directory::unfinished(&path);
    let error = |operation| move |source| StoreError::io(directory.checkpoint_path(contents.number), operation, source);
    let mut file = directory.disk.create(&unfinished).map_err(error("create"))?;
    let header = FileHeader { kind: FileKind::Checkpoint, salt, number: contents.number, revision: contents.revision };
    let header = header.to_bytes();
    file.append(&header).map_err(error("write"))?;
    let mut size = header.len();
    let mut frame = Vec::new();
    let mut sequence = 0;
    let mut entries = contents.root.values();
    loop {
        start_frame(&mut frame);
        while frame.len() < FRAME_BYTES
            && let Some(entry) = entries.next()
        {
            match cipher {
                Some(cipher) => write_sealed(&mut frame, entry, cipher)?,
                None => write_entry(&mut frame, entry),
            }
        }
        // The frame without entries is the end mark.
        let is_last = frame.len() == FRAME_HEADER;
        seal_frame(&mut frame, salt, sequence);
        file.append(&frame).map_err(error("write"))?;
        size += frame.len();
        sequence += 1;
        if is_last {
            break;
        }
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
    }
    file.sync().map_err(error("flush"))?;
    directory.rename(&unfinished, &path)?;
    directory.sync()?;
    Ok(Some(size as u64))
}

fn write_sealed(frame: &mut Vec<u8>, entry: &Entry, cipher: &dyn Cipher) -> Result<(), StoreError> {
    let fail = |source| StoreError::Cipher { key: entry.key.clone(), operation: "encrypt", source };
    match cipher.seal_again(&entry.key, &entry.value).map_err(fail)? {
        Some(value) => write_entry(frame, &Entry { value: value.into(), ..entry.clone() }),
        None => write_entry(frame, entry),
    }
    Ok(())
}

/// Reads the checkpoint with this number; returns the state that it holds and its size.
pub(crate) fn read(directory: &Directory, number: u64, opener: &mut Opener) -> Result<(State, u64), StoreError> {
    let path = directory.checkpoint_path(number);
    let file = directory.disk.read(&path).map_err(|source| StoreError::io(&path, "open", source))?;
    let mut reader = Reader { file: std::io::BufReader::with_capacity(FRAME_BYTES, file), path: &path, offset: 0 };
    let mut bytes = Vec::new();
    reader.fill(&mut bytes, FileHeader::LENGTH)?;
    let header = FileHeader::read(FileKind::Checkpoint, &bytes).filter(|header| header.number == number);
    let header = header.ok_or_else(|| StoreError::corrupt(&path, 0, "bad header"))?;
    let mut state = State::at(header.revision);
    for sequence in 0.. {
        let start = reader.offset;
        reader.fill(&mut bytes, FRAME_HEADER)?;
        let frame = FrameHeader::read(&bytes, header.salt).filter(|frame| frame.sequence == sequence);
        let frame = frame.ok_or_else(|| StoreError::corrupt(&path, start, "bad frame header"))?;
        if frame.length == 0 {
            break;
        }
        reader.fill(&mut bytes, frame.length)?;
        if !frame.fits(&bytes, header.salt) {
            return Err(StoreError::corrupt(&path, start, "checksum does not match"));
        }
        let mut decoder = Decoder(&bytes);
        while !decoder.is_empty() {
            let entry = decoder.entry().map_err(|error| StoreError::corrupt(&path, start, error.to_string()))?;
            state.restore(Entry { value: opener.open(&entry.key, entry.value)?, ..entry });
        }
    }
    Ok((state, reader.offset))
}

struct Reader<'a, R> {
    file: R,
    path: &'a std::path::Path,
    offset: u64,
}

impl<R: Read> Reader<'_, R> {
    /// Reads exactly `length` bytes into `bytes`, in place of what was there.
    fn fill(&mut self, bytes: &mut Vec<u8>, length: usize) -> Result<(), StoreError> {
        bytes.clear();
        let read = (&mut self.file).take(length as u64).read_to_end(bytes);
        let read = read.map_err(|source| StoreError::io(self.path, "read", source))?;
        if read < length {
            return Err(StoreError::corrupt(self.path, self.offset, "file ends too early"));
        }
        self.offset += read as u64;
        Ok(())
    }
}
