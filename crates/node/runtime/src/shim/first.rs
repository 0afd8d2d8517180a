//! The first process of a container: its namespaces, its root with what only these namespaces can show, and then its command. What
//! could be mounted before is there already.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{ForkResult, Gid, Pid, Uid, chdir, fchdir, fork, pivot_root, setresgid, setresuid, setsid};

use super::creator::Stdio;
use super::join::hide;
use super::mount::{self as sys, Context};
use super::process::{Command, Line, ProcessError, end, step, step_at, take_streams, take_terminal};
use crate::cgroup::Entrances;

/// Which pid namespace it is in.
pub(super) enum Pids {
    New,
    Inherited,
    Joined(File),
}

pub(super) struct First {
    pub(super) root: PathBuf,
    pub(super) users: Option<File>,
    pub(super) pids: Pids,
    pub(super) cgroup: Entrances,
    /// Version 2 is mounted here: in a cgroup namespace of its own and read-only, or as the node has it. Version 1 is there already.
    pub(super) cgroup_mount: Option<CgroupMount>,
    /// The mount namespace is not the creator's, who has work to do in his.
    pub(super) own_mounts: bool,
    pub(super) shared_root: bool,
    pub(super) readonly_root: bool,
    pub(super) readonly_paths: Vec<String>,
    pub(super) masked_paths: Vec<String>,
    pub(super) terminal: bool,
    pub(super) command: Command,
}

pub(super) struct CgroupMount {
    pub(super) namespace: bool,
    pub(super) readonly: bool,
    /// Where the node shows the container's cgroup, for kernels and users that may not mount the hierarchy.
    pub(super) source: PathBuf,
}

/// What is run on the way, where a device wants it.
pub(super) struct Hooks<'a> {
    pub(super) before_pivot: &'a dyn Fn() -> Result<(), ProcessError>,
    pub(super) before_start: &'a dyn Fn() -> Result<(), ProcessError>,
}

impl First {
    /// Makes the process as a child of the shim. In the creator, which keeps its own place and rights.
    pub(super) fn start(&self, stdio: Stdio, hooks: Option<&Hooks<'_>>, line: Line) -> Result<Option<Pid>, ProcessError> {
        hide()?;
        if self.users.is_none() {
            return self.fork(&stdio, hooks, &line).map(Some);
        }
        // A namespace is owned by the users of who makes it, so somebody goes there first. The process becomes the creator's child, and
        // with its end the shim's, which is the subreaper.
        // SAFETY: the creator has one thread.
        match unsafe { fork() }.map_err(step("fork"))? {
            ForkResult::Parent { .. } => Ok(None),
            ForkResult::Child => {
                let made = self.become_root().and_then(|()| self.fork(&stdio, hooks, &line)).and_then(|pid| line.tell_pid(pid));
                made.err().iter().for_each(|error| line.fail(error));
                // SAFETY: ends the process without running what belongs to the creator.
                unsafe { libc::_exit(0) }
            }
        }
    }

    fn become_root(&self) -> Result<(), ProcessError> {
        let Some(users) = &self.users else { return Ok(()) };
        setns(users.as_fd(), CloneFlags::CLONE_NEWUSER).map_err(step("enter the user namespace"))?;
        let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
        setresgid(gid, gid, gid).and_then(|()| setresuid(uid, uid, uid)).map_err(step("become root of the user namespace"))
    }

    fn fork(&self, stdio: &Stdio, hooks: Option<&Hooks<'_>>, line: &Line) -> Result<Pid, ProcessError> {
        match &self.pids {
            Pids::New => unshare(CloneFlags::CLONE_NEWPID).map_err(step("unshare the pid namespace"))?,
            Pids::Joined(namespace) => setns(namespace.as_fd(), CloneFlags::CLONE_NEWPID).map_err(step("join the pid namespace"))?,
            Pids::Inherited => {}
        }
        let child = || {
            let error = self.become_it(stdio, hooks, line).err().unwrap_or_else(|| self.command.execute());
            end(line, &error)
        };
        // While there are hooks the creator runs those that are to see the process.
        if hooks.is_some() { self.cgroup.spawn_copy(child) } else { self.cgroup.spawn(child) }.map_err(step("fork"))
    }

    fn become_it(&self, stdio: &Stdio, hooks: Option<&Hooks<'_>>, line: &Line) -> Result<(), ProcessError> {
        self.cgroup.enter().map_err(step("enter the cgroup"))?;
        self.unshare()?;
        setsid().map_err(step("setsid"))?;
        if !self.terminal {
            take_streams(stdio)?;
        }
        self.mount_proc()?;
        self.cgroup_mount.as_ref().map_or(Ok(()), |of| self.mount_cgroup(of))?;
        if let Some(hooks) = hooks {
            line.wait()?;
            (hooks.before_pivot)()?;
        }
        pivot(&self.root).map_err(step("pivot into the root"))?;
        let none = None::<&str>;
        if self.shared_root {
            mount(none, "/", none, MsFlags::MS_SHARED, none).map_err(step("share the root"))?;
        }
        let root = File::open("/").map_err(step("open the root"))?;
        if self.terminal {
            console(&take_terminal(line)?, root.as_fd()).map_err(step_at("mount the terminal on", "/dev/console"))?;
        }
        if self.readonly_root {
            sys::restrict(root.as_fd(), &["ro".to_owned()]).map_err(step("make the root read-only"))?;
        }
        self.readonly_paths.iter().try_for_each(|path| protect(path).map_err(step_at("make read-only", path)))?;
        self.mask()?;
        hooks.map_or(Ok(()), |hooks| (hooks.before_start)())
    }

