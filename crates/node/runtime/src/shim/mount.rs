//! The mount system calls that take descriptors (fsopen(2) and its kin), with safe signatures and nothing else.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::fcntl::AtFlags;

const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;
const MOUNT_ATTR_RDONLY: u64 = 1;
const MOUNT_ATTR_NOSUID: u64 = 2;
const MOUNT_ATTR_NODEV: u64 = 4;
const MOUNT_ATTR_NOEXEC: u64 = 8;
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
const RESOLVE_NO_XDEV: u64 = 0x01;
const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
const RESOLVE_NO_SYMLINKS: u64 = 0x04;
const RESOLVE_IN_ROOT: u64 = 0x10;

#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

fn path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for the caller; it fits an int.
    Ok(unsafe { OwnedFd::from_raw_fd(result as i32) })
}

fn done(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A file system that is being configured.
pub(super) struct Context(OwnedFd);

impl Context {
    pub(super) fn open(kind: &str) -> io::Result<Context> {
        let kind = CString::new(kind)?;
        // SAFETY: a valid string and flags.
        descriptor(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) }).map(Context)
    }

    pub(super) fn set(&self, key: &str, value: &Path) -> io::Result<()> {
        let (key, value) = (CString::new(key)?, path(value)?);
        let (fd, command) = (self.0.as_raw_fd(), FSCONFIG_SET_STRING);
        // SAFETY: two valid strings.
        done(unsafe { libc::syscall(libc::SYS_fsconfig, fd, command, key.as_ptr(), value.as_ptr(), 0) })
    }

    pub(super) fn flag(&self, key: &str) -> io::Result<()> {
        let key = CString::new(key)?;
        let null = std::ptr::null::<libc::c_char>();
        let (fd, command) = (self.0.as_raw_fd(), FSCONFIG_SET_FLAG);
        // SAFETY: a valid string; a flag has no value.
        done(unsafe { libc::syscall(libc::SYS_fsconfig, fd, command, key.as_ptr(), null, 0) })
    }

    /// The mount, attached nowhere yet.
    pub(super) fn mount(self) -> io::Result<OwnedFd> {
        let null = std::ptr::null::<libc::c_char>();
        let fd = self.0.as_raw_fd();
        // SAFETY: the command takes neither key nor value.
        done(unsafe { libc::syscall(libc::SYS_fsconfig, fd, FSCONFIG_CMD_CREATE, null, null, 0) })?;
        // SAFETY: takes a descriptor and numbers only.
        descriptor(unsafe { libc::syscall(libc::SYS_fsmount, fd, FSMOUNT_CLOEXEC, 0) })
    }
}

/// A detached copy of the mount tree at `source`. It stays in its peer groups.
pub(crate) fn clone_tree(source: &Path) -> io::Result<OwnedFd> {
    let source = path(source)?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE as libc::c_uint;
    // SAFETY: a valid string and flags.
    descriptor(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, source.as_ptr(), flags) })
}

/// As `clone_tree`, of what `source` is open on.
pub(super) fn clone_tree_of(source: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE as libc::c_uint | libc::AT_EMPTY_PATH as libc::c_uint;
    // SAFETY: an empty string with the flag that allows it.
    descriptor(unsafe { libc::syscall(libc::SYS_open_tree, source.as_raw_fd(), c"".as_ptr(), flags) })
}

/// Cuts a tree off from what is mounted and unmounted elsewhere.
pub(super) fn make_private(tree: BorrowedFd<'_>) -> io::Result<()> {
    let attr = MountAttr { attr_set: 0, attr_clr: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 };
    set_attributes(tree, &attr, libc::AT_RECURSIVE)
}

/// Shows a tree, from now on, with the users and groups that its own are by a user namespace. It must not be attached yet.
pub(super) fn map_ids(tree: BorrowedFd<'_>, userns: BorrowedFd<'_>) -> io::Result<()> {
    // A descriptor is not negative.
    let attr = MountAttr { attr_set: MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd: userns.as_raw_fd() as u64 };
    set_attributes(tree, &attr, libc::AT_RECURSIVE)
}

