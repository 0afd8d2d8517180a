//! Making a container, or a process inside one: in a child of the shim that lives a few milliseconds, since that changes the process
//! that does it (mount namespace, oom_score_adj, dumpable, working directory), and what it allocates would stay with the shim for the
//! pod's life. The container's process itself becomes a child of the shim.

mod native;
mod other;

use std::error::Error;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use fram_cri::ContainerUser;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{ForkResult, Pid, fork};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;

use super::process::ProcessError;
use super::rootfs::{self, RootfsError};
use crate::cgroup::Cgroups;
use crate::protocol::{Exec, StartContainer};
use crate::spec::{UserError, home, resolve_user};
use crate::wire;
use other::Other;

/// The child's ends of a process' pipes; all `None` with a terminal.
#[derive(Default)]
pub(super) struct Stdio {
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
}

/// What the creator tells the shim before it ends. A terminal's master comes along.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    Running { pid: i32, user: ContainerUser, warnings: Vec<String> },
    Failed { message: String },
}

#[derive(Debug, Error)]
enum CreateError {
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    #[error(transparent)]
    User(#[from] UserError),
    #[error("{operation} {path:?}: {source}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("specification {path:?} is not understood: {source}")]
    Spec { path: PathBuf, source: serde_json::Error },
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("{0}")]
    Container(String),
}

/// An error with its causes.
pub(crate) fn causes(error: &dyn Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message.push_str(": ");
        message.push_str(&error.to_string());
        cause = error.source();
    }
    message
}

fn io_at(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CreateError {
    let path = path.to_path_buf();
    move |source| CreateError::Io { operation, path, source }
}

/// A creator at work: its pid until it is reaped, and the line on which its report comes.
pub(super) struct Creator {
    pub(super) pid: Option<Pid>,
    pub(super) line: OwnedFd,
}

/// Forks a child that makes the container.
pub(super) fn start(request: &StartContainer, cgroups: &Cgroups, pid_path: Option<PathBuf>, stdio: Stdio) -> io::Result<Creator> {
    in_child(|| create(request, cgroups, pid_path, stdio))
}

/// The same for a process inside a container, whose first process is `init`.
pub(super) fn exec(request: &Exec, container: &Joinable<'_>, stdio: Stdio) -> io::Result<Creator> {
    in_child(|| {
        inherit_oom_score(container.init);
        match &request.runtime {
            Some(program) => join_by(program, request, container.dir, stdio),
            None => native::join(request, container, stdio),
        }
    })
}

/// A running container.
pub(super) struct Joinable<'a> {
    pub(super) dir: &'a Path,
    /// Its first process, by a descriptor that stands for no other, and by its number.
    pub(super) first: OwnedFd,
    pub(super) init: i32,
    pub(super) cgroup: &'a str,
    pub(super) cgroups: &'a Cgroups,
}

type Made = (Report, Option<OwnedFd>);

fn in_child(work: impl FnOnce() -> Result<Made, CreateError>) -> io::Result<Creator> {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    // SAFETY: the shim has one thread, so the child may do whatever the parent may.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Creator { pid: Some(child), line: ours }),
        ForkResult::Child => {
            drop(ours);
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                default_signals()?;
                work()
            }));
            let (report, terminal) = match outcome {
                Ok(Ok(made)) => made,
                Ok(Err(error)) => (Report::Failed { message: error.to_string() }, None),
                Err(_) => (Report::Failed { message: "the creator of the container panicked".into() }, None),
            };
            let json = serde_json::to_vec(&report).unwrap_or_default();
            let fds: Vec<i32> = terminal.iter().map(AsRawFd::as_raw_fd).collect();
            // A shim that is gone has nobody to be told.
            let _ = wire::send(theirs.as_fd(), &json, &fds);
            // SAFETY: ends the process without running what belongs to the parent.
            unsafe { libc::_exit(0) }
        }
    }
}

/// The shim blocks SIGCHLD and ignores SIGPIPE; a container must start with neither. The second stays ignored until the container's
/// process executes its command: a hook that does not read what it is told would end the creator.
fn default_signals() -> Result<(), CreateError> {
    let failed = |error: nix::Error| CreateError::Container(format!("reset signals: {}", error.desc()));
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).map_err(failed)
}

