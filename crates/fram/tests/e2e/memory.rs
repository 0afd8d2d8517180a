//! A node whose machine runs out of memory. A memory cgroup stands for the machine: program, shims and pods are in it, its limit is the
//! machine's memory, and what the node reads in /proc/meminfo is made of it.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

use super::cluster::{pause, until};
use super::machine::{Machine, must, push, registry};

const PATIENCE: Duration = Duration::from_secs(40);
const IP: &str = "10.82.0.1";
const MIB: u64 = 1 << 20;
const MEMORY: u64 = 1000 * MIB;

/// A cgroup with a limit, and a file that shows it as the kernel shows a machine.
struct Memory {
    cgroup: PathBuf,
    v2: bool,
    file: PathBuf,
    stop: Arc<AtomicBool>,
    keeper: Option<JoinHandle<()>>,
}

impl Memory {
    fn new(folder: &Path, name: &str) -> Self {
        let v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let cgroup = Path::new(if v2 { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/memory" }).join(name);
        fs::create_dir_all(&cgroup).unwrap();
        fs::write(cgroup.join(if v2 { "memory.max" } else { "memory.limit_in_bytes" }), MEMORY.to_string()).unwrap();
        let file = folder.join("meminfo");
        fs::write(&file, text(MEMORY)).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let mut memory = Self { cgroup, v2, file, stop, keeper: None };
        let (cgroup, file, stop) = (memory.cgroup.clone(), memory.file.clone(), memory.stop.clone());
        memory.keeper = Some(std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                // In its place, as it is mounted elsewhere, and always as long.
                let written = fs::OpenOptions::new().write(true).open(&file);
                std::os::unix::fs::FileExt::write_all_at(&written.unwrap(), text(available(&cgroup, v2)).as_bytes(), 0).unwrap();
                pause();
            }
        }));
        memory
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.keeper.take().into_iter().for_each(|keeper| keeper.join().unwrap());
        // The machine is in every hierarchy by now.
        let name = self.cgroup.file_name().unwrap();
        let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().map(|entry| entry.unwrap().path().join(name));
        for cgroup in hierarchies.chain([self.cgroup.clone()]).filter(|cgroup| cgroup.exists()) {
            let gone = (0..100).any(|_| fs::remove_dir(&cgroup).map_err(|_| pause()).is_ok());
            assert!(gone || std::thread::panicking(), "{cgroup:?} is still in use");
        }
    }
}

/// What can be had without harm: all but what is used, less the pages of files that nobody has touched for long.
fn available(cgroup: &Path, v2: bool) -> u64 {
    let [usage, inactive] = if v2 { ["memory.current", "inactive_file"] } else { ["memory.usage_in_bytes", "total_inactive_file"] };
    let read = |file: &str| fs::read_to_string(cgroup.join(file)).unwrap_or_default();
    let stat = read("memory.stat");
    let inactive = stat.lines().find_map(|line| line.strip_prefix(inactive)?.trim().parse::<u64>().ok()).unwrap_or(0);
    (MEMORY + inactive).saturating_sub(read(usage).trim().parse().unwrap_or(0)).min(MEMORY)
}

fn text(available: u64) -> String {
    let line = |name: &str, bytes: u64| format!("{name:<16}{:>8} kB\n", bytes / 1024);
    [line("MemTotal:", MEMORY), line("MemFree:", available), line("MemAvailable:", available), line("SwapTotal:", 0), line("SwapFree:", 0)]
        .concat()
}

struct Node {
    // The order counts: what runs in the cgroup ends first.
    machine: Machine,
    image: String,
    memory: Memory,
}

impl Node {
    fn start(folder: &Path, kubelet: &Value) -> Self {
        let mut machine = Machine::new(folder, "short", IP);
        let memory = Memory::new(folder, &machine.name);
        machine.cgroup = format!("/{}/pods", machine.name);
        must("ip", &["-n", &machine.name, "addr", "add", &format!("{IP}/32"), "dev", "lo"]);
        machine.start_registry(&registry(folder));
        let image = push(&machine, folder);
        let configuration = folder.join("kubelet.json");
        fs::write(&configuration, kubelet.to_string()).unwrap();
        let (procs, shown) = (memory.cgroup.join("cgroup.procs"), memory.file.clone());
        let listen = format!("{IP}:6443");
        let more = ["--listen", listen.as_str(), "--config", configuration.to_str().unwrap()];
        machine.start_with("server", &more, |command| {
            // SAFETY: the child has one thread, and what it calls are system calls on what was made before.
            unsafe {
                command.pre_exec(move || {
                    fs::write(&procs, "0")?;
                    unshare(CloneFlags::CLONE_NEWNS)?;
                    // What the node mounts is its own then; only this is not to be seen by others.
                    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)?;
                    mount(Some(&shown), "/proc/meminfo", None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
                    Ok(())
                })
            };
        });
        let node = Self { machine, image, memory };
        let path = "jsonpath={.status.conditions[?(@.type=='Ready')].status} {.status.capacity.memory}";
        let expect = format!("True {}Mi", MEMORY / MIB);
        node.until("the node is ready", || node.get("node", "short", path).as_deref() == Some(expect.as_str()));
        node
    }

