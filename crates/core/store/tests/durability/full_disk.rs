//! A real file system that is full. It is mounted in a mount namespace of the test's own thread, which ends with it.

use std::path::Path;

use fram_store::{Embedded, Operation, Options, Store, Transaction};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::rig::{dump, put};

/// A file system of one megabyte, unmounted when it is dropped.
struct Small<'a>(&'a Path);

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let _ = umount2(self.0, MntFlags::MNT_DETACH);
    }
}

/// Needs to be root; fails when it is not.
fn mount_small(path: &Path) -> Small<'_> {
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace needs root");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some("size=1m")).unwrap();
    Small(path)
}

#[tokio::test]
async fn a_full_file_system_fails_commits_until_there_is_room_again() {
    let directory = tempfile::tempdir().unwrap();
    let _small = mount_small(directory.path());
    let ballast = directory.path().join("ballast");
    let data = directory.path().join("data");
    std::fs::write(&ballast, vec![0; 300_000]).unwrap();
    // A log that may grow beyond the file system is never replaced by a checkpoint.
    let store = Embedded::open(Options::new(&data)).unwrap();
    let mut acknowledged = 0;
    let error = loop {
        let value = vec![b'x'; 10_000];
        let operation = Operation::put(format!("key-{acknowledged}"), value);
        match store.commit(Transaction::new(vec![operation])).await {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
    };
    assert!(error.is_disk_full() && acknowledged > 10, "{error:?} after {acknowledged}");
    let before = dump(&store).await;
    assert_eq!(before.1.len(), acknowledged);
    std::fs::remove_file(&ballast).unwrap();
    put(&store, "after", "1").await.unwrap();
    let after = dump(&store).await;
    assert_eq!(after.0, before.0.next());
    drop(store);
    assert_eq!(dump(&Embedded::open(Options::new(&data)).unwrap()).await, after);
}
