//! NodeRestriction: a kubelet changes its own node and the pods bound to it, and nothing else.

use fram_client::local_path;
use fram_machinery::{Status, Value, meta};

use super::{Operation, Plugin, Request};

pub(super) struct NodeRestriction;

#[async_trait::async_trait]
impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    async fn admit(&self, request: &Request<'_>, object: Value, old: Option<&Value>) -> Result<Value, Status> {
        let Some(node) = request.user.node() else { return Ok(object) };
        let place = request.place;
        let refuse = |why: String| Err(place.forbidden(&why));
        match (request.stored_kind().group.as_str(), request.stored_kind().kind.as_str(), request.subresource) {
            ("", "Pod", "") => pod(request, node, &object, old)?,
            ("", "Pod", "status") => {
                let bound = old.map_or("", |o| o.str_at(&["spec", "nodeName"]));
                if bound != node {
                    return refuse(format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"));
                }
                if old.is_some_and(|old| meta::labels(old) != meta::labels(&object)) {
                    return refuse(format!("node {node:?} cannot update labels through pod status"));
                }
            }
            ("", "Pod", "eviction") => {
                let pod = request.find("", "v1", "pods", &place.namespace, &place.name).await?;
                if pod.is_some_and(|p| p.str_at(&["spec", "nodeName"]) != node) {
                    return refuse(format!("node {node:?} can only evict pods with spec.nodeName set to itself"));
                }
            }
            ("", "Pod", part) if !part.is_empty() => return refuse(format!("unexpected pod subresource {part:?}")),
            ("", "Node", _) if place.name != node && !place.name.is_empty() => {
                return refuse(format!("node {node:?} is not allowed to modify node {:?}", place.name));
            }
            ("", "PersistentVolume", _) => volume(request, node, &object, old)?,
            ("", "Node", "") => node_labels(request, node, &object, old)?,
            ("", "ServiceAccount", "token") => {
                let pod = object.str_at(&["spec", "boundObjectRef", "name"]);
                let bound = request.find("", "v1", "pods", &place.namespace, pod).await?;
                if !bound.is_some_and(|p| {
                    p.str_at(&["spec", "nodeName"]) == node && meta::uid(&p) == object.str_at(&["spec", "boundObjectRef", "uid"])
                }) {
                    return refuse(format!("node requested token bound to a pod scheduled on a different node, {node:?}"));
                }
            }
            ("certificates.k8s.io", "PodCertificateRequest", "") if request.operation == Operation::Create => {
                pod_certificate(request, node, &object).await?;
            }
            ("certificates.k8s.io", "PodCertificateRequest", _) => {
                return refuse(format!("unexpected operation {:?} of node {node:?}", request.operation));
            }
            ("coordination.k8s.io", "Lease", _) if place.namespace == "kube-node-lease" && place.name != node => {
                return refuse("can only access node lease with the same name as the requesting node".into());
            }
            _ => {}
        }
        Ok(object)
    }
}

fn pod(request: &Request<'_>, node: &str, object: &Value, old: Option<&Value>) -> Result<(), Status> {
    match request.operation {
        Operation::Create => {
            if meta::annotation(object, "kubernetes.io/config.mirror").is_none() {
                return Err(request
                    .place
                    .forbidden("pod does not have \"kubernetes.io/config.mirror\" annotation, node can only create mirror pods"));
            }
            if object.str_at(&["spec", "nodeName"]) != node {
                return Err(request.place.forbidden(&format!("node {node:?} can only create pods with spec.nodeName set to itself")));
            }
            let refers = object
                .list_at(&["spec", "volumes"])
                .iter()
                .any(|v| ["secret", "configMap", "persistentVolumeClaim"].iter().any(|f| v.get(f).is_some()));
            if refers || !object.str_at(&["spec", "serviceAccountName"]).is_empty() {
                return Err(request.place.forbidden(&format!("node {node:?} can not create pods that reference API objects")));
            }
            Ok(())
        }
        Operation::Delete => {
            if old.map_or("", |o| o.str_at(&["spec", "nodeName"])) != node {
                return Err(request.place.forbidden(&format!("node {node:?} can only delete pods with spec.nodeName set to itself")));
            }
            Ok(())
        }
        _ => Err(request
            .place
            .forbidden(&format!("unexpected operation {:?}, node {node:?} can only create and delete mirror pods", request.operation))),
    }
}

