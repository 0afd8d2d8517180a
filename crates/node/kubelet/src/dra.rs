//! Dynamic resources (KEP-4381): drivers register by sockets, prepare what is allocated to a pod before its first container and take
//! it back after its last. Who uses what is decided in `claims`. See upstream's pkg/kubelet/cm/dra.

pub(crate) mod claims;
mod health;
mod messages;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fram_client::{Client, DeleteOptions, ListOptions, Resource};
use fram_grpc::message::Message;
use fram_grpc::{ConnectError, GrpcError, UnixEndpoint};
use fram_machinery::{Status, Value, json, meta};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::durable::{self, DurableError, Flush};
use crate::kubelet::Kubelet;
use claims::{ClaimError, Claims, Device};
use health::Health;
use messages::{Claim, HealthResponse, PrepareResponse, UnprepareResponse};

/// Upstream's name, in the kubelet's directory.
const CHECKPOINT: &str = "dra_manager_state";
const SERVICE: &str = "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin";
/// What a plugin has to support, by the name that it says at its registration.
pub(crate) const VERSION: &str = "v1.DRAPlugin";
/// What a plugin may support beside that: it tells how well its devices are.
pub(crate) const HEALTH: &str = "v1alpha1.DRAResourceHealth";
/// After which time a driver that no longer tells of its devices is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(5);
const MAX_MESSAGE: usize = 16 << 20;
/// How long a driver may take; upstream's defaultClientCallTimeout.
const PATIENCE: Duration = Duration::from_secs(45);
/// So long the ResourceSlices of a driver without plugin stay; upstream's DefaultResourceSliceWipingDelay.
const SLICES_STAY: Duration = Duration::from_secs(30);
/// How often claims of pods that are gone are looked for; upstream's.
const RECONCILE: Duration = Duration::from_secs(60);
const CLAIMS: Resource = Resource::new("resource.k8s.io", "v1", "resourceclaims");
const SLICES: Resource = Resource::new("resource.k8s.io", "v1", "resourceslices");

