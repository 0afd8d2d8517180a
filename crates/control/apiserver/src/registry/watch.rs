//! Watch: changes of a collection as one watcher sees them. An object that begins or ends to match the selection appears
//! as added or deleted, by the object as it was before the change.

use std::sync::Arc;

use fram_machinery::Status;
use fram_store::{Entry, Event, EventKind, Revision, Watch, WatchItem};

use super::read::parse_revision;
use super::{Place, Record, Registry, Selection, Served, store_status};

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
}

/// A running watch.
pub struct Watching {
    watch: Watch,
    served: Served,
    selection: Selection,
    pending: std::collections::VecDeque<Change>,
    /// Nothing at or before this revision is delivered again.
    seen: u64,
}

impl Registry {
    pub async fn watch(&self, place: &Place, request: WatchRequest) -> Result<Watching, Status> {
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
                for entry in snapshot.prefix(&prefix) {
                    let record = Record::parse(&entry.value).map_err(Status::internal)?;
                    if request.selection.matches(&place.served, &record) {
                        let change = Change { kind: ChangeKind::Added, entry: Some(entry.clone()), revision: entry.modified.0 };
                        pending.push_back(change);
                    }
                }
            }
            if request.send_initial_events == Some(true) && request.bookmarks {
                pending.push_back(Change { kind: ChangeKind::InitialEventsEnd, entry: None, revision: current });
            }
        }
        let watch = self.store.watch(&prefix, Revision(start)).await.map_err(watch_status)?;
        Ok(Watching { watch, served: place.served.clone(), selection: request.selection, pending, seen: start })
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
            match self.watch.next().await.map_err(watch_status)? {
                WatchItem::Events(events) => {
                    for event in events.iter() {
                        self.seen = self.seen.max(event.revision.0);
                        if let Some(change) = self.change(event)? {
                            self.pending.push_back(change);
                        }
                    }
                }
                WatchItem::Progress(revision) => {
                    self.seen = self.seen.max(revision.0);
                    return Ok(Change { kind: ChangeKind::Bookmark, entry: None, revision: revision.0 });
                }
            }
        }
    }

    /// Whether `next` would return at once with a change that is already here.
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

    fn change(&self, event: &Event) -> Result<Option<Change>, Status> {
        let after = event.kind == EventKind::Put && self.matches(event.entry.as_ref())?;
        let before = self.matches(event.previous.as_ref())?;
        let (kind, entry) = match (before, after) {
            (false, true) => (ChangeKind::Added, event.entry.clone()),
            (true, true) => (ChangeKind::Modified, event.entry.clone()),
            (true, false) => (ChangeKind::Deleted, event.previous.clone()),
            (false, false) => return Ok(None),
        };
        Ok(Some(Change { kind, entry, revision: event.revision.0 }))
    }
}
