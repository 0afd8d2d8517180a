//! `check`: what is wrong is named with its file, place, revision and key, and nothing is changed by looking.

use fram_store::embedded::check::{Finding, check};
use fram_store::{Operation, Revision, Store, StoreError, Transaction};

use crate::rig::{FRAME_HEADER, HEADER, Rig, put};

async fn filled(rig: &Rig) {
    let store = rig.open();
    for number in 0..4 {
        put(&store, &format!("key-{number}"), "value").await.unwrap();
    }
}

/// What is found when one bit of a file is flipped.
fn flipped(rig: &Rig, path: &std::path::Path, byte: usize) -> Vec<Finding> {
    let whole = rig.disk.content(path).unwrap();
    let mut damaged = whole.clone();
    damaged[byte] ^= 1 << (byte % 8);
    rig.disk.overwrite(path, damaged);
    let findings = check(&rig.options()).unwrap().findings;
    rig.disk.overwrite(path, whole);
    findings
}

#[tokio::test]
async fn a_sound_store_is_found_sound_and_left_as_it_is() {
    let rig = Rig::new();
    filled(&rig).await;
    let before: Vec<_> = rig.disk.paths().into_iter().map(|path| rig.disk.content(&path)).collect();
    let report = check(&rig.options()).unwrap();
    assert_eq!((report.findings, report.notes, report.keys, report.revision), (vec![], vec![], 4, Revision(5)));
    assert_eq!(rig.disk.paths().into_iter().map(|path| rig.disk.content(&path)).collect::<Vec<_>>(), before);
}

#[tokio::test]
async fn each_bit_of_a_log_is_named_when_it_is_flipped() {
    let rig = Rig::new();
    filled(&rig).await;
    let log = rig.file("log-");
    let length = rig.records(&log).len();
    let record = (length - HEADER) / 4;
    for byte in 0..length {
        let findings = flipped(&rig, &log, byte);
        assert_eq!(findings.iter().map(|f| (f.path.clone(), f.offset)).collect::<Vec<_>>(), [(log.clone(), byte as u64)], "{findings:?}");
        let (number, within) = (byte.saturating_sub(HEADER) / record, byte.saturating_sub(HEADER) % record);
        // The time of the group and the transaction's head stand before the key.
        if byte >= HEADER && within >= FRAME_HEADER {
            let key = format!("key-{number}");
            assert_eq!((findings[0].key.as_deref(), findings[0].revision), (Some(key.as_str()), Some(Revision(2 + number as u64))));
        }
    }
}

#[tokio::test]
async fn a_flipped_bit_of_a_checkpoint_is_named_with_its_key() {
    let rig = Rig::with_checkpoints_after(1);
    filled(&rig).await;
    let newest = || rig.files("checkpoint-").into_iter().filter(|path| path.extension().is_none()).max();
    let place = |content: &[u8]| content.windows(5).position(|window| window == b"key-0");
    // The checkpoint may still be in the making when the store closes, or be one of before; another opening and commit makes one.
    let (path, content, byte) = loop {
        let content = newest().and_then(|path| Some((rig.disk.content(&path)?, path)));
        match content.and_then(|(content, path)| Some((place(&content)?, content, path))) {
            Some((byte, content, path)) => break (path, content, byte),
            None => drop(put(&rig.open(), "more", "value").await.unwrap()),
        }
    };
    let findings = flipped(&rig, &path, byte);
    assert_eq!(
        findings.iter().map(|f| (f.offset, f.key.as_deref(), f.revision)).collect::<Vec<_>>(),
        [(byte as u64, Some("key-0"), Some(Revision(2)))]
    );
    for byte in 0..content.len() {
        assert_eq!(flipped(&rig, &path, byte).first().map(|f| f.offset), Some(byte as u64));
    }
}

#[tokio::test]
async fn several_damages_are_all_named() {
    let rig = Rig::new();
    filled(&rig).await;
    let log = rig.file("log-");
    let mut bytes = rig.records(&log);
    let record = (bytes.len() - HEADER) / 4;
    bytes[HEADER + 5] ^= 0xff;
    let second = HEADER + record + FRAME_HEADER + 20;
    bytes[second..second + 3].fill(0xaa);
    bytes[HEADER + 2 * record + FRAME_HEADER + 30] ^= 1;
    rig.disk.overwrite(&log, bytes);
    let findings = check(&rig.options()).unwrap().findings;
    let offsets = [HEADER, HEADER + record + FRAME_HEADER, HEADER + 2 * record + FRAME_HEADER + 30].map(|offset| offset as u64);
    assert_eq!(findings.iter().map(|f| f.offset).collect::<Vec<_>>(), offsets, "{findings:#?}");
}

#[tokio::test]
async fn an_unfinished_write_is_no_damage() {
    let rig = Rig::new();
    filled(&rig).await;
    let log = rig.file("log-");
    let whole = rig.records(&log);
    for length in HEADER..whole.len() {
        rig.disk.overwrite(&log, whole[..length].to_vec());
        let report = check(&rig.options()).unwrap();
        assert_eq!(report.findings, [], "cut at {length}");
        assert_eq!(report.notes.is_empty(), (length - HEADER).is_multiple_of((whole.len() - HEADER) / 4), "cut at {length}");
    }
}

#[tokio::test]
async fn a_log_that_is_missing_is_named() {
    let rig = Rig::new();
    filled(&rig).await;
    let log = rig.file("log-");
    let later = log.with_file_name("log-0000000000000003");
    rig.disk.overwrite(&later, rig.disk.content(&log).unwrap());
    let findings = check(&rig.options()).unwrap().findings;
    assert!(findings.iter().any(|f| f.path.ends_with("log-0000000000000002") && f.reason == "log is missing"), "{findings:?}");
}

#[tokio::test]
async fn a_store_that_is_open_or_is_none_is_not_read() {
    let rig = Rig::new();
    assert!(matches!(check(&rig.options()), Err(StoreError::Io { .. } | StoreError::NotAStore { .. })));
    let store = rig.open();
    store.commit(Transaction::new(vec![Operation::put("a", "1")])).await.unwrap();
    assert!(matches!(check(&rig.options()), Err(StoreError::Locked { .. })));
}
