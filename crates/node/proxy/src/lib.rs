//! fram-proxy: Services on a node. From Services and EndpointSlices, as plain values, to flat nftables maps; a change costs
//! what differs. Where the values come from is the caller's business, how the kernel is told is the datapath crate's.

mod diff;
mod flows;
mod health;
mod plan;
mod proxy;
mod rules;
mod select;
mod service;

pub use health::{Checks, HealthServer};
pub use plan::{Action, Desired, Frontend, Masquerade, Planner, Target};
pub use proxy::{Applied, Proxy, ProxyConfig, ProxyError};
pub use service::{Endpoint, EndpointPort, EndpointSlice, Protocol, Service, ServicePort, TrafficPolicy};
