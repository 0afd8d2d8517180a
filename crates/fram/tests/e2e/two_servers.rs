//! Two servers on one etcd: what one writes the other reads, and when the one that leads is killed the other goes on with its work.

use std::process::{Child, Stdio};
use std::time::Duration;

use super::cluster::until;
use super::machine::{Machine, must};

const PATIENCE: Duration = Duration::from_secs(30);
const ETCD: &str = "http://10.78.0.1:2379";

const APPLICATION: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: nowhere}]}
"#;

/// One machine for all of it: servers differ by their addresses.
struct Site {
    // In the order in which they have to end.
    agent: Machine,
    second: Machine,
    first: Machine,
    etcd: Child,
}

impl Drop for Site {
    fn drop(&mut self) {
        // They would wait for it.
        self.agent.kill();
        self.second.kill();
        self.first.kill();
        let ended = self.etcd.kill().and_then(|()| self.etcd.wait());
        eprintln!("etcd ended: {ended:?}");
    }
}

impl Site {
    fn new(folder: &std::path::Path) -> Self {
        let (first, second) = (Machine::new(folder, "first", "10.78.0.1"), Machine::new(folder, "second", "10.78.0.2"));
        first.cable(&second);
        let mut etcd = first.command("etcd");
        etcd.args(["--log-level", "fatal", "--logger", "zap", "--listen-client-urls", ETCD, "--advertise-client-urls", ETCD]);
        let etcd = etcd.arg("--data-dir").arg(folder.join("etcd")).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { agent: second.beside(folder, "agent"), second, first, etcd }
    }

    fn state(&self) -> String {
        format!("first:\n{}\nsecond:\n{}\nagent:\n{}", self.first.log(), self.second.log(), self.agent.log())
    }

    #[track_caller]
    fn must(&self, machine: &Machine, arguments: &[&str]) -> String {
        machine.must_kubectl(arguments, || self.state())
    }

    #[track_caller]
    fn until(&self, what: &str, done: impl FnMut() -> bool) {
        until(PATIENCE, what, done, || self.state());
    }

    fn is_ready(&self, machine: &Machine) -> bool {
        machine.try_kubectl(&["get", "--raw", "/readyz"]).is_some()
    }

    fn pods(&self, machine: &Machine) -> usize {
        machine.try_kubectl(&["get", "pods", "-o", "name"]).map_or(0, |pods| pods.lines().count())
    }

    fn endpoints(&self, machine: &Machine) -> String {
        let path = "jsonpath={.endpoints[*].addresses[*]}";
        machine.try_kubectl(&["get", "endpointslice", "kubernetes", "-o", path]).unwrap_or_default()
    }
}

fn start(machine: &mut Machine, more: &[&str]) {
    let listen = format!("{}:6443", machine.ip);
    machine.start("server", &[&["--listen", &listen, "--etcd-servers", ETCD], more].concat());
}

/// The node of the one that was started first has no connection to the other, which has to go there.
fn both_reach_the_node(site: &Site) {
    let servers = [(&site.first, "by its own pipe"), (&site.second, "over the network")];
    for (machine, way) in servers {
        let asked = ["get", "--raw", "/api/v1/nodes/first/proxy/healthz"];
        site.until(&format!("the kubelet answers {way}"), || machine.try_kubectl(&asked).as_deref() == Some("ok"));
    }
}

/// A node that knows the first server by its flag, and the other because the cluster tells of it.
fn join(site: &mut Site) {
    let made = site.first.command(env!("CARGO_BIN_EXE_fram")).args(["token", "create", "--data-dir"]).arg(&site.first.data).output();
    let token = String::from_utf8(made.unwrap().stdout).unwrap();
    site.agent.start("agent", &["--server", "https://10.78.0.1:6443", "--token", token.trim()]);
    site.until("the agent's node is ready", || renewed(site).is_some());
    let known = site.agent.data.join("servers");
    site.until("the agent knows both", || std::fs::read_to_string(&known).is_ok_and(|known| known.lines().count() == 2));
}

/// When the agent's node last told that it lives.
fn renewed(site: &Site) -> Option<String> {
    site.second.try_kubectl(&["get", "lease", "-n", "kube-node-lease", "agent", "-o", "jsonpath={.spec.renewTime}"])
}

