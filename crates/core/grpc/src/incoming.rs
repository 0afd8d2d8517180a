//! What the other side sends: messages out of the pieces in which they arrive, and the status behind a server's.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body_util::BodyExt;

use crate::{GrpcError, PREFIX};

/// The half of a stream that is read from.
pub struct Incoming {
    body: hyper::body::Incoming,
    buffer: BytesMut,
    max_message: usize,
    /// A server says at the end how the call went; a client just ends.
    with_status: bool,
}

impl Incoming {
    pub(crate) fn answers(body: hyper::body::Incoming, max_message: usize) -> Self {
        Self { body, buffer: BytesMut::new(), max_message, with_status: true }
    }

    pub(crate) fn requests(body: hyper::body::Incoming, max_message: usize) -> Self {
        Self { body, buffer: BytesMut::new(), max_message, with_status: false }
    }

    /// The next message; None at the end of a stream that ended well. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<Bytes>, GrpcError> {
        loop {
            if let Some(message) = take(&mut self.buffer, self.max_message)? {
                return Ok(Some(message));
            }
            let Some(frame) = self.body.frame().await else {
                let whole = !self.with_status && self.buffer.is_empty();
                return if whole { Ok(None) } else { Err(GrpcError::Malformed) };
            };
            match frame?.into_data() {
                Ok(data) => self.buffer.extend_from_slice(&data),
                Err(frame) => {
                    let trailers = frame.into_trailers().map_err(|_| GrpcError::Malformed)?;
                    if !self.with_status {
                        continue;
                    }
                    return check(&trailers).map(|()| None);
                }
            }
        }
    }
}

/// A message from the front of what has arrived, where all of it has.
fn take(buffer: &mut BytesMut, max_message: usize) -> Result<Option<Bytes>, GrpcError> {
    let Some((prefix, rest)) = buffer.split_first_chunk::<PREFIX>() else { return Ok(None) };
    let (length, there) = (length(*prefix)?, rest.len());
    if length > max_message {
        return Err(GrpcError::Malformed);
    }
    if there < length {
        buffer.reserve(length - there);
        return Ok(None);
    }
    buffer.advance(PREFIX);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// The length of the message behind a prefix; compression was not asked for.
pub(crate) fn length(prefix: [u8; PREFIX]) -> Result<usize, GrpcError> {
    let [0, a, b, c, d] = prefix else { return Err(GrpcError::Malformed) };
    usize::try_from(u32::from_be_bytes([a, b, c, d])).map_err(|_| GrpcError::Malformed)
}

/// The status that headers carry; an error where it is not OK.
pub(crate) fn check(headers: &HeaderMap) -> Result<(), GrpcError> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let code = text("grpc-status").and_then(|code| code.parse().ok()).ok_or(GrpcError::Malformed)?;
    if code == 0 {
        return Ok(());
    }
    let message = percent_encoding::percent_decode_str(text("grpc-message").unwrap_or_default()).decode_utf8_lossy().into_owned();
    Err(GrpcError::Status { code, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_put_together_of_pieces_of_any_size() {
        let bytes = [&[0, 0, 0, 0, 3][..], b"abc", &[0, 0, 0, 0, 0], &[0, 0, 0, 0, 1], b"d"].concat();
        for size in 1..=bytes.len() {
            let (mut buffer, mut messages) = (BytesMut::new(), Vec::new());
            for piece in bytes.chunks(size) {
                buffer.extend_from_slice(piece);
                while let Some(message) = take(&mut buffer, 3).unwrap() {
                    messages.push(message);
                }
            }
            assert_eq!(messages, ["abc", "", "d"], "{size}");
        }
    }

    #[test]
    fn messages_that_are_compressed_or_too_large_are_refused() {
        for prefix in [[1, 0, 0, 0, 1], [0, 0, 0, 0, 4]] {
            assert!(matches!(take(&mut BytesMut::from(&prefix[..]), 3), Err(GrpcError::Malformed)));
        }
    }

    #[test]
    fn a_status_is_read_with_its_message() {
        let mut headers = HeaderMap::new();
        assert!(matches!(check(&headers), Err(GrpcError::Malformed)), "no status is no success");
        headers.insert("grpc-status", "0".parse().unwrap());
        check(&headers).unwrap();
        headers.insert("grpc-status", "14".parse().unwrap());
        headers.insert("grpc-message", "no%20leader".parse().unwrap());
        assert_eq!(check(&headers).unwrap_err().to_string(), "rpc error: code = 14 desc = no leader");
    }
}
