//! The runtime's side of the shim protocol, over tokio.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use fram_cri::CriError;
use nix::errno::Errno;
use thiserror::Error;
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::protocol::{self, ErrorKind, OLDEST, ProtocolError, Request, Response, VERSION};
use crate::shim::SOCKET;
use crate::wire;

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
    input: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Client {
    /// Connects to the shim of the sandbox in `dir`, and agrees on a version.
    pub(crate) async fn connect(dir: &Path) -> Result<Client, ClientError> {
        let failed = |source| ClientError::Connect { dir: dir.to_path_buf(), source };
        // A socket's path is limited to 107 bytes; through a descriptor of its directory any depth can be reached.
        let handle = std::fs::File::open(dir).map_err(failed)?;
        let path = format!("/proc/self/fd/{}/{SOCKET}", handle.as_raw_fd());
        let socket = UnixStream::connect(path).await.map_err(failed)?;
        let mut client = Client { socket, input: Vec::new(), fds: Vec::new() };
        client.send(&Request::Hello { version: VERSION, oldest: OLDEST }, &[]).await?;
        match client.receive().await? {
            Response::Hello { version, oldest } => {
                protocol::negotiate(version, oldest)?;
                Ok(client)
            }
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn send(&mut self, request: &Request, fds: &[OwnedFd]) -> Result<(), ClientError> {
        let frame = protocol::encode(request)?;
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
            let mut buffer = [0; 16 * 1024];
            let read = || match wire::receive(self.socket.as_fd(), &mut buffer) {
                Err(Errno::EINTR) => Err(io::ErrorKind::Interrupted.into()),
                other => other.map_err(io::Error::from),
            };
            let (length, fds) = match self.socket.async_io(Interest::READABLE, read).await {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if length == 0 {
                return Err(ClientError::Closed);
            }
            self.input.extend_from_slice(&buffer[..length]);
            self.fds.extend(fds);
        }
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

/// One question on a connection of its own.
pub(crate) async fn ask(dir: &Path, request: &Request) -> Result<Response, ClientError> {
    Client::connect(dir).await?.ask(request, &[]).await
}

pub(crate) fn unexpected(response: &Response) -> ClientError {
    ClientError::Unexpected(format!("{response:?}"))
}
