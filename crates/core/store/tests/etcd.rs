//! What the engine on etcd owes beyond the contract, against one real etcd: several stores on one etcd, others' keys beside its own,
//! histories that are compacted, restarts, a database that is full, TLS, and values that are encrypted.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/etcd_server.rs"]
mod etcd_server;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use etcd_server::EtcdServer;
use fram_grpc::wire::{Writer, fields};
use fram_grpc::{Channel, Options};
use fram_store::etcd::Tls;
use fram_store::{Cipher, CipherError, Etcd, EtcdOptions, Opened, Operation, Revision, Store, StoreError, Transaction, Watch, WatchItem};
use tokio_util::task::TaskTracker;

fn options(server: &EtcdServer) -> EtcdOptions {
    EtcdOptions::new(vec![server.url.clone()], "/registry/")
}

async fn open(server: &EtcdServer) -> Etcd {
    Etcd::open(options(server)).await.unwrap()
}

async fn put(store: &Etcd, key: &str, value: &str) -> Revision {
    let transaction = Transaction::new(vec![Operation::put(format!("/registry/{key}"), value.to_owned())]);
    store.commit(transaction).await.unwrap().revision
}

async fn values(store: &Etcd) -> Vec<String> {
    let snapshot = store.snapshot(None).await.unwrap();
    snapshot.range(..).map(|entry| format!("{}={}", entry.key, String::from_utf8_lossy(&entry.value))).collect()
}

async fn next(watch: &mut Watch) -> Result<Vec<String>, StoreError> {
    let item = tokio::time::timeout(Duration::from_secs(10), watch.next()).await.expect("nothing came");
    let WatchItem::Events(events) = item? else { panic!("progress in place of events") };
    Ok(events.iter().map(|event| event.key.to_string()).collect())
}

/// A call past the store.
async fn call(server: &EtcdServer, method: &str, message: &Writer) -> bytes::Bytes {
    let authority = server.url.trim_start_matches("http://").to_string();
    let stream = tokio::net::TcpStream::connect(&authority).await.unwrap();
    let options = Options { authority, metadata: Vec::new(), max_message: 1 << 20, keep_alive: None };
    Channel::new(stream, options, &TaskTracker::new()).await.unwrap().unary(method, &message.0).await.unwrap()
}

/// Another's key, beside the store's.
async fn put_beside(server: &EtcdServer, key: &str) {
    let _answer = call(server, "/etcdserverpb.KV/Put", &Writer::default().bytes(1, key.as_bytes()).bytes(2, b"x")).await;
}

#[tokio::test]
async fn what_one_store_writes_another_on_the_same_etcd_reads_at_once() {
    let server = EtcdServer::start(&[]);
    let stores = [open(&server).await, open(&server).await];
    let mut watch = stores[1].watch("/registry/", Revision::EMPTY).await.unwrap();
    for number in 0..50 {
        let (writer, reader) = (&stores[number % 2], &stores[1 - number % 2]);
        let revision = put(writer, "a", &number.to_string()).await;
        assert_eq!(values(reader).await, [format!("/registry/a={number}")]);
        assert_eq!(reader.snapshot(Some(revision)).await.unwrap().revision(), revision);
        assert_eq!(next(&mut watch).await.unwrap(), ["/registry/a"]);
    }
}

#[tokio::test]
async fn keys_beside_the_prefix_are_nobodys_and_hold_up_no_reader() {
    let server = EtcdServer::start(&[]);
    let store = open(&server).await;
    put(&store, "a", "1").await;
    let begun = std::time::Instant::now();
    for number in 0..50 {
        put_beside(&server, &format!("/registry2/{number}")).await;
        assert_eq!(values(&store).await, ["/registry/a=1"]);
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "only the first time anybody waits for an event that does not come");
    let beside = Transaction::new(vec![Operation::put("/other", "x")]);
    assert!(matches!(store.commit(beside).await, Err(StoreError::Options(_))), "what it could not read it does not write");
}

