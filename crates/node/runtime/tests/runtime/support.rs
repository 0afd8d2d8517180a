//! A runtime in a directory of its own, an image made of busybox, a network that is only a loopback, and the counting of
//! what is left behind.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use fram_cri::*;
use fram_runtime::{Runtime, RuntimeConfig};
use nix::sched::{CloneFlags, setns};

/// Time that nothing here should ever need; a test that hangs fails by it.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// The image `busybox` has a user `web` (1000:1000) in the group `extra` (2000); `tall` is the same under many
/// layers.
pub(crate) struct BusyboxImages {
    layer: PathBuf,
    pub(crate) holders: Mutex<BTreeSet<String>>,
}

impl BusyboxImages {
    /// The image that another process has made there.
    pub(crate) fn at(root: &Path) -> BusyboxImages {
        BusyboxImages { layer: root.join("layer"), holders: Mutex::default() }
    }

    fn new(root: &Path) -> BusyboxImages {
        let layer = root.join("layer");
        for dir in ["bin", "etc", "proc", "sys", "dev", "tmp", "root"] {
            fs::create_dir_all(layer.join(dir)).unwrap();
        }
        fs::copy("/bin/busybox", layer.join("bin/busybox")).expect("busybox-static is installed");
        let list = Command::new("/bin/busybox").arg("--list").output().unwrap();
        for applet in String::from_utf8(list.stdout).unwrap().lines().filter(|applet| *applet != "busybox") {
            // Of another test process, maybe.
            let _ = symlink("busybox", layer.join("bin").join(applet));
        }
        fs::write(layer.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/:/bin/sh\n").unwrap();
        fs::write(layer.join("etc/group"), "root:x:0:\nweb:x:1000:\nextra:x:2000:web\n").unwrap();
        BusyboxImages { layer, holders: Mutex::default() }
    }
}

#[async_trait]
impl RootFilesystems for BusyboxImages {
    async fn root_filesystem(&self, image: &ImageSpec, holder: &str) -> Result<RootFilesystem, ImageError> {
        let mut layers = vec![self.layer.clone()];
        match image.image.as_str() {
            "busybox" => {}
            // A shell, and nothing that anything could be mounted on.
            "bare" => {
                let layer = self.layer.with_file_name("layer-bare");
                fs::create_dir_all(layer.join("bin")).unwrap();
                fs::copy(self.layer.join("bin/busybox"), layer.join("bin/busybox")).unwrap();
                symlink("busybox", layer.join("bin/sh")).unwrap();
                layers = vec![layer];
            }
            // 119 more layers: each has a file of its own and writes its number into a common one.
            "tall" => layers.extend((1..120).map(|number| {
                let layer = self.layer.with_file_name(format!("layer-{number:03}"));
                fs::create_dir_all(&layer).unwrap();
                fs::write(layer.join(format!("file-{number:03}")), "").unwrap();
                fs::write(layer.join("top"), format!("{number}\n")).unwrap();
                layer
            })),
            other => return Err(ImageError::NotFound(other.to_owned())),
        }
        self.holders.lock().unwrap().insert(holder.to_owned());
        Ok(RootFilesystem {
            layers,
            config: ImageConfig { cmd: vec!["sh".into()], ..ImageConfig::default() },
            image_id: "sha256:busybox".into(),
            image_ref: "busybox@sha256:0".into(),
        })
    }
    async fn release_root_filesystem(&self, holder: &str) -> Result<(), ImageError> {
        self.holders.lock().unwrap().remove(holder);
        Ok(())
    }
    async fn root_filesystem_holders(&self) -> Result<Vec<String>, ImageError> {
        Ok(self.holders.lock().unwrap().iter().cloned().collect())
    }
}

/// Brings the loopback up and says that the address is 127.0.0.1.
#[derive(Default)]
pub(crate) struct LoopbackNetwork {
    pub(crate) attached: Mutex<BTreeSet<String>>,
    pub(crate) fail: Mutex<bool>,
}

#[async_trait]
impl SandboxNetwork for LoopbackNetwork {
    async fn ready(&self) -> Result<(), NetworkError> {
        Ok(())
    }
    async fn setup(&self, config: &SandboxNetworkConfig) -> Result<PodSandboxNetworkStatus, NetworkError> {
        if *self.fail.lock().unwrap() {
            return Err(NetworkError::AddressesExhausted("test".into()));
        }
        let NetworkAttachment::Namespace(path) = config.attachment.clone() else { unreachable!() };
        std::thread::spawn(move || loopback_up(&path)).join().unwrap().unwrap();
        self.attached.lock().unwrap().insert(config.pod_sandbox_id.clone());
        Ok(PodSandboxNetworkStatus::from_ips(["127.0.0.1".parse().unwrap()]))
    }
    async fn teardown(&self, config: &SandboxNetworkConfig) -> Result<(), NetworkError> {
        self.attached.lock().unwrap().remove(&config.pod_sandbox_id);
        Ok(())
    }
    async fn status(&self, _: &str) -> Result<Option<PodSandboxNetworkStatus>, NetworkError> {
        Ok(None)
    }
    async fn update_pod_cidr(&self, _: &str) -> Result<(), NetworkError> {
        Ok(())
    }
}

fn loopback_up(netns: &Path) -> io::Result<()> {
    setns(File::open(netns)?, CloneFlags::CLONE_NEWNET)?;
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: an all-zero request is valid, and the name fits.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = libc::IFF_UP as i16;
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// A node for one test.
pub(crate) struct Node {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) images: Arc<BusyboxImages>,
    pub(crate) network: Arc<LoopbackNetwork>,
    pub(crate) cgroup: String,
}

impl Node {
    pub(crate) fn new() -> Node {
        let dir = tempfile::tempdir().unwrap();
        let cgroup = format!("/fram-test-{}", dir.path().file_name().unwrap().to_string_lossy().trim_start_matches('.'));
        assert!(nix::unistd::geteuid().is_root(), "this test needs root");
        let images = Arc::new(BusyboxImages::new(dir.path()));
        Node { dir, images, network: Arc::default(), cgroup }
    }

