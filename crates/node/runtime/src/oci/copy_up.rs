//! The mount option `tmpcopyup`, which is not the specification's but runc's, and which podman writes for `--tmpfs` and `--read-only`: what
//! the root file system has below such a mount is copied into it before the container starts.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, mknod};
use serde_json::Value;

use super::{OciError, at};
use crate::shim::mount;

const OPTION: &str = "tmpcopyup";

/// Where to copy. The option is taken out of the mounts, since the kernel does not know it.
pub(super) fn take(mounts: &mut Value) -> Vec<PathBuf> {
    let mut wanted = Vec::new();
    for mount in mounts.as_array_mut().into_iter().flatten() {
        let Some(options) = mount["options"].as_array_mut() else { continue };
        let before = options.len();
        options.retain(|option| option != OPTION);
        if options.len() < before {
            wanted.extend(mount["destination"].as_str().map(PathBuf::from));
        }
    }
    wanted
}

/// `pid` is the container's first process, which waits to be started.
pub(super) fn fill(rootfs: &Path, pid: i32, wanted: &[PathBuf]) -> Result<(), OciError> {
    let container = PathBuf::from(format!("/proc/{pid}/root"));
    for place in wanted {
        // No link of the root file system leads out of either.
        let open = |root: &Path| {
            let root = open_directory(root, libc::O_PATH)?;
            mount::open_in_root(root.as_fd(), place, libc::O_RDONLY | libc::O_DIRECTORY)
        };
        let from = match open(rootfs) {
            Ok(from) => from,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(at("open", place)(error)),
        };
        open(&container).and_then(|to| copy(from.as_fd(), to.as_fd())).map_err(at("copy what is below", place))?;
    }
    Ok(())
}

fn open_directory(path: &Path, flags: i32) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | flags).open(path)
}

fn inside(folder: BorrowedFd<'_>, name: &OsStr) -> PathBuf {
    Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name)
}

/// From one open folder into another, which is a new one.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    for entry in fs::read_dir(inside(from, OsStr::new("")))? {
        let name = entry?.file_name();
        let (source, target) = (inside(from, &name), inside(to, &name));
        let metadata = fs::symlink_metadata(&source)?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            fs::create_dir(&target)?;
            let open = |path: &Path| open_directory(path, libc::O_NOFOLLOW);
            copy(open(&source)?.as_fd(), open(&target)?.as_fd())?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
        } else if kind.is_file() {
            let mut source = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&source)?;
            io::copy(&mut source, &mut File::create_new(&target)?)?;
        } else {
            mknod(&target, SFlag::from_bits_truncate(metadata.mode() & libc::S_IFMT), Mode::empty(), metadata.rdev())?;
        }
        lchown(&target, Some(metadata.uid()), Some(metadata.gid()))?;
        if !kind.is_symlink() {
            fs::set_permissions(&target, Permissions::from_mode(metadata.mode() & 0o7777))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_option_is_taken_out_of_the_mounts_that_have_it() {
        let mut mounts = json!([
            { "destination": "/tmp", "type": "tmpfs", "options": ["nosuid", "tmpcopyup"] },
            { "destination": "/proc", "type": "proc" },
        ]);
        assert_eq!(take(&mut mounts), [PathBuf::from("/tmp")]);
        assert_eq!(mounts[0]["options"], json!(["nosuid"]));
        assert!(take(&mut mounts).is_empty());
    }
}
