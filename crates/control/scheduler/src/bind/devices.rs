//! The pod's claims of devices are made, written and waited for before it is bound, and given up where it is not. See upstream's
//! DynamicResources.PreBind and Unreserve.

use std::time::Duration;

use fram_api::devices::CLAIM_FINALIZER;
use fram_client::resources::{PODS, RESOURCE_CLAIMS};
use fram_client::{Client, DeleteOptions, Informer, PatchKind, Preconditions};
use fram_machinery::{Reason, Status, Value, meta, object};

use crate::devices::extended::{self, is_unmade};
use crate::devices::readiness::{Readiness, has_conditions, readiness};
use crate::devices::{Allocation, Release, reservation};
use crate::pod::Pod;
use crate::run::SchedulerConfig;

/// Writes into the pod's claims what devices they have and that the pod uses them, and waits until those are ready that say when they
/// are, not longer than this.
pub(crate) async fn prepare_devices(
    config: &SchedulerConfig,
    claims: &Informer,
    (pod, node): (&Pod, &str),
    allocations: &[Allocation],
    patience: Duration,
) -> Result<(), Status> {
    // Subscribed before anything is written, so that no change is missed.
    let mut changes = claims.subscribe();
    let mut waiting = Vec::new();
    for allocation in allocations {
        let claim = reserve(config, pod, allocation).await?;
        if has_conditions(&claim) {
            waiting.push((meta::key(&claim), meta::uid(&claim).to_string()));
        }
    }
    if waiting.is_empty() {
        return Ok(());
    }
    let message = format!("waiting for binding conditions for device on node {node}");
    config.events.event(&pod.object, false, "BindingConditionsPending", message);
    let ready = async {
        loop {
            let mut left = Vec::new();
            for (key, uid) in waiting {
                // The cache may not have seen yet what was written.
                match claims.get(&key).filter(|claim| meta::uid(claim) == uid).map(|claim| readiness(&claim)) {
                    Some(Readiness::Failed(why)) => return Err(Status::new(Reason::Conflict, why)),
                    Some(Readiness::Ready) => {}
                    Some(Readiness::Waiting) | None => left.push((key, uid)),
                }
            }
            if left.is_empty() {
                return Ok(());
            }
            waiting = left;
            if changes.changed().await.is_none() {
                return Err(Status::new(Reason::ServiceUnavailable, "the scheduler stops"));
            }
        }
    };
    let late = |_| Status::new(Reason::Timeout, "device binding timeout");
    tokio::time::timeout(patience, ready).await.map_err(late)?
}

/// Writes one claim, which is made where it is not there; gives it as it is then.
async fn reserve(config: &SchedulerConfig, pod: &Pod, allocation: &Allocation) -> Result<Value, Status> {
    let Allocation { claim, devices, mappings } = allocation;
    let used = claim.list_at(&["status", "reservedFor"]).iter().any(|user| user.str_at(&["uid"]) == &*pod.uid);
    if devices.is_none() && used {
        return Ok((**claim).clone());
    }
    let claims = config.client.within(&RESOURCE_CLAIMS, meta::namespace(claim));
    let mut current = claim.clone();
    if is_unmade(claim) {
        let mut new = extended::to_be_made(claim);
        new.set(&["metadata", "finalizers"], object!([CLAIM_FINALIZER]));
        current = claims.create(new).await?;
    } else if devices.is_some() && !meta::has_finalizer(claim, CLAIM_FINALIZER) {
        // Without it devices could be forgotten that are in use.
        let patch = object!({ "metadata": { "uid": (meta::uid(claim)), "finalizers": [CLAIM_FINALIZER] } });
        current = claims.patch(meta::name(claim), "", PatchKind::Strategic, patch).await?;
    }
    let patch = reservation(pod, &current, devices.as_ref(), &(config.now)());
    let current = claims.patch(meta::name(&current), "status", PatchKind::Strategic, patch).await?;
    if is_unmade(claim) {
        let patch = object!({ "metadata": { "uid": (&*pod.uid) }, "status": (extended::status(&current, mappings)) });
        config.client.within(&PODS, pod.namespace()).patch(meta::name(&pod.object), "status", PatchKind::Strategic, patch).await?;
    }
    Ok((*current).clone())
}

/// A pod that was not bound uses its claims no more; the one that was made for it goes.
pub(crate) async fn unreserve(client: &Client, claims: &Informer, pod: &Pod, allocations: &[Allocation]) {
    // It may be bound although nobody has heard so.
    match client.within(&PODS, pod.namespace()).get(meta::name(&pod.object)).await {
        Ok(there) if meta::uid(&there) == &*pod.uid && !there.str_at(&["spec", "nodeName"]).is_empty() => return,
        Err(status) if !status.is(Reason::NotFound) => return,
        _ => {}
    }
    for Allocation { claim, .. } in allocations {
        if is_unmade(claim) {
            let made = claims.by_index(fram_client::OWNER_INDEX, &pod.uid);
            for claim in made.into_iter().filter(|claim| extended::is_for(claim, &pod.uid)) {
                carry_out_release(client, &Release::Delete(claim)).await;
            }
            continue;
        }
        let patch = object!({ "metadata": { "uid": (meta::uid(claim)) },
            "status": { "reservedFor": [{ "$patch": "delete", "uid": (&*pod.uid) }] } });
        let patched =
            client.within(&RESOURCE_CLAIMS, pod.namespace()).patch(meta::name(claim), "status", PatchKind::Strategic, patch).await;
        tell(claim, "given up", patched.map(drop));
    }
}

/// Deletes a claim, or takes its devices back.
pub(crate) async fn carry_out_release(client: &Client, release: &Release) {
    match release {
        Release::Delete(claim) => {
            let claims = client.within(&RESOURCE_CLAIMS, meta::namespace(claim));
            let mut free = (**claim).clone();
            meta::remove_finalizer(&mut free, CLAIM_FINALIZER);
            let freed = match meta::has_finalizer(claim, CLAIM_FINALIZER) {
                true => claims.update(free).await.map(drop),
                false => Ok(()),
            };
            let preconditions = Preconditions { uid: Some(meta::uid(claim).to_string()), resource_version: None };
            let deleted = match freed {
                Ok(()) => claims.delete(meta::name(claim), DeleteOptions { preconditions, ..Default::default() }).await.map(drop),
                Err(status) => Err(status),
            };
            tell(claim, "deleted", deleted);
        }
        Release::Deallocate(claim) => {
            let mut idle = (**claim).clone();
            for part in ["allocation", "devices", "reservedFor"] {
                idle.remove(&["status", part]);
            }
            let updated = client.within(&RESOURCE_CLAIMS, meta::namespace(claim)).update_status(idle).await;
            tell(claim, "taken its devices from", updated.map(drop));
        }
    }
}

/// What others have done meanwhile is no fault: the pod is tried again and sees it.
fn tell(claim: &Value, what: &str, done: Result<(), Status>) {
    match done {
        Err(status) if !matches!(status.reason, Reason::NotFound | Reason::Conflict) => {
            tracing::warn!(claim = meta::key(claim), %status, "a claim could not be {what}");
        }
        _ => {}
    }
}
