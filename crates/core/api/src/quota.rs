//! What objects use of a quota's resources, and which of them a quota's scopes cover: the evaluators of upstream's
//! `k8s.io/kubernetes/pkg/quota/v1`. Admission charges by it, and the controller counts by it.

use std::collections::BTreeMap;

use fram_machinery::Value;
use fram_machinery::quantity::{Format, Quantity};

/// Amounts by the names that quotas have for them.
pub type Amounts = BTreeMap<String, Quantity>;

fn one() -> Quantity {
    Quantity::from_units(1, Format::DecimalSi)
}

fn add(amounts: &mut Amounts, name: impl Into<String>, amount: Quantity) {
    let entry = amounts.entry(name.into()).or_insert(Quantity::zero());
    *entry = *entry + amount;
}

/// The amounts below `resources.requests` or `resources.limits`.
pub fn read(resources: &Value, side: &str) -> Amounts {
    let map = resources.at(&["resources", side]).and_then(Value::as_map);
    let parsed = |(k, v): (&fram_machinery::Key, &Value)| Some((k.to_string(), v.as_str()?.parse().ok()?));
    map.into_iter().flat_map(|m| m.iter().filter_map(parsed).collect::<Vec<_>>()).collect()
}

fn sum(mut into: Amounts, other: Amounts) -> Amounts {
    other.into_iter().for_each(|(k, v)| add(&mut into, k, v));
    into
}

fn most(mut into: Amounts, other: &Amounts) -> Amounts {
    for (k, v) in other {
        let entry = into.entry(k.clone()).or_insert(*v);
        *entry = (*entry).max(*v);
    }
    into
}

/// What a pod's containers ask for (`requests`) or may have (`limits`) together, or more where an init container needs it. What the pod
/// says of itself goes before.
pub fn of_containers(pod: &Value, side: &str) -> Amounts {
    let mut running = Amounts::new();
    let mut init = Amounts::new();
    for container in pod.list_at(&["spec", "initContainers"]) {
        let own = read(container, side);
        if container.str_at(&["restartPolicy"]) == "Always" {
            running = sum(running, own);
            init = most(init, &running);
        } else {
            init = most(init, &sum(own, running.clone()));
        }
    }
    for container in pod.list_at(&["spec", "containers"]) {
        running = sum(running, read(container, side));
    }
    let mut all = most(running, &init);
    all.extend(read(pod.get("spec").unwrap_or(&Value::Null), side));
    all
}

/// The same with the pod's overhead. See resourcehelper.PodRequests.
fn of_pod(pod: &Value, side: &str) -> Amounts {
    let mut all = of_containers(pod, side);
    let overhead = pod.at(&["spec", "overhead"]).and_then(Value::as_map).into_iter().flat_map(|m| m.iter().collect::<Vec<_>>());
    for (name, amount) in overhead {
        // A limit is only raised where there is one.
        if (side == "requests" || all.contains_key(name.as_str()))
            && let Some(amount) = amount.as_str().and_then(|a| a.parse().ok())
        {
            add(&mut all, name.to_string(), amount);
        }
    }
    all
}

/// What a pod as a whole asks for, by the names of resources.
pub fn requests(pod: &Value) -> Amounts {
    of_pod(pod, "requests")
}

/// What a pod as a whole uses at most, of what it has limits for.
pub fn limits(pod: &Value) -> Amounts {
    of_pod(pod, "limits")
}

/// What a pod that has not ended uses.
pub fn pod(pod: &Value) -> Amounts {
    let mut out = Amounts::from([("pods".to_string(), one())]);
    for (name, amount) in of_pod(pod, "requests") {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-") {
            add(&mut out, name.clone(), amount);
        }
        add(&mut out, format!("requests.{name}"), amount);
    }
    for (name, amount) in of_pod(pod, "limits") {
        add(&mut out, format!("limits.{name}"), amount);
    }
    out
}

/// What a Service uses.
pub fn service(service: &Value) -> Amounts {
    let mut out = Amounts::from([("services".to_string(), one())]);
    let ports = service.list_at(&["spec", "ports"]);
    let count = |ports: usize| Quantity::from_units(ports as i64, Format::DecimalSi);
    match service.str_at(&["spec", "type"]) {
        "NodePort" => add(&mut out, "services.nodeports", count(ports.len())),
        "LoadBalancer" => {
            add(&mut out, "services.loadbalancers", one());
            let none = service.bool_at(&["spec", "allocateLoadBalancerNodePorts"]) == Some(false);
            // Ports that were asked for by number are there all the same.
            let given = ports.iter().filter(|p| p.int_at(&["nodePort"]).is_some_and(|n| n != 0)).count();
            add(&mut out, "services.nodeports", count(if none { given } else { ports.len() }));
        }
        _ => {}
    }
    out
}

