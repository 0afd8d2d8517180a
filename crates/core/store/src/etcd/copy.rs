//! Filling an etcd with what another store holds. While that goes on a key says so, and nobody else opens the store: it is there as a whole
//! or not at all, and a copy that was cut off is made anew.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::TaskTracker;

use crate::error::StoreError;
use crate::snapshot::Snapshot;
use crate::store::Store;
use crate::types::{Entry, MAX_OPERATIONS, Operation, Transaction};

use super::cluster::{Cluster, PUT, RANGE, TXN, malformed};
use super::feed::Keys;
use super::messages::{PutLease, Range, Step, delete, page, put, txn};
use super::{Etcd, EtcdOptions};

/// Several transactions of this size fit into what etcd takes at once.
const BATCH_BYTES: usize = 512 << 10;

impl Etcd {
    /// Copies all that is in a snapshot, whose prefix is that of `options`; gives how many keys there are. Nothing else may be under the
    /// prefix. Revisions go on from the snapshot's, so that whoever knows an older one learns that it is gone, and misses nothing.
    pub async fn fill(source: &Snapshot, options: EtcdOptions) -> Result<usize, StoreError> {
        let (keys, now) = (Keys::of(&options.prefix), options.clock.now());
        begin(&options, &keys, source).await?;
        let store = Self::opened(EtcdOptions { compaction_interval: None, ..options }, true).await?;
        let left = |entry: &Entry| entry.expires.map(|at| Duration::from_millis(at.0.saturating_sub(now.0)));
        let is_there = |entry: &&Arc<Entry>| keys.hold(&entry.key) && left(entry) != Some(Duration::ZERO);
        let mut entries: Vec<&Arc<Entry>> = source.range(..).filter(is_there).collect();
        if let Some(other) =
            source.range(..).find(|entry| !keys.hold(&entry.key) && *entry.key != *keys.shift && *entry.key != *keys.barrier)
        {
            return Err(StoreError::Options(format!("{} does not start with the prefix", other.key)));
        }
        // In the order in which they were written, which is that of resource versions.
        entries.sort_by_key(|entry| entry.modified);
        let mut batch = Vec::new();
        let mut bytes = 0;
        for entry in &entries {
            let size = entry.key.len() + entry.value.len();
            if batch.len() == MAX_OPERATIONS || bytes + size > BATCH_BYTES && !batch.is_empty() {
                store.commit(Transaction::new(std::mem::take(&mut batch))).await?;
                bytes = 0;
            }
            bytes += size;
            batch.push(Operation::Put { key: entry.key.clone(), value: entry.value.clone(), ttl: left(entry) });
        }
        if !batch.is_empty() {
            store.commit(Transaction::new(batch)).await?;
        }
        let copied = store.snapshot(None).await?;
        let differs = |entry: &&&Arc<Entry>| entry.expires.is_none() && copied.get(&entry.key).is_none_or(|c| c.value != entry.value);
        if let Some(entry) = entries.iter().find(differs) {
            return Err(StoreError::Options(format!("{} is not in etcd as it was written: does somebody else write there?", entry.key)));
        }
        let done = store.commit(Transaction::new(vec![Operation::Delete { key: keys.copy.clone() }])).await?.revision;
        // How it was filled is nobody's history.
        store.compact(done).await?;
        store.close().await?;
        Ok(entries.len())
    }
}

/// Clears away what an earlier copy left, and says that one goes on.
async fn begin(options: &EtcdOptions, keys: &Keys, source: &Snapshot) -> Result<(), StoreError> {
    let tasks = TaskTracker::new();
    let cluster = Cluster::new(&options.servers, options.tls.as_ref(), options.patience, tasks.clone())?;
    let is_ours = is_unfinished(&cluster, keys).await?;
    loop {
        let answer = cluster.read(RANGE, &page(&keys.start, &keys.end, MAX_OPERATIONS as u64, None)).await?;
        let found = Range::read(&answer).map_err(malformed)?.kvs;
        let others: Vec<_> = found.iter().filter(|kv| kv.key != keys.copy.as_bytes()).collect();
        let Some(first) = others.first() else { break };
        if !is_ours {
            return Err(StoreError::Options(format!("etcd is not empty: it has {}", String::from_utf8_lossy(&first.key))));
        }
        let deletions: Vec<Step> = others.iter().map(|kv| Step::Delete(delete(&kv.key))).collect();
        let _answer = cluster.write(TXN, &txn(&[], &deletions, &[])).await?;
    }
    let _answer = cluster.write(PUT, &put(keys.copy.as_bytes(), b"", PutLease::Set(0))).await?;
    let ahead = source.revision().0.to_string();
    let _answer = cluster.write(PUT, &put(keys.shift.as_bytes(), ahead.as_bytes(), PutLease::Set(0))).await?;
    tasks.close();
    Ok(())
}

/// Whether somebody has begun to copy into this etcd, and has not come to the end.
pub(super) async fn is_unfinished(cluster: &Cluster, keys: &Keys) -> Result<bool, StoreError> {
    let answer = cluster.read(RANGE, &super::messages::get(keys.copy.as_bytes())).await?;
    Ok(!Range::read(&answer).map_err(malformed)?.kvs.is_empty())
}
