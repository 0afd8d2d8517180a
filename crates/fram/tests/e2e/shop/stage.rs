//! The shop of examples/shop from outside: how it is built, its door, and the customers who come through it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::cluster::Cluster;
use crate::registry::Registry;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/shop");

/// The shop as a customer sees it: at a port of the node.
#[derive(Clone)]
pub(crate) struct Door {
    address: String,
}

impl Door {
    /// Of the shop on the cluster's node.
    pub(crate) fn of(cluster: &Cluster) -> Self {
        let address = cluster.kubectl(&["get", "node", "node", "-o", "jsonpath={.status.addresses[0].address}"]);
        Self { address: format!("{address}:30080") }
    }

    /// Orders so many times.
    pub(crate) fn order(&self, count: usize) {
        for _ in 0..count {
            self.ask("POST", "/orders", r#"{"product":2}"#).unwrap();
        }
    }

    /// The body of an answer with code 200, or what went wrong.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> Result<serde_json::Value, String> {
        let failed = |e: std::io::Error| e.to_string();
        let mut stream = TcpStream::connect(&self.address).map_err(failed)?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(failed)?;
        let length = body.len();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).map_err(failed)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(failed)?;
        if !answer.starts_with("HTTP/1.1 200") {
            return Err(answer);
        }
        let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
        serde_json::from_str(body).map_err(|e| format!("{e}: {answer}"))
    }

    pub(crate) fn version(&self) -> String {
        self.ask("GET", "/", "").map(|v| v["version"].as_str().unwrap_or_default().to_string()).unwrap_or_default()
    }

    pub(crate) fn orders(&self) -> i64 {
        self.ask("GET", "/orders", "").unwrap()["orders"].as_i64().unwrap()
    }
}

/// Customers who ask all the time until they are told to stop.
pub(crate) struct Customers {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    threads: Vec<std::thread::JoinHandle<Vec<String>>>,
}

impl Customers {
    pub(crate) fn come(door: &Door, count: usize) -> Self {
        let (stop, served) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let customer = || {
            let (door, stop, served) = (door.clone(), stop.clone(), served.clone());
            std::thread::spawn(move || {
                let mut failures = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match door.ask("GET", "/", "") {
                        Ok(_) => drop(served.fetch_add(1, Ordering::Relaxed)),
                        Err(why) => failures.push(why),
                    }
                }
                failures
            })
        };
        let threads = (0..count).map(|_| customer()).collect();
        Self { stop, served, threads }
    }

    /// How many requests were served; none may have failed.
    #[track_caller]
    pub(crate) fn leave(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let failures: Vec<String> = self.threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
        assert!(failures.is_empty(), "{} requests failed, the first: {}", failures.len(), failures[0]);
        self.served.load(Ordering::Relaxed)
    }
}

/// Builds the shop's images and pushes them.
pub(crate) fn build(registry: &Registry) {
    let work = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shop");
    let mut build = Command::new(format!("{EXAMPLE}/build"));
    build.arg(registry.address()).arg(&work).env("REGISTRY_AUTH_FILE", registry.credentials());
    let output = build.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Applies the shop and waits until it is open.
pub(crate) fn open(cluster: &Cluster, registry: &Registry) -> Door {
    let manifest = std::fs::read_to_string(format!("{EXAMPLE}/shop.yaml")).unwrap();
    cluster.apply(&manifest.replace("REGISTRY", &registry.address()));
    cluster.kubectl(&["-n", "shop", "wait", "--for=condition=Complete", "job/migrate", "--timeout=120s"]);
    cluster.kubectl(&["-n", "shop", "wait", "--for=condition=Available", "deployment", "--all", "--timeout=120s"]);
    Door::of(cluster)
}

/// Ends it, its volume included.
pub(crate) fn close(cluster: &Cluster) {
    cluster.kubectl(&["delete", "namespace", "shop", "--timeout=90s"]);
    cluster.until("the volume is reclaimed", || cluster.kubectl(&["get", "pv", "-o", "name"]).is_empty());
}

/// Begins a rolling update to a version.
pub(crate) fn update(cluster: &Cluster, registry: &Registry, version: &str) {
    let image = format!("app={}/shop/app:{version}", registry.address());
    cluster.kubectl(&["-n", "shop", "set", "image", "deployment/app", &image]);
}

/// Waits until a roll-out of the application is done.
pub(crate) fn rolled_out(cluster: &Cluster) {
    cluster.kubectl(&["-n", "shop", "rollout", "status", "deployment/app", "--timeout=120s"]);
}
