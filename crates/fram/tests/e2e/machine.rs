//! A machine, as a network namespace with data and cgroups of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// Where registries listen, each on its machine.
const REGISTRY: u16 = 5000;

pub(crate) fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap()
}

#[track_caller]
pub(crate) fn must(program: &str, arguments: &[&str]) {
    let output = run(program, arguments);
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A machine: a network namespace, its data and what runs in it. All of it goes with the value.
pub(crate) struct Machine {
    pub(crate) name: String,
    pub(crate) ip: &'static str,
    pub(crate) data: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) cgroup: String,
    pub(crate) fram: Option<Child>,
    pub(crate) registry: Option<Child>,
    /// It is on another one's network, which goes with that.
    is_beside: bool,
}

impl Machine {
    pub(crate) fn new(folder: &Path, role: &str, ip: &'static str) -> Self {
        let name = format!("fram{}-{role}", std::process::id());
        must("ip", &["netns", "add", &name]);
        let machine = Self {
            ip,
            data: folder.join(role),
            log: folder.join(format!("{role}.log")),
            cgroup: format!("/{name}"),
            name,
            fram: None,
            registry: None,
            is_beside: false,
        };
        must("ip", &["-n", &machine.name, "link", "set", "lo", "up"]);
        machine
    }

    /// Another one with the same network.
    pub(crate) fn beside(&self, folder: &Path, role: &str) -> Self {
        Self {
            name: self.name.clone(),
            ip: self.ip,
            data: folder.join(role),
            log: folder.join(format!("{role}.log")),
            cgroup: format!("{}-{role}", self.cgroup),
            fram: None,
            registry: None,
            is_beside: true,
        }
    }

    /// A program on this machine. The mounts stay those of the test: cgroups would be hidden by `ip netns exec`.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name)).arg("--").arg(program).stdin(Stdio::null());
        command
    }

    pub(crate) fn fram(&self, verb: &str) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_fram"));
        command.arg(verb).arg("--data-dir").arg(&self.data).args(["--cgroup-root", &self.cgroup]);
        command
    }

    /// kubectl on this machine, as the administrator whom its data know.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Command {
        let mut command = self.command("kubectl");
        command.env("HOME", self.data.parent().unwrap());
        command.arg("--kubeconfig").arg(self.data.join("admin.kubeconfig")).args(arguments);
        command
    }

    /// What kubectl prints, or None where it fails.
    pub(crate) fn try_kubectl(&self, arguments: &[&str]) -> Option<String> {
        let output = self.kubectl(arguments).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    /// What kubectl prints; where it fails, so does the test, and tells the state that it is in.
    #[track_caller]
    pub(crate) fn must_kubectl(&self, arguments: &[&str], state: impl Fn() -> String) -> String {
        let output = self.kubectl(arguments).output().unwrap();
        assert!(output.status.success(), "kubectl {arguments:?}: {}\n{}", String::from_utf8_lossy(&output.stderr), state());
        String::from_utf8(output.stdout).unwrap()
    }

    /// A cable between two machines.
    pub(crate) fn cable(&self, other: &Self) {
        must("ip", &["-n", &self.name, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", &other.name]);
        for machine in [self, other] {
            must("ip", &["-n", &machine.name, "addr", "add", &format!("{}/24", machine.ip), "dev", "cable"]);
            must("ip", &["-n", &machine.name, "link", "set", "cable", "up"]);
        }
    }

    pub(crate) fn start(&mut self, verb: &str, more: &[&str]) {
        self.start_with(verb, more, |_| {});
    }

    /// The same where the process begins elsewhere.
    pub(crate) fn start_with(&mut self, verb: &str, more: &[&str], place: impl FnOnce(&mut Command)) {
        let log = std::fs::File::options().create(true).append(true).open(&self.log).unwrap();
        let mut command = self.fram(verb);
        command.args(["--node-ip", self.ip, "--node-name", self.data.file_name().unwrap().to_str().unwrap()]).args(more);
        place(&mut command);
        self.fram = Some(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.fram.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    pub(crate) fn start_registry(&mut self, config: &Path) {
        let mut command = self.command("docker-registry");
        self.registry = Some(command.arg("serve").arg(config).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    }

    pub(crate) fn log(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// How many processes its containers have.
    pub(crate) fn containers(&self) -> Vec<u32> {
        let mut pids = std::collections::BTreeSet::new();
        for root in ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"] {
            super::cluster::collect_pids(Path::new(&format!("{root}{}", self.cgroup)), &mut pids);
        }
        pids.into_iter().collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
        let down = self.fram("down").arg("--purge").output();
        if let Ok(output) = down
            && !output.status.success()
        {
            eprintln!("fram down: {}", String::from_utf8_lossy(&output.stderr));
        }
        if let Some(mut registry) = self.registry.take() {
            let ended = registry.kill().and_then(|()| registry.wait());
            eprintln!("the registry ended: {ended:?}");
        }
        if !self.is_beside {
            let deleted = run("ip", &["netns", "del", &self.name]);
            eprintln!("{} deleted: {}", self.name, deleted.status);
        }
        assert!(std::thread::panicking() || !self.data.exists(), "fram down --purge failed");
    }
}

/// The configuration of a registry.
pub(crate) fn registry(folder: &Path) -> PathBuf {
    let data = folder.join("registry");
    std::fs::create_dir_all(&data).unwrap();
    let file = folder.join("registry.yml");
    let config = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"127.0.0.1:{REGISTRY}\"}}\n",
        data.display()
    );
    std::fs::write(&file, config).unwrap();
    file
}

/// Gives a machine's registry an image; the answer is its reference.
pub(crate) fn push(machine: &Machine, folder: &Path) -> String {
    let reference = format!("127.0.0.1:{REGISTRY}/busybox:1");
    let mut push = machine.command("skopeo");
    push.args(["--insecure-policy", "copy", "--quiet", "--retry-times", "5", "--dest-tls-verify=false"]);
    let pushed =
        push.arg(format!("oci:{}", super::image::busybox(folder).display())).arg(format!("docker://{reference}")).output().unwrap();
    assert!(pushed.status.success(), "{}", String::from_utf8_lossy(&pushed.stderr));
    reference
}
