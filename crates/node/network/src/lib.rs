//! fram-network: the pod network. Each pod is a routed veth pair with an address of the node's pod CIDR; host ports,
//! masquerading and routes to other nodes belong to it. Services are the proxy's, the kernel is the datapath crate's.

mod allocation;
mod attach;
mod cni;
mod durable;
mod network;
mod peers;
mod rules;

pub use allocation::{AllocationError, Allocations, Pod};
pub use attach::{GATEWAY, POD_INTERFACE};
pub use cni::{CniConfig, CniError, CniNetwork};
pub use network::{NetworkConfig, Overlay, PodNetwork, SetupError};
pub use peers::Peer;
