//! A node: images, runtime, pod network, proxy, DNS and kubelet, wired together.

mod address;
mod local;
mod lock;
mod services;
mod serving;
mod visitors;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use fram_client::{Client, SharedInformers};
use fram_cri::grpc::{RemoteImages, RemoteRuntime};
use fram_cri::{ImageService, PodSandboxFilter, RuntimeService, SandboxNetwork};
use fram_datapath::address::Cidr;
use fram_dns::{DnsConfig, DnsServer, Zone, ZoneConfig};
use fram_image::{ImageStore, ImageStoreConfig, RegistryConfig};
use fram_kubelet::{Configuration, CredentialProviders, Kubelet, KubeletConfig, SystemClock};
use fram_network::{CniConfig, CniNetwork, NetworkConfig, PodNetwork};
use fram_proxy::{Proxy, ProxyConfig};
use fram_runtime::{Runtime, RuntimeConfig};
use fram_streaming::{Sessions, StreamClient};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::desk::Desk;
pub(crate) use address::primary_address;
pub(crate) use local::LocalNode;
pub(crate) use lock::NodeLock;
pub(crate) use serving::{Spoken, serving_config};

/// What a node is told.
#[derive(Debug, Clone)]
pub(crate) struct NodeConfig {
    pub(crate) name: String,
    pub(crate) ip: IpAddr,
    pub(crate) data: PathBuf,
    pub(crate) cluster_cidr: Cidr,
    pub(crate) service_cidr: Cidr,
    pub(crate) dns_ip: Ipv4Addr,
    pub(crate) cluster_domain: String,
    /// Service addresses that this node answers itself, beside that of the DNS.
    pub(crate) local_ips: Vec<Ipv4Addr>,
    /// Parent of everything that Fram makes in cgroups.
    pub(crate) cgroup_root: String,
    pub(crate) credential_providers: Arc<CredentialProviders>,
    /// What files say about the kubelet.
    pub(crate) kubelet: Configuration,
    /// What is said of registries; see [`registries`].
    pub(crate) registries: PathBuf,
    /// OCI runtimes by the handlers of RuntimeClasses.
    pub(crate) runtime_handlers: BTreeMap<String, PathBuf>,
    /// Of a runtime beside this program, which then runs the pods and attaches them to its own network.
    pub(crate) runtime_endpoint: Option<String>,
    /// Of its images, if that is another.
    pub(crate) image_endpoint: Option<String>,
}

/// The parts of a node that hold the kernel's side.
pub(crate) struct Node {
    pub(crate) config: NodeConfig,
    runtime: Arc<dyn RuntimeService>,
    images: Arc<dyn ImageService>,
    /// The images, where they are the built-in runtime's.
    store: Option<Arc<ImageStore>>,
    network: PodNetwork,
    proxy: Proxy,
    dns: DnsServer,
}

const RESOLV_CONF: &str = "/etc/resolv.conf";

impl Node {
    /// Opens what a node keeps on disk and takes up what still runs.
    pub(crate) async fn open(config: NodeConfig, sessions: Sessions) -> anyhow::Result<Self> {
        let data = config.data.clone();
        let network = PodNetwork::open(NetworkConfig {
            state_dir: data.join("network"),
            cluster_cidrs: vec![config.cluster_cidr],
            pod_cidr: None,
            node_ip: Some(config.ip),
            mtu: None,
            namespace: None,
        })
        .context("cannot set up the pod network")?;
        let dns_ip = IpAddr::V4(config.dns_ip);
        let local: Vec<IpAddr> = std::iter::once(dns_ip).chain(config.local_ips.iter().map(|ip| IpAddr::V4(*ip))).collect();
        for ip in &local {
            network.add_local_address(*ip).await.with_context(|| format!("cannot give the node the address {ip}"))?;
        }
        let proxy = Proxy::open(ProxyConfig {
            node_name: config.name.clone(),
            node_ips: vec![config.ip],
            pod_cidrs: vec![config.cluster_cidr],
            service_cidrs: vec![config.service_cidr],
            node_local_ips: local.clone(),
            namespace: None,
        })
        .context("cannot set up the service proxy")?;
        let resolv_conf = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
        let dns = DnsServer::bind(DnsConfig {
            addresses: vec![SocketAddr::new(dns_ip, 53)],
            upstreams: fram_dns::upstreams(&resolv_conf, &local),
            ..Default::default()
        })
        .await
        .context("cannot start the cluster's DNS")?;
        let (runtime, images, store): (Arc<dyn RuntimeService>, Arc<dyn ImageService>, _) = match &config.runtime_endpoint {
            None => {
                let runtime = runtime_config(&data, &config.cgroup_root, config.runtime_handlers.clone());
                let (runtime, images) = open_runtime(&data, runtime, config.registries.clone(), Arc::new(network.clone())).await?;
                release_unknown(&runtime, &network).await?;
                (Arc::new(runtime), images.clone(), Some(images))
            }
            Some(endpoint) => {
                let patience = config.kubelet.runtime_request_timeout();
                let runtime = RemoteRuntime::connect(endpoint, Arc::new(StreamClient::new(sessions)), patience).await?;
                let images = RemoteImages::new(config.image_endpoint.as_ref().unwrap_or(endpoint), patience)?;
                (Arc::new(runtime), Arc::new(images), None)
            }
        };
        Ok(Self { config, runtime, images, store, network, proxy, dns })
    }

