//! Which address a Service gets, which node answers for it, and what its object then says. Pure.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::Ipv4Addr;

use fram_client::load_balancer::HOLDER;
use fram_machinery::{Value, meta, object};

use super::AddressPool;

/// The value of spec.loadBalancerClass that means this controller; a Service without one means it too.
const CLASS: &str = "fram.dev/load-balancer";
/// See LoadBalancerCleanupFinalizer of cloud-provider's service helpers.
pub(super) const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// Why a Service gets no address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("loadBalancerIP {0} is not in the pool of load-balancer addresses")]
    NotInPool(String),
    #[error("loadBalancerIP {0} is taken by another Service")]
    Taken(String),
    #[error("no address is left in the pool")]
    Exhausted,
}

/// Whether a Service is to be balanced from a pool, which nobody is from an empty one.
pub(super) fn wants(service: &Value, pool: &AddressPool) -> bool {
    let class = service.str_at(&["spec", "loadBalancerClass"]);
    !pool.is_empty()
        && service.str_at(&["spec", "type"]) == "LoadBalancer"
        && (class.is_empty() || class == CLASS)
        && !meta::is_terminating(service)
}

/// Whether this controller balances a Service. The finalizer is that of all load balancers; the annotation is Fram's.
fn is_ours(service: &Value) -> bool {
    meta::has_finalizer(service, FINALIZER) && meta::annotation(service, HOLDER).is_some()
}

/// Whether a change of a Service sets free an address of this controller.
pub(super) fn gives_back(old: Option<&Value>, new: Option<&Value>) -> bool {
    let had = old.and_then(current);
    had.is_some() && had != new.and_then(current)
}

/// The address that a Service has of this controller; others may have written one of theirs.
pub(super) fn current(service: &Value) -> Option<Ipv4Addr> {
    if !is_ours(service) {
        return None;
    }
    service.list_at(&["status", "loadBalancer", "ingress"]).first()?.str_at(&["ip"]).parse().ok()
}

/// The address that a Service keeps or gets, where `taken` are those of others.
pub(super) fn address(service: &Value, pool: &AddressPool, taken: &BTreeSet<Ipv4Addr>) -> Result<Ipv4Addr, Refusal> {
    let asked = service.str_at(&["spec", "loadBalancerIP"]);
    if !asked.is_empty() {
        let address = asked.parse().ok().filter(|a| pool.contains(*a)).ok_or_else(|| Refusal::NotInPool(asked.into()))?;
        return if taken.contains(&address) { Err(Refusal::Taken(asked.into())) } else { Ok(address) };
    }
    let free = |address: &Ipv4Addr| pool.contains(*address) && !taken.contains(address);
    current(service).filter(free).or_else(|| pool.addresses().find(free)).ok_or(Refusal::Exhausted)
}

/// Nodes that may answer for a Service: ready, not excluded, and where it wants to keep its clients' addresses, with an endpoint.
pub(super) fn eligible<'a>(service: &Value, nodes: &'a [std::sync::Arc<Value>], slices: &[std::sync::Arc<Value>]) -> Vec<&'a str> {
    let local = service.str_at(&["spec", "externalTrafficPolicy"]) == "Local";
    let ready = |e: &&Value| e.bool_at(&["conditions", "ready"]) != Some(false);
    let with: BTreeSet<&str> =
        slices.iter().flat_map(|s| s.list_at(&["endpoints"])).filter(ready).map(|e| e.str_at(&["nodeName"])).collect();
    let may = |node: &Value| {
        meta::condition_is_true(node, "Ready")
            && !meta::is_terminating(node)
            && meta::label(node, EXCLUDED).is_none()
            && (!local || with.contains(meta::name(node)))
    };
    nodes.iter().filter(|n| may(n)).map(|n| meta::name(n)).collect()
}

/// The node that answers: the one that does already, else one by rendezvous hashing, so that Services spread and few move.
pub(super) fn holder<'a>(service: &Value, eligible: &[&'a str]) -> Option<&'a str> {
    let now = meta::annotation(service, HOLDER).unwrap_or_default();
    let weight = |node: &&str| {
        let mut hasher = DefaultHasher::new();
        (meta::uid(service), node).hash(&mut hasher);
        hasher.finish()
    };
    eligible.iter().find(|n| **n == now).or_else(|| eligible.iter().max_by_key(|n| weight(n))).copied()
}

/// The Service as it says that it is balanced.
pub(super) fn balanced(service: &Value, address: Ipv4Addr, holder: Option<&str>) -> Value {
    let mut out = service.clone();
    if !meta::has_finalizer(&out, FINALIZER) {
        meta::add_finalizer(&mut out, FINALIZER);
    }
    meta::set_annotation(&mut out, HOLDER, holder.unwrap_or_default());
    out.set(&["status", "loadBalancer", "ingress"], object!([{ "ip": (address.to_string()), "ipMode": "VIP" }]));
    out
}

