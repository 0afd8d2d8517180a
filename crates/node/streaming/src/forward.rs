//! Port forwarding: connections to ports of a pod, carried by one WebSocket. See upstream's
//! cri/streaming/portforward/websocket.go.

use std::sync::Arc;

use bytes::Bytes;
use fram_cri::RuntimeService;
use http::{Request, StatusCode};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::answer::{Answer, refuse};
use crate::exec::Input;
use crate::query::Query;
use crate::websocket::{self, BINARY};
use crate::{Sessions, spdy};

const PROTOCOL: &str = "v4.channel.k8s.io";
const DEPTH: usize = 8;
const CHUNK: usize = 32 << 10;

/// Answers with the protocol that the client speaks. Ports are those of the query, or of each connection.
pub fn accept(
    sessions: &Sessions,
    runtime: Arc<dyn RuntimeService>,
    sandbox: String,
    query: &Query,
    mut request: Request<Incoming>,
) -> Answer {
    if spdy::is_spdy(request.headers()) {
        return spdy::accept_forward(sessions, runtime, sandbox, request);
    }
    if !websocket::is_websocket(request.headers()) {
        return Err(refuse(StatusCode::BAD_REQUEST, "Upgrade request required"));
    }
    let offered = websocket::offers(request.headers());
    if offered.iter().any(|o| o == spdy::TUNNEL) {
        return spdy::accept_tunnel(sessions, runtime, sandbox, request);
    }
    let numbers = query.all("ports").into_iter().chain(query.all("port"));
    let ports: Vec<u16> = numbers
        .flat_map(|p| p.split(',').map(String::from).collect::<Vec<_>>())
        .filter_map(|p| p.parse().ok())
        .filter(|p| *p > 0)
        .collect();
    if ports.is_empty() || ports.len() > 127 {
        return Err(refuse(StatusCode::BAD_REQUEST, "query parameter \"port\" is required"));
    }
    let protocol = if offered.iter().any(|o| o == PROTOCOL) { PROTOCOL } else { "" };
    let (response, upgraded) = websocket::upgrade(&mut request, protocol)?;
    let idle = sessions.idle;
    sessions.spawn(async move {
        match websocket::socket(upgraded, idle).await {
            Ok(socket) => {
                let (input_sender, input) = mpsc::channel(DEPTH);
                let (output, output_receiver) = mpsc::channel(DEPTH);
                let carrying = websocket::carry(socket, BINARY, input_sender, output_receiver);
                tokio::join!(carrying, forward(runtime, sandbox, ports, input, output));
            }
            Err(error) => tracing::debug!(%error, "a stream was not upgraded"),
        }
    });
    Ok(response)
}

/// Each port has a channel for its data and one for what goes wrong; both begin with the port's number.
async fn forward(
    runtime: Arc<dyn RuntimeService>,
    sandbox: String,
    ports: Vec<u16>,
    mut input: mpsc::Receiver<Input>,
    output: mpsc::Sender<(u8, Bytes)>,
) {
    let mut writers = Vec::new();
    let mut connections = JoinSet::new();
    for (i, port) in ports.into_iter().enumerate() {
        let data = u8::try_from(i * 2).unwrap_or(0);
        for channel in [data, data + 1] {
            let _ = output.send((channel, Bytes::copy_from_slice(&port.to_le_bytes()))).await;
        }
        let (sender, receiver) = mpsc::channel(DEPTH);
        writers.push(Some(sender));
        connections.spawn(connect(runtime.clone(), sandbox.clone(), port, data, receiver, output.clone()));
    }
    drop(output);
    loop {
        tokio::select! {
            ended = connections.join_next() => if ended.is_none() { return },
            message = input.recv() => match message {
                Some(Input::Data(channel, bytes)) if channel % 2 == 0 => {
                    if let Some(Some(writer)) = writers.get(usize::from(channel / 2)) {
                        let _ = writer.send(bytes).await;
                    }
                }
                Some(Input::Closed(channel)) => {
                    if let Some(writer) = writers.get_mut(usize::from(channel / 2)) {
                        *writer = None;
                    }
                }
                Some(Input::Data(..)) => {}
                None => return,
            },
        }
    }
}

async fn connect(
    runtime: Arc<dyn RuntimeService>,
    sandbox: String,
    port: u16,
    channel: u8,
    input: mpsc::Receiver<Bytes>,
    output: mpsc::Sender<(u8, Bytes)>,
) {
    let stream = match runtime.port_forward(&sandbox, port).await {
        Ok(stream) => stream,
        Err(error) => {
            let text = format!("error forwarding port {port} to pod {sandbox}: {error}");
            let _ = output.send((channel + 1, text.into())).await;
            return;
        }
    };
    pump(stream, input, output, |bytes| (channel, bytes)).await;
}

/// Carries one connection: `input` to the pod, and what the pod says to `output`, in the form that `wrap` gives it.
pub(crate) async fn pump<T>(
    stream: impl AsyncRead + AsyncWrite,
    mut input: mpsc::Receiver<Bytes>,
    output: mpsc::Sender<T>,
    wrap: impl Fn(Bytes) -> T,
) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let writing = async {
        while let Some(bytes) = input.recv().await {
            if writer.write_all(&bytes).await.is_err() {
                // What still comes has no reader any more, but must not block the other connections.
                while input.recv().await.is_some() {}
                return;
            }
        }
        let _ = writer.shutdown().await;
    };
    let reading = async {
        let mut chunk = vec![0; CHUNK];
        while let Ok(read @ 1..) = reader.read(&mut chunk).await {
            if output.send(wrap(Bytes::copy_from_slice(&chunk[..read]))).await.is_err() {
                return;
            }
        }
    };
    // The pod's end of the connection decides: what it still says after our end is delivered.
    tokio::select! {
        () = reading => {}
        () = async { writing.await; std::future::pending().await } => {}
    }
}
