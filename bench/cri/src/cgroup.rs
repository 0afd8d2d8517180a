//! Cgroups of the subjects, which is how all that they start is counted, whoever its parent is: daemons, shims, containers.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const MOUNT: &str = "/sys/fs/cgroup";

pub(crate) struct Cgroup {
    /// Below each hierarchy's mount.
    name: String,
    /// Where CPU time is counted.
    counted: PathBuf,
}

impl Cgroup {
    pub(crate) fn make(name: &str) -> Result<Self> {
        let mount = Path::new(MOUNT);
        let v2 = mount.join("cgroup.controllers").exists();
        let counted = if v2 { mount.join(name) } else { mount.join("cpuacct").join(name) };
        fs::create_dir_all(&counted).with_context(|| format!("create {}", counted.display()))?;
        Ok(Self { name: name.into(), counted })
    }

    /// What pods name as the parent of theirs.
    pub(crate) fn parent(&self) -> String {
        format!("/{}/pods", self.name)
    }

    /// What a shell does to be in it.
    pub(crate) fn enter(&self) -> String {
        format!("echo $$ > {}/cgroup.procs", self.counted.display())
    }

    /// CPU time of all that ever was in it, user and system.
    pub(crate) fn cpu(&self) -> Duration {
        let read = |file: &str| fs::read_to_string(self.counted.join(file)).unwrap_or_default();
        let nanoseconds = read("cpuacct.usage").trim().parse::<u64>().ok();
        let microseconds = || read("cpu.stat").lines().find_map(|l| l.strip_prefix("usage_usec ")?.parse::<u64>().ok());
        nanoseconds.map(Duration::from_nanos).or_else(|| microseconds().map(Duration::from_micros)).unwrap_or_default()
    }

    /// All that is in it now.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let mut found = Vec::new();
        let mut folders = vec![self.counted.clone()];
        while let Some(folder) = folders.pop() {
            found.extend(fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default().lines().filter_map(|l| l.parse::<i32>().ok()));
            let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
            folders.extend(entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
        }
        found
    }

    pub(crate) fn kill(&self) {
        for pid in self.processes() {
            // One that has ended meanwhile is what is wanted.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }

    /// From all hierarchies, as runtimes make theirs in each. Nothing lives in it any more.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let hierarchies = fs::read_dir(MOUNT)?.flatten().map(|e| e.path()).chain([PathBuf::from(MOUNT)]);
        hierarchies.map(|h| h.join(&self.name)).filter(|path| path.is_dir()).try_for_each(|path| remove(&path))
    }
}

fn remove(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)?.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        remove(&entry.path())?;
    }
    fs::remove_dir(folder)
}
