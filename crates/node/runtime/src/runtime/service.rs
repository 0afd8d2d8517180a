//! The CRI on the runtime: each call is one of the operations next door.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use fram_cri::{
    Container, ContainerConfig, ContainerFilter, ContainerState, ContainerStats, ContainerStatsFilter, ContainerStatus, ContainerStream,
    CriError, CriResult, Duplex, ExecOptions, ExecSyncResponse, LinuxContainerResources, MetricDescriptor, OWN_NAME, PodSandbox,
    PodSandboxConfig, PodSandboxFilter, PodSandboxMetrics, PodSandboxStats, PodSandboxStatsFilter, PodSandboxStatus, RuntimeCondition,
    RuntimeConfig, RuntimeFeatures, RuntimeHandler, RuntimeHandlerFeatures, RuntimeService, RuntimeStatus, VersionResponse,
};

use super::sandboxes::HANDLER;
use super::{Runtime, blocking, containers, exec, metrics, sandboxes, stats};
use crate::client;
use crate::kernel;
use crate::metrics::descriptors;
use crate::protocol::Request;

#[async_trait]
impl RuntimeService for Runtime {
    async fn version(&self) -> CriResult<VersionResponse> {
        Ok(VersionResponse {
            version: "0.1.0".into(),
            runtime_name: OWN_NAME.into(),
            runtime_version: env!("CARGO_PKG_VERSION").into(),
            runtime_api_version: "v1".into(),
        })
    }

