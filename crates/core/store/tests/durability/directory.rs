//! The data directory on the real file system: its lock, its version, and directories that are something else.

use std::os::unix::fs::PermissionsExt;

use fram_store::{Embedded, Options, Store, StoreError};

use crate::rig::{dump, put};

#[tokio::test]
async fn a_store_on_the_real_file_system_is_there_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new/data");
    let options = Options { checkpoint_bytes: 10_000, ..Options::new(&path) };
    let store = Embedded::open(options.clone()).unwrap();
    for number in 0..200 {
        put(&store, &format!("key-{}", number % 30), &"value".repeat(20)).await.unwrap();
    }
    let before = dump(&store).await;
    drop(store);
    assert_eq!(dump(&Embedded::open(options).unwrap()).await, before);
}

#[test]
fn the_data_directory_and_its_files_are_for_their_owner_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data");
    drop(Embedded::open(Options::new(&path)).unwrap());
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    for entry in path.read_dir().unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.file_name());
    }
}

#[tokio::test]
async fn an_open_data_directory_is_locked_until_it_is_closed() {
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open(Options::new(directory.path())).unwrap();
    let second = Embedded::open(Options::new(directory.path()));
    assert!(matches!(second, Err(StoreError::Locked { path }) if path == directory.path()));
    store.close().await.unwrap();
    Embedded::open(Options::new(directory.path())).unwrap();
}

#[test]
fn a_data_directory_of_another_version_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    drop(Embedded::open(Options::new(directory.path())).unwrap());
    std::fs::write(directory.path().join("format"), "fram-store 2\nmore").unwrap();
    let result = Embedded::open(Options::new(directory.path())).map(drop);
    match result {
        Err(StoreError::Version { found, expected, .. }) => assert_eq!((found.as_str(), expected), ("fram-store 2\nmore", "fram-store 1")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_directory_with_other_files_is_not_taken_for_a_data_directory() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("thesis.txt"), "years of work").unwrap();
    let result = Embedded::open(Options::new(directory.path())).map(drop);
    assert!(matches!(result, Err(StoreError::NotAStore { found, .. }) if found == "thesis.txt"));
}

#[test]
fn a_data_directory_whose_log_is_gone_is_corrupt_and_not_empty() {
    let directory = tempfile::tempdir().unwrap();
    drop(Embedded::open(Options::new(directory.path())).unwrap());
    let log = directory.path().join("log-0000000000000001");
    std::fs::remove_file(&log).unwrap();
    assert!(matches!(Embedded::open(Options::new(directory.path())).map(drop), Err(StoreError::Corrupt { path, .. }) if path == log));
}

#[test]
fn a_path_that_cannot_be_a_directory_is_named_in_the_error() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().join("data");
    let error = Embedded::open(Options::new(&path)).map(drop).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot create data directory {}: Not a directory (os error 20)", path.display()));
}
