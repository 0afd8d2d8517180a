//! Which endpoints a Service has and how they are spread over slices. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use fram_machinery::{Map, Value, meta, object};

pub(super) const SERVICE: &str = "kubernetes.io/service-name";
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub(super) const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";

/// A slice holds at most so many endpoints; see --max-endpoints-per-slice.
const MOST_ENDPOINTS: usize = 100;
/// Endpoints holds at most so many addresses; more are left out and the object says so.
const MOST_ADDRESSES: usize = 1000;

/// What has to be written.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) create: Vec<Value>,
    pub(super) update: Vec<Value>,
    pub(super) delete: Vec<String>,
}

fn has_ended(pod: &Value) -> bool {
    matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed")
}

/// Whether a pod has the same endpoints before and after a change of it, if any; see upstream's podEndpointsChanged.
pub(super) fn tells_the_same(old: Option<&Value>, new: Option<&Value>) -> bool {
    let has_endpoint = |pod: &&Value| !pod.str_at(&["status", "podIP"]).is_empty() && !has_ended(pod);
    let (Some(old), Some(new)) = (old.filter(has_endpoint), new.filter(has_endpoint)) else {
        return !old.iter().chain(&new).any(has_endpoint);
    };
    let looks = |pod: &Value| [meta::is_terminating(pod), meta::condition_is_true(pod, "Ready")];
    let same = |path: &[&str]| old.at(path) == new.at(path);
    let paths = [&["metadata", "uid"][..], &["metadata", "labels"], &["spec"], &["status", "podIP"], &["status", "podIPs"]];
    looks(old) == looks(new) && paths.into_iter().all(same)
}

/// The number of a Service's target port in a pod: its own, or that of the container port with its name.
fn target_port(pod: &Value, port: &Value) -> Option<i64> {
    match port.get("targetPort") {
        Some(Value::Int(n)) => Some(*n),
        Some(Value::String(name)) => {
            let sidecars = pod.list_at(&["spec", "initContainers"]).iter().filter(|c| c.str_at(&["restartPolicy"]) == "Always");
            let ports = pod.list_at(&["spec", "containers"]).iter().chain(sidecars).flat_map(|c| c.list_at(&["ports"]));
            let found = |p: &&Value| p.str_at(&["name"]) == &**name && p.str_at(&["protocol"]) == port.str_at(&["protocol"]);
            ports.into_iter().find(found).and_then(|p| p.int_at(&["containerPort"]))
        }
        _ => port.int_at(&["port"]),
    }
}

/// The ports of a slice: name, protocol, number, application protocol.
fn slice_ports(service: &Value, pod: &Value) -> Vec<Value> {
    let one = |port: &Value| {
        let mut out =
            object!({ "name": (port.str_at(&["name"])), "protocol": (port.str_at(&["protocol"])), "port": (target_port(pod, port)?) });
        if let Some(protocol) = port.get("appProtocol").filter(|p| !p.is_null()) {
            out.set(&["appProtocol"], protocol.clone());
        }
        Some(out)
    };
    service.list_at(&["spec", "ports"]).iter().filter_map(one).collect()
}

fn endpoint(service: &Value, pod: &Value) -> Option<Value> {
    let ip = pod.str_at(&["status", "podIP"]);
    if ip.is_empty() || has_ended(pod) {
        return None;
    }
    let terminating = meta::is_terminating(pod);
    let serving = meta::condition_is_true(pod, "Ready");
    let publish = service.bool_at(&["spec", "publishNotReadyAddresses"]) == Some(true);
    let mut out = object!({
        "addresses": [ip],
        "conditions": { "ready": (publish || serving && !terminating), "serving": (serving || publish && !terminating), "terminating": terminating },
        "nodeName": (pod.str_at(&["spec", "nodeName"])),
        "targetRef": { "kind": "Pod", "namespace": (meta::namespace(pod)), "name": (meta::name(pod)), "uid": (meta::uid(pod)) }
    });
    let hostname = pod.str_at(&["spec", "hostname"]);
    if !hostname.is_empty() && pod.str_at(&["spec", "subdomain"]) == meta::name(service) {
        out.set(&["hostname"], hostname);
    }
    Some(out)
}

