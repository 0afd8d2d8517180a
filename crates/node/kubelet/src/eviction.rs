//! Eviction: looks at what the node is short of, and ends pods before the kernel has to. When and whom is decided in
//! `thresholds`, `rank` and `local_storage`; this looks and acts. See upstream's pkg/kubelet/eviction/eviction_manager.go.

pub(crate) mod local_storage;
pub(crate) mod rank;
pub(crate) mod thresholds;

use std::collections::{BTreeSet, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fram_cri::{PodSandboxFilter, PodSandboxState, PodSandboxStats};
use fram_machinery::{Value, meta, object};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::kubelet::Kubelet;
use crate::node::machine;
use crate::observed::LABEL_POD_UID;
use crate::pod::{self, PodId};
use crate::worker::{Failure, Letter};
use local_storage::{DiskUsage, walk};
use rank::{ContainerUsage, PodUsage};
pub(crate) use thresholds::NodeCondition;
use thresholds::{Observation, Observations, Pressure, Signal, Threshold};

pub(crate) const REASON: &str = "Evicted";
/// Upstream's evictionMonitoringPeriod: the kernel announces neither free memory nor free disk.
const LOOK: Duration = Duration::from_secs(10);
/// While something is being reclaimed, what that brought is seen soon.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// For so long an evicted pod may take to end before the next one is chosen; upstream's podCleanupTimeout.
const CLEAN_UP: Duration = Duration::from_secs(30);
/// Seconds that a pod has after a hard threshold or a limit; upstream's immediateEvictionGracePeriodSeconds.
const IMMEDIATE: i64 = 1;

/// Looks and acts until `stop`.
pub(crate) async fn keep(kubelet: Kubelet, stop: CancellationToken) {
    let thresholds = match kubelet.ctx.config.eviction.thresholds() {
        Ok(thresholds) => thresholds,
        Err(error) => {
            tracing::error!(%error, "pods are not evicted: the thresholds cannot be read");
            Vec::new()
        }
    };
    let mut manager = Manager { kubelet, thresholds, pressure: Pressure::default(), evicted: HashMap::new() };
    stop.run_until_cancelled(async {
        loop {
            let pause = if manager.turn().await { LOOK_AGAIN } else { LOOK };
            tokio::time::sleep(pause).await;
        }
    })
    .await;
}

struct Manager {
    kubelet: Kubelet,
    thresholds: Vec<Threshold>,
    pressure: Pressure,
    /// Pods that are being ended, and since when.
    evicted: HashMap<String, Instant>,
}

impl Manager {
    fn ctx(&self) -> &Arc<Context> {
        &self.kubelet.ctx
    }

    /// One look; true where another one is due soon.
    async fn turn(&mut self) -> bool {
        let disks = Disks::find(self.ctx()).await;
        let seen = observe(&disks);
        let transition = self.ctx().config.eviction.pressure_transition_period;
        let verdict = self.pressure.look(&self.thresholds, &seen, transition, Instant::now().into_std());
        self.publish(&verdict.conditions);
        let pods = self.kubelet.active_pods();
        self.evicted.retain(|uid, _| pods.iter().any(|p| meta::uid(p) == uid));
        if self.enforce_limits(&pods).await {
            return false;
        }
        let Some(threshold) = verdict.reclaim else { return false };
        if self.evicted.values().any(|at| at.elapsed() < CLEAN_UP) {
            return true;
        }
        let resource = threshold.signal.resource();
        self.ctx().node_event(true, "EvictionThresholdMet", format!("Attempting to reclaim {resource}"));
        if matches!(resource, "ephemeral-storage" | "inodes") {
            self.reclaim_disk().await;
            let after = self.pressure.clone().look(&self.thresholds, &observe(&disks), transition, Instant::now().into_std());
            if after.reclaim.is_none() {
                return false;
            }
        }
        self.evict_one(&pods, &threshold, &seen, &disks).await
    }

    fn publish(&self, conditions: &BTreeSet<NodeCondition>) {
        self.ctx().pressures.send_if_modified(|known| {
            let news = known != conditions;
            known.clone_from(conditions);
            news
        });
    }

    /// Ends the first of the ranked pods that may be ended.
    async fn evict_one(&mut self, pods: &[Arc<Value>], threshold: &Threshold, seen: &Observations, disks: &Disks) -> bool {
        let resource = threshold.signal.resource();
        let mut used = Vec::new();
        for pod in pods.iter().filter(|p| !self.evicted.contains_key(meta::uid(p))) {
            if let Some(stats) = stats_of(self.ctx(), pod).await {
                used.push((pod, usage(self.ctx(), pod, &stats, disks.counted(threshold.signal)).await));
            }
        }
        let ranked: Vec<(&Value, PodUsage)> = used.iter().map(|(pod, usage)| (&***pod, usage.clone())).collect();
        let victim = rank::rank(&ranked, resource).into_iter().find(|i| !rank::is_critical(ranked[*i].0));
        let Some((pod, usage)) = victim.map(|i| &used[i]) else {
            tracing::warn!(resource, "the node is short of something, and there is no pod to evict");
            return false;
        };
        let message = rank::message(pod, usage, resource, &threshold.words(seen));
        let grace = match threshold.grace {
            None => IMMEDIATE,
            Some(_) => self.ctx().config.eviction.max_pod_grace_period.min(pod::grace_period(pod)),
        };
        self.ctx().metrics.count_eviction(threshold.signal.name());
        self.evict(pod, message, grace, true);
        true
    }

    /// Ends pods that hold more of the node's disk than they may; true where there was one.
    async fn enforce_limits(&mut self, pods: &[Arc<Value>]) -> bool {
        if !self.ctx().config.local_storage_capacity_isolation {
            return false;
        }
        let mut any = false;
        for pod in pods.iter().filter(|p| local_storage::has_limits(p)) {
            if self.evicted.contains_key(meta::uid(pod)) {
                continue;
            }
            let stats = stats_of(self.ctx(), pod).await.unwrap_or_default();
            let Some(message) = broken_limit(self.ctx(), pod, &stats).await else { continue };
            if !rank::is_critical(pod) {
                self.evict(pod, message, IMMEDIATE, false);
                any = true;
            }
        }
        any
    }

    fn evict(&mut self, pod: &Arc<Value>, message: String, grace: i64, disruption: bool) {
        tracing::info!(pod = meta::name(pod), message, "a pod is evicted");
        self.ctx().event(pod, true, REASON, message.clone());
        self.evicted.insert(meta::uid(pod).to_string(), Instant::now());
        let failure = Failure { reason: REASON.into(), message, disruption };
        self.kubelet.post(meta::uid(pod), Letter::Failed { failure, grace: Some(grace) });
    }

    /// Frees what no pod misses: containers that have ended, and images that none uses.
    async fn reclaim_disk(&self) {
        crate::images::gc::remove_dead_containers(&self.kubelet).await;
        if let Err(error) = self.ctx().collector.delete_unused(self.ctx()).await {
            tracing::warn!(%error, "images could not be removed");
        }
    }
}

/// The file systems that matter.
#[derive(Debug, Clone)]
pub(crate) struct Disks {
    pub(crate) node: PathBuf,
    pub(crate) images: PathBuf,
    /// Images and containers have a file system of their own.
    dedicated: bool,
}

/// What of a pod counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counted {
    layers: bool,
    files: bool,
}

