//! How transactions and entries look as bytes, in the log and in checkpoints. Pure, little-endian, without versions of
//! its own: the data directory has one. Reading never panics, whatever the bytes.

use bytes::Bytes;

use crate::clock::UnixMillis;
use crate::state::Change;
use crate::types::{Entry, Key, Revision};

/// Bytes that are not what a writer of this version produces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("record ends too early")]
    Short,
    #[error("unknown tag {0}")]
    Tag(u8),
    #[error("key is not UTF-8")]
    Key,
}

const PUT: u8 = 1;
const PUT_EXPIRING: u8 = 2;
const DELETE: u8 = 3;

/// Appends a transaction: its revision and its changes.
pub(crate) fn write_transaction(buffer: &mut Vec<u8>, revision: Revision, changes: &[Change]) {
    write_u64(buffer, revision.0);
    // A transaction has at most `MAX_OPERATIONS` changes.
    buffer.push(u8::try_from(changes.len()).unwrap_or(u8::MAX));
    for change in changes {
        match change {
            Change::Put { key, value, expires } => {
                write_put_tag(buffer, *expires);
                write_key(buffer, key);
                write_bytes(buffer, value);
            }
            Change::Delete { key } => {
                buffer.push(DELETE);
                write_key(buffer, key);
            }
        }
    }
}

/// Appends an entry with all that a checkpoint keeps of it.
pub(crate) fn write_entry(buffer: &mut Vec<u8>, entry: &Entry) {
    write_put_tag(buffer, entry.expires);
    write_u64(buffer, entry.created.0);
    write_u64(buffer, entry.modified.0);
    write_u64(buffer, entry.version);
    write_key(buffer, &entry.key);
    write_bytes(buffer, &entry.value);
}

fn write_put_tag(buffer: &mut Vec<u8>, expires: Option<UnixMillis>) {
    match expires {
        None => buffer.push(PUT),
        Some(expires) => {
            buffer.push(PUT_EXPIRING);
            write_u64(buffer, expires.0);
        }
    }
}

pub(crate) fn write_u64(buffer: &mut Vec<u8>, value: u64) {
    buffer.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn write_u32(buffer: &mut Vec<u8>, value: u32) {
    buffer.extend_from_slice(&value.to_le_bytes());
}

fn write_key(buffer: &mut Vec<u8>, key: &Key) {
    // Keys are checked against `MAX_KEY_BYTES` before they get here.
    let length = u16::try_from(key.len()).unwrap_or(u16::MAX);
    buffer.extend_from_slice(&length.to_le_bytes());
    buffer.extend_from_slice(&key.as_bytes()[..usize::from(length)]);
}

fn write_bytes(buffer: &mut Vec<u8>, bytes: &[u8]) {
    // A group is far smaller than 4 GiB, and so is a value.
    write_u32(buffer, u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    buffer.extend_from_slice(bytes);
}

/// Reads what the functions above wrote.
pub(crate) struct Decoder<'a>(pub(crate) &'a [u8]);

impl<'a> Decoder<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn transaction(&mut self) -> Result<(Revision, Vec<Change>), Malformed> {
        let (revision, count) = self.transaction_head()?;
        let changes = (0..count).map(|_| self.change()).collect::<Result<_, _>>()?;
        Ok((revision, changes))
    }

    /// The revision of a transaction, and how many changes follow.
    pub(crate) fn transaction_head(&mut self) -> Result<(Revision, u8), Malformed> {
        Ok((Revision(self.u64()?), self.u8()?))
    }

    pub(crate) fn change(&mut self) -> Result<Change, Malformed> {
        let tag = self.u8()?;
        if tag == DELETE {
            return Ok(Change::Delete { key: self.key()? });
        }
        let expires = self.expiry(tag)?;
        Ok(Change::Put { key: self.key()?, value: self.value()?, expires })
    }

    pub(crate) fn entry(&mut self) -> Result<Entry, Malformed> {
        let tag = self.u8()?;
        let expires = self.expiry(tag)?;
        let (created, modified, version) = (Revision(self.u64()?), Revision(self.u64()?), self.u64()?);
        Ok(Entry { key: self.key()?, value: self.value()?, created, modified, version, expires })
    }

    fn expiry(&mut self, tag: u8) -> Result<Option<UnixMillis>, Malformed> {
        match tag {
            PUT => Ok(None),
            PUT_EXPIRING => Ok(Some(UnixMillis(self.u64()?))),
            other => Err(Malformed::Tag(other)),
        }
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    fn key(&mut self) -> Result<Key, Malformed> {
        let length = u16::from_le_bytes(self.array()?);
        let text = std::str::from_utf8(self.take(usize::from(length))?).map_err(|_| Malformed::Key)?;
        Ok(Key::from(text))
    }

    /// A copy of its own, so that a small value does not keep the whole file that it was read from in memory.
    fn value(&mut self) -> Result<Bytes, Malformed> {
        let length = self.u32()?;
        let length = usize::try_from(length).map_err(|_| Malformed::Short)?;
        Ok(Bytes::copy_from_slice(self.take(length)?))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (array, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(*array)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(bytes)
    }
}
