//! The figures of a node with its control plane, from outside: start, memory, pods. Each is printed with what it counts.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on says where")]

#[path = "../tests/e2e/cluster.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod cluster;
#[path = "../tests/e2e/image.rs"]
mod image;
#[path = "../tests/e2e/registry.rs"]
mod registry;

use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::Cluster;
use fram_client::remote::{Kubeconfig, Remote};
use fram_client::resources::PODS;
use fram_client::{Client, DeleteOptions, ListOptions, Resources};
use fram_machinery::{Value, meta, object};
use futures_util::StreamExt;

const PODS_IN_SEQUENCE: usize = 20;
const PODS_AT_ONCE: usize = 50;

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let registry = registry::Registry::start(folder.path());
    let image = registry.push("busybox", &image::busybox(folder.path()));
    let begun = Instant::now();
    let mut cluster = Cluster::start(folder.path());
    println!("start until kubectl sees the node Ready: {} ms", begun.elapsed().as_millis());
    println!("as the program says: {}", cluster.said("API ready"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(measure(&cluster, &image));
    cluster.stop();
    cluster.down();
}

async fn measure(cluster: &Cluster, image: &str) {
    let config = Kubeconfig::read(&cluster.kubeconfig()).unwrap();
    let client = Client::new(Arc::new(Remote::new(&config).unwrap()), "bench");
    let pods = client.within(&PODS, "default");
    // The image is pulled and every path taken once before anything is timed.
    run(&pods, &["warm".to_string()], image).await;
    remove(&pods, 1).await;
    settle().await;
    println!("memory idle, no pods (PSS of all fram processes): {} MB", memory() / 1024);
    let mut times = Vec::new();
    for i in 0..PODS_IN_SEQUENCE {
        times.extend(run(&pods, &[format!("one-{i}")], image).await);
    }
    times.sort();
    println!(
        "pod create to Running seen by a watch, {PODS_IN_SEQUENCE} in sequence: median {} ms, longest {} ms",
        times[times.len() / 2].as_millis(),
        times[times.len() - 1].as_millis()
    );
    settle().await;
    println!("memory with {PODS_IN_SEQUENCE} pods: {} MB", memory() / 1024);
    remove(&pods, PODS_IN_SEQUENCE).await;
    let names: Vec<String> = (0..PODS_AT_ONCE).map(|i| format!("many-{i}")).collect();
    let begun = Instant::now();
    run(&pods, &names, image).await;
    println!("{PODS_AT_ONCE} pods at once, all Running: {} ms", begun.elapsed().as_millis());
    let begun = Instant::now();
    remove(&pods, PODS_AT_ONCE).await;
    println!("{PODS_AT_ONCE} pods deleted with grace 0, all gone: {} ms", begun.elapsed().as_millis());
}

/// What is measured at rest is measured a while after the last work.
async fn settle() {
    tokio::time::sleep(Duration::from_secs(5)).await;
}

fn pod(name: &str, image: &str) -> Value {
    object!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": { "containers": [{ "name": "c", "image": image, "command": ["sleep", "100000"],
            "resources": { "limits": { "cpu": "100m", "memory": "16Mi" }, "requests": { "cpu": "1m", "memory": "1Mi" } } }] } })
}

/// Creates pods and waits until each is Running; the times from each POST.
async fn run(pods: &Resources, names: &[String], image: &str) -> Vec<Duration> {
    let list = pods.list(ListOptions::default()).await.unwrap();
    let mut watch = pods.watch(ListOptions { resource_version: list.resource_version, ..Default::default() }).await.unwrap();
    let mut begun = std::collections::HashMap::new();
    for name in names {
        begun.insert(name.clone(), Instant::now());
        pods.create(pod(name, image)).await.unwrap();
    }
    let mut times = Vec::new();
    while times.len() < names.len() {
        let event = watch.next().await.unwrap().unwrap();
        let running = event.object.str_at(&["status", "phase"]) == "Running";
        if let Some(begun) = running.then(|| begun.remove(meta::name(&event.object))).flatten() {
            times.push(begun.elapsed());
        }
    }
    times
}

/// Deletes all pods and waits until they are gone.
async fn remove(pods: &Resources, count: usize) {
    let list = pods.list(ListOptions::default()).await.unwrap();
    let mut watch = pods.watch(ListOptions { resource_version: list.resource_version.clone(), ..Default::default() }).await.unwrap();
    for pod in &list.items {
        let options = DeleteOptions { grace_period_seconds: Some(0), ..Default::default() };
        pods.delete(meta::name(pod), options).await.unwrap();
    }
    let mut gone = 0;
    while gone < count {
        let event = watch.next().await.unwrap().unwrap();
        gone += usize::from(event.kind == fram_client::EventKind::Deleted);
    }
}

/// The proportional set size of every process of the program, in kB.
fn memory() -> u64 {
    let mut total = 0;
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let name = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        let ours = name.contains("shim\0--sealed") || name.contains("/fram\0up");
        let rollup = std::fs::read_to_string(entry.path().join("smaps_rollup")).unwrap_or_default();
        let pss = rollup.lines().find_map(|l| l.strip_prefix("Pss:")).and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok());
        total += if ours { pss.unwrap_or(0) } else { 0 };
    }
    total
}
