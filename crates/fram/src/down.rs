//! `fram down`: ends pods that a stopped `fram up` left running, and removes what they hold in the kernel.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::cli::Down;
use crate::node::NodeLock;

pub(crate) fn run(down: Down) -> anyhow::Result<()> {
    crate::preflight::check()?;
    let data = &down.data_dir;
    let has_store = data.join("store").exists();
    if !has_store && !NodeLock::exists(data) {
        bail!("{} holds no cluster: nothing to do", data.display());
    }
    // The store's lock tells whether a fram still runs on this data.
    let open = || fram_store::Embedded::open(fram_store::Options::new(data.join("store"))).context("is fram still running?");
    let store = if has_store { Some(open()?) } else { None };
    // An agent, and a server on etcd, have no store; their own lock tells.
    let _lock = NodeLock::take(data)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(crate::node::purge(data, &down.cgroup_root))?;
    unmount_below(data)?;
    drop(store);
    if down.purge {
        remove(data).with_context(|| format!("cannot remove {}", data.display()))?;
    }
    fram_cli::say(if down.purge { "fram: down; data removed" } else { "fram: down" });
    Ok(())
}

/// Removes the data. A data directory that is a disk of its own stays, empty.
fn remove(data: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(data) {
        Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy && std::fs::read_dir(data)?.next().is_none() => Ok(()),
        done => done,
    }
}

/// Unmounts what pods' volumes left below a folder, the innermost first.
fn unmount_below(folder: &Path) -> anyhow::Result<()> {
    let folder = folder.canonicalize().with_context(|| format!("cannot find {}", folder.display()))?;
    let table = std::fs::read_to_string("/proc/self/mountinfo").context("cannot read the table of mounts")?;
    for point in mounts_below(&table, &folder).iter().rev() {
        nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH).with_context(|| format!("cannot unmount {}", point.display()))?;
    }
    Ok(())
}

/// The folder itself may be a disk that the user mounted there: it is not below.
fn mounts_below(table: &str, folder: &Path) -> Vec<PathBuf> {
    table.lines().filter_map(mount_point).filter(|point| point.starts_with(folder) && point != folder).collect()
}

/// The mount point of a line of mountinfo; spaces and the like stand as octal escapes.
fn mount_point(line: &str) -> Option<PathBuf> {
    let text = line.split(' ').nth(4)?;
    let unescaped = ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_string(), |t, (from, to)| t.replace(from, to));
    Some(PathBuf::from(unescaped))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_that_is_a_disk_of_its_own_stays_mounted() {
        let line = |point: &str| format!("43 27 0:39 / {point} rw,relatime - tmpfs tmpfs rw\n");
        let table = ["/", "/data", "/data/kubelet/pods/a/e", "/database"].map(line).concat();
        assert_eq!(mounts_below(&table, Path::new("/data")), [PathBuf::from("/data/kubelet/pods/a/e")]);
    }

    #[test]
    fn mount_points_are_read_with_their_escapes() {
        let line = r"43 27 0:39 / /a\040b/c rw,relatime - tmpfs tmpfs rw";
        assert_eq!(mount_point(line), Some(PathBuf::from("/a b/c")));
    }
}
