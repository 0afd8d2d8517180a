//! A cluster of the program under test, and kubectl against it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Cluster {
    program: PathBuf,
    data: PathBuf,
    log: PathBuf,
    port: u16,
    environment: Vec<(&'static str, PathBuf)>,
    process: Option<Child>,
}

pub(crate) fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().port()
}

/// Waits for an event that no file descriptor tells of.
#[expect(clippy::disallowed_methods, reason = "the test looks from outside, where nothing else tells")]
pub(crate) fn pause() {
    std::thread::sleep(Duration::from_millis(100));
}

/// Waits until it is so; where it is not in time, the test fails and tells the state that it is in.
#[track_caller]
pub(crate) fn until(patience: Duration, what: &str, mut done: impl FnMut() -> bool, state: impl Fn() -> String) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < patience, "timed out: {what}\n{}", state());
        pause();
    }
}

impl Cluster {
    pub(crate) fn start(folder: &Path) -> Self {
        let cluster = Self::spawn(folder);
        cluster.until_ready();
        cluster
    }

    /// Starts the program and waits for nothing.
    pub(crate) fn spawn(folder: &Path) -> Self {
        Self::spawn_with(folder, Vec::new())
    }

    /// Starts the program in this environment, which a restart keeps.
    pub(crate) fn spawn_with(folder: &Path, environment: Vec<(&'static str, PathBuf)>) -> Self {
        let program = folder.join("bin/fram");
        std::fs::create_dir_all(folder.join("bin")).unwrap();
        std::fs::copy(env!("CARGO_BIN_EXE_fram"), &program).unwrap();
        let mut cluster =
            Self { program, data: folder.join("fram"), log: folder.join("fram.log"), port: free_port(), environment, process: None };
        cluster.launch();
        cluster
    }

    /// Puts another build in the program's place, as a package does: by rename, since shims still run the old one.
    #[allow(dead_code, reason = "the figures need no second build")]
    pub(crate) fn upgrade(&self) {
        use std::io::Write;
        let new = self.program.with_extension("new");
        std::fs::copy(&self.program, &new).unwrap();
        // Bytes behind the end of an ELF file change the file and not what it does.
        std::fs::File::options().append(true).open(&new).unwrap().write_all(b"another build").unwrap();
        std::fs::rename(&new, &self.program).unwrap();
    }

    /// Starts the program on the same data and waits until its node is ready.
    pub(crate) fn restart(&mut self) {
        self.launch();
        self.until_ready();
    }

    fn launch(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(&self.log).unwrap();
        let process = Command::new(&self.program)
            .args(["up", "--node-name", "node", "--data-dir"])
            .arg(&self.data)
            .args(["--listen", &format!("127.0.0.1:{}", self.port)])
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        self.process = Some(process);
    }

    pub(crate) fn until_ready(&self) {
        self.until("the node is ready", || {
            let path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
            self.try_kubectl(&["get", "node", "node", "-o", path]).as_deref() == Some("True")
        });
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Ends the program as a user would.
    pub(crate) fn stop(&mut self) {
        let mut process = self.process.take().unwrap();
        let ended = Command::new("kill").args(["-TERM", &process.id().to_string()]).status().unwrap();
        assert!(ended.success());
        assert!(process.wait().unwrap().success(), "fram did not drain: {}", self.tail());
    }

    pub(crate) fn down(&self) {
        let output = Command::new(&self.program).args(["down", "--purge", "--data-dir"]).arg(&self.data).output().unwrap();
        assert!(output.status.success(), "fram down failed: {}", String::from_utf8_lossy(&output.stderr));
        assert!(!self.data.exists());
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.data.join("admin.kubeconfig")
    }

    #[allow(dead_code, reason = "the figures use it")]
    /// The first line of the program's output with these words.
    pub(crate) fn said(&self, words: &str) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().find(|l| l.contains(words)).unwrap_or_default().to_string()
    }

    fn tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(arguments);
        command.env("HOME", self.data.parent().unwrap());
        command
    }

