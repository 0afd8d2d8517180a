//! The server: each call is one of the traits' methods. Ids may be given by their beginning, as people do at crictl. Exec, attach
//! and port-forward are answered with a URL, where another server has the streams.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fram_grpc::message::Message;
use fram_grpc::server::{Call, Reply, Service, Status};

use super::messages::*;
use super::metrics::{MetricDescriptors, OfPod, PodSandboxesMetrics};
use super::{IMAGES, RUNTIME, status};
use crate::*;

/// Where the streams of a session are to be had: an address that is good for one request.
pub trait StreamUrls: Send + Sync {
    fn exec(&self, container_id: &str, cmd: &[String], options: ExecOptions) -> CriResult<String>;
    fn attach(&self, container_id: &str, options: ExecOptions) -> CriResult<String>;
    fn port_forward(&self, pod_sandbox_id: &str) -> CriResult<String>;
}

/// `runtime.v1.RuntimeService` and `runtime.v1.ImageService`.
pub struct CriServer {
    pub runtime: Arc<dyn RuntimeService>,
    pub images: Arc<dyn ImageService>,
    pub streams: Arc<dyn StreamUrls>,
}

impl Service for CriServer {
    async fn call(&self, method: &str, call: Call) -> Result<Reply, Status> {
        if let Some(name) = method.strip_prefix(RUNTIME) {
            // Boxed by families, so that one call is not as large as all of them.
            match name {
                "Version" | "Status" | "UpdateRuntimeConfig" | "RuntimeConfig" | "GetContainerEvents" => {
                    Box::pin(self.about_runtime(name, call)).await
                }
                "Exec" | "Attach" | "PortForward" | "ExecSync" => Box::pin(self.sessions(name, call)).await,
                name if name.ends_with("Stats") || name.contains("Metric") => Box::pin(self.usage(name, call)).await,
                name if name.contains("PodSandbox") => Box::pin(self.sandboxes(name, call)).await,
                name => Box::pin(self.containers(name, call)).await,
            }
        } else if let Some(name) = method.strip_prefix(IMAGES) {
            Box::pin(self.images(name, call)).await
        } else {
            Err(Status::unknown_method(method))
        }
    }
}

/// Ids are this long; what is shorter is the beginning of one.
const ID: usize = 64;
/// How many things one message of a streamed list has.
const BATCH: usize = 256;

fn reply(message: &impl Message) -> Result<Reply, Status> {
    Ok(Reply::message(message))
}

/// The answer of a method that has nothing to say.
fn done(outcome: CriResult<()>) -> Result<Reply, Status> {
    outcome.map_err(status::of_runtime)?;
    reply(&Nothing {})
}

/// A list in pieces, so that a long one is no message that is too large.
fn batches<T, M: Message>(items: Vec<T>, message: impl Fn(Vec<T>) -> M) -> Result<Reply, Status> {
    let (mut encoded, mut items) = (Vec::new(), items.into_iter());
    loop {
        let batch: Vec<T> = items.by_ref().take(BATCH).collect();
        if batch.is_empty() {
            break;
        }
        encoded.push(Ok(message(batch).encode()));
    }
    Ok(Reply::Stream(Box::pin(futures_util::stream::iter(encoded))))
}

/// A list as its method gives it: those that begin with `Stream` in pieces, the others whole.
fn listed<T, M: Message>(method: &str, items: Vec<T>, message: impl Fn(Vec<T>) -> M) -> Result<Reply, Status> {
    if method.starts_with("Stream") { batches(items, message) } else { reply(&message(items)) }
}

