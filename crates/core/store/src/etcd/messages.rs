//! The messages of etcd's API v3 that Fram sends and reads, by the field numbers of its rpc.proto and kv.proto. Pure.

use bytes::Bytes;
use fram_grpc::wire::{Field, Malformed, Writer, fields};

use crate::types::{Condition, Revision};

use super::cluster::Shift;

/// A key with its value, as etcd has them; `mvccpb.KeyValue`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeyValue {
    pub(crate) key: Vec<u8>,
    pub(crate) created: u64,
    pub(crate) modified: u64,
    pub(crate) version: u64,
    pub(crate) value: Bytes,
    pub(crate) lease: u64,
}

impl KeyValue {
    fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut out = Self::default();
        for field in fields(bytes) {
            match field? {
                (1, value) => out.key = value.bytes()?.to_vec(),
                (2, value) => out.created = value.number()?,
                (3, value) => out.modified = value.number()?,
                (4, value) => out.version = value.number()?,
                (5, value) => out.value = Bytes::copy_from_slice(value.bytes()?),
                (6, value) => out.lease = value.number()?,
                _ => {}
            }
        }
        Ok(out)
    }
}

/// The revision in a ResponseHeader.
fn header(value: Field<'_>) -> Result<Revision, Malformed> {
    number_of(value.bytes()?, 3).map(Revision)
}

/// The number in the field of a message; zero where it is left out.
fn number_of(bytes: &[u8], wanted: u64) -> Result<u64, Malformed> {
    let mut out = 0;
    for field in fields(bytes) {
        let (number, value) = field?;
        if number == wanted {
            out = value.number()?;
        }
    }
    Ok(out)
}

/// The revision that any answer of the service KV carries.
pub(crate) fn revision_of(answer: &[u8]) -> Result<Revision, Malformed> {
    let mut out = Revision::default();
    for field in fields(answer) {
        if let (1, value) = field? {
            out = header(value)?;
        }
    }
    Ok(out)
}

/// The end of the range of all keys with a prefix; all keys where it is empty.
pub(crate) fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// The start of the same range: etcd knows no empty key.
pub(crate) fn prefix_start(prefix: &[u8]) -> Vec<u8> {
    if prefix.is_empty() { vec![0] } else { prefix.to_vec() }
}

/// A RangeRequest for one key.
pub(crate) fn get(key: &[u8]) -> Writer {
    Writer::default().bytes(1, key)
}

/// A RangeRequest for a page of the keys from `start` to `end`, as they were at a revision.
pub(crate) fn page(start: &[u8], end: &[u8], limit: u64, at: Option<u64>) -> Writer {
    Writer::default().bytes(1, start).bytes(2, end).number(3, limit).number(4, at.unwrap_or_default())
}

/// A RangeResponse.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) revision: Revision,
    pub(crate) kvs: Vec<KeyValue>,
    pub(crate) more: bool,
}

impl Range {
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut out = Self::default();
        for field in fields(bytes) {
            match field? {
                (1, value) => out.revision = header(value)?,
                (2, value) => out.kvs.push(KeyValue::read(value.bytes()?)?),
                (3, value) => out.more = value.number()? != 0,
                _ => {}
            }
        }
        Ok(out)
    }
}

/// What a PutRequest does with the key's lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PutLease {
    /// The key has this one from now on; 0 for none.
    Set(u64),
    /// The key keeps what it has.
    Keep,
}

/// A PutRequest that is answered with the value before.
pub(crate) fn put(key: &[u8], value: &[u8], lease: PutLease) -> Writer {
    let put = Writer::default().bytes(1, key).bytes(2, value);
    match lease {
        PutLease::Set(lease) => put.number(3, lease).number(4, 1),
        PutLease::Keep => put.number(4, 1).number(6, 1),
    }
}

/// A DeleteRangeRequest for one key that is answered with the value before.
pub(crate) fn delete(key: &[u8]) -> Writer {
    Writer::default().bytes(1, key).number(3, 1)
}

/// An operation of a transaction; `RequestOp`.
pub(crate) enum Step {
    Get(Writer),
    Put(Writer),
    Delete(Writer),
}

