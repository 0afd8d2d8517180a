//! The runtime: what is known of all sandboxes and containers, the tasks that listen to their shims, and the events.
//! What it knows is rebuilt from disk and from the shims whenever it is opened.

mod containers;
mod exec;
mod filters;
mod image_volume;
mod metrics;
mod recover;
mod sandboxes;
mod service;
mod stats;
mod streams;

use std::collections::BTreeMap;
use std::fs::File;
use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fram_cri::{ContainerEvent, ContainerEventType, ContainerEvents, ContainerState, CriError, CriResult, RootFilesystems, SandboxNetwork};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::cgroup::Cgroups;
use crate::client::Client;
use crate::config::RuntimeConfig;
use crate::durable::{self, DurableError, Sync};
use crate::protocol::{ContainerRun, Exit, Response};
use crate::records::{CONTAINER_FILE, Layout};
use crate::shim::{STATE_FILE, clock};
use crate::state::{Container, LOST, Sandbox};

#[derive(Debug, Error)]
pub enum OpenError {
    #[error("{operation} {path:?}: {source}")]
    Io { operation: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{0:?} is in use by another runtime")]
    Locked(PathBuf),
}

/// Clones share one runtime. Dropping every clone lets go of the shims, which go on; `close` also waits for what is
/// under way, so that the next one can be opened at once.
#[derive(Clone)]
pub struct Runtime {
    inner: Arc<Inner>,
    _listening: Arc<DropGuard>,
}

pub(crate) struct Inner {
    config: RuntimeConfig,
    layout: Layout,
    cgroups: Cgroups,
    filters: filters::Filters,
    images: Arc<dyn RootFilesystems>,
    network: Arc<dyn SandboxNetwork>,
    sandboxes: Mutex<BTreeMap<String, Arc<Sandbox>>>,
    containers: Mutex<BTreeMap<String, Arc<Container>>>,
    events: Mutex<Events>,
    tasks: TaskTracker,
    cancel: CancellationToken,
    /// Held as long as the runtime lives, so that a second one is refused.
    _lock: File,
}

#[derive(Default)]
struct Events {
    subscribers: Vec<mpsc::Sender<ContainerEvent>>,
    /// Containers whose end nobody could be told of yet.
    unreported: Vec<String>,
}

impl Runtime {
    /// Finds the sandboxes under the configured root and connects to their shims.
    pub async fn open(
        config: RuntimeConfig,
        images: Arc<dyn RootFilesystems>,
        network: Arc<dyn SandboxNetwork>,
    ) -> Result<Runtime, OpenError> {
        let inner = Arc::new(Inner::new(config, images, network)?);
        let listening = Arc::new(inner.cancel.clone().drop_guard());
        recover::recover(&inner).await?;
        Ok(Runtime { inner, _listening: listening })
    }

