//! What snapshots, history and compaction promise.

use std::ops::Bound;

use fram_store::{Operation, Revision, StoreError};

use crate::subject::{all, put, subject, text};

#[tokio::test]
async fn a_snapshot_does_not_change() {
    let subject = subject().await;
    subject.put("a", "1").await;
    let snapshot = subject.snapshot().await;
    subject.commit(vec![put("a", "2"), put("b", "2")]).await;
    subject.delete("a").await;
    assert_eq!(all(&snapshot), ["a=1"]);
}

#[tokio::test]
async fn ranges_are_ordered_by_the_bytes_of_the_keys_and_have_the_bounds_that_were_asked_for() {
    let subject = subject().await;
    subject.commit(["a", "b/1", "b/2", "b0", "c", "é"].map(|key| put(key, "")).to_vec()).await;
    let snapshot = subject.snapshot().await;
    let keys = |range: (Bound<&str>, Bound<&str>)| snapshot.range(range).map(|entry| entry.key.to_string()).collect::<Vec<_>>();
    assert_eq!(keys((Bound::Unbounded, Bound::Unbounded)), ["a", "b/1", "b/2", "b0", "c", "é"]);
    assert_eq!(keys((Bound::Included("b/"), Bound::Excluded("b0"))), ["b/1", "b/2"]);
    assert_eq!(keys((Bound::Excluded("b/1"), Bound::Included("c"))), ["b/2", "b0", "c"]);
    assert!(keys((Bound::Included("c"), Bound::Excluded("a"))).is_empty());
    assert!(keys((Bound::Excluded("a"), Bound::Excluded("a"))).is_empty());
    assert_eq!(snapshot.count((Bound::Included("b"), Bound::Excluded("c"))), 3);
    assert_eq!(snapshot.range(..).next_back().map(text), Some("é=".into()));
}

#[tokio::test]
async fn a_prefix_can_be_read_page_by_page() {
    let subject = subject().await;
    subject.commit(["a", "p/1", "p/2", "p/3", "p0", "q"].map(|key| put(key, "")).to_vec()).await;
    let snapshot = subject.snapshot().await;
    let page = |last| snapshot.prefix_after("p/", last).take(2).map(|entry| entry.key.to_string()).collect::<Vec<_>>();
    assert_eq!(page(None), ["p/1", "p/2"]);
    assert_eq!(page(Some("p/2")), ["p/3"]);
    assert!(page(Some("p/3")).is_empty());
    assert_eq!(page(Some("a")), ["p/1", "p/2"]);
    assert_eq!(snapshot.prefix("p").count(), 4);
}

#[tokio::test]
async fn every_revision_that_history_holds_can_be_read() {
    let subject = subject().await;
    let mut expected = vec![(subject.store.revision().await.unwrap(), Vec::new())];
    for number in 0..50 {
        let mut operations = vec![put(&format!("key-{}", number % 7), &number.to_string())];
        if number % 3 == 0 {
            operations.push(Operation::delete(format!("key-{}", (number + 3) % 7)));
        }
        let revision = subject.commit(operations).await.revision;
        expected.push((revision, all(&subject.snapshot().await)));
    }
    for (revision, entries) in expected {
        let snapshot = subject.at(revision).await;
        assert_eq!((snapshot.revision(), all(&snapshot)), (revision, entries));
    }
}

#[tokio::test]
async fn a_revision_that_was_not_reached_cannot_be_read_watched_or_compacted_to() {
    let subject = subject().await;
    let current = subject.put("a", "1").await;
    let future = |result: Result<(), StoreError>| {
        assert!(
            matches!(result, Err(StoreError::FutureRevision { revision, current: found }) if (revision, found) == (Revision(9), current)),
            "{result:?}"
        );
    };
    future(subject.store.snapshot(Some(Revision(9))).await.map(drop));
    future(subject.store.watch("", Revision(9)).await.map(drop));
    future(subject.store.compact(Revision(9)).await);
}

#[tokio::test]
async fn compaction_forgets_what_lies_before_it_and_nothing_else() {
    let subject = subject().await;
    let revisions = [subject.put("a", "1").await, subject.put("a", "2").await, subject.put("a", "3").await];
    subject.store.compact(revisions[1]).await.unwrap();
    subject.store.compact(revisions[0]).await.unwrap();
    assert_eq!(subject.store.oldest().await.unwrap(), revisions[1]);
    assert_eq!(all(&subject.at(revisions[1]).await), ["a=2"]);
    assert_eq!(all(&subject.snapshot().await), ["a=3"]);
    assert!(subject.store.watch("", revisions[1]).await.is_ok());
    for result in [subject.store.snapshot(Some(revisions[0])).await.map(drop), subject.store.watch("", revisions[0]).await.map(drop)] {
        let matches =
            matches!(result, Err(StoreError::Compacted { revision, oldest }) if (revision, oldest) == (revisions[0], revisions[1]));
        assert!(matches, "{result:?}");
    }
}

#[tokio::test]
async fn history_older_than_the_window_is_forgotten() {
    let subject = subject().await;
    let old = subject.put("a", "1").await;
    let kept = subject.put("a", "2").await;
    subject.clock.advance(subject.history_window / 2);
    let recent = subject.put("a", "3").await;
    subject.clock.advance(subject.history_window / 2);
    subject.put("b", "4").await;
    assert!(matches!(subject.store.snapshot(Some(old)).await, Err(StoreError::Compacted { .. })));
    assert_eq!(all(&subject.at(kept).await), ["a=2"], "the oldest revision is the one before the oldest event");
    assert_eq!(all(&subject.at(recent).await), ["a=3"]);
}

#[tokio::test]
async fn history_is_forgotten_also_when_nothing_is_written() {
    let subject = subject().await;
    subject.put("a", "1").await;
    let last = subject.put("a", "2").await;
    subject.clock.advance(subject.history_window * 2);
    // Nothing changes with these; the second one is answered after the first has been dealt with in full.
    subject.commit(vec![]).await;
    subject.commit(vec![]).await;
    assert_eq!(subject.store.oldest().await.unwrap(), last);
}
