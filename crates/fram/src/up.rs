//! `fram up` and `fram server`: the control plane, and a node in the same process.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use fram_api::AddressRange;
use fram_apiserver::User;
use fram_apiserver::http_api::Listener;
use fram_cli::say;
use fram_client::SharedInformers;
use fram_kubelet::{Configuration, CredentialProviders, Kubelet};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api_flags::ApiFlags;
use crate::cli::{Machine, Server, Up};
use crate::components::start_components;
use crate::control_plane::{ControlPlane, bind};
use crate::desk::Desk;
use crate::manager_flags::ManagerFlags;
use crate::node::{NodeConfig, NodeLock, host_name, primary_address};
use crate::parts::{Impatience, Parts, Signals};
use crate::scheduler_flags::SchedulerFlags;
use crate::tunnels::Tunnels;

/// Where pods find the API by its Service's address.
const API_PORT: u16 = 443;

/// How long work may take at the end that cannot be broken off.
const BLOCKING: Duration = Duration::from_secs(5);

/// What one process runs.
pub(crate) struct Plan {
    machine: Machine,
    api: ApiFlags,
    manager: ManagerFlags,
    scheduler: SchedulerFlags,
    listen: SocketAddr,
    node: bool,
    /// Whether other machines join; then a join token is printed.
    shared: bool,
    demo: bool,
}

impl Plan {
    pub(crate) fn alone(up: Up) -> Self {
        Self {
            machine: up.machine,
            api: up.api,
            manager: up.manager,
            scheduler: up.scheduler,
            listen: up.listen,
            node: true,
            shared: false,
            demo: up.demo,
        }
    }

    /// Fails where no other machine could reach the address.
    pub(crate) fn shared(server: Server) -> anyhow::Result<Self> {
        let Server { mut machine, api, manager, scheduler, listen, no_node } = server;
        anyhow::ensure!(!listen.ip().is_loopback(), "agents cannot reach {listen}: listen on this machine's own address");
        if !listen.ip().is_unspecified() {
            machine.node_ip = machine.node_ip.or(Some(listen.ip()));
        }
        Ok(Self { machine, api, manager, scheduler, listen, node: !no_node, shared: true, demo: false })
    }
}

/// Log lines go to standard error; from `level` on, unless RUST_LOG says otherwise.
pub(crate) fn log(level: &str) {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| level.into()))
        .with_writer(std::io::stderr)
        .init();
}

/// Runs a node, or a part of one, on threads of its own, on a machine that has what it needs.
pub(crate) fn on_threads(name: &'static str, work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    log("info");
    crate::preflight::check()?;
    let threads = threads(name)?;
    let outcome = threads.block_on(work);
    threads.shutdown_timeout(patience(&outcome));
    outcome
}

/// How long work may still be at the kernel or the disk at the end of a run.
fn patience(outcome: &anyhow::Result<()>) -> Duration {
    if outcome.as_ref().is_err_and(|e| e.is::<Impatience>()) { Duration::ZERO } else { BLOCKING }
}

fn threads(name: &'static str) -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().thread_name(name).build().context("cannot start threads")
}

/// What a node has beside its shims.
pub(crate) const NODE_PARTS: &[&str] = &["kubelet", "container-runtime", "pod-network", "kube-proxy", "cluster-dns"];

pub(crate) fn run(plan: Plan) -> anyhow::Result<()> {
    crate::heap::watch();
    // The demo is for the eye: what goes well is not logged beside it.
    log(if plan.demo { "warn" } else { "info" });
    if plan.node {
        crate::preflight::check()?;
    }
    // Control plane and node have their own threads, so that work in the one does not hold up the other.
    let (control, node) = (threads("control")?, threads("node")?);
    let outcome = control.block_on(start(plan, node.handle().clone()));
    node.shutdown_timeout(patience(&outcome));
    control.shutdown_timeout(patience(&outcome));
    outcome
}

