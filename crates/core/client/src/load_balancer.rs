//! The name by which the controller of load balancers and the nodes speak of who answers for an address.

/// The annotation of a Service that names the node which has the addresses of its status.
pub const HOLDER: &str = "fram.dev/load-balancer-node";
