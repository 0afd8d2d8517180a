//! What the plugins of admission make of requests, and what a node may not write.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod common {
    pub(crate) mod server;
}
mod chosen {
    mod plugins;
}

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::server::{client_as, in_memory, server, server_in};
use fram_apiserver::environment::Random;
use fram_apiserver::{Environment, Server, User};
use fram_client::resources::{
    CSI_NODES, LEASES, LIMIT_RANGES, NODES, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS, PRIORITY_CLASSES, RESOURCE_CLAIMS,
    RESOURCE_SLICES, SERVICE_ACCOUNTS, STORAGE_CLASSES,
};
use fram_client::{Client, DeleteOptions, PatchKind, Resource};
use fram_machinery::{Reason, Value, meta, object};

const INGRESSES: Resource = Resource::new("networking.k8s.io", "v1", "ingresses");
const INGRESS_CLASSES: Resource = Resource::new("networking.k8s.io", "v1", "ingressclasses");

fn root(server: &Arc<Server>) -> Client {
    client_as(server, User::authenticated("admin", &["system:masters"]))
}

fn node(server: &Arc<Server>, name: &str) -> Client {
    client_as(server, User::authenticated(&format!("system:node:{name}"), &["system:nodes"]))
}

fn pod(name: &str, spec: Value) -> Value {
    let mut pod = object!({ "metadata": { "name": name }, "spec": (spec) });
    pod.set(&["spec", "containers"], object!([{ "name": "c", "image": "i:1", "resources": { "requests": { "cpu": "1" } } }]));
    pod
}

async fn with_account(client: &Client) {
    client.within(&SERVICE_ACCOUNTS, "default").create(object!({ "metadata": { "name": "default" } })).await.unwrap();
}

/// A node of two cores in a zone, and a pod `p` that is bound to it.
async fn with_node(client: &Client) {
    with_account(client).await;
    let labels = object!({ "topology.kubernetes.io/zone": "z1", "topology.kubernetes.io/region": "r1", "kubernetes.io/os": "linux" });
    let status = object!({ "allocatable": { "cpu": "2", "memory": "1Gi" } });
    client.all(&NODES).create(object!({ "metadata": { "name": "n1", "labels": (labels) }, "status": (status) })).await.unwrap();
    client.within(&PODS, "default").create(pod("p", object!({}))).await.unwrap();
    let binding = object!({ "metadata": { "name": "p" }, "target": { "kind": "Node", "name": "n1" } });
    client.within(&PODS, "default").create_subresource("p", "binding", binding).await.unwrap();
}

#[tokio::test]
async fn a_pod_waits_for_the_default_account_of_a_new_namespace() {
    let server = server(in_memory()).await;
    let client = root(&server);
    let pods = client.within(&PODS, "default");
    let accounted = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        with_account(&client).await;
    };
    let (made, ()) = tokio::join!(pods.create(pod("p", object!({}))), accounted);
    assert_eq!(made.unwrap().str_at(&["spec", "serviceAccountName"]), "default");
    // Others are not waited for, and not even that one without end.
    let other = client.within(&PODS, "default").create(pod("q", object!({ "serviceAccountName": "other" }))).await.unwrap_err();
    assert!(other.is(Reason::Forbidden) && other.message.contains("serviceaccount \"other\" not found"), "{other:?}");
    client.within(&SERVICE_ACCOUNTS, "default").delete("default", DeleteOptions::default()).await.unwrap();
    assert!(client.within(&PODS, "default").create(pod("q", object!({}))).await.unwrap_err().is(Reason::Forbidden));
}

/// Says the same many times before it says something else.
struct Slow(AtomicU64);

impl Random for Slow {
    fn u64(&self) -> u64 {
        (self.0.fetch_add(1, Ordering::Relaxed) / 30) << 33
    }
}

#[tokio::test]
async fn a_name_that_is_taken_is_made_anew() {
    let environment = Environment { random: Arc::new(Slow(AtomicU64::default())), ..Environment::system() };
    let server = server_in(in_memory(), environment).await;
    let maps = root(&server).within(&fram_client::resources::CONFIG_MAPS, "default");
    let mut names = std::collections::BTreeSet::new();
    for _ in 0..5 {
        let made = maps.create(object!({ "metadata": { "generateName": "many-" } })).await.unwrap();
        names.insert(meta::name(&made).to_string());
    }
    assert!(names.len() == 5 && names.iter().all(|name| name.starts_with("many-")), "{names:?}");
}

