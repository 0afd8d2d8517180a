//! Opening: what is on disk and what the shims know become the state again. What a crash left half made is undone.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Inner, OpenError, containers, sandboxes};
use crate::client::{self, Client, ClientError};
use crate::durable::{self, DurableError};
use crate::protocol::{ContainerRun, Request, Response};
use crate::records::{CONTAINER_FILE, ContainerRecord, SANDBOX_FILE, SandboxRecord};
use crate::shim::STATE_FILE;
use crate::state::{Container, Sandbox};

pub(super) async fn recover(inner: &Arc<Inner>) -> Result<(), OpenError> {
    for dir in directories(&inner.layout.sandboxes)? {
        match durable::read_json::<SandboxRecord>(&dir.join(SANDBOX_FILE)) {
            Ok(Some(record)) if record.complete => recover_sandbox(inner, &dir, record).await?,
            Ok(record) => {
                tracing::info!(?dir, "removing a sandbox that was never complete");
                sandboxes::discard(inner, &dir, record).await;
            }
            // After a loss of power, most likely: then nothing of it runs. If something does, nobody could ever manage it.
            Err(error @ DurableError::Malformed { .. }) => {
                tracing::error!(?dir, %error, "removing a sandbox whose record cannot be understood");
                sandboxes::discard(inner, &dir, None).await;
            }
            Err(error) => tracing::error!(?dir, %error, "the record of a sandbox cannot be read; it is left alone"),
        }
    }
    report_and_release(inner).await;
    Ok(())
}

fn directories(path: &Path) -> Result<Vec<std::path::PathBuf>, OpenError> {
    let failed = |source| OpenError::Io { operation: "list", path: path.to_path_buf(), source };
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    Ok(entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()).collect())
}

async fn recover_sandbox(inner: &Arc<Inner>, dir: &Path, record: SandboxRecord) -> Result<(), OpenError> {
    let stopped = record.stopped;
    let sandbox = Arc::new(Sandbox::new(dir.to_path_buf(), record));
    for path in directories(&inner.layout.containers(&sandbox.id))? {
        match durable::read_json::<ContainerRecord>(&path.join(CONTAINER_FILE)) {
            Ok(Some(record)) => {
                let run = durable::read_json(&path.join(STATE_FILE)).ok().flatten().unwrap_or_default();
                let container = Arc::new(Container::new(path, record, run));
                inner.containers.lock().insert(container.id.clone(), container);
            }
            // `create_container` did not get so far as to answer.
            Ok(None) => drop(fs::remove_dir_all(&path)),
            Err(error) => tracing::error!(?path, %error, "the record of a container cannot be read; it is left alone"),
        }
    }
    inner.sandboxes.lock().insert(sandbox.id.clone(), sandbox.clone());
    if stopped {
        inner.containers_of(&sandbox.id).iter().for_each(|container| inner.settle(container));
        return Ok(());
    }
    match connect(&sandbox).await {
        Ok((client, news)) => {
            sandbox.ready.store(true, Ordering::SeqCst);
            news.into_iter().for_each(|run| inner.advance(run));
            inner.listen(sandbox, client);
        }
        Err(error) => {
            tracing::warn!(sandbox = sandbox.id, %error, "the shim of a sandbox is gone");
            inner.shim_died(&sandbox);
        }
    }
    Ok(())
}

/// A connection on which the shim reports, and what it knows already.
pub(super) async fn connect(sandbox: &Sandbox) -> Result<(Client, Vec<ContainerRun>), ClientError> {
    let mut client = Client::connect(&sandbox.dir).await?;
    match client.ask(&Request::Watch, &[]).await? {
        Response::State { pid, containers } => {
            sandbox.shim_pid.store(pid, Ordering::SeqCst);
            Ok((client, containers))
        }
        other => Err(client::unexpected(&other)),
    }
}

/// Ends that nobody was told of are kept for the first subscriber; image layers held for nobody are let go.
async fn report_and_release(inner: &Arc<Inner>) {
    note_unreported(inner);
    match inner.images.root_filesystem_holders().await {
        Ok(holders) => {
            for holder in holders.iter().filter(|holder| inner.container(containers::container_of(holder)).is_err()) {
                if let Err(error) = inner.images.release_root_filesystem(holder).await {
                    tracing::warn!(holder, %error, "cannot release the layers of a container that is gone");
                }
            }
        }
        Err(error) => tracing::warn!(%error, "cannot list who holds image layers"),
    }
}

fn note_unreported(inner: &Inner) {
    // Held while they are counted: a shim may be reporting one already.
    let mut events = inner.events.lock();
    let known: Vec<Arc<Container>> = inner.containers.lock().values().cloned().collect();
    let mut ended: Vec<(i64, String)> = Vec::new();
    for container in known {
        let finished_at = container.run.borrow().run.exit.as_ref().map(|exit| exit.finished_at);
        if let Some(finished_at) = finished_at.filter(|_| !container.record.lock().exit_reported) {
            ended.push((finished_at, container.id.clone()));
        }
    }
    ended.sort();
    events.unreported = ended.into_iter().map(|(_, id)| id).collect();
}
