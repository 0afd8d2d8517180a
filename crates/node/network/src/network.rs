//! The pod network of a node: state, kernel handles and the order of steps. Implements CRI's sandbox network.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use fram_cri::{NetworkAttachment, NetworkError, PodSandboxNetworkStatus, Protocol, SandboxNetwork, SandboxNetworkConfig};
use fram_datapath::address::Cidr;
use fram_datapath::namespace::Namespace;
use fram_datapath::route::{Route, Vxlan};
use fram_datapath::{NetlinkError, conntrack, nft, purge, route, sysctl};
use tokio::sync::Mutex;

use crate::allocation::{AllocationError, Allocations, Pod};
use crate::attach::{self, Attachment};
use crate::peers::{self, Peer, Tunnel};
use crate::rules;

const DEFAULT_MTU: u32 = 1500;
const TUNNEL_LINK: &str = "fram-vxlan";
/// The group of links that wait for their deletion: "fram" as a number.
const DOOMED: u32 = 0x6672_616d;

#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error(transparent)]
    Allocation(#[from] AllocationError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error("sandbox attachment {0} is not supported by the built-in pod network")]
    Attachment(String),
    #[error("the network worker ended before its work was done: {0}")]
    Worker(String),
}

impl From<SetupError> for NetworkError {
    fn from(error: SetupError) -> Self {
        let text = error.to_string();
        match error {
            SetupError::Allocation(AllocationError::NoPodCidr) => Self::NotReady(text),
            SetupError::Allocation(AllocationError::Exhausted(_)) => Self::AddressesExhausted(text),
            SetupError::Allocation(AllocationError::PortInUse { .. }) => Self::PortInUse(text),
            _ => Self::Failed(text),
        }
    }
}

#[derive(Debug)]
pub struct NetworkConfig {
    /// Holds the allocation file.
    pub state_dir: PathBuf,
    /// The ranges of all pods in the cluster: what pods send elsewhere is masqueraded.
    pub cluster_cidrs: Vec<Cidr>,
    /// This node's range, if it is known already.
    pub pod_cidr: Option<Cidr>,
    /// The node's own address, as other nodes and its pods see it.
    pub node_ip: Option<IpAddr>,
    /// Of the pods' interfaces; otherwise that of the link towards the world, less what an overlay takes.
    pub mtu: Option<u32>,
    /// The node's network namespace, if it is not that of this process.
    pub namespace: Option<Namespace>,
}

/// VXLAN between the nodes. All nodes must agree on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overlay {
    pub id: u32,
    pub port: u16,
}

impl Default for Overlay {
    fn default() -> Self {
        Self { id: 1, port: 8472 }
    }
}

/// Cheap to clone.
#[derive(Clone)]
pub struct PodNetwork {
    inner: Arc<Inner>,
}

struct Inner {
    config: NetworkConfig,
    overlay: Option<Overlay>,
    mtu: u32,
    // One lock for state and kernel, so that the table always says what the file says.
    state: Mutex<State>,
    /// Held while doomed links are deleted: those that are doomed meanwhile go together in the next round.
    reaper: Mutex<route::Handle>,
}

struct State {
    allocations: Allocations,
    nft: nft::Handle,
    route: route::Handle,
    /// As they were last set.
    peers: Vec<Peer>,
    /// Addresses that the node has for its own pods.
    local: BTreeSet<IpAddr>,
    /// Addresses of load balancers of which the neighbours were told.
    announced: BTreeSet<IpAddr>,
}

impl PodNetwork {
    /// Opens the state, prepares the node and rebuilds the table from the state; all nodes have to share a network segment.
    /// Blocks; fails if the kernel refuses.
    pub fn open(config: NetworkConfig) -> Result<Self, SetupError> {
        Self::with_overlay(config, None)
    }

    /// Like [`Self::open`], with tunnels to nodes that may be beyond routers. They need to know the node's own address.
    pub fn with_overlay(config: NetworkConfig, overlay: Option<Overlay>) -> Result<Self, SetupError> {
        let io = |source| AllocationError::Io { operation: "create folder", path: config.state_dir.clone(), source };
        std::fs::create_dir_all(&config.state_dir).map_err(io)?;
        let mut allocations = Allocations::load(&config.state_dir.join("allocations.json"))?;
        if let Some(cidr) = config.pod_cidr {
            allocations.set_pod_cidr(cidr)?;
        }
        let (nft, mut route, mut reaper) = config.within(|| {
            sysctl::set("ipv4/ip_forward", "1")?;
            Ok((nft::Handle::open()?, route::Handle::open()?, route::Handle::open()?))
        })?;
        reaper.delete_group(DOOMED)?;
        let overhead = if overlay.is_some() { route::VXLAN_OVERHEAD } else { 0 };
        let mtu = config.mtu.unwrap_or_else(|| world_mtu(&mut route).unwrap_or(DEFAULT_MTU).saturating_sub(overhead));
        let mut state = State { allocations, nft, route, peers: Vec::new(), local: BTreeSet::new(), announced: BTreeSet::new() };
        state.refuse_unassigned()?;
        state.rebuild(&config.cluster_cidrs)?;
        let (state, reaper) = (Mutex::new(state), Mutex::new(reaper));
        Ok(Self { inner: Arc::new(Inner { config, overlay, mtu, state, reaper }) })
    }

