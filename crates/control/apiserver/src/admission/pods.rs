//! Plugins that fill in pods: Priority, DefaultTolerationSeconds, RuntimeClass.

use fram_machinery::quantity::Quantity;
use fram_machinery::{Status, Value, meta, object};

use super::{Operation, Plugin, Request};

/// Priority: the class's value and preemption policy; names must exist.
pub(super) struct Priority;

#[async_trait::async_trait]
impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        let written = matches!(request.operation, Operation::Create | Operation::Update);
        written && (request.is_about("", "Pod") || request.is_about("scheduling.k8s.io", "PriorityClass"))
    }

    async fn admit(&self, request: &Request<'_>, mut object: Value, old: Option<&Value>) -> Result<Value, Status> {
        if !request.is_about("", "Pod") {
            return Ok(object);
        }
        if request.operation == Operation::Update {
            for field in ["priority", "preemptionPolicy"] {
                if object.at(&["spec", field]).is_none()
                    && let Some(kept) = old.and_then(|old| old.at(&["spec", field]))
                {
                    object.set(&["spec", field], kept.clone());
                }
            }
            return Ok(object);
        }
        let name = object.str_at(&["spec", "priorityClassName"]).to_string();
        let class = if name.is_empty() {
            default_priority(request).await?
        } else {
            let class = request.find("scheduling.k8s.io", "v1", "priorityclasses", "", &name).await?;
            Some(class.ok_or_else(|| request.place.forbidden(&format!("no PriorityClass with name {name} was found")))?)
        };
        let priority = class.as_ref().and_then(|c| c.int_at(&["value"])).unwrap_or(0);
        if let Some(given) = object.int_at(&["spec", "priority"])
            && given != priority
        {
            let why = format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {priority} from the given PriorityClass name"
            );
            return Err(request.place.forbidden(&why));
        }
        object.set(&["spec", "priority"], priority);
        if let Some(class) = &class {
            object.set(&["spec", "priorityClassName"], meta::name(class));
        }
        let policy = class.as_ref().map(|c| c.str_at(&["preemptionPolicy"])).filter(|p| !p.is_empty()).unwrap_or("PreemptLowerPriority");
        if let Some(given) = object.at(&["spec", "preemptionPolicy"]).and_then(Value::as_str)
            && given != policy
        {
            let why = format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
            );
            return Err(request.place.forbidden(&why));
        }
        object.set(&["spec", "preemptionPolicy"], policy);
        Ok(object)
    }

    async fn validate(&self, request: &Request<'_>, object: Option<&Value>, _old: Option<&Value>) -> Result<(), Status> {
        let Some(class) = object.filter(|_| request.is_about("scheduling.k8s.io", "PriorityClass")) else { return Ok(()) };
        if class.bool_at(&["globalDefault"]) != Some(true) {
            return Ok(());
        }
        match default_priority(request).await? {
            Some(other) if meta::name(&other) != meta::name(class) => {
                let why = format!("PriorityClass {} is already marked as default. Only one default can exist", meta::name(&other));
                Err(request.place.forbidden(&why))
            }
            _ => Ok(()),
        }
    }
}

/// The class of pods that name none; of several the one with the lowest value.
async fn default_priority(request: &Request<'_>) -> Result<Option<Value>, Status> {
    let all = request.list("scheduling.k8s.io", "v1", "priorityclasses", "").await?;
    let defaults = all.into_iter().filter(|class| class.bool_at(&["globalDefault"]) == Some(true));
    Ok(defaults.min_by_key(|class| class.int_at(&["value"]).unwrap_or(0)))
}

/// DefaultTolerationSeconds: pods stay five minutes on a node that does not answer.
pub(super) struct DefaultTolerationSeconds;

#[async_trait::async_trait]
impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        matches!(request.operation, Operation::Create | Operation::Update) && request.is_about("", "Pod")
    }

    async fn admit(&self, _request: &Request<'_>, mut object: Value, _old: Option<&Value>) -> Result<Value, Status> {
        for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
            let covers = |t: &Value| {
                let named = t.str_at(&["key"]);
                (named == key || named.is_empty()) && matches!(t.str_at(&["effect"]), "" | "NoExecute")
            };
            if !object.list_at(&["spec", "tolerations"]).iter().any(covers) {
                let toleration = object!({ "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300 });
                object.place(&["spec", "tolerations"]).make_list().push(toleration);
            }
        }
        Ok(object)
    }
}

/// RuntimeClass: its overhead and scheduling become the pod's; names must exist.
pub(super) struct RuntimeClass;

