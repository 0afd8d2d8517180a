//! The built-in client against a control plane without a node: what needs objects and no containers.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::cluster::pause;
use super::machine::{Machine, must};

const PATIENCE: Duration = Duration::from_secs(20);
const IP: &str = "10.79.0.1";

const MANIFESTS: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: a, labels: {tier: front, app.kubernetes.io/name: shop}}
data: {key: value}
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: b, labels: {tier: back}}}
- {apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {word: open}}
";

struct User {
    machine: Machine,
}

impl User {
    fn new(folder: &Path) -> Self {
        let mut machine = Machine::new(folder, "user", IP);
        must("ip", &["-n", &machine.name, "addr", "add", &format!("{IP}/32"), "dev", "lo"]);
        machine.start("server", &["--no-node", "--listen", &format!("{IP}:6443")]);
        let user = Self { machine };
        let begun = Instant::now();
        while !user.run(&["get", "namespace", "default"]).status.success() {
            assert!(begun.elapsed() < PATIENCE, "{}", user.machine.log());
            pause();
        }
        user
    }

    fn client(&self, arguments: &[&str]) -> Command {
        let mut command = self.machine.command(env!("CARGO_BIN_EXE_fram"));
        command.args(arguments).env("KUBECONFIG", self.machine.data.join("admin.kubeconfig"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.client(arguments).output().unwrap()
    }

    #[track_caller]
    fn fram(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "fram {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a command that fails says.
    #[track_caller]
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1), "fram {arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stderr).unwrap()
    }

    #[track_caller]
    fn given(&self, arguments: &[&str], input: &str) -> String {
        let mut child = self.client(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "fram {arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn watch(&self, arguments: &[&str]) -> (Child, BufReader<std::process::ChildStdout>) {
        let mut child = self.client(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        (child, lines)
    }
}

fn line(lines: &mut impl BufRead) -> String {
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    line.trim_end().to_string()
}

#[test]
fn the_built_in_client_speaks_kubectls_language() {
    let folder = tempfile::tempdir().unwrap();
    let user = User::new(folder.path());
    applies(&user, folder.path());
    gets(&user);
    watches(&user);
    explains_failures(&user, folder.path());
    goes_on_unheard(&user);
    deletes(&user);
}

fn applies(user: &User, folder: &Path) {
    let told = "configmap/a serverside-applied\nconfigmap/b serverside-applied\nsecret/s serverside-applied\n";
    assert_eq!(user.given(&["apply", "-f", "-"], MANIFESTS), told);
    let manifests = folder.join("manifests/below");
    std::fs::create_dir_all(&manifests).unwrap();
    std::fs::write(manifests.join("c.yaml"), "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: other}\n").unwrap();
    std::fs::write(manifests.join("../ns.yaml"), "apiVersion: v1\nkind: Namespace\nmetadata: {name: other}\n").unwrap();
    let all = manifests.parent().unwrap().to_str().unwrap();
    // The folder below comes first by name: its namespace is not there yet.
    let early = user.run(&["apply", "-R", "-f", all]);
    assert_eq!(String::from_utf8_lossy(&early.stdout), "namespace/other serverside-applied\n");
    assert!(String::from_utf8_lossy(&early.stderr).contains("namespaces \"other\" not found"), "{early:?}");
    assert!(user.fram(&["apply", "-R", "-f", all]).contains("configmap/c serverside-applied\n"));
    assert_eq!(user.fram(&["apply", "-f", all, "--dry-run=server"]), "namespace/other serverside-applied (server dry run)\n");
}

fn gets(user: &User) {
    let table = user.fram(&["get", "cm", "-l", "tier in (front,back)", "-L", "tier"]);
    let cells: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(cells[0], ["NAME", "DATA", "AGE", "TIER"], "{table}");
    assert_eq!((cells[1][0], cells[1][3], cells[2][0], cells[2][3]), ("a", "front", "b", "back"), "{table}");
    assert_eq!(user.fram(&["get", "cm/a", "secret/s", "-o", "name"]), "configmap/a\nsecret/s\n");
    assert!(user.fram(&["get", "cm,secrets"]).contains("\n\nNAME       TYPE     DATA   AGE\nsecret/s   Opaque   1 "));
    assert_eq!(
        user.fram(&["get", "configmaps", "a", "b", "-o", "jsonpath={range .items[*]}{.metadata.name}:{.data.key}{\"\\n\"}{end}"]),
        "a:value\nb:\n"
    );
    let dotted = "jsonpath={.metadata.labels.app\\.kubernetes\\.io/name}";
    assert_eq!(user.fram(&["get", "cm", "a", "-o", dotted]), "shop");
    let yaml = user.fram(&["get", "cm", "a", "-o", "yaml"]);
    assert!(
        yaml.starts_with("apiVersion: v1\ndata:\n  key: value\nkind: ConfigMap\nmetadata:\n") && !yaml.contains("managedFields"),
        "{yaml}"
    );
    assert!(user.fram(&["get", "cm", "a", "-o", "json", "--show-managed-fields"]).contains("\"manager\": \"fram\""));
    assert_eq!(user.fram(&["get", "cm", "-n", "other", "--field-selector", "metadata.name=c", "-o", "name"]), "configmap/c\n");
    let everywhere = user.fram(&["get", "cm", "-A", "--no-headers"]);
    assert!(everywhere.lines().any(|l| l.starts_with("other ") && l.contains(" c ")), "{everywhere}");
    assert_eq!(user.fram(&["get", "--raw", "/readyz"]), "ok");
    let none = user.run(&["get", "pods"]);
    assert!(none.status.success() && none.stdout.is_empty());
    assert_eq!(String::from_utf8_lossy(&none.stderr), "No resources found in default namespace.\n");
}

fn watches(user: &User) {
    let (mut child, mut lines) = user.watch(&["get", "cm", "-w", "-l", "tier=new", "-o", "name"]);
    let (mut table, mut rows) = user.watch(&["get", "cm", "d", "--ignore-not-found", "-w", "--output-watch-events"]);
    // Whether a watch has begun or not: what it finds at its beginning it shows like what comes later.
    let made = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: d, labels: {tier: new}}\n";
    user.given(&["apply", "-f", "-"], made);
    assert_eq!(line(&mut lines), "configmap/d");
    assert_eq!(line(&mut rows).split_whitespace().collect::<Vec<_>>(), ["EVENT", "NAME", "DATA", "AGE"]);
    assert!(line(&mut rows).starts_with("ADDED "));
    let waiting = user.client(&["wait", "--for=delete", "cm/d", "--timeout=20s"]).stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(user.fram(&["delete", "cm", "d"]), "configmap \"d\" deleted from default namespace\n");
    assert_eq!(waiting.wait_with_output().unwrap().stdout, b"configmap/d condition met\n");
    let deleted = std::iter::from_fn(|| Some(line(&mut rows))).take(3).find(|l| l.starts_with("DELETED "));
    assert!(deleted.is_some());
    for watch in [&mut child, &mut table] {
        watch.kill().unwrap();
        watch.wait().unwrap();
    }
}

fn explains_failures(user: &User, folder: &Path) {
    assert_eq!(user.refused(&["get", "nonsense"]), "error: the server doesn't have a resource type \"nonsense\"\n");
    assert_eq!(user.refused(&["get", "cm", "z"]), "Error from server (NotFound): configmaps \"z\" not found\n");
    assert_eq!(user.refused(&["scale", "cm/a", "--replicas=2"]), "error: configmap/a cannot be scaled: configmaps have no replicas\n");
    let late = user.refused(&["wait", "--for=jsonpath={.data.key}=other", "cm/a", "--timeout=100ms"]);
    assert_eq!(late, "error: timed out waiting for the condition on configmaps/a\n");
    let other = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {key: other}\n";
    let file = folder.join("other.yaml");
    std::fs::write(&file, other).unwrap();
    let conflict = user.refused(&["apply", "-f", file.to_str().unwrap(), "--field-manager", "else"]);
    assert!(conflict.contains("conflict with \"fram\": .data.key") && conflict.contains("--force-conflicts"), "{conflict}");
    std::fs::write(&file, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndat: {}\n").unwrap();
    let unknown = user.refused(&["apply", "-f", file.to_str().unwrap()]);
    assert!(unknown.contains("dat"), "{unknown}");
    let warned = user.run(&["apply", "-f", file.to_str().unwrap(), "--validate=warn", "--dry-run=server"]);
    assert!(warned.status.success() && String::from_utf8_lossy(&warned.stderr).starts_with("Warning: "), "{warned:?}");
    std::fs::write(&file, "apiVersion: example.org/v1\nkind: Thing\nmetadata: {name: a}\n").unwrap();
    assert!(user.refused(&["apply", "-f", file.to_str().unwrap()]).contains("no matches for kind \"Thing\" in version \"example.org/v1\""));
    assert!(user.refused(&["get", "pods", "--context", "nowhere"]).contains("contexts has no entry \"nowhere\""));
    // A variable that is not set must not mean all objects.
    assert_eq!(user.refused(&["delete", "cm", ""]), "error: resource name may not be empty\n");
    assert_eq!(user.refused(&["delete", "cm", ".."]), "Error from server (BadRequest): invalid resource name \"..\": [may not be '..']\n");
    let nameless = "apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: a-}\n";
    std::fs::write(&file, nameless).unwrap();
    assert!(user.refused(&["delete", "-f", file.to_str().unwrap()]).contains("resource name may not be empty"));
    assert!(user.refused(&["delete", "cm", "a", "-l", "tier"]).contains("name cannot be provided when a selector is specified"));
    assert!(user.refused(&["get", "cm", "--nonsense"]).contains("unexpected argument"));
    assert!(user.refused(&["get", "cm", "-o", "jsonpath={.items[99]}"]).contains("array index out of bounds: index 99"));
    let images = user.refused(&["image", "list"]);
    assert!(images.contains("no node with images of its own runs here"), "{images}");
}

/// What nobody reads any more is done all the same, and the code tells that it was not said.
fn goes_on_unheard(user: &User) {
    let mut child = user.client(&["apply", "-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    child.stdin.take().unwrap().write_all(MANIFESTS.replace("name: a,", "name: u,").replace("name: b,", "name: v,").as_bytes()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(141));
    assert_eq!(user.fram(&["get", "cm", "u", "v", "-o", "name"]), "configmap/u\nconfigmap/v\n");
    user.fram(&["delete", "cm", "u", "v"]);
}

fn deletes(user: &User) {
    // What a file names is narrowed by labels, and the rest of it is left alone.
    let dry = user.given(&["delete", "-f", "-", "-l", "tier=back", "--dry-run=server"], MANIFESTS);
    assert_eq!(dry, "configmap \"b\" deleted from default namespace (server dry run)\n");
    assert_eq!(
        user.fram(&["delete", "cm", "-l", "tier"]),
        "configmap \"a\" deleted from default namespace\nconfigmap \"b\" deleted from default namespace\n"
    );
    assert_eq!(user.fram(&["delete", "cm/z", "--ignore-not-found"]), "");
    assert_eq!(user.fram(&["delete", "namespace/other", "--timeout=20s"]), "namespace \"other\" deleted\n");
    assert!(user.refused(&["get", "namespace", "other"]).contains("not found"));
}