fn seconds(timeout: i64) -> Duration {
    Duration::from_secs(u64::try_from(timeout).unwrap_or(0))
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

impl CriServer {
    async fn about_runtime(&self, name: &str, mut call: Call) -> Result<Reply, Status> {
        match name {
            "Version" => reply(&self.runtime.version().await.map_err(status::of_runtime)?),
            "Status" => {
                let request: StatusRequest = call.message().await?;
                let mut answer = self.runtime.status().await.map_err(status::of_runtime)?;
                if !request.verbose {
                    answer.info.clear();
                }
                reply(&answer)
            }
            "UpdateRuntimeConfig" => {
                let request: UpdateRuntimeConfigRequest = call.message().await?;
                done(self.runtime.update_runtime_config(&request.runtime_config).await)
            }
            "RuntimeConfig" => {
                let linux = LinuxRuntimeConfiguration { cgroup_driver: CgroupDriver::Cgroupfs };
                reply(&RuntimeConfigResponse { linux })
            }
            _ => {
                let events = self.runtime.events().await.map_err(status::of_runtime)?;
                Ok(Reply::Stream(Box::pin(futures_util::stream::unfold(events, async |mut events| {
                    let event = events.recv().await?;
                    let message = ContainerEventResponse {
                        container_id: event.container_id,
                        container_event_type: event.container_event_type,
                        created_at: event.created_at,
                        pod_sandbox_status: event.pod_sandbox_status,
                        containers_statuses: event.containers_statuses,
                    };
                    Some((Ok(message.encode()), events))
                }))))
            }
        }
    }

    async fn sandboxes(&self, name: &str, mut call: Call) -> Result<Reply, Status> {
        let runtime = &self.runtime;
        match name {
            "RunPodSandbox" => {
                let request: RunPodSandboxRequest = call.message().await?;
                let id = runtime.run_pod_sandbox(&request.config, &request.runtime_handler).await.map_err(status::of_runtime)?;
                reply(&Id { id })
            }
            "StopPodSandbox" => done(runtime.stop_pod_sandbox(&self.sandbox(call.message::<Id>().await?.id).await?).await),
            "RemovePodSandbox" => done(runtime.remove_pod_sandbox(&self.sandbox(call.message::<Id>().await?.id).await?).await),
            "PodSandboxStatus" => {
                let request: IdVerbose = call.message().await?;
                reply(&self.sandbox_status(self.sandbox(request.id).await?).await.map_err(status::of_runtime)?)
            }
            "ListPodSandbox" | "StreamPodSandboxes" => {
                let request: ListPodSandboxRequest = call.message().await?;
                listed(name, self.list_sandboxes(request.filter).await?, |items| PodSandboxes { items })
            }
            "UpdatePodSandboxResources" => {
                let request: UpdatePodSandboxResourcesRequest = call.message().await?;
                let id = self.sandbox(request.id).await?;
                done(runtime.update_pod_sandbox_resources(&id, request.overhead.as_ref(), request.resources.as_ref()).await)
            }
            name => Err(Status::unknown_method(name)),
        }
    }

    /// With the containers' statuses and the time, as kubelets with EventedPLEG want them (KEP-3386).
    async fn sandbox_status(&self, id: String) -> CriResult<PodSandboxStatusResponse> {
        let timestamp = now();
        let status = self.runtime.pod_sandbox_status(&id).await?;
        let filter = ContainerFilter { pod_sandbox_id: Some(id), ..ContainerFilter::default() };
        let mut containers_statuses = Vec::new();
        for container in self.runtime.list_containers(&filter).await? {
            // One may go away meanwhile.
            containers_statuses.extend(self.runtime.container_status(&container.id).await.ok());
        }
        Ok(PodSandboxStatusResponse { status, info: Default::default(), containers_statuses, timestamp })
    }

    async fn list_sandboxes(&self, mut filter: PodSandboxFilter) -> Result<Vec<PodSandbox>, Status> {
        if let Some(id) = filter.id.take() {
            filter.id = Some(self.sandbox(id).await?);
        }
        self.runtime.list_pod_sandbox(&filter).await.map_err(status::of_runtime)
    }

    async fn list_containers(&self, mut filter: ContainerFilter) -> Result<Vec<Container>, Status> {
        if let Some(id) = filter.id.take() {
            filter.id = Some(self.container(id).await?);
        }
        if let Some(id) = filter.pod_sandbox_id.take() {
            filter.pod_sandbox_id = Some(self.sandbox(id).await?);
        }
        self.runtime.list_containers(&filter).await.map_err(status::of_runtime)
    }

    async fn containers(&self, name: &str, mut call: Call) -> Result<Reply, Status> {
        let runtime = &self.runtime;
        match name {
            "CreateContainer" => {
                let mut request: CreateContainerRequest = call.message().await?;
                let context = &mut request.config.security_context;
                if context.run_as_group.is_some() && context.run_as_user.is_none() && context.run_as_username.is_empty() {
                    let why = "run_as_group is given without run_as_user or run_as_username";
                    return Err(status::of_runtime(CriError::InvalidArgument(why.into())));
                }
                // On the wire nothing means unconfined; a kubelet that wants the default says so.
                context.seccomp.get_or_insert(SecurityProfile::Unconfined);
                let sandbox = self.sandbox(request.pod_sandbox_id).await?;
                let created = runtime.create_container(&sandbox, &request.config, &request.sandbox_config).await;
                reply(&Id { id: created.map_err(status::of_runtime)? })
            }
            "StartContainer" => done(runtime.start_container(&self.container(call.message::<Id>().await?.id).await?).await),
            "StopContainer" => {
                let request: StopContainerRequest = call.message().await?;
                done(runtime.stop_container(&self.container(request.id).await?, seconds(request.timeout)).await)
            }
            "RemoveContainer" => done(runtime.remove_container(&self.container(call.message::<Id>().await?.id).await?).await),
            "ListContainers" | "StreamContainers" => {
                let request: ListContainersRequest = call.message().await?;
                listed(name, self.list_containers(request.filter).await?, |items| Containers { items })
            }
            "ContainerStatus" => {
                let request: IdVerbose = call.message().await?;
                let id = self.container(request.id).await?;
                let status = runtime.container_status(&id).await.map_err(status::of_runtime)?;
                reply(&ContainerStatusResponse { status, info: Default::default() })
            }
            "UpdateContainerResources" => {
                let request: UpdateContainerResourcesRequest = call.message().await?;
                done(runtime.update_container_resources(&self.container(request.id).await?, &request.linux).await)
            }
            "ReopenContainerLog" => done(runtime.reopen_container_log(&self.container(call.message::<Id>().await?.id).await?).await),
            "CheckpointContainer" => {
                let request: CheckpointContainerRequest = call.message().await?;
                let id = self.container(request.id).await?;
                done(runtime.checkpoint_container(&id, &request.location, seconds(request.timeout)).await)
            }
            name => Err(Status::unknown_method(name)),
        }
    }

    async fn sessions(&self, name: &str, mut call: Call) -> Result<Reply, Status> {
        let url = match name {
            "ExecSync" => {
                let request: ExecSyncRequest = call.message().await?;
                let timeout = (request.timeout > 0).then(|| seconds(request.timeout));
                let id = self.container(request.id).await?;
                return reply(&self.runtime.exec_sync(&id, &request.cmd, timeout).await.map_err(status::of_runtime)?);
            }
            "Exec" => {
                let request: ExecRequest = call.message().await?;
                let options = ExecOptions { tty: request.tty, stdin: request.stdin, stdout: request.stdout, stderr: request.stderr };
                check_streams(options)?;
                if request.cmd.is_empty() {
                    return Err(status::of_runtime(CriError::InvalidArgument("no command specified".into())));
                }
                let id = self.running(request.id).await?;
                self.streams.exec(&id, &request.cmd, options)
            }
            "Attach" => {
                let request: AttachRequest = call.message().await?;
                let options = ExecOptions { tty: request.tty, stdin: request.stdin, stdout: request.stdout, stderr: request.stderr };
                check_streams(options)?;
                let id = self.running(request.id).await?;
                self.streams.attach(&id, options)
            }
            _ => {
                let request: PortForwardRequest = call.message().await?;
                let id = self.sandbox(request.id).await?;
                let sandbox = self.runtime.pod_sandbox_status(&id).await.map_err(status::of_runtime)?;
                if sandbox.state != PodSandboxState::Ready {
                    let why = format!("pod sandbox {id:?} is not ready");
                    return Err(status::of_runtime(CriError::FailedPrecondition(why)));
                }
                self.streams.port_forward(&id)
            }
        };
        reply(&Url { url: url.map_err(status::of_runtime)? })
    }

    async fn usage(&self, name: &str, mut call: Call) -> Result<Reply, Status> {
        let runtime = &self.runtime;
        match name {
            "ContainerStats" => {
                let id = self.container(call.message::<Id>().await?.id).await?;
                reply(&ContainerStatsResponse { stats: runtime.container_stats(&id).await.map_err(status::of_runtime)? })
            }
            "ListContainerStats" | "StreamContainerStats" => {
                let mut filter = call.message::<ListContainerStatsRequest>().await?.filter;
                if let Some(id) = filter.id.take() {
                    filter.id = Some(self.container(id).await?);
                }
                let stats = runtime.list_container_stats(&filter).await.map_err(status::of_runtime)?;
                listed(name, stats, |stats| ContainersStats { stats })
            }
            "PodSandboxStats" => {
                let id = self.sandbox(call.message::<Id>().await?.id).await?;
                reply(&PodSandboxStatsResponse { stats: runtime.pod_sandbox_stats(&id).await.map_err(status::of_runtime)? })
            }
            "ListPodSandboxStats" | "StreamPodSandboxStats" => {
                let mut filter = call.message::<ListPodSandboxStatsRequest>().await?.filter;
                if let Some(id) = filter.id.take() {
                    filter.id = Some(self.sandbox(id).await?);
                }
                let stats = runtime.list_pod_sandbox_stats(&filter).await.map_err(status::of_runtime)?;
                listed(name, stats, |stats| PodSandboxesStats { stats })
            }
            "ListMetricDescriptors" => {
                reply(&MetricDescriptors { descriptors: runtime.list_metric_descriptors().await.map_err(status::of_runtime)? })
            }
            "ListPodSandboxMetrics" | "StreamPodSandboxMetrics" => {
                let told = runtime.list_pod_sandbox_metrics().await.map_err(status::of_runtime)?;
                let pods = told.into_iter().map(OfPod::from).collect();
                listed(name, pods, |pod_metrics| PodSandboxesMetrics { pod_metrics })
            }
            name => Err(Status::unknown_method(name)),
        }
    }

    async fn images(&self, name: &str, mut call: Call) -> Result<Reply, Status> {
        let images = &self.images;
        match name {
            "ListImages" | "StreamImages" => {
                let request: ListImagesRequest = call.message().await?;
                let found = images.list_images(request.filter.image.as_ref()).await.map_err(status::of_image)?;
                match name {
                    "ListImages" => reply(&Images { images: found }),
                    _ => batches(found, |images| Images { images }),
                }
            }
            "ImageStatus" => {
                let request: ImageStatusRequest = call.message().await?;
                let image = images.image_status(&request.image).await.map_err(status::of_image)?;
                reply(&ImageStatusResponse { image, info: Default::default() })
            }
            "PullImage" => {
                let PullImageRequest { image, auth, sandbox_config } = call.message().await?;
                let pulled = images.pull_image(&image, auth.as_ref(), sandbox_config.as_ref(), None).await;
                reply(&PullImageResponse { image_ref: pulled.map_err(status::of_image)? })
            }
            "RemoveImage" => {
                let request: RemoveImageRequest = call.message().await?;
                images.remove_image(&request.image).await.map_err(status::of_image)?;
                reply(&Nothing {})
            }
            "ImageFsInfo" => reply(&images.image_fs_info().await.map_err(status::of_image)?),
            name => Err(Status::unknown_method(name)),
        }
    }

    /// The container that an id or the beginning of one means.
    async fn container(&self, id: String) -> Result<String, Status> {
        if id.len() >= ID {
            return Ok(id);
        }
        let all = self.runtime.list_containers(&ContainerFilter::default()).await.map_err(status::of_runtime)?;
        whole(id, all.into_iter().map(|container| container.id))
    }

    async fn sandbox(&self, id: String) -> Result<String, Status> {
        if id.len() >= ID {
            return Ok(id);
        }
        let all = self.runtime.list_pod_sandbox(&PodSandboxFilter::default()).await.map_err(status::of_runtime)?;
        whole(id, all.into_iter().map(|sandbox| sandbox.id))
    }

    /// A container that runs.
    async fn running(&self, id: String) -> Result<String, Status> {
        let id = self.container(id).await?;
        let status = self.runtime.container_status(&id).await.map_err(status::of_runtime)?;
        match status.state {
            ContainerState::Running => Ok(id),
            state => {
                let why = format!("container {id:?} is in state {state:?}");
                Err(status::of_runtime(CriError::FailedPrecondition(why)))
            }
        }
    }
}

/// See ValidateStreams of upstream's cri/streaming.
fn check_streams(options: ExecOptions) -> Result<(), Status> {
    let why = if options.tty && options.stderr {
        "tty and stderr cannot both be true"
    } else if !(options.stdin || options.stdout || options.stderr) {
        "one of stdin, stdout, or stderr must be set"
    } else {
        return Ok(());
    };
    Err(status::of_runtime(CriError::InvalidArgument(why.into())))
}

/// The id that begins so; what begins none is left as it is, for the runtime to say that it is not there.
fn whole(beginning: String, ids: impl Iterator<Item = String>) -> Result<String, Status> {
    if beginning.is_empty() {
        return Err(status::of_runtime(CriError::InvalidArgument("an id is needed".into())));
    }
    let mut found = ids.filter(|id| id.starts_with(&beginning));
    match (found.next(), found.next()) {
        (None, _) => Ok(beginning),
        (Some(id), None) => Ok(id),
        (Some(_), Some(_)) => Err(status::of_runtime(CriError::InvalidArgument(format!("{beginning:?} begins more than one id")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_an_id_means_the_only_one_that_begins_so() {
        let ids = || ["abc", "abd", "b"].map(String::from).into_iter();
        for (beginning, expect) in [("b", Some("b")), ("abd", Some("abd")), ("ab", None), ("x", Some("x")), ("", None)] {
            assert_eq!(whole(beginning.into(), ids()).ok().as_deref(), expect, "{beginning}");
        }
    }
}
