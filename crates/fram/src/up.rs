//! `fram up` and `fram server`: the control plane, and a node in the same process.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use fram_apiserver::User;
use fram_client::SharedInformers;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api_flags::ApiFlags;
use crate::cli::{Machine, Server, Up};
use crate::control_plane::{ControlPlane, bind, start_components};
use crate::desk::Desk;
use crate::node::{NodeConfig, NodeLock, host_name, primary_address};
use crate::tunnels::Tunnels;

const CLUSTER_CIDR: &str = "10.244.0.0/16";
/// Where pods find the API by its Service's address.
const API_PORT: u16 = 443;

/// What one process runs.
pub(crate) struct Plan {
    machine: Machine,
    api: ApiFlags,
    listen: SocketAddr,
    node: bool,
    /// Whether other machines join; then a join token is printed.
    shared: bool,
    demo: bool,
}

impl Plan {
    pub(crate) fn alone(up: Up) -> Self {
        Self { machine: up.machine, api: up.api, listen: up.listen, node: true, shared: false, demo: up.demo }
    }

    /// Fails where no other machine could reach the address.
    pub(crate) fn shared(server: Server) -> anyhow::Result<Self> {
        let Server { mut machine, api, listen, no_node } = server;
        anyhow::ensure!(
            listen.is_ipv4() && !listen.ip().is_loopback(),
            "agents cannot reach {listen}: listen on this machine's own address"
        );
        if !listen.ip().is_unspecified() {
            machine.node_ip = machine.node_ip.or(Some(listen.ip()));
        }
        Ok(Self { machine, api, listen, node: !no_node, shared: true, demo: false })
    }
}

/// Log lines go to standard error; from `level` on, unless RUST_LOG says otherwise.
pub(crate) fn log(level: &str) {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| level.into()))
        .with_writer(std::io::stderr)
        .init();
}

pub(crate) fn threads(name: &'static str) -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().thread_name(name).build().context("cannot start threads")
}

pub(crate) fn run(plan: Plan) -> anyhow::Result<()> {
    // The demo is for the eye: what goes well is not logged beside it.
    log(if plan.demo { "warn" } else { "info" });
    if plan.node {
        crate::preflight::check()?;
    }
    // Control plane and node have their own threads, so that work in the one does not hold up the other.
    let (control, node) = (threads("control")?, threads("node")?);
    let outcome = control.block_on(start(plan, node.handle().clone()));
    node.shutdown_timeout(std::time::Duration::from_secs(5));
    outcome
}

async fn start(plan: Plan, node_threads: tokio::runtime::Handle) -> anyhow::Result<()> {
    let begun = Instant::now();
    let data = &plan.machine.data_dir;
    // Before anything is written: a port in use leaves nothing behind.
    let socket = bind(plan.listen).await?;
    std::fs::create_dir_all(data).with_context(|| format!("cannot create {}", data.display()))?;
    let ip = plan.machine.node_ip.map_or_else(primary_address, Ok)?;
    let nodes = Arc::new(Tunnels::default());
    let (mut control_plane, listener) = ControlPlane::open(data, &plan.api, socket, ip, nodes.clone()).await?;
    let kubeconfig = data.join("admin.kubeconfig");
    control_plane.write_kubeconfig(&kubeconfig)?;
    control_plane.bootstrap().await?;
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let desk = Desk::new(&plan.machine.cgroup_root);
    let mut components = JoinSet::new();
    // The auditor's last words are about the end of everything else.
    let (audited, mut auditing) = (CancellationToken::new(), JoinSet::new());
    if let Some(sender) = control_plane.audit_sender.take() {
        auditing.spawn(sender.run(audited.clone()));
    }
    if let Some(reloads) = plan.api.encryption_reloads(&control_plane.encryption)? {
        components.spawn(reloads.run(stop.clone()));
    }
    components.spawn(control_plane.server.clone().follow_roles(stop.clone()));
    components.spawn(control_plane.server.clone().follow_definitions(stop.clone()));
    components.spawn(control_plane.server.clone().follow_webhooks(stop.clone()));
    components.spawn(control_plane.server.clone().follow_policies(stop.clone()));
    components.spawn(control_plane.server.clone().follow_flow_control(stop.clone()));
    components.spawn(fram_apiserver::http_api::serve(listener, control_plane.server.clone(), stop.clone()));
    components.spawn(control_plane.server.clone().keep_own_service(control_plane.cluster.clone(), stop.clone()));
    let informers = start_components(&control_plane, &desk, &tasks, &stop);
    let ready = begun.elapsed().as_millis();
    println!("fram: API ready at {} after {ready} ms; KUBECONFIG={}", control_plane.url(), kubeconfig.display());
    if plan.shared {
        let client = control_plane.client(User::authenticated("fram-server", &["system:masters"]), "fram-server");
        let token = crate::token::current(&client, &control_plane.pki.ca_pem).await?;
        println!("fram: other machines join with: fram agent --server https://{ip}:{} --token {token}", control_plane.cluster.port);
    }
    desk.clone().open(data, &tasks, &stop)?;
    let mut node = None;
    if plan.node {
        let runs = start_node(&plan, &control_plane, &nodes, informers, &node_threads, &desk, &tasks, &stop).await?;
        // The node answers the API's Service address itself, so that pods reach it without a public socket.
        let within = control_plane.listen_also(SocketAddr::new(IpAddr::V4(api_service_ip()), API_PORT)).await?;
        components.spawn(fram_apiserver::http_api::serve(within, control_plane.server.clone(), stop.clone()));
        println!("fram: node {} started after {} ms", runs.name, begun.elapsed().as_millis());
        node = Some(runs);
    }
    let outcome = match plan.demo {
        true => demonstrate(&kubeconfig, data).await,
        false => stopped().await,
    };
    control_plane.server.leave();
    tokio::time::sleep(plan.api.shutdown_delay()).await;
    stop.cancel();
    if let Some(node) = node {
        node.task.await.context("the kubelet failed")??;
    }
    tasks.close();
    tasks.wait().await;
    while let Some(ended) = components.join_next().await {
        ended.context("a component failed")?;
    }
    audited.cancel();
    while let Some(ended) = auditing.join_next().await {
        ended.context("the auditor failed")?;
    }
    outcome
}

