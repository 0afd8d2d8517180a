//! A connection's patience with its client: one that says nothing, or takes nothing of what is sent to it, is given up.

use std::io::{Error, ErrorKind, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// A stream that fails when its client is silent from the beginning, or stalls.
pub(super) struct Guarded<S> {
    stream: S,
    /// Until when the first byte has to come; None when it has.
    first: Option<Pin<Box<Sleep>>>,
    stalled: Option<Pin<Box<Sleep>>>,
    patience: Duration,
    /// The stream became something else, whose users may pause as they like.
    upgraded: Arc<AtomicBool>,
}

impl<S> Guarded<S> {
    pub(super) fn new(stream: S, first: Duration, patience: Duration, upgraded: Arc<AtomicBool>) -> Self {
        Self { stream, first: Some(Box::pin(tokio::time::sleep(first))), stalled: None, patience, upgraded }
    }

    /// What came of a write or flush, unless nothing has for too long.
    fn moved<T>(&mut self, context: &mut Context<'_>, outcome: Poll<Result<T>>) -> Poll<Result<T>> {
        if outcome.is_ready() || self.upgraded.load(Ordering::Relaxed) {
            self.stalled = None;
            return outcome;
        }
        let patience = self.patience;
        ready!(self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience))).as_mut().poll(context));
        Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "the client takes nothing of what is sent to it")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        match (&mut self.first, outcome) {
            (None, outcome) => outcome,
            (Some(first), Poll::Pending) => {
                ready!(first.as_mut().poll(context));
                Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "the client says nothing")))
            }
            (_, outcome) => {
                self.first = None;
                outcome
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.moved(context, outcome)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[std::io::IoSlice<'_>]) -> Poll<Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.moved(context, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(context);
        self.moved(context, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(context);
        self.moved(context, outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_is_given_up_and_one_that_spoke_may_be_silent() {
        let (near, mut far) = duplex(64);
        let mut guarded = Guarded::new(near, SECOND, SECOND, Arc::default());
        assert_eq!(guarded.read_u8().await.unwrap_err().kind(), ErrorKind::TimedOut);
        let (near, mut other) = duplex(64);
        let mut guarded = Guarded::new(near, SECOND, SECOND, Arc::default());
        other.write_u8(7).await.unwrap();
        assert_eq!(guarded.read_u8().await.unwrap(), 7);
        assert!(tokio::time::timeout(SECOND * 100, guarded.read_u8()).await.is_err());
        far.write_u8(7).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up_unless_the_stream_was_upgraded() {
        for upgraded in [false, true] {
            let (near, mut far) = duplex(8);
            let mut guarded = Guarded::new(near, SECOND, SECOND, Arc::new(upgraded.into()));
            let sent = tokio::time::timeout(SECOND * 100, guarded.write_all(&[0; 64])).await;
            assert_eq!(sent.is_err(), upgraded);
            // What was sent before it stalled was received.
            assert_eq!(far.read(&mut [0; 64]).await.unwrap(), 8);
        }
    }
}