/// The Service as it says that it is not; as it is, where it has nothing of this controller.
pub(super) fn released(service: &Value) -> Value {
    let mut out = service.clone();
    if !is_ours(service) {
        return out;
    }
    meta::remove_finalizer(&mut out, FINALIZER);
    out.remove(&["metadata", "annotations", HOLDER]);
    out.set(&["status", "loadBalancer"], object!({}));
    out
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn pool() -> AddressPool {
        "192.0.2.10-192.0.2.11".parse().unwrap()
    }

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, last)
    }

    fn service(spec: Value) -> Value {
        object!({ "metadata": { "namespace": "ns", "name": "s", "uid": "u" }, "spec": spec })
    }

    #[test]
    fn a_service_gets_a_free_address_and_keeps_it() {
        let wanting = service(object!({ "type": "LoadBalancer" }));
        assert_eq!(address(&wanting, &pool(), &BTreeSet::new()), Ok(ip(10)));
        assert_eq!(address(&wanting, &pool(), &BTreeSet::from([ip(10)])), Ok(ip(11)));
        assert_eq!(address(&wanting, &pool(), &BTreeSet::from([ip(10), ip(11)])), Err(Refusal::Exhausted));
        let has = balanced(&wanting, ip(11), Some("a"));
        assert_eq!(current(&has), Some(ip(11)));
        assert_eq!(address(&has, &pool(), &BTreeSet::new()), Ok(ip(11)));
        // What left the pool is given back.
        assert_eq!(address(&has, &"192.0.2.10".parse().unwrap(), &BTreeSet::new()), Ok(ip(10)));
    }

    #[test]
    fn an_address_that_is_asked_for_is_given_or_nothing_is() {
        let asking = |ip: &str| service(object!({ "type": "LoadBalancer", "loadBalancerIP": ip }));
        assert_eq!(address(&asking("192.0.2.11"), &pool(), &BTreeSet::new()), Ok(ip(11)));
        assert_eq!(address(&asking("192.0.2.12"), &pool(), &BTreeSet::new()), Err(Refusal::NotInPool("192.0.2.12".into())));
        assert_eq!(address(&asking("192.0.2.11"), &pool(), &BTreeSet::from([ip(11)])), Err(Refusal::Taken("192.0.2.11".into())));
    }

    #[test]
    fn only_services_of_no_class_or_its_own_are_wanted_and_none_without_a_pool() {
        for (spec, expected) in [
            (object!({ "type": "LoadBalancer" }), true),
            (object!({ "type": "LoadBalancer", "loadBalancerClass": CLASS }), true),
            (object!({ "type": "LoadBalancer", "loadBalancerClass": "other.example/lb" }), false),
            (object!({ "type": "NodePort" }), false),
        ] {
            assert_eq!(wants(&service(spec.clone()), &pool()), expected, "{spec:?}");
            assert!(!wants(&service(spec), &AddressPool::default()));
        }
    }

    #[test]
    fn a_node_answers_until_it_cannot_and_with_the_local_policy_only_where_endpoints_are() {
        let node = |name: &str, ready: &str| {
            Arc::new(object!({ "metadata": { "name": name }, "status": { "conditions": [{ "type": "Ready", "status": ready }] } }))
        };
        let nodes = [node("a", "True"), node("b", "True"), node("c", "False")];
        let any = service(object!({ "type": "LoadBalancer" }));
        assert_eq!(eligible(&any, &nodes, &[]), ["a", "b"]);
        let slice = Arc::new(
            object!({ "endpoints": [{ "nodeName": "b", "conditions": { "ready": true } }, { "nodeName": "a", "conditions": { "ready": false } }] }),
        );
        let local = service(object!({ "type": "LoadBalancer", "externalTrafficPolicy": "Local" }));
        assert_eq!(eligible(&local, &nodes, &[slice]), ["b"]);
        for node in ["a", "b"] {
            assert_eq!(holder(&balanced(&any, ip(10), Some(node)), &["a", "b"]), Some(node));
        }
        assert_eq!(holder(&balanced(&any, ip(10), Some("c")), &["a"]), Some("a"));
        assert_eq!(holder(&any, &[]), None);
    }

    #[test]
    fn what_is_released_has_nothing_left_and_what_is_anothers_is_not_touched() {
        let plain = service(object!({ "type": "ClusterIP" }));
        let out = released(&balanced(&plain, ip(10), Some("a")));
        assert!(!meta::has_finalizer(&out, FINALIZER) && meta::annotation(&out, HOLDER).is_none());
        assert!(out.list_at(&["status", "loadBalancer", "ingress"]).is_empty());
        let mut others = plain.clone();
        others.set(&["status", "loadBalancer", "ingress"], object!([{ "ip": "198.51.100.1" }]));
        assert_eq!(released(&others), others);
        // The finalizer is everybody's.
        meta::add_finalizer(&mut others, FINALIZER);
        assert_eq!((released(&others), current(&others)), (others.clone(), None));
        let lonely = balanced(&plain, ip(10), None);
        assert_eq!(current(&lonely), Some(ip(10)));
        assert!(!meta::has_finalizer(&released(&lonely), FINALIZER));
    }

    #[test]
    fn who_waits_is_told_of_an_address_that_is_given_back_or_exchanged() {
        let [a, b, none] = [Some(ip(10)), Some(ip(11)), None].map(|address| {
            let plain = service(object!({ "type": "LoadBalancer" }));
            address.map_or(plain.clone(), |address| balanced(&plain, address, Some("n")))
        });
        for (old, new, told) in
            [(&a, Some(&a), false), (&a, Some(&b), true), (&a, Some(&none), true), (&a, None, true), (&none, Some(&a), false)]
        {
            assert_eq!(gives_back(Some(old), new), told);
        }
    }
}
