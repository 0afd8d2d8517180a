//! The client's side, over SPDY/3.1: streams of a runtime that has answered with a URL. See client-go's tools/remotecommand and
//! tools/portforward.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::Bytes;
use fram_cri::grpc::Streams;
use fram_cri::{ContainerStream, CriError, CriResult, Duplex, ExecOptions, TerminalSize};
use fram_machinery::{Value, json, object};
use http::{Request, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::Sessions;
use crate::spdy::{self, DEPTH, Event, Send, frame};

/// Bytes that may wait between a stream and who reads it.
const PIPE: usize = 64 << 10;
const CHUNK: usize = 32 << 10;
/// The version with a status at the end.
const EXEC: &str = "v4.channel.k8s.io";
const FORWARD: &str = "portforward.k8s.io";

/// Opens streams; what they carry ends with the sessions at the latest.
#[derive(Debug, Clone)]
pub struct StreamClient {
    sessions: Sessions,
}

fn failed(url: &str, error: impl std::fmt::Display) -> CriError {
    CriError::Unavailable(format!("cannot open the streams at {url}: {error}"))
}

impl StreamClient {
    pub fn new(sessions: Sessions) -> Self {
        Self { sessions }
    }

    async fn connect(&self, url: &str, protocol: &'static str) -> CriResult<Upgraded> {
        let uri: Uri = url.parse().map_err(|error| failed(url, error))?;
        let authority = uri.authority().ok_or_else(|| failed(url, "it names no host"))?.clone();
        if uri.scheme_str() != Some("http") {
            return Err(failed(url, "only http is spoken"));
        }
        let stream = TcpStream::connect((authority.host().trim_matches(['[', ']']), authority.port_u16().unwrap_or(80))).await;
        let stream = stream.map_err(|error| failed(url, error))?;
        let _ = stream.set_nodelay(true);
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| failed(url, error))?;
        self.sessions.spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection for streams ended early");
            }
        });
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::post(path)
            .header(header::HOST, authority.as_str())
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, spdy::UPGRADE)
            .header(spdy::PROTOCOL_HEADER, protocol)
            .body(Empty::<Bytes>::new())
            .map_err(|error| failed(url, error))?;
        let response = sender.send_request(request).await.map_err(|error| failed(url, error))?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(failed(url, format_args!("the answer is {}", response.status())));
        }
        hyper::upgrade::on(response).await.map_err(|error| failed(url, error))
    }
}

#[async_trait]
impl Streams for StreamClient {
    async fn open(&self, url: &str, options: ExecOptions) -> CriResult<ContainerStream> {
        let connection = TokioIo::new(self.connect(url, EXEC).await?);
        let (stream, session) = exec(connection, options);
        self.sessions.spawn(session);
        Ok(stream)
    }

    async fn port_forward(&self, url: &str, port: u16) -> CriResult<Box<dyn Duplex>> {
        let connection = TokioIo::new(self.connect(url, FORWARD).await?);
        let (ours, theirs) = tokio::io::duplex(PIPE);
        let hung_up = CancellationToken::new();
        let guard = hung_up.clone().drop_guard();
        self.sessions.spawn(forward(connection, port, theirs, hung_up));
        Ok(Box::new(Forwarded { stream: ours, _guard: guard }))
    }
}

/// The caller's end of a forwarded connection. To shut it down is half an end, to drop it a whole one.
struct Forwarded {
    stream: DuplexStream,
    _guard: DropGuard,
}

impl AsyncRead for Forwarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Forwarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

trait Connection: AsyncRead + AsyncWrite + std::marker::Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + std::marker::Send + Unpin + 'static> Connection for T {}

/// Streams of a client have odd numbers, in the order in which they are opened.
async fn open(sender: &mpsc::Sender<Send>, place: u32, headers: &[(&str, &str)]) -> u32 {
    let id = place * 2 + 1;
    // Where nobody sends any more the session ends by itself.
    let _ = sender.send(Send::Frame(frame::open(id, headers, place == 0))).await;
    id
}

