//! Whether a pod that was bound to this node can run on it: the scheduler may have decided on old news, or not at all.
//! Pure; see upstream's pkg/kubelet/lifecycle/predicate.go.

use std::collections::BTreeMap;
use std::sync::Arc;

use fram_cri::SupplementalGroupsPolicy;
use fram_machinery::quantity::Quantity;
use fram_machinery::{Value, meta};

use crate::pod::{self, resources};
use crate::sandbox::groups_policy;

/// Reason and message of a rejection.
pub(crate) type Rejection = (String, String);

/// Kernel parameters that are namespaced and harm nobody else; see upstream's pkg/kubelet/sysctl/safe_sysctls.go.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// What a pod asks for that this node does not give, which it must not run without.
pub(crate) fn forbid(pod: &Value, allowed_sysctls: &[String], has_apparmor: bool, has_strict_groups: bool) -> Result<(), Rejection> {
    let reject = |reason: &str, message: String| Err((reason.to_string(), format!("Pod was rejected: {message}")));
    // See rejectPodAdmissionBasedOnOSSelector and rejectPodAdmissionBasedOnOSField; the messages are upstream's, as they are.
    let other = |os: &str| !os.is_empty() && os != std::env::consts::OS;
    if other(pod.at(&["spec", "nodeSelector"]).map_or("", |s| s.str_at(&["kubernetes.io/os"]))) {
        let message = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
        return reject("PodOSSelectorNodeLabelDoesNotMatch", message.into());
    }
    if other(pod.str_at(&["spec", "os", "name"])) {
        return reject("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS".into());
    }
    if groups_policy(pod) == SupplementalGroupsPolicy::Strict && !has_strict_groups {
        return reject("SupplementalGroupsPolicyNotSupported", "SupplementalGroupsPolicy=Strict is not supported in this node".into());
    }
    let context = pod.at(&["spec", "securityContext"]).map(|c| c.list_at(&["sysctls"])).unwrap_or_default();
    for name in context.iter().map(|s| s.str_at(&["name"]).replace('/', ".")) {
        let allowed = allowed_sysctls.iter().any(|a| a.strip_suffix('*').map_or(*a == name, |prefix| name.starts_with(prefix)));
        // The namespace that makes it safe is the pod's only where the pod has one.
        let shared = (name.starts_with("net.") && pod::is_host_network(pod))
            || (name.starts_with("kernel.shm") && pod.bool_at(&["spec", "hostIPC"]) == Some(true));
        if (!SAFE_SYSCTLS.contains(&name.as_str()) && !allowed) || shared {
            return reject("SysctlForbidden", format!("forbidden sysctl: {name:?} not allowlisted"));
        }
    }
    if let Some(profile) = apparmor(pod).filter(|_| !has_apparmor) {
        let why = format!("Cannot enforce AppArmor: AppArmor is not enabled on the host (profile {profile})");
        return reject("AppArmor", why);
    }
    if pod::all_containers(pod).any(|(_, c)| !c.list_at(&["volumeDevices"]).is_empty()) {
        return reject("UnsupportedPodSpec", "block volumes are not supported by this node".into());
    }
    Ok(())
}

/// The profile of AppArmor that a pod insists on: one of the node's own, or the runtime's.
fn apparmor(pod: &Value) -> Option<String> {
    let contexts = std::iter::once(pod.at(&["spec", "securityContext"]));
    let contexts = contexts.chain(pod::all_containers(pod).map(|(_, c)| c.get("securityContext"))).flatten();
    let mut profiles = contexts.filter_map(|c| c.get("appArmorProfile"));
    profiles.find_map(|p| match p.str_at(&["type"]) {
        "Localhost" => Some(p.str_at(&["localhostProfile"]).to_string()),
        "RuntimeDefault" => Some("runtime/default".into()),
        _ => None,
    })
}

/// Judges a pod beside those that run already. `node` is the node object, as far as it is known.
pub(crate) fn admit(pod: &Value, node: &Value, allocatable: &BTreeMap<String, Quantity>, others: &[Arc<Value>]) -> Result<(), Rejection> {
    let reject = |reason: &str, message: String| Err((reason.to_string(), format!("Pod was rejected: {message}")));
    if !matches_node(pod, node) {
        return reject("NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector".into());
    }
    if let Some(taint) = node.list_at(&["spec", "taints"]).iter().find(|t| t.str_at(&["effect"]) == "NoExecute" && !tolerates(pod, t)) {
        let (key, value) = (taint.str_at(&["key"]), taint.str_at(&["value"]));
        return reject("TaintToleration", format!("Predicate TaintToleration failed: node(s) had untolerated taint {{{key}: {value}}}"));
    }
    let ports = host_ports(pod);
    if others.iter().flat_map(|o| host_ports(o)).any(|taken| ports.iter().any(|p| p.collides(&taken))) {
        return reject("NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports".into());
    }
    fits(pod, allocatable, others).map_err(|(reason, message)| (reason, format!("Pod was rejected: {message}")))
}