impl Disks {
    pub(crate) async fn find(ctx: &Context) -> Self {
        let node = ctx.config.root_dir.clone();
        let images = ctx.images.mount_point().await.unwrap_or_else(|| node.clone());
        let device = |path: &Path| std::fs::metadata(path).map(|m| m.dev()).ok();
        let dedicated = device(&node) != device(&images);
        Self { node, images, dedicated }
    }

    fn counted(&self, signal: Signal) -> Counted {
        match signal {
            // Files say nothing of them, and to count them takes long where there is little memory.
            Signal::MemoryAvailable | Signal::PidAvailable => Counted { layers: false, files: false },
            _ if !self.dedicated => Counted { layers: true, files: true },
            Signal::NodeFsAvailable | Signal::NodeFsInodesFree => Counted { layers: false, files: true },
            _ => Counted { layers: true, files: false },
        }
    }
}

fn observe(disks: &Disks) -> Observations {
    let mut out = Observations::new();
    let mut note = |signal, seen: Option<(i64, i64)>| {
        if let Some((capacity, available)) = seen {
            out.insert(signal, Observation { available, capacity });
        }
    };
    note(Signal::MemoryAvailable, machine::memory());
    note(Signal::PidAvailable, machine::process_ids());
    let (node, images) = (machine::file_system(&disks.node), machine::file_system(&disks.images));
    note(Signal::NodeFsAvailable, node.map(|fs| (fs.obtainable(), fs.available)));
    note(Signal::NodeFsInodesFree, node.filter(|fs| fs.inodes > 0).map(|fs| (fs.inodes, fs.inodes_free)));
    for (bytes, inodes) in
        [(Signal::ImageFsAvailable, Signal::ImageFsInodesFree), (Signal::ContainerFsAvailable, Signal::ContainerFsInodesFree)]
    {
        note(bytes, images.map(|fs| (fs.obtainable(), fs.available)));
        note(inodes, images.filter(|fs| fs.inodes > 0).map(|fs| (fs.inodes, fs.inodes_free)));
    }
    out
}

/// What the runtime tells of a pod's running sandbox.
async fn stats_of(ctx: &Context, pod: &Value) -> Option<PodSandboxStats> {
    let labels = [(LABEL_POD_UID.to_string(), meta::uid(pod).to_string())].into();
    let filter = PodSandboxFilter { label_selector: labels, ..Default::default() };
    let sandboxes = ctx.runtime.list_pod_sandbox(&filter).await.ok()?;
    let ready = sandboxes.into_iter().find(|s| s.state == PodSandboxState::Ready)?;
    ctx.runtime.pod_sandbox_stats(&ready.id).await.ok()
}

