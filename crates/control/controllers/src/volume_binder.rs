//! Binds PersistentVolumeClaims to PersistentVolumes that exist, and asks external provisioners for those that do not. Claims
//! whose class waits for their first consumer wait for the scheduler's choice of a node.

mod consumers;
mod plan;

use std::sync::Arc;

use fram_client::resources::{PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS, STORAGE_CLASSES};
use fram_client::{Action, Client, Controller, EventRecorder, Informer};
use fram_machinery::{Status, Value, meta, object};
use parking_lot::Mutex;

use crate::Context;
use crate::objects::{Objects, settled};
use consumers::Consumers;
use plan::Hold;

const PROVISIONERS: [&str; 2] = ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];

pub(crate) fn start(context: &Context) {
    let (claims, volumes) = (context.informers.get(&PERSISTENT_VOLUME_CLAIMS), context.informers.get(&PERSISTENT_VOLUMES));
    context.metrics.inventory.follow(&claims, &context.stop);
    context.metrics.inventory.follow(&volumes, &context.stop);
    let (classes, pods) = (context.informers.get(&STORAGE_CLASSES), context.informers.get(&PODS));
    let consumers: Arc<Mutex<Consumers>> = Arc::default();
    let client = context.client("persistent-volume-binder");
    let binder = Binder {
        client: client.clone(),
        claims: Objects::new(&client, &claims),
        volumes: Objects::new(&client, &volumes),
        cached_volumes: volumes.clone(),
        classes: classes.clone(),
        consumers: consumers.clone(),
        events: context.recorder("persistent-volume-binder", "persistentvolume-controller"),
    };
    let (of_volume, of_class) = (claims.clone(), claims.clone());
    // Keys with a namespace are claims, those without volumes. One worker: two would give one volume twice.
    let controller = Controller::new("persistentvolume-binder", 1)
        .owns(&claims)
        .owns(&volumes)
        .watches(&claims, |c| Some(c.str_at(&["spec", "volumeName"]).to_string()).filter(|n| !n.is_empty()).into_iter().collect())
        .watches(&volumes, move |volume| {
            let reference = [volume.str_at(&["spec", "claimRef", "namespace"]), volume.str_at(&["spec", "claimRef", "name"])];
            match reference[1].is_empty() {
                true => waiting(&of_volume, plan::class(volume)),
                false => vec![reference.join("/")],
            }
        })
        .watches(&classes, move |class| waiting(&of_class, meta::name(class)))
        .watches_deltas(&pods, move |delta| consumers.lock().note(delta.old.as_deref(), delta.new.as_deref()));
    context.run(controller, binder, |b, key| async move {
        match key.split_once('/') {
            Some((namespace, name)) => b.claim(namespace, name).await,
            None => b.volume(&key).await,
        }
    });
}

/// Claims of a class that have no volume yet.
fn waiting(claims: &Informer, class: &str) -> Vec<String> {
    let waits = |c: &&Arc<Value>| c.str_at(&["spec", "volumeName"]).is_empty() && plan::class(c) == class;
    claims.list().iter().filter(waits).map(|c| meta::key(c)).collect()
}

struct Binder {
    client: Client,
    claims: Objects,
    volumes: Objects,
    cached_volumes: Informer,
    classes: Informer,
    consumers: Arc<Mutex<Consumers>>,
    events: EventRecorder,
}

