//! A bound on what the tar reader holds in memory: it keeps extended headers (long names, pax records) whole, and an archive
//! that is small on the wire may claim gigabytes of them.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

/// More than any entry's names and attributes need: the kernel takes 4 KiB of path and 64 KiB of extended attributes.
const HEADERS: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
#[error("the headers of one entry take more than {HEADERS} bytes")]
pub(crate) struct HeadersTooBig;

/// How many bytes may be read until the next entry's content begins.
#[derive(Clone)]
pub(crate) struct Ration(Rc<Cell<u64>>);

impl Ration {
    /// Before asking for the next entry: its headers, and what is left unread of the last one.
    pub(crate) fn headers(&self, unread: u64) {
        self.0.set(HEADERS.saturating_add(unread));
    }

    /// Once an entry is there: its content is the caller's to bound.
    pub(crate) fn content(&self) {
        self.0.set(u64::MAX);
    }
}

pub(crate) struct Rationed<R> {
    inner: R,
    ration: Ration,
}

impl<R: Read> Rationed<R> {
    pub(crate) fn new(inner: R) -> (Self, Ration) {
        let ration = Ration(Rc::new(Cell::new(HEADERS)));
        (Self { inner, ration: ration.clone() }, ration)
    }
}

impl<R: Read> Read for Rationed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.ration.0.get();
        if left == 0 && !buffer.is_empty() {
            return Err(io::Error::other(HeadersTooBig));
        }
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let n = self.inner.read(&mut buffer[..most])?;
        if left != u64::MAX {
            self.ration.0.set(left - n as u64);
        }
        Ok(n)
    }
}