    pub(crate) fn config(&self) -> RuntimeConfig {
        config(self.dir.path(), &self.cgroup)
    }

    pub(crate) async fn open(&self) -> Runtime {
        Runtime::open(self.config(), self.images.clone(), self.network.clone()).await.unwrap()
    }

    pub(crate) fn sandbox_config(&self, name: &str) -> PodSandboxConfig {
        sandbox_config(self.dir.path(), &self.cgroup, name)
    }

    pub(crate) async fn sandbox(&self, runtime: &Runtime, name: &str) -> String {
        runtime.run_pod_sandbox(&self.sandbox_config(name), "").await.unwrap()
    }

    /// Lines of a container's log without their times.
    pub(crate) fn log(&self, pod: &str, path: &str) -> Vec<String> {
        let text = fs::read_to_string(self.dir.path().join("logs").join(pod).join(path)).unwrap_or_default();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    /// Fails if anything of this node is left but its own directory.
    pub(crate) fn assert_nothing_is_left(&self) {
        assert_eq!(mounts(self.dir.path()), Vec::<String>::new(), "mounts are left");
        assert_eq!(cgroups(&self.cgroup), Vec::<PathBuf>::new(), "cgroups are left");
        assert_eq!(shims(self.dir.path()), Vec::<i32>::new(), "shims are left");
        assert_eq!(*self.images.holders.lock().unwrap(), BTreeSet::new(), "layers are held");
        assert_eq!(*self.network.attached.lock().unwrap(), BTreeSet::new(), "networks are attached");
        let sandboxes = fs::read_dir(self.dir.path().join("state/sandboxes")).unwrap();
        assert_eq!(sandboxes.count(), 0, "directories are left");
    }
}

impl Drop for Node {
    /// What a failed test leaves.
    fn drop(&mut self) {
        for pid in shims(self.dir.path()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        for path in cgroups(&self.cgroup).iter().rev() {
            for pid in fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default().lines() {
                let pid = nix::unistd::Pid::from_raw(pid.parse().unwrap());
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
            let _ = fs::remove_dir(path);
        }
        for mount in mounts(self.dir.path()).iter().rev() {
            let _ = nix::mount::umount2(mount.as_str(), nix::mount::MntFlags::MNT_DETACH);
        }
        // The parents, which no sandbox of its own had; a process that was just killed keeps them for a moment.
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let own = hierarchy.path().join(self.cgroup.trim_start_matches('/'));
            for path in [own.join("shims"), own.join("pods"), own] {
                for _ in 0..100 {
                    match fs::remove_dir(&path) {
                        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => std::thread::yield_now(),
                        _ => break,
                    }
                }
            }
        }
    }
}

pub(crate) fn config(dir: &Path, cgroup: &str) -> RuntimeConfig {
    RuntimeConfig {
        shim_command: vec![env!("CARGO_BIN_EXE_fram-shim").into()],
        cgroup_root: format!("{cgroup}/pods"),
        shim_cgroup: format!("{cgroup}/shims"),
        ..RuntimeConfig::new(dir.join("state"))
    }
}

pub(crate) fn sandbox_config(dir: &Path, cgroup: &str, name: &str) -> PodSandboxConfig {
    let metadata = PodSandboxMetadata { name: name.into(), uid: format!("uid-{name}"), namespace: "default".into(), attempt: 0 };
    PodSandboxConfig {
        metadata,
        hostname: name.into(),
        log_directory: dir.join("logs").join(name).display().to_string(),
        dns_config: Some(DnsConfig { servers: vec!["10.0.0.10".into()], ..DnsConfig::default() }),
        linux: LinuxPodSandboxConfig {
            cgroup_parent: format!("{cgroup}/pods"),
            security_context: LinuxSandboxSecurityContext {
                namespace_options: NamespaceOption { pid: NamespaceMode::Container, ..NamespaceOption::default() },
                ..LinuxSandboxSecurityContext::default()
            },
            ..LinuxPodSandboxConfig::default()
        },
        ..PodSandboxConfig::default()
    }
}

/// A container that runs a shell script.
pub(crate) fn shell(name: &str, script: &str) -> ContainerConfig {
    let mut config = ContainerConfig {
        metadata: ContainerMetadata { name: name.into(), attempt: 0 },
        image: ImageSpec::new("busybox"),
        command: vec!["/bin/sh".into(), "-c".into(), script.into()],
        log_path: format!("{name}.log"),
        ..ContainerConfig::default()
    };
    config.security_context.namespace_options.pid = NamespaceMode::Container;
    config
}

/// Creates and starts a container.
pub(crate) async fn start(runtime: &Runtime, sandbox: &str, config: &ContainerConfig) -> String {
    let id = runtime.create_container(sandbox, config, &PodSandboxConfig::default()).await.unwrap();
    runtime.start_container(&id).await.unwrap();
    id
}

/// Waits for the end of a container by its events, and gives its status.
pub(crate) async fn ended(runtime: &Runtime, id: &str) -> ContainerStatus {
    let mut events = runtime.events().await.unwrap();
    let end = async {
        loop {
            let status = runtime.container_status(id).await.unwrap();
            if status.state == ContainerState::Exited {
                return status;
            }
            events.recv().await.expect("the subscription lasts");
        }
    };
    tokio::time::timeout(LONG, end).await.expect("the container ends")
}

/// Runs a container to its end in a new sandbox, and gives its status and log.
pub(crate) async fn run(node: &Node, runtime: &Runtime, config: &ContainerConfig) -> (ContainerStatus, Vec<String>) {
    let name = format!("pod-{}", config.metadata.name);
    let sandbox = node.sandbox(runtime, &name).await;
    let id = start(runtime, &sandbox, config).await;
    let status = ended(runtime, &id).await;
    let log = node.log(&name, &config.log_path);
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    (status, log)
}

pub(crate) fn mounts(below: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = table.lines().map(|line| line.split(' ').nth(4).unwrap().to_owned());
    points.filter(|point| Path::new(point).starts_with(below)).collect()
}

pub(crate) fn cgroups(cgroup: &str) -> Vec<PathBuf> {
    fn walk(path: PathBuf, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.push(entry.path());
                walk(entry.path(), found);
            }
        }
    }
    let mut found = Vec::new();
    for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let pods = hierarchy.path().join(cgroup.trim_start_matches('/')).join("pods");
        walk(pods, &mut found);
    }
    found
}

/// Shims of sandboxes below a directory that are not zombies.
pub(crate) fn shims(below: &Path) -> Vec<i32> {
    let processes = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read_to_string(entry.path().join("cmdline")).ok()?;
        (line.contains("fram-shim\0") && line.contains(&below.display().to_string())).then_some(pid)
    });
    let found: Vec<i32> = processes.collect();
    // A process that a shim forks to make a container has its command line, and may end a moment after the container has started.
    let parent = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse::<i32>().ok())
    };
    found.iter().copied().filter(|pid| parent(*pid).is_some_and(|parent| !found.contains(&parent))).collect()
}