impl Binder {
    async fn claim(&self, namespace: &str, name: &str) -> Result<Action, Status> {
        let Some(claim) = self.claims.get(namespace, name) else { return Ok(Action::Done) };
        let named = claim.str_at(&["spec", "volumeName"]);
        if named.is_empty() {
            return self.find(&claim).await;
        }
        let bound = meta::annotation(&claim, plan::BIND_COMPLETED).is_some();
        let phase = match self.volumes.get("", named) {
            Some(volume) if plan::is_for(&volume, &claim) => return self.bind(&claim, &volume).await,
            // Somebody took the reference out of the volume of a claim that is bound: it is put back.
            Some(volume) if bound && plan::claim_reference(&volume).is_none() => return self.bind(&claim, &volume).await,
            Some(volume) if !bound && plan::claim_reference(&volume).is_none() => {
                let Some(why) = fram_api::storage::mismatch(&volume, &claim) else { return self.bind(&claim, &volume).await };
                let about = format!("Cannot bind to requested volume {named:?}: {why}");
                self.events.event(&claim, true, "VolumeMismatch", about);
                "Pending"
            }
            // It was bound, and what it was bound to is gone or another's.
            found if bound => {
                if claim.str_at(&["status", "phase"]) != "Lost" {
                    let about = match found {
                        Some(_) => ("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly"),
                        None => ("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!"),
                    };
                    self.events.event(&claim, true, about.0, about.1);
                }
                "Lost"
            }
            _ => "Pending",
        };
        self.claim_phase(&claim, phase).await
    }

    async fn find(&self, claim: &Value) -> Result<Action, Status> {
        // Volumes have no namespace.
        let volumes = self.volumes.within("").await?;
        let mut all: Vec<Arc<Value>> = self.cached_volumes.list();
        all.retain(|v| !volumes.objects.iter().any(|o| meta::name(o) == meta::name(v)));
        all.extend(volumes.objects.iter().cloned());
        let class = self.classes.get(plan::class(claim));
        let waits = class.as_ref().is_some_and(|c| fram_api::storage::waits_for_consumer(c));
        let chosen = meta::annotation(claim, plan::SELECTED_NODE).is_some();
        if waits && !chosen && !all.iter().any(|v| plan::is_for(v, claim)) {
            if let Some(pods) = self.consumers.lock().take_news(&meta::key(claim)) {
                self.events.event(claim, false, "WaitForPodScheduled", format!("waiting for {pods} to be scheduled"));
            } else if claim.str_at(&["status", "phase"]).is_empty() {
                self.events.event(claim, false, "WaitForFirstConsumer", "waiting for first consumer to be created before binding");
            }
            return self.claim_phase(claim, "Pending").await;
        }
        if waits {
            // A volume is made for the chosen node: none that is free would be on it but by chance.
            all.retain(|v| plan::is_for(v, claim));
        }
        if let Some(volume) = plan::find(claim, &all) {
            return self.bind(claim, &volume).await;
        }
        match class {
            Some(class) => self.ask_provisioner(claim, class.str_at(&["provisioner"])).await?,
            None if plan::class(claim).is_empty() => {
                let about = "no persistent volumes available for this claim and no storage class is set";
                self.events.event(claim, false, "FailedBinding", about);
            }
            None => {
                let about = format!("storageclass.storage.k8s.io {:?} not found", plan::class(claim));
                self.events.event(claim, true, "ProvisioningFailed", about);
            }
        }
        match self.claims.get(meta::namespace(claim), meta::name(claim)) {
            Some(claim) => self.claim_phase(&claim, "Pending").await,
            None => Ok(Action::Done),
        }
    }

    /// External provisioners act on claims that name them.
    async fn ask_provisioner(&self, claim: &Value, provisioner: &str) -> Result<(), Status> {
        if provisioner == "kubernetes.io/no-provisioner" || meta::annotation(claim, PROVISIONERS[0]) == Some(provisioner) {
            return Ok(());
        }
        let mut changed = claim.clone();
        PROVISIONERS.iter().for_each(|p| meta::set_annotation(&mut changed, p, provisioner));
        settled(self.claims.update(changed).await)?;
        let about = format!(
            "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
        );
        self.events.event(claim, false, "ExternalProvisioning", about);
        Ok(())
    }

    /// The volume first: a claim never names a volume that another may still take.
    async fn bind(&self, claim: &Value, volume: &Arc<Value>) -> Result<Action, Status> {
        let mut volume = volume.clone();
        if let Some(changed) = plan::bound_volume(&volume, claim) {
            volume = self.volumes.update(changed).await?;
        }
        self.volume_phase(&volume, Some(claim)).await?;
        let mut claim = Arc::new(claim.clone());
        if let Some(changed) = plan::bound_claim(&claim, &volume) {
            claim = self.claims.update(changed).await?;
        }
        settled(self.claims.write_status(&claim, plan::bound_claim_status(&claim, &volume)).await)?;
        Ok(Action::Done)
    }

