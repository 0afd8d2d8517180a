//! The shell: follows the cluster, tries pods one after the other, binds and reports beside that.

mod cycle;
mod group;
mod observe;
mod report;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use fram_client::resources::{
    CSI_DRIVERS, CSI_NODES, CSI_STORAGE_CAPACITIES, DEVICE_CLASSES, NAMESPACES, NODES, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES,
    POD_DISRUPTION_BUDGETS, POD_GROUPS, PODS, RESOURCE_CLAIMS, RESOURCE_SLICES, SERVICES, STORAGE_CLASSES,
};
use fram_client::{Client, Delta, EventRecorder, Informer, Resource, SharedInformers, Subscription};
use fram_machinery::Status;
use tokio::sync::Semaphore;
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cache::Cache;
use crate::configuration::{Configuration, ProfileSpec};
use crate::devices::{Allocation, Devices, Grants};
use crate::extender::Extender;
use crate::framework::Framework;
use crate::gang::Groups;
use crate::metrics::Metrics;
use crate::pod::{Pod, Shapes};
use crate::preemption::Limits;
use crate::queue::Queue;
use crate::storage::Step;

/// So many pods are tried before what has happened meanwhile is looked at.
const BATCH: usize = 32;
/// So many bindings, and so many reports, are under way at once.
const AT_ONCE: usize = 128;

/// What a scheduler needs.
#[derive(Clone)]
pub struct SchedulerConfig {
    /// Pods whose `schedulerName` is this one are scheduled.
    pub name: String,
    pub client: Client,
    pub informers: SharedInformers,
    pub events: EventRecorder,
    /// Now, in the form of timestamps in objects.
    pub now: Arc<dyn Fn() -> String + Send + Sync>,
    /// Whether PodGroups are served.
    pub pod_groups: bool,
    /// DeviceTaintRules, where they are served.
    pub device_taint_rules: Option<Resource>,
}

/// What the scheduler follows, of the whole cluster.
struct Followed {
    pods: Informer,
    nodes: Informer,
    claims: Informer,
    volumes: Informer,
    classes: Informer,
    namespaces: Informer,
    services: Informer,
    budgets: Informer,
    csi_nodes: Informer,
    attachments: Informer,
    drivers: Informer,
    capacities: Informer,
    device_claims: Informer,
    device_slices: Informer,
    device_classes: Informer,
    /// None where they are not served.
    groups: Option<Informer>,
    device_rules: Option<Informer>,
}

const VOLUME_ATTACHMENTS: Resource = Resource::new("storage.k8s.io", "v1", "volumeattachments");

/// How the pods of one `schedulerName` are scheduled.
struct Profile {
    name: String,
    framework: Framework,
    preemption: Option<Limits>,
    bind_timeout: Duration,
    devices: Grants,
}

/// A pod that is being bound, and the steps that its claims take.
struct Binding {
    pod: Arc<Pod>,
    steps: Vec<Step>,
    allocations: Vec<Allocation>,
    profile: usize,
    /// When the attempt began.
    begun: Duration,
    /// How often the pod was tried before, and when it was first seen: it may have left the queue before the answer comes.
    tried: (u32, Duration),
}

/// A scheduler that runs until it is told to stop.
pub struct Scheduler {
    config: Arc<SchedulerConfig>,
    followed: Arc<Followed>,
    profiles: Vec<Profile>,
    extenders: Vec<Extender>,
    queue: Queue,
    cache: Cache,
    start: Instant,
    /// Decides between equal nodes.
    turn: u64,
    bindings: JoinSet<Result<(), Status>>,
    /// What each of these tasks is about: one that panics cannot say it.
    binding: HashMap<Id, Binding>,
    /// They end with the pod that is to be tried again, if it is.
    reports: JoinSet<Option<Arc<Pod>>>,
    permits: Arc<Semaphore>,
    /// Keys of pods that gates hold back, or that wait for others of their group.
    gated: HashSet<String>,
    groups: Groups,
    shapes: Shapes,
    metrics: Metrics,
}

