//! One informer per resource, shared by all components that ask for it.

mod parts;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use fram_machinery::{Text, Value, meta};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::resources::{CONTROLLER_REVISIONS, NODES, PODS, REPLICA_SETS, RESOURCE_CLAIMS, RESOURCE_SLICES, SERVICES};
use crate::{Client, Informer, InformerOptions, Resource};
use parts::Parts;

/// Every shared informer finds the objects that refer to an owner by the owner's UID under this index.
pub const OWNER_INDEX: &str = "owner";

/// Pods, ReplicaSets and ControllerRevisions without a controller are found by their namespace under this index: whoever wants to adopt some
/// need not look through all the others.
pub const FREE_INDEX: &str = "free";

/// Pods are found by the name of their node under this index.
pub const NODE_INDEX: &str = "node";

/// Pods that a Job still counts are found by the key of the Job that they name under this index, also where it is gone. Those without a
/// controller name it by their label.
pub const JOB_INDEX: &str = "job";

/// ResourceSlices, and ResourceClaims that have devices of them, are found by driver and pool, `driver/pool`, under this index.
pub const POOL_INDEX: &str = "pool";

/// Services are found by each of their addresses, in its shortest form, under this index.
pub const ADDRESS_INDEX: &str = "address";

/// By what name a pod's Job is known to people.
const JOB_NAME: &str = "batch.kubernetes.io/job-name";

/// What keeps a pod until its Job has counted it; see batch/v1's JobTrackingFinalizer.
const COUNTED: &str = "batch.kubernetes.io/job-tracking";

/// The text below a path, which its object shares, unless it is empty.
fn text(object: &Value, path: &[&str]) -> Option<Text> {
    match object.at(path) {
        Some(Value::String(text)) if !text.is_empty() => Some(text.clone()),
        _ => None,
    }
}

fn node(pod: &Value) -> Vec<Text> {
    text(pod, &["spec", "nodeName"]).into_iter().collect()
}

fn free(object: &Value) -> Vec<Text> {
    let namespace = || text(object, &["metadata", "namespace"]).unwrap_or_default();
    meta::controller_of(object).is_none().then(namespace).into_iter().collect()
}

fn job(pod: &Value) -> Vec<Text> {
    if !meta::has_finalizer(pod, COUNTED) {
        return Vec::new();
    }
    let job = match meta::controller_of(pod) {
        Some(owner) if owner.str_at(&["kind"]) == "Job" => owner.str_at(&["name"]),
        Some(_) => return Vec::new(),
        None => meta::label(pod, JOB_NAME).unwrap_or_default(),
    };
    vec![format!("{}/{job}", meta::namespace(pod)).into()]
}

fn pool(slice: &Value) -> Vec<Text> {
    vec![format!("{}/{}", slice.str_at(&["spec", "driver"]), slice.str_at(&["spec", "pool", "name"])).into()]
}

fn pools(claim: &Value) -> Vec<Text> {
    let results = claim.list_at(&["status", "allocation", "devices", "results"]).iter();
    let pools: BTreeSet<String> = results.map(|r| format!("{}/{}", r.str_at(&["driver"]), r.str_at(&["pool"]))).collect();
    pools.into_iter().map(Text::from).collect()
}

fn addresses(service: &Value) -> Vec<Text> {
    let all = service.list_at(&["spec", "clusterIPs"]).iter();
    all.filter_map(|ip| ip.as_str()?.parse::<IpAddr>().ok()).map(|ip| ip.to_string().into()).collect()
}

/// What a container does inside is its kubelet's business, which has an informer of its own. The pods of a cluster are many, and
/// this is most of each.
const INSIDES: [&str; 13] = [
    "args",
    "command",
    "lifecycle",
    "livenessProbe",
    "readinessProbe",
    "securityContext",
    "startupProbe",
    "stdin",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "tty",
    "volumeMounts",
    "workingDir",
];

