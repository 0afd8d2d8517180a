//! A shared cache of a resource's objects, kept current by list and watch, with subscriptions that coalesce what a slow
//! reader has not seen yet. It does not decide what to do about changes; that is the reconcilers' part.

mod cache;
mod observer;
mod reflector;
mod subscription;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use fram_machinery::{Text, Value};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::client::Client;
use crate::resources::Resource;
use cache::Cache;
pub use observer::Observation;
use observer::Observer;
use subscription::Subscriber;
pub use subscription::{Delta, Subscription};

/// Gives the values under which an object is found in an index.
pub type IndexFn = Arc<dyn Fn(&Value) -> Vec<Text> + Send + Sync>;

/// Changes an object before it is held.
pub type Projection = Arc<dyn Fn(&mut Value) + Send + Sync>;

/// What an informer holds, and how it is found.
#[derive(Clone, Default)]
pub struct InformerOptions {
    pub label_selector: String,
    pub field_selector: String,
    /// Named indices over the cache.
    pub indices: Vec<(&'static str, IndexFn)>,
    /// Of each object only what it is and its metadata are kept.
    pub metadata_only: bool,
    /// Takes out of each object what nobody will ask for.
    pub projection: Option<Projection>,
}

impl InformerOptions {
    /// Only objects that this field selector matches.
    pub fn fields(selector: impl Into<String>) -> Self {
        Self { field_selector: selector.into(), ..Self::default() }
    }

    /// Only objects that this label selector matches.
    pub fn labels(selector: impl Into<String>) -> Self {
        Self { label_selector: selector.into(), ..Self::default() }
    }

    #[must_use]
    pub fn index(mut self, name: &'static str, values: impl Fn(&Value) -> Vec<Text> + Send + Sync + 'static) -> Self {
        self.indices.push((name, Arc::new(values)));
        self
    }
}

struct Shared {
    resource: Resource,
    cache: RwLock<Cache>,
    synced: watch::Sender<bool>,
    subscribers: Mutex<Subscribers>,
}

#[derive(Default)]
struct Subscribers {
    all: Vec<Arc<Subscriber>>,
    observers: Arc<[Arc<Observer>]>,
    /// The informer has ended.
    closed: bool,
}

impl Subscribers {
    /// Forgets those whose subscription or observation was dropped.
    fn prune(&mut self) {
        self.all.retain(|s| Arc::strong_count(s) > 1);
        if self.observers.iter().any(|observer| observer.has_ended()) {
            self.observers = self.observers.iter().filter(|observer| !observer.has_ended()).cloned().collect();
        }
    }
}

/// A cache of objects by `namespace/name` (`name` at cluster scope). Clones share it.
#[derive(Clone)]
pub struct Informer {
    shared: Arc<Shared>,
}

impl Informer {
    /// Begins to list and watch; the task belongs to `tasks` and ends with `stop`. An empty namespace means all of them.
    pub fn start(
        client: Client,
        resource: Resource,
        namespace: &str,
        options: InformerOptions,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let shared = Arc::new(Shared {
            resource: resource.clone(),
            cache: RwLock::new(Cache::new(options.indices)),
            synced: watch::Sender::new(false),
            subscribers: Mutex::default(),
        });
        let reflector = reflector::Reflector {
            resources: client.within(&resource, namespace),
            label_selector: options.label_selector,
            field_selector: options.field_selector,
            metadata_only: options.metadata_only,
            projection: options.projection,
            shared: shared.clone(),
        };
        tasks.spawn(reflector.run(stop));
        Self { shared }
    }

    pub fn resource(&self) -> &Resource {
        &self.shared.resource
    }

    /// Returns when the first list is in the cache, or the informer has ended (then false).
    pub async fn synced(&self) -> bool {
        let mut synced = self.shared.synced.subscribe();
        loop {
            if *synced.borrow_and_update() {
                return true;
            }
            if self.shared.subscribers.lock().closed || synced.changed().await.is_err() {
                return false;
            }
        }
    }

