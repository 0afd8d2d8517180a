//! `fram agent`: a node of a cluster whose server is elsewhere.

mod identity;
mod join;
mod link;

use std::sync::Arc;

use anyhow::Context;
use fram_client::remote::Remote;
use fram_client::{Client, SharedInformers};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cli::Agent;
use crate::desk::Desk;
use crate::node::NodeLock;

pub(crate) fn run(agent: Agent) -> anyhow::Result<()> {
    crate::up::log("info");
    crate::preflight::check()?;
    let runtime = crate::up::threads("node")?;
    let outcome = runtime.block_on(start(agent));
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    outcome
}

async fn start(agent: Agent) -> anyhow::Result<()> {
    let data = &agent.machine.data_dir;
    std::fs::create_dir_all(data).with_context(|| format!("cannot create {}", data.display()))?;
    let _lock = NodeLock::take(data)?;
    // Pods ask the API at the server's own address: the Service's is no address of this node.
    let config = crate::up::node_config(&agent.machine, Vec::new())?;
    let name = config.name.clone();
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let interrupted = crate::up::stopped();
    tokio::pin!(interrupted);
    let identity = tokio::select! {
        biased;
        stopped = interrupted.as_mut() => return stopped,
        identity = identity::obtain(&agent, &name) => identity?,
    };
    let remote = Arc::new(Remote::new(&identity)?);
    let client = Client::new(remote.clone(), "kubelet");
    let current = tokio::sync::watch::Sender::new(identity);
    let informers = SharedInformers::new(client.clone(), tasks.clone(), stop.clone());
    let desk = Desk::new(&agent.machine.cgroup_root);
    let kubelet = crate::node::start(config, client.clone(), informers, &desk, &tasks, &stop).await?;
    desk.open(data, &tasks, &stop)?;
    let keeper = identity::Keeper { directory: identity::directory(data), node: name.clone(), client, remote, current: current.clone() };
    tasks.spawn(keeper.run(stop.clone()));
    let link = link::Link { kubelet: kubelet.clone(), identity: current.subscribe(), lanes: tasks.clone() };
    tasks.spawn(link.keep(stop.clone()));
    println!("fram: node {name} started, joined to {}", agent.server);

    let kubelet_stop = stop.clone();
    let mut running = tokio::task::JoinSet::new();
    running.spawn(async move { kubelet.run(kubelet_stop).await });
    tokio::select! {
        biased;
        stopped = interrupted => stopped?,
        Some(ended) = running.join_next() => ended.context("the kubelet failed")??,
    }
    stop.cancel();
    while let Some(ended) = running.join_next().await {
        ended.context("the kubelet failed")??;
    }
    tasks.close();
    // Streams that clients hold open do not hold up the end.
    let _late = tokio::time::timeout(std::time::Duration::from_secs(2), tasks.wait()).await;
    Ok(())
}
