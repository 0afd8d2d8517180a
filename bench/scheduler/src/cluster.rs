//! The cluster that is scheduled on: nodes as objects, kept alive by their leases, and an end to all of it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use fram_bench_common::{NAMESPACE, Subject, ask, drive, make, post, request, send};
use fram_client::remote::Remote;
use fram_machinery::{Value, json, object};
use futures_util::future::try_join_all;

const NODES: &str = "/api/v1/nodes";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
/// A node is given up after 40 or 50 seconds of silence, where anyone looks.
const HEARTBEAT: Duration = Duration::from_secs(20);
/// As many zones as upstream's workloads have.
const ZONES: usize = 3;

/// As upstream's scheduler_perf has it, with the labels that kubelets give.
fn node(number: usize) -> Value {
    let name = format!("node-{number}");
    let all = || object!({ "cpu": "4", "memory": "32Gi", "pods": "110" });
    object!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": (name.as_str()), "labels": {
            "kubernetes.io/hostname": (name.as_str()), "topology.kubernetes.io/zone": (format!("zone-{}", number % ZONES)) } },
        "status": { "capacity": (all()), "allocatable": (all()), "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady" }] },
    })
}

fn lease(number: usize, at: &str) -> Value {
    let name = format!("node-{number}");
    object!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": (name.as_str()), "namespace": "kube-node-lease" },
        "spec": { "holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": at } })
}

/// Makes the nodes, ready and without taints.
pub(crate) async fn grow(subject: &Subject, admins: &[Arc<Remote>], nodes: usize) -> Result<()> {
    drive(subject, admins, nodes, |n| post(NODES, &node(n))).await?;
    let now = now();
    drive(subject, admins, nodes, |n| post(LEASES, &lease(n, &now))).await?;
    // An API server taints what is new until a controller, which a peer may not have, sees that it is ready.
    let untaint = r#"{"spec":{"taints":null}}"#;
    let patch = |n: usize| send("PATCH", &format!("{NODES}/node-{n}"), "application/merge-patch+json", untaint.into());
    drive(subject, admins, nodes, patch).await?;
    Ok(())
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// How many nodes renew their leases at once, at most: a busy server must not make all of them late.
const BEATS: usize = 32;

/// Renews the nodes' leases until it is dropped.
pub(crate) async fn beat(admin: Arc<Remote>, nodes: usize) -> Result<()> {
    let lanes = BEATS.min(nodes.max(1));
    let pause = HEARTBEAT * lanes as u32 / nodes.max(1) as u32;
    try_join_all((0..lanes).map(|lane| beat_each(&admin, (lane..nodes).step_by(lanes), pause))).await?;
    Ok(())
}

async fn beat_each(admin: &Remote, numbers: impl Iterator<Item = usize> + Clone, pause: Duration) -> Result<()> {
    for number in numbers.cycle() {
        let body = format!(r#"{{"spec":{{"renewTime":"{}"}}}}"#, now());
        let path = format!("{LEASES}/node-{number}");
        let (renewed, ()) =
            tokio::join!(ask(admin, send("PATCH", &path, "application/merge-patch+json", body.into())), tokio::time::sleep(pause));
        renewed?;
    }
    Ok(())
}

/// Makes a class of priority, where it is not there.
pub(crate) async fn priority(admin: &Remote, name: &str, value: i64) -> Result<()> {
    let class = object!({ "metadata": { "name": name }, "value": value });
    make(admin, "/apis/scheduling.k8s.io/v1/priorityclasses", class).await
}

/// Ten devices on each node, of one class.
pub(crate) async fn devices(subject: &Subject, admins: &[Arc<Remote>], nodes: usize) -> Result<()> {
    let selector = object!([{ "cel": { "expression": "device.driver == 'bench.example.com'" } }]);
    let class = object!({ "metadata": { "name": "bench" }, "spec": { "selectors": selector } });
    make(&admins[0], "/apis/resource.k8s.io/v1/deviceclasses", class).await?;
    let slice = |n: usize| {
        let devices: Vec<Value> = (0..10).map(|d| object!({ "name": (format!("device-{d}")) })).collect();
        let name = format!("node-{n}");
        object!({ "metadata": { "name": (name.as_str()) }, "spec": {
            "driver": "bench.example.com", "nodeName": (name.as_str()), "devices": devices,
            "pool": { "name": (name.as_str()), "generation": 1, "resourceSliceCount": 1 } } })
    };
    drive(subject, admins, nodes, |n| post("/apis/resource.k8s.io/v1/resourceslices", &slice(n))).await?;
    Ok(())
}

/// Takes everything away that rows make.
pub(crate) async fn clear(admins: &[Arc<Remote>]) -> Result<()> {
    let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    let all = [
        pods.clone(),
        format!("/api/v1/namespaces/{NAMESPACE}/services"),
        format!("/apis/resource.k8s.io/v1/namespaces/{NAMESPACE}/resourceclaims"),
        "/apis/resource.k8s.io/v1/resourceslices".into(),
        LEASES.into(),
        NODES.into(),
    ];
    for path in &all {
        // A peer may have nobody who lets claims go that were allocated.
        empty(admins, path, path.ends_with("/resourceclaims")).await?;
    }
    Ok(())
}

async fn empty(admins: &[Arc<Remote>], path: &str, held: bool) -> Result<()> {
    for _ in 0..1000 {
        let page = json::from_slice(&ask(&admins[0], request("GET", &format!("{path}?limit=500"), "")).await?)?;
        let names: Vec<String> = page.list_at(&["items"]).iter().map(|o| fram_machinery::meta::name(o).to_string()).collect();
        if names.is_empty() {
            return Ok(());
        }
        let deletions = names.iter().zip(admins.iter().cycle()).map(async |(name, admin)| {
            if held {
                let free = r#"{"metadata":{"finalizers":null}}"#;
                gone(ask(admin, send("PATCH", &format!("{path}/{name}"), "application/merge-patch+json", free.into())).await)?;
            }
            gone(ask(admin, request("DELETE", &format!("{path}/{name}?gracePeriodSeconds=0"), "")).await)
        });
        try_join_all(deletions).await?;
    }
    bail!("{path}: what is there does not go away")
}

/// What is gone already need not be taken away.
fn gone<T>(answer: Result<T>) -> Result<()> {
    match answer {
        Err(error) if !error.to_string().contains("NotFound") => Err(error),
        _ => Ok(()),
    }
}
