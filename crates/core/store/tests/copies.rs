//! Moving between the engines, with a real etcd: what is copied, what revisions do, what is refused, and copies that were cut off.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/etcd_server.rs"]
mod etcd_server;

use std::path::Path;
use std::time::Duration;

use etcd_server::EtcdServer;
use fram_store::{Condition, Embedded, Etcd, EtcdOptions, Operation, Options, Revision, Store, StoreError, Transaction};

fn options(server: &EtcdServer) -> EtcdOptions {
    EtcdOptions::new(vec![server.url.clone()], "/registry/")
}

async fn put(store: &dyn Store, key: &str, value: &str, ttl: Option<Duration>) -> Revision {
    let put = Operation::Put { key: key.into(), value: value.to_owned().into(), ttl };
    store.commit(Transaction::new(vec![put])).await.unwrap().revision
}

async fn contents(store: &dyn Store) -> Vec<(String, String)> {
    let snapshot = store.snapshot(None).await.unwrap();
    snapshot.range(..).map(|e| (e.key.to_string(), format!("{:?} of {}", e.value.first(), e.value.len()))).collect()
}

/// A directory with more than one transaction takes, some of it written twice, and a key that expires.
async fn filled(directory: &Path) -> Embedded {
    let store = Embedded::open(Options::new(directory)).unwrap();
    for i in (0..250).rev() {
        put(&store, &format!("/registry/pods/{i:03}"), &"x".repeat(8000), None).await;
    }
    put(&store, "/registry/pods/000", "again", None).await;
    put(&store, "/registry/events/later", "e", Some(Duration::from_secs(600))).await;
    store
}

#[tokio::test]
async fn what_goes_to_etcd_and_back_is_the_same_and_revisions_go_on() {
    let (server, folder) = (EtcdServer::start(&[]), tempfile::tempdir().unwrap());
    let embedded = filled(&folder.path().join("one")).await;
    let (before, wanted) = (embedded.snapshot(None).await.unwrap(), contents(&embedded).await);
    assert_eq!(wanted.len(), 251);
    assert_eq!(Etcd::fill(&before, options(&server)).await.unwrap(), 251);

    let etcd = Etcd::open(options(&server)).await.unwrap();
    assert_eq!(contents(&etcd).await, wanted);
    let copied = etcd.snapshot(None).await.unwrap();
    assert!(copied.revision() > before.revision());
    assert!(copied.range(..).all(|entry| entry.modified > before.revision()), "nobody takes an old version for a new one");
    let mut order: Vec<_> = before.range(..).collect();
    order.sort_by_key(|entry| entry.modified);
    assert!(order.iter().map(|entry| copied.get(&entry.key).unwrap().modified).is_sorted(), "what came later is later still");
    assert!(copied.get("/registry/events/later").unwrap().expires.is_some());
    let old = etcd.watch("/registry/", before.revision()).await.map(drop);
    assert!(matches!(old, Err(StoreError::Compacted { .. })), "{old:?}");
    // A condition on a version of before the copy does not hold.
    let pod = before.get("/registry/pods/001").unwrap();
    let stale =
        Transaction::new(vec![Operation::put("/registry/pods/001", "new")]).when(Condition::ModifiedAt(pod.key.clone(), pod.modified));
    assert!(matches!(etcd.commit(stale).await, Err(StoreError::Conflict { .. })));
    let now = etcd.snapshot(None).await.unwrap().get("/registry/pods/001").unwrap().modified;
    let mut watch = etcd.watch("/registry/", etcd.revision().await.unwrap()).await.unwrap();
    let fresh = Transaction::new(vec![Operation::put("/registry/pods/001", "new")]).when(Condition::ModifiedAt(pod.key.clone(), now));
    let written = etcd.commit(fresh).await.unwrap().revision;
    let fram_store::WatchItem::Events(events) = watch.next().await.unwrap() else { panic!("no events") };
    assert_eq!((events[0].key.as_str(), events[0].revision), ("/registry/pods/001", written));
    assert_eq!(etcd.snapshot(Some(written)).await.unwrap().revision(), written);
    etcd.compact(written).await.unwrap();
    etcd.close().await.unwrap();

    let etcd = Etcd::open(options(&server)).await.unwrap();
    let (wanted, source) = (contents(&etcd).await, etcd.snapshot(None).await.unwrap());
    let back = Options::new(folder.path().join("two"));
    assert_eq!(Embedded::import(&source, |_| true, &back).unwrap().finish().unwrap(), 251);
    let embedded = Embedded::open(back).unwrap();
    assert_eq!(contents(&embedded).await, wanted);
    let copied = embedded.snapshot(None).await.unwrap();
    assert_eq!(copied.revision(), source.revision());
    assert!(source.range(..).all(|entry| copied.get(&entry.key) == Some(entry)), "versions too are the same");
    assert_eq!(put(&embedded, "/registry/a", "1", None).await, source.revision().next());
    drop(embedded);
    assert_eq!(contents(&Embedded::open(Options::new(folder.path().join("two"))).unwrap()).await.len(), 252);
}

