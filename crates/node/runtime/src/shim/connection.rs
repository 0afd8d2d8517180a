//! One client of the shim: buffers in both directions, so that the shim never waits for anybody.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;

use crate::protocol::{self, ErrorKind, ProtocolError, Request, Response};
use crate::wire;

/// What the connection is used for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Role {
    Asking,
    Watching,
    /// With the pid, once it runs.
    Exec(Option<i32>),
    Attached(String),
}

pub(super) struct Connection {
    socket: UnixStream,
    input: Vec<u8>,
    fds: VecDeque<OwnedFd>,
    output: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    pub(super) role: Role,
}

impl Connection {
    pub(super) fn new(socket: UnixStream) -> std::io::Result<Connection> {
        socket.set_nonblocking(true)?;
        let (input, fds, output) = (Vec::new(), VecDeque::new(), VecDeque::new());
        Ok(Connection { socket, input, fds, output, role: Role::Asking })
    }

    pub(super) fn raw(&self) -> i32 {
        self.socket.as_raw_fd()
    }

    pub(super) fn wants_to_write(&self) -> bool {
        !self.output.is_empty()
    }

    /// Takes in what has come; false when the other side is gone.
    pub(super) fn fill(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        loop {
            match wire::receive(self.socket.as_fd(), &mut buffer) {
                Ok((0, _)) => return false,
                Ok((length, fds)) => {
                    self.input.extend_from_slice(&buffer[..length]);
                    self.fds.extend(fds);
                }
                Err(Errno::EAGAIN) => return true,
                Err(Errno::EINTR) => {}
                Err(_) => return false,
            }
        }
    }

    pub(super) fn next(&mut self) -> Result<Option<Request>, ProtocolError> {
        protocol::decode(&mut self.input)
    }

    /// The oldest descriptor that came along, if `wanted`.
    pub(super) fn take_fd(&mut self, wanted: bool) -> Option<OwnedFd> {
        if wanted { self.fds.pop_front() } else { None }
    }

    pub(super) fn send(&mut self, response: &Response, fds: Vec<OwnedFd>) {
        match protocol::encode(response) {
            Ok(frame) => self.output.push_back((frame, fds)),
            Err(error) => {
                let response = Response::Error { kind: ErrorKind::Internal, message: error.to_string() };
                self.output.extend(protocol::encode(&response).map(|frame| (frame, Vec::new())));
            }
        }
        self.flush();
    }

    /// Writes what the socket takes. A client that is gone shows when reading.
    pub(super) fn flush(&mut self) {
        while let Some((frame, fds)) = self.output.front_mut() {
            let raw: Vec<i32> = fds.iter().map(AsRawFd::as_raw_fd).collect();
            match wire::send(self.socket.as_fd(), frame, &raw) {
                Ok(sent) => {
                    fds.clear();
                    frame.drain(..sent);
                    if frame.is_empty() {
                        self.output.pop_front();
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Err(_) => self.output.clear(),
            }
        }
    }
}