#[derive(Debug, thiserror::Error)]
pub(crate) enum DraError {
    #[error(transparent)]
    Durable(#[from] DurableError),
    #[error("fetch ResourceClaim {0}: {1}")]
    Fetch(String, Status),
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error("DRA driver {0} is not registered")]
    NoDriver(String),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{method}: {source}")]
    Call { method: &'static str, source: GrpcError },
    #[error("{0}: the driver did not answer in time")]
    Silent(&'static str),
    #[error("{0}: the driver's answer is malformed")]
    Malformed(&'static str),
    #[error("{method} failed for ResourceClaim {claim}: {why}")]
    Refused { method: &'static str, claim: String, why: String },
    #[error("{0} skipped {1} ResourceClaims")]
    Skipped(&'static str, usize),
}

pub(crate) struct DraManager {
    client: Client,
    node: String,
    file: PathBuf,
    claims: Mutex<Claims>,
    /// The newest plugin of a driver counts.
    plugins: Mutex<HashMap<String, Arc<UnixEndpoint>>>,
    health: Mutex<Health>,
    /// Counts changes of it.
    health_changes: watch::Sender<u64>,
}

impl DraManager {
    /// Takes up what was prepared.
    pub(crate) fn open(client: Client, node: &str, root: &Path) -> Self {
        let file = root.join(CHECKPOINT);
        let known = std::fs::read(&file).ok();
        let known = known.and_then(|bytes| {
            json::from_slice(&bytes).map_err(|error| tracing::error!(?file, %error, "what drivers have prepared cannot be read")).ok()
        });
        let claims = known.map(|d| claims::recall(&d)).unwrap_or_default();
        Self {
            client,
            node: node.into(),
            file,
            claims: Mutex::new(claims),
            plugins: Mutex::default(),
            health: Mutex::default(),
            health_changes: watch::Sender::new(0),
        }
    }

    pub(crate) fn claims(&self) -> Claims {
        self.claims.lock().clone()
    }

    pub(crate) fn register(&self, driver: &str, versions: &[String], socket: PathBuf) -> Result<(), String> {
        if !versions.iter().any(|v| v == VERSION) {
            return Err(format!("none of the versions {versions:?} is supported by this kubelet: {VERSION} is"));
        }
        tracing::info!(driver, ?socket, "a DRA driver has registered");
        self.plugins.lock().insert(driver.to_string(), Arc::new(UnixEndpoint::new(socket, MAX_MESSAGE)));
        Ok(())
    }

    /// Listens to what a driver says of its devices, until it is told to stop.
    pub(crate) async fn follow_health(&self, driver: &str, socket: &Path) {
        let endpoint = UnixEndpoint::new(socket.to_path_buf(), MAX_MESSAGE);
        loop {
            if let Err(error) = self.hear_health(driver, &endpoint).await {
                tracing::info!(driver, %error, "a driver does not tell how its devices are, it is asked again");
            }
            self.forget_health(driver, socket);
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// Nobody listens to a driver at this socket any more, so what it said there does not count. Its successor may have said other things.
    fn forget_health(&self, driver: &str, socket: &Path) {
        let is_own = self.plugins.lock().get(driver).is_none_or(|plugin| plugin.path() == socket);
        if is_own && self.health.lock().forget(driver) {
            self.health_changes.send_modify(|n| *n += 1);
        }
    }

    async fn hear_health(&self, driver: &str, endpoint: &UnixEndpoint) -> Result<(), DraError> {
        const METHOD: &str = "NodeWatchResources";
        let failed = |source| DraError::Call { method: METHOD, source };
        let channel = endpoint.channel().await?;
        let mut incoming = channel.listen(&format!("/{HEALTH}/{METHOD}"), &messages::Nothing {}.encode()).await.map_err(failed)?;
        loop {
            let now = Instant::now();
            let end = self.health.lock().next_end(driver, now);
            // What is no longer sure is news too.
            let unsure = async {
                match end {
                    Some(end) => tokio::time::sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            let news = tokio::select! {
                told = incoming.next() => match told.map_err(failed)? {
                    Some(bytes) => {
                        let told = HealthResponse::decode(&bytes).map_err(|_| DraError::Malformed(METHOD))?;
                        self.health.lock().tell(driver, told.devices, Instant::now())
                    }
                    None => return Ok(()),
                },
                () = unsure => true,
            };
            if news {
                self.health_changes.send_modify(|n| *n += 1);
            }
        }
    }

    pub(crate) fn subscribe_health(&self) -> watch::Receiver<u64> {
        self.health_changes.subscribe()
    }

    /// How the devices of a container's claims are, as its status tells it; see UpdateAllocatedResourcesStatus.
    pub(crate) fn health_of(&self, pod: &Value, container: &Value) -> Vec<Value> {
        let (claims, health) = (self.claims.lock(), self.health.lock());
        claims::health_of(&claims, pod, container, |driver, pool, device| health.of(driver, pool, device, Instant::now()))
    }

    /// Its socket is gone. Unless the driver comes back, what it had to offer goes too, so that nobody is sent here for it.
    pub(crate) async fn deregister(&self, driver: &str, socket: &Path) {
        self.forget_health(driver, socket);
        let own = |p: &Arc<UnixEndpoint>| p.path() == socket;
        if self.plugins.lock().get(driver).is_some_and(own) {
            self.plugins.lock().remove(driver);
            tracing::info!(driver, "a DRA driver is gone");
        }
        self.wipe_slices(Some(driver)).await;
    }

    /// Removes the ResourceSlices of a driver that has no plugin, or of all such drivers.
    async fn wipe_slices(&self, driver: Option<&str>) {
        tokio::time::sleep(SLICES_STAY).await;
        let present: HashSet<String> = self.plugins.lock().keys().cloned().collect();
        let drivers: BTreeSet<String> = match driver {
            Some(driver) => BTreeSet::from([driver.to_string()]),
            None => match self.drivers_with_slices().await {
                Ok(drivers) => drivers,
                Err(error) => return tracing::warn!(%error, "the ResourceSlices of this node could not be listed"),
            },
        };
        for driver in drivers.difference(&present.into_iter().collect()) {
            let field_selector = format!("spec.nodeName={},spec.driver={driver}", self.node);
            let list = ListOptions { field_selector, ..ListOptions::default() };
            match self.client.all(&SLICES).delete_collection(DeleteOptions::default(), list).await {
                Ok(()) => tracing::info!(driver, "the ResourceSlices of a driver that is gone were removed"),
                Err(error) => tracing::warn!(driver, %error, "the ResourceSlices of a driver that is gone could not be removed"),
            }
        }
    }

    async fn drivers_with_slices(&self) -> Result<BTreeSet<String>, Status> {
        let options = ListOptions { field_selector: format!("spec.nodeName={}", self.node), ..ListOptions::default() };
        let page = self.client.all(&SLICES).list(options).await?;
        Ok(page.items.iter().map(|s| s.str_at(&["spec", "driver"]).to_string()).collect())
    }

    /// Has drivers prepare what is allocated to a pod. What is prepared already is not prepared again.
    pub(crate) async fn prepare(&self, pod: &Value) -> Result<(), DraError> {
        let mut objects = Vec::new();
        for wanted in claims::wanted(pod)? {
            // What the pod has already it keeps, whether the API server can be asked or not.
            let key = (meta::namespace(pod).to_string(), wanted.name.to_string());
            if self.claims.lock().get(&key).is_some_and(|c| c.prepared && c.pods.contains(meta::uid(pod))) {
                continue;
            }
            let claim = self.client.within(&CLAIMS, meta::namespace(pod)).get(wanted.name).await;
            let claim = claim.map_err(|status| DraError::Fetch(wanted.name.to_string(), status))?;
            let drivers = claims::check(pod, &wanted, &claim)?;
            // Without its driver nothing is noted: the pod can be deleted without one that never comes.
            drivers.iter().try_for_each(|driver| self.plugin(driver).map(drop))?;
            objects.push((claim, drivers));
        }
        let mut batches: BTreeMap<String, Vec<Claim>> = BTreeMap::new();
        let mut fresh = Vec::new();
        self.change(|known| {
            for (claim, drivers) in &objects {
                if claims::refer(known, claim, drivers.clone(), meta::uid(pod))? {
                    fresh.push((meta::namespace(claim).to_string(), meta::name(claim).to_string()));
                    let message = message(meta::namespace(claim), meta::uid(claim), meta::name(claim));
                    drivers.iter().for_each(|driver| batches.entry(driver.clone()).or_default().push(message.clone()));
                }
            }
            Ok(())
        })?;
        const METHOD: &str = "NodePrepareResources";
        for (driver, batch) in batches {
            let bytes = self.call(&driver, METHOD, &batch).await?;
            let answer = PrepareResponse::decode(&bytes).map_err(|_| DraError::Malformed(METHOD))?;
            let answered = answer.claims.len();
            let mut made: BTreeMap<(String, String), Vec<Device>> = BTreeMap::new();
            for entry in answer.claims {
                let asked = batch.iter().find(|c| c.uid == entry.key).ok_or(DraError::Malformed(METHOD))?;
                let prepared = entry.value.unwrap_or_default();
                refused(METHOD, asked, prepared.error)?;
                made.insert((asked.namespace.clone(), asked.name.clone()), prepared.devices.into_iter().map(device).collect());
            }
            skipped(METHOD, batch.len(), answered)?;
            self.change(|known| {
                for (key, devices) in made {
                    known.entry(key).and_modify(|c| drop(c.drivers.insert(driver.clone(), devices)));
                }
                Ok(())
            })?;
        }
        if fresh.is_empty() {
            return Ok(());
        }
        self.change(|known| {
            fresh.iter().filter_map(|key| known.get_mut(key).map(|c| c.prepared = true)).for_each(drop);
            Ok(())
        })
    }

    /// Has drivers take back what was prepared for a pod and nobody else uses.
    pub(crate) async fn unprepare(&self, pod_uid: &str) -> Result<(), DraError> {
        let mut batches: BTreeMap<String, Vec<Claim>> = BTreeMap::new();
        let mut last = Vec::new();
        if !self.claims.lock().values().any(|c| c.pods.contains(pod_uid)) {
            return Ok(());
        }
        self.change(|known| {
            last = claims::leave(known, pod_uid);
            for key in &last {
                let Some(claim) = known.get(key) else { continue };
                for driver in claim.drivers.keys() {
                    batches.entry(driver.clone()).or_default().push(message(&key.0, &claim.uid, &key.1));
                }
            }
            Ok(())
        })?;
        const METHOD: &str = "NodeUnprepareResources";
        for (driver, batch) in batches {
            let bytes = self.call(&driver, METHOD, &batch).await?;
            let answer = UnprepareResponse::decode(&bytes).map_err(|_| DraError::Malformed(METHOD))?;
            let answered = answer.claims.len();
            for entry in answer.claims {
                let asked = batch.iter().find(|c| c.uid == entry.key).ok_or(DraError::Malformed(METHOD))?;
                refused(METHOD, asked, entry.value.unwrap_or_default().error)?;
            }
            skipped(METHOD, batch.len(), answered)?;
        }
        self.change(|known| {
            for key in &last {
                known.remove(key);
            }
            Ok(())
        })
    }

    fn plugin(&self, driver: &str) -> Result<Arc<UnixEndpoint>, DraError> {
        self.plugins.lock().get(driver).cloned().ok_or_else(|| DraError::NoDriver(driver.to_string()))
    }

    async fn call(&self, driver: &str, method: &'static str, claims: &[Claim]) -> Result<Vec<u8>, DraError> {
        let plugin = self.plugin(driver)?;
        let request = messages::Claims { claims: claims.to_vec() }.encode();
        let answer = async {
            let channel = plugin.channel().await?;
            let answer = channel.unary(&format!("{SERVICE}/{method}"), &request).await;
            answer.map_err(|source| DraError::Call { method, source })
        };
        let answer = tokio::time::timeout(PATIENCE, answer).await.map_err(|_| DraError::Silent(method))??;
        Ok(answer.to_vec())
    }

    /// Changes what is known; it is on disk when this returns, and as before where it could not be written.
    fn change(&self, work: impl FnOnce(&mut Claims) -> Result<(), DraError>) -> Result<(), DraError> {
        let mut claims = self.claims.lock();
        let mut changed = claims.clone();
        work(&mut changed)?;
        if changed != *claims {
            self.write(&changed)?;
            *claims = changed;
        }
        Ok(())
    }

    fn write(&self, claims: &Claims) -> Result<(), DraError> {
        Ok(durable::replace(&self.file, &json::to_vec(&claims::document(claims)), Flush::Yes)?)
    }
}

fn message(namespace: &str, uid: &str, name: &str) -> Claim {
    Claim { namespace: namespace.into(), uid: uid.into(), name: name.into() }
}

fn device(d: messages::Device) -> Device {
    Device { pool: d.pool_name, name: d.device_name, share_id: d.share_id, requests: d.request_names, cdi_ids: d.cdi_device_ids }
}

fn refused(method: &'static str, claim: &Claim, why: String) -> Result<(), DraError> {
    if why.is_empty() { Ok(()) } else { Err(DraError::Refused { method, claim: claim.name.clone(), why }) }
}

fn skipped(method: &'static str, asked: usize, answered: usize) -> Result<(), DraError> {
    if answered < asked { Err(DraError::Skipped(method, asked - answered)) } else { Ok(()) }
}

/// Whether a pod has claims at all.
pub(crate) fn concerns(pod: &Value) -> bool {
    !pod.list_at(&["spec", "resourceClaims"]).is_empty() || pod.at(&["status", "extendedResourceClaimStatus"]).is_some()
}

/// Removes what drivers that did not come back had to offer, and takes back what pods had that are gone, until `stop`.
pub(crate) async fn keep(kubelet: Kubelet, stop: CancellationToken) {
    let ctx = kubelet.ctx.clone();
    let work = async {
        ctx.dra.wipe_slices(None).await;
        loop {
            tokio::time::sleep(RECONCILE).await;
            if !ctx.pods.has_synced() {
                continue;
            }
            let known: HashSet<String> = ctx.all_pods().iter().map(|p| meta::uid(p).to_string()).collect();
            let users: BTreeSet<String> = ctx.dra.claims().values().flat_map(|c| c.pods.clone()).collect();
            for uid in users.iter().filter(|uid| !known.contains(*uid) && !kubelet.has_worker(uid)) {
                if let Err(error) = ctx.dra.unprepare(uid).await {
                    tracing::info!(uid, %error, "what a pod had that is gone could not be taken back, it is tried again");
                }
            }
        }
    };
    stop.run_until_cancelled(work).await;
}

#[cfg(test)]
pub(crate) mod tests;
