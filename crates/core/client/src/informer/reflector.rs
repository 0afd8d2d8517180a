//! Keeps an informer's cache current: a list, then a watch from its version; a new list where the server has forgotten that
//! version. See client-go's Reflector.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use fram_machinery::{Map, Reason, Status, Value, meta};
use futures_util::StreamExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Projection, Shared};
use crate::client::Resources;
use crate::options::ListOptions;
use crate::transport::{EventKind, WatchEvent};

const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// So many changes that are there already are taken in together.
const AT_ONCE: usize = 128;
/// A watch that lasted this long was healthy: the next failure begins again with the first delay.
const HEALTHY: Duration = Duration::from_secs(120);

pub(super) struct Reflector {
    pub(super) resources: Resources,
    pub(super) label_selector: String,
    pub(super) field_selector: String,
    pub(super) metadata_only: bool,
    pub(super) projection: Option<Projection>,
    pub(super) shared: Arc<Shared>,
}

/// Why a watch ended.
#[derive(Debug, PartialEq)]
enum Ended {
    /// The server closed it; the next one continues from the last version.
    Closed,
    /// Its version is no longer known: list again.
    Expired,
    Failed(Status),
}

impl Reflector {
    pub(super) async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.reflect()).await;
        self.shared.close();
    }

    async fn reflect(&self) {
        let mut version = String::new();
        let mut attempt = 0;
        loop {
            let begun = Instant::now();
            let outcome = if version.is_empty() { self.list(&mut version).await } else { self.watch(&mut version).await };
            match outcome {
                Ok(true) => {
                    attempt = 0;
                    continue;
                }
                Ok(false) => {}
                Err(status) => tracing::warn!(resource = %self.shared.resource, error = %status, "list or watch failed"),
            }
            attempt = if begun.elapsed() >= HEALTHY { 1 } else { attempt + 1 };
            tokio::time::sleep(delay(attempt, &self.seed())).await;
        }
    }

    /// What makes the delays of this reflector differ from those of others.
    fn seed(&self) -> String {
        format!("{}/{}/{}", self.shared.resource, self.field_selector, self.label_selector)
    }

    fn options(&self) -> ListOptions {
        ListOptions { label_selector: self.label_selector.clone(), field_selector: self.field_selector.clone(), ..ListOptions::default() }
    }

    async fn list(&self, version: &mut String) -> Result<bool, Status> {
        let mut options = self.options();
        let mut items = Vec::new();
        let listed = loop {
            let page = self.resources.list(options.clone()).await?;
            items.extend(page.items.into_iter().map(|object| self.kept(object)));
            if page.continue_token.is_empty() {
                break page.resource_version;
            }
            options.continue_token = page.continue_token;
        };
        let changes = self.shared.cache.read().plan_relist(items);
        self.shared.apply(changes);
        self.shared.set_synced();
        *version = listed;
        Ok(true)
    }

    /// What is held of an object.
    fn kept(&self, mut object: Arc<Value>) -> Arc<Value> {
        if !self.metadata_only {
            if let Some(project) = &self.projection {
                project(Arc::make_mut(&mut object));
            }
            // Who manages which field is nothing to those who follow objects.
            if object.at(&["metadata", "managedFields"]).is_some() {
                Arc::make_mut(&mut object).remove(&["metadata", "managedFields"]);
            }
            return object;
        }
        let mut out: Map = ["apiVersion", "kind", "metadata"].into_iter().filter_map(|f| Some((f, object.get(f)?.clone()))).collect();
        if let Some(Value::Map(metadata)) = out.get_mut("metadata") {
            metadata.remove("managedFields");
            if let Some(Value::Map(annotations)) = metadata.get_mut("annotations") {
                // What kubectl keeps there is as large as the object.
                annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
            }
        }
        Arc::new(Value::Map(out))
    }

    /// Watches until the end of the watch; true when the next try should follow at once.
    async fn watch(&self, version: &mut String) -> Result<bool, Status> {
        let options = ListOptions { resource_version: version.clone(), allow_bookmarks: true, ..self.options() };
        let mut stream = match self.resources.watch(options).await {
            Ok(stream) => stream.ready_chunks(AT_ONCE),
            Err(status) => return after(ended(status), version, false),
        };
        let (mut heard, mut end) = (false, None);
        while end.is_none() {
            let Some(events) = stream.next().await else { break };
            let mut taken = Vec::with_capacity(events.len());
            for event in events {
                match event {
                    Ok(event) => taken.push(event),
                    Err(status) => end = Some(ended(status)),
                }
            }
            heard |= !taken.is_empty();
            self.take(taken, version);
        }
        after(end.unwrap_or(Ended::Closed), version, heard)
    }

    /// Takes in what came at once, and tells those who follow of all of it together.
    fn take(&self, events: Vec<WatchEvent>, version: &mut String) {
        let Some(last) = events.last() else { return };
        let reached = meta::resource_version(&last.object).to_string();
        let changed = events.into_iter().filter(|event| event.kind != EventKind::Bookmark);
        let change = |event: WatchEvent| {
            let key = meta::key(&event.object).into();
            (key, (event.kind != EventKind::Deleted).then(|| self.kept(event.object)))
        };
        self.shared.apply(changed.map(change).collect());
        *version = reached;
    }
}

fn ended(status: Status) -> Ended {
    match status.reason {
        Reason::Expired | Reason::Gone => Ended::Expired,
        _ => Ended::Failed(status),
    }
}

/// What follows the end of a watch: whether to go on at once, and from which version.
#[allow(clippy::result_large_err, reason = "the client's calls fail with a Status, and this passes one on")]
fn after(end: Ended, version: &mut String, heard: bool) -> Result<bool, Status> {
    match end {
        Ended::Closed => Ok(heard),
        Ended::Expired => {
            version.clear();
            Ok(heard)
        }
        Ended::Failed(status) => Err(status),
    }
}

/// The wait before a try: doubling, and up to as much again by a spread that differs between reflectors. It is derived
/// rather than drawn, so that a simulated run repeats itself.
pub(super) fn delay(attempt: u32, seed: &str) -> Duration {
    let base = FIRST_DELAY.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(LONGEST_DELAY);
    let mut hasher = DefaultHasher::new();
    (attempt, seed).hash(&mut hasher);
    base + base.mul_f64((hasher.finish() % 1000) as f64 / 1000.0)
}
