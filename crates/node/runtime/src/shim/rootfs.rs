//! The creator's private view of the mounts: the container's root as an overlay, and on it all mounts that do not have to
//! wait for the container's own namespaces. Nothing here appears on the node: it all lives in a mount namespace that ends with the container.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use fram_cri::MountPropagation;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, symlinkat, unlinkat};
use thiserror::Error;

use super::mount::{self as sys, Context};
use crate::cgroup::Cgroups;
use crate::protocol::{IdRange, MountSource, OverlayMount, RootMount, StartContainer};

#[derive(Debug, Error)]
pub(crate) enum RootfsError {
    #[error("{operation} {path:?}: {source}")]
    Path { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("{operation}: {source}")]
    Namespace { operation: &'static str, source: nix::Error },
}

fn at<'a>(operation: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> RootfsError + 'a {
    move |source| RootfsError::Path { operation, path: path.to_path_buf(), source }
}

/// Leaves the node's mount namespace and mounts the container's root with all that is on it; gives that root.
pub(super) fn prepare(request: &StartContainer, cgroups: &Cgroups) -> Result<File, RootfsError> {
    let namespace = |operation| move |source| RootfsError::Namespace { operation, source };
    unshare(CloneFlags::CLONE_NEWNS).map_err(namespace("unshare the mount namespace"))?;
    // A bidirectional mount has to stay in the node's peer group, so it is copied before the tree becomes a slave; what
    // is mounted from here on must not reach the node.
    let mut shared = Vec::new();
    for mount in &request.mounts {
        if let MountSource::Bind { path, propagation: MountPropagation::Bidirectional } = &mount.source {
            shared.push(sys::clone_tree(path).map_err(at("bind", path))?);
        }
    }
    let mut shared = shared.into_iter();
    be_slave().map_err(namespace("make the mounts slaves"))?;
    let target = &request.rootfs.target;
    let users = request.ids.map(|ids| Users::open(&request.dir, ids)).transpose()?;
    overlay(&request.rootfs, users.as_ref())?;
    let root = File::open(target).map_err(at("open", target))?;
    for mount in &request.mounts {
        let failed = |operation| at(operation, &mount.destination);
        let tree = match &mount.source {
            MountSource::Bind { propagation: MountPropagation::Bidirectional, .. } => shared.next(),
            _ => None,
        };
        let tree = tree.map_or_else(|| detached(&mount.source), Ok).map_err(failed("make the mount for"))?;
        if let (Some(users), MountSource::Bind { .. } | MountSource::Image { .. }) = (&users, &mount.source) {
            sys::map_ids(tree.as_fd(), users.namespace.as_fd()).map_err(failed("map the users of what is mounted on"))?;
        }
        let is_cgroup = mount.source == MountSource::Cgroup;
        if !is_cgroup {
            sys::restrict(tree.as_fd(), &mount.attributes).map_err(failed("restrict the mount on"))?;
        }
        place(root.as_fd(), &mount.destination, &tree)?;
        if is_cgroup {
            let filled = fill_cgroup(tree.as_fd(), mount, &request.cgroup, cgroups);
            filled.and_then(|()| sys::restrict(tree.as_fd(), &mount.attributes)).map_err(failed("fill"))?;
        }
    }
    Ok(root)
}

/// What is mounted from here on does not reach the node.
pub(super) fn be_slave() -> nix::Result<()> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)
}

fn detached(source: &MountSource) -> io::Result<OwnedFd> {
    match source {
        MountSource::Bind { path, propagation } => {
            let tree = sys::clone_tree(path)?;
            if *propagation == MountPropagation::Private {
                sys::make_private(tree.as_fd())?;
            }
            Ok(tree)
        }
        MountSource::Image { layers, sub_path } => image_volume(layers, sub_path),
        MountSource::Filesystem { kind, options } => {
            let context = Context::open(kind)?;
            for (key, value) in options {
                if value.is_empty() { context.flag(key)? } else { context.set(key, Path::new(value))? }
            }
            context.mount()
        }
        MountSource::Cgroup => {
            let context = Context::open("tmpfs")?;
            context.set("mode", Path::new("755"))?;
            context.mount()
        }
    }
}

