//! Services and EndpointSlices as far as a proxy reads them, with Kubernetes' field names.

use std::net::IpAddr;
use std::time::Duration;

use fram_datapath::address::Cidr;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// The IP protocol number.
    pub fn number(self) -> u8 {
        (match self {
            Self::Tcp => libc::IPPROTO_TCP,
            Self::Udp => libc::IPPROTO_UDP,
            Self::Sctp => libc::IPPROTO_SCTP,
        }) as u8
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TrafficPolicy {
    #[default]
    Cluster,
    Local,
}

/// A Service that is not headless and not ExternalName.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Service {
    pub namespace: String,
    pub name: String,
    pub cluster_ips: Vec<IpAddr>,
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip`, those with ipMode VIP.
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges`: who may use the addresses of load balancers; None where everyone may.
    pub source_ranges: Option<Vec<Cidr>>,
    /// Those of its addresses that no machine has for anything else: what nobody serves there is refused.
    pub own_ips: Vec<IpAddr>,
    pub ports: Vec<ServicePort>,
    /// The timeout of session affinity ClientIP.
    pub session_affinity: Option<Duration>,
    pub external_traffic_policy: TrafficPolicy,
    pub internal_traffic_policy: TrafficPolicy,
    /// Where a load balancer asks whether this node has endpoints.
    pub health_check_port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServicePort {
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
    pub node_port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EndpointSlice {
    pub namespace: String,
    /// The label kubernetes.io/service-name.
    pub service: String,
    pub ports: Vec<EndpointPort>,
    pub endpoints: Vec<Endpoint>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EndpointPort {
    /// The name of the Service's port that it belongs to.
    pub name: String,
    pub protocol: Protocol,
    pub port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub addresses: Vec<IpAddr>,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    pub node_name: Option<String>,
    /// Whom it is meant for, as far as that is said: this node, and this node's zone.
    pub for_node: Option<bool>,
    pub for_zone: Option<bool>,
}

impl Default for Endpoint {
    /// Ready, as an endpoint without conditions is.
    fn default() -> Self {
        Self { addresses: Vec::new(), ready: true, serving: true, terminating: false, node_name: None, for_node: None, for_zone: None }
    }
}
