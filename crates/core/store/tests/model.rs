//! Any sequence of calls gives what a model gives that keeps a full copy of everything at every revision.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fram_store::disk::ModelDisk;
use fram_store::{Clock, Condition, Embedded, Event, EventKind, ManualClock, Operation, Options, Revision, Store, StoreError};
use fram_store::{Transaction, UnixMillis, WatchItem};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Call {
    Commit { conditions: Vec<(u8, Expected)>, operations: BTreeMap<u8, Option<(u8, Option<u8>)>> },
    Advance(u8),
    Compact(u8),
    Reopen,
}

#[derive(Clone, Copy, Debug)]
enum Expected {
    Absent,
    Exists,
    /// Modified at a revision that is so many back.
    Modified(u8),
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let expected = prop_oneof![Just(Expected::Absent), Just(Expected::Exists), (0..4u8).prop_map(Expected::Modified)];
    let conditions = prop::collection::vec((0..8u8, expected), 0..2);
    let operation = prop::option::weighted(0.7, (any::<u8>(), prop::option::weighted(0.2, 1..20u8)));
    let operations = prop::collection::btree_map(0..8u8, operation, 0..4);
    let commit = (conditions, operations).prop_map(|(conditions, operations)| Call::Commit { conditions, operations });
    let call = prop_oneof![12 => commit, 2 => (1..30u8).prop_map(Call::Advance), 1 => any::<u8>().prop_map(Call::Compact), 1 => Just(Call::Reopen)];
    prop::collection::vec(call, 1..40)
}

/// Value, created, modified, version, expires.
type Row = (Vec<u8>, u64, u64, u64, Option<u64>);
type Table = BTreeMap<String, Row>;

#[derive(Default)]
struct Model {
    /// The contents at each revision since the first.
    tables: Vec<Table>,
    now: u64,
}

impl Model {
    fn revision(&self) -> u64 {
        self.tables.len() as u64
    }

    fn current(&self) -> &Table {
        self.tables.last().unwrap()
    }

    fn expire(&mut self) {
        let mut expired: Vec<_> =
            self.current().iter().filter_map(|(key, row)| row.4.filter(|time| *time <= self.now).map(|time| (time, key.clone()))).collect();
        expired.sort();
        for (_, key) in expired {
            let mut table = self.current().clone();
            table.remove(&key);
            self.tables.push(table);
        }
    }

    fn commit(&mut self, transaction: &Transaction) -> Result<u64, String> {
        for condition in &transaction.conditions {
            let row = self.current().get(condition.key().as_str());
            let holds = match condition {
                Condition::Absent(_) => row.is_none(),
                Condition::Exists(_) => row.is_some(),
                Condition::ModifiedAt(_, revision) => row.is_some_and(|row| row.2 == revision.0),
            };
            if !holds {
                return Err(condition.key().to_string());
            }
        }
        let (mut table, revision) = (self.current().clone(), self.revision() + 1);
        for operation in &transaction.operations {
            match operation {
                Operation::Delete { key } => drop(table.remove(key.as_str())),
                Operation::Put { key, value, ttl } => {
                    let (created, version) = table.get(key.as_str()).map_or((revision, 1), |row| (row.1, row.3 + 1));
                    let expires = ttl.map(|ttl| self.now + u64::try_from(ttl.as_millis()).unwrap());
                    table.insert(key.to_string(), (value.to_vec(), created, revision, version, expires));
                }
            }
        }
        if table != *self.current() {
            self.tables.push(table);
        }
        Ok(self.revision())
    }

    /// What a watcher sees from one revision to the next, by key.
    fn changes(&self, from: u64) -> Vec<(u64, String, EventKind)> {
        let mut changes = Vec::new();
        for revision in from + 1..=self.revision() {
            let [before, after] = [revision - 2, revision - 1].map(|index| &self.tables[usize::try_from(index).unwrap()]);
            let deleted = before.keys().filter(|key| !after.contains_key(*key)).map(|key| (key, EventKind::Delete));
            let put = after.iter().filter(|(_, row)| row.2 == revision).map(|(key, _)| (key, EventKind::Put));
            let mut here: Vec<_> = deleted.chain(put).collect();
            here.sort_by_key(|(key, _)| key.to_owned());
            changes.extend(here.into_iter().map(|(key, kind)| (revision, key.clone(), kind)));
        }
        changes
    }
}

fn key(number: u8) -> String {
    format!("{}/key-{number}", number % 3)
}