/// An image's layers, read-only; or the part of it that is asked for, which no link in the image can lead out of.
fn image_volume(layers: &[PathBuf], sub_path: &Path) -> io::Result<OwnedFd> {
    let whole = if let [only] = layers {
        // An overlay without an upper layer needs two; one is its own file system already.
        let tree = sys::clone_tree(only)?;
        sys::make_private(tree.as_fd())?;
        tree
    } else {
        super::overlay::read_only(layers)?
    };
    if sub_path.as_os_str().is_empty() {
        return Ok(whole);
    }
    let part = |root: BorrowedFd<'_>| sys::clone_tree_of(sys::open_in_root(root, sub_path, libc::O_PATH)?.as_fd());
    match part(whole.as_fd()) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
        done => return done,
    }
    // Older kernels clone only from what is mounted somewhere; a layer is covered for a moment.
    let place = layers.first().ok_or(io::ErrorKind::InvalidInput)?;
    sys::attach(whole.as_fd(), place)?;
    let tree = File::open(place).and_then(|root| part(root.as_fd()));
    umount2(place, MntFlags::MNT_DETACH)?;
    tree
}

/// Attaches a tree on its destination in the container's root, which is made if it is missing.
fn place(root: BorrowedFd<'_>, destination: &Path, tree: &OwnedFd) -> Result<(), RootfsError> {
    let failed = |operation| at(operation, destination);
    let kind = fstat(tree).map_err(|errno| failed("stat the source of")(errno.into()))?.st_mode & libc::S_IFMT;
    let point = if kind == libc::S_IFDIR { make_directories(root, destination) } else { make_file(root, destination) };
    let point = point.map_err(failed("make the mount point"))?;
    sys::attach_on(tree.as_fd(), point.as_fd()).map_err(failed("mount on"))
}

/// A directory for each hierarchy with the container's own cgroup; and a link for each controller of a hierarchy that
/// holds several, as the host has them.
fn fill_cgroup(place: BorrowedFd<'_>, mount: &RootMount, cgroup: &str, cgroups: &Cgroups) -> io::Result<()> {
    for (path, name) in cgroups.paths(cgroup).zip(cgroups.names()) {
        let tree = match sys::clone_tree(&path) {
            // Another runtime is about to make it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::create_dir_all(&path).and_then(|()| sys::clone_tree(&path))?,
            tree => tree?,
        };
        sys::make_private(tree.as_fd())?;
        sys::restrict(tree.as_fd(), &mount.attributes)?;
        mkdirat(place, name.as_str(), Mode::from_bits_truncate(0o755))?;
        let point = sys::open_in_root(place, Path::new(&name), libc::O_PATH | libc::O_DIRECTORY)?;
        sys::attach_on(tree.as_fd(), point.as_fd())?;
        for controller in name.split(',').filter(|controller| *controller != name) {
            symlinkat(name.as_str(), place, controller)?;
        }
    }
    Ok(())
}

/// Directories that every machine has some of, with nothing in them that a container's making needs.
const REACHABLE: [&str; 5] = ["/mnt", "/media", "/srv", "/opt", "/home"];

/// Shows the container's root where users of its own user namespace can reach it: they may not enter the node's directories. In the
/// creator's mount namespace only.
pub(super) fn show(rootfs: &Path) -> Result<PathBuf, RootfsError> {
    let fits = |place: &&Path| place.is_dir() && !rootfs.starts_with(place);
    let place = REACHABLE.iter().map(Path::new).find(fits).ok_or(io::ErrorKind::NotFound.into());
    let place = place.map_err(at("find a place for", rootfs))?;
    let shown = sys::clone_tree(rootfs).and_then(|tree| sys::attach(tree.as_fd(), place));
    shown.map_err(at("show", rootfs)).map(|()| place.to_path_buf())
}