/// The end of the name by which quotas limit the devices of a class.
pub const DEVICES: &str = ".deviceclass.resource.k8s.io/devices";
/// The most devices that one request can get; see AllocationResultsMaxSize.
const MOST_DEVICES: i64 = 32;

/// What a ResourceClaim uses: of each class the devices that it may get at most.
pub fn resource_claim(claim: &Value) -> Amounts {
    let mut out = Amounts::new();
    let asked = |request: &Value| {
        let devices = match request.str_at(&["allocationMode"]) {
            "All" => MOST_DEVICES,
            "ExactCount" => request.int_at(&["count"]).unwrap_or(1),
            _ => 0,
        };
        let name = format!("{}{DEVICES}", request.str_at(&["deviceClassName"]));
        Amounts::from([(name, Quantity::from_units(devices, Format::DecimalSi))])
    };
    for request in claim.list_at(&["spec", "devices", "requests"]) {
        // Of alternatives it gets one: of each class the most counts.
        let alternatives = request.list_at(&["firstAvailable"]).iter().chain(request.get("exactly").filter(|e| !e.is_null()));
        out = sum(out, alternatives.map(asked).fold(Amounts::new(), |all, one| most(all, &one)));
    }
    out
}

/// The VolumeAttributesClasses that a claim or volume names: what it asks for, has, and is being given.
pub fn attributes_classes(object: &Value) -> impl Iterator<Item = &str> {
    let paths: [&[&str]; 3] = [
        &["spec", "volumeAttributesClassName"],
        &["status", "currentVolumeAttributesClassName"],
        &["status", "modifyVolumeStatus", "targetVolumeAttributesClassName"],
    ];
    paths.into_iter().map(|path| object.str_at(path)).filter(|name| !name.is_empty())
}

/// What a PersistentVolumeClaim uses: what it asks for, or more where more was set aside for it.
pub fn claim(claim: &Value) -> Amounts {
    let mut out = Amounts::from([("persistentvolumeclaims".to_string(), one())]);
    let amount = |path: &[&str]| claim.str_at(path).parse::<Quantity>().ok();
    let storage = amount(&["spec", "resources", "requests", "storage"]);
    let storage = storage.map(|asked| amount(&["status", "allocatedResources", "storage"]).map_or(asked, |given| given.max(asked)));
    if let Some(storage) = storage {
        add(&mut out, "requests.storage", storage);
    }
    let class = claim.str_at(&["spec", "storageClassName"]);
    if !class.is_empty() {
        add(&mut out, format!("{class}.storageclass.storage.k8s.io/persistentvolumeclaims"), one());
        if let Some(storage) = storage {
            add(&mut out, format!("{class}.storageclass.storage.k8s.io/requests.storage"), storage);
        }
    }
    out
}

/// Whether a quota's scopes and scope selector cover an object: those of pods cover pods, that of VolumeAttributesClasses claims.
pub fn covers(quota: &Value, group: &str, plural: &str, object: &Value) -> bool {
    let scopes = quota.list_at(&["spec", "scopes"]).iter().filter_map(Value::as_str);
    let expressions = quota.list_at(&["spec", "scopeSelector", "matchExpressions"]);
    match (group, plural) {
        ("", "pods") => scopes.into_iter().all(|s| in_scope(s, object)) && expressions.iter().all(|e| matches(e, object)),
        ("", "persistentvolumeclaims") => {
            let exists = |scope: &str| scope == ATTRIBUTES_CLASS && attributes_classes(object).next().is_some();
            scopes.into_iter().all(exists) && expressions.iter().all(|e| matches_classes(e, object))
        }
        _ => !is_scoped(quota),
    }
}

const ATTRIBUTES_CLASS: &str = "VolumeAttributesClass";

fn matches_classes(expression: &Value, claim: &Value) -> bool {
    if expression.str_at(&["scopeName"]) != ATTRIBUTES_CLASS {
        return false;
    }
    let names: Vec<&str> = attributes_classes(claim).collect();
    let named = |class: &&str| expression.list_at(&["values"]).iter().any(|v| v.as_str() == Some(class));
    match expression.str_at(&["operator"]) {
        "In" => names.iter().any(named),
        // A class that is not among the values suffices, or none at all; see pvcMatchesSelector.
        "NotIn" => names.is_empty() || !names.iter().all(named),
        "Exists" => !names.is_empty(),
        "DoesNotExist" => names.is_empty(),
        _ => false,
    }
}

/// Whether a pod counts as terminating for quotas: when it has a deadline.
pub fn is_terminating(pod: &Value) -> bool {
    pod.int_at(&["spec", "activeDeadlineSeconds"]).is_some()
}

