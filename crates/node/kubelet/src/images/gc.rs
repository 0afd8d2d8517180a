//! Which images go when their file system fills up, and when they are too old; and the containers that nobody misses. The plan is
//! pure; see upstream's pkg/kubelet/images/image_gc_manager.go and kuberuntime_gc.go.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use fram_cri::{ContainerFilter, ContainerState, CriError, Image, ImageSpec, PodSandboxFilter};
use fram_machinery::meta;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::eviction::Disks;
use crate::kubelet::Kubelet;
use crate::node::machine;
use crate::observed::LABEL_POD_UID;
use crate::pod;
use crate::static_pods;
use crate::volumes;

/// Upstream's ImageGCPeriod.
const PERIOD: Duration = Duration::from_secs(300);

/// When images go; upstream's ImageGCPolicy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageGcPolicy {
    /// Percent of the file system in use from which images are removed; 100 never.
    pub high_threshold: u8,
    /// Percent down to which they are.
    pub low_threshold: u8,
    /// Images that are here for less than this stay.
    pub min_age: Duration,
    /// Images that were not used for longer than this go; zero for never.
    pub max_age: Duration,
}

impl Default for ImageGcPolicy {
    fn default() -> Self {
        Self { high_threshold: 85, low_threshold: 80, min_age: Duration::from_secs(120), max_age: Duration::ZERO }
    }
}

/// What is remembered of an image.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Known {
    first_seen: Instant,
    /// None where it was not used since the kubelet began.
    last_used: Option<Instant>,
}

/// An image that no container uses.
#[derive(Debug, Clone, PartialEq)]
struct Unused {
    id: String,
    size: u64,
    known: Known,
}

/// How many bytes to free; None where the file system is not full enough.
fn bytes_to_free(policy: &ImageGcPolicy, capacity: i64, available: i64) -> Option<u64> {
    let used = 100 - i128::from(available.min(capacity)) * 100 / i128::from(capacity.max(1));
    if policy.high_threshold >= 100 || used < i128::from(policy.high_threshold) {
        return None;
    }
    let wanted = i128::from(capacity) * (100 - i128::from(policy.low_threshold)) / 100 - i128::from(available);
    u64::try_from(wanted).ok().filter(|n| *n > 0)
}

/// The images to remove, those unused for longest first.
fn choose(mut unused: Vec<Unused>, policy: &ImageGcPolicy, to_free: u64, started: Instant, now: Instant) -> Vec<Unused> {
    unused.retain(|i| now.duration_since(i.known.first_seen) >= policy.min_age);
    unused.sort_by(|a, b| (a.known.last_used, a.known.first_seen, &a.id).cmp(&(b.known.last_used, b.known.first_seen, &b.id)));
    let mut freed = 0;
    unused.retain(|image| {
        // Ages are counted from when the kubelet began: who used an image before, it does not know.
        let idle = now.duration_since(image.known.last_used.unwrap_or(started));
        let old = !policy.max_age.is_zero() && idle > policy.max_age;
        let wanted = freed < to_free;
        freed += if old || wanted { image.size } else { 0 };
        old || wanted
    });
    unused
}

/// Removes images; remembers when it saw each for the first time, and when a container used it.
pub(crate) struct Collector {
    known: Mutex<HashMap<String, Known>>,
    started: Instant,
}

impl Default for Collector {
    fn default() -> Self {
        Self { known: Mutex::default(), started: Instant::now() }
    }
}

impl Collector {
    /// A container is about to use an image. Who only looked every now and then would take one that came since for new, and keep it for
    /// another period on a disk that is full.
    pub(crate) fn used(&self, id: &str) {
        let now = Instant::now();
        self.known.lock().entry(id.to_string()).or_insert(Known { first_seen: now, last_used: None }).last_used = Some(now);
    }

    /// The images that neither a container nor a pod's volume uses.
    async fn unused(&self, ctx: &Context) -> Result<Vec<Unused>, String> {
        if !ctx.pods.has_synced() {
            return Err("the pods of this node are not known yet".into());
        }
        let images = ctx.images.list().await.map_err(|e| e.to_string())?;
        let containers = ctx.runtime.list_containers(&ContainerFilter::default()).await.map_err(|e| e.to_string())?;
        let mut used: HashSet<String> = containers.into_iter().flat_map(|c| [c.image_id, c.image_ref, c.image.image]).collect();
        for pod in ctx.all_pods() {
            let mounted = volumes::used(&pod).into_iter().filter_map(|v| v.get("image"));
            used.extend(mounted.map(|source| source.str_at(&["reference"]).to_string()));
        }
        let now = Instant::now();
        let mut known = self.known.lock();
        known.retain(|id, _| images.iter().any(|i| i.id == *id));
        let is_used = |i: &Image| std::iter::once(&i.id).chain(&i.repo_tags).chain(&i.repo_digests).any(|name| used.contains(name));
        let mut out = Vec::new();
        for image in &images {
            let entry = known.entry(image.id.clone()).or_insert(Known { first_seen: now, last_used: None });
            if is_used(image) {
                entry.last_used = Some(now);
            } else if !image.pinned {
                out.push(Unused { id: image.id.clone(), size: image.size, known: *entry });
            }
        }
        Ok(out)
    }