    fn state(&self) -> String {
        let objects = self.machine.try_kubectl(&["get", "pods,events", "-A"]).unwrap_or_default();
        format!("{objects}\n{} MiB available\n{}", available(&self.memory.cgroup, self.memory.v2) / MIB, self.machine.log())
    }

    #[track_caller]
    fn until(&self, what: &str, done: impl FnMut() -> bool) {
        until(PATIENCE, what, done, || self.state());
    }

    fn get(&self, kind: &str, name: &str, path: &str) -> Option<String> {
        self.machine.try_kubectl(&["get", kind, name, "-o", path])
    }

    #[track_caller]
    fn run(&self, folder: &Path, name: &str, script: &str, volumes: &Value, requests: &Value) {
        let mounts = volumes.as_array().unwrap().iter().map(|v| json!({ "name": v["name"], "mountPath": "/memory" })).collect::<Vec<_>>();
        let container = json!({
            "name": "main", "image": self.image, "command": ["sh", "-c", script], "volumeMounts": mounts, "resources": { "requests": requests }
        });
        let spec = json!({ "terminationGracePeriodSeconds": 0, "containers": [container], "volumes": volumes });
        let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": spec });
        let file = folder.join(format!("{name}.json"));
        fs::write(&file, pod.to_string()).unwrap();
        self.machine.must_kubectl(&["apply", "-f", file.to_str().unwrap()], || self.state());
    }
}

#[test]
fn a_node_that_runs_out_of_memory_loses_who_took_it_and_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let kubelet = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "evictionHard": { "memory.available": "300Mi" },
        // Nothing but the machine's own memory is in the way of pods.
        "enforceNodeAllocatable": ["none"]
    });
    let node = Node::start(folder.path(), &kubelet);
    let none = json!([]);
    node.run(folder.path(), "steady", "sleep 100000", &none, &json!({ "memory": "20Mi" }));
    node.machine.must_kubectl(&["wait", "--for=condition=Ready", "pod/steady", "--timeout=30s"], || node.state());

    // Faster than anybody looks: the kernel chooses, and it chooses well.
    node.run(folder.path(), "hog", "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done", &none, &json!({}));
    let path = "jsonpath={.status.containerStatuses[0].lastState.terminated.reason}{.status.containerStatuses[0].state.terminated.reason}";
    node.until("the hog is killed", || node.get("pod", "hog", path).is_some_and(|reason| reason.contains("OOMKilled")));
    node.machine.must_kubectl(&["delete", "pod", "hog", "--timeout=30s"], || node.state());

    // Slower: it is evicted before the kernel has to choose.
    let script = "for i in $(seq 37); do dd if=/dev/zero of=/memory/$i bs=1M count=20 2>/dev/null; sleep 0.1; done; sleep 100000";
    let volumes = json!([{ "name": "memory", "emptyDir": { "medium": "Memory" } }]);
    node.run(folder.path(), "grower", script, &volumes, &json!({}));
    node.until("the one that grows is evicted", || node.get("pod", "grower", "jsonpath={.status.reason}").as_deref() == Some("Evicted"));
    let message = node.get("pod", "grower", "jsonpath={.status.message}").unwrap();
    assert!(message.starts_with("The node was low on resource: memory. Threshold quantity: 300Mi"), "{message}");
    let pressure = "jsonpath={.status.conditions[?(@.type=='MemoryPressure')].status}";
    node.until("the node says that it is short", || node.get("node", "short", pressure).as_deref() == Some("True"));
    node.until("the memory is there again", || available(&node.memory.cgroup, node.memory.v2) > 450 * MIB);

    let path = "jsonpath={.status.phase} {.status.containerStatuses[0].restartCount}";
    assert_eq!(node.get("pod", "steady", path).as_deref(), Some("Running 0"));
    // A pod that asks for nothing is not taken while the node is short; the node lives on, and is ready.
    let ready = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
    assert_eq!(node.get("node", "short", ready).as_deref(), Some("True"), "{}", node.state());
}
