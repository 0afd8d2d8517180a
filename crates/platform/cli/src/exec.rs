//! `fram exec`: a command in a container, with the user's terminal where asked, over a WebSocket (v5.channel.k8s.io, KEP-4006).

use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use fram_client::remote::{Query, path};
use fram_machinery::{Status, Value, json, meta, object};
use futures_util::{SinkExt, StreamExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use crate::access::{Access, Socket};
use crate::error::{CliError, Result};
use crate::pods;
use crate::print::note;
use crate::terminal::{self, Raw};

#[derive(clap::Args, Debug, Clone)]
pub struct Exec {
    /// A pod, or TYPE/NAME of something that has pods.
    #[arg(value_name = "POD|TYPE/NAME")]
    target: String,
    /// The container; else the pod's first.
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Pass standard input on.
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Give the command a terminal.
    #[arg(short, long)]
    tty: bool,
    /// Only what the command itself prints.
    #[arg(short, long)]
    quiet: bool,
    /// The command with its arguments, after `--`.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

const PROTOCOL: &str = "v5.channel.k8s.io";
/// Channels as the protocol numbers them.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;
const CHUNK: usize = 32 << 10;

pub(crate) async fn run(access: &Access, exec: &Exec) -> Result<()> {
    let (_, pod) = pods::usable_pod(access, &exec.target, pods::Use::Exec(exec.container.as_deref())).await?;
    let container = match &exec.container {
        Some(name) => name.clone(),
        None => {
            let (name, tell) = pods::default_container(&pod)?;
            if tell && !exec.quiet {
                note(&pods::defaulted(&pod, &name));
            }
            name
        }
    };
    let tty = exec.tty && exec.stdin && terminal::is_terminal();
    if exec.tty && !tty && !exec.quiet {
        note("Unable to use a TTY - input is not a terminal or the right kind of file");
    }
    let path = session_path(access, &pod, &container, exec, tty).await?;
    let socket = access.websocket(&path, PROTOCOL).await?;
    let raw = match tty {
        true => Some(Raw::enter().map_err(|e| CliError::failed(format!("cannot use the terminal: {e}")))?),
        false => None,
    };
    let outcome = session(socket, exec.stdin, tty, &mut print).await;
    // The error message needs a terminal that is as it was.
    drop(raw);
    outcome
}

async fn session_path(access: &Access, pod: &Arc<Value>, container: &str, exec: &Exec, tty: bool) -> Result<String> {
    let flag = |on: bool| if on { "true" } else { "" };
    // A terminal has one output.
    let options = [("container", container), ("stdin", flag(exec.stdin)), ("stdout", "true"), ("stderr", flag(!tty)), ("tty", flag(tty))];
    exec_path(access, pod, exec.command.iter().map(String::as_str), &options).await
}

async fn exec_path(access: &Access, pod: &Value, command: impl Iterator<Item = &str>, options: &[(&str, &str)]) -> Result<String> {
    let mut query = Query::default();
    // A word of a command may be empty.
    command.for_each(|word| query.put("command", word));
    options.iter().for_each(|(name, value)| query.add(name, value));
    let pods = access.resource_type("pods").await?.resource();
    Ok(format!("{}{query}", path(&pods, meta::namespace(pod), meta::name(pod), "exec")))
}

fn framed(channel: u8, bytes: &[u8]) -> Message {
    Message::binary([&[channel], bytes].concat())
}

/// What the user does, as messages.
async fn send_input(sender: mpsc::Sender<Message>, stdin: bool) {
    if !stdin {
        // Nothing will come: the command's input stays closed, since the query did not ask for it.
        return std::future::pending().await;
    }
    let mut reading = JoinSet::new();
    reading.spawn_blocking(move || {
        let (mut input, mut chunk) = (std::io::stdin().lock(), vec![0; CHUNK]);
        while let Ok(read @ 1..) = input.read(&mut chunk) {
            if sender.blocking_send(framed(STDIN, &chunk[..read])).is_err() {
                return;
            }
        }
        let _ = sender.blocking_send(Message::binary(vec![CLOSE, STDIN]));
    });
    reading.join_next().await;
    std::future::pending().await
}

/// The terminal's size, now and whenever it changes.
async fn send_sizes(sender: mpsc::Sender<Message>, tty: bool) {
    if !tty {
        return std::future::pending().await;
    }
    let Ok(mut changes) = signal(SignalKind::window_change()) else { return std::future::pending().await };
    loop {
        if let Some((width, height)) = terminal::size() {
            let size = object!({ "Width": (i64::from(width)), "Height": (i64::from(height)) });
            if sender.send(framed(RESIZE, json::to_string(&size).as_bytes())).await.is_err() {
                return;
            }
        }
        changes.recv().await;
    }
}

/// Runs a command without input; gives what it printed.
pub async fn capture(access: &Access, pod: &Value, container: &str, command: &[&str]) -> Result<String> {
    let options = [("container", container), ("stdout", "true"), ("stderr", "true")];
    let path = exec_path(access, pod, command.iter().copied(), &options).await?;
    let socket = access.websocket(&path, PROTOCOL).await?;
    let (mut printed, mut complaint) = (Vec::new(), Vec::new());
    let mut keep = |channel, data: &[u8]| {
        if channel == STDERR {
            complaint.extend_from_slice(data)
        } else {
            printed.extend_from_slice(data)
        }
        Ok(())
    };
    session(socket, false, false, &mut keep).await.map_err(|error| match String::from_utf8_lossy(&complaint).trim() {
        "" => error,
        words => CliError::failed(words),
    })?;
    Ok(String::from_utf8_lossy(&printed).into_owned())
}

/// Where a command's words go, by channel.
type Sink<'a> = &'a mut (dyn FnMut(u8, &[u8]) -> Result<()> + Send);

fn print(channel: u8, data: &[u8]) -> Result<()> {
    if channel == STDERR {
        use std::io::Write;
        // Where standard error is closed, the command's words have nowhere to go.
        let _ = std::io::stderr().write_all(data);
        return Ok(());
    }
    crate::print::out(data)
}

async fn session(socket: Socket, stdin: bool, tty: bool, output: Sink<'_>) -> Result<()> {
    let (mut sink, mut stream) = socket.split();
    let (sender, mut messages) = mpsc::channel::<Message>(8);
    let writing = async {
        while let Some(message) = messages.recv().await {
            if sink.send(message).await.is_err() {
                break;
            }
        }
        // The server's last words may still be on their way.
        std::future::pending::<()>().await
    };
    let reading = async {
        while let Some(Ok(message)) = stream.next().await {
            let Message::Binary(bytes) = message else { continue };
            if let Some(outcome) = take(&bytes, output)? {
                return outcome;
            }
        }
        Err(CliError::failed("the connection to the container was lost"))
    };
    tokio::select! {
        biased;
        outcome = reading => outcome,
        () = writing => Ok(()),
        () = send_sizes(sender.clone(), tty) => Ok(()),
        () = send_input(sender, stdin) => Ok(()),
    }
}

/// Hands on what the command printed; Some at its end.
fn take(bytes: &Bytes, output: Sink<'_>) -> Result<Option<Result<()>>> {
    let Some((channel, data)) = bytes.split_first() else { return Ok(None) };
    match *channel {
        STDOUT | STDERR => output(*channel, data)?,
        ERROR => return Ok(end(data)),
        _ => {}
    }
    Ok(None)
}

/// How the command ended, as the error channel says it.
fn end(data: &[u8]) -> Option<Result<()>> {
    if data.is_empty() {
        return None;
    }
    let Ok(status) = json::from_slice(data) else {
        return Some(Err(CliError::failed(String::from_utf8_lossy(data).into_owned())));
    };
    if status.str_at(&["status"]) == "Success" {
        return Some(Ok(()));
    }
    let status = Status::from_object(&status);
    let code = status.causes.iter().find(|c| c.reason == "ExitCode").and_then(|c| c.message.parse::<u8>().ok());
    Some(Err(code.map_or_else(|| CliError::failed(status.message.clone()), CliError::Exit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_channel_tells_the_exit_code() {
        let ended = |text: &str| end(text.as_bytes()).map(|o| o.map_err(|e| (e.code(), e.to_string())));
        assert_eq!(ended(""), None);
        assert_eq!(ended(r#"{"status":"Success"}"#), Some(Ok(())));
        let failed = r#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;
        assert_eq!(ended(failed), Some(Err((3, "command terminated with exit code 3".into()))));
        let broken = ended(r#"{"status":"Failure","message":"no such program"}"#);
        assert_eq!(broken, Some(Err((1, "error: no such program".into()))));
    }
}
