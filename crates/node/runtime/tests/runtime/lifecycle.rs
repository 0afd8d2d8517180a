//! Sandboxes and containers from their making to their removal.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use fram_cri::*;
use fram_runtime::{Runtime, RuntimeConfig};

use crate::support::*;

#[tokio::test]
async fn containers_may_open_as_many_files_as_the_configuration_says_whatever_the_program_may() {
    let node = Node::new();
    let config = RuntimeConfig { open_files: Some((123, 456)), ..node.config() };
    let runtime = Runtime::open(config, node.images.clone(), node.network.clone()).await.unwrap();
    let sandbox = node.sandbox(&runtime, "web").await;
    let config = shell("main", "ulimit -Sn; ulimit -Hn");
    let id = runtime.create_container(&sandbox, &config, &node.sandbox_config("web")).await.unwrap();
    runtime.start_container(&id).await.unwrap();
    ended(&runtime, &id).await;
    assert_eq!(node.log("web", "main.log"), ["stdout F 123", "stdout F 456"]);
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    node.assert_nothing_is_left();
}

#[tokio::test]
async fn a_container_goes_from_created_to_running_to_exited_with_an_event_for_each() {
    let node = Node::new();
    let runtime = node.open().await;
    let mut events = runtime.events().await.unwrap();
    let sandbox = node.sandbox(&runtime, "web").await;
    let mode = std::fs::metadata(node.dir.path().join("state/sandboxes")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let status = runtime.pod_sandbox_status(&sandbox).await.unwrap();
    assert_eq!(status.state, PodSandboxState::Ready);
    assert_eq!(status.network.ip, Some("127.0.0.1".parse().unwrap()));

    let config = shell("main", "echo out; echo err >&2; exit 3");
    let id = runtime.create_container(&sandbox, &config, &node.sandbox_config("web")).await.unwrap();
    let status = runtime.container_status(&id).await.unwrap();
    assert_eq!((status.state, status.started_at, status.reason), (ContainerState::Created, 0, None));
    runtime.start_container(&id).await.unwrap();
    let status = ended(&runtime, &id).await;
    assert_eq!((status.exit_code, status.reason), (3, Some(ContainerReason::Error)));
    assert!(status.created_at <= status.started_at && status.started_at <= status.finished_at);
    assert_eq!((status.image_ref.as_str(), status.image_id.as_str()), ("busybox@sha256:0", "sha256:busybox"));
    let mut log = node.log("web", "main.log");
    log.sort();
    assert_eq!(log, ["stderr F err", "stdout F out"]);

    runtime.remove_container(&id).await.unwrap();
    assert!(runtime.container_status(&id).await.unwrap_err().is_not_found());
    runtime.stop_pod_sandbox(&sandbox).await.unwrap();
    assert_eq!(runtime.pod_sandbox_status(&sandbox).await.unwrap().state, PodSandboxState::NotReady);
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    assert!(runtime.pod_sandbox_status(&sandbox).await.unwrap_err().is_not_found());
    let mut seen = Vec::new();
    while let Some(event) = events.try_recv() {
        let who = if event.container_id == sandbox { "sandbox" } else { "container" };
        seen.push(format!("{who} {:?}", event.container_event_type));
    }
    assert_eq!(
        seen,
        [
            "sandbox Created",
            "sandbox Started",
            "container Created",
            "container Started",
            "container Stopped",
            "container Deleted",
            "sandbox Stopped",
            "sandbox Deleted",
        ]
    );
    node.assert_nothing_is_left();
}

#[tokio::test]
async fn stopping_sends_the_stop_signal_first_and_kills_after_the_grace() {
    let node = Node::new();
    let runtime = node.open().await;
    let sandbox = node.sandbox(&runtime, "web").await;
    let polite = start(&runtime, &sandbox, &shell("polite", "trap 'exit 7' TERM; while :; do sleep 0.01; done")).await;
    let mut chosen = shell("chosen", "trap 'exit 8' USR1; while :; do sleep 0.01; done");
    chosen.stop_signal = Some("SIGUSR1".parse().unwrap());
    let chosen = start(&runtime, &sandbox, &chosen).await;
    let stubborn = start(&runtime, &sandbox, &shell("stubborn", "trap '' TERM; while :; do sleep 0.01; done")).await;
    for (id, grace, code) in [(&polite, LONG, 7), (&chosen, LONG, 8), (&stubborn, Duration::from_millis(100), 137)] {
        // A shell needs a moment until its trap is set; exec answers only from a running container, and the trap is its
        // first command, so one round trip later it is set.
        runtime.exec_sync(id, &["true".into()], Some(LONG)).await.unwrap();
        runtime.stop_container(id, grace).await.unwrap();
        runtime.stop_container(id, grace).await.unwrap();
        assert_eq!(runtime.container_status(id).await.unwrap().exit_code, code);
    }
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    node.assert_nothing_is_left();
}

#[tokio::test]
async fn a_command_that_is_missing_fails_the_start_with_its_reason() {
    let node = Node::new();
    let runtime = node.open().await;
    let sandbox = node.sandbox(&runtime, "web").await;
    let mut config = shell("main", "");
    config.command = vec!["/no/such/command".into()];
    let id = runtime.create_container(&sandbox, &config, &node.sandbox_config("web")).await.unwrap();
    let error = runtime.start_container(&id).await.unwrap_err();
    assert!(matches!(&error, CriError::ContainerCannotRun(message) if message.contains("/no/such/command")), "{error}");
    let status = runtime.container_status(&id).await.unwrap();
    assert_eq!((status.state, status.exit_code), (ContainerState::Exited, 128));
    assert_eq!(status.reason, Some(ContainerReason::StartError));
    assert!(matches!(runtime.start_container(&id).await, Err(CriError::FailedPrecondition(_))));

    let mut unknown = shell("user", "true");
    unknown.security_context.run_as_username = "nobody-here".into();
    let id = runtime.create_container(&sandbox, &unknown, &node.sandbox_config("web")).await.unwrap();
    let error = runtime.start_container(&id).await.unwrap_err();
    assert!(error.to_string().contains("nobody-here"), "{error}");

    let mut deaf = shell("deaf", "true");
    deaf.log_path = "file/main.log".into();
    std::fs::write(node.dir.path().join("logs/web/file"), "").unwrap();
    let id = runtime.create_container(&sandbox, &deaf, &node.sandbox_config("web")).await.unwrap();
    let error = runtime.start_container(&id).await.unwrap_err();
    assert!(error.to_string().contains("main.log"), "{error}");
    assert_eq!(runtime.container_status(&id).await.unwrap().state, ContainerState::Created);
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    node.assert_nothing_is_left();
}

#[tokio::test]
async fn what_cannot_be_made_is_refused_and_leaves_nothing() {
    let node = Node::new();
    let runtime = node.open().await;
    *node.network.fail.lock().unwrap() = true;
    let failed = runtime.run_pod_sandbox(&node.sandbox_config("web"), "").await;
    assert!(matches!(failed, Err(CriError::Network(NetworkError::AddressesExhausted(_)))));
    *node.network.fail.lock().unwrap() = false;
    let handler = runtime.run_pod_sandbox(&node.sandbox_config("web"), "kata").await;
    assert!(matches!(handler, Err(CriError::InvalidArgument(_))));
    let mut sysctl = node.sandbox_config("web");
    sysctl.linux.sysctls.insert("vm.swappiness".into(), "1".into());
    assert!(matches!(runtime.run_pod_sandbox(&sysctl, "").await, Err(CriError::InvalidArgument(_))));
    node.assert_nothing_is_left();

    let sandbox = node.sandbox(&runtime, "web").await;
    let again = runtime.run_pod_sandbox(&node.sandbox_config("web"), "").await;
    assert!(matches!(again, Err(CriError::AlreadyExists { .. })));
    let mut image = shell("main", "true");
    image.image = ImageSpec::new("absent");
    let missing = runtime.create_container(&sandbox, &image, &node.sandbox_config("web")).await;
    assert!(matches!(missing, Err(CriError::Image(ImageError::NotFound(_)))));
    let mut capability = shell("main", "true");
    capability.security_context.capabilities.add_capabilities = vec!["NO_SUCH".into()];
    let wrong = runtime.create_container(&sandbox, &capability, &node.sandbox_config("web")).await;
    assert!(matches!(wrong, Err(CriError::InvalidArgument(_))));
    assert_eq!(runtime.list_containers(&ContainerFilter::default()).await.unwrap(), []);
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    node.assert_nothing_is_left();
}

#[tokio::test]
async fn removing_a_sandbox_kills_and_removes_all_that_is_in_it() {
    let node = Node::new();
    let runtime = node.open().await;
    let sandbox = node.sandbox(&runtime, "web").await;
    // Background processes that ignore every signal they can.
    let script = "trap '' TERM HUP; (trap '' TERM HUP; sleep 1000) & (setsid sleep 1000) & wait";
    start(&runtime, &sandbox, &shell("a", script)).await;
    start(&runtime, &sandbox, &shell("b", script)).await;
    let open = descriptors();
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    node.assert_nothing_is_left();
    assert_eq!(runtime.list_pod_sandbox(&PodSandboxFilter::default()).await.unwrap(), []);
    // One connection less: the one on which the shim reported.
    assert_eq!(descriptors(), open - 1);
}

#[tokio::test]
async fn purging_leaves_neither_pods_nor_cgroups_nor_files() {
    let node = Node::new();
    let runtime = node.open().await;
    for name in ["a", "b"] {
        let sandbox = node.sandbox(&runtime, name).await;
        start(&runtime, &sandbox, &shell("main", "sleep 1000")).await;
    }
    let [shim, _] = shims(node.dir.path())[..] else { panic!("there are two shims") };
    // In no hierarchy is a shim where the runtime is.
    let groups = std::fs::read_to_string(format!("/proc/{shim}/cgroup")).unwrap();
    assert!(groups.lines().all(|line| line.contains(&node.cgroup)), "{groups}");
    runtime.purge().await.unwrap();
    assert!(!node.dir.path().join("state").exists());
    assert_eq!((mounts(node.dir.path()), cgroups(&node.cgroup), shims(node.dir.path())), (vec![], vec![], vec![]));
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let own = hierarchy.path().join(node.cgroup.trim_start_matches('/'));
        assert!(!own.join("shims").exists() && !own.join("pods").exists(), "{own:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_pods_start_at_once_and_end_without_a_trace() {
    let node = std::sync::Arc::new(Node::new());
    let runtime = node.open().await;
    let mut events = runtime.events().await.unwrap();
    let open = descriptors();
    let mut pods = tokio::task::JoinSet::new();
    for number in 0..30 {
        let (node, runtime) = (node.clone(), runtime.clone());
        pods.spawn(async move {
            let sandbox = node.sandbox(&runtime, &format!("pod-{number}")).await;
            let (a, b) = (shell("a", &format!("exit {number}")), shell("b", "sleep 1000"));
            let (a, b) = tokio::join!(start(&runtime, &sandbox, &a), start(&runtime, &sandbox, &b));
            let status = ended(&runtime, &a).await;
            assert_eq!(status.exit_code, number);
            assert_eq!(runtime.exec_sync(&b, &["true".into()], Some(LONG)).await.unwrap().exit_code, 0);
            runtime.remove_pod_sandbox(&sandbox).await.unwrap();
            a
        });
    }
    let first: std::collections::BTreeSet<String> = pods.join_all().await.into_iter().collect();
    let mut stopped = Vec::new();
    while let Some(event) = events.try_recv() {
        if event.container_event_type == ContainerEventType::Stopped && first.contains(&event.container_id) {
            stopped.push(event.container_id);
        }
    }
    assert_eq!(stopped.len(), first.len(), "each end is told once");
    assert_eq!(descriptors(), open);
    node.assert_nothing_is_left();
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
