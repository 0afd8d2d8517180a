//! Devices of plugins (v1beta1): plugins register on a socket and tell of their devices; pods get some when they are taken in, and
//! the plugin prepares them before a container starts. Who gets which is decided in `table`. See upstream's
//! pkg/kubelet/cm/devicemanager.

pub(crate) mod messages;
pub(crate) mod pod_resources;
pub(crate) mod registration;
pub(crate) mod table;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fram_cri::{ContainerConfig, KeyValue, Mount};
use fram_grpc::message::Message;
use fram_grpc::{ConnectError, GrpcError, UnixEndpoint};
use fram_machinery::{Value, json, meta};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::durable::{self, DurableError, Flush};
use crate::pod;
use crate::resource::Affinities;
use crate::resource::cpuset::CpuSet;
use crate::resource::topology::Hints;
use messages::{
    AllocateRequest, AllocateResponse, ContainerAllocateResponse, DeviceIds, DevicePluginOptions, Empty, ListAndWatchResponse,
    PreferredAllocationRequest, PreferredAllocationResponse, PreferredRequest,
};
use table::{Known, Place, Table};

/// Upstream's kubelet_internal_checkpoint, beside the sockets of plugins.
const CHECKPOINT: &str = "kubelet_internal_checkpoint";
/// Why a pod cannot come in for which nobody can be blamed.
pub(crate) const ADMISSION_ERROR: &str = "UnexpectedAdmissionError";
const SERVICE: &str = "/v1beta1.DevicePlugin";
/// So long the node keeps the capacity of a resource without plugin; upstream's endpointStopGracePeriod.
const GONE: Duration = Duration::from_secs(300);
/// A plugin with ten thousand devices says no more than this.
const MAX_MESSAGE: usize = 16 << 20;

#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceError {
    #[error(transparent)]
    Durable(#[from] DurableError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Call(#[from] GrpcError),
    #[error("the answer of the plugin of {0} is malformed")]
    Malformed(String),
    #[error("no healthy devices present; cannot allocate unhealthy devices {0}")]
    NoPlugin(String),
}

impl DeviceError {
    /// Whether a plugin has answered, and said no.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Call(GrpcError::Status { .. }))
    }
}

/// A plugin that is connected.
struct Plugin {
    endpoint: Arc<UnixEndpoint>,
    options: DevicePluginOptions,
    /// Ends the task that follows it.
    stop: CancellationToken,
}

#[derive(Default)]
struct State {
    table: Table,
    /// What plugins answered, encoded: a container that starts again gets the same.
    prepared: BTreeMap<Place, Vec<u8>>,
    plugins: HashMap<String, Plugin>,
    /// Since when resources have had no plugin.
    gone: HashMap<String, Instant>,
}

pub(crate) struct DeviceManager {
    dir: PathBuf,
    state: Mutex<State>,
    /// Counts changes of what there is.
    changes: watch::Sender<u64>,
}