/// The sandbox's user namespace, and who its root is on the node.
struct Users {
    namespace: File,
    ids: IdRange,
}

impl Users {
    /// A container's directory is two below its sandbox's.
    fn open(dir: &Path, ids: IdRange) -> Result<Users, RootfsError> {
        let path = dir.ancestors().nth(2).unwrap_or(dir).join(super::USERNS);
        Ok(Users { namespace: File::open(&path).map_err(at("open", &path))?, ids })
    }

    /// Layers as the pod's users see them, in places of the creator's own; they go when the overlay has them.
    fn mapped(&self, layers: &[PathBuf], dir: &Path) -> Result<Vec<PathBuf>, RootfsError> {
        let map = |(index, layer): (usize, &PathBuf)| {
            let place = dir.join(index.to_string());
            fs::create_dir_all(&place).map_err(at("create", &place))?;
            let tree = sys::clone_tree(layer).and_then(|tree| {
                sys::make_private(tree.as_fd())?;
                sys::map_ids(tree.as_fd(), self.namespace.as_fd())?;
                sys::attach(tree.as_fd(), &place)
            });
            tree.map_err(at("map the users of", layer))?;
            Ok(place)
        };
        layers.iter().enumerate().map(map).collect()
    }
}

fn overlay(rootfs: &OverlayMount, users: Option<&Users>) -> Result<(), RootfsError> {
    for directory in [&rootfs.upper, &rootfs.work, &rootfs.target] {
        fs::create_dir_all(directory).map_err(at("create", directory))?;
    }
    if let Some(Users { ids, .. }) = users {
        chown(&rootfs.upper, Some(ids.uid), Some(ids.gid)).map_err(at("give away", &rootfs.upper))?;
    }
    let mapped = users.map(|users| users.mapped(&rootfs.layers, &rootfs.work.with_extension("layers"))).transpose()?;
    let seen = mapped.as_ref().unwrap_or(&rootfs.layers);
    super::overlay::writable(seen, &rootfs.upper, &rootfs.work, &rootfs.target).map_err(at("mount the overlay", &rootfs.target))?;
    if users.is_some() {
        // The overlay has its own hold on them.
        seen.iter().try_for_each(|place| umount2(place, MntFlags::MNT_DETACH).map_err(|errno| at("unmount", place)(errno.into())))?;
    }
    Ok(())
}

/// A file of the container's root; empty when it does not exist. Links are followed inside the root only.
pub(super) fn read_in_root(root: BorrowedFd<'_>, inside: &str) -> Result<String, RootfsError> {
    let mut text = String::new();
    let path = Path::new(inside);
    match sys::open_in_root(root, path, libc::O_RDONLY | libc::O_NONBLOCK) {
        // More than a passwd file ever is; an image must not exhaust the node's memory.
        Ok(fd) => File::from(fd).take(4 << 20).read_to_string(&mut text).map_err(at("read", path))?,
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => 0,
        Err(error) => return Err(at("open", path)(error)),
    };
    Ok(text)
}

/// Makes the working directory, as runc does: a pod may name one that its image lacks.
pub(crate) fn make_directory_in_root(rootfs: &Path, inside: &Path) -> Result<(), RootfsError> {
    let root = File::open(rootfs).map_err(at("open", rootfs))?;
    make_directories(root.as_fd(), inside).map(drop).map_err(at("create", inside))
}

