//! The provisioner of single nodes and tests, `kubernetes.io/host-path`: a directory below /tmp for each claim of a class that names it. It
//! is off unless it is asked for, as kube-controller-manager's is. See volume/hostpath.

mod plan;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use fram_client::resources::{PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, STORAGE_CLASSES};
use fram_client::{Action, Client, Controller, DeleteOptions, EventRecorder, Informer, Preconditions};
use fram_machinery::{Reason, Status, meta};

use crate::Context;
use crate::objects::unless_it_changed;
use plan::PROVISIONER;

/// The directories of the machine on which the volumes are.
#[async_trait]
pub trait Directories: Send + Sync {
    /// Makes one, with those that it is in.
    async fn make(&self, path: &Path) -> Result<(), String>;
    /// Removes one with all that is in it; that it is not there is no failure.
    async fn remove(&self, path: &Path) -> Result<(), String>;
}

pub(crate) fn start(context: &Context) {
    let Some(directories) = context.host_path_directories.clone() else { return };
    let get = |resource| context.informers.get(resource);
    let provisioner = Provisioner {
        client: context.client("persistent-volume-binder"),
        claims: get(&PERSISTENT_VOLUME_CLAIMS),
        volumes: get(&PERSISTENT_VOLUMES),
        classes: get(&STORAGE_CLASSES),
        events: context.recorder("persistent-volume-binder", "persistentvolume-controller"),
        directories,
    };
    let classes = provisioner.classes.clone();
    // Keys with a namespace are claims, those without volumes.
    let controller = Controller::new("host-path", 1).owns(&provisioner.claims).owns(&provisioner.volumes).needs(&classes);
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
    events: EventRecorder,
    directories: Arc<dyn Directories>,
}

impl Provisioner {
    async fn claim(&self, key: &str) -> Result<Action, Status> {
        let Some(claim) = self.claims.get(key).filter(|c| plan::is_mine(c)) else { return Ok(Action::Done) };
        let Some(class) = self.classes.get(fram_api::storage::class(&claim)) else { return Ok(Action::Done) };
        let volume = match plan::volume(&claim, &class) {
            Ok(volume) if self.volumes.get(meta::name(&volume)).is_some() => return Ok(Action::Done),
            Ok(volume) => volume,
            Err(why) => {
                let about = format!("Failed to provision volume with StorageClass {:?}: {why}", meta::name(&class));
                self.events.event(&claim, true, "ProvisioningFailed", about);
                return Ok(Action::Done);
            }
        };
        if let Err(why) = self.directories.make(Path::new(volume.str_at(&["spec", "hostPath", "path"]))).await {
            let about = format!("Failed to provision volume with StorageClass {:?}: {why}", meta::name(&class));
            self.events.event(&claim, true, "ProvisioningFailed", about);
            return Err(Status::internal(why));
        }
        let about = format!("Successfully provisioned volume {} using {PROVISIONER}", meta::name(&volume));
        match self.client.all(&PERSISTENT_VOLUMES).create(volume).await {
            Err(status) if !status.is(Reason::AlreadyExists) => return Err(status),
            Err(_) => {}
            Ok(_) => self.events.event(&claim, false, "ProvisioningSucceeded", about),
        }
        Ok(Action::Done)
    }

    /// The directory goes first: without the volume nobody would know of it.
    async fn volume(&self, name: &str) -> Result<Action, Status> {
        let Some(volume) = self.volumes.get(name) else { return Ok(Action::Done) };
        let Some(path) = plan::over(&volume) else { return Ok(Action::Done) };
        if let Err(why) = self.directories.remove(Path::new(path)).await {
            self.events.event(&volume, true, "VolumeFailedDelete", &why);
            return Err(Status::internal(why));
        }
        let preconditions = Preconditions { uid: Some(meta::uid(&volume).to_string()), resource_version: None };
        let options = DeleteOptions { preconditions, ..Default::default() };
        unless_it_changed(self.client.all(&PERSISTENT_VOLUMES).delete(name, options).await)?;
        Ok(Action::Done)
    }
}