    /// Starts what follows the cluster's Services, names and nodes.
    pub(crate) fn start(self, informers: SharedInformers, tasks: &TaskTracker, stop: &CancellationToken) -> Kernel {
        let dns_ips = vec![IpAddr::V4(self.config.dns_ip)];
        let zone_config = ZoneConfig { cluster_domain: self.config.cluster_domain.clone(), dns_ips, ..Default::default() };
        let (zone, zones) = watch::channel(Arc::new(Zone::new(zone_config.clone(), &[], &[])));
        let (dns, stop_dns) = (self.dns, stop.clone());
        tasks.spawn(async move {
            if let Err(error) = dns.run(zones, stop_dns).await {
                tracing::error!(%error, "the cluster's DNS ended");
            }
        });
        let followers = Arc::new(services::Followers {
            informers,
            proxy: self.proxy,
            zone,
            zone_config,
            network: self.network.clone(),
            node_name: self.config.name.clone(),
        });
        tasks.spawn(followers.clone().follow_services(stop.clone()));
        tasks.spawn(followers.follow_nodes(stop.clone()));
        Kernel { config: self.config, runtime: self.runtime, images: self.images }
    }
}

/// What the kubelet works with.
pub(crate) struct Kernel {
    config: NodeConfig,
    runtime: Arc<dyn RuntimeService>,
    images: Arc<dyn ImageService>,
}

/// Opens the built-in runtime with its images, and takes up what still runs.
pub(crate) async fn open_runtime(
    data: &Path,
    config: RuntimeConfig,
    registries: PathBuf,
    network: Arc<dyn SandboxNetwork>,
) -> anyhow::Result<(Runtime, Arc<ImageStore>)> {
    let registry = RegistryConfig { hosts_dir: Some(registries), ..RegistryConfig::default() };
    let images = ImageStoreConfig { registry, ..ImageStoreConfig::new(data.join("images")) };
    let images = Arc::new(ImageStore::open(images).context("cannot open the image store")?);
    let runtime = Runtime::open(config, images.clone(), network).await.context("cannot open the container runtime")?;
    Ok((runtime, images))
}

/// Where it is said how registries are reached.
pub(crate) fn registries(data: &Path, told: Option<&Path>) -> PathBuf {
    told.map_or_else(|| data.join("registries"), Path::to_path_buf)
}

/// A reboot takes sandboxes without their teardown; what they had is free again.
pub(crate) async fn release_unknown(runtime: &Runtime, network: &PodNetwork) -> anyhow::Result<()> {
    let known = runtime.list_pod_sandbox(&PodSandboxFilter::default()).await.context("cannot list sandboxes")?;
    let released = network.release_except(known.into_iter().map(|s| s.id).collect()).await.context("cannot release addresses")?;
    if released > 0 {
        tracing::info!(released, "addresses of sandboxes that are gone are free again");
    }
    Ok(())
}

/// The network of pods by plugins of others, with what it has attached in the data directory.
pub(crate) fn open_cni(data: &Path, conf_dir: PathBuf, bin_dirs: Vec<PathBuf>) -> anyhow::Result<CniNetwork> {
    let config = CniConfig { conf_dir, bin_dirs, state_dir: data.join(CNI) };
    CniNetwork::open(config).context("cannot open the network of CNI plugins")
}

const CNI: &str = "cni";

/// The kubelet's port, as upstream's.
const KUBELET_PORT: u16 = 10250;

/// With what the kubelet shows who it is, and knows who comes.
pub(crate) type Serving = watch::Receiver<Option<Arc<rustls::ServerConfig>>>;

