//! What is wrong between a Service and an IPAddress, in upstream's words. Pure.

use std::net::IpAddr;

use fram_api::AddressRange;
use fram_machinery::{Value, meta, object};

const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const ALLOCATOR: &str = "ipallocator.k8s.io";

/// What is told of something that is wrong: reason and message of a warning.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told(pub &'static str, pub String);

/// What an address of a Service needs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Need {
    Nothing,
    /// Nobody but the Service's owner can mend it.
    Tell(Told),
    /// Its IPAddress is to be made.
    Make(Told),
    /// Its IPAddress is to be made anew; nothing is told of labels.
    Renew(Option<Told>),
}

/// The Service whose an address says that it is, by namespace and name; None where it is something else's.
pub(super) fn parent(address: &Value) -> Option<(&str, &str)> {
    let parent = |field: &str| address.str_at(&["spec", "parentRef", field]);
    (parent("group").is_empty() && parent("resource") == "services").then(|| (parent("namespace"), parent("name")))
}

fn addresses(service: &Value) -> impl Iterator<Item = &str> {
    service.list_at(&["spec", "clusterIPs"]).iter().filter_map(Value::as_str).filter(|ip| *ip != "None")
}

fn has(service: &Value, name: &str) -> bool {
    let address = name.parse::<IpAddr>().ok();
    address.is_some() && addresses(service).any(|ip| ip.parse::<IpAddr>().ok() == address)
}

