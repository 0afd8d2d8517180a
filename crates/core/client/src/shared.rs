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
    /// Each with what ends it alone.
    informers: Mutex<HashMap<Resource, (Informer, CancellationToken)>>,
}

impl SharedInformers {
    pub fn new(client: Client, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { inner: Arc::new(Inner { client, tasks, stop, informers: Mutex::default() }) }
    }

    pub fn get(&self, resource: &Resource) -> Informer {
        let inner = &self.inner;
        let mut options = InformerOptions::default().index(OWNER_INDEX, owners);
        if *resource == PODS || *resource == CONTROLLER_REVISIONS {
            options = options.index(FREE_INDEX, free);
        }
        let start = || {
            let stop = inner.stop.child_token();
            (Informer::start(inner.client.clone(), resource.clone(), "", options.clone(), &inner.tasks, stop.clone()), stop)
        };
        inner.informers.lock().entry(resource.clone()).or_insert_with(start).0.clone()
    }

    /// Ends the informer of a resource that is not served any more.
    pub fn forget(&self, resource: &Resource) {
        if let Some((_, stop)) = self.inner.informers.lock().remove(resource) {
            stop.cancel();
        }
    }
}
