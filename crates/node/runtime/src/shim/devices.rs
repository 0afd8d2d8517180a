//! What is in a container's /dev: the nodes that every container has, those that were asked for, and the usual links.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, makedev, mknodat, umask};
use nix::unistd::{Gid, Uid, fchownat, symlinkat};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};

use super::rootfs::make_directories;

const COMMON: [(&str, u64, u64); 6] = [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
const LINKS: [(&str, &str); 6] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("/proc/kcore", "core"),
    ("pts/ptmx", "ptmx"),
];

struct Node {
    path: PathBuf,
    kind: SFlag,
    numbers: (u64, u64),
    mode: u32,
    owner: (u32, u32),
}

/// Fills the /dev of a root. What a pod has mounted there stays.
pub(super) fn populate(root: BorrowedFd<'_>, given: &[LinuxDevice]) -> io::Result<()> {
    let dev = make_directories(root, Path::new("/dev"))?;
    // Modes are meant as they are.
    let mask = umask(Mode::empty());
    let filled = fill(root, dev.as_fd(), given);
    umask(mask);
    filled
}

fn fill(root: BorrowedFd<'_>, dev: BorrowedFd<'_>, given: &[LinuxDevice]) -> io::Result<()> {
    for node in given.iter().map(node) {
        make(root, &node)?;
    }
    for (name, major, minor) in COMMON {
        unless_there(mknodat(dev, name, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(major, minor)))?;
    }
    LINKS.iter().try_for_each(|(target, name)| unless_there(symlinkat(*target, dev, *name)))
}

fn node(device: &LinuxDevice) -> Node {
    let kind = match device.typ() {
        LinuxDeviceType::B => SFlag::S_IFBLK,
        LinuxDeviceType::P => SFlag::S_IFIFO,
        _ => SFlag::S_IFCHR,
    };
    // Numbers of devices are not negative.
    let number = |number: i64| u64::try_from(number).unwrap_or(0);
    Node {
        path: device.path().clone(),
        kind,
        numbers: (number(device.major()), number(device.minor())),
        mode: device.file_mode().unwrap_or(0o666),
        owner: (device.uid().unwrap_or(0), device.gid().unwrap_or(0)),
    }
}

fn make(root: BorrowedFd<'_>, node: &Node) -> io::Result<()> {
    let (Some(parent), Some(name)) = (node.path.parent(), node.path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("no node can be {:?}", node.path)));
    };
    let parent = make_directories(root, parent)?;
    let (major, minor) = node.numbers;
    let mode = Mode::from_bits_truncate(node.mode);
    match mknodat(&parent, name, node.kind, mode, makedev(major, minor)) {
        Err(Errno::EEXIST) => return Ok(()),
        made => made?,
    }
    let (uid, gid) = node.owner;
    if (uid, gid) != (0, 0) {
        fchownat(&parent, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

fn unless_there(made: nix::Result<()>) -> io::Result<()> {
    match made {
        Err(Errno::EEXIST) => Ok(()),
        made => Ok(made?),
    }
}
