//! Pods outlive the runtime, and no exit is lost: neither when it is closed, nor when its process is killed.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Arc;

use fram_cri::*;
use fram_runtime::{OpenError, Runtime};
use nix::sys::signal::{Signal as Kill, kill};
use nix::unistd::Pid;

use crate::support::*;

async fn stopped_events(runtime: &Runtime) -> Vec<String> {
    let mut events = runtime.events().await.unwrap();
    let mut stopped = Vec::new();
    while let Some(event) = events.try_recv() {
        assert_eq!(event.container_event_type, ContainerEventType::Stopped);
        stopped.push(event.container_id);
    }
    stopped
}

#[tokio::test]
async fn a_container_runs_on_and_its_exit_is_reported_once_to_the_next_runtime() {
    let node = Node::new();
    let runtime = node.open().await;
    let sandbox = node.sandbox(&runtime, "web").await;
    let lasting = start(&runtime, &sandbox, &shell("lasting", "sleep 1000")).await;
    let gate = node.dir.path().join("gate");
    std::fs::create_dir(&gate).unwrap();
    let mut ending = shell("ending", "until [ -e /gate/open ]; do sleep 0.01; done; echo bye; exit 9");
    ending.mounts = vec![Mount { container_path: "/gate".into(), host_path: gate.display().to_string(), ..Mount::default() }];
    let ending = start(&runtime, &sandbox, &ending).await;
    let locked = Runtime::open(node.config(), node.images.clone(), node.network.clone()).await;
    assert!(matches!(locked, Err(OpenError::Locked(_))));
    runtime.close().await;

    std::fs::write(gate.join("open"), "").unwrap();
    let record = node.dir.path().join(format!("state/sandboxes/{sandbox}/containers/{ending}/state.json"));
    for _ in 0..2000 {
        if std::fs::read_to_string(&record).unwrap().contains("finished_at") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let runtime = node.open().await;
    assert_eq!(runtime.pod_sandbox_status(&sandbox).await.unwrap().state, PodSandboxState::Ready);
    assert_eq!(runtime.container_status(&lasting).await.unwrap().state, ContainerState::Running);
    let status = runtime.container_status(&ending).await.unwrap();
    assert_eq!((status.state, status.exit_code), (ContainerState::Exited, 9));
    assert_eq!(node.log("web", "ending.log"), ["stdout F bye"]);
    assert_eq!(stopped_events(&runtime).await, std::slice::from_ref(&ending));
    runtime.close().await;
    let runtime = node.open().await;
    assert_eq!(stopped_events(&runtime).await, Vec::<String>::new());
    let still = runtime.exec_sync(&lasting, &["true".into()], Some(LONG)).await.unwrap();
    assert_eq!(still.exit_code, 0);
    let mut events = runtime.events().await.unwrap();
    runtime.stop_container(&lasting, std::time::Duration::ZERO).await.unwrap();
    assert_eq!(events.recv().await.unwrap().container_id, lasting);
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    node.assert_nothing_is_left();
}

/// Not a test of its own: what the next one starts, kills and starts again.
#[tokio::test]
async fn child_of_the_kill_test() {
    let Ok(dir) = std::env::var("FRAM_TEST_DIR") else { return };
    let (dir, cgroup) = (std::path::PathBuf::from(dir), std::env::var("FRAM_TEST_CGROUP").unwrap());
    let images = Arc::new(BusyboxImages::at(&dir));
    let runtime = Runtime::open(config(&dir, &cgroup), images, Arc::new(LoopbackNetwork::default())).await.unwrap();
    let round = std::env::var("FRAM_TEST_ROUND").unwrap();
    for number in 0.. {
        let name = format!("pod-{round}-{number}");
        let sandbox = runtime.run_pod_sandbox(&sandbox_config(&dir, &cgroup, &name), "").await.unwrap();
        let script = format!("exit {}", number % 100);
        start(&runtime, &sandbox, &shell("main", &script)).await;
        println!("{name}");
    }
}

#[tokio::test]
async fn a_runtime_killed_at_any_moment_leaves_pods_that_the_next_one_knows() {
    use std::io::{BufRead, BufReader};
    let node = Node::new();
    for round in 0..4_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["restart::child_of_the_kill_test", "--exact", "--nocapture"])
            .env("FRAM_TEST_DIR", node.dir.path())
            .env("FRAM_TEST_CGROUP", &node.cgroup)
            .env("FRAM_TEST_ROUND", round.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut started = 0;
        // Later in each round, so that different steps are hit.
        while started <= round {
            let line = lines.next().expect("the child starts pods").unwrap();
            started += u64::from(line.contains("pod-"));
        }
        tokio::time::sleep(std::time::Duration::from_millis(7 * round)).await;
        kill(Pid::from_raw(child.id() as i32), Kill::SIGKILL).unwrap();
        child.wait().unwrap();
    }
    let runtime = node.open().await;
    let sandboxes = runtime.list_pod_sandbox(&PodSandboxFilter::default()).await.unwrap();
    assert!(sandboxes.len() >= 10, "{}", sandboxes.len());
    for sandbox in &sandboxes {
        assert_eq!(sandbox.state, PodSandboxState::Ready, "{}", sandbox.metadata.name);
    }
    for container in runtime.list_containers(&ContainerFilter::default()).await.unwrap() {
        let sandbox = sandboxes.iter().find(|sandbox| sandbox.id == container.pod_sandbox_id).unwrap();
        let number: i32 = sandbox.metadata.name.rsplit('-').next().unwrap().parse().unwrap();
        if container.state != ContainerState::Created {
            assert_eq!(ended(&runtime, &container.id).await.exit_code, number % 100);
        }
    }
    for sandbox in &sandboxes {
        runtime.remove_pod_sandbox(&sandbox.id).await.unwrap();
    }
    node.assert_nothing_is_left();
}

