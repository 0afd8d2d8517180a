//! One informer per resource, shared by all components that ask for it.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::{Client, Informer, InformerOptions, Resource};

/// Informers over all namespaces, started when they are first asked for. Clones share them.
#[derive(Clone)]
pub struct SharedInformers {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    tasks: TaskTracker,
    stop: CancellationToken,
    informers: Mutex<HashMap<Resource, Informer>>,
}

impl SharedInformers {
    pub fn new(client: Client, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { inner: Arc::new(Inner { client, tasks, stop, informers: Mutex::default() }) }
    }

    pub fn get(&self, resource: &Resource) -> Informer {
        let inner = &self.inner;
        let start =
            || Informer::start(inner.client.clone(), resource.clone(), "", InformerOptions::default(), &inner.tasks, inner.stop.clone());
        inner.informers.lock().entry(resource.clone()).or_insert_with(start).clone()
    }
}
