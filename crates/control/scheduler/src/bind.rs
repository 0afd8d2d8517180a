//! Binds a pod to its node: its claims first, then the pod itself. See upstream's VolumeBinding.PreBind.

pub(crate) mod devices;

use std::collections::HashMap;
use std::time::Duration;

use fram_api::storage::{self, BOUND_BY_CONTROLLER, SELECTED_NODE};
use fram_client::resources::{PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS};
use fram_client::{Client, Informer, PatchKind};
use fram_machinery::{Reason, Status, Value, meta, object};

use crate::pod::Pod;
use crate::storage::Step;

/// Posts the Binding.
pub(crate) async fn bind(client: &Client, pod: &Pod, node: &str) -> Result<(), Status> {
    let (namespace, name) = (meta::namespace(&pod.object), meta::name(&pod.object));
    let binding = object!({
        "apiVersion": "v1", "kind": "Binding", "metadata": { "name": name, "namespace": namespace, "uid": (&*pod.uid) },
        "target": { "apiVersion": "v1", "kind": "Node", "name": node }
    });
    client.within(&PODS, namespace).create_subresource(name, "binding", binding).await.map(drop)
}

/// Says on a pod that what is made ready for it meanwhile is for this node, which autoscalers of clusters go by (KEP-5278). It is bound all
/// the same where that cannot be said.
pub(crate) async fn announce(client: &Client, pod: &Pod, node: &str) {
    if pod.object.str_at(&["status", "nominatedNodeName"]) == node {
        return;
    }
    let patch = object!({ "metadata": { "uid": (&*pod.uid) }, "status": { "nominatedNodeName": node } });
    let said = client.within(&PODS, pod.namespace()).patch(meta::name(&pod.object), "status", PatchKind::Strategic, patch).await;
    if let Err(status) = said {
        tracing::warn!(pod = pod.key, node, %status, "cannot say for which node a pod is made ready");
    }
}

/// Carries out the steps and waits until each claim has its volume, not longer than this.
pub(crate) async fn bind_claims(client: &Client, claims: &Informer, node: &str, steps: &[Step], patience: Duration) -> Result<(), Status> {
    if steps.is_empty() {
        return Ok(());
    }
    // Subscribed before anything is written, so that no binding is missed.
    let mut changes = claims.subscribe();
    for step in steps {
        carry_out(client, step, node).await?;
    }
    let mut waiting: HashMap<String, &str> = steps.iter().map(|s| (meta::key(claim(s)), meta::uid(claim(s)))).collect();
    let bound = async {
        loop {
            for (key, uid) in waiting.clone() {
                let found = claims.get(&key).filter(|c| meta::uid(c) == uid);
                let Some(claim) = found else { return Err(Status::new(Reason::Conflict, format!("claim {key} is gone"))) };
                if storage::is_bound(&claim) {
                    waiting.remove(&key);
                } else if meta::annotation(&claim, SELECTED_NODE).is_some_and(|n| n != node) {
                    return Err(Status::new(Reason::Conflict, format!("claim {key} was given to another node")));
                }
            }
            if waiting.is_empty() {
                return Ok(());
            }
            if changes.changed().await.is_none() {
                return Err(Status::new(Reason::ServiceUnavailable, "the scheduler stops"));
            }
        }
    };
    let late = |_| Status::new(Reason::Timeout, "timed out waiting for the pod's volumes to be bound");
    tokio::time::timeout(patience, bound).await.map_err(late)?
}

fn claim(step: &Step) -> &Value {
    match step {
        Step::Take { claim, .. } | Step::Provision { claim } => claim,
    }
}

async fn carry_out(client: &Client, step: &Step, node: &str) -> Result<(), Status> {
    match step {
        Step::Provision { claim } if meta::annotation(claim, SELECTED_NODE) == Some(node) => Ok(()),
        Step::Provision { claim } => {
            let mut patch = object!({ "metadata": { "uid": (meta::uid(claim)), "annotations": {} } });
            patch.place(&["metadata", "annotations"]).make_map().insert(SELECTED_NODE, node);
            let claims = client.within(&PERSISTENT_VOLUME_CLAIMS, meta::namespace(claim));
            claims.patch(meta::name(claim), "", PatchKind::Merge, patch).await.map(drop)
        }
        Step::Take { claim, volume } => {
            if storage::claim_reference(volume).is_some_and(|r| r.str_at(&["uid"]) == meta::uid(claim)) {
                return Ok(());
            }
            let mut volume = (**volume).clone();
            meta::set_annotation(&mut volume, BOUND_BY_CONTROLLER, "yes");
            let reference = object!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": (meta::namespace(claim)),
                "name": (meta::name(claim)), "uid": (meta::uid(claim)), "resourceVersion": (meta::resource_version(claim)) });
            volume.set(&["spec", "claimRef"], reference);
            client.all(&PERSISTENT_VOLUMES).update(volume).await.map(drop)
        }
    }
}
