//! `fram shim`: the process that holds one pod sandbox. It makes and reaps the pod's containers, carries their output,
//! records how they ended, and answers on a socket. Entered before any runtime or thread exists; it has one thread and
//! no tokio, and it knows nothing of images, of the network or of Kubernetes.

pub(crate) mod clock;
mod connection;
mod container;
mod creator;
mod devices;
mod first;
mod join;
mod log;
pub(crate) mod mount;
mod overlay;
pub(crate) mod privileges;
mod process;
pub(crate) mod rootfs;
mod sandbox;
mod server;

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use thiserror::Error;

use crate::cgroup::{Cgroups, Entrances, Forked};
use crate::durable::{self, DurableError};
use crate::protocol::SandboxSetup;

pub(crate) use container::STATE_FILE;
pub(crate) use creator::causes;
pub(crate) use process::Join;
pub(crate) use sandbox::{NETNS, SHM, USERNS};
pub(crate) use server::set_nonblocking;

/// Names inside the sandbox's directory.
pub(crate) const SETUP_FILE: &str = "shim.json";
pub(crate) const SOCKET: &str = "shim.sock";
const LOG: &str = "shim.log";
/// Marks the second execution, from a read-only mount.
const SEALED: &str = "--sealed";
/// What the shim says on its standard output once it serves; anything else is why it does not.
pub(crate) const READY: &str = "ready";

#[derive(Debug, Error)]
enum ShimError {
    #[error("usage: fram shim <directory of the sandbox>")]
    Usage,
    #[error("{operation}: {source}")]
    System { operation: &'static str, source: io::Error },
    #[error(transparent)]
    Setup(#[from] DurableError),
    #[error("{0:?} is missing")]
    NoSetup(PathBuf),
    #[error(transparent)]
    Sandbox(#[from] sandbox::SandboxError),
}

fn system<E: Into<io::Error>>(operation: &'static str) -> impl FnOnce(E) -> ShimError {
    move |source| ShimError::System { operation, source: source.into() }
}

/// What `fram shim` does with the arguments behind that word, before it has started a thread or read a configuration.
/// Never returns to the caller: the calling process ends at once, the shim is its orphaned child.
pub fn main(args: &[OsString]) -> ! {
    let code = match shim(args) {
        Ok(()) => 0,
        Err(error) => {
            // The runtime reads this until the descriptor closes.
            let _ = writeln!(io::stdout(), "{error}");
            1
        }
    };
    std::process::exit(code)
}

fn shim(args: &[OsString]) -> Result<(), ShimError> {
    let dir = match args {
        [sealed, dir] if sealed == SEALED => PathBuf::from(dir),
        [_] => return Err(execute_sealed()),
        _ => return Err(ShimError::Usage),
    };
    let path = dir.join(SETUP_FILE);
    let setup: SandboxSetup = durable::read_json(&path)?.ok_or_else(|| ShimError::NoSetup(path.clone()))?;
    // What Fram allows itself is none of the pods' business.
    if let Some((soft, hard)) = setup.open_files {
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).map_err(system("limit the open files"))?;
    }
    let lock = File::open(&path).map_err(system("open the setup"))?;
    lock.lock().map_err(system("lock the setup"))?;
    // Held until the process is gone, by the child too: who finds it free knows that there is no shim.
    std::mem::forget(lock);
    // A session and a parent of its own: no signal for Fram's terminal or process group reaches the shim.
    setsid().map_err(system("setsid"))?;
    let cgroups = Cgroups::detect(&setup.cgroup_mount).map_err(system("find the cgroups"))?;
    let own = if setup.cgroup.is_empty() { Ok(Entrances::default()) } else { cgroups.own(&setup.cgroup) };
    let own = own.map_err(system("make the shim's cgroup"))?;
    if let Forked::Parent(_) = own.fork(false).map_err(system("fork"))? {
        return Ok(());
    }
    own.enter().map_err(system("enter the shim's cgroup"))?;
    drop(own);
    let server = prepare(&setup, &dir, cgroups)?;
    let mut stdout = io::stdout();
    stdout.write_all(READY.as_bytes()).and_then(|()| stdout.flush()).map_err(system("say ready"))?;
    let null = creator::null().map_err(system("open /dev/null"))?;
    dup2_stdout(&null).map_err(system("close the standard output"))?;
    let dir = server.dir.clone();
    server.run().map_err(system("serve"))?;
    // A client finds no socket where nobody serves.
    let _ = fs::remove_file(dir.join(SOCKET));
    Ok(())
}

/// Executes the same program from a read-only mount of its own. A container's process is a fork of the shim until it
/// executes its command; if that command is /proc/self/exe, what can be reached by it must not be the program on the
/// node's disk, open for writing by the container's root (CVE-2019-5736). Comes back only with an error.
fn execute_sealed() -> ShimError {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    args.insert(args.len() - 1, SEALED.into());
    let sealed = mount::clone_tree(Path::new("/proc/self/exe")).and_then(|program| {
        mount::restrict(program.as_fd(), &["ro".to_owned()])?;
        mount::execute(program.as_fd(), &args)
    });
    match sealed {
        Ok(never) => match never {},
        Err(source) => ShimError::System { operation: "execute from a read-only mount", source },
    }
}

fn prepare(setup: &SandboxSetup, dir: &Path, cgroups: Cgroups) -> Result<server::Server, ShimError> {
    // Orphans of containers without a pid namespace of their own come here, to be reaped.
    // SAFETY: takes numbers only.
    if unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) } == -1 {
        return Err(system("become the subreaper")(io::Error::last_os_error()));
    }
    // SAFETY: a constant string.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"fram-shim".as_ptr()) };
    nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
    // The last to go when memory is short, as other runtimes' shims; it takes CAP_SYS_RESOURCE, without which it stays.
    let _ = fs::write("/proc/self/oom_score_adj", "-998");
    let first_process = sandbox::enter(setup, dir)?;
    redirect(dir)?;
    std::env::set_current_dir(dir).map_err(system("enter the sandbox's directory"))?;
    let _ = fs::remove_file(SOCKET);
    // A socket's path is limited to 107 bytes; a name relative to the directory always fits.
    let listener = UnixListener::bind(SOCKET).map_err(system("bind the socket"))?;
    listener.set_nonblocking(true).map_err(system("bind the socket"))?;
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&children), None).map_err(system("block SIGCHLD"))?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&children, flags).map_err(system("open the signal descriptor"))?;
    // The directory that was given may be relative to where the runtime was.
    let dir = std::env::current_dir().map_err(system("find the sandbox's directory"))?;
    Ok(server::Server::new(dir, cgroups, listener, signals, first_process))
}

/// Whether a standard stream is the container's alone: a pipe or a terminal.
fn is_own_stream(fd: std::os::fd::BorrowedFd<'_>) -> bool {
    let is_pipe = nix::sys::stat::fstat(fd).is_ok_and(|found| found.st_mode & libc::S_IFMT == libc::S_IFIFO);
    is_pipe || nix::unistd::isatty(fd).unwrap_or(false)
}

/// The standard input is nothing; what the shim has to complain about goes to a file. The standard output stays open
/// until the runtime knows.
fn redirect(dir: &Path) -> Result<(), ShimError> {
    let null = File::open("/dev/null").map_err(system("open /dev/null"))?;
    dup2_stdin(null.as_fd()).map_err(system("close the standard input"))?;
    let log = OpenOptions::new().create(true).append(true).open(dir.join(LOG)).map_err(system("open the log"))?;
    debug_assert!(log.as_raw_fd() > 2);
    dup2_stderr(log.as_fd()).map_err(system("redirect the standard error"))
}
