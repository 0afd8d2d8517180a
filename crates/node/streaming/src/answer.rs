//! Answers over HTTP, as the kubelet and the server of streams give them.

use std::io;

use bytes::Bytes;
use fram_machinery::{Value, json};
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};

pub type Body = UnsyncBoxBody<Bytes, io::Error>;
/// A refusal is an answer too.
pub type Answer = Result<Response<Body>, Box<Response<Body>>>;

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

fn typed(bytes: impl Into<Bytes>, content_type: &'static str) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

pub fn text(text: &str) -> Response<Body> {
    typed(text.to_string(), "text/plain")
}

pub fn html(page: &str) -> Response<Body> {
    typed(page.to_string(), "text/html; charset=utf-8")
}

pub fn json(value: &Value) -> Response<Body> {
    typed(json::to_vec(value), "application/json")
}

pub fn refuse(code: StatusCode, why: &str) -> Box<Response<Body>> {
    let mut response = typed(format!("{why}\n"), "text/plain; charset=utf-8");
    *response.status_mut() = code;
    Box::new(response)
}
