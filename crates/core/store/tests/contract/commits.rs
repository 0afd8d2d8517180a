//! What transactions promise.

use std::sync::Arc;
use std::time::Duration;

use fram_store::{Condition, MAX_KEY_BYTES, MAX_OPERATIONS, Operation, Revision, StoreError, Transaction};

use crate::subject::{all, put, subject};

#[tokio::test]
async fn an_empty_store_is_at_revision_one() {
    let subject = subject().await;
    assert_eq!(subject.store.revision().await.unwrap(), Revision::EMPTY);
    assert!(subject.snapshot().await.is_empty());
}

#[tokio::test]
async fn each_transaction_has_the_next_revision_and_all_its_entries_carry_it() {
    let subject = subject().await;
    let first = subject.commit(vec![put("a", "1"), put("b", "1")]).await.revision;
    let second = subject.put("a", "2").await;
    assert_eq!((first, second), (Revision(2), Revision(3)));
    let snapshot = subject.snapshot().await;
    assert_eq!(snapshot.revision(), second);
    let (a, b) = (snapshot.get("a").unwrap(), snapshot.get("b").unwrap());
    assert_eq!((a.created, a.modified, a.version), (first, second, 2));
    assert_eq!((b.created, b.modified, b.version), (first, first, 1));
}

#[tokio::test]
async fn a_key_that_was_deleted_and_put_again_starts_anew() {
    let subject = subject().await;
    subject.put("a", "1").await;
    subject.delete("a").await;
    let again = subject.put("a", "2").await;
    let snapshot = subject.snapshot().await;
    let entry = snapshot.get("a").unwrap();
    assert_eq!((entry.created, entry.modified, entry.version), (again, again, 1));
}

#[tokio::test]
async fn a_commit_tells_what_each_operation_found() {
    let subject = subject().await;
    subject.commit(vec![put("a", "1"), put("b", "1")]).await;
    let committed = subject.commit(vec![put("new", "2"), Operation::delete("b"), put("a", "2"), Operation::delete("none")]).await;
    let found: Vec<_> = committed.previous.iter().map(|entry| entry.as_ref().map(|entry| entry.key.to_string())).collect();
    assert_eq!(found, [None, Some("b".into()), Some("a".into()), None]);
}

#[tokio::test]
async fn a_transaction_that_changes_nothing_takes_no_revision() {
    let subject = subject().await;
    let revision = subject.put("a", "1").await;
    assert_eq!(subject.delete("none").await, revision);
    assert_eq!(subject.commit(vec![]).await.revision, revision);
    assert_eq!(subject.store.revision().await.unwrap(), revision);
}

#[tokio::test]
async fn a_condition_that_does_not_hold_stops_the_whole_transaction_and_tells_the_current_entry() {
    let subject = subject().await;
    let first = subject.put("a", "1").await;
    let second = subject.put("a", "2").await;
    let cases = [
        (Condition::Absent("a".into()), "a", Some(second)),
        (Condition::Exists("none".into()), "none", None),
        (Condition::ModifiedAt("a".into(), first), "a", Some(second)),
        (Condition::ModifiedAt("none".into(), second), "none", None),
    ];
    for (condition, key, expected) in cases {
        let transaction =
            Transaction::new(vec![put("a", "3"), put("other", "3")]).when(Condition::Exists("a".into())).when(condition.clone());
        match subject.store.commit(transaction).await {
            Err(StoreError::Conflict { key: found, current }) => {
                assert_eq!((found.as_str(), current.map(|entry| entry.modified)), (key, expected), "{condition:?}");
            }
            other => panic!("{condition:?}: {other:?}"),
        }
    }
    assert_eq!(all(&subject.snapshot().await), ["a=2"]);
    assert_eq!(subject.store.revision().await.unwrap(), second);
}

