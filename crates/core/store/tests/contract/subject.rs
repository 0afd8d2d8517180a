//! The store under test, and the few helpers that the suite shares. Which engine it is, the suite is not told.

use std::sync::Arc;
use std::time::Duration;

use fram_store::{Committed, Entry, Event, ManualClock, Operation, Revision, Snapshot, Store, Transaction, Watch, WatchItem};

pub(crate) use crate::subject;

pub(crate) struct Subject {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<ManualClock>,
    /// How many events the engine lets wait in a watch.
    pub(crate) watch_events: usize,
    pub(crate) history_window: Duration,
    /// A time to live that the engine can show to pass.
    pub(crate) ttl: Duration,
    /// Keys expire by a clock that is not handed in.
    pub(crate) real_time: bool,
    /// What the store stands on.
    pub(crate) _server: Option<Box<dyn Send + Sync>>,
}

impl Subject {
    /// Lets time pass, by whichever clock counts.
    pub(crate) async fn pass(&self, duration: Duration) {
        if self.real_time {
            tokio::time::sleep(duration).await;
        }
        self.clock.advance(duration);
    }

    pub(crate) async fn put(&self, key: &str, value: &str) -> Revision {
        self.commit(vec![put(key, value)]).await.revision
    }

    pub(crate) async fn delete(&self, key: &str) -> Revision {
        self.commit(vec![Operation::delete(key)]).await.revision
    }

    pub(crate) async fn commit(&self, operations: Vec<Operation>) -> Committed {
        self.store.commit(Transaction::new(operations)).await.unwrap()
    }

    pub(crate) async fn snapshot(&self) -> Snapshot {
        self.store.snapshot(None).await.unwrap()
    }

    pub(crate) async fn at(&self, revision: Revision) -> Snapshot {
        self.store.snapshot(Some(revision)).await.unwrap()
    }
}

pub(crate) fn put(key: &str, value: &str) -> Operation {
    Operation::put(key, value.to_owned())
}

pub(crate) fn text(entry: &Arc<Entry>) -> String {
    format!("{}={}", entry.key, String::from_utf8_lossy(&entry.value))
}

pub(crate) fn all(snapshot: &Snapshot) -> Vec<String> {
    snapshot.range(..).map(text).collect()
}

/// The next batch, which must come soon.
pub(crate) async fn events(watch: &mut Watch) -> Vec<Event> {
    match item(watch).await {
        WatchItem::Events(events) => events.to_vec(),
        WatchItem::Progress(revision) => panic!("progress to {revision} instead of events"),
    }
}

pub(crate) async fn item(watch: &mut Watch) -> WatchItem {
    tokio::time::timeout(Duration::from_secs(10), watch.next()).await.expect("nothing came").unwrap()
}

/// Events until there are `count` of them.
pub(crate) async fn collect(watch: &mut Watch, count: usize) -> Vec<Event> {
    let mut collected = Vec::new();
    while collected.len() < count {
        collected.extend(events(watch).await);
    }
    collected
}

pub(crate) fn describe(event: &Event) -> String {
    let value =
        |entry: &Option<Arc<Entry>>| entry.as_ref().map_or("-".to_owned(), |entry| String::from_utf8_lossy(&entry.value).into_owned());
    format!("{} {:?} {} -> {}", event.key, event.kind, value(&event.previous), value(&event.entry))
}
