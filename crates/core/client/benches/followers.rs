//! What followers of the pods of a cluster cost that look at a change and find that it does not concern them: entries in their queues,
//! and microseconds of one processor for each change, where they subscribe and where they observe. Run with
//! `cargo bench -p fram-client`.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fram_client::resources::PODS;
use fram_client::{
    Call, Client, Delta, EventKind, Informer, InformerOptions, ListOptions, Page, Reply, Resource, Transport, WatchEvent, WatchStream,
};
use fram_machinery::{Status, Value, meta, object};
use parking_lot::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// As many as controllers follow pods.
const READERS: usize = 18;
const PODS_IN_ALL: usize = 1000;

type Events = UnboundedReceiver<WatchEvent>;

/// An empty cluster, and then what is sent.
struct Scripted(Mutex<Option<Events>>);

#[async_trait::async_trait]
impl Transport for Scripted {
    async fn call(&self, _: Call) -> Result<Reply, Status> {
        Ok(Reply::Page(Page { resource_version: "1".into(), ..Page::default() }))
    }

    async fn watch(&self, _: &Resource, _: &str, _: ListOptions) -> Result<WatchStream, Status> {
        let Some(events) = self.0.lock().take() else { return pending().await };
        let next = |mut events: Events| async { events.recv().await.map(|event| (Ok(event), events)) };
        Ok(Box::pin(futures_util::stream::unfold(events, next)))
    }
}

/// A pod that is made, bound, started and deleted.
fn life(number: usize) -> Vec<WatchEvent> {
    let name = format!("pod-{number}");
    let mut pod = object!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "namespace": "bench", "name": (name.as_str()), "uid": name, "labels": { "app": "application" } },
        "spec": { "containers": [{ "name": "application", "image": "registry.example.com/team/application:v1.2.3" }] },
        "status": { "phase": "Pending" }
    });
    let mut events = Vec::new();
    let mut event = |kind, pod: &Value, version: usize| {
        let mut pod = pod.clone();
        pod.set(&["metadata", "resourceVersion"], (4 * number + version).to_string());
        events.push(WatchEvent { kind, object: Arc::new(pod) });
    };
    event(EventKind::Added, &pod, 2);
    pod.set(&["spec", "nodeName"], format!("node-{}", number % 100));
    event(EventKind::Modified, &pod, 3);
    pod.set(&["status"], object!({ "phase": "Running", "podIP": "10.0.0.1", "conditions": [{ "type": "Ready", "status": "True" }] }));
    event(EventKind::Modified, &pod, 4);
    event(EventKind::Deleted, &pod, 5);
    events
}

/// A look such as controllers take, of whom the change is none of their business.
fn concerns(delta: &Delta) -> bool {
    let sides = [delta.old.as_deref(), delta.new.as_deref()];
    sides.into_iter().flatten().any(|pod| meta::controller_of(pod).is_some())
}

/// Has all changes followed by this many of each sort; how many entries were queued, and how long it took.
async fn follow(subscribers: usize, observers: usize, apart: bool) -> (u64, Duration) {
    let (sender, receiver) = unbounded_channel();
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let client = Client::new(Arc::new(Scripted(Mutex::new(Some(receiver)))), "bench");
    let informer = Informer::start(client, PODS, "", InformerOptions::default(), &tasks, stop.clone());
    informer.synced().await;
    let queued: Arc<AtomicU64> = Arc::default();
    for _ in 0..subscribers {
        let (mut changes, queued) = (informer.subscribe(), queued.clone());
        tasks.spawn(async move {
            while let Some(deltas) = changes.changed().await {
                queued.fetch_add(deltas.len() as u64, Ordering::Relaxed);
                assert!(!deltas.iter().any(concerns));
            }
        });
    }
    let observe = |_| informer.observe(|delta| assert!(!concerns(delta)));
    let observations: Vec<_> = (0..observers).map(observe).collect();
    let lives: Vec<_> = (0..=PODS_IN_ALL).flat_map(life).take(4 * PODS_IN_ALL + 1).collect();
    let begun = Instant::now();
    send(&sender, lives, apart).await;
    // The last pod stays.
    while informer.get_in("bench", &format!("pod-{PODS_IN_ALL}")).is_none() {
        tokio::task::yield_now().await;
    }
    tokio::task::yield_now().await;
    let taken = begun.elapsed();
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    drop(observations);
    (queued.load(Ordering::Relaxed), taken)
}

/// Together, or one after the other, so that each is seen by itself, as in a cluster that is not busy.
async fn send(sender: &UnboundedSender<WatchEvent>, events: Vec<WatchEvent>, apart: bool) {
    for event in events {
        if sender.send(event).is_err() {
            return;
        }
        if apart {
            tokio::task::yield_now().await;
        }
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let Ok(runtime) = runtime else { return eprintln!("no runtime") };
    let changes = 4 * PODS_IN_ALL as u32;
    for (name, subscribers, observers) in [("nobody", 0, 0), ("subscribed", READERS, 0), ("observed", 0, READERS)] {
        for (way, apart) in [("one by one", true), ("at once", false)] {
            let mut runs: Vec<_> = (0..9).map(|_| runtime.block_on(follow(subscribers, observers, apart))).collect();
            runs.sort_by_key(|(_, taken)| *taken);
            let (queued, taken) = runs[runs.len() / 2];
            let each = (taken / changes).as_nanos() as f64 / 1000.0;
            println!("{name:<12}{way:<12}{queued:>8} entries for {changes} changes {each:>8.2} us a change");
        }
    }
}
