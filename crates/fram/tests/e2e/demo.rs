//! `fram up --demo` as a newcomer runs it, and the built-in client on what it leaves.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::cluster::pause;
use super::machine::{Machine, must};

/// The demo has this long: longer than any of its steps, so that its own words come first.
const DEMO: Duration = Duration::from_secs(90);
const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/hello/hello.yaml");
const IP: &str = "10.78.0.1";

struct Newcomer {
    machine: Machine,
}

impl Newcomer {
    /// A machine without any network but its own.
    fn new(folder: &Path) -> Self {
        let machine = Machine::new(folder, "newcomer", IP);
        must("ip", &["-n", &machine.name, "link", "add", "cable", "type", "veth", "peer", "name", "end"]);
        must("ip", &["-n", &machine.name, "addr", "add", &format!("{IP}/24"), "dev", "cable"]);
        for link in ["cable", "end"] {
            must("ip", &["-n", &machine.name, "link", "set", link, "up"]);
        }
        Self { machine }
    }

    /// Plays the demo until it says what to try next; gives what it said.
    fn play(&mut self) -> String {
        std::fs::write(&self.machine.log, "").unwrap();
        self.machine.start("up", &["--demo"]);
        let begun = Instant::now();
        loop {
            let said = std::fs::read_to_string(&self.machine.log).unwrap();
            if said.contains("removes all of it.") {
                return said;
            }
            assert!(self.machine.fram.as_mut().unwrap().try_wait().unwrap().is_none(), "the demo ended:\n{said}");
            assert!(begun.elapsed() < DEMO, "the demo takes too long:\n{said}");
            pause();
        }
    }

    /// Ends the program as Ctrl-C does.
    fn interrupt(&mut self) {
        let mut process = self.machine.fram.take().unwrap();
        must("kill", &["-INT", &process.id().to_string()]);
        assert!(process.wait().unwrap().success(), "fram did not drain: {}", self.machine.log());
    }

    fn client(&self, arguments: &[&str]) -> Command {
        let mut command = self.machine.command(env!("CARGO_BIN_EXE_fram"));
        // What stands behind `--` is the container's.
        let end = arguments.iter().position(|a| *a == "--").unwrap_or(arguments.len());
        command.args(&arguments[..end]).arg("--data-dir").arg(&self.machine.data).args(&arguments[end..]);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.client(arguments).output().unwrap()
    }

    #[track_caller]
    fn fram(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "fram {arguments:?}: {out}{err}\n{}", self.machine.log());
        out
    }

    /// What a forwarded port answers.
    fn forwarded(&self) -> String {
        let mut forward = self.client(&["port-forward", "service/hello", ":80"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(forward.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split_whitespace().nth(2).unwrap_or_default().to_string();
        let program = env!("CARGO_BIN_EXE_fram");
        assert!(address.starts_with("127.0.0.1:"), "{program} port-forward said {line:?}");
        let (host, port) = address.split_once(':').unwrap();
        // The shell's own TCP: the port is in the machine's namespace, where the test is not.
        let ask = format!(r"exec 3<>/dev/tcp/{host}/{port}; printf 'GET / HTTP/1.0\r\n\r\n' >&3; cat <&3");
        let answer = self.machine.command("bash").args(["-c", &ask]).output().unwrap();
        forward.kill().unwrap();
        forward.wait().unwrap();
        String::from_utf8(answer.stdout).unwrap()
    }
}

#[test]
fn the_demo_shows_an_application_and_the_built_in_client_works_on_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut newcomer = Newcomer::new(folder.path());
    let said = newcomer.play();
    for step in ["localhost/hello:1 built", "3 replicas are available", "answered by 3 replicas", "has 5 replicas", "another one was ready"]
    {
        assert!(said.contains(step), "{step} is not in\n{said}");
    }

    looks(&newcomer);
    talks(&newcomer);
    changes(&newcomer);

    let ids = "jsonpath={.items[*].status.containerStatuses[0].containerID}";
    let before = newcomer.fram(&["get", "pods", "-o", ids]);
    newcomer.interrupt();
    let refused = newcomer.run(&["get", "pods"]);
    let complaint = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && complaint.contains("is fram running? Start it with `fram up`"), "{complaint}");
    let again = newcomer.play();
    assert!(again.contains("is still here") && again.contains("localhost/hello:1 is here from before"), "{again}");
    assert_eq!(newcomer.fram(&["get", "pods", "-o", ids]), before, "the pods did not outlive fram");

    let deleted = newcomer.fram(&["delete", "-f", MANIFESTS]);
    assert!(deleted.starts_with("configmap \"hello\" deleted from default namespace\n"), "{deleted}");
    let missing = newcomer.run(&["get", "deployment", "hello"]);
    assert_eq!(String::from_utf8_lossy(&missing.stderr), "Error from server (NotFound): deployments.apps \"hello\" not found\n");
    newcomer.fram(&["wait", "--for=delete", "pods", "-l", "app=hello", "--timeout=30s"]);
    assert_eq!(newcomer.fram(&["image", "rm", "localhost/hello:1"]), "image \"localhost/hello:1\" removed\n");
    newcomer.interrupt();
}

