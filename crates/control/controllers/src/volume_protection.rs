//! PersistentVolumeClaims that a pod uses, PersistentVolumes that are bound, and VolumeAttributesClasses that either names do not
//! go away: a finalizer holds them; see StorageObjectInUseProtection.

use std::sync::Arc;

use fram_api::quota::attributes_classes;
use fram_client::resources::{PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS, VOLUME_ATTRIBUTES_CLASSES};
use fram_client::{Action, Client, Controller, Resource};
use fram_machinery::{Status, Value, meta};

use crate::Context;
use crate::objects::unless_it_changed;

const OF_CLAIMS: &str = "kubernetes.io/pvc-protection";
const OF_VOLUMES: &str = "kubernetes.io/pv-protection";
const OF_CLASSES: &str = "kubernetes.io/vac-protection";

pub(crate) fn start_for_claims(context: &Context) {
    let (claims, all) = (context.informers.get(&PERSISTENT_VOLUME_CLAIMS), context.informers.get(&PODS));
    let client = context.client("pvc-protection-controller");
    let controller = Controller::new("persistentvolumeclaim-protection", 2).owns(&claims).watches_deltas(&all, |delta| {
        // Only a pod that goes can set a claim free; another one may have its name by now.
        let (old, new) = (delta.old.as_deref(), delta.new.as_deref());
        old.filter(|old| new.is_none_or(|new| meta::uid(new) != meta::uid(old))).map(claims_of).unwrap_or_default()
    });
    context.run(controller, (client, claims, all), |context, key| async move {
        let (client, claims, all) = &*context;
        let Some(claim) = claims.get(&key) else { return Ok(Action::Done) };
        let namespace = meta::namespace(&claim);
        let mut used = meta::is_terminating(&claim) && is_used(&claim, &all.by_namespace(namespace));
        if meta::is_terminating(&claim) && meta::has_finalizer(&claim, OF_CLAIMS) && !used {
            // The cache may not have the pod yet that uses it.
            used = is_used(&claim, &client.within(&PODS, namespace).list(Default::default()).await?.items);
        }
        protect(client, &PERSISTENT_VOLUME_CLAIMS, &claim, OF_CLAIMS, || used).await
    });
}

pub(crate) fn start_for_volumes(context: &Context) {
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

pub(crate) fn start_for_classes(context: &Context) {
    let informers = &context.informers;
    let (classes, volumes) = (informers.get(&VOLUME_ATTRIBUTES_CLASSES), informers.get(&PERSISTENT_VOLUMES));
    let claims = informers.get(&PERSISTENT_VOLUME_CLAIMS);
    let client = context.client("volumeattributesclass-protection-controller");
    // What named a class before a change may have set it free.
    let named = |delta: &fram_client::Delta| {
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
        let used = || volumes.list().iter().any(names) || claims.list().iter().any(names);
        protect(client, &VOLUME_ATTRIBUTES_CLASSES, &class, OF_CLASSES, used).await
    });
}

/// Keys of the claims that a pod names, its ephemeral ones too.
fn claims_of(pod: &Value) -> Vec<String> {
    let names = fram_api::storage::claims_of(pod);
    names.map(|n| format!("{}/{n}", meta::namespace(pod))).collect()
}

/// A pod uses a claim from when it has a node until it is gone.
fn is_used(claim: &Value, all: &[Arc<Value>]) -> bool {
    let key = meta::key(claim);
    all.iter().any(|p| !p.str_at(&["spec", "nodeName"]).is_empty() && claims_of(p).contains(&key))
}

/// Holds an object by a finalizer until it is to go and nobody uses it.
pub(crate) async fn protect(
    client: &Client,
    resource: &Resource,
    object: &Value,
    finalizer: &str,
    used: impl Fn() -> bool,
) -> Result<Action, Status> {
    let (ending, held) = (meta::is_terminating(object), meta::has_finalizer(object, finalizer));
    let mut changed = object.clone();
    match (ending, held) {
        (true, true) if !used() => meta::remove_finalizer(&mut changed, finalizer),
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

    #[test]
    fn a_pod_that_has_ended_still_uses_its_claim() {
        let pod = |node: &str, phase: &str| {
            let volume = object!({ "name": "a", "persistentVolumeClaim": { "claimName": "data" } });
            Arc::new(object!({ "metadata": { "name": "p", "namespace": "ns" }, "spec": { "nodeName": node, "volumes": [volume] },
                "status": { "phase": phase } }))
        };
        let claim = object!({ "metadata": { "name": "data", "namespace": "ns" } });
        let used = |node: &str, phase: &str| is_used(&claim, &[pod(node, phase)]);
        assert_eq!([used("n", "Running"), used("n", "Succeeded"), used("", "Pending")], [true, true, false]);
    }

    #[test]
    fn a_pod_names_its_claims_and_its_ephemeral_ones() {
        let pod = object!({ "metadata": { "name": "p", "namespace": "ns" }, "spec": { "volumes": [
            { "name": "a", "persistentVolumeClaim": { "claimName": "data" } }, { "name": "b", "ephemeral": { "volumeClaimTemplate": {} } }, { "name": "c", "emptyDir": {} }] } });
        assert_eq!(claims_of(&pod), ["ns/data", "ns/p-b"]);
    }
}
