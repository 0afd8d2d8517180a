//! The last steps in a container's process, which libcontainer calls: whether there is something to execute, when the container is
//! created; the hooks in the container, its rights and execve, when it is started.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fmt::Display;
use std::os::fd::{BorrowedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libcontainer::oci_spec::runtime::{Hook, Spec};
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{AccessFlags, access, execvp, write};
use serde_json::Value;

use super::bundle::Confinement;
use super::hooks;
use crate::shim::{Join, privileges};

#[derive(Clone)]
pub(super) struct OciExecutor {
    pub(super) confinement: Confinement,
    /// Inherited and close-on-exec: what comes out of its other end is why execve failed.
    pub(super) failure: RawFd,
    pub(super) start_hooks: Vec<Hook>,
    /// What these are told.
    pub(super) state: Value,
    /// The user namespace to enter: libcontainer enters all the others of a container that a process joins.
    pub(super) joins: Option<Arc<Join>>,
}

impl OciExecutor {
    fn fail(&self, message: impl Display) -> ExecutorError {
        let message = message.to_string();
        // SAFETY: the descriptor was opened for this process before it was forked and is closed by nobody but execve.
        let line = unsafe { BorrowedFd::borrow_raw(self.failure) };
        // Where nobody reads, nobody is to be told.
        let _ = write(line, message.as_bytes());
        ExecutorError::Other(message)
    }

    fn run_hooks(&self) -> Result<(), super::OciError> {
        let mut state = self.state.clone();
        state["pid"] = std::process::id().into();
        let environment: BTreeMap<String, String> = std::env::vars().collect();
        hooks::run("startContainer", &self.start_hooks, &state, None, &environment)
    }
}

/// Where a command is, as execvp(3) will look for it.
fn find(command: &str, path: &str, is_executable: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    if command.contains('/') {
        return Some(PathBuf::from(command)).filter(|path| is_executable(path));
    }
    path.split(':').map(|directory| Path::new(directory).join(command)).find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && access(path, AccessFlags::X_OK).is_ok()
}

impl Executor for OciExecutor {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let args = spec.process().as_ref().and_then(|process| process.args().as_ref());
        let args: Result<Vec<CString>, _> = args.into_iter().flatten().map(|arg| CString::new(arg.as_str())).collect();
        let args = args.map_err(|_| self.fail("an argument holds a zero byte"))?;
        let program = args.first().ok_or_else(|| self.fail("process.args must not be empty"))?;
        self.run_hooks().map_err(|error| self.fail(error))?;
        let entered = self.joins.as_ref().map_or(Ok(()), |joins| joins.enter());
        entered.map_err(|error| self.fail(format_args!("enter the user namespace: {error}")))?;
        self.confinement.apply().map_err(|error: privileges::PrivilegeError| self.fail(error))?;
        let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
        // SAFETY: the default disposition runs no code of this program.
        unsafe { sigaction(Signal::SIGPIPE, &default) }.map_err(|error| self.fail(error.desc()))?;
        let Err(error) = execvp(program, &args);
        Err(self.fail(format_args!("exec {:?}: {}", program.to_string_lossy(), error.desc())))
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let Some(process) = spec.process() else { return Ok(()) };
        let refused = |message: String| {
            let _ = self.fail(&message);
            Err(ExecutorValidationError::ArgValidationError(message))
        };
        let Some(command) = process.args().as_ref().and_then(|args| args.first()) else {
            return refused("process.args must not be empty".into());
        };
        let given = |variable: &String| variable.strip_prefix("PATH=").map(str::to_owned);
        let path = process.env().iter().flatten().find_map(given).unwrap_or_default();
        if find(command, &path, is_executable).is_some() {
            return Ok(());
        }
        // Words that podman and docker know an exit code for.
        match command.contains('/') {
            true if Path::new(command).exists() => refused(format!("exec: {command:?}: permission denied")),
            true => refused(format!("exec: {command:?}: stat {command}: no such file or directory")),
            false => refused(format!("exec: {command:?}: executable file not found in $PATH")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_looked_for_along_the_path_unless_it_names_a_place() {
        let there = |path: &Path| [Path::new("/bin/a"), Path::new("/sbin/b")].contains(&path);
        for (command, expect) in [("a", Some("/bin/a")), ("b", Some("/sbin/b")), ("/bin/a", Some("/bin/a")), ("c", None), ("/c", None)] {
            assert_eq!(find(command, "/bin:/sbin", there).as_deref(), expect.map(Path::new), "{command}");
        }
        assert_eq!(find("a", "", there), None);
    }
}