/// Endpoints that share their ports share slices.
pub(super) fn slices(service: &Value, pods: &[Arc<Value>], existing: &[Arc<Value>]) -> Plan {
    let mut groups: BTreeMap<String, (Vec<Value>, Vec<Value>)> = BTreeMap::new();
    for pod in pods {
        let Some(endpoint) = endpoint(service, pod) else { continue };
        let ports = slice_ports(service, pod);
        let key = fram_machinery::json::to_string(&Value::from(ports.clone()));
        groups.entry(key).or_insert_with(|| (ports, Vec::new())).1.push(endpoint);
    }
    if groups.is_empty() {
        // A Service without endpoints has one empty slice, so that readers know it was looked at.
        groups.insert(String::new(), (Vec::new(), Vec::new()));
    }
    let mut plan = Plan::default();
    let mut left: Vec<&Arc<Value>> = existing.iter().filter(|s| !meta::is_terminating(s)).collect();
    let mut homeless = Vec::new();
    for (ports, mut endpoints) in groups.into_values() {
        endpoints.sort_by(|a, b| a.str_at(&["targetRef", "name"]).cmp(b.str_at(&["targetRef", "name"])));
        let mut chunks: Vec<Vec<Value>> = endpoints.chunks(MOST_ENDPOINTS).map(<[Value]>::to_vec).collect();
        if chunks.is_empty() {
            chunks.push(Vec::new());
        }
        for chunk in chunks {
            let wanted = slice(service, &ports, chunk);
            match left.iter().position(|s| s.list_at(&["ports"]) == ports.as_slice()) {
                Some(i) => plan.update.extend(changed(left.remove(i), &wanted)),
                None => homeless.push(wanted),
            }
        }
    }
    // Only a slice whose ports nobody has any more becomes another's: the endpoints of the others stay where they are.
    for wanted in homeless {
        match left.pop() {
            Some(current) => plan.update.extend(changed(current, &wanted)),
            None => plan.create.push(wanted),
        }
    }
    plan.delete = left.into_iter().map(|s| meta::name(s).to_string()).collect();
    plan
}

fn labels(service: &Value) -> Map {
    let mut labels = meta::labels(service).as_map().cloned().unwrap_or_default();
    labels.remove(HEADLESS);
    if service.str_at(&["spec", "clusterIP"]) == "None" {
        labels.insert(HEADLESS, "");
    }
    labels
}

fn slice(service: &Value, ports: &[Value], endpoints: Vec<Value>) -> Value {
    let mut labels = labels(service);
    labels.insert(SERVICE, meta::name(service));
    labels.insert(MANAGED_BY, MANAGER);
    object!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "generateName": (format!("{}-", meta::name(service))), "namespace": (meta::namespace(service)), "labels": labels,
            "ownerReferences": [(meta::controller_reference(service))] },
        "endpoints": endpoints, "ports": (ports.to_vec())
    })
}

/// The current slice with what it should hold; None where it holds it already.
fn changed(current: &Value, wanted: &Value) -> Option<Value> {
    let mut next = current.clone();
    for field in ["endpoints", "ports"] {
        next.set(&[field], wanted.get(field).cloned());
    }
    next.set(&["metadata", "labels"], meta::labels(wanted).clone());
    next.set(&["metadata", "ownerReferences"], wanted.at(&["metadata", "ownerReferences"]).cloned());
    let same = |field: &str| {
        let empty = |v: Option<&Value>| v.is_none_or(Value::is_empty);
        next.get(field) == current.get(field) || empty(next.get(field)) && empty(current.get(field))
    };
    let unchanged = same("endpoints")
        && same("ports")
        && meta::labels(&next) == meta::labels(current)
        && meta::owner_references(&next) == meta::owner_references(current);
    (!unchanged).then_some(next)
}

