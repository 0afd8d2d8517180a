//! Filling an etcd with what another store holds. While that goes on a key says so, and nobody else opens the store: it is there as a whole
//! or not at all, and a copy that was cut off is made anew. Of two at once the later one goes on.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use fram_grpc::wire::Writer;
use tokio_util::task::TaskTracker;

use crate::error::StoreError;
use crate::snapshot::Snapshot;
use crate::store::Store;
use crate::types::{Condition, Entry, MAX_OPERATIONS, Operation, Revision, Transaction};

use super::cluster::{Cluster, RANGE, Shift, TXN, malformed};
use super::feed::Keys;
use super::messages::{KeyValue, PutLease, Range, Step, Txn, compare, compare_modified, delete, get, page, put, txn};
use super::{Etcd, EtcdOptions};

/// Several transactions of this size fit into what etcd takes at once.
const BATCH_BYTES: usize = 512 << 10;

impl Etcd {
    /// Copies all that is in a snapshot, whose prefix is that of `options`; gives how many keys there are. Nothing else may be under the
    /// prefix. Revisions go on from the snapshot's, so that whoever knows an older one learns that it is gone, and misses nothing.
    pub async fn fill(source: &Snapshot, options: EtcdOptions) -> Result<usize, StoreError> {
        let (keys, now) = (Keys::of(&options.prefix), options.clock.now());
        if let Some(other) =
            source.range(..).find(|entry| !keys.hold(&entry.key) && *entry.key != *keys.shift && *entry.key != *keys.barrier)
        {
            return Err(StoreError::Options(format!("{} does not start with the prefix", other.key)));
        }
        let begun = begin(&options, &keys, source).await?;
        let store = Self::opened(EtcdOptions { compaction_interval: None, ..options }, true).await?;
        let ours = Condition::ModifiedAt(keys.copy.clone(), Revision(begun.0 + source.revision().0));
        let write = async |operations| match store.commit(Transaction::new(operations).when(ours.clone())).await {
            Err(StoreError::Conflict { .. }) => Err(taken_over()),
            other => other,
        };
        let left = |entry: &Entry| entry.expires.map(|at| Duration::from_millis(at.0.saturating_sub(now.0)));
        let is_there = |entry: &&Arc<Entry>| keys.hold(&entry.key) && left(entry) != Some(Duration::ZERO);
        let mut entries: Vec<&Arc<Entry>> = source.range(..).filter(is_there).collect();
        // In the order in which they were written, which is that of resource versions.
        entries.sort_by_key(|entry| entry.modified);
        let mut batch = Vec::new();
        let mut bytes = 0;
        for entry in &entries {
            let size = entry.key.len() + entry.value.len();
            if batch.len() == MAX_OPERATIONS || bytes + size > BATCH_BYTES && !batch.is_empty() {
                write(std::mem::take(&mut batch)).await?;
                bytes = 0;
            }
            bytes += size;
            batch.push(Operation::Put { key: entry.key.clone(), value: entry.value.clone(), ttl: left(entry) });
        }
        if !batch.is_empty() {
            write(batch).await?;
        }
        let copied = store.snapshot(None).await?;
        let differs = |entry: &&&Arc<Entry>| entry.expires.is_none() && copied.get(&entry.key).is_none_or(|c| c.value != entry.value);
        if let Some(entry) = entries.iter().find(differs) {
            return Err(StoreError::Options(format!("{} is not in etcd as it was written: does somebody else write there?", entry.key)));
        }
        let lasting = |entry: &&Arc<Entry>| keys.hold(&entry.key) && entry.key != keys.copy && entry.expires.is_none();
        let (there, wanted) = (copied.range(..).filter(lasting).count(), entries.iter().filter(|entry| entry.expires.is_none()).count());
        if there != wanted {
            return Err(StoreError::Options(format!("etcd has {there} keys in place of {wanted}: does somebody else write there?")));
        }
        let done = write(vec![Operation::Delete { key: keys.copy.clone() }]).await?.revision;
        // How it was filled is nobody's history.
        store.compact(done).await?;
        store.close().await?;
        Ok(entries.len())
    }
}

fn taken_over() -> StoreError {
    StoreError::Options("another copy into this etcd has begun: only one can come to its end".into())
}

/// Says that a copy goes on, and clears away what an earlier one left. Gives etcd's revision of the key that says so: for as long as the key
/// has it, no other copy has begun.
async fn begin(options: &EtcdOptions, keys: &Keys, source: &Snapshot) -> Result<Revision, StoreError> {
    let tasks = TaskTracker::new();
    let cluster = Cluster::new(&options.servers, options.tls.as_ref(), options.patience, tasks.clone())?;
    let earlier = unfinished(&cluster, keys).await?;
    let first_other = async || -> Result<Vec<KeyValue>, StoreError> {
        let answer = cluster.read(RANGE, &page(&keys.start, &keys.end, MAX_OPERATIONS as u64, None)).await?;
        let found = Range::read(&answer).map_err(malformed)?.kvs;
        Ok(found.into_iter().filter(|kv| kv.key != keys.copy.as_bytes()).collect())
    };
    if earlier.is_none()
        && let Some(first) = first_other().await?.first()
    {
        return Err(StoreError::Options(format!("etcd is not empty: it has {}", String::from_utf8_lossy(&first.key))));
    }
    let before = match &earlier {
        Some(earlier) => compare_modified(keys.copy.as_bytes(), earlier.modified),
        None => compare(&Condition::Absent(keys.copy.clone()), Shift::default()),
    };
    // The standard library's hashers are seeded by the operating system.
    let run = format!("{:016x}", RandomState::new().hash_one(()));
    let say = |key: &str, value: &str| Step::Put(put(key.as_bytes(), value.as_bytes(), PutLease::Set(0)));
    let write = async |condition: Writer, steps: &[Step]| -> Result<Revision, StoreError> {
        let done = Txn::read(&cluster.write(TXN, &txn(&[condition], steps, &[])).await?).map_err(malformed)?;
        if done.succeeded { Ok(done.revision) } else { Err(taken_over()) }
    };
    let begun = write(before, &[say(&keys.copy, &run)]).await?;
    let ours = || compare_modified(keys.copy.as_bytes(), begun.0);
    loop {
        let others = first_other().await?;
        if others.is_empty() {
            break;
        }
        let deletions: Vec<Step> = others.iter().map(|kv| Step::Delete(delete(&kv.key))).collect();
        let _revision = write(ours(), &deletions).await?;
    }
    let ahead = source.revision().0.to_string();
    let _revision = write(ours(), &[say(&keys.shift, &ahead)]).await?;
    tasks.close();
    Ok(begun)
}

/// Whether somebody has begun to copy into this etcd, and has not come to the end.
pub(super) async fn is_unfinished(cluster: &Cluster, keys: &Keys) -> Result<bool, StoreError> {
    Ok(unfinished(cluster, keys).await?.is_some())
}

async fn unfinished(cluster: &Cluster, keys: &Keys) -> Result<Option<KeyValue>, StoreError> {
    let answer = cluster.read(RANGE, &get(keys.copy.as_bytes())).await?;
    Ok(Range::read(&answer).map_err(malformed)?.kvs.into_iter().next())
}