impl Step {
    fn write(&self) -> Writer {
        match self {
            Self::Get(request) => Writer::default().message(1, request),
            Self::Put(request) => Writer::default().message(2, request),
            Self::Delete(request) => Writer::default().message(3, request),
        }
    }
}

const EQUAL: u64 = 0;
const GREATER: u64 = 1;
const TARGET_CREATE: u64 = 1;
const TARGET_MOD: u64 = 2;
const TARGET_VERSION: u64 = 0;

/// A Compare that holds where the condition does.
pub(crate) fn compare(condition: &Condition, shift: Shift) -> Writer {
    let (result, target, key) = match condition {
        Condition::Absent(key) => (EQUAL, TARGET_CREATE, key),
        Condition::Exists(key) => (GREATER, TARGET_CREATE, key),
        Condition::ModifiedAt(key, _) => (EQUAL, TARGET_MOD, key),
    };
    let compare = Writer::default().number(1, result).number(2, target).bytes(3, key.as_bytes());
    match condition {
        // What is compared with is the zero that is left out.
        Condition::Absent(_) | Condition::Exists(_) => compare,
        Condition::ModifiedAt(_, revision) => compare.number(6, shift.raw(*revision)),
    }
}

/// A Compare that holds where the key was put this many times.
pub(crate) fn compare_version(key: &[u8], version: u64) -> Writer {
    Writer::default().number(1, EQUAL).number(2, TARGET_VERSION).bytes(3, key).number(4, version)
}

/// A Compare that holds where the key was last put at this revision.
pub(crate) fn compare_modified(key: &[u8], revision: u64) -> Writer {
    Writer::default().number(1, EQUAL).number(2, TARGET_MOD).bytes(3, key).number(6, revision)
}

/// A TxnRequest.
pub(crate) fn txn(compares: &[Writer], success: &[Step], failure: &[Step]) -> Writer {
    let request = compares.iter().fold(Writer::default(), |request, compare| request.message(1, compare));
    let request = success.iter().fold(request, |request, step| request.message(2, &step.write()));
    failure.iter().fold(request, |request, step| request.message(3, &step.write()))
}

/// A TxnResponse: what each step found, whether it read, put or deleted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Txn {
    pub(crate) revision: Revision,
    pub(crate) succeeded: bool,
    pub(crate) found: Vec<Option<KeyValue>>,
}

impl Txn {
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut out = Self::default();
        for field in fields(bytes) {
            match field? {
                (1, value) => out.revision = header(value)?,
                (2, value) => out.succeeded = value.number()? != 0,
                (3, value) => out.found.push(found(value.bytes()?)?),
                _ => {}
            }
        }
        Ok(out)
    }
}

/// What one ResponseOp tells of its one key: the `kvs`, `prev_kv` or `prev_kvs` of its answer.
fn found(response: &[u8]) -> Result<Option<KeyValue>, Malformed> {
    let mut out = None;
    for field in fields(response) {
        let (kind, answer) = field?;
        let wanted = if kind == 3 { 3 } else { 2 };
        for field in fields(answer.bytes()?) {
            match field? {
                (number, value) if number == wanted => out = Some(KeyValue::read(value.bytes()?)?),
                _ => {}
            }
        }
    }
    Ok(out)
}

/// A WatchRequest for all changes in a range from a revision on.
pub(crate) fn watch(start: &[u8], end: &[u8], from: u64) -> Writer {
    let create = Writer::default().bytes(1, start).bytes(2, end).number(3, from).number(4, 1);
    Writer::default().message(1, &create)
}

/// A WatchRequest that asks how far the stream's watches have come.
pub(crate) fn progress() -> Writer {
    Writer::default().message(3, &Writer::default())
}

/// A change of a key; `mvccpb.Event`. Of a deletion `kv` has the key and the revision only.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Observed {
    pub(crate) deleted: bool,
    pub(crate) kv: KeyValue,
}

impl Observed {
    fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut out = Self { deleted: false, kv: KeyValue::default() };
        for field in fields(bytes) {
            match field? {
                (1, value) => out.deleted = value.number()? != 0,
                (2, value) => out.kv = KeyValue::read(value.bytes()?)?,
                _ => {}
            }
        }
        Ok(out)
    }
}

