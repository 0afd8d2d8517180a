//! Which endpoints a Service has and how they are spread over slices. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::Ipv6Addr;
use std::sync::Arc;

use fram_machinery::{Map, Value, meta, object};

use jiff::Timestamp;

use super::packing::{self, Packed};
use super::topology::{self, Ratios, Spreads};
use super::trigger;

pub(super) const SERVICE: &str = "kubernetes.io/service-name";
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub(super) const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";

/// Says that some are left out.
pub(super) const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Endpoints holds at most so many addresses; more are left out and the object says so.
const MOST_ADDRESSES: usize = 1000;

/// What has to be written.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) create: Vec<Value>,
    pub(super) update: Vec<Value>,
    pub(super) delete: Vec<String>,
    /// How endpoints are spread over zones, where the Service asks for it.
    pub(super) spreads: Spreads,
    pub(super) sizes: Sizes,
}

/// How much there is of a Service, and what of it is new or gone.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) endpoints: usize,
    pub(super) slices: usize,
    /// With as few slices as could be.
    pub(super) wanted_slices: usize,
    pub(super) added: usize,
    pub(super) removed: usize,
}

/// What endpoints depend on besides the Service and its pods.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    /// The zone of a node, by its name.
    pub(super) zone_of: &'a dyn Fn(&str) -> Option<String>,
    pub(super) ratios: &'a Ratios,
    /// When what is written happened.
    pub(super) changed_at: Option<Timestamp>,
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

/// The zone that a node is in.
pub(super) fn zone_of(node: &Value) -> Option<&str> {
    meta::label(node, "topology.kubernetes.io/zone").filter(|zone| !zone.is_empty())
}

/// Who should use an endpoint, where the Service prefers those nearby; see KEP-4444 and KEP-3015.
fn hints(service: &Value, endpoint: &Value) -> Option<Value> {
    let preferred = service.str_at(&["spec", "trafficDistribution"]);
    if !matches!(preferred, "PreferClose" | "PreferSameZone" | "PreferSameNode") || endpoint.bool_at(&["conditions", "ready"]) != Some(true)
    {
        return None;
    }
    let one = |field: &str| endpoint.get(field).filter(|name| !name.is_empty()).map(|name| object!([{ "name": (name.clone()) }]));
    let lists = [("forZones", one("zone")), ("forNodes", one("nodeName").filter(|_| preferred == "PreferSameNode"))];
    let map: Map = lists.into_iter().filter_map(|(list, names)| Some((list, names?))).collect();
    (!map.is_empty()).then_some(Value::Map(map))
}

/// The address families that a Service has endpoints of, its own first.
fn families(service: &Value) -> Vec<&'static str> {
    let own = service.list_at(&["spec", "ipFamilies"]).iter().map(|family| if family.as_str() == Some("IPv6") { "IPv6" } else { "IPv4" });
    let own: Vec<_> = own.collect();
    if own.is_empty() { vec![family_of(service.str_at(&["spec", "clusterIP"]))] } else { own }
}

fn family_of(address: &str) -> &'static str {
    if address.parse::<Ipv6Addr>().is_ok() { "IPv6" } else { "IPv4" }
}

/// The addresses of a pod that are of a family.
fn addresses(pod: &Value, family: &str) -> Vec<Value> {
    let all = pod.list_at(&["status", "podIPs"]).iter().map(|entry| entry.str_at(&["ip"]));
    let first = Some(pod.str_at(&["status", "podIP"])).filter(|_| pod.list_at(&["status", "podIPs"]).is_empty());
    all.chain(first).filter(|ip| !ip.is_empty() && family_of(ip) == family).map(Value::from).collect()
}

/// With the zone, where the pod's node has one.
fn endpoint(service: &Value, pod: &Value, family: &str, zone: Option<&str>) -> Option<Value> {
    let addresses = addresses(pod, family);
    if addresses.is_empty() || has_ended(pod) {
        return None;
    }
    let terminating = meta::is_terminating(pod);
    let serving = meta::condition_is_true(pod, "Ready");
    let publish = service.bool_at(&["spec", "publishNotReadyAddresses"]) == Some(true);
    let mut out = object!({
        "addresses": addresses,
        "conditions": { "ready": (publish || serving && !terminating), "serving": serving, "terminating": terminating },
        "nodeName": (pod.str_at(&["spec", "nodeName"])),
        "targetRef": { "kind": "Pod", "namespace": (meta::namespace(pod)), "name": (meta::name(pod)), "uid": (meta::uid(pod)) }
    });
    let hostname = pod.str_at(&["spec", "hostname"]);
    if !hostname.is_empty() && pod.str_at(&["spec", "subdomain"]) == meta::name(service) {
        out.set(&["hostname"], hostname);
    }
    if let Some(zone) = zone {
        out.set(&["zone"], zone);
    }
    Some(out)
}

