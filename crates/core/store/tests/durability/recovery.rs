//! A store that is opened again is the store that was closed.

use std::time::Duration;

use fram_store::{Operation, Revision, Store, StoreError, Transaction, WatchItem};

use crate::rig::{Rig, dump, put};

async fn fill(store: &fram_store::Embedded, count: usize) {
    for number in 0..count {
        let mut operations = vec![Operation::put(format!("key-{}", number % 20), format!("value {number}"))];
        if number % 5 == 0 {
            operations.push(Operation::delete(format!("key-{}", (number + 7) % 20)));
        }
        if number % 4 == 0 {
            let ttl = Some(Duration::from_secs(60));
            operations.push(Operation::Put { key: format!("event-{}", number % 12).into(), value: "x".into(), ttl });
        }
        store.commit(Transaction::new(operations)).await.unwrap();
    }
}

#[tokio::test]
async fn everything_is_there_again_with_its_numbers() {
    let rig = Rig::new();
    let store = rig.open();
    fill(&store, 100).await;
    let before = dump(&store).await;
    drop(store);
    let store = rig.open();
    assert_eq!(dump(&store).await, before);
    let next = put(&store, "a", "1").await.unwrap().revision;
    assert_eq!(next, before.0.next());
}

#[tokio::test]
async fn history_since_the_checkpoint_is_there_again() {
    let rig = Rig::new();
    let store = rig.open();
    fill(&store, 50).await;
    let middle = store.snapshot(Some(Revision(25))).await.unwrap();
    let middle: Vec<_> = middle.range(..).cloned().collect();
    drop(store);
    let store = rig.open();
    let again = store.snapshot(Some(Revision(25))).await.unwrap();
    assert!(again.range(..).eq(&middle));
    let mut watch = store.watch("", Revision::EMPTY).await.unwrap();
    let Ok(WatchItem::Events(events)) = watch.next().await else { panic!("no events") };
    assert_eq!(events.first().unwrap().revision, Revision(2));
    assert_eq!(events.last().unwrap().revision, Revision(51));
}

#[tokio::test]
async fn a_checkpoint_replaces_the_logs_before_it_and_keeps_everything() {
    let rig = Rig::with_checkpoints_after(2_000);
    let mut store = rig.open();
    for _ in 0..10 {
        fill(&store, 100).await;
        let before = dump(&store).await;
        drop(store);
        let files = rig.files("").len();
        assert!(files <= 8, "{:?}", rig.files(""));
        store = rig.open();
        assert_eq!(dump(&store).await, before);
    }
    assert!(!rig.files("checkpoint-").is_empty());
    let oldest = store.oldest().await.unwrap();
    assert!(oldest > Revision::EMPTY, "history before the checkpoint is gone");
    assert!(matches!(store.watch("", Revision::EMPTY).await, Err(StoreError::Compacted { .. })));
}

#[tokio::test]
async fn keys_expire_also_while_the_store_is_closed() {
    let rig = Rig::with_checkpoints_after(500);
    let store = rig.open();
    fill(&store, 50).await;
    drop(store);
    rig.clock.advance(Duration::from_secs(60));
    let store = rig.open();
    put(&store, "z", "1").await.unwrap();
    let snapshot = store.snapshot(None).await.unwrap();
    assert_eq!(snapshot.prefix("event-").count(), 0);
}

#[tokio::test]
async fn the_seed_matters_for_new_files_only() {
    let rig = Rig::new();
    let store = rig.open();
    fill(&store, 10).await;
    let before = dump(&store).await;
    drop(store);
    let options = fram_store::Options { seed: 8, ..rig.options() };
    assert_eq!(dump(&fram_store::Embedded::open(options).unwrap()).await, before);
}
