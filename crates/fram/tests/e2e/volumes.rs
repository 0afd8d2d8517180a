//! Volumes of real pods: certificates that somebody outside signs, a thousand mounts, and a kubelet's folder that turns read-only.

use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

use super::cluster::until;
use super::machine::{Machine, must, push, registry};

const PATIENCE: Duration = Duration::from_secs(60);
const IP: &str = "10.81.0.1";

/// A machine with a control plane and a node.
struct One {
    machine: Machine,
    image: String,
}

impl One {
    fn start(folder: &Path, more: &[&str]) -> Self {
        let mut machine = Machine::new(folder, "one", IP);
        must("ip", &["-n", &machine.name, "addr", "add", &format!("{IP}/32"), "dev", "lo"]);
        machine.start_registry(&registry(folder));
        let image = push(&machine, folder);
        let listen = format!("{IP}:6443");
        let mut arguments = vec!["--listen", listen.as_str()];
        arguments.extend(more);
        machine.start("server", &arguments);
        let one = Self { machine, image };
        let path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        one.until("the node is ready", || one.machine.try_kubectl(&["get", "node", "one", "-o", path]).as_deref() == Some("True"));
        one
    }

    fn state(&self) -> String {
        let objects = self.machine.try_kubectl(&["get", "pods,events", "-A"]).unwrap_or_default();
        format!("{objects}\n{}", self.machine.log())
    }

    #[track_caller]
    fn until(&self, what: &str, done: impl FnMut() -> bool) {
        until(PATIENCE, what, done, || self.state());
    }

    #[track_caller]
    fn kubectl(&self, arguments: &[&str]) -> String {
        self.machine.must_kubectl(arguments, || self.state())
    }

    #[track_caller]
    fn apply(&self, folder: &Path, object: &Value) {
        let file = folder.join("object.json");
        std::fs::write(&file, object.to_string()).unwrap();
        self.kubectl(&["apply", "-f", file.to_str().unwrap()]);
    }

    fn exec(&self, pod: &str, container: &str, command: &[&str]) -> Option<String> {
        self.machine.try_kubectl(&[&["exec", pod, "-c", container, "--"], command].concat())
    }

    fn container(&self, name: &str, mounts: &Value) -> Value {
        json!({ "name": name, "image": self.image, "command": ["sleep", "100000"], "volumeMounts": mounts })
    }

    /// How many mounts there are for pods of this machine.
    fn mounts(&self) -> usize {
        let pods = self.machine.data.join("kubelet/pods");
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        table.lines().filter(|line| line.contains(pods.to_str().unwrap())).count()
    }
}

fn pod(name: &str, containers: &[Value], volumes: &Value) -> Value {
    let spec = json!({ "terminationGracePeriodSeconds": 0, "containers": containers, "volumes": volumes });
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": spec })
}

fn authority() -> (CertificateParams, KeyPair) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (params, KeyPair::generate().unwrap())
}

/// What a signer writes into the status of a request.
fn signed(request: &Value, params: CertificateParams, key: KeyPair) -> (Value, String) {
    let stub = STANDARD.decode(request["spec"]["stubPKCS10Request"].as_str().unwrap()).unwrap();
    let mut asked = CertificateSigningRequestParams::from_der(&stub.into()).unwrap();
    let now = time::OffsetDateTime::now_utc().replace_nanosecond(0).unwrap();
    let at = |hours: i64| now + time::Duration::hours(hours);
    (asked.params.not_before, asked.params.not_after) = (now, at(24));
    let chain = asked.signed_by(&Issuer::new(params, key)).unwrap().pem();
    let text = |time: time::OffsetDateTime| jiff::Timestamp::from_second(time.unix_timestamp()).unwrap().to_string();
    let condition = json!({ "type": "Issued", "status": "True", "reason": "Signed", "message": "", "lastTransitionTime": text(now) });
    let status = json!({ "conditions": [condition], "certificateChain": chain, "notBefore": text(now), "beginRefreshAt": text(at(12)), "notAfter": text(at(24)) });
    (json!({ "status": status }), chain)
}

