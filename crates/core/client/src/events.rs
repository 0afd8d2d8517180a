//! The event recorder: what components tell people about objects. Recording never waits; equal events become one with a
//! count, similar ones are summed up, and a source that tells too much is cut short. See client-go's tools/record, which decides that
//! behind its queue; here it is decided before, so that what becomes one with others takes no room among what waits to be sent.

mod backlog;
mod correlate;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fram_machinery::{Reason, Value, meta, object};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::client::Client;
use crate::options::PatchKind;
use crate::rate::{Bucket, Rate};
use crate::resources::EVENTS;
use backlog::{Backlog, LONGEST, Waiting};

/// The wall clock, handed in.
pub type Now = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// One thing that happened to an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// apiVersion, kind, namespace, name, uid, resourceVersion and perhaps fieldPath.
    pub object: Value,
    pub warning: bool,
    pub reason: String,
    pub message: String,
    pub at: Timestamp,
}

/// A cheap handle; clones share one backlog.
#[derive(Clone)]
pub struct EventRecorder {
    backlog: Arc<Mutex<Backlog>>,
    /// Something waits to be sent. When the last recorder is gone, so is the task that sends, once it has sent all.
    wake: mpsc::Sender<()>,
    now: Now,
}

impl EventRecorder {
    /// Starts the task that sends; it belongs to `tasks` and ends with `stop`. `host` may be empty.
    pub fn start(client: Client, component: &str, host: &str, now: Now, tasks: &TaskTracker, stop: CancellationToken) -> Self {
        Self::start_limited(client, component, host, None, now, tasks, stop)
    }

    /// As `start`, but nothing is sent more often than `rate` says. What waits meanwhile still becomes one with what is equal to it.
    pub fn start_limited(
        client: Client,
        component: &str,
        host: &str,
        rate: Option<Rate>,
        now: Now,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let (wake, woken) = mpsc::channel(1);
        let backlog: Arc<Mutex<Backlog>> = Arc::default();
        let turns = rate.map(|rate| Bucket::new(rate, Instant::now()));
        let sink =
            Sink { client, component: component.into(), host: host.into(), backlog: backlog.clone(), turns, serial: AtomicU64::new(0) };
        tasks.spawn(async move {
            stop.run_until_cancelled(sink.run(woken)).await;
        });
        Self { backlog, wake, now }
    }

    /// Tells of something that happened to an object.
    pub fn event(&self, object: &Value, warning: bool, reason: &str, message: impl Into<String>) {
        self.event_at(reference(object, ""), warning, reason, message);
    }

    /// As `event`, for an object reference that is made already.
    pub fn event_at(&self, object: Value, warning: bool, reason: &str, message: impl Into<String>) {
        let event = Event { object, warning, reason: reason.into(), message: message.into(), at: (self.now)() };
        self.backlog.lock().add(event);
        // Where this fails, the sink is about to look, or has ended.
        let _ = self.wake.try_send(());
    }
}

/// A reference to an object, or to a part of it such as `spec.containers{web}`.
pub fn reference(object: &Value, field_path: &str) -> Value {
    let mut out = object!({
        "apiVersion": (object.str_at(&["apiVersion"])), "kind": (object.str_at(&["kind"])),
        "name": (meta::name(object)), "uid": (meta::uid(object))
    });
    for (key, text) in
        [("namespace", meta::namespace(object)), ("resourceVersion", meta::resource_version(object)), ("fieldPath", field_path)]
    {
        if !text.is_empty() {
            out.set(&[key], text);
        }
    }
    out
}

struct Sink {
    client: Client,
    component: String,
    host: String,
    backlog: Arc<Mutex<Backlog>>,
    /// How often something may be sent; None for as often as there is something.
    turns: Option<Bucket>,
    serial: AtomicU64,
}

impl Sink {
    async fn run(mut self, mut woken: mpsc::Receiver<()>) {
        while woken.recv().await.is_some() {
            while !self.backlog.lock().is_empty() {
                if let Some(turns) = &mut self.turns {
                    tokio::time::sleep(turns.take(Instant::now())).await;
                }
                let Some(waiting) = self.backlog.lock().take() else { break };
                match &waiting.written {
                    None => self.create(&waiting).await,
                    Some((name, count)) => self.count(&waiting, name, *count).await,
                }
            }
            // Told once for a whole rush, when it is over.
            let dropped = self.backlog.lock().take_dropped();
            if dropped > 0 {
                tracing::warn!(component = self.component, dropped, "events were dropped, as {LONGEST} waited to be sent");
            }
        }
    }

