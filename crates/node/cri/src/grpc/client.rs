//! The client: a runtime and its images behind a socket, as the traits.

mod relist;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fram_grpc::UnixEndpoint;
use fram_grpc::message::Message;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::messages::*;
use super::metrics::{MetricDescriptors, PodSandboxesMetrics};
use super::status::{self, CallError};
use super::{IMAGES, RUNTIME};
use crate::*;

/// How large an answer may be; upstream's maxMsgSize.
const MAX_MESSAGE: usize = 16 << 20;
/// How often a runtime without events is asked what there is; upstream's generic PLEG.
const RELIST: Duration = Duration::from_secs(1);
/// Events that a subscriber may be behind.
const EVENTS: usize = 4096;

/// Opens the streams that a runtime has given a URL for.
#[async_trait]
pub trait Streams: Send + Sync {
    /// Those of an exec or attach. The exit of an attach is that of its streams, with code 0.
    async fn open(&self, url: &str, options: ExecOptions) -> CriResult<ContainerStream>;
    /// One connection to a port.
    async fn port_forward(&self, url: &str, port: u16) -> CriResult<Box<dyn Duplex>>;
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{0:?} is no endpoint that is supported: unix:///PATH is")]
    Endpoint(String),
    #[error("the runtime at {path:?} does not answer: {source}")]
    Silent { path: PathBuf, source: CriError },
    #[error("the runtime at {path:?} speaks CRI {version:?}, and v1 is needed")]
    Version { path: PathBuf, version: String },
}

/// The socket that an endpoint names: a path, or a URL of one.
fn socket(endpoint: &str) -> Result<PathBuf, ClientError> {
    let path = Path::new(endpoint.strip_prefix("unix://").unwrap_or(endpoint));
    if path.is_absolute() { Ok(path.to_path_buf()) } else { Err(ClientError::Endpoint(endpoint.to_owned())) }
}

/// How long a call may take where nobody says otherwise; upstream's runtimeRequestTimeout. A runtime that hangs must not hold up what
/// is not its own.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// How much longer than others a method may take, beside the time that it is given itself; None for as long as it likes. See
/// upstream's remote_runtime.go and remote_image.go.
fn patience(method: &str, given: Option<Duration>, usual: Duration) -> Option<Duration> {
    match (method, given) {
        ("PullImage", _) | ("ExecSync", None) => None,
        ("RunPodSandbox", _) => Some(usual.saturating_mul(2)),
        (_, given) => Some(usual.saturating_add(given.unwrap_or_default())),
    }
}

/// A runtime's socket, and how long it may take for an answer.
struct Server {
    socket: UnixEndpoint,
    patience: Duration,
}

impl Server {
    fn new(endpoint: &str, patience: Duration) -> Result<Self, ClientError> {
        Ok(Self { socket: UnixEndpoint::new(socket(endpoint)?, MAX_MESSAGE), patience })
    }
}

async fn call<Q: Message, A: Message>(server: &Server, service: &str, method: &str, request: &Q) -> Result<A, CallError> {
    call_for(server, service, method, request, None).await
}

/// A call of what takes the time that it is given.
async fn call_for<Q: Message, A: Message>(
    server: &Server,
    service: &str,
    method: &str,
    request: &Q,
    given: Option<Duration>,
) -> Result<A, CallError> {
    let answer = async {
        let channel = server.socket.channel().await?;
        Ok::<_, CallError>(channel.unary(&format!("{service}{method}"), &request.encode()).await?)
    };
    let answer = match patience(method, given, server.patience) {
        None => answer.await?,
        Some(patience) => tokio::time::timeout(patience, answer).await.map_err(|_| CallError::Timeout { after: patience })??,
    };
    Ok(A::decode(&answer).map_err(fram_grpc::GrpcError::from)?)
}

/// A runtime behind a socket. Clones share it; the tasks that follow its events end with the last of them.
#[derive(Clone)]
pub struct RemoteRuntime {
    server: Arc<Server>,
    streams: Arc<dyn Streams>,
    tasks: TaskTracker,
    stop: CancellationToken,
    _end: Arc<tokio_util::sync::DropGuard>,
}

