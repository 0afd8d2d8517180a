//! The node's part of the embedded storage: a directory is removed when its volume is deleted, and only then does the volume go.
//! Directories are made when a pod first mounts them.

use std::path::PathBuf;
use std::sync::Arc;

use fram_client::local_path::{NODE, PROVISIONER, selector_of};
use fram_client::resources::PERSISTENT_VOLUMES;
use fram_client::{Action, Client, Controller, Informer, InformerOptions};
use fram_machinery::{Reason, Status, Value, meta};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::context::Context;

/// Follows the volumes until `stop`.
pub(crate) async fn keep(ctx: Arc<Context>, client: Client, tasks: TaskTracker, stop: CancellationToken) {
    let own = InformerOptions::labels(selector_of(&ctx.config.node_name));
    let volumes = Informer::start(client.clone(), PERSISTENT_VOLUMES, "", own, &tasks, stop.clone());
    let controller = Controller::new("local-path", 1).owns(&volumes);
    let reconcile = move |name: String| {
        let (ctx, client, volumes) = (ctx.clone(), client.clone(), volumes.clone());
        async move {
            match volumes.get(&name) {
                Some(volume) => release(&ctx, &client, &volume).await,
                None => Ok(Action::Done),
            }
        }
    };
    controller.run(reconcile, stop).await;
}

/// The directory of a volume that is being deleted and that this node holds; None where it is not for this node to act.
fn doomed(volume: &Value, node: &str, own: Option<&std::path::Path>) -> Option<PathBuf> {
    let mine = meta::annotation(volume, NODE) == Some(node) && meta::has_finalizer(volume, PROVISIONER);
    let path = PathBuf::from(volume.str_at(&["spec", "local", "path"]));
    // Whatever a volume says, nothing outside of the node's own directory is removed.
    let within = path.file_name().is_some() && path.parent() == own;
    (mine && within && meta::is_terminating(volume)).then_some(path)
}

async fn release(ctx: &Context, client: &Client, volume: &Value) -> Result<Action, Status> {
    let Some(path) = doomed(volume, &ctx.config.node_name, ctx.config.volumes_dir.as_deref()) else { return Ok(Action::Done) };
    let removed = tokio::task::spawn_blocking(move || match std::fs::remove_dir_all(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(format!("remove {path:?}: {error}")),
        _ => Ok(()),
    });
    removed.await.map_err(Status::internal)?.map_err(Status::internal)?;
    let mut changed = volume.clone();
    meta::remove_finalizer(&mut changed, PROVISIONER);
    match client.all(&PERSISTENT_VOLUMES).update(changed).await {
        // Whoever changed it brings it back here.
        Err(status) if !matches!(status.reason, Reason::NotFound | Reason::Conflict) => Err(status),
        _ => Ok(Action::Done),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use fram_machinery::object;

    #[test]
    fn only_directories_of_this_nodes_own_volumes_are_removed() {
        let volume = |node: &str, path: &str| {
            let mut volume = object!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [PROVISIONER] },
                "spec": { "local": { "path": path } } });
            meta::set_annotation(&mut volume, NODE, node);
            volume
        };
        let check = |volume: Value| doomed(&volume, "n", Some(Path::new("/d/volumes"))).is_some();
        assert!(check(volume("n", "/d/volumes/pvc-1")));
        assert!(!check(volume("m", "/d/volumes/pvc-1")));
        assert!(!check(volume("n", "/etc")) && !check(volume("n", "/d/volumes")) && !check(volume("n", "/d/volumes/..")));
        let mut alive = volume("n", "/d/volumes/pvc-1");
        alive.remove(&["metadata", "deletionTimestamp"]);
        assert!(!check(alive));
    }
}
