//! Values that are written anew because their cipher would write them otherwise now, one by one, each unless it changed meanwhile.

use std::sync::Arc;

use crate::cipher::Cipher;
use crate::error::StoreError;
use crate::types::Key;

use super::cluster::{Cluster, RANGE, TXN, malformed};
use super::feed::{Keys, PAGE};
use super::messages::{KeyValue, PutLease, Range, Step, Txn, compare_modified, page, put, txn};

/// Goes through all keys once; gives how many values were written.
pub(crate) async fn rewrite(cluster: &Cluster, keys: &Keys, cipher: &Arc<dyn Cipher>) -> Result<usize, StoreError> {
    let (mut start, mut written) = (keys.start.clone(), 0);
    loop {
        let mut range = Range::read(&cluster.read(RANGE, &page(&start, &keys.end, PAGE, None)).await?).map_err(malformed)?;
        if let Some(last) = range.kvs.last() {
            start.clone_from(&last.key);
            start.push(0);
        }
        range.kvs.retain(|kv| kv.key != keys.shift.as_bytes());
        let (cipher, kvs) = (Arc::clone(cipher), std::mem::take(&mut range.kvs));
        let work = move || kvs.into_iter().map(|kv| resealed(cipher.as_ref(), kv)).collect::<Result<Vec<_>, _>>();
        let resealed = tokio::task::spawn_blocking(work).await.unwrap_or(Err(StoreError::Closed))?;
        for (kv, value) in resealed.into_iter().flatten() {
            let step = Step::Put(put(&kv.key, &value, PutLease::Keep));
            let answer = cluster.write(TXN, &txn(&[compare_modified(&kv.key, kv.modified)], &[step], &[])).await?;
            // Who changed it wrote it as it would be written now.
            written += usize::from(Txn::read(&answer).map_err(malformed)?.succeeded);
        }
        if !range.more {
            return Ok(written);
        }
    }
}

/// The value as it would be written now, where that is another.
fn resealed(cipher: &dyn Cipher, kv: KeyValue) -> Result<Option<(KeyValue, Vec<u8>)>, StoreError> {
    let Ok(key) = std::str::from_utf8(&kv.key).map(Key::from) else { return Ok(None) };
    let fail = |operation| {
        let key = key.clone();
        move |source| StoreError::Cipher { key, operation, source }
    };
    let opened = cipher.open(&key, &kv.value).map_err(fail("decrypt"))?;
    if !opened.stale {
        return Ok(None);
    }
    let clear = opened.value.unwrap_or_else(|| kv.value.to_vec());
    let sealed = cipher.seal(&key, &clear).map_err(fail("encrypt"))?;
    Ok(Some((kv, sealed.unwrap_or(clear))))
}
