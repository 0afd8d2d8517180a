//! The last steps of a process in a container, of the first one and of those that join it: streams, user, privileges, execve. A
//! failure goes to the creator over a socket that execve closes, so that "started" is known and not guessed.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::stat::fstat;
use nix::sys::statfs::{FsType, fstatfs};
use nix::unistd::{Gid, Pid, Uid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, execvp, fchown, setgroups, setresgid, setresuid};
use thiserror::Error;

use super::creator::Stdio;
use super::privileges::{self, PrivilegeError};
use crate::seccomp::Instruction;
use crate::spec::Privileges;
use crate::wire;

#[derive(Debug, Error)]
pub(super) enum ProcessError {
    #[error("{step}: {source}")]
    Step { step: &'static str, source: io::Error },
    #[error("{step} {path:?}: {source}")]
    Path { step: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Privileges(#[from] PrivilegeError),
    #[error("exec {program:?}: {}", source.desc())]
    Exec { program: String, source: Errno },
    #[error("{0}")]
    Refused(&'static str),
    #[error("{0}")]
    Hook(String),
}

pub(super) fn step<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> ProcessError {
    move |source| ProcessError::Step { step, source: source.into() }
}

pub(super) fn step_at<E: Into<io::Error>>(step: &'static str, path: &str) -> impl FnOnce(E) -> ProcessError {
    move |source| ProcessError::Path { step, path: path.into(), source: source.into() }
}

/// A user namespace, and who a process is in it and on the node.
pub(crate) struct Join {
    pub(crate) namespace: File,
    /// Who the user is on the node.
    pub(crate) owner: Option<u32>,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    /// Whether a user who is not root keeps root's capabilities, which are then limited to what was asked for.
    pub(crate) keeps: bool,
}

impl Join {
    pub(crate) fn enter(&self) -> io::Result<()> {
        give_streams(self.owner);
        setns(self.namespace.as_fd(), CloneFlags::CLONE_NEWUSER)?;
        let change = || become_user(self.uid, self.gid, &self.groups);
        if self.keeps { privileges::keeping(change) } else { change() }
    }
}

fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    let groups: Vec<Gid> = groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setgroups(&groups)?;
    setresgid(gid, gid, gid)?;
    Ok(setresuid(uid, uid, uid)?)
}

/// Whoever opens /dev/stdout anew, or the terminal, has to be its owner; /dev/null stays whose it is.
fn give_streams(owner: Option<u32>) {
    for fd in 0..3 {
        // SAFETY: the standard streams are open for as long as the process is.
        let stream = unsafe { BorrowedFd::borrow_raw(fd) };
        // A file system that knows no owners leaves it to root.
        let _ = super::is_own_stream(stream).then(|| fchown(stream, owner.map(Uid::from_raw), None));
    }
}

/// What a process is to become.
pub(super) struct Command {
    pub(super) args: Vec<CString>,
    pub(super) environment: Vec<CString>,
    pub(super) cwd: PathBuf,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    pub(super) privileges: Privileges,
    pub(super) filter: Vec<Instruction>,
    /// The user namespace to enter as the last one, of a process that joins a container.
    pub(super) joins: Option<Join>,
}

impl Command {
    /// Comes back only with an error.
    pub(super) fn execute(&self) -> ProcessError {
        self.prepare().err().unwrap_or_else(|| {
            let program = self.args.first().map(|program| program.to_string_lossy().into_owned()).unwrap_or_default();
            let Some(first) = self.args.first() else { return ProcessError::Refused("no command specified") };
            let Err(source) = execvp(first, &self.args);
            ProcessError::Exec { program, source }
        })
    }

    fn prepare(&self) -> Result<(), ProcessError> {
        // Before the user changes: what root may enter need not be open to others. Where root is nobody, its own user may.
        let entered = chdir(&self.cwd);
        match &self.joins {
            Some(join) => join.enter().map_err(step("enter the user namespace"))?,
            None => {
                give_streams((self.uid != 0).then_some(self.uid));
                let change = || become_user(self.uid, self.gid, &self.groups);
                privileges::keeping(change).map_err(step("change the user"))?;
            }
        }
        if entered.is_err() {
            chdir(&self.cwd).map_err(|errno| step_at("enter the working directory", &self.cwd.to_string_lossy())(errno))?;
        }
        close_others()?;
        if self.privileges.no_new_privs {
            // SAFETY: takes numbers only.
            let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
            Errno::result(result).map_err(step("set no_new_privs"))?;
        }
        // A directory outside of the root, reached through a descriptor that was open a moment ago, has no path (CVE-2024-21626).
        std::env::current_dir().map_err(|_| ProcessError::Refused("the working directory is outside of the container"))?;
        privileges::apply(&self.privileges, &self.filter)?;
        let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
        // SAFETY: the default disposition runs no code of this program.
        unsafe { sigaction(Signal::SIGPIPE, &default) }.map_err(step("reset signals"))?;
        self.set_environment();
        Ok(())
    }

    /// execvp(3) looks for the command along the path of the process' own environment.
    fn set_environment(&self) {
        unsafe extern "C" {
            static mut environ: *const *const libc::c_char;
        }
        let pointers: Vec<*const libc::c_char> = self.environment.iter().map(|v| v.as_ptr()).chain([std::ptr::null()]).collect();
        // SAFETY: the process has one thread; the array, which ends with a null, is never freed, and the texts outlive execve.
        unsafe { environ = pointers.leak().as_ptr() };
    }
}

/// No descriptor of the shim is left to the command, whoever opened it and how.
fn close_others() -> Result<(), ProcessError> {
    // SAFETY: takes numbers only; closed is at execve, which the failure line needs.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Errno::result(result).map(drop).map_err(step("close what the shim has open"))
}

/// Puts the process' own streams in the places of the shim's.
pub(super) fn take_streams(stdio: &Stdio) -> Result<(), ProcessError> {
    let failed = |errno| step("take the standard streams")(errno);
    stdio.stdin.as_ref().map_or(Ok(()), dup2_stdin).map_err(failed)?;
    stdio.stdout.as_ref().map_or(Ok(()), dup2_stdout).map_err(failed)?;
    stdio.stderr.as_ref().map_or(Ok(()), dup2_stderr).map_err(failed)
}

const DEVPTS: FsType = FsType(0x1cd1);

/// A terminal of the container's own, which becomes the process' streams: its master goes to the creator, its other side is returned.
pub(super) fn take_terminal(line: &Line) -> Result<OwnedFd, ProcessError> {
    let failed = |step| move |error: io::Error| ProcessError::Step { step, source: error };
    let open = std::fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY | libc::O_NOFOLLOW).open("/dev/pts/ptmx");
    let master = open.map_err(failed("open a terminal"))?;
    // What is there is the container's to choose (CVE-2025-52565).
    let is_master = fstat(&master).is_ok_and(|of| of.st_ino == 2 && of.st_rdev == libc::makedev(5, 2));
    if !is_master || fstatfs(&master).is_ok_and(|of| of.filesystem_type() != DEVPTS) {
        return Err(ProcessError::Refused("the container's /dev/pts/ptmx makes no terminals"));
    }
    let unlocked: libc::c_int = 0;
    // SAFETY: the kernel reads an int from a place that holds one.
    Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &unlocked) }).map_err(step("unlock the terminal"))?;
    // SAFETY: takes numbers only. By its name it could be another's.
    let slave = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC) };
    Errno::result(slave).map_err(step("open the terminal's other side"))?;
    // SAFETY: the kernel has just made this descriptor.
    let slave = unsafe { OwnedFd::from_raw_fd(slave) };
    // SAFETY: takes numbers only. The process leads a session without a terminal.
    Errno::result(unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) }).map_err(step("take the terminal"))?;
    let copy = |of: &OwnedFd| of.try_clone().map(Some).map_err(failed("copy the terminal"));
    take_streams(&Stdio { stdin: copy(&slave)?, stdout: copy(&slave)?, stderr: copy(&slave)? })?;
    line.hand_over(&master)?;
    Ok(slave)
}