/// What containers use of memory, and of disk with their logs.
async fn containers_usage(ctx: &Context, pod: &Value, stats: &PodSandboxStats, counted: Counted) -> (Vec<ContainerUsage>, DiskUsage) {
    let id = PodId::of(pod);
    let logs = ctx.config.pod_log_dir(&id.namespace, &id.name, &id.uid);
    let mut total = DiskUsage::default();
    let mut out = Vec::new();
    for container in &stats.containers {
        let name = container.attributes.metadata.name.clone();
        let mut disk = DiskUsage::default();
        if let Some(layer) = container.writable_layer.as_ref().filter(|_| counted.layers) {
            disk += DiskUsage { bytes: int(layer.used_bytes), inodes: int(layer.inodes_used) };
        }
        if counted.files {
            let dir = logs.join(&name);
            disk += blocking(move || walk(&dir)).await;
        }
        total += disk;
        out.push(ContainerUsage { memory: int(container.memory.working_set_bytes), storage: disk.bytes, name });
    }
    (out, total)
}

async fn usage(ctx: &Context, pod: &Arc<Value>, stats: &PodSandboxStats, counted: Counted) -> PodUsage {
    let (containers, mut disk) = containers_usage(ctx, pod, stats, counted).await;
    if counted.files {
        let (owned, dir) = (pod.clone(), ctx.config.pod_dir(meta::uid(pod)));
        for (_, used) in blocking(move || local_storage::volumes_of(&owned, &dir)).await {
            disk += used;
        }
    }
    PodUsage {
        memory: int(stats.memory.working_set_bytes),
        processes: int(stats.process.process_count),
        storage: disk.bytes,
        inodes: disk.inodes,
        containers,
    }
}

async fn broken_limit(ctx: &Context, pod: &Arc<Value>, stats: &PodSandboxStats) -> Option<String> {
    let (containers, _) = containers_usage(ctx, pod, stats, Counted { layers: true, files: true }).await;
    let (owned, dir) = (pod.clone(), ctx.config.pod_dir(meta::uid(pod)));
    let volumes = blocking(move || local_storage::volumes_of(&owned, &dir)).await;
    local_storage::broken_limit(pod, &volumes, &containers)
}

async fn blocking<T: Default + Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap_or_default()
}

fn int(n: Option<u64>) -> i64 {
    n.map_or(0, |n| i64::try_from(n).unwrap_or(i64::MAX))
}

/// Whether a pod may come to a node that is short of something; see managerImpl.Admit.
pub(crate) fn admit(pod: &Value, conditions: &BTreeSet<NodeCondition>) -> Result<(), crate::admit::Rejection> {
    if conditions.is_empty() || rank::is_critical(pod) {
        return Ok(());
    }
    let taint = object!({ "key": "node.kubernetes.io/memory-pressure", "effect": "NoSchedule" });
    let memory_only = conditions.len() == 1 && conditions.contains(&NodeCondition::Memory);
    if memory_only && (pod::resources::qos_class(pod) != "BestEffort" || crate::admit::tolerates(pod, &taint)) {
        return Ok(());
    }
    let names: Vec<&str> = conditions.iter().map(|c| c.name()).collect();
    Err((REASON.into(), format!("Pod was rejected: The node had condition: [{}]. ", names.join(" "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_short_of_memory_takes_pods_that_said_what_they_need_and_critical_ones() {
        let memory = BTreeSet::from([NodeCondition::Memory]);
        let both = BTreeSet::from([NodeCondition::Memory, NodeCondition::Disk]);
        let best_effort = object!({ "spec": { "containers": [{ "name": "c" }] } });
        let burstable = object!({ "spec": { "containers": [{ "name": "c", "resources": { "requests": { "memory": "1Mi" } } }] } });
        let mut tolerant = best_effort.clone();
        tolerant.set(&["spec", "tolerations"], object!([{ "key": "node.kubernetes.io/memory-pressure", "operator": "Exists" }]));
        let mut critical = best_effort.clone();
        critical.set(&["spec", "priority"], 2_000_001_000);
        for (pod, conditions, fits) in [
            (&best_effort, &BTreeSet::new(), true),
            (&best_effort, &memory, false),
            (&burstable, &memory, true),
            (&burstable, &both, false),
            (&tolerant, &memory, true),
            (&tolerant, &both, false),
            (&critical, &both, true),
        ] {
            assert_eq!(admit(pod, conditions).is_ok(), fits, "{pod:?}");
        }
        let told = admit(&burstable, &both).map_err(|(_, message)| message);
        assert_eq!(told, Err("Pod was rejected: The node had condition: [MemoryPressure DiskPressure]. ".into()));
    }
}