    fn name_of(&self, event: &Event) -> String {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed) & 0xfff;
        let nanos = u64::try_from(event.at.as_nanosecond()).unwrap_or(0);
        format!("{}.{:x}", event.object.str_at(&["name"]), (nanos & !0xfff) | serial)
    }

    async fn create(&self, waiting: &Waiting) {
        let Waiting { key, event, message, first, count, .. } = waiting;
        let (name, namespace) = (self.name_of(event), namespace(event));
        let mut source = object!({ "component": (self.component.as_str()) });
        if !self.host.is_empty() {
            source.set(&["host"], self.host.as_str());
        }
        let body = object!({
            "apiVersion": "v1", "kind": "Event", "metadata": { "namespace": namespace, "name": (name.as_str()) },
            "involvedObject": (event.object.clone()), "reason": (event.reason.as_str()), "message": (message.as_str()),
            "type": (if event.warning { "Warning" } else { "Normal" }), "count": (*count), "source": source,
            "firstTimestamp": (text(*first)), "lastTimestamp": (text(event.at)),
            "reportingComponent": (self.component.as_str()), "reportingInstance": (self.host.as_str())
        });
        match self.client.within(&EVENTS, namespace).create(body).await {
            Ok(_) => self.backlog.lock().created(*key, name, *count),
            // A namespace that is going away takes no events.
            Err(status) if matches!(status.reason, Reason::NotFound | Reason::Forbidden) => {}
            Err(error) => tracing::info!(reason = event.reason, %error, "an event could not be written"),
        }
    }

    async fn count(&self, waiting: &Waiting, name: &str, count: u32) {
        let Waiting { key, event, message, .. } = waiting;
        let patch = object!({ "count": count, "lastTimestamp": (text(event.at)), "message": (message.as_str()) });
        match self.client.within(&EVENTS, namespace(event)).patch(name, "", PatchKind::Merge, patch).await {
            Ok(_) => {}
            // It has expired meanwhile.
            Err(status) if status.is(Reason::NotFound) => {
                self.backlog.lock().forget(*key);
                self.create(waiting).await;
            }
            Err(error) => tracing::info!(reason = event.reason, %error, "an event could not be counted"),
        }
    }
}

/// Events about objects of cluster scope live in `default`.
fn namespace(event: &Event) -> &str {
    match event.object.str_at(&["namespace"]) {
        "" => "default",
        namespace => namespace,
    }
}

fn text(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Call, ListOptions, Reply, Resource, Transport, WatchStream};
    use fram_machinery::Status;

    /// Takes note of when something was written.
    #[derive(Default)]
    struct Written(Mutex<Vec<Instant>>);

    #[async_trait::async_trait]
    impl Transport for Written {
        async fn call(&self, _: Call) -> Result<Reply, Status> {
            self.0.lock().push(Instant::now());
            Ok(Reply::Object(Arc::default()))
        }

        async fn watch(&self, _: &Resource, _: &str, _: ListOptions) -> Result<WatchStream, Status> {
            Err(Status::internal("nobody watches"))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_recorder_with_a_rate_sends_a_burst_and_then_no_more_than_that() {
        let (written, tasks, begin) = (Arc::new(Written::default()), TaskTracker::new(), Instant::now());
        let (client, rate) = (Client::new(written.clone(), "test"), Some(Rate { per_second: 2, burst: 3 }));
        let now: Now = Arc::new(|| Timestamp::UNIX_EPOCH);
        let recorder = EventRecorder::start_limited(client, "test", "", rate, now, &tasks, CancellationToken::new());
        for name in ["a", "b", "c", "d", "e"] {
            let pod = object!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": "ns", "uid": name } });
            recorder.event(&pod, false, "Started", "it did");
        }
        drop(recorder);
        tasks.close();
        tasks.wait().await;
        let after: Vec<u128> = written.0.lock().iter().map(|at| at.duration_since(begin).as_millis()).collect();
        assert_eq!(after, [0, 0, 0, 500, 1000]);
    }
}
