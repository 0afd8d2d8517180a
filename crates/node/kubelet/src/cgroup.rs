//! Cgroups of pods and QoS classes, on both versions of the hierarchy: made and limited before the runtime puts containers
//! into them, removed when the pod is gone. See upstream's pkg/kubelet/cm.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use fram_cri::LinuxContainerResources;

#[derive(Debug, thiserror::Error)]
#[error("{operation} {path:?}: {source}")]
pub(crate) struct CgroupError {
    operation: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn failed<'a>(operation: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> CgroupError + 'a {
    move |source| CgroupError { operation, path: path.to_path_buf(), source }
}

/// The hierarchies found on the machine.
#[derive(Debug, Clone)]
pub(crate) struct Cgroups {
    mount: PathBuf,
    unified: bool,
}

impl Cgroups {
    pub(crate) fn detect(mount: &Path) -> Self {
        // Version 1 and hybrid layouts have no such file at the top.
        let unified = mount.join("cgroup.controllers").exists();
        Self { mount: mount.to_path_buf(), unified }
    }

    /// The version of cgroups on the machine.
    pub(crate) fn version(&self) -> u64 {
        if self.unified { 2 } else { 1 }
    }

    /// Whether the kernel limits the swap of cgroups below this one by itself: version 2 does, unless it is built without.
    pub(crate) fn limits_swap(&self, path: &str) -> bool {
        self.unified && Self::dir(&self.mount, path).join("memory.swap.max").exists()
    }

    /// Whether the machine has the controller of huge pages.
    pub(crate) fn limits_huge_pages(&self) -> bool {
        match self.unified {
            true => fs::read_to_string(self.mount.join("cgroup.controllers")).is_ok_and(|c| c.split_whitespace().any(|c| c == "hugetlb")),
            false => self.mount.join("hugetlb").exists(),
        }
    }

    /// Each directory below which cgroups lie: one, or one for each version 1 controller.
    fn roots(&self) -> Vec<PathBuf> {
        if self.unified {
            return vec![self.mount.clone()];
        }
        let entries = fs::read_dir(&self.mount).into_iter().flatten().flatten();
        // cpu and cpuacct are links to one directory.
        entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
    }

    fn dir(root: &Path, path: &str) -> PathBuf {
        root.join(path.trim_start_matches('/'))
    }

    /// Whether there is a cgroup of this path wherever limits are set.
    pub(crate) fn exists(&self, path: &str) -> bool {
        match self.unified {
            true => Self::dir(&self.mount, path).is_dir(),
            false => ["cpu", "memory", "pids"].iter().all(|controller| Self::dir(&self.mount.join(controller), path).is_dir()),
        }
    }

    /// Makes a cgroup with its parents and sets what is given of its limits. One that is there already stays as it is.
    pub(crate) fn ensure(&self, path: &str, limits: &LinuxContainerResources) -> Result<(), CgroupError> {
        if self.unified {
            return self.ensure_unified(path, limits);
        }
        let roots = ["cpu", "memory", "pids"].map(|controller| self.mount.join(controller));
        if roots.iter().filter(|root| root.exists()).all(|root| Self::dir(root, path).exists()) {
            return Ok(());
        }
        for controller in ["cpu", "memory", "pids"] {
            let root = self.mount.join(controller);
            if root.exists() {
                let dir = Self::dir(&root, path);
                fs::create_dir_all(&dir).map_err(failed("create", &dir))?;
            }
        }
        let cpu = Self::dir(&self.mount.join("cpu"), path);
        let memory = Self::dir(&self.mount.join("memory"), path);
        let pids = Self::dir(&self.mount.join("pids"), path);
        set(&cpu, "cpu.shares", limits.cpu_shares)?;
        set(&cpu, "cpu.cfs_period_us", if limits.cpu_quota > 0 { limits.cpu_period } else { 0 })?;
        set(&cpu, "cpu.cfs_quota_us", limits.cpu_quota)?;
        set(&memory, "memory.limit_in_bytes", limits.memory_limit_in_bytes)?;
        set(&pids, "pids.max", limits.pids_limit)
    }