/// Plays the demo, and then waits for the end like any other run. A demo that fails ends the program.
async fn demonstrate(kubeconfig: &Path, data: &Path) -> anyhow::Result<()> {
    let stopped = stopped();
    tokio::pin!(stopped);
    tokio::select! {
        biased;
        stopped = stopped.as_mut() => return stopped,
        played = Box::pin(fram_demo::run(kubeconfig, data)) => played.context("the demo failed")?,
    }
    stopped.await
}

/// A node that runs in this process.
struct RunningNode {
    name: String,
    task: JoinHandle<anyhow::Result<()>>,
    _lock: NodeLock,
}

async fn start_node(
    plan: &Plan,
    control_plane: &ControlPlane,
    nodes: &Tunnels,
    informers: SharedInformers,
    threads: &tokio::runtime::Handle,
    desk: &Arc<Desk>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<RunningNode> {
    let lock = NodeLock::take(&plan.machine.data_dir)?;
    let config = node_config(&plan.machine, vec![api_service_ip()])?;
    let name = config.name.clone();
    let client = control_plane.client(User::authenticated(&format!("system:node:{name}"), &["system:nodes"]), "kubelet");
    let (node_stop, node_tasks, desk) = (stop.clone(), tasks.clone(), desk.clone());
    let started = threads.spawn(async move { crate::node::start(config, client, informers, &desk, &node_tasks, &node_stop).await });
    let kubelet = started.await.context("the node's start failed")??;
    nodes.local.set(&name, kubelet.clone());
    let kubelet_stop = stop.clone();
    let task = threads.spawn(async move { Ok(kubelet.run(kubelet_stop).await?) });
    Ok(RunningNode { name, task, _lock: lock })
}

fn api_service_ip() -> Ipv4Addr {
    fram_apiserver::allocate::Allocators::default().service_ip(1)
}

/// `local_ips` are Service addresses that the node answers itself.
pub(crate) fn node_config(machine: &Machine, local_ips: Vec<Ipv4Addr>) -> anyhow::Result<NodeConfig> {
    let allocators = fram_apiserver::allocate::Allocators::default();
    Ok(NodeConfig {
        name: machine.node_name.clone().map_or_else(host_name, Ok)?,
        ip: machine.node_ip.map_or_else(primary_address, Ok)?,
        data: machine.data_dir.clone(),
        cluster_cidr: CLUSTER_CIDR.parse().context("bad pod network")?,
        service_cidr: allocators.service_cidr().parse().context("bad service network")?,
        dns_ip: allocators.service_ip(10),
        cluster_domain: "cluster.local".into(),
        local_ips,
        cgroup_root: machine.cgroup_root.clone(),
    })
}

/// Returns at SIGINT or SIGTERM.
pub(crate) async fn stopped() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    tokio::select! {
        biased;
        interrupted = tokio::signal::ctrl_c() => interrupted.context("cannot wait for SIGINT"),
        _ = terminate.recv() => Ok(()),
    }
}
