//! The event recorder: what components tell people about objects. Recording never waits; equal events become one with a
//! count, similar ones are summed up, and a source that tells too much is cut short. See client-go's tools/record.

mod correlate;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fram_machinery::{Reason, Value, meta, object};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::client::Client;
use crate::options::PatchKind;
use crate::resources::EVENTS;
use correlate::{Correlator, Verdict};

/// Events that wait to be sent; beyond that new ones are dropped.
const BACKLOG: usize = 1000;

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

/// A cheap handle; clones share one queue.
#[derive(Clone)]
pub struct EventRecorder {
    sender: mpsc::Sender<Event>,
    /// How many were dropped of which nobody has been told yet.
    dropped: Arc<AtomicU64>,
    now: Now,
}

impl EventRecorder {
    /// Starts the task that sends; it belongs to `tasks` and ends with `stop`. `host` may be empty.
    pub fn start(client: Client, component: &str, host: &str, now: Now, tasks: &TaskTracker, stop: CancellationToken) -> Self {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let dropped: Arc<AtomicU64> = Arc::default();
        let sink = Sink {
            client,
            component: component.into(),
            host: host.into(),
            correlator: Correlator::default(),
            serial: AtomicU64::new(0),
            dropped: dropped.clone(),
        };
        tasks.spawn(async move {
            stop.run_until_cancelled(sink.run(receiver)).await;
        });
        Self { sender, dropped, now }
    }

    /// Tells of something that happened to an object.
    pub fn event(&self, object: &Value, warning: bool, reason: &str, message: impl Into<String>) {
        self.event_at(reference(object, ""), warning, reason, message);
    }

    /// As `event`, for an object reference that is made already.
    pub fn event_at(&self, object: Value, warning: bool, reason: &str, message: impl Into<String>) {
        let event = Event { object, warning, reason: reason.into(), message: message.into(), at: (self.now)() };
        if self.sender.try_send(event).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
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
    correlator: Correlator,
    serial: AtomicU64,
    dropped: Arc<AtomicU64>,
}

impl Sink {
    async fn run(mut self, mut receiver: mpsc::Receiver<Event>) {
        while let Some(event) = receiver.recv().await {
            match self.correlator.judge(&event) {
                Verdict::Drop => {}
                Verdict::Create { key, message } => {
                    let name = self.name_of(&event);
                    self.create(&event, &key, &message, name).await;
                }
                Verdict::Count { key, message, name, count } => self.count(&event, &key, &message, &name, count).await,
            }
            // Told once for a whole rush, when it is over.
            let dropped = if receiver.is_empty() { self.dropped.swap(0, Ordering::Relaxed) } else { 0 };
            if dropped > 0 {
                tracing::warn!(component = self.component, dropped, "events were dropped, as {BACKLOG} waited to be sent");
            }
        }
    }

    fn name_of(&self, event: &Event) -> String {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed) & 0xfff;
        let nanos = u64::try_from(event.at.as_nanosecond()).unwrap_or(0);
        format!("{}.{:x}", event.object.str_at(&["name"]), (nanos & !0xfff) | serial)
    }

    async fn create(&mut self, event: &Event, key: &str, message: &str, name: String) {
        // Events about objects of cluster scope live in `default`.
        let namespace = match event.object.str_at(&["namespace"]) {
            "" => "default",
            namespace => namespace,
        };
        let at = event.at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let mut source = object!({ "component": (self.component.as_str()) });
        if !self.host.is_empty() {
            source.set(&["host"], self.host.as_str());
        }
        let body = object!({
            "apiVersion": "v1", "kind": "Event", "metadata": { "namespace": namespace, "name": (name.as_str()) },
            "involvedObject": (event.object.clone()), "reason": (event.reason.as_str()), "message": message,
            "type": (if event.warning { "Warning" } else { "Normal" }), "count": 1, "source": source,
            "firstTimestamp": (at.as_str()), "lastTimestamp": at,
            "reportingComponent": (self.component.as_str()), "reportingInstance": (self.host.as_str())
        });
        match self.client.within(&EVENTS, namespace).create(body).await {
            Ok(_) => self.correlator.created(key, name),
            // A namespace that is going away takes no events.
            Err(status) if matches!(status.reason, Reason::NotFound | Reason::Forbidden) => {}
            Err(error) => tracing::info!(reason = event.reason, %error, "an event could not be written"),
        }
    }

    async fn count(&mut self, event: &Event, key: &str, message: &str, name: &str, count: u32) {
        let namespace = match event.object.str_at(&["namespace"]) {
            "" => "default",
            namespace => namespace,
        };
        let at = event.at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let patch = object!({ "count": count, "lastTimestamp": at, "message": message });
        match self.client.within(&EVENTS, namespace).patch(name, "", PatchKind::Merge, patch).await {
            Ok(_) => {}
            // It has expired meanwhile.
            Err(status) if status.is(Reason::NotFound) => {
                self.correlator.forget(key);
                let name = self.name_of(event);
                self.create(event, key, message, name).await;
            }
            Err(error) => tracing::info!(reason = event.reason, %error, "an event could not be counted"),
        }
    }
}