/// Makes a directory in the root, and takes away links and devices in it by their names; files and directories stay. What is mounted there, or
/// reached by a link, may be the node's own, and stays as it is. Before the first goes, `allowed` may object.
pub(crate) fn remove_nodes_in_root<E: From<RootfsError>>(
    rootfs: &Path,
    inside: &Path,
    names: &[&str],
    allowed: impl FnOnce() -> Result<(), E>,
) -> Result<(), E> {
    let root = File::open(rootfs).map_err(at("open", rootfs))?;
    make_directories(root.as_fd(), inside).map_err(at("create", inside))?;
    let directory = match sys::open_own(root.as_fd(), inside) {
        Ok(directory) if rootfs != Path::new("/") => directory,
        Err(error) if !matches!(error.raw_os_error(), Some(libc::EXDEV | libc::ELOOP)) => return Err(at("open", inside)(error).into()),
        _ => return Ok(()),
    };
    let kind = |name: &str| fstatat(directory.as_fd(), name, AtFlags::AT_SYMLINK_NOFOLLOW).map(|stat| stat.st_mode & libc::S_IFMT);
    let is_node = |name: &&&str| matches!(kind(name), Ok(libc::S_IFLNK | libc::S_IFCHR | libc::S_IFBLK));
    let found: Vec<&str> = names.iter().filter(is_node).copied().collect();
    if found.is_empty() {
        return Ok(());
    }
    allowed()?;
    for name in found {
        unlinkat(directory.as_fd(), name, UnlinkatFlags::NoRemoveDir).map_err(|errno| at("remove", &inside.join(name))(errno.into()))?;
    }
    Ok(())
}

/// Opens a directory in the root, making what is missing of it. Links are followed inside the root only.
pub(super) fn make_directories(root: BorrowedFd<'_>, inside: &Path) -> io::Result<OwnedFd> {
    let open = |path: &Path| sys::open_in_root(root, path, libc::O_PATH | libc::O_DIRECTORY);
    match open(inside) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    let Some(above) = inside.parent() else { return open(Path::new("/")) };
    let above = make_directories(root, above)?;
    if let Some(name) = inside.file_name() {
        mkdirat(above.as_fd(), name, Mode::from_bits_truncate(0o755))?;
    }
    open(inside)
}

/// Opens a file in the root, making it and the directories above it if they are missing.
pub(super) fn make_file(root: BorrowedFd<'_>, inside: &Path) -> io::Result<OwnedFd> {
    let open = || sys::open_in_root(root, inside, libc::O_PATH);
    match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let parent = make_directories(root, inside.parent().ok_or_else(invalid)?)?;
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    openat(parent.as_fd(), inside.file_name().ok_or_else(invalid)?, flags, Mode::from_bits_truncate(0o644))?;
    open()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_and_devices_are_removed_from_the_root_itself_and_from_nowhere_else() {
        let root = tempfile::tempdir().unwrap();
        let dev = root.path().join("dev");
        let take = |allowed: fn() -> Result<(), RootfsError>| {
            remove_nodes_in_root(root.path(), Path::new("/dev"), &["fd", "null", "file"], allowed)
        };
        let remove = || take(|| Ok(())).unwrap();
        let refuse = || Err(RootfsError::Namespace { operation: "ask", source: nix::Error::EBUSY });
        remove();
        symlink("/proc/self/fd", dev.join("fd")).unwrap();
        fs::write(dev.join("file"), "x").unwrap();
        assert!(take(refuse).is_err() && dev.join("fd").symlink_metadata().is_ok());
        remove();
        take(refuse).unwrap();
        assert!(dev.join("fd").symlink_metadata().is_err() && dev.join("file").exists());
        mount(Some("none"), &dev, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        symlink("/proc/self/fd", dev.join("fd")).unwrap();
        remove();
        let kept = dev.join("fd").symlink_metadata().is_ok();
        umount2(&dev, MntFlags::MNT_DETACH).unwrap();
        assert!(kept, "what is mounted there is not the root's own");
        fs::rename(&dev, root.path().join("other")).unwrap();
        symlink("other", &dev).unwrap();
        symlink("/proc/self/fd", root.path().join("other/fd")).unwrap();
        remove();
        assert!(dev.join("fd").symlink_metadata().is_ok(), "nor is what a link leads to");
    }
}
