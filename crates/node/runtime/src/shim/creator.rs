//! Making a container, or a process inside one, by libcontainer: in a child of the shim that lives a few milliseconds.
//! libcontainer changes the process that calls it (mount namespace, oom_score_adj, dumpable, working directory), and
//! what it allocates would stay with the shim for the pod's life. The container itself becomes a child of the shim.

mod other;

use std::error::Error;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fram_cri::ContainerUser;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{ForkResult, Pid, fork, pipe2};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;

use super::executor::{ContainerExecutor, Join};
use super::rootfs::{self, RootfsError};
use crate::cgroup::Cgroups;
use crate::protocol::{Exec, IdRange, StartContainer};
use crate::seccomp::Instruction;
use crate::spec::{Privileges, UserError, resolve_user};
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
    #[error("{0}")]
    Container(String),
    /// execve failed.
    #[error("{0}")]
    Exec(String),
}

/// An error with its causes; libcontainer says what matters in the last one.
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

fn chain(error: &dyn Error) -> CreateError {
    CreateError::Container(causes(error))
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
pub(super) fn exec(request: &Exec, dir: &Path, init: i32, stdio: Stdio) -> io::Result<Creator> {
    in_child(|| {
        inherit_oom_score(init);
        join(request, dir, stdio)
    })
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
    rootfs::prepare(request, cgroups)?;
    let user = finish_specification(request, pid_path)?;
    if let Some(ids) = request.ids {
        // Whoever opens /dev/stdout anew has to be its owner.
        let owner = ids.uid.checked_add(user.uid).map(nix::unistd::Uid::from_raw);
        for fd in [&stdio.stdin, &stdio.stdout, &stdio.stderr].into_iter().flatten() {
            let _ = super::is_own_stream(fd.as_fd()).then(|| nix::unistd::fchown(fd, owner, None));
        }
    }
    let warnings = request.oom_score_adj.and_then(adjust_oom_score).into_iter().collect();
    if let Some(program) = &request.runtime {
        let console = request.tty.then(|| Console::listen(&request.dir)).transpose()?;
        let pid = Other { program, container_id: &request.container_id, dir: &request.dir }.create(stdio, console.as_ref())?;
        return Ok((Report::Running { pid, user, warnings }, console.map(Console::accept).transpose()?));
    }
    let mut line = FailureLine::new()?;
    let state = request.dir.join("oci");
    let console = request.tty.then(|| Console::listen(&request.dir)).transpose()?;
    let builder = builder(&request.container_id, &state, stdio, console.as_ref())?;
    let mut container = builder
        .with_executor(line.executor(request.privileges, &request.seccomp))
        .as_init(&request.dir)
        .with_systemd(false)
        .as_sibling(true)
        .build()
        .map_err(|error| chain(&error))?;
    let terminal = console.map(Console::accept).transpose()?;
    container.start().map_err(|error| chain(&error))?;
    line.wait()?;
    let pid = container.pid().map_or(0, |pid| pid.as_raw());
    Ok((Report::Running { pid, user, warnings }, terminal))
}

fn join(request: &Exec, dir: &Path, stdio: Stdio) -> Result<Made, CreateError> {
    let (process, joins) = joining(request, dir)?;
    let name = format!("exec-{}", std::process::id());
    let mut scratch = dir.join(&name);
    let mut prepared = prepare(request, dir, &scratch, &process);
    // Where the disk is full or read-only, probes and whoever looks for the reason still get their process.
    if let Err(CreateError::Io { source, .. }) = &prepared
        && matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::QuotaExceeded)
    {
        let _ = fs::remove_dir_all(&scratch);
        scratch = Path::new(IN_MEMORY).join(format!("fram-{name}"));
        prepared = prepare(request, dir, &scratch, &process);
    }
    let result = prepared.and_then(|()| join_from(request, dir, &scratch, joins, stdio));
    // What is left of it goes with the container at the latest, or with the machine's next start.
    let _ = fs::remove_dir_all(&scratch);
    result
}

/// A file system of the machine that no disk is behind, and that is root's; see the File System Hierarchy Standard.
const IN_MEMORY: &str = "/run";

/// The process of a request as a specification has it, and the user namespace that it joins.
fn joining(request: &Exec, dir: &Path) -> Result<(Value, Option<Arc<Join>>), CreateError> {
    let mut process = read_specification(dir)?["process"].take();
    process["args"] = json!(request.args);
    process["terminal"] = json!(request.tty);
    if let Some(environment) = process["env"].as_array_mut()
        && request.tty
        && !environment.iter().any(|variable| variable.as_str().is_some_and(|text| text.starts_with("TERM=")))
    {
        environment.push("TERM=xterm".into());
    }
    let joins = request.ids.map(|ids| joined(&mut process, ids, dir)).transpose()?;
    Ok((process, joins))
}

/// libcontainer leaves a socket behind for each process that it starts in a container, under the directory where it
/// looks for the container's state: so it gets a directory of its own, with a link to the state.
fn prepare(request: &Exec, dir: &Path, scratch: &Path, process: &Value) -> Result<(), CreateError> {
    let state = scratch.join(&request.container_id);
    fs::create_dir_all(&state).map_err(io_at("create", &state))?;
    let process_path = scratch.join(PROCESS);
    fs::write(&process_path, process.to_string()).map_err(io_at("write", &process_path))?;
    let original = dir.join("oci").join(&request.container_id).join("state.json");
    std::os::unix::fs::symlink(original, state.join("state.json")).map_err(io_at("link the state in", &state))
}

