//! Requests as the load programs send them: JSON, and no compression unless it is asked for.

use bytes::Bytes;
use fram_machinery::{Value, json};
use http::Request;
use http_body_util::Full;

pub fn request(method: &str, path: &str, accept: &str) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri(path).header("accept", "application/json");
    let request = if accept.is_empty() { request } else { request.header("accept-encoding", accept) };
    request.body(Full::default()).unwrap_or_default()
}

pub fn post(path: &str, object: &Value) -> Request<Full<Bytes>> {
    send("POST", path, "application/json", json::to_vec(object).into())
}

pub fn send(method: &str, path: &str, content_type: &str, body: Bytes) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri(path).header("accept", "application/json").header("content-type", content_type);
    request.body(Full::new(body)).unwrap_or_default()
}
