//! The slices that custom Endpoints are mirrored to. Pure.

use std::net::Ipv6Addr;
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

fn slices(endpoints: &Value) -> Vec<Value> {
    let mut out = Vec::new();
    for subset in endpoints.list_at(&["subsets"]) {
        let ready = subset.list_at(&["addresses"]).iter().map(|a| (a, true));
        let all: Vec<(&Value, bool)> =
            ready.chain(subset.list_at(&["notReadyAddresses"]).iter().map(|a| (a, false))).take(MOST_ADDRESSES).collect();
        for family in ["IPv4", "IPv6"] {
            let is_of = |a: &Value| a.str_at(&["ip"]).parse::<Ipv6Addr>().is_ok() == (family == "IPv6");
            let found: Vec<Value> = all.iter().filter(|(a, _)| is_of(a)).map(|(a, ready)| endpoint(a, *ready)).collect();
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
}