impl Scheduler {
    /// A scheduler with one profile: the default one.
    pub fn new(config: SchedulerConfig) -> Self {
        let mut configuration = Configuration::default();
        for profile in &mut configuration.profiles {
            profile.name.clone_from(&config.name);
        }
        Self::configured(config, configuration)
    }

    /// A scheduler with these profiles; the name of the other is not asked for.
    pub fn configured(config: SchedulerConfig, configuration: Configuration) -> Self {
        if !configuration.unheeded.is_empty() {
            let fields = configuration.unheeded.join(", ");
            tracing::warn!(fields, "fields of the scheduler's configuration that have no meaning here");
        }
        let get = |resource: &Resource| config.informers.get(resource);
        let followed = Followed {
            pods: get(&PODS),
            nodes: get(&NODES),
            claims: get(&PERSISTENT_VOLUME_CLAIMS),
            volumes: get(&PERSISTENT_VOLUMES),
            classes: get(&STORAGE_CLASSES),
            namespaces: get(&NAMESPACES),
            services: get(&SERVICES),
            budgets: get(&POD_DISRUPTION_BUDGETS),
            csi_nodes: get(&CSI_NODES),
            attachments: get(&VOLUME_ATTACHMENTS),
            drivers: get(&CSI_DRIVERS),
            capacities: get(&CSI_STORAGE_CAPACITIES),
            device_claims: get(&RESOURCE_CLAIMS),
            device_slices: get(&RESOURCE_SLICES),
            device_classes: get(&DEVICE_CLASSES),
            groups: config.pod_groups.then(|| get(&POD_GROUPS)),
            device_rules: config.device_taint_rules.as_ref().map(get),
        };
        let profile = |spec: ProfileSpec| Profile {
            name: spec.name,
            framework: Framework::new(spec.slots, spec.percentage),
            preemption: spec.preemption,
            bind_timeout: spec.bind_timeout,
            devices: spec.devices,
        };
        Self {
            followed: Arc::new(followed),
            config: Arc::new(config),
            profiles: configuration.profiles.into_iter().map(profile).collect(),
            extenders: configuration.extenders,
            queue: Queue::new(configuration.backoff),
            cache: Cache::default(),
            start: Instant::now(),
            turn: 0,
            bindings: JoinSet::new(),
            binding: HashMap::new(),
            reports: JoinSet::new(),
            permits: Arc::new(Semaphore::new(AT_ONCE)),
            gated: HashSet::new(),
            groups: Groups::default(),
            shapes: Shapes::default(),
            metrics: Metrics::default(),
        }
    }

