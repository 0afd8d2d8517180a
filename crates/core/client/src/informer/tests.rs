//! An informer against a scripted transport, and the pure parts by themselves.

use std::collections::VecDeque;
use std::time::Duration;

use fram_machinery::{Status, meta, object};
use futures_util::StreamExt;

use super::*;
use crate::options::ListOptions;
use crate::resources::PODS;
use crate::transport::{Call, EventKind, Page, Reply, Transport, WatchEvent, WatchStream};

fn pod(name: &str, version: i64) -> Arc<Value> {
    Arc::new(object!({ "metadata": { "namespace": "ns", "name": name, "uid": name, "resourceVersion": (version.to_string()) } }))
}

/// One key of a relist: the object's name, and its version or None where it is gone.
type Expected<'a> = &'a [(&'a str, Option<&'a str>)];

#[track_caller]
fn check_relist(before: &[Arc<Value>], listed: &[Arc<Value>], expect: Expected) {
    let mut cache = Cache::new(Vec::new());
    for object in before {
        cache.replace(&meta::key(object).into(), Some(object.clone()));
    }
    let plan = cache.plan_relist(listed.to_vec());
    let told: Vec<(&str, Option<&str>)> = plan.iter().map(|(k, o)| (&**k, o.as_deref().map(meta::resource_version))).collect();
    assert_eq!(told, expect);
}

#[test]
fn a_relist_means_only_what_differs_from_the_cache() {
    check_relist(&[], &[pod("a", 1)], &[("ns/a", Some("1"))]);
    check_relist(&[pod("a", 1)], &[pod("a", 1)], &[]);
    check_relist(&[pod("a", 1)], &[pod("a", 2)], &[("ns/a", Some("2"))]);
    check_relist(&[pod("a", 1), pod("b", 2)], &[pod("b", 2), pod("c", 3)], &[("ns/c", Some("3")), ("ns/a", None)]);
    let mut reborn = (*pod("a", 1)).clone();
    reborn.set(&["metadata", "uid"], "another");
    check_relist(&[pod("a", 1)], &[Arc::new(reborn)], &[("ns/a", Some("1"))]);
}

#[test]
fn an_index_follows_its_objects() {
    let values: IndexFn = Arc::new(|o| vec![o.str_at(&["spec", "nodeName"]).into()]);
    let mut cache = Cache::new(vec![("node", values)]);
    let on = |node: &str| {
        let mut p = (*pod("a", 1)).clone();
        p.set(&["spec", "nodeName"], node);
        Some(Arc::new(p))
    };
    cache.replace(&"ns/a".into(), on("x"));
    assert_eq!(cache.by_index("node", "x").len(), 1);
    cache.replace(&"ns/a".into(), on("y"));
    assert_eq!((cache.by_index("node", "x").len(), cache.by_index("node", "y").len()), (0, 1));
    cache.replace(&"ns/a".into(), None);
    assert!(cache.by_index("node", "y").is_empty() && cache.by_namespace("ns").is_empty());
}

#[test]
fn delays_double_to_a_ceiling_and_differ_between_reflectors() {
    let of = |attempt| reflector::delay(attempt, "pods");
    assert!(of(1) >= Duration::from_millis(100) && of(1) < Duration::from_millis(200));
    assert!(of(5) >= Duration::from_millis(1600) && of(40) <= Duration::from_secs(60));
    assert_ne!(of(3), reflector::delay(3, "nodes"));
}

/// Answers lists and watches from a script; a watch whose script is used up stays open.
#[derive(Default)]
struct Script {
    lists: Mutex<VecDeque<Page>>,
    watches: Mutex<VecDeque<Vec<Result<WatchEvent, Status>>>>,
    versions: Mutex<Vec<String>>,
}

#[async_trait::async_trait]
impl Transport for Script {
    async fn call(&self, _: Call) -> Result<Reply, Status> {
        self.lists.lock().pop_front().map(Reply::Page).ok_or_else(|| Status::internal("the script has no more lists"))
    }

    async fn watch(&self, _: &Resource, _: &str, options: ListOptions) -> Result<WatchStream, Status> {
        self.versions.lock().push(options.resource_version);
        match self.watches.lock().pop_front() {
            Some(events) => Ok(Box::pin(futures_util::stream::iter(events))),
            None => Ok(Box::pin(futures_util::stream::pending().boxed())),
        }
    }
}

fn page(version: i64, items: &[Arc<Value>]) -> Page {
    Page { resource_version: version.to_string(), continue_token: String::new(), items: items.to_vec() }
}

#[allow(clippy::result_large_err, reason = "the client's calls fail with a Status, and this passes one on")]
fn event(kind: EventKind, object: Arc<Value>) -> Result<WatchEvent, Status> {
    Ok(WatchEvent { kind, object })
}

fn start(script: &Arc<Script>, stop: &CancellationToken) -> Informer {
    let client = Client::new(script.clone(), "test");
    Informer::start(client, PODS, "", InformerOptions::default(), &TaskTracker::new(), stop.clone())
}

