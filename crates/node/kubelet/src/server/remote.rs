//! Exec and attach: joins the streams of a process with the channels of a client, whichever protocol carries them. See
//! upstream's staging/src/k8s.io/kubelet/pkg/cri/streaming/remotecommand.

use std::pin::Pin;

use bytes::Bytes;
use fram_cri::{ContainerStream, CriError, ExecOptions, TerminalSize};
use fram_machinery::{Status, Value, json, object};
use http::{Request, StatusCode};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::Kubelet;
use super::answer::{Answer, refuse};
use super::query::Query;
use super::websocket;
use crate::observed::Observed;
use crate::pod;

const CHUNK: usize = 32 << 10;

/// Channels as the WebSocket protocols number them.
pub(super) const STDIN: u8 = 0;
pub(super) const STDOUT: u8 = 1;
pub(super) const STDERR: u8 = 2;
pub(super) const ERROR: u8 = 3;
pub(super) const RESIZE: u8 = 4;

/// Opens the process, when its client is there.
pub(super) type Open = Pin<Box<dyn Future<Output = Result<ContainerStream, CriError>> + Send>>;

/// What comes from the client.
#[derive(Debug)]
pub(super) enum Input {
    Data(u8, Bytes),
    /// Nothing more comes on this channel.
    Closed(u8),
}

/// A client's side of a session. The output's end closes the session; the input's end means that the client is gone.
pub(super) struct Session {
    pub(super) input: mpsc::Receiver<Input>,
    pub(super) output: mpsc::Sender<(u8, Bytes)>,
    /// The client reads a Status on the error channel (version 4 and later), else plain text.
    pub(super) status: bool,
}

pub(super) async fn exec(kubelet: &Kubelet, key: &str, container: &str, query: &Query, request: Request<Incoming>) -> Answer {
    let command = query.all("command");
    if command.is_empty() {
        return Err(refuse(StatusCode::BAD_REQUEST, "you must specify at least 1 command for the container"));
    }
    let options = options(query)?;
    let id = running(kubelet, key, container).await?;
    let runtime = kubelet.ctx.runtime.clone();
    let open = async move { runtime.exec(&id, &command, options).await };
    websocket::accept(kubelet, request, options, Box::pin(open), "error executing command in container")
}

pub(super) async fn attach(kubelet: &Kubelet, key: &str, container: &str, query: &Query, request: Request<Incoming>) -> Answer {
    let pod = kubelet.pod_with(key, Some(container))?;
    let mut options = options(query)?;
    // The container's own setting counts, as upstream's container.TTY.
    options.tty = pod::find_container(&pod, container).and_then(|(_, c)| c.bool_at(&["tty"])) == Some(true);
    let id = running(kubelet, key, container).await?;
    let runtime = kubelet.ctx.runtime.clone();
    let open = async move {
        let stream = runtime.attach(&id, options).await?;
        // How the container ends is not the client's failure.
        let exit = stream.exit;
        Ok(ContainerStream { exit: Box::pin(async move { exit.await.map(|_| 0) }), ..stream })
    };
    websocket::accept(kubelet, request, options, Box::pin(open), "error attaching to container")
}

/// See remotecommand.NewOptions.
fn options(query: &Query) -> Result<ExecOptions, Box<http::Response<super::Body>>> {
    let tty = query.flag(&["tty"]);
    let options = ExecOptions {
        tty,
        stdin: query.flag(&["stdin", "input"]),
        stdout: query.flag(&["stdout", "output"]),
        stderr: query.flag(&["stderr", "error"]) && !tty,
    };
    match options.stdin || options.stdout || options.stderr {
        true => Ok(options),
        false => Err(refuse(StatusCode::BAD_REQUEST, "you must specify at least 1 of stdin, stdout, stderr")),
    }
}

/// The id of the container's running instance.
async fn running(kubelet: &Kubelet, key: &str, container: &str) -> Result<String, Box<http::Response<super::Body>>> {
    let pod = kubelet.pod_with(key, Some(container))?;
    let observed = Observed::read(&*kubelet.ctx.runtime, fram_machinery::meta::uid(&pod)).await;
    let observed = observed.map_err(|error| refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()))?;
    let running = observed.running().find(|c| c.metadata.name == container).map(|c| c.id.clone());
    running.ok_or_else(|| refuse(StatusCode::NOT_FOUND, &format!("container not found ({container:?})")))
}