    /// Counts there from now on.
    #[must_use]
    pub fn counting(mut self, metrics: Metrics) -> Self {
        self.metrics = metrics;
        self
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    pub async fn run(mut self, stop: CancellationToken) {
        let followed = self.followed.clone();
        let Followed {
            pods,
            nodes,
            claims,
            volumes,
            classes,
            namespaces,
            services,
            budgets,
            csi_nodes,
            attachments,
            drivers,
            capacities,
            device_claims,
            device_slices,
            device_classes,
            groups,
            device_rules,
        } = &*followed;
        // A decision before all pods are known would count too little on the nodes, one before all budgets break them.
        let all = [pods, nodes, claims, volumes, classes, namespaces, budgets, csi_nodes, device_claims, device_slices, device_classes];
        for informer in all.into_iter().chain([services, drivers, capacities, attachments]).chain(groups).chain(device_rules) {
            if !informer.synced().await {
                return;
            }
        }
        let (mut pods, mut nodes, mut claims) = (pods.subscribe(), nodes.subscribe(), claims.subscribe());
        let (mut volumes, mut classes, mut namespaces) = (volumes.subscribe(), classes.subscribe(), namespaces.subscribe());
        let (mut csi_nodes, mut drivers, mut capacities) = (csi_nodes.subscribe(), drivers.subscribe(), capacities.subscribe());
        let (mut device_claims, mut device_slices) = (device_claims.subscribe(), device_slices.subscribe());
        let (mut device_classes, mut services, mut attachments) =
            (device_classes.subscribe(), services.subscribe(), attachments.subscribe());
        let mut groups = groups.as_ref().map(Informer::subscribe);
        let mut device_rules = device_rules.as_ref().map(Informer::subscribe);
        loop {
            self.settle();
            self.queue.tick(self.now());
            for _ in 0..BATCH {
                let Some(pod) = self.queue.pop() else { break };
                // Who leads no more decides nothing more, however long an extender takes to answer.
                if stop.run_until_cancelled(Box::pin(self.try_pod(pod))).await.is_none() {
                    return;
                }
            }
            self.metrics.waiting(self.queue.lengths(), self.gated.len());
            self.metrics.cached(self.cache.count(), self.cache.pods(), self.binding.len());
            self.metrics.refused(self.queue.refused());
            self.profiles.iter().for_each(|profile| self.metrics.evaluated(&profile.name, profile.framework.take_asked()));
            let due = self.queue.tick(self.now());
            let ready = self.queue.has_active();
            if ready {
                // Give what has happened meanwhile a chance to be seen before the next.
                tokio::task::yield_now().await;
            }
            let wait = async {
                match due {
                    _ if ready => {}
                    Some(moment) => tokio::time::sleep_until(self.start + moment).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                deltas = nodes.changed() => match deltas {
                    Some(deltas) => deltas.iter().for_each(|d| self.node_changed(d)),
                    None => return,
                },
                Some(deltas) = claims.changed() => self.claims_changed(&deltas),
                Some(deltas) = volumes.changed() => self.storage_changed(&deltas, |storage| &mut storage.volumes),
                Some(deltas) = classes.changed() => self.storage_changed(&deltas, |storage| &mut storage.classes),
                Some(deltas) = csi_nodes.changed() => self.storage_changed(&deltas, |storage| &mut storage.csi_nodes),
                Some(deltas) = attachments.changed() => self.attachments_changed(&deltas),
                Some(deltas) = drivers.changed() => self.storage_changed(&deltas, |storage| &mut storage.drivers),
                Some(deltas) = capacities.changed() => self.storage_changed(&deltas, |storage| &mut storage.capacities),
                Some(deltas) = device_claims.changed() => self.device_claims_changed(&deltas),
                Some(deltas) = device_slices.changed() => self.devices_changed(&deltas, Devices::set_slice),
                Some(deltas) = device_classes.changed() => self.devices_changed(&deltas, Devices::set_class),
                Some(deltas) = changed(&mut device_rules) => self.devices_changed(&deltas, Devices::set_rule),
                Some(deltas) = changed(&mut groups) => self.groups_changed(&deltas),
                Some(deltas) = namespaces.changed() => self.namespaces_changed(&deltas),
                Some(deltas) = services.changed() => self.services_changed(&deltas),
                deltas = pods.changed() => match deltas {
                    Some(deltas) => deltas.iter().for_each(|d| self.pod_changed(d)),
                    None => return,
                },
                Some(bound) = self.bindings.join_next_with_id(), if !self.bindings.is_empty() => self.bound(bound),
                Some(reported) = self.reports.join_next(), if !self.reports.is_empty() => self.reported(reported),
                () = wait => {}
            }
        }
    }

    /// Takes note of all bindings and reports that have ended. They are the last that the loop waits for, and while pods come without
    /// end it never does: one that failed would not be tried again before all others are placed.
    fn settle(&mut self) {
        while let Some(bound) = self.bindings.try_join_next_with_id() {
            self.bound(bound);
        }
        while let Some(reported) = self.reports.try_join_next() {
            self.reported(reported);
        }
    }
}

/// What has changed of what may not be followed.
async fn changed(followed: &mut Option<Subscription>) -> Option<Vec<Delta>> {
    followed.as_mut()?.changed().await
}
