//! SPDY/3.1 as far as Kubernetes' streaming clients use it: streams with headers, data, ends and resets over one connection.
//! No flow control: upstream's spdystream has none either. Exec and port-forward are built on it.

mod exec;
mod forward;
pub(crate) mod frame;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;

use crate::answer::{Body, full, refuse};
pub(crate) use exec::accept as accept_exec;
pub(crate) use forward::{TUNNEL, accept as accept_forward, accept_tunnel};
use frame::{Frame, FrameError, Inflater};

pub(crate) const UPGRADE: &str = "SPDY/3.1";
pub(crate) const PROTOCOL_HEADER: &str = "x-stream-protocol-version";
/// Frames on their way in each direction.
pub(crate) const DEPTH: usize = 16;

/// What the other side did.
#[derive(Debug)]
pub(crate) enum Event {
    Open {
        id: u32,
        headers: Vec<(String, String)>,
    },
    Data {
        id: u32,
        bytes: Bytes,
    },
    /// Nothing more comes on the stream.
    End {
        id: u32,
    },
}

/// What is sent to the other side.
#[derive(Debug)]
pub(crate) enum Send {
    Data { id: u32, bytes: Bytes },
    End { id: u32 },
    Frame(Vec<u8>),
}

pub(crate) fn is_spdy(headers: &HeaderMap) -> bool {
    headers.get(header::UPGRADE).and_then(|u| u.to_str().ok()).is_some_and(|u| u.eq_ignore_ascii_case(UPGRADE))
}

/// The first of our protocols that the client offers.
fn negotiate(headers: &HeaderMap, ours: &[&'static str]) -> Option<&'static str> {
    let offered: Vec<&str> =
        headers.get_all(PROTOCOL_HEADER).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).map(str::trim).collect();
    ours.iter().copied().find(|p| offered.contains(p))
}

fn upgrade(request: &mut Request<Incoming>, protocol: &'static str) -> (Response<Body>, OnUpgrade) {
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static(UPGRADE));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(PROTOCOL_HEADER, HeaderValue::from_static(protocol));
    (response, hyper::upgrade::on(request))
}

fn unknown_protocol() -> Box<Response<Body>> {
    refuse(StatusCode::FORBIDDEN, "no stream protocol of the client is known")
}

fn header_of<'a>(headers: &'a [(String, String)], name: &str) -> &'a str {
    headers.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v)
}

/// Carries frames in both directions until what is to be sent has ended, or the client has gone. Opened streams are
/// accepted at once; `replies` does not keep the connection open.
pub(crate) async fn carry(
    stream: impl AsyncRead + AsyncWrite,
    events: mpsc::Sender<Event>,
    replies: mpsc::WeakSender<Send>,
    mut sends: mpsc::Receiver<Send>,
) {
    let (reader, mut writer) = tokio::io::split(stream);
    let writing = async {
        while let Some(send) = sends.recv().await {
            let bytes = match send {
                Send::Data { id, bytes } => frame::data(id, false, &bytes),
                Send::End { id } => frame::data(id, true, &[]),
                Send::Frame(bytes) => bytes,
            };
            if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
                return;
            }
        }
        let _ = writer.shutdown().await;
    };
    let reading = async {
        let mut reader = BufReader::new(reader);
        match read(&mut reader, events, replies).await {
            Ok(()) => {}
            Err(error) => tracing::debug!(%error, "a SPDY connection ended early"),
        }
        // Nobody listens any more, or the client has gone; the first must not cut off what is still to be sent.
        let _ = tokio::io::copy(&mut reader, &mut tokio::io::sink()).await;
    };
    tokio::select! {
        () = writing => {}
        () = reading => {}
    }
}

async fn read(
    reader: &mut (impl AsyncRead + Unpin),
    events: mpsc::Sender<Event>,
    replies: mpsc::WeakSender<Send>,
) -> Result<(), FrameError> {
    let mut inflater = Inflater::new();
    let mut first_reply = true;
    loop {
        let mut head = [0; frame::HEAD];
        match reader.read_exact(&mut head).await {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            outcome => outcome?,
        };
        let mut body = vec![0; frame::body_length(&head)?];
        reader.read_exact(&mut body).await?;
        let event = match frame::parse(&head, body, &mut inflater)? {
            Frame::Open { id, end, headers } => {
                if let Some(replies) = replies.upgrade() {
                    let _ = replies.send(Send::Frame(frame::reply(id, std::mem::take(&mut first_reply)))).await;
                }
                let opened = events.send(Event::Open { id, headers }).await;
                if opened.is_err() {
                    return Ok(());
                }
                end.then_some(Event::End { id })
            }
            Frame::Data { id, end, bytes } => {
                if !bytes.is_empty() && events.send(Event::Data { id, bytes }).await.is_err() {
                    return Ok(());
                }
                end.then_some(Event::End { id })
            }
            Frame::Reset { id } => Some(Event::End { id }),
            Frame::Ping(id) => {
                if let Some(replies) = replies.upgrade() {
                    let _ = replies.send(Send::Frame(frame::ping(id))).await;
                }
                None
            }
            Frame::GoAway => return Ok(()),
            Frame::Other => None,
        };
        if let Some(event) = event
            && events.send(event).await.is_err()
        {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests;
