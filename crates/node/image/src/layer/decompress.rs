//! Gzip, zstd or plain, told apart by the first bytes: media types lie more often than magic numbers.

use std::io::{self, BufRead, BufReader, Read};

use super::ration::HeadersTooBig;
use super::{LayerError, LimitReached};

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// Larger windows would let a small blob demand much memory (RFC 8878, section 3.1.1.1.2 recommends 8 MiB; zstd --long uses 27).
const ZSTD_WINDOW_LOG: u32 = 27;

pub(crate) enum Decompressed<R: Read> {
    Plain(BufReader<R>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<BufReader<R>>>),
    Zstd(zstd::Decoder<'static, BufReader<R>>),
}

impl<R: Read> Decompressed<R> {
    pub(crate) fn new(reader: R) -> io::Result<Self> {
        let mut reader = BufReader::with_capacity(128 << 10, reader);
        let head = reader.fill_buf()?;
        if head.starts_with(GZIP) {
            Ok(Self::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(reader))))
        } else if head.starts_with(ZSTD) {
            let mut decoder = zstd::Decoder::with_buffer(reader)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Ok(Self::Zstd(decoder))
        } else {
            Ok(Self::Plain(reader))
        }
    }
}

impl<R: Read> Read for Decompressed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(reader) => reader.read(buffer),
            Self::Gzip(reader) => reader.read(buffer),
            Self::Zstd(reader) => reader.read(buffer),
        }
    }
}

/// What an error while reading the archive means for the layer.
pub(crate) fn classify(layer: &str, error: io::Error) -> LayerError {
    let limited = error.get_ref().is_some_and(|e| e.is::<LimitReached>() || e.is::<HeadersTooBig>());
    let layer = layer.to_owned();
    if limited { LayerError::TooBig { layer, reason: error.to_string() } } else { LayerError::Corrupt { layer, reason: error.to_string() } }
}