/// Opens a node and prepares its kubelet, which runs the node's pods from `Kubelet::run` on.
pub(crate) async fn start(
    config: NodeConfig,
    client: Client,
    informers: SharedInformers,
    serving: Serving,
    desk: &Desk,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<Kubelet> {
    let node = Node::open(config, Sessions { tasks: tasks.clone(), stop: stop.clone(), idle: None }).await?;
    desk.set_node(&node.config.name, node.store.clone());
    let kernel = node.start(informers, tasks, stop);
    let mut config = kubelet_config(&kernel.config)?;
    impose_on_self(&config);
    let socket = if config.serve { bind_port(&config).await } else { None };
    if socket.is_none() {
        config.port = 0;
    }
    let kubelet_tls = config.serving_tls.clone();
    let kubelet = Kubelet::new(config, client, kernel.runtime, kernel.images, Arc::new(SystemClock))?;
    if let Some(socket) = socket {
        let serving = match &kubelet_tls.files {
            None => serving,
            Some(files) => serving::of_files(serving, files.clone(), tasks, stop)?,
        };
        tasks.spawn(kubelet.clone().serve_port(socket, serving, stop.clone()));
    }
    Ok(kubelet)
}

/// What a configuration says of this program itself. Where the machine does not let it, it goes on as it is.
fn impose_on_self(config: &KubeletConfig) {
    if let Some(score) = config.oom_score_adj
        && let Err(error) = std::fs::write("/proc/self/oom_score_adj", score.to_string())
    {
        tracing::warn!(score, %error, "oomScoreAdj could not be set");
    }
    if let Some(files) = config.max_open_files
        && let Err(error) = allow_files(files)
    {
        tracing::warn!(files, %error, "maxOpenFiles could not be set");
    }
}

/// The hard limit is never lowered, so that shims can have what this program had; see [`runtime_config`].
fn allow_files(files: u64) -> nix::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, files, hard.max(files))
}

/// The API server reaches the kubelet without its port: where another program has that, the node works all the same.
async fn bind_port(config: &KubeletConfig) -> Option<TcpListener> {
    let address = config.address.or(config.node_ips.first().copied()).map(|ip| SocketAddr::new(ip, config.port))?;
    match TcpListener::bind(address).await {
        Ok(socket) => Some(socket),
        Err(error) => {
            tracing::error!(%address, %error, "the kubelet's port is not served");
            None
        }
    }
}

fn kubelet_config(node: &NodeConfig) -> anyhow::Result<KubeletConfig> {
    let mut config = KubeletConfig {
        cluster_dns: vec![IpAddr::V4(node.dns_ip)],
        cluster_domain: node.cluster_domain.clone(),
        cgroup_root: node.cgroup_root.clone(),
        volumes_dir: Some(node.data.join("volumes")),
        static_pod_path: Some(node.data.join("manifests")),
        credential_providers: node.credential_providers.clone(),
        port: KUBELET_PORT,
        ..KubeletConfig::new(node.name.clone(), vec![node.ip], node.data.join("kubelet"), node.data.join("pods"))
    };
    node.kubelet.apply(&mut config)?;
    Ok(config)
}

/// The machine's name as node names are written: lower case.
pub(crate) fn host_name() -> anyhow::Result<String> {
    let name = nix::unistd::gethostname().context("cannot read the host name")?;
    Ok(name.to_string_lossy().to_lowercase())
}

/// Shims are beside their node's pods, and apart from those of another node on the same machine.
pub(crate) fn runtime_config(data: &Path, cgroup_root: &str, handlers: BTreeMap<String, PathBuf>) -> RuntimeConfig {
    let shim_cgroup = format!("{}-shim", cgroup_root.trim_end_matches('/'));
    // Before a kubelet's configuration allows this program more: containers get what it was started with.
    let open_files =
        getrlimit(Resource::RLIMIT_NOFILE).inspect_err(|error| tracing::warn!(%error, "the limit of open files is not known")).ok();
    RuntimeConfig { handlers, cgroup_root: cgroup_root.into(), shim_cgroup, open_files, ..RuntimeConfig::new(data.join("runtime")) }
}

/// Removes everything that nodes leave in the kernel and on disk.
pub(crate) async fn purge(data: &Path, cgroup_root: &str) -> anyhow::Result<()> {
    let images = Arc::new(ImageStore::open(ImageStoreConfig::new(data.join("images")))?);
    let network = PodNetwork::open(NetworkConfig {
        state_dir: data.join("network"),
        cluster_cidrs: Vec::new(),
        pod_cidr: None,
        node_ip: None,
        mtu: None,
        namespace: None,
    })?;
    let config = runtime_config(data, cgroup_root, BTreeMap::new());
    // What plugins have attached they take away; which ones is known of each sandbox.
    let attached: Arc<dyn SandboxNetwork> = match data.join(CNI).exists() {
        true => Arc::new(open_cni(data, PathBuf::new(), Vec::new())?),
        false => Arc::new(network.clone()),
    };
    let runtime = Runtime::open(config, images, attached).await?;
    runtime.purge().await?;
    network.purge().await?;
    Ok(())
}