/// Ends of the streams that the session has.
#[derive(Default)]
struct Ends {
    stdin: Option<DuplexStream>,
    stdout: Option<DuplexStream>,
    stderr: Option<DuplexStream>,
    resize: Option<mpsc::Receiver<TerminalSize>>,
}

/// The streams of a process, and the session that carries them.
fn exec(connection: impl Connection, options: ExecOptions) -> (ContainerStream, impl Future<Output = ()> + std::marker::Send + 'static) {
    let mut ends = Ends::default();
    let pipe = |wanted: bool, end: &mut Option<DuplexStream>| {
        wanted.then(|| {
            let (ours, theirs) = tokio::io::duplex(PIPE);
            *end = Some(theirs);
            ours
        })
    };
    let stdin = pipe(options.stdin, &mut ends.stdin);
    let stdout = pipe(options.stdout, &mut ends.stdout);
    let stderr = pipe(options.stderr && !options.tty, &mut ends.stderr);
    let resize = options.tty.then(|| {
        let (sender, receiver) = mpsc::channel(4);
        ends.resize = Some(receiver);
        sender
    });
    let (status, exit) = oneshot::channel();
    let hung_up = CancellationToken::new();
    let guard = hung_up.clone().drop_guard();
    let stream = ContainerStream {
        stdin: stdin.map(|end| Box::new(end) as _),
        stdout: stdout.map(|end| Box::new(end) as _),
        stderr: stderr.map(|end| Box::new(end) as _),
        resize,
        exit: Box::pin(async move {
            let exit = exit.await.unwrap_or_else(|_| Err(CriError::Unavailable("the streams were cut off".into())));
            // What was written before may still be on its way.
            guard.disarm();
            exit
        }),
    };
    let session = async move {
        hung_up.run_until_cancelled(session(connection, options, ends, status)).await;
    };
    (stream, session)
}

async fn session(connection: impl Connection, options: ExecOptions, ends: Ends, status: oneshot::Sender<CriResult<i32>>) {
    let (event_sender, mut events) = mpsc::channel(DEPTH);
    let (sender, sends) = mpsc::channel(DEPTH);
    let carrying = spdy::carry(connection, event_sender, sender.downgrade(), sends);
    let serving = async move {
        let Ends { stdin, stdout, stderr, resize } = ends;
        let wanted = [
            ("error", true),
            ("stdin", options.stdin),
            ("stdout", options.stdout),
            ("stderr", options.stderr && !options.tty),
            ("resize", options.tty),
        ];
        let mut ids = HashMap::new();
        for (place, (kind, _)) in wanted.iter().filter(|(_, wanted)| *wanted).enumerate() {
            ids.insert(*kind, open(&sender, place as u32, &[("streamtype", kind)]).await);
        }
        let id = |kind: &str| ids.get(kind).copied().unwrap_or_default();
        let mut outputs = HashMap::new();
        outputs.extend(stdout.map(|end| (id("stdout"), end)));
        outputs.extend(stderr.map(|end| (id("stderr"), end)));
        let writing = async {
            tokio::join!(send_input(stdin, id("stdin"), &sender), send_sizes(resize, id("resize"), &sender));
        };
        let reading = receive(&mut events, outputs, id("error"), status);
        tokio::select! {
            () = reading => {}
            () = async { writing.await; std::future::pending().await } => {}
        }
        drop(sender);
    };
    tokio::join!(carrying, serving);
}

async fn send_input(stdin: Option<DuplexStream>, id: u32, sender: &mpsc::Sender<Send>) {
    let Some(mut stdin) = stdin else { return };
    let mut chunk = vec![0; CHUNK];
    while let Ok(read @ 1..) = stdin.read(&mut chunk).await {
        if sender.send(Send::Data { id, bytes: Bytes::copy_from_slice(&chunk[..read]) }).await.is_err() {
            return;
        }
    }
    let _ = sender.send(Send::End { id }).await;
}

async fn send_sizes(resize: Option<mpsc::Receiver<TerminalSize>>, id: u32, sender: &mpsc::Sender<Send>) {
    let Some(mut resize) = resize else { return };
    while let Some(TerminalSize { width, height }) = resize.recv().await {
        let size = object!({ "Width": (i64::from(width)), "Height": (i64::from(height)) });
        let _ = sender.send(Send::Data { id, bytes: json::to_vec(&size).into() }).await;
    }
}

