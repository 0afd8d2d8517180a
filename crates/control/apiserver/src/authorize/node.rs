//! The Node authorizer: a kubelet reads what the pods bound to its node refer to, and writes its own node, lease and pods.
//! See upstream's plugin/pkg/auth/authorizer/node.

use fram_client::local_path;
use fram_machinery::labels::FieldSelector;
use fram_machinery::{Reason, Status, Value, meta};

use super::rules::Rule;
use super::{Attributes, Decision};
use crate::registry::{Place, Registry, Selection};

fn no(why: impl Into<String>) -> Decision {
    Decision::NoOpinion(why.into())
}

/// `rules` are those of the cluster role `system:node`: what every kubelet may do besides.
pub(super) fn decide(registry: &Registry, node: &str, a: &Attributes, rules: &[Rule]) -> Decision {
    if !a.is_resource() {
        return no("");
    }
    let read = matches!(a.verb.as_str(), "get" | "list" | "watch");
    let written = matches!(a.verb.as_str(), "update" | "patch");
    if let Some(refers) = refers(&a.group, &a.resource) {
        let many = matches!(a.resource.as_str(), "secrets" | "configmaps");
        return match a.subresource.as_str() {
            "" if a.verb == "get" || many && read => related(registry, node, a, refers),
            "status" if a.resource == "persistentvolumeclaims" && written => related(registry, node, a, refers),
            "token" if a.resource == "serviceaccounts" && a.verb == "create" => related(registry, node, a, refers),
            _ => no(format!("can only read what the pods on the node refer to of this type: {}", a.resource)),
        };
    }
    match (a.group.as_str(), a.resource.as_str(), a.subresource.as_str()) {
        ("", "nodes", "" | "status") if a.name == node => Decision::Allow,
        // Its network has to know the others.
        ("", "nodes", "") if a.name.is_empty() && (read || a.verb == "create") => Decision::Allow,
        ("", "nodes", _) => no(format!("node '{node}' cannot read '{}', only its own Node object", a.name)),
        ("", "pods", "") if read => reads_own(registry, node, a, ("", "v1")),
        ("", "persistentvolumes", "") if a.verb == "get" => bound_volume(registry, node, a),
        // Of the embedded storage a node follows the volumes that it holds, and lets go of them, as NodeRestriction sees to.
        ("", "persistentvolumes", "") if matches!(a.verb.as_str(), "list" | "watch") && a.labels == local_path::selector_of(node) => {
            Decision::Allow
        }
        ("", "persistentvolumes", "") if a.verb == "update" => holds_volume(registry, node, a),
        ("", "persistentvolumes", _) => no("can only get individual resources of this type"),
        ("storage.k8s.io", "volumeattachments", "") if a.verb == "get" => names_node(registry, node, a),
        ("storage.k8s.io", "volumeattachments", _) => no("can only get individual resources of this type"),
        ("coordination.k8s.io", "leases", _) if a.namespace != "kube-node-lease" => {
            no("can only access leases in the \"kube-node-lease\" system namespace")
        }
        // What is created is looked at on admission.
        ("coordination.k8s.io", "leases", "") | ("storage.k8s.io", "csinodes", "") => match a.verb.as_str() {
            "create" => Decision::Allow,
            "get" | "update" | "patch" | "delete" if a.name == node => Decision::Allow,
            _ => no(format!("can only access {} with the same name as the requesting node", a.resource)),
        },
        ("coordination.k8s.io", "leases", _) | ("storage.k8s.io", "csinodes", _) => no(""),
        ("", "pods", "status") if written => Decision::Allow,
        ("", "pods", "eviction") if a.verb == "create" => Decision::Allow,
        ("", "events", "") if matches!(a.verb.as_str(), "create" | "update" | "patch") => Decision::Allow,
        ("", "events", _) => no(""),
        ("", "pods", "") if matches!(a.verb.as_str(), "create" | "delete") => Decision::Allow,
        ("", "pods", _) => no(""),
        ("resource.k8s.io", "resourceslices", "") if a.verb == "create" => Decision::Allow,
        // Also to clear away what is left of drivers that are gone.
        ("resource.k8s.io", "resourceslices", "") => reads_own(registry, node, a, ("resource.k8s.io", "v1")),
        ("resource.k8s.io", "resourceslices", _) => no("cannot authorize ResourceSlice subresources"),
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

/// Whether a pod refers to an object of a kind by its name.
type Refers = fn(&Value, &str) -> bool;

/// How pods refer to the objects of a kind, where a node has to do with those alone to which its pods refer.
fn refers(group: &str, resource: &str) -> Option<Refers> {
    match (group, resource) {
        ("", "secrets") => Some(refers_to_secret),
        ("", "configmaps") => Some(refers_to_config_map),
        ("", "persistentvolumeclaims") => Some(refers_to_claim),
        ("", "serviceaccounts") => Some(|pod, name| pod.str_at(&["spec", "serviceAccountName"]) == name),
        ("resource.k8s.io", "resourceclaims") => Some(refers_to_resource_claim),
        _ => None,
    }
}

fn related(registry: &Registry, node: &str, a: &Attributes, refers: Refers) -> Decision {
    if a.name.is_empty() {
        return no(format!("No Object name found: node {node:?} may not list all {}", a.resource));
    }
    answer(node, has_pod(registry, node, &a.namespace, |pod| refers(pod, &a.name)))
}

fn answer(node: &str, related: Result<bool, Status>) -> Decision {
    match related {
        Ok(true) => Decision::Allow,
        Ok(false) => no(format!("no relationship found between node '{node}' and this object")),
        Err(status) => no(status.message),
    }
}

/// A volume belongs to the node's pods by the claim that it is bound to.
fn bound_volume(registry: &Registry, node: &str, a: &Attributes) -> Decision {
    if_seen(registry, node, a, |volume| {
        let [namespace, name] = ["namespace", "name"].map(|field| volume.str_at(&["spec", "claimRef", field]));
        if name.is_empty() { Ok(false) } else { has_pod(registry, node, namespace, |pod| refers_to_claim(pod, name)) }
    })
}

/// A volume of the embedded storage is held by the node that it names.
fn holds_volume(registry: &Registry, node: &str, a: &Attributes) -> Decision {
    if_seen(registry, node, a, |volume| Ok(meta::annotation(volume, local_path::NODE) == Some(node)))
}

/// An object that says which node it is about.
fn names_node(registry: &Registry, node: &str, a: &Attributes) -> Decision {
    if_seen(registry, node, a, |object| Ok(object.str_at(&["spec", "nodeName"]) == node))
}

/// Decides by the object that is asked for; one that is not there has nothing to do with the node.
fn if_seen(registry: &Registry, node: &str, a: &Attributes, related: impl Fn(&Value) -> Result<bool, Status>) -> Decision {
    let Some(served) = registry.served(&a.group, "v1", &a.resource) else { return no("") };
    let place = Place { served, namespace: a.namespace.clone(), name: a.name.clone() };
    let related = match seen(registry, &place) {
        Err(status) if status.is(Reason::NotFound) => Ok(false),
        found => found.and_then(|object| related(&object)),
    };
    answer(node, related)
}

/// A node reads the pods that are bound to it and the requests that it made for them, and lists and watches them by `spec.nodeName`; see
/// upstream's AuthorizeNodeWithSelectors.
fn reads_own(registry: &Registry, node: &str, a: &Attributes, (group, version): (&str, &str)) -> Decision {
    let asked = |path: &str| FieldSelector::parse(&a.fields).ok().and_then(|s| s.exact(path).map(String::from));
    let many = matches!(a.verb.as_str(), "list" | "watch" | "deletecollection");
    if many && asked("spec.nodeName").is_some_and(|name| name == node) {
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
    for entry in registry.seen_of(&served, namespace, &selection)? {
        if is(&registry.decode(&served, &entry)?) {
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

fn refers_to_resource_claim(pod: &Value, name: &str) -> bool {
    let named = |list: &[&str]| pod.list_at(list).iter().any(|claim| claim.str_at(&["resourceClaimName"]) == name);
    named(&["spec", "resourceClaims"])
        || named(&["status", "resourceClaimStatuses"])
        || pod.str_at(&["status", "extendedResourceClaimStatus", "resourceClaimName"]) == name
}
