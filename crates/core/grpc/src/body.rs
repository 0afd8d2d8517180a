//! What a call sends: one message, or messages as they come.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Frame;
use tokio::sync::mpsc::UnboundedReceiver;

/// The body of a request. Opaque: callers of this crate never see it.
pub(crate) enum Body {
    Once(Option<Bytes>),
    Open(UnboundedReceiver<Bytes>),
}

impl Body {
    pub(crate) fn once(message: Bytes) -> Self {
        Self::Once(Some(message))
    }

    /// Ends when the sender is dropped.
    pub(crate) fn open(messages: UnboundedReceiver<Bytes>) -> Self {
        Self::Open(messages)
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Once(message) => Poll::Ready(message.take().map(|message| Ok(Frame::data(message)))),
            Self::Open(messages) => messages.poll_recv(context).map(|message| message.map(|message| Ok(Frame::data(message)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Once(None))
    }
}