/// The addresses that a Service has, each with the name of its IPAddress; None where it is no address.
pub(super) fn names(service: &Value) -> Vec<(&str, Option<IpAddr>)> {
    addresses(service).map(|ip| (ip, ip.parse().ok())).collect()
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// The IPAddress of a Service.
pub(super) fn address_of(service: &Value, ip: IpAddr) -> Value {
    let mut address = object!({
        "metadata": { "name": (ip.to_string()) },
        "spec": { "parentRef": { "resource": "services", "namespace": (meta::namespace(service)), "name": (meta::name(service)) } }
    });
    meta::set_label(&mut address, FAMILY, family(ip));
    meta::set_label(&mut address, MANAGED_BY, ALLOCATOR);
    address
}

/// `address` is what there is by that name, and `other` the Service that it says it is of, where that is another one.
pub(super) fn of_service(
    service: &Value,
    (text, ip): (&str, Option<IpAddr>),
    ranges: &[AddressRange],
    address: Option<&Value>,
    other: Option<&Value>,
) -> Need {
    let Some(ip) = ip else {
        return Need::Tell(Told("ClusterIPNotValid", format!("Cluster IP {text} is not a valid IP; please recreate Service")));
    };
    let family = family(ip);
    if !ranges.iter().any(|range| range.lends(ip)) {
        let what = format!("Cluster IP [{family}]: {ip} is not within any configured Service CIDR; please recreate service");
        return Need::Tell(Told("ClusterIPOutOfRange", what));
    }
    let Some(address) = address else {
        return Need::Make(Told("ClusterIPNotAllocated", format!("Cluster IP [{family}]: {ip} is not allocated; repairing")));
    };
    if parent(address) != Some((meta::namespace(service), meta::name(service))) {
        return match other {
            Some(other) if has(other, meta::name(address)) => Need::Tell(Told(
                "ClusterIPAlreadyAllocated",
                format!("Cluster IP [{family}]:{ip} was assigned to multiple services; please recreate service"),
            )),
            _ => Need::Renew(Some(Told(
                "ClusterIPNotAllocated",
                format!("the ClusterIP [{family}]: {ip} for Service {} has a wrong reference; repairing", meta::key(service)),
            ))),
        };
    }
    let labelled = meta::label(address, FAMILY) == Some(family) && meta::label(address, MANAGED_BY) == Some(ALLOCATOR);
    if labelled { Need::Nothing } else { Need::Renew(None) }
}

/// Why an IPAddress has to go; `service` is the one that it says it is of. Those that the allocator did not make are somebody else's.
pub(super) fn of_address(address: &Value, service: Option<&Value>) -> Option<Told> {
    let name = meta::name(address);
    if meta::label(address, MANAGED_BY) != Some(ALLOCATOR) {
        return None;
    }
    let Some((namespace, of)) = parent(address) else {
        let what = format!("IPAddress {name} appears to have been modified, not referencing a Service: cleaning up");
        return Some(Told("IPAddressNotAllocated", what));
    };
    match service {
        None => {
            let what = format!("IPAddress: {name} for Service {namespace}/{of} appears to have leaked: cleaning up");
            Some(Told("IPAddressNotAllocated", what))
        }
        Some(service) if !has(service, name) => {
            let what = format!("IPAddress: {name} for Service {namespace}/{of} has a wrong reference; cleaning up");
            Some(Told("IPAddressWrongReference", what))
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, ips: Value) -> Value {
        object!({ "metadata": { "namespace": "n", "name": name }, "spec": { "clusterIPs": ips } })
    }

    fn made(service: &Value, ip: &str) -> Value {
        address_of(service, ip.parse().unwrap())
    }

    fn of_gateway(ip: &str, managed: bool) -> Value {
        let mut address = made(&service("a", object!([])), ip);
        address.set(&["spec", "parentRef"], object!({ "group": "g", "resource": "gateways", "name": "a" }));
        if !managed {
            address.remove(&["metadata", "labels"]);
        }
        address
    }

    #[test]
    fn an_address_of_a_service_is_its_own() {
        let ranges: Vec<AddressRange> = ["10.0.0.0/16", "2001:db8::/64"].iter().map(|range| range.parse().unwrap()).collect();
        let (a, b) = (|ip: &str| service("a", object!([ip])), |ip: &str| service("b", object!([ip])));
        let right = |ip: &str| Some(made(&a(ip), ip));
        let of_b = |ip: &str| Some(made(&b(ip), ip));
        let mut unlabelled = made(&a("10.0.1.1"), "10.0.1.1");
        unlabelled.remove(&["metadata", "labels", FAMILY]);
        let outside = "is not within any configured Service CIDR; please recreate service";
        let table: [(&str, Option<Value>, Option<Value>, &str); 14] = [
            ("10.0.1.1", right("10.0.1.1"), None, ""),
            ("2001:db8:0::10", right("2001:db8::10"), None, ""),
            ("10.0.1.1", None, None, "make ClusterIPNotAllocated Cluster IP [IPv4]: 10.0.1.1 is not allocated; repairing"),
            ("2001:db8:0::10", None, None, "make ClusterIPNotAllocated Cluster IP [IPv6]: 2001:db8::10 is not allocated; repairing"),
            (
                "10.0.1.1",
                of_b("10.0.1.1"),
                None,
                "renew ClusterIPNotAllocated the ClusterIP [IPv4]: 10.0.1.1 for Service n/a has a wrong reference; repairing",
            ),
            (
                "10.0.1.1",
                of_b("10.0.1.1"),
                Some(b("10.0.1.2")),
                "renew ClusterIPNotAllocated the ClusterIP [IPv4]: 10.0.1.1 for Service n/a has a wrong reference; repairing",
            ),
            (
                "10.0.1.1",
                Some(of_gateway("10.0.1.1", true)),
                None,
                "renew ClusterIPNotAllocated the ClusterIP [IPv4]: 10.0.1.1 for Service n/a has a wrong reference; repairing",
            ),
            (
                "10.0.1.1",
                of_b("10.0.1.1"),
                Some(b("10.0.1.1")),
                "tell ClusterIPAlreadyAllocated Cluster IP [IPv4]:10.0.1.1 was assigned to multiple services; please recreate service",
            ),
            ("10.0.1.1", Some(unlabelled), None, "renew"),
            ("192.168.1.1", right("192.168.1.1"), None, &format!("tell ClusterIPOutOfRange Cluster IP [IPv4]: 192.168.1.1 {outside}")),
            ("10.0.0.0", right("10.0.0.0"), None, &format!("tell ClusterIPOutOfRange Cluster IP [IPv4]: 10.0.0.0 {outside}")),
            ("10.0.255.255", right("10.0.255.255"), None, &format!("tell ClusterIPOutOfRange Cluster IP [IPv4]: 10.0.255.255 {outside}")),
            ("2001:db8::ffff:ffff:ffff:ffff", right("2001:db8::ffff:ffff:ffff:ffff"), None, ""),
            ("10.0.1", None, None, "tell ClusterIPNotValid Cluster IP 10.0.1 is not a valid IP; please recreate Service"),
        ];
        for (n, (ip, address, other, expect)) in table.into_iter().enumerate() {
            let service = a(ip);
            let needs = of_service(&service, names(&service)[0], &ranges, address.as_ref(), other.as_ref());
            let said = match needs {
                Need::Nothing => String::new(),
                Need::Tell(Told(reason, message)) => format!("tell {reason} {message}"),
                Need::Make(Told(reason, message)) => format!("make {reason} {message}"),
                Need::Renew(Some(Told(reason, message))) => format!("renew {reason} {message}"),
                Need::Renew(None) => "renew".into(),
            };
            assert_eq!(said, expect, "{n}");
        }
        assert_eq!(names(&service("a", object!(["None"]))), []);
    }

    #[test]
    fn an_address_that_no_service_has_goes() {
        let a = service("a", object!(["10.0.1.1", "2001:db8:0::10"]));
        let (leaked, wrong) = ("appears to have leaked: cleaning up", "has a wrong reference; cleaning up");
        let table: [(Value, Option<&Value>, &str); 6] = [
            (made(&a, "10.0.1.1"), Some(&a), ""),
            (made(&a, "2001:db8::10"), Some(&a), ""),
            (made(&a, "10.0.1.2"), Some(&a), &format!("IPAddressWrongReference IPAddress: 10.0.1.2 for Service n/a {wrong}")),
            (made(&a, "10.0.1.1"), None, &format!("IPAddressNotAllocated IPAddress: 10.0.1.1 for Service n/a {leaked}")),
            (
                of_gateway("10.0.1.1", true),
                None,
                "IPAddressNotAllocated IPAddress 10.0.1.1 appears to have been modified, not referencing a Service: cleaning up",
            ),
            (of_gateway("10.0.1.1", false), None, ""),
        ];
        for (n, (address, service, expect)) in table.into_iter().enumerate() {
            let said = of_address(&address, service).map(|Told(reason, message)| format!("{reason} {message}")).unwrap_or_default();
            assert_eq!(said, expect, "{n}");
        }
    }
}