    /// Lets go of the shims, which go on, and waits for operations that have begun.
    pub async fn close(self) {
        self.inner.cancel.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// Removes every sandbox, and all that the runtime has made on the node: `fram down --purge`.
    pub async fn purge(self) -> CriResult<()> {
        let ids: Vec<String> = self.inner.sandboxes.lock().keys().cloned().collect();
        for id in ids {
            self.complete(sandboxes::remove(self.inner.clone(), id)).await?;
        }
        let inner = self.inner.clone();
        self.close().await;
        for cgroup in [&inner.config.cgroup_root, &inner.config.shim_cgroup] {
            containers::remove_cgroup(inner.cgroups.clone(), cgroup.clone()).await?;
        }
        let root = inner.config.root.clone();
        blocking(move || sandboxes::remove_directory(&root)).await
    }

    /// Runs an operation to its end, whether the caller stays or not.
    async fn complete<T, F>(&self, operation: F) -> CriResult<T>
    where
        T: Send + 'static,
        F: Future<Output = CriResult<T>> + Send + 'static,
    {
        let ended = self.inner.tasks.spawn(operation).await;
        ended.unwrap_or_else(|error| Err(CriError::Internal(format!("an operation of the runtime failed: {error}"))))
    }
}

impl Inner {
    fn new(config: RuntimeConfig, images: Arc<dyn RootFilesystems>, network: Arc<dyn SandboxNetwork>) -> Result<Inner, OpenError> {
        let layout = Layout::new(&config.root);
        let failed = |operation, path: &PathBuf| {
            let path = path.clone();
            move |source| OpenError::Io { operation, path, source }
        };
        std::fs::create_dir_all(&layout.sandboxes).map_err(failed("create", &layout.sandboxes))?;
        // The records hold the environments of containers, and those hold secrets.
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(&layout.sandboxes, private).map_err(failed("protect", &layout.sandboxes))?;
        layout.make_mount_points().map_err(failed("make", &layout.mount_points))?;
        let path = config.root.join("lock");
        let lock = File::create(&path).map_err(failed("create", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(OpenError::Locked(config.root)),
            Err(std::fs::TryLockError::Error(source)) => return Err(failed("lock", &path)(source)),
        }
        let mount = &config.cgroup_mount;
        let cgroups = Cgroups::detect(mount).map_err(failed("find the cgroups in", mount))?;
        Ok(Inner {
            layout,
            cgroups,
            filters: filters::Filters::default(),
            images,
            network,
            sandboxes: Mutex::default(),
            containers: Mutex::default(),
            events: Mutex::default(),
            tasks: TaskTracker::new(),
            cancel: CancellationToken::new(),
            _lock: lock,
            config,
        })
    }

    fn sandbox(&self, id: &str) -> CriResult<Arc<Sandbox>> {
        self.sandboxes.lock().get(id).cloned().ok_or_else(|| CriError::not_found("pod sandbox", id))
    }

    fn container(&self, id: &str) -> CriResult<Arc<Container>> {
        self.containers.lock().get(id).cloned().ok_or_else(|| CriError::not_found("container", id))
    }

    fn containers_of(&self, sandbox: &str) -> Vec<Arc<Container>> {
        self.containers.lock().values().filter(|container| container.sandbox_id == sandbox).cloned().collect()
    }

    /// Listens to a shim until it ends or the runtime is closed.
    fn listen(self: &Arc<Self>, sandbox: Arc<Sandbox>, mut client: Client) {
        let inner = self.clone();
        self.tasks.spawn(async move {
            loop {
                let news = tokio::select! {
                    biased;
                    () = inner.cancel.cancelled() => return,
                    news = client.receive() => news,
                };
                match news {
                    Ok(Response::ContainerRunning { run } | Response::ContainerExited { run }) => inner.advance(run),
                    // A newer shim may say more than is known here.
                    Ok(_) => {}
                    Err(error) => {
                        if !sandbox.stopping.load(Ordering::SeqCst) {
                            tracing::warn!(sandbox = sandbox.id, %error, "lost the shim of a sandbox");
                            inner.shim_died(&sandbox);
                        }
                        return;
                    }
                }
            }
        });
    }

    /// Takes in what a shim says of a container, and publishes what is new in it.
    fn advance(&self, run: ContainerRun) {
        let Ok(container) = self.container(&run.container_id) else { return };
        // Held over both, so that events come in the order of what happened.
        let mut events = self.events.lock();
        for state in container.advance(run) {
            let kind = match state {
                ContainerState::Running => ContainerEventType::Started,
                _ => ContainerEventType::Stopped,
            };
            self.publish_to(&mut events, &container.id, &container.sandbox_id, kind);
        }
    }

    fn publish(&self, container_id: &str, sandbox_id: &str, kind: ContainerEventType) {
        self.publish_to(&mut self.events.lock(), container_id, sandbox_id, kind);
    }

    fn publish_to(&self, events: &mut Events, container_id: &str, sandbox_id: &str, kind: ContainerEventType) {
        let event = self.event(container_id, sandbox_id, kind);
        let before = events.subscribers.len();
        // One that does not keep up is ended: it subscribes again and lists.
        events.subscribers.retain(|subscriber| subscriber.try_send(event.clone()).is_ok());
        if events.subscribers.len() < before {
            tracing::warn!("a subscriber to container events was ended");
        }
        if kind == ContainerEventType::Stopped && container_id != sandbox_id {
            if events.subscribers.is_empty() {
                events.unreported.push(container_id.to_owned());
            } else {
                self.mark_reported(container_id);
            }
        }
    }

    fn event(&self, container_id: &str, sandbox_id: &str, kind: ContainerEventType) -> ContainerEvent {
        ContainerEvent {
            container_id: container_id.to_owned(),
            pod_sandbox_id: sandbox_id.to_owned(),
            container_event_type: kind,
            created_at: clock::now(),
            pod_sandbox_status: self.sandbox(sandbox_id).ok().map(|sandbox| sandbox.status()),
            containers_statuses: self.containers_of(sandbox_id).iter().map(|container| container.status()).collect(),
        }
    }

    fn mark_reported(&self, container_id: &str) {
        let Ok(container) = self.container(container_id) else { return };
        let mut record = container.record.lock();
        if container.removing.load(Ordering::SeqCst) {
            return;
        }
        record.exit_reported = true;
        if let Err(error) = durable::write_json(&container.dir.join(CONTAINER_FILE), &*record, Sync::No) {
            // Then it is told twice after a restart, which a subscriber that lists does not mind.
            tracing::warn!(container = container_id, %error, "cannot note that an exit was reported");
        }
    }

    fn subscribe(&self) -> ContainerEvents {
        let mut events = self.events.lock();
        let unreported = std::mem::take(&mut events.unreported);
        let (sender, receiver) = mpsc::channel(self.config.event_buffer.max(1) + unreported.len());
        for id in unreported {
            let Ok(container) = self.container(&id) else { continue };
            let event = self.event(&id, &container.sandbox_id, ContainerEventType::Stopped);
            // The channel was made with room for them.
            if sender.try_send(event).is_ok() {
                self.mark_reported(&id);
            }
        }
        events.subscribers.push(sender);
        ContainerEvents::new(receiver)
    }

    /// Nobody holds the sandbox any more: what its containers' records do not tell is lost, and nothing of them may go
    /// on unseen.
    fn shim_died(&self, sandbox: &Sandbox) {
        sandbox.ready.store(false, Ordering::SeqCst);
        for container in self.containers_of(&sandbox.id) {
            self.settle(&container);
        }
        self.publish(&sandbox.id, &sandbox.id, ContainerEventType::Stopped);
    }

    /// Brings a container without a shim to its end.
    fn settle(&self, container: &Container) {
        if container.state() == ContainerState::Exited {
            return;
        }
        let path = container.dir.join(STATE_FILE);
        let recorded: Result<Option<ContainerRun>, DurableError> = durable::read_json(&path);
        let mut run = match recorded {
            Ok(Some(run)) => run,
            // It was never started; and without a sandbox it never will be.
            Ok(None) if container.state() == ContainerState::Created => return,
            Ok(None) => container.run.borrow().run.clone(),
            Err(error) => {
                tracing::warn!(container = container.id, %error, "the record of a container is lost");
                container.run.borrow().run.clone()
            }
        };
        if run.exit.is_none() {
            let record = container.record.lock();
            self.cgroups.kill(&record.cgroup);
            let message = "the shim of the sandbox died".to_owned();
            let exit = Exit { code: LOST, finished_at: clock::now(), lost: true, message, ..Exit::default() };
            run.container_id.clone_from(&container.id);
            run.exit = Some(exit);
            if !container.removing.load(Ordering::SeqCst)
                && let Err(error) = durable::write_json(&path, &run, Sync::Yes)
            {
                tracing::warn!(container = container.id, %error, "cannot record the end of a container");
            }
        }
        self.advance(run);
    }
}

/// Runs what blocks where it may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> CriResult<T> + Send + 'static) -> CriResult<T> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|error| Err(CriError::Internal(format!("an operation of the runtime failed: {error}"))))
}

impl From<DurableError> for CriError {
    fn from(error: DurableError) -> CriError {
        match error {
            DurableError::Io { operation, path, source } => CriError::Io { operation, path, source },
            malformed => CriError::Internal(malformed.to_string()),
        }
    }
}
