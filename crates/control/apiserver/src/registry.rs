//! The verbs on the generic store. Every resource takes this way, whatever its kind: decode by description, default,
//! admit, validate, commit. What differs between kinds stands in their description and strategy.

mod convert;
mod delete;
mod keys;
mod prepare;
mod read;
mod recent;
mod record;
mod turns;
mod watch;
mod write;

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use fram_api::{Api, Kind, ServiceFamilies};
use fram_machinery::{Status, Value};
use fram_store::{Entry, Store, StoreError};
use tokio::sync::{RwLock, RwLockWriteGuard, watch as signal};

use crate::admission::Chain;
use crate::allocate::Allocators;
use crate::environment::Environment;
use crate::respond;
use crate::user::User;

pub use delete::Deleted;
pub(crate) use keys::CORE;
pub use keys::Place;
pub use read::{ListRequest, Listing, Selection};
pub use record::{Record, TypeMeta};
pub use watch::{Change, ChangeKind, WatchRequest, Watching};
pub use write::{Body, FieldValidation, Stored, Written};

/// The objects of one cluster.
pub struct Registry {
    /// The kinds that are served now; replaced as a whole, so that whoever took it goes on with what it has.
    api: signal::Sender<Arc<Api>>,
    pub(crate) store: Arc<dyn Store>,
    /// Every key of this cluster starts with it.
    pub(crate) prefix: Arc<str>,
    pub(crate) environment: Environment,
    pub(crate) admission: Chain,
    pub(crate) allocators: Allocators,
    turns: turns::Turns,
    /// Without resource version, or with some earlier one.
    trees: recent::Recent<(), Value>,
    /// What admission looks up again and again: namespaces, service accounts, classes.
    consulted: recent::Recent<(), Value>,
    sealed: recent::Recent<Sealed, Bytes>,
    /// Held by who serves another kind until its definition says so.
    settling: RwLock<()>,
    me: Weak<Registry>,
}

/// How long a question for the kinds that are served waits for one that is being taken up.
const SETTLED_WITHIN: Duration = Duration::from_secs(1);

/// Who writes, and how.
#[derive(Debug, Clone, Default)]
pub struct Write {
    pub user: User,
    pub dry_run: bool,
    pub field_manager: String,
    /// The object comes from a server-side apply and carries its managers.
    pub apply: bool,
    /// The server's own clearing away, which admission cannot stop.
    pub housekeeping: bool,
}

/// A kind as it was asked for, and the kind as which it is stored.
#[derive(Clone)]
pub struct Served {
    pub kind: Arc<Kind>,
    pub stored: Arc<Kind>,
}

impl Served {
    /// Whether the bytes in the store are those that a client gets.
    pub(crate) fn verbatim(&self) -> bool {
        let same = self.kind.version == self.stored.version && self.kind.group == self.stored.group;
        same && self.kind.custom.as_ref().is_none_or(|c| !c.outdated)
    }
}

/// One stored object, as the kind that was asked for.
#[derive(Clone)]
pub struct Item {
    pub entry: Arc<Entry>,
}

impl Registry {
    pub fn new(
        api: Arc<Api>,
        store: Arc<dyn Store>,
        prefix: &str,
        environment: Environment,
        admission: Chain,
        allocators: Allocators,
    ) -> Arc<Self> {
        let api = match allocators.families() {
            ServiceFamilies::V4 => api,
            families => Arc::new((*api).clone().with_service_families(families)),
        };
        let (api, prefix) = (signal::Sender::new(api), prefix.into());
        let (turns, trees, consulted, sealed, settling) = Default::default();
        Arc::new_cyclic(|me| Self {
            api,
            store,
            prefix,
            environment,
            admission,
            allocators,
            turns,
            trees,
            consulted,
            sealed,
            settling,
            me: me.clone(),
        })
    }

    /// For what may outlive a call.
    pub(crate) fn weak(&self) -> Weak<Self> {
        self.me.clone()
    }

    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The kinds that are served now.
    pub fn api(&self) -> Arc<Api> {
        self.api.borrow().clone()
    }

    /// Serves other kinds from now on.
    pub(crate) fn serve(&self, change: impl FnOnce(&Api) -> Api) {
        self.api.send_modify(|api| *api = Arc::new(change(api)));
    }

