//! What nobody should ask for and somebody does: it ends in rest, not in a loop.

use std::time::Duration;

use fram_client::resources::{
    CONFIG_MAPS, DEPLOYMENTS, JOBS, PERSISTENT_VOLUME_CLAIMS, POD_DISRUPTION_BUDGETS, PODS, REPLICA_SETS, RESOURCE_QUOTAS, SERVICES,
};
use fram_client::{Client, PatchKind, Resource};
use fram_machinery::{Value, meta, object};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::idle;
use crate::kubelets::Kubelets;
use crate::users::NAMESPACE;
use crate::world::World;

pub(crate) async fn make(client: &Client, resource: &Resource, name: &str, mut object: Value) {
    object.set(&["metadata", "name"], name);
    client.within(resource, NAMESPACE).create(object).await.unwrap_or_else(|s| panic!("{name}: {s}"));
}

pub(crate) fn template(labels: Value, behaviour: &str) -> Value {
    object!({ "metadata": { "labels": labels, "annotations": { "sim/behaviour": behaviour } },
        "spec": { "containers": [{ "name": "c", "image": "i" }] } })
}

/// Two ConfigMaps that own each other, and one whose owner never was.
async fn circle(client: &Client) {
    let maps = client.within(&CONFIG_MAPS, NAMESPACE);
    let owner = |name: &str, uid: &str| object!({ "metadata": { "ownerReferences": [{ "apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid, "blockOwnerDeletion": true }] } });
    make(client, &CONFIG_MAPS, "one", object!({})).await;
    make(client, &CONFIG_MAPS, "two", owner("one", meta::uid(&maps.get("one").await.unwrap()))).await;
    let back = owner("two", meta::uid(&maps.get("two").await.unwrap()));
    maps.patch("one", "", PatchKind::Merge, back).await.unwrap();
    make(client, &CONFIG_MAPS, "lost", owner("nobody", "0d9a1f5e-0000-4000-8000-000000000000")).await;
}

/// Owners that select each other's pods, a budget and a Service for everything, and what can never come true.
async fn overlap(client: &Client) {
    let set = |extra: &str| {
        let labels = object!({ "app": "shared", "extra": extra });
        object!({ "spec": { "replicas": 3, "selector": { "matchLabels": { "app": "shared" } }, "template": (template(labels, "serve")) } })
    };
    make(client, &REPLICA_SETS, "first", set("a")).await;
    make(client, &REPLICA_SETS, "second", set("b")).await;
    make(client, &DEPLOYMENTS, "third", set("c")).await;
    make(client, &POD_DISRUPTION_BUDGETS, "all", object!({ "spec": { "minAvailable": "100%", "selector": {} } })).await;
    make(client, &SERVICES, "shared", object!({ "spec": { "selector": { "app": "shared" }, "ports": [{ "port": 80 }] } })).await;
    let balanced = object!({ "spec": { "type": "LoadBalancer", "loadBalancerIP": "198.51.100.1", "ports": [{ "port": 80 }] } });
    make(client, &SERVICES, "elsewhere", balanced).await;
    let claim = object!({ "spec": { "storageClassName": "none", "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } } });
    make(client, &PERSISTENT_VOLUME_CLAIMS, "never", claim).await;
    let mut failing = template(object!({ "app": "failing" }), "end:1000");
    failing.set(&["spec", "restartPolicy"], "Never");
    let job = object!({ "spec": { "completions": 200, "parallelism": 200, "backoffLimit": 3, "template": failing } });
    make(client, &JOBS, "failing", job).await;
}

/// What the cluster asked for in an hour after ten minutes with all of this.
pub(crate) async fn rest() -> Vec<String> {
    let mut world = World::new(1).await;
    world.faults.set(false);
    let (tasks, stop, client) = (TaskTracker::new(), CancellationToken::new(), world.admin());
    let kubelets = Kubelets::start(1, &client, &world.clock, &world.chance.branch("kubelets"), &tasks, &stop).await;
    kubelets.all_up();
    world.start();
    tokio::time::sleep(Duration::from_secs(2)).await;
    circle(&client).await;
    overlap(&client).await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    // More than fits, while everything is there already.
    make(&client, &RESOURCE_QUOTAS, "small", object!({ "spec": { "hard": { "pods": "2" } } })).await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    let mut found = Vec::new();
    for set in ["first", "second"] {
        let object = client.within(&REPLICA_SETS, NAMESPACE).get(set).await.unwrap();
        if object.int_at(&["status", "readyReplicas"]) != Some(3) {
            found.push(format!("{set} has not its own three pods: {:?}", object.at(&["status"])));
        }
    }
    if client.within(&CONFIG_MAPS, NAMESPACE).find("lost").await.unwrap().is_some() {
        found.push("what has no owner any more is still there".into());
    }
    let failed = client.within(&PODS, NAMESPACE).list(Default::default()).await.unwrap().items;
    let held = failed.iter().filter(|p| meta::has_finalizer(p, "batch.kubernetes.io/job-tracking")).count();
    if held > 0 {
        found.push(format!("{held} pods of the failed Job are still counted"));
    }
    found.extend(idle::hour(&world).await);
    world.crash().await;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    found
}
