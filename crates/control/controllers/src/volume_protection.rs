//! PersistentVolumeClaims that a pod uses, PersistentVolumes that are bound, and VolumeAttributesClasses that either names do not
//! go away: a finalizer holds them; see StorageObjectInUseProtection.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use fram_api::quota::attributes_classes;
use fram_api::storage::{claim_of, claims_of, is_ephemeral};
use fram_client::resources::{PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS, VOLUME_ATTRIBUTES_CLASSES};
use fram_client::{Action, Client, Controller, Delta, Resource};
use fram_machinery::{Status, Value, meta};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::Context;
use crate::objects::{SETTLE, unless_it_changed};

const OF_CLAIMS: &str = "kubernetes.io/pvc-protection";
const OF_VOLUMES: &str = "kubernetes.io/pv-protection";
const OF_CLASSES: &str = "kubernetes.io/vac-protection";
/// How long a look is remembered once there are others.
const KEPT: Duration = Duration::from_secs(10);

pub(crate) fn start_for_claims(context: &Context) {
    let (claims, all) = (context.informers.get(&PERSISTENT_VOLUME_CLAIMS), context.informers.get(&PODS));
    let client = context.client("pvc-protection-controller");
    let controller = Controller::new("persistentvolumeclaim-protection", 2).owns(&claims).watches_deltas(&all, set_free);
    let looks = Looks { client: client.clone(), taken: Mutex::default() };
    context.run(controller, (client, claims, all, looks), |context, key| async move {
        let (client, claims, all, looks) = &*context;
        let Some(claim) = claims.get(&key) else { return Ok(Action::Done) };
        let held = is_held(&claim, OF_CLAIMS);
        let used = held && all.by_namespace(meta::namespace(&claim)).iter().flat_map(|pod| uses_of(pod)).any(|u| u.is_of(&claim));
        if held && !used && looks.show_use(&claim).await? {
            // The cache will have that pod soon.
            return Ok(Action::After(SETTLE));
        }
        protect(client, &PERSISTENT_VOLUME_CLAIMS, &claim, OF_CLAIMS, used).await
    });
}

pub(crate) fn start_for_volumes(context: &Context) {
    let volumes = context.informers.get(&PERSISTENT_VOLUMES);
    let client = context.client("pv-protection-controller");
    let controller = Controller::new("persistentvolume-protection", 2).owns(&volumes);
    context.run(controller, (client, volumes), |context, key| async move {
        let (client, volumes) = &*context;
        let Some(volume) = volumes.get(&key) else { return Ok(Action::Done) };
        let used = volume.str_at(&["status", "phase"]) == "Bound";
        protect(client, &PERSISTENT_VOLUMES, &volume, OF_VOLUMES, used).await
    });
}

pub(crate) fn start_for_classes(context: &Context) {
    let informers = &context.informers;
    let (classes, volumes) = (informers.get(&VOLUME_ATTRIBUTES_CLASSES), informers.get(&PERSISTENT_VOLUMES));
    let claims = informers.get(&PERSISTENT_VOLUME_CLAIMS);
    let client = context.client("volumeattributesclass-protection-controller");
    // What named a class before a change may have set it free.
    let named = |delta: &Delta| {
        let both = [delta.old.as_deref(), delta.new.as_deref()];
        both.into_iter().flatten().flat_map(|o| attributes_classes(o).map(String::from).collect::<Vec<_>>()).collect()
    };
    let controller = Controller::new("volumeattributesclass-protection", 1)
        .owns(&classes)
        .watches_deltas(&volumes, named)
        .watches_deltas(&claims, named);
    context.run(controller, (client, classes, volumes, claims), |context, key| async move {
        let (client, classes, volumes, claims) = &*context;
        let Some(class) = classes.get(&key) else { return Ok(Action::Done) };
        let names = |o: &Arc<Value>| attributes_classes(o).any(|c| c == key);
        let used = is_held(&class, OF_CLASSES) && (volumes.list().iter().any(names) || claims.list().iter().any(names));
        protect(client, &VOLUME_ATTRIBUTES_CLASSES, &class, OF_CLASSES, used).await
    });
}