/// What of a pod nobody asks for outside of its node is taken out.
fn without_insides(pod: &mut Value) {
    let is_asked_for = |volume: &Value| volume.get("projected").is_none() || names_secret(volume);
    if !pod.list_at(&["spec", "volumes"]).iter().all(is_asked_for) {
        // Those that admission adds have names of their own, by which no two pods would be alike.
        pod.place(&["spec", "volumes"]).make_list().retain(|volume| is_asked_for(volume));
        if pod.list_at(&["spec", "volumes"]).is_empty() {
            pod.remove(&["spec", "volumes"]);
        }
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        if pod.list_at(&["spec", list]).is_empty() {
            continue;
        }
        for container in pod.place(&["spec", list]).make_list().make_mut() {
            container.make_map().retain(|key, _| !INSIDES.contains(&key.as_str()));
            keep_named_secrets(container);
        }
    }
}

fn names_secret(projected: &Value) -> bool {
    projected.list_at(&["projected", "sources"]).iter().any(|source| source.get("secret").is_some())
}

/// Of a container's environment only what names Secrets is kept: who clears unused Secrets away has to see it.
fn keep_named_secrets(container: &mut Value) {
    for (list, names) in [("env", &["valueFrom", "secretKeyRef"][..]), ("envFrom", &["secretRef"][..])] {
        if container.get(list).is_none() {
            continue;
        }
        container.place(&[list]).make_list().retain(|entry| entry.at(names).is_some_and(|named| !named.is_null()));
        if container.list_at(&[list]).is_empty() {
            container.remove(&[list]);
        }
    }
}

fn owners(object: &Value) -> Vec<Text> {
    meta::owner_references(object).iter().map(|owner| text(owner, &["uid"]).unwrap_or_default()).collect()
}

/// How the objects of a resource are held and found.
fn options(resource: &Resource, metadata_only: bool) -> InformerOptions {
    let mut options = InformerOptions { metadata_only, ..InformerOptions::default() }.index(OWNER_INDEX, owners);
    if *resource == PODS {
        let parts = Mutex::new(Parts::default());
        options.projection = Some(Arc::new(move |pod| {
            without_insides(pod);
            parts.lock().share_pod(pod);
        }));
        options = options.index(NODE_INDEX, node).index(JOB_INDEX, job);
    }
    if *resource == NODES {
        let parts = Mutex::new(Parts::default());
        options.projection = Some(Arc::new(move |node| parts.lock().share_node(node)));
    }
    if *resource == RESOURCE_SLICES {
        options = options.index(POOL_INDEX, pool);
    }
    if *resource == RESOURCE_CLAIMS {
        options = options.index(POOL_INDEX, pools);
    }
    if *resource == SERVICES {
        options = options.index(ADDRESS_INDEX, addresses);
    }
    if [PODS, REPLICA_SETS, CONTROLLER_REVISIONS].contains(resource) {
        options = options.index(FREE_INDEX, free);
    }
    options
}

/// Informers over all namespaces, started when they are first asked for. Clones share them.
#[derive(Clone)]
pub struct SharedInformers {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Each with what ends it alone; those that hold metadata only are told apart.
    informers: Mutex<HashMap<(Resource, bool), (Informer, CancellationToken)>>,
}

impl SharedInformers {
    /// Pods come without what their containers do inside: nobody may write one back.
    pub fn new(client: Client, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { inner: Arc::new(Inner { client, tasks, stop, informers: Mutex::default() }) }
    }

    pub fn get(&self, resource: &Resource) -> Informer {
        self.start(resource, false)
    }

    /// An informer that holds the metadata of objects and nothing else.
    pub fn metadata(&self, resource: &Resource) -> Informer {
        self.start(resource, true)
    }

    fn start(&self, resource: &Resource, metadata_only: bool) -> Informer {
        let inner = &self.inner;
        let options = options(resource, metadata_only);
        let start = || {
            let stop = inner.stop.child_token();
            (Informer::start(inner.client.clone(), resource.clone(), "", options.clone(), &inner.tasks, stop.clone()), stop)
        };
        inner.informers.lock().entry((resource.clone(), metadata_only)).or_insert_with(start).0.clone()
    }

