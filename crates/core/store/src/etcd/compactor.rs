//! Compaction from time to time, by one of the servers at a time: the scheme, and the key, are those of upstream's compactor, so that
//! servers of both sorts on one etcd do not hurry one another.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::error::StoreError;
use crate::types::Revision;

use super::cluster::{COMPACT, Cluster, PUT, TXN, malformed};
use super::messages::{PutLease, Step, Txn, compaction, compare_version, get, put, txn};

/// See upstream's compactRevKey.
const KEY: &[u8] = b"compact_rev_key";

/// What one server remembers between two rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Round {
    /// How many rounds there have been, which is the version of the key.
    time: u64,
    /// Where etcd was at the last one.
    revision: Revision,
}

impl Round {
    /// What follows from an answer: what to remember, and what to compact to. A server whose time is not the key's has slept
    /// while another did the work.
    fn next(self, answer: &Txn) -> (Self, Option<Revision>) {
        if answer.succeeded {
            let to = (self.revision > Revision(0)).then_some(self.revision);
            return (Self { time: self.time + 1, revision: answer.revision }, to);
        }
        let time = answer.found.first().and_then(Option::as_ref).map_or(0, |kv| kv.version);
        (Self { time, revision: answer.revision }, None)
    }
}

/// Compacts to where etcd was an interval ago, every interval.
///
/// The key is beside the store's: `barrier` is written behind it, so that no server has to ask why there is a revision without an event.
pub(crate) async fn run(cluster: Arc<Cluster>, barrier: String, interval: Duration, stop: CancellationToken) {
    let mut round = Round::default();
    loop {
        if stop.run_until_cancelled(tokio::time::sleep(interval)).await.is_none() {
            return;
        }
        match stop.run_until_cancelled(turn(&cluster, &barrier, round)).await {
            None => return,
            Some(Ok(next)) => round = next,
            Some(Err(error)) => tracing::warn!(%error, "etcd could not be compacted"),
        }
    }
}

async fn turn(cluster: &Cluster, barrier: &str, round: Round) -> Result<Round, StoreError> {
    let revision = round.revision.to_string();
    let success = Step::Put(put(KEY, revision.as_bytes(), PutLease::Set(0)));
    let request = txn(&[compare_version(KEY, round.time)], &[success], &[Step::Get(get(KEY))]);
    let answer = Txn::read(&cluster.write(TXN, &request).await?).map_err(malformed)?;
    if answer.succeeded {
        cluster.write(PUT, &put(barrier.as_bytes(), b"", PutLease::Set(0))).await?;
    }
    let (next, to) = round.next(&answer);
    if let Some(to) = to {
        compact(cluster, to).await?;
        tracing::debug!(revision = to.0, "etcd was compacted");
    }
    Ok(next)
}

/// Compacts; what is compacted already is no failure.
pub(crate) async fn compact(cluster: &Cluster, to: Revision) -> Result<(), StoreError> {
    match cluster.read(COMPACT, &compaction(to)).await {
        Ok(_) => Ok(()),
        Err(failure) if failure.is_compacted() => Ok(()),
        Err(failure) => Err(failure.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages::KeyValue;
    use super::*;

    #[test]
    fn of_two_servers_the_one_that_comes_first_compacts_to_its_last_round() {
        let done = |revision| Txn { revision: Revision(revision), succeeded: true, found: Vec::new() };
        let late = |revision, version| {
            let found = vec![Some(KeyValue { version, ..KeyValue::default() })];
            Txn { revision: Revision(revision), succeeded: false, found }
        };
        let (first, to) = Round::default().next(&done(10));
        assert_eq!((first, to), (Round { time: 1, revision: Revision(10) }, None), "nothing is known of an interval ago");
        let (second, to) = Round::default().next(&late(12, 1));
        assert_eq!((second, to), (Round { time: 1, revision: Revision(12) }, None));
        let (first, to) = first.next(&done(20));
        assert_eq!((first.time, to), (2, Some(Revision(10))));
        let (second, to) = second.next(&late(22, 2));
        assert_eq!((second, to), (Round { time: 2, revision: Revision(22) }, None));
        assert_eq!(second.next(&done(30)).1, Some(Revision(22)), "the first one is gone");
    }
}
