//! Compression of large answers, where the client takes it: see KEP-156 and SerializeObject. Streams and what others answered are never
//! compressed here.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, Response, header};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, BodyStream, StreamBody};

use crate::respond::Body;

/// Smaller answers are sent as they are; see defaultGzipThresholdBytes.
const LEAST: u64 = 128 * 1024;

/// The size of a body that is whole, put beside a response by whoever made it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Whole(pub(crate) u64);

/// Whether a client takes gzip; a weight is not understood, as upstream does not understand it.
pub(super) fn accepted(headers: &HeaderMap) -> bool {
    let all = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok());
    all.flat_map(|v| v.split(',')).any(|token| token.trim() == "gzip")
}

/// Compresses a body that is large, piece by piece as it is sent.
pub(super) fn large(response: Response<Body>) -> Response<Body> {
    let size = response.extensions().get::<Whole>().map_or(0, |whole| whole.0);
    if size <= LEAST || response.headers().contains_key(header::CONTENT_ENCODING) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    Response::from_parts(parts, BodyExt::boxed_unsync(StreamBody::new(zipped(body))))
}

/// Pieces of this size are worth sending.
const PIECE: usize = 32 * 1024;

fn zipped(body: Body) -> impl futures_util::Stream<Item = Result<Frame<Bytes>, std::io::Error>> + Send + 'static {
    debug_assert!(!body.is_end_stream());
    // The least effort: it costs a third of the default's time, and most of the gain is there.
    let state = Some((BodyStream::new(body), GzEncoder::new(Vec::new(), Compression::fast())));
    futures_util::stream::unfold(state, |state| async move {
        let (mut body, mut encoder) = state?;
        loop {
            let piece = match body.next().await {
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                Some(Err(error)) => return Some((Err(error), None)),
                None => return Some((encoder.finish().map(|rest| Frame::data(rest.into())), None)),
            };
            if let Err(error) = encoder.write_all(&piece) {
                return Some((Err(error), None));
            }
            if encoder.get_ref().len() >= PIECE {
                let ready = std::mem::take(encoder.get_mut());
                return Some((Ok(Frame::data(ready.into())), Some((body, encoder))));
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::respond;

    async fn read(response: Response<Body>) -> Vec<u8> {
        response.into_body().collect().await.unwrap().to_bytes().to_vec()
    }

    #[tokio::test]
    async fn a_large_answer_is_compressed_and_a_small_one_is_not() {
        let text: String = (0..60_000).map(|i| format!("{i} ")).collect();
        let response = large(respond::bytes(200, "text/plain", text.clone()));
        assert_eq!(response.headers()[header::CONTENT_ENCODING], "gzip");
        assert_eq!(response.headers()[header::VARY], "Accept-Encoding");
        let bytes = read(response).await;
        assert!(bytes.len() < text.len() / 2);
        let mut plain = String::new();
        flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut plain).unwrap();
        assert_eq!(plain, text);
        let small = large(respond::bytes(200, "text/plain", "small"));
        assert!(!small.headers().contains_key(header::CONTENT_ENCODING));
        assert_eq!(read(small).await, b"small");
    }

    #[test]
    fn gzip_is_taken_where_it_is_named() {
        for (text, expect) in [("gzip", true), ("deflate, gzip", true), ("gzip;q=1.0", false), ("identity", false), ("", false)] {
            let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(text))]);
            assert_eq!(accepted(&headers), expect, "{text}");
        }
    }
}
