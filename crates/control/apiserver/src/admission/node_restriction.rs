//! NodeRestriction: a kubelet changes its own node and the pods bound to it, and nothing else.

mod tokens;

use std::collections::BTreeSet;

use fram_client::local_path;
use fram_machinery::{Status, Value, meta};

use super::{Operation, Plugin, Request, pods};
use crate::certificates;

pub(super) struct NodeRestriction;

#[async_trait::async_trait]
impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.operation != Operation::Connect && request.user.node().is_some()
    }

    async fn admit(&self, request: &Request<'_>, object: Value, old: Option<&Value>) -> Result<Value, Status> {
        let Some(node) = request.user.node() else { return Ok(object) };
        let asked = Asked { request, node, object: &object, old };
        let kind = request.stored_kind();
        match (kind.group.as_str(), kind.kind.as_str(), request.subresource) {
            ("", "Pod", "") => asked.pod().await?,
            ("", "Pod", "status") => asked.pod_status()?,
            ("", "Pod", "eviction") => asked.eviction().await?,
            ("", "Pod", part) => {
                return asked.refuse(format!("unexpected pod subresource {part:?}, only 'status' and 'eviction' are allowed"));
            }
            ("", "Node", _) => asked.node()?,
            ("", "PersistentVolumeClaim", "status") => asked.claim_status()?,
            ("", "PersistentVolumeClaim", _) => return asked.refuse("may only update PVC status".into()),
            ("", "PersistentVolume", _) => asked.volume()?,
            ("", "ServiceAccount", "token") => asked.token().await?,
            ("certificates.k8s.io", "PodCertificateRequest", "") if request.operation == Operation::Create => {
                asked.pod_certificate().await?;
            }
            ("certificates.k8s.io", "PodCertificateRequest", _) => {
                return asked.refuse(format!("unexpected operation {:?} of node {node:?}", request.operation));
            }
            ("certificates.k8s.io", "CertificateSigningRequest", "") => asked.certificate()?,
            ("coordination.k8s.io", "Lease", _) if request.place.namespace != "kube-node-lease" => {
                return asked.refuse("can only access leases in the \"kube-node-lease\" system namespace".into());
            }
            ("coordination.k8s.io", "Lease", _) => asked.own_name("node lease")?,
            ("storage.k8s.io", "CSINode", _) => asked.own_name("CSINode")?,
            ("resource.k8s.io", "ResourceSlice", _) => asked.slice()?,
            _ => {}
        }
        Ok(object)
    }
}

/// What a node asks for.
struct Asked<'a> {
    request: &'a Request<'a>,
    node: &'a str,
    object: &'a Value,
    old: Option<&'a Value>,
}