impl RemoteRuntime {
    /// Makes sure that a runtime answers at the endpoint, in the version that is spoken here.
    pub async fn connect(endpoint: &str, streams: Arc<dyn Streams>, patience: Duration) -> Result<Self, ClientError> {
        let server = Arc::new(Server::new(endpoint, patience)?);
        let stop = CancellationToken::new();
        let end = Arc::new(stop.clone().drop_guard());
        let runtime = Self { server, streams, tasks: TaskTracker::new(), stop, _end: end };
        let path = runtime.server.socket.path().to_path_buf();
        match runtime.version().await {
            Ok(version) if version.runtime_api_version == "v1" => Ok(runtime),
            Ok(version) => Err(ClientError::Version { path, version: version.runtime_api_version }),
            Err(source) => Err(ClientError::Silent { path, source }),
        }
    }

    async fn call<A: Message>(&self, method: &str, request: &impl Message, kind: &'static str, id: &str) -> CriResult<A> {
        call(&self.server, RUNTIME, method, request).await.map_err(|error| status::to_runtime(&error, kind, id))
    }

    /// A call about a container that takes the time that it is given.
    async fn takes<A: Message>(&self, method: &str, request: &impl Message, id: &str, given: Option<Duration>) -> CriResult<A> {
        let answer = call_for(&self.server, RUNTIME, method, request, given).await;
        answer.map_err(|error| status::to_runtime(&error, "container", id))
    }

    async fn of_sandbox<A: Message>(&self, method: &str, request: &impl Message, id: &str) -> CriResult<A> {
        self.call(method, request, "pod sandbox", id).await
    }

    async fn of_container<A: Message>(&self, method: &str, request: &impl Message, id: &str) -> CriResult<A> {
        self.call(method, request, "container", id).await
    }

    /// The sandbox of a container, which the container's status does not say.
    async fn sandbox_of(&self, container_id: &str) -> CriResult<String> {
        let filter = ContainerFilter { id: Some(container_id.to_owned()), ..ContainerFilter::default() };
        let found = self.list_containers(&filter).await?;
        let found = found.into_iter().find(|container| container.id == container_id);
        found.map(|container| container.pod_sandbox_id).ok_or_else(|| CriError::not_found("container", container_id))
    }
}

/// Here nothing means the runtime's default, and on the wire it means none at all.
fn confined(mut config: ContainerConfig) -> ContainerConfig {
    if !config.security_context.privileged {
        config.security_context.seccomp.get_or_insert(SecurityProfile::RuntimeDefault);
    }
    config
}

/// Whole seconds, rounded up: the wire knows no smaller ones, and 0 means at once or never.
fn seconds(time: Duration) -> i64 {
    let up = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    i64::try_from(up).unwrap_or(i64::MAX)
}

#[async_trait]
impl RuntimeService for RemoteRuntime {
    async fn version(&self) -> CriResult<VersionResponse> {
        self.call("Version", &Id { id: "0.1.0".into() }, "runtime", "").await
    }

    async fn status(&self) -> CriResult<RuntimeStatus> {
        self.call("Status", &StatusRequest { verbose: false }, "runtime", "").await
    }

    async fn update_runtime_config(&self, config: &RuntimeConfig) -> CriResult<()> {
        let request = UpdateRuntimeConfigRequest { runtime_config: config.clone() };
        self.call::<Nothing>("UpdateRuntimeConfig", &request, "runtime", "").await.map(drop)
    }

    async fn run_pod_sandbox(&self, config: &PodSandboxConfig, runtime_handler: &str) -> CriResult<String> {
        let mut config = config.clone();
        if !config.linux.security_context.privileged {
            config.linux.security_context.seccomp.get_or_insert(SecurityProfile::RuntimeDefault);
        }
        let name = config.metadata.name.clone();
        let request = RunPodSandboxRequest { config, runtime_handler: runtime_handler.to_owned() };
        Ok(self.of_sandbox::<Id>("RunPodSandbox", &request, &name).await?.id)
    }

    async fn stop_pod_sandbox(&self, id: &str) -> CriResult<()> {
        gone(self.of_sandbox("StopPodSandbox", &Id { id: id.to_owned() }, id).await)
    }

