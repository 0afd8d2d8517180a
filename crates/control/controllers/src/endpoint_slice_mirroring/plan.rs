//! The slices that custom Endpoints are mirrored to. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use fram_machinery::{Value, meta, object};

pub(super) const SERVICE: &str = "kubernetes.io/service-name";
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub(super) const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Beyond so many a subset's addresses are left out; see --mirroring-max-endpoints-per-subset.
const MOST_ADDRESSES: usize = 1000;

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) create: Vec<Value>,
    pub(super) update: Vec<Value>,
    pub(super) delete: Vec<String>,
}

/// Only Endpoints that people write for a Service without a selector are mirrored.
pub(super) fn is_mirrored(endpoints: &Value, service: &Value) -> bool {
    let selected = service.at(&["spec", "selector"]).is_some_and(|s| !s.is_empty());
    !selected && meta::label(endpoints, SKIP) != Some("true") && meta::annotation(endpoints, LEADER).is_none()
}

pub(super) fn plan(endpoints: &Value, existing: &[Arc<Value>]) -> Plan {
    let mut plan = Plan::default();
    let mut left: Vec<&Arc<Value>> = existing.iter().filter(|s| !meta::is_terminating(s)).collect();
    for wanted in slices(endpoints) {
        let like = |s: &&Arc<Value>| s.str_at(&["addressType"]) == wanted.str_at(&["addressType"]);
        let same_ports = |s: &&Arc<Value>| like(s) && s.get("ports") == wanted.get("ports");
        let Some(i) = left.iter().position(same_ports).or_else(|| left.iter().position(like)) else {
            plan.create.push(wanted);
            continue;
        };
        let mut next = (**left.remove(i)).clone();
        for field in [&["endpoints"][..], &["ports"], &["metadata", "labels"], &["metadata", "annotations"]] {
            match wanted.at(field) {
                Some(value) => next.set(field, value.clone()),
                None => drop(next.remove(field)),
            }
        }
        if !existing.iter().any(|s| **s == next) {
            plan.update.push(next);
        }
    }
    if meta::is_terminating(endpoints) {
        // What they own would only be collected.
        plan.create.clear();
    }
    plan.delete = left.into_iter().map(|s| meta::name(s).to_string()).collect();
    plan
}

/// Addresses that are reached by the same ports, with whether they are ready.
struct Subset<'a> {
    ports: Vec<&'a Value>,
    /// Those that are ready come first.
    addresses: Vec<(&'a Value, bool)>,
}

