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
async fn files_run_out_in_the_process_that_opened_them_and_in_no_other() {
    let node = Node::new();
    let runtime = node.open().await;
    let sandbox = node.sandbox(&runtime, "web").await;
    let neighbour = start(&runtime, &sandbox, &shell("neighbour", "exec sleep 1000")).await;
    // awk keeps open what it reads from, and each of these names is another one to it.
    let open = "BEGIN { p = \"/\"; while ((getline x < (p \"dev/null\")) >= 0) { p = p \"/\"; n++ } print \"full\", (n > 900); fflush(); system(\"sleep 1000\") }";
    let script = format!("ulimit -n 1000; for i in $(seq 20); do awk '{open}' & done; wait");
    let hog = start(&runtime, &sandbox, &shell("hog", &script)).await;
    log_holds(&node, "web", "hog.log", "full 1").await;
    for id in [&hog, &neighbour] {
        assert!(answers(&runtime, id).await, "a process of one's own still finds room");
    }
    let other = node.sandbox(&runtime, "other").await;
    let other_container = start(&runtime, &other, &shell("main", "echo here; exec sleep 1000")).await;
    log_holds(&node, "other", "main.log", "here").await;
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
        // What runs is still there, can be looked into, ends as it does, and is heard of.
        assert!(answers(&runtime, &running).await);
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

#[tokio::test]
async fn a_file_system_that_turns_read_only_fails_what_is_new_with_that_word_and_neither_what_runs_nor_what_comes_later() {
    let node = Node::new();
    let disk = SmallDisk::on(node.dir.path().join("state"));
    // Over itself: a file system of which something is open for writing is not turned by its administrator, only by its own errors.
    let bind = |flags| mount(Some(&disk.path), &disk.path, None::<&str>, MsFlags::MS_BIND | flags, None::<&str>);
    let runtime = node.open().await;
    let sandbox = node.sandbox(&runtime, "web").await;
    let running = start(&runtime, &sandbox, &shell("running", "exec sleep 1000")).await;
    let doomed = start(&runtime, &sandbox, &shell("doomed", "trap 'exit 3' TERM; echo up; while :; do sleep 0.1; done")).await;
    log_holds(&node, "web", "doomed.log", "up").await;
    bind(MsFlags::empty()).unwrap();
    bind(MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY).unwrap();
    let refused = runtime.create_container(&sandbox, &shell("new", "true"), &PodSandboxConfig::default()).await.unwrap_err();
    assert!(refused.to_string().contains("Read-only file system"), "{refused}");
    let refused = runtime.run_pod_sandbox(&node.sandbox_config("other"), "").await.unwrap_err();
    assert!(refused.to_string().contains("Read-only file system"), "{refused}");
    // What runs is still there, can be looked into, ends as it does, and is heard of.
    assert!(answers(&runtime, &running).await);
    assert_eq!(runtime.container_status(&running).await.unwrap().state, ContainerState::Running);
    runtime.stop_container(&doomed, LONG).await.unwrap();
    assert_eq!(runtime.container_status(&doomed).await.unwrap().exit_code, 3);
    umount2(&disk.path, MntFlags::MNT_DETACH).unwrap();
    assert!(answers(&runtime, &running).await);
    let later = start(&runtime, &sandbox, &shell("later", "exit 4")).await;
    assert_eq!(ended(&runtime, &later).await.exit_code, 4);
    let other = node.sandbox(&runtime, "other").await;
    for sandbox in [&sandbox, &other] {
        runtime.remove_pod_sandbox(sandbox).await.unwrap();
    }
    runtime.close().await;
    assert_eq!(fs::read_dir(disk.path.join("sandboxes")).unwrap().count(), 0);
    drop(disk);
    fs::create_dir_all(node.dir.path().join("state/sandboxes")).unwrap();
    node.assert_nothing_is_left();
}

/// Brings a container to a step of its life; returns its id, where it has one.
async fn bring_to(step: &str, runtime: &Runtime, sandbox: &str) -> Option<String> {
    let script = if step == "ended" { "exit 3" } else { "trap '' TERM; while :; do sleep 0.1; done" };
    let config = shell("main", script);
    match step {
        "no container" => None,
        "created" => Some(runtime.create_container(sandbox, &config, &PodSandboxConfig::default()).await.unwrap()),
        _ => {
            let id = start(runtime, sandbox, &config).await;
            if step == "ended" {
                assert_eq!(ended(runtime, &id).await.exit_code, 3);
            }
            Some(id)
        }
    }
}

#[tokio::test]
async fn a_shim_that_is_killed_at_any_step_costs_its_pod_and_leaves_nothing() {
    let node = Node::new();
    let runtime = node.open().await;
    let neighbour = node.sandbox(&runtime, "neighbour").await;
    let unhurt = start(&runtime, &neighbour, &shell("main", "exec sleep 1000")).await;
    let others = shims(node.dir.path());
    let kill_shim = || {
        for pid in shims(node.dir.path()).into_iter().filter(|pid| !others.contains(pid)) {
            kill(Pid::from_raw(pid), Kill::SIGKILL).unwrap();
        }
    };
    for step in ["no container", "created", "running", "in an exec", "in its stop", "ended"] {
        let mut events = runtime.events().await.unwrap();
        let sandbox = node.sandbox(&runtime, "web").await;
        let id = bring_to(step, &runtime, &sandbox).await;
        match (step, &id) {
            ("in an exec", Some(id)) => {
                let command = ["sleep".to_owned(), "1000".to_owned()];
                let (answer, ()) = tokio::join!(runtime.exec_sync(id, &command, Some(LONG)), async { kill_shim() });
                assert!(answer.is_err(), "the end of the shim is the end of what it was asked for");
            }
            ("in its stop", Some(id)) => {
                // Whether the stop has come about or failed, the container has ended.
                let (_, ()) = tokio::join!(runtime.stop_container(id, LONG), async { kill_shim() });
            }
            _ => kill_shim(),
        }
        let gone = async {
            while runtime.pod_sandbox_status(&sandbox).await.unwrap().state == PodSandboxState::Ready {
                events.recv().await.unwrap();
            }
        };
        tokio::time::timeout(LONG, gone).await.unwrap_or_else(|_| panic!("{step}: the pod is never said to be lost"));
        if let Some(id) = &id {
            let status = runtime.container_status(id).await.unwrap();
            let code = if step == "ended" { 3 } else { 255 };
            assert!(step == "created" || status.state == ContainerState::Exited, "{step}: {:?}", status.state);
            assert!(step == "created" || step == "in its stop" || status.exit_code == code, "{step}: {}", status.exit_code);
        }
        runtime.remove_pod_sandbox(&sandbox).await.unwrap_or_else(|error| panic!("{step}: {error}"));
        assert_eq!(shims(node.dir.path()), others, "{step}");
        assert!(answers(&runtime, &unhurt).await, "{step}");
    }
    runtime.remove_pod_sandbox(&neighbour).await.unwrap();
    node.assert_nothing_is_left();
}
