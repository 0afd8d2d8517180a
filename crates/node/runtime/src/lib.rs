//! Fram's container runtime: pod sandboxes and OCI containers behind `fram_cri::RuntimeService`, each pod held by a shim
//! process that outlives Fram. No networking and no image handling: both are handed in.

mod cdi;
mod cgroup;
mod client;
mod config;
mod devices;
mod durable;
pub mod kernel;
mod metrics;
pub mod oci;
mod protocol;
mod records;
mod runtime;
mod seccomp;
pub mod shim;
mod spec;
mod state;
mod wire;

pub use config::RuntimeConfig;
pub use runtime::{OpenError, Runtime};
