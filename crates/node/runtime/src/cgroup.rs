//! Control groups of versions 1 and 2 as far as containers need them: where they are, making them with their limits, who is in
//! them, killing, removing, and what the kernel counted.

mod counters;
mod create;
mod devices;
mod limits;
mod stats;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub(crate) use counters::device_name;
pub(crate) use create::{Entrances, Forked};

/// The hierarchies of a machine, found once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cgroups {
    /// Each hierarchy's mount and the controllers in it; one without names for version 2.
    hierarchies: Vec<(PathBuf, Vec<String>)>,
    /// Those that only sort processes: systemd's own, and version 2 beside version 1.
    others: Vec<PathBuf>,
    v2: bool,
}

impl Cgroups {
    /// Reads /proc/self/mountinfo. A version 2 hierarchy beside version 1 (the hybrid layout) holds no controllers;
    /// containers are not sorted into it, as with runc.
    pub(crate) fn detect(mount: &Path) -> io::Result<Cgroups> {
        Ok(Self::parse(mount, &fs::read_to_string("/proc/self/mountinfo")?))
    }

    fn parse(mount: &Path, mountinfo: &str) -> Cgroups {
        let mut v1 = Vec::new();
        let mut v2 = Vec::new();
        let mut others = Vec::new();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let Some(point) = left.split(' ').nth(4).map(PathBuf::from) else { continue };
            let mut right = right.split(' ');
            let (kind, options) = (right.next(), right.nth(1).unwrap_or_default());
            if !point.starts_with(mount) {
                continue;
            }
            match kind {
                Some("cgroup2") => v2.push((point, Vec::new())),
                Some("cgroup") if options.contains("name=") => others.push(point),
                Some("cgroup") => {
                    let names = options.split(',').filter(|option| *option != "rw").map(str::to_owned).collect();
                    v1.push((point, names));
                }
                _ => {}
            }
        }
        if v1.is_empty() {
            return Cgroups { hierarchies: v2, others, v2: true };
        }
        others.extend(v2.into_iter().map(|(point, _)| point));
        Cgroups { hierarchies: v1, others, v2: false }
    }

    pub(crate) fn is_v2(&self) -> bool {
        self.v2
    }

    /// Whether a controller is there to be used.
    pub(crate) fn has(&self, controller: &str) -> bool {
        self.hierarchies.iter().any(|(mount, names)| match self.v2 {
            true => fs::read_to_string(mount.join("cgroup.controllers")).is_ok_and(|all| all.split_whitespace().any(|it| it == controller)),
            false => names.iter().any(|name| name == controller),
        })
    }

    /// The directory of a cgroup in every hierarchy.
    pub(crate) fn paths<'a>(&'a self, cgroup: &'a str) -> impl Iterator<Item = PathBuf> + 'a {
        self.hierarchies.iter().map(|(mount, _)| mount.join(cgroup.trim_start_matches('/')))
    }

    /// The name of each hierarchy's mount, in the order of `paths`.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> + '_ {
        let name = |mount: &PathBuf| mount.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.hierarchies.iter().map(move |(mount, _)| name(mount))
    }

    /// The directory of a cgroup where `controller` is.
    pub(crate) fn path(&self, controller: &str, cgroup: &str) -> Option<PathBuf> {
        let holds = |names: &[String]| self.v2 || names.iter().any(|name| name == controller);
        let (mount, _) = self.hierarchies.iter().find(|(_, names)| holds(names))?;
        Some(mount.join(cgroup.trim_start_matches('/')))
    }

    pub(crate) fn processes(&self, cgroup: &str) -> Vec<i32> {
        let path = self.path("pids", cgroup).or_else(|| self.path("memory", cgroup));
        let Some(text) = path.and_then(|path| fs::read_to_string(path.join("cgroup.procs")).ok()) else {
            return Vec::new();
        };
        text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect()
    }

    /// Whether a process is in the cgroup or in one inside it, in any hierarchy.
    pub(crate) fn is_occupied(&self, cgroup: &str) -> bool {
        self.paths(cgroup).any(|path| holds_processes(&path))
    }

    /// Signals every process in the cgroup once; gives how many there were.
    pub(crate) fn signal(&self, cgroup: &str, signal: i32) -> usize {
        let processes = self.processes(cgroup);
        for pid in &processes {
            // One that is gone meanwhile is what was wanted.
            let _ = send(*pid, signal);
        }
        processes.len()
    }

    /// Kills whatever is in the cgroup, also what is forked meanwhile.
    pub(crate) fn kill(&self, cgroup: &str) {
        if self.v2
            && let Some(path) = self.path("", cgroup)
            && fs::write(path.join("cgroup.kill"), "1").is_ok()
        {
            return;
        }
        // A killed process forks no more, so a few rounds reach everyone unless new ones are forked faster than they
        // are seen; the pids limit or the next caller ends that.
        for _ in 0..16 {
            if self.signal(cgroup, libc::SIGKILL) == 0 {
                return;
            }
        }
    }

    /// Removes the cgroup with those inside it. One that does not exist is removed already.
    pub(crate) fn remove(&self, cgroup: &str) -> io::Result<()> {
        self.paths(cgroup).try_for_each(|path| remove_tree(&path))
    }

    /// The same where `own` has made it.
    pub(crate) fn remove_everywhere(&self, cgroup: &str) -> io::Result<()> {
        self.remove(cgroup)?;
        let inside = cgroup.trim_start_matches('/');
        self.others.iter().try_for_each(|mount| remove_tree(&mount.join(inside)))
    }

    /// How many processes of the cgroup the kernel has killed for want of memory. The counter outlives the process, so
    /// nothing has to listen while the container runs (the eventfd of version 1 would cost two descriptors each).
    pub(crate) fn oom_kills(&self, cgroup: &str) -> u64 {
        let file = if self.v2 { "memory.events" } else { "memory.oom_control" };
        let path = self.path("memory", cgroup).map(|path| path.join(file));
        path.and_then(|path| fs::read_to_string(path).ok()).and_then(|text| field(&text, "oom_kill")).unwrap_or(0)
    }
}