#[tokio::test(start_paused = true)]
async fn an_expired_watch_is_followed_by_a_list_and_the_difference() {
    let script = Arc::new(Script::default());
    script.lists.lock().extend([page(5, &[pod("a", 1), pod("b", 2)]), page(9, &[pod("b", 8), pod("c", 9)])]);
    script.watches.lock().push_back(vec![event(EventKind::Bookmark, pod("", 6)), Err(Status::expired("too old"))]);
    let stop = CancellationToken::new();
    let informer = start(&script, &stop);
    let mut reader = informer.subscribe();
    assert!(informer.synced().await);
    let mut seen = std::collections::BTreeMap::new();
    while informer.get("ns/c").is_none() || !seen.contains_key("ns/c") {
        for delta in reader.changed().await.unwrap() {
            seen.insert(delta.key(), delta.new.is_some());
        }
    }
    assert_eq!(informer.list().len(), 2);
    assert!(informer.get("ns/a").is_none() && seen["ns/b"]);
    // A reader that was slower than the relist never saw `a`; one that was not saw it go.
    assert_ne!(seen.get("ns/a"), Some(&true));
    stop.cancel();
    while reader.changed().await.is_some() {}
    assert_eq!(*script.versions.lock(), ["5", "9"]);
}

#[tokio::test(start_paused = true)]
async fn a_closed_watch_continues_from_the_last_version() {
    let script = Arc::new(Script::default());
    script.lists.lock().push_back(page(5, &[]));
    let first = vec![event(EventKind::Added, pod("a", 6)), event(EventKind::Bookmark, pod("", 7))];
    script.watches.lock().extend([first, vec![event(EventKind::Deleted, pod("a", 8))]]);
    let stop = CancellationToken::new();
    let informer = start(&script, &stop);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(informer.is_empty());
    assert_eq!(*script.versions.lock(), ["5", "7", "8"]);
    stop.cancel();
}

#[tokio::test]
async fn a_slow_reader_gets_one_change_for_each_key() {
    let subscriber = Arc::new(Subscriber::default());
    let mut reader = Subscription::new(subscriber.clone());
    let note = |key: &str, old, new| subscriber.note(&[(key.into(), Delta { old, new })]);
    note("ns/a", None, Some(pod("a", 1)));
    note("ns/b", Some(pod("b", 1)), Some(pod("b", 2)));
    note("ns/b", Some(pod("b", 2)), Some(pod("b", 3)));
    note("ns/a", Some(pod("a", 1)), None);
    assert_eq!(reader.changed().await, Some(vec![Delta { old: Some(pod("b", 1)), new: Some(pod("b", 3)) }]));
    subscriber.close();
    assert_eq!(reader.changed().await, None);
}

#[tokio::test]
async fn an_informer_that_never_synced_lets_its_waiters_go() {
    let stop = CancellationToken::new();
    let informer = start(&Arc::new(Script::default()), &stop);
    stop.cancel();
    assert!(!informer.synced().await);
    assert_eq!(informer.subscribe().changed().await, None);
}

impl Informer {
    /// An informer whose changes the test makes.
    pub(crate) fn by_hand(indices: Vec<(&'static str, IndexFn)>) -> Self {
        let (cache, synced) = (RwLock::new(Cache::new(indices)), watch::Sender::new(true));
        Self { shared: Arc::new(Shared { resource: PODS, cache, synced, subscribers: Mutex::default() }) }
    }

    pub(crate) fn put(&self, object: Arc<Value>) -> &Self {
        self.shared.apply(vec![(meta::key(&object).into(), Some(object))]);
        self
    }

    fn take(&self, key: &str) -> &Self {
        self.shared.apply(vec![(key.into(), None)]);
        self
    }
}

#[test]
fn an_observer_is_told_of_what_is_there_and_of_each_change_in_order_until_it_is_dropped() {
    let informer = Informer::by_hand(Vec::new());
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let (heard, cache) = (told.clone(), informer.clone());
    let version = |side: &Option<Arc<Value>>| side.as_deref().map_or("-", meta::resource_version).to_string();
    informer.put(pod("a", 1)).put(pod("b", 2));
    let observation = informer.observe(move |delta| {
        // The cache is not locked meanwhile, and is as new as the change.
        assert_eq!(cache.get(&delta.key()), delta.new);
        heard.lock().push(format!("{} {} {}", delta.key(), version(&delta.old), version(&delta.new)));
    });
    informer.put(pod("a", 6)).put(pod("a", 7)).take("ns/b").take("ns/b").put(pod("c", 8));
    drop(observation);
    informer.put(pod("c", 9));
    assert_eq!(*told.lock(), ["ns/a - 1", "ns/b - 2", "ns/a 1 6", "ns/a 6 7", "ns/b 2 -", "ns/c - 8"]);
    assert!(informer.shared.subscribers.lock().observers.is_empty());
}

#[test]
fn an_observer_that_panics_misses_that_change_and_nobody_else_does() {
    let informer = Informer::by_hand(Vec::new());
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let (fragile, sound) = (told.clone(), told.clone());
    informer.put(pod("a", 1));
    let _fragile = informer.observe(move |delta| {
        assert_ne!(delta.key(), "ns/a", "a defect");
        fragile.lock().push(format!("fragile {}", delta.key()));
    });
    let _sound = informer.observe(move |delta| sound.lock().push(delta.key()));
    informer.put(pod("a", 2)).put(pod("b", 3));
    assert_eq!(*told.lock(), ["ns/a", "ns/a", "fragile ns/b", "ns/b"]);
}
