//! The ConfigMaps and Secrets that the node's pods refer to: read when they are needed, watched while a pod holds them, so
//! that its worker hears of a change.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use fram_client::resources::{CONFIG_MAPS, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, SECRETS};
use fram_client::{Client, Informer, InformerOptions, Resource};
use fram_machinery::{Status, Value, meta};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::pod::environment::{Reference, Sources};

/// Called with the uid of a pod that a change concerns.
pub(crate) type Wake = Arc<dyn Fn(&str) + Send + Sync>;

type Key = (String, Reference);

struct Watched {
    holders: HashSet<String>,
    stop: CancellationToken,
}

pub(crate) struct Objects {
    client: Client,
    wake: Wake,
    watched: Arc<Mutex<HashMap<Key, Watched>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

fn place(reference: &Reference) -> (Resource, &str) {
    match reference {
        Reference::ConfigMap(name) => (CONFIG_MAPS, name),
        Reference::Secret(name) => (SECRETS, name),
    }
}

impl Objects {
    pub(crate) fn new(client: Client, wake: Wake, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { client, wake, watched: Arc::default(), tasks, stop }
    }

    /// Reads objects of one namespace; those that do not exist are left out.
    pub(crate) async fn fetch(&self, namespace: &str, references: impl IntoIterator<Item = Reference>) -> Result<Sources, Status> {
        let mut out = Sources::new();
        for reference in references.into_iter().collect::<BTreeSet<_>>() {
            let (resource, name) = place(&reference);
            if let Some(object) = self.client.within(&resource, namespace).find(name).await? {
                out.insert(reference, object);
            }
        }
        Ok(out)
    }

    /// A claim and, where it has one, its volume.
    pub(crate) async fn find_claim(&self, namespace: &str, name: &str) -> Result<(Option<Arc<Value>>, Option<Arc<Value>>), Status> {
        let claim = self.client.within(&PERSISTENT_VOLUME_CLAIMS, namespace).find(name).await?;
        let named = claim.as_deref().map(|c| c.str_at(&["spec", "volumeName"])).filter(|n| !n.is_empty());
        let volume = match named {
            Some(named) => self.client.all(&PERSISTENT_VOLUMES).find(named).await?,
            None => None,
        };
        Ok((claim, volume))
    }

    /// The pod depends on exactly these objects from now on. Immutable ones need no watch.
    pub(crate) fn hold(&self, uid: &str, namespace: &str, references: &BTreeSet<Reference>, sources: &Sources) {
        let mut watched = self.watched.lock();
        let is_fixed = |r: &Reference| sources.get(r).is_some_and(|o| o.bool_at(&["immutable"]) == Some(true));
        let wanted: HashSet<Key> = references.iter().filter(|r| !is_fixed(r)).map(|r| (namespace.to_string(), r.clone())).collect();
        drop_holds(&mut watched, uid, |key| wanted.contains(key));
        for key in wanted {
            let seen = sources.get(&key.1).map(|o| meta::resource_version(o).to_string()).unwrap_or_default();
            let entry = watched.entry(key.clone()).or_insert_with(|| self.watch(key, seen));
            entry.holders.insert(uid.to_string());
        }
    }

    /// The pod is gone.
    pub(crate) fn release(&self, uid: &str) {
        drop_holds(&mut self.watched.lock(), uid, |_| false);
    }

    /// Watches one object; `seen` is the version that was read, of which nobody need hear.
    fn watch(&self, key: Key, seen: String) -> Watched {
        let stop = self.stop.child_token();
        let (resource, name) = place(&key.1);
        let options = InformerOptions::fields(format!("metadata.name={name}"));
        let informer = Informer::start(self.client.clone(), resource, &key.0, options, &self.tasks, stop.clone());
        let (watched, wake, ended) = (self.watched.clone(), self.wake.clone(), stop.clone());
        self.tasks.spawn(async move {
            let mut changes = informer.subscribe();
            while let Some(deltas) = changes.changed().await {
                if ended.is_cancelled() {
                    break;
                }
                let news = deltas.iter().any(|d| d.new.as_ref().is_none_or(|o| meta::resource_version(o) != seen));
                let holders = watched.lock().get(&key).map(|w| w.holders.clone()).unwrap_or_default();
                if news {
                    holders.iter().for_each(|uid| wake(uid));
                }
            }
        });
        Watched { holders: HashSet::new(), stop }
    }
}

fn drop_holds(watched: &mut HashMap<Key, Watched>, uid: &str, keep: impl Fn(&Key) -> bool) {
    watched.retain(|key, entry| {
        if !keep(key) {
            entry.holders.remove(uid);
        }
        let needed = !entry.holders.is_empty();
        if !needed {
            entry.stop.cancel();
        }
        needed
    });
}