/// The Endpoints object of a Service: subsets of addresses that share their ports.
pub(super) fn endpoints(service: &Value, pods: &[Arc<Value>]) -> Value {
    type Addresses = (Vec<Value>, Vec<Value>);
    let mut subsets: BTreeMap<String, (Vec<Value>, Addresses)> = BTreeMap::new();
    let publish = service.bool_at(&["spec", "publishNotReadyAddresses"]) == Some(true);
    let told = pods.iter().filter(|pod| publish || !meta::is_terminating(pod));
    let mut told: Vec<_> = told.filter_map(|pod| Some((pod, endpoint(service, pod)?))).collect();
    let is_ready = |endpoint: &Value| endpoint.bool_at(&["conditions", "ready"]) == Some(true);
    // Where there are too many, those that are not ready are left out first.
    told.sort_by_key(|(_, endpoint)| !is_ready(endpoint));
    told.truncate(MOST_ADDRESSES);
    told.sort_by(|(a, _), (b, _)| a.str_at(&["status", "podIP"]).cmp(b.str_at(&["status", "podIP"])));
    for (pod, endpoint) in told {
        let ports = slice_ports(service, pod);
        let ports: Vec<Value> = ports.into_iter().map(without_empty_name).collect();
        let mut address =
            object!({ "ip": (endpoint.list_at(&["addresses"]).first().cloned()), "targetRef": (endpoint.get("targetRef").cloned()) });
        for field in ["nodeName", "hostname"] {
            if let Some(value) = endpoint.get(field) {
                address.set(&[field], value.clone());
            }
        }
        let key = fram_machinery::json::to_string(&Value::from(ports.clone()));
        let (_, (ready, not_ready)) = subsets.entry(key).or_insert_with(|| (ports, Default::default()));
        if is_ready(&endpoint) { ready.push(address) } else { not_ready.push(address) }
    }
    let subset = |(ports, (ready, not_ready)): (Vec<Value>, Addresses)| {
        let mut out = Map::new();
        for (name, list) in [("addresses", ready), ("notReadyAddresses", not_ready), ("ports", ports)] {
            if !list.is_empty() {
                out.insert(name, list);
            }
        }
        Value::Map(out)
    };
    let subsets: Vec<Value> = subsets.into_values().map(subset).collect();
    let mut labels = labels(service);
    labels.insert("endpoints.kubernetes.io/managed-by", "endpoint-controller");
    let mut out = object!({ "apiVersion": "v1", "kind": "Endpoints",
        "metadata": { "name": (meta::name(service)), "namespace": (meta::namespace(service)), "labels": labels } });
    if !subsets.is_empty() {
        out.set(&["subsets"], subsets);
    }
    out
}

