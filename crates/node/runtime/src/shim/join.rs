//! A process that joins a running container: a child of the shim in the namespaces and the cgroup of the container's first process.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::unistd::{Pid, setsid};

use super::creator::Stdio;
use super::process::{Command, Line, ProcessError, end, step, take_streams, take_terminal};
use crate::cgroup::Entrances;

/// The container to join.
pub(super) struct Target<'a> {
    /// Its first process, which cannot be taken for another one by its number.
    pub(super) first: BorrowedFd<'a>,
    pub(super) cgroup: Entrances,
    /// The hierarchy of version 2 is seen through a namespace.
    pub(super) cgroup_namespace: bool,
}

/// A descriptor of a process (pidfd_open(2)).
pub(super) fn open_process(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel has just made this descriptor; it fits an int.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Makes the process; it lives on where the caller ends. The network, IPC and UTS namespaces are the shim's own.
pub(super) fn join(target: &Target<'_>, command: &Command, stdio: Stdio, terminal: bool, line: Line) -> Result<Pid, ProcessError> {
    hide()?;
    // Before the fork, which the container's limit of processes counts.
    target.cgroup.enter().map_err(step("enter the container's cgroup"))?;
    let mut flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
    flags.set(CloneFlags::CLONE_NEWCGROUP, target.cgroup_namespace);
    // A pid namespace is that of children only, so the last fork comes behind it.
    setns(target.first, flags).map_err(step("join the container's namespaces"))?;
    let child = || {
        let error = become_it(&stdio, terminal, &line).err().unwrap_or_else(|| command.execute());
        end(&line, &error)
    };
    target.cgroup.spawn(child).map_err(step("fork"))
}

fn become_it(stdio: &Stdio, terminal: bool, line: &Line) -> Result<(), ProcessError> {
    setsid().map_err(step("setsid"))?;
    if terminal { take_terminal(line).map(drop) } else { take_streams(stdio) }
}

/// Nobody in the container may look into a process of the shim that is about to join: it has more open and more rights than the
/// container. execve ends it.
pub(super) fn hide() -> Result<(), ProcessError> {
    // SAFETY: takes numbers only.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) }).map(drop).map_err(step("become undumpable"))
}
