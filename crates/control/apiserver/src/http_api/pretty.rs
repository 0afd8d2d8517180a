//! Indented JSON for people: who asks for it, and browsers and command line programs, which do not say so. See isPrettyPrint.

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, Request, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, BodyStream, StreamBody};

use super::compress::Whole;
use crate::path::Query;
use crate::respond::Body;

/// How those programs name themselves.
const PEOPLE: [&str; 3] = ["curl", "Wget", "Mozilla/5.0"];
/// What is always read by people.
const ALWAYS: &str = "/version";
/// Documents that have a form of their own.
const NEVER: [&str; 3] = ["/openapi/", "/.well-known/", "/openid/"];

/// Whether a request wants its answer indented.
pub(super) fn wanted<B>(request: &Request<B>) -> bool {
    let path = request.uri().path();
    if path == ALWAYS || NEVER.iter().any(|start| path.starts_with(start)) {
        return path == ALWAYS;
    }
    if text(request.headers(), header::ACCEPT).contains("pretty=1") {
        return true;
    }
    match request.uri().query().filter(|query| query.contains("pretty")).map(|query| Query::parse(Some(query))) {
        Some(query) if !query.get("pretty").is_empty() => matches!(query.get("pretty"), "1" | "t" | "T" | "true" | "TRUE" | "True"),
        _ => PEOPLE.iter().any(|name| text(request.headers(), header::USER_AGENT).starts_with(name)),
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Indents a whole answer in JSON, piece by piece as it is sent. Streams and what others answered stay as they are.
pub(super) fn indented(response: Response<Body>) -> Response<Body> {
    let json = text(response.headers(), header::CONTENT_TYPE).starts_with("application/json");
    if !json || response.extensions().get::<Whole>().is_none() || response.headers().contains_key(header::CONTENT_ENCODING) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    let mut indent = Indent::default();
    let pieces = BodyStream::new(body).map(move |frame| {
        let piece = frame?.into_data().unwrap_or_default();
        Ok::<_, std::io::Error>(Frame::data(Bytes::from(indent.piece(&piece))))
    });
    Response::from_parts(parts, BodyExt::boxed_unsync(StreamBody::new(pieces)))
}

/// Where in the text of compact JSON the next piece begins.
#[derive(Default)]
struct Indent {
    depth: usize,
    /// In a text; then whether the next byte is escaped.
    text: Option<bool>,
    /// A bracket was opened and nothing has come since.
    opened: bool,
}

impl Indent {
    fn piece(&mut self, piece: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(piece.len() * 2);
        for &byte in piece {
            match self.text {
                Some(escaped) => {
                    self.text = if byte == b'"' && !escaped { None } else { Some(byte == b'\\' && !escaped) };
                    out.push(byte);
                }
                None => self.outside(byte, &mut out),
            }
        }
        out
    }

    fn outside(&mut self, byte: u8, out: &mut Vec<u8>) {
        match byte {
            b' ' | b'\n' | b'\r' | b'\t' => return,
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                if !self.opened {
                    self.line(out);
                }
                self.opened = false;
                return out.push(byte);
            }
            _ => {}
        }
        if std::mem::take(&mut self.opened) {
            self.line(out);
        }
        out.push(byte);
        match byte {
            b'{' | b'[' => {
                self.depth += 1;
                self.opened = true;
            }
            b',' => self.line(out),
            b':' => out.push(b' '),
            b'"' => self.text = Some(false),
            _ => {}
        }
    }

    fn line(&self, out: &mut Vec<u8>) {
        out.push(b'\n');
        out.resize(out.len() + 2 * self.depth, b' ');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::respond;

    #[test]
    fn json_is_indented_however_it_is_cut() {
        let compact = b"{\"a\":{},\"b\":[],\"c\":[1,{\"d\":\"x:{,\\\"\\\\\"}],\"e\":null}\n";
        let expect =
            "{\n  \"a\": {},\n  \"b\": [],\n  \"c\": [\n    1,\n    {\n      \"d\": \"x:{,\\\"\\\\\"\n    }\n  ],\n  \"e\": null\n}";
        for cut in 0..compact.len() {
            let mut indent = Indent::default();
            let mut out = indent.piece(&compact[..cut]);
            out.extend(indent.piece(&compact[cut..]));
            assert_eq!(String::from_utf8(out).unwrap(), expect, "{cut}");
        }
    }

    #[test]
    fn people_and_who_asks_get_it_indented() {
        for (uri, agent, accept, expect) in [
            ("/api/v1/pods", "curl/8.0", "*/*", true),
            ("/api/v1/pods", "Mozilla/5.0 (X11)", "text/html", true),
            ("/api/v1/pods?pretty=false", "curl/8.0", "*/*", false),
            ("/api/v1/pods?pretty=", "curl/8.0", "*/*", true),
            ("/api/v1/pods?pretty=true", "kubectl/v1.36", "application/json", true),
            ("/api/v1/pods", "kubectl/v1.36", "application/json", false),
            ("/api/v1/pods", "kubectl/v1.36", "application/json;pretty=1", true),
            ("/openapi/v2", "curl/8.0", "*/*", false),
            ("/version", "kubectl/v1.36", "*/*", true),
        ] {
            let request = Request::builder().uri(uri).header("user-agent", agent).header("accept", accept).body(()).unwrap();
            assert_eq!(wanted(&request), expect, "{uri} {agent} {accept}");
        }
    }

    #[tokio::test]
    async fn only_whole_json_is_indented() {
        let read = async |response: Response<Body>| response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(read(indented(respond::bytes(200, "application/json", "[1]"))).await, "[\n  1\n]");
        assert_eq!(read(indented(respond::bytes(200, "text/plain", "[1]"))).await, "[1]");
        let stream = futures_util::stream::iter([Ok(Frame::data(Bytes::from("[1]")))]);
        assert_eq!(read(indented(respond::stream("application/json", stream))).await, "[1]");
    }
}
