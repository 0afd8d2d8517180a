//! Container events (KEP-3386): what happened to a container, with the state of its pod at that time.

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::container::ContainerStatus;
use crate::sandbox::PodSandboxStatus;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ContainerEventType {
    #[default]
    #[serde(rename = "CONTAINER_CREATED_EVENT")]
    Created,
    #[serde(rename = "CONTAINER_STARTED_EVENT")]
    Started,
    #[serde(rename = "CONTAINER_STOPPED_EVENT")]
    Stopped,
    #[serde(rename = "CONTAINER_DELETED_EVENT")]
    Deleted,
}

/// Sandboxes have events too: then `container_id` is the sandbox's id, as containerd does it.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerEvent {
    pub container_id: String,
    pub pod_sandbox_id: String,
    pub container_event_type: ContainerEventType,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// `None` when the sandbox is gone.
    pub pod_sandbox_status: Option<PodSandboxStatus>,
    /// Every container of the pod, read after the event.
    pub containers_statuses: Vec<ContainerStatus>,
}

/// A subscription. Its buffer is bounded: a subscriber that does not keep up is ended (`recv` gives `None`), and must
/// subscribe again and list everything, as after a start.
#[derive(Debug)]
pub struct ContainerEvents {
    receiver: mpsc::Receiver<ContainerEvent>,
}

impl ContainerEvents {
    pub fn new(receiver: mpsc::Receiver<ContainerEvent>) -> Self {
        ContainerEvents { receiver }
    }

    /// The next event; safe to cancel.
    pub async fn recv(&mut self) -> Option<ContainerEvent> {
        self.receiver.recv().await
    }

    pub fn try_recv(&mut self) -> Option<ContainerEvent> {
        self.receiver.try_recv().ok()
    }
}