#[test]
fn a_pod_is_shown_its_certificate_and_the_authorities_of_its_signer() {
    let folder = tempfile::tempdir().unwrap();
    let one = One::start(folder.path(), &["--runtime-config=certificates.k8s.io/v1beta1=true"]);
    let (params, key) = authority();
    let (other, other_key) = authority();
    let [first, second] = [params.self_signed(&key).unwrap().pem(), other.self_signed(&other_key).unwrap().pem()];
    let bundle = |anchors: &str| {
        let spec = json!({ "signerName": "example.com/own", "trustBundle": anchors });
        json!({ "apiVersion": "certificates.k8s.io/v1beta1", "kind": "ClusterTrustBundle", "metadata": { "name": "example.com:own:1" }, "spec": spec })
    };
    one.apply(folder.path(), &bundle(&first));
    let mounts = json!([{ "name": "own", "mountPath": "/own" }]);
    let own = json!({ "signerName": "example.com/own", "keyType": "ECDSAP256", "credentialBundlePath": "own.pem", "userAnnotations": { "example.com/a": "b" } });
    let sources = json!([{ "podCertificate": own }, { "clusterTrustBundle": { "signerName": "example.com/own", "labelSelector": {}, "path": "ca.pem" } }]);
    let volumes = json!([{ "name": "own", "projected": { "sources": sources } }]);
    one.apply(folder.path(), &pod("web", &[one.container("main", &mounts)], &volumes));

    let list = || serde_json::from_str::<Value>(&one.kubectl(&["get", "podcertificaterequests", "-o", "json"])).unwrap();
    one.until("the kubelet asks for a certificate", || !list()["items"].as_array().unwrap().is_empty());
    let request = list()["items"][0].clone();
    assert_eq!(
        (&request["spec"]["podName"], &request["spec"]["unverifiedUserAnnotations"]),
        (&json!("web"), &json!({ "example.com/a": "b" }))
    );
    let (patch, chain) = signed(&request, params, key);
    let (name, patch) = (request["metadata"]["name"].as_str().unwrap(), patch.to_string());
    one.kubectl(&["patch", "podcertificaterequest", name, "--subresource=status", "--type=merge", "-p", &patch]);
    one.kubectl(&["wait", "--for=condition=Ready", "pod/web", "--timeout=30s"]);
    let shown = one.exec("web", "main", &["cat", "/own/own.pem"]).unwrap();
    assert!(shown.starts_with("-----BEGIN PRIVATE KEY-----\n") && shown.ends_with(&chain.replace("\r\n", "\n")), "{shown}");

    let anchors = || one.exec("web", "main", &["cat", "/own/ca.pem"]).unwrap_or_default();
    assert_eq!(anchors(), first.replace("\r\n", "\n"));
    one.apply(folder.path(), &bundle(&format!("{first}{second}")));
    one.until("the pod sees the second authority", || anchors().matches("BEGIN CERTIFICATE").count() == 2);
    one.kubectl(&["delete", "pod", "web", "--timeout=30s"]);
    one.until("the request goes with its pod", || list()["items"].as_array().unwrap().is_empty());
}

#[test]
fn a_container_may_not_do_what_its_seccomp_profile_on_the_node_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let one = One::start(folder.path(), &[]);
    let profiles = one.machine.data.join("kubelet/seccomp/own");
    std::fs::create_dir_all(&profiles).unwrap();
    let chmod = json!({ "names": ["chmod", "fchmod", "fchmodat", "fchmodat2"], "action": "SCMP_ACT_ERRNO" });
    let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [chmod] });
    std::fs::write(profiles.join("no-chmod.json"), profile.to_string()).unwrap();
    let mut limited = one.container("limited", &json!([]));
    limited["securityContext"] = json!({ "seccompProfile": { "type": "Localhost", "localhostProfile": "own/no-chmod.json" } });
    one.apply(folder.path(), &pod("seccomp", &[limited, one.container("free", &json!([]))], &json!([])));
    one.kubectl(&["wait", "--for=condition=Ready", "pod/seccomp", "--timeout=30s"]);
    let script = "mkdir /x && { chmod 700 /x 2>/dev/null && echo changed || echo refused; }; grep Seccomp: /proc/self/status";
    let said = |container: &str| one.exec("seccomp", container, &["sh", "-c", script]).unwrap_or_default();
    assert_eq!(said("limited"), "refused\nSeccomp:\t2\n");
    assert!(said("free").starts_with("changed\n"));
    one.kubectl(&["delete", "pod", "seccomp", "--timeout=30s"]);
}

