//! The slices that custom Endpoints are mirrored to. Pure.

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
    plan.delete = left.into_iter().map(|s| meta::name(s).to_string()).collect();
    plan
}

/// The addresses of a subset that are mirrored, with whether they are ready: those that are addresses, as many as there may be.
fn mirrored(subset: &Value) -> impl Iterator<Item = (&Value, bool)> {
    let ready = subset.list_at(&["addresses"]).iter().map(|a| (a, true));
    let all = ready.chain(subset.list_at(&["notReadyAddresses"]).iter().map(|a| (a, false)));
    all.filter(|(address, _)| is_valid(address)).take(MOST_ADDRESSES)
}

fn is_valid(address: &Value) -> bool {
    address.str_at(&["ip"]).parse::<IpAddr>().is_ok()
}

/// What people are told of addresses that are left out: the reason, and the message.
pub(super) fn left_out(endpoints: &Value) -> Vec<(&'static str, String)> {
    let subsets = endpoints.list_at(&["subsets"]).iter();
    let lists = subsets.clone().flat_map(|s| s.list_at(&["addresses"]).iter().chain(s.list_at(&["notReadyAddresses"])));
    let (all, invalid) = lists.fold((0, 0), |(all, invalid), address| (all + 1, invalid + usize::from(!is_valid(address))));
    let skipped = all - subsets.flat_map(mirrored).count();
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
    for subset in endpoints.list_at(&["subsets"]) {
        for family in ["IPv4", "IPv6"] {
            let is_of = |a: &Value| a.str_at(&["ip"]).parse::<Ipv6Addr>().is_ok() == (family == "IPv6");
            let found: Vec<Value> = mirrored(subset).filter(|(a, _)| is_of(a)).map(|(a, ready)| endpoint(a, ready)).collect();
            if !found.is_empty() {
                out.push(slice(endpoints, subset, family, found));
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

fn slice(endpoints: &Value, subset: &Value, family: &str, found: Vec<Value>) -> Value {
    let name = meta::name(endpoints);
    let mut labels = meta::labels(endpoints).as_map().cloned().unwrap_or_default();
    labels.insert(SERVICE, name);
    labels.insert(MANAGED_BY, MANAGER);
    let ports = subset.list_at(&["ports"]).iter().map(|p| {
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
