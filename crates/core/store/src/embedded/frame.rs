//! The checksummed envelope of everything that the engine writes: a header per file and a header per frame. Pure.
//!
//! Every checksum starts from the file's salt, which no client knows, so that no value can pass for a frame.

use crate::types::Revision;

use super::codec::{Decoder, write_u32, write_u64};

/// What a file is, as its first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    Log,
    Checkpoint,
}

impl FileKind {
    const fn magic(self) -> [u8; 8] {
        match self {
            Self::Log => *b"FRAMLOG\n",
            Self::Checkpoint => *b"FRAMCKP\n",
        }
    }
}

/// The start of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileHeader {
    pub(crate) kind: FileKind,
    pub(crate) salt: u32,
    /// The file's place in the sequence of logs; a checkpoint carries the number of the log that continues it.
    pub(crate) number: u64,
    /// The revision that the file starts from (a log) or holds (a checkpoint).
    pub(crate) revision: Revision,
}

impl FileHeader {
    pub(crate) const LENGTH: usize = 8 + 4 + 8 + 8 + 4;

    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = self.kind.magic().to_vec();
        write_u32(&mut bytes, self.salt);
        write_u64(&mut bytes, self.number);
        write_u64(&mut bytes, self.revision.0);
        let checksum = checksum(0, &bytes);
        write_u32(&mut bytes, checksum);
        bytes
    }

    /// Reads the header at the start of `bytes`; `None` when it is not one of this kind or damaged.
    pub(crate) fn read(kind: FileKind, bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..Self::LENGTH)?;
        let mut decoder = Decoder(bytes.strip_prefix(&kind.magic())?);
        let (salt, number, revision) = (decoder.u32().ok()?, decoder.u64().ok()?, Revision(decoder.u64().ok()?));
        let covered = bytes.get(..Self::LENGTH - 4)?;
        (decoder.u32().ok()? == checksum(0, covered)).then_some(Self { kind, salt, number, revision })
    }
}

const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"\xf7fr\x01");

/// The length of a frame's header.
pub(crate) const FRAME_HEADER: usize = 4 + 4 + 8 + 4 + 4;

/// A buffer with room for a frame's header, to be filled and then sealed.
pub(crate) fn start_frame(buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.resize(FRAME_HEADER, 0);
}

/// Completes the frame in `buffer`.
pub(crate) fn seal_frame(buffer: &mut [u8], salt: u32, sequence: u64) {
    let (head, payload) = buffer.split_at_mut(FRAME_HEADER);
    let mut header = Vec::with_capacity(FRAME_HEADER);
    write_u32(&mut header, FRAME_MAGIC);
    write_u32(&mut header, u32::try_from(payload.len()).unwrap_or(u32::MAX));
    write_u64(&mut header, sequence);
    write_u32(&mut header, checksum(salt, payload));
    let sum = checksum(salt, &header);
    write_u32(&mut header, sum);
    head.copy_from_slice(&header);
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) length: usize,
    pub(crate) sequence: u64,
    pub(crate) payload_checksum: u32,
}

impl FrameHeader {
    /// Reads the header at the start of `bytes`; `None` when it is cut or damaged.
    pub(crate) fn read(bytes: &[u8], salt: u32) -> Option<Self> {
        let bytes = bytes.get(..FRAME_HEADER)?;
        let mut decoder = Decoder(bytes);
        let magic = decoder.u32().ok()?;
        let (length, sequence) = (decoder.u32().ok()?, decoder.u64().ok()?);
        let (payload_checksum, header_checksum) = (decoder.u32().ok()?, decoder.u32().ok()?);
        let intact = magic == FRAME_MAGIC && header_checksum == checksum(salt, &bytes[..FRAME_HEADER - 4]);
        intact.then_some(Self { length: usize::try_from(length).ok()?, sequence, payload_checksum })
    }

    pub(crate) fn fits(&self, payload: &[u8], salt: u32) -> bool {
        self.payload_checksum == checksum(salt, payload)
    }
}

/// The payload of the frame with this sequence number at the start of `bytes`; `None` when it is cut or damaged.
pub(crate) fn read_frame(bytes: &[u8], salt: u32, sequence: u64) -> Option<&[u8]> {
    let header = FrameHeader::read(bytes, salt).filter(|header| header.sequence == sequence)?;
    let payload = bytes.get(FRAME_HEADER..FRAME_HEADER.checked_add(header.length)?)?;
    header.fits(payload, salt).then_some(payload)
}

/// Whether this is what a log has behind its last frame: zeros, or nothing.
pub(crate) fn is_room(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// Whether the header of a frame later than `sequence` stands anywhere in `bytes`.
///
/// A frame is written only after its predecessor is durable, so a damaged frame with a successor is damage to what was
/// acknowledged, and one without is a write that was cut short.
pub(crate) fn holds_later_frame(bytes: &[u8], salt: u32, sequence: u64) -> bool {
    let magic = FRAME_MAGIC.to_le_bytes();
    let starts = bytes.windows(magic.len()).enumerate().filter(|(_, window)| *window == magic);
    starts.filter_map(|(at, _)| FrameHeader::read(&bytes[at..], salt)).any(|header| header.sequence > sequence)
}

pub(crate) fn checksum(salt: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(bytes);
    hasher.finalize()
}
