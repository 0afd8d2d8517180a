//! A cluster of which nobody wants anything, with pods that run: what its components ask the API server for meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::image::busybox;
use crate::registry::Registry;

/// What was begun before comes to its end; events are told with it.
const SETTLE: Duration = Duration::from_secs(150);
const IDLE: Duration = Duration::from_secs(300);

#[expect(clippy::disallowed_methods, reason = "nothing is to happen, so there is nothing to wait for")]
fn wait(time: Duration) {
    std::thread::sleep(time);
}

/// How often what was asked: the lines of apiserver_request_total, without what this test itself asks, which names no resource.
fn counts(cluster: &Cluster) -> BTreeMap<String, f64> {
    let metrics = cluster.kubectl(&["get", "--raw", "/metrics"]);
    let lines = metrics.lines().filter(|l| l.starts_with("apiserver_request_total{") && !l.contains("resource=\"\""));
    lines.filter_map(|line| line.rsplit_once(' ')).map(|(what, count)| (what.to_string(), count.parse().unwrap())).collect()
}

#[test]
fn an_idle_cluster_asks_for_leases_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::start(folder.path());
    let image = registry.push("busybox", &busybox(folder.path()));
    let mut cluster = Cluster::start(folder.path());
    cluster.kubectl(&["create", "deployment", "web", "--image", &image, "--replicas=2", "--", "sleep", "100000"]);
    cluster.kubectl(&["expose", "deployment", "web", "--port=80"]);
    cluster.kubectl(&["wait", "--for=condition=Available", "deployment/web", "--timeout=60s"]);
    wait(SETTLE);
    let before = counts(&cluster);
    wait(IDLE);
    let more = counts(&cluster).into_iter().map(|(what, count)| (count - before.get(&what).copied().unwrap_or(0.0), what));
    let mut asked: Vec<(f64, String)> = more.filter(|(count, what)| *count > 0.0 && !what.contains("resource=\"leases\"")).collect();
    // The kubelet says every five minutes that its node is as it was; see nodeStatusReportFrequency.
    asked.retain(|(count, what)| !(what.contains("resource=\"nodes\"") && what.contains("subresource=\"status\"") && *count <= 2.0));
    assert!(asked.is_empty(), "{asked:#?}");
    cluster.stop();
    cluster.down();
}