    /// Ends the informers of a resource that is not served any more.
    pub fn forget(&self, resource: &Resource) {
        for metadata_only in [false, true] {
            if let Some((_, stop)) = self.inner.informers.lock().remove(&(resource.clone(), metadata_only)) {
                stop.cancel();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    #[test]
    fn of_containers_only_what_others_ask_for_is_kept() {
        let mut pod = object!({ "metadata": { "name": "p" }, "spec": { "nodeName": "n",
            "containers": [{ "name": "c", "image": "i", "env": [{ "name": "A" }], "ports": [{ "containerPort": 1 }] }] } });
        without_insides(&mut pod);
        let expect = object!({ "metadata": { "name": "p" }, "spec": { "nodeName": "n",
            "containers": [{ "name": "c", "image": "i", "ports": [{ "containerPort": 1 }] }] } });
        assert_eq!(pod, expect);
    }

    #[test]
    fn projected_volumes_are_kept_where_they_name_secrets() {
        let volume = |name: &str, source: Value| object!({ "name": name, "projected": { "sources": [source] } });
        let token = || volume("kube-api-access-x", object!({ "serviceAccountToken": { "path": "token" } }));
        let secret = || volume("v", object!({ "secret": { "name": "s" } }));
        let pod = |volumes: Value| object!({ "spec": { "nodeName": "n", "volumes": volumes } });
        let mut both = pod(object!([(token()), (secret())]));
        without_insides(&mut both);
        assert_eq!(both, pod(object!([(secret())])));
        let mut one = pod(object!([(token())]));
        without_insides(&mut one);
        assert_eq!(one, object!({ "spec": { "nodeName": "n" } }));
    }

    #[test]
    fn secrets_that_a_container_s_environment_names_are_kept() {
        let secret = object!({ "name": "A", "valueFrom": { "secretKeyRef": { "name": "s", "key": "k" } } });
        let mut pod = object!({ "spec": { "containers": [{ "name": "c", "env": [{ "name": "B", "value": "b" }, (secret.clone())],
            "envFrom": [{ "configMapRef": { "name": "m" } }, { "secretRef": { "name": "t" } }] }] } });
        without_insides(&mut pod);
        let expect =
            object!({ "spec": { "containers": [{ "name": "c", "env": [(secret)], "envFrom": [{ "secretRef": { "name": "t" } }] }] } });
        assert_eq!(pod, expect);
    }

    #[test]
    fn a_pod_is_found_by_its_job_until_that_has_counted_it() {
        let pod = |finalizer: &str, kind: &str, controller: bool| {
            object!({ "metadata": { "namespace": "ns", "finalizers": [finalizer],
                "ownerReferences": [{ "kind": kind, "name": "j", "uid": "u", "controller": controller }] } })
        };
        assert_eq!(job(&pod(COUNTED, "Job", true)), ["ns/j"]);
        for other in [pod("other", "Job", true), pod(COUNTED, "ReplicaSet", true), pod("other", "Job", false)] {
            assert!(job(&other).is_empty(), "{other:?}");
        }
        let mut left = pod(COUNTED, "Job", false);
        assert_eq!(job(&left), ["ns/"]);
        meta::set_label(&mut left, JOB_NAME, "j");
        assert_eq!(job(&left), ["ns/j"]);
    }

    /// As it is stored, without who manages which field.
    fn bound(number: usize) -> Value {
        let name = format!("basic-{number}");
        object!({ "apiVersion": "v1", "kind": "Pod",
            "metadata": { "creationTimestamp": "2026-11-22T10:00:00Z", "generation": 1, "labels": { "color": "green" }, "name": (name.as_str()),
                "namespace": "bench", "resourceVersion": (number.to_string()), "uid": (format!("9db0fd61-cd2f-4a4c-b0f5-{number:012}")) },
            "spec": {
                "containers": [{ "image": "registry.k8s.io/pause:3.10.2", "imagePullPolicy": "IfNotPresent", "name": "pause",
                    "ports": [{ "containerPort": 80, "protocol": "TCP" }], "resources": { "requests": { "cpu": "100m", "memory": "100Mi" } },
                    "terminationMessagePath": "/dev/termination-log",
                    "volumeMounts": [{ "mountPath": "/var/run/secrets", "name": (format!("kube-api-access-{number}")), "readOnly": true }] }],
                "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "nodeName": (format!("node-{}", number % 500)),
                "preemptionPolicy": "PreemptLowerPriority", "priority": 0, "restartPolicy": "Always", "schedulerName": "default-scheduler",
                "securityContext": {}, "serviceAccount": "default", "serviceAccountName": "default", "terminationGracePeriodSeconds": 30,
                "tolerations": [{ "effect": "NoExecute", "key": "node.kubernetes.io/not-ready", "operator": "Exists", "tolerationSeconds": 300 }],
                "volumes": [{ "name": (format!("kube-api-access-{number}")), "projected": { "sources": [{ "serviceAccountToken": { "path": "token" } }] } }] },
            "status": { "conditions": [{ "lastProbeTime": null, "lastTransitionTime": "2026-11-22T10:00:01Z", "observedGeneration": 1,
                "status": "True", "type": "PodScheduled" }], "phase": "Pending", "qosClass": "Burstable" } })
    }

    /// With two dozen images of a hundred that there are.
    fn machine(number: usize) -> Value {
        let name = format!("node-{number}");
        let images = (0..25).map(|n| {
            object!({ "names": [(format!("registry.example.com/some/image@sha256:{:064}", (number + 4 * n) % 100))],
            "sizeBytes": 12345678 })
        });
        let condition = |ty: &str| {
            object!({ "type": ty, "status": "False", "reason": "KubeletHasNoPressure", "message": "there is enough of everything",
            "lastHeartbeatTime": (format!("2026-11-22T10:{:02}:{:02}Z", number / 60 % 60, number % 60)), "lastTransitionTime": "2026-11-22T10:00:01Z" })
        };
        let all = || object!({ "cpu": "4", "ephemeral-storage": "100Gi", "memory": "32Gi", "pods": "110" });
        object!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": (name.as_str()), "labels": { "kubernetes.io/hostname": name } },
            "status": { "allocatable": (all()), "capacity": (all()), "images": (images.collect::<Vec<_>>()),
                "conditions": [(condition("Ready")), (condition("MemoryPressure")), (condition("DiskPressure")), (condition("PIDPressure"))] } })
    }

    #[test]
    fn a_node_takes_as_much_as_what_it_alone_has() {
        const COUNT: usize = 1000;
        let options = options(&NODES, false);
        let informer = Informer::by_hand(options.indices);
        let project = options.projection.expect("that of nodes");
        let before = fram_fuzz::held();
        for number in 0..COUNT {
            let mut node = machine(number);
            project(&mut node);
            informer.put(Arc::new(node));
        }
        let each = (fram_fuzz::held() - before) / COUNT;
        println!("{each} bytes a node");
        assert!(each <= 4000, "{each} bytes a node");
    }

    #[test]
    fn a_bound_pod_takes_as_much_as_what_it_alone_has() {
        const COUNT: usize = 5000;
        let options = options(&PODS, false);
        let informer = Informer::by_hand(options.indices);
        let project = options.projection.expect("that of pods");
        let before = fram_fuzz::held();
        for number in 0..COUNT {
            let mut pod = bound(number);
            project(&mut pod);
            informer.put(Arc::new(pod));
        }
        let each = (fram_fuzz::held() - before) / COUNT;
        println!("{each} bytes a pod, {} an entry", size_of::<(fram_machinery::Key, Value)>());
        assert!(each <= 1000, "{each} bytes a pod");
    }
}
