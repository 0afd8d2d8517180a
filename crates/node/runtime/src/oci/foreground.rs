//! Standing in for a process in front of a user: its terminal is shown on the user's, signals go on to it, and its exit is the caller's.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, read, write};

use super::{OciError, at, system};
use crate::wire;

/// What a user's terminal or service manager sends.
const FORWARDED: [Signal; 8] =
    [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGCONT, Signal::SIGWINCH];

/// The socket on which the master of a terminal comes.
pub(super) struct Console {
    pub(super) path: PathBuf,
    directory: PathBuf,
    listener: UnixListener,
}

impl Console {
    pub(super) fn listen() -> Result<Console, OciError> {
        let directory = std::env::temp_dir().join(format!("fram-oci-{}", std::process::id()));
        fs::create_dir(&directory).map_err(at("create", &directory))?;
        let path = directory.join("console.sock");
        let listener = UnixListener::bind(&path).map_err(at("bind", &path))?;
        Ok(Console { path, directory, listener })
    }

    pub(super) fn accept(self) -> Result<OwnedFd, OciError> {
        let received = self.listener.accept().and_then(|(stream, _)| {
            let mut name = [0; 64];
            Ok(wire::receive(stream.as_fd(), &mut name)?)
        });
        let (_, mut fds) = received.map_err(at("receive the terminal on", &self.path))?;
        fds.pop().ok_or_else(|| OciError::Container("no terminal was handed over".into()))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // A directory that stays behind is nobody's loss.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The user's terminal, which is as it was when this goes.
struct Raw {
    before: Option<Termios>,
}

impl Raw {
    fn enter() -> Raw {
        let before = tcgetattr(io::stdin()).ok();
        if let Some(mut now) = before.clone() {
            cfmakeraw(&mut now);
            // One that cannot be changed is used as it is.
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &now);
        }
        Raw { before }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, before);
        }
    }
}

/// Waits for a child, the first process of a container or one in it. Gives its exit code; 128 and the number where a signal ended it.
pub(super) fn wait(pid: i32, terminal: Option<OwnedFd>) -> Result<u8, OciError> {
    let mut set = SigSet::empty();
    FORWARDED.into_iter().chain([Signal::SIGCHLD]).for_each(|signal| set.add(signal));
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None).map_err(system("block signals"))?;
    let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(system("wait for signals"))?;
    let raw = terminal.as_ref().map(|_| Raw::enter());
    if let Some(terminal) = &terminal {
        resize(terminal.as_fd());
    }
    let code = relay(Pid::from_raw(pid), &signals, terminal.as_ref());
    drop(raw);
    code
}

fn relay(pid: Pid, signals: &SignalFd, terminal: Option<&OwnedFd>) -> Result<u8, OciError> {
    let stdin = io::stdin();
    let mut reads_input = terminal.is_some();
    let mut reads_output = terminal.is_some();
    loop {
        if let Some(code) = reap(pid)? {
            if let Some(terminal) = terminal.filter(|_| reads_output) {
                // Others that hold the terminal may write on for ever; what counts is what is there now.
                while is_readable(terminal.as_fd()) && copy(terminal.as_fd(), io::stdout().as_fd()) {}
            }
            return Ok(code);
        }
        let idle = signals.as_fd();
        let input = if reads_input { stdin.as_fd() } else { idle };
        let output = terminal.filter(|_| reads_output).map_or(idle, AsFd::as_fd);
        let mut fds = [idle, input, output].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            polled => polled.map_err(system("wait"))?,
        };
        let [came, typed, shown] = fds.map(|fd| fd.any().unwrap_or(false));
        if came {
            forward(pid, signals, terminal);
        }
        if let Some(terminal) = terminal {
            reads_input = reads_input && (!typed || copy(stdin.as_fd(), terminal.as_fd()));
            reads_output = reads_output && (!shown || copy(terminal.as_fd(), io::stdout().as_fd()));
        }
    }
}

/// Whether there is something to read now.
fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok() && fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLIN))
}

/// False at the end.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
    let mut buffer = [0; 16 * 1024];
    let Ok(length @ 1..) = read(from, &mut buffer) else { return false };
    let mut rest = &buffer[..length];
    while !rest.is_empty() {
        match write(to, rest) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
    true
}

fn forward(pid: Pid, signals: &SignalFd, terminal: Option<&OwnedFd>) {
    while let Ok(Some(info)) = signals.read_signal() {
        match Signal::try_from(info.ssi_signo as i32) {
            Ok(Signal::SIGCHLD) | Err(_) => {}
            Ok(Signal::SIGWINCH) => terminal.map(AsFd::as_fd).into_iter().for_each(resize),
            // One that has ended needs no signal.
            Ok(signal) => drop(kill(pid, signal)),
        }
    }
}

/// Gives the container's terminal the size of the user's.
fn resize(terminal: BorrowedFd<'_>) {
    // SAFETY: all zeros is a valid size.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one such structure, and reads it.
    unsafe {
        if libc::ioctl(libc::STDIN_FILENO, libc::TIOCGWINSZ, &mut size) == 0 {
            libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &size);
        }
    }
}

/// Takes in all children that have ended; the code of the one that counts.
fn reap(pid: Pid) -> Result<Option<u8>, OciError> {
    loop {
        // An exit code has eight bits.
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(ended, code)) if ended == pid => return Ok(Some(code as u8)),
            Ok(WaitStatus::Signaled(ended, signal, _)) if ended == pid => return Ok(Some(128 + signal as i32 as u8)),
            Ok(WaitStatus::StillAlive) => return Ok(None),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(system("wait for the process")(errno)),
        }
    }
}