#[tokio::test]
async fn a_new_store_has_the_history_that_etcd_has() {
    let server = EtcdServer::start(&[]);
    let first = open(&server).await;
    let revisions = [put(&first, "a", "1").await, put(&first, "a", "2").await, put(&first, "b", "3").await];
    first.compact(revisions[0]).await.unwrap();
    let second = open(&server).await;
    assert_eq!(second.oldest().await.unwrap(), revisions[0]);
    let mut watch = second.watch("/registry/", revisions[0]).await.unwrap();
    assert_eq!(next(&mut watch).await.unwrap(), ["/registry/a", "/registry/b"]);
    assert_eq!(second.snapshot(Some(revisions[1])).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_store_goes_on_where_it_was_when_etcd_comes_back() {
    let mut server = EtcdServer::start(&[]);
    let store = open(&server).await;
    let revision = put(&store, "a", "1").await;
    let mut watch = store.watch("/registry/", revision).await.unwrap();
    server.restart();
    assert_eq!(values(&store).await, ["/registry/a=1"], "a read waits for it");
    put(&store, "b", "2").await;
    assert_eq!(next(&mut watch).await.unwrap(), ["/registry/b"]);
    assert_eq!(values(&store).await, ["/registry/a=1", "/registry/b=2"]);
}

#[tokio::test]
async fn what_was_compacted_before_it_was_seen_is_read_anew_and_watches_end() {
    let server = EtcdServer::start(&[]);
    let (store, other) = (open(&server).await, open(&server).await);
    let revision = put(&store, "a", "1").await;
    let mut watch = store.watch("/registry/", revision).await.unwrap();
    let relay = server.relay().await;
    let behind = Etcd::open(EtcdOptions::new(vec![relay.url.clone()], "/registry/")).await.unwrap();
    let mut missing = behind.watch("/registry/", revision).await.unwrap();
    relay.cut();
    let last = {
        put(&other, "b", "2").await;
        put(&other, "c", "3").await
    };
    other.compact(last).await.unwrap();
    relay.mend();
    assert!(matches!(missing.next().await, Err(StoreError::Compacted { oldest, .. }) if oldest >= last));
    assert_eq!(values(&behind).await, ["/registry/a=1", "/registry/b=2", "/registry/c=3"]);
    assert_eq!(next(&mut watch).await.unwrap(), ["/registry/b"], "who saw it in time misses nothing");
}

#[tokio::test]
async fn etcd_is_compacted_to_where_it_was_an_interval_ago() {
    let server = EtcdServer::start(&[]);
    let interval = Duration::from_millis(300);
    let stores = [(); 2].map(|()| EtcdOptions { compaction_interval: Some(interval), ..options(&server) });
    let stores = [Etcd::open(stores[0].clone()).await.unwrap(), Etcd::open(stores[1].clone()).await.unwrap()];
    let first = put(&stores[0], "a", "1").await;
    let compacted = async {
        // A store that begins then has no more history than etcd.
        while open(&server).await.oldest().await.unwrap() <= first {
            tokio::time::sleep(interval).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), compacted).await.expect("nobody compacts");
    assert_eq!(values(&stores[1]).await, ["/registry/a=1"]);
    assert!(stores[1].snapshot(Some(first)).await.is_ok(), "each store has a window of its own");
}

#[tokio::test]
async fn a_full_database_refuses_clearly_and_takes_writes_again_when_there_is_room() {
    let server = EtcdServer::start(&["--quota-backend-bytes", "1048576"]);
    let store = open(&server).await;
    let value = vec![b'x'; 200 << 10];
    let fill = || store.commit(Transaction::new(vec![Operation::put("/registry/a", value.clone())]));
    let full = loop {
        match fill().await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(full, StoreError::NoSpace) && full.is_disk_full(), "{full}");
    assert_eq!(store.snapshot(None).await.unwrap().len(), 1, "reads go on");
    let current = store.revision().await.unwrap();
    // With `physical`, it is answered when the room is free.
    call(&server, "/etcdserverpb.KV/Compact", &Writer::default().number(1, current.0).number(2, 1)).await;
    call(&server, "/etcdserverpb.Maintenance/Defragment", &Writer::default()).await;
    let alarms = call(&server, "/etcdserverpb.Maintenance/Alarm", &Writer::default()).await;
    let alarm = fields(&alarms).filter_map(Result::ok).find(|(number, _)| *number == 2).unwrap().1.bytes().unwrap();
    let member = fields(alarm).filter_map(Result::ok).find(|(number, _)| *number == 1).unwrap().1.number().unwrap();
    // AlarmRequest: deactivate, of this member, NOSPACE.
    let disarm = Writer::default().number(1, 2).number(2, member).number(3, 1);
    call(&server, "/etcdserverpb.Maintenance/Alarm", &disarm).await;
    put(&store, "a", "1").await;
}

#[tokio::test]
async fn a_request_that_etcd_finds_too_large_is_refused_as_such() {
    let server = EtcdServer::start(&["--max-request-bytes", "10000"]);
    let store = open(&server).await;
    let large = Transaction::new(vec![Operation::put("/registry/a", vec![0; 20_000])]);
    assert!(matches!(store.commit(large).await, Err(StoreError::TooLarge { .. })));
}

#[tokio::test]
async fn an_etcd_that_is_not_there_is_said_to_be_missing() {
    let server = format!("http://127.0.0.1:{}", etcd_server::free_port());
    let options = EtcdOptions { patience: Duration::from_millis(300), ..EtcdOptions::new(vec![server], "/registry/") };
    assert!(matches!(Etcd::open(options).await, Err(StoreError::Unavailable { .. })));
}

#[tokio::test]
async fn etcd_is_spoken_to_by_tls_with_certificates_on_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let authority = rcgen::CertifiedIssuer::self_signed(authority_params(), rcgen::KeyPair::generate().unwrap()).unwrap();
    std::fs::write(file("ca.crt"), authority.pem()).unwrap();
    for name in ["server", "client"] {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_string()]).unwrap();
        std::fs::write(file(&format!("{name}.crt")), params.signed_by(&key, &authority).unwrap().pem()).unwrap();
        std::fs::write(file(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }
    let server = EtcdServer::start_by_tls(&[
        "--cert-file",
        &file("server.crt"),
        "--key-file",
        &file("server.key"),
        "--client-cert-auth",
        "--trusted-ca-file",
        &file("ca.crt"),
    ]);
    let read = |name: &str| std::fs::read(file(name)).unwrap();
    let (ca, certificate, key) = (read("ca.crt"), read("client.crt"), read("client.key"));
    let with = |tls| EtcdOptions { tls: Some(tls), ..options(&server) };
    let store = Etcd::open(with(Tls::new(&ca, Some((&certificate, &key))).unwrap())).await.unwrap();
    put(&store, "a", "1").await;
    assert_eq!(values(&store).await, ["/registry/a=1"]);
    let stranger = EtcdOptions { patience: Duration::from_millis(300), ..with(Tls::new(&ca, None).unwrap()) };
    assert!(matches!(Etcd::open(stranger).await, Err(StoreError::Unavailable { .. })));
    assert!(matches!(Etcd::open(options(&server)).await, Err(StoreError::Options(_))), "https needs an authority");
}

fn authority_params() -> rcgen::CertificateParams {
    let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params
}

/// Writes each byte shifted by a key that stands in front, and knows all keys.
#[derive(Default)]
struct Shift(AtomicU8);

impl Cipher for Shift {
    fn seal(&self, _: &str, value: &[u8]) -> Result<Option<Vec<u8>>, CipherError> {
        let key = self.0.load(Ordering::Relaxed);
        Ok(Some([key].into_iter().chain(value.iter().map(|byte| byte.wrapping_add(key))).collect()))
    }

    fn open(&self, _: &str, stored: &[u8]) -> Result<Opened, CipherError> {
        let (key, value) = stored.split_first().ok_or_else(|| CipherError("too short".into()))?;
        let value = value.iter().map(|byte| byte.wrapping_sub(*key)).collect();
        Ok(Opened { value: Some(value), stale: *key != self.0.load(Ordering::Relaxed) })
    }
}

#[tokio::test]
async fn values_are_sealed_in_etcd_and_written_anew_when_the_key_changes() {
    let server = EtcdServer::start(&[]);
    let cipher = Arc::new(Shift(AtomicU8::new(1)));
    let sealed = EtcdOptions { cipher: Some(cipher.clone()), ..options(&server) };
    let (store, bare) = (Etcd::open(sealed).await.unwrap(), open(&server).await);
    let first = put(&store, "a", "abc").await;
    let conflict = Transaction::new(vec![]).when(fram_store::Condition::Absent("/registry/a".into()));
    let current = store.commit(conflict).await.unwrap_err();
    assert!(matches!(current, StoreError::Conflict { current: Some(entry), .. } if entry.value == "abc"), "what is told is clear");
    assert_eq!((values(&store).await, values(&bare).await), (vec!["/registry/a=abc".into()], vec!["/registry/a=\u{1}bcd".into()]));
    let mut watch = bare.watch("/registry/", first).await.unwrap();
    cipher.0.store(2, Ordering::Relaxed);
    store.rewrite();
    assert_eq!(next(&mut watch).await.unwrap(), ["/registry/a"]);
    assert_eq!((values(&store).await, values(&bare).await), (vec!["/registry/a=abc".into()], vec!["/registry/a=\u{2}cde".into()]));
}

/// Writes values with a mark in front, and may have lost the key.
#[derive(Default)]
struct Marked {
    lost: std::sync::atomic::AtomicBool,
}

impl Cipher for Marked {
    fn seal(&self, _: &str, value: &[u8]) -> Result<Option<Vec<u8>>, CipherError> {
        Ok((!self.is_sealed(value)).then(|| [b"#", value].concat()))
    }

    fn open(&self, _: &str, stored: &[u8]) -> Result<Opened, CipherError> {
        let value = if self.lost.load(Ordering::Relaxed) { None } else { stored.strip_prefix(b"#").map(<[u8]>::to_vec) };
        Ok(Opened { value, stale: false })
    }

    fn is_sealed(&self, value: &[u8]) -> bool {
        value.starts_with(b"#")
    }
}

#[tokio::test]
async fn a_value_without_a_key_is_opened_when_the_key_is_there() {
    let server = EtcdServer::start(&[]);
    let cipher = Arc::new(Marked::default());
    let sealed = EtcdOptions { cipher: Some(cipher.clone()), ..options(&server) };
    put(&Etcd::open(sealed.clone()).await.unwrap(), "a", "abc").await;
    cipher.lost.store(true, Ordering::Relaxed);
    let store = Etcd::open(sealed).await.unwrap();
    let second = put(&store, "b", "x").await;
    assert_eq!(values(&store).await, ["/registry/a=#abc", "/registry/b=#x"], "neither is harmed");
    let mut watch = store.watch("/registry/", second).await.unwrap();
    cipher.lost.store(false, Ordering::Relaxed);
    store.rewrite();
    assert!(matches!(next(&mut watch).await, Err(StoreError::Compacted { .. })), "who watched has to look again");
    assert_eq!(values(&store).await, ["/registry/a=abc", "/registry/b=x"]);
    assert_eq!(values(&open(&server).await).await, ["/registry/a=#abc", "/registry/b=#x"], "they were not sealed twice");
}
