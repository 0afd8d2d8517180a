//! Watch: changes of a collection as one watcher sees them. An object that begins or ends to match the selection appears
//! as added or deleted, by the object as it was before the change.

use std::sync::Arc;

use fram_machinery::{Status, Value};
use fram_store::{Entry, Event, EventKind, Revision, Watch, WatchItem};

use super::read::parse_revision;
use super::{Place, Record, Registry, Selection, Served, store_status, whole};

#[derive(Debug, Clone, Default)]
pub struct WatchRequest {
    pub selection: Selection,
    pub resource_version: String,
    pub resource_version_match: String,
    /// None where the client did not say.
    pub send_initial_events: Option<bool>,
    pub bookmarks: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    Added,
    Modified,
    Deleted,
    /// Progress only.
    Bookmark,
    /// The bookmark that ends the initial events.
    InitialEventsEnd,
}

/// One change. A deleted object's entry is its last one, shown at the revision of the deletion.
#[derive(Debug, Clone)]
pub struct Change {
    pub kind: ChangeKind,
    pub entry: Option<Arc<Entry>>,
    pub revision: u64,
    /// The object, where a webhook had to convert it.
    converted: Option<Value>,
}

impl Change {
    fn new(kind: ChangeKind, entry: Option<Arc<Entry>>, revision: u64) -> Self {
        Self { kind, entry, revision, converted: None }
    }

    /// The object as the watcher sees it.
    pub(crate) fn object(&self, served: &Served, entry: &Entry) -> Result<Value, Status> {
        self.read(served, || whole(entry, self.revision))
    }

    /// The same without who manages which of its fields.
    pub(crate) fn unmanaged(&self, registry: &Registry, served: &Served, entry: &Entry) -> Result<Value, Status> {
        let mut object = self.read(served, || registry.unmanaged(entry, self.revision))?;
        if self.converted.is_some() {
            object.remove(&["metadata", "managedFields"]);
        }
        Ok(object)
    }

    fn read(&self, served: &Served, read: impl FnOnce() -> Result<Value, Status>) -> Result<Value, Status> {
        let Some(converted) = &self.converted else {
            return Ok(fram_api::convert(read()?, &served.stored, &served.kind));
        };
        let mut object = converted.clone();
        object.set(&["metadata", "resourceVersion"], self.revision.to_string());
        Ok(object)
    }
}

/// A running watch.
pub struct Watching {
    registry: Arc<Registry>,
    watch: Watch,
    /// Events of objects that a webhook has still to convert.
    arrived: std::collections::VecDeque<Event>,
    served: Served,
    selection: Selection,
    pending: std::collections::VecDeque<Change>,
    /// Nothing at or before this revision is delivered again.
    seen: u64,
}