#[tokio::test]
async fn who_is_bound_to_a_node_is_labelled_with_its_zone() {
    let server = server(in_memory()).await;
    let client = root(&server);
    with_node(&client).await;
    let zone = |pod: &Value| meta::label(pod, "topology.kubernetes.io/zone").map(String::from);
    let pods = client.within(&PODS, "default");
    let bound = pods.get("p").await.unwrap();
    assert_eq!((zone(&bound).as_deref(), meta::label(&bound, "topology.kubernetes.io/region")), (Some("z1"), Some("r1")));
    assert_eq!(meta::label(&bound, "kubernetes.io/os"), None);
    let placed = pods.create(pod("placed", object!({ "nodeName": "n1" }))).await.unwrap();
    assert_eq!(zone(&placed).as_deref(), Some("z1"));
    let elsewhere = pods.create(pod("elsewhere", object!({ "nodeName": "n2" }))).await.unwrap();
    assert_eq!(zone(&elsewhere), None);
}

#[tokio::test]
async fn a_bound_pod_grows_only_as_large_as_its_node() {
    let server = server(in_memory()).await;
    let client = root(&server);
    with_node(&client).await;
    let resize = async |cpu: &str| {
        let resources = object!({ "requests": { "cpu": cpu } });
        let patch = object!({ "spec": { "containers": [{ "name": "c", "resources": (resources) }] } });
        client.within(&PODS, "default").patch("p", "resize", PatchKind::Strategic, patch).await
    };
    let refused = resize("2500m").await.unwrap_err();
    assert!(refused.is(Reason::Forbidden) && refused.message.ends_with("cpu, requested: 2500, allocatable: 2000"), "{refused:?}");
    assert_eq!(refused.causes[0].reason, "NodeCapacity");
    assert!(resize("1500m").await.is_ok());
}

#[tokio::test]
async fn there_is_one_default_of_priorities_and_the_newest_of_classes() {
    let server = server(in_memory()).await;
    let client = root(&server);
    let class = |name: &str| object!({ "metadata": { "name": name }, "value": 5, "globalDefault": true });
    client.all(&PRIORITY_CLASSES).create(class("first")).await.unwrap();
    let second = client.all(&PRIORITY_CLASSES).create(class("second")).await.unwrap_err();
    assert!(second.is(Reason::Forbidden) && second.message.contains("PriorityClass first is already marked as default"), "{second:?}");
    let same = object!({ "description": "the same" });
    assert!(client.all(&PRIORITY_CLASSES).patch("first", "", PatchKind::Merge, same).await.is_ok());

    let ingress = |name: &str| object!({ "metadata": { "name": name }, "spec": { "defaultBackend": { "service": { "name": "s", "port": { "number": 80 } } } } });
    let ingresses = client.within(&INGRESSES, "default");
    assert_eq!(ingresses.create(ingress("before")).await.unwrap().at(&["spec", "ingressClassName"]), None);
    let default = object!({ "ingressclass.kubernetes.io/is-default-class": "true" });
    let class = object!({ "metadata": { "name": "web", "annotations": (default) }, "spec": { "controller": "example.com/web" } });
    client.all(&INGRESS_CLASSES).create(class).await.unwrap();
    assert_eq!(ingresses.create(ingress("after")).await.unwrap().str_at(&["spec", "ingressClassName"]), "web");
    let mut old = ingress("old");
    old.set(&["metadata", "annotations"], object!({ "kubernetes.io/ingress.class": "other" }));
    assert_eq!(ingresses.create(old).await.unwrap().at(&["spec", "ingressClassName"]), None);
}

#[tokio::test]
async fn a_claim_grows_once_it_is_bound() {
    let server = server(in_memory()).await;
    let client = root(&server);
    let class = object!({ "metadata": { "name": "grows" }, "provisioner": "example.com/p", "allowVolumeExpansion": true });
    client.all(&STORAGE_CLASSES).create(class).await.unwrap();
    let limit = object!({ "type": "PersistentVolumeClaim", "max": { "storage": "2Gi" } });
    let range = object!({ "metadata": { "name": "l" }, "spec": { "limits": [(limit)] } });
    client.within(&LIMIT_RANGES, "default").create(range).await.unwrap();
    let claims = client.within(&PERSISTENT_VOLUME_CLAIMS, "default");
    let spec = object!({ "accessModes": ["ReadWriteOnce"], "storageClassName": "grows", "volumeName": "v",
        "resources": { "requests": { "storage": "1Gi" } } });
    claims.create(object!({ "metadata": { "name": "c" }, "spec": (spec) })).await.unwrap();
    let grow = async |size: &str| {
        claims.patch("c", "", PatchKind::Merge, object!({ "spec": { "resources": { "requests": { "storage": size } } } })).await
    };
    let early = grow("2Gi").await.unwrap_err();
    // Validation says so before admission is asked.
    assert!(early.is(Reason::Invalid), "{early:?}");
    claims.patch("c", "status", PatchKind::Merge, object!({ "status": { "phase": "Bound" } })).await.unwrap();
    let large = grow("3Gi").await.unwrap_err();
    assert!(large.is(Reason::Forbidden) && large.message.contains("maximum storage usage"), "{large:?}");
    assert!(grow("2Gi").await.is_ok());
}

