//! Processes inside running containers, attaching to the first one, and connections into the sandbox's network.

use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use fram_cri::{ContainerState, ContainerStream, CriError, CriResult, Duplex, ExecOptions, ExecSyncResponse, TerminalSize};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;

use super::Inner;
use super::streams::{self, Descriptor, failed};
use crate::client::{self, Client, ClientError};
use crate::durable;
use crate::protocol::{Exec, Request, Response, StartContainer};
use crate::records::START_FILE;
use crate::state::{Container, Sandbox};

/// CVE-2022-1708: a command must not fill the kubelet's memory.
const MAX_OUTPUT: usize = 16 << 20;
/// How long the output may stay open after the command itself has ended: its children may have inherited it.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

fn running(inner: &Inner, id: &str) -> CriResult<(Arc<Container>, Arc<Sandbox>)> {
    let container = inner.container(id)?;
    if container.state() != ContainerState::Running {
        return Err(CriError::FailedPrecondition(format!("container {id:?} is not running")));
    }
    let sandbox = inner.sandbox(&container.sandbox_id)?;
    Ok((container, sandbox))
}

pub(super) async fn exec(inner: &Arc<Inner>, id: &str, cmd: &[String], options: ExecOptions) -> CriResult<ContainerStream> {
    if cmd.is_empty() {
        return Err(CriError::InvalidArgument("no command specified".into()));
    }
    let (container, sandbox) = running(inner, id)?;
    // A process that joins gets the privileges and the filter that the first one got.
    let first: StartContainer = durable::read_json(&container.dir.join(START_FILE))?
        .ok_or_else(|| CriError::Internal(format!("container {id:?} has lost its {START_FILE}")))?;
    let request = Exec {
        container_id: id.to_owned(),
        args: cmd.to_vec(),
        tty: options.tty,
        stdin: options.stdin,
        stdout: options.stdout,
        stderr: options.stderr,
        privileges: first.privileges,
        seccomp: first.seccomp,
        ids: first.ids,
        runtime: first.runtime,
    };
    let mut stream = empty_stream();
    let mut theirs = Vec::new();
    if !options.tty {
        pipes(&mut stream, &mut theirs, options)?;
    }
    let mut client = Client::connect(&sandbox.dir).await?;
    match client.ask(&Request::Exec(Box::new(request)), &theirs).await? {
        Response::ExecStarted { .. } => {}
        other => return Err(client::unexpected(&other).into()),
    }
    drop(theirs);
    if options.tty {
        let terminal = client.take_fd().ok_or_else(|| CriError::Internal("the shim gave no terminal".into()))?;
        let terminal = Descriptor::new(terminal)?;
        stream.resize = Some(resizer(inner, terminal.clone()));
        stream.stdin = options.stdin.then(|| Box::new(terminal.clone()) as _);
        stream.stdout = Some(Box::new(terminal));
    }
    stream.exit = Box::pin(exit(client));
    Ok(stream)
}

fn empty_stream() -> ContainerStream {
    let exit = Box::pin(async { Err(CriError::Internal("the stream was not opened".into())) });
    ContainerStream { stdin: None, stdout: None, stderr: None, resize: None, exit }
}

fn pipes(stream: &mut ContainerStream, theirs: &mut Vec<OwnedFd>, options: ExecOptions) -> CriResult<()> {
    if options.stdin {
        let (ours, end) = streams::input()?;
        stream.stdin = Some(Box::new(ours));
        theirs.push(end);
    }
    for (wanted, slot) in [(options.stdout, &mut stream.stdout), (options.stderr, &mut stream.stderr)] {
        if wanted {
            let (ours, end) = streams::output()?;
            *slot = Some(Box::new(ours));
            theirs.push(end);
        }
    }
    Ok(())
}

/// Dropping this closes the connection, which ends the process or detaches.
async fn exit(mut client: Client) -> CriResult<i32> {
    match client.receive().await {
        Ok(Response::Exited { code }) => Ok(code),
        Ok(other) => Err(client::unexpected(&other).into()),
        Err(error) => Err(error.into()),
    }
}

fn resizer(inner: &Arc<Inner>, terminal: Descriptor) -> mpsc::Sender<TerminalSize> {
    let (sender, mut receiver) = mpsc::channel(4);
    let cancel = inner.cancel.clone();
    inner.tasks.spawn(async move {
        while let Some(size) = cancel.run_until_cancelled(receiver.recv()).await.flatten() {
            // A terminal that is gone has no size.
            let _ = terminal.resize(size);
        }
    });
    sender
}

