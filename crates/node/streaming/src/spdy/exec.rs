//! Exec and attach over SPDY: one stream for each of stdin, stdout, stderr, the error status and the terminal's size.

use std::collections::HashMap;

use fram_cri::ExecOptions;
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::{DEPTH, Event, Send, carry, header_of, negotiate, unknown_protocol, upgrade};
use crate::Sessions;
use crate::answer::Answer;
use crate::exec::{self, ERROR, Input, Open, RESIZE, STDERR, STDIN, STDOUT, Session};
use crate::idle::Idle;

/// The best first. Version 4 brought the status, version 3 the terminal's size.
const PROTOCOLS: [&str; 5] = ["v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];

pub(crate) fn accept(sessions: &Sessions, mut request: Request<Incoming>, options: ExecOptions, open: Open, what: &'static str) -> Answer {
    let protocol = negotiate(request.headers(), &PROTOCOLS).ok_or_else(unknown_protocol)?;
    let (response, upgraded) = upgrade(&mut request, protocol);
    let idle = sessions.idle;
    sessions.spawn(async move {
        match upgraded.await {
            Ok(upgraded) => session(Idle::new(TokioIo::new(upgraded), idle), protocol, options, open, what).await,
            Err(error) => tracing::debug!(%error, "a stream was not upgraded"),
        }
    });
    Ok(response)
}

/// How many streams the client opens before it expects anything.
fn expected(protocol: &str, options: ExecOptions) -> usize {
    let sized = options.tty && !matches!(protocol, "v2.channel.k8s.io" | "channel.k8s.io");
    1 + [options.stdin, options.stdout, options.stderr, sized].into_iter().filter(|wanted| *wanted).count()
}

fn channel(kind: &str) -> Option<u8> {
    match kind {
        "stdin" => Some(STDIN),
        "stdout" => Some(STDOUT),
        "stderr" => Some(STDERR),
        "error" => Some(ERROR),
        "resize" => Some(RESIZE),
        _ => None,
    }
}

pub(super) async fn session(stream: impl AsyncRead + AsyncWrite, protocol: &str, options: ExecOptions, open: Open, what: &str) {
    let (event_sender, mut events) = mpsc::channel(DEPTH);
    let (sender, sends) = mpsc::channel(DEPTH);
    let carrying = carry(stream, event_sender, sender.downgrade(), sends);
    let serving = async move {
        let mut channels: HashMap<u32, u8> = HashMap::new();
        let mut early = Vec::new();
        while channels.len() < expected(protocol, options) {
            match events.recv().await {
                Some(Event::Open { id, headers }) => {
                    if let Some(channel) = channel(header_of(&headers, "streamtype")) {
                        channels.insert(id, channel);
                    }
                }
                Some(other) => early.push(other),
                None => return,
            }
        }
        join(channels, early, events, sender, Session::pair(matches!(protocol, "v5.channel.k8s.io" | "v4.channel.k8s.io")), open, what)
            .await;
    };
    tokio::join!(carrying, serving);
}

/// Joins streams and channels until the process has ended or the client has gone.
async fn join(
    channels: HashMap<u32, u8>,
    early: Vec<Event>,
    mut events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Send>,
    (session, input, mut output): (Session, mpsc::Sender<Input>, mpsc::Receiver<(u8, bytes::Bytes)>),
    open: Open,
    what: &str,
) {
    let input_of = |event| match event {
        Event::Data { id, bytes } => Some(Input::Data(*channels.get(&id)?, bytes)),
        Event::End { id } => Some(Input::Closed(*channels.get(&id)?)),
        Event::Open { .. } => None,
    };
    let reading = async {
        for message in early.into_iter().filter_map(input_of) {
            let _ = input.send(message).await;
        }
        while let Some(event) = events.recv().await {
            if let Some(message) = input_of(event) {
                // A process that has ended takes no input; what else the client says must still be read.
                let _ = input.send(message).await;
            }
        }
        // The client has gone: so is the input.
        drop(input);
    };
    let ids: HashMap<u8, u32> = channels.iter().map(|(id, channel)| (*channel, *id)).collect();
    let writing = async {
        while let Some((channel, bytes)) = output.recv().await {
            if let Some(id) = ids.get(&channel) {
                let _ = sender.send(Send::Data { id: *id, bytes }).await;
            }
        }
        for id in ids.values() {
            let _ = sender.send(Send::End { id: *id }).await;
        }
        drop(sender);
    };
    let running = exec::run(session, open, what);
    tokio::select! {
        ((), ()) = async { tokio::join!(running, writing) } => {}
        () = async { reading.await; std::future::pending().await } => {}
    }
}