    pub(crate) fn run_kubectl(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// What kubectl prints, or None where it fails.
    pub(crate) fn try_kubectl(&self, arguments: &[&str]) -> Option<String> {
        let output = self.run_kubectl(arguments);
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    #[track_caller]
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        let output = self.run_kubectl(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {arguments:?}: {error}\n{}\n{}", self.describe(), self.tail());
        String::from_utf8(output.stdout).unwrap()
    }

    fn describe(&self) -> String {
        self.try_kubectl(&["describe", "pods"]).unwrap_or_default() + &self.try_kubectl(&["get", "all,nodes,events"]).unwrap_or_default()
    }

    pub(crate) fn apply(&self, manifest: &str) {
        use std::io::Write;
        let mut child = self.command(&["apply", "-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(manifest.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{}", self.tail());
    }

    /// What answers over a port that kubectl forwards to `target`.
    #[allow(dead_code, reason = "the figures need no forwarding")]
    pub(crate) fn forwarded(&self, namespace: &str, target: &str, port: u16, request: &str) -> String {
        forwarded(self.command(&["-n", namespace, "port-forward", target, &format!(":{port}"), "--address", "127.0.0.1"]), |address| {
            std::net::TcpStream::connect(address).map(|stream| ask(stream, request)).unwrap()
        })
    }

    /// Runs kubectl at a terminal of 31 lines of 97 columns, with `last` as its last argument.
    #[allow(dead_code, reason = "the figures need no terminal")]
    pub(crate) fn at_terminal(&self, arguments: &[&str], last: &str) -> Output {
        let words =
            format!("stty rows 31 cols 97; exec kubectl --kubeconfig {} {} \"$LAST\"", self.kubeconfig().display(), arguments.join(" "));
        let mut command = Command::new("script");
        command.args(["-qec", &words, "/dev/null"]).env("LAST", last).env("HOME", self.data.parent().unwrap());
        command.stdin(Stdio::null()).output().unwrap()
    }

    #[track_caller]
    pub(crate) fn until(&self, what: &str, done: impl FnMut() -> bool) {
        until(PATIENCE, what, done, || format!("{}\n{}", self.describe(), self.tail()));
    }

    /// The first processes of all containers. What they start themselves, a server for each request, comes and goes.
    pub(crate) fn container_processes(&self) -> BTreeSet<u32> {
        let mut pids = BTreeSet::new();
        collect_pids(Path::new("/sys/fs/cgroup/pids/fram"), &mut pids);
        collect_pids(Path::new("/sys/fs/cgroup/fram"), &mut pids);
        let parent = |pid: &u32| -> Option<u32> {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
        };
        pids.iter().copied().filter(|pid| parent(pid).is_some_and(|parent| !pids.contains(&parent))).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.process.is_some() {
            // The test failed: nothing of it may stay.
            self.kill();
            let ended = Command::new(&self.program).args(["down", "--purge", "--data-dir"]).arg(&self.data).status();
            eprintln!("fram down: {ended:?}");
        }
    }
}

/// Runs kubectl's port-forward while something is done with the address at which it listens.
#[allow(dead_code, reason = "the figures need no forwarding")]
pub(crate) fn forwarded<T>(mut kubectl: Command, ask: impl FnOnce(&str) -> T) -> T {
    use std::io::BufRead;
    let mut child = kubectl.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
    let mut said = String::new();
    std::io::BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
    let answer = ask(said.trim_start_matches("Forwarding from ").split(' ').next().unwrap());
    child.kill().unwrap();
    child.wait().unwrap();
    answer
}

#[allow(dead_code, reason = "the figures need no forwarding")]
pub(crate) fn ask(mut stream: std::net::TcpStream, request: &str) -> String {
    use std::io::{Read, Write};
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

pub(crate) fn collect_pids(folder: &Path, pids: &mut BTreeSet<u32>) {
    let listed = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    pids.extend(listed.lines().filter_map(|l| l.parse::<u32>().ok()));
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            collect_pids(&entry.path(), pids);
        }
    }
}

/// Nothing is there now that was not `before`. What another cluster had left may have gone meanwhile: whoever starts on the same
/// machine clears it away.
pub(crate) fn assert_nothing_left(before: &[(&'static str, usize)]) {
    let left: Vec<_> = traces().into_iter().zip(before).filter(|(now, was)| now.1 > was.1).collect();
    assert!(left.is_empty(), "fram down --purge left something, now and before: {left:?}");
}

/// What a node leaves on a machine, counted: links, mounts, cgroups, nftables tables, shims.
pub(crate) fn traces() -> Vec<(&'static str, usize)> {
    let lines = |program: &str, arguments: &[&str], pattern: &str| {
        let output = Command::new(program).args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).lines().filter(|l| l.contains(pattern)).count()
    };
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().filter(|l| l.contains("/fram/")).count();
    let cgroups = ["cpu", "memory", "pids", "devices", "freezer", "unified", ""];
    let cgroups = cgroups.iter().filter(|c| Path::new("/sys/fs/cgroup").join(c).join("fram").exists()).count();
    vec![
        ("links", lines("ip", &["-o", "link"], "fram")),
        ("mounts", mounts),
        ("cgroups", cgroups),
        ("tables", lines("nft", &["list", "tables"], "fram")),
        ("shims", lines("ps", &["-eo", "args"], "shim --sealed")),
    ]
}