/// Different keys make different clusters, whatever etcd they name.
fn strangers_are_refused(site: &Site, folder: &std::path::Path) {
    let mut stranger = site.second.command(env!("CARGO_BIN_EXE_fram"));
    stranger.args(["server", "--no-node", "--listen", "10.78.0.2:7443", "--etcd-servers", ETCD, "--data-dir"]).arg(folder.join("stranger"));
    let output = stranger.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("a cluster with other keys"), "{said}");
}

fn both_see_the_same(site: &Site) {
    let servers = [&site.first, &site.second];
    for number in 0..6 {
        let (writer, reader, name) = (servers[number % 2], servers[1 - number % 2], format!("map-{number}"));
        site.must(writer, &["create", "configmap", &name, &format!("--from-literal=by={number}")]);
        assert_eq!(site.must(reader, &["get", "configmap", &name, "-o", "jsonpath={.data.by}"]), number.to_string());
    }
    let creating = (0..10).map(|number| {
        let create = ["create", "service", "clusterip", &format!("service-{number}"), "--tcp=80"].map(String::from);
        servers[number % 2].kubectl(&create.each_ref().map(String::as_str)).stdout(Stdio::null()).spawn().unwrap()
    });
    for mut creating in creating.collect::<Vec<_>>() {
        assert!(creating.wait().unwrap().success());
    }
    let addresses = site.must(&site.first, &["get", "services", "-o", "jsonpath={.items[*].spec.clusterIP}"]);
    let distinct: std::collections::HashSet<&str> = addresses.split(' ').collect();
    assert_eq!(distinct.len(), 11, "no address is given twice: {addresses}");
}

fn secrets_are_sealed(site: &Site, folder: &std::path::Path) {
    // In the API a Secret's words are in base64, and in the store if it is not encrypted.
    const WORD: &str = "cGxhaW4taW4tdGhlLWFwaS1vbmx5";
    site.must(&site.first, &["create", "secret", "generic", "s", "--from-literal=word=plain-in-the-api-only"]);
    site.must(&site.first, &["create", "configmap", "beside", "--from-literal=word=found-in-etcd"]);
    assert_eq!(site.must(&site.second, &["get", "secret", "s", "-o", "jsonpath={.data.word}"]), WORD);
    let holds = |word: &str| {
        let found = site.first.command("grep").args(["-rq", word]).arg(folder.join("etcd")).status().unwrap();
        found.success()
    };
    assert!(holds("found-in-etcd") && !holds(WORD) && holds("k8s:enc:secretbox:v1:key1:"));
}

#[test]
fn two_servers_on_one_etcd_are_one_cluster_and_one_of_them_is_enough() {
    let folder = tempfile::tempdir().unwrap();
    let mut site = Site::new(folder.path());
    start(&mut site.first, &[]);
    site.until("the first server is ready", || site.is_ready(&site.first));
    std::fs::create_dir(&site.second.data).unwrap();
    must("cp", &["-r", site.first.data.join("pki").to_str().unwrap(), site.second.data.to_str().unwrap()]);
    start(&mut site.second, &["--no-node"]);
    site.until("the second server is ready", || site.is_ready(&site.second));
    strangers_are_refused(&site, folder.path());
    both_see_the_same(&site);
    both_reach_the_node(&site);
    secrets_are_sealed(&site, folder.path());
    site.until("both are endpoints", || site.endpoints(&site.second) == "10.78.0.1 10.78.0.2");
    join(&mut site);
    let manifest = folder.path().join("web.yaml");
    std::fs::write(&manifest, APPLICATION).unwrap();
    site.must(&site.second, &["apply", "-f", manifest.to_str().unwrap()]);
    site.until("one of them controls", || site.pods(&site.second) == 2);
    // It was alone when it was elected.
    site.first.kill();
    site.must(&site.second, &["scale", "deployment", "web", "--replicas=4"]);
    site.until("the other goes on", || site.pods(&site.second) == 4);
    site.until("the endpoint of the one that is gone is gone", || site.endpoints(&site.second) == "10.78.0.2");
    let before = renewed(&site).unwrap();
    site.until("the node that had joined it goes on with the other", || renewed(&site).is_some_and(|now| now != before));
    site.agent.kill();
    site.agent.start("agent", &["--server", "https://10.78.0.1:6443"]);
    let before = renewed(&site).unwrap();
    site.until("so it does when it is started anew", || renewed(&site).is_some_and(|now| now != before));
}