    async fn claim_phase(&self, claim: &Value, phase: &str) -> Result<Action, Status> {
        let mut status = claim.get("status").filter(|s| !s.is_null()).cloned().unwrap_or(object!({}));
        status.set(&["phase"], phase);
        settled(self.claims.write_status(claim, status).await)?;
        Ok(Action::Done)
    }

    async fn volume(&self, name: &str) -> Result<Action, Status> {
        let Some(volume) = self.volumes.get("", name) else { return Ok(Action::Done) };
        let claim = self.claim_of(&volume).await?;
        let held = match plan::hold(&volume, claim.as_deref()) {
            Hold::Given => claim.as_deref(),
            Hold::Elsewhere => None,
            Hold::Free(free) => {
                let volume = self.volumes.update(free).await?;
                self.volume_phase(&volume, None).await?;
                return Ok(Action::Done);
            }
            Hold::Mismatch => {
                let claim = claim.unwrap_or_default();
                let of = |what: &str| format!("Cannot bind PersistentVolume {what} due to incompatible volumeMode.");
                let about = of(&format!("to requested PersistentVolumeClaim {:?}", meta::name(&claim)));
                self.events.event(&volume, true, "VolumeMismatch", about);
                self.events.event(&claim, true, "VolumeMismatch", of(&format!("{name:?} to requested PersistentVolumeClaim")));
                return Ok(Action::Done);
            }
        };
        self.volume_phase(&volume, held).await?;
        Ok(Action::Done)
    }

    /// The claim that a volume refers to. That there is none is believed the server alone: others delete volumes that are released.
    async fn claim_of(&self, volume: &Value) -> Result<Option<Arc<Value>>, Status> {
        let Some(reference) = plan::claim_reference(volume).map(|r| (r.str_at(&["namespace"]), r.str_at(&["name"]))) else {
            return Ok(None);
        };
        let known = self.claims.get(reference.0, reference.1).filter(|c| plan::is_for(volume, c));
        if known.is_some() || plan::is_released(volume) || volume.str_at(&["spec", "claimRef", "uid"]).is_empty() {
            return Ok(known);
        }
        let found = self.client.within(&PERSISTENT_VOLUME_CLAIMS, reference.0).find(reference.1).await?;
        Ok(found.filter(|c| plan::is_for(volume, c)))
    }

    async fn volume_phase(&self, volume: &Arc<Value>, claim: Option<&Value>) -> Result<(), Status> {
        let mut phase = plan::volume_phase(volume, claim);
        let mut message = "";
        // Volumes of external provisioners are deleted by them; for others there is nobody who could.
        let external =
            meta::annotation(volume, plan::PROVISIONED_BY).is_some() || volume.at(&["spec", "csi"]).is_some_and(|c| !c.is_null());
        let reason = match volume.str_at(&["spec", "persistentVolumeReclaimPolicy"]) {
            _ if phase != "Released" => "",
            "Delete" if !external => {
                message = "error getting deleter volume plugin for volume: no deletable volume plugin matched";
                "VolumeFailedDelete"
            }
            "Recycle" => {
                message = "No recycler plugin found for the volume!";
                "VolumeFailedRecycle"
            }
            _ => "",
        };
        if !reason.is_empty() {
            phase = "Failed";
            self.events.event(volume, true, reason, message);
        }
        if volume.str_at(&["status", "phase"]) == phase {
            return Ok(());
        }
        let mut status = volume.get("status").filter(|s| !s.is_null()).cloned().unwrap_or(object!({}));
        status.set(&["phase"], phase);
        match message.is_empty() {
            true => drop(status.remove(&["message"])),
            false => status.set(&["message"], message),
        }
        settled(self.volumes.write_status(volume, status).await)
    }
}