const PROCESS: &str = "process.json";

fn join_from(request: &Exec, dir: &Path, scratch: &Path, joins: Option<Arc<Join>>, stdio: Stdio) -> Result<Made, CreateError> {
    let (id, process_path) = (&request.container_id, scratch.join(PROCESS));
    let console = request.tty.then(|| Console::listen(scratch)).transpose()?;
    if let Some(program) = &request.runtime {
        let pid = Other { program, container_id: id, dir }.exec(&process_path, scratch, stdio, console.as_ref())?;
        let terminal = console.map(Console::accept).transpose()?;
        return Ok((Report::Running { pid, user: ContainerUser::default(), warnings: Vec::new() }, terminal));
    }
    let mut line = FailureLine::new()?;
    let built = builder(id, scratch, stdio, console.as_ref())?
        .with_executor(ContainerExecutor { joins, ..line.executor(request.privileges, &request.seccomp) })
        .as_tenant()
        .with_detach(true)
        .as_sibling(true)
        .with_process(Some(process_path))
        .build();
    // libcontainer has its own message for a failed execve; the executor's is the better one.
    line.wait()?;
    let pid = built.map_err(|error| chain(&error))?.as_raw();
    let terminal = console.map(Console::accept).transpose()?;
    Ok((Report::Running { pid, user: ContainerUser::default(), warnings: Vec::new() }, terminal))
}

/// A process that joins a user namespace comes as the node's root, and becomes who it is to be inside.
fn joined(process: &mut Value, ids: IdRange, dir: &Path) -> Result<Arc<Join>, CreateError> {
    let path = dir.ancestors().nth(2).unwrap_or(dir).join(super::USERNS);
    let namespace = fs::File::open(&path).map_err(io_at("open", &path))?;
    let user = std::mem::replace(&mut process["user"], json!({ "uid": 0, "gid": 0 }));
    let number = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
    let groups = user["additionalGids"].as_array().into_iter().flatten().filter_map(number).collect();
    let (uid, gid) = (number(&user["uid"]).unwrap_or(0), number(&user["gid"]).unwrap_or(0));
    Ok(Arc::new(Join { namespace, owner: ids.uid.checked_add(uid), uid, gid, groups, keeps: true }))
}

fn builder(id: &str, state: &Path, stdio: Stdio, console: Option<&Console>) -> Result<ContainerBuilder, CreateError> {
    let mut builder = ContainerBuilder::new(id.to_owned(), SyscallType::default())
        .with_root_path(state)
        .map_err(|error| chain(&error))?
        .with_console_socket(console.map(|console| console.path.clone()));
    (builder.stdin, builder.stdout, builder.stderr) = (stdio.stdin, stdio.stdout, stdio.stderr);
    Ok(builder)
}

fn read_specification(dir: &Path) -> Result<Value, CreateError> {
    let path = dir.join("config.json");
    let json = fs::read(&path).map_err(io_at("read", &path))?;
    serde_json::from_slice(&json).map_err(|source| CreateError::Spec { path, source })
}

/// Writes into the specification what only the mounted root and the running sandbox can tell.
fn finish_specification(request: &StartContainer, pid_path: Option<PathBuf>) -> Result<ContainerUser, CreateError> {
    let root = &request.rootfs.target;
    let passwd = rootfs::read_in_root(root, "etc/passwd")?;
    let group = rootfs::read_in_root(root, "etc/group")?;
    let user = resolve_user(&request.user, &passwd, &group)?;
    let mut spec = read_specification(&request.dir)?;
    spec["process"]["user"] = json!({ "uid": user.uid, "gid": user.gid, "additionalGids": user.supplemental_groups });
    if let Some(path) = pid_path
        && let Some(namespaces) = spec["linux"]["namespaces"].as_array_mut()
    {
        namespaces.push(json!({ "type": "pid", "path": path }));
    }
    if let Some(cwd) = spec["process"]["cwd"].as_str() {
        rootfs::make_directory_in_root(root, Path::new(cwd))?;
    }
    if request.ids.is_some() {
        spec["root"]["path"] = json!(rootfs::show(root)?);
    }
    let path = request.dir.join("config.json");
    fs::write(&path, spec.to_string()).map_err(io_at("write", &path))?;
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

/// A pipe into the container's process that execve closes; what comes out of it is why execve failed.
struct FailureLine {
    reading: OwnedFd,
    writing: Option<OwnedFd>,
}

impl FailureLine {
    fn new() -> Result<FailureLine, CreateError> {
        let (reading, writing) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|error| chain(&error))?;
        Ok(FailureLine { reading, writing: Some(writing) })
    }

    fn executor(&self, privileges: Privileges, filter: &[Instruction]) -> ContainerExecutor {
        let failure = self.writing.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        ContainerExecutor { privileges, filter: filter.to_vec(), failure, joins: None }
    }

    /// Returns when the process has become the container's command, or with the reason why it has not.
    fn wait(&mut self) -> Result<(), CreateError> {
        self.writing = None;
        let mut message = String::new();
        let copy = self.reading.try_clone().map_err(|error| chain(&error))?;
        fs::File::from(copy).read_to_string(&mut message).map_err(|error| chain(&error))?;
        if message.is_empty() { Ok(()) } else { Err(CreateError::Exec(message)) }
    }
}

/// The socket on which libcontainer hands over the master of a terminal.
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
