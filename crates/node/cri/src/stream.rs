//! Streams of exec, attach and port-forward: byte halves in process, where the CRI's wire form hands out a URL.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use crate::error::CriError;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    pub width: u16,
    pub height: u16,
}

/// Which streams an exec or attach wants. With `tty` the terminal carries both outputs on stdout and `stderr` is ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecOptions {
    pub tty: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// Both directions of one connection.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A process' streams; those not asked for are `None`. Dropping `stdin` (or shutting it down) is end of input. Dropping
/// the whole of an exec hangs up: the process loses its input and, with a terminal, gets SIGHUP; an attach just detaches.
pub struct ContainerStream {
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Only with a terminal.
    pub resize: Option<mpsc::Sender<TerminalSize>>,
    /// The exit code (128 + signal when a signal ended it) of the exec's process, or of the container for an attach.
    /// Output may still be buffered when it resolves: read the outputs to their end.
    pub exit: Pin<Box<dyn Future<Output = Result<i32, CriError>> + Send>>,
}

impl fmt::Debug for ContainerStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContainerStream")
            .field("stdin", &self.stdin.is_some())
            .field("stdout", &self.stdout.is_some())
            .field("stderr", &self.stderr.is_some())
            .field("resize", &self.resize.is_some())
            .finish_non_exhaustive()
    }
}
