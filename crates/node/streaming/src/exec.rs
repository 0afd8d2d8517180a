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

use crate::answer::{Answer, Body, refuse};
use crate::query::Query;
use crate::{Sessions, spdy, websocket};

const CHUNK: usize = 32 << 10;
/// Messages on their way in each direction.
const DEPTH: usize = 8;

/// Channels as the WebSocket protocols number them.
pub(crate) const STDIN: u8 = 0;
pub(crate) const STDOUT: u8 = 1;
pub(crate) const STDERR: u8 = 2;
pub(crate) const ERROR: u8 = 3;
pub(crate) const RESIZE: u8 = 4;

/// Opens the process, when its client is there.
pub type Open = Pin<Box<dyn Future<Output = Result<ContainerStream, CriError>> + Send>>;

/// What comes from the client.
#[derive(Debug)]
pub(crate) enum Input {
    Data(u8, Bytes),
    /// Nothing more comes on this channel.
    Closed(u8),
}

/// A client's side of a session. The output's end closes the session; the input's end means that the client is gone.
pub(crate) struct Session {
    pub(crate) input: mpsc::Receiver<Input>,
    pub(crate) output: mpsc::Sender<(u8, Bytes)>,
    /// The client reads a Status on the error channel (version 4 and later), else plain text.
    pub(crate) status: bool,
}

impl Session {
    /// A session with its other ends: where input is put in and output taken out.
    pub(crate) fn pair(status: bool) -> (Self, mpsc::Sender<Input>, mpsc::Receiver<(u8, Bytes)>) {
        let (input_sender, input) = mpsc::channel(DEPTH);
        let (output, output_receiver) = mpsc::channel(DEPTH);
        (Self { input, output, status }, input_sender, output_receiver)
    }
}

/// Answers with the protocol that the client speaks; `what` names the operation in errors.
pub fn accept(sessions: &Sessions, request: Request<Incoming>, options: ExecOptions, open: Open, what: &'static str) -> Answer {
    match spdy::is_spdy(request.headers()) {
        true => spdy::accept_exec(sessions, request, options, open, what),
        false => websocket::accept(sessions, request, options, open, what),
    }
}

/// An attach, of which how the container ends is not its client's failure.
pub async fn attached(attach: impl Future<Output = Result<ContainerStream, CriError>>) -> Result<ContainerStream, CriError> {
    let stream = attach.await?;
    let exit = stream.exit;
    Ok(ContainerStream { exit: Box::pin(async move { exit.await.map(|_| 0) }), ..stream })
}

/// See remotecommand.NewOptions.
pub fn options(query: &Query) -> Result<ExecOptions, Box<http::Response<Body>>> {
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

/// Opens the process and carries its streams until it ends or the client goes. `what` names the operation in errors.
pub(crate) async fn run(mut session: Session, open: Open, what: &str) {
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
