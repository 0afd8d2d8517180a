//! What each method is asked and answers, where it is not one of the shared values.

use std::collections::BTreeMap;

use fram_grpc::{enumeration, messages};

use crate::*;

messages! {
    /// Of methods that are asked nothing, or answer nothing.
    pub(super) Nothing {}
    /// Of methods that are asked about one thing, with the id as the first field.
    pub(super) Id { id: String = 1 }
    pub(super) IdVerbose { id: String = 1, verbose: bool = 2 }
    pub(super) Url { url: String = 1 }

    pub(super) RunPodSandboxRequest { config: PodSandboxConfig = 1, runtime_handler: String = 2 }
    pub(super) PodSandboxStatusResponse {
        status: PodSandboxStatus = 1,
        info: BTreeMap<String, String> = 2,
        containers_statuses: Vec<ContainerStatus> = 3,
        timestamp: i64 = 4,
    }
    pub(super) ListPodSandboxRequest { filter: PodSandboxFilter = 1 }
    pub(super) PodSandboxes { items: Vec<PodSandbox> = 1 }
    pub(super) UpdatePodSandboxResourcesRequest {
        id: String = 1,
        overhead: Option<LinuxContainerResources> = 2,
        resources: Option<LinuxContainerResources> = 3,
    }

    pub(super) CreateContainerRequest { pod_sandbox_id: String = 1, config: ContainerConfig = 2, sandbox_config: PodSandboxConfig = 3 }
    pub(super) StopContainerRequest { id: String = 1, timeout: i64 = 2 }
    pub(super) ListContainersRequest { filter: ContainerFilter = 1 }
    pub(super) Containers { items: Vec<Container> = 1 }
    pub(super) ContainerStatusResponse { status: ContainerStatus = 1, info: BTreeMap<String, String> = 2 }
    pub(super) UpdateContainerResourcesRequest { id: String = 1, linux: LinuxContainerResources = 2 }

    pub(super) CheckpointContainerRequest { id: String = 1, location: String = 2, timeout: i64 = 3 }

    pub(super) ExecSyncRequest { id: String = 1, cmd: Vec<String> = 2, timeout: i64 = 3 }
    pub(super) ExecRequest {
        id: String = 1, cmd: Vec<String> = 2, tty: bool = 3, stdin: bool = 4, stdout: bool = 5, stderr: bool = 6,
    }
    pub(super) AttachRequest { id: String = 1, stdin: bool = 2, tty: bool = 3, stdout: bool = 4, stderr: bool = 5 }
    pub(super) PortForwardRequest { id: String = 1, port: Vec<i32> = 2 }

    pub(super) ContainerStatsResponse { stats: ContainerStats = 1 }
    pub(super) ListContainerStatsRequest { filter: ContainerStatsFilter = 1 }
    pub(super) ContainersStats { stats: Vec<ContainerStats> = 1 }
    pub(super) PodSandboxStatsResponse { stats: PodSandboxStats = 1 }
    pub(super) ListPodSandboxStatsRequest { filter: PodSandboxStatsFilter = 1 }
    pub(super) PodSandboxesStats { stats: Vec<PodSandboxStats> = 1 }

    pub(super) UpdateRuntimeConfigRequest { runtime_config: RuntimeConfig = 1 }
    pub(super) StatusRequest { verbose: bool = 1 }
    pub(super) LinuxRuntimeConfiguration { cgroup_driver: CgroupDriver = 1 }
    pub(super) RuntimeConfigResponse { linux: LinuxRuntimeConfiguration = 1 }
    pub(super) ContainerEventResponse {
        container_id: String = 1,
        container_event_type: ContainerEventType = 2,
        created_at: i64 = 3,
        pod_sandbox_status: Option<PodSandboxStatus> = 4,
        containers_statuses: Vec<ContainerStatus> = 5,
    }

    pub(super) ListImagesRequest { filter: ImageFilter = 1 }
    pub(super) ImageFilter { image: Option<ImageSpec> = 1 }
    pub(super) Images { images: Vec<Image> = 1 }
    pub(super) ImageStatusRequest { image: ImageSpec = 1, verbose: bool = 2 }
    pub(super) ImageStatusResponse { image: Option<Image> = 1, info: BTreeMap<String, String> = 2 }
    pub(super) PullImageRequest { image: ImageSpec = 1, auth: Option<AuthConfig> = 2, sandbox_config: Option<PodSandboxConfig> = 3 }
    pub(super) PullImageResponse { image_ref: String = 1 }
    pub(super) RemoveImageRequest { image: ImageSpec = 1 }
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) enum CgroupDriver {
    Systemd,
    #[default]
    Cgroupfs,
}

enumeration!(CgroupDriver { Systemd = 0, Cgroupfs = 1 });
enumeration!(ContainerEventType { Created = 0, Started = 1, Stopped = 2, Deleted = 3 });
