//! The Node authorizer: a kubelet reads what the pods bound to its node refer to, and writes its own node, lease and pods.
//! See upstream's plugin/pkg/auth/authorizer/node.

use fram_machinery::labels::FieldSelector;
use fram_machinery::{Reason, Status, Value, meta};

use super::rules::Rule;
use super::{Attributes, Decision};
use crate::registry::{Place, Record, Registry, Selection};

fn no(why: impl Into<String>) -> Decision {
    Decision::NoOpinion(why.into())
}

/// `rules` are those of the cluster role `system:node`: what every kubelet may do besides.
pub(super) fn decide(registry: &Registry, node: &str, a: &Attributes, rules: &[Rule]) -> Decision {
    if !a.is_resource() {
        return no("");
    }
    let read = matches!(a.verb.as_str(), "get" | "list" | "watch");
    let refers: Option<fn(&Value, &str) -> bool> = match (a.group.as_str(), a.resource.as_str()) {
        ("", "secrets") => Some(refers_to_secret),
        ("", "configmaps") => Some(refers_to_config_map),
        ("", "persistentvolumeclaims") => Some(refers_to_claim),
        _ => None,
    };
    if let Some(refers) = refers {
        if !read || !a.subresource.is_empty() {
            return no(format!("can only read resources of this type: {}", a.resource));
        }
        if a.name.is_empty() {
            return no(format!("No Object name found: node {node:?} may not list all {}", a.resource));
        }
        return match has_pod(registry, node, &a.namespace, |pod| refers(pod, &a.name)) {
            Ok(true) => Decision::Allow,
            Ok(false) => no(format!("no relationship found between node '{node}' and this object")),
            Err(status) => no(status.message),
        };
    }
    match (a.group.as_str(), a.resource.as_str(), a.subresource.as_str()) {
        ("", "nodes", "" | "status") if a.name == node => Decision::Allow,
        // Its network has to know the others.
        ("", "nodes", "") if a.name.is_empty() && (read || a.verb == "create") => Decision::Allow,
        ("", "nodes", _) => no(format!("node '{node}' cannot read '{}', only its own Node object", a.name)),
        ("", "pods", "") if read => reads_own(registry, node, a, ("", "v1")),
        ("", "serviceaccounts", "token") if a.verb == "create" => {
            match has_pod(registry, node, &a.namespace, |pod| pod.str_at(&["spec", "serviceAccountName"]) == a.name) {
                Ok(true) => Decision::Allow,
                Ok(false) => no(format!("no relationship found between node '{node}' and this object")),
                Err(status) => no(status.message),
            }
        }
        ("coordination.k8s.io", "leases", "") if a.namespace == "kube-node-lease" && (a.name == node || a.verb == "create") => {
            Decision::Allow
        }
        ("", "pods", "status") if matches!(a.verb.as_str(), "update" | "patch") => Decision::Allow,
        ("", "pods", "eviction") if a.verb == "create" => Decision::Allow,
        ("", "events", "") if matches!(a.verb.as_str(), "create" | "update" | "patch") => Decision::Allow,
        ("", "events", _) => no(""),
        ("", "pods", "") if matches!(a.verb.as_str(), "create" | "delete") => Decision::Allow,
        ("", "pods", _) => no(""),
        // What is left of drivers that are gone.
        ("resource.k8s.io", "resourceslices", "") if matches!(a.verb.as_str(), "get" | "list" | "watch" | "deletecollection") => {
            reads_own(registry, node, a, ("resource.k8s.io", "v1"))
        }
        // What is created is held against the node's pods on admission.
        ("certificates.k8s.io", "podcertificaterequests", "") if matches!(a.verb.as_str(), "get" | "list" | "watch") => {
            reads_own(registry, node, a, ("certificates.k8s.io", "v1beta1"))
        }
        ("certificates.k8s.io", "podcertificaterequests", part) if !part.is_empty() => {
            no("nodes may not access the status subresource of PodCertificateRequests")
        }
        _ if rules.iter().any(|rule| rule.covers(a)) => Decision::Allow,
        _ => no(""),
    }
}