/// Sets what `names` say: `ro`, `nosuid`, `nodev` and `noexec` for the mount, `rro` for the whole tree.
pub(crate) fn restrict(tree: BorrowedFd<'_>, names: &[String]) -> io::Result<()> {
    let bit = |name: &String| match name.as_str() {
        "ro" => Some(MOUNT_ATTR_RDONLY),
        "nosuid" => Some(MOUNT_ATTR_NOSUID),
        "nodev" => Some(MOUNT_ATTR_NODEV),
        "noexec" => Some(MOUNT_ATTR_NOEXEC),
        _ => None,
    };
    let single = names.iter().filter_map(bit).fold(0, |all, bit| all | bit);
    let recursive = if names.iter().any(|name| name == "rro") { MOUNT_ATTR_RDONLY } else { 0 };
    for (attr_set, flags) in [(single, 0), (recursive, libc::AT_RECURSIVE)] {
        if attr_set != 0 {
            set_attributes(tree, &MountAttr { attr_set, attr_clr: 0, propagation: 0, userns_fd: 0 }, flags)?;
        }
    }
    Ok(())
}

fn set_attributes(tree: BorrowedFd<'_>, attr: &MountAttr, flags: i32) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | flags;
    let size = size_of::<MountAttr>();
    let fd = tree.as_raw_fd();
    // SAFETY: the structure is the kernel's first version of it and its size is given.
    done(unsafe { libc::syscall(libc::SYS_mount_setattr, fd, c"".as_ptr(), flags, attr, size) })
}

/// Becomes the program that is open there, with the environment as it is (execveat(2)).
pub(crate) fn execute(program: BorrowedFd<'_>, args: &[OsString]) -> io::Result<Infallible> {
    let args: Vec<CString> = args.iter().map(|arg| CString::new(arg.as_bytes())).collect::<Result<_, _>>()?;
    let variable = |(name, value): (OsString, OsString)| {
        let mut variable = name.into_encoded_bytes();
        variable.push(b'=');
        variable.extend(value.into_encoded_bytes());
        CString::new(variable)
    };
    let environment: Vec<CString> = std::env::vars_os().map(variable).collect::<Result<_, _>>()?;
    let flags = AtFlags::AT_EMPTY_PATH;
    let Err(error) = nix::unistd::execveat(program, c"", &args, &environment, flags);
    Err(error.into())
}

/// Attaches a detached mount.
pub(super) fn attach(mount: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
    let target = path(target)?;
    let fd = mount.as_raw_fd();
    let flags = MOVE_MOUNT_F_EMPTY_PATH;
    // SAFETY: valid strings and flags.
    let result = unsafe { libc::syscall(libc::SYS_move_mount, fd, c"".as_ptr(), libc::AT_FDCWD, target.as_ptr(), flags) };
    done(result)
}

/// Attaches a detached mount on what is open there.
pub(super) fn attach_on(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let (mount, target) = (mount.as_raw_fd(), target.as_raw_fd());
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: empty strings with the flags that allow them.
    done(unsafe { libc::syscall(libc::SYS_move_mount, mount, c"".as_ptr(), target, c"".as_ptr(), flags) })
}

/// Opens a path as if `root` were the root directory: no link or `..` leads out of it (openat2(2)).
pub(crate) fn open_in_root(root: BorrowedFd<'_>, inside: &Path, flags: i32) -> io::Result<OwnedFd> {
    open_by(root, inside, flags, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
}

/// A directory that is reached without any link.
pub(super) fn open_ordinary(root: BorrowedFd<'_>, inside: &Path) -> io::Result<OwnedFd> {
    open_by(root, inside, libc::O_PATH | libc::O_DIRECTORY, RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS)
}

/// A directory of the root's own: reached without any link, and nothing is mounted on the way.
pub(super) fn open_own(root: BorrowedFd<'_>, inside: &Path) -> io::Result<OwnedFd> {
    open_by(root, inside, libc::O_PATH | libc::O_DIRECTORY, RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV)
}

fn open_by(root: BorrowedFd<'_>, inside: &Path, flags: i32, resolve: u64) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct OpenHow {
        flags: u64,
        mode: u64,
        resolve: u64,
    }
    let inside = path(inside)?;
    // Flags are a small positive number.
    let how = OpenHow { flags: (flags | libc::O_CLOEXEC) as u64, mode: 0, resolve };
    let size = size_of::<OpenHow>();
    // SAFETY: the structure is the kernel's and its size is given.
    descriptor(unsafe { libc::syscall(libc::SYS_openat2, root.as_raw_fd(), inside.as_ptr(), &how, size) })
}
