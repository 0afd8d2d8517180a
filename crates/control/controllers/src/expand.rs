//! Claims of embedded storage that ask for more: a directory has no size of its own, so the volume and the claim say the new one
//! at once. What other provisioners made is theirs to expand.

mod plan;

use fram_client::local_path::PROVISIONER;
use fram_client::resources::{PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, STORAGE_CLASSES};
use fram_client::{Action, Client, Controller, EventRecorder, Informer, PatchKind};
use fram_machinery::{Status, Value, meta, object};

use crate::Context;
use crate::objects::unless_it_changed;
use plan::{Step, plan};

pub(crate) fn start(context: &Context) {
    let get = |resource: &fram_client::Resource| context.informers.get(resource);
    let classes = get(&STORAGE_CLASSES);
    let expander = Expander {
        client: context.client("expand-controller"),
        claims: get(&PERSISTENT_VOLUME_CLAIMS),
        volumes: get(&PERSISTENT_VOLUMES),
        classes: classes.clone(),
        events: context.recorder("expand-controller", "volume_expand"),
    };
    let of_class = expander.claims.clone();
    // A class may come to allow it.
    let allowed = move |class: &Value| {
        let claims = of_class.list().into_iter().filter(|c| fram_api::storage::class(c) == meta::name(class));
        claims.map(|c| meta::key(&c)).collect()
    };
    let controller =
        Controller::new("volume_expand", 2).owns(&expander.claims).watches(&classes, allowed).watches(&expander.volumes, |volume| {
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
        if !fram_api::storage::is_for(&volume, &claim) {
            return Ok(Action::Done);
        }
        if !mine {
            if plan::asks_for_more(&claim) {
                let message = "waiting for an external controller to expand this PVC";
                self.events.event(&claim, false, "ExternalExpanding", message);
            }
            return Ok(Action::Done);
        }
        if !allowed {
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
                if unless_it_changed(claims.update_status(changed).await)?.is_some() {
                    self.events.event(&claim, false, "VolumeResizeSuccessful", format!("ExpandVolume succeeded for volume {key}"));
                }
            }
        }
        Ok(Action::Done)
    }
}