/// Opens the process and carries its streams until it ends or the client goes. `what` names the operation in errors.
pub(super) async fn run(mut session: Session, open: Open, what: &str) {
    let outcome = match open.await {
        Ok(stream) => match carry(&mut session, stream).await {
            Some(exit) => exit,
            None => return,
        },
        Err(error) => Err(error),
    };
    let text = match (session.status, outcome) {
        (true, outcome) => json::to_string(&status(&outcome, what)),
        (false, Ok(0)) => return,
        (false, Ok(code)) => format!("command terminated with non-zero exit code: exit status {code}"),
        (false, Err(error)) => format!("{what}: {error}"),
    };
    let _ = session.output.send((ERROR, text.into())).await;
}

/// The exit of the process, or None where the client went first.
async fn carry(session: &mut Session, stream: ContainerStream) -> Option<Result<i32, CriError>> {
    let ContainerStream { stdin, stdout, stderr, resize, exit } = stream;
    let output = session.output.clone();
    let outputs = async {
        tokio::join!(pump(stdout, STDOUT, output.clone()), pump(stderr, STDERR, output.clone()));
        exit.await
    };
    let input = &mut session.input;
    let inputs = async move {
        let mut stdin = stdin;
        while let Some(message) = input.recv().await {
            match message {
                Input::Data(STDIN, bytes) => {
                    // A process that no longer reads may still write.
                    if let Some(writer) = &mut stdin
                        && (writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err())
                    {
                        stdin = None;
                    }
                }
                Input::Data(RESIZE, bytes) => {
                    if let (Some(resize), Some(size)) = (&resize, size(&bytes)) {
                        let _ = resize.send(size).await;
                    }
                }
                Input::Closed(STDIN) => {
                    if let Some(mut writer) = stdin.take() {
                        let _ = writer.shutdown().await;
                    }
                }
                Input::Data(..) | Input::Closed(_) => {}
            }
        }
    };
    tokio::select! {
        biased;
        exit = outputs => Some(exit),
        () = inputs => None,
    }
}

async fn pump(reader: Option<Box<dyn AsyncRead + Send + Unpin>>, channel: u8, output: mpsc::Sender<(u8, Bytes)>) {
    let Some(mut reader) = reader else { return };
    let mut chunk = vec![0; CHUNK];
    while let Ok(read @ 1..) = reader.read(&mut chunk).await {
        if output.send((channel, Bytes::copy_from_slice(&chunk[..read]))).await.is_err() {
            return;
        }
    }
}

fn size(bytes: &[u8]) -> Option<TerminalSize> {
    let value = json::from_slice(bytes).ok()?;
    let number = |key: &str| value.int_at(&[key]).and_then(|n| u16::try_from(n).ok());
    Some(TerminalSize { width: number("Width")?, height: number("Height")? })
}

/// What the error channel says at the end; see remotecommand.v4WriteStatusFunc.
fn status(outcome: &Result<i32, CriError>, what: &str) -> Value {
    match outcome {
        Ok(0) => object!({ "metadata": {}, "status": "Success" }),
        Ok(code) => object!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": (format!("command terminated with non-zero exit code: exit status {code}")),
            "details": { "causes": [{ "reason": "ExitCode", "message": (code.to_string()) }] }
        }),
        Err(error) => Status::internal(format!("{what}: {error}")).to_object(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_command_is_told_as_a_status() {
        assert_eq!(status(&Ok(0), "x").str_at(&["status"]), "Success");
        let failed = status(&Ok(42), "x");
        assert_eq!((failed.str_at(&["reason"]), failed.list_at(&["details", "causes"])[0].str_at(&["message"])), ("NonZeroExitCode", "42"));
        assert_eq!(status(&Err(CriError::Internal("no".into())), "x").str_at(&["message"]), "Internal error occurred: x: no");
    }
}