/// A node asks for certificates of pods that run on it, as the service account that they run as; see admitPodCertificateRequest.
async fn pod_certificate(request: &Request<'_>, node: &str, object: &Value) -> Result<(), Status> {
    let said = |field: &str| object.str_at(&["spec", field]);
    let namespace = &request.place.namespace;
    let refuse = |why: String| Err(request.place.forbidden(&why));
    if said("nodeName") != node {
        return refuse(format!("PodCertificateRequest.Spec.NodeName={:?}, which is not the requesting node {node:?}", said("nodeName")));
    }
    for (plural, within, name, uid) in [
        ("nodes", "", said("nodeName"), said("nodeUID")),
        ("pods", namespace, said("podName"), said("podUID")),
        ("serviceaccounts", namespace, said("serviceAccountName"), said("serviceAccountUID")),
    ] {
        let Some(found) = request.find("", "v1", plural, within, name).await? else {
            return refuse(format!("there is nothing of the name {name:?} among {plural}"));
        };
        if meta::uid(&found) != uid {
            return refuse(format!("{name:?} of {plural} has the UID {:?} and not {uid:?}", meta::uid(&found)));
        }
        if plural != "pods" {
            continue;
        }
        if found.str_at(&["spec", "nodeName"]) != node {
            return refuse(format!("pod {name:?} is not running on node {node:?}"));
        }
        if found.str_at(&["spec", "serviceAccountName"]) != said("serviceAccountName") {
            return refuse(format!("pod {name:?} does not run as service account {:?}", said("serviceAccountName")));
        }
        if meta::annotation(&found, "kubernetes.io/config.mirror").is_some() {
            return refuse(format!("pod {name:?} is a mirror pod"));
        }
    }
    Ok(())
}

/// A node may take its finalizer off a volume of the embedded storage that it holds, and change nothing else of volumes.
fn volume(request: &Request<'_>, node: &str, object: &Value, old: Option<&Value>) -> Result<(), Status> {
    let rest = |o: &Value| {
        let mut rest = o.clone();
        meta::remove_finalizer(&mut rest, local_path::PROVISIONER);
        if meta::finalizers(&rest).next().is_none() {
            rest.remove(&["metadata", "finalizers"]);
        }
        rest.remove(&["metadata", "managedFields"]);
        rest
    };
    let holds = |old: &Value| meta::annotation(old, local_path::NODE) == Some(node) && meta::is_terminating(old);
    match old {
        Some(old) if request.operation == Operation::Update && holds(old) && rest(object) == rest(old) => Ok(()),
        _ => Err(request.place.forbidden(&format!("node {node:?} can only let go of terminating volumes that it holds itself"))),
    }
}

fn node_labels(request: &Request<'_>, node: &str, object: &Value, old: Option<&Value>) -> Result<(), Status> {
    if request.operation == Operation::Delete {
        return Err(request.place.forbidden(&format!("node {node:?} is not allowed to delete nodes")));
    }
    let before = old.map(meta::labels).and_then(Value::as_map).cloned().unwrap_or_default();
    for (key, value) in meta::labels(object).as_map().into_iter().flat_map(|m| m.iter()) {
        if before.get(key) != Some(value) && is_restricted(key) {
            return Err(request.place.forbidden(&format!("is not allowed to modify labels: {key}")));
        }
    }
    if old.is_some_and(|o| o.at(&["spec", "taints"]) != object.at(&["spec", "taints"])) {
        return Err(request.place.forbidden(&format!("node {node:?} is not allowed to modify taints")));
    }
    Ok(())
}

/// Labels of Kubernetes' own that a kubelet may not give its node; see NodeRestriction's modifiedLabels.
fn is_restricted(key: &str) -> bool {
    const ALLOWED: [&str; 12] = [
        "kubernetes.io/hostname",
        "kubernetes.io/arch",
        "kubernetes.io/os",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "node.kubernetes.io/exclude-from-external-load-balancers",
    ];
    let Some((prefix, _)) = key.split_once('/') else { return false };
    let within = |domain: &str| prefix == domain || prefix.ends_with(&format!(".{domain}"));
    if within("node-restriction.kubernetes.io") {
        return true;
    }
    let kubelets = within("kubelet.kubernetes.io") || within("node.kubernetes.io");
    (within("kubernetes.io") || within("k8s.io")) && !kubelets && !ALLOWED.contains(&key)
}
