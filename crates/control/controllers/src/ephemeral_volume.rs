//! Makes the PersistentVolumeClaims of pods' generic ephemeral volumes; see KEP-1698.

use std::sync::Arc;

use fram_client::resources::{PERSISTENT_VOLUME_CLAIMS, PODS};
use fram_client::{Action, Client, Controller, EventRecorder};
use fram_machinery::{Reason, Status, Value, meta, object};

use crate::{Context, Metrics};

pub(crate) fn start(context: &Context) {
    let (pods, claims) = (context.informers.get(&PODS), context.informers.get(&PERSISTENT_VOLUME_CLAIMS));
    let client = context.client("ephemeral-volume-controller");
    let events = context.recorder("ephemeral-volume-controller", "ephemeral_volume");
    let (known, metrics) = (pods.clone(), context.metrics.clone());
    let controller = Controller::new("ephemeral-volume", 2)
        .watches_deltas(&pods, |delta| {
            let new = delta.new.as_deref().is_some_and(|p| ephemeral(p).next().is_some());
            if new && delta.old.is_none() { vec![delta.key()] } else { Vec::new() }
        })
        .watches_deltas(&claims, move |delta| {
            // A claim that goes while its pod is there is made again.
            if delta.new.is_some() {
                return Vec::new();
            }
            let pod = meta::controller_of(delta.object()).filter(|o| o.str_at(&["kind"]) == "Pod");
            let pod = pod.and_then(|o| known.get_in(meta::namespace(delta.object()), o.str_at(&["name"])));
            pod.map(|p| meta::key(&p)).into_iter().collect()
        });
    context.run(controller, (client, pods, claims, events, metrics), |context, key| async move {
        let (client, pods, claims, events, metrics) = &*context;
        let Some(pod) = pods.get(&key).filter(|p| crate::pods::is_active(p)) else { return Ok(Action::Done) };
        for volume in ephemeral(&pod) {
            let claim = claim(&pod, volume);
            let existing = claims.get_in(meta::namespace(&pod), meta::name(&claim));
            make((client, events, metrics), &pod, claim, existing).await?;
        }
        Ok(Action::Done)
    });
}

fn ephemeral(pod: &Value) -> impl Iterator<Item = &Value> {
    pod.list_at(&["spec", "volumes"]).iter().filter(|v| v.at(&["ephemeral", "volumeClaimTemplate"]).is_some())
}

fn claim(pod: &Value, volume: &Value) -> Value {
    let template = volume.at(&["ephemeral", "volumeClaimTemplate"]).cloned().unwrap_or_default();
    let mut claim = object!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": { "name": (format!("{}-{}", meta::name(pod), volume.str_at(&["name"]))), "namespace": (meta::namespace(pod)) } });
    for field in ["labels", "annotations"] {
        if let Some(value) = template.at(&["metadata", field]).filter(|v| !v.is_empty()) {
            claim.set(&["metadata", field], value.clone());
        }
    }
    let owner = object!({ "apiVersion": "v1", "kind": "Pod", "name": (meta::name(pod)), "uid": (meta::uid(pod)), "controller": true, "blockOwnerDeletion": true });
    claim.set(&["metadata", "ownerReferences"], vec![owner]);
    claim.set(&["spec"], template.get("spec").cloned());
    claim
}

async fn make(
    (client, events, metrics): (&Client, &EventRecorder, &Metrics),
    pod: &Value,
    claim: Value,
    existing: Option<Arc<Value>>,
) -> Result<(), Status> {
    if let Some(existing) = existing {
        if meta::controller_of(&existing).is_some_and(|o| o.str_at(&["uid"]) == meta::uid(pod)) {
            return Ok(());
        }
        let about = format!("PVC {} was not created for pod {} (pod is not owner)", meta::key(&existing), meta::key(pod));
        events.event(pod, true, "ClaimNotOwned", about.clone());
        return Err(Status::new(Reason::Conflict, about));
    }
    let made = client.within(&PERSISTENT_VOLUME_CLAIMS, meta::namespace(pod)).create(claim).await;
    metrics.others.volume_claim(made.is_ok());
    match made {
        Err(status) if !matches!(status.reason, Reason::AlreadyExists) => {
            events.event(pod, true, "FailedCreate", format!("ephemeral volume claim: {}", status.message));
            Err(status)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_has_the_pods_and_the_volumes_name_and_the_pod_as_owner() {
        let pod = object!({ "metadata": { "name": "p", "namespace": "ns", "uid": "u" }, "spec": { "volumes": [
            { "name": "v", "ephemeral": { "volumeClaimTemplate": { "metadata": { "labels": { "a": "b" } }, "spec": { "x": 1 } } } }, { "name": "w", "emptyDir": {} }] } });
        let claims: Vec<Value> = ephemeral(&pod).map(|v| claim(&pod, v)).collect();
        assert_eq!((claims.len(), meta::name(&claims[0]), meta::label(&claims[0], "a")), (1, "p-v", Some("b")));
        assert_eq!(meta::controller_of(&claims[0]).unwrap().str_at(&["uid"]), "u");
    }
}