/// A new cpuset of version 1 is empty and takes no process until it has processors and memory nodes.
fn inherit_cpuset(path: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let of = |path: &Path| fs::read_to_string(path.join(file));
        if !of(path)?.trim().is_empty() {
            continue;
        }
        let Some(parent) = path.parent() else { continue };
        let mut given = of(parent)?;
        if given.trim().is_empty() {
            inherit_cpuset(parent)?;
            given = of(parent)?;
        }
        fs::write(path.join(file), given)?;
    }
    Ok(())
}

/// By its number, for nix knows no signals of real time.
pub(crate) fn send(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: takes numbers only.
    if unsafe { libc::kill(pid, signal) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// One that is not there holds none.
fn holds_processes(path: &Path) -> bool {
    if fs::read_to_string(path.join("cgroup.procs")).is_ok_and(|text| !text.trim().is_empty()) {
        return true;
    }
    let inside = fs::read_dir(path).into_iter().flatten().flatten();
    inside.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).any(|entry| holds_processes(&entry.path()))
}

fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        // There may be others inside.
        Err(_) => {}
        Ok(()) => return Ok(()),
    }
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The value of `name` in a file of `name value` lines.
pub(crate) fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(' ')?;
        (key == name).then(|| value.trim().parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
50 31 0:39 / /mnt/other rw,relatime - cgroup cgroup rw,pids
";

    #[test]
    fn controllers_are_found_in_the_hybrid_layout() {
        let cgroups = Cgroups::parse(Path::new("/sys/fs/cgroup"), HYBRID);
        assert!(!cgroups.is_v2());
        let path = |controller| cgroups.path(controller, "/a/b").map(|path| path.display().to_string());
        assert_eq!(path("cpuacct").as_deref(), Some("/sys/fs/cgroup/cpu,cpuacct/a/b"));
        assert_eq!(path("memory").as_deref(), Some("/sys/fs/cgroup/memory/a/b"));
        assert_eq!(path("pids"), None);
        assert!(cgroups.has("memory") && !cgroups.has("hugetlb"));
        assert_eq!(cgroups.paths("/a").count(), 2);
        assert_eq!(cgroups.others.len(), 2);
    }

    #[test]
    fn version_2_alone_holds_every_controller() {
        let line = "25 23 0:23 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate";
        let cgroups = Cgroups::parse(Path::new("/sys/fs/cgroup"), line);
        assert!(cgroups.is_v2());
        assert_eq!(cgroups.path("memory", "/a"), Some("/sys/fs/cgroup/a".into()));
    }

    #[test]
    fn a_counter_is_read_by_its_whole_name() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(field(text, "oom_kill"), Some(3));
        assert_eq!(field(text, "oom"), None);
    }
}