    /// Makes the routes lead to these nodes and no others. Gives those that cannot be reached directly, with the reason.
    pub async fn set_peers(&self, peers: Vec<Peer>) -> Result<Vec<(Cidr, String)>, SetupError> {
        self.blocking(move |inner, state| {
            state.peers = peers;
            inner.connect_peers(state)
        })
        .await
    }

    /// Releases what sandboxes have that nobody knows any more, as after a crash between two steps of theirs.
    pub async fn release_except(&self, known: Vec<String>) -> Result<usize, SetupError> {
        let released = self
            .blocking(move |inner, state| {
                let lost: Vec<_> = state.allocations.pods().map(|(id, _)| id.clone()).filter(|id| !known.contains(id)).collect();
                for sandbox in &lost {
                    inner.detach(state, sandbox)?;
                }
                Ok(lost.len())
            })
            .await?;
        self.reap().await?;
        Ok(released)
    }

    /// Deletes the links that were doomed until now. When it returns, those of the caller are gone, by whosever hand.
    async fn reap(&self) -> Result<(), SetupError> {
        let inner = self.inner.clone();
        let run = move || inner.reaper.blocking_lock().delete_group(DOOMED);
        tokio::task::spawn_blocking(run).await.map_err(|e| SetupError::Worker(e.to_string()))??;
        Ok(())
    }

    /// Gives the node an address of the Service range, for what it serves to its own pods (cluster DNS). Idempotent.
    pub async fn add_local_address(&self, ip: IpAddr) -> Result<(), SetupError> {
        self.blocking(move |inner, state| {
            inner.config.within(|| attach::add_local_address(&mut state.route, ip))?;
            state.local.insert(ip);
            Ok(())
        })
        .await
    }

    /// Has the node answer for these addresses of load balancers and no others, and tells its neighbours of those that are new. What
    /// an earlier process left is found in the kernel.
    pub async fn hold_addresses(&self, wanted: BTreeSet<IpAddr>) -> Result<(), SetupError> {
        self.blocking(move |inner, state| {
            let held = inner.config.within(|| attach::local_addresses(&mut state.route))?;
            for gone in held.iter().filter(|ip| !wanted.contains(*ip) && !state.local.contains(*ip)) {
                inner.config.within(|| attach::delete_local_address(&mut state.route, *gone))?;
            }
            state.announced.retain(|ip| wanted.contains(ip));
            // One that fails does not keep the others from being had.
            let mut outcome = Ok(());
            for ip in wanted.difference(&state.announced.clone()) {
                let hold = inner.config.within(|| {
                    if !held.contains(ip) {
                        attach::add_local_address(&mut state.route, *ip)?;
                    }
                    inner.config.node_ip.map_or(Ok(()), |own| attach::announce(&mut state.route, own, *ip))
                });
                match hold {
                    Ok(()) => drop(state.announced.insert(*ip)),
                    Err(error) => outcome = outcome.and(Err(error.into())),
                }
            }
            outcome
        })
        .await
    }

    /// Removes everything of Fram's from the node's network, that of pods that still run included.
    pub async fn purge(&self) -> Result<purge::Counts, SetupError> {
        self.blocking(|inner, _| Ok(inner.config.within(purge::purge)?)).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner, &mut State) -> Result<T, SetupError> + Send + 'static,
    ) -> Result<T, SetupError> {
        let inner = self.inner.clone();
        let run = move || work(&inner, &mut inner.state.blocking_lock());
        tokio::task::spawn_blocking(run).await.map_err(|e| SetupError::Worker(e.to_string()))?
    }
}

impl NetworkConfig {
    /// Runs in the node's network namespace.
    fn within<T: Send>(&self, work: impl FnOnce() -> Result<T, NetlinkError> + Send) -> Result<T, NetlinkError> {
        match &self.namespace {
            Some(namespace) => namespace.run(work),
            None => work(),
        }
    }
}

/// What a veth can have; see the kernel's IP_MAX_MTU.
const MOST_MTU: u32 = 65_535;