/// A node tries to make or change something that is not its own.
#[tokio::test]
async fn a_node_writes_what_is_its_own_and_nothing_else() {
    let server = server(in_memory()).await;
    let (client, kubelet) = (root(&server), node(&server, "n1"));
    with_node(&client).await;
    let found = client.all(&NODES).get("n1").await.unwrap();
    let refused = |what: &str, answer: Result<Arc<Value>, fram_machinery::Status>, words: &str| {
        let status = answer.err().unwrap_or_else(|| panic!("{what} is allowed"));
        assert!(status.is(Reason::Forbidden) && status.message.contains(words), "{what}: {status:?}");
    };
    let patch = async |part: &str, value: Value| {
        let mut patch = object!({});
        patch.set(&part.split('.').collect::<Vec<_>>(), value);
        kubelet.all(&NODES).patch("n1", "", PatchKind::Merge, patch).await
    };
    let owner = object!([{ "apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u" }]);
    refused("owners", patch("metadata.ownerReferences", owner).await, "is not allowed to modify ownerReferences");
    refused("taints", patch("spec.taints", object!([])).await, "is not allowed to modify taints");
    for (label, value) in [("node-restriction.kubernetes.io/a", Value::from("x")), ("kubernetes.io/role", Value::from("x"))] {
        let mut labels = object!({});
        labels.set(&[label], value);
        refused(label, patch("metadata.labels", labels).await, "is not allowed to modify labels");
    }
    assert!(patch("metadata.labels", object!({ "topology.kubernetes.io/zone": "z2", "mine": "x" })).await.is_ok());

    // Mirror pods belong to the node, and refer to nothing.
    let mirror = |change: &dyn Fn(&mut Value)| {
        let mut pod = pod("m", object!({ "nodeName": "n1" }));
        pod.set(&["metadata", "annotations"], object!({ "kubernetes.io/config.mirror": "x" }));
        let owner = object!({ "apiVersion": "v1", "kind": "Node", "name": "n1", "uid": (meta::uid(&found)), "controller": true });
        pod.set(&["metadata", "ownerReferences"], object!([(owner)]));
        change(&mut pod);
        pod
    };
    type Change<'a> = (&'a str, &'a dyn Fn(&mut Value), &'a str);
    let changes: [Change<'_>; 7] = [
        ("no mirror", &|p| drop(p.remove(&["metadata", "annotations"])), "can only create mirror pods"),
        ("another node's", &|p| p.set(&["spec", "nodeName"], "n2"), "with spec.nodeName set to itself"),
        ("nobody's", &|p| drop(p.remove(&["metadata", "ownerReferences"])), "with an owner reference set to itself"),
        ("of another uid", &|p| p.place(&["metadata", "ownerReferences"]).make_list().make_mut()[0].set(&["uid"], "u"), "UID mismatch"),
        (
            "uncontrolled",
            &|p| drop(p.place(&["metadata", "ownerReferences"]).make_list().make_mut()[0].remove(&["controller"])),
            "with a controller owner",
        ),
        ("with an account", &|p| p.set(&["spec", "serviceAccountName"], "default"), "that reference serviceaccounts"),
        (
            "with a secret",
            &|p| p.set(&["spec", "volumes"], object!([{ "name": "v", "projected": { "sources": [{ "secret": { "name": "s" } }] } }])),
            "that reference secrets (via projected volumes)",
        ),
    ];
    for (what, change, words) in changes {
        refused(what, kubelet.within(&PODS, "default").create(mirror(change)).await, words);
    }
    assert!(kubelet.within(&PODS, "default").create(mirror(&|_| {})).await.is_ok());
    let claims = object!({ "status": { "resourceClaimStatuses": [{ "name": "a", "resourceClaimName": "b" }] } });
    refused("claims", kubelet.within(&PODS, "default").patch("p", "status", PatchKind::Merge, claims).await, "resource claim");

    let lease = |name: &str| object!({ "metadata": { "name": name }, "spec": { "holderIdentity": "n1" } });
    refused("lease", kubelet.within(&LEASES, "kube-system").create(lease("n1")).await, "kube-node-lease");
    client.within(&LEASES, "kube-system").create(lease("kube-scheduler")).await.unwrap();
    let stolen = object!({ "spec": { "holderIdentity": "n1" } });
    refused(
        "leader",
        kubelet.within(&LEASES, "kube-system").patch("kube-scheduler", "", PatchKind::Merge, stolen).await,
        "kube-node-lease",
    );
    refused("other's", kubelet.within(&LEASES, "kube-node-lease").create(lease("n2")).await, "with the same name");
    assert!(kubelet.within(&LEASES, "kube-node-lease").create(lease("n1")).await.is_ok());
    let csi = |name: &str| object!({ "metadata": { "name": name }, "spec": { "drivers": [] } });
    refused("CSINode", kubelet.all(&CSI_NODES).create(csi("n2")).await, "with the same name");
    assert!(kubelet.all(&CSI_NODES).create(csi("n1")).await.is_ok());
    assert!(kubelet.all(&CSI_NODES).get("n2").await.unwrap_err().is(Reason::Forbidden));
    // What is yet to get its name has none that could be the node's.
    for (resource, namespace) in [(&NODES, ""), (&CSI_NODES, ""), (&LEASES, "kube-node-lease")] {
        let unnamed = object!({ "metadata": { "generateName": "n1" }, "spec": {} });
        let made = match namespace {
            "" => kubelet.all(resource).create(unnamed).await,
            within => kubelet.within(resource, within).create(unnamed).await,
        };
        refused("unnamed", made, "forbidden");
    }
    let slice = |name: &str, node: &str| {
        let pool = object!({ "name": node, "generation": 1, "resourceSliceCount": 1 });
        object!({ "metadata": { "name": name }, "spec": { "driver": "d.example.com", "nodeName": node, "pool": (pool) } })
    };
    refused("slice", kubelet.all(&RESOURCE_SLICES).create(slice("s2", "n2")).await, "with the same NodeName");
    assert!(kubelet.all(&RESOURCE_SLICES).create(slice("s1", "n1")).await.is_ok());
    client.all(&RESOURCE_SLICES).create(slice("s2", "n2")).await.unwrap();
    assert!(kubelet.all(&RESOURCE_SLICES).delete("s2", DeleteOptions::default()).await.unwrap_err().is(Reason::Forbidden));
}

