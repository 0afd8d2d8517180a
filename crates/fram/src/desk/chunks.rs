//! A body that arrives as chunks, for a reader that blocks.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

/// Chunks on their way.
const DEPTH: usize = 16;

/// Reads what is sent; must not be used on a thread of the async runtime.
pub(super) struct Chunks {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl Chunks {
    pub(super) fn pair() -> (Self, mpsc::Sender<io::Result<Bytes>>) {
        let (sender, receiver) = mpsc::channel(DEPTH);
        (Self { receiver, current: Bytes::new() }, sender)
    }
}

impl Read for Chunks {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                None => return Ok(0),
                Some(chunk) => self.current = chunk?,
            }
        }
        let read = out.len().min(self.current.len());
        self.current.copy_to_slice(&mut out[..read]);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_read_as_one_stream_and_a_broken_one_fails() {
        let (mut chunks, sender) = Chunks::pair();
        for chunk in ["ab", "", "cde"] {
            sender.blocking_send(Ok(Bytes::from_static(chunk.as_bytes()))).unwrap();
        }
        let mut start = [0; 4];
        chunks.read_exact(&mut start).unwrap();
        assert_eq!(&start, b"abcd");
        sender.blocking_send(Err(io::ErrorKind::UnexpectedEof.into())).unwrap();
        let mut rest = Vec::new();
        assert!(chunks.read_to_end(&mut rest).is_err());
        assert_eq!(rest, b"e");
    }
}