/// The MTU of the link that leads out, if there is one.
fn world_mtu(route: &mut route::Handle) -> Option<u32> {
    let anywhere = IpAddr::from([192, 0, 2, 1]);
    let link = route.link_towards(anywhere).ok()??.link?;
    // Loopback, which leads out where the node has that address itself, takes one byte more than a veth.
    route.links().ok()?.into_iter().find(|l| l.index == link).map(|l| l.mtu.min(MOST_MTU))
}

impl State {
    /// Addresses of this node's range that no pod has are refused at once, instead of wandering to the default gateway.
    fn refuse_unassigned(&mut self) -> Result<(), NetlinkError> {
        let wanted = self.allocations.pod_cidr();
        for old in self.route.routes()?.iter().filter(|r| r.unreachable && Some(r.destination) != wanted) {
            self.route.delete_route(old)?;
        }
        wanted.map_or(Ok(()), |cidr| self.route.replace_route(&Route::unreachable(cidr)))
    }

    fn rebuild(&mut self, cluster_cidrs: &[Cidr]) -> Result<(), NetlinkError> {
        let pods = self.allocations.pods().map(|(_, pod)| pod);
        let batch = rules::rebuild(self.allocations.pod_cidr(), cluster_cidrs, pods);
        self.nft.commit(batch)
    }
}

impl Inner {
    /// Makes routes (and the tunnel, if there is to be one) lead to the known peers.
    fn connect_peers(&self, state: &mut State) -> Result<Vec<(Cidr, String)>, SetupError> {
        let tunnel = self.tunnel(state)?;
        if let Some(tunnel) = tunnel {
            for peer in &state.peers {
                let mac = peers::tunnel_mac(peer.node_ip);
                state.route.replace_forwarding(tunnel.link, mac, peer.node_ip)?;
                for cidr in peer.pod_cidrs.iter().filter(|cidr| cidr.address().is_ipv4() == tunnel.own.is_ipv4()) {
                    state.route.replace_neighbour(tunnel.link, peers::tunnel_address(*cidr), mac)?;
                }
            }
        }
        let changes = peers::plan(&state.peers, tunnel, &state.route.routes()?);
        for route in &changes.delete {
            state.route.delete_route(route)?;
        }
        let mut unreachable = Vec::new();
        for route in &changes.add {
            if let Err(error) = state.route.replace_route(route) {
                unreachable.push((route.destination, error.to_string()));
            }
        }
        Ok(unreachable)
    }

    /// The tunnel's link, made if it is not there; entries for nodes that are gone stay in it, where no route leads.
    fn tunnel(&self, state: &mut State) -> Result<Option<Tunnel>, SetupError> {
        let (Some(overlay), Some(cidr), Some(local)) = (self.overlay, state.allocations.pod_cidr(), self.config.node_ip) else {
            return Ok(None);
        };
        if state.route.link(TUNNEL_LINK)?.is_none() {
            let (mac, mtu) = (peers::tunnel_mac(local), self.mtu);
            state.route.create_vxlan(&Vxlan { name: TUNNEL_LINK, mac, mtu, id: overlay.id, port: overlay.port, local })?;
        }
        let Some(link) = state.route.link(TUNNEL_LINK)? else { return Ok(None) };
        let own = peers::tunnel_address(cidr);
        state.route.add_address(link.index, own, Cidr::host(own).prefix_length())?;
        state.route.set_up(link.index)?;
        Ok(Some(Tunnel { link: link.index, own }))
    }

    fn save(&self, state: &State) -> Result<(), AllocationError> {
        state.allocations.save(&self.config.state_dir.join("allocations.json"))
    }

    fn attach(&self, state: &mut State, config: &SandboxNetworkConfig) -> Result<IpAddr, SetupError> {
        let NetworkAttachment::Namespace(path) = &config.attachment else {
            return Err(SetupError::Attachment(format!("{:?}", config.attachment)));
        };
        let sandbox = &config.pod_sandbox_id;
        if let Some(pod) = state.allocations.pod(sandbox).cloned()
            && state.route.link(&pod.link)?.is_some_and(|link| link.up)
        {
            return Ok(pod.ip);
        }
        let namespace = Namespace::open(path)?;
        let fresh = state.allocations.pod(sandbox).is_none();
        let name = format!("{}/{}", config.metadata.namespace, config.metadata.name);
        let pod = state.allocations.allocate(sandbox, &name, &config.port_mappings)?;
        // On disk before anything carries the address: after a crash it is still known to be taken.
        let result = self.save(state).map_err(SetupError::from).and_then(|()| self.wire(state, &namespace, &pod, fresh));
        if let Err(error) = result {
            self.detach(state, sandbox)?;
            return Err(error);
        }
        Ok(pod.ip)
    }