    fn unshare(&self) -> Result<(), ProcessError> {
        if self.own_mounts {
            unshare(CloneFlags::CLONE_NEWNS).map_err(step("unshare the mounts"))?;
            // Of a copy that belongs to other users nothing can be taken apart but what is mounted anew.
            let (root, none) = (self.root.as_path(), None::<&str>);
            mount(Some(root), root, none, MsFlags::MS_BIND | MsFlags::MS_REC, none).map_err(step("bind the root"))?;
        }
        if self.cgroup_mount.as_ref().is_some_and(|of| of.namespace) {
            unshare(CloneFlags::CLONE_NEWCGROUP).map_err(step("unshare the cgroup namespace"))?;
        }
        Ok(())
    }

    fn mount_proc(&self) -> Result<(), ProcessError> {
        let failed = |error: io::Error| step_at("mount", "/proc")(error);
        let tree = Context::open("proc").and_then(Context::mount).map_err(failed)?;
        sys::restrict(tree.as_fd(), &["nosuid", "noexec", "nodev"].map(str::to_owned)).map_err(failed)?;
        // An image's link would have it mounted elsewhere, and what is masked in it not found (CVE-2019-19921).
        let root = File::open(&self.root).map_err(failed)?;
        let point = match sys::open_ordinary(root.as_fd(), Path::new("proc")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                super::rootfs::make_directory_in_root(&self.root, Path::new("/proc")).map_err(|error| failed(io::Error::other(error)))?;
                sys::open_ordinary(root.as_fd(), Path::new("proc"))
            }
            opened => opened,
        };
        sys::attach_on(tree.as_fd(), point.map_err(failed)?.as_fd()).map_err(failed)
    }

    fn mount_cgroup(&self, of: &CgroupMount) -> Result<(), ProcessError> {
        const PLACE: &str = "/sys/fs/cgroup";
        let failed = |error: io::Error| step_at("mount", PLACE)(error);
        let tree = Context::open("cgroup2").and_then(Context::mount).or_else(|_| sys::clone_tree(&of.source)).map_err(failed)?;
        let mut attributes = ["nosuid", "noexec", "nodev"].map(str::to_owned).to_vec();
        attributes.extend(of.readonly.then(|| "ro".to_owned()));
        sys::restrict(tree.as_fd(), &attributes).map_err(failed)?;
        let root = File::open(&self.root).map_err(failed)?;
        let point = sys::open_in_root(root.as_fd(), Path::new(PLACE), libc::O_PATH | libc::O_DIRECTORY).map_err(failed)?;
        sys::attach_on(tree.as_fd(), point.as_fd()).map_err(failed)
    }

    /// Directories become empty ones, which all are the same; files become /dev/null.
    fn mask(&self) -> Result<(), ProcessError> {
        let mut empty = None;
        self.masked_paths.iter().try_for_each(|path| mask(path, &mut empty).map_err(step_at("mask", path)))
    }
}

/// The mounted root becomes the root directory, and the node's is gone.
fn pivot(root: &Path) -> nix::Result<()> {
    let none = None::<&str>;
    let old = nix::fcntl::open("/", nix::fcntl::OFlag::O_DIRECTORY | nix::fcntl::OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty())?;
    chdir(root)?;
    // One on top of the other, so that no place for the old one is needed; see pivot_root(2).
    pivot_root(".", ".")?;
    fchdir(&old)?;
    mount(none, ".", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")
}

/// `None` where there is nothing.
fn open(path: &str) -> io::Result<Option<File>> {
    match OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

fn protect(path: &str) -> io::Result<()> {
    let Some(place) = open(path)? else { return Ok(()) };
    let tree = sys::clone_tree_of(place.as_fd())?;
    sys::restrict(tree.as_fd(), &["ro", "nosuid", "noexec", "nodev"].map(str::to_owned))?;
    sys::attach_on(tree.as_fd(), place.as_fd())
}

fn mask(path: &str, empty: &mut Option<OwnedFd>) -> io::Result<()> {
    let Some(place) = open(path)? else { return Ok(()) };
    if !place.metadata()?.is_dir() {
        return sys::attach_on(null()?.as_fd(), place.as_fd());
    }
    if let Some(empty) = empty {
        return sys::attach_on(sys::clone_tree_of(empty.as_fd())?.as_fd(), place.as_fd());
    }
    let tree = Context::open("tmpfs").and_then(Context::mount)?;
    sys::restrict(tree.as_fd(), &["ro".to_owned()])?;
    sys::attach_on(tree.as_fd(), place.as_fd())?;
    *empty = Some(tree);
    Ok(())
}

/// The container's own /dev/null, to be mounted elsewhere.
fn null() -> io::Result<OwnedFd> {
    let null = open("/dev/null")?.ok_or(io::ErrorKind::NotFound)?;
    let of = null.metadata()?;
    if !of.file_type().is_char_device() || of.rdev() != libc::makedev(1, 3) {
        return Err(io::Error::other("/dev/null is something else"));
    }
    sys::clone_tree_of(null.as_fd())
}

fn console(terminal: &OwnedFd, root: BorrowedFd<'_>) -> io::Result<()> {
    let place = super::rootfs::make_file(root, Path::new("/dev/console"))?;
    sys::attach_on(sys::clone_tree_of(terminal.as_fd())?.as_fd(), place.as_fd())
}
