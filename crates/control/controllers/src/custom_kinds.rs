//! Follows the kinds of custom resources, and the metadata of their objects, as they come and go.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use fram_client::{Delta, Informer, Resource, SharedInformers};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use crate::context::KindInfo;

/// Who wants to know of them.
pub(crate) trait Follower: Send + Sync + 'static {
    /// A kind came; its objects have not been listed.
    fn came(&self, kind: &KindInfo, informer: &Informer);
    /// They have.
    fn listed(&self, kind: &KindInfo);
    fn changed(&self, kind: &KindInfo, delta: &Delta);
    fn gone(&self, resource: &Resource);
}

/// Tells `follower` until nobody tells of kinds any more.
pub(crate) async fn follow(follower: Arc<impl Follower>, informers: SharedInformers, mut kinds: watch::Receiver<Arc<[KindInfo]>>) {
    let mut feeders: HashMap<Resource, AbortHandle> = HashMap::new();
    let mut tasks = JoinSet::new();
    loop {
        let wanted = kinds.borrow_and_update().clone();
        let known: HashSet<&Resource> = wanted.iter().map(|k| &k.resource).collect();
        for gone in feeders.keys().filter(|r| !known.contains(r)).cloned().collect::<Vec<_>>() {
            feeders.remove(&gone).inspect(AbortHandle::abort);
            follower.gone(&gone);
        }
        for kind in wanted.iter().filter(|k| k.collected) {
            if feeders.contains_key(&kind.resource) {
                continue;
            }
            let informer = informers.metadata(&kind.resource);
            follower.came(kind, &informer);
            let feeder = tasks.spawn(feed(follower.clone(), kind.clone(), informer));
            feeders.insert(kind.resource.clone(), feeder);
        }
        tokio::select! {
            biased;
            changed = kinds.changed() => if changed.is_err() { return },
            // Its kind is gone, or was gone and has come again while its informer ended: then it is begun anew.
            Some(ended) = tasks.join_next_with_id() => {
                let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                let lost = feeders.extract_if(|_, feeder| feeder.id() == id).map(|(resource, _)| resource).collect::<Vec<_>>();
                lost.iter().for_each(|resource| follower.gone(resource));
            }
        }
    }
}

async fn feed(follower: Arc<impl Follower>, kind: KindInfo, informer: Informer) {
    if !informer.synced().await {
        return;
    }
    follower.listed(&kind);
    let mut changes = informer.subscribe();
    while let Some(deltas) = changes.changed().await {
        deltas.iter().for_each(|delta| follower.changed(&kind, delta));
    }
}
