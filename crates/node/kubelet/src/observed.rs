//! What the runtime has of one pod, read at one moment. Which containers count as the pod's current ones is decided here.

use std::collections::BTreeMap;

use fram_cri::{
    ContainerFilter, ContainerState, ContainerStatus, CriResult, PodSandboxFilter, PodSandboxState, PodSandboxStatus, RuntimeService,
};

pub(crate) const LABEL_POD_NAME: &str = "io.kubernetes.pod.name";
pub(crate) const LABEL_POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub(crate) const LABEL_POD_UID: &str = "io.kubernetes.pod.uid";
pub(crate) const LABEL_CONTAINER_NAME: &str = "io.kubernetes.container.name";
pub(crate) const ANNOTATION_HASH: &str = "io.kubernetes.container.hash";
pub(crate) const ANNOTATION_RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
pub(crate) const ANNOTATION_MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
pub(crate) const ANNOTATION_MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// The resources with which the container was made.
pub(crate) const ANNOTATION_RESOURCES: &str = "io.kubernetes.container.resources";
pub(crate) const ANNOTATION_POD_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Observed {
    /// The newest first.
    pub sandboxes: Vec<PodSandboxStatus>,
    /// The newest first.
    pub containers: Vec<ContainerStatus>,
}

impl Observed {
    /// Asks the runtime for everything that carries the pod's uid.
    pub(crate) async fn read(runtime: &dyn RuntimeService, uid: &str) -> CriResult<Self> {
        let labels = BTreeMap::from([(LABEL_POD_UID.to_string(), uid.to_string())]);
        let mut observed = Observed::default();
        for sandbox in runtime.list_pod_sandbox(&PodSandboxFilter { label_selector: labels.clone(), ..Default::default() }).await? {
            match runtime.pod_sandbox_status(&sandbox.id).await {
                Ok(status) => observed.sandboxes.push(status),
                // It was removed since it was listed.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        for container in runtime.list_containers(&ContainerFilter { label_selector: labels, ..Default::default() }).await? {
            match runtime.container_status(&container.id).await {
                Ok(status) => observed.containers.push(status),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        observed.sort();
        Ok(observed)
    }

    fn sort(&mut self) {
        self.sandboxes.sort_by_key(|s| std::cmp::Reverse((s.metadata.attempt, s.created_at)));
        self.containers.sort_by_key(|c| std::cmp::Reverse((c.metadata.attempt, c.created_at)));
    }

    /// The sandbox in which containers can be started.
    pub(crate) fn ready_sandbox(&self) -> Option<&PodSandboxStatus> {
        self.sandboxes.first().filter(|s| s.state == PodSandboxState::Ready)
    }

    /// The container's latest instance, in whichever sandbox it ran.
    pub(crate) fn latest(&self, name: &str) -> Option<&ContainerStatus> {
        self.containers.iter().find(|c| c.metadata.name == name)
    }

    /// The container's latest instance in the sandbox that is ready.
    pub(crate) fn active(&self, name: &str) -> Option<&ContainerStatus> {
        let sandbox = self.ready_sandbox()?;
        self.containers.iter().find(|c| c.metadata.name == name && c.pod_sandbox_id == sandbox.id)
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = &ContainerStatus> {
        self.containers.iter().filter(|c| c.state == ContainerState::Running)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sandboxes.is_empty() && self.containers.is_empty()
    }
}

/// How often the container was started before this instance.
pub(crate) fn restart_count(container: &ContainerStatus) -> i64 {
    let noted = container.annotations.get(ANNOTATION_RESTART_COUNT).and_then(|n| n.parse().ok());
    noted.unwrap_or(i64::from(container.metadata.attempt))
}