    /// Looks once; what it could not free is an error.
    async fn collect(&self, ctx: &Context) -> Result<(), GcError> {
        let policy = ctx.config.image_gc;
        let disks = Disks::find(ctx).await;
        let unused = self.unused(ctx).await.map_err(GcError::Failed)?;
        let Some(fs) = machine::file_system(&disks.images).filter(|fs| fs.obtainable() > 0) else {
            return Err(GcError::Capacity);
        };
        let to_free = bytes_to_free(&policy, fs.obtainable(), fs.available);
        let chosen = choose(unused, &policy, to_free.unwrap_or(0), self.started, Instant::now());
        let freed = self.remove(ctx, &chosen).await;
        match to_free {
            Some(wanted) if freed < wanted => {
                let used = 100 - fs.available.saturating_mul(100) / fs.obtainable();
                Err(GcError::TooLittle { used, capacity: fs.obtainable(), freed })
            }
            _ => Ok(()),
        }
    }

    /// Removes every image that is not in use, however young.
    pub(crate) async fn delete_unused(&self, ctx: &Context) -> Result<u64, String> {
        let unused = self.unused(ctx).await?;
        Ok(self.remove(ctx, &unused).await)
    }

    async fn remove(&self, ctx: &Context, chosen: &[Unused]) -> u64 {
        let mut freed = 0;
        for image in chosen {
            match ctx.images.remove(&ImageSpec::new(image.id.clone())).await {
                Ok(()) => {
                    tracing::info!(image = image.id, bytes = image.size, "an unused image was removed");
                    self.known.lock().remove(&image.id);
                    freed += image.size;
                }
                Err(error) => tracing::warn!(image = image.id, %error, "an unused image could not be removed"),
            }
        }
        freed
    }
}

#[derive(Debug, thiserror::Error)]
enum GcError {
    #[error("{0}")]
    Failed(String),
    #[error("invalid capacity 0 on image filesystem")]
    Capacity,
    #[error(
        "Insufficient free disk space on the node's image filesystem ({used}% of {capacity} bytes used). Failed to free sufficient space by \
         deleting unused images (freed {freed} bytes). Investigate disk usage, as it could be used by active images, logs, volumes, or other data."
    )]
    TooLittle { used: i64, capacity: i64, freed: u64 },
}

/// Collects images and dead containers until `stop`.
pub(crate) async fn keep(kubelet: Kubelet, stop: CancellationToken) {
    let ctx = kubelet.ctx.clone();
    // What belongs to nobody is known once it is known who there is; see sourcesReady in upstream's containerGC.
    if stop.run_until_cancelled(ctx.pods.synced()).await != Some(true) {
        return;
    }
    // Seen from the beginning, so that ages are known when they count.
    let mut failed_before = false;
    loop {
        match ctx.collector.collect(&ctx).await {
            Ok(()) => failed_before = false,
            Err(error) => {
                tracing::warn!(%error, "image garbage collection failed");
                match &error {
                    GcError::TooLittle { .. } => ctx.node_event(true, "FreeDiskSpaceFailed", error.to_string()),
                    GcError::Capacity => ctx.node_event(true, "InvalidDiskCapacity", error.to_string()),
                    GcError::Failed(_) => {}
                }
                // Once is no news: statistics may not be there yet.
                if failed_before {
                    ctx.node_event(true, "ImageGCFailed", error.to_string());
                }
                failed_before = true;
            }
        }
        if let Err(error) = ctx.images.prune_records().await {
            tracing::warn!(%error, "the images of the node could not be listed");
        }
        remove_orphans(&kubelet).await;
        if stop.run_until_cancelled(tokio::time::sleep(PERIOD)).await.is_none() {
            return;
        }
    }
}

/// Removes containers that have ended and belong to no pod that the API server has, where their workers could not.
async fn remove_orphans(kubelet: &Kubelet) {
    let ctx = &kubelet.ctx;
    // Asked first: it may be known in the meantime which pods there are.
    let awaits_url = ctx.awaits_url();
    let known: HashSet<String> = ctx.all_pods().iter().map(|p| meta::uid(p).to_string()).collect();
    let ended = ContainerFilter { state: Some(ContainerState::Exited), ..ContainerFilter::default() };
    let found = async {
        let sandboxes = if awaits_url { ctx.runtime.list_pod_sandbox(&PodSandboxFilter::default()).await? } else { Vec::new() };
        Ok::<_, CriError>((sandboxes, ctx.runtime.list_containers(&ended).await?))
    };
    let (sandboxes, containers) = match found.await {
        Ok(found) => found,
        Err(error) => return tracing::warn!(%error, "ended containers that belong to nobody could not be listed"),
    };
    // Pods of the URL run on until it has said which there are.
    let waiting: HashSet<&str> = sandboxes.iter().filter(|s| static_pods::is_of_url(s)).map(|s| &*s.metadata.uid).collect();
    let of_nobody = |uid: &String| !known.contains(uid) && !waiting.contains(&**uid) && !kubelet.has_worker(uid);
    for container in containers {
        let of_nobody = container.labels.get(LABEL_POD_UID).is_some_and(of_nobody);
        if of_nobody && let Err(error) = ctx.runtime.remove_container(&container.id).await {
            tracing::info!(container = container.id, %error, "an ended container could not be removed");
        }
    }
}

