//! The kubelet: runs the pods that are bound to one node, through the runtime and image services of the CRI, and tells the
//! API server what became of them.

mod backoff;
mod cgroup;
pub mod clock;
mod config;
mod container;
mod images;
mod observed;
mod pod;
mod sandbox;
mod status;
mod volumes;
mod worker;

pub use clock::{Clock, SystemClock};
pub use config::KubeletConfig;
