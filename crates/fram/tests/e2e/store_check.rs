//! `fram store check`, as an administrator meets it: what it says, and its exit code.

use std::path::Path;
use std::process::Command;

use fram_store::{Embedded, Operation, Options, Store, Transaction};

/// The exit code, and what it says on both streams.
fn check(data: &Path) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_fram")).args(["store", "check", "--data-dir"]).arg(data).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[test]
fn a_store_is_checked_when_nobody_uses_it_and_damage_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (code, said) = check(folder.path());
    assert!(code == Some(1) && said.contains("cannot check") && !folder.path().join("store").exists(), "{said}");
    let store = Embedded::open(Options::new(folder.path().join("store"))).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        for name in ["a", "b", "c"] {
            let put = Operation::put(format!("/registry/core/configmaps/default/{name}"), "value".to_owned());
            store.commit(Transaction::new(vec![put])).await.unwrap();
        }
    });
    let (code, said) = check(folder.path());
    assert!(code == Some(1) && said.contains("in use by another process"), "{said}");
    drop(store);
    let (code, said) = check(folder.path());
    assert!(code == Some(0) && said.starts_with("sound: 1 files with ") && said.ends_with("3 keys at revision 4\n"), "{said}");
    let log = folder.path().join("store/log-0000000000000001");
    let mut bytes = std::fs::read(&log).unwrap();
    let at = bytes.windows(9).position(|window| window == b"default/b").unwrap() + 8;
    bytes[at] ^= 1 << 5;
    std::fs::write(&log, &bytes).unwrap();
    let (code, said) = check(folder.path());
    let expected = format!("{}: byte {at}, revision 3, key /registry/core/configmaps/default/b: bit 5 was flipped\n", log.display());
    assert!(code == Some(1) && said.starts_with(&expected) && said.contains("1 damage: "), "{said}");
    assert_eq!(std::fs::read(&log).unwrap(), bytes, "nothing is changed by looking");
}
