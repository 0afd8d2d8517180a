//! `fram runtime` by its socket alone: what a stock kubelet does with it.

use std::collections::BTreeMap;
use std::time::Duration;

use fram_cri::grpc::{RemoteImages, RemoteRuntime};
use fram_cri::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::runtime_rig::{PATIENCE, Rig, container, pod, pods_come_and_go};

async fn text(stream: Option<Box<dyn tokio::io::AsyncRead + Send + Unpin>>) -> String {
    let mut text = String::new();
    tokio::time::timeout(PATIENCE, stream.unwrap().read_to_string(&mut text)).await.unwrap().unwrap();
    text
}

async fn a_pod(runtime: RemoteRuntime, images: RemoteImages, image: String) {
    let mut events = runtime.events().await.unwrap();
    assert_eq!(images.image_status(&ImageSpec::new(&image)).await.unwrap(), None);
    images.pull_image(&ImageSpec::new(&image), None, None, None).await.unwrap();
    assert_eq!(images.list_images(None).await.unwrap()[0].repo_tags, [image.as_str()]);

    let sandbox = runtime.run_pod_sandbox(&pod("web"), "").await.unwrap();
    let again = runtime.run_pod_sandbox(&pod("web"), "").await;
    assert!(matches!(again, Err(CriError::AlreadyExists { .. })), "{again:?}");
    let status = runtime.pod_sandbox_status(&sandbox).await.unwrap();
    assert_eq!((status.state, status.network.ip.is_some()), (PodSandboxState::Ready, true));

    let serve = "mkdir -p /www; hostname > /www/index.html; httpd -p 8080 -h /www; trap 'exit 3' TERM; while true; do sleep 0.1; done";
    let id = runtime.create_container(&sandbox, &container(&image, serve), &pod("web")).await.unwrap();
    assert_eq!(runtime.container_status(&id).await.unwrap().state, ContainerState::Created);
    runtime.start_container(&id).await.unwrap();
    let status = runtime.container_status(&id).await.unwrap();
    assert_eq!((status.state, status.pod_sandbox_id.as_str()), (ContainerState::Running, sandbox.as_str()));

    let command = |script: &str| vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()];
    let done = runtime.exec_sync(&id, &command("echo out; echo err >&2; exit 4"), Some(PATIENCE)).await.unwrap();
    assert_eq!((done.stdout.as_slice(), done.stderr.as_slice(), done.exit_code), (&b"out\n"[..], &b"err\n"[..], 4));
    let late = runtime.exec_sync(&id, &command("sleep 100"), Some(Duration::from_secs(1))).await;
    assert!(matches!(late, Err(CriError::DeadlineExceeded(_))), "{late:?}");

    let options = ExecOptions { stdin: true, stdout: true, stderr: true, ..ExecOptions::default() };
    let mut stream = runtime.exec(&id, &command("cat; echo end >&2; exit 5"), options).await.unwrap();
    let mut stdin = stream.stdin.take().unwrap();
    stdin.write_all(b"through\n").await.unwrap();
    stdin.shutdown().await.unwrap();
    drop(stdin);
    assert_eq!((text(stream.stdout).await, text(stream.stderr).await, stream.exit.await.unwrap()), ("through\n".into(), "end\n".into(), 5));

    let listening = command("until netstat -ltn | grep -q :8080; do sleep 0.01; done");
    runtime.exec_sync(&id, &listening, Some(PATIENCE)).await.unwrap();
    let mut connection = runtime.port_forward(&sandbox, 8080).await.unwrap();
    connection.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").await.unwrap();
    let mut page = String::new();
    tokio::time::timeout(PATIENCE, connection.read_to_string(&mut page)).await.unwrap().unwrap();
    assert!(page.ends_with("web\n"), "{page}");

    let usage = runtime.container_stats(&id).await.unwrap();
    assert!(usage.cpu.usage_core_nano_seconds > Some(0) && usage.memory.working_set_bytes > Some(0), "{usage:?}");
    let filter = ContainerFilter { label_selector: BTreeMap::from([("no".into(), "such".into())]), ..ContainerFilter::default() };
    assert_eq!(runtime.list_containers(&filter).await.unwrap(), []);

    runtime.stop_container(&id, PATIENCE).await.unwrap();
    let status = runtime.container_status(&id).await.unwrap();
    assert_eq!((status.state, status.exit_code, status.reason), (ContainerState::Exited, 3, Some(ContainerReason::Error)));
    let stopped = async {
        loop {
            let event = events.recv().await.unwrap();
            if event.container_id == id && event.container_event_type == ContainerEventType::Stopped {
                return event;
            }
        }
    };
    let event = tokio::time::timeout(PATIENCE, stopped).await.unwrap();
    assert_eq!(event.containers_statuses[0].exit_code, 3);
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    let gone = runtime.container_status(&id).await;
    assert!(matches!(gone, Err(CriError::NotFound { .. })), "{gone:?}");
    images.remove_image(&ImageSpec::new(&image)).await.unwrap();
}

#[test]
fn a_pod_lives_its_life_over_the_runtime_s_socket() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::new(folder.path());
    rig.ask(a_pod);
}

#[test]
fn thirty_pods_come_and_go_and_leave_nothing() {
    pods_come_and_go(30);
}
