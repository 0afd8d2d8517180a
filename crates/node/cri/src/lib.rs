//! The Container Runtime Interface (`runtime.v1`) as Rust traits and plain values: what the kubelet asks of a container
//! runtime, of an image service and of the pod network. Nothing here does I/O but [`grpc`], which carries the same over a socket.
//!
//! Names, fields and meanings are those of `k8s.io/cri-api/pkg/apis/runtime/v1/api.proto`, with these differences:
//! exec, attach and port-forward give streams instead of a URL; `Int64Value` is `Option`; a message that only groups
//! fields is a value with a `Default`, not an `Option`; times are nanoseconds since the epoch with 0 for "not yet".

pub mod container;
pub mod error;
pub mod event;
pub mod grpc;
pub mod image;
pub mod metrics;
pub mod network;
pub mod resources;
pub mod runtime;
pub mod sandbox;
pub mod security;
pub mod signal;
pub mod stats;
pub mod stream;

pub use container::{
    Container, ContainerConfig, ContainerFilter, ContainerMetadata, ContainerReason, ContainerState, ContainerStatus, ContainerUser,
    Device, IdMapping, KeyValue, Mount, MountPropagation,
};
pub use error::{CriError, CriResult};
pub use event::{ContainerEvent, ContainerEventType, ContainerEvents};
pub use image::{
    AuthConfig, FilesystemUsage, Image, ImageConfig, ImageError, ImageFsInfo, ImageService, ImageSpec, ProgressFn, PullProgress,
    RootFilesystem, RootFilesystems,
};
pub use metrics::{ContainerMetrics, Metric, MetricDescriptor, MetricType, PodSandboxMetrics};
pub use network::{NetworkAttachment, NetworkError, SandboxNetwork, SandboxNetworkConfig};
pub use resources::{HugepageLimit, LinuxContainerResources};
pub use runtime::{
    ExecSyncResponse, OWN_NAME, RuntimeCondition, RuntimeConfig, RuntimeFeatures, RuntimeHandler, RuntimeHandlerFeatures, RuntimeService,
    RuntimeStatus, VersionResponse,
};
pub use sandbox::{
    DnsConfig, LinuxPodSandboxConfig, PodSandbox, PodSandboxConfig, PodSandboxFilter, PodSandboxMetadata, PodSandboxNetworkStatus,
    PodSandboxState, PodSandboxStatus, PortMapping, Protocol,
};
pub use security::{
    Capability, LinuxContainerSecurityContext, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption, SeLinuxOption, SecurityProfile,
    SupplementalGroupsPolicy, UserNamespace,
};
pub use signal::Signal;
pub use stats::{
    ContainerAttributes, ContainerStats, ContainerStatsFilter, CpuUsage, IoUsage, MemoryUsage, NetworkInterfaceUsage, NetworkUsage,
    PodSandboxStats, PodSandboxStatsFilter, ProcessUsage, PsiData, PsiStats, SwapUsage,
};
pub use stream::{ContainerStream, Duplex, ExecOptions, TerminalSize};
