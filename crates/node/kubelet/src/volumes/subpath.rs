//! A part of a volume as a mount of its own, found without ever leaving the volume: a container may put links into it while
//! the path is walked. See upstream's pkg/volume/util/subpath and CVE-2017-1002101.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, fchmod, fstat, mkdirat};

use super::{VolumeError, io_error};

/// Mounts `sub_path` of a volume at `target` and returns the target. A path that does not exist becomes a directory.
pub(super) fn bind(volume: &Path, sub_path: &str, target: &Path) -> Result<PathBuf, VolumeError> {
    let source = open(volume, sub_path)?;
    let is_dir = fstat(source.as_fd()).is_ok_and(|s| SFlag::from_bits_truncate(s.st_mode).contains(SFlag::S_IFDIR));
    // What an earlier container of this pod had here is mounted anew: the volume may have changed below it.
    match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(errno) => return Err(io_error("unmount", target)(errno.into())),
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(io_error("create", parent))?;
    }
    if is_dir {
        fs::create_dir_all(target).map_err(io_error("create", target))?;
    } else {
        fs::OpenOptions::new().create(true).append(true).open(target).map_err(io_error("create", target))?;
    }
    let from = PathBuf::from(format!("/proc/self/fd/{}", source.as_raw_fd()));
    mount(Some(&from), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(|errno| io_error("bind", target)(errno.into()))?;
    Ok(target.to_path_buf())
}

/// How to open what is below a directory and nothing else, whatever links there are.
pub(crate) fn beneath(flags: OFlag) -> OpenHow {
    OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS)
}

fn open(volume: &Path, sub_path: &str) -> Result<OwnedFd, VolumeError> {
    let root = fs::File::open(volume).map_err(io_error("open", volume))?;
    let at = volume.join(sub_path);
    let failed = |errno: Errno| match errno {
        Errno::EXDEV => VolumeError::Escapes(sub_path.to_string()),
        errno => io_error("open", &at)(errno.into()),
    };
    match openat2(root.as_fd(), sub_path, beneath(OFlag::O_PATH)) {
        Ok(fd) => return Ok(fd),
        Err(Errno::ENOENT) => {}
        Err(errno) => return Err(failed(errno)),
    }
    // As writable as the volume itself, whatever the umask.
    let mode = Mode::from_bits_truncate(fstat(root.as_fd()).map_err(failed)?.st_mode & 0o7777);
    let mut dir: OwnedFd = root.into();
    for step in Path::new(sub_path).components() {
        let step = step.as_os_str();
        let made = match mkdirat(dir.as_fd(), step, mode) {
            Ok(()) => true,
            Err(Errno::EEXIST) => false,
            Err(errno) => return Err(io_error("create", &at)(io::Error::from(errno))),
        };
        if made {
            let fresh = openat2(dir.as_fd(), step, beneath(OFlag::O_RDONLY | OFlag::O_DIRECTORY)).map_err(failed)?;
            fchmod(fresh.as_fd(), mode).map_err(failed)?;
        }
        dir = openat2(dir.as_fd(), step, beneath(OFlag::O_PATH | OFlag::O_DIRECTORY)).map_err(failed)?;
    }
    Ok(dir)
}