impl Asked<'_> {
    fn refuse<T>(&self, why: String) -> Result<T, Status> {
        Err(self.request.place.forbidden(&why))
    }

    async fn pod(&self) -> Result<(), Status> {
        let node = self.node;
        match self.request.operation {
            Operation::Create => self.mirror_pod().await,
            Operation::Delete if self.old.map_or("", |o| o.str_at(&["spec", "nodeName"])) == node => Ok(()),
            Operation::Delete => self.refuse(format!("node {node:?} can only delete pods with spec.nodeName set to itself")),
            other => self.refuse(format!("unexpected operation {other:?}, node {node:?} can only create and delete mirror pods")),
        }
    }

    /// A mirror pod belongs to the node as its one owner, and refers to nothing in the API; see admitPodCreate.
    async fn mirror_pod(&self) -> Result<(), Status> {
        let (pod, node) = (self.object, self.node);
        if !pods::is_mirror(pod) {
            let mirror = pods::MIRROR;
            return self.refuse(format!("pod does not have {mirror:?} annotation, node {node:?} can only create mirror pods"));
        }
        if pod.str_at(&["spec", "nodeName"]) != node {
            return self.refuse(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
        }
        let owner = match meta::owner_references(pod) {
            [] => return self.refuse(format!("node {node:?} can only create pods with an owner reference set to itself")),
            [owner] => owner,
            _ => return self.refuse(format!("node {node:?} can only create pods with a single owner reference set to itself")),
        };
        if ["apiVersion", "kind", "name"].map(|field| owner.str_at(&[field])) != ["v1", "Node", node] {
            return self.refuse(format!("node {node:?} can only create pods with an owner reference set to itself"));
        }
        if owner.bool_at(&["controller"]) != Some(true) {
            return self.refuse(format!("node {node:?} can only create pods with a controller owner reference set to itself"));
        }
        if owner.bool_at(&["blockOwnerDeletion"]) == Some(true) {
            return self.refuse(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
        }
        let Some(found) = self.request.find("", "v1", "nodes", "", node).await? else {
            return Err(Status::not_found("", "nodes", node));
        };
        if meta::uid(&found) != owner.str_at(&["uid"]) {
            let why = format!("node {node} UID mismatch: expected {} got {}", owner.str_at(&["uid"]), meta::uid(&found));
            return self.refuse(why);
        }
        match pods::references(pod).first() {
            Some(what) => self.refuse(format!("node {node:?} can not create pods that reference {what}")),
            None => Ok(()),
        }
    }

    fn pod_status(&self) -> Result<(), Status> {
        let (node, old) = (self.node, self.old.unwrap_or(&Value::Null));
        if old.str_at(&["spec", "nodeName"]) != node {
            return self.refuse(format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"));
        }
        let changes = |path: &[&str]| differ(old, self.object, path);
        if changes(&["metadata", "labels"]) {
            return self.refuse(format!("node {node:?} cannot update labels through pod status"));
        }
        if changes(&["status", "resourceClaimStatuses"]) {
            return self.refuse(format!("node {node:?} cannot update resource claim statues"));
        }
        if changes(&["status", "extendedResourceClaimStatus"]) {
            return self.refuse(format!("node {node:?} cannot update extended resource claim status"));
        }
        Ok(())
    }

    async fn eviction(&self) -> Result<(), Status> {
        let (place, node) = (self.request.place, self.node);
        let Some(pod) = self.request.find("", "v1", "pods", &place.namespace, &place.name).await? else {
            return Err(place.not_found());
        };
        if pod.str_at(&["spec", "nodeName"]) != node {
            return self.refuse(format!("node {node} can only evict pods with spec.nodeName set to itself"));
        }
        Ok(())
    }

    /// Labels and taints steer what runs where, and owners what is deleted with the node: these are not for the node to say.
    fn node(&self) -> Result<(), Status> {
        let (node, object) = (self.node, self.object);
        if self.request.name() != node {
            return self.refuse(format!("node {node:?} is not allowed to modify node {:?}", self.request.name()));
        }
        let forbidden = || restricted_changes(object, self.old).join(", ");
        match (self.request.operation, self.old) {
            (Operation::Create, _) if object.at(&["spec", "configSource"]).is_some_and(|source| !source.is_null()) => {
                self.refuse(format!("node {node:?} is not allowed to create pods with a non-nil configSource"))
            }
            (Operation::Create, _) if !forbidden().is_empty() => {
                self.refuse(format!("node {node:?} is not allowed to set the following labels: {}", forbidden()))
            }
            (Operation::Update, Some(old)) => {
                let changes = |path: &[&str]| differ(old, object, path);
                if object.at(&["spec", "configSource"]).is_some_and(|source| !source.is_null()) && changes(&["spec", "configSource"]) {
                    return self.refuse(format!("node {node:?} is not allowed to update configSource to a new non-nil configSource"));
                }
                if changes(&["spec", "taints"]) {
                    return self.refuse(format!("node {node:?} is not allowed to modify taints"));
                }
                if changes(&["metadata", "ownerReferences"]) {
                    return self.refuse(format!("node {node:?} is not allowed to modify ownerReferences"));
                }
                match forbidden() {
                    none if none.is_empty() => Ok(()),
                    labels => self.refuse(format!("is not allowed to modify labels: {labels}")),
                }
            }
            // Stricter than upstream, whose Node authorizer gives no right to delete.
            (Operation::Delete, _) => self.refuse(format!("node {node:?} is not allowed to delete nodes")),
            _ => Ok(()),
        }
    }

    /// Of a claim's status a node says how large the volume has become, and nothing else.
    fn claim_status(&self) -> Result<(), Status> {
        const SAID: [&str; 4] = ["capacity", "conditions", "allocatedResources", "allocatedResourceStatuses"];
        let rest = |claim: &Value| {
            let mut rest = claim.clone();
            for field in SAID {
                rest.remove(&["status", field]);
            }
            for field in ["resourceVersion", "managedFields"] {
                rest.remove(&["metadata", field]);
            }
            if rest.get("status").is_some_and(Value::is_empty) {
                rest.remove(&["status"]);
            }
            rest
        };
        if self.request.operation == Operation::Update && self.old.is_some_and(|old| rest(old) == rest(self.object)) {
            return Ok(());
        }
        self.refuse(format!("node {:?} is not allowed to update fields other than status.quantity and status.conditions", self.node))
    }

    /// A node may take its finalizer off a volume of the embedded storage that it holds, and change nothing else of volumes.
    fn volume(&self) -> Result<(), Status> {
        let node = self.node;
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
        match self.old {
            Some(old) if self.request.operation == Operation::Update && holds(old) && rest(self.object) == rest(old) => Ok(()),
            _ => self.refuse(format!("node {node:?} can only let go of terminating volumes that it holds itself")),
        }
    }

    fn own_name(&self, what: &str) -> Result<(), Status> {
        if self.request.name() == self.node {
            return Ok(());
        }
        self.refuse(format!("can only access {what} with the same name as the requesting node"))
    }

    fn slice(&self) -> Result<(), Status> {
        let (verb, slice) = match self.request.operation {
            Operation::Create => ("create", Some(self.object)),
            Operation::Delete => ("delete", self.old),
            _ => return Ok(()),
        };
        if slice.is_some_and(|slice| slice.str_at(&["spec", "nodeName"]) == self.node) {
            return Ok(());
        }
        self.refuse(format!("can only {verb} ResourceSlice with the same NodeName as the requesting node"))
    }

    /// A kubelet asks for certificates in its own name.
    fn certificate(&self) -> Result<(), Status> {
        let signers = ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];
        if self.request.operation != Operation::Create || !signers.contains(&self.object.str_at(&["spec", "signerName"])) {
            return Ok(());
        }
        let wanted = format!("system:node:{}", self.node);
        match certificates::common_name(self.object) {
            Some(name) if name == wanted => Ok(()),
            _ => self.refuse(format!("can only create a node CSR with CN={wanted}")),
        }
    }

    /// A node asks for certificates of pods that run on it, as the service account that they run as; see admitPodCertificateRequest.
    async fn pod_certificate(&self) -> Result<(), Status> {
        let (request, node) = (self.request, self.node);
        let said = |field: &str| self.object.str_at(&["spec", field]);
        let namespace = &request.place.namespace;
        let refuse = |why: String| self.refuse(why);
        if said("nodeName") != node {
            return refuse(format!(
                "PodCertificateRequest.Spec.NodeName={:?}, which is not the requesting node {node:?}",
                said("nodeName")
            ));
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
            if pods::is_mirror(&found) {
                return refuse(format!("pod {name:?} is a mirror pod"));
            }
        }
        Ok(())
    }
}

/// Whether two objects say something else there; nothing is as good as empty.
fn differ(a: &Value, b: &Value, path: &[&str]) -> bool {
    let [a, b] = [a, b].map(|object| object.at(path).filter(|part| !part.is_empty()));
    a != b
}

/// The labels that a node may not change and that are not as they were.
fn restricted_changes(object: &Value, old: Option<&Value>) -> Vec<String> {
    let labels = |object: Option<&Value>| object.map(meta::labels).and_then(Value::as_map).cloned().unwrap_or_default();
    let (now, before) = (labels(Some(object)), labels(old));
    let keys: BTreeSet<&str> = now.iter().chain(before.iter()).map(|(key, _)| key.as_str()).collect();
    keys.into_iter().filter(|key| now.get(key) != before.get(key) && is_restricted(key)).map(String::from).collect()
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