async fn start(plan: Plan, node_threads: tokio::runtime::Handle) -> anyhow::Result<()> {
    let begun = Instant::now();
    let (data, networks) = (&plan.machine.data_dir, &plan.machine.networks);
    networks.check()?;
    let pod_network = plan.manager.pod_network(networks.of_pods())?;
    // Before anything is written: a port in use leaves nothing behind.
    let socket = bind(plan.listen).await?;
    std::fs::create_dir_all(data).with_context(|| format!("cannot create {}", data.display()))?;
    // A store of its own has a lock of its own; everything else that is there tells by this one that it is in use.
    let _lock = if plan.node || plan.api.etcd.is_shared() { Some(NodeLock::take(data)?) } else { None };
    let ip = plan.machine.node_ip.map_or_else(primary_address, Ok)?;
    let own = if plan.node { Some(plan.machine.node_name.clone().map_or_else(host_name, Ok)?) } else { None };
    let nodes = Arc::new(Tunnels::new(own));
    let (mut control_plane, listener) = ControlPlane::open(data, &plan.api, networks.allocators(), socket, ip, nodes.clone()).await?;
    let kubeconfig = data.join("admin.kubeconfig");
    control_plane.write_kubeconfig(&kubeconfig)?;
    control_plane.bootstrap().await?;
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let desk = Desk::new(&plan.machine.cgroup_root);
    desk.bears(&["kube-apiserver", "store", "informers"]);
    // The auditor's last words are about the end of everything else.
    let (audited, mut auditing) = (CancellationToken::new(), JoinSet::new());
    if let Some(sender) = control_plane.audit_sender.take() {
        auditing.spawn(sender.run(audited.clone()));
    }
    let mut parts = server_parts(&control_plane, listener, &stop);
    if let Some(reloads) = plan.api.encryption_reloads(&control_plane.encryption)? {
        parts.spawn("the follower of the encryption configuration", reloads.run(stop.clone()));
    }
    let informers = start_components(&control_plane, &plan.manager, pod_network, &plan.scheduler, &desk, &tasks, &stop);
    let ready = begun.elapsed().as_millis();
    say(&format!("fram: API ready at {} after {ready} ms; KUBECONFIG={}", control_plane.url(), kubeconfig.display()));
    if plan.shared {
        let client = control_plane.client(User::authenticated("fram-server", &["system:masters"]), "fram-server");
        let token = crate::token::current(&client, &control_plane.pki.ca_pem).await?;
        let port = control_plane.cluster.port;
        say(&format!("fram: other machines join with: fram agent --server https://{ip}:{port} --token {token}"));
    }
    desk.clone().open(data, &tasks, &stop)?;
    if plan.node {
        let (name, kubelet) = start_node(&plan, &control_plane, &nodes, informers, &node_threads, &desk, &tasks, &stop).await?;
        let kubelet_stop = stop.clone();
        parts.spawn_on(&node_threads, "the kubelet", async move { Ok(kubelet.run(kubelet_stop).await?) });
        desk.bears(NODE_PARTS);
        // The node answers the API's Service address itself, so that pods reach it without a public socket.
        let within = control_plane.listen_also(SocketAddr::new(IpAddr::V4(networks.service_ip(1)), API_PORT)).await?;
        parts.spawn("the API's socket for pods", fram_apiserver::http_api::serve(within, control_plane.server.clone(), stop.clone()));
        say(&format!("fram: node {name} started after {} ms", begun.elapsed().as_millis()));
    }
    let mut signals = Signals::listen()?;
    let outcome = tokio::select! {
        biased;
        () = signals.next() => Ok(()),
        error = parts.ended() => Err(error),
        Err(error) = Box::pin(demonstrate(plan.demo, &kubeconfig, data)) => Err(error),
    };
    control_plane.server.leave();
    tokio::select! {
        biased;
        // Who asks twice is in a hurry.
        () = signals.next(), if !plan.api.shutdown_delay().is_zero() => {}
        () = tokio::time::sleep(plan.api.shutdown_delay()) => {}
    }
    stop.cancel();
    let outcome = parts.end(outcome, &tasks, &mut signals).await;
    audited.cancel();
    while let Some(ended) = auditing.join_next().await {
        ended.context("the auditor failed")?;
    }
    outcome
}

