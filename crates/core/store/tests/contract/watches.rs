//! What watches promise.

use std::sync::Arc;
use std::time::Duration;

use fram_store::{Facet, Operation, Revision, StoreError, WatchItem};

use crate::subject::{collect, describe, events, item, put, subject};

#[tokio::test]
async fn a_watch_shows_each_change_with_the_entries_before_and_after() {
    let subject = subject().await;
    let mut watch = subject.store.watch("a", Revision::EMPTY).await.unwrap();
    subject.put("a", "1").await;
    subject.put("a", "2").await;
    subject.delete("a").await;
    let events = collect(&mut watch, 3).await;
    assert_eq!(events.iter().map(describe).collect::<Vec<_>>(), ["a Put - -> 1", "a Put 1 -> 2", "a Delete 2 -> -"]);
    assert_eq!(events.iter().map(|event| event.revision.0).collect::<Vec<_>>(), [2, 3, 4]);
    assert_eq!(events[1].entry, events[2].previous);
}

#[tokio::test]
async fn a_watch_shows_what_happened_after_its_revision_and_before_it_was_opened() {
    let subject = subject().await;
    subject.put("a", "1").await;
    let after = subject.put("b", "1").await;
    subject.commit(vec![put("a", "2"), put("b", "2")]).await;
    let mut watch = subject.store.watch("a", after).await.unwrap();
    subject.put("a", "3").await;
    let events = collect(&mut watch, 2).await;
    assert_eq!(events.iter().map(describe).collect::<Vec<_>>(), ["a Put 1 -> 2", "a Put 2 -> 3"]);
}

#[tokio::test]
async fn a_watch_shows_the_keys_of_its_prefix_only() {
    let subject = subject().await;
    let cases = [("", 6), ("/", 5), ("/pods/", 3), ("/pods/default/", 2), ("/pods/default/x", 1), ("/pods/default/xyz", 0), ("/é", 1)];
    let mut watches = Vec::new();
    for (prefix, count) in cases {
        watches.push((prefix, count, subject.store.watch(prefix, Revision::EMPTY).await.unwrap()));
    }
    let keys = ["/pods/default/x", "/pods/default/y", "/pods/kube-system/x", "/podsx", "/é", "z"];
    let last = subject.commit(keys.map(|key| put(key, "")).to_vec()).await.revision;
    for (prefix, count, mut watch) in watches {
        if count > 0 {
            let events = events(&mut watch).await;
            assert_eq!(events.len(), count, "{prefix}");
            assert!(events.iter().all(|event| event.key.starts_with(prefix)));
        }
        watch.progress_requester().request();
        assert!(matches!(item(&mut watch).await, WatchItem::Progress(revision) if revision == last), "{prefix}");
    }
}