fn create(request: &StartContainer, cgroups: &Cgroups, pid_path: Option<PathBuf>, stdio: Stdio) -> Result<Made, CreateError> {
    let mut spec = read_specification(&request.dir)?;
    if request.runtime.is_none() {
        native::make_cgroup(&mut spec, request, cgroups)?;
    }
    let root = rootfs::prepare(request, cgroups)?;
    let user = finish_specification(&mut spec, request, root.as_fd(), pid_path.as_deref())?;
    if let Some(ids) = request.ids {
        // Whoever opens /dev/stdout anew has to be its owner.
        let owner = ids.uid.checked_add(user.uid).map(nix::unistd::Uid::from_raw);
        for fd in [&stdio.stdin, &stdio.stdout, &stdio.stderr].into_iter().flatten() {
            let _ = super::is_own_stream(fd.as_fd()).then(|| nix::unistd::fchown(fd, owner, None));
        }
    }
    let warnings = request.oom_score_adj.and_then(adjust_oom_score).into_iter().collect();
    let (pid, terminal) = match &request.runtime {
        Some(program) => {
            let console = request.tty.then(|| Console::listen(&request.dir)).transpose()?;
            let pid = Other { program, container_id: &request.container_id, dir: &request.dir }.create(stdio, console.as_ref())?;
            (pid, console.map(Console::accept).transpose()?)
        }
        None => native::create(spec, request, cgroups, pid_path.as_deref(), stdio)?,
    };
    Ok((Report::Running { pid, user, warnings }, terminal))
}

/// A process by another runtime, which reads from files what it is to make.
fn join_by(program: &Path, request: &Exec, dir: &Path, stdio: Stdio) -> Result<Made, CreateError> {
    let process = joining(request, dir)?;
    let name = format!("exec-{}", std::process::id());
    let mut scratch = dir.join(&name);
    let mut prepared = prepare(&scratch, &process);
    // Where the disk is full or read-only, probes and whoever looks for the reason still get their process.
    if let Err(CreateError::Io { source, .. }) = &prepared
        && matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::QuotaExceeded)
    {
        let _ = fs::remove_dir_all(&scratch);
        scratch = Path::new(IN_MEMORY).join(format!("fram-{name}"));
        prepared = prepare(&scratch, &process);
    }
    let result = prepared.and_then(|()| {
        let console = request.tty.then(|| Console::listen(&scratch)).transpose()?;
        let other = Other { program, container_id: &request.container_id, dir };
        let pid = other.exec(&scratch.join(PROCESS), &scratch, stdio, console.as_ref())?;
        let terminal = console.map(Console::accept).transpose()?;
        Ok((Report::Running { pid, user: ContainerUser::default(), warnings: Vec::new() }, terminal))
    });
    // What is left of it goes with the container at the latest, or with the machine's next start.
    let _ = fs::remove_dir_all(&scratch);
    result
}

/// A file system of the machine that no disk is behind, and that is root's; see the File System Hierarchy Standard.
const IN_MEMORY: &str = "/run";

/// The process of a request as a specification has it.
fn joining(request: &Exec, dir: &Path) -> Result<Value, CreateError> {
    let mut process = read_specification(dir)?["process"].take();
    process["args"] = json!(request.args);
    process["terminal"] = json!(request.tty);
    if let Some(environment) = process["env"].as_array_mut()
        && request.tty
        && !environment.iter().any(|variable| variable.as_str().is_some_and(|text| text.starts_with("TERM=")))
    {
        environment.push("TERM=xterm".into());
    }
    Ok(process)
}

fn prepare(scratch: &Path, process: &Value) -> Result<(), CreateError> {
    fs::create_dir_all(scratch).map_err(io_at("create", scratch))?;
    let path = scratch.join(PROCESS);
    fs::write(&path, process.to_string()).map_err(io_at("write", &path))
}

const PROCESS: &str = "process.json";

fn read_specification(dir: &Path) -> Result<Value, CreateError> {
    let path = dir.join("config.json");
    let json = fs::read(&path).map_err(io_at("read", &path))?;
    serde_json::from_slice(&json).map_err(|source| CreateError::Spec { path, source })
}