    async fn remove_pod_sandbox(&self, id: &str) -> CriResult<()> {
        // Upstream's runtimes leave containers of a sandbox to those who remove it.
        let filter = ContainerFilter { pod_sandbox_id: Some(id.to_owned()), ..ContainerFilter::default() };
        for container in self.list_containers(&filter).await? {
            self.remove_container(&container.id).await?;
        }
        self.stop_pod_sandbox(id).await?;
        gone(self.of_sandbox("RemovePodSandbox", &Id { id: id.to_owned() }, id).await)
    }

    async fn pod_sandbox_status(&self, id: &str) -> CriResult<PodSandboxStatus> {
        let request = IdVerbose { id: id.to_owned(), verbose: false };
        Ok(self.of_sandbox::<PodSandboxStatusResponse>("PodSandboxStatus", &request, id).await?.status)
    }

    async fn list_pod_sandbox(&self, filter: &PodSandboxFilter) -> CriResult<Vec<PodSandbox>> {
        let request = ListPodSandboxRequest { filter: filter.clone() };
        Ok(self.of_sandbox::<PodSandboxes>("ListPodSandbox", &request, "").await?.items)
    }

    async fn update_pod_sandbox_resources(
        &self,
        id: &str,
        overhead: Option<&LinuxContainerResources>,
        resources: Option<&LinuxContainerResources>,
    ) -> CriResult<()> {
        let request = UpdatePodSandboxResourcesRequest { id: id.to_owned(), overhead: overhead.cloned(), resources: resources.cloned() };
        match self.of_sandbox::<Nothing>("UpdatePodSandboxResources", &request, id).await {
            // Older runtimes are not told; the pod's cgroup has its limits already.
            Err(CriError::Unimplemented(_)) => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    async fn create_container(&self, sandbox: &str, config: &ContainerConfig, sandbox_config: &PodSandboxConfig) -> CriResult<String> {
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: confined(config.clone()),
            sandbox_config: sandbox_config.clone(),
        };
        Ok(self.of_sandbox::<Id>("CreateContainer", &request, sandbox).await?.id)
    }

    async fn start_container(&self, id: &str) -> CriResult<()> {
        match self.of_container::<Nothing>("StartContainer", &Id { id: id.to_owned() }, id).await {
            // Whatever code a runtime has for it: its first process could not be started.
            Err(CriError::Internal(why)) => Err(CriError::ContainerCannotRun(why)),
            outcome => outcome.map(drop),
        }
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> CriResult<()> {
        let request = StopContainerRequest { id: id.to_owned(), timeout: seconds(grace) };
        gone(self.takes("StopContainer", &request, id, Some(grace)).await)
    }

    async fn remove_container(&self, id: &str) -> CriResult<()> {
        gone(self.of_container("RemoveContainer", &Id { id: id.to_owned() }, id).await)
    }

    async fn list_containers(&self, filter: &ContainerFilter) -> CriResult<Vec<Container>> {
        let request = ListContainersRequest { filter: filter.clone() };
        let mut found = self.of_container::<Containers>("ListContainers", &request, "").await?.items;
        for container in &mut found {
            // Which of the two is the image's id differs between runtimes and their ages.
            if container.image_id.is_empty() {
                container.image_id.clone_from(&container.image_ref);
            }
        }
        Ok(found)
    }

    async fn container_status(&self, id: &str) -> CriResult<ContainerStatus> {
        let request = IdVerbose { id: id.to_owned(), verbose: false };
        let mut status = self.of_container::<ContainerStatusResponse>("ContainerStatus", &request, id).await?.status;
        status.pod_sandbox_id = self.sandbox_of(id).await?;
        Ok(status)
    }

    async fn update_container_resources(&self, id: &str, resources: &LinuxContainerResources) -> CriResult<()> {
        let request = UpdateContainerResourcesRequest { id: id.to_owned(), linux: resources.clone() };
        self.of_container::<Nothing>("UpdateContainerResources", &request, id).await.map(drop)
    }

    async fn reopen_container_log(&self, id: &str) -> CriResult<()> {
        self.of_container::<Nothing>("ReopenContainerLog", &Id { id: id.to_owned() }, id).await.map(drop)
    }

    async fn checkpoint_container(&self, id: &str, location: &str, timeout: Duration) -> CriResult<()> {
        let request = CheckpointContainerRequest { id: id.to_owned(), location: location.to_owned(), timeout: seconds(timeout) };
        self.takes::<Nothing>("CheckpointContainer", &request, id, Some(timeout)).await.map(drop)
    }

    async fn exec_sync(&self, id: &str, cmd: &[String], timeout: Option<Duration>) -> CriResult<ExecSyncResponse> {
        let request = ExecSyncRequest { id: id.to_owned(), cmd: cmd.to_vec(), timeout: timeout.map_or(0, seconds) };
        self.takes("ExecSync", &request, id, timeout).await
    }

    async fn exec(&self, id: &str, cmd: &[String], options: ExecOptions) -> CriResult<ContainerStream> {
        let ExecOptions { tty, stdin, stdout, stderr } = options;
        let request = ExecRequest { id: id.to_owned(), cmd: cmd.to_vec(), tty, stdin, stdout, stderr: stderr && !tty };
        let url = self.of_container::<Url>("Exec", &request, id).await?.url;
        self.streams.open(&url, options).await
    }

    async fn attach(&self, id: &str, options: ExecOptions) -> CriResult<ContainerStream> {
        let ExecOptions { tty, stdin, stdout, stderr } = options;
        let request = AttachRequest { id: id.to_owned(), stdin, tty, stdout, stderr: stderr && !tty };
        let url = self.of_container::<Url>("Attach", &request, id).await?.url;
        self.streams.open(&url, options).await
    }

    async fn port_forward(&self, sandbox: &str, port: u16) -> CriResult<Box<dyn Duplex>> {
        let request = PortForwardRequest { id: sandbox.to_owned(), port: vec![port.into()] };
        let url = self.of_sandbox::<Url>("PortForward", &request, sandbox).await?.url;
        self.streams.port_forward(&url, port).await
    }

    async fn container_stats(&self, id: &str) -> CriResult<ContainerStats> {
        let mut stats = self.of_container::<ContainerStatsResponse>("ContainerStats", &Id { id: id.to_owned() }, id).await?.stats;
        stats.pod_sandbox_id = self.sandbox_of(id).await?;
        Ok(stats)
    }

    async fn list_container_stats(&self, filter: &ContainerStatsFilter) -> CriResult<Vec<ContainerStats>> {
        let request = ListContainerStatsRequest { filter: filter.clone() };
        let mut stats = self.of_container::<ContainersStats>("ListContainerStats", &request, "").await?.stats;
        let containers = self.list_containers(&ContainerFilter::default()).await?;
        for one in &mut stats {
            let container = containers.iter().find(|container| container.id == one.attributes.id);
            one.pod_sandbox_id = container.map(|container| container.pod_sandbox_id.clone()).unwrap_or_default();
        }
        Ok(stats)
    }

    async fn pod_sandbox_stats(&self, id: &str) -> CriResult<PodSandboxStats> {
        let answer: PodSandboxStatsResponse = self.of_sandbox("PodSandboxStats", &Id { id: id.to_owned() }, id).await?;
        Ok(of_running(answer.stats))
    }

    async fn list_pod_sandbox_stats(&self, filter: &PodSandboxStatsFilter) -> CriResult<Vec<PodSandboxStats>> {
        let request = ListPodSandboxStatsRequest { filter: filter.clone() };
        let answer: PodSandboxesStats = self.of_sandbox("ListPodSandboxStats", &request, "").await?;
        Ok(answer.stats.into_iter().map(of_running).collect())
    }

    async fn list_metric_descriptors(&self) -> CriResult<Vec<MetricDescriptor>> {
        Ok(self.of_sandbox::<MetricDescriptors>("ListMetricDescriptors", &Nothing::default(), "").await?.descriptors)
    }

    async fn list_pod_sandbox_metrics(&self) -> CriResult<Vec<PodSandboxMetrics>> {
        let answer: PodSandboxesMetrics = self.of_sandbox("ListPodSandboxMetrics", &Nothing::default(), "").await?;
        Ok(answer.pod_metrics.into_iter().map(PodSandboxMetrics::from).collect())
    }

    /// Those of the runtime, or where it has none what changes between one list and the next. Upstream's kubelets do the
    /// latter alone until EventedPLEG is on, and not every runtime that has the call sends events for all there is.
    async fn events(&self) -> CriResult<ContainerEvents> {
        let (sender, receiver) = mpsc::channel(EVENTS);
        self.tasks.spawn(self.stop.clone().run_until_cancelled_owned(relist::follow(self.server.clone(), sender, RELIST)));
        Ok(ContainerEvents::new(receiver))
    }
}

/// Some runtimes list containers that have ended, with nothing measured.
fn of_running(mut stats: PodSandboxStats) -> PodSandboxStats {
    stats.containers.retain(|container| container.cpu.timestamp != 0);
    stats
}

/// What is gone already is stopped and removed.
fn gone(outcome: CriResult<Nothing>) -> CriResult<()> {
    match outcome {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// The images of a runtime behind a socket.
pub struct RemoteImages {
    server: Server,
}

impl RemoteImages {
    pub fn new(endpoint: &str, patience: Duration) -> Result<Self, ClientError> {
        Ok(Self { server: Server::new(endpoint, patience)? })
    }

    async fn call<A: Message>(&self, method: &str, request: &impl Message, reference: &str) -> Result<A, ImageError> {
        call(&self.server, IMAGES, method, request).await.map_err(|error| status::to_image(&error, reference))
    }
}

#[async_trait]
impl ImageService for RemoteImages {
    async fn list_images(&self, filter: Option<&ImageSpec>) -> Result<Vec<Image>, ImageError> {
        let request = ListImagesRequest { filter: ImageFilter { image: filter.cloned() } };
        Ok(self.call::<Images>("ListImages", &request, "").await?.images)
    }

    async fn image_status(&self, image: &ImageSpec) -> Result<Option<Image>, ImageError> {
        let request = ImageStatusRequest { image: image.clone(), verbose: false };
        Ok(self.call::<ImageStatusResponse>("ImageStatus", &request, &image.image).await?.image)
    }

    async fn pull_image(
        &self,
        image: &ImageSpec,
        auth: Option<&AuthConfig>,
        sandbox_config: Option<&PodSandboxConfig>,
        _progress: Option<ProgressFn>,
    ) -> Result<String, ImageError> {
        let request = PullImageRequest { image: image.clone(), auth: auth.cloned(), sandbox_config: sandbox_config.cloned() };
        Ok(self.call::<PullImageResponse>("PullImage", &request, &image.image).await?.image_ref)
    }

    async fn remove_image(&self, image: &ImageSpec) -> Result<(), ImageError> {
        match self.call::<Nothing>("RemoveImage", &RemoveImageRequest { image: image.clone() }, &image.image).await {
            Err(error) if !matches!(error, ImageError::NotFound(_)) => Err(error),
            _ => Ok(()),
        }
    }

    async fn image_fs_info(&self) -> Result<ImageFsInfo, ImageError> {
        self.call("ImageFsInfo", &Nothing {}, "").await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_the_path_of_a_socket() {
        assert_eq!(socket("unix:///run/a.sock").ok(), Some("/run/a.sock".into()));
        assert_eq!(socket("/run/a.sock").ok(), Some("/run/a.sock".into()));
        assert!(socket("tcp://127.0.0.1:80").is_err() && socket("run/a.sock").is_err());
    }

    #[test]
    fn every_call_ends_but_pulls_and_commands_that_have_no_limit() {
        let seconds = |n| Some(Duration::from_secs(n));
        for (method, given, expect) in [
            ("ListContainers", None, seconds(120)),
            ("RunPodSandbox", None, seconds(240)),
            ("StopContainer", seconds(30), seconds(150)),
            ("ExecSync", seconds(1), seconds(121)),
            ("ExecSync", None, None),
            ("PullImage", None, None),
        ] {
            assert_eq!(patience(method, given, PATIENCE), expect, "{method}");
        }
    }

    #[test]
    fn a_part_of_a_second_is_a_whole_one() {
        assert_eq!([0, 1, 999, 1000, 1001].map(|ms| seconds(Duration::from_millis(ms))), [0, 1, 1, 1, 2]);
    }

    #[test]
    fn who_says_nothing_of_seccomp_gets_the_default() {
        assert_eq!(confined(ContainerConfig::default()).security_context.seccomp, Some(SecurityProfile::RuntimeDefault));
        let mut privileged = ContainerConfig::default();
        privileged.security_context.privileged = true;
        assert_eq!(confined(privileged).security_context.seccomp, None);
    }
}