#[tokio::test]
async fn when_a_shim_is_killed_its_containers_are_ended_and_said_to_be_lost() {
    let node = Node::new();
    let runtime = node.open().await;
    let sandbox = node.sandbox(&runtime, "web").await;
    let id = start(&runtime, &sandbox, &shell("main", "sleep 1000")).await;
    let mut events = runtime.events().await.unwrap();
    let [shim] = shims(node.dir.path())[..] else { panic!("there is one shim") };
    kill(Pid::from_raw(shim), Kill::SIGKILL).unwrap();
    let event = tokio::time::timeout(LONG, events.recv()).await.unwrap().unwrap();
    assert_eq!((event.container_id.as_str(), event.container_event_type), (id.as_str(), ContainerEventType::Stopped));
    let status = runtime.container_status(&id).await.unwrap();
    assert_eq!((status.exit_code, status.reason), (255, Some(ContainerReason::Unknown)));
    assert_eq!(runtime.pod_sandbox_status(&sandbox).await.unwrap().state, PodSandboxState::NotReady);
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    node.assert_nothing_is_left();

    // The same, found when opening.
    let sandbox = node.sandbox(&runtime, "web").await;
    let id = start(&runtime, &sandbox, &shell("main", "sleep 1000")).await;
    runtime.close().await;
    let [shim] = shims(node.dir.path())[..] else { panic!("there is one shim") };
    kill(Pid::from_raw(shim), Kill::SIGKILL).unwrap();
    let runtime = node.open().await;
    assert_eq!(stopped_events(&runtime).await, [id]);
    assert_eq!(runtime.pod_sandbox_status(&sandbox).await.unwrap().state, PodSandboxState::NotReady);
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    node.assert_nothing_is_left();
}

#[tokio::test]
async fn a_record_that_cannot_be_read_costs_its_pod_and_no_other() {
    let node = Node::new();
    let runtime = node.open().await;
    let broken = node.sandbox(&runtime, "broken").await;
    start(&runtime, &broken, &shell("main", "sleep 1000")).await;
    let whole = node.sandbox(&runtime, "whole").await;
    runtime.close().await;
    std::fs::write(node.dir.path().join(format!("state/sandboxes/{broken}/sandbox.json")), "").unwrap();
    let runtime = node.open().await;
    let left = runtime.list_pod_sandbox(&PodSandboxFilter::default()).await.unwrap();
    assert_eq!(left.iter().map(|sandbox| &sandbox.id).collect::<Vec<_>>(), [&whole]);
    runtime.remove_pod_sandbox(&whole).await.unwrap();
    node.assert_nothing_is_left();
}

#[tokio::test]
async fn dropping_a_runtime_lets_the_next_one_open() {
    let node = Node::new();
    let runtime = node.open().await;
    let sandbox = node.sandbox(&runtime, "web").await;
    drop(runtime);
    let next = async {
        loop {
            match Runtime::open(node.config(), node.images.clone(), node.network.clone()).await {
                // Its tasks end when they are next run.
                Err(OpenError::Locked(_)) => tokio::task::yield_now().await,
                opened => return opened.unwrap(),
            }
        }
    };
    let runtime = tokio::time::timeout(LONG, next).await.unwrap();
    assert_eq!(runtime.pod_sandbox_status(&sandbox).await.unwrap().state, PodSandboxState::Ready);
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    node.assert_nothing_is_left();
}

/// One frame of the shim's protocol.
fn frame(json: &str) -> Vec<u8> {
    let length = u32::try_from(json.len()).unwrap();
    [&length.to_le_bytes(), json.as_bytes()].concat()
}

#[tokio::test]
async fn what_a_runtime_asks_whose_version_the_shim_does_not_know_is_not_done() {
    let node = Node::new();
    let runtime = node.open().await;
    let sandbox = node.sandbox(&runtime, "web").await;
    let id = start(&runtime, &sandbox, &shell("main", "sleep 1000")).await;
    let dir = fs::File::open(node.dir.path().join("state/sandboxes").join(&sandbox)).unwrap();
    let mut shim = UnixStream::connect(format!("/proc/self/fd/{}/shim.sock", dir.as_raw_fd())).unwrap();
    let kill = format!(r#"{{"Signal":{{"container_id":"{id}","signal":9,"all":true}}}}"#);
    shim.set_read_timeout(Some(LONG)).unwrap();
    shim.write_all(&[frame(r#"{"Hello":{"version":1000,"oldest":999}}"#), frame(&kill)].concat()).unwrap();
    let mut answer = Vec::new();
    shim.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.contains("Hello") && answer.contains("Unsupported") && !answer.contains("Ok"), "{answer}");
    let ran = runtime.exec_sync(&id, &["true".into()], Some(LONG)).await.unwrap();
    assert_eq!(ran.exit_code, 0);
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    node.assert_nothing_is_left();
}
