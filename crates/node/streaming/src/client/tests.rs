//! The client and the server of streams, with each other over the loopback.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use fram_cri::grpc::StreamUrls;
use fram_cri::*;
use tokio::io::AsyncWrite;
use tokio_util::task::TaskTracker;

use super::*;
use crate::server::StreamServer;

/// A runtime whose commands give back what they read, upper case on the other output, and end with how many bytes that was.
struct Echo;

fn boxed(end: DuplexStream) -> Option<Box<dyn AsyncRead + std::marker::Send + Unpin>> {
    Some(Box::new(end))
}

impl Echo {
    fn stream(options: ExecOptions) -> ContainerStream {
        let (stdin, mut input) = tokio::io::duplex(16);
        let (mut out, stdout) = tokio::io::duplex(16);
        let (mut err, stderr) = tokio::io::duplex(16);
        let (resize, mut sizes) = mpsc::channel::<TerminalSize>(1);
        let exit = async move {
            let mut count = 0;
            if options.tty
                && let Some(size) = sizes.recv().await
            {
                let _ = out.write_all(format!("{}x{}", size.width, size.height).as_bytes()).await;
            }
            let mut chunk = [0; 100];
            while let Ok(read @ 1..) = input.read(&mut chunk).await {
                count += read;
                let _ = out.write_all(&chunk[..read]).await;
                if options.stderr {
                    let _ = err.write_all(&chunk[..read].to_ascii_uppercase()).await;
                }
            }
            Ok(count as i32)
        };
        // In a real process the command runs whether its exit is awaited or not.
        let (sender, ended) = oneshot::channel();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            let _ = sender.send(exit.await);
        });
        let stdin: Box<dyn AsyncWrite + std::marker::Send + Unpin> = Box::new(stdin);
        ContainerStream {
            stdin: Some(stdin),
            stdout: boxed(stdout),
            stderr: options.stderr.then(|| boxed(stderr)).flatten(),
            resize: Some(resize),
            exit: Box::pin(async move {
                let _tasks = tasks;
                ended.await.unwrap()
            }),
        }
    }
}

struct Rig {
    urls: StreamServer,
    client: StreamClient,
    sessions: Sessions,
}

async fn rig() -> Rig {
    let sessions = Sessions { tasks: TaskTracker::new(), stop: CancellationToken::new(), idle: None };
    let (urls, listener) = StreamServer::bind((Ipv4Addr::LOCALHOST, 0).into(), Arc::new(Echo), sessions.clone()).await.unwrap();
    sessions.tasks.spawn(urls.clone().run(listener));
    Rig { urls, client: StreamClient::new(sessions.clone()), sessions }
}

impl Rig {
    async fn end(self) {
        self.sessions.stop.cancel();
        self.sessions.tasks.close();
        tokio::time::timeout(Duration::from_secs(10), self.sessions.tasks.wait()).await.expect("all sessions end");
    }
}

async fn all(stream: Option<Box<dyn AsyncRead + std::marker::Send + Unpin>>) -> String {
    let mut text = String::new();
    stream.unwrap().read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn a_command_behind_a_url_is_as_one_at_hand() {
    let rig = rig().await;
    let options = ExecOptions { stdin: true, stdout: true, stderr: true, ..ExecOptions::default() };
    let url = rig.urls.exec("c", &["echo".into()], options).unwrap();
    let stream = rig.client.open(&url, options).await.unwrap();
    let long = "abc".repeat(50_000);
    let mut stdin = stream.stdin.unwrap();
    let writing = async {
        stdin.write_all(long.as_bytes()).await.unwrap();
        stdin.shutdown().await.unwrap();
    };
    let (out, err, (), code) = tokio::join!(all(stream.stdout), all(stream.stderr), writing, stream.exit);
    assert!(out == long && err == long.to_uppercase());
    assert_eq!(code.unwrap(), 150_000);
    assert!(rig.client.open(&url, options).await.is_err(), "a URL is good once");
    rig.end().await;
}

#[tokio::test]
async fn a_terminal_learns_its_size() {
    let rig = rig().await;
    let options = ExecOptions { tty: true, stdin: true, stdout: true, stderr: false };
    let url = rig.urls.attach("c", options).unwrap();
    let mut stream = rig.client.open(&url, options).await.unwrap();
    stream.resize.as_ref().unwrap().send(TerminalSize { width: 80, height: 24 }).await.unwrap();
    drop(stream.stdin.take());
    let (out, code) = tokio::join!(all(stream.stdout), stream.exit);
    assert_eq!((out.as_str(), code.unwrap()), ("80x24", 0), "the exit of an attach is not the container's");
    rig.end().await;
}

#[tokio::test]
async fn connections_to_ports_are_carried_with_their_ends() {
    let rig = rig().await;
    let url = rig.urls.port_forward("s").unwrap();
    let mut connection = rig.client.port_forward(&url, 80).await.unwrap();
    connection.write_all(b"hello").await.unwrap();
    connection.shutdown().await.unwrap();
    let mut text = String::new();
    connection.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "port 80: hello");
    rig.end().await;
}

