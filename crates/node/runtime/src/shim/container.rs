//! A container in the shim: its record, its output on the way to the log and to those attached, its input.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::{read, write};

use super::log::{self, Lines, LogFile, Stream};
use crate::durable::{self, DurableError, Sync};
use crate::protocol::{ContainerRun, StartContainer};

/// While somebody attached has this much unread, the container's output waits, as it would for a slow terminal.
const ATTACH_BUFFER: usize = 256 * 1024;
/// One who reads nothing for that long is cut off: a forgotten client must not hold a container up.
const ATTACH_STALL: Duration = Duration::from_secs(30);
/// Name of the record inside the container's directory.
pub(crate) const STATE_FILE: &str = "state.json";

struct Output {
    stream: Stream,
    fd: OwnedFd,
    lines: Lines,
}

/// One direction of one attached client.
struct Sink {
    connection: u64,
    stream: Stream,
    fd: OwnedFd,
    unread: VecDeque<u8>,
    progress: Instant,
}

pub(super) struct Container {
    pub(super) run: ContainerRun,
    pub(super) dir: PathBuf,
    pub(super) cgroup: String,
    pub(super) tty: bool,
    pub(super) stdin_once: bool,
    /// Writing end of standard input, or the terminal.
    pub(super) stdin: Option<OwnedFd>,
    log: Option<LogFile>,
    outputs: Vec<Output>,
    sinks: Vec<Sink>,
}

/// Our ends of a container's pipes, not blocking.
#[derive(Default)]
pub(super) struct Pipes {
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
}

impl Container {
    pub(super) fn new(request: &StartContainer, run: ContainerRun, pipes: Pipes, log: Option<LogFile>) -> Container {
        let output = |stream, fd: Option<OwnedFd>| fd.map(|fd| Output { stream, fd, lines: Lines::default() });
        let outputs = [output(Stream::Stdout, pipes.stdout), output(Stream::Stderr, pipes.stderr)];
        Container {
            run,
            dir: request.dir.clone(),
            cgroup: request.cgroup.clone(),
            tty: request.tty,
            stdin_once: request.stdin_once,
            stdin: pipes.stdin,
            log,
            outputs: outputs.into_iter().flatten().collect(),
            sinks: Vec::new(),
        }
    }

    pub(super) fn record(&self, sync: Sync) -> Result<(), DurableError> {
        record(&self.dir, &self.run, sync)
    }

    /// Descriptors to wait for, with what for: output to read, and sinks to write to.
    pub(super) fn interests(&self) -> impl Iterator<Item = (i32, i16)> + '_ {
        let held_up = self.sinks.iter().any(|sink| sink.unread.len() >= ATTACH_BUFFER);
        let outputs = self.outputs.iter().filter(move |_| !held_up).map(|output| (output.fd.as_raw_fd(), libc::POLLIN));
        let unread = self.sinks.iter().filter(|sink| !sink.unread.is_empty());
        outputs.chain(unread.map(|sink| (sink.fd.as_raw_fd(), libc::POLLOUT)))
    }

    /// When the first stalled sink is to be cut off.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let stalled = self.sinks.iter().filter(|sink| sink.unread.len() >= ATTACH_BUFFER);
        stalled.map(|sink| sink.progress + ATTACH_STALL).min()
    }

    /// Moves what can be moved without waiting.
    pub(super) fn pump(&mut self) {
        let ended = self.run.exit.is_some();
        // Closing a sink is how one attached learns of the end; what it has not read yet comes first.
        self.sinks.retain_mut(|sink| sink.flush() && !(ended && sink.unread.is_empty()));
        if self.sinks.iter().all(|sink| sink.unread.len() < ATTACH_BUFFER) {
            self.read_outputs(1);
        }
    }

    /// The container has ended: all that it wrote is in the pipes.
    pub(super) fn drain(&mut self) {
        // Bounded, because a process that escaped the kill could still be writing.
        self.read_outputs(4096);
        let time = log::now();
        let mut records = Vec::new();
        for mut output in std::mem::take(&mut self.outputs) {
            output.lines.finish(output.stream, &time, &mut records);
        }
        if let Some(log) = &mut self.log {
            log.write(&records);
        }
        self.sinks.retain_mut(|sink| sink.flush() && !sink.unread.is_empty());
        self.log = None;
        self.stdin = None;
    }

    fn read_outputs(&mut self, rounds: usize) {
        let mut buffer = [0; 32 * 1024];
        let mut records = Vec::new();
        let (log, sinks) = (&mut self.log, &mut self.sinks);
        self.outputs.retain_mut(|output| {
            for _ in 0..rounds {
                let length = match read(&output.fd, &mut buffer) {
                    Ok(0) => return finish(output, log, &mut records),
                    Ok(length) => length,
                    Err(Errno::EAGAIN) => return true,
                    Err(Errno::EINTR) => continue,
                    // A terminal whose other side is closed answers EIO.
                    Err(_) => return finish(output, log, &mut records),
                };
                let bytes = &buffer[..length];
                if let Some(log) = log {
                    records.clear();
                    output.lines.push(output.stream, bytes, &log::now(), &mut records);
                    log.write(&records);
                }
                for sink in sinks.iter_mut().filter(|sink| sink.stream == output.stream) {
                    sink.unread.extend(bytes);
                    sink.flush();
                }
            }
            true
        });
    }

    pub(super) fn attach(&mut self, connection: u64, stdout: Option<OwnedFd>, stderr: Option<OwnedFd>) {
        for (stream, fd) in [(Stream::Stdout, stdout), (Stream::Stderr, stderr)] {
            let sink = |fd| Sink { connection, stream, fd, unread: VecDeque::new(), progress: Instant::now() };
            self.sinks.extend(fd.map(sink));
        }
    }

    pub(super) fn detach(&mut self, connection: u64) {
        self.sinks.retain(|sink| sink.connection != connection);
    }

    pub(super) fn reopen_log(&mut self) -> std::io::Result<()> {
        self.log.as_mut().map_or(Ok(()), LogFile::reopen)
    }
}

fn finish(output: &mut Output, log: &mut Option<LogFile>, records: &mut Vec<u8>) -> bool {
    records.clear();
    output.lines.finish(output.stream, &log::now(), records);
    if let Some(log) = log {
        log.write(records);
    }
    false
}

impl Sink {
    /// False when the client does not read any more.
    fn flush(&mut self) -> bool {
        while !self.unread.is_empty() {
            let (front, _) = self.unread.as_slices();
            match write(self.fd.as_fd(), front) {
                Ok(sent) => {
                    self.unread.drain(..sent);
                    self.progress = Instant::now();
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    return self.unread.len() < ATTACH_BUFFER || self.progress.elapsed() < ATTACH_STALL;
                }
                Err(_) => return false,
            }
        }
        self.progress = Instant::now();
        true
    }
}

pub(super) fn record(dir: &Path, run: &ContainerRun, sync: Sync) -> Result<(), DurableError> {
    durable::write_json(&dir.join(STATE_FILE), run, sync)
}
