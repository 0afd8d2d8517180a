//! Claims of embedded storage that ask for more: a directory has no size of its own, so the volume and the claim say the new one
//! at once. What other provisioners made is theirs to expand.

mod plan;

use fram_client::local_path::PROVISIONER;
use fram_client::resources::{PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, STORAGE_CLASSES};
use fram_client::{Action, Client, Controller, EventRecorder, Informer, PatchKind};
use fram_machinery::{Reason, Status, Value, meta, object};

use crate::Context;
use plan::{Step, plan};

pub(crate) fn start(context: &Context) {
    let get = |resource| context.informers.get(resource);
    let expander = Expander {
        client: context.client("expand-controller"),
        claims: get(&PERSISTENT_VOLUME_CLAIMS),
        volumes: get(&PERSISTENT_VOLUMES),
        classes: get(&STORAGE_CLASSES),
        events: context.recorder("expand-controller", "volume_expand"),
    };
    let controller = Controller::new("volume_expand", 2).owns(&expander.claims).watches(&expander.volumes, |volume| {
        let claim = |field| volume.str_at(&["spec", "claimRef", field]);
        vec![format!("{}/{}", claim("namespace"), claim("name"))]
    });
    context.run(controller, expander, |e, key| async move { e.reconcile(&key).await });
}

struct Expander {
    client: Client,
    claims: Informer,
    volumes: Informer,
    classes: Informer,
    events: EventRecorder,
}

impl Expander {
    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let Some(claim) = self.claims.get(key).filter(|c| fram_api::storage::is_bound(c)) else { return Ok(Action::Done) };
        let Some(volume) = self.volumes.get(claim.str_at(&["spec", "volumeName"])) else { return Ok(Action::Done) };
        let class = self.classes.get(fram_api::storage::class(&claim));
        let mine = meta::annotation(&volume, fram_api::storage::PROVISIONED_BY) == Some(PROVISIONER);
        let allowed = class.is_some_and(|c| c.bool_at(&["allowVolumeExpansion"]) == Some(true));
        if !mine || !allowed || !fram_api::storage::is_for(&volume, &claim) {
            return Ok(Action::Done);
        }
        match plan(&claim, &volume) {
            Step::Nothing => {}
            // Its change comes back to the claim.
            Step::Volume(size) => {
                let body = object!({ "metadata": { "uid": (meta::uid(&volume)) }, "spec": { "capacity": { "storage": size } } });
                let patched = self.client.all(&PERSISTENT_VOLUMES).patch(meta::name(&volume), "", PatchKind::Merge, body).await;
                unless_it_changed(patched)?;
            }
            Step::Claim(status) => {
                let mut changed = (*claim).clone();
                changed.set(&["status"], status);
                let claims = self.client.within(&PERSISTENT_VOLUME_CLAIMS, meta::namespace(&claim));
                if unless_it_changed(claims.update_status(changed).await)? {
                    self.events.event(&claim, false, "VolumeResizeSuccessful", format!("ExpandVolume succeeded for volume {key}"));
                }
            }
        }
        Ok(Action::Done)
    }
}

/// False where somebody else changed the object, which causes another round, or it is gone.
#[allow(clippy::result_large_err, reason = "the client's calls fail with a Status, and this passes one on")]
fn unless_it_changed(result: Result<std::sync::Arc<Value>, Status>) -> Result<bool, Status> {
    match result {
        Ok(_) => Ok(true),
        Err(status) if matches!(status.reason, Reason::NotFound | Reason::Conflict) => Ok(false),
        Err(status) => Err(status),
    }
}