/// Gives outputs on until all streams that the other side writes have ended, and tells how the process did.
async fn receive(
    events: &mut mpsc::Receiver<Event>,
    mut outputs: HashMap<u32, DuplexStream>,
    error: u32,
    status: oneshot::Sender<CriResult<i32>>,
) {
    let (mut said, mut status) = (Vec::new(), Some(status));
    while status.is_some() || !outputs.is_empty() {
        match events.recv().await {
            Some(Event::Data { id, bytes }) if id == error => said.extend_from_slice(&bytes),
            Some(Event::Data { id, bytes }) => {
                // Who does not read any more need not be told.
                if let Some(output) = outputs.get_mut(&id)
                    && output.write_all(&bytes).await.is_err()
                {
                    outputs.remove(&id);
                }
            }
            Some(Event::End { id }) if id == error => {
                if let Some(status) = status.take() {
                    let _ = status.send(exit(&said));
                }
            }
            Some(Event::End { id }) => drop(outputs.remove(&id)),
            Some(Event::Open { .. }) => {}
            None => return,
        }
    }
}

/// What the error stream says; see remotecommand's errorDecoderV4.
fn exit(said: &[u8]) -> CriResult<i32> {
    if said.is_empty() {
        return Ok(0);
    }
    let unknown = || CriError::Internal(format!("the command ended with {:?}", String::from_utf8_lossy(said)));
    let status: Value = json::from_slice(said).map_err(|_| unknown())?;
    if status.str_at(&["status"]) == "Success" {
        return Ok(0);
    }
    if status.str_at(&["reason"]) == "NonZeroExitCode" {
        let causes = status.list_at(&["details", "causes"]);
        let code = causes.iter().find(|cause| cause.str_at(&["reason"]) == "ExitCode").map(|cause| cause.str_at(&["message"]));
        return code.and_then(|code| code.parse().ok()).ok_or_else(unknown);
    }
    Err(CriError::Internal(status.str_at(&["message"]).to_owned()))
}

/// Carries one connection to a port, until the far end has said everything or nobody hears it any more.
async fn forward(connection: impl Connection, port: u16, local: DuplexStream, hung_up: CancellationToken) {
    let (event_sender, mut events) = mpsc::channel(DEPTH);
    let (sender, sends) = mpsc::channel(DEPTH);
    let carrying = spdy::carry(connection, event_sender, sender.downgrade(), sends);
    let serving = async move {
        let port = port.to_string();
        let headers = |kind| [("streamtype", kind), ("port", port.as_str()), ("requestid", "0")];
        let error = open(&sender, 0, &headers("error")).await;
        // Nothing is ever said there from this side.
        let _ = sender.send(Send::End { id: error }).await;
        let data = open(&sender, 1, &headers("data")).await;
        let (mut reader, mut writer) = tokio::io::split(local);
        let outward = async {
            let mut chunk = vec![0; CHUNK];
            while let Ok(read @ 1..) = reader.read(&mut chunk).await {
                if sender.send(Send::Data { id: data, bytes: Bytes::copy_from_slice(&chunk[..read]) }).await.is_err() {
                    return;
                }
            }
            let _ = sender.send(Send::End { id: data }).await;
        };
        let inward = async {
            loop {
                match events.recv().await {
                    Some(Event::Data { id, bytes }) if id == data => {
                        if writer.write_all(&bytes).await.is_err() {
                            return;
                        }
                    }
                    Some(Event::Data { bytes, .. }) => {
                        tracing::debug!(port, error = %String::from_utf8_lossy(&bytes), "a port could not be forwarded");
                        return;
                    }
                    Some(Event::End { id }) if id == data => {
                        let _ = writer.shutdown().await;
                        return;
                    }
                    Some(_) => {}
                    None => return,
                }
            }
        };
        // The far end decides: what it still says after our end is delivered.
        tokio::select! {
            () = inward => {}
            () = async { outward.await; hung_up.cancelled().await } => {}
        }
        drop(sender);
    };
    tokio::join!(carrying, serving);
}

#[cfg(test)]
mod tests;
