//! The kubelet's HTTP API: logs, exec and port-forward as clients speak them, over an in-process stream.

use std::time::Duration;

use bytes::Bytes;
use fram_machinery::{Value, json, meta, object};
use futures_util::{SinkExt, StreamExt};
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::io::DuplexStream;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::rig::{Rig, container, pod};

struct Connection {
    stream: Option<DuplexStream>,
    _server: JoinSet<()>,
}

impl Connection {
    fn open(rig: &Rig) -> Self {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let (mut server, kubelet) = (JoinSet::new(), rig.kubelet.clone());
        server.spawn(async move { kubelet.serve(theirs).await });
        Self { stream: Some(ours), _server: server }
    }

    async fn get(self, path: &str) -> (u16, String) {
        self.ask("GET", path).await
    }

    async fn ask(mut self, method: &str, path: &str) -> (u16, String) {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(self.stream.take().unwrap())).await.unwrap();
        self._server.spawn(async move { drop(connection.await) });
        let request = Request::builder().method(method).uri(path).header("Host", "kubelet").body(Empty::<Bytes>::new()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn websocket(&mut self, path: &str, protocol: &str) -> WebSocketStream<DuplexStream> {
        let mut request = format!("ws://kubelet{path}").into_client_request().unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", protocol.try_into().unwrap());
        let (socket, response) = tokio_tungstenite::client_async(request, self.stream.take().unwrap()).await.unwrap();
        assert_eq!(response.headers().get("Sec-WebSocket-Protocol").unwrap(), protocol);
        socket
    }
}

/// What arrived on each channel, in order of arrival, until the server closed.
async fn channels(socket: &mut WebSocketStream<DuplexStream>) -> Vec<(u8, Vec<u8>)> {
    let mut out: Vec<(u8, Vec<u8>)> = Vec::new();
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(bytes) = message {
            match out.iter_mut().find(|(channel, _)| *channel == bytes[0]) {
                Some((_, data)) => data.extend(&bytes[1..]),
                None => out.push((bytes[0], bytes[1..].to_vec())),
            }
        }
    }
    out
}

async fn running() -> Rig {
    let rig = Rig::start().await;
    rig.api.put("pods", pod("p", object!({ "containers": [(container("a"))] })));
    rig.pod("p", |p| meta::condition_is_true(p, "Ready")).await;
    rig
}

#[tokio::test]
async fn logs_are_shown_with_their_options_and_what_cannot_be_shown_is_refused() {
    let rig = running().await;
    let get = async |query: &str| Connection::open(&rig).get(&format!("/containerLogs/ns/p/a?{query}")).await;
    assert_eq!(get("").await, (200, "hello\noh\n".into()));
    assert_eq!(get("tailLines=1&timestamps=true").await, (200, "2026-01-01T00:00:01.000000000Z oh\n".into()));
    assert_eq!(get("limitBytes=3").await.1, "hel");
    assert_eq!(get("previous=true").await, (400, "previous terminated container \"a\" in pod \"p\" not found\n".into()));
    assert_eq!(Connection::open(&rig).get("/containerLogs/ns/q/a").await.0, 404);
    assert_eq!(Connection::open(&rig).get("/containerLogs/ns/p/z").await.0, 404);
    assert_eq!(Connection::open(&rig).get("/healthz").await, (200, "ok".into()));
    rig.stop().await;
}

#[tokio::test]
async fn a_log_comes_over_a_websocket_too() {
    let rig = running().await;
    let mut connection = Connection::open(&rig);
    let mut socket = connection.websocket("/containerLogs/ns/p/a", "binary.k8s.io").await;
    let mut told = Vec::new();
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(bytes) = message {
            told.extend(bytes);
        }
    }
    assert_eq!(told, b"hello\noh\n");
    rig.stop().await;
}