#[tokio::test]
async fn conditions_that_hold_let_the_transaction_through() {
    let subject = subject().await;
    let revision = subject.put("a", "1").await;
    let transaction = Transaction::new(vec![put("a", "2"), put("b", "2")])
        .when(Condition::ModifiedAt("a".into(), revision))
        .when(Condition::Absent("b".into()))
        .when(Condition::Exists("a".into()));
    subject.store.commit(transaction).await.unwrap();
    assert_eq!(all(&subject.snapshot().await), ["a=2", "b=2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_writers_that_expect_the_same_revision_exactly_one_wins() {
    let subject = Arc::new(subject().await);
    let mut revision = subject.put("a", "0").await;
    for round in 0..20 {
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..16 {
            let (subject, condition) = (Arc::clone(&subject), Condition::ModifiedAt("a".into(), revision));
            let transaction = Transaction::new(vec![put("a", &format!("{round}-{writer}"))]).when(condition);
            writers.spawn(async move { subject.store.commit(transaction).await });
        }
        let won: Vec<_> = writers.join_all().await.into_iter().filter_map(Result::ok).collect();
        assert_eq!(won.len(), 1);
        revision = won[0].revision;
    }
}

#[tokio::test]
async fn a_transaction_over_a_limit_is_refused_as_a_whole() {
    let subject = subject().await;
    let many = |count: usize| (0..count).map(|number| put(&format!("key-{number}"), "")).collect::<Vec<_>>();
    let large = vec![Operation::put("a", vec![0; 64 << 20])];
    let long = vec![put(&"k".repeat(MAX_KEY_BYTES + 1), "")];
    for operations in [many(MAX_OPERATIONS + 1), large, long] {
        let result = subject.store.commit(Transaction::new(operations)).await;
        assert!(matches!(result, Err(StoreError::TooLarge { .. })), "{result:?}");
    }
    subject.commit(many(MAX_OPERATIONS)).await;
    subject.put(&"k".repeat(MAX_KEY_BYTES), "").await;
    assert_eq!(subject.snapshot().await.len(), MAX_OPERATIONS + 1);
}

#[tokio::test]
async fn a_transaction_cannot_touch_a_key_twice() {
    let subject = subject().await;
    let result = subject.store.commit(Transaction::new(vec![put("a", "1"), Operation::delete("a")])).await;
    assert!(matches!(result, Err(StoreError::DuplicateKey { key }) if key.as_str() == "a"));
    assert!(subject.snapshot().await.is_empty());
}

#[tokio::test]
async fn values_are_any_bytes_and_are_shared_with_the_caller() {
    let subject = subject().await;
    let value = bytes::Bytes::from((0..=255).cycle().take(100_000).collect::<Vec<u8>>());
    subject.commit(vec![Operation::put("a", value.clone()), put("empty", "")]).await;
    let snapshot = subject.snapshot().await;
    assert_eq!(snapshot.get("a").unwrap().value, value);
    assert!(snapshot.get("empty").unwrap().value.is_empty());
}

#[tokio::test]
async fn what_was_acknowledged_before_closing_is_the_last() {
    let subject = subject().await;
    subject.put("a", "1").await;
    let before = subject.snapshot().await;
    let mut watch = subject.store.watch("", before.revision()).await.unwrap();
    subject.store.close().await.unwrap();
    subject.store.close().await.unwrap();
    let closed = |result: Result<(), StoreError>| assert!(matches!(result, Err(StoreError::Closed)), "{result:?}");
    closed(subject.store.commit(Transaction::new(vec![put("b", "1")])).await.map(drop));
    closed(subject.store.snapshot(None).await.map(drop));
    closed(subject.store.revision().await.map(drop));
    closed(subject.store.watch("", before.revision()).await.map(drop));
    closed(tokio::time::timeout(Duration::from_secs(10), watch.next()).await.unwrap().map(drop));
    assert_eq!(all(&before), ["a=1"]);
}

#[tokio::test]
async fn what_is_stored_has_a_size_on_the_disk() {
    let subject = subject().await;
    let value = "x".repeat(1000);
    for number in 0..100 {
        subject.put(&format!("key-{number}"), &value).await;
    }
    // An engine may tell its files' size, which grows in steps.
    assert!(subject.store.size().await.unwrap() >= 10_000);
}