    async fn status(&self) -> CriResult<RuntimeStatus> {
        let network = self.inner.network.ready().await;
        let condition = |kind: &str, problem: Option<(String, String)>| {
            let status = problem.is_none();
            let (reason, message) = problem.unwrap_or_default();
            RuntimeCondition { r#type: kind.into(), status, reason, message }
        };
        let network = network.err().map(|error| ("NetworkPluginNotReady".to_owned(), error.to_string()));
        let handlers = &self.inner.config.handlers;
        let handler = |name: &str| {
            let own = !handlers.contains_key(name);
            let user_namespaces = own && kernel::has_user_namespaces();
            RuntimeHandler { name: name.into(), features: RuntimeHandlerFeatures { recursive_read_only_mounts: own, user_namespaces } }
        };
        let cgroups = if self.inner.cgroups.is_v2() { "v2" } else { "v1" };
        Ok(RuntimeStatus {
            conditions: vec![condition("RuntimeReady", None), condition("NetworkReady", network)],
            runtime_handlers: ["", HANDLER].into_iter().chain(handlers.keys().map(String::as_str)).map(handler).collect(),
            features: RuntimeFeatures { supplemental_groups_policy: true, user_namespaces_host_network: false },
            info: info(cgroups),
        })
    }

    async fn update_runtime_config(&self, config: &RuntimeConfig) -> CriResult<()> {
        Ok(self.inner.network.update_pod_cidr(&config.pod_cidr).await?)
    }

    async fn run_pod_sandbox(&self, config: &PodSandboxConfig, runtime_handler: &str) -> CriResult<String> {
        self.complete(sandboxes::run(self.inner.clone(), config.clone(), runtime_handler.to_owned())).await
    }

    async fn stop_pod_sandbox(&self, pod_sandbox_id: &str) -> CriResult<()> {
        self.complete(sandboxes::stop(self.inner.clone(), pod_sandbox_id.to_owned())).await
    }

    async fn remove_pod_sandbox(&self, pod_sandbox_id: &str) -> CriResult<()> {
        self.complete(sandboxes::remove(self.inner.clone(), pod_sandbox_id.to_owned())).await
    }

    async fn pod_sandbox_status(&self, pod_sandbox_id: &str) -> CriResult<PodSandboxStatus> {
        Ok(self.inner.sandbox(pod_sandbox_id)?.status())
    }

    async fn list_pod_sandbox(&self, filter: &PodSandboxFilter) -> CriResult<Vec<PodSandbox>> {
        let sandboxes = self.inner.sandboxes.lock();
        // One that is still being made has no id that anybody knows.
        let known = sandboxes.values().filter(|sandbox| sandbox.record.lock().complete);
        Ok(known.map(|sandbox| sandbox.summary()).filter(|sandbox| filter.matches(sandbox)).collect())
    }

    async fn update_pod_sandbox_resources(
        &self,
        pod_sandbox_id: &str,
        _overhead: Option<&LinuxContainerResources>,
        _resources: Option<&LinuxContainerResources>,
    ) -> CriResult<()> {
        // The kubelet has changed the pod's cgroup itself; there is no virtual machine to be resized.
        self.inner.sandbox(pod_sandbox_id).map(drop)
    }

    async fn create_container(
        &self,
        pod_sandbox_id: &str,
        config: &ContainerConfig,
        _sandbox_config: &PodSandboxConfig,
    ) -> CriResult<String> {
        self.complete(containers::create(self.inner.clone(), pod_sandbox_id.to_owned(), config.clone())).await
    }

    async fn start_container(&self, container_id: &str) -> CriResult<()> {
        self.complete(containers::begin(self.inner.clone(), container_id.to_owned())).await
    }

    async fn stop_container(&self, container_id: &str, grace: Duration) -> CriResult<()> {
        self.complete(containers::stop(self.inner.clone(), container_id.to_owned(), grace)).await
    }

    async fn remove_container(&self, container_id: &str) -> CriResult<()> {
        self.complete(containers::remove(self.inner.clone(), container_id.to_owned())).await
    }

    async fn list_containers(&self, filter: &ContainerFilter) -> CriResult<Vec<Container>> {
        let containers = self.inner.containers.lock();
        Ok(containers.values().map(|it| it.summary()).filter(|container| filter.matches(container)).collect())
    }

    async fn container_status(&self, container_id: &str) -> CriResult<ContainerStatus> {
        Ok(self.inner.container(container_id)?.status())
    }

    async fn update_container_resources(&self, container_id: &str, resources: &LinuxContainerResources) -> CriResult<()> {
        self.complete(containers::update(self.inner.clone(), container_id.to_owned(), resources.clone())).await
    }

    async fn reopen_container_log(&self, container_id: &str) -> CriResult<()> {
        let container = self.inner.container(container_id)?;
        if container.state() != ContainerState::Running {
            return Err(CriError::FailedPrecondition(format!("container {container_id:?} is not running")));
        }
        let sandbox = self.inner.sandbox(&container.sandbox_id)?;
        let request = Request::ReopenLog { container_id: container_id.to_owned() };
        client::ask(&sandbox.dir, &request).await?;
        Ok(())
    }

    async fn exec_sync(&self, container_id: &str, cmd: &[String], timeout: Option<Duration>) -> CriResult<ExecSyncResponse> {
        exec::exec_sync(&self.inner, container_id, cmd, timeout).await
    }

    async fn exec(&self, container_id: &str, cmd: &[String], options: ExecOptions) -> CriResult<ContainerStream> {
        exec::exec(&self.inner, container_id, cmd, options).await
    }

    async fn attach(&self, container_id: &str, options: ExecOptions) -> CriResult<ContainerStream> {
        exec::attach(&self.inner, container_id, options).await
    }

    async fn port_forward(&self, pod_sandbox_id: &str, port: u16) -> CriResult<Box<dyn Duplex>> {
        exec::port_forward(&self.inner, pod_sandbox_id, port).await
    }

    async fn container_stats(&self, container_id: &str) -> CriResult<ContainerStats> {
        stats::container(&self.inner, container_id).await
    }

    async fn list_container_stats(&self, filter: &ContainerStatsFilter) -> CriResult<Vec<ContainerStats>> {
        let wanted: Vec<_> = self.inner.containers.lock().values().cloned().collect();
        let (inner, filter) = (self.inner.clone(), filter.clone());
        blocking(move || {
            let running = wanted.iter().filter(|container| {
                let labels = container.record.lock().config.labels.clone();
                container.state() == ContainerState::Running && filter.matches(&container.id, &container.sandbox_id, &labels)
            });
            Ok(running.map(|container| stats::of_container(&inner, container)).collect())
        })
        .await
    }

    async fn pod_sandbox_stats(&self, pod_sandbox_id: &str) -> CriResult<PodSandboxStats> {
        stats::sandbox(&self.inner, pod_sandbox_id).await
    }

    async fn list_pod_sandbox_stats(&self, filter: &PodSandboxStatsFilter) -> CriResult<Vec<PodSandboxStats>> {
        let wanted: Vec<_> = self.inner.sandboxes.lock().values().cloned().collect();
        let (inner, filter) = (self.inner.clone(), filter.clone());
        blocking(move || {
            let ready =
                wanted.iter().filter(|sandbox| sandbox.is_ready() && filter.matches(&sandbox.id, &sandbox.record.lock().config.labels));
            Ok(ready.map(|sandbox| stats::of_sandbox(&inner, sandbox)).collect())
        })
        .await
    }

    async fn list_metric_descriptors(&self) -> CriResult<Vec<MetricDescriptor>> {
        Ok(descriptors())
    }

    async fn list_pod_sandbox_metrics(&self) -> CriResult<Vec<PodSandboxMetrics>> {
        let all: Vec<_> = self.inner.sandboxes.lock().values().cloned().collect();
        let inner = self.inner.clone();
        let told = move || Ok(all.iter().filter(|it| it.is_ready()).map(|it| metrics::of_sandbox(&inner, it)).collect());
        blocking(told).await
    }

    async fn events(&self) -> CriResult<fram_cri::ContainerEvents> {
        Ok(self.inner.subscribe())
    }
}

/// What this node cannot do, for whoever asks why a container has less than its pod says.
fn info(cgroups: &str) -> BTreeMap<String, String> {
    const CAP_SYS_RESOURCE: u64 = 1 << 24;
    let mut info = BTreeMap::from([("cgroups".to_owned(), cgroups.to_owned())]);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(u64::MAX);
    if effective & CAP_SYS_RESOURCE == 0 {
        let missing = "CAP_SYS_RESOURCE is missing: oom_score_adj is not lowered, hard limits are not raised";
        info.insert("capabilities".to_owned(), missing.to_owned());
    }
    info
}