/// What the API server does beside answering calls, and its socket.
fn server_parts(control_plane: &ControlPlane, listener: Listener, stop: &CancellationToken) -> Parts {
    let (mut parts, server, cluster) = (Parts::default(), &control_plane.server, &control_plane.cluster);
    let host = crate::node::host_name().unwrap_or_else(|_| cluster.address.to_string());
    parts.spawn("the follower of roles", server.clone().follow_roles(stop.clone()));
    parts.spawn("the follower of definitions", server.clone().follow_definitions(stop.clone()));
    parts.spawn("the follower of webhooks", server.clone().follow_webhooks(stop.clone()));
    parts.spawn("the follower of policies", server.clone().follow_policies(stop.clone()));
    parts.spawn("flow control", server.clone().follow_flow_control(stop.clone()));
    parts.spawn("the API's socket", fram_apiserver::http_api::serve(listener, server.clone(), stop.clone()));
    parts.spawn("the keeper of the API's Service", server.clone().keep_own_service(cluster.clone(), stop.clone()));
    parts.spawn("the keeper of the server's Lease", server.clone().keep_identity(host, cluster.clone(), stop.clone()));
    parts
}

/// Plays the demo where it is asked for, and then goes on for ever like any other run. A demo that fails ends the program.
async fn demonstrate(demo: bool, kubeconfig: &Path, data: &Path) -> anyhow::Result<()> {
    if demo {
        fram_demo::run(kubeconfig, data).await.context("the demo failed")?;
    }
    std::future::pending().await
}

/// Starts the node; gives its name, and the kubelet that is to be run.
async fn start_node(
    plan: &Plan,
    control_plane: &ControlPlane,
    nodes: &Tunnels,
    informers: SharedInformers,
    threads: &tokio::runtime::Handle,
    desk: &Arc<Desk>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<(String, Kubelet)> {
    let config = node_config(&plan.machine, vec![plan.machine.networks.service_ip(1)])?;
    let name = config.name.clone();
    let client = control_plane.client(User::authenticated(&format!("system:node:{name}"), &["system:nodes"]), "kubelet");
    let identity = control_plane.pki.server(&format!("system:node:{name}"), &[name.clone(), config.ip.to_string()])?;
    let spoken = crate::node::Spoken::open(config.kubelet.serving_tls(), tasks, stop)?;
    let tls = crate::node::serving_config(&control_plane.pki.ca_pem, &identity, &plan.machine.data_dir, &spoken)?;
    let (_kept, serving) = tokio::sync::watch::channel(tls);
    let (node_stop, node_tasks, desk) = (stop.clone(), tasks.clone(), desk.clone());
    let started =
        threads.spawn(async move { crate::node::start(config, client, informers, serving, &desk, &node_tasks, &node_stop).await });
    let kubelet = started.await.context("the node's start failed")??;
    nodes.local.set(&name, kubelet.clone());
    Ok((name, kubelet))
}

fn credential_providers(machine: &Machine) -> anyhow::Result<Arc<CredentialProviders>> {
    match (&machine.image_credential_provider_config, &machine.image_credential_provider_bin_dir) {
        (Some(config), Some(dir)) => Ok(Arc::new(CredentialProviders::load(config, dir)?)),
        _ => Ok(Arc::default()),
    }
}

/// `local_ips` are Service addresses that the node answers itself.
pub(crate) fn node_config(machine: &Machine, local_ips: Vec<Ipv4Addr>) -> anyhow::Result<NodeConfig> {
    let networks = &machine.networks;
    let first = |ranges: &[AddressRange]| ranges.first().map(AddressRange::to_string).unwrap_or_default();
    let kubelet = Configuration::load(machine.config.as_deref(), machine.config_dir.as_deref())?;
    // What the command line says counts more.
    let (runtime, images) = kubelet.endpoints();
    Ok(NodeConfig {
        name: machine.node_name.clone().map_or_else(host_name, Ok)?,
        ip: machine.node_ip.map_or_else(primary_address, Ok)?,
        data: machine.data_dir.clone(),
        cluster_cidr: first(networks.of_pods()).parse().context("bad pod network")?,
        service_cidr: first(&networks.allocators().service_ranges).parse().context("bad service network")?,
        dns_ip: networks.service_ip(10),
        cluster_domain: "cluster.local".into(),
        local_ips,
        cgroup_root: machine.cgroup_root.clone(),
        credential_providers: credential_providers(machine)?,
        kubelet,
        registries: crate::node::registries(&machine.data_dir, machine.registry_config_dir.as_deref()),
        runtime_handlers: machine.runtime_handler.iter().cloned().collect(),
        runtime_endpoint: machine.container_runtime_endpoint.clone().or(runtime),
        image_endpoint: machine.image_service_endpoint.clone().or(images),
    })
}