    fn ensure_unified(&self, path: &str, limits: &LinuxContainerResources) -> Result<(), CgroupError> {
        if Self::dir(&self.mount, path).exists() {
            return Ok(());
        }
        let mut dir = self.mount.clone();
        for step in path.split('/').filter(|s| !s.is_empty()) {
            // A controller works in a group only after its parent has handed it down.
            delegate(&dir);
            dir.push(step);
            if !dir.exists() {
                fs::create_dir(&dir).map_err(failed("create", &dir))?;
            }
        }
        delegate(&dir);
        set(&dir, "cpu.weight", weight(limits.cpu_shares))?;
        if limits.cpu_quota > 0 {
            write(&dir, "cpu.max", &format!("{} {}", limits.cpu_quota, limits.cpu_period))?;
        }
        set(&dir, "memory.max", limits.memory_limit_in_bytes)?;
        set(&dir, "pids.max", limits.pids_limit)
    }

    /// Sets what is given of a cgroup's limits, whatever they were. A limit that the kernel cannot keep (more is in use) stays.
    pub(crate) fn impose(&self, path: &str, limits: &LinuxContainerResources) -> Result<(), CgroupError> {
        let dir = |controller: &str| match self.unified {
            true => Self::dir(&self.mount, path),
            false => Self::dir(&self.mount.join(controller), path),
        };
        let (shares, memory) = match self.unified {
            true => (("cpu.weight", weight(limits.cpu_shares)), "memory.max"),
            false => (("cpu.shares", limits.cpu_shares), "memory.limit_in_bytes"),
        };
        set(&dir("cpu"), shares.0, shares.1)?;
        set(&dir("memory"), memory, limits.memory_limit_in_bytes)?;
        set(&dir("pids"), "pids.max", limits.pids_limit)
    }

    /// Changes those limits of a cgroup that `direction` allows. A parent is raised before and lowered after its children, which
    /// never may have more.
    pub(crate) fn adjust(&self, path: &str, limits: &LinuxContainerResources, direction: Direction) -> Result<(), CgroupError> {
        let dir = |controller: &str| match self.unified {
            true => Self::dir(&self.mount, path),
            false => Self::dir(&self.mount.join(controller), path),
        };
        let (cpu, memory) = (dir("cpu"), dir("memory"));
        let mut limits = limits.clone();
        if !self.unified
            && let Ok(period) = fs::read_to_string(cpu.join("cpu.cfs_period_us"))
        {
            // It was set when the cgroup was made, perhaps by a kubelet that was told another one.
            crate::pod::resources::count_over(&mut limits, amount(&period));
        }
        let quota = limits.cpu_quota;
        let files = match self.unified {
            true => [
                (&cpu, "cpu.weight", weight(limits.cpu_shares), String::new()),
                (&cpu, "cpu.max", quota, format!("{quota} {}", limits.cpu_period)),
                (&memory, "memory.max", limits.memory_limit_in_bytes, String::new()),
            ],
            false => [
                (&cpu, "cpu.shares", limits.cpu_shares, String::new()),
                (&cpu, "cpu.cfs_quota_us", quota, String::new()),
                (&memory, "memory.limit_in_bytes", limits.memory_limit_in_bytes, String::new()),
            ],
        };
        for (dir, file, wanted, text) in files.iter().filter(|(_, _, wanted, _)| *wanted != 0) {
            let Ok(current) = fs::read_to_string(dir.join(file)) else { continue };
            let current = amount(&current);
            let allowed = match direction {
                Direction::Raise => *wanted > current,
                Direction::Lower => *wanted < current,
            };
            if allowed {
                write(dir, file, if text.is_empty() { wanted.to_string() } else { text.clone() }.as_str())?;
            }
        }
        Ok(())
    }