fn transaction(model: &Model, conditions: &[(u8, Expected)], operations: &BTreeMap<u8, Option<(u8, Option<u8>)>>) -> Transaction {
    let conditions = conditions.iter().map(|(number, expected)| {
        let key = key(*number).into();
        match expected {
            Expected::Absent => Condition::Absent(key),
            Expected::Exists => Condition::Exists(key),
            Expected::Modified(back) => Condition::ModifiedAt(key, Revision(model.revision().saturating_sub(u64::from(*back)))),
        }
    });
    let operations = operations.iter().map(|(number, put)| match put {
        None => Operation::delete(key(*number)),
        Some((value, ttl)) => Operation::Put {
            key: key(*number).into(),
            value: vec![*value; usize::from(*value)].into(),
            ttl: ttl.map(|ttl| Duration::from_secs(u64::from(ttl))),
        },
    });
    Transaction { conditions: conditions.collect(), operations: operations.collect() }
}

fn table(snapshot: &fram_store::Snapshot) -> Table {
    let row = |entry: &Arc<fram_store::Entry>| {
        let expires = entry.expires.map(|time| time.0);
        (entry.key.to_string(), (entry.value.to_vec(), entry.created.0, entry.modified.0, entry.version, expires))
    };
    snapshot.range(..).map(row).collect()
}

async fn events(store: &Embedded, prefix: &str, after: Revision) -> Vec<Event> {
    let mut watch = store.watch(prefix, after).await.unwrap();
    watch.progress_requester().request();
    let mut events = Vec::new();
    while let WatchItem::Events(batch) = watch.next().await.unwrap() {
        events.extend_from_slice(&batch);
    }
    events
}

async fn check(store: &Embedded, model: &Model) {
    let oldest = store.oldest().await.unwrap();
    assert_eq!(store.revision().await.unwrap().0, model.revision());
    for revision in oldest.0..=model.revision() {
        let snapshot = store.snapshot(Some(Revision(revision))).await.unwrap();
        assert_eq!(&table(&snapshot), &model.tables[usize::try_from(revision - 1).unwrap()], "at {revision}");
    }
    for prefix in ["", "0/", "1/key"] {
        let seen = events(store, prefix, oldest).await;
        assert!(seen.iter().all(|event| event.entry.is_some() == (event.kind == EventKind::Put)));
        let mut seen: Vec<_> = seen.into_iter().map(|event| (event.revision.0, event.key.to_string(), event.kind)).collect();
        // Within a transaction the order is that of its operations, which are sorted by number and not by key.
        seen.sort_by(|left, right| (left.0, &left.1).cmp(&(right.0, &right.1)));
        let expected: Vec<_> = model.changes(oldest.0).into_iter().filter(|(_, key, _)| key.starts_with(prefix)).collect();
        assert_eq!(seen, expected, "{prefix}");
    }
}

async fn run(calls: Vec<Call>) {
    let clock = Arc::new(ManualClock::at(UnixMillis(1_000)));
    let disk = ModelDisk::default();
    let options = || Options { clock: clock.clone(), disk: Arc::new(disk.clone()), checkpoint_bytes: 1_500, ..Options::new("/") };
    let mut store = Embedded::open(options()).unwrap();
    let mut model = Model { tables: vec![Table::new()], now: 1_000 };
    for call in calls {
        match call {
            Call::Commit { conditions, operations } => {
                let transaction = transaction(&model, &conditions, &operations);
                let expected = model.commit(&transaction);
                let result = store.commit(transaction).await;
                match (result, expected) {
                    (Ok(committed), Ok(revision)) => assert_eq!(committed.revision.0, revision),
                    (Err(StoreError::Conflict { key, current }), Err(expected)) => {
                        assert_eq!(key.as_str(), expected);
                        assert_eq!(current.map(|entry| entry.modified.0), model.current().get(&expected).map(|row| row.2));
                    }
                    (result, expected) => panic!("{result:?}, expected {expected:?}"),
                }
            }
            Call::Advance(seconds) => {
                clock.advance(Duration::from_secs(u64::from(seconds)));
                model.now = clock.now().0;
                model.expire();
                // An empty transaction comes after the deletions that are due.
                store.commit(Transaction::default()).await.unwrap();
            }
            Call::Compact(back) => {
                let to = Revision(model.revision().saturating_sub(u64::from(back % 8)).max(1));
                store.compact(to).await.unwrap();
                assert!(store.oldest().await.unwrap() >= to);
            }
            Call::Reopen => {
                drop(store);
                store = Embedded::open(options()).unwrap();
            }
        }
        assert_eq!(table(&store.snapshot(None).await.unwrap()), *model.current());
    }
    check(&store, &model).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_calls_gives_what_the_model_gives(calls in calls()) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(run(calls));
    }
}
