//! Making a container, or a process inside one, by another OCI runtime: runc, crun, or what else has their command line. What it
//! makes is orphaned when it ends, and comes to the shim, which is the subreaper. The container's root and what is mounted on it are
//! made before, as for the shim's own.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio as Given};

use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

use super::{Console, CreateError, Stdio, io_at};

/// Where hybrid machines have the hierarchy of version 2, which is no use to containers there: crun refuses what it cannot name.
const UNIFIED: &str = "/sys/fs/cgroup/unified";

pub(super) struct Other<'a> {
    pub(super) program: &'a Path,
    pub(super) container_id: &'a str,
    /// The container's directory: the bundle.
    pub(super) dir: &'a Path,
}

impl Other<'_> {
    /// Gives the first process' pid.
    pub(super) fn create(&self, stdio: Stdio, console: Option<&Console>) -> Result<i32, CreateError> {
        hide_unified();
        let pid_file = self.dir.join("pid");
        let mut args: Vec<&OsStr> =
            vec!["create".as_ref(), "--bundle".as_ref(), self.dir.as_ref(), "--pid-file".as_ref(), pid_file.as_ref()];
        if console.is_some() {
            args.extend(CONSOLE.map(OsStr::new));
        }
        args.push(self.container_id.as_ref());
        self.run(&args, stdio)?;
        let started = self.run(&["start".as_ref(), self.container_id.as_ref()], Stdio::default());
        if let Err(error) = started {
            // It failed to run; why is told already.
            let _ = self.run(&["delete".as_ref(), "--force".as_ref(), self.container_id.as_ref()], Stdio::default());
            return Err(error);
        }
        read_pid(&pid_file)
    }

    pub(super) fn exec(&self, process: &Path, scratch: &Path, stdio: Stdio, console: Option<&Console>) -> Result<i32, CreateError> {
        unshare(CloneFlags::CLONE_NEWNS).map_err(|errno| io_at("unshare the mounts for", self.dir)(errno.into()))?;
        super::rootfs::be_slave().map_err(|errno| io_at("make the mounts slaves for", self.dir)(errno.into()))?;
        hide_unified();
        let pid_file = scratch.join("pid");
        let flags: [&OsStr; 6] =
            ["exec".as_ref(), "--detach".as_ref(), "--process".as_ref(), process.as_ref(), "--pid-file".as_ref(), pid_file.as_ref()];
        let mut args = flags.to_vec();
        if console.is_some() {
            args.extend(CONSOLE.map(OsStr::new));
        }
        args.push(self.container_id.as_ref());
        self.run(&args, stdio)?;
        read_pid(&pid_file)
    }

    /// The container inherits the standard streams, so what the runtime itself has to say goes to a file.
    fn run(&self, args: &[&OsStr], stdio: Stdio) -> Result<(), CreateError> {
        let log = self.dir.join("runtime.log");
        let _ = fs::remove_file(&log);
        let given = |fd: Option<OwnedFd>| fd.map_or_else(Given::null, Given::from);
        let mut command = Command::new(self.program);
        command.arg("--root").arg(self.dir.join("oci")).arg("--log").arg(&log).args(["--log-format", "json"]).args(args);
        command.stdin(given(stdio.stdin)).stdout(given(stdio.stdout)).stderr(given(stdio.stderr));
        let status = command.status().map_err(io_at("run", self.program))?;
        if status.success() {
            return Ok(());
        }
        let said = last_error(&fs::read_to_string(&log).unwrap_or_default());
        Err(CreateError::Container(format!("{}: {}", self.program.display(), said.unwrap_or_else(|| status.to_string()))))
    }
}

/// Relative to the bundle, where the creator is: a socket's path is limited to 107 bytes.
const CONSOLE: [&str; 2] = ["--console-socket", "console.sock"];

fn hide_unified() {
    // Where it is not mounted there is nothing to hide.
    let _ = umount2(UNIFIED, MntFlags::MNT_DETACH);
}

fn read_pid(path: &PathBuf) -> Result<i32, CreateError> {
    let text = fs::read_to_string(path).map_err(io_at("read", path))?;
    text.trim().parse().map_err(|_| CreateError::Container(format!("{text:?} in {path:?} is no process id")))
}

/// The last message of a log in JSON lines.
fn last_error(log: &str) -> Option<String> {
    let message = |line: &str| Some(serde_json::from_str::<Value>(line).ok()?["msg"].as_str()?.to_owned());
    log.lines().rev().find_map(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_message_counts() {
        let log = "{\"level\":\"warning\",\"msg\":\"a\"}\n{\"level\":\"error\",\"msg\":\"b\"}\nnoise\n";
        assert_eq!((last_error(log), last_error("")), (Some("b".to_owned()), None));
    }
}
