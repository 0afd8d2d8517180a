//! The engine under test, and the few helpers that the suite shares.

use std::sync::Arc;
use std::time::Duration;

use fram_store::{Committed, Embedded, Entry, Event, ManualClock, Operation, Options, Revision, Snapshot, Store, Transaction};
use fram_store::{UnixMillis, Watch, WatchItem};

pub(crate) struct Subject {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<ManualClock>,
    /// How many events the engine lets wait in a watch.
    pub(crate) watch_events: usize,
    pub(crate) history_window: Duration,
}

/// An empty store of the engine under test.
pub(crate) fn subject() -> Subject {
    let engine = std::env::var("FRAM_STORE_ENGINE").unwrap_or_else(|_| "embedded".into());
    match engine.as_str() {
        "embedded" => embedded(),
        other => panic!("there is no engine named {other}"),
    }
}

fn embedded() -> Subject {
    let clock = Arc::new(ManualClock::at(UnixMillis(1_000_000)));
    let options = Options { clock: clock.clone(), watch_events: 64, ..Options::in_memory() };
    let (watch_events, history_window) = (options.watch_events, options.history_window);
    Subject { store: Arc::new(Embedded::open(options).unwrap()), clock, watch_events, history_window }
}

impl Subject {
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
