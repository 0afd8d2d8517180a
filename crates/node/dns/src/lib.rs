//! fram-dns: cluster DNS on a node, as the Kubernetes DNS specification 1.1.0 has it. Names of Services and pods come from a
//! zone that the caller builds from API objects; other names are asked of upstream resolvers. No DNSSEC, no zone transfer.

mod answer;
mod cache;
mod forward;
#[cfg(test)]
mod fuzz;
mod resolv_conf;
mod server;
mod zone;

pub use resolv_conf::upstreams;
pub use server::{DnsConfig, DnsError, DnsServer};
pub use zone::{Endpoint, EndpointSlice, Pods, Port, Protocol, Service, ServiceKind, Zone, ZoneConfig};