/// Keys of the claims that a change of a pod may set free: when it goes, and its name may be another's by now, or when it is shut down.
fn set_free(delta: &Delta) -> Vec<String> {
    let keys = |pod: &Value| -> Vec<String> { claims_of(pod).map(|name| format!("{}/{name}", meta::namespace(pod))).collect() };
    match (delta.old.as_deref(), delta.new.as_deref()) {
        (Some(old), new) if new.is_none_or(|new| meta::uid(new) != meta::uid(old)) => keys(old),
        (Some(old), Some(new)) if !is_shut_down(old) && is_shut_down(new) => keys(new),
        _ => Vec::new(),
    }
}

/// Nothing of a pod runs any more, or somebody does not care: it waits only for what its finalizers wait for. See upstream's podIsShutDown.
fn is_shut_down(pod: &Value) -> bool {
    meta::is_terminating(pod) && pod.int_at(&["metadata", "deletionGracePeriodSeconds"]) == Some(0)
}

/// A pod's use of a claim.
#[derive(PartialEq, Eq, Hash)]
struct Use {
    claim: String,
    /// Whose the claim has to be, by UID, since it was made for this pod; else empty.
    owner: String,
}

impl Use {
    fn is_of(&self, claim: &Value) -> bool {
        self.claim == meta::name(claim) && (self.owner.is_empty() || self.owner == owner_of(claim))
    }
}

fn owner_of(claim: &Value) -> &str {
    meta::controller_of(claim).map_or("", |owner| owner.str_at(&["uid"]))
}

/// A pod uses its claims from when it has a node until it is gone; those that were made for it and may wait for each other's end with it,
/// until it is shut down. See upstream's podUsesPVCForDeletion.
fn uses_of(pod: &Value) -> impl Iterator<Item = Use> {
    let volumes = if pod.str_at(&["spec", "nodeName"]).is_empty() { &[] } else { pod.list_at(&["spec", "volumes"]) };
    let shut_down = is_shut_down(pod);
    volumes.iter().filter(move |volume| !(shut_down && is_ephemeral(volume))).filter_map(|volume| {
        let owner = if is_ephemeral(volume) { meta::uid(pod) } else { "" };
        Some(Use { claim: claim_of(pod, volume)?, owner: owner.into() })
    })
}

/// The server's word on what pods use, by namespace: the cache may not have the pod yet that uses a claim. One look serves all claims whose
/// deletion had begun by then, since no node starts a pod with such a claim: what was free then stays so.
struct Looks {
    client: Client,
    taken: Mutex<HashMap<String, Look>>,
}

struct Look {
    revision: u64,
    at: Instant,
    uses: HashSet<Use>,
}

impl Looks {
    /// Whether somebody uses a claim that is to go.
    async fn show_use(&self, claim: &Value) -> Result<bool, Status> {
        let namespace = meta::namespace(claim);
        let mut taken = self.taken.lock().await;
        let deleted = meta::resource_version(claim).parse::<u64>().unwrap_or(u64::MAX);
        if taken.get(namespace).is_some_and(|look| look.revision >= deleted && !look.shows_use(claim)) {
            return Ok(false);
        }
        let page = self.client.within(&PODS, namespace).list(Default::default()).await?;
        let uses = page.items.iter().flat_map(|pod| uses_of(pod)).collect();
        let look = Look { revision: page.resource_version.parse().unwrap_or(0), at: Instant::now(), uses };
        let used = look.shows_use(claim);
        taken.retain(|_, look| look.at.elapsed() < KEPT);
        taken.insert(namespace.into(), look);
        Ok(used)
    }
}

impl Look {
    fn shows_use(&self, claim: &Value) -> bool {
        let by = |owner: &str| self.uses.contains(&Use { claim: meta::name(claim).into(), owner: owner.into() });
        by("") || by(owner_of(claim))
    }
}

