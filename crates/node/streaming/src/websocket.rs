//! WebSockets as Kubernetes' streaming clients use them: one byte of each message names its channel. See upstream's
//! httpstream/wsstream and the v5 protocol of KEP-4006.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use fram_cri::ExecOptions;
use futures_util::{Sink, SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use crate::Sessions;
use crate::answer::{Answer, Body, full, refuse};
use crate::exec::{self, ERROR, Input, Open, STDERR, STDOUT, Session};
use crate::idle::Idle;

const LONGEST: usize = 1 << 20;

/// A client closes one of its channels with this one (v5).
const CLOSE: u8 = 255;

pub type Socket = WebSocketStream<Idle<TokioIo<Upgraded>>>;

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Protocol {
    pub(crate) name: &'static str,
    /// The payload is base64, and the channel a digit.
    base64: bool,
    status: bool,
}

/// The best first.
pub(crate) const PROTOCOLS: [Protocol; 6] = [
    Protocol { name: "v5.channel.k8s.io", base64: false, status: true },
    Protocol { name: "v4.channel.k8s.io", base64: false, status: true },
    Protocol { name: "v4.base64.channel.k8s.io", base64: true, status: true },
    Protocol { name: "channel.k8s.io", base64: false, status: false },
    Protocol { name: "base64.channel.k8s.io", base64: true, status: false },
    Protocol { name: "", base64: false, status: false },
];

pub fn is_websocket(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(header::UPGRADE).and_then(|u| u.to_str().ok());
    upgrade.is_some_and(|u| u.eq_ignore_ascii_case("websocket"))
}

/// The subprotocols that the client offers.
pub fn offers(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).map(|p| p.trim().to_string()).filter(|p| !p.is_empty()).collect()
}

fn negotiate(headers: &HeaderMap) -> Option<Protocol> {
    let offered = offers(headers);
    PROTOCOLS.into_iter().find(|p| if offered.is_empty() { p.name.is_empty() } else { offered.iter().any(|o| o == p.name) })
}

/// The answer that turns a connection into a WebSocket, and the connection to come.
pub fn upgrade(request: &mut Request<Incoming>, protocol: &str) -> Result<(Response<Body>, OnUpgrade), Box<Response<Body>>> {
    let bad = |why: &str| refuse(StatusCode::BAD_REQUEST, why);
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY).ok_or_else(|| bad("missing Sec-WebSocket-Key"))?;
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes())).map_err(|e| bad(&e.to_string()))?;
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if !protocol.is_empty() {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::try_from(protocol).map_err(|e| bad(&e.to_string()))?);
    }
    Ok((response, hyper::upgrade::on(request)))
}

/// How large messages and frames may be; clients send far smaller ones.
pub(crate) fn limits() -> Option<WebSocketConfig> {
    Some(WebSocketConfig::default().max_message_size(Some(LONGEST)).max_frame_size(Some(LONGEST)))
}

pub async fn socket(upgrade: OnUpgrade, idle: Option<Duration>) -> Result<Socket, hyper::Error> {
    let stream = Idle::new(TokioIo::new(upgrade.await?), idle);
    Ok(WebSocketStream::from_raw_socket(stream, Role::Server, limits()).await)
}

/// Answers an exec or attach: the session goes on after the answer.
pub(crate) fn accept(sessions: &Sessions, mut request: Request<Incoming>, options: ExecOptions, open: Open, what: &'static str) -> Answer {
    if !is_websocket(request.headers()) {
        return Err(refuse(StatusCode::BAD_REQUEST, "Upgrade request required"));
    }
    let Some(protocol) = negotiate(request.headers()) else {
        return Err(refuse(StatusCode::FORBIDDEN, "no subprotocol of the client is known"));
    };
    let (response, upgraded) = upgrade(&mut request, protocol.name)?;
    let idle = sessions.idle;
    sessions.spawn(async move {
        match socket(upgraded, idle).await {
            Ok(socket) => session(socket, protocol, options, open, what).await,
            Err(error) => tracing::debug!(%error, "a stream was not upgraded"),
        }
    });
    Ok(response)
}

async fn session(socket: Socket, protocol: Protocol, options: ExecOptions, open: Open, what: &str) {
    let (session, input_sender, output_receiver) = Session::pair(protocol.status);
    // The lowest channel that the client reads tells it that the session stands.
    let first = if options.stdout {
        STDOUT
    } else if options.stderr {
        STDERR
    } else {
        ERROR
    };
    let _ = session.output.send((first, Bytes::new())).await;
    let carrying = carry(socket, protocol, input_sender, output_receiver);
    tokio::join!(carrying, exec::run(session, open, what));
}

/// Ends a session well: client-go takes a close without a code for a broken connection.
pub async fn close(sink: &mut (impl Sink<Message> + Unpin)) {
    let end = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    let _ = sink.send(Message::Close(Some(end))).await;
    let _ = sink.close().await;
}

/// Carries messages in both directions until the output has ended, or the client has gone.
pub(crate) async fn carry(socket: Socket, protocol: Protocol, input: mpsc::Sender<Input>, mut output: mpsc::Receiver<(u8, Bytes)>) {
    let (mut sink, mut stream) = socket.split();
    let writing = async {
        while let Some((channel, bytes)) = output.recv().await {
            if sink.send(encode(protocol, channel, &bytes)).await.is_err() {
                return;
            }
        }
        close(&mut sink).await;
    };
    let reading = async {
        while let Some(Ok(message)) = stream.next().await {
            let Some(message) = decode(protocol, &message) else { continue };
            if input.send(message).await.is_err() {
                // Nobody wants more input; the output may go on, and the client's end is still of interest.
                while let Some(Ok(_)) = stream.next().await {}
                return;
            }
        }
    };
    tokio::select! {
        () = writing => {}
        () = reading => {}
    }
}

fn encode(protocol: Protocol, channel: u8, bytes: &[u8]) -> Message {
    if protocol.base64 {
        return Message::text(format!("{}{}", char::from(b'0' + channel), STANDARD.encode(bytes)));
    }
    let mut out = Vec::with_capacity(bytes.len() + 1);
    out.push(channel);
    out.extend_from_slice(bytes);
    Message::binary(out)
}

pub(crate) fn decode(protocol: Protocol, message: &Message) -> Option<Input> {
    let bytes: Bytes = match message {
        Message::Binary(bytes) => bytes.clone(),
        Message::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
        _ => return None,
    };
    let (first, rest) = (*bytes.first()?, bytes.slice(1..));
    if protocol.base64 {
        return Some(Input::Data(first.checked_sub(b'0')?, STANDARD.decode(rest).ok()?.into()));
    }
    match first {
        CLOSE => Some(Input::Closed(*rest.first()?)),
        channel => Some(Input::Data(channel, rest)),
    }
}

/// Binary messages, as port forwarding uses them.
pub(crate) const BINARY: Protocol = PROTOCOLS[1];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_protocol_that_both_know_is_taken() {
        let with = |offer: &str| {
            let mut headers = HeaderMap::new();
            if !offer.is_empty() {
                headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::try_from(offer).unwrap());
            }
            negotiate(&headers).map(|p| p.name)
        };
        assert_eq!(with("v4.channel.k8s.io, v5.channel.k8s.io"), Some("v5.channel.k8s.io"));
        assert_eq!((with("channel.k8s.io"), with(""), with("x")), (Some("channel.k8s.io"), Some(""), None));
    }
}
