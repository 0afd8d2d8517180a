//! The kubelet as a whole: it learns of pods from the API server and of containers from the runtime, and gives each pod a
//! worker. See upstream's kubelet.go.

mod granting;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fram_client::resources::{NODES, PODS, RUNTIME_CLASSES, SERVICES};
use fram_client::{Client, Delta, EventRecorder, Informer, InformerOptions};
use fram_cri::{ContainerEvent, ContainerEvents, ContainerFilter, CriError, ImageService, PodSandboxFilter, RuntimeService};
use fram_machinery::{Value, meta, object};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admit::{admit, forbid};
use crate::allocation::Allocations;
use crate::cgroup::Cgroups;
use crate::clock::Clock;
use crate::config::{KernelDefaults, KubeletConfig};
use crate::context::Context;
use crate::devices::{self, DeviceManager};
use crate::dra::{self, DraManager};
use crate::images::Images;
use crate::images::provider::ApiAccounts;
use crate::measured::Measured;
use crate::metrics::{Metrics, Took};
use crate::node::{self, machine};
use crate::objects::Objects;
use crate::observed::{ANNOTATION_POD_GRACE, LABEL_POD_NAME, LABEL_POD_NAMESPACE, LABEL_POD_UID};
use crate::pod;
use crate::pod::resources::cgroup_candidates;
use crate::resource::{ManagerError, ResourceManagers, pool, qos};
use crate::static_pods::{self, mirror};
use crate::status::writer::StatusWriter;
use crate::user_namespaces::UserNamespaces;
use crate::volumes;
use crate::volumes::certificate::PodCertificates;
use crate::volumes::token::Tokens;
use crate::volumes::trust::TrustBundles;
use crate::worker::{Failure, Letter, Mailbox, Worker};

