//! Overlays of an image's layers, in the creator's own mount namespace. Kernels since 6.8 take any number of layers one by
//! one; older ones, Debian 12's among them, take one line of options, in which the layers are named by descriptors so that
//! many of them fit into the page that it may fill.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, fchdir};

use super::mount::{self as sys, Context};

/// The layers, the lowest first, as one read-only tree that is attached nowhere.
pub(super) fn read_only(layers: &[PathBuf]) -> io::Result<OwnedFd> {
    let modern = || {
        let context = Context::open("overlay")?;
        let _named = lower_layers(&context, layers)?;
        context.mount()
    };
    if is_modern() {
        return modern();
    }
    // It needs a place to be mounted on; covering a layer for a moment hides it from nobody else.
    let place = layers.first().ok_or(io::ErrorKind::InvalidInput)?;
    mount_by_line(layers, None, place)?;
    let tree = sys::clone_tree(place);
    umount2(place, MntFlags::MNT_DETACH)?;
    tree
}

/// The layers, the lowest first, below a directory that takes what is written, mounted on `target`.
pub(super) fn writable(layers: &[PathBuf], upper: &Path, work: &Path, target: &Path) -> io::Result<()> {
    let modern = || {
        let context = Context::open("overlay")?;
        let _named = (lower_layers(&context, layers)?, name(&context, "upperdir", upper)?, name(&context, "workdir", work)?);
        // A root file system is thrown away with its container and never mounted twice, so nothing has to reach the
        // disk. Kernels before 5.10 do not know it.
        let _ = context.flag("volatile");
        let tree = context.mount()?;
        sys::attach(tree.as_fd(), target)
    };
    if is_modern() { modern() } else { mount_by_line(layers, Some((upper, work)), target) }
}

/// Whether the kernel is 6.8 or newer. To try and see would leave a line in its log for each container.
fn is_modern() -> bool {
    nix::sys::utsname::uname().is_ok_and(|name| knows_appended_layers(&name.release().to_string_lossy()))
}

fn knows_appended_layers(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(8))
}

/// The topmost is named first. What is returned must stay open until the mount is made.
fn lower_layers(context: &Context, layers: &[PathBuf]) -> io::Result<Vec<File>> {
    layers.iter().rev().map(|layer| name(context, "lowerdir+", layer)).collect()
}

/// Names a directory by a descriptor: fsconfig(2) takes no more than 255 bytes, and a node's data directory may have a longer path.
fn name(context: &Context, key: &str, directory: &Path) -> io::Result<File> {
    let directory = open(directory)?;
    context.set(key, Path::new(&format!("/proc/self/fd/{}", directory.as_raw_fd())))?;
    Ok(directory)
}

fn open(directory: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(directory)
}

fn mount_by_line(layers: &[PathBuf], writes: Option<(&Path, &Path)>, target: &Path) -> io::Result<()> {
    let lower = layers.iter().rev().map(|layer| open(layer)).collect::<io::Result<Vec<_>>>()?;
    let names: Vec<String> = lower.iter().map(|file| file.as_raw_fd().to_string()).collect();
    let mut options = format!("lowerdir={}", names.join(":"));
    let writes = writes.map(|(upper, work)| Ok::<_, io::Error>((open(upper)?, open(work)?))).transpose()?;
    if let Some((upper, work)) = &writes {
        options += &format!(",upperdir={},workdir={},volatile", upper.as_raw_fd(), work.as_raw_fd());
    }
    let before = open(Path::new("."))?;
    chdir("/proc/self/fd")?;
    let mounted = mount(Some("overlay"), target, Some("overlay"), MsFlags::empty(), Some(options.as_str()));
    fchdir(before.as_fd())?;
    Ok(mounted?)
}

#[cfg(test)]
mod tests {
    use super::knows_appended_layers;

    #[test]
    fn kernels_before_6_8_get_one_line_of_options() {
        assert!(["6.8.0", "6.18.5-amd64", "7.0"].into_iter().all(knows_appended_layers));
        assert!(!["6.1.0-56-cloud-amd64", "5.15.0", "6.7.12"].into_iter().any(knows_appended_layers));
    }
}
