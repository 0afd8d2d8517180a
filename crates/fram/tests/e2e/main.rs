//! The real program with real containers, as root: kubectl from outside, images from a registry on loopback, kill -9.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod client;
mod cluster;
mod demo;
mod image;
mod machine;
mod memory;
mod refused;
mod registry;
mod runtime_rig;
mod runtime_socket;
mod secure;
mod shop;
mod store_check;
mod two_nodes;
mod two_servers;
mod volumes;

use cluster::Cluster;

const APPLICATION: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: IMAGE
        command: [sh, -c, "mkdir -p /www && hostname > /www/index.html && echo serving && exec httpd -f -p 8080 -h /www"]
        ports: [{containerPort: 8080, name: http}]
        readinessProbe: {httpGet: {path: /index.html, port: http}, periodSeconds: 1}
        resources: {limits: {memory: 64Mi, cpu: 500m}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: client, image: IMAGE, command: [sleep, "100000"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: leaver}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers: [{name: leaver, image: IMAGE, command: [sh, -c, "while [ ! -e /stop/now ]; do sleep 0.1; done; exit 7"], volumeMounts: [{name: stop, mountPath: /stop}]}]
  volumes: [{name: stop, hostPath: {path: STOP, type: Directory}}]
"#;

/// Asks the Service by its name. wget of Debian's static busybox needs libraries that the image has not.
const CALL: [&str; 6] = [
    "exec",
    "client",
    "--",
    "sh",
    "-c",
    "ip=$(nslookup web.default.svc.cluster.local | sed -n 's/^Address: //p' | tail -n 1) && printf 'GET /index.html HTTP/1.0\\r\\n\\r\\n' | nc -w 2 $ip 80 | tail -n 1",
];

#[test]
fn an_application_runs_survives_kill_9_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let registry = registry::Registry::start(folder.path());
    let image = registry.push("busybox", &image::busybox(folder.path()));
    let stop = folder.path().join("stop");
    std::fs::create_dir(&stop).unwrap();
    let before = cluster::traces();
    let mut cluster = Cluster::start(folder.path());
    cluster.apply(&APPLICATION.replace("IMAGE", &image).replace("STOP", stop.to_str().unwrap()));
    cluster.kubectl(&["wait", "--for=condition=Available", "deployment/web", "--timeout=60s"]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/client", "pod/leaver", "--timeout=60s"]);

    // By name, through the Service, each of the three answers in time.
    let mut answered = std::collections::BTreeSet::new();
    cluster.until("all three pods answer by the Service's name", || {
        answered.extend(cluster.try_kubectl(&CALL));
        answered.len() == 3
    });
    assert_eq!(cluster.kubectl(&["logs", "deployment/web"]).trim(), "serving");
    let failing = cluster.run_kubectl(&["exec", "client", "--", "sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!((failing.status.code(), failing.stdout.as_slice()), (Some(3), &b"out\n"[..]));

    // Over a forwarded port, from outside.
    let answer = cluster.forwarded("default", "service/web", 80, "GET /index.html HTTP/1.0\r\n\r\n");
    assert!(answered.iter().any(|name| answer.ends_with(name.as_str())), "{answer:?} is not of {answered:?}");

    let pids = cluster.container_processes();
    cluster.kill();
    assert!(cluster.container_processes().is_superset(&pids), "killing fram ended containers");
    std::fs::write(stop.join("now"), "").unwrap();
    cluster.until("the container that was told to leave has left", || cluster.container_processes().len() < pids.len());
    cluster.upgrade();
    cluster.restart();
    cluster.until("the exit that nobody watched is reported with its code", || {
        let path = "jsonpath={.status.phase} {.status.containerStatuses[0].state.terminated.exitCode}";
        cluster.try_kubectl(&["get", "pod", "leaver", "-o", path]).as_deref() == Some("Failed 7")
    });
    let restarts = "jsonpath={range .items[*]}{.status.containerStatuses[0].restartCount}{end}";
    assert_eq!(cluster.kubectl(&["get", "pods", "-l", "app=web", "-o", restarts]), "000");
    cluster.kubectl(&CALL);

    cluster.kubectl(&["delete", "pod", "client", "--timeout=30s"]);
    cluster.stop();
    cluster.down();
    cluster::assert_nothing_left(&before);
}