pub(super) async fn exec_sync(inner: &Arc<Inner>, id: &str, cmd: &[String], timeout: Option<Duration>) -> CriResult<ExecSyncResponse> {
    let options = ExecOptions { stdout: true, stderr: true, ..ExecOptions::default() };
    let run = async {
        let stream = exec(inner, id, cmd, options).await?;
        collect(stream).await
    };
    match timeout.filter(|timeout| !timeout.is_zero()) {
        None => run.await,
        // Giving up drops the stream, and that kills the process.
        Some(timeout) => tokio::time::timeout(timeout, run)
            .await
            .unwrap_or_else(|_| Err(CriError::DeadlineExceeded(format!("command {cmd:?} timed out after {} s", timeout.as_secs_f64())))),
    }
}

async fn collect(stream: ContainerStream) -> CriResult<ExecSyncResponse> {
    let ContainerStream { stdout, stderr, exit, .. } = stream;
    let mut response = ExecSyncResponse::default();
    let (out, err) = (&mut response.stdout, &mut response.stderr);
    let mut outputs = Box::pin(async { tokio::join!(read_capped(stdout, out), read_capped(stderr, err)) });
    tokio::pin!(exit);
    let mut drained = false;
    let code = loop {
        tokio::select! {
            code = &mut exit => break code?,
            _ = &mut outputs, if !drained => drained = true,
        }
    };
    if !drained {
        // What was read until then counts, even if somebody still holds the output open.
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, &mut outputs).await;
    }
    drop(outputs);
    response.exit_code = code;
    Ok(response)
}

/// Reads to the end and keeps the beginning.
async fn read_capped(stream: Option<Box<dyn AsyncRead + Send + Unpin>>, kept: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        let room = MAX_OUTPUT.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..length.min(room)]);
    }
}

pub(super) async fn attach(inner: &Arc<Inner>, id: &str, options: ExecOptions) -> CriResult<ContainerStream> {
    let (container, sandbox) = running(inner, id)?;
    let (tty, once) = {
        let config = &container.record.lock().config;
        (config.tty, config.stdin_once && !config.tty)
    };
    if tty != options.tty {
        let wrong = if tty { "has a terminal" } else { "has no terminal" };
        return Err(CriError::InvalidArgument(format!("container {id:?} {wrong}")));
    }
    let outputs = ExecOptions { stdin: false, stderr: options.stderr && !tty, ..options };
    let mut stream = empty_stream();
    let mut theirs = Vec::new();
    pipes(&mut stream, &mut theirs, outputs)?;
    let request = Request::Attach { container_id: id.to_owned(), stdin: options.stdin, stdout: outputs.stdout, stderr: outputs.stderr };
    let mut client = Client::connect(&sandbox.dir).await?;
    match client.ask(&request, &theirs).await? {
        Response::Attached => {}
        other => return Err(client::unexpected(&other).into()),
    }
    if let Some(input) = client.take_fd() {
        let input = Descriptor::new(input)?;
        stream.resize = tty.then(|| resizer(inner, input.clone()));
        if options.stdin {
            let end = client.ends_with_input(once).map_err(failed)?;
            stream.stdin = Some(Box::new(streams::Input { input, _end: end }));
        }
    }
    let detaches = options.stdin && !once;
    stream.exit = Box::pin(async move {
        match client.receive().await {
            // The client's input has ended, and the client with it.
            Err(ClientError::Closed) if detaches => Ok(0),
            Ok(Response::Exited { code }) => Ok(code),
            Ok(other) => Err(client::unexpected(&other).into()),
            Err(error) => Err(error.into()),
        }
    });
    Ok(stream)
}

pub(super) async fn port_forward(inner: &Arc<Inner>, id: &str, port: u16) -> CriResult<Box<dyn Duplex>> {
    let sandbox = inner.sandbox(id)?;
    if !sandbox.is_ready() {
        return Err(CriError::FailedPrecondition(format!("pod sandbox {id:?} is not ready")));
    }
    let mut client = Client::connect(&sandbox.dir).await?;
    match client.ask(&Request::PortForward { port }, &[]).await? {
        Response::Connected => {}
        other => return Err(client::unexpected(&other).into()),
    }
    let missing = || ClientError::Unexpected("no socket".into());
    let socket = TcpStream::from(client.take_fd().ok_or_else(missing)?);
    socket.set_nonblocking(true).map_err(failed)?;
    let socket = tokio::net::TcpStream::from_std(socket).map_err(failed)?;
    // The shim does not wait for the connection to be complete.
    socket.writable().await.map_err(failed)?;
    match socket.take_error().map_err(failed)? {
        None => Ok(Box::new(socket)),
        Some(error) => Err(CriError::FailedPrecondition(format!("connect to port {port} in the sandbox: {error}"))),
    }
}
