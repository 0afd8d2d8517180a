//! What libcontainer calls as the last thing in a container's process: privileges, then execve. A failure goes to the
//! shim through a pipe that execve would have closed, so that "started" is known and not guessed.

use std::ffi::CString;
use std::fmt::Display;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::sync::Arc;

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{Gid, Uid, execvp, setgroups, setresgid, setresuid, write};

use super::privileges;
use crate::seccomp::Instruction;
use crate::spec::Privileges;

#[derive(Clone)]
pub(super) struct ContainerExecutor {
    pub(super) privileges: Privileges,
    pub(super) filter: Vec<Instruction>,
    /// Writing end of the pipe, inherited; close-on-exec.
    pub(super) failure: RawFd,
    /// The user namespace to enter, where libcontainer has not: of processes that join it enters all but that one.
    pub(super) joins: Option<Arc<Join>>,
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
        // Whoever opens /dev/stdout anew, or the terminal, has to be its owner; /dev/null stays whose it is.
        for fd in 0..3 {
            // SAFETY: the standard streams are open for as long as the process is.
            let stream = unsafe { BorrowedFd::borrow_raw(fd) };
            let _ = super::is_own_stream(stream).then(|| nix::unistd::fchown(stream, self.owner.map(Uid::from_raw), None));
        }
        setns(self.namespace.as_fd(), CloneFlags::CLONE_NEWUSER)?;
        let groups: Vec<Gid> = self.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        setgroups(&groups)?;
        setresgid(gid, gid, gid)?;
        let change = || Ok(setresuid(uid, uid, uid)?);
        if self.keeps { privileges::keeping(change) } else { change() }
    }
}

impl ContainerExecutor {
    fn fail(&self, message: impl Display) -> ExecutorError {
        let message = message.to_string();
        // SAFETY: the descriptor was opened for this process before it was forked and is closed by nobody but execve.
        let pipe = unsafe { BorrowedFd::borrow_raw(self.failure) };
        // If the shim is gone there is nobody left to tell.
        let _ = write(pipe, message.as_bytes());
        ExecutorError::Other(message)
    }
}

impl Executor for ContainerExecutor {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let args = spec.process().as_ref().and_then(|process| process.args().as_ref());
        let args: Result<Vec<CString>, _> = args.into_iter().flatten().map(|arg| CString::new(arg.as_str())).collect();
        let args = args.map_err(|_| self.fail("an argument holds a zero byte"))?;
        let program = args.first().ok_or_else(|| self.fail("no command specified"))?;
        self.joins
            .as_ref()
            .map_or(Ok(()), |joins| joins.enter())
            .map_err(|error| self.fail(format_args!("enter the user namespace: {error}")))?;
        privileges::apply(&self.privileges, &self.filter).map_err(|error| self.fail(error))?;
        let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
        // SAFETY: the default disposition runs no code of this program.
        unsafe { sigaction(Signal::SIGPIPE, &default) }.map_err(|error| self.fail(error.desc()))?;
        let Err(error) = execvp(program, &args);
        Err(self.fail(format_args!("exec {:?}: {}", program.to_string_lossy(), error.desc())))
    }

    /// The check of libcontainer's own executor would report a missing command while the container is created; here
    /// that is told when it is started, by execve itself.
    fn validate(&self, _spec: &Spec) -> Result<(), ExecutorValidationError> {
        Ok(())
    }
}