    /// Begins to serve another kind: as long as this is held, discovery waits.
    pub(crate) async fn settle(&self) -> RwLockWriteGuard<'_, ()> {
        self.settling.write().await
    }

    /// The kinds that are served now, each of which says so in its definition: who finds a kind may go on with its definition, and
    /// who reads there that it is served finds it.
    pub(crate) async fn settled_api(&self) -> Arc<Api> {
        // What takes longer than it should keeps nobody from the other kinds.
        let _ = tokio::time::timeout(SETTLED_WITHIN, self.settling.read()).await;
        self.api()
    }

    /// Tells of the kinds whenever others are served.
    pub fn follow_api(&self) -> signal::Receiver<Arc<Api>> {
        self.api.subscribe()
    }

    /// The kind served at a group, version and plural.
    pub fn served(&self, group: &str, version: &str, plural: &str) -> Option<Served> {
        let api = self.api();
        let kind = api.resource(group, version, plural)?.clone();
        let stored = api.storage_of(&kind);
        Some(Served { kind, stored })
    }

    /// Decodes a stored entry as the kind that was asked for, a built-in one or one whose versions differ by their schema.
    pub fn decode(&self, served: &Served, entry: &Entry) -> Result<Value, Status> {
        Ok(fram_api::convert(whole(entry, entry.modified.0)?, &served.stored, &served.kind))
    }

    /// A change's object in protobuf, encoded once for all its watchers.
    pub(crate) fn sealed(&self, change: &Change, served: &Served, entry: &Entry) -> Result<Bytes, Status> {
        let made = Sealed(served.kind.clone(), change.revision);
        if let Some(sealed) = self.sealed.get(&entry.value, &made) {
            return Ok(sealed);
        }
        let sealed = Bytes::from(respond::sealed(&self.api(), &change.object(served, entry)?)?);
        self.sealed.put(entry.value.clone(), made, sealed.clone());
        Ok(sealed)
    }

    /// A stored object, as the kind as which it is stored.
    pub(crate) fn stored(&self, entry: &Entry) -> Result<Value, Status> {
        let Some(mut object) = self.trees.get(&entry.value, &()) else { return whole(entry, entry.modified.0) };
        object.set(&["metadata", "resourceVersion"], entry.modified.0.to_string());
        Ok(object)
    }

    /// The same at a revision, without who manages which of its fields.
    fn unmanaged(&self, entry: &Entry, revision: u64) -> Result<Value, Status> {
        let Some(mut object) = self.trees.get(&entry.value, &()) else {
            let record = Record::parse(&entry.value).map_err(Status::internal)?;
            return record.to_unmanaged(revision).map_err(Status::internal);
        };
        object.remove(&["metadata", "managedFields"]);
        object.set(&["metadata", "resourceVersion"], revision.to_string());
        Ok(object)
    }
}

/// How an object was encoded in protobuf: as which kind, and at which revision.
struct Sealed(Arc<Kind>, u64);

impl PartialEq for Sealed {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) && self.1 == other.1
    }
}

/// A stored object at a revision, with who manages its fields.
fn whole(entry: &Entry, revision: u64) -> Result<Value, Status> {
    let record = Record::parse(&entry.value).map_err(Status::internal)?;
    record.to_object(revision).map_err(Status::internal)
}

/// Says a store's error as the API does.
pub(crate) fn store_status(error: StoreError) -> Status {
    match &error {
        StoreError::Compacted { .. } => Status::expired("The provided resource version is too old"),
        StoreError::FutureRevision { revision, current } => {
            let mut status =
                Status::new(fram_machinery::Reason::Timeout, format!("Too large resource version: {revision}, current: {current}"));
            status.causes.push(fram_machinery::StatusCause {
                reason: "ResourceVersionTooLarge".into(),
                message: "Too large resource version".into(),
                field: String::new(),
            });
            status.retry_after_seconds = 1;
            status
        }
        StoreError::TooLarge { .. } => Status::new(fram_machinery::Reason::RequestEntityTooLarge, error.to_string()),
        StoreError::Closed => Status::new(fram_machinery::Reason::ServiceUnavailable, "the server is shutting down"),
        // What is not known to have failed must not be taken for a refusal; see apiserver's NewTimeoutError.
        StoreError::OutcomeUnknown { .. } => Status::new(fram_machinery::Reason::Timeout, error.to_string()),
        StoreError::Unavailable { .. } => {
            let status = Status::new(fram_machinery::Reason::ServiceUnavailable, error.to_string());
            Status { retry_after_seconds: 1, ..status }
        }
        StoreError::NoSpace => Status::new(fram_machinery::Reason::ServiceUnavailable, error.to_string()),
        // Said apart, since the remedy is the user's: nothing is broken, and the same request succeeds when there is room.
        _ if error.is_disk_full() => {
            Status::new(fram_machinery::Reason::ServiceUnavailable, format!("the disk of the API server's store is full: {error}"))
        }
        _ => Status::internal(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_apart_from_a_broken_one() {
        let failed = |kind: std::io::ErrorKind| {
            let error = std::sync::Arc::new(kind.into());
            store_status(StoreError::Io { path: "/data/log".into(), operation: "write", error })
        };
        let full = failed(std::io::ErrorKind::StorageFull);
        assert_eq!((full.code, full.retry_after_seconds), (503, 0), "kubectl would go on trying for minutes if it were told to");
        assert_eq!(full.message, "the disk of the API server's store is full: cannot write /data/log: no storage space");
        let read_only = failed(std::io::ErrorKind::ReadOnlyFilesystem);
        assert_eq!(read_only.code, 500);
        assert!(read_only.message.contains("cannot write /data/log: read-only filesystem"), "{}", read_only.message);
    }
}
