//! Rotation of containers' logs: a file that has grown too large is renamed, and the runtime goes on in a new one. See
//! upstream's pkg/kubelet/logs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fram_cri::{ContainerFilter, ContainerState, CriResult};
use futures_util::StreamExt;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::context::Context;

pub(crate) async fn keep(ctx: Arc<Context>, stop: CancellationToken) {
    // Files are written by the shims, and nobody tells of their size.
    let look = ctx.config.container_log_monitor_interval;
    while stop.run_until_cancelled(tokio::time::sleep(look)).await.is_some() {
        if let Err(error) = rotate_all(&ctx).await {
            tracing::info!(%error, "logs could not be rotated");
        }
    }
}

async fn rotate_all(ctx: &Context) -> CriResult<()> {
    let running = ContainerFilter { state: Some(ContainerState::Running), ..ContainerFilter::default() };
    let containers = ctx.runtime.list_containers(&running).await?;
    let each = futures_util::stream::iter(containers).map(|container| async move { rotate_one(ctx, &container.id).await });
    each.buffer_unordered(ctx.config.container_log_max_workers.max(1)).collect::<()>().await;
    Ok(())
}

async fn rotate_one(ctx: &Context, id: &str) {
    let Ok(status) = ctx.runtime.container_status(id).await else { return };
    let path = PathBuf::from(&status.log_path);
    let size = tokio::fs::metadata(&path).await.map_or(0, |m| m.len());
    if size < ctx.config.container_log_max_size || !path.starts_with(&ctx.config.log_dir) {
        return;
    }
    match rotate(&path, ctx.config.container_log_max_files, ctx.clock.now()) {
        Ok(renamed) => reopen(ctx, id, &path, &renamed).await,
        Err(error) => tracing::warn!(?path, %error, "a log could not be rotated"),
    }
}

/// Has the runtime go on in a new file. Where it cannot, the log keeps its name, or nobody would find what is written to it.
async fn reopen(ctx: &Context, id: &str, path: &Path, renamed: &Path) {
    let Err(error) = ctx.runtime.reopen_container_log(id).await else { return };
    tracing::warn!(?path, %error, "a rotated log could not be opened anew");
    if !path.exists()
        && let Err(error) = std::fs::rename(renamed, path)
    {
        tracing::warn!(?path, %error, "a log could not be given its name back");
    }
}

/// Renames a log and removes the oldest of those renamed before; `files` counts the current one. Returns its new name.
fn rotate(path: &Path, files: u32, now: Timestamp) -> std::io::Result<PathBuf> {
    let (dir, prefix) = place(path)?;
    let older = rotated(path)?;
    let keep = usize::try_from(files.saturating_sub(2)).unwrap_or(0);
    for old in &older[..older.len().saturating_sub(keep)] {
        std::fs::remove_file(old)?;
    }
    let renamed = dir.join(format!("{prefix}{}", now.strftime("%Y%m%d-%H%M%S")));
    std::fs::rename(path, &renamed)?;
    Ok(renamed)
}

/// Where a log lies, and how the names of those begin that it was rotated to.
fn place(path: &Path) -> std::io::Result<(&Path, String)> {
    match (path.parent(), path.file_name().and_then(|n| n.to_str())) {
        (Some(dir), Some(name)) => Ok((dir, format!("{name}."))),
        _ => Err(std::io::ErrorKind::InvalidFilename.into()),
    }
}

/// The files that a log was rotated to, the oldest first.
pub(crate) fn rotated(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let (dir, prefix) = place(path)?;
    let mut all: Vec<PathBuf> = std::fs::read_dir(dir)?.flatten().map(|e| e.path()).collect();
    all.retain(|p| p.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(&prefix)));
    // Their names end with their times.
    all.sort();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_logs_go_when_there_are_too_many() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        for second in 1..=4 {
            std::fs::write(&path, second.to_string()).unwrap();
            rotate(&path, 3, Timestamp::from_second(second).unwrap()).unwrap();
        }
        let mut names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["0.log.19700101-000003", "0.log.19700101-000004"]);
    }
}