    /// Removes a cgroup and those below it, from every hierarchy. Nothing may run in them any more.
    pub(crate) fn remove(&self, path: &str) -> Result<(), CgroupError> {
        self.roots().iter().try_for_each(|root| remove_tree(&Self::dir(root, path)))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Raise,
    Lower,
}

/// The number in a limit's file; no limit is the greatest.
fn amount(text: &str) -> i64 {
    text.split_whitespace().next().and_then(|n| n.parse().ok()).filter(|n| *n >= 0).unwrap_or(i64::MAX)
}

/// cgroup v2's weight for version 1's shares; see opencontainers/cgroups' ConvertCPUSharesToCgroupV2Value. Least, default and most of
/// one are those of the other.
fn weight(shares: i64) -> i64 {
    match shares {
        0 => 0,
        ..=2 => 1,
        262_144.. => 10_000,
        // Between these the number is small.
        shares => {
            let log = (shares as f64).log2();
            10_f64.powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0).ceil() as i64
        }
    }
}

fn delegate(dir: &Path) {
    let available = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    for controller in available.split_whitespace() {
        // One that cannot be handed down (a domain with processes of its own) must not keep the others back.
        if let Err(error) = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}")) {
            tracing::debug!(?dir, controller, %error, "a cgroup controller was not handed down");
        }
    }
}

/// Writes a limit; zero is "not specified", and a controller that the machine lacks limits nothing.
fn set(dir: &Path, file: &str, value: i64) -> Result<(), CgroupError> {
    if value == 0 || !dir.join(file).exists() {
        return Ok(());
    }
    write(dir, file, &value.to_string())
}

fn write(dir: &Path, file: &str, text: &str) -> Result<(), CgroupError> {
    let path = dir.join(file);
    if !path.exists() {
        return Ok(());
    }
    fs::write(&path, text).map_err(failed("write", &path))
}

fn remove_tree(dir: &Path) -> Result<(), CgroupError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("read", dir)(error)),
    };
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        remove_tree(&entry.path())?;
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", dir)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights_over_their_whole_range() {
        assert_eq!((weight(0), weight(2), weight(1024), weight(262_144)), (0, 1, 100, 10_000));
    }

    #[test]
    fn a_cgroup_is_made_limited_and_removed_with_those_below_it() {
        let cgroups = Cgroups::detect(Path::new("/sys/fs/cgroup"));
        let root = format!("/fram-kubelet-test-{}", std::process::id());
        let path = format!("{root}/burstable/podu");
        let limits = LinuxContainerResources { cpu_shares: 512, memory_limit_in_bytes: 64 << 20, ..Default::default() };
        cgroups.ensure(&path, &limits).unwrap();
        if !cgroups.unified {
            let read = |file: &str| fs::read_to_string(Path::new("/sys/fs/cgroup").join(file)).unwrap();
            assert_eq!(read(&format!("cpu{path}/cpu.shares")).trim(), "512");
            assert_eq!(read(&format!("memory{path}/memory.limit_in_bytes")).trim(), (64 << 20).to_string());
        }
        let more = LinuxContainerResources { cpu_shares: 256, memory_limit_in_bytes: 128 << 20, ..Default::default() };
        cgroups.adjust(&path, &more, Direction::Raise).unwrap();
        if !cgroups.unified {
            let read = |file: &str| fs::read_to_string(Path::new("/sys/fs/cgroup").join(file)).unwrap();
            assert_eq!(read(&format!("memory{path}/memory.limit_in_bytes")).trim(), (128 << 20).to_string());
            assert_eq!(read(&format!("cpu{path}/cpu.shares")).trim(), "512");
            cgroups.adjust(&path, &more, Direction::Lower).unwrap();
            assert_eq!(read(&format!("cpu{path}/cpu.shares")).trim(), "256");
        }
        cgroups.remove(&root).unwrap();
        assert!(cgroups.roots().iter().all(|r| !Cgroups::dir(r, &root).exists()));
    }
}