/// Whether only this finalizer, or others like it, keep an object that is to go.
pub(crate) fn is_held(object: &Value, finalizer: &str) -> bool {
    meta::is_terminating(object) && meta::has_finalizer(object, finalizer)
}

/// Holds an object by a finalizer until it is to go and nobody uses it; who asks for what it costs to know that does so where it is held.
pub(crate) async fn protect(client: &Client, resource: &Resource, object: &Value, finalizer: &str, used: bool) -> Result<Action, Status> {
    let mut changed = object.clone();
    match (meta::is_terminating(object), meta::has_finalizer(object, finalizer)) {
        (true, true) if !used => meta::remove_finalizer(&mut changed, finalizer),
        (false, false) => meta::add_finalizer(&mut changed, finalizer),
        _ => return Ok(Action::Done),
    }
    unless_it_changed(client.within(resource, meta::namespace(object)).update(changed).await)?;
    Ok(Action::Done)
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    #[test]
    fn a_claim_uses_the_class_that_it_has_as_well_as_the_one_that_it_wants() {
        let claim =
            object!({ "spec": { "volumeAttributesClassName": "gold" }, "status": { "currentVolumeAttributesClassName": "silver" } });
        assert_eq!(attributes_classes(&claim).collect::<Vec<_>>(), ["gold", "silver"]);
    }

    /// A pod of a node, as it is when it is to go after so many seconds.
    fn pod(node: &str, grace: Option<i64>) -> Value {
        let volumes = object!([{ "name": "a", "persistentVolumeClaim": { "claimName": "data" } },
            { "name": "b", "ephemeral": { "volumeClaimTemplate": {} } }, { "name": "c", "emptyDir": {} }]);
        let mut pod = object!({ "metadata": { "name": "p", "namespace": "ns", "uid": "u" }, "spec": { "nodeName": node, "volumes": volumes },
            "status": { "phase": "Succeeded" } });
        if let Some(grace) = grace {
            pod.set(&["metadata", "deletionTimestamp"], "2026-01-01T00:00:00Z");
            pod.set(&["metadata", "deletionGracePeriodSeconds"], grace);
        }
        pod
    }

    #[test]
    fn a_pod_that_has_ended_still_uses_its_claims_and_one_that_is_shut_down_no_ephemeral_ones() {
        let claim = |name: &str, owner: &str| object!({ "metadata": { "name": name, "namespace": "ns", "ownerReferences": [{ "uid": owner, "controller": true }] } });
        let claims = [claim("data", "x"), claim("p-b", "u"), claim("p-b", "x")];
        let used = |pod: Value| claims.each_ref().map(|claim| uses_of(&pod).any(|u| u.is_of(claim)));
        assert_eq!(used(pod("n", None)), [true, true, false]);
        assert_eq!(used(pod("n", Some(30))), [true, true, false]);
        assert_eq!(used(pod("n", Some(0))), [true, false, false]);
        assert_eq!(used(pod("", None)), [false, false, false]);
        let look = Look { revision: 1, at: Instant::now(), uses: uses_of(&pod("n", None)).collect() };
        assert_eq!(claims.each_ref().map(|claim| look.shows_use(claim)), [true, true, false]);
    }

    #[test]
    fn a_pod_sets_claims_free_when_it_goes_and_when_it_is_shut_down() {
        let keys = |old: Option<Value>, new: Option<Value>| set_free(&Delta { old: old.map(Arc::new), new: new.map(Arc::new) }).join(" ");
        let mut other = pod("n", None);
        other.set(&["metadata", "uid"], "other");
        assert_eq!(keys(Some(pod("n", None)), None), "ns/data ns/p-b");
        assert_eq!(keys(Some(pod("n", None)), Some(other)), "ns/data ns/p-b");
        assert_eq!(keys(Some(pod("n", Some(30))), Some(pod("n", Some(0)))), "ns/data ns/p-b");
        assert_eq!(keys(Some(pod("n", None)), Some(pod("n", Some(30)))), "");
        assert_eq!(keys(None, Some(pod("n", None))), "");
    }
}