#[tokio::test]
async fn a_forwarded_connection_ends_with_its_client_whatever_the_far_end_does() {
    let (near, _far) = tokio::io::duplex(1 << 16);
    let (ours, theirs) = tokio::io::duplex(100);
    let hung_up = CancellationToken::new();
    let guard = hung_up.clone().drop_guard();
    let forwarding = forward(near, 80, theirs, hung_up);
    drop(Forwarded { stream: ours, _guard: guard });
    tokio::time::timeout(std::time::Duration::from_secs(20), forwarding).await.unwrap();
}

#[test]
fn the_status_of_a_command_is_understood() {
    let text = |text: &str| exit(text.as_bytes()).map_err(|e| e.to_string());
    assert_eq!(text(""), Ok(0));
    assert_eq!(text(r#"{"status":"Success"}"#), Ok(0));
    let failed = r#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#;
    assert_eq!(text(failed), Ok(7));
    assert_eq!(text(r#"{"status":"Failure","reason":"InternalError","message":"no such command"}"#), Err("no such command".into()));
    assert!(text("x").is_err());
}

type Answer<T> = CriResult<T>;

fn none<T>() -> Answer<T> {
    Err(CriError::Unimplemented("not of this runtime".into()))
}

#[async_trait]
impl RuntimeService for Echo {
    async fn exec(&self, _: &str, _: &[String], options: ExecOptions) -> Answer<ContainerStream> {
        Ok(Self::stream(options))
    }
    async fn attach(&self, _: &str, options: ExecOptions) -> Answer<ContainerStream> {
        Ok(Self::stream(options))
    }
    async fn port_forward(&self, _: &str, port: u16) -> Answer<Box<dyn Duplex>> {
        let (ours, mut theirs) = tokio::io::duplex(100);
        let mut text = format!("port {port}: ");
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            theirs.read_to_string(&mut text).await.unwrap();
            theirs.write_all(text.as_bytes()).await.unwrap();
        });
        tasks.detach_all();
        Ok(Box::new(ours))
    }
    async fn version(&self) -> Answer<VersionResponse> {
        none()
    }
    async fn status(&self) -> Answer<RuntimeStatus> {
        none()
    }
    async fn update_runtime_config(&self, _: &RuntimeConfig) -> Answer<()> {
        none()
    }
    async fn run_pod_sandbox(&self, _: &PodSandboxConfig, _: &str) -> Answer<String> {
        none()
    }
    async fn stop_pod_sandbox(&self, _: &str) -> Answer<()> {
        none()
    }
    async fn remove_pod_sandbox(&self, _: &str) -> Answer<()> {
        none()
    }
    async fn pod_sandbox_status(&self, _: &str) -> Answer<PodSandboxStatus> {
        none()
    }
    async fn list_pod_sandbox(&self, _: &PodSandboxFilter) -> Answer<Vec<PodSandbox>> {
        none()
    }
    async fn update_pod_sandbox_resources(
        &self,
        _: &str,
        _: Option<&LinuxContainerResources>,
        _: Option<&LinuxContainerResources>,
    ) -> Answer<()> {
        none()
    }
    async fn create_container(&self, _: &str, _: &ContainerConfig, _: &PodSandboxConfig) -> Answer<String> {
        none()
    }
    async fn start_container(&self, _: &str) -> Answer<()> {
        none()
    }
    async fn stop_container(&self, _: &str, _: Duration) -> Answer<()> {
        none()
    }
    async fn remove_container(&self, _: &str) -> Answer<()> {
        none()
    }
    async fn list_containers(&self, _: &ContainerFilter) -> Answer<Vec<Container>> {
        none()
    }
    async fn container_status(&self, _: &str) -> Answer<ContainerStatus> {
        none()
    }
    async fn update_container_resources(&self, _: &str, _: &LinuxContainerResources) -> Answer<()> {
        none()
    }
    async fn reopen_container_log(&self, _: &str) -> Answer<()> {
        none()
    }
    async fn exec_sync(&self, _: &str, _: &[String], _: Option<Duration>) -> Answer<ExecSyncResponse> {
        none()
    }
    async fn container_stats(&self, _: &str) -> Answer<ContainerStats> {
        none()
    }
    async fn list_container_stats(&self, _: &ContainerStatsFilter) -> Answer<Vec<ContainerStats>> {
        none()
    }
    async fn pod_sandbox_stats(&self, _: &str) -> Answer<PodSandboxStats> {
        none()
    }
    async fn list_pod_sandbox_stats(&self, _: &PodSandboxStatsFilter) -> Answer<Vec<PodSandboxStats>> {
        none()
    }
    async fn events(&self) -> Answer<ContainerEvents> {
        none()
    }
}
