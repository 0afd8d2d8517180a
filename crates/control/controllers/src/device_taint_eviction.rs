//! Device taint eviction: pods leave devices whose NoExecute taints their claims do not tolerate, or no longer. See KEP-5055.

mod plan;

use std::sync::Arc;

use fram_client::resources::{PODS, RESOURCE_CLAIMS, RESOURCE_SLICES};
use fram_client::{Action, Client, Controller, DeleteOptions, EventRecorder, Informer, Preconditions};
use fram_machinery::{Status, Value, meta};
use jiff::Timestamp;

use crate::objects::settled;
use crate::taint_eviction::disrupt;
use crate::{Context, pods};

pub(crate) fn start(context: &Context) {
    let reconciler = Reconciler {
        client: context.client("device-taint-eviction-controller"),
        pods: context.informers.get(&PODS),
        claims: context.informers.get(&RESOURCE_CLAIMS),
        slices: context.informers.get(&RESOURCE_SLICES),
        events: context.recorder("device-taint-eviction-controller", "device-taint-eviction"),
        now: context.now.clone(),
    };
    let claims = reconciler.claims.clone();
    let controller = Controller::new("device-taint-eviction", 2)
        .needs(&reconciler.pods)
        .watches_deltas(&reconciler.claims, |delta| {
            let part = |c: &Value| (c.at(&["status", "allocation"]).cloned(), c.at(&["status", "reservedFor"]).cloned());
            let same = matches!((&delta.old, &delta.new), (Some(old), Some(new)) if part(old) == part(new));
            if same || delta.new.is_none() { Vec::new() } else { vec![delta.key()] }
        })
        .watches_deltas(&reconciler.slices, move |delta| {
            let taints = |s: &Option<Arc<Value>>| s.as_deref().map(plan::evicting).unwrap_or_default();
            if taints(&delta.old) == taints(&delta.new) {
                return Vec::new();
            }
            let slice = delta.object();
            claims.list().iter().filter(|c| plan::is_from(c, slice)).map(|c| meta::key(c)).collect()
        });
    context.run(controller, reconciler, |r, key| async move { r.reconcile(&key).await });
}

struct Reconciler {
    client: Client,
    pods: Informer,
    claims: Informer,
    slices: Informer,
    events: EventRecorder,
    now: crate::Clock,
}

impl Reconciler {
    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let Some(claim) = self.claims.get(key) else { return Ok(Action::Done) };
        if claim.list_at(&["status", "allocation", "devices", "results"]).is_empty() {
            return Ok(Action::Done);
        }
        let (slices, now) = (self.slices.list(), (self.now)());
        match plan::due(&claim, &slices, now) {
            None => Ok(Action::Done),
            Some(due) if due > now => Ok(Action::After(due.duration_since(now).try_into().unwrap_or_default())),
            Some(_) => {
                for user in claim.list_at(&["status", "reservedFor"]).iter().filter(|u| u.str_at(&["resource"]) == "pods") {
                    let pod = self.pods.get_in(meta::namespace(&claim), user.str_at(&["name"]));
                    if let Some(pod) = pod.filter(|p| meta::uid(p) == user.str_at(&["uid"]) && pods::is_active(p)) {
                        self.evict(&pod, now).await?;
                    }
                }
                Ok(Action::Done)
            }
        }
    }

    async fn evict(&self, pod: &Value, now: Timestamp) -> Result<(), Status> {
        let message = "Device Taint manager: deleting due to NoExecute taint";
        disrupt(&self.client, pod, "DeletionByDeviceTaintManager", message, None, now).await?;
        self.events.event(pod, false, "DeviceTaintManagerEviction", "Marking for deletion");
        let preconditions = Preconditions { uid: Some(meta::uid(pod).into()), resource_version: None };
        let options = DeleteOptions { preconditions, ..Default::default() };
        settled(self.client.within(&PODS, meta::namespace(pod)).delete(meta::name(pod), options).await)?;
        Ok(())
    }
}