fn in_scope(scope: &str, pod: &Value) -> bool {
    let terminating = is_terminating(pod);
    let containers = || pod.list_at(&["spec", "containers"]).iter().chain(pod.list_at(&["spec", "initContainers"]));
    let compute = |a: Amounts| a.iter().any(|(k, v)| matches!(k.as_str(), "cpu" | "memory") && !v.is_zero());
    let best_effort = || !containers().chain(pod.get("spec")).any(|c| compute(read(c, "requests")) || compute(read(c, "limits")));
    match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        "PriorityClass" => !pod.str_at(&["spec", "priorityClassName"]).is_empty(),
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        _ => false,
    }
}

fn matches(expression: &Value, pod: &Value) -> bool {
    let scope = expression.str_at(&["scopeName"]);
    if scope != "PriorityClass" {
        return in_scope(scope, pod);
    }
    let class = pod.str_at(&["spec", "priorityClassName"]);
    let one_of = expression.list_at(&["values"]).iter().any(|v| v.as_str() == Some(class));
    match expression.str_at(&["operator"]) {
        "In" => one_of,
        "NotIn" => !one_of,
        "Exists" => !class.is_empty(),
        "DoesNotExist" => class.is_empty(),
        _ => false,
    }
}

fn crosses_namespaces(pod: &Value) -> bool {
    let crosses = |term: &Value| !term.list_at(&["namespaces"]).is_empty() || term.at(&["namespaceSelector"]).is_some_and(|s| !s.is_null());
    ["podAffinity", "podAntiAffinity"].into_iter().any(|kind| {
        let of = |list: &str| pod.list_at(&["spec", "affinity", kind, list]);
        of("requiredDuringSchedulingIgnoredDuringExecution").iter().any(crosses)
            || of("preferredDuringSchedulingIgnoredDuringExecution").iter().any(|t| t.at(&["podAffinityTerm"]).is_some_and(crosses))
    })
}

/// Resources of the core group that have a name of their own in quotas.
const COUNTED: [&str; 4] = ["secrets", "configmaps", "replicationcontrollers", "resourcequotas"];

/// `count/deployments.apps`, `count/pods`.
pub fn count_name(group: &str, plural: &str) -> String {
    if group.is_empty() { format!("count/{plural}") } else { format!("count/{plural}.{group}") }
}

/// The name under which a quota counts the same objects: `count/secrets` for `secrets`.
pub fn counted_as(name: &str) -> String {
    if COUNTED.contains(&name) { format!("count/{name}") } else { name.to_string() }
}

/// All that an object of a resource uses, in every name that a quota may have for it.
pub fn usage(group: &str, plural: &str, object: &Value) -> Amounts {
    let mut out = match (group, plural) {
        ("", "pods") => pod(object),
        ("", "services") => service(object),
        ("", "persistentvolumeclaims") => claim(object),
        ("resource.k8s.io", "resourceclaims") => resource_claim(object),
        ("", name) if COUNTED.contains(&name) => Amounts::from([(name.to_string(), one())]),
        _ => Amounts::new(),
    };
    out.insert(count_name(group, plural), one());
    out
}

/// Whether a quota has scopes, which speak of some objects only.
pub fn is_scoped(quota: &Value) -> bool {
    !quota.list_at(&["spec", "scopes"]).is_empty() || quota.at(&["spec", "scopeSelector"]).is_some_and(|s| !s.is_null())
}

