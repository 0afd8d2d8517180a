//! Encryption of a real store in a real folder: what lies on the disk, and that nothing is lost when keys change.

use super::*;
use std::time::Duration;

use fram_store::{Embedded, Operation, Options, Store, StoreError, Transaction};

const PLAIN: &[u8] = b"the plain secret of this test";
const SECRET: &str = "/registry/core/secrets/a/b";

fn write_config(path: &Path, entries: &[(&str, &str)]) {
    let entries: String = entries.iter().map(|(r, p)| format!("- resources: [{r}]\n  providers: [{p}]\n")).collect();
    let text = format!("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n{entries}");
    std::fs::write(path, text).unwrap();
}

fn key(cipher: &str, name: &str) -> String {
    use base64::Engine;
    let secret = base64::engine::general_purpose::STANDARD.encode([name.len() as u8; 32]);
    format!("{{{cipher}: {{keys: [{{name: {name}, secret: {secret}}}]}}}}")
}

fn open(folder: &Path, encryption: &Arc<Encryption>) -> Result<Arc<Embedded>, StoreError> {
    let cipher: Arc<dyn Cipher> = encryption.clone();
    let store = Arc::new(Embedded::open(Options { cipher: Some(cipher), ..Options::new(folder.join("store")) })?);
    let weak = Arc::downgrade(&store);
    encryption.on_change(Arc::new(move || {
        if let Some(store) = weak.upgrade() {
            store.rewrite();
        }
    }));
    Ok(store)
}

fn load(folder: &Path) -> Arc<Encryption> {
    Arc::new(Encryption::load(&folder.join("config.yaml"), "/registry/").unwrap())
}

async fn put(store: &Embedded, key: &str) {
    store.commit(Transaction::new(vec![Operation::put(key, PLAIN)])).await.unwrap();
}

async fn get(store: &Embedded, key: &str) -> Option<Vec<u8>> {
    store.snapshot(None).await.unwrap().get(key).map(|entry| entry.value.to_vec())
}

/// All that the store's files hold.
fn disk(folder: &Path) -> Vec<u8> {
    let files = std::fs::read_dir(folder.join("store")).unwrap();
    files.filter_map(|f| std::fs::read(f.unwrap().path()).ok()).flatten().collect()
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|w| w == part)
}

