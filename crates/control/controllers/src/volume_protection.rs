//! PersistentVolumeClaims that a pod uses, and PersistentVolumes that are bound, do not go away: a finalizer holds them; see
//! StorageObjectInUseProtection.

use std::sync::Arc;

use fram_client::resources::{PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS};
use fram_client::{Action, Client, Controller, Informer, Resource};
use fram_machinery::{Reason, Status, Value, meta};

use crate::{Context, pods};

const OF_CLAIMS: &str = "kubernetes.io/pvc-protection";
const OF_VOLUMES: &str = "kubernetes.io/pv-protection";

pub(crate) fn start(context: &Context) {
    let (claims, all) = (context.informers.get(&PERSISTENT_VOLUME_CLAIMS), context.informers.get(&PODS));
    let client = context.client("pvc-protection-controller");
    let controller = Controller::new("persistentvolumeclaim-protection", 2).owns(&claims).watches_deltas(&all, |delta| {
        // Only a pod that comes to its end can set a claim free.
        if delta.new.as_deref().is_some_and(|p| !pods::has_ended(p)) { Vec::new() } else { claims_of(delta.object()) }
    });
    context.run(controller, (client, claims, all), |context, key| async move {
        let (client, claims, all) = &*context;
        let Some(claim) = claims.get(&key) else { return Ok(Action::Done) };
        let used = || is_used(&claim, all);
        protect(client, &PERSISTENT_VOLUME_CLAIMS, &claim, OF_CLAIMS, used).await
    });

    let volumes = context.informers.get(&PERSISTENT_VOLUMES);
    let client = context.client("pv-protection-controller");
    let controller = Controller::new("persistentvolume-protection", 2).owns(&volumes);
    context.run(controller, (client, volumes), |context, key| async move {
        let (client, volumes) = &*context;
        let Some(volume) = volumes.get(&key) else { return Ok(Action::Done) };
        let used = || volume.str_at(&["status", "phase"]) == "Bound";
        protect(client, &PERSISTENT_VOLUMES, &volume, OF_VOLUMES, used).await
    });
}

/// Keys of the claims that a pod names, its ephemeral ones too.
fn claims_of(pod: &Value) -> Vec<String> {
    let names = fram_api::storage::claims_of(pod);
    names.map(|n| format!("{}/{n}", meta::namespace(pod))).collect()
}

/// A pod uses a claim from when it has a node until it has ended.
fn is_used(claim: &Value, all: &Informer) -> bool {
    let key = meta::key(claim);
    let uses = |p: &Arc<Value>| !p.str_at(&["spec", "nodeName"]).is_empty() && !pods::has_ended(p) && claims_of(p).contains(&key);
    all.by_namespace(meta::namespace(claim)).iter().any(uses)
}

async fn protect(client: &Client, resource: &Resource, object: &Value, finalizer: &str, used: impl Fn() -> bool) -> Result<Action, Status> {
    let (ending, held) = (meta::is_terminating(object), meta::has_finalizer(object, finalizer));
    let mut changed = object.clone();
    match (ending, held) {
        (true, true) if !used() => meta::remove_finalizer(&mut changed, finalizer),
        (false, false) => meta::add_finalizer(&mut changed, finalizer),
        _ => return Ok(Action::Done),
    }
    match client.within(resource, meta::namespace(object)).update(changed).await {
        // Whoever changed it brings it back here.
        Err(status) if !matches!(status.reason, Reason::NotFound | Reason::Conflict) => Err(status),
        _ => Ok(Action::Done),
    }
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    #[test]
    fn a_pod_names_its_claims_and_its_ephemeral_ones() {
        let pod = object!({ "metadata": { "name": "p", "namespace": "ns" }, "spec": { "volumes": [
            { "name": "a", "persistentVolumeClaim": { "claimName": "data" } }, { "name": "b", "ephemeral": { "volumeClaimTemplate": {} } }, { "name": "c", "emptyDir": {} }] } });
        assert_eq!(claims_of(&pod), ["ns/data", "ns/p-b"]);
    }
}
