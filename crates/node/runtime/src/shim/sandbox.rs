//! The sandbox itself: the shim's own network, IPC and UTS namespaces, which its containers inherit, and what must be
//! mounted for them. There is no pause process but for pods that share one pid namespace.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Pid, sethostname};
use thiserror::Error;

use super::mount::{self as sys, Context};
use crate::protocol::SandboxSetup;

mod userns;

/// Names inside the sandbox's directory.
pub(crate) const NETNS: &str = "netns";
pub(crate) const SHM: &str = "shm";
pub(crate) const USERNS: &str = "userns";

#[derive(Debug, Error)]
pub(super) enum SandboxError {
    #[error("{operation}: {source}")]
    Namespace { operation: &'static str, source: nix::Error },
    #[error("{operation} {path:?}: {source}")]
    Path { operation: &'static str, path: PathBuf, source: io::Error },
}

fn at<E: Into<io::Error>>(operation: &'static str, path: &Path) -> impl FnOnce(E) -> SandboxError {
    let path = path.to_path_buf();
    move |source| SandboxError::Path { operation, path, source: source.into() }
}

/// Enters the namespaces and mounts what outlasts this process' view of them; gives the first process of a shared pid
/// namespace.
pub(super) fn enter(setup: &SandboxSetup, dir: &Path) -> Result<Option<Pid>, SandboxError> {
    let mut flags = CloneFlags::empty();
    // A pod in the host's network namespace has the host's name too.
    flags.set(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS, !setup.host_network);
    flags.set(CloneFlags::CLONE_NEWIPC, !setup.host_ipc);
    let namespace = |operation| move |source| SandboxError::Namespace { operation, source };
    match &setup.ids {
        Some(ids) => userns::enter(ids, flags, &dir.join(USERNS))?,
        None => unshare(flags).map_err(namespace("unshare the sandbox's namespaces"))?,
    }
    if !setup.host_network {
        if !setup.hostname.is_empty() {
            sethostname(&setup.hostname).map_err(namespace("set the host name"))?;
        }
        let path = dir.join(NETNS);
        fs::write(&path, "").map_err(at("create", &path))?;
        let none = None::<&str>;
        mount(Some("/proc/self/ns/net"), &path, none, MsFlags::MS_BIND, none).map_err(at("mount the network namespace on", &path))?;
    }
    if !setup.host_ipc {
        shared_memory(setup, &dir.join(SHM))?;
    }
    for (name, value) in &setup.sysctls {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        fs::write(&path, value).map_err(at("write sysctl", &path))?;
    }
    let first = setup.shared_pid.then(|| match setup.ids {
        Some(_) => userns::first_process(&dir.join(USERNS)),
        None => first_process(0),
    });
    first.transpose().map_err(namespace("clone the pod's first process"))
}

fn shared_memory(setup: &SandboxSetup, path: &Path) -> Result<(), SandboxError> {
    fs::create_dir_all(path).map_err(at("create", path))?;
    let size = setup.shm_size.to_string();
    let tmpfs = Context::open("tmpfs").and_then(|context| {
        context.set("size", Path::new(&size))?;
        context.set("mode", Path::new("1777"))?;
        context.mount()
    });
    tmpfs.and_then(|tmpfs| sys::attach(tmpfs.as_fd(), path)).map_err(at("mount shared memory on", path))
}

/// Process 1 of a shared pid namespace: it does nothing but let the kernel reap orphans. It is a fork of the shim that
/// executes nothing, so its memory is the shim's.
fn first_process(flags: i32) -> Result<Pid, nix::Error> {
    let flags = flags | libc::CLONE_NEWPID | libc::SIGCHLD;
    // SAFETY: like fork, in a process of one thread.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match pid {
        -1 => Err(nix::Error::last()),
        0 => {
            // SAFETY: calls that take numbers and constant strings, then waiting for ever. As process 1 it gets no
            // signal it has no handler for, but for SIGKILL from outside.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                libc::prctl(libc::PR_SET_NAME, c"pause".as_ptr());
                libc::signal(libc::SIGCHLD, libc::SIG_IGN);
                libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0);
                loop {
                    libc::pause();
                }
            }
        }
        // A pid fits an int.
        pid => Ok(Pid::from_raw(pid as i32)),
    }
}
