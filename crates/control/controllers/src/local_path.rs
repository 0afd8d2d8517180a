//! The embedded storage: makes a PersistentVolume, a directory on the node that the scheduler chose, for each claim of its class,
//! and deletes it when it is released. The directories themselves belong to the nodes' kubelets.

mod plan;

use fram_client::local_path::PROVISIONER;
use fram_client::resources::{NODES, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, STORAGE_CLASSES};
use fram_client::{Action, Client, Controller, DeleteOptions, EventRecorder, Informer, Preconditions};
use fram_machinery::{Reason, Status, Value, meta};

use crate::Context;
use crate::objects::unless_it_changed;

pub(crate) fn start(context: &Context) {
    let get = |resource| context.informers.get(resource);
    let provisioner = Provisioner {
        client: context.client("persistent-volume-binder"),
        claims: get(&PERSISTENT_VOLUME_CLAIMS),
        volumes: get(&PERSISTENT_VOLUMES),
        classes: get(&STORAGE_CLASSES),
        nodes: get(&NODES),
        events: context.recorder("persistent-volume-binder", PROVISIONER),
    };
    // Keys with a namespace are claims, those without volumes.
    let controller = Controller::new("local-path", 2).owns(&provisioner.claims).owns(&provisioner.volumes);
    let controller = controller.needs(&provisioner.classes).needs(&provisioner.nodes);
    context.run(controller, provisioner, |p, key| async move {
        match key.contains('/') {
            true => p.claim(&key).await,
            false => p.volume(&key).await,
        }
    });
}

struct Provisioner {
    client: Client,
    claims: Informer,
    volumes: Informer,
    classes: Informer,
    nodes: Informer,
    events: EventRecorder,
}

impl Provisioner {
    async fn claim(&self, key: &str) -> Result<Action, Status> {
        let Some(claim) = self.claims.get(key).filter(|c| plan::is_mine(c)) else { return Ok(Action::Done) };
        let name = plan::volume_name(&claim);
        if self.volumes.get(&name).is_some() {
            return Ok(Action::Done);
        }
        let Some(class) = self.classes.get(fram_api::storage::class(&claim)) else { return Ok(Action::Done) };
        let selected = meta::annotation(&claim, fram_api::storage::SELECTED_NODE).unwrap_or_default();
        let Some(node) = plan::node(selected, &self.nodes.list()) else {
            return self.give_back(&claim, selected, "the node is not there, or keeps no volumes").await;
        };
        let about = format!("External provisioner is provisioning volume for claim {:?}", meta::key(&claim));
        self.events.event(&claim, false, "Provisioning", about);
        let volume = match plan::volume(&claim, &class, &node) {
            Ok(volume) => volume,
            Err(why) => {
                self.events.event(
                    &claim,
                    true,
                    "ProvisioningFailed",
                    format!("failed to provision volume with StorageClass {:?}: {why}", meta::name(&class)),
                );
                return Ok(Action::Done);
            }
        };
        match self.client.all(&PERSISTENT_VOLUMES).create(volume).await {
            Ok(_) => self.events.event(&claim, false, "ProvisioningSucceeded", format!("Successfully provisioned volume {name}")),
            Err(status) if status.is(Reason::AlreadyExists) => {}
            Err(status) => return Err(status),
        }
        Ok(Action::Done)
    }

    /// Lets the scheduler choose another node.
    async fn give_back(&self, claim: &Value, node: &str, why: &str) -> Result<Action, Status> {
        self.events.event(claim, true, "ProvisioningFailed", format!("failed to provision a volume on node {node:?}: {why}"));
        let mut changed = claim.clone();
        changed.remove(&["metadata", "annotations", fram_api::storage::SELECTED_NODE]);
        unless_it_changed(self.client.within(&PERSISTENT_VOLUME_CLAIMS, meta::namespace(claim)).update(changed).await)?;
        Ok(Action::Done)
    }

    /// The object goes first; its finalizer holds it until the node has removed the directory.
    async fn volume(&self, name: &str) -> Result<Action, Status> {
        let Some(volume) = self.volumes.get(name) else { return Ok(Action::Done) };
        if let Some(labelled) = plan::labelled(&volume) {
            unless_it_changed(self.client.all(&PERSISTENT_VOLUMES).update(labelled).await)?;
        }
        if !plan::is_over(&volume) {
            return Ok(Action::Done);
        }
        let preconditions = Preconditions {
            uid: Some(meta::uid(&volume).to_string()),
            resource_version: Some(meta::resource_version(&volume).to_string()),
        };
        let options = DeleteOptions { preconditions, ..Default::default() };
        unless_it_changed(self.client.all(&PERSISTENT_VOLUMES).delete(name, options).await)?;
        Ok(Action::Done)
    }
}