impl Registry {
    pub async fn watch(self: &Arc<Self>, place: &Place, request: WatchRequest) -> Result<Watching, Status> {
        let stored = place.served.stored.clone();
        let mut prefix = self.collection_prefix(&stored, &place.namespace);
        let exact = request.selection.fields.exact("metadata.name").filter(|_| !stored.is_namespaced() || !place.namespace.is_empty());
        if let Some(name) = exact {
            // The name may be the start of another: the selection still decides.
            prefix.push_str(name);
        }
        let after = parse_revision(&request.resource_version)?.filter(|&r| r > 0);
        let initial = request.send_initial_events.unwrap_or(after.is_none());
        if request.send_initial_events.is_some() && request.resource_version_match != "NotOlderThan" {
            return Err(Status::bad_request(
                "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        }
        let mut pending = std::collections::VecDeque::new();
        let mut start = after.unwrap_or(0);
        if initial || after.is_none() {
            let snapshot = self.snapshot().await?;
            let current = snapshot.revision().0;
            if start > current {
                let error = fram_store::StoreError::FutureRevision { revision: Revision(start), current: Revision(current) };
                return Err(store_status(error));
            }
            start = current;
            if initial {
                pending = self.initial(place, &request.selection, snapshot.prefix(&prefix)).await?;
            }
            if request.send_initial_events == Some(true) && request.bookmarks {
                pending.push_back(Change::new(ChangeKind::InitialEventsEnd, None, current));
            }
        }
        let facet = request.selection.facet(&stored);
        let watch = self.store.watch_facet(&prefix, facet, Revision(start)).await.map_err(watch_status)?;
        let (registry, served) = (self.clone(), place.served.clone());
        Ok(Watching { registry, watch, arrived: Default::default(), served, selection: request.selection, pending, seen: start })
    }

    /// What is there when a watch begins.
    async fn initial<'a>(
        &self,
        place: &Place,
        selection: &Selection,
        entries: impl Iterator<Item = &'a Arc<Entry>>,
    ) -> Result<std::collections::VecDeque<Change>, Status> {
        let served = &place.served;
        let added = |entry: &Arc<Entry>| Change::new(ChangeKind::Added, Some(entry.clone()), entry.modified.0);
        let mut pending = std::collections::VecDeque::new();
        if served.needs_webhook() {
            let entries: Vec<Arc<Entry>> = entries.cloned().collect();
            let objects = self.objects(served, &entries).await?;
            for (entry, object) in entries.iter().zip(objects) {
                if selection.labels.matches(fram_machinery::meta::labels(&object)) && selection.matches_object(&served.kind, &object) {
                    pending.push_back(Change { converted: Some(object), ..added(entry) });
                }
            }
            return Ok(pending);
        }
        for entry in entries {
            let record = Record::parse(&entry.value).map_err(Status::internal)?;
            if selection.matches(served, &record) {
                pending.push_back(added(entry));
            }
        }
        Ok(pending)
    }
}

fn watch_status(error: fram_store::StoreError) -> Status {
    match &error {
        fram_store::StoreError::Compacted { revision, oldest } => {
            Status::expired(format!("too old resource version: {revision} ({oldest})"))
        }
        fram_store::StoreError::WatcherTooSlow { .. } => Status::expired("the watcher did not keep up"),
        _ => store_status(error),
    }
}

impl Watching {
    /// The next change. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Change, Status> {
        loop {
            if let Some(change) = self.pending.pop_front() {
                return Ok(change);
            }
            if let Some(event) = self.arrived.front().cloned() {
                // Only what was looked at to the end is taken away.
                let change = self.converted(&event).await?;
                self.arrived.pop_front();
                self.pending.extend(change);
                continue;
            }
            match self.watch.next().await.map_err(watch_status)? {
                WatchItem::Events(events) => {
                    for event in events.iter() {
                        self.seen = self.seen.max(event.revision.0);
                        if self.served.needs_webhook() {
                            self.arrived.push_back(event.clone());
                        } else {
                            self.pending.extend(self.plain(event)?);
                        }
                    }
                }
                WatchItem::Progress(revision) => {
                    self.seen = self.seen.max(revision.0);
                    return Ok(Change::new(ChangeKind::Bookmark, None, revision.0));
                }
            }
        }
    }

    /// Whether `next` returns at once with a change that is already here. It must not say so of events that may turn out not
    /// to be selected: who collects changes before sending them would wait for the next one.
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Asks for a bookmark once everything before it was delivered.
    pub fn request_bookmark(&self) {
        self.watch.progress_requester().request();
    }

    fn matches(&self, entry: Option<&Arc<Entry>>) -> Result<bool, Status> {
        let Some(entry) = entry else { return Ok(false) };
        if self.selection.is_everything() {
            return Ok(true);
        }
        let record = Record::parse(&entry.value).map_err(Status::internal)?;
        Ok(self.selection.matches(&self.served, &record))
    }

    fn plain(&self, event: &Event) -> Result<Option<Change>, Status> {
        let after = event.kind == EventKind::Put && self.matches(event.entry.as_ref())?;
        let before = self.matches(event.previous.as_ref())?;
        let (kind, entry) = match (before, after) {
            (false, true) => (ChangeKind::Added, event.entry.clone()),
            (true, true) => (ChangeKind::Modified, event.entry.clone()),
            (true, false) => (ChangeKind::Deleted, event.previous.clone()),
            (false, false) => return Ok(None),
        };
        Ok(Some(Change::new(kind, entry, event.revision.0)))
    }

    /// As `plain`, for objects that a webhook converts.
    async fn converted(&self, event: &Event) -> Result<Option<Change>, Status> {
        let sides = [event.entry.as_ref().filter(|_| event.kind == EventKind::Put), event.previous.as_ref()];
        let mut matching = [None, None];
        for (entry, slot) in sides.into_iter().zip(&mut matching) {
            let Some(entry) = entry else { continue };
            let object = self.registry.object(&self.served, entry).await?;
            let labels = self.selection.labels.matches(fram_machinery::meta::labels(&object));
            *slot = (labels && self.selection.matches_object(&self.served.kind, &object)).then_some((entry.clone(), object));
        }
        let [after, before] = matching;
        let (kind, shown) = match (before, after) {
            (None, Some(after)) => (ChangeKind::Added, after),
            (Some(_), Some(after)) => (ChangeKind::Modified, after),
            (Some(before), None) => (ChangeKind::Deleted, before),
            (None, None) => return Ok(None),
        };
        let change = Change::new(kind, Some(shown.0), event.revision.0);
        Ok(Some(Change { converted: Some(shown.1), ..change }))
    }
}