#[tokio::test]
async fn a_node_reads_the_claims_and_accounts_to_which_its_pods_refer() {
    let server = server(in_memory()).await;
    let (client, kubelet) = (root(&server), node(&server, "n1"));
    with_node(&client).await;
    let claim = object!({ "spec": { "devices": { "requests": [{ "name": "r", "exactly": { "deviceClassName": "d" } }] } } });
    for name in ["used", "unused"] {
        let mut claim = claim.clone();
        claim.set(&["metadata", "name"], name);
        client.within(&RESOURCE_CLAIMS, "default").create(claim).await.unwrap();
        let source = object!({ "claimRef": { "namespace": "default", "name": name }, "capacity": { "storage": "1Gi" },
            "accessModes": ["ReadWriteOnce"], "hostPath": { "path": "/x" } });
        client.all(&PERSISTENT_VOLUMES).create(object!({ "metadata": { "name": name }, "spec": (source) })).await.unwrap();
        client.within(&SERVICE_ACCOUNTS, "default").create(object!({ "metadata": { "name": name } })).await.unwrap();
    }
    let volume = object!([{ "name": "v", "persistentVolumeClaim": { "claimName": "used" } }]);
    let claims = object!([{ "name": "a", "resourceClaimName": "used" }]);
    let spec = object!({ "nodeName": "n1", "serviceAccountName": "used", "volumes": (volume), "resourceClaims": (claims) });
    client.within(&PODS, "default").create(pod("user", spec)).await.unwrap();
    let of: [(&Resource, &str); 3] = [(&RESOURCE_CLAIMS, "default"), (&PERSISTENT_VOLUMES, ""), (&SERVICE_ACCOUNTS, "default")];
    for (resource, namespace) in of {
        let read = async |name: &str| match namespace {
            "" => kubelet.all(resource).get(name).await,
            within => kubelet.within(resource, within).get(name).await,
        };
        assert!(read("used").await.is_ok(), "{resource:?}");
        assert!(read("unused").await.is_err(), "{resource:?}");
    }
}
