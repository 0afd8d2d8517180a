//! The shop of examples/shop: several tiers from Debian's packages, updated under load while the program is killed.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::cluster::{Cluster, traces};
use super::registry::Registry;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/shop");

/// The shop as a customer sees it: at a port of the node.
#[derive(Clone)]
struct Door {
    address: String,
}

impl Door {
    /// The body of an answer with code 200, or what went wrong.
    fn ask(&self, method: &str, path: &str, body: &str) -> Result<serde_json::Value, String> {
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

    fn version(&self) -> String {
        self.ask("GET", "/", "").map(|v| v["version"].as_str().unwrap_or_default().to_string()).unwrap_or_default()
    }

    fn orders(&self) -> i64 {
        self.ask("GET", "/orders", "").unwrap()["orders"].as_i64().unwrap()
    }
}

/// Customers who ask all the time until they are told to stop.
struct Customers {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    threads: Vec<std::thread::JoinHandle<Vec<String>>>,
}

impl Customers {
    fn come(door: &Door, count: usize) -> Self {
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
    fn leave(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let failures: Vec<String> = self.threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
        assert!(failures.is_empty(), "{} requests failed, the first: {}", failures.len(), failures[0]);
        self.served.load(Ordering::Relaxed)
    }
}

fn build(registry: &Registry) {
    let work = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shop");
    let output = Command::new(format!("{EXAMPLE}/build")).arg(registry.address()).arg(&work).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A Job as the CronJob makes them, now. kubectl's own command for it asks older versions for a version that is gone.
fn report_now(cluster: &Cluster) -> String {
    let report = cluster.kubectl(&["get", "--raw", "/apis/batch/v1/namespaces/shop/cronjobs/report"]);
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let mut job = serde_json::json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "now", "namespace": "shop" } });
    job["spec"] = report["spec"]["jobTemplate"]["spec"].clone();
    job.to_string()
}

#[test]
fn a_shop_is_updated_under_load_while_fram_is_killed_and_keeps_its_orders() {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::start(folder.path());
    build(&registry);
    let before = traces();
    let mut cluster = Cluster::start(folder.path());
    let manifest = std::fs::read_to_string(format!("{EXAMPLE}/shop.yaml")).unwrap();
    cluster.apply(&manifest.replace("REGISTRY", &registry.address()));
    cluster.kubectl(&["-n", "shop", "wait", "--for=condition=Complete", "job/migrate", "--timeout=120s"]);
    cluster.kubectl(&["-n", "shop", "wait", "--for=condition=Available", "deployment", "--all", "--timeout=120s"]);
    let address = cluster.kubectl(&["get", "node", "node", "-o", "jsonpath={.status.addresses[0].address}"]);
    let door = Door { address: format!("{address}:30080") };
    for _ in 0..5 {
        door.ask("POST", "/orders", r#"{"product":2}"#).unwrap();
    }
    assert_eq!(door.orders(), 5);

    let customers = Customers::come(&door, 4);
    cluster.kubectl(&["-n", "shop", "scale", "deployment/app", "--replicas=10"]);
    cluster.kubectl(&["-n", "shop", "rollout", "status", "deployment/app", "--timeout=60s"]);
    let image = format!("app={}/shop/app:2", registry.address());
    cluster.kubectl(&["-n", "shop", "set", "image", "deployment/app", &image]);
    cluster.until("the first new pods serve", || door.version() == "2");
    cluster.kill();
    cluster.restart();
    cluster.kubectl(&["-n", "shop", "rollout", "status", "deployment/app", "--timeout=120s"]);
    let served = customers.leave();
    assert!(served > 100, "only {served} requests in all this time");
    assert_eq!(door.version(), "2");

    cluster.kubectl(&["-n", "shop", "rollout", "undo", "deployment/app"]);
    cluster.kubectl(&["-n", "shop", "rollout", "status", "deployment/app", "--timeout=120s"]);
    assert_eq!(door.version(), "1");

    // The database moves to another pod, its volume with it.
    let uid = ["-n", "shop", "get", "pod", "postgres-0", "-o", "jsonpath={.metadata.uid}"];
    let former = cluster.kubectl(&uid);
    cluster.kubectl(&["-n", "shop", "delete", "pod", "postgres-0", "--wait=false"]);
    cluster.until("another pod has the database's name", || cluster.try_kubectl(&uid).is_some_and(|now| now != former));
    cluster.kubectl(&["-n", "shop", "wait", "--for=condition=Ready", "pod/postgres-0", "--timeout=60s"]);
    cluster.until("the shop serves again", || door.ask("GET", "/orders", "").is_ok());
    assert_eq!(door.orders(), 5);
    cluster.apply(&report_now(&cluster));
    cluster.kubectl(&["-n", "shop", "wait", "--for=condition=Complete", "job/now", "--timeout=60s"]);
    let report = cluster.kubectl(&["-n", "shop", "logs", "job/now"]);
    assert!(report.lines().any(|l| l.contains("compass") && l.contains('5')), "{report}");
    let budget = cluster.kubectl(&["get", "--raw", "/apis/policy/v1/namespaces/shop/poddisruptionbudgets/app"]);
    let budget: serde_json::Value = serde_json::from_str(&budget).unwrap();
    assert!(budget["status"]["disruptionsAllowed"].as_i64().unwrap() >= 1, "{budget}");

    cluster.kubectl(&["delete", "namespace", "shop", "--timeout=90s"]);
    cluster.until("the volume is reclaimed", || cluster.kubectl(&["get", "pv", "-o", "name"]).is_empty());
    cluster.stop();
    cluster.down();
    assert_eq!(traces(), before, "fram down --purge left something");
}
