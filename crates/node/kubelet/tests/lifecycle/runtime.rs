//! A model of runtime and images: containers that run until the test, or a stop, ends them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fram_cri::*;
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, watch};

#[derive(Default)]
struct State {
    sandboxes: BTreeMap<String, PodSandboxStatus>,
    containers: BTreeMap<String, ContainerStatus>,
    subscribers: Vec<mpsc::Sender<ContainerEvent>>,
    images: Vec<String>,
    serial: u32,
}

#[derive(Clone)]
pub(crate) struct Runtime {
    state: Arc<Mutex<State>>,
    /// Whether sandboxes are finished; those that are begun wait until they are.
    finishes: Arc<watch::Sender<bool>>,
    begun: Arc<watch::Sender<u32>>,
}

impl Default for Runtime {
    fn default() -> Self {
        Self { state: Arc::default(), finishes: Arc::new(watch::Sender::new(true)), begun: Arc::default() }
    }
}

fn now() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as i64
}

impl Runtime {
    pub(crate) fn sandboxes(&self) -> usize {
        self.state.lock().sandboxes.len()
    }

    /// Sandboxes that are begun stay unfinished, and unseen, or are finished from now on.
    pub(crate) fn finish_sandboxes(&self, finish: bool) {
        self.finishes.send_replace(finish);
    }

    /// Returns when so many sandboxes were begun.
    pub(crate) async fn begun(&self, count: u32) {
        self.begun.subscribe().wait_for(|begun| *begun >= count).await.unwrap();
    }

    pub(crate) fn ready_sandboxes(&self) -> usize {
        self.state.lock().sandboxes.values().filter(|s| s.state == PodSandboxState::Ready).count()
    }

    pub(crate) fn containers(&self) -> usize {
        self.state.lock().containers.len()
    }

    /// Ends the running instance of the container with this name.
    pub(crate) fn exit(&self, name: &str, code: i32) {
        let id = {
            let state = self.state.lock();
            let running = state.containers.values().find(|c| c.metadata.name == name && c.state == ContainerState::Running);
            running.unwrap_or_else(|| panic!("{name} does not run")).id.clone()
        };
        self.end(&id, code);
    }

    /// The sandboxes die with everything in them, as after a reboot.
    pub(crate) fn reboot(&self) {
        let (sandboxes, containers): (Vec<_>, Vec<_>) = {
            let state = self.state.lock();
            (state.sandboxes.keys().cloned().collect(), state.containers.keys().cloned().collect())
        };
        containers.iter().for_each(|id| self.end(id, 255));
        let mut state = self.state.lock();
        for id in sandboxes {
            if let Some(sandbox) = state.sandboxes.get_mut(&id) {
                sandbox.state = PodSandboxState::NotReady;
            }
            tell(&mut state, &id, &id, ContainerEventType::Stopped);
        }
    }

    fn make_sandbox(&self, config: &PodSandboxConfig) -> CriResult<String> {
        let mut state = self.state.lock();
        state.serial += 1;
        let id = format!("sandbox{}", state.serial);
        let ip = format!("10.0.0.{}", state.serial).parse().unwrap();
        let status = PodSandboxStatus {
            id: id.clone(),
            metadata: config.metadata.clone(),
            state: PodSandboxState::Ready,
            created_at: now(),
            network: PodSandboxNetworkStatus::from_ips([ip]),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            ..Default::default()
        };
        state.sandboxes.insert(id.clone(), status);
        tell(&mut state, &id, &id, ContainerEventType::Started);
        Ok(id)
    }

    fn end(&self, id: &str, code: i32) {
        let mut state = self.state.lock();
        let Some(container) = state.containers.get_mut(id).filter(|c| c.state != ContainerState::Exited) else { return };
        container.state = ContainerState::Exited;
        container.exit_code = code;
        container.finished_at = now();
        container.reason = Some(if code == 0 { ContainerReason::Completed } else { ContainerReason::Error });
        let sandbox = container.pod_sandbox_id.clone();
        tell(&mut state, id, &sandbox, ContainerEventType::Stopped);
    }
}