    pub fn has_synced(&self) -> bool {
        *self.shared.synced.borrow()
    }

    /// The object with this `namespace/name`.
    pub fn get(&self, key: &str) -> Option<Arc<Value>> {
        self.shared.cache.read().get(key)
    }

    pub fn get_in(&self, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.get(&format!("{namespace}/{name}"))
    }

    /// Every object, in the order of their keys.
    pub fn list(&self) -> Vec<Arc<Value>> {
        self.shared.cache.read().list()
    }

    pub fn by_namespace(&self, namespace: &str) -> Vec<Arc<Value>> {
        self.shared.cache.read().by_namespace(namespace)
    }

    /// The objects that an index finds under a value; none where there is no such index.
    pub fn by_index(&self, index: &str, value: &str) -> Vec<Arc<Value>> {
        self.shared.cache.read().by_index(index, value)
    }

    pub fn len(&self) -> usize {
        self.shared.cache.read().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Changes from now on, beginning with everything that is in the cache as new.
    pub fn subscribe(&self) -> Subscription {
        // The cache stays locked meanwhile, so that no change falls between the snapshot and the registration.
        let cache = self.shared.cache.read();
        let subscriber = Arc::new(Subscriber::default());
        let all: Vec<_> = cache.iter().map(|(key, object)| (key.clone(), Delta { old: None, new: Some(object.clone()) })).collect();
        subscriber.note(&all);
        let mut subscribers = self.shared.subscribers.lock();
        subscribers.prune();
        if subscribers.closed {
            subscriber.close();
        }
        subscribers.all.push(subscriber.clone());
        Subscription::new(subscriber)
    }

    /// Has `tell` be called for every change from now on, as it is taken in, beginning with everything that is in the cache as new,
    /// until the observation is dropped. It holds the informer up: it is for readers that see at once whether a change concerns them,
    /// of which there are many, and to whom most changes are nothing. A slow reader subscribes.
    pub fn observe(&self, tell: impl FnMut(&Delta) + Send + 'static) -> Observation {
        let observer = Arc::new(Observer::new(self.shared.resource.clone(), tell));
        // Changes that come from here on wait until those before them are told.
        let mut telling = observer.begin();
        let known = {
            let cache = self.shared.cache.read();
            let mut subscribers = self.shared.subscribers.lock();
            subscribers.prune();
            subscribers.observers = subscribers.observers.iter().chain([&observer]).cloned().collect();
            cache.list()
        };
        for object in known {
            telling.tell(&Delta { old: None, new: Some(object) });
        }
        drop(telling);
        Observation::new(observer)
    }
}

impl Shared {
    /// Applies changes to the cache and tells the subscribers, each once for all of them, and then the observers. They may look into
    /// the cache, which is therefore let go first; only the reflector calls this, so that they hear of changes in their order.
    fn apply(&self, changes: Vec<(Arc<str>, Option<Arc<Value>>)>) {
        let mut told = Vec::with_capacity(changes.len());
        let observers = {
            let mut cache = self.cache.write();
            let mut subscribers = self.subscribers.lock();
            subscribers.prune();
            for (key, new) in changes {
                let old = cache.replace(&key, new.clone());
                if old.is_some() || new.is_some() {
                    told.push((key, Delta { old, new }));
                }
            }
            if told.is_empty() {
                return;
            }
            subscribers.all.iter().for_each(|subscriber| subscriber.note(&told));
            subscribers.observers.clone()
        };
        observers.iter().for_each(|observer| observer.tell(told.iter().map(|(_, delta)| delta)));
    }

    fn set_synced(&self) {
        self.synced.send_if_modified(|synced| !std::mem::replace(synced, true));
    }

    /// No change comes any more: waiting readers are let go.
    fn close(&self) {
        let mut subscribers = self.subscribers.lock();
        subscribers.closed = true;
        for subscriber in &subscribers.all {
            subscriber.close();
        }
        drop(subscribers);
        self.synced.send_modify(|_| ());
    }
}
