//! `fram agent`: a node of a cluster whose server is elsewhere.

mod identity;
mod join;
mod link;
mod servers;

use std::sync::Arc;

use anyhow::Context;
use fram_cli::say;
use fram_client::remote::Remote;
use fram_client::{Client, SharedInformers};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cli::Agent;
use crate::desk::Desk;
use crate::node::NodeLock;
use crate::parts::{Parts, Signals};

pub(crate) fn run(agent: Agent) -> anyhow::Result<()> {
    crate::heap::watch();
    crate::up::on_threads("node", start(agent))
}

async fn start(agent: Agent) -> anyhow::Result<()> {
    let data = &agent.machine.data_dir;
    agent.machine.networks.check()?;
    std::fs::create_dir_all(data).with_context(|| format!("cannot create {}", data.display()))?;
    let _lock = NodeLock::take(data)?;
    // Pods ask the API at the server's own address: the Service's is no address of this node.
    let config = crate::up::node_config(&agent.machine, Vec::new())?;
    let (name, ip, serving_tls) = (config.name.clone(), config.ip, config.kubelet.serving_tls());
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let mut signals = Signals::listen()?;
    let identity = tokio::select! {
        biased;
        () = signals.next() => return Ok(()),
        identity = identity::obtain(&agent, &name) => identity?,
    };
    let remote = Arc::new(Remote::new(&identity)?);
    let known = remote.servers();
    servers::recall(&known, data)?;
    let client = Client::new(remote.clone(), "kubelet");
    let current = tokio::sync::watch::Sender::new(identity);
    let informers = SharedInformers::new(client.clone(), tasks.clone(), stop.clone());
    let desk = Desk::new(&agent.machine.cgroup_root);
    let serving = tokio::sync::watch::Sender::new(None);
    tasks.spawn(servers::follow(known.clone(), informers.clone(), data.clone(), stop.clone()));
    let kubelet = crate::node::start(config, client.clone(), informers, serving.subscribe(), &desk, &tasks, &stop).await?;
    desk.bears(&["informers"]);
    desk.bears(crate::up::NODE_PARTS);
    desk.open(data, &tasks, &stop)?;
    let kubelet_client = client.clone();
    let keeper = identity::Keeper { directory: identity::directory(data), node: name.clone(), client, remote, current: current.clone() };
    tasks.spawn(keeper.run(stop.clone()));
    let (directory, ca) = (identity::directory(data), current.borrow().ca.clone());
    let spoken = crate::node::Spoken::open(serving_tls, &tasks, &stop)?;
    let keeper = identity::ServingKeeper { directory, node: name.clone(), ip, client: kubelet_client, ca, spoken, tls: serving };
    tasks.spawn(keeper.run(stop.clone()));
    let link = link::Link { kubelet: kubelet.clone(), identity: current.subscribe(), servers: known, lanes: tasks.clone() };
    tasks.spawn(link.keep(stop.clone()));
    say(&format!("fram: node {name} started, joined to {}", agent.server));

    let (kubelet_stop, mut parts) = (stop.clone(), Parts::default());
    parts.spawn_on(&tokio::runtime::Handle::current(), "the kubelet", async move { Ok(kubelet.run(kubelet_stop).await?) });
    let outcome = tokio::select! {
        biased;
        () = signals.next() => Ok(()),
        error = parts.ended() => Err(error),
    };
    stop.cancel();
    parts.end(outcome, &tasks, &mut signals).await
}