/// get, image, status.
fn looks(newcomer: &Newcomer) {
    let table = newcomer.fram(&["get", "deploy,svc", "-l", "app.kubernetes.io/name=hello"]);
    let lines: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"], "{table}");
    assert_eq!(lines[1][..4], ["deployment.apps/hello", "5/5", "5", "5"], "{table}");
    assert!(table.contains("\n\nNAME            TYPE ") && table.contains("service/hello"), "{table}");
    assert_eq!(newcomer.fram(&["get", "pods", "-l", "app=hello", "-o", "name"]).lines().count(), 5);
    assert!(newcomer.fram(&["get", "cm", "hello", "-o", "yaml"]).contains("\n  greeting: Hello\n"));
    assert!(newcomer.fram(&["get", "pods", "-A", "-o", "wide", "--no-headers"]).contains("newcomer"));
    let described = newcomer.fram(&["describe", "pod", "visitor"]);
    // How wide the columns are depends on what else happened to the pod.
    let started = described.lines().any(|l| l.split_whitespace().take(2).eq(["Normal", "Started"]));
    assert!(described.starts_with("Name:         visitor\nNamespace:    default\n") && started, "{described}");
    assert!(newcomer.fram(&["image", "list"]).contains("localhost/hello"));
    let is_pinned = || newcomer.fram(&["image", "list"]).lines().any(|line| line.contains("localhost/hello") && line.ends_with("true"));
    for (word, done, pinned) in [("pin", "pinned", true), ("unpin", "unpinned", false)] {
        assert_eq!(newcomer.fram(&["image", word, "localhost/hello:1"]), format!("image \"localhost/hello:1\" {done}\n"));
        assert_eq!(is_pinned(), pinned);
    }
    let status = newcomer.fram(&["status"]);
    for part in ["fram ", "kube-apiserver", "kube-scheduler", "kube-controller-manager", "shims", "node newcomer"] {
        assert!(status.lines().any(|l| l.starts_with(part)), "{part} is not in\n{status}");
    }
}

/// logs, exec, port-forward.
fn talks(newcomer: &Newcomer) {
    assert!(newcomer.fram(&["logs", "deployment/hello", "--limit-bytes=100"]).starts_with("serving on port 8080\n"));
    assert_eq!(newcomer.fram(&["logs", "-l", "app=hello", "--tail=1", "--prefix"]).lines().count(), 5);
    assert!(newcomer.fram(&["logs", "job/hello-check"]).contains(" times: Hello from hello-"));
    let answer = newcomer.fram(&["exec", "visitor", "--", "/hello", "get", "http://hello"]);
    assert!(answer.starts_with("Hello from hello-"), "{answer}");
    let failing = newcomer.run(&["exec", "visitor", "--", "/hello", "get", "http://hello/nothing"]);
    let complaint = String::from_utf8_lossy(&failing.stderr).into_owned();
    assert_eq!(failing.status.code(), Some(1));
    assert!(complaint.contains("404 Not Found") && complaint.ends_with("command terminated with exit code 1\n"), "{complaint}");
    // A terminal turns line ends into its own.
    let exec = newcomer.client(&["exec", "-it", "visitor", "--", "/hello", "get", "http://hello"]);
    let words: Vec<&str> = std::iter::once(exec.get_program()).chain(exec.get_args()).map(|w| w.to_str().unwrap()).collect();
    let typed = Command::new("script").args(["-qec", &words.join(" "), "/dev/null"]).stdin(Stdio::null()).output().unwrap();
    let shown = String::from_utf8_lossy(&typed.stdout).into_owned();
    assert!(typed.status.success() && shown.contains("Hello from hello-") && shown.contains("\r\n"), "{typed:?}");
    let answer = newcomer.forwarded();
    assert!(answer.contains("\r\n\r\nHello from hello-"), "{answer}");
}

/// scale, wait, rollout, apply.
fn changes(newcomer: &Newcomer) {
    assert_eq!(newcomer.fram(&["scale", "deployment/hello", "--replicas=2"]), "deployment.apps/hello scaled\n");
    let met = newcomer.fram(&["wait", "--for=jsonpath={.status.replicas}=2", "deploy", "hello", "--timeout=30s"]);
    assert_eq!(met, "deployment.apps/hello condition met\n");
    assert_eq!(newcomer.fram(&["rollout", "restart", "deploy/hello"]), "deployment.apps/hello restarted\n");
    assert!(newcomer.fram(&["rollout", "status", "deploy/hello"]).ends_with("deployment \"hello\" successfully rolled out\n"));
    let history = newcomer.fram(&["rollout", "history", "deploy/hello"]);
    assert!(history.ends_with("REVISION  CHANGE-CAUSE\n1         <none>\n2         <none>\n\n"), "{history}");
    assert_eq!(newcomer.fram(&["rollout", "undo", "deploy/hello"]), "deployment.apps/hello rolled back\n");
    newcomer.fram(&["rollout", "status", "deploy/hello", "--timeout=30s"]);
    let restarted = "jsonpath={.spec.template.metadata.annotations}";
    assert_eq!(newcomer.fram(&["get", "deploy", "hello", "-o", restarted]), "");
    let applied = newcomer.fram(&["apply", "-f", MANIFESTS, "--force-conflicts"]);
    assert!(applied.starts_with("configmap/hello serverside-applied\ndeployment.apps/hello serverside-applied\n"), "{applied}");
    newcomer.fram(&["wait", "--for=condition=Available", "deployment/hello", "--timeout=30s"]);
    assert_eq!(newcomer.fram(&["get", "deploy", "hello", "-o", "jsonpath={.spec.replicas}"]), "3");
}