fn without_empty_name(mut port: Value) -> Value {
    if port.str_at(&["name"]).is_empty() {
        port.remove(&["name"]);
    }
    port
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> Value {
        object!({ "metadata": { "name": "s", "namespace": "ns", "uid": "u", "labels": { "x": "y" } },
            "spec": { "clusterIP": "10.0.0.1", "ports": [{ "name": "http", "protocol": "TCP", "port": 80, "targetPort": "web" }] } })
    }

    fn pod(name: &str, port: i64, ready: bool) -> Arc<Value> {
        let status = if ready { "True" } else { "False" };
        Arc::new(object!({ "metadata": { "name": name, "namespace": "ns", "uid": name },
            "spec": { "nodeName": "n", "containers": [{ "ports": [{ "name": "web", "protocol": "TCP", "containerPort": port }] }] },
            "status": { "phase": "Running", "podIP": (format!("10.1.0.{}", name.len())), "conditions": [{ "type": "Ready", "status": status }] } }))
    }

    #[test]
    fn a_slice_that_goes_moves_no_endpoint_of_another() {
        let pods = [pod("a", 8080, true), pod("bb", 9090, true)];
        let mut made = slices(&service(), &pods, &[]).create;
        let second = Arc::new(made.remove(1));
        let plan = slices(&service(), &pods, &[second]);
        assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (1, 0, 0));
        assert_eq!(plan.create[0].list_at(&["ports"])[0].int_at(&["port"]), Some(8080));
    }

    #[test]
    fn pods_with_the_same_ports_share_a_slice() {
        let plan = slices(&service(), &[pod("a", 8080, true), pod("bb", 8080, false), pod("ccc", 9090, true)], &[]);
        assert_eq!(plan.create.len(), 2);
        let first = &plan.create[0];
        assert_eq!(first.list_at(&["endpoints"]).len(), 2);
        assert_eq!(first.list_at(&["endpoints"])[1].bool_at(&["conditions", "ready"]), Some(false));
        assert_eq!(first.list_at(&["ports"])[0].int_at(&["port"]), Some(8080));
    }

    #[test]
    fn a_slice_that_is_right_is_left_alone() {
        let pods = [pod("a", 8080, true)];
        let mut current = slices(&service(), &pods, &[]).create.remove(0);
        current.set(&["metadata", "name"], "s-1");
        let current = Arc::new(current);
        let plan = slices(&service(), &pods, std::slice::from_ref(&current));
        assert!(plan.create.is_empty() && plan.update.is_empty() && plan.delete.is_empty());
        let plan = slices(&service(), &[], &[current]);
        assert_eq!((plan.update.len(), plan.delete.len()), (1, 0));
    }

    #[test]
    fn more_than_a_hundred_endpoints_take_several_slices() {
        let pods: Vec<Arc<Value>> = (1..=101).map(|i| pod(&"x".repeat(i), 80, true)).collect();
        let plan = slices(&service(), &pods, &[]);
        let sizes: Vec<usize> = plan.create.iter().map(|s| s.list_at(&["endpoints"]).len()).collect();
        assert_eq!(sizes, [100, 1]);
    }

    #[test]
    fn endpoints_tell_ready_addresses_from_others() {
        let out = endpoints(&service(), &[pod("a", 8080, true), pod("bb", 8080, false)]);
        let subset = &out.list_at(&["subsets"])[0];
        assert_eq!((subset.list_at(&["addresses"]).len(), subset.list_at(&["notReadyAddresses"]).len()), (1, 1));
    }

    #[test]
    fn of_too_many_addresses_the_ready_ones_are_told_and_pods_without_an_address_take_no_place() {
        let with_ip = |n: usize, ready: bool| {
            let mut pod = (*pod(&format!("p{n}"), 8080, ready)).clone();
            pod.set(&["status", "podIP"], format!("10.1.{}.{}", n / 250, n % 250));
            Arc::new(pod)
        };
        let mut pods: Vec<Arc<Value>> = (0..MOST_ADDRESSES).map(|n| with_ip(n, false)).collect();
        pods.extend((0..3).map(|n| with_ip(MOST_ADDRESSES + n, true)));
        let waiting = |n: usize| {
            let mut pod = (*pods[n]).clone();
            pod.set(&["status"], object!({ "phase": "Pending" }));
            Arc::new(pod)
        };
        let waiting: Vec<_> = (0..MOST_ADDRESSES).map(waiting).collect();
        let told = |pods: &[Arc<Value>]| {
            let subset = endpoints(&service(), pods).list_at(&["subsets"])[0].clone();
            (subset.list_at(&["addresses"]).len(), subset.list_at(&["notReadyAddresses"]).len())
        };
        assert_eq!(told(&pods), (3, MOST_ADDRESSES - 3));
        assert_eq!(told(&[waiting, pods[MOST_ADDRESSES..].to_vec()].concat()), (3, 0));
    }

    #[test]
    fn a_change_of_a_pod_matters_where_it_has_an_endpoint_that_tells_something_else() {
        let serving = pod("a", 8080, true);
        let with = |path: &[&str], value: Value| {
            let mut pod = (*serving).clone();
            pod.set(path, value);
            pod
        };
        let waiting = with(&["status", "podIP"], Value::Null);
        let ended = with(&["status", "phase"], "Succeeded".into());
        let before = Some(&*serving);
        let table = [
            (None, Some(&waiting), true),
            (Some(&waiting), None, true),
            (Some(&waiting), before, false),
            (None, before, false),
            (before, None, false),
            (before, Some(&ended), false),
            (Some(&ended), Some(&waiting), true),
            (before, Some(&with(&["status", "startTime"], "now".into())), true),
            (before, Some(&with(&["metadata", "annotations", "a"], "b".into())), true),
            (before, Some(&with(&["metadata", "labels", "a"], "b".into())), false),
            (before, Some(&with(&["metadata", "uid"], "another".into())), false),
            (before, Some(&with(&["metadata", "deletionTimestamp"], "now".into())), false),
            (before, Some(&with(&["status", "podIP"], "10.1.1.1".into())), false),
            (before, Some(&*pod("a", 8080, false)), false),
            (before, Some(&*pod("a", 9090, true)), false),
        ];
        for (old, new, expect) in table {
            assert_eq!(tells_the_same(old, new), expect, "{old:?} {new:?}");
        }
    }
}
