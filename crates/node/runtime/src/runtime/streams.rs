//! Byte streams over pipes and terminals that the shim has set up, for tokio.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use fram_cri::{CriError, CriResult, TerminalSize};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{pipe2, read, write};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;

use crate::client::InputEnd;

/// A pipe whose writing end goes to the shim.
pub(super) fn output() -> CriResult<(pipe::Receiver, OwnedFd)> {
    let made = pipe2(OFlag::O_CLOEXEC).map_err(io::Error::from);
    made.and_then(|(reading, writing)| Ok((pipe::Receiver::from_owned_fd(reading)?, writing))).map_err(failed)
}

/// A pipe whose reading end goes to the shim.
pub(super) fn input() -> CriResult<(pipe::Sender, OwnedFd)> {
    let made = pipe2(OFlag::O_CLOEXEC).map_err(io::Error::from);
    made.and_then(|(reading, writing)| Ok((pipe::Sender::from_owned_fd(writing)?, reading))).map_err(failed)
}

pub(super) fn failed(error: io::Error) -> CriError {
    CriError::io("open a stream to", "container", error)
}

/// A terminal's master, or the writing end of a container's input: whatever the descriptor is. Clones share it.
#[derive(Clone)]
pub(super) struct Descriptor {
    fd: Arc<AsyncFd<OwnedFd>>,
}

impl Descriptor {
    /// The descriptor does not block already: the shim uses the same open file.
    pub(super) fn new(fd: OwnedFd) -> CriResult<Descriptor> {
        crate::shim::set_nonblocking(&fd);
        // SAFETY: an OwnedFd is one open descriptor from here until it is dropped.
        let fd = unsafe { AsyncFd::register(fd) }.map_err(|error| failed(error.into()))?;
        Ok(Descriptor { fd: Arc::new(fd) })
    }

    pub(super) fn resize(&self, size: TerminalSize) -> io::Result<()> {
        let size = libc::winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the structure is what the request reads, and it lives until the call returns.
        let result = unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TIOCSWINSZ, &size) };
        if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// The input of a container, whose end is told to the shim.
pub(super) struct Input {
    pub(super) input: Descriptor,
    pub(super) _end: InputEnd,
}

impl AsyncWrite for Input {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.input).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.input).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.input).poll_shutdown(context)
    }
}

impl AsyncRead for Descriptor {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.fd.poll_read_ready(context))?;
            let outcome = guard.try_io(|fd| match read(fd, buffer.initialize_unfilled()) {
                // A terminal whose other side is closed has ended.
                Err(Errno::EIO) => Ok(0),
                other => other.map_err(io::Error::from),
            });
            match outcome {
                Ok(Ok(length)) => {
                    buffer.advance(length);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Descriptor {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.fd.poll_write_ready(context))?;
            match guard.try_io(|fd| write(fd, bytes).map_err(io::Error::from)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(outcome) => return Poll::Ready(outcome),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The end of a terminal's input is a character, which is its user's to type.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