impl DeviceManager {
    /// Takes up who had what.
    pub(crate) fn open(root: &Path) -> Self {
        let dir = root.join("device-plugins");
        let known = std::fs::read(dir.join(CHECKPOINT)).ok();
        let document = known
            .and_then(|bytes| json::from_slice(&bytes).map_err(|error| tracing::error!(%error, "the devices' checkpoint is damaged")).ok());
        let (table, prepared) = document.map(|d| table::recall(&d)).unwrap_or_default();
        let gone = table.known.keys().map(|resource| (resource.clone(), Instant::now())).collect();
        Self { dir, state: Mutex::new(State { table, prepared, plugins: HashMap::new(), gone }), changes: watch::Sender::new(0) }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// How many devices there are and how many are healthy, by resource; none of one whose plugin has been gone for long.
    pub(crate) fn amounts(&self) -> BTreeMap<String, (usize, usize)> {
        let state = self.state.lock();
        let mut amounts = state.table.amounts();
        for (resource, _) in state.gone.iter().filter(|(_, since)| since.elapsed() >= GONE) {
            amounts.entry(resource.clone()).and_modify(|amount| *amount = (0, 0));
        }
        amounts
    }

    /// How the devices of a container are, as its status tells it; see UpdateAllocatedResourcesStatus.
    pub(crate) fn health_of(&self, uid: &str, container: &str) -> Vec<Value> {
        self.state.lock().table.health_of(uid, container)
    }

    /// The pods that have devices.
    pub(crate) fn holders(&self) -> BTreeSet<String> {
        self.state.lock().table.held.keys().map(|(uid, ..)| uid.clone()).collect()
    }

    pub(crate) fn table(&self) -> Table {
        self.state.lock().table.clone()
    }

    pub(crate) fn hints(&self, container: &Value, nodes: &CpuSet) -> Vec<Hints> {
        self.state.lock().table.hints(container, nodes)
    }

    /// Reserves what a pod asks for, or says why it cannot be taken in. What it has already, it keeps.
    pub(crate) fn reserve(&self, pod: &Value, affinity: &Affinities) -> Result<(), crate::admit::Rejection> {
        let unexpected =
            |why: String| (ADMISSION_ERROR.to_string(), format!("Pod was rejected: Allocate failed due to {why}, which is unexpected"));
        let mut state = self.state.lock();
        let uid = meta::uid(pod);
        if state.table.held.keys().any(|(of, _, _)| of == uid) {
            return Ok(());
        }
        let nodes = |name: &str| affinity.get(name).and_then(|h| h.nodes.clone());
        if state.table.reserve(pod, nodes).map_err(|error| unexpected(error.to_string()))? {
            self.write(&state).map_err(|error| {
                state.table.release(uid);
                unexpected(error.to_string())
            })?;
        }
        Ok(())
    }

    pub(crate) fn release(&self, uid: &str) {
        let mut state = self.state.lock();
        if state.table.release(uid) {
            state.prepared.retain(|(of, _, _), _| of != uid);
            if let Err(error) = self.write(&state) {
                tracing::warn!(%error, "devices that were given back could not be written down");
            }
        }
    }

    /// Gives back what pods had that no longer exist.
    pub(crate) fn keep(&self, known: &HashSet<String>) {
        let gone: BTreeSet<String> =
            self.state.lock().table.held.keys().map(|(uid, ..)| uid.clone()).filter(|uid| !known.contains(uid)).collect();
        gone.iter().for_each(|uid| self.release(uid));
    }

    fn write(&self, state: &State) -> Result<(), DeviceError> {
        let document = table::document(&state.table, &state.prepared);
        Ok(durable::replace(&self.dir.join(CHECKPOINT), &json::to_vec(&document), Flush::Yes)?)
    }

    /// Has the plugins prepare what a container has, and lays their answers over its configuration.
    pub(crate) async fn prepare(&self, uid: &str, container: &str, config: &mut ContainerConfig) -> Result<(), DeviceError> {
        let own = |(of, name, _): &&Place| of == uid && name == container;
        let places: Vec<Place> = self.state.lock().table.held.keys().filter(own).cloned().collect();
        for place in places {
            let answer = self.prepare_one(&place).await?;
            lay_over(&answer, config);
        }
        Ok(())
    }

    /// Has the plugins give what a pod was reserved and they have not given yet. What a plugin refuses, the pod cannot run without.
    pub(crate) async fn allocate(&self, uid: &str) -> Result<(), DeviceError> {
        let places: Vec<Place> = {
            let state = self.state.lock();
            let own = state.table.held.keys().filter(|(of, ..)| of == uid);
            // One without its plugin is told of when its container starts.
            own.filter(|place| !state.prepared.contains_key(*place) && state.plugins.contains_key(&place.2)).cloned().collect()
        };
        for place in places {
            self.answer(&place).await?;
        }
        Ok(())
    }

    async fn prepare_one(&self, place: &Place) -> Result<ContainerAllocateResponse, DeviceError> {
        let answer = self.answer(place).await?;
        let plugin = self.state.lock().plugins.get(&place.2).map(|p| (p.endpoint.clone(), p.options.pre_start_required));
        if let Some((endpoint, true)) = plugin {
            let request = DeviceIds { ids: self.ids(place) };
            endpoint.channel().await?.unary(&format!("{SERVICE}/PreStartContainer"), &request.encode()).await?;
        }
        Ok(answer)
    }

    /// What the plugin of a resource gives a container: what it gave before, or what it says now.
    async fn answer(&self, place: &Place) -> Result<ContainerAllocateResponse, DeviceError> {
        let malformed = || DeviceError::Malformed(place.2.clone());
        let (plugin, known) = {
            let state = self.state.lock();
            (state.plugins.get(&place.2).map(|p| (p.endpoint.clone(), p.options.clone())), state.prepared.get(place).cloned())
        };
        if let Some(bytes) = known {
            return ContainerAllocateResponse::decode(&bytes).map_err(|_| malformed());
        }
        let (endpoint, options) = plugin.ok_or_else(|| DeviceError::NoPlugin(place.2.clone()))?;
        let channel = endpoint.channel().await?;
        if options.get_preferred_allocation_available {
            self.exchange_for_preferred(place, &channel).await;
        }
        let request = AllocateRequest { containers: vec![DeviceIds { ids: self.ids(place) }] };
        let bytes = channel.unary(&format!("{SERVICE}/Allocate"), &request.encode()).await?;
        let answer = AllocateResponse::decode(&bytes).map_err(|_| malformed())?;
        let answer = answer.containers.into_iter().next().ok_or_else(malformed)?;
        let mut state = self.state.lock();
        // A pod that was given up meanwhile has nothing any more.
        if state.table.held.contains_key(place) {
            state.prepared.insert(place.clone(), answer.encode());
            self.write(&state)?;
        }
        Ok(answer)
    }

    fn ids(&self, place: &Place) -> Vec<String> {
        self.state.lock().table.held.get(place).into_iter().flatten().cloned().collect()
    }

    /// Asks the plugin which devices go well together. It is only asked: what it says counts where it can be had.
    async fn exchange_for_preferred(&self, place: &Place, channel: &fram_grpc::Channel) {
        let own = self.ids(place);
        let mut available: Vec<String> = self.state.lock().table.free(&place.2).into_iter().collect();
        available.extend(own.iter().cloned());
        let size = i32::try_from(own.len()).unwrap_or(i32::MAX);
        let request = PreferredAllocationRequest { containers: vec![PreferredRequest { available, must_include: Vec::new(), size }] };
        let answer = channel.unary(&format!("{SERVICE}/GetPreferredAllocation"), &request.encode()).await;
        let preferred =
            answer.ok().and_then(|bytes| PreferredAllocationResponse::decode(&bytes).ok()).and_then(|r| r.containers.into_iter().next());
        if let Some(preferred) = preferred {
            let mut state = self.state.lock();
            if state.table.exchange(place, preferred.ids.into_iter().collect())
                && let Err(error) = self.write(&state)
            {
                tracing::warn!(%error, "a preferred allocation could not be written down");
            }
        }
    }

    /// Connects a plugin and follows its devices until it ends, is replaced, or `stop`.
    pub(crate) async fn follow(self: Arc<Self>, resource: String, socket: PathBuf, stop: CancellationToken) {
        let endpoint = Arc::new(UnixEndpoint::new(socket.clone(), MAX_MESSAGE));
        let own = stop.child_token();
        let outcome = own.run_until_cancelled(self.stream(&resource, &endpoint, &own)).await;
        if let Some(Err(error)) = outcome {
            tracing::warn!(resource, ?socket, %error, "a device plugin is gone");
        }
        self.forget_plugin(resource, &endpoint);
        if stop.run_until_cancelled(tokio::time::sleep(GONE)).await.is_some() {
            self.changes.send_modify(|n| *n += 1);
        }
    }

    /// Its devices stay with those who have them; nobody gets one until it is back.
    fn forget_plugin(&self, resource: String, endpoint: &Arc<UnixEndpoint>) {
        let mut state = self.state.lock();
        if state.plugins.get(&resource).is_some_and(|p| Arc::ptr_eq(&p.endpoint, endpoint)) {
            state.plugins.remove(&resource);
            state.table.known.entry(resource.clone()).or_default().values_mut().for_each(|d| d.healthy = false);
            state.gone.insert(resource, Instant::now());
        }
        drop(state);
        self.changes.send_modify(|n| *n += 1);
    }

    async fn stream(&self, resource: &str, endpoint: &Arc<UnixEndpoint>, stop: &CancellationToken) -> Result<(), DeviceError> {
        let channel = endpoint.channel().await?;
        let bytes = channel.unary(&format!("{SERVICE}/GetDevicePluginOptions"), &Empty {}.encode()).await?;
        let options = DevicePluginOptions::decode(&bytes).map_err(|_| DeviceError::Malformed(resource.to_string()))?;
        let mut incoming = channel.listen(&format!("{SERVICE}/ListAndWatch"), &Empty {}.encode()).await?;
        let plugin = Plugin { endpoint: endpoint.clone(), options, stop: stop.clone() };
        // The newest plugin of a resource counts.
        let before = {
            let mut state = self.state.lock();
            state.gone.remove(resource);
            state.plugins.insert(resource.to_string(), plugin)
        };
        if let Some(before) = before {
            before.stop.cancel();
        }
        while let Some(bytes) = incoming.next().await? {
            let told = ListAndWatchResponse::decode(&bytes).map_err(|_| DeviceError::Malformed(resource.to_string()))?;
            self.tell(resource, told);
        }
        Ok(())
    }

    fn tell(&self, resource: &str, told: ListAndWatchResponse) {
        let node = |n: &messages::NumaNode| u32::try_from(n.id).ok();
        let known = told.devices.into_iter().map(|d| {
            let nodes = d.topology.iter().flat_map(|t| &t.nodes).filter_map(node).collect();
            (d.id, Known { healthy: d.health == "Healthy", nodes })
        });
        let known: table::Devices = known.collect();
        let mut state = self.state.lock();
        // Their health does not stand in the file.
        let same = state.table.known.get(resource).is_some_and(|before| before.keys().eq(known.keys()));
        state.table.known.insert(resource.to_string(), known);
        if !same && let Err(error) = self.write(&state) {
            tracing::warn!(%error, "a plugin's devices could not be written down");
        }
        drop(state);
        self.changes.send_modify(|n| *n += 1);
    }
}

/// What a plugin wants a container to have. What the pod itself says of its environment stays.
fn lay_over(answer: &ContainerAllocateResponse, config: &mut ContainerConfig) {
    for (key, value) in &answer.envs {
        if !config.envs.iter().any(|e| e.key == *key) {
            config.envs.push(KeyValue { key: key.clone(), value: value.clone() });
        }
    }
    config.mounts.extend(answer.mounts.iter().map(|m| Mount {
        container_path: m.container_path.clone(),
        host_path: m.host_path.clone(),
        readonly: m.read_only,
        ..Mount::default()
    }));
    config.devices.extend(answer.devices.iter().map(|d| fram_cri::Device {
        container_path: d.container_path.clone(),
        host_path: d.host_path.clone(),
        permissions: d.permissions.clone(),
    }));
    config.annotations.extend(answer.annotations.clone());
    config.cdi_devices.extend(answer.cdi_devices.iter().map(|d| d.name.clone()));
}

/// Where a container could have its devices, or all containers of the pod where none is named.
pub(crate) fn hints_of(devices: &DeviceManager, pod: &Value, nodes: &CpuSet, container: &str) -> Vec<Hints> {
    match container {
        "" => pod::containers(pod).iter().flat_map(|c| devices.hints(c, nodes)).collect(),
        name => pod::find_container(pod, name).map(|(_, c)| devices.hints(c, nodes)).unwrap_or_default(),
    }
}
