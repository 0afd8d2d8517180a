//! A pod's own user namespace (KEP-127): the shim stays outside of it, in namespaces that belong to it, so that the pod's root has
//! its rights over them and over nothing else.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, pipe2};

use super::{SandboxError, at};
use crate::protocol::IdRange;

/// Makes the namespace with the others in it, enters these, and mounts it on `path`.
pub(super) fn enter(ids: &IdRange, flags: CloneFlags, path: &Path) -> Result<(), SandboxError> {
    let failed = |operation| move |source| SandboxError::Namespace { operation, source };
    let (told, tell) = pipe2(OFlag::O_CLOEXEC).map_err(failed("open a pipe"))?;
    let (heard, hear) = pipe2(OFlag::O_CLOEXEC).map_err(failed("open a pipe"))?;
    // SAFETY: the shim has one thread.
    let keeper = match unsafe { fork() }.map_err(failed("fork the keeper of the namespaces"))? {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            drop((tell, heard));
            // SAFETY: ends the process without running what belongs to the parent.
            unsafe { libc::_exit(i32::from(!keep(flags, told, hear))) }
        }
    };
    drop((told, hear));
    let entered = adopt(ids, flags, path, keeper, &heard, &tell);
    // With the last writing end the keeper ends.
    drop((tell, heard));
    let _ = waitpid(keeper, None);
    entered
}

/// In the keeper: makes the user namespace, waits for its map, makes the others, and is there until the parent has them.
fn keep(flags: CloneFlags, told: OwnedFd, hear: OwnedFd) -> bool {
    let (mut told, mut hear) = (File::from(told), File::from(hear));
    let mut byte = [0];
    unshare(CloneFlags::CLONE_NEWUSER).is_ok()
        && hear.write_all(b"u").is_ok()
        && told.read_exact(&mut byte).is_ok()
        && unshare(flags).is_ok()
        && hear.write_all(b"n").is_ok()
        && told.read(&mut byte).is_ok()
}

fn adopt(ids: &IdRange, flags: CloneFlags, path: &Path, keeper: Pid, heard: &OwnedFd, tell: &OwnedFd) -> Result<(), SandboxError> {
    let none = None::<&str>;
    let of = |name: &str| Path::new("/proc").join(keeper.to_string()).join(name);
    let (mut heard, mut tell) = (duplicate(heard)?, duplicate(tell)?);
    let mut byte = [0];
    let lost = at("hear of the user namespace of", path);
    heard.read_exact(&mut byte).map_err(lost)?;
    for (file, first) in [("uid_map", ids.uid), ("gid_map", ids.gid)] {
        let file = of(file);
        fs::write(&file, format!("0 {first} {}\n", ids.length)).map_err(at("write", &file))?;
    }
    tell.write_all(b"m").map_err(at("tell of the map", path))?;
    heard.read_exact(&mut byte).map_err(at("hear of the namespaces in", path))?;
    fs::write(path, "").map_err(at("create", path))?;
    mount(Some(&of("ns/user")), path, none, MsFlags::MS_BIND, none).map_err(at("mount the user namespace on", path))?;
    for (flag, name) in [(CloneFlags::CLONE_NEWNET, "net"), (CloneFlags::CLONE_NEWUTS, "uts"), (CloneFlags::CLONE_NEWIPC, "ipc")] {
        if flags.contains(flag) {
            let file = of("ns").join(name);
            let opened = File::open(&file).map_err(at("open", &file))?;
            setns(opened.as_fd(), flag).map_err(at("enter", &file))?;
        }
    }
    Ok(())
}

fn duplicate(fd: &OwnedFd) -> Result<File, SandboxError> {
    fd.try_clone().map(File::from).map_err(at("duplicate a descriptor of", Path::new("a pipe")))
}

/// Process 1 of a pid namespace that belongs to the user namespace: made by a process inside that one, as a child of the shim.
pub(super) fn first_process(path: &Path) -> Result<Pid, nix::Error> {
    let (reading, writing) = pipe2(OFlag::O_CLOEXEC)?;
    let userns = File::open(path).map_err(|error| nix::Error::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    // SAFETY: the shim has one thread.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let made = setns(userns.as_fd(), CloneFlags::CLONE_NEWUSER).and_then(|()| super::first_process(libc::CLONE_PARENT));
            let number = made.map_or(-1, Pid::as_raw);
            let _ = File::from(writing).write_all(&number.to_le_bytes());
            // SAFETY: ends the process without running what belongs to the parent.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            drop(writing);
            let mut number = [0; 4];
            let read = File::from(reading).read_exact(&mut number);
            waitpid(child, None)?;
            match (read, i32::from_le_bytes(number)) {
                (Ok(()), pid) if pid > 0 => Ok(Pid::from_raw(pid)),
                _ => Err(nix::Error::EPERM),
            }
        }
    }
}
