//! Two machines, as network namespaces with a cable between them: a server with a node in one, an agent in the other.

use std::path::Path;
use std::time::Duration;

use super::cluster::until;
use super::machine::{Machine, push, registry};

const PATIENCE: Duration = Duration::from_secs(30);
const PORT: u16 = 6443;

/// Asks the Service by its name and prints the last line of the answer: who answered.
const ASK: &str = r"printf 'GET /index.html HTTP/1.0\r\n\r\n' | nc -w 2 web 80 | tail -n 1 | grep .";

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
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}
      containers:
      - name: web
        image: IMAGE
        command: [sh, -c, "mkdir -p /www && hostname > /www/index.html && echo serving && exec httpd -f -p 8080 -h /www"]
        ports: [{containerPort: 8080, name: http}]
        readinessProbe: {httpGet: {path: /index.html, port: http}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
"#;

struct Pair {
    server: Machine,
    agent: Machine,
}

impl Pair {
    fn try_kubectl(&self, arguments: &[&str]) -> Option<String> {
        self.server.try_kubectl(arguments)
    }

    fn state(&self) -> String {
        let objects = self.try_kubectl(&["get", "pods,nodes,csr,events", "-o", "wide"]).unwrap_or_default();
        format!("{objects}\nserver:\n{}\nagent:\n{}", self.server.log(), self.agent.log())
    }

    #[track_caller]
    fn kubectl(&self, arguments: &[&str]) -> String {
        self.server.must_kubectl(arguments, || self.state())
    }

    #[track_caller]
    fn until(&self, what: &str, done: impl FnMut() -> bool) {
        until(PATIENCE, what, done, || self.state());
    }

    fn node_is_ready(&self, name: &str) -> bool {
        let path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        self.try_kubectl(&["get", "node", name, "-o", path]).as_deref() == Some("True")
    }

    /// The pod of the Deployment on a node.
    fn pod_on(&self, node: &str) -> String {
        let selector = format!("spec.nodeName={node}");
        self.kubectl(&["get", "pods", "-l", "app=web", "--field-selector", &selector, "-o", "jsonpath={.items[0].metadata.name}"])
    }
}

fn cabled(folder: &Path) -> Pair {
    let (server, agent) = (Machine::new(folder, "server", "10.77.0.1"), Machine::new(folder, "agent", "10.77.0.2"));
    server.cable(&agent);
    Pair { server, agent }
}

/// Both machines have a registry at the same place, over the same files.
fn with_registries(pair: &mut Pair, folder: &Path) -> String {
    let file = registry(folder);
    pair.server.start_registry(&file);
    pair.agent.start_registry(&file);
    push(&pair.server, folder)
}

/// What an agent says that cannot join.
fn refused(agent: &Machine, server: &str, token: &str) -> String {
    let output = agent.fram("agent").args(["--node-ip", agent.ip, "--server", server, "--token", token]).output().unwrap();
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_second_node_joins_with_a_token_and_its_pods_outlive_its_agent() {
    let folder = tempfile::tempdir().unwrap();
    let mut pair = cabled(folder.path());
    let image = with_registries(&mut pair, folder.path());
    let url = format!("https://10.77.0.1:{PORT}");
    pair.server.start("server", &["--listen", &format!("10.77.0.1:{PORT}")]);
    pair.until("the server's node is ready", || pair.node_is_ready("server"));
    let made =
        pair.server.command(env!("CARGO_BIN_EXE_fram")).args(["token", "create", "--data-dir"]).arg(&pair.server.data).output().unwrap();
    let token = String::from_utf8(made.stdout).unwrap().trim().to_string();

    let (bootstrap, hash) = token.rsplit_once('.').unwrap();
    let unknown = refused(&pair.agent, &url, &format!("abcdef.0123456789abcdef.{hash}"));
    assert!(unknown.contains("does not know the join token"), "{unknown}");
    let other = refused(&pair.agent, &url, &format!("{bootstrap}.{}", "0".repeat(64)));
    assert!(other.contains("belongs to another cluster than the token"), "{other}");
    let away = refused(&pair.agent, "https://10.77.0.1:1", &token);
    assert!(away.contains("https://10.77.0.1:1: cannot connect to 10.77.0.1:1: "), "{away}");

    pair.agent.start("agent", &["--server", &url, "--token", &token]);
    pair.until("the agent's node is ready", || pair.node_is_ready("agent"));
    let manifest = folder.path().join("application.yaml");
    std::fs::write(&manifest, APPLICATION.replace("IMAGE", &image)).unwrap();
    pair.kubectl(&["apply", "-f", manifest.to_str().unwrap()]);
    pair.kubectl(&["wait", "--for=condition=Available", "deployment/web", "--timeout=30s"]);
    let (here, there) = (pair.pod_on("server"), pair.pod_on("agent"));

    // From either node, by the Service's name, the pods of both answer in time.
    for from in [&here, &there] {
        let mut answered = std::collections::BTreeSet::new();
        pair.until("the pods of both nodes answer by the Service's name", || {
            answered.extend(pair.try_kubectl(&["exec", from, "--", "sh", "-c", ASK]));
            answered.len() == 3
        });
    }
    assert_eq!(pair.kubectl(&["logs", &there]).trim(), "serving");
    let failing = pair.server.kubectl(&["exec", &there, "--", "sh", "-c", "echo out; exit 3"]).output().unwrap();
    assert_eq!((failing.status.code(), failing.stdout.as_slice()), (Some(3), &b"out\n"[..]));
    let forward = pair.server.kubectl(&["port-forward", &format!("pod/{there}"), ":8080"]);
    let answer = super::cluster::forwarded(forward, |address| {
        let (host, port) = address.rsplit_once(':').unwrap();
        let request = format!("printf 'GET /index.html HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 2 {host} {port} | tail -n 1");
        pair.server.command("sh").args(["-c", &request]).output().unwrap().stdout
    });
    assert_eq!(String::from_utf8(answer).unwrap().trim(), there, "over a port forwarded to the agent's node");
    // The API's own Service leads from the agent's node to the server.
    let port = pair.try_kubectl(&["exec", &there, "--", "sh", "-c", "nc -w 3 10.96.0.1 443 </dev/null"]);
    assert!(port.is_some(), "the API cannot be reached from the agent's pods\n{}", pair.state());

    let pids = pair.agent.containers();
    assert!(!pids.is_empty());
    pair.agent.kill();
    // The certificate is there: no token is needed any more.
    pair.agent.start("agent", &["--server", &url]);
    pair.until("the server reaches the agent's kubelet again", || pair.try_kubectl(&["exec", &there, "--", "true"]).is_some());
    let now = pair.agent.containers();
    assert!(pids.iter().all(|pid| now.contains(pid)), "a container ended with its agent: {pids:?} {now:?}");
    let restarts = "jsonpath={.status.containerStatuses[0].restartCount}";
    assert_eq!(pair.kubectl(&["get", "pod", &there, "-o", restarts]), "0");
    // Nobody has approved anything by hand: neither the certificate to ask by nor that of the kubelet's port.
    let signers = "jsonpath={range .items[?(@.status.certificate)]}{.spec.signerName} {.status.conditions[*].type}{\"\\n\"}{end}";
    pair.until("both certificates of the agent are signed", || {
        let mut signed: Vec<String> = pair.kubectl(&["get", "csr", "-o", signers]).lines().map(str::to_owned).collect();
        signed.sort();
        signed == ["kubernetes.io/kube-apiserver-client-kubelet Approved", "kubernetes.io/kubelet-serving Approved"]
    });
}