fn tell(state: &mut State, id: &str, sandbox: &str, kind: ContainerEventType) {
    let event = ContainerEvent {
        container_id: id.into(),
        pod_sandbox_id: sandbox.into(),
        container_event_type: kind,
        created_at: now(),
        pod_sandbox_status: state.sandboxes.get(sandbox).cloned(),
        containers_statuses: state.containers.values().filter(|c| c.pod_sandbox_id == sandbox).cloned().collect(),
    };
    state.subscribers.retain(|s| s.try_send(event.clone()).is_ok());
}

fn unimplemented<T>() -> CriResult<T> {
    Err(CriError::Unimplemented("not in the model".into()))
}

#[async_trait::async_trait]
impl RuntimeService for Runtime {
    async fn version(&self) -> CriResult<VersionResponse> {
        Ok(VersionResponse { runtime_name: "model".into(), runtime_version: "1".into(), ..Default::default() })
    }

    async fn status(&self) -> CriResult<RuntimeStatus> {
        let condition = |ty: &str| RuntimeCondition { r#type: ty.into(), status: true, ..Default::default() };
        Ok(RuntimeStatus { conditions: vec![condition("RuntimeReady"), condition("NetworkReady")], ..Default::default() })
    }

    async fn update_runtime_config(&self, _: &RuntimeConfig) -> CriResult<()> {
        Ok(())
    }

    async fn run_pod_sandbox(&self, config: &PodSandboxConfig, _: &str) -> CriResult<String> {
        self.begun.send_modify(|begun| *begun += 1);
        // What is begun is finished, whether or not anybody waits for it, as a shim that was started runs.
        let (this, config) = (self.clone(), config.clone());
        #[allow(clippy::disallowed_methods, reason = "the model outlives who asked, which is the point")]
        let made = tokio::spawn(async move {
            this.finishes.subscribe().wait_for(|finish| *finish).await.unwrap();
            this.make_sandbox(&config)
        });
        made.await.unwrap()
    }

    async fn stop_pod_sandbox(&self, id: &str) -> CriResult<()> {
        let running: Vec<String> = {
            let state = self.state.lock();
            state.containers.values().filter(|c| c.pod_sandbox_id == id).map(|c| c.id.clone()).collect()
        };
        running.iter().for_each(|c| self.end(c, 137));
        let mut state = self.state.lock();
        if let Some(sandbox) = state.sandboxes.get_mut(id) {
            sandbox.state = PodSandboxState::NotReady;
        }
        tell(&mut state, id, id, ContainerEventType::Stopped);
        Ok(())
    }

    async fn remove_pod_sandbox(&self, id: &str) -> CriResult<()> {
        self.stop_pod_sandbox(id).await?;
        let mut state = self.state.lock();
        state.sandboxes.remove(id);
        state.containers.retain(|_, c| c.pod_sandbox_id != id);
        Ok(())
    }

    async fn pod_sandbox_status(&self, id: &str) -> CriResult<PodSandboxStatus> {
        self.state.lock().sandboxes.get(id).cloned().ok_or_else(|| CriError::not_found("pod sandbox", id))
    }

    async fn list_pod_sandbox(&self, filter: &PodSandboxFilter) -> CriResult<Vec<PodSandbox>> {
        let state = self.state.lock();
        let short = |s: &PodSandboxStatus| PodSandbox {
            id: s.id.clone(),
            metadata: s.metadata.clone(),
            state: s.state,
            created_at: s.created_at,
            labels: s.labels.clone(),
            annotations: s.annotations.clone(),
            runtime_handler: String::new(),
        };
        Ok(state.sandboxes.values().map(short).filter(|s| filter.matches(s)).collect())
    }

    async fn update_pod_sandbox_resources(
        &self,
        _: &str,
        _: Option<&LinuxContainerResources>,
        _: Option<&LinuxContainerResources>,
    ) -> CriResult<()> {
        Ok(())
    }

    async fn create_container(&self, sandbox: &str, config: &ContainerConfig, of: &PodSandboxConfig) -> CriResult<String> {
        let mut state = self.state.lock();
        state.serial += 1;
        let id = format!("container{}", state.serial);
        let log_path = format!("{}/{}", of.log_directory, config.log_path);
        let status = ContainerStatus {
            id: id.clone(),
            pod_sandbox_id: sandbox.into(),
            metadata: config.metadata.clone(),
            state: ContainerState::Created,
            created_at: now(),
            image: config.image.clone(),
            image_ref: config.image.image.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            resources: config.resources.clone(),
            log_path,
            ..Default::default()
        };
        state.containers.insert(id.clone(), status);
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> CriResult<()> {
        let mut state = self.state.lock();
        let container = state.containers.get_mut(id).ok_or_else(|| CriError::not_found("container", id))?;
        container.state = ContainerState::Running;
        container.started_at = now();
        let (sandbox, log) = (container.pod_sandbox_id.clone(), std::path::PathBuf::from(&container.log_path));
        std::fs::create_dir_all(log.parent().unwrap()).unwrap();
        std::fs::write(&log, "2026-01-01T00:00:00.000000000Z stdout F hello\n2026-01-01T00:00:01.000000000Z stderr F oh\n").unwrap();
        tell(&mut state, id, &sandbox, ContainerEventType::Started);
        Ok(())
    }

    async fn stop_container(&self, id: &str, _: Duration) -> CriResult<()> {
        self.end(id, 143);
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> CriResult<()> {
        self.state.lock().containers.remove(id);
        Ok(())
    }

    async fn list_containers(&self, filter: &ContainerFilter) -> CriResult<Vec<Container>> {
        let state = self.state.lock();
        let short = |c: &ContainerStatus| Container {
            id: c.id.clone(),
            pod_sandbox_id: c.pod_sandbox_id.clone(),
            metadata: c.metadata.clone(),
            state: c.state,
            created_at: c.created_at,
            labels: c.labels.clone(),
            annotations: c.annotations.clone(),
            ..Default::default()
        };
        Ok(state.containers.values().map(short).filter(|c| filter.matches(c)).collect())
    }

    async fn container_status(&self, id: &str) -> CriResult<ContainerStatus> {
        self.state.lock().containers.get(id).cloned().ok_or_else(|| CriError::not_found("container", id))
    }

    async fn update_container_resources(&self, id: &str, resources: &LinuxContainerResources) -> CriResult<()> {
        let mut state = self.state.lock();
        let container = state.containers.get_mut(id).ok_or_else(|| CriError::not_found("container", id))?;
        container.resources = resources.clone();
        Ok(())
    }

    async fn reopen_container_log(&self, _: &str) -> CriResult<()> {
        Ok(())
    }

    async fn exec_sync(&self, _: &str, cmd: &[String], _: Option<Duration>) -> CriResult<ExecSyncResponse> {
        let failed = cmd.first().is_some_and(|c| c == "false");
        let said = if failed { "no" } else { "yes" };
        Ok(ExecSyncResponse { stdout: said.into(), stderr: Vec::new(), exit_code: i32::from(failed) })
    }

    /// Echoes its input, or its command where there is no input; `exit N` ends with that code.
    async fn exec(&self, _: &str, cmd: &[String], options: ExecOptions) -> CriResult<ContainerStream> {
        let code = if cmd[0] == "exit" { cmd[1].parse().unwrap() } else { 0 };
        let (ours, theirs) = tokio::io::duplex(4096);
        let (read, mut write) = tokio::io::split(theirs);
        let (stdin_ours, mut stdin_theirs) = tokio::io::duplex(4096);
        let text = cmd.join(" ");
        let (ended, exit) = tokio::sync::oneshot::channel();
        let with_input = options.stdin;
        drop(read);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            match with_input {
                true => drop(tokio::io::copy(&mut stdin_theirs, &mut write).await),
                false => write.write_all(text.as_bytes()).await.unwrap(),
            }
            write.shutdown().await.unwrap();
            let _ = ended.send(code);
        });
        Ok(ContainerStream {
            stdin: with_input.then(|| Box::new(stdin_ours) as _),
            stdout: options.stdout.then(|| Box::new(ours) as _),
            stderr: None,
            resize: None,
            exit: Box::pin(async move {
                let code = exit.await.unwrap_or(255);
                drop(tasks);
                Ok(code)
            }),
        })
    }

    async fn attach(&self, id: &str, options: ExecOptions) -> CriResult<ContainerStream> {
        self.exec(id, &["attached".into()], options).await
    }

    /// Echoes.
    async fn port_forward(&self, _: &str, port: u16) -> CriResult<Box<dyn Duplex>> {
        let (ours, theirs) = tokio::io::duplex(4096);
        if port == 1 {
            return Err(CriError::Unavailable("connection refused".into()));
        }
        let runtime = tokio::runtime::Handle::current();
        let echo = async move {
            let (mut read, mut write) = tokio::io::split(theirs);
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        };
        // The model has no owner for it: it ends with its stream.
        #[allow(clippy::disallowed_methods, reason = "the task ends with the stream that the caller holds")]
        drop(runtime.spawn(echo));
        Ok(Box::new(ours))
    }

    async fn container_stats(&self, _: &str) -> CriResult<ContainerStats> {
        unimplemented()
    }

    async fn list_container_stats(&self, _: &ContainerStatsFilter) -> CriResult<Vec<ContainerStats>> {
        unimplemented()
    }

    async fn pod_sandbox_stats(&self, _: &str) -> CriResult<PodSandboxStats> {
        unimplemented()
    }

    async fn list_pod_sandbox_stats(&self, _: &PodSandboxStatsFilter) -> CriResult<Vec<PodSandboxStats>> {
        unimplemented()
    }

    async fn events(&self) -> CriResult<ContainerEvents> {
        let (sender, receiver) = mpsc::channel(1000);
        self.state.lock().subscribers.push(sender);
        Ok(ContainerEvents::new(receiver))
    }
}

#[async_trait::async_trait]
impl ImageService for Runtime {
    async fn list_images(&self, _: Option<&ImageSpec>) -> Result<Vec<Image>, ImageError> {
        let of = |name: &String| Image { id: name.clone(), size: 7, ..Default::default() };
        Ok(self.state.lock().images.iter().map(of).collect())
    }

    async fn image_status(&self, image: &ImageSpec) -> Result<Option<Image>, ImageError> {
        let known = self.state.lock().images.contains(&image.image);
        Ok(known.then(|| Image { id: image.image.clone(), size: 7, ..Default::default() }))
    }

    async fn pull_image(
        &self,
        image: &ImageSpec,
        auth: Option<&AuthConfig>,
        _: Option<&PodSandboxConfig>,
        _: Option<ProgressFn>,
    ) -> Result<String, ImageError> {
        if image.image.starts_with("missing") {
            return Err(ImageError::NotFound(image.image.clone()));
        }
        if image.image.starts_with("private") && auth.is_none_or(|auth| auth.username != "known") {
            return Err(ImageError::Unauthorized(image.image.clone()));
        }
        if image.image.starts_with("stalled") {
            std::future::pending::<()>().await;
        }
        self.state.lock().images.push(image.image.clone());
        Ok(image.image.clone())
    }

    async fn remove_image(&self, _: &ImageSpec) -> Result<(), ImageError> {
        Ok(())
    }

    async fn image_fs_info(&self) -> Result<ImageFsInfo, ImageError> {
        Ok(ImageFsInfo::default())
    }
}
