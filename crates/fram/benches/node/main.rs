//! The figures of a node with its control plane, from outside: start, memory, idle CPU, pods. Each is printed with what it
//! counts. A pod counts as running when a watch has shown it Running and the first instruction of its container has answered
//! over the pod network; it has limits, seccomp, a token volume and a network namespace of its own.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on says where")]

mod answers;
#[path = "../../tests/e2e/cluster.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod cluster;
#[path = "../../tests/e2e/image.rs"]
mod image;
mod processes;
#[path = "../../tests/e2e/registry.rs"]
mod registry;
mod strain;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use answers::Answers;
use cluster::Cluster;
use fram_client::remote::{Kubeconfig, Remote};
use fram_client::resources::PODS;
use fram_client::{Client, DeleteOptions, ListOptions, Resources};
use fram_machinery::{Value, meta, object};
use futures_util::StreamExt;
use http_body_util::BodyExt;

const PODS_IN_SEQUENCE: usize = 20;
const PODS_AT_ONCE: usize = 50;

/// How long an idle node is watched for its CPU time.
const IDLE: Duration = Duration::from_secs(60);
/// How long it is watched for what it asks of the API.
const WATCHED: Duration = Duration::from_secs(300);

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let registry = registry::Registry::start(folder.path());
    let image = registry.push("busybox", &image::busybox(folder.path()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let begun = Instant::now();
    let mut cluster = Cluster::spawn(folder.path());
    runtime.block_on(ready(&cluster));
    println!("start until /readyz says ok: {} ms", begun.elapsed().as_millis());
    cluster.until_ready();
    println!("start until kubectl sees the node Ready: {} ms", begun.elapsed().as_millis());
    runtime.block_on(measure(&cluster, &image));
    cluster.stop();
    cluster.down();
}

/// Asks /readyz until it answers.
async fn ready(cluster: &Cluster) {
    let ok = async || {
        let remote = Remote::new(&Kubeconfig::read(&cluster.kubeconfig()).ok()?).ok()?;
        let request = http::Request::get("/readyz").body(Default::default()).ok()?;
        remote.send(request).await.ok().filter(|r| r.status().is_success())
    };
    while ok().await.is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn measure(cluster: &Cluster, image: &str) {
    let config = Kubeconfig::read(&cluster.kubeconfig()).unwrap();
    let remote = Arc::new(Remote::new(&config).unwrap());
    let client = Client::new(remote.clone(), "bench");
    let pods = client.within(&PODS, "default");
    let address = cluster.kubectl(&["get", "node", "node", "-o", "jsonpath={.status.addresses[0].address}"]);
    let mut rig = Rig { pods, image: image.into(), answers: Answers::listen(&address).await };
    // The image is pulled and every path taken once before anything is timed.
    rig.run(&["warm".to_string()]).await;
    rig.remove(1).await;
    println!("idle, no pods: {}", idle().await);
    println!("requests to the API in {} s of an idle node: {}", WATCHED.as_secs(), requests(&remote).await);
    println!("the same after kubectl apply, OpenAPI, and a list and watch of every kind: {}", strain::highest(cluster, &remote).await);
    let mut times = Vec::new();
    for i in 0..PODS_IN_SEQUENCE {
        times.extend(rig.run(&[format!("one-{i}")]).await);
    }
    times.sort();
    let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
    println!("pod create to Running, {PODS_IN_SEQUENCE} in sequence: median {} ms, longest {} ms", median.as_millis(), longest.as_millis());
    println!("idle, {PODS_IN_SEQUENCE} pods: {}", idle().await);
    println!("the same after kubectl apply, OpenAPI, and a list and watch of every kind: {}", strain::highest(cluster, &remote).await);
    rig.remove(PODS_IN_SEQUENCE).await;
    let names: Vec<String> = (0..PODS_AT_ONCE).map(|i| format!("many-{i}")).collect();
    let begun = Instant::now();
    rig.run(&names).await;
    println!("{PODS_AT_ONCE} pods at once, all Running: {} ms", begun.elapsed().as_millis());
    let begun = Instant::now();
    rig.remove(PODS_AT_ONCE).await;
    println!("{PODS_AT_ONCE} pods deleted with grace 0, all gone: {} ms", begun.elapsed().as_millis());
}

/// What components ask of the API while nobody asks for anything, by verb and resource.
async fn requests(remote: &Remote) -> String {
    let before = counters(remote).await;
    tokio::time::sleep(WATCHED).await;
    let after = counters(remote).await;
    let more = |(name, count): (&String, &u64)| {
        let more = count - before.get(name).copied().unwrap_or(0);
        (more > 0).then(|| format!("{more} {name}"))
    };
    let all: Vec<String> = after.iter().filter_map(more).collect();
    if all.is_empty() { "none".into() } else { all.join(", ") }
}

/// `apiserver_request_total` by verb, resource and subresource.
async fn counters(remote: &Remote) -> BTreeMap<String, u64> {
    let request = http::Request::get("/metrics").body(Default::default()).unwrap();
    let body = remote.send(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    let mut all = BTreeMap::new();
    for line in std::str::from_utf8(&body).unwrap().lines().filter(|l| l.starts_with("apiserver_request_total{")) {
        let (labels, count) = line.rsplit_once("} ").unwrap();
        let label = |name: &str| labels.split(&format!("{name}=\"")).nth(1).and_then(|r| r.split('"').next()).unwrap_or_default();
        let name = format!("{} {} {}", label("verb"), label("resource"), label("subresource"));
        *all.entry(name.trim().to_string()).or_insert(0) += count.parse::<u64>().unwrap();
    }
    all
}

/// Memory and CPU time of a node that nobody asks for anything.
async fn idle() -> String {
    // What is measured at rest is measured a while after the last work.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = processes::ticks();
    tokio::time::sleep(IDLE).await;
    let ticks = processes::ticks() - before;
    // A tick is ten milliseconds.
    let thousandths = ticks as f64 * 10.0 / IDLE.as_secs_f64();
    format!("{} MB, {thousandths:.1} thousandths of a core", processes::memory() / 1024)
}

/// Pods, and how they are seen to run.
struct Rig {
    pods: Resources,
    image: String,
    answers: Answers,
}

impl Rig {
    /// A pod whose first instruction says its name to whoever measures.
    fn pod(&self, name: &str) -> Value {
        let (host, port) = self.answers.address();
        let command = format!("echo {name} | nc {host} {port}; exec sleep 100000");
        object!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
            "spec": { "containers": [{ "name": "c", "image": (self.image.as_str()), "command": ["sh", "-c", command],
                "resources": { "limits": { "cpu": "100m", "memory": "16Mi" }, "requests": { "cpu": "1m", "memory": "1Mi" } } }] } })
    }

    /// Creates pods and waits until each runs; the times from each POST.
    async fn run(&mut self, names: &[String]) -> Vec<Duration> {
        let list = self.pods.list(ListOptions::default()).await.unwrap();
        let mut watch = self.pods.watch(ListOptions { resource_version: list.resource_version, ..Default::default() }).await.unwrap();
        let mut begun = std::collections::HashMap::new();
        for name in names {
            begun.insert(name.clone(), Instant::now());
            self.pods.create(self.pod(name)).await.unwrap();
        }
        let mut shown = std::collections::HashMap::new();
        while shown.len() < names.len() {
            let event = watch.next().await.unwrap().unwrap();
            if event.object.str_at(&["status", "phase"]) == "Running" {
                shown.entry(meta::name(&event.object).to_string()).or_insert_with(Instant::now);
            }
        }
        let mut times = Vec::new();
        for name in names {
            let answered = self.answers.of(name).await;
            times.push(answered.max(shown[name]) - begun[name]);
        }
        times
    }

    /// Deletes all pods and waits until they are gone.
    async fn remove(&self, count: usize) {
        let list = self.pods.list(ListOptions::default()).await.unwrap();
        let mut watch =
            self.pods.watch(ListOptions { resource_version: list.resource_version.clone(), ..Default::default() }).await.unwrap();
        for pod in &list.items {
            let options = DeleteOptions { grace_period_seconds: Some(0), ..Default::default() };
            self.pods.delete(meta::name(pod), options).await.unwrap();
        }
        let mut gone = 0;
        while gone < count {
            let event = watch.next().await.unwrap().unwrap();
            gone += usize::from(event.kind == fram_client::EventKind::Deleted);
        }
    }
}
