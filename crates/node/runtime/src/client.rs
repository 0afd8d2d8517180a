//! The runtime's side of the shim protocol, over tokio.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fram_cri::CriError;
use nix::errno::Errno;
use thiserror::Error;
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::protocol::{self, ErrorKind, OLDEST, ProtocolError, Request, Response, VERSION};
use crate::shim::{SETUP_FILE, SOCKET};
use crate::wire;

/// How long a shim may take from its first step until it serves.
const START_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Error)]
pub(crate) enum ClientError {
    /// Nobody serves there: the shim is dead.
    #[error("connect to the shim in {dir:?}: {source}")]
    Connect { dir: PathBuf, source: io::Error },
    #[error("talk to the shim: {0}")]
    Io(#[from] io::Error),
    #[error("the shim has closed the connection")]
    Closed,
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    #[error("the shim answered {0} where it should not")]
    Unexpected(String),
    #[error("{message}")]
    Refused { kind: ErrorKind, message: String },
}

impl From<ClientError> for CriError {
    fn from(error: ClientError) -> CriError {
        let message = error.to_string();
        match error {
            ClientError::Refused { kind: ErrorKind::NotFound | ErrorKind::InvalidState, .. } => CriError::FailedPrecondition(message),
            ClientError::Refused { kind: ErrorKind::CannotRun, .. } => CriError::ContainerCannotRun(message),
            ClientError::Refused { kind: ErrorKind::Unsupported, .. } => CriError::Unimplemented(message),
            ClientError::Connect { .. } | ClientError::Closed | ClientError::Io(_) => CriError::Unavailable(message),
            _ => CriError::Internal(message),
        }
    }
}

pub(crate) struct Client {
    socket: UnixStream,
    /// What both sides understand.
    version: u32,
    input: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Client {
    /// Connects to the shim of the sandbox in `dir`, and agrees on a version. `Connect` means that the shim is dead.
    pub(crate) async fn connect(dir: &Path) -> Result<Client, ClientError> {
        Client::connect_and_send(dir, &[]).await
    }

    /// The same, with a question that need not wait for the version.
    async fn connect_and_send(dir: &Path, frame: &[u8]) -> Result<Client, ClientError> {
        let deadline = tokio::time::Instant::now() + START_TIMEOUT;
        loop {
            let error = match tokio::time::timeout_at(deadline, Client::try_connect(dir, frame)).await {
                Ok(Err(error @ ClientError::Connect { .. })) => error,
                Ok(other) => return other,
                Err(_) => return Err(ClientError::Io(io::ErrorKind::TimedOut.into())),
            };
            // It may not serve yet, or too many ask at once; for neither there is an event. A dead one never will.
            if !is_alive(dir) || tokio::time::Instant::now() >= deadline {
                return Err(error);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn try_connect(dir: &Path, frame: &[u8]) -> Result<Client, ClientError> {
        let failed = |source| ClientError::Connect { dir: dir.to_path_buf(), source };
        // A socket's path is limited to 107 bytes; through a descriptor of its directory any depth can be reached.
        let handle = std::fs::File::open(dir).map_err(failed)?;
        let path = format!("/proc/self/fd/{}/{SOCKET}", handle.as_raw_fd());
        let socket = UnixStream::connect(path).await.map_err(failed)?;
        let mut client = Client { socket, version: OLDEST, input: Vec::new(), fds: Vec::new() };
        let hello = protocol::encode(&Request::Hello { version: VERSION, oldest: OLDEST })?;
        client.send_bytes(&[&hello, frame].concat(), &[]).await?;
        match client.receive().await? {
            Response::Hello { version, oldest } => {
                client.version = protocol::negotiate(version, oldest)?;
                Ok(client)
            }
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn send(&mut self, request: &Request, fds: &[OwnedFd]) -> Result<(), ClientError> {
        self.send_bytes(&protocol::encode(request)?, fds).await
    }

    async fn send_bytes(&self, frame: &[u8], fds: &[OwnedFd]) -> Result<(), ClientError> {
        let mut raw: Vec<i32> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let mut sent = 0;
        while sent < frame.len() {
            let write = || wire::send(self.socket.as_fd(), &frame[sent..], &raw).map_err(io::Error::from);
            sent += self.socket.async_io(Interest::WRITABLE, write).await?;
            raw.clear();
        }
        Ok(())
    }

    /// The next answer; a refusal is an error. Safe to cancel.
    pub(crate) async fn receive(&mut self) -> Result<Response, ClientError> {
        loop {
            if let Some(response) = protocol::decode(&mut self.input)? {
                return match response {
                    Response::Error { kind, message } => Err(ClientError::Refused { kind, message }),
                    response => Ok(response),
                };
            }
            let (input, fds) = (&mut self.input, &mut self.fds);
            // The buffer is the closure's, so that a connection that waits does not carry it.
            let read = || {
                let mut buffer = [0; 16 * 1024];
                match wire::receive(self.socket.as_fd(), &mut buffer) {
                    Ok((length, received)) => {
                        input.extend_from_slice(&buffer[..length]);
                        fds.extend(received);
                        Ok(length)
                    }
                    Err(Errno::EINTR) => Err(io::ErrorKind::Interrupted.into()),
                    Err(error) => Err(io::Error::from(error)),
                }
            };
            match self.socket.async_io(Interest::READABLE, read).await {
                Ok(0) => return Err(ClientError::Closed),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What an attached connection does when its client's input ends. A container that takes its input once has had all of it, and
    /// its outputs go on; from any other the client goes (containerd's and CRI-O's attach do the same).
    pub(crate) fn ends_with_input(&self, once: bool) -> io::Result<InputEnd> {
        let socket = self.socket.as_fd().try_clone_to_owned()?;
        Ok(InputEnd { socket, once, version: self.version })
    }

    /// The oldest descriptor that came with an answer.
    pub(crate) fn take_fd(&mut self) -> Option<OwnedFd> {
        if self.fds.is_empty() { None } else { Some(self.fds.remove(0)) }
    }

    pub(crate) async fn ask(&mut self, request: &Request, fds: &[OwnedFd]) -> Result<Response, ClientError> {
        self.send(request, fds).await?;
        self.receive().await
    }
}

/// Dropped when a client's input has ended.
pub(crate) struct InputEnd {
    socket: OwnedFd,
    once: bool,
    version: u32,
}

impl Drop for InputEnd {
    fn drop(&mut self) {
        let told = match (self.once, self.version) {
            (false, _) => nix::sys::socket::shutdown(self.socket.as_raw_fd(), nix::sys::socket::Shutdown::Both),
            // A shim from before knows no end of input but the connection's.
            (true, ..2) => Ok(()),
            (true, _) => protocol::encode(&Request::CloseStdin)
                .map_err(|_| Errno::EINVAL)
                .and_then(|frame| wire::send(self.socket.as_fd(), &frame, &[]).map(drop)),
        };
        if let Err(error) = told {
            tracing::debug!(%error, "the end of an input could not be told; the shim may be gone");
        }
    }
}

/// Whether a shim is alive in that directory: it holds a lock from its first step to its last, also while it does not
/// serve yet. A directory without a setup never had one.
fn is_alive(dir: &Path) -> bool {
    std::fs::File::open(dir.join(SETUP_FILE)).is_ok_and(|file| matches!(file.try_lock(), Err(std::fs::TryLockError::WouldBlock)))
}

/// Waits until the shim in that directory is gone. Blocks.
pub(crate) fn wait_until_dead(dir: &Path) {
    if let Ok(file) = std::fs::File::open(dir.join(SETUP_FILE)) {
        // It can only fail where locks do not work at all, and there no shim has started.
        let _ = file.lock();
    }
}

/// One question on a connection of its own.
pub(crate) async fn ask(dir: &Path, request: &Request) -> Result<Response, ClientError> {
    ask_in_frame(dir, &protocol::encode(request)?).await
}

/// The same, of a question that all versions know. It goes along with the greeting, and the shim is woken once.
pub(crate) async fn ask_in_frame(dir: &Path, frame: &[u8]) -> Result<Response, ClientError> {
    Client::connect_and_send(dir, frame).await?.receive().await
}

pub(crate) fn unexpected(response: &Response) -> ClientError {
    ClientError::Unexpected(format!("{response:?}"))
}