/// Each address family has slices of its own.
pub(super) fn slices(service: &Value, pods: &[Arc<Value>], existing: &[Arc<Value>], around: Around) -> Plan {
    let mut left = packing::in_order(existing.iter().filter(|s| !meta::is_terminating(s)).cloned().collect());
    let mut plan = Plan::default();
    let slices = left.len();
    for family in families(service) {
        let own = left.extract_if(.., |slice| slice.str_at(&["addressType"]) == family).collect();
        slices_of(service, pods, own, family, around, &mut plan);
    }
    plan.delete.extend(left.iter().map(|slice| meta::name(slice).to_string()));
    plan.sizes.removed += left.iter().map(|slice| slice.list_at(&["endpoints"]).len()).sum::<usize>();
    plan.sizes.slices = slices + plan.create.len() - plan.delete.len();
    for slice in plan.create.iter_mut().chain(&mut plan.update) {
        trigger::mark(slice, around.changed_at);
    }
    plan
}

/// Endpoints that share their ports share slices.
fn slices_of(service: &Value, pods: &[Arc<Value>], mut left: Vec<Arc<Value>>, family: &'static str, around: Around, plan: &mut Plan) {
    let before = left.clone();
    let mut packed = packed(service, pods, &mut left, family, around);
    let known = pods_of(before.iter().flat_map(|slice| slice.list_at(&["endpoints"])));
    let now = pods_of(packed.iter().flat_map(|(_, slice)| &slice.endpoints));
    let sizes = &mut plan.sizes;
    sizes.endpoints += now.len();
    sizes.added += now.difference(&known).count();
    sizes.removed += known.difference(&now).count();
    let of_ports = packed.chunk_by(|(a, _), (b, _)| a == b).map(|all| all.iter().map(|(_, slice)| slice.endpoints.len()).sum::<usize>());
    sizes.wanted_slices += of_ports.map(|endpoints| endpoints.div_ceil(packing::MOST)).sum::<usize>().max(1);
    if topology::is_wanted(service) {
        let all = packed.iter_mut().map(|(_, slice)| (slice.is_as_it_was(), &mut slice.endpoints)).collect();
        plan.spreads.insert(family, topology::spread(around.ratios, all));
    }
    let mut homeless = Vec::new();
    if packed.is_empty() {
        // A Service without endpoints has one empty slice, so that readers know it was looked at.
        let at = left.iter().position(|s| s.list_at(&["ports"]).is_empty());
        let wanted = slice(service, family, &[], Vec::new());
        match at {
            Some(at) => plan.update.extend(changed(&left.remove(at), &wanted)),
            None => homeless.push(wanted),
        }
    }
    for (ports, packed) in packed {
        let wanted = slice(service, family, &ports, packed.endpoints);
        match packed.slice {
            Some(current) => plan.update.extend(changed(&current, &wanted)),
            None => homeless.push(wanted),
        }
    }
    // Only a slice that has nothing left, or whose ports nobody has any more, becomes another's.
    for wanted in homeless {
        match left.pop() {
            Some(current) => plan.update.extend(changed(&current, &wanted)),
            None => plan.create.push(wanted),
        }
    }
    plan.delete.extend(left.iter().map(|s| meta::name(s).to_string()));
}

fn pods_of<'a>(endpoints: impl Iterator<Item = &'a Value>) -> HashSet<&'a str> {
    endpoints.map(|endpoint| endpoint.str_at(&["targetRef", "uid"])).collect()
}

/// The endpoints of a family with their ports, in the slices that they stay in or in new ones. Slices that nothing is left in are left.
fn packed(service: &Value, pods: &[Arc<Value>], left: &mut Vec<Arc<Value>>, family: &str, around: Around) -> Vec<(Vec<Value>, Packed)> {
    // A slice that is as it was keeps its hints, so it takes part with them.
    let spread = topology::is_wanted(service);
    let known = left.iter().flat_map(|slice| slice.list_at(&["endpoints"])).filter(|_| spread);
    let known: HashMap<&str, &Value> = known.filter_map(|e| Some((e.str_at(&["targetRef", "uid"]), e.get("hints")?))).collect();
    let mut groups: BTreeMap<String, (Vec<Value>, Vec<Value>)> = BTreeMap::new();
    for pod in pods {
        let zone = (around.zone_of)(pod.str_at(&["spec", "nodeName"]));
        let Some(mut endpoint) = endpoint(service, pod, family, zone.as_deref()) else { continue };
        let hints = if spread { known.get(meta::uid(pod)).copied().cloned() } else { hints(service, &endpoint) };
        if let Some(hints) = hints {
            endpoint.set(&["hints"], hints);
        }
        let ports = slice_ports(service, pod);
        let key = fram_machinery::json::to_string(&Value::from(ports.clone()));
        groups.entry(key).or_insert_with(|| (ports, Vec::new())).1.push(endpoint);
    }
    let mut all: Vec<(Vec<Value>, Packed)> = Vec::new();
    for (ports, mut endpoints) in groups.into_values() {
        endpoints.sort_by(|a, b| a.str_at(&["targetRef", "name"]).cmp(b.str_at(&["targetRef", "name"])));
        let own = left.extract_if(.., |s| s.list_at(&["ports"]) == ports.as_slice()).collect();
        all.extend(packing::pack(endpoints, own).into_iter().map(|slice| (ports.clone(), slice)));
    }
    let (packed, empty): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, slice)| !slice.endpoints.is_empty());
    left.extend(empty.into_iter().filter_map(|(_, slice)| slice.slice));
    packed
}

