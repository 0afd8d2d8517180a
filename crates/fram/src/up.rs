//! `fram up`: control plane and node in one process.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use fram_apiserver::nodes::NoNodes;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cli::Up;
use crate::control_plane::ControlPlane;

/// Parent of everything that Fram makes in cgroups.
pub(crate) const CGROUP_ROOT: &str = "/fram";

pub(crate) fn run(up: Up) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()))
        .with_writer(std::io::stderr)
        .init();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("control").build().context("cannot start threads")?;
    runtime.block_on(start(up))
}

async fn start(up: Up) -> anyhow::Result<()> {
    let begun = Instant::now();
    std::fs::create_dir_all(&up.data_dir).with_context(|| format!("cannot create {}", up.data_dir.display()))?;
    let control_plane = ControlPlane::open(&up.data_dir, up.listen, Arc::new(NoNodes)).await?;
    let kubeconfig = up.data_dir.join("admin.kubeconfig");
    control_plane.write_kubeconfig(&kubeconfig)?;
    control_plane.bootstrap().await?;
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let server = control_plane.server.clone();
    tasks.spawn(server.clone().follow_roles(stop.clone()));
    let workers = TaskTracker::new();
    crate::control_plane::start_components(&control_plane, &workers, &stop);
    let url = control_plane.url();
    tasks.spawn(fram_apiserver::http_api::serve(control_plane.listener, server, stop.clone()));
    println!("fram: API ready at {url} after {} ms; KUBECONFIG={}", begun.elapsed().as_millis(), kubeconfig.display());
    stopped().await?;
    stop.cancel();
    workers.close();
    workers.wait().await;
    while let Some(ended) = tasks.join_next().await {
        ended.context("a component failed")?;
    }
    Ok(())
}

/// Returns at SIGINT or SIGTERM.
async fn stopped() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    tokio::select! {
        biased;
        interrupted = tokio::signal::ctrl_c() => interrupted.context("cannot wait for SIGINT"),
        _ = terminate.recv() => Ok(()),
    }
}
