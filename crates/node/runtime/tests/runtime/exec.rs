//! Processes inside containers, attaching, and forwarded ports.

use std::time::Duration;

use fram_cri::*;
use fram_runtime::Runtime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::*;

async fn sleeping(node: &Node, runtime: &Runtime) -> (String, String) {
    let sandbox = node.sandbox(runtime, "web").await;
    let id = start(runtime, &sandbox, &shell("main", "sleep 1000")).await;
    (sandbox, id)
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

const ALL: ExecOptions = ExecOptions { tty: false, stdin: true, stdout: true, stderr: true };

async fn read_all(stream: Option<Box<dyn tokio::io::AsyncRead + Send + Unpin>>) -> String {
    let mut text = String::new();
    tokio::time::timeout(LONG, stream.unwrap().read_to_string(&mut text)).await.unwrap().unwrap();
    text
}

#[tokio::test]
async fn a_command_gives_its_output_and_exit_code() {
    let node = Node::new();
    let runtime = node.open().await;
    let (sandbox, id) = sleeping(&node, &runtime).await;
    let script = vec!["sh".to_owned(), "-c".to_owned(), "echo out; echo err >&2; exit 5".to_owned()];
    let answer = runtime.exec_sync(&id, &script, Some(LONG)).await.unwrap();
    assert_eq!((answer.stdout.as_slice(), answer.stderr.as_slice(), answer.exit_code), (&b"out\n"[..], &b"err\n"[..], 5));
    let missing = runtime.exec_sync(&id, &["/no/such".into()], Some(LONG)).await.unwrap_err();
    assert!(matches!(&missing, CriError::ContainerCannotRun(message) if message.contains("/no/such")), "{missing}");
    let killed = runtime.exec_sync(&id, &words("sh -c kill\t-9\t$$"), Some(LONG)).await.unwrap();
    assert_eq!(killed.exit_code, 137);
    // The privileges are those of the container.
    let status = runtime.exec_sync(&id, &words("grep -E CapEff|Seccomp: /proc/self/status"), Some(LONG)).await.unwrap();
    assert_eq!(String::from_utf8(status.stdout).unwrap(), "CapEff:\t00000000a80425fb\nSeccomp:\t2\n");
    // So are the cgroups, the environment and the directory.
    let same = runtime.exec_sync(&id, &words("cmp /proc/1/cgroup /proc/self/cgroup"), Some(LONG)).await.unwrap();
    assert_eq!(same.exit_code, 0, "{}", String::from_utf8_lossy(&same.stdout));
    let environment = String::from_utf8(runtime.exec_sync(&id, &["env".into()], Some(LONG)).await.unwrap().stdout).unwrap();
    let mut names: Vec<&str> = environment.lines().collect();
    names.sort_unstable();
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(names, ["HOME=/root", "HOSTNAME=web", path]);
    assert_eq!(runtime.exec_sync(&id, &words("pwd"), Some(LONG)).await.unwrap().stdout, b"/\n");
    runtime.stop_container(&id, Duration::ZERO).await.unwrap();
    assert!(matches!(runtime.exec_sync(&id, &script, None).await, Err(CriError::FailedPrecondition(_))));
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    node.assert_nothing_is_left();
}

#[tokio::test]
async fn a_command_that_takes_too_long_is_killed() {
    let node = Node::new();
    let runtime = node.open().await;
    let (sandbox, id) = sleeping(&node, &runtime).await;
    let slow = runtime.exec_sync(&id, &words("sleep 4321"), Some(Duration::from_millis(200))).await;
    assert!(matches!(slow, Err(CriError::DeadlineExceeded(_))));
    // The kill goes by the closed connection, which the shim may see after the next request.
    let gone = async {
        loop {
            let ps = runtime.exec_sync(&id, &words("ps -o args"), Some(LONG)).await.unwrap();
            if !String::from_utf8(ps.stdout).unwrap().contains("sleep 4321") {
                return;
            }
        }
    };
    tokio::time::timeout(LONG, gone).await.unwrap();
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    node.assert_nothing_is_left();
}

#[tokio::test]
async fn standard_input_reaches_a_command_until_it_is_closed() {
    let node = Node::new();
    let runtime = node.open().await;
    let (sandbox, id) = sleeping(&node, &runtime).await;
    let mut stream = runtime.exec(&id, &words("sort"), ALL).await.unwrap();
    let mut stdin = stream.stdin.take().unwrap();
    stdin.write_all(b"b\na\n").await.unwrap();
    stdin.shutdown().await.unwrap();
    drop(stdin);
    assert_eq!(read_all(stream.stdout.take()).await, "a\nb\n");
    assert_eq!(stream.exit.await.unwrap(), 0);

    // More than any pipe holds, in both directions at once.
    let mut stream = runtime.exec(&id, &words("cat"), ALL).await.unwrap();
    let mut stdin = stream.stdin.take().unwrap();
    let data = vec![b'x'; 3 << 20];
    let writing = async move {
        stdin.write_all(&data).await.unwrap();
        drop(stdin);
    };
    let (text, ()) = tokio::join!(read_all(stream.stdout.take()), writing);
    assert_eq!(text.len(), 3 << 20);
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    node.assert_nothing_is_left();
}

#[tokio::test]
async fn a_terminal_is_one_with_a_size_that_follows() {
    let node = Node::new();
    let runtime = node.open().await;
    let (sandbox, id) = sleeping(&node, &runtime).await;
    let options = ExecOptions { tty: true, stdin: true, stdout: true, stderr: false };
    let script = vec!["sh".to_owned(), "-c".to_owned(), "tty; read x; stty size; exit 4".to_owned()];
    let mut stream = runtime.exec(&id, &script, options).await.unwrap();
    let mut stdout = stream.stdout.take().unwrap();
    let mut first = [0; 10];
    tokio::time::timeout(LONG, stdout.read_exact(&mut first)).await.unwrap().unwrap();
    assert_eq!(&first, b"/dev/pts/0");
    stream.resize.as_ref().unwrap().send(TerminalSize { width: 99, height: 33 }).await.unwrap();
    // The size is set by a task of its own; the answer to the next line must come after it.
    tokio::task::yield_now().await;
    stream.stdin.as_mut().unwrap().write_all(b"go\n").await.unwrap();
    let rest = read_all(Some(stdout)).await;
    assert!(rest.contains("33 99"), "{rest:?}");
    assert_eq!(stream.exit.await.unwrap(), 4);
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    node.assert_nothing_is_left();
}

#[tokio::test]
async fn several_can_attach_and_the_log_has_it_too() {
    let node = Node::new();
    let runtime = node.open().await;
    let sandbox = node.sandbox(&runtime, "web").await;
    let mut config = shell("main", "while read line; do echo got $line; echo err $line >&2; done; echo end; exit 6");
    (config.stdin, config.stdin_once) = (true, true);
    let id = start(&runtime, &sandbox, &config).await;
    let outputs = ExecOptions { stdin: false, ..ALL };
    let mut watching = runtime.attach(&id, outputs).await.unwrap();
    let mut talking = runtime.attach(&id, ALL).await.unwrap();
    let wrong = runtime.attach(&id, ExecOptions { tty: true, ..ALL }).await;
    assert!(matches!(wrong, Err(CriError::InvalidArgument(_))));
    talking.stdin.as_mut().unwrap().write_all(b"one\n").await.unwrap();
    let mut first = [0; 8];
    tokio::time::timeout(LONG, talking.stdout.as_mut().unwrap().read_exact(&mut first)).await.unwrap().unwrap();
    assert_eq!(&first, b"got one\n");
    // With stdin_once the end of the attach that talks is the end of the container's input.
    drop(talking);
    assert_eq!(read_all(watching.stdout.take()).await, "got one\nend\n");
    assert_eq!(read_all(watching.stderr.take()).await, "err one\n");
    assert_eq!(watching.exit.await.unwrap(), 6);
    assert_eq!(ended(&runtime, &id).await.exit_code, 6);
    assert_eq!(node.log("web", "main.log").iter().filter(|line| line.contains("stdout")).count(), 2);
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    node.assert_nothing_is_left();
}

#[tokio::test]
async fn the_end_of_an_attach_s_input_is_that_of_a_container_that_takes_it_once_and_else_of_the_attach() {
    let node = Node::new();
    let runtime = node.open().await;
    let sandbox = node.sandbox(&runtime, "web").await;
    for once in [true, false] {
        let mut config = shell(if once { "once" } else { "often" }, "cat; echo end");
        (config.stdin, config.stdin_once) = (true, once);
        let id = start(&runtime, &sandbox, &config).await;
        let mut stream = runtime.attach(&id, ALL).await.unwrap();
        stream.stdin.as_mut().unwrap().write_all(b"one\n").await.unwrap();
        let mut first = [0; 4];
        tokio::time::timeout(LONG, stream.stdout.as_mut().unwrap().read_exact(&mut first)).await.unwrap().unwrap();
        drop(stream.stdin.take());
        assert_eq!(read_all(stream.stdout.take()).await, if once { "end\n" } else { "" });
        assert_eq!(tokio::time::timeout(LONG, stream.exit).await.unwrap().unwrap(), 0);
        let state = if once { ContainerState::Exited } else { ContainerState::Running };
        let status = if once { ended(&runtime, &id).await } else { runtime.container_status(&id).await.unwrap() };
        assert_eq!(status.state, state);
    }
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    node.assert_nothing_is_left();
}

#[tokio::test]
async fn a_container_with_a_terminal_can_be_attached_and_detached() {
    let node = Node::new();
    let runtime = node.open().await;
    let sandbox = node.sandbox(&runtime, "web").await;
    let mut config = shell("main", "while read line; do echo got $line; done");
    (config.stdin, config.tty) = (true, true);
    let id = start(&runtime, &sandbox, &config).await;
    let options = ExecOptions { tty: true, stdin: true, stdout: true, stderr: false };
    for word in ["one", "two"] {
        let mut stream = runtime.attach(&id, options).await.unwrap();
        stream.stdin.as_mut().unwrap().write_all(format!("{word}\n").as_bytes()).await.unwrap();
        let mut seen = String::new();
        while !seen.contains(&format!("got {word}")) {
            let mut buffer = [0; 64];
            let read = stream.stdout.as_mut().unwrap().read(&mut buffer);
            let length = tokio::time::timeout(LONG, read).await.unwrap().unwrap();
            seen.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
        }
    }
    assert_eq!(runtime.container_status(&id).await.unwrap().state, ContainerState::Running);
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    node.assert_nothing_is_left();
}

#[tokio::test]
async fn a_port_on_the_sandbox_s_loopback_is_forwarded() {
    let node = Node::new();
    let runtime = node.open().await;
    let sandbox = node.sandbox(&runtime, "web").await;
    let id = start(&runtime, &sandbox, &shell("main", "exec nc -ll -p 8080 -e cat")).await;
    // It listens before it can be asked whether it does.
    let listening = "until netstat -ltn | grep -q :8080; do sleep 0.01; done".to_owned();
    runtime.exec_sync(&id, &["sh".into(), "-c".into(), listening], Some(LONG)).await.unwrap();
    let mut connection = runtime.port_forward(&sandbox, 8080).await.unwrap();
    connection.write_all(b"ping").await.unwrap();
    let mut answer = [0; 4];
    tokio::time::timeout(LONG, connection.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"ping");
    let refused = runtime.port_forward(&sandbox, 8081).await.map(drop);
    assert!(matches!(refused, Err(CriError::FailedPrecondition(_))), "{refused:?}");
    drop(connection);
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    node.assert_nothing_is_left();
}