/// Writes into the specification what only the mounted root and the running sandbox can tell.
fn finish_specification(
    spec: &mut Value,
    request: &StartContainer,
    root: BorrowedFd<'_>,
    pid_path: Option<&Path>,
) -> Result<ContainerUser, CreateError> {
    let passwd = rootfs::read_in_root(root, "etc/passwd")?;
    let group = rootfs::read_in_root(root, "etc/group")?;
    let user = resolve_user(&request.user, &passwd, &group)?;
    spec["process"]["user"] = json!({ "uid": user.uid, "gid": user.gid, "additionalGids": user.supplemental_groups });
    if let Some(environment) = spec["process"]["env"].as_array_mut()
        && !environment.iter().any(|variable| variable.as_str().is_some_and(|text| text.starts_with("HOME=")))
    {
        environment.push(format!("HOME={}", home(&passwd, user.uid)).into());
    }
    if let Some(path) = pid_path
        && let Some(namespaces) = spec["linux"]["namespaces"].as_array_mut()
    {
        namespaces.push(json!({ "type": "pid", "path": path }));
    }
    if let Some(cwd) = spec["process"]["cwd"].as_str() {
        let cwd = Path::new(cwd);
        rootfs::make_directories(root, cwd).map_err(io_at("make the working directory", cwd))?;
    }
    if request.ids.is_some() {
        spec["root"]["path"] = json!(rootfs::show(&request.rootfs.target)?);
    }
    let path = request.dir.join("config.json");
    // As a new file: what is written over another one, file systems send to the disk at once.
    fs::remove_file(&path).and_then(|()| fs::write(&path, spec.to_string())).map_err(io_at("write", &path))?;
    Ok(user)
}

const OOM_SCORE_ADJ: &str = "/proc/self/oom_score_adj";

/// A process that joins a container is as dear to the kernel as those inside, not as the shim.
fn inherit_oom_score(init: i32) {
    if let Ok(score) = fs::read(format!("/proc/{init}/oom_score_adj")) {
        // It is not lower than what this process may have, as the container got it the same way.
        let _ = fs::write(OOM_SCORE_ADJ, score);
    }
}

/// Sets the score that the container inherits. Lowering it takes CAP_SYS_RESOURCE; without that it stays, and the
/// answer says so.
fn adjust_oom_score(wanted: i32) -> Option<String> {
    let error = fs::write(OOM_SCORE_ADJ, wanted.to_string()).err()?;
    let kept = fs::read_to_string(OOM_SCORE_ADJ).unwrap_or_default();
    Some(format!("oom_score_adj {wanted} cannot be set ({error}): it stays at {}", kept.trim()))
}

/// The socket on which another runtime hands over the master of a terminal.
struct Console {
    path: PathBuf,
    listener: UnixListener,
}

impl Console {
    fn listen(dir: &Path) -> Result<Console, CreateError> {
        let path = dir.join("console.sock");
        // A socket's path is limited to 107 bytes, a file name is not likely to be.
        std::env::set_current_dir(dir).map_err(io_at("enter", dir))?;
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind("console.sock").map_err(io_at("bind", &path))?;
        Ok(Console { path, listener })
    }

    fn accept(self) -> Result<OwnedFd, CreateError> {
        let failed = io_at("receive the terminal on", &self.path);
        let received = self.listener.accept().and_then(|(stream, _)| {
            let mut byte = [0; 64];
            Ok(wire::receive(stream.as_fd(), &mut byte)?)
        });
        let _ = fs::remove_file(&self.path);
        let (_, mut fds) = received.map_err(failed)?;
        fds.pop().ok_or_else(|| CreateError::Container("no terminal was handed over".into()))
    }
}

/// Reads the report; `None` when the creator died without one.
pub(super) fn report(line: &OwnedFd) -> Option<(Report, Option<OwnedFd>)> {
    let mut buffer = vec![0; 64 * 1024];
    let (length, mut fds) = wire::receive(line.as_fd(), &mut buffer).ok()?;
    let report = serde_json::from_slice(&buffer[..length]).ok()?;
    Some((report, fds.pop()))
}

/// A descriptor of the standard streams as an owned one.
pub(super) fn null() -> io::Result<OwnedFd> {
    fs::OpenOptions::new().read(true).write(true).open("/dev/null").map(OwnedFd::from)
}
