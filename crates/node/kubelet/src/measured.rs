//! A runtime and its images whose operations are counted and timed, under the names of upstream's instrumented services.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fram_cri::*;

use crate::metrics::{Count, Families, Took};

pub(crate) struct Measured<S: ?Sized> {
    pub(crate) inner: Arc<S>,
    pub(crate) families: Arc<Families>,
}

impl<S: ?Sized> Measured<S> {
    async fn of<T, E>(&self, operation: &str, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let begun = Instant::now();
        let result = work.await;
        self.families.count(Count::RuntimeOperations, &[operation], 1);
        self.families.took(Took::RuntimeOperation, &[operation], begun.elapsed());
        if result.is_err() {
            self.families.count(Count::RuntimeErrors, &[operation], 1);
        }
        result
    }
}

#[async_trait::async_trait]
impl RuntimeService for Measured<dyn RuntimeService> {
    async fn version(&self) -> CriResult<VersionResponse> {
        self.of("version", self.inner.version()).await
    }

    async fn status(&self) -> CriResult<RuntimeStatus> {
        self.of("status", self.inner.status()).await
    }

    async fn update_runtime_config(&self, config: &RuntimeConfig) -> CriResult<()> {
        self.of("update_runtime_config", self.inner.update_runtime_config(config)).await
    }

    async fn run_pod_sandbox(&self, config: &PodSandboxConfig, runtime_handler: &str) -> CriResult<String> {
        let begun = Instant::now();
        let result = self.of("run_podsandbox", self.inner.run_pod_sandbox(config, runtime_handler)).await;
        self.families.took(Took::Sandbox, &[runtime_handler], begun.elapsed());
        if result.is_err() {
            self.families.count(Count::SandboxErrors, &[runtime_handler], 1);
        }
        result
    }

    async fn stop_pod_sandbox(&self, id: &str) -> CriResult<()> {
        self.of("stop_podsandbox", self.inner.stop_pod_sandbox(id)).await
    }

    async fn remove_pod_sandbox(&self, id: &str) -> CriResult<()> {
        self.of("remove_podsandbox", self.inner.remove_pod_sandbox(id)).await
    }

    async fn pod_sandbox_status(&self, id: &str) -> CriResult<PodSandboxStatus> {
        self.of("podsandbox_status", self.inner.pod_sandbox_status(id)).await
    }

    async fn list_pod_sandbox(&self, filter: &PodSandboxFilter) -> CriResult<Vec<PodSandbox>> {
        self.of("list_podsandbox", self.inner.list_pod_sandbox(filter)).await
    }

    async fn update_pod_sandbox_resources(
        &self,
        id: &str,
        overhead: Option<&LinuxContainerResources>,
        resources: Option<&LinuxContainerResources>,
    ) -> CriResult<()> {
        self.of("update_podsandbox_resources", self.inner.update_pod_sandbox_resources(id, overhead, resources)).await
    }

    async fn create_container(&self, sandbox: &str, config: &ContainerConfig, sandbox_config: &PodSandboxConfig) -> CriResult<String> {
        self.of("create_container", self.inner.create_container(sandbox, config, sandbox_config)).await
    }

    async fn start_container(&self, id: &str) -> CriResult<()> {
        self.of("start_container", self.inner.start_container(id)).await
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> CriResult<()> {
        self.of("stop_container", self.inner.stop_container(id, grace)).await
    }

    async fn remove_container(&self, id: &str) -> CriResult<()> {
        self.of("remove_container", self.inner.remove_container(id)).await
    }

    async fn list_containers(&self, filter: &ContainerFilter) -> CriResult<Vec<Container>> {
        self.of("list_containers", self.inner.list_containers(filter)).await
    }

    async fn container_status(&self, id: &str) -> CriResult<ContainerStatus> {
        self.of("container_status", self.inner.container_status(id)).await
    }

    async fn update_container_resources(&self, id: &str, resources: &LinuxContainerResources) -> CriResult<()> {
        self.of("update_container", self.inner.update_container_resources(id, resources)).await
    }

    async fn reopen_container_log(&self, id: &str) -> CriResult<()> {
        self.of("reopen_container_log", self.inner.reopen_container_log(id)).await
    }

    async fn checkpoint_container(&self, id: &str, location: &str, timeout: Duration) -> CriResult<()> {
        self.of("checkpoint_container", self.inner.checkpoint_container(id, location, timeout)).await
    }

    async fn exec_sync(&self, id: &str, cmd: &[String], timeout: Option<Duration>) -> CriResult<ExecSyncResponse> {
        self.of("exec_sync", self.inner.exec_sync(id, cmd, timeout)).await
    }

    async fn exec(&self, id: &str, cmd: &[String], options: ExecOptions) -> CriResult<ContainerStream> {
        self.of("exec", self.inner.exec(id, cmd, options)).await
    }

    async fn attach(&self, id: &str, options: ExecOptions) -> CriResult<ContainerStream> {
        self.of("attach", self.inner.attach(id, options)).await
    }

    async fn port_forward(&self, id: &str, port: u16) -> CriResult<Box<dyn Duplex>> {
        self.of("port_forward", self.inner.port_forward(id, port)).await
    }

    async fn container_stats(&self, id: &str) -> CriResult<ContainerStats> {
        self.of("container_stats", self.inner.container_stats(id)).await
    }

    async fn list_container_stats(&self, filter: &ContainerStatsFilter) -> CriResult<Vec<ContainerStats>> {
        self.of("list_container_stats", self.inner.list_container_stats(filter)).await
    }

    async fn pod_sandbox_stats(&self, id: &str) -> CriResult<PodSandboxStats> {
        self.of("podsandbox_stats", self.inner.pod_sandbox_stats(id)).await
    }

    async fn list_pod_sandbox_stats(&self, filter: &PodSandboxStatsFilter) -> CriResult<Vec<PodSandboxStats>> {
        self.of("list_podsandbox_stats", self.inner.list_pod_sandbox_stats(filter)).await
    }

    async fn list_metric_descriptors(&self) -> CriResult<Vec<MetricDescriptor>> {
        self.of("list_metric_descriptors", self.inner.list_metric_descriptors()).await
    }

    async fn list_pod_sandbox_metrics(&self) -> CriResult<Vec<PodSandboxMetrics>> {
        self.of("list_podsandbox_metrics", self.inner.list_pod_sandbox_metrics()).await
    }

    async fn events(&self) -> CriResult<ContainerEvents> {
        self.of("get_container_events", self.inner.events()).await
    }
}

#[async_trait::async_trait]
impl ImageService for Measured<dyn ImageService> {
    async fn list_images(&self, filter: Option<&ImageSpec>) -> Result<Vec<Image>, ImageError> {
        self.of("list_images", self.inner.list_images(filter)).await
    }

    async fn image_status(&self, image: &ImageSpec) -> Result<Option<Image>, ImageError> {
        self.of("image_status", self.inner.image_status(image)).await
    }

    async fn pull_image(
        &self,
        image: &ImageSpec,
        auth: Option<&AuthConfig>,
        sandbox: Option<&PodSandboxConfig>,
        progress: Option<ProgressFn>,
    ) -> Result<String, ImageError> {
        self.of("pull_image", self.inner.pull_image(image, auth, sandbox, progress)).await
    }

    async fn remove_image(&self, image: &ImageSpec) -> Result<(), ImageError> {
        self.of("remove_image", self.inner.remove_image(image)).await
    }

    async fn image_fs_info(&self) -> Result<ImageFsInfo, ImageError> {
        self.of("image_fs_info", self.inner.image_fs_info()).await
    }
}
