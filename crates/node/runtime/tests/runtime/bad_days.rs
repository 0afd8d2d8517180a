//! What runs out, or is taken away, in one container or on the node: whoever is concerned is told, nobody else is, and it passes.

use std::fs;
use std::path::{Path, PathBuf};

use fram_cri::*;
use fram_runtime::Runtime;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{Signal as Kill, kill};
use nix::unistd::Pid;

use crate::support::*;

/// Whether a process can still be started in a container.
async fn answers(runtime: &Runtime, id: &str) -> bool {
    runtime.exec_sync(id, &["true".into()], Some(LONG)).await.is_ok_and(|answer| answer.exit_code == 0)
}

/// Waits for a line that ends so.
async fn log_holds(node: &Node, pod: &str, file: &str, end: &str) {
    let folder = node.dir.path().join("logs").join(pod);
    let (path, end) = (folder.join(file), format!("{end}\n"));
    let heard = tokio::task::spawn_blocking(move || {
        let changes = Inotify::init(InitFlags::IN_CLOEXEC).unwrap();
        changes.add_watch(&folder, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MODIFY).unwrap();
        while !fs::read_to_string(&path).unwrap_or_default().contains(&end) {
            changes.read_events().unwrap();
        }
    });
    tokio::time::timeout(LONG, heard).await.expect("the line comes").unwrap();
}

#[tokio::test]
async fn processes_run_out_in_the_container_that_made_them_and_in_no_other() {
    let node = Node::new();
    let runtime = node.open().await;
    let sandbox = node.sandbox(&runtime, "web").await;
    let neighbour = start(&runtime, &sandbox, &shell("neighbour", "exec sleep 1000")).await;
    // The subshell dies of the first fork that fails, and leaves its children.
    let mut hog = shell("hog", "(while :; do sleep 1000 & done) 2>/dev/null; echo full; exec sleep 1000");
    hog.resources.pids_limit = 20;
    let hog = start(&runtime, &sandbox, &hog).await;
    log_holds(&node, "web", "hog.log", "full").await;
    assert!(!answers(&runtime, &hog).await, "there is no room for a process");
    assert!(answers(&runtime, &neighbour).await);
    let other = node.sandbox(&runtime, "other").await;
    let other_container = start(&runtime, &other, &shell("main", "exec sleep 1000")).await;
    assert!(answers(&runtime, &other_container).await);
    runtime.stop_container(&hog, std::time::Duration::ZERO).await.unwrap();
    assert_eq!(runtime.container_status(&hog).await.unwrap().exit_code, 137);
    for sandbox in [&sandbox, &other] {
        runtime.remove_pod_sandbox(sandbox).await.unwrap();
    }
    node.assert_nothing_is_left();
}

#[tokio::test]
async fn a_sidecar_that_runs_out_of_memory_takes_nobody_along() {
    let node = Node::new();
    let runtime = node.open().await;
    let sandbox = node.sandbox(&runtime, "web").await;
    let main = start(&runtime, &sandbox, &shell("main", "exec sleep 1000")).await;
    let mut sidecar = shell("sidecar", "x=a; while :; do x=$x$x; done");
    sidecar.resources.memory_limit_in_bytes = 16 << 20;
    let sidecar = start(&runtime, &sandbox, &sidecar).await;
    let status = ended(&runtime, &sidecar).await;
    assert_eq!((status.exit_code, status.reason), (137, Some(ContainerReason::OomKilled)));
    assert!(answers(&runtime, &main).await);
    // A child that is killed for want of memory is its parent's to deal with.
    let mut parent = shell("parent", "sh -c 'x=a; while :; do x=$x$x; done'; echo child $?; exec sleep 1000");
    parent.resources.memory_limit_in_bytes = 16 << 20;
    let parent = start(&runtime, &sandbox, &parent).await;
    log_holds(&node, "web", "parent.log", "child 137").await;
    assert_eq!(runtime.container_status(&parent).await.unwrap().state, ContainerState::Running);
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    node.assert_nothing_is_left();
}

