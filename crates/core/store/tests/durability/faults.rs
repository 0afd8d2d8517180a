//! Disks that are full or fail: the commit fails, nothing of it is seen, and the store goes on when the disk does.

use std::time::Duration;

use fram_store::disk::Fault;
use fram_store::{Operation, Store, Transaction};

use crate::rig::{Rig, dump, put};

#[tokio::test]
async fn a_full_disk_fails_the_commit_with_a_clear_error_and_later_ones_work() {
    let rig = Rig::new();
    let store = rig.open();
    put(&store, "a", "1").await.unwrap();
    let before = dump(&store).await;
    rig.disk.fail_from(0, Fault::Full);
    for (attempt, operation) in ["write", "truncate", "truncate"].into_iter().enumerate() {
        let error = put(&store, "a", &attempt.to_string()).await.unwrap_err();
        assert!(error.is_disk_full() && error.is_retriable(), "{error:?}");
        assert_eq!(error.to_string(), format!("cannot {operation} /data/log-0000000000000001: no storage space"));
        assert_eq!(dump(&store).await, before);
    }
    rig.disk.heal();
    put(&store, "a", "3").await.unwrap();
    let after = dump(&store).await;
    assert_eq!(after.0, before.0.next());
    drop(store);
    assert_eq!(dump(&rig.open()).await, after);
}

#[tokio::test]
async fn a_commit_whose_any_operation_fails_is_not_seen_and_the_next_one_works() {
    for fault in [Fault::Full, Fault::Broken] {
        for operation in 0..12 {
            let rig = Rig::new();
            let store = rig.open();
            put(&store, "a", "1").await.unwrap();
            let mut expected = dump(&store).await;
            let next = rig.disk.operations();
            rig.disk.fail_at(next + operation, fault);
            rig.disk.fail_at(next + operation + 3, fault);
            for number in 0..12 {
                let result = put(&store, "a", &format!("value-{number}")).await;
                if result.is_ok() {
                    expected = dump(&store).await;
                    assert!(expected.1[0].contains(&format!("value-{number}")));
                }
                assert_eq!(dump(&store).await, expected, "operation {operation}");
            }
            put(&store, "a", "last").await.unwrap();
            expected = dump(&store).await;
            drop(store);
            assert_eq!(dump(&rig.open()).await, expected, "operation {operation}");
        }
    }
}

#[tokio::test]
async fn a_log_whose_flush_failed_is_left_behind() {
    let rig = Rig::new();
    let store = rig.open();
    put(&store, "a", "1").await.unwrap();
    // The append succeeds, the flush does not.
    rig.disk.fail_at(rig.disk.operations() + 1, Fault::Broken);
    put(&store, "a", "2").await.unwrap_err();
    put(&store, "a", "3").await.unwrap();
    assert_eq!(rig.file("log-").file_name().unwrap(), "log-0000000000000002");
    assert_eq!(rig.file("checkpoint-").file_name().unwrap(), "checkpoint-0000000000000002");
}

#[tokio::test]
async fn a_checkpoint_that_fails_does_not_fail_commits() {
    let rig = Rig::with_checkpoints_after(1_000);
    let store = rig.open();
    let mut failures = 0;
    for number in 0..300 {
        // Of a commit are at most the write in two parts, that of room behind it, and the flush; what comes after is the checkpoint's.
        rig.disk.fail_at(rig.disk.operations() + 4, Fault::Full);
        failures += usize::from(put(&store, &format!("key-{}", number % 10), "value").await.is_err());
        rig.disk.heal();
    }
    assert!(failures < 100, "{failures} commits failed");
    let before = dump(&store).await;
    drop(store);
    assert_eq!(dump(&rig.open()).await, before);
}

#[tokio::test]
async fn keys_that_expire_on_a_full_disk_are_deleted_when_there_is_room() {
    let rig = Rig::new();
    let store = rig.open();
    let ttl = Some(Duration::from_secs(1));
    let operation = Operation::Put { key: "a".into(), value: "x".into(), ttl };
    let revision = store.commit(Transaction::new(vec![operation])).await.unwrap().revision;
    let mut watch = store.watch("", revision).await.unwrap();
    rig.disk.fail_from(0, Fault::Full);
    rig.clock.advance(Duration::from_secs(2));
    put(&store, "b", "1").await.unwrap_err();
    assert_eq!(dump(&store).await.1.len(), 1);
    rig.disk.heal();
    rig.clock.advance(Duration::from_secs(2));
    tokio::time::timeout(Duration::from_secs(10), watch.next()).await.unwrap().unwrap();
    assert_eq!(dump(&store).await.1.len(), 0);
}
