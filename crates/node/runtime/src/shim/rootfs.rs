//! The creator's private view of the mounts: the container's root as an overlay, and the sources of its bind mounts with
//! their propagation. Nothing here appears on the node: it all lives in a mount namespace that ends with the container.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use fram_cri::MountPropagation;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, mkdirat};
use thiserror::Error;

use super::mount::{self as sys, Context};
use crate::protocol::{OverlayMount, StagedMount};

#[derive(Debug, Error)]
pub(super) enum RootfsError {
    #[error("{operation} {path:?}: {source}")]
    Path { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("{operation}: {source}")]
    Namespace { operation: &'static str, source: nix::Error },
}

fn at<'a>(operation: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> RootfsError + 'a {
    move |source| RootfsError::Path { operation, path: path.to_path_buf(), source }
}

/// Leaves the node's mount namespace and mounts the container's root and the sources of its bind mounts.
pub(super) fn prepare(rootfs: &OverlayMount, mounts: &[StagedMount], staging: &Path) -> Result<(), RootfsError> {
    let namespace = |operation| move |source| RootfsError::Namespace { operation, source };
    unshare(CloneFlags::CLONE_NEWNS).map_err(namespace("unshare the mount namespace"))?;
    // A bidirectional mount has to stay in the node's peer group, so it is copied before the tree becomes a slave; what
    // is mounted from here on must not reach the node.
    let shared = clones(mounts, |propagation| propagation == MountPropagation::Bidirectional)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none).map_err(namespace("make the mounts slaves"))?;
    overlay(rootfs)?;
    if mounts.is_empty() {
        return Ok(());
    }
    fs::create_dir_all(staging).map_err(at("create", staging))?;
    let context = Context::open("tmpfs").map_err(at("open a tmpfs for", staging))?;
    context.mount().and_then(|tmpfs| sys::attach(tmpfs.as_fd(), staging)).map_err(at("mount a tmpfs on", staging))?;
    let others = clones(mounts, |propagation| propagation != MountPropagation::Bidirectional)?;
    for (stage, tree) in shared.into_iter().chain(others) {
        if stage.propagation == MountPropagation::Private {
            sys::make_private(tree.as_fd()).map_err(at("make private", &stage.source))?;
        }
        place(stage, &tree)?;
    }
    Ok(())
}

fn clones(mounts: &[StagedMount], wanted: impl Fn(MountPropagation) -> bool) -> Result<Vec<(&StagedMount, OwnedFd)>, RootfsError> {
    let mounts = mounts.iter().filter(|stage| wanted(stage.propagation));
    mounts
        .map(|stage| {
            let tree = if stage.layers.is_empty() {
                sys::clone_tree(&stage.source).map_err(at("bind", &stage.source))?
            } else {
                image_volume(stage).map_err(at("mount the image volume", &stage.staged))?
            };
            Ok((stage, tree))
        })
        .collect()
}

/// An image's layers, read-only; or the part of it that is asked for, which no link in the image can lead out of.
fn image_volume(stage: &StagedMount) -> io::Result<OwnedFd> {
    let context = Context::open("overlay")?;
    // An overlay without an upper layer needs two lower ones.
    let empty = stage.staged.with_extension("empty");
    if stage.layers.len() == 1 {
        fs::create_dir_all(&empty)?;
        context.set("lowerdir+", &empty)?;
    }
    lower_layers(&context, &stage.layers)?;
    let whole = context.mount()?;
    if stage.sub_path.as_os_str().is_empty() {
        return Ok(whole);
    }
    let part = sys::open_in_root(whole.as_fd(), &stage.sub_path, libc::O_PATH)?;
    sys::clone_tree_of(part.as_fd())
}

/// A mount point of the kind of its source, and the source on it.
fn place(stage: &StagedMount, tree: &OwnedFd) -> Result<(), RootfsError> {
    let failed = |operation| at(operation, &stage.staged);
    let kind = tree.try_clone().and_then(|fd| File::from(fd).metadata()).map_err(failed("stat the source of"))?;
    if kind.is_dir() {
        fs::create_dir_all(&stage.staged).map_err(failed("create"))?;
    } else {
        File::create(&stage.staged).map_err(failed("create"))?;
    }
    sys::attach(tree.as_fd(), &stage.staged).map_err(failed("attach"))
}

fn lower_layers(context: &Context, layers: &[PathBuf]) -> io::Result<()> {
    // The topmost is named first.
    layers.iter().rev().try_for_each(|layer| context.set("lowerdir+", layer))
}

fn overlay(rootfs: &OverlayMount) -> Result<(), RootfsError> {
    let failed = |operation| at(operation, &rootfs.target);
    for directory in [&rootfs.upper, &rootfs.work, &rootfs.target] {
        fs::create_dir_all(directory).map_err(at("create", directory))?;
    }
    let context = Context::open("overlay").map_err(failed("open an overlay for"))?;
    lower_layers(&context, &rootfs.layers).map_err(failed("give the layers to"))?;
    if rootfs.layers.is_empty() {
        // No layers is an empty image; an overlay needs one.
        let empty = rootfs.work.with_extension("empty");
        fs::create_dir_all(&empty).map_err(at("create", &empty))?;
        context.set("lowerdir+", &empty).map_err(failed("give the layers to"))?;
    }
    context.set("upperdir", &rootfs.upper).map_err(failed("give the upper directory to"))?;
    context.set("workdir", &rootfs.work).map_err(failed("give the work directory to"))?;
    // A root file system is thrown away with its container and never mounted twice, so nothing has to reach the disk.
    // Kernels before 5.10 do not know it.
    let _ = context.flag("volatile");
    let mount = context.mount().map_err(failed("mount the overlay"))?;
    sys::attach(mount.as_fd(), &rootfs.target).map_err(failed("attach the overlay to"))
}

/// A file of the container's root; empty when it does not exist. Links are followed inside the root only.
pub(super) fn read_in_root(rootfs: &Path, inside: &str) -> Result<String, RootfsError> {
    let root = File::open(rootfs).map_err(at("open", rootfs))?;
    let mut text = String::new();
    let path = Path::new(inside);
    match sys::open_in_root(root.as_fd(), path, libc::O_RDONLY | libc::O_NONBLOCK) {
        // More than a passwd file ever is; an image must not exhaust the node's memory.
        Ok(fd) => File::from(fd).take(4 << 20).read_to_string(&mut text).map_err(at("read", path))?,
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => 0,
        Err(error) => return Err(at("open", path)(error)),
    };
    Ok(text)
}

/// Makes the working directory, as runc does: a pod may name one that its image lacks.
pub(super) fn make_directory_in_root(rootfs: &Path, inside: &Path) -> Result<(), RootfsError> {
    let root = File::open(rootfs).map_err(at("open", rootfs))?;
    let mut parent: OwnedFd = root.try_clone().map_err(at("open", rootfs))?.into();
    let mut so_far = PathBuf::new();
    for component in inside.components().filter(|component| matches!(component, std::path::Component::Normal(_))) {
        so_far.push(component);
        let open = |root: BorrowedFd| sys::open_in_root(root, &so_far, libc::O_PATH | libc::O_DIRECTORY);
        let opened = match open(root.as_fd()) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                mkdirat(parent.as_fd(), Path::new(component.as_os_str()), Mode::from_bits_truncate(0o755))
                    .map_err(|error| at("create", inside)(error.into()))?;
                open(root.as_fd())
            }
            other => other,
        };
        parent = opened.map_err(at("open", inside))?;
    }
    Ok(())
}
