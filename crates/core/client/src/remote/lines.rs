//! A body of lines, as watches and logs are.

use bytes::{Bytes, BytesMut};
use http::Response;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::RemoteError;

/// Lines as they come.
pub struct Lines {
    body: Incoming,
    buffer: BytesMut,
    /// So many bytes of the buffer are known to have no line's end.
    searched: usize,
}

impl Lines {
    pub fn new(response: Response<Incoming>) -> Self {
        Self { body: response.into_body(), buffer: BytesMut::new(), searched: 0 }
    }

    /// The next line with its end; None where no more comes.
    pub async fn next(&mut self) -> Result<Option<Bytes>, RemoteError> {
        loop {
            if let Some(end) = self.buffer[self.searched..].iter().position(|b| *b == b'\n') {
                let line = self.buffer.split_to(self.searched + end + 1);
                self.searched = 0;
                return Ok(Some(line.freeze()));
            }
            self.searched = self.buffer.len();
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => self.buffer.extend_from_slice(frame?.data_ref().map_or(&[], |d| d)),
            }
        }
    }

    /// What came after the last line's end.
    pub fn rest(&self) -> &[u8] {
        &self.buffer
    }
}
