//! Seeded runs of commits, faults and losses of power, judged by an oracle: what was acknowledged is there with its
//! revision, no transaction is there by half, and what was refused is not there.

use std::collections::{BTreeMap, BTreeSet};

use fram_store::disk::Fault;
use fram_store::{Embedded, Operation, Revision, Store, Transaction, WatchItem};

use crate::rig::{Random, Rig};

/// How many runs there are. The threads of the store add their own chance to that of the seeds.
const SEEDS: u64 = 300;

#[derive(Default)]
struct Oracle {
    acknowledged: BTreeMap<u64, Revision>,
    /// Refused while the store went on: must never be seen.
    refused: BTreeSet<u64>,
    /// Failed since the last acknowledgement: after a loss of power they may be there or not.
    unknown: BTreeSet<u64>,
}

impl Oracle {
    fn note(&mut self, number: u64, result: Result<Revision, fram_store::StoreError>) {
        match result {
            Ok(revision) => {
                self.acknowledged.insert(number, revision);
                self.refused.append(&mut self.unknown);
            }
            Err(_) => drop(self.unknown.insert(number)),
        }
    }

    /// Checks a store; what turns out to be there counts as acknowledged from now on.
    async fn check(&mut self, store: &Embedded, context: &str) {
        let snapshot = store.snapshot(None).await.unwrap();
        for (number, revision) in &self.acknowledged {
            let entry = snapshot.get(&format!("left/{number:05}"));
            assert_eq!(entry.map(|entry| entry.modified), Some(*revision), "{context}: {number} was acknowledged");
        }
        for left in snapshot.prefix("left/") {
            let number: u64 = left.key["left/".len()..].parse().unwrap();
            let right = snapshot.get(&format!("right/{number:05}"));
            assert_eq!(
                right.map(|right| (right.modified, &right.value)),
                Some((left.modified, &left.value)),
                "{context}: {number} by half"
            );
            assert!(!self.refused.contains(&number), "{context}: {number} was refused");
            let known = self.acknowledged.contains_key(&number) || self.unknown.contains(&number);
            assert!(known, "{context}: {number} was never written");
            self.acknowledged.insert(number, left.modified);
        }
        assert_eq!(snapshot.prefix("left/").count(), snapshot.prefix("right/").count(), "{context}");
        self.refused.append(&mut self.unknown);
        self.refused.retain(|number| !self.acknowledged.contains_key(number));
        self.check_history(store, snapshot.revision(), context).await;
    }

    /// History is a row without gaps up to the current revision.
    async fn check_history(&self, store: &Embedded, last: Revision, context: &str) {
        let oldest = store.oldest().await.unwrap();
        if oldest == last {
            return;
        }
        let mut watch = store.watch("", oldest).await.unwrap();
        let Ok(WatchItem::Events(events)) = watch.next().await else { panic!("{context}: no history") };
        let revisions: BTreeSet<u64> = events.iter().map(|event| event.revision.0).collect();
        assert!(revisions.into_iter().eq(oldest.0 + 1..=last.0), "{context}: gaps in history");
    }
}

async fn commit(store: &Embedded, number: u64, random: u64) -> Result<Revision, fram_store::StoreError> {
    let value = vec![u8::try_from(number % 251).unwrap(); usize::try_from(random % 1_500).unwrap()];
    let operations = ["left", "right"].map(|side| Operation::put(format!("{side}/{number:05}"), value.clone()));
    store.commit(Transaction::new(operations.to_vec())).await.map(|committed| committed.revision)
}

async fn run(seed: u64) {
    let mut random = Random::new(seed);
    let rig = Rig::with_checkpoints_after(500 + random.below(8_000));
    let mut oracle = Oracle::default();
    let mut number = 0;
    for life in 0..4 {
        // The power may also be lost while the store is being opened.
        let crash_at = rig.disk.operations() + random.below(60);
        if random.coin() {
            rig.disk.fail_from(crash_at, Fault::Broken);
        }
        if let Ok(store) = rig.try_open() {
            for _ in 0..random.below(12) {
                if random.below(3) == 0 {
                    let fault = if random.coin() { Fault::Full } else { Fault::Broken };
                    rig.disk.fail_at(rig.disk.operations() + random.below(6), fault);
                }
                let together: Vec<u64> = (0..=random.below(4))
                    .map(|_| {
                        number += 1;
                        number
                    })
                    .collect();
                let commits = together.iter().map(|number| commit(&store, *number, random.next()));
                for (number, result) in together.iter().zip(join_all(commits.collect()).await) {
                    oracle.note(*number, result);
                }
            }
        }
        let context = format!("seed {seed}, life {life}");
        if random.coin() {
            // The process is killed and started again: what readers see then must outlive the loss of power.
            rig.disk.heal();
            let store = rig.try_open().unwrap_or_else(|error| panic!("{context}, killed: {error}"));
            oracle.check(&store, &context).await;
        }
        rig.disk.lose_power(|| random.coin());
        let store = rig.try_open().unwrap_or_else(|error| panic!("{context}: {error}"));
        oracle.check(&store, &context).await;
    }
}

/// Polls all futures until all are done: their requests are sent in their order.
async fn join_all<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut results: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, result) in futures.iter_mut().zip(&mut results) {
            if result.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *result = Some(value);
            }
        }
        if results.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    results.into_iter().flatten().collect()
}

#[tokio::test]
async fn no_loss_of_power_and_no_fault_loses_what_was_acknowledged() {
    for seed in 0..SEEDS {
        run(seed).await;
    }
}
