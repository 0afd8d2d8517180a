//! `fram up`: control plane and node in one process.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use fram_apiserver::User;
use fram_kubelet::{Kubelet, KubeletConfig, SystemClock};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cli::Up;
use crate::control_plane::{ControlPlane, start_components};
use crate::node::{LocalNode, Node, NodeConfig, host_name, primary_address};

/// Parent of everything that Fram makes in cgroups.
pub(crate) const CGROUP_ROOT: &str = "/fram";
const CLUSTER_CIDR: &str = "10.244.0.0/16";
/// Where pods find the API by its Service's address.
const API_PORT: u16 = 443;

pub(crate) fn run(up: Up) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()))
        .with_writer(std::io::stderr)
        .init();
    crate::preflight::check()?;
    let threads = |name: &'static str| {
        tokio::runtime::Builder::new_multi_thread().enable_all().thread_name(name).build().context("cannot start threads")
    };
    // Control plane and node have their own threads, so that work in the one does not hold up the other.
    let (control, node) = (threads("control")?, threads("node")?);
    let outcome = control.block_on(start(up, node.handle().clone()));
    node.shutdown_timeout(std::time::Duration::from_secs(5));
    outcome
}

async fn start(up: Up, node_threads: tokio::runtime::Handle) -> anyhow::Result<()> {
    let begun = Instant::now();
    std::fs::create_dir_all(&up.data_dir).with_context(|| format!("cannot create {}", up.data_dir.display()))?;
    let config = node_config(&up)?;
    let local = Arc::new(LocalNode::default());
    let (control_plane, listener) = ControlPlane::open(&up.data_dir, up.listen, config.ip, local.clone()).await?;
    let kubeconfig = up.data_dir.join("admin.kubeconfig");
    control_plane.write_kubeconfig(&kubeconfig)?;
    control_plane.bootstrap().await?;
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let mut components = JoinSet::new();
    components.spawn(control_plane.server.clone().follow_roles(stop.clone()));
    components.spawn(fram_apiserver::http_api::serve(listener, control_plane.server.clone(), stop.clone()));
    components.spawn(control_plane.server.clone().keep_own_service(control_plane.cluster.clone(), stop.clone()));
    let informers = start_components(&control_plane, &tasks, &stop);
    let ready = begun.elapsed().as_millis();
    println!("fram: API ready at {} after {ready} ms; KUBECONFIG={}", control_plane.url(), kubeconfig.display());

    let name = config.name.clone();
    let (api_ip, node_stop, node_tasks) = (config.local_ips[0], stop.clone(), tasks.clone());
    let client = control_plane.client(User::authenticated(&format!("system:node:{name}"), &["system:nodes"]), "kubelet");
    let node = node_threads.spawn(async move {
        let node = Node::open(config).await?;
        let kernel = node.start(informers, &node_tasks, &node_stop);
        let kubelet = Kubelet::new(kubelet_config(&kernel.config), client, kernel.runtime, kernel.images, Arc::new(SystemClock))?;
        Ok::<_, anyhow::Error>(kubelet)
    });
    let kubelet = node.await.context("the node's start failed")??;
    local.set(&name, kubelet.clone());
    let kubelet_stop = stop.clone();
    let kubelet_task = node_threads.spawn(async move { kubelet.run(kubelet_stop).await });
    // The node answers the API's Service address itself, so that pods reach it without a public socket.
    let within = control_plane.listen_also(SocketAddr::new(IpAddr::V4(api_ip), API_PORT)).await?;
    components.spawn(fram_apiserver::http_api::serve(within, control_plane.server.clone(), stop.clone()));
    println!("fram: node {name} started after {} ms", begun.elapsed().as_millis());

    stopped().await?;
    stop.cancel();
    kubelet_task.await.context("the kubelet failed")??;
    tasks.close();
    tasks.wait().await;
    while let Some(ended) = components.join_next().await {
        ended.context("a component failed")?;
    }
    Ok(())
}

fn node_config(up: &Up) -> anyhow::Result<NodeConfig> {
    let ip = up.node_ip.map_or_else(primary_address, Ok)?;
    let allocators = fram_apiserver::allocate::Allocators::default();
    Ok(NodeConfig {
        name: up.node_name.clone().map_or_else(host_name, Ok)?,
        ip,
        data: up.data_dir.clone(),
        cluster_cidr: CLUSTER_CIDR.parse().context("bad pod network")?,
        service_cidr: allocators.service_cidr().parse().context("bad service network")?,
        dns_ip: allocators.service_ip(10),
        cluster_domain: "cluster.local".into(),
        local_ips: vec![allocators.service_ip(1)],
        cgroup_root: CGROUP_ROOT.into(),
    })
}

fn kubelet_config(node: &NodeConfig) -> KubeletConfig {
    KubeletConfig {
        cluster_dns: vec![IpAddr::V4(node.dns_ip)],
        cluster_domain: node.cluster_domain.clone(),
        cgroup_root: node.cgroup_root.clone(),
        ..KubeletConfig::new(node.name.clone(), vec![node.ip], node.data.join("kubelet"), node.data.join("pods"))
    }
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