/// Name, number, protocol, application protocol.
type PortKey = [String; 4];
/// The address itself, and the UID of what it is of.
type AddressKey<'a> = (&'a str, &'a str);
/// Addresses, and whether they are ready.
type Addresses<'a> = BTreeMap<AddressKey<'a>, (&'a Value, bool)>;

/// What tells ports from one another.
fn port_key(port: &Value) -> PortKey {
    let number = port.int_at(&["port"]).map_or_else(String::new, |n| format!("{n:05}"));
    [port.str_at(&["name"]).into(), number, port.str_at(&["protocol"]).into(), port.str_at(&["appProtocol"]).into()]
}

/// Subsets as they would be if each address stood in one place; where it is said to be ready and not to be, it is not. See RepackSubsets.
fn repacked(endpoints: &Value) -> Vec<Subset<'_>> {
    let mut by_port: BTreeMap<PortKey, (&Value, Addresses<'_>)> = BTreeMap::new();
    for subset in endpoints.list_at(&["subsets"]) {
        // Addresses without ports stand under one that is none.
        let ports = subset.list_at(&["ports"]);
        let ports = if ports.is_empty() { &[Value::Null][..] } else { ports };
        let ready = subset.list_at(&["addresses"]).iter().map(|a| (a, true));
        let all: Vec<_> = ready.chain(subset.list_at(&["notReadyAddresses"]).iter().map(|a| (a, false))).collect();
        for port in ports {
            let (_, known) = by_port.entry(port_key(port)).or_insert((port, BTreeMap::new()));
            for (address, ready) in &all {
                let key = (address.str_at(&["ip"]), address.str_at(&["targetRef", "uid"]));
                let (_, is_ready) = known.entry(key).or_insert((address, true));
                *is_ready &= ready;
            }
        }
    }
    let mut by_address: BTreeMap<(bool, AddressKey<'_>), (&Value, Vec<PortKey>)> = BTreeMap::new();
    for (key, (_, addresses)) in &by_port {
        for (of, (address, ready)) in addresses {
            by_address.entry((!ready, *of)).or_insert((address, Vec::new())).1.push(key.clone());
        }
    }
    let mut out: BTreeMap<Vec<PortKey>, Subset<'_>> = BTreeMap::new();
    for ((not_ready, _), (address, keys)) in by_address {
        let named = || keys.iter().filter_map(|key| by_port.get(key)).map(|(port, _)| *port).filter(|port| !port.is_null()).collect();
        let subset = out.entry(keys.clone()).or_insert_with(|| Subset { ports: named(), addresses: Vec::new() });
        subset.addresses.push((address, !not_ready));
    }
    out.into_values().collect()
}

/// The addresses of a subset that are mirrored: those that are addresses, as many as there may be.
fn mirrored<'a>(subset: &'a Subset<'a>) -> impl Iterator<Item = (&'a Value, bool)> {
    subset.addresses.iter().copied().filter(|(address, _)| is_valid(address)).take(MOST_ADDRESSES)
}

fn is_valid(address: &Value) -> bool {
    address.str_at(&["ip"]).parse::<IpAddr>().is_ok()
}

/// What people are told of addresses that are left out: the reason, and the message.
pub(super) fn left_out(endpoints: &Value) -> Vec<(&'static str, String)> {
    let subsets = repacked(endpoints);
    let all: usize = subsets.iter().map(|s| s.addresses.len()).sum();
    let invalid = subsets.iter().flat_map(|s| &s.addresses).filter(|(address, _)| !is_valid(address)).count();
    let skipped = all - subsets.iter().flat_map(mirrored).count();
    let mut told = Vec::new();
    if invalid > 0 {
        told.push(("InvalidIPAddress", format!("Skipped {invalid} invalid IP addresses when mirroring to EndpointSlices")));
    }
    if skipped > invalid {
        let most = format!("A max of {MOST_ADDRESSES} addresses can be mirrored to EndpointSlices per Endpoints subset.");
        told.push(("TooManyAddressesToMirror", format!("{most} {skipped} addresses were skipped")));
    }
    told
}

fn slices(endpoints: &Value) -> Vec<Value> {
    let mut out = Vec::new();
    for subset in repacked(endpoints) {
        for family in ["IPv4", "IPv6"] {
            let is_of = |a: &Value| a.str_at(&["ip"]).parse::<Ipv6Addr>().is_ok() == (family == "IPv6");
            let found: Vec<Value> = mirrored(&subset).filter(|(a, _)| is_of(a)).map(|(a, ready)| endpoint(a, ready)).collect();
            if !found.is_empty() {
                out.push(slice(endpoints, &subset.ports, family, found));
            }
        }
    }
    out
}

fn endpoint(address: &Value, ready: bool) -> Value {
    let mut out = object!({ "addresses": [(address.str_at(&["ip"]))], "conditions": { "ready": ready } });
    for field in ["hostname", "nodeName", "targetRef"] {
        if let Some(value) = address.get(field).filter(|v| !v.is_null()) {
            out.set(&[field], value.clone());
        }
    }
    out
}

fn slice(endpoints: &Value, ports: &[&Value], family: &str, found: Vec<Value>) -> Value {
    let name = meta::name(endpoints);
    let mut labels = meta::labels(endpoints).as_map().cloned().unwrap_or_default();
    labels.insert(SERVICE, name);
    labels.insert(MANAGED_BY, MANAGER);
    let ports = ports.iter().map(|p| {
        let mut port = object!({ "name": (p.str_at(&["name"])), "port": (p.get("port").cloned()), "protocol": (p.str_at(&["protocol"])) });
        if let Some(protocol) = p.get("appProtocol").filter(|v| !v.is_null()) {
            port.set(&["appProtocol"], protocol.clone());
        }
        port
    });
    let mut out = object!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "generateName": (format!("{name}-")), "namespace": (meta::namespace(endpoints)), "labels": labels,
            "ownerReferences": [(meta::controller_reference(endpoints))] },
        "addressType": family, "endpoints": found, "ports": (ports.collect::<Vec<_>>()) });
    let mut annotations = endpoints.at(&["metadata", "annotations"]).and_then(Value::as_map).cloned().unwrap_or_default();
    annotations.retain(|k, _| {
        !matches!(k.as_str(), "kubectl.kubernetes.io/last-applied-configuration" | "endpoints.kubernetes.io/last-change-trigger-time")
    });
    if !annotations.is_empty() {
        out.set(&["metadata", "annotations"], annotations);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(ips: &[&str]) -> Value {
        let addresses: Vec<Value> = ips.iter().map(|ip| object!({ "ip": (*ip) })).collect();
        object!({ "apiVersion": "v1", "kind": "Endpoints", "metadata": { "name": "db", "namespace": "ns", "uid": "e" },
            "subsets": [{ "addresses": addresses, "ports": [{ "name": "sql", "port": 5432, "protocol": "TCP" }] }] })
    }

    #[test]
    fn each_family_has_a_slice_and_what_is_right_already_stays() {
        let first = plan(&endpoints(&["10.0.0.1", "fd00::1"]), &[]);
        let families: Vec<&str> = first.create.iter().map(|s| s.str_at(&["addressType"])).collect();
        assert_eq!(families, ["IPv4", "IPv6"]);
        let existing: Vec<Arc<Value>> = first.create.into_iter().map(Arc::new).collect();
        let again = plan(&endpoints(&["10.0.0.1", "fd00::1"]), &existing);
        assert!(again.create.is_empty() && again.update.is_empty() && again.delete.is_empty());
        let fewer = plan(&endpoints(&["10.0.0.2"]), &existing);
        assert_eq!((fewer.create.len(), fewer.update.len(), fewer.delete.len()), (0, 1, 1));
    }

    /// What is mirrored of subsets, as `ports: addresses`; those that are not ready are in brackets.
    fn told(subsets: Value) -> Vec<String> {
        let mut all = endpoints(&[]);
        all.set(&["subsets"], subsets);
        let slice = |slice: &Value| {
            let ports: Vec<String> =
                slice.list_at(&["ports"]).iter().map(|p| p.int_at(&["port"]).unwrap_or_default().to_string()).collect();
            let show = |e: &Value| match e.bool_at(&["conditions", "ready"]) {
                Some(true) => e.list_at(&["addresses"])[0].as_str().unwrap_or_default().to_string(),
                _ => format!("({})", e.list_at(&["addresses"])[0].as_str().unwrap_or_default()),
            };
            let addresses: Vec<String> = slice.list_at(&["endpoints"]).iter().map(show).collect();
            format!("{}: {}", ports.join(","), addresses.join(" "))
        };
        plan(&all, &[]).create.iter().map(slice).collect()
    }

    #[test]
    fn subsets_are_mirrored_by_the_ports_that_reach_each_address() {
        let port = |n: i64| object!({ "name": (format!("p{n}")), "port": n, "protocol": "TCP" });
        let (a, b, c) = (object!({ "ip": "10.0.0.1" }), object!({ "ip": "10.0.0.2" }), object!({ "ip": "10.0.0.3" }));
        let table = [
            // One address in two subsets is reached by the ports of both.
            (
                object!([{ "addresses": [(a.clone())], "ports": [(port(80))] }, { "addresses": [(a.clone())], "ports": [(port(81))] }]),
                vec!["80,81: 10.0.0.1"],
            ),
            (
                object!([{ "addresses": [(a.clone())], "ports": [(port(80))] }, { "addresses": [(b.clone())], "ports": [(port(80))] }]),
                vec!["80: 10.0.0.1 10.0.0.2"],
            ),
            (
                object!([{ "addresses": [(a.clone())], "ports": [(port(80))] }, { "addresses": [(b.clone())], "ports": [(port(81))] }]),
                vec!["80: 10.0.0.1", "81: 10.0.0.2"],
            ),
            // The order of ports tells nothing.
            (
                object!([{ "addresses": [(a.clone())], "ports": [(port(80)), (port(81))] },
                    { "notReadyAddresses": [(c.clone())], "ports": [(port(81)), (port(80))] }]),
                vec!["80,81: 10.0.0.1 (10.0.0.3)"],
            ),
            // Who is not ready anywhere is not.
            (
                object!([{ "addresses": [(a.clone())], "ports": [(port(80))] }, { "notReadyAddresses": [(a.clone())], "ports": [(port(80))] }]),
                vec!["80: (10.0.0.1)"],
            ),
            (
                object!([{ "addresses": [(a.clone())], "ports": [(port(80))] }, { "notReadyAddresses": [(a.clone())], "ports": [(port(81))] }]),
                vec!["80: 10.0.0.1", "81: (10.0.0.1)"],
            ),
            (object!([{ "addresses": [(a.clone()), (a.clone())] }, { "addresses": [(b)] }]), vec![": 10.0.0.1 10.0.0.2"]),
            (object!([{ "ports": [(port(80))] }]), vec![]),
        ];
        for (subsets, expect) in table {
            assert_eq!(told(subsets.clone()), expect, "{subsets:?}");
        }
    }

    #[test]
    fn for_endpoints_that_go_no_slice_is_made() {
        let mut going = endpoints(&["10.0.0.1"]);
        going.set(&["metadata", "deletionTimestamp"], "2026-01-01T00:00:00Z");
        assert!(plan(&going, &[]).create.is_empty());
    }

    #[test]
    fn only_what_people_write_is_mirrored() {
        let own = object!({ "spec": {} });
        assert!(is_mirrored(&endpoints(&[]), &own));
        assert!(!is_mirrored(&endpoints(&[]), &object!({ "spec": { "selector": { "a": "b" } } })));
        let mut skipped = endpoints(&[]);
        meta::set_label(&mut skipped, SKIP, "true");
        assert!(!is_mirrored(&skipped, &own));
    }

    #[test]
    fn people_are_told_of_addresses_that_are_not_mirrored() {
        let told =
            |ips: &[&str]| left_out(&endpoints(ips)).into_iter().map(|(reason, about)| format!("{reason}: {about}")).collect::<Vec<_>>();
        assert!(told(&["10.0.0.1", "fd00::1"]).is_empty());
        let invalid = "InvalidIPAddress: Skipped 1 invalid IP addresses when mirroring to EndpointSlices";
        assert_eq!(told(&["10.0.0.1", "nowhere"]), [invalid]);
        assert_eq!(plan(&endpoints(&["10.0.0.1", "nowhere"]), &[]).create[0].list_at(&["endpoints"]).len(), 1);
        let ips: Vec<String> = (0..MOST_ADDRESSES + 2).map(|n| format!("10.0.{}.{}", n / 250, n % 250)).collect();
        let mut ips: Vec<&str> = ips.iter().map(String::as_str).collect();
        let many = "A max of 1000 addresses can be mirrored to EndpointSlices per Endpoints subset.";
        assert_eq!(told(&ips), [format!("TooManyAddressesToMirror: {many} 2 addresses were skipped")]);
        ips[0] = "nowhere";
        assert_eq!(told(&ips), [invalid.to_string(), format!("TooManyAddressesToMirror: {many} 2 addresses were skipped")]);
        assert_eq!(plan(&endpoints(&ips), &[]).create[0].list_at(&["endpoints"]).len(), MOST_ADDRESSES);
    }
}