/// The process' end of what it tells its creator. Closed by execve.
pub(super) struct Line(OwnedFd);

/// The creator's end.
pub(super) struct Listener(OwnedFd);

/// What comes over it.
pub(super) enum Said {
    Failed(String),
    Terminal(OwnedFd),
    /// The namespaces are there, and the root is not yet entered: the process waits for `go_on`.
    Ready,
    /// Of a process that was made by another one.
    Pid(Pid),
    /// It has become the command, or is dead.
    Closed,
}

const FAILED: u8 = b'!';
const TERMINAL: u8 = b't';
const READY: u8 = b'r';
const PID: u8 = b'p';

pub(super) fn line() -> io::Result<(Listener, Line)> {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    Ok((Listener(ours), Line(theirs)))
}

impl Line {
    fn send(&self, message: &[u8], fds: &[i32]) -> Result<(), ProcessError> {
        wire::send(self.0.as_fd(), message, fds).map(drop).map_err(step("tell the creator"))
    }

    pub(super) fn fail(&self, error: &ProcessError) {
        let mut message = vec![FAILED];
        message.extend(error.to_string().into_bytes());
        // If the creator is gone there is nobody left to tell.
        let _ = self.send(&message, &[]);
    }

    fn hand_over(&self, terminal: &impl AsRawFd) -> Result<(), ProcessError> {
        self.send(&[TERMINAL], &[terminal.as_raw_fd()])
    }

    pub(super) fn tell_pid(&self, pid: Pid) -> Result<(), ProcessError> {
        let mut message = vec![PID];
        message.extend(pid.as_raw().to_le_bytes());
        self.send(&message, &[])
    }

    /// Says that it is ready, and waits until it may go on.
    pub(super) fn wait(&self) -> Result<(), ProcessError> {
        self.send(&[READY], &[])?;
        let mut byte = [0; 1];
        match wire::receive(self.0.as_fd(), &mut byte) {
            Ok((1, _)) => Ok(()),
            Ok(_) => Err(ProcessError::Refused("the creator gave up")),
            Err(errno) => Err(step("hear of the creator")(errno)),
        }
    }
}

impl Listener {
    pub(super) fn hear(&self) -> io::Result<Said> {
        let mut buffer = vec![0; 16 * 1024];
        let (length, mut fds) = wire::receive(self.0.as_fd(), &mut buffer)?;
        let Some((kind, rest)) = buffer[..length].split_first() else { return Ok(Said::Closed) };
        Ok(match (*kind, fds.pop(), rest.first_chunk::<4>()) {
            (TERMINAL, Some(terminal), _) => Said::Terminal(terminal),
            (PID, _, Some(pid)) => Said::Pid(Pid::from_raw(i32::from_le_bytes(*pid))),
            (READY, ..) => Said::Ready,
            _ => Said::Failed(String::from_utf8_lossy(rest).into_owned()),
        })
    }

    pub(super) fn go_on(&self) -> io::Result<()> {
        wire::send(self.0.as_fd(), b"g", &[])?;
        Ok(())
    }
}

/// The exit code of a child of the creator whose work came to an error.
pub(super) fn end(line: &Line, error: &ProcessError) -> i32 {
    line.fail(error);
    1
}