#[tokio::test]
async fn a_target_that_is_not_empty_is_left_as_it_is() {
    let (server, folder) = (EtcdServer::start(&[]), tempfile::tempdir().unwrap());
    let embedded = filled(&folder.path().join("one")).await;
    let source = embedded.snapshot(None).await.unwrap();
    let etcd = Etcd::open(options(&server)).await.unwrap();
    put(&etcd, "/registry/a", "1", None).await;
    let refused = Etcd::fill(&source, options(&server)).await.unwrap_err().to_string();
    assert_eq!(refused, "etcd is not empty: it has /registry/a");
    assert_eq!(contents(&etcd).await.len(), 1);
    let refused = Embedded::import(&source, |_| true, &Options::new(folder.path().join("three"))).map(drop);
    assert!(refused.is_ok() && !Embedded::is_there(&Options::new(folder.path().join("three"))).unwrap(), "it is not finished");
    drop(embedded);
    let refused = Embedded::import(&source, |_| true, &Options::new(folder.path().join("one"))).map(drop).unwrap_err().to_string();
    assert!(refused.contains("one is not empty: it has "), "{refused}");
}

#[tokio::test]
async fn a_copy_that_was_cut_off_is_made_anew_and_never_taken_for_a_store() {
    let (server, folder) = (EtcdServer::start(&[]), tempfile::tempdir().unwrap());
    let embedded = filled(&folder.path().join("one")).await;
    let source = embedded.snapshot(None).await.unwrap();
    let cut_off = tokio::time::timeout(Duration::from_millis(15), Etcd::fill(&source, options(&server))).await;
    assert!(cut_off.is_err(), "it has to be cut off for the test to say anything");
    // However far it came: what is there by now is no store, or nothing.
    let opened = Etcd::open(options(&server)).await.map(drop).map_err(|error| error.to_string());
    assert!(opened.is_ok() || opened.unwrap_err().starts_with("a copy into this etcd has not come to its end"));
    assert_eq!(Etcd::fill(&source, options(&server)).await.unwrap(), 251);
    assert_eq!(contents(&Etcd::open(options(&server)).await.unwrap()).await.len(), 251);

    let back = folder.path().join("two");
    std::fs::create_dir(&back).unwrap();
    std::fs::write(back.join("checkpoint-0000000000000001.tmp"), "half").unwrap();
    let import = || Embedded::import(&source, |key| !key.contains("/events/"), &Options::new(&back)).unwrap();
    drop(import());
    let opened = Embedded::open(Options::new(&back)).map(drop).unwrap_err().to_string();
    assert!(opened.contains("checkpoint-"), "{opened}");
    assert_eq!(import().finish().unwrap(), 250);
    assert_eq!(contents(&Embedded::open(Options::new(&back)).unwrap()).await.len(), 250);
}

#[tokio::test]
async fn of_two_copies_at_once_one_is_there_as_a_whole_and_the_other_fails() {
    let (server, folder) = (EtcdServer::start(&[]), tempfile::tempdir().unwrap());
    let one = filled(&folder.path().join("one")).await;
    let two = Embedded::open(Options::new(folder.path().join("two"))).unwrap();
    for i in 0..250 {
        put(&two, &format!("/registry/nodes/{i:03}"), &"y".repeat(8000), None).await;
    }
    let sources = [one.snapshot(None).await.unwrap(), two.snapshot(None).await.unwrap()];
    let later = async {
        tokio::time::sleep(Duration::from_millis(15)).await;
        Etcd::fill(&sources[1], options(&server)).await
    };
    let done = tokio::join!(Etcd::fill(&sources[0], options(&server)), later);
    let wanted = match &done {
        (Ok(251), Err(_)) => contents(&one).await,
        (Err(_), Ok(250)) => contents(&two).await,
        _ => panic!("{done:?}"),
    };
    assert_eq!(contents(&Etcd::open(options(&server)).await.unwrap()).await, wanted);
}