/// Whether the node has what a pod asks for beside the others.
pub(crate) fn fits(pod: &Value, allocatable: &BTreeMap<String, Quantity>, others: &[Arc<Value>]) -> Result<(), Rejection> {
    let lacking = |name: &str, requested: i64, used: i64, capacity: i64| {
        let message = format!("Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}");
        (format!("OutOf{name}"), message)
    };
    let most = allocatable.get("pods").map_or(i64::MAX, Quantity::value);
    let running = i64::try_from(others.len()).unwrap_or(i64::MAX);
    if running >= most {
        return Err(lacking("pods", 1, running, most));
    }
    for (name, wanted) in resources::pod_total(pod, "requests") {
        // What others than the kubelet announced for the node, they count themselves; see removeMissingExtendedResources.
        if is_extended(&name) && !allocatable.contains_key(&name) {
            continue;
        }
        let unit = |q: &Quantity| if name == "cpu" { q.milli_value() } else { q.value() };
        let used: i64 = others.iter().filter_map(|o| resources::pod_total(o, "requests").get(&name).map(unit)).sum();
        let capacity = allocatable.get(&name).map_or(0, unit);
        let wanted = unit(&wanted);
        if wanted > 0 && wanted > capacity - used {
            return Err(lacking(&name, wanted, used, capacity));
        }
    }
    Ok(())
}

/// Whether a resource is none of Kubernetes' own.
pub(crate) fn is_extended(name: &str) -> bool {
    name.split_once('/').is_some_and(|(domain, _)| domain != "kubernetes.io" && !domain.ends_with(".kubernetes.io"))
}

struct HostPort<'a> {
    ip: &'a str,
    port: i64,
    protocol: &'a str,
}

impl HostPort<'_> {
    fn collides(&self, other: &HostPort) -> bool {
        let any = |ip: &str| matches!(ip, "" | "0.0.0.0" | "::");
        self.port == other.port && self.protocol == other.protocol && (any(self.ip) || any(other.ip) || self.ip == other.ip)
    }
}

fn host_ports(pod: &Value) -> Vec<HostPort<'_>> {
    let sidecars = pod::init_containers(pod).iter().filter(|c| pod::is_sidecar(c));
    let ports = pod::containers(pod).iter().chain(sidecars).flat_map(|c| c.list_at(&["ports"]));
    let port = |p: &'_ Value| p.int_at(&["hostPort"]).filter(|n| *n > 0);
    ports
        .filter_map(|p| {
            let protocol = if p.str_at(&["protocol"]).is_empty() { "TCP" } else { p.str_at(&["protocol"]) };
            Some(HostPort { ip: p.str_at(&["hostIP"]), port: port(p)?, protocol })
        })
        .collect()
}

fn matches_node(pod: &Value, node: &Value) -> bool {
    let label = |key: &str| meta::label(node, key);
    let selector = pod.at(&["spec", "nodeSelector"]).and_then(Value::as_map);
    if !selector.into_iter().flat_map(|m| m.iter()).all(|(k, v)| label(k) == v.as_str()) {
        return false;
    }
    let required = pod.at(&["spec", "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"]);
    let Some(required) = required else { return true };
    required.list_at(&["nodeSelectorTerms"]).iter().any(|term| {
        let (expressions, fields) = (term.list_at(&["matchExpressions"]), term.list_at(&["matchFields"]));
        let name = meta::name(node);
        let field = |key: &str| (key == "metadata.name").then_some(name);
        let some = !expressions.is_empty() || !fields.is_empty();
        some && expressions.iter().all(|e| satisfied(e, label)) && fields.iter().all(|e| satisfied(e, field))
    })
}