/// A node reads the pods that are bound to it and the requests that it made for them, and lists and watches them by `spec.nodeName`; see
/// upstream's AuthorizeNodeWithSelectors.
fn reads_own(registry: &Registry, node: &str, a: &Attributes, (group, version): (&str, &str)) -> Decision {
    let asked = |path: &str| FieldSelector::parse(&a.fields).ok().and_then(|s| s.exact(path).map(String::from));
    if a.verb != "get" && asked("spec.nodeName").is_some_and(|name| name == node) {
        return Decision::Allow;
    }
    if a.name.is_empty() {
        return no(format!("can only list/watch {} with spec.nodeName field selector: node {node:?}", a.resource));
    }
    let Some(served) = registry.served(group, version, &a.resource) else { return no("") };
    let place = Place { served, namespace: a.namespace.clone(), name: a.name.clone() };
    match seen(registry, &place) {
        Ok(object) if object.str_at(&["spec", "nodeName"]) != node => {
            no(format!("no relationship found between node '{node}' and this object"))
        }
        // That it is gone is no secret.
        Err(status) if !status.is(Reason::NotFound) => no(status.message),
        _ => Decision::Allow,
    }
}

/// As this process has seen it, as upstream's graph is fed by informers.
fn seen(registry: &Registry, place: &Place) -> Result<Value, Status> {
    let snapshot = registry.seen()?;
    let entry = snapshot.get(&registry.key_of(place)).ok_or_else(|| place.not_found())?;
    registry.decode(&place.served, entry)
}

/// Whether a pod that is bound to the node is of this sort.
fn has_pod(registry: &Registry, node: &str, namespace: &str, is: impl Fn(&Value) -> bool) -> Result<bool, Status> {
    let served = registry.served("", "v1", "pods").ok_or_else(Status::no_such_path)?;
    let selection = Selection::parse(&served.kind, "", &format!("spec.nodeName={node}"))?;
    let prefix = registry.collection_prefix(&served.stored, namespace);
    for entry in registry.seen()?.prefix_after(&prefix, None) {
        let record = Record::parse(&entry.value).map_err(Status::internal)?;
        if selection.matches(&served, &record) && is(&registry.decode(&served, entry)?) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|l| pod.list_at(&["spec", l]))
}

/// The sources of a pod's volumes, projected ones included.
fn sources(pod: &Value) -> impl Iterator<Item = &Value> {
    pod.list_at(&["spec", "volumes"]).iter().flat_map(|v| std::iter::once(v).chain(v.list_at(&["projected", "sources"])))
}

fn environment_refers(pod: &Value, from: &str, key: &str, name: &str) -> bool {
    containers(pod).any(|c| {
        c.list_at(&["envFrom"]).iter().any(|e| e.str_at(&[from, "name"]) == name)
            || c.list_at(&["env"]).iter().any(|e| e.str_at(&["valueFrom", key, "name"]) == name)
    })
}

fn refers_to_secret(pod: &Value, name: &str) -> bool {
    pod.list_at(&["spec", "imagePullSecrets"]).iter().any(|s| s.str_at(&["name"]) == name)
        || sources(pod).any(|s| s.str_at(&["secret", "secretName"]) == name || s.str_at(&["secret", "name"]) == name)
        || pod.list_at(&["spec", "volumes"]).iter().any(|v| volume_secret(v) == name)
        || environment_refers(pod, "secretRef", "secretKeyRef", name)
}

/// The secret of a volume plugin that takes one.
fn volume_secret(volume: &Value) -> &str {
    let paths: [&[&str]; 5] = [
        &["azureFile", "secretName"],
        &["csi", "nodePublishSecretRef", "name"],
        &["cephfs", "secretRef", "name"],
        &["iscsi", "secretRef", "name"],
        &["rbd", "secretRef", "name"],
    ];
    paths.into_iter().map(|p| volume.str_at(p)).find(|s| !s.is_empty()).unwrap_or("\0")
}

fn refers_to_config_map(pod: &Value, name: &str) -> bool {
    sources(pod).any(|s| s.str_at(&["configMap", "name"]) == name) || environment_refers(pod, "configMapRef", "configMapKeyRef", name)
}

fn refers_to_claim(pod: &Value, name: &str) -> bool {
    let ephemeral = |v: &Value| v.get("ephemeral").is_some() && format!("{}-{}", meta::name(pod), v.str_at(&["name"])) == name;
    pod.list_at(&["spec", "volumes"]).iter().any(|v| v.str_at(&["persistentVolumeClaim", "claimName"]) == name || ephemeral(v))
}