/// A WatchResponse.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Watched {
    pub(crate) revision: Revision,
    pub(crate) created: bool,
    pub(crate) canceled: bool,
    /// The oldest revision that there is, where the watch asked for what is compacted.
    pub(crate) compacted: Revision,
    pub(crate) reason: String,
    pub(crate) events: Vec<Observed>,
}

impl Watched {
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut out = Self::default();
        for field in fields(bytes) {
            match field? {
                (1, value) => out.revision = header(value)?,
                (3, value) => out.created = value.number()? != 0,
                (4, value) => out.canceled = value.number()? != 0,
                (5, value) => out.compacted = Revision(value.number()?),
                (6, value) => out.reason = value.text()?,
                (11, value) => out.events.push(Observed::read(value.bytes()?)?),
                _ => {}
            }
        }
        Ok(out)
    }
}

/// A CompactionRequest.
pub(crate) fn compaction(to: Revision) -> Writer {
    Writer::default().number(1, to.0)
}

/// A LeaseGrantRequest.
pub(crate) fn lease_grant(seconds: u64, id: u64) -> Writer {
    Writer::default().number(1, seconds).number(2, id)
}

/// The version that a StatusResponse of the service Maintenance tells.
pub(crate) fn version_of(answer: &[u8]) -> Result<String, Malformed> {
    let mut out = String::new();
    for field in fields(answer) {
        if let (2, value) = field? {
            out = value.text()?;
        }
    }
    Ok(out)
}

/// The size of the database in bytes that a StatusResponse of the service Maintenance tells.
pub(crate) fn size_of(answer: &[u8]) -> Result<u64, Malformed> {
    let mut out = 0;
    for field in fields(answer) {
        if let (3, value) = field? {
            out = value.number()?;
        }
    }
    Ok(out)
}

/// Whether an answer to a progress request waits for all events before it: see etcd's issue 15220 and the versions of upstream's
/// feature RequestWatchProgress.
pub(crate) fn keeps_progress_in_order(version: &str) -> bool {
    let mut parts = version.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let (major, minor, patch) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    match (major, minor) {
        (3, 4) => patch >= 31,
        (3, 5) => patch >= 13,
        _ => (major, minor) > (3, 5),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_of_a_prefix_ends_behind_the_last_key_with_it() {
        let cases: [(&[u8], &[u8]); 4] = [(b"/registry/", b"/registry0"), (b"a\xff", b"b"), (b"\xff\xff", b"\0"), (b"", b"\0")];
        for (prefix, end) in cases {
            assert_eq!(prefix_end(prefix), end, "{prefix:?}");
        }
    }

    #[test]
    fn an_answer_tells_what_each_step_found() {
        let kv = Writer::default().bytes(1, b"k").number(2, 2).number(3, 7).number(4, 3).bytes(5, b"v").number(6, 9);
        let expected = KeyValue { key: b"k".to_vec(), created: 2, modified: 7, version: 3, value: "v".into(), lease: 9 };
        let head = Writer::default().number(3, 8);
        let answer = |kind, field| Writer::default().message(kind, &Writer::default().message(1, &head).message(field, &kv));
        let none = Writer::default().message(3, &Writer::default().message(1, &head));
        let txn = Writer::default().message(1, &head).number(2, 1);
        let txn = [answer(1, 2), answer(2, 2), answer(3, 3), none].iter().fold(txn, |txn, step| txn.message(3, step));
        let found = vec![Some(expected.clone()), Some(expected.clone()), Some(expected), None];
        assert_eq!(Txn::read(&txn.0), Ok(Txn { revision: Revision(8), succeeded: true, found }));
    }

    #[test]
    fn progress_is_asked_of_versions_that_keep_it_in_order() {
        let cases =
            [("3.4.23", false), ("3.4.31", true), ("3.5.12", false), ("3.5.13", true), ("3.6.8", true), ("3.6.0-rc.1", true), ("", false)];
        for (version, expected) in cases {
            assert_eq!(keeps_progress_in_order(version), expected, "{version}");
        }
    }
}
