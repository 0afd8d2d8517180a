//! Damaged files: a write that was cut short is forgotten, damage to what was acknowledged is named.

use fram_store::embedded::check::check;
use fram_store::{Embedded, Operation, Store, StoreError, Transaction};

use crate::rig::{HEADER, Rig, dump, put};

async fn filled(rig: &Rig, count: usize) {
    let store = rig.open();
    for number in 0..count {
        put(&store, &format!("key-{number}"), "value").await.unwrap();
    }
}

async fn count(store: &Embedded) -> usize {
    store.snapshot(None).await.unwrap().len()
}

#[tokio::test]
async fn a_log_that_is_cut_anywhere_loses_the_cut_record_and_those_after_it() {
    let rig = Rig::new();
    filled(&rig, 4).await;
    let log = rig.file("log-");
    let whole = rig.records(&log);
    let record = (whole.len() - HEADER) / 4;
    for length in HEADER..whole.len() {
        rig.disk.overwrite(&log, whole[..length].to_vec());
        let store = rig.open();
        assert_eq!(count(&store).await, (length - HEADER) / record, "cut at {length}");
        // What was cut off does not come back under what is written now.
        put(&store, "new", "value").await.unwrap();
        let before = dump(&store).await;
        drop(store);
        assert_eq!(dump(&rig.open()).await, before, "cut at {length}");
    }
}

#[tokio::test]
async fn a_log_cut_within_its_header_is_corrupt() {
    let rig = Rig::new();
    filled(&rig, 1).await;
    let log = rig.file("log-");
    let whole = rig.records(&log);
    for length in 0..HEADER {
        rig.disk.overwrite(&log, whole[..length].to_vec());
        assert!(matches!(rig.try_open(), Err(StoreError::Corrupt { path, offset: 0, .. }) if path == log), "cut at {length}");
    }
}

#[tokio::test]
async fn a_flipped_bit_is_corruption_except_in_the_last_record() {
    let rig = Rig::new();
    filled(&rig, 4).await;
    let log = rig.file("log-");
    let whole = rig.records(&log);
    let record = (whole.len() - HEADER) / 4;
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        rig.disk.overwrite(&log, damaged);
        let start = if at < HEADER { 0 } else { HEADER + (at - HEADER) / record * record };
        match rig.try_open() {
            // One write after the last flush looks the same whether it never arrived or decayed later.
            Ok(store) => {
                assert!(start == HEADER + 3 * record, "bit in byte {at}");
                assert_eq!(count(&store).await, 3);
            }
            Err(StoreError::Corrupt { path, offset, .. }) => assert_eq!((path, offset), (log.clone(), start as u64), "bit in byte {at}"),
            Err(other) => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_value_that_looks_like_a_record_of_another_log_is_just_a_value() {
    let other = Rig::new();
    let options = fram_store::Options { seed: 99, ..other.options() };
    let store = Embedded::open(options).unwrap();
    for number in 0..9 {
        put(&store, &format!("forged-{number}"), "value").await.unwrap();
    }
    drop(store);
    let forged = other.records(&other.file("log-"));
    let rig = Rig::new();
    let store = rig.open();
    put(&store, "a", "1").await.unwrap();
    store.commit(Transaction::new(vec![Operation::put("b", forged)])).await.unwrap();
    drop(store);
    let log = rig.file("log-");
    let mut torn = rig.records(&log);
    torn.pop();
    rig.disk.overwrite(&log, torn);
    assert_eq!(count(&rig.open()).await, 1);
}

#[tokio::test]
async fn a_flipped_bit_in_a_checkpoint_is_corruption() {
    let rig = Rig::with_checkpoints_after(300);
    // A checkpoint may still be in the making when the store closes, the first one as well as the next; what is wanted is one alone.
    let checkpoint = loop {
        filled(&rig, 20).await;
        drop(rig.open());
        match &rig.files("checkpoint-")[..] {
            [one] if one.extension().is_none() => break one.clone(),
            _ => {}
        }
    };
    let whole = rig.disk.content(&checkpoint).unwrap();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        rig.disk.overwrite(&checkpoint, damaged);
        assert!(matches!(rig.try_open(), Err(StoreError::Corrupt { path, .. }) if path == checkpoint), "bit in byte {at}");
    }
    for length in 0..whole.len() {
        rig.disk.overwrite(&checkpoint, whole[..length].to_vec());
        assert!(matches!(rig.try_open(), Err(StoreError::Corrupt { path, .. }) if path == checkpoint), "cut at {length}");
    }
}

#[tokio::test]
async fn room_behind_the_records_is_written_over_and_no_damage() {
    let rig = Rig::new();
    filled(&rig, 2).await;
    let log = rig.file("log-");
    let room = rig.disk.content(&log).unwrap();
    let records = rig.records(&log);
    let mut torn = room.clone();
    torn[records.len() + 700] = 7;
    // What a loss of power may leave: part of the room, all of it, and with something in it that never became a record.
    for (left, unfinished) in [(room[..records.len() + 1000].to_vec(), false), (room, false), (torn, true)] {
        rig.disk.overwrite(&log, left);
        let report = check(&rig.options()).unwrap();
        assert_eq!((report.findings, report.notes.is_empty()), (vec![], !unfinished));
        filled(&rig, 4).await;
        assert_eq!(count(&rig.open()).await, 4);
    }
}