/// Removes what nobody misses when the node's disk is short: the ended instances of containers that have a successor, and those of pods
/// that have ended, be the pods deleted or not. See DeleteAllUnusedContainers.
pub(crate) async fn remove_dead_containers(kubelet: &Kubelet) {
    let ctx = &kubelet.ctx;
    let all = match ctx.runtime.list_containers(&ContainerFilter::default()).await {
        Ok(all) => all,
        Err(error) => return tracing::warn!(%error, "containers that nobody misses could not be listed"),
    };
    let ended: HashSet<String> = ctx.all_pods().iter().filter(|p| pod::is_terminal(p)).map(|p| meta::uid(p).to_string()).collect();
    for container in dead(&all, &ended) {
        if let Err(error) = ctx.runtime.remove_container(&container.id).await {
            tracing::info!(container = container.id, %error, "an ended container could not be removed");
        }
    }
    // Who belongs to nobody is known once it is known who there is.
    if ctx.pods.has_synced() {
        remove_orphans(kubelet).await;
    }
}

/// Containers that nobody misses. `ended` are the pods that will run nothing any more.
fn dead<'a>(all: &'a [fram_cri::Container], ended: &HashSet<String>) -> Vec<&'a fram_cri::Container> {
    let uid = |c: &fram_cri::Container| c.labels.get(LABEL_POD_UID).cloned();
    let replaced = |c: &fram_cri::Container| {
        let newer = |o: &fram_cri::Container| o.metadata.name == c.metadata.name && o.metadata.attempt > c.metadata.attempt;
        all.iter().any(|o| uid(o) == uid(c) && newer(o))
    };
    let is_dead =
        |c: &&fram_cri::Container| c.state == ContainerState::Exited && uid(c).is_some_and(|uid| ended.contains(&uid) || replaced(c));
    all.iter().filter(is_dead).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_go_from_the_high_threshold_down_to_the_low_one() {
        let policy = ImageGcPolicy::default();
        for (available, free) in [(200, None), (160, None), (151, Some(49)), (150, Some(50)), (0, Some(200)), (2000, None)] {
            assert_eq!(bytes_to_free(&policy, 1000, available), free, "{available}");
        }
        assert_eq!(bytes_to_free(&ImageGcPolicy { high_threshold: 100, ..policy }, 1000, 1), None);
    }

    #[test]
    fn those_unused_for_longest_go_first_and_young_ones_stay() {
        let started = Instant::now();
        let at = |s: u64| started + Duration::from_secs(s);
        let image = |id: &str, first: u64, used: Option<u64>| Unused {
            id: id.into(),
            size: 100,
            known: Known { first_seen: at(first), last_used: used.map(at) },
        };
        let images = || vec![image("a", 0, Some(500)), image("b", 0, None), image("c", 10, None), image("d", 950, None)];
        let seconds = Duration::from_secs;
        for (max_age, to_free, chosen) in
            [(0, 0, ""), (0, 100, "b"), (0, 101, "bc"), (0, 9999, "bca"), (600, 0, "bc"), (400, 0, "bca"), (2000, 1, "b")]
        {
            let policy = ImageGcPolicy { max_age: seconds(max_age), ..Default::default() };
            let ids: String = choose(images(), &policy, to_free, started, at(1000)).into_iter().map(|i| i.id).collect();
            assert_eq!(ids, chosen, "{max_age} {to_free}");
        }
    }

    #[test]
    fn an_image_is_known_from_its_first_use_on() {
        let collector = Collector::default();
        collector.used("a");
        let first = collector.known.lock()["a"];
        collector.used("a");
        let next = collector.known.lock()["a"];
        assert_eq!((next.first_seen, first.last_used), (first.first_seen, Some(first.first_seen)));
        assert!(next.last_used >= first.last_used);
    }

    #[test]
    fn containers_of_ended_pods_and_those_with_a_successor_are_missed_by_nobody() {
        let container = |id: &str, pod: &str, name: &str, attempt: u32, state: ContainerState| fram_cri::Container {
            id: id.into(),
            metadata: fram_cri::ContainerMetadata { name: name.into(), attempt },
            labels: [(LABEL_POD_UID.to_string(), pod.to_string())].into(),
            state,
            ..Default::default()
        };
        use ContainerState::{Exited, Running};
        let all = [
            container("a", "runs", "c", 0, Exited),
            container("b", "runs", "c", 1, Exited),
            container("c", "runs", "c", 2, Running),
            container("d", "runs", "other", 0, Exited),
            container("e", "ended", "c", 0, Exited),
            container("f", "ended", "d", 0, Running),
        ];
        let ids: String = dead(&all, &HashSet::from(["ended".to_string()])).into_iter().map(|c| c.id.as_str()).collect();
        assert_eq!(ids, "abe");
    }
}
