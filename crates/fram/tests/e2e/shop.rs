//! The shop of examples/shop: several tiers from Debian's packages, updated under load while the program is killed. Its whole
//! form is in `tests/whole`.

pub(crate) mod by_hand;
pub(crate) mod stage;

use super::cluster::{Cluster, assert_nothing_left, traces};
use super::registry::Registry;
use stage::{Customers, rolled_out, update};

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
    stage::build(&registry);
    let before = traces();
    let mut cluster = Cluster::start(folder.path());
    let door = stage::open(&cluster, &registry);
    door.order(5);
    assert_eq!(door.orders(), 5);

    let customers = Customers::come(&door, 4);
    cluster.kubectl(&["-n", "shop", "scale", "deployment/app", "--replicas=10"]);
    rolled_out(&cluster);
    by_hand::all(&cluster, folder.path(), 5);
    update(&cluster, &registry, "2");
    cluster.until("the first new pods serve", || door.version() == "2");
    cluster.kill();
    cluster.restart();
    rolled_out(&cluster);
    let served = customers.leave();
    assert!(served > 100, "only {served} requests in all this time");
    assert_eq!(door.version(), "2");

    cluster.kubectl(&["-n", "shop", "rollout", "undo", "deployment/app"]);
    rolled_out(&cluster);
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

    stage::close(&cluster);
    cluster.stop();
    cluster.down();
    assert_nothing_left(&before);
}
