//! One informer per resource, shared by all components that ask for it.

use std::collections::HashMap;
use std::sync::Arc;

use fram_machinery::{Value, meta};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::resources::{CONTROLLER_REVISIONS, PODS};
use crate::{Client, Informer, InformerOptions, Resource};

/// Every shared informer finds the objects that refer to an owner by the owner's UID under this index.
pub const OWNER_INDEX: &str = "owner";

/// Pods and ControllerRevisions without a controller are found by their namespace under this index: whoever wants to adopt some
/// need not look through all the others.
pub const FREE_INDEX: &str = "free";

fn free(object: &Value) -> Vec<String> {
    meta::controller_of(object).is_none().then(|| meta::namespace(object).to_string()).into_iter().collect()
}

fn owners(object: &Value) -> Vec<String> {
    meta::owner_references(object).iter().map(|r| r.str_at(&["uid"]).to_string()).collect()
}

/// Informers over all namespaces, started when they are first asked for. Clones share them.
#[derive(Clone)]
pub struct SharedInformers {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Each with what ends it alone; those that hold metadata only are told apart.
    informers: Mutex<HashMap<(Resource, bool), (Informer, CancellationToken)>>,
}

impl SharedInformers {
    pub fn new(client: Client, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { inner: Arc::new(Inner { client, tasks, stop, informers: Mutex::default() }) }
    }

    pub fn get(&self, resource: &Resource) -> Informer {
        self.start(resource, false)
    }

    /// An informer that holds the metadata of objects and nothing else.
    pub fn metadata(&self, resource: &Resource) -> Informer {
        self.start(resource, true)
    }

    fn start(&self, resource: &Resource, metadata_only: bool) -> Informer {
        let inner = &self.inner;
        let mut options = InformerOptions { metadata_only, ..InformerOptions::default() }.index(OWNER_INDEX, owners);
        if *resource == PODS || *resource == CONTROLLER_REVISIONS {
            options = options.index(FREE_INDEX, free);
        }
        let start = || {
            let stop = inner.stop.child_token();
            (Informer::start(inner.client.clone(), resource.clone(), "", options.clone(), &inner.tasks, stop.clone()), stop)
        };
        inner.informers.lock().entry((resource.clone(), metadata_only)).or_insert_with(start).0.clone()
    }

    /// Ends the informers of a resource that is not served any more.
    pub fn forget(&self, resource: &Resource) {
        for metadata_only in [false, true] {
            if let Some((_, stop)) = self.inner.informers.lock().remove(&(resource.clone(), metadata_only)) {
                stop.cancel();
            }
        }
    }
}
