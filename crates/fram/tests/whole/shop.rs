//! The shop of examples/shop, whole: from a registry that asks for a password and serves an index of several architectures, with
//! every controller at work, and with more bad luck than its short form in `tests/e2e` has.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::by_hand;
use crate::cluster::{Cluster, ask, assert_nothing_left, traces};
use crate::registry::{Registry, USER};
use crate::stage::{self, Customers, Door, rolled_out, update};

const ORDERS: u16 = 20;

/// An index under `shop/app:2` that has the former version for another architecture: whoever takes the wrong entry is found out.
fn push_index(registry: &Registry, folder: &Path) {
    let (own, other) = if cfg!(target_arch = "x86_64") { ("amd64", "arm64") } else { ("arm64", "amd64") };
    let name = format!("{}/shop/app", registry.address());
    let entry = |tag: &str, architecture: &str| {
        let raw = skopeo(registry, &["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}:{tag}")]);
        let manifest: serde_json::Value = serde_json::from_slice(&raw).unwrap();
        let file = folder.join("manifest.json");
        std::fs::write(&file, &raw).unwrap();
        let digest = Command::new("skopeo").arg("manifest-digest").arg(&file).output().unwrap().stdout;
        let platform = serde_json::json!({ "architecture": architecture, "os": "linux" });
        let digest = String::from_utf8(digest).unwrap();
        serde_json::json!({ "mediaType": manifest["mediaType"], "digest": digest.trim(), "size": raw.len(), "platform": platform })
    };
    let media = "application/vnd.oci.image.index.v1+json";
    let manifests = [entry("1", other), entry("2", own)];
    let index = serde_json::json!({ "schemaVersion": 2, "mediaType": media, "manifests": manifests }).to_string();
    let request = format!(
        "PUT /v2/shop/app/manifests/2 HTTP/1.0\r\nAuthorization: Basic dXNlcjpzZWNyZXQ=\r\nContent-Type: {media}\r\nContent-Length: {}\r\n\r\n{index}",
        index.len()
    );
    let answer = ask(std::net::TcpStream::connect(registry.address()).unwrap(), &request);
    assert!(answer.contains(" 201 "), "{answer}");
}

fn skopeo(registry: &Registry, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("skopeo").args(arguments).env("REGISTRY_AUTH_FILE", registry.credentials()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Every pod of the namespace may pull with this from now on.
fn give_pull_secret(cluster: &Cluster, registry: &Registry) {
    cluster.kubectl(&["create", "namespace", "shop"]);
    let (user, password) = USER;
    let mut words = vec!["-n", "shop", "create", "secret", "docker-registry", "pull"];
    let options =
        [("server", registry.address().as_str()), ("username", user), ("password", password)].map(|(k, v)| format!("--docker-{k}={v}"));
    words.extend(options.iter().map(String::as_str));
    cluster.kubectl(&words);
    let account = ["-n", "shop", "get", "serviceaccount", "default"];
    cluster.until("the namespace has its account", || cluster.try_kubectl(&account).is_some());
    cluster.kubectl(&["-n", "shop", "patch", "serviceaccount", "default", "-p", r#"{"imagePullSecrets":[{"name":"pull"}]}"#]);
}

fn field(cluster: &Cluster, object: &str, path: &str) -> String {
    cluster.kubectl(&["-n", "shop", "get", object, "-o", &format!("jsonpath={{{path}}}")])
}

/// An update under load, with the program killed at three moments of it.
fn update_under_kills(cluster: &mut Cluster, registry: &Registry, door: &Door) {
    update(cluster, registry, "2");
    for updated in ["1", "4", "8"] {
        let least: i64 = updated.parse().unwrap();
        let replicas = |c: &Cluster| c.try_kubectl(&["-n", "shop", "get", "deployment", "app", "-o", "jsonpath={.status.updatedReplicas}"]);
        cluster.until("the update goes on", || replicas(cluster).is_some_and(|n| n.parse::<i64>().is_ok_and(|n| n >= least)));
        cluster.kill();
        cluster.restart();
    }
    rolled_out(cluster);
    assert_eq!(door.version(), "2");
}

/// The autoscaler adds what the load asks for, the CronJob runs by its own clock, the DaemonSet's pod writes.
fn controllers(cluster: &Cluster) {
    cluster.until("the autoscaler has added a pod", || {
        field(cluster, "deployment/nginx", ".status.readyReplicas").parse::<i64>().unwrap_or(0) > 2
    });
    let jobs = r#"range .items[?(@.metadata.ownerReferences[0].name=="report")]}{.status.succeeded}{end"#;
    cluster.until("the clock began a report, and it is done", || field(cluster, "jobs", jobs).contains('1'));
    let written = ["-n", "shop", "exec", "deployment/redis", "--", "redis-cli", "get", "node:node"];
    cluster.until("the watchman has written", || cluster.kubectl(&written).trim().parse::<u64>().is_ok());
}

/// With as many pods as must be there, none may be evicted; a drained node keeps them.
fn budget(cluster: &Cluster) {
    cluster.kubectl(&["-n", "shop", "scale", "deployment/app", "--replicas=2"]);
    rolled_out(cluster);
    cluster.until("the budget knows", || {
        let pods = field(cluster, "pods", r#".items[?(@.metadata.labels.app=="app")].metadata.name"#);
        pods.split_whitespace().count() == 2
    });
    let pods = field(cluster, "pods", r#".items[?(@.metadata.labels.app=="app")].metadata.name"#);
    let pod = pods.split_whitespace().next().unwrap();
    let eviction = serde_json::json!({ "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": pod, "namespace": "shop" } });
    let path = format!("/api/v1/namespaces/shop/pods/{pod}/eviction");
    let mut child = cluster.command(&["create", "--raw", &path, "-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), eviction.to_string().as_bytes()).unwrap();
    let refused = child.wait_with_output().unwrap();
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && why.contains("disruption budget"), "{why}");
}

#[test]
fn the_whole_shop_lives_through_updates_kills_and_load() {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::start_protected(folder.path());
    stage::build(&registry);
    push_index(&registry, folder.path());
    let before = traces();
    let mut cluster = Cluster::start(folder.path());
    give_pull_secret(&cluster, &registry);
    let door = stage::open(&cluster, &registry);
    door.order(ORDERS.into());

    let customers = Customers::come(&door, 8);
    cluster.kubectl(&["-n", "shop", "scale", "deployment/app", "--replicas=10"]);
    rolled_out(&cluster);
    by_hand::all(&cluster, folder.path(), ORDERS.into());
    controllers(&cluster);
    update_under_kills(&mut cluster, &registry, &door);
    cluster.kubectl(&["-n", "shop", "rollout", "undo", "deployment/app"]);
    rolled_out(&cluster);
    let served = customers.leave();
    assert!(served > 1000, "only {served} requests in all this time");
    assert_eq!((door.version().as_str(), door.orders()), ("1", ORDERS.into()));

    budget(&cluster);
    stage::close(&cluster);
    cluster.stop();
    cluster.down();
    assert_nothing_left(&before);
}
