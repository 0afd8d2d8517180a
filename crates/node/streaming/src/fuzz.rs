//! Fuzz targets of what streams carry: frames of SPDY and WebSocket, queries.

use fram_fuzz::{Pieces, Target};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocket};

use crate::query::Query;
use crate::spdy::frame;
use crate::websocket;

/// All frames of one connection, whose headers are inflated as one.
fn spdy(mut input: &[u8]) {
    let mut inflater = frame::Inflater::new();
    while let Some((head, rest)) = input.split_first_chunk::<{ frame::HEAD }>() {
        let Ok(length) = frame::body_length(head) else { return };
        let Some((body, rest)) = rest.split_at_checked(length) else { return };
        if frame::parse(head, body.to_vec(), &mut inflater).is_err() {
            return;
        }
        input = rest;
    }
}

/// What a client sends, until it ends; answers go nowhere.
fn web_socket(input: &[u8]) {
    struct Client<'a>(&'a [u8]);
    impl std::io::Read for Client<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0.read(buffer)
        }
    }
    impl std::io::Write for Client<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut socket = WebSocket::from_raw_socket(Client(input), Role::Server, websocket::limits());
    while let Ok(message) = socket.read() {
        websocket::PROTOCOLS.into_iter().for_each(|protocol| drop(websocket::decode(protocol, &message)));
    }
}

fn query(input: &[u8]) {
    let _ = Query::parse(Pieces::of(input).text());
}

const SPDY: &[&[u8]] = &[
    b"\x80\x03\x00\x01\x01\0\0\x13\0\0\0\x01\0\0\0\0\0\0\x78\xbb\xe3\xc6\xa7\xc2\x02\0\0\0\xff\
      \x80\x03\0\x06\0\0\0\x04\0\0\0\x01\0\0\0\x01\0\0\0\x02ab\x80\x03\0\x03\0\0\0\x08\0\0\0\x01\0\0\0\x05",
    b"\x80\x03\x00\x01\x00\0\0\x20\0\0\0\x01\0\0\0\0\0\0\x78\x01\x00\x0f\x00\xf0\xff\0\0\0\x01\0\0\0\x01a\0\0\0\x02bc\0\0",
];
const FRAMES: &[&[u8]] = &[b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58\x82\x83\0\0\0\0\0ab\x89\x80\0\0\0\0\x02\x81\x01\x02\x03\x04x\
    \x80\x81\0\0\0\0y\x88\x82\0\0\0\0\x03\xe8"];

#[test]
fn the_kept_inputs_hold() {
    let target = |name, run, seeds| Target { name, seeds, memory: 200, run };
    let targets = [target("spdy", spdy, SPDY), target("web_socket", web_socket, FRAMES), target("query", query, &[b"a=b&c=%20d&e&a=f+g"])];
    fram_fuzz::check(env!("CARGO_MANIFEST_DIR"), &targets);
}