/// The compute resources that a quota limits and a new pod does not name, with the containers that lack them; see
/// podEvaluator.Constraints.
pub fn unnamed(pod: &Value, limited: &[&str]) -> Vec<(String, Vec<String>)> {
    let named_by_pod = |side: &str, name: &str| read(pod.get("spec").unwrap_or(&Value::Null), side).contains_key(name);
    let containers = || pod.list_at(&["spec", "initContainers"]).iter().chain(pod.list_at(&["spec", "containers"]));
    let lacking = |limit: &&str| {
        let (side, name) = match limit.split_once('.') {
            Some((side @ ("requests" | "limits"), name @ ("cpu" | "memory"))) => (side, name),
            None if matches!(*limit, "cpu" | "memory") => ("requests", *limit),
            _ => return None,
        };
        let lacks = |c: &&Value| !read(c, side).contains_key(name);
        let names: Vec<String> = containers().filter(lacks).map(|c| c.str_at(&["name"]).to_string()).collect();
        (!names.is_empty() && !named_by_pod(side, name)).then(|| (limit.to_string(), names))
    };
    limited.iter().filter_map(lacking).collect()
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    fn text(amounts: &Amounts, name: &str) -> String {
        amounts.get(name).map(|q| q.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_pod_uses_its_containers_together_or_its_largest_init_container() {
        let container = |cpu: &str| object!({ "resources": { "requests": { "cpu": cpu, "memory": "1Gi" }, "limits": { "cpu": "1" } } });
        let pod = object!({ "spec": { "containers": [(container("100m")), (container("200m"))], "initContainers": [(container("500m"))], "overhead": { "cpu": "50m" } } });
        let used = super::pod(&pod);
        assert_eq!(
            [text(&used, "cpu"), text(&used, "requests.cpu"), text(&used, "memory"), text(&used, "limits.cpu")],
            ["550m", "550m", "2Gi", "2050m"]
        );
    }

    #[test]
    fn services_and_claims_count_by_their_kind() {
        let balancer = object!({ "spec": { "type": "LoadBalancer", "ports": [{}, {}] } });
        let used = service(&balancer);
        assert_eq!((text(&used, "services.loadbalancers"), text(&used, "services.nodeports")), ("1".into(), "2".into()));
        let used = claim(&object!({ "spec": { "storageClassName": "gold", "resources": { "requests": { "storage": "5Gi" } } } }));
        assert_eq!(text(&used, "gold.storageclass.storage.k8s.io/requests.storage"), "5Gi");
    }

    #[test]
    fn a_pod_has_to_name_what_is_limited() {
        let pod = object!({ "spec": { "containers": [
            { "name": "a", "resources": { "requests": { "cpu": "1" } } }, { "name": "b" }] } });
        let lacking = unnamed(&pod, &["pods", "requests.cpu", "limits.memory"]);
        let both = vec!["a".to_string(), "b".to_string()];
        assert_eq!(lacking, [("requests.cpu".to_string(), vec!["b".to_string()]), ("limits.memory".to_string(), both)]);
    }

    #[test]
    fn scopes_cover_only_their_pods() {
        let pod = object!({ "spec": { "priorityClassName": "high", "activeDeadlineSeconds": 5, "containers": [{}] } });
        let covers = |quota: &Value, pod: &Value| super::covers(quota, "", "pods", pod);
        let covered = |scope: &str| covers(&object!({ "spec": { "scopes": [scope] } }), &pod);
        assert_eq!(
            ["Terminating", "NotTerminating", "BestEffort", "NotBestEffort", "PriorityClass"].map(covered),
            [true, false, true, false, true]
        );
        let by_class = |op: &str| object!({ "spec": { "scopeSelector": { "matchExpressions": [{ "scopeName": "PriorityClass", "operator": op, "values": ["high"] }] } } });
        assert!(covers(&by_class("In"), &pod) && !covers(&by_class("NotIn"), &pod));
    }

    #[test]
    fn a_scope_of_classes_covers_the_claims_that_name_one() {
        let claim = |spec: &str, status: &str| object!({ "spec": { "volumeAttributesClassName": spec }, "status": { "currentVolumeAttributesClassName": status } });
        let quota = |operator: &str| {
            let expression = object!({ "scopeName": "VolumeAttributesClass", "operator": operator, "values": ["gold"] });
            object!({ "spec": { "scopeSelector": { "matchExpressions": [expression] } } })
        };
        for (operator, covered) in [
            ("In", [true, true, false, false]),
            ("NotIn", [false, true, true, true]),
            ("Exists", [true, true, true, false]),
            ("DoesNotExist", [false, false, false, true]),
        ] {
            let claims = [claim("gold", ""), claim("silver", "gold"), claim("silver", ""), claim("", "")];
            assert_eq!(claims.map(|c| covers(&quota(operator), "", "persistentvolumeclaims", &c)), covered, "{operator}");
        }
        assert!(!covers(&quota("Exists"), "", "pods", &object!({})) && !covers(&quota("Exists"), "", "secrets", &object!({})));
    }

    #[test]
    fn devices_count_by_class_at_their_most() {
        let exactly = |count: i64| object!({ "exactly": { "deviceClassName": "gold", "allocationMode": "ExactCount", "count": count } });
        let either = object!({ "firstAvailable": [
            { "deviceClassName": "gold", "allocationMode": "ExactCount", "count": 3 }, { "deviceClassName": "gold", "allocationMode": "ExactCount", "count": 1 },
            { "deviceClassName": "silver", "allocationMode": "All" }] });
        let used = resource_claim(&object!({ "spec": { "devices": { "requests": [(exactly(1)), (exactly(2)), either] } } }));
        let of = |class: &str| text(&used, &format!("{class}{DEVICES}"));
        assert_eq!((of("gold"), of("silver")), ("6".into(), "32".into()));
    }
}
