//! The proxy of a node: plans, commits the difference, forgets flows and clients that lost their endpoint. The kernel's own
//! state is never read to decide; if it turns out to differ, the table is rebuilt.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use fram_datapath::address::Cidr;
use fram_datapath::namespace::Namespace;
use fram_datapath::route::{self, Route};
use fram_datapath::{NetlinkError, conntrack, nft, sysctl};
use tokio::sync::Mutex;

use crate::diff::{self, Chains};
use crate::flows;
use crate::plan::{Desired, Planner};
use crate::rules;
use crate::service::{EndpointSlice, Service};

#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error("the proxy's worker ended before its work was done: {0}")]
    Worker(String),
}

#[derive(Debug)]
pub struct ProxyConfig {
    pub node_name: String,
    /// The addresses that node ports listen on: as in upstream's nftables mode, the node's primary ones.
    pub node_ips: Vec<IpAddr>,
    /// The ranges of all pods in the cluster.
    pub pod_cidrs: Vec<Cidr>,
    /// The ranges of Services' addresses: what goes to one that no Service has is refused.
    pub service_cidrs: Vec<Cidr>,
    /// Service addresses that this node serves itself (cluster DNS): no Service in the API changes where they lead.
    pub node_local_ips: Vec<IpAddr>,
    /// The node's network namespace, if it is not that of this process.
    pub namespace: Option<Namespace>,
}

/// What an application of Services did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// The table was made anew.
    pub rebuilt: bool,
    /// Bytes of netlink messages; zero if nothing changed.
    pub bytes: usize,
    /// UDP flows that were forgotten.
    pub flows: usize,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Proxy {
    inner: Arc<Inner>,
}

struct Inner {
    config: ProxyConfig,
    state: Mutex<State>,
}

struct State {
    planner: Planner,
    /// `None` until the table is known to be ours.
    chains: Option<Chains>,
    nft: nft::Handle,
    conntrack: conntrack::Handle,
}

impl Proxy {
    /// Opens the kernel's interfaces; the table is made by the first [`Self::apply`], so that after a restart the old one serves
    /// until the new one is complete.
    pub fn open(config: ProxyConfig) -> Result<Self, ProxyError> {
        let open = || {
            sysctl::set("ipv4/ip_forward", "1")?;
            add_service_routes(&config)?;
            Ok((nft::Handle::open()?, conntrack::Handle::open()?))
        };
        let (nft, conntrack) = match &config.namespace {
            Some(namespace) => namespace.run(open)?,
            None => open()?,
        };
        let planner = Planner::new(&config.node_name, config.node_ips.clone(), config.node_local_ips.clone());
        let state = Mutex::new(State { planner, chains: None, nft, conntrack });
        Ok(Self { inner: Arc::new(Inner { config, state }) })
    }

    pub(crate) fn config(&self) -> &ProxyConfig {
        &self.inner.config
    }

    /// Makes the kernel serve exactly these Services.
    pub async fn apply(&self, services: Vec<Service>, slices: Vec<EndpointSlice>) -> Result<Applied, ProxyError> {
        let inner = self.inner.clone();
        let work = move || inner.state.blocking_lock().apply(&services, &slices, &inner.config);
        tokio::task::spawn_blocking(work).await.map_err(|e| ProxyError::Worker(e.to_string()))?
    }
}

/// What the table's fixed rules depend on.
fn node(config: &ProxyConfig) -> rules::Node<'_> {
    rules::Node { pod_cidrs: &config.pod_cidrs, service_cidrs: &config.service_cidrs, local_ips: &config.node_local_ips }
}

/// A node without a default route could not even begin to send to a Service: the route is looked up before the destination
/// is translated. Any route will do then, and this one also says which source address to take.
fn add_service_routes(config: &ProxyConfig) -> Result<(), NetlinkError> {
    let mut handle = route::Handle::open()?;
    for cidr in config.service_cidrs.iter().filter(|cidr| cidr.address().is_ipv4()) {
        if handle.link_towards(cidr.address()).is_ok() {
            continue;
        }
        if let Some(loopback) = handle.link("lo")? {
            let source = config.node_ips.iter().copied().find(|ip| ip.is_ipv4() == cidr.address().is_ipv4());
            handle.replace_route(&Route { source, ..Route::direct(*cidr, loopback.index) })?;
        }
    }
    Ok(())
}

impl State {
    fn apply(&mut self, services: &[Service], slices: &[EndpointSlice], config: &ProxyConfig) -> Result<Applied, ProxyError> {
        let (new, old) = self.planner.plan(services, slices);
        let mut applied = self.commit(&old, &new, config)?;
        self.forget_clients(&old, &new)?;
        applied.flows = self.forget_flows(&old, &new)?;
        Ok(applied)
    }

    fn commit(&mut self, old: &Desired, new: &Desired, config: &ProxyConfig) -> Result<Applied, NetlinkError> {
        if let Some(mut chains) = self.chains.take() {
            let mut batch = nft::Batch::new();
            diff::update(&mut batch, &mut chains, old, new);
            let bytes = batch.size();
            match self.nft.commit(batch) {
                Ok(()) => {
                    self.chains = Some(chains);
                    return Ok(Applied { bytes, ..Applied::default() });
                }
                // Someone else changed the table, or deleted it.
                Err(error) => tracing::warn!(%error, "rebuilding the table of Services"),
            }
        }
        let (batch, chains) = diff::rebuild(new, &node(config));
        let bytes = batch.size();
        self.nft.commit(batch)?;
        self.chains = Some(chains);
        Ok(Applied { rebuilt: true, bytes, flows: 0 })
    }

    /// Clients that stick to a slot which leads elsewhere now choose anew.
    fn forget_clients(&mut self, old: &Desired, new: &Desired) -> Result<(), NetlinkError> {
        let moved = diff::moved_slots(old, new);
        let sets: BTreeSet<_> = moved.iter().map(|(side, slot, _)| (*side, *slot)).collect();
        for (side, slot) in sets {
            let here = moved.iter().filter(|(s, n, _)| (*s, *n) == (side, slot));
            let frontends: BTreeSet<_> = here.map(|(_, _, frontend)| rules::frontend_key(frontend)).collect();
            let (table, set) = (rules::table(), rules::clients(side, slot));
            let clients = self.nft.elements(&table, &set)?.into_iter().map(|(key, _)| key);
            // One by one: an element may time out in between, which must not spare the others.
            for key in clients.filter(|key| frontends.contains(rules::frontend_of_client(key))) {
                let mut batch = nft::Batch::new();
                batch.delete_elements(&table, &set, [key]);
                match self.nft.commit(batch) {
                    Err(error) if !error.is_absent() => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn forget_flows(&mut self, old: &Desired, new: &Desired) -> Result<usize, NetlinkError> {
        let changed = flows::changed(old, new);
        if changed.is_empty() {
            return Ok(0);
        }
        let stale = self.conntrack.list(libc::IPPROTO_UDP as u8, |flow| flows::is_stale(flow, &changed, new))?;
        for flow in &stale {
            self.conntrack.delete(flow)?;
        }
        Ok(stale.len())
    }
}