#[async_trait::async_trait]
impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.creates("", "Pod")
    }

    async fn admit(&self, request: &Request<'_>, mut object: Value, _old: Option<&Value>) -> Result<Value, Status> {
        let Some(class) = runtime_class(request, &object).await? else { return Ok(object) };
        let overhead = overhead(&class);
        if !overhead.is_empty() {
            let given = object.at(&["spec", "overhead"]).unwrap_or(&Value::Null);
            if !given.is_empty() && !same_amounts(given, overhead) {
                return Err(request.place.forbidden(OTHER_OVERHEAD));
            }
            object.set(&["spec", "overhead"], overhead.clone());
        }
        for (key, value) in class.at(&["scheduling", "nodeSelector"]).and_then(Value::as_map).into_iter().flat_map(|m| m.iter()) {
            let selector = object.place(&["spec", "nodeSelector"]).make_map();
            if let Some(given) = selector.get(key).filter(|given| *given != value) {
                let [given, value] = [given, value].map(|v| v.as_str().unwrap_or_default());
                let why =
                    format!("conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {given}");
                return Err(request.place.forbidden(&why));
            }
            selector.insert(key.clone(), value.clone());
        }
        for toleration in class.list_at(&["scheduling", "tolerations"]) {
            let list = object.place(&["spec", "tolerations"]).make_list();
            if !list.contains(toleration) {
                list.push(toleration.clone());
            }
        }
        Ok(object)
    }

    async fn validate(&self, request: &Request<'_>, object: Option<&Value>, _old: Option<&Value>) -> Result<(), Status> {
        let Some(pod) = object else { return Ok(()) };
        let class = runtime_class(request, pod).await?;
        let given = pod.at(&["spec", "overhead"]).unwrap_or(&Value::Null);
        match class.as_ref().map_or(&Value::Null, overhead) {
            none if none.is_empty() && !given.is_empty() => {
                Err(request.place.forbidden("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"))
            }
            wanted if !wanted.is_empty() && !same_amounts(given, wanted) => Err(request.place.forbidden(OTHER_OVERHEAD)),
            _ => Ok(()),
        }
    }
}

const OTHER_OVERHEAD: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

/// The class that a pod names, which has to be there.
async fn runtime_class(request: &Request<'_>, pod: &Value) -> Result<Option<Value>, Status> {
    let name = pod.str_at(&["spec", "runtimeClassName"]);
    if name.is_empty() {
        return Ok(None);
    }
    let class = request.find("node.k8s.io", "v1", "runtimeclasses", "", name).await?;
    class.map(Some).ok_or_else(|| request.place.forbidden(&format!("pod rejected: RuntimeClass {name:?} not found")))
}

fn overhead(class: &Value) -> &Value {
    class.at(&["overhead", "podFixed"]).unwrap_or(&Value::Null)
}

fn same_amounts(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_map(), b.as_map()) else { return false };
    let amount = |v: &Value| v.as_str().and_then(|s| s.parse::<Quantity>().ok());
    a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|w| amount(v) == amount(w)))
}

/// Marks a pod that shows what a kubelet runs by itself.
pub(super) const MIRROR: &str = "kubernetes.io/config.mirror";

pub(super) fn is_mirror(pod: &Value) -> bool {
    meta::annotation(pod, MIRROR).is_some()
}

/// What of the API a pod refers to, in the order and the words of upstream's HasAPIObjectReference: who has to do without the API may
/// refer to nothing.
pub(super) fn references(pod: &Value) -> Vec<&'static str> {
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    let containers = || lists.into_iter().flat_map(|list| pod.list_at(&["spec", list]));
    let names = |whole: &str, key: &str| {
        containers().any(|c| {
            let sources = c.list_at(&["envFrom"]).iter().map(|source| source.get(whole));
            let keys = c.list_at(&["env"]).iter().map(|variable| variable.at(&["valueFrom", key]));
            sources.chain(keys).flatten().any(|reference| !reference.is_null())
        })
    };
    let of_pod = [
        ("serviceaccounts", !pod.str_at(&["spec", "serviceAccountName"]).is_empty()),
        ("secrets", !pod.list_at(&["spec", "imagePullSecrets"]).is_empty() || names("secretRef", "secretKeyRef")),
        ("configmaps", names("configMapRef", "configMapKeyRef")),
        ("resourceclaims", !pod.list_at(&["spec", "resourceClaims"]).is_empty()),
    ];
    let mut found: Vec<&str> = of_pod.into_iter().filter_map(|(what, is_there)| is_there.then_some(what)).collect();
    for volume in pod.list_at(&["spec", "volumes"]) {
        let has = |(path, what): (&[&str], &'static str)| volume.at(path).is_some_and(|part| !part.is_null()).then_some(what);
        found.extend(OF_VOLUMES.into_iter().filter_map(has));
        found.extend(volume.list_at(&["projected", "sources"]).iter().filter_map(of_projection));
    }
    found
}

/// What volumes refer to, and where they do.
const OF_VOLUMES: [(&[&str], &str); 14] = [
    (&["configMap"], "configmaps (via configmap volumes)"),
    (&["secret"], "secrets (via secret volumes)"),
    (&["csi"], "csidrivers (via CSI volumes)"),
    (&["glusterfs"], "endpoints (via glusterFS volumes)"),
    (&["persistentVolumeClaim"], "persistentvolumeclaims"),
    (&["ephemeral"], "persistentvolumeclaims (via ephemeral volumes)"),
    (&["azureFile"], "secrets (via azureFile volumes)"),
    (&["cephfs", "secretRef"], "secrets"),
    (&["cinder", "secretRef"], "secrets"),
    (&["flexVolume", "secretRef"], "secrets"),
    (&["iscsi", "secretRef"], "secrets"),
    (&["rbd", "secretRef"], "secrets"),
    (&["scaleIO", "secretRef"], "secrets"),
    (&["storageos", "secretRef"], "secrets"),
];

fn of_projection(source: &Value) -> Option<&'static str> {
    let of = [
        ("configMap", "configmaps (via projected volumes)"),
        ("secret", "secrets (via projected volumes)"),
        ("serviceAccountToken", "serviceaccounts (via projected volumes)"),
        ("clusterTrustBundle", "clustertrustbundles"),
        ("podCertificate", "podcertificates"),
    ];
    of.into_iter().find_map(|(part, what)| source.get(part).is_some_and(|p| !p.is_null()).then_some(what))
}
