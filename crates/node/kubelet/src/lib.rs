//! The kubelet: runs the pods that are bound to one node, through the runtime and image services of the CRI, and tells the
//! API server what became of them.

mod activity;
mod admit;
mod allocation;
mod backoff;
mod cgroup;
pub mod clock;
mod config;
mod configuration;
mod container;
mod context;
mod devices;
mod dra;
mod durable;
mod eviction;
mod hook;
mod images;
mod kubelet;
mod local_path;
mod measured;
mod metrics;
mod net;
mod node;
mod objects;
mod observed;
mod pod;
mod probe;
mod resize;
mod resource;
mod rotate;
mod sandbox;
mod server;
mod shutdown;
mod static_pods;
mod stats;
mod status;
mod user_namespaces;
mod volumes;
mod worker;

pub use activity::Activity;
pub use clock::{Clock, SystemClock};
pub use config::{
    KubeletConfig, Managers, MemoryReservation, ReservedCgroup, ReviewTimes, ServingTls, ShutdownGrace, StaticPodUrl, SwapBehavior,
};
pub use configuration::{Configuration, ConfigurationError};
pub use durable::DurableError;
pub use eviction::thresholds::{EvictionSettings, ThresholdError};
pub use images::gc::ImageGcPolicy;
pub use images::provider::{CredentialProviders, ProviderError};
pub use kubelet::{Kubelet, KubeletError};
pub use resource::ManagerError;
pub use resource::cpuset::CpuSet;
pub use resource::qos::ReservedError;
pub use resource::topology::{Policy, Scope};