#[tokio::test]
async fn a_first_process_that_somebody_kills_is_told_with_its_code() {
    let node = Node::new();
    let runtime = node.open().await;
    let sandbox = node.sandbox(&runtime, "web").await;
    let neighbour = start(&runtime, &sandbox, &shell("neighbour", "exec sleep 1000")).await;
    for _ in 0..3 {
        let id = start(&runtime, &sandbox, &shell("main", "exec sleep 1000")).await;
        let cgroup = format!("{}/pods/{id}", node.cgroup);
        let places = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"];
        let pids = places.iter().find_map(|place| fs::read_to_string(format!("{place}{cgroup}/cgroup.procs")).ok());
        let pid = pids.unwrap().lines().next().unwrap().parse().unwrap();
        kill(Pid::from_raw(pid), Kill::SIGKILL).unwrap();
        assert_eq!(ended(&runtime, &id).await.exit_code, 137);
        runtime.remove_container(&id).await.unwrap();
    }
    assert!(answers(&runtime, &neighbour).await);
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    node.assert_nothing_is_left();
}

/// A small file system under the runtime's state.
struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    fn on(path: PathBuf) -> SmallDisk {
        fs::create_dir_all(&path).unwrap();
        mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), Some("size=8m,nr_inodes=600")).unwrap();
        SmallDisk { path }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
    }
}

/// Until there is no room for any more.
fn fill_bytes(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    assert!(fs::write(folder.join("large"), vec![0; 16 << 20]).is_err());
}

fn fill_inodes(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    assert!((0..1000).any(|number| fs::write(folder.join(number.to_string()), "").is_err()));
}

#[tokio::test]
async fn a_full_disk_fails_what_is_new_and_neither_what_runs_nor_what_comes_later() {
    let node = Node::new();
    let disk = SmallDisk::on(node.dir.path().join("state"));
    let filler = disk.path.join("filler");
    let runtime = node.open().await;
    let sandbox = node.sandbox(&runtime, "web").await;
    let running = start(&runtime, &sandbox, &shell("running", "exec sleep 1000")).await;
    for (way, fill) in [("bytes", fill_bytes as fn(&Path)), ("inodes", fill_inodes)] {
        let doomed = shell(way, "trap 'exit 3' TERM; echo up; while :; do sleep 0.1; done");
        let doomed = start(&runtime, &sandbox, &doomed).await;
        log_holds(&node, "web", &format!("{way}.log"), "up").await;
        fill(&filler);
        let refused = match runtime.create_container(&sandbox, &shell("new", "true"), &PodSandboxConfig::default()).await {
            Ok(id) => {
                let started = runtime.start_container(&id).await;
                let _ = runtime.remove_container(&id).await;
                started.err()
            }
            Err(error) => Some(error),
        };
        assert!(refused.is_some(), "{way}: nothing can be made");
        // What runs is still there, ends as it does, and is heard of.
        assert_eq!(runtime.container_status(&running).await.unwrap().state, ContainerState::Running, "{way}");
        runtime.stop_container(&doomed, LONG).await.unwrap();
        assert_eq!(runtime.container_status(&doomed).await.unwrap().exit_code, 3, "{way}");
        fs::remove_dir_all(&filler).unwrap();
        runtime.remove_container(&doomed).await.unwrap();
        let later = start(&runtime, &sandbox, &shell("later", "exit 4")).await;
        assert_eq!(ended(&runtime, &later).await.exit_code, 4, "{way}");
        runtime.remove_container(&later).await.unwrap();
        assert!(answers(&runtime, &running).await, "{way}");
    }
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    runtime.close().await;
    assert_eq!(fs::read_dir(disk.path.join("sandboxes")).unwrap().count(), 0);
    drop(disk);
    fs::create_dir_all(node.dir.path().join("state/sandboxes")).unwrap();
    node.assert_nothing_is_left();
}
