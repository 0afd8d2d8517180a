//! Fram's container runtime: pod sandboxes and OCI containers behind `fram_cri::RuntimeService`, each pod held by a shim
//! process that outlives Fram. No networking and no image handling: both are handed in.

pub mod cgroup;
mod durable;
pub mod protocol;
pub mod seccomp;
pub mod shim;
pub mod spec;
mod wire;
