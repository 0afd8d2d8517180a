//! `fram runtime` on a machine of its own, asked by the CRI's client; and pods that come and go there, of which nothing may stay.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fram_cri::grpc::{PATIENCE as REQUEST_TIMEOUT, RemoteImages, RemoteRuntime};
use fram_cri::*;
use fram_streaming::{Sessions, StreamClient};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::cluster::until;
use super::machine::{Machine, push, registry};

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How many pods there are at once where many come and go.
const AT_ONCE: usize = 10;

/// A machine with a runtime and an image for it.
pub(crate) struct Rig {
    machine: Machine,
    socket: PathBuf,
    image: String,
}

impl Rig {
    pub(crate) fn new(folder: &Path) -> Self {
        let mut machine = Machine::new(folder, "runtime", "10.77.0.1");
        machine.start_registry(&registry(folder));
        let image = push(&machine, folder);
        let mut rig = Self { socket: folder.join("runtime.sock"), machine, image };
        rig.start();
        rig
    }

    fn start(&mut self) {
        let log = File::options().create(true).append(true).open(&self.machine.log).unwrap();
        let mut command = self.machine.fram("runtime");
        command.arg("--listen").arg(format!("unix://{}", self.socket.display()));
        self.machine.fram = Some(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
        until(PATIENCE, "the runtime serves", || std::os::unix::net::UnixStream::connect(&self.socket).is_ok(), || self.machine.log());
    }

    /// Runs a client on the machine, whose loopback has the streams.
    pub(crate) fn ask<F: Future<Output = ()>>(&self, client: impl FnOnce(RemoteRuntime, RemoteImages, String) -> F + Send) {
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| {
                let network = File::open(format!("/run/netns/{}", self.machine.name)).unwrap();
                nix::sched::setns(network, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                let threads = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                threads.block_on(async {
                    let sessions = Sessions { tasks: TaskTracker::new(), stop: CancellationToken::new(), idle: None };
                    let endpoint = format!("unix://{}", self.socket.display());
                    let runtime = RemoteRuntime::connect(&endpoint, Arc::new(StreamClient::new(sessions)), REQUEST_TIMEOUT).await.unwrap();
                    let images = RemoteImages::new(&endpoint, REQUEST_TIMEOUT).unwrap();
                    client(runtime, images, self.image.clone()).await;
                });
            });
            if asked.join().is_err() {
                panic!("{}", self.machine.log());
            }
        });
    }

    /// What the runtime holds on the machine, counted.
    fn holds(&self) -> BTreeMap<&'static str, usize> {
        let pid = self.machine.fram.as_ref().unwrap().id();
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        let data = self.machine.data.to_str().unwrap();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().filter(|line| line.contains(data)).count();
        let mut cgroups = 0;
        for controller in ["cpu", "memory", "pids", "devices", "freezer", ""] {
            let own = Path::new("/sys/fs/cgroup").join(controller).join(self.machine.cgroup.trim_start_matches('/'));
            cgroups += std::fs::read_dir(own).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()).count();
        }
        let links = String::from_utf8(self.machine.command("ip").args(["-o", "link"]).output().unwrap().stdout).unwrap().lines().count();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default().split_whitespace().count();
        let processes = self.machine.containers().len();
        let sandboxes = std::fs::read_dir(self.machine.data.join("runtime/sandboxes")).into_iter().flatten().count();
        BTreeMap::from([
            ("files", files),
            ("mounts", mounts),
            ("cgroups", cgroups),
            ("links", links),
            ("children", children),
            ("processes", processes),
            ("sandboxes", sandboxes),
        ])
    }
}

pub(crate) fn pod(name: &str) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: PodSandboxMetadata { name: name.into(), uid: format!("uid-{name}"), namespace: "default".into(), attempt: 0 },
        hostname: name.into(),
        labels: BTreeMap::from([("app".into(), name.into())]),
        ..PodSandboxConfig::default()
    }
}

pub(crate) fn container(image: &str, script: &str) -> ContainerConfig {
    ContainerConfig {
        metadata: ContainerMetadata { name: "main".into(), attempt: 0 },
        image: ImageSpec::new(image),
        command: vec!["sh".into(), "-c".into(), script.into()],
        ..ContainerConfig::default()
    }
}

/// One pod from its beginning to its end, with a process that is left behind on purpose.
async fn come_and_go(runtime: &RemoteRuntime, image: &str, name: String) {
    let sandbox = runtime.run_pod_sandbox(&pod(&name), "").await.unwrap();
    let config = container(image, "sleep 1000 & exec sleep 1000");
    let id = runtime.create_container(&sandbox, &config, &pod(&name)).await.unwrap();
    runtime.start_container(&id).await.unwrap();
    let done = runtime.exec_sync(&id, &["true".into()], Some(PATIENCE)).await.unwrap();
    assert_eq!(done.exit_code, 0);
    runtime.stop_pod_sandbox(&sandbox).await.unwrap();
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
}

async fn many(runtime: RemoteRuntime, image: String, first: usize, count: usize) {
    let numbers: Vec<usize> = (first..first + count).collect();
    for batch in numbers.chunks(AT_ONCE) {
        futures_util::future::join_all(batch.iter().map(|number| come_and_go(&runtime, &image, format!("pod-{number}")))).await;
    }
}

/// What is held is the same after many pods as after a few.
pub(crate) fn pods_come_and_go(count: usize) {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::new(folder.path());
    rig.ask(async |runtime, images, image| {
        images.pull_image(&ImageSpec::new(&image), None, None, None).await.unwrap();
        many(runtime, image, 0, AT_ONCE).await;
    });
    let settled = || rig.holds();
    let before = settled();
    assert_eq!((before["processes"], before["sandboxes"], before["children"]), (0, 0, 0), "{before:?}");
    rig.ask(async |runtime, _, image| many(runtime, image, AT_ONCE, count).await);
    // The last client's connection closes when the runtime hears of it.
    until(PATIENCE, "no more is held than before", || no_more(&settled(), &before), || format!("{before:?}\n{:?}", settled()));
}

fn no_more(now: &BTreeMap<&str, usize>, before: &BTreeMap<&str, usize>) -> bool {
    now.iter().all(|(what, count)| *count <= before[what])
}
