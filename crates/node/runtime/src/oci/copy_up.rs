//! The mount option `tmpcopyup`, which is not the specification's but runc's, and which podman writes for `--tmpfs` and `--read-only`: what
//! the root file system has below such a mount is copied into it before the container starts.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{Mode, SFlag, mknod};
use serde_json::Value;

use super::{OciError, at};
use crate::shim::mount;

const OPTION: &str = "tmpcopyup";

/// A mount into which something is copied.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CopyUp {
    place: PathBuf,
    /// It is to be read-only once it has what it is to have.
    read_only: bool,
}

/// Where to copy. The option is taken out of the mounts, since the kernel does not know it, and of these `ro`, which would come too early.
pub(super) fn take(mounts: &mut Value) -> Vec<CopyUp> {
    let mut wanted = Vec::new();
    for mount in mounts.as_array_mut().into_iter().flatten() {
        let Some(options) = mount["options"].as_array_mut() else { continue };
        if !options.iter().any(|option| option == OPTION) {
            continue;
        }
        let read_only = options.iter().any(|option| option == "ro");
        options.retain(|option| option != OPTION && option != "ro");
        wanted.extend(mount["destination"].as_str().map(|place| CopyUp { place: place.into(), read_only }));
    }
    wanted
}

/// `pid` is the container's first process, which waits to be started.
pub(super) fn fill(rootfs: &Path, pid: i32, wanted: &[CopyUp]) -> Result<(), OciError> {
    let container = PathBuf::from(format!("/proc/{pid}/root"));
    for CopyUp { place, read_only } in wanted {
        // No link of the root file system leads out of either.
        let open = |root: &Path| {
            let root = open_directory(root, libc::O_PATH)?;
            mount::open_in_root(root.as_fd(), place, libc::O_RDONLY | libc::O_DIRECTORY)
        };
        let to = open(&container).map_err(at("open", place))?;
        match open(rootfs) {
            Ok(from) => copy(from.as_fd(), to.as_fd()).map_err(at("copy what is below", place))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(at("open", place)(error)),
        }
        if *read_only {
            make_read_only(to, pid).map_err(at("make read-only", place))?;
        }
    }
    Ok(())
}

/// Mounts are changed by who is in their namespace. Only one thread goes there, and ends.
fn make_read_only(mounted: OwnedFd, pid: i32) -> io::Result<()> {
    let namespace = File::open(format!("/proc/{pid}/ns/mnt"))?;
    let work = move || {
        // A thread that shares its root and working directory with others cannot change its mounts.
        unshare(CloneFlags::CLONE_FS)?;
        setns(namespace.as_fd(), CloneFlags::CLONE_NEWNS)?;
        mount::restrict(mounted.as_fd(), &["ro".to_owned()])
    };
    std::thread::spawn(work).join().map_err(|_| io::Error::other("the thread that does it has panicked"))?
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
            { "destination": "/proc", "type": "proc", "options": ["ro"] },
            { "destination": "/var", "type": "tmpfs", "options": ["ro", "tmpcopyup"] },
        ]);
        let wanted = |place: &str, read_only| CopyUp { place: place.into(), read_only };
        assert_eq!(take(&mut mounts), [wanted("/tmp", false), wanted("/var", true)]);
        assert_eq!((&mounts[0]["options"], &mounts[1]["options"], &mounts[2]["options"]), (&json!(["nosuid"]), &json!(["ro"]), &json!([])));
        assert!(take(&mut mounts).is_empty());
    }
}
