//! The cluster's ranges of addresses, which all of its machines have to be told alike.

use std::net::{IpAddr, Ipv4Addr};

use fram_api::AddressRange;
use fram_apiserver::allocate::Allocators;

/// The ranges of Services and of pods.
#[derive(clap::Args, Debug, Clone)]
#[command(next_help_heading = "Networks (the same on all machines)")]
pub(crate) struct Networks {
    /// The range of Services' addresses, of IPv4. With a second one, of IPv6, Services can have addresses of both families; the built-in
    /// proxy carries those of IPv4 only.
    #[arg(long, value_name = "CIDR[,CIDR]", default_value = "10.96.0.0/16", value_parser = services)]
    service_cluster_ip_range: Allocators,
    /// The range of pods' addresses, of IPv4. With a second one, of IPv6, nodes have a part of each; the built-in pod network uses that of
    /// IPv4 only.
    #[arg(long, value_name = "CIDR[,CIDR]", default_value = "10.244.0.0/16", value_parser = pods)]
    cluster_cidr: Ranges,
}

/// A list, of which clap makes no repeated flag.
#[derive(Debug, Clone)]
struct Ranges(Vec<AddressRange>);

/// The networks of pods and nodes begin with IPv4.
fn begins_with_ipv4(ranges: &[AddressRange]) -> Result<(), String> {
    match ranges.first() {
        Some(range) if !range.is_ipv4() => Err("the first range has to be of IPv4".into()),
        _ => Ok(()),
    }
}

fn services(text: &str) -> Result<Allocators, String> {
    let allocators = Allocators::within(text).map_err(|error| error.to_string())?;
    begins_with_ipv4(&allocators.service_ranges).map(|()| allocators)
}

fn pods(text: &str) -> Result<Ranges, String> {
    let ranges = AddressRange::parse_list(text).map_err(|error| error.to_string())?;
    begins_with_ipv4(&ranges).map(|()| Ranges(ranges))
}

/// Ranges that have addresses in common.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("--cluster-cidr {pods} and --service-cluster-ip-range {services} overlap: a pod and a Service could have the same address")]
pub(crate) struct Overlap {
    pods: AddressRange,
    services: AddressRange,
}

impl Networks {
    /// Whether the ranges go together.
    pub(crate) fn check(&self) -> Result<(), Overlap> {
        for &pods in self.of_pods() {
            if let Some(&services) = self.service_cluster_ip_range.service_ranges.iter().find(|range| range.overlaps(pods)) {
                return Err(Overlap { pods, services });
            }
        }
        Ok(())
    }

    pub(crate) fn allocators(&self) -> Allocators {
        self.service_cluster_ip_range.clone()
    }

    /// The ranges of pods; the first is of IPv4.
    pub(crate) fn of_pods(&self) -> &[AddressRange] {
        &self.cluster_cidr.0
    }

    /// An address of the first range of Services, by its place: the first is the API's, the tenth that of the DNS.
    pub(crate) fn service_ip(&self, place: u128) -> Ipv4Addr {
        match self.service_cluster_ip_range.service_ip(place) {
            IpAddr::V4(ip) => ip,
            IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_has_one_range_of_ipv4_or_one_of_ipv6_beside_it() {
        for text in ["10.96.0.0/16", "10.96.0.0/16,fd00:10:96::/112", "10.0.0.0/8"] {
            assert!(services(text).is_ok() && pods(text).is_ok(), "{text}");
        }
        for text in ["fd00:10:96::/112", "fd00:10:96::/112,10.96.0.0/16", "10.96.0.0/16,10.97.0.0/16", "10.96.0.0", ""] {
            assert!(services(text).is_err() && pods(text).is_err(), "{text}");
        }
        assert!(services("10.96.0.0/29").is_err(), "the DNS has the tenth address");
    }

    #[test]
    fn pods_and_services_have_no_addresses_in_common() {
        let check = |of_services: &str, of_pods: &str| {
            let networks = Networks { service_cluster_ip_range: services(of_services).unwrap(), cluster_cidr: pods(of_pods).unwrap() };
            networks.check().map_err(|overlap| (overlap.pods.to_string(), overlap.services.to_string()))
        };
        assert_eq!(check("10.96.0.0/16", "10.244.0.0/16"), Ok(()));
        assert_eq!(check("10.96.0.0/16,fd00::/112", "10.244.0.0/16,fd01::/56"), Ok(()));
        let table = [
            ("10.96.0.0/16", "10.96.0.0/16", ("10.96.0.0/16", "10.96.0.0/16")),
            ("10.96.0.0/12", "10.100.0.0/16", ("10.100.0.0/16", "10.96.0.0/12")),
            ("10.96.0.0/16", "10.0.0.0/8", ("10.0.0.0/8", "10.96.0.0/16")),
            ("10.96.0.0/16,fd00::1:0/112", "10.244.0.0/16,fd00::/56", ("fd00::/56", "fd00::1:0/112")),
        ];
        for (of_services, of_pods, (one, other)) in table {
            assert_eq!(check(of_services, of_pods), Err((one.into(), other.into())));
        }
    }
}
