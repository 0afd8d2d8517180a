//! Keeps running containers on the processors that they may use: the shared pool shrinks and grows while they run. See
//! reconcileState in upstream's pkg/kubelet/cm/cpumanager, which looks every ten seconds; here it happens when the pool changes.

use fram_cri::{ContainerFilter, ContainerState, LinuxContainerResources};

use crate::context::Context;
use crate::observed::{LABEL_CONTAINER_NAME, LABEL_POD_UID};

pub(crate) async fn level(ctx: &Context) {
    if !ctx.managers.has_static_cpus() {
        return;
    }
    let containers = match ctx.runtime.list_containers(&ContainerFilter::default()).await {
        Ok(containers) => containers,
        Err(error) => {
            tracing::warn!(%error, "containers keep the processors that they had: the runtime could not be asked");
            return;
        }
    };
    for container in containers.iter().filter(|c| matches!(c.state, ContainerState::Running | ContainerState::Created)) {
        let (Some(uid), Some(name)) = (container.labels.get(LABEL_POD_UID), container.labels.get(LABEL_CONTAINER_NAME)) else { continue };
        let Some(cpus) = ctx.managers.cpus(uid, name).map(|c| c.to_string()) else { continue };
        let Ok(status) = ctx.runtime.container_status(&container.id).await else { continue };
        if status.resources.cpuset_cpus == cpus {
            continue;
        }
        let change = LinuxContainerResources { cpuset_cpus: cpus, ..LinuxContainerResources::default() };
        if let Err(error) = ctx.runtime.update_container_resources(&container.id, &change).await {
            tracing::warn!(container = container.id, %error, "a container could not be moved to other processors");
        }
    }
}