    fn wire(&self, state: &mut State, namespace: &Namespace, pod: &Pod, fresh: bool) -> Result<(), SetupError> {
        let attachment = Attachment { ip: pod.ip, link: &pod.link, mtu: self.mtu, node_ip: self.config.node_ip };
        attach::create(&mut state.route, namespace, &attachment)?;
        namespace.run(|| attach::configure_pod(pod.ip))?;
        self.config.within(|| attach::configure_node_link(&pod.link))?;
        attach::configure_node(&mut state.route, &attachment)?;
        if fresh {
            let mut batch = nft::Batch::new();
            rules::add_pod(&mut batch, pod);
            state.nft.commit(batch)?;
        }
        self.forget_flows(pod)
    }

    fn detach(&self, state: &mut State, sandbox: &str) -> Result<(), SetupError> {
        let Some(pod) = state.allocations.pod(sandbox).cloned() else { return Ok(()) };
        let mut batch = nft::Batch::new();
        rules::remove_pod(&mut batch, &pod);
        // Nothing is sent to the pod from here on; its link is deleted by `reap`, together with others.
        state.route.delete_route(&Route::to(Cidr::host(pod.ip)))?;
        state.route.set_group(&pod.link, DOOMED)?;
        state.allocations.release(sandbox);
        if let Err(error) = state.nft.commit(batch) {
            // Some element was not there, or someone deleted the table: make it say what is allocated now.
            tracing::debug!(%error, "rebuilding the pod network's table");
            state.rebuild(&self.config.cluster_cidrs)?;
        }
        self.forget_flows(&pod)?;
        Ok(self.save(state)?)
    }

    /// UDP flows to a host port would go on to where they went before.
    fn forget_flows(&self, pod: &Pod) -> Result<(), SetupError> {
        let ports: Vec<u16> = pod.ports.iter().filter(|p| p.protocol == Protocol::Udp).map(|p| p.host_port).collect();
        if ports.is_empty() {
            return Ok(());
        }
        self.config.within(|| {
            let mut handle = conntrack::Handle::open()?;
            let flows = handle.list(libc::IPPROTO_UDP as u8, |c| ports.contains(&c.original.destination_port))?;
            flows.iter().try_for_each(|flow| handle.delete(flow).map(drop))
        })?;
        Ok(())
    }
}

#[async_trait]
impl SandboxNetwork for PodNetwork {
    async fn ready(&self) -> Result<(), NetworkError> {
        match self.inner.state.lock().await.allocations.pod_cidr() {
            Some(_) => Ok(()),
            None => Err(SetupError::from(AllocationError::NoPodCidr).into()),
        }
    }

    async fn setup(&self, config: &SandboxNetworkConfig) -> Result<PodSandboxNetworkStatus, NetworkError> {
        let config = config.clone();
        match self.blocking(move |inner, state| inner.attach(state, &config)).await {
            Ok(ip) => Ok(PodSandboxNetworkStatus::from_ips([ip])),
            Err(error) => {
                self.reap().await?;
                Err(error.into())
            }
        }
    }

    async fn teardown(&self, config: &SandboxNetworkConfig) -> Result<(), NetworkError> {
        let sandbox = config.pod_sandbox_id.clone();
        self.blocking(move |inner, state| inner.detach(state, &sandbox)).await?;
        Ok(self.reap().await?)
    }

    async fn status(&self, pod_sandbox_id: &str) -> Result<Option<PodSandboxNetworkStatus>, NetworkError> {
        let state = self.inner.state.lock().await;
        Ok(state.allocations.pod(pod_sandbox_id).map(|pod| PodSandboxNetworkStatus::from_ips([pod.ip])))
    }

    async fn update_pod_cidr(&self, pod_cidr: &str) -> Result<(), NetworkError> {
        // The kubelet gives one range per family, separated by commas.
        let ranges = pod_cidr.split(',').map(|text| text.trim().parse::<Cidr>());
        let ranges = ranges.collect::<Result<Vec<_>, _>>().map_err(|e| NetworkError::Failed(e.to_string()))?;
        let Some(cidr) = ranges.into_iter().find(|cidr| cidr.address().is_ipv4()) else {
            return Err(NetworkError::Failed(format!("no IPv4 range in {pod_cidr:?}")));
        };
        let update = self.blocking(move |inner, state| {
            if state.allocations.pod_cidr() == Some(cidr) {
                return Ok(());
            }
            state.allocations.set_pod_cidr(cidr)?;
            inner.save(state)?;
            state.refuse_unassigned()?;
            state.rebuild(&inner.config.cluster_cidrs)?;
            inner.connect_peers(state).map(drop)
        });
        Ok(update.await?)
    }
}