fn labels(service: &Value) -> Map {
    let mut labels = meta::labels(service).as_map().cloned().unwrap_or_default();
    labels.remove(HEADLESS);
    if service.str_at(&["spec", "clusterIP"]) == "None" {
        labels.insert(HEADLESS, "");
    }
    labels
}

fn slice(service: &Value, family: &str, ports: &[Value], endpoints: Vec<Value>) -> Value {
    let mut labels = labels(service);
    labels.insert(SERVICE, meta::name(service));
    labels.insert(MANAGED_BY, MANAGER);
    object!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
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

/// The Endpoints object of a Service: subsets of addresses of its own family that share their ports.
pub(super) fn endpoints(service: &Value, pods: &[Arc<Value>]) -> Value {
    type Addresses = (Vec<Value>, Vec<Value>);
    let family = families(service)[0];
    let mut subsets: BTreeMap<String, (Vec<Value>, Addresses)> = BTreeMap::new();
    let publish = service.bool_at(&["spec", "publishNotReadyAddresses"]) == Some(true);
    let told = pods.iter().filter(|pod| publish || !meta::is_terminating(pod));
    let mut told: Vec<_> = told.filter_map(|pod| Some((pod, endpoint(service, pod, family, None)?))).collect();
    let is_ready = |endpoint: &Value| endpoint.bool_at(&["conditions", "ready"]) == Some(true);
    // Where there are too many, those that are not ready are left out first.
    told.sort_by_key(|(_, endpoint)| !is_ready(endpoint));
    let truncated = told.len() > MOST_ADDRESSES;
    told.truncate(MOST_ADDRESSES);
    let address = |endpoint: &Value| endpoint.list_at(&["addresses"]).first().cloned();
    told.sort_by_cached_key(|(_, endpoint)| address(endpoint).as_ref().and_then(Value::as_str).map(String::from));
    for (pod, endpoint) in told {
        let ports = slice_ports(service, pod);
        // Who has none of the Service's ports cannot be reached by it; a headless Service may be of names alone.
        let portless = service.list_at(&["spec", "ports"]).is_empty() && service.str_at(&["spec", "clusterIP"]) == "None";
        if ports.is_empty() && !portless {
            continue;
        }
        let ports: Vec<Value> = ports.into_iter().map(without_empty_name).collect();
        let mut address = object!({ "ip": (address(&endpoint)), "targetRef": (endpoint.get("targetRef").cloned()) });
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
    if truncated {
        meta::set_annotation(&mut out, OVER_CAPACITY, "truncated");
    }
    if !subsets.is_empty() {
        out.set(&["subsets"], subsets);
    }
    out
}

/// The current Endpoints with what they should tell, from when on; None where they tell it already.
pub(super) fn changed_endpoints(current: &Value, wanted: &Value, changed_at: Option<Timestamp>) -> Option<Value> {
    let mut next = current.clone();
    next.set(&["metadata", "labels"], meta::labels(wanted).clone());
    match meta::annotation(wanted, OVER_CAPACITY) {
        Some(text) => meta::set_annotation(&mut next, OVER_CAPACITY, text),
        None => drop(next.remove(&["metadata", "annotations", OVER_CAPACITY])),
    }
    match wanted.get("subsets") {
        Some(subsets) => next.set(&["subsets"], subsets.clone()),
        None => drop(next.remove(&["subsets"])),
    }
    if next == *current {
        return None;
    }
    trigger::mark(&mut next, changed_at);
    Some(next)
}

fn without_empty_name(mut port: Value) -> Value {
    if port.str_at(&["name"]).is_empty() {
        port.remove(&["name"]);
    }
    port
}

#[cfg(test)]
mod tests;