#[tokio::test]
async fn a_transaction_comes_in_one_batch() {
    let subject = subject().await;
    let mut watch = subject.store.watch("", Revision::EMPTY).await.unwrap();
    for number in 0..10 {
        subject.commit(vec![put("a", &number.to_string()), put("b", &number.to_string())]).await;
        let events = events(&mut watch).await;
        assert_eq!(events.iter().map(|event| event.key.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(events[0].revision, events[1].revision);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn watches_opened_at_any_moment_see_every_change_once_and_in_order() {
    const WRITERS: usize = 4;
    const CHANGES: usize = 60;
    let subject = Arc::new(subject().await);
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let subject = Arc::clone(&subject);
        tasks.spawn(async move {
            for change in 0..CHANGES {
                subject.put(&format!("key-{writer}"), &change.to_string()).await;
            }
        });
    }
    for reader in 0..8 {
        let subject = Arc::clone(&subject);
        tasks.spawn(async move {
            let mut seen = Vec::new();
            let last = Revision::EMPTY.0 + (WRITERS * CHANGES) as u64;
            let mut after = Revision::EMPTY;
            while after.0 < last {
                let mut watch = subject.store.watch("key-", after).await.unwrap();
                // Each reader lets go and comes back after a number of batches of its own.
                for _ in 0..=reader {
                    let batch = match watch.next().await {
                        Ok(WatchItem::Events(batch)) => batch.to_vec(),
                        Err(StoreError::WatcherTooSlow { .. }) => break,
                        other => panic!("{other:?}"),
                    };
                    after = batch.last().unwrap().revision;
                    seen.extend(batch.into_iter().map(|event| event.revision.0));
                    if after.0 == last {
                        break;
                    }
                }
            }
            assert_eq!(seen, (Revision::EMPTY.0 + 1..=last).collect::<Vec<_>>());
        });
    }
    tasks.join_all().await;
}

/// The word at a place; a value without words cannot be told.
fn word(value: &[u8], field: usize) -> Option<&str> {
    std::str::from_utf8(value).ok()?.split_once(' ').map(|(first, second)| [first, second][field])
}

#[tokio::test]
async fn a_watch_of_a_facet_shows_what_begins_to_have_it_has_it_or_ends_to_have_it() {
    let subject = subject().await;
    let facet = |field, text: &str| Some(Facet { read: word, field, text: text.into() });
    subject.put("a", "n1 x").await;
    let start = subject.put("b", "n2 x").await;
    subject.put("c", "n1 y").await;
    let mut watches = Vec::new();
    for (facet, expect) in [
        (facet(0, "n1"), vec!["c Put - -> n1 y", "a Put n1 x -> n2 y", "b Put n2 x -> n1 x", "c Delete n1 y -> -", "d Put - -> odd"]),
        (facet(0, "n2"), vec!["a Put n1 x -> n2 y", "b Put n2 x -> n1 x", "a Put n2 y -> n2 z", "d Put - -> odd"]),
        (facet(1, "y"), vec!["c Put - -> n1 y", "a Put n1 x -> n2 y", "c Delete n1 y -> -", "a Put n2 y -> n2 z", "d Put - -> odd"]),
        (facet(0, "n3"), vec!["d Put - -> odd"]),
    ] {
        watches.push((subject.store.watch_facet("", facet, start).await.unwrap(), expect));
    }
    let gone = subject.store.watch_facet("", facet(0, "n1"), start).await.unwrap();
    drop(gone);
    subject.commit(vec![put("a", "n2 y"), put("b", "n1 x")]).await;
    subject.delete("c").await;
    subject.put("a", "n2 z").await;
    subject.put("d", "odd").await;
    for (watch, expect) in &mut watches {
        let events = collect(watch, expect.len()).await;
        // Those that come with a value of which nothing can be told are more than was asked for.
        assert_eq!(events.iter().map(describe).collect::<Vec<_>>(), *expect);
    }
}

#[tokio::test]
async fn what_has_a_text_is_found_as_it_comes_changes_and_goes() {
    let subject = subject().await;
    let found = |prefix: &str, text: &str| {
        let facet = Facet { read: word, field: 0, text: text.into() };
        let selected = subject.store.seen_of("p/", &facet).unwrap();
        let shown = |entry: &std::sync::Arc<fram_store::Entry>| selected.snapshot().get(&entry.key) == Some(entry);
        // Where it is as well to look at all, all are shown.
        let having = |entry: &&std::sync::Arc<fram_store::Entry>| word(&entry.value, 0).is_none_or(|own| own == text);
        let found = selected.entries(prefix).inspect(|entry| assert!(shown(entry))).filter(having);
        found.map(|entry| entry.key.to_string()).collect::<Vec<_>>().join(" ")
    };
    for number in 0..20 {
        subject.put(&format!("p/z{number}"), "others x").await;
    }
    for (key, value) in [("p/a", "n1 x"), ("p/b/1", "n2 x"), ("p/b/2", "n1 y"), ("q", "n1 x"), ("o", "n1 x")] {
        subject.put(key, value).await;
    }
    assert_eq!([found("p/", "n1"), found("p/b/", "n1"), found("p/", "n2"), found("p/", "n3")], ["p/a p/b/2", "p/b/2", "p/b/1", ""]);
    subject.commit(vec![put("p/a", "n2 x"), put("p/b/1", "n1 x"), put("p/c", "n2 z")]).await;
    subject.delete("p/b/2").await;
    assert_eq!([found("p/", "n1"), found("p/", "n2")], ["p/b/1", "p/a p/c"]);
    // Of which nothing can be told may have any text.
    subject.put("p/b/0", "odd").await;
    subject.put("p/c", "odd").await;
    assert_eq!([found("p/", "n1"), found("p/", "n2"), found("p/b/", "n3")], ["p/b/0 p/b/1 p/c", "p/a p/b/0 p/c", "p/b/0"]);
    subject.put("p/b/0", "n1 z").await;
    subject.delete("p/c").await;
    assert_eq!([found("p/", "n1"), found("p/", "n2"), found("p/", "n3")], ["p/b/0 p/b/1", "p/a", ""]);
}

#[tokio::test]
async fn progress_comes_after_the_events_that_it_covers() {
    let subject = subject().await;
    let mut watch = subject.store.watch("a", Revision::EMPTY).await.unwrap();
    let first = subject.put("a", "1").await;
    watch.progress_requester().request();
    assert_eq!(events(&mut watch).await[0].revision, first);
    assert!(matches!(item(&mut watch).await, WatchItem::Progress(revision) if revision == first));
    let other = subject.put("b", "1").await;
    let requester = watch.progress_requester();
    let waiting = tokio::task::JoinSet::from_iter([async move { item(&mut watch).await }]);
    requester.request();
    assert!(matches!(waiting.join_all().await.remove(0), WatchItem::Progress(revision) if revision == other));
}

#[tokio::test]
async fn a_watcher_that_falls_behind_is_ended_and_can_go_on_from_where_it_was() {
    let subject = subject().await;
    let mut watch = subject.store.watch("a", Revision::EMPTY).await.unwrap();
    let count = subject.watch_events + 2;
    for number in 0..count {
        subject.put("a", &number.to_string()).await;
    }
    let error = loop {
        match watch.next().await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::WatcherTooSlow { .. }), "{error:?}");
    assert!(matches!(watch.next().await, Err(StoreError::WatcherTooSlow { .. })));
    let mut again = subject.store.watch("a", Revision::EMPTY).await.unwrap();
    assert_eq!(collect(&mut again, count).await.len(), count);
}

#[tokio::test]
async fn a_wait_that_is_given_up_loses_nothing() {
    let subject = subject().await;
    let mut watch = subject.store.watch("a", Revision::EMPTY).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(1), watch.next()).await.is_err());
    subject.put("a", "1").await;
    assert_eq!(events(&mut watch).await.len(), 1);
}

#[tokio::test]
async fn compaction_takes_nothing_from_an_open_watch() {
    let subject = subject().await;
    let mut watch = subject.store.watch("a", Revision::EMPTY).await.unwrap();
    subject.put("a", "1").await;
    let last = subject.commit(vec![Operation::delete("a")]).await.revision;
    subject.store.compact(last).await.unwrap();
    assert_eq!(collect(&mut watch, 2).await.len(), 2);
}