#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    #[error("create {path:?}: {source}")]
    Directory { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Managers(#[from] ManagerError),
    #[error("running with swap on is not supported, please disable swap or set failSwapOn to false")]
    Swap,
    #[error("{0}: set them, or leave protectKernelDefaults out; with false they are set for you")]
    KernelDefaults(String),
    #[error("the kernel cannot be set as Kubernetes wants it: {0}")]
    Kernel(String),
    #[error(transparent)]
    Reserved(#[from] qos::ReservedError),
    #[error("the runtime does not answer: {0}")]
    Runtime(#[from] CriError),
}

type Mailboxes = Arc<Mutex<HashMap<String, Arc<Mailbox>>>>;

/// A node's agent. Clones share it.
#[derive(Clone)]
pub struct Kubelet {
    pub(crate) ctx: Arc<Context>,
    client: Client,
    node: Informer,
    mailboxes: Mailboxes,
    writer: Arc<Mutex<Option<fram_client::Controller>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Kubelet {
    /// Prepares a kubelet; its informers begin at once, pods with `run`. Needs a tokio runtime around it.
    pub fn new(
        config: KubeletConfig,
        client: Client,
        runtime: Arc<dyn RuntimeService>,
        images: Arc<dyn ImageService>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, KubeletError> {
        for path in [&config.root_dir, &config.log_dir] {
            std::fs::create_dir_all(path).map_err(|source| KubeletError::Directory { path: path.clone(), source })?;
        }
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let informer = |resource, options| Informer::start(client.clone(), resource, "", options, &tasks, stop.clone());
        let (writer, controller) = StatusWriter::new();
        let metrics = Metrics::default();
        let runtime = Arc::new(Measured { inner: runtime, families: metrics.families.clone() });
        let images: Arc<dyn ImageService> = Arc::new(Measured { inner: images, families: metrics.families.clone() });
        let mailboxes = Mailboxes::default();
        let now = clock.clone();
        let node = node::machine::facts(&config);
        if config.fail_swap_on && node.swap_bytes > 0 {
            return Err(KubeletError::Swap);
        }
        let sys = Path::new("/proc/sys");
        match (node::kernel::faults(sys), config.kernel_defaults) {
            (faults, _) if faults.is_empty() => {}
            (faults, KernelDefaults::Protect) => return Err(KubeletError::KernelDefaults(faults.join("; "))),
            (faults, KernelDefaults::Tell) => {
                tracing::info!(differ = faults.join("; "), "the kernel is not set as Kubernetes wants it, and stays as it is");
            }
            (faults, KernelDefaults::Set) => {
                node::kernel::set(sys).map_err(KubeletError::Kernel)?;
                tracing::info!(differed = faults.join("; "), "the kernel is set as Kubernetes wants it");
            }
        }
        qos::hold_reserved(&config, &Cgroups::detect(&config.cgroup_mount))?;
        let managers = ResourceManagers::open(&config, &node, Path::new("/sys"))?;
        let tokens = Arc::new(Tokens::new(client.clone()));
        let accounts = ApiAccounts { client: client.clone(), tokens: tokens.clone(), clock: clock.clone() };
        let ctx = Context {
            managers,
            devices: Arc::new(DeviceManager::open(&config.root_dir)),
            dra: Arc::new(DraManager::open(client.clone(), &config.node_name, &config.root_dir)),
            user_namespaces: UserNamespaces::open(&config),
            images: Images::new(images, Arc::new(accounts), clock.clone(), &config, metrics.families.clone()),
            objects: Objects::new(client.clone(), waker(&mailboxes), tasks.clone(), stop.clone()),
            tokens,
            trust: TrustBundles::new(client.clone(), waker(&mailboxes), tasks.clone(), stop.clone()),
            certificates: PodCertificates::new(client.clone(), &config.node_name, waker(&mailboxes), tasks.clone(), stop.clone()),
            recorder: EventRecorder::start_limited(
                client.clone(),
                "kubelet",
                &config.node_name,
                config.event_rate,
                Arc::new(move || now.now()),
                &tasks,
                stop.clone(),
            ),
            writer,
            pods: informer(PODS, InformerOptions::fields(format!("spec.nodeName={}", config.node_name))),
            statics: Default::default(),
            services: informer(SERVICES, InformerOptions::default()),
            runtime_classes: informer(RUNTIME_CLASSES, InformerOptions::default()),
            cgroups: Cgroups::detect(&config.cgroup_mount),
            allocations: Allocations::new(&config.root_dir),
            rates: Default::default(),
            metrics,
            collector: Default::default(),
            runtime_status: Default::default(),
            pressures: Default::default(),
            shutting_down: Default::default(),
            node,
            activity: tokio::sync::watch::Sender::new(0),
            runtime,
            clock,
            config,
        };
        let node = informer(NODES, InformerOptions::fields(format!("metadata.name={}", ctx.config.node_name)));
        let writer = Arc::new(Mutex::new(Some(controller)));
        Ok(Self { ctx: Arc::new(ctx), client, node, mailboxes, writer, tasks, stop })
    }

    /// Runs the node's pods until `stop`. Containers go on without it, and the next kubelet takes them over.
    pub async fn run(&self, stop: CancellationToken) -> Result<(), KubeletError> {
        let _end = self.stop.clone().drop_guard();
        self.ctx.images.recover().await;
        self.tasks.spawn(node::keep(self.ctx.clone(), self.client.clone(), self.node.clone(), self.stop.clone()));
        if self.ctx.config.volumes_dir.is_some() {
            self.tasks.spawn(crate::local_path::keep(self.ctx.clone(), self.client.clone(), self.tasks.clone(), self.stop.clone()));
        }
        if let Some(address) = self.ctx.config.healthz {
            self.tasks.spawn(crate::server::healthz::serve(address, self.stop.clone()));
        }
        self.tasks.spawn(crate::rotate::keep(self.ctx.clone(), self.stop.clone()));
        self.serve_plugins();
        if let Some(dir) = self.ctx.config.static_pod_path.clone() {
            let known = static_pods::begin(&self.ctx, &dir);
            self.tasks.spawn(static_pods::keep(self.ctx.clone(), dir, known, self.stop.clone()));
        }
        if let Some(source) = self.ctx.config.static_pod_url.clone() {
            self.tasks.spawn(static_pods::url::keep(self.ctx.clone(), source, self.stop.clone()));
        }
        if self.ctx.config.static_pod_path.is_some() || self.ctx.config.static_pod_url.is_some() {
            self.tasks.spawn(static_pods::mirror::keep(self.clone(), self.client.clone(), self.node.clone(), self.stop.clone()));
        }
        if !self.ctx.config.shutdown_grace.is_empty() {
            self.tasks.spawn(crate::shutdown::keep(self.clone(), self.stop.clone()));
        }
        self.tasks.spawn(crate::eviction::keep(self.clone(), self.stop.clone()));
        self.tasks.spawn(crate::images::gc::keep(self.clone(), self.stop.clone()));
        if let Some(controller) = self.writer.lock().take() {
            let writer = self.ctx.writer.clone();
            self.tasks.spawn(writer.run(controller, self.client.clone(), self.ctx.pods.clone(), self.stop.clone()));
        }
        self.ctx.node_event(false, "Starting", "Starting kubelet.");
        let mut pods = Pods {
            kubelet: self,
            workers: JoinSet::new(),
            uids: HashMap::new(),
            keys: HashMap::new(),
            statics: HashMap::new(),
            shares: None,
        };
        let outcome = stop.run_until_cancelled(pods.run()).await.unwrap_or(Ok(()));
        self.stop.cancel();
        while pods.workers.join_next().await.is_some() {}
        self.tasks.close();
        self.tasks.wait().await;
        outcome
    }

    /// The sockets below the kubelet's directory.
    fn serve_plugins(&self) {
        let (root, stop) = (&self.ctx.config.root_dir, self.stop.clone());
        let (devices, dra) = (self.ctx.devices.clone(), self.ctx.dra.clone());
        let registry = Arc::new(devices::registration::Registry { devices, dra, tasks: self.tasks.clone(), stop: stop.clone() });
        self.tasks.spawn(dra::keep(self.clone(), stop.clone()));
        self.tasks.spawn(tell_health(self.clone(), stop.clone()));
        self.tasks.spawn(devices::registration::serve(registry.clone()));
        self.tasks.spawn(devices::registration::follow(registry, root.join("plugins_registry")));
        self.tasks.spawn(devices::pod_resources::serve(self.clone(), root.join("pod-resources/kubelet.sock"), stop));
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Ends when the kubelet stops.
    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// A task that ends with the kubelet at the latest.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }

    /// The pods that have a worker and have not ended, with the resources that they have.
    pub(crate) fn active_pods(&self) -> Vec<Arc<Value>> {
        let mailboxes = self.mailboxes.lock();
        let active = |p: &Arc<Value>| mailboxes.contains_key(meta::uid(p)) && !pod::is_terminal(p);
        self.ctx.all_pods().into_iter().filter(active).map(|p| self.ctx.allocations.granted(&p)).collect()
    }

    /// Whether something of a pod may still be on this node.
    pub(crate) fn has_worker(&self, uid: &str) -> bool {
        self.mailboxes.lock().contains_key(uid)
    }

    pub(crate) fn post(&self, uid: &str, letter: Letter) {
        if let Some(mailbox) = self.mailboxes.lock().get(uid) {
            mailbox.post(letter);
        }
    }
}

/// Has the pods that hold devices tell of them again when these change, until `stop`.
async fn tell_health(kubelet: Kubelet, stop: CancellationToken) {
    let (mut devices, mut drivers) = (kubelet.ctx.devices.subscribe(), kubelet.ctx.dra.subscribe_health());
    loop {
        let changed = async {
            tokio::select! {
                changed = devices.changed() => changed.is_ok().then(|| kubelet.ctx.devices.holders()),
                changed = drivers.changed() => {
                    changed.is_ok().then(|| kubelet.ctx.dra.claims().into_values().flat_map(|claim| claim.pods).collect())
                }
            }
        };
        let Some(Some(holders)) = stop.run_until_cancelled(changed).await else { return };
        holders.iter().for_each(|uid| kubelet.post(uid, Letter::Runtime));
    }
}

/// Wakes the worker of a pod of whose volumes' sources one has changed.
fn waker(mailboxes: &Mailboxes) -> crate::objects::Wake {
    let mailboxes = mailboxes.clone();
    Arc::new(move |uid| {
        if let Some(mailbox) = mailboxes.lock().get(uid) {
            mailbox.post(Letter::SourcesChanged);
        }
    })
}

/// The workers, and who is whose.
struct Pods<'a> {
    kubelet: &'a Kubelet,
    workers: JoinSet<()>,
    uids: HashMap<tokio::task::Id, String>,
    /// The uid of the pod that has a name now.
    keys: HashMap<String, String>,
    /// The static pods that have a worker: their uids by their names.
    statics: HashMap<String, String>,
    /// What the classes of pods were given last.
    shares: Option<qos::Shares>,
}

impl Pods<'_> {
    async fn run(&mut self) -> Result<(), KubeletError> {
        let ctx = self.kubelet.ctx.clone();
        // Subscribed before anything is listed: nothing falls between.
        let mut events = ctx.runtime.events().await?;
        let mut statics = ctx.statics.subscribe();
        qos::found(&ctx);
        ctx.runtime_status.send_replace(ctx.runtime.status().await?);
        // They run whether the API server answers or not.
        self.follow_statics();
        ctx.pods.synced().await;
        let mut unsure = ctx.awaits_url();
        self.clean_up().await?;
        let mut changes = ctx.pods.subscribe();
        loop {
            tokio::select! {
                deltas = changes.changed() => match deltas {
                    Some(deltas) => self.dispatch_all(deltas),
                    None => return Ok(()),
                },
                event = events.recv() => match event {
                    Some(event) => self.hear(&event),
                    None => events = self.resubscribe().await?,
                },
                Some(ended) = self.workers.join_next_with_id() => self.ended(ended),
                Ok(()) = statics.changed() => {
                    self.follow_statics();
                    if unsure && !ctx.awaits_url() {
                        unsure = false;
                        self.clean_up().await?;
                    }
                }
            }
        }
    }

    /// Events were lost: everyone looks for themselves.
    async fn resubscribe(&self) -> Result<ContainerEvents, KubeletError> {
        let events = self.kubelet.ctx.runtime.events().await?;
        for mailbox in self.kubelet.mailboxes.lock().values() {
            mailbox.post(Letter::Runtime);
        }
        Ok(events)
    }

    fn hear(&self, event: &ContainerEvent) {
        self.kubelet.ctx.activity.send_modify(|count| *count += 1);
        let sandbox = event.pod_sandbox_status.as_ref().map(|s| s.metadata.uid.clone());
        let container = || event.containers_statuses.iter().find_map(|c| c.labels.get(LABEL_POD_UID).cloned());
        if let Some(uid) = sandbox.or_else(container) {
            self.kubelet.post(&uid, Letter::Runtime);
        }
    }

    fn dispatch_all(&mut self, mut deltas: Vec<Delta>) {
        // Older pods are admitted first, as they were before a restart.
        deltas.sort_by(|a, b| created(a.object()).cmp(created(b.object())));
        for delta in deltas {
            let gone = delta.old.as_deref().filter(|old| delta.new.as_deref().is_none_or(|new| meta::uid(new) != meta::uid(old)));
            if let Some(old) = gone {
                self.kubelet.post(meta::uid(old), Letter::Removed);
            }
            let Some(pod) = delta.new else { continue };
            match mirror::hash(&pod) {
                None => self.dispatch(pod),
                // Mirrors only show what runs; a new one has to be told.
                Some(hash) if delta.old.as_deref().is_none_or(|old| meta::uid(old) != meta::uid(&pod)) => {
                    self.kubelet.ctx.writer.repeat(hash);
                }
                Some(_) => {}
            }
        }
        self.retry_resizes();
        self.share_cpus();
    }

    /// Runs what files say. A pod whose file has changed is another one: it begins when the former has ended, which may hold what it
    /// needs.
    fn follow_statics(&mut self) {
        let wanted = self.kubelet.ctx.statics.list();
        let mut busy: HashSet<String> = HashSet::new();
        for (key, uid) in self.statics.clone() {
            if !wanted.iter().any(|p| meta::uid(p) == uid) {
                self.kubelet.post(&uid, Letter::Removed);
                busy.insert(key);
            }
        }
        for pod in wanted {
            let (key, uid) = (meta::key(&pod), meta::uid(&pod).to_string());
            if !self.kubelet.has_worker(&uid) && !busy.contains(&key) {
                self.statics.insert(key, uid);
                self.dispatch(pod);
            }
        }
    }

    /// Processors are shared between the classes of pods by what the pods of each ask for.
    fn share_cpus(&mut self) {
        let ctx = &self.kubelet.ctx;
        let shares = qos::class_shares(&self.kubelet.active_pods());
        // Most of what is told of pods changes nothing of it, as statuses of the kubelet itself.
        if self.shares != Some(shares) {
            qos::share(&ctx.cgroups, &ctx.config.cgroup_root, shares);
            self.shares = Some(shares);
        }
    }

    fn dispatch(&mut self, pod: Arc<Value>) {
        let (uid, key) = (meta::uid(&pod).to_string(), meta::key(&pod));
        // A change that was joined with others can hide that another pod had the name.
        if let Some(before) = self.keys.insert(key, uid.clone()).filter(|before| *before != uid) {
            self.kubelet.post(&before, Letter::Removed);
        }
        if self.kubelet.mailboxes.lock().contains_key(&uid) {
            let pod = self.allocate(&pod);
            self.kubelet.post(&uid, Letter::Pod(pod));
            return;
        }
        self.kubelet.ctx.allocations.recall(&pod);
        let verdict = self.admit(&pod);
        if verdict.is_ok() && !self.kubelet.ctx.allocations.differs(&pod) {
            self.kubelet.ctx.allocations.grant(&pod);
        }
        // Whether it may have more is judged once all the node's pods are known.
        let pod = self.kubelet.ctx.allocations.granted(&pod);
        self.start(pod.clone());
        if let Err((reason, message)) = verdict {
            self.kubelet.ctx.event(&pod, true, &reason, message.clone());
            self.kubelet.ctx.metrics.count_rejection(&reason);
            let failure = Failure { reason, message, disruption: false };
            self.kubelet.post(&uid, Letter::Failed { failure, grace: None });
        }
        self.kubelet.post(&uid, Letter::Pod(pod));
    }

    fn admit(&self, pod: &Value) -> Result<(), crate::admit::Rejection> {
        // What runs already, or has ended, was admitted before.
        let known = !pod.str_at(&["status", "startTime"]).is_empty();
        if known || pod::is_terminal(pod) || meta::is_terminating(pod) {
            return Ok(());
        }
        let ctx = &self.kubelet.ctx;
        let has_strict_groups = ctx.runtime_status.borrow().features.supplemental_groups_policy;
        forbid(pod, &ctx.config.allowed_unsafe_sysctls, machine::has_apparmor(), has_strict_groups)?;
        crate::shutdown::admit(*ctx.shutting_down.borrow())?;
        crate::eviction::admit(pod, &ctx.pressures.borrow())?;
        let node = self.kubelet.node.get(&ctx.config.node_name);
        admit(pod, node.as_deref().unwrap_or(&Value::Null), &ctx.node.allocatable, &self.others(pod))?;
        let nodes = ctx.managers.hardware().node_ids();
        let affinities = ctx.managers.allocate(pod, &|container| devices::hints_of(&ctx.devices, pod, &nodes, container))?;
        ctx.devices.reserve(pod, &affinities).inspect_err(|_| {
            ctx.managers.release(meta::uid(pod));
        })
    }

    fn start(&mut self, pod: Arc<Value>) {
        let uid = meta::uid(&pod).to_string();
        let mailbox = Arc::new(Mailbox::default());
        self.kubelet.mailboxes.lock().insert(uid.clone(), mailbox.clone());
        let containers = pod.list_at(&["spec", "containers"]).len();
        self.kubelet.ctx.metrics.families.note(Took::ContainersPerPod, &[], containers as f64);
        let worker = Worker::new(self.kubelet.ctx.clone(), pod, mailbox);
        let id = self.workers.spawn(worker.run(self.kubelet.stop.clone())).id();
        self.uids.insert(id, uid);
    }

    /// A worker that ended by itself is done; one that panicked is replaced for as long as its pod is there.
    fn ended(&mut self, ended: Result<(tokio::task::Id, ()), tokio::task::JoinError>) {
        let (id, failed) = match ended {
            Ok((id, ())) => (id, None),
            Err(error) => (error.id(), Some(error)),
        };
        let Some(uid) = self.uids.remove(&id) else { return };
        self.kubelet.mailboxes.lock().remove(&uid);
        if failed.is_none() {
            self.kubelet.ctx.allocations.forget(&uid);
        }
        self.keys.retain(|_, known| *known != uid);
        self.statics.retain(|_, known| *known != uid);
        if let Some(error) = failed {
            tracing::error!(uid, %error, "a pod's worker panicked and is started again");
            if let Some(pod) = self.kubelet.ctx.all_pods().into_iter().find(|p| meta::uid(p) == uid) {
                self.dispatch(pod);
            }
        }
        self.follow_statics();
        self.kubelet.ctx.statics.touch();
        self.retry_resizes();
        self.share_cpus();
    }

    /// Whatever belongs to pods that were deleted while no kubelet ran is taken away.
    async fn clean_up(&mut self) -> Result<(), KubeletError> {
        let ctx = self.kubelet.ctx.clone();
        // What a URL has given runs on until the URL says otherwise. Asked first: it may say so meanwhile.
        let unsure = ctx.awaits_url();
        let known: HashSet<String> = ctx.all_pods().iter().map(|p| meta::uid(p).to_string()).collect();
        if !unsure {
            ctx.managers.keep(&known);
            ctx.devices.keep(&known);
        }
        pool::level(&ctx).await;
        let mut orphans: HashMap<String, Value> = HashMap::new();
        let mut waiting: HashSet<String> = HashSet::new();
        for sandbox in ctx.runtime.list_pod_sandbox(&PodSandboxFilter::default()).await? {
            if unsure && static_pods::is_of_url(&sandbox) {
                waiting.insert(sandbox.metadata.uid.clone());
            }
            orphans.entry(sandbox.metadata.uid.clone()).or_insert_with(|| orphan(&sandbox.labels, &sandbox.annotations));
        }
        for container in ctx.runtime.list_containers(&ContainerFilter::default()).await? {
            let Some(uid) = container.labels.get(LABEL_POD_UID) else { continue };
            orphans.entry(uid.clone()).or_insert_with(|| orphan(&container.labels, &container.annotations));
        }
        orphans.retain(|uid, pod| !known.contains(uid) && !waiting.contains(uid) && !meta::uid(pod).is_empty());
        let running: HashSet<String> = orphans.keys().cloned().collect();
        for (uid, pod) in orphans {
            tracing::info!(uid, "a pod that the API server no longer has is stopped");
            self.start(Arc::new(pod));
            self.kubelet.post(&uid, Letter::Removed);
        }
        let root = ctx.config.root_dir.join("pods");
        let entries = std::fs::read_dir(&root).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let entries = entries.or_else(|error| if error.kind() == std::io::ErrorKind::NotFound { Ok(Vec::new()) } else { Err(error) });
        let entries = entries.inspect_err(|error| tracing::warn!(?root, %error, "what pods have left behind cannot be listed"));
        for entry in entries.into_iter().flatten() {
            let uid = entry.file_name().to_string_lossy().into_owned();
            if known.contains(&uid) || running.contains(&uid) || waiting.contains(&uid) {
                continue;
            }
            match volumes::tear_down(&entry.path()) {
                Ok(_) => ctx.user_namespaces.release(&uid),
                Err(error) => tracing::warn!(uid, %error, "what a pod left behind could not be removed"),
            }
            for path in cgroup_candidates(&ctx.config.cgroup_root, &uid) {
                if let Err(error) = ctx.cgroups.remove(&path) {
                    tracing::warn!(uid, %error, "what a pod left behind could not be removed");
                }
            }
        }
        Ok(())
    }
}

fn created(pod: &Value) -> &str {
    pod.str_at(&["metadata", "creationTimestamp"])
}

type Labels = std::collections::BTreeMap<String, String>;

/// As much of a pod as its sandbox tells.
fn orphan(labels: &Labels, annotations: &Labels) -> Value {
    let text = |key: &str| labels.get(key).map(String::as_str).unwrap_or_default();
    let grace = annotations.get(ANNOTATION_POD_GRACE).and_then(|g| g.parse::<i64>().ok()).unwrap_or(30);
    object!({
        "metadata": { "name": (text(LABEL_POD_NAME)), "namespace": (text(LABEL_POD_NAMESPACE)), "uid": (text(LABEL_POD_UID)) },
        "spec": { "terminationGracePeriodSeconds": grace }
    })
}
