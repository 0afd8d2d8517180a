//! Frames of SPDY/3.1 (draft-mbelshe-httpbis-spdy-00 with version 3). Pure. Header blocks come compressed with a dictionary of
//! the protocol; ours are sent as stored blocks, which every inflater reads.

use bytes::Bytes;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{TINFL_FLAG_HAS_MORE_INPUT, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

/// Section 2.6.10.1 of the draft.
const DICTIONARY: &[u8] = include_bytes!("dictionary.bin");
pub(crate) const HEAD: usize = 8;
const VERSION: u16 = 3;
const END: u8 = 1;
/// Longer frames are refused; clients send 32 KiB at most.
const LONGEST: usize = 1 << 20;
const LONGEST_HEADERS: usize = 64 << 10;
/// What a back-reference can reach.
const WINDOW: usize = 32 << 10;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;

#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("read a frame: {0}")]
    Io(#[from] std::io::Error),
    #[error("a frame of {0} bytes is too long")]
    TooLong(usize),
    #[error("a frame is malformed: {0}")]
    Malformed(&'static str),
}

#[derive(Debug, PartialEq)]
pub(crate) enum Frame {
    Open {
        id: u32,
        end: bool,
        headers: Vec<(String, String)>,
    },
    Data {
        id: u32,
        end: bool,
        bytes: Bytes,
    },
    Reset {
        id: u32,
    },
    Ping(u32),
    GoAway,
    /// Settings, window updates, and what else does not matter here.
    Other,
}

pub(crate) fn body_length(head: &[u8; HEAD]) -> Result<usize, FrameError> {
    let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
    if length > LONGEST { Err(FrameError::TooLong(length)) } else { Ok(length) }
}

fn number(body: &[u8], at: usize) -> Result<u32, FrameError> {
    let bytes = body.get(at..at + 4).ok_or(FrameError::Malformed("it is too short"))?;
    Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

pub(crate) fn parse(head: &[u8; HEAD], body: Vec<u8>, inflater: &mut Inflater) -> Result<Frame, FrameError> {
    let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
    let end = head[4] & END != 0;
    if first >> 31 == 0 {
        return Ok(Frame::Data { id: first, end, bytes: body.into() });
    }
    if (first >> 16) & 0x7fff != u32::from(VERSION) {
        return Err(FrameError::Malformed("it is of another version"));
    }
    let id = || number(&body, 0).map(|id| id & 0x7fff_ffff);
    match first as u16 {
        SYN_STREAM => {
            let block = body.get(10..).ok_or(FrameError::Malformed("it is too short"))?;
            Ok(Frame::Open { id: id()?, end, headers: headers(&inflater.inflate(block)?)? })
        }
        SYN_REPLY => {
            // The compression of all headers is one: they are read even where nobody wants them.
            inflater.inflate(body.get(4..).unwrap_or_default())?;
            Ok(Frame::Other)
        }
        RST_STREAM => Ok(Frame::Reset { id: id()? }),
        PING => Ok(Frame::Ping(number(&body, 0)?)),
        GOAWAY => Ok(Frame::GoAway),
        _ => Ok(Frame::Other),
    }
}

fn headers(block: &[u8]) -> Result<Vec<(String, String)>, FrameError> {
    let mut at = 4;
    let mut text = || {
        let length = number(block, at)? as usize;
        let bytes =
            at.checked_add(4 + length).and_then(|end| block.get(at + 4..end)).ok_or(FrameError::Malformed("a header is too long"))?;
        at += 4 + length;
        Ok::<_, FrameError>(String::from_utf8_lossy(bytes).into_owned())
    };
    let count = number(block, 0)?;
    (0..count).map(|_| Ok((text()?.to_ascii_lowercase(), text()?))).collect()
}

/// Undoes the compression of header blocks, which goes on from one to the next.
pub(crate) struct Inflater {
    state: Box<DecompressorOxide>,
    /// The dictionary and what followed it: what back-references point into.
    history: Vec<u8>,
    begun: bool,
}

impl Inflater {
    pub(crate) fn new() -> Self {
        Self { state: Box::default(), history: DICTIONARY.to_vec(), begun: false }
    }

    pub(crate) fn inflate(&mut self, mut input: &[u8]) -> Result<Vec<u8>, FrameError> {
        if !self.begun {
            // Two bytes of zlib's header, and four that name the dictionary where it says so.
            let flags = *input.get(1).ok_or(FrameError::Malformed("its headers are too short"))?;
            let skip = if flags & 0x20 != 0 { 6 } else { 2 };
            if skip == 2 {
                self.history.clear();
            }
            input = input.get(skip..).ok_or(FrameError::Malformed("its headers are too short"))?;
            self.begun = true;
        }
        let begin = self.history.len();
        let mut window = std::mem::take(&mut self.history);
        window.resize(begin + LONGEST_HEADERS, 0);
        let flags = TINFL_FLAG_HAS_MORE_INPUT | TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
        let (status, _, written) = decompress(&mut self.state, input, &mut window, begin, flags);
        if !matches!(status, TINFLStatus::NeedsMoreInput | TINFLStatus::Done) {
            return Err(FrameError::Malformed("its headers cannot be inflated"));
        }
        window.truncate(begin + written);
        let out = window[begin..].to_vec();
        self.history = window.split_off(window.len().saturating_sub(WINDOW));
        Ok(out)
    }
}

fn control(kind: u16, flags: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD + body.len());
    out.extend((0x8000 | VERSION).to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.push(flags);
    out.extend(&u32::try_from(body.len()).unwrap_or(0).to_be_bytes()[1..]);
    out.extend(body);
    out
}

pub(crate) fn data(id: u32, end: bool, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD + bytes.len());
    out.extend(id.to_be_bytes());
    out.push(if end { END } else { 0 });
    out.extend(&u32::try_from(bytes.len()).unwrap_or(0).to_be_bytes()[1..]);
    out.extend(bytes);
    out
}

/// Accepts a stream, without headers. `first`: nothing was compressed on this connection yet.
pub(crate) fn reply(id: u32, first: bool) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if first {
        // zlib's header for a stream without dictionary.
        body.extend([0x78, 0x01]);
    }
    // One stored block of four bytes, "no headers", and an empty one: Go's inflater gives out nothing before such a flush.
    body.extend([0x00, 0x04, 0x00, 0xfb, 0xff, 0, 0, 0, 0]);
    body.extend([0x00, 0x00, 0x00, 0xff, 0xff]);
    control(SYN_REPLY, 0, &body)
}

pub(crate) fn ping(id: u32) -> Vec<u8> {
    control(PING, 0, &id.to_be_bytes())
}

/// Opens a stream, as a client does.
pub(crate) fn open(id: u32, headers: &[(&str, &str)], first: bool) -> Vec<u8> {
    let mut block = u32::try_from(headers.len()).unwrap_or(0).to_be_bytes().to_vec();
    for text in headers.iter().flat_map(|(n, v)| [n, v]) {
        block.extend(u32::try_from(text.len()).unwrap_or(0).to_be_bytes());
        block.extend(text.as_bytes());
    }
    let mut body = id.to_be_bytes().to_vec();
    body.extend([0; 6]);
    if first {
        body.extend([0x78, 0x01]);
    }
    let length = u16::try_from(block.len()).unwrap_or(0);
    body.push(0);
    body.extend(length.to_le_bytes());
    body.extend((!length).to_le_bytes());
    body.extend(block);
    // As in a reply: Go's inflater holds back what no empty block follows.
    body.extend([0x00, 0x00, 0x00, 0xff, 0xff]);
    control(SYN_STREAM, 0, &body)
}
