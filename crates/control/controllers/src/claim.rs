//! Carries out claims: adopts orphans and releases strays, of whatever kind.

use std::sync::Arc;

use fram_client::{Client, PatchKind, Resource};
use fram_machinery::{Reason, Status, Value, meta, object};

use crate::objects::Objects;

/// Adopts for an owner that still exists and is not ending, as the server says: adopting for one that is gone would leave the
/// object to the garbage collector.
pub(crate) async fn adopt(
    objects: &Objects,
    client: &Client,
    resource: &Resource,
    owner: &Value,
    orphans: &[Arc<Value>],
) -> Result<(), Status> {
    if orphans.is_empty() {
        return Ok(());
    }
    let fresh = client.within(resource, meta::namespace(owner)).get(meta::name(owner)).await?;
    if meta::uid(&fresh) != meta::uid(owner) || meta::is_terminating(&fresh) {
        return Err(Status::new(Reason::Conflict, format!("{} has just been deleted or replaced", meta::key(owner))));
    }
    for orphan in orphans {
        let patch = object!({ "metadata": { "uid": (meta::uid(orphan)), "ownerReferences": [(meta::controller_reference(owner))] } });
        tolerate(objects.patch(orphan, "", PatchKind::Strategic, patch).await)?;
    }
    Ok(())
}

pub(crate) async fn release(objects: &Objects, owner: &Value, strays: &[Arc<Value>]) -> Result<(), Status> {
    for stray in strays {
        let patch =
            object!({ "metadata": { "uid": (meta::uid(stray)), "ownerReferences": [{ "$patch": "delete", "uid": (meta::uid(owner)) }] } });
        tolerate(objects.patch(stray, "", PatchKind::Strategic, patch).await)?;
    }
    Ok(())
}

/// An object that is gone, replaced or has another owner is no longer to be claimed.
fn tolerate(result: Result<Arc<Value>, Status>) -> Result<(), Status> {
    match result {
        Err(error) if !matches!(error.reason, Reason::NotFound | Reason::Conflict | Reason::Invalid) => Err(error),
        _ => Ok(()),
    }
}