fn satisfied<'a>(expression: &Value, lookup: impl Fn(&str) -> Option<&'a str>) -> bool {
    let found = lookup(expression.str_at(&["key"]));
    let values: Vec<&str> = expression.list_at(&["values"]).iter().filter_map(Value::as_str).collect();
    let numbers = || Some((found?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match expression.str_at(&["operator"]) {
        "In" => found.is_some_and(|f| values.contains(&f)),
        "NotIn" => found.is_none_or(|f| !values.contains(&f)),
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        "Gt" => numbers().is_some_and(|(a, b)| a > b),
        "Lt" => numbers().is_some_and(|(a, b)| a < b),
        _ => false,
    }
}

pub(crate) fn tolerates(pod: &Value, taint: &Value) -> bool {
    pod.list_at(&["spec", "tolerations"]).iter().any(|t| {
        let key = t.str_at(&["key"]);
        let effect = t.str_at(&["effect"]);
        let exists = t.str_at(&["operator"]) == "Exists";
        (effect.is_empty() || effect == taint.str_at(&["effect"]))
            && (key == taint.str_at(&["key"]) || (key.is_empty() && exists))
            && (exists || t.str_at(&["value"]) == taint.str_at(&["value"]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    fn pod(cpu: &str) -> Value {
        object!({ "spec": { "containers": [{ "name": "c", "resources": { "requests": { "cpu": cpu } } }] } })
    }

    fn check(pod: &Value, node: &Value, others: &[Arc<Value>]) -> String {
        let allocatable = [("cpu", "1"), ("pods", "2")].map(|(k, v)| (k.to_string(), v.parse().unwrap())).into();
        admit(pod, node, &allocatable, others).map_or_else(|(reason, message)| format!("{reason}: {message}"), |()| "fits".into())
    }

    #[test]
    fn a_pod_must_fit_beside_those_that_run() {
        let (node, half) = (object!({}), Arc::new(pod("500m")));
        assert_eq!(check(&pod("500m"), &node, std::slice::from_ref(&half)), "fits");
        let told = check(&pod("600m"), &node, std::slice::from_ref(&half));
        assert_eq!(told, "OutOfcpu: Pod was rejected: Node didn't have enough resource: cpu, requested: 600, used: 500, capacity: 1000");
        let none = Arc::new(pod("0"));
        assert!(check(&none, &node, &[none.clone(), none.clone()]).starts_with("OutOfpods"));
    }

    #[test]
    fn what_the_node_does_not_give_is_refused_rather_than_left_out() {
        let with =
            |spec: Value| forbid(&object!({ "spec": spec }), &["net.core.*".to_string()], false, false).map_err(|(reason, _)| reason);
        let sysctl = |name: &str| object!({ "securityContext": { "sysctls": [{ "name": name, "value": "1" }] } });
        assert_eq!((with(sysctl("net.ipv4.tcp_syncookies")), with(sysctl("net/core/somaxconn"))), (Ok(()), Ok(())));
        assert_eq!(with(sysctl("kernel.msgmax")), Err("SysctlForbidden".into()));
        let mut host = sysctl("net.ipv4.tcp_syncookies");
        host.set(&["hostNetwork"], true);
        assert_eq!(with(host), Err("SysctlForbidden".into()));
        let apparmor = |ty: &str| object!({ "securityContext": { "appArmorProfile": { "type": ty, "localhostProfile": "p" } } });
        assert_eq!((with(apparmor("Localhost")), with(apparmor("Unconfined"))), (Err("AppArmor".into()), Ok(())));
        let groups = |policy: &str| object!({ "securityContext": { "supplementalGroupsPolicy": policy } });
        let unknown = Err("SupplementalGroupsPolicyNotSupported".into());
        assert_eq!((with(groups("Strict")), with(groups("Merge"))), (unknown, Ok(())));
        assert!(forbid(&object!({ "spec": (groups("Strict")) }), &[], false, true).is_ok());
        let block = object!({ "containers": [{ "name": "c", "volumeDevices": [{ "name": "v", "devicePath": "/d" }] }] });
        assert_eq!(with(block), Err("UnsupportedPodSpec".into()));
        let os = |name: &str| object!({ "os": { "name": name } });
        assert_eq!((with(os("linux")), with(os("windows"))), (Ok(()), Err("PodOSNotSupported".into())));
        let selected = object!({ "nodeSelector": { "kubernetes.io/os": "windows" } });
        assert_eq!(with(selected), Err("PodOSSelectorNodeLabelDoesNotMatch".into()));
    }

    #[test]
    fn a_pod_must_match_its_node() {
        let node = object!({ "metadata": { "name": "n", "labels": { "disk": "ssd", "n": "5" } } });
        let with = |spec: Value| {
            let mut pod = pod("0");
            for (key, value) in spec.as_map().unwrap().iter() {
                pod.set(&["spec", key], value.clone());
            }
            check(&pod, &node, &[])
        };
        assert_eq!(with(object!({ "nodeSelector": { "disk": "ssd" } })), "fits");
        assert!(with(object!({ "nodeSelector": { "disk": "hdd" } })).starts_with("NodeAffinity"));
        let term = |key: &str, operator: &str, value: &str| {
            let terms = object!([{ "matchExpressions": [{ "key": key, "operator": operator, "values": [value] }] }]);
            object!({ "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": terms } } } })
        };
        assert_eq!((with(term("disk", "In", "ssd")), with(term("n", "Gt", "4"))), ("fits".into(), "fits".into()));
        assert!(with(term("disk", "NotIn", "ssd")).starts_with("NodeAffinity"));
    }

    #[test]
    fn host_ports_and_taints_count() {
        let port = |ip: &str| object!({ "spec": { "containers": [{ "ports": [{ "containerPort": 1, "hostPort": 80, "hostIP": ip }] }] } });
        let other = Arc::new(port("192.0.2.1"));
        assert!(check(&port(""), &object!({}), std::slice::from_ref(&other)).starts_with("NodePorts"));
        assert_eq!(check(&port("192.0.2.2"), &object!({}), &[other]), "fits");
        let node = object!({ "spec": { "taints": [{ "key": "k", "effect": "NoExecute" }] } });
        assert!(check(&pod("0"), &node, &[]).starts_with("TaintToleration"));
        let mut tolerant = pod("0");
        tolerant.set(&["spec", "tolerations"], object!([{ "operator": "Exists" }]));
        assert_eq!(check(&tolerant, &node, &[]), "fits");
    }
}
