//! A stream that ends when nothing has moved on it for a time, in either direction; upstream's streamingConnectionIdleTimeout.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Reading fails once the time is up; whoever carries a stream always reads it.
#[derive(Debug)]
pub struct Idle<S> {
    inner: S,
    /// The time, and when it is up. None where a stream may stand still for ever.
    limit: Option<(Duration, Pin<Box<Sleep>>)>,
}

impl<S> Idle<S> {
    pub(crate) fn new(inner: S, limit: Option<Duration>) -> Self {
        Self { inner, limit: limit.map(|after| (after, Box::pin(tokio::time::sleep(after)))) }
    }

    fn moved(&mut self) {
        if let Some((after, up)) = &mut self.limit {
            up.as_mut().reset(Instant::now() + *after);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Idle<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(outcome) = Pin::new(&mut self.inner).poll_read(context, buffer) {
            self.moved();
            return Poll::Ready(outcome);
        }
        let Some((after, up)) = &mut self.limit else { return Poll::Pending };
        ready!(up.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, format!("nothing moved for {after:?}"))))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Idle<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = ready!(Pin::new(&mut self.inner).poll_write(context, bytes));
        self.moved();
        Poll::Ready(outcome)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_when_nothing_has_moved_in_either_direction() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let (mut reader, mut writer) = tokio::io::split(Idle::new(ours, Some(Duration::from_secs(10))));
        let begin = Instant::now();
        let moving = async {
            for second in [8, 8, 8] {
                tokio::time::sleep(Duration::from_secs(second)).await;
                writer.write_all(b"x").await.unwrap();
            }
            tokio::time::sleep(Duration::from_secs(8)).await;
            theirs.write_all(b"y").await.unwrap();
            theirs
        };
        let reading = async {
            let mut byte = [0];
            reader.read_exact(&mut byte).await.unwrap();
            reader.read_exact(&mut byte).await.unwrap_err().kind()
        };
        let (kind, _theirs) = tokio::join!(reading, moving);
        assert_eq!((kind, begin.elapsed().as_secs()), (io::ErrorKind::TimedOut, 42));
    }
}