/// Waits until the disk is as it should be: the store rewrites it beside its other work.
async fn settled(folder: &Path, right: impl Fn(&[u8]) -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while !right(&disk(folder)) {
        assert!(std::time::Instant::now() < end, "the store's files were not written anew");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn no_plaintext_is_on_the_disk_and_all_of_it_comes_back() {
    for cipher in ["aesgcm", "aescbc", "secretbox"] {
        let folder = tempfile::tempdir().unwrap();
        write_config(&folder.path().join("config.yaml"), &[("secrets", &key(cipher, "k"))]);
        let store = open(folder.path(), &load(folder.path())).unwrap();
        put(&store, SECRET).await;
        assert_eq!(get(&store, SECRET).await.as_deref(), Some(PLAIN));
        drop(store);
        let bytes = disk(folder.path());
        assert!(!holds(&bytes, PLAIN) && holds(&bytes, format!("k8s:enc:{cipher}:v1:k:").as_bytes()), "{cipher}");
        let store = open(folder.path(), &load(folder.path())).unwrap();
        assert_eq!(get(&store, SECRET).await.as_deref(), Some(PLAIN));
        put(&store, "/registry/core/configmaps/a/b").await;
        drop(store);
        assert!(holds(&disk(folder.path()), PLAIN), "what is not configured stays as it is");
    }
}

#[tokio::test]
async fn keys_change_without_a_loss_and_the_old_one_can_be_taken_away() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.yaml");
    let (old, new) = (key("aescbc", "old"), key("secretbox", "newer"));
    write_config(&config, &[("secrets", "{identity: {}}")]);
    let encryption = load(folder.path());
    let store = open(folder.path(), &encryption).unwrap();
    put(&store, SECRET).await;
    assert!(holds(&disk(folder.path()), PLAIN));
    // From clear to the first key, while the store runs.
    write_config(&config, &[("secrets", &format!("{old}, {{identity: {{}}}}"))]);
    encryption.reload().unwrap();
    settled(folder.path(), |d| !holds(d, PLAIN) && holds(d, b"k8s:enc:aescbc:v1:old:")).await;
    drop(store);
    // To the second key, over a restart.
    write_config(&config, &[("secrets", &format!("{new}, {old}"))]);
    let store = open(folder.path(), &load(folder.path())).unwrap();
    settled(folder.path(), |d| holds(d, b"k8s:enc:secretbox:v1:newer:") && !holds(d, b"k8s:enc:aescbc:v1:old:")).await;
    assert_eq!(get(&store, SECRET).await.as_deref(), Some(PLAIN));
    drop(store);
    // And back to clear.
    write_config(&config, &[("secrets", &format!("{{identity: {{}}}}, {new}"))]);
    let store = open(folder.path(), &load(folder.path())).unwrap();
    settled(folder.path(), |d| holds(d, PLAIN) && !holds(d, b"k8s:enc:")).await;
    drop(store);
    let store = open(folder.path(), &Arc::new(Encryption::none("/registry/"))).unwrap();
    assert_eq!(get(&store, SECRET).await.as_deref(), Some(PLAIN));
}

#[tokio::test]
async fn what_cannot_be_decrypted_keeps_nothing_else_from_being_served_and_is_not_harmed() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.yaml");
    write_config(&config, &[("secrets", &key("aesgcm", "one"))]);
    let store = open(folder.path(), &load(folder.path())).unwrap();
    put(&store, SECRET).await;
    drop(store);
    for other in [Encryption::none("/registry/"), {
        write_config(&config, &[("secrets", &key("aesgcm", "other"))]);
        Encryption::load(&config, "/registry/").unwrap()
    }] {
        let store = open(folder.path(), &Arc::new(other)).unwrap();
        let value = get(&store, SECRET).await.unwrap();
        assert!(value.starts_with(b"k8s:enc:aesgcm:v1:one:"), "it is kept as it was stored");
        put(&store, "/registry/core/pods/a/b").await;
        // Everything is written anew, and it is not encrypted a second time.
        store.rewrite();
        settled(folder.path(), |d| holds(d, b"k8s:enc:aesgcm:v1:one:")).await;
    }
    // With the key again, while the store runs.
    let encryption = load(folder.path());
    let store = open(folder.path(), &encryption).unwrap();
    // What was before may be history that the last rewriting has ended, or not yet.
    let mut watch = store.watch("", store.revision().await.unwrap()).await.unwrap();
    write_config(&config, &[("secrets", &format!("{}, {}", key("aesgcm", "other"), key("aesgcm", "one")))]);
    encryption.reload().unwrap();
    settled(folder.path(), |d| holds(d, b"k8s:enc:aesgcm:v1:other:") && !holds(d, b":one:")).await;
    assert_eq!(get(&store, SECRET).await.as_deref(), Some(PLAIN));
    while watch.next().await.is_ok() {}
    assert!(matches!(watch.next().await, Err(StoreError::Compacted { .. })), "who watched has to look again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_comes_late_is_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let service = kms::testing::Service::start(folder.path());
    let path = service.path.clone();
    let provider = format!("{{kms: {{apiVersion: v2, name: kay, endpoint: 'unix://{}'}}}}", path.display());
    write_config(&folder.path().join("config.yaml"), &[("secrets", &provider)]);
    let store = open(folder.path(), &load(folder.path())).unwrap();
    put(&store, SECRET).await;
    drop(store);
    drop(service);
    std::fs::remove_file(&path).unwrap();
    let encryption = load(folder.path());
    let store = open(folder.path(), &encryption).unwrap();
    assert!(get(&store, SECRET).await.unwrap().starts_with(b"k8s:enc:kms:v2:kay:"));
    let _late = kms::testing::Service::start(folder.path());
    let end = std::time::Instant::now() + Duration::from_secs(30);
    while get(&store, SECRET).await.as_deref() != Some(PLAIN) {
        assert!(std::time::Instant::now() < end, "{:?}", encryption.health());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn a_broken_file_leaves_the_former_configuration_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.yaml");
    write_config(&config, &[("secrets", &key("aesgcm", "k"))]);
    let encryption = load(folder.path());
    std::fs::write(&config, "kind: Nothing").unwrap();
    assert!(encryption.reload().is_err());
    assert!(encryption.seal(SECRET, PLAIN).unwrap().is_some());
}

#[test]
fn the_most_exact_entry_counts() {
    let folder = tempfile::tempdir().unwrap();
    let providers: Vec<String> = ["a", "bb", "ccc", "dddd"].iter().map(|n| key("aesgcm", n)).collect();
    let entries = [("'*.*'", &*providers[0]), ("'*.apps'", &providers[1]), ("deployments.apps", &providers[2]), ("'*.'", &providers[3])];
    write_config(&folder.path().join("config.yaml"), &entries);
    let encryption = load(folder.path());
    for (place, name) in
        [("apps/deployments/a/b", "ccc"), ("apps/daemonsets/a/b", "bb"), ("core/pods/a/b", "dddd"), ("a.example/things/x", "a")]
    {
        let sealed = encryption.seal(&format!("/registry/{place}"), b"x").unwrap().unwrap();
        assert!(sealed.starts_with(format!("k8s:enc:aesgcm:v1:{name}:").as_bytes()), "{place}");
    }
    assert_eq!(encryption.seal("/other/core/pods/a/b", b"x").unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_holds_the_key_and_another_key_rewrites_what_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let service = kms::testing::Service::start(folder.path());
    let provider = format!("{{kms: {{apiVersion: v2, name: kay, endpoint: 'unix://{}'}}}}", service.path.display());
    write_config(&folder.path().join("config.yaml"), &[("secrets", &provider)]);
    let encryption = load(folder.path());
    assert_eq!(encryption.health(), [("kms-provider-0".to_string(), Ok(()))]);
    let store = open(folder.path(), &encryption).unwrap();
    put(&store, SECRET).await;
    drop(store);
    let bytes = disk(folder.path());
    assert!(!holds(&bytes, PLAIN) && holds(&bytes, b"k8s:enc:kms:v2:kay:") && holds(&bytes, b"key-1"));
    assert_eq!(service.state.lock().decrypted, 0, "what was encrypted here is known here");
    // Another process, and another key since.
    service.state.lock().key_id = "key-2".into();
    let store = open(folder.path(), &load(folder.path())).unwrap();
    assert_eq!(get(&store, SECRET).await.as_deref(), Some(PLAIN));
    assert_eq!(service.state.lock().decrypted, 1, "a seed is decrypted once");
    settled(folder.path(), |d| holds(d, b"key-2") && !holds(d, b"key-1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_ill_is_seen_and_nothing_is_written_without_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let service = kms::testing::Service::start(folder.path());
    service.state.lock().health = "on fire".into();
    let provider = format!("{{kms: {{apiVersion: v2, name: kay, endpoint: 'unix://{}', timeout: 2s}}}}", service.path.display());
    write_config(&folder.path().join("config.yaml"), &[("secrets", &provider)]);
    let encryption = load(folder.path());
    let ill = encryption.health()[0].1.clone().unwrap_err();
    assert!(ill.contains("on fire"), "{ill}");
    let store = open(folder.path(), &encryption).unwrap();
    let refused = store.commit(Transaction::new(vec![Operation::put(SECRET, PLAIN)])).await.unwrap_err();
    assert!(matches!(refused, StoreError::Cipher { operation: "encrypt", .. }), "{refused}");
    put(&store, "/registry/core/pods/a/b").await;
    assert_eq!(get(&store, SECRET).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_away_for_long_holds_up_no_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let service = kms::testing::Service::start(folder.path());
    let provider = format!("{{kms: {{apiVersion: v2, name: kay, endpoint: 'unix://{}'}}}}", service.path.display());
    write_config(&folder.path().join("config.yaml"), &[("secrets", &provider)]);
    let encryption = load(folder.path());
    let store = open(folder.path(), &encryption).unwrap();
    put(&store, SECRET).await;
    service.state.lock().health = "on fire".into();
    encryption.chains.read().kms.iter().for_each(|kms| kms.expire());
    let refused = store.commit(Transaction::new(vec![Operation::put("/registry/core/secrets/a/new", PLAIN)])).await;
    assert!(matches!(refused, Err(StoreError::Cipher { operation: "encrypt", .. })), "{refused:?}");
    store.rewrite();
    let is_checkpoint = |name: &str| name.starts_with("checkpoint-") && !name.ends_with(".new");
    let end = std::time::Instant::now() + Duration::from_secs(20);
    let names = || std::fs::read_dir(folder.path().join("store")).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap());
    while !names().any(|name| is_checkpoint(&name)) {
        assert!(std::time::Instant::now() < end, "no checkpoint");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!holds(&disk(folder.path()), PLAIN) && holds(&disk(folder.path()), b"k8s:enc:kms:v2:kay:"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.yaml");
    write_config(&config, &[("secrets", "{identity: {}}")]);
    let encryption = load(folder.path());
    let (told, mut seen) = tokio::sync::mpsc::unbounded_channel();
    encryption.on_change(Arc::new(move || told.send(()).unwrap_or_default()));
    let stop = tokio_util::sync::CancellationToken::new();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(encryption.follow().unwrap().unwrap().run(stop.clone()));
    let other = folder.path().join("other.yaml");
    write_config(&other, &[("secrets", &key("aesgcm", "k"))]);
    std::fs::rename(&other, &config).unwrap();
    tokio::time::timeout(Duration::from_secs(20), seen.recv()).await.unwrap().unwrap();
    assert!(encryption.seal(SECRET, PLAIN).unwrap().is_some());
    stop.cancel();
    tasks.join_next().await.unwrap().unwrap();
}