/// Fifty volumes of the sorts that need no storage.
fn fifty() -> Vec<Value> {
    let volume = |number: usize| {
        let mut volume = match number % 5 {
            0 => json!({ "emptyDir": {} }),
            1 => json!({ "emptyDir": { "medium": "Memory" } }),
            2 => json!({ "configMap": { "name": "told" } }),
            3 => json!({ "secret": { "secretName": "hidden" } }),
            _ => json!({ "projected": { "sources": [{ "configMap": { "name": "told" } }, { "secret": { "name": "hidden" } }] } }),
        };
        volume["name"] = json!(format!("v{number}"));
        volume
    };
    (0..50).map(volume).collect()
}

#[test]
fn a_pod_with_a_thousand_mounts_comes_sees_changes_and_leaves_none() {
    let folder = tempfile::tempdir().unwrap();
    let one = One::start(folder.path(), &[]);
    let before = one.mounts();
    one.kubectl(&["create", "configmap", "told", "--from-literal=word=old"]);
    one.kubectl(&["create", "secret", "generic", "hidden", "--from-literal=key=k"]);
    let mounts = (0..50).map(|number| json!({ "name": format!("v{number}"), "mountPath": format!("/v/{number}") })).collect::<Vec<_>>();
    let containers: Vec<Value> = (0..20).map(|number| one.container(&format!("c{number}"), &json!(mounts))).collect();
    one.apply(folder.path(), &pod("many", &containers, &json!(fifty())));
    one.kubectl(&["wait", "--for=condition=Ready", "pod/many", "--timeout=120s"]);
    let count = "grep -c ' /v/' /proc/self/mountinfo";
    for container in ["c0", "c19"] {
        assert_eq!(one.exec("many", container, &["sh", "-c", count]).as_deref(), Some("50\n"), "{container}");
    }
    one.exec("many", "c0", &["sh", "-c", "echo here > /v/0/file"]).unwrap();
    assert_eq!(one.exec("many", "c19", &["cat", "/v/0/file"]).as_deref(), Some("here\n"));
    one.kubectl(&["patch", "configmap", "told", "-p", r#"{"data":{"word":"new"}}"#]);
    one.until("all volumes of all containers show the change", || {
        let words = "for n in $(seq 2 5 49) $(seq 4 5 49); do cat /v/$n/word; echo; done | grep -c new";
        ["c0", "c19"].iter().all(|c| one.exec("many", c, &["sh", "-c", words]).is_some_and(|n| n.trim() == "20"))
    });
    one.kubectl(&["delete", "pod", "many", "--timeout=60s"]);
    one.until("nothing is left mounted", || one.mounts() == before);
    one.until("its directory is gone", || std::fs::read_dir(one.machine.data.join("kubelet/pods")).unwrap().count() == 0);
}

/// A folder that nothing can be written to, until this value goes.
struct ReadOnly(std::path::PathBuf);

impl ReadOnly {
    fn turn(folder: &Path) -> Self {
        let bind = |flags| mount(Some(folder), folder, None::<&str>, MsFlags::MS_BIND | flags, None::<&str>);
        bind(MsFlags::empty()).unwrap();
        let turned = Self(folder.to_path_buf());
        bind(MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY).unwrap();
        turned
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

#[test]
fn a_kubelets_folder_that_turns_read_only_is_told_by_events_and_what_waits_for_it_runs_when_it_is_writable_again() {
    let folder = tempfile::tempdir().unwrap();
    let one = One::start(folder.path(), &[]);
    one.apply(folder.path(), &pod("running", &[one.container("main", &json!([]))], &json!([])));
    one.kubectl(&["wait", "--for=condition=Ready", "pod/running", "--timeout=30s"]);
    let turned = ReadOnly::turn(&one.machine.data.join("kubelet/pods"));
    one.apply(folder.path(), &pod("waiting", &[one.container("main", &json!([]))], &json!([])));
    let told = ["get", "events", "--field-selector=involvedObject.name=waiting", "-o", "jsonpath={.items[*].message}"];
    one.until("an event says what is wrong", || one.kubectl(&told).contains("Read-only file system"));
    let phase = ["get", "pod", "waiting", "-o", "jsonpath={.status.phase}"];
    assert_eq!(one.kubectl(&phase), "Pending");
    assert_eq!(one.exec("running", "main", &["echo", "here"]).as_deref(), Some("here\n"));
    drop(turned);
    one.kubectl(&["wait", "--for=condition=Ready", "pod/waiting", "--timeout=60s"]);
    let restarts = "jsonpath={.items[*].status.containerStatuses[0].restartCount}";
    assert_eq!(one.kubectl(&["get", "pods", "-o", restarts]), "0 0");
}
