//! Port forwarding over SPDY: each connection is a pair of streams, for data and for what goes wrong. The same protocol comes
//! through a WebSocket whose messages carry its bytes (KEP-4006).

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use fram_cri::RuntimeService;
use futures_util::{SinkExt, StreamExt};
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use super::{DEPTH, Event, Send, carry, header_of, negotiate, unknown_protocol, upgrade};
use crate::Sessions;
use crate::answer::Answer;
use crate::forward::pump;
use crate::idle::Idle;
use crate::websocket::{self, Socket};

const PROTOCOL: &str = "portforward.k8s.io";
/// The subprotocol of a WebSocket that carries SPDY.
pub(crate) const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const CHUNK: usize = 32 << 10;
const PIPE: usize = 64 << 10;

pub(crate) fn accept(sessions: &Sessions, runtime: Arc<dyn RuntimeService>, sandbox: String, mut request: Request<Incoming>) -> Answer {
    let protocol = negotiate(request.headers(), &[PROTOCOL]).ok_or_else(unknown_protocol)?;
    let (response, upgraded) = upgrade(&mut request, protocol);
    let idle = sessions.idle;
    sessions.spawn(async move {
        match upgraded.await {
            Ok(upgraded) => session(Idle::new(TokioIo::new(upgraded), idle), runtime, sandbox).await,
            Err(error) => tracing::debug!(%error, "a stream was not upgraded"),
        }
    });
    Ok(response)
}

pub(crate) fn accept_tunnel(
    sessions: &Sessions,
    runtime: Arc<dyn RuntimeService>,
    sandbox: String,
    mut request: Request<Incoming>,
) -> Answer {
    let (response, upgraded) = websocket::upgrade(&mut request, TUNNEL)?;
    let idle = sessions.idle;
    sessions.spawn(async move {
        match websocket::socket(upgraded, idle).await {
            Ok(socket) => {
                let (ours, theirs) = tokio::io::duplex(PIPE);
                tokio::join!(tunnel(socket, ours), session(theirs, runtime, sandbox));
            }
            Err(error) => tracing::debug!(%error, "a stream was not upgraded"),
        }
    });
    Ok(response)
}

/// Carries a byte stream in the binary messages of a WebSocket.
async fn tunnel(socket: Socket, stream: tokio::io::DuplexStream) {
    let (mut sink, mut messages) = socket.split();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let outward = async {
        let mut chunk = vec![0; CHUNK];
        while let Ok(read @ 1..) = reader.read(&mut chunk).await {
            if sink.send(Message::binary(chunk[..read].to_vec())).await.is_err() {
                return;
            }
        }
        websocket::close(&mut sink).await;
    };
    let inward = async {
        while let Some(Ok(message)) = messages.next().await {
            if let Message::Binary(bytes) = message
                && writer.write_all(&bytes).await.is_err()
            {
                return;
            }
        }
    };
    tokio::select! {
        () = outward => {}
        () = inward => {}
    }
}

/// A pair of streams on its way to being one connection.
#[derive(Default)]
struct Pair {
    error: Option<u32>,
    data: Option<(u32, mpsc::Receiver<Bytes>)>,
    port: Option<u16>,
}

pub(super) async fn session(stream: impl AsyncRead + AsyncWrite, runtime: Arc<dyn RuntimeService>, sandbox: String) {
    let (event_sender, mut events) = mpsc::channel(DEPTH);
    let (sender, sends) = mpsc::channel(DEPTH);
    let carrying = carry(stream, event_sender, sender.downgrade(), sends);
    let serving = async move {
        let mut pairs: HashMap<String, Pair> = HashMap::new();
        let mut writers: HashMap<u32, mpsc::Sender<Bytes>> = HashMap::new();
        let mut connections = JoinSet::new();
        while let Some(event) = events.recv().await {
            while connections.try_join_next().is_some() {}
            match event {
                Event::Open { id, headers } => {
                    let key = header_of(&headers, "requestid").to_string();
                    let pair = pairs.entry(key.clone()).or_default();
                    pair.port = header_of(&headers, "port").parse().ok();
                    match header_of(&headers, "streamtype") {
                        "error" => pair.error = Some(id),
                        "data" => {
                            let (writer, reader) = mpsc::channel(DEPTH);
                            writers.insert(id, writer);
                            pair.data = Some((id, reader));
                        }
                        _ => {}
                    }
                    if pair.error.is_some()
                        && pair.data.is_some()
                        && let Some(Pair { error: Some(error), data: Some((data, input)), port: Some(port) }) = pairs.remove(&key)
                    {
                        connections.spawn(connect(runtime.clone(), sandbox.clone(), port, (data, error), input, sender.clone()));
                    }
                }
                Event::Data { id, bytes } => {
                    if let Some(writer) = writers.get(&id) {
                        let _ = writer.send(bytes).await;
                    }
                }
                Event::End { id } => drop(writers.remove(&id)),
            }
        }
    };
    tokio::join!(carrying, serving);
}

async fn connect(
    runtime: Arc<dyn RuntimeService>,
    sandbox: String,
    port: u16,
    (data, error): (u32, u32),
    input: mpsc::Receiver<Bytes>,
    output: mpsc::Sender<Send>,
) {
    match runtime.port_forward(&sandbox, port).await {
        Ok(stream) => pump(stream, input, output.clone(), |bytes| Send::Data { id: data, bytes }).await,
        Err(why) => {
            let text = format!("error forwarding port {port} to pod {sandbox}, uid : {why}");
            let _ = output.send(Send::Data { id: error, bytes: text.into() }).await;
        }
    }
    for id in [data, error] {
        let _ = output.send(Send::End { id }).await;
    }
}