#[tokio::test]
async fn a_followed_log_ends_with_its_container() {
    let rig = running().await;
    let followed = Connection::open(&rig).get("/containerLogs/ns/p/a?follow=true");
    let writing = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let dir = rig.root().parent().unwrap().join("log");
        let pod = std::fs::read_dir(dir).unwrap().next().unwrap().unwrap().path();
        let mut log = std::fs::OpenOptions::new().append(true).open(pod.join("a/0.log")).unwrap();
        std::io::Write::write_all(&mut log, b"2026-01-01T00:00:02Z stdout F more\n").unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        rig.api.delete_pod("p", 0);
    };
    let (told, ()) = tokio::join!(followed, writing);
    assert_eq!(told, (200, "hello\noh\nmore\n".into()));
    rig.stop().await;
}

#[tokio::test]
async fn a_command_gives_its_output_and_its_exit_code() {
    let rig = running().await;
    let mut connection = Connection::open(&rig);
    let mut socket = connection.websocket("/exec/ns/p/a?command=echo&command=hi&stdout=true&stderr=true", "v5.channel.k8s.io").await;
    let told = channels(&mut socket).await;
    assert_eq!(told[0], (1, b"echo hi".to_vec()));
    assert_eq!(json::from_slice(&told[1].1).unwrap().str_at(&["status"]), "Success");
    let mut connection = Connection::open(&rig);
    let mut socket = connection.websocket("/exec/ns/p/a?command=exit&command=3&stdout=true", "v4.channel.k8s.io").await;
    let told = channels(&mut socket).await;
    let status: Value = json::from_slice(&told[1].1).unwrap();
    assert_eq!(status.list_at(&["details", "causes"])[0].str_at(&["message"]), "3");
    rig.stop().await;
}

#[tokio::test]
async fn input_reaches_the_command_until_the_client_closes_it() {
    let rig = running().await;
    let mut connection = Connection::open(&rig);
    let mut socket = connection.websocket("/exec/ns/p/a?command=cat&stdin=true&stdout=true", "v5.channel.k8s.io").await;
    socket.send(Message::binary(b"\0one ".to_vec())).await.unwrap();
    socket.send(Message::binary(b"\0two".to_vec())).await.unwrap();
    socket.send(Message::binary(vec![255, 0])).await.unwrap();
    let told = channels(&mut socket).await;
    assert_eq!(told[0], (1, b"one two".to_vec()));
    rig.stop().await;
}

#[tokio::test]
async fn a_checkpoint_is_left_to_the_runtime_and_its_refusal_is_told() {
    let rig = running().await;
    let make = async |path: &str| Connection::open(&rig).ask("POST", path).await;
    let why = "checkpointing of ns/p/a failed (checkpoints need CRIU, which this runtime does not drive)";
    assert_eq!(make("/checkpoint/ns/p/a").await, (500, format!("{why}\n")));
    assert_eq!(make("/checkpoint/ns/p/none").await.0, 404);
    assert_eq!(make("/checkpoint/ns/p/a?timeout=soon").await, (404, "cannot parse value of timeout parameter\n".into()));
    rig.stop().await;
}

#[tokio::test]
async fn a_forwarded_port_carries_bytes_both_ways_and_its_error_channel_says_why_not() {
    let rig = running().await;
    let mut connection = Connection::open(&rig);
    let mut socket = connection.websocket("/portForward/ns/p?ports=8080&ports=1", "v4.channel.k8s.io").await;
    socket.send(Message::binary(b"\0ping".to_vec())).await.unwrap();
    socket.send(Message::binary(vec![255, 0])).await.unwrap();
    let told = channels(&mut socket).await;
    let of = |channel: u8| told.iter().find(|(c, _)| *c == channel).map(|(_, d)| d.clone()).unwrap();
    assert_eq!(of(0), [&8080_u16.to_le_bytes()[..], b"ping"].concat());
    assert_eq!(of(1), 8080_u16.to_le_bytes());
    assert!(String::from_utf8_lossy(&of(3)[2..]).contains("connection refused"));
    rig.stop().await;
}
