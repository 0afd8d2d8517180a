//! Making a container's cgroup with its limits, and processes that are in it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

use fram_cri::{HugepageLimit, LinuxContainerResources};
use nix::errno::Errno;
use nix::sched::{CloneFlags, clone};
use nix::unistd::Pid;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxResources};

use super::devices::{self, Rule};
use super::{Cgroups, inherit_cpuset};

/// What a process of a container needs at most until it is its command; nothing is taken of it but what is used.
const STACK: usize = 1 << 20;

/// More than the int that libc has it in holds.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What every container may do with devices, as with runc: make nodes of any, and use those that it finds in its /dev, terminals among
/// them, and network tunnels.
const ALLOWED: [&str; 12] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
    "c 10:200 rwm",
];

/// What a process enters a cgroup by, opened where the hierarchies can be seen and by who may. Nothing of it has the kernel stop every
/// fork and exit of the machine, and wait for those under way, as to write into `cgroup.procs` does.
#[derive(Default)]
pub(crate) struct Entrances {
    /// `tasks` of each hierarchy of version 1, which a process of one thread writes itself.
    tasks: Vec<File>,
    /// The directory in the hierarchy of version 2, where a process begins.
    unified: Option<File>,
}

/// What fork(2) gives.
pub(crate) enum Forked {
    Parent(Pid),
    Child,
}

impl Cgroups {
    pub(crate) fn create(&self, cgroup: &str, resources: &LinuxResources) -> io::Result<()> {
        for (path, (_, controllers)) in self.paths(cgroup).zip(&self.hierarchies) {
            fs::create_dir_all(&path)?;
            if controllers.iter().any(|name| name == "cpuset") {
                inherit_cpuset(&path)?;
            }
        }
        if self.v2 {
            self.enable_controllers(cgroup)?;
        }
        self.limit(cgroup, &limits(resources))?;
        let rules = resources.devices().as_deref().unwrap_or_default();
        match self.path("devices", cgroup) {
            Some(path) if !self.v2 => limit_devices(&path, rules),
            _ => self.limit_devices_by_program(cgroup, rules),
        }
    }

    /// Where cgroups are of version 2, and rules are given.
    pub(crate) fn limit_devices_by_program(&self, cgroup: &str, rules: &[LinuxDeviceCgroup]) -> io::Result<()> {
        let Some(dir) = self.path("", cgroup).filter(|_| self.v2 && !rules.is_empty()) else { return Ok(()) };
        let given = rules.iter().map(|rule| Rule::parse(&rule.to_string(), rule.allow()));
        let rules: Vec<Rule> = given.chain(ALLOWED.iter().map(|text| Rule::parse(text, true))).collect::<io::Result<_>>()?;
        devices::attach(&dir, &rules)
    }

    /// Processes of the cgroup wait when its memory is used up, and none is killed; version 2 knows no such thing.
    pub(crate) fn disable_oom_killer(&self, cgroup: &str) -> io::Result<()> {
        let Some(dir) = self.path("memory", cgroup).filter(|_| !self.v2) else { return Ok(()) };
        fs::write(dir.join("memory.oom_control"), "1")
    }

    /// A cgroup of version 2 has the controllers that all above it give on.
    fn enable_controllers(&self, cgroup: &str) -> io::Result<()> {
        let Some((mount, _)) = self.hierarchies.first() else { return Ok(()) };
        let inside = mount.join(cgroup.trim_matches('/'));
        let controllers = |dir: &Path| fs::read_to_string(dir.join("cgroup.controllers"));
        let wanted = controllers(mount)?;
        if controllers(&inside)? == wanted {
            return Ok(());
        }
        let mut above: Vec<&Path> = inside.ancestors().skip(1).take_while(|dir| dir.starts_with(mount)).collect();
        above.reverse();
        for dir in above {
            for controller in wanted.split_whitespace() {
                // One that cannot be given on is missed by the limit that needs it.
                let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
            }
        }
        Ok(())
    }

    pub(crate) fn entrances(&self, cgroup: &str) -> io::Result<Entrances> {
        let mut entrances = Entrances::default();
        self.paths(cgroup).try_for_each(|path| entrances.add(&path))?;
        Ok(entrances)
    }

    /// Makes the cgroup, in those hierarchies too that only sort processes: a service manager must not take who is there for a part of
    /// the service that started it.
    pub(crate) fn own(&self, cgroup: &str) -> io::Result<Entrances> {
        let mut entrances = Entrances::default();
        let others = self.others.iter().map(|mount| mount.join(cgroup.trim_start_matches('/')));
        for path in self.paths(cgroup).chain(others) {
            fs::create_dir_all(&path)?;
            if path.join("cpuset.cpus").exists() && !self.v2 {
                inherit_cpuset(&path)?;
            }
            entrances.add(&path)?;
        }
        Ok(entrances)
    }
}

impl Entrances {
    fn add(&mut self, dir: &Path) -> io::Result<()> {
        let failed = |error: io::Error| io::Error::new(error.kind(), format!("open {}: {error}", dir.display()));
        match OpenOptions::new().write(true).open(dir.join("tasks")) {
            Ok(file) => self.tasks.push(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.unified = Some(File::open(dir).map_err(failed)?),
            Err(error) => return Err(failed(error)),
        }
        Ok(())
    }

    /// Moves the calling process, which has one thread, as far as that is done by moving.
    pub(crate) fn enter(&self) -> io::Result<()> {
        self.tasks.iter().try_for_each(|mut file| file.write_all(b"0"))
    }

    /// Makes a sibling of the calling process, which has one thread, in the cgroup as `fork` does. What the child does ends in execve, or with a
    /// code that it gives. Until then it uses the caller's memory, and the caller waits, as with vfork(2): to copy the memory, and to give up the
    /// copy, takes longer than all that is done there. Where a process begins in its cgroup it is copied, as clone(2) cannot begin there.
    pub(crate) fn spawn(&self, mut child: impl FnMut() -> i32) -> nix::Result<Pid> {
        if self.unified.is_some() {
            return self.spawn_copy(child);
        }
        let mut stack = vec![0; STACK];
        let flags = CloneFlags::CLONE_PARENT | CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK;
        // SAFETY: the child has a stack of its own, and nobody but it touches the memory until it is another program or gone.
        unsafe { clone(Box::new(|| child() as isize), &mut stack, flags, None) }
    }

    /// The same, for a caller who has something to do meanwhile.
    pub(crate) fn spawn_copy(&self, mut child: impl FnMut() -> i32) -> nix::Result<Pid> {
        match self.fork(true)? {
            Forked::Parent(pid) => Ok(pid),
            // SAFETY: ends the process. Destructors belong to the parent.
            Forked::Child => unsafe { libc::_exit(child()) },
        }
    }

    /// Forks a process that has one thread. The child is in the cgroup as far as it is not to `enter` it; as a sibling it is the parent's
    /// parent's, outlives the caller, and its end is that one's to hear of.
    pub(crate) fn fork(&self, sibling: bool) -> nix::Result<Forked> {
        // clone3(2) takes no signal for the child of another.
        let (mut flags, exit_signal) = if sibling { (libc::CLONE_PARENT as u64, 0) } else { (0, libc::SIGCHLD as u64) };
        let cgroup = self.unified.as_ref().map_or(0, |dir| dir.as_raw_fd() as u64);
        if self.unified.is_some() {
            flags |= CLONE_INTO_CGROUP;
        }
        // SAFETY: numbers only, of which zero is none.
        let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
        (arguments.flags, arguments.exit_signal, arguments.cgroup) = (flags, exit_signal, cgroup);
        // SAFETY: like fork, in a process of one thread; the structure is the kernel's and its size is given.
        let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) };
        // A pid fits an int.
        Errno::result(pid).map(|pid| if pid == 0 { Forked::Child } else { Forked::Parent(Pid::from_raw(pid as i32)) })
    }
}

/// Rules of devices are written one by one, in their order.
fn limit_devices(dir: &Path, rules: &[LinuxDeviceCgroup]) -> io::Result<()> {
    let open = |file: &str| OpenOptions::new().write(true).open(dir.join(file));
    let mut allow = open("devices.allow")?;
    for rule in rules {
        let text = rule.to_string();
        if rule.allow() { allow.write_all(text.as_bytes()) } else { open("devices.deny")?.write_all(text.as_bytes()) }?;
    }
    ALLOWED.iter().try_for_each(|rule| allow.write_all(rule.as_bytes()))
}

/// Limits of the OCI specification as the CRI has them, from which they were made.
fn limits(resources: &LinuxResources) -> LinuxContainerResources {
    let mut limits = LinuxContainerResources::default();
    // Periods, shares and counts are small.
    let number = |value: Option<u64>| value.and_then(|value| i64::try_from(value).ok()).unwrap_or(0);
    if let Some(memory) = resources.memory() {
        limits.memory_limit_in_bytes = memory.limit().unwrap_or(0);
        limits.memory_swap_limit_in_bytes = memory.swap().unwrap_or(0);
    }
    if let Some(cpu) = resources.cpu() {
        limits.cpu_shares = number(cpu.shares());
        limits.cpu_period = number(cpu.period());
        limits.cpu_quota = cpu.quota().unwrap_or(0);
        limits.cpuset_cpus = cpu.cpus().clone().unwrap_or_default();
        limits.cpuset_mems = cpu.mems().clone().unwrap_or_default();
    }
    limits.pids_limit = resources.pids().as_ref().map_or(0, |pids| pids.limit());
    let pages = resources.hugepage_limits().iter().flatten();
    limits.hugepage_limits =
        pages.map(|of| HugepageLimit { page_size: of.page_size().clone(), limit: u64::try_from(of.limit()).unwrap_or(0) }).collect();
    limits.unified = resources.unified().iter().flatten().map(|(file, value)| (file.clone(), value.clone())).collect();
    limits
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Hierarchies of ordinary files below a directory; the controllers of each are its name.
    fn hierarchies(root: &Path, names: &[&str]) -> Cgroups {
        let lines = names.iter().map(|name| format!("32 31 0:29 / {}/{name} rw - cgroup cgroup rw,{name}\n", root.display()));
        Cgroups::parse(root, &lines.collect::<String>())
    }

    fn resources(json: serde_json::Value) -> LinuxResources {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_cgroup_is_made_in_every_hierarchy_with_its_limits_and_a_process_enters_all_of_them() {
        let root = tempfile::tempdir().unwrap();
        let cgroups = hierarchies(root.path(), &["cpu", "memory", "pids"]);
        let wanted = resources(json!({ "cpu": { "shares": 512, "quota": 5000 }, "memory": { "limit": 4096 }, "pids": { "limit": 7 } }));
        cgroups.create("/pod/c", &wanted).unwrap();
        for hierarchy in ["cpu", "memory", "pids"] {
            File::create(root.path().join(hierarchy).join("pod/c/tasks")).unwrap();
        }
        let read = |path: &str| fs::read_to_string(root.path().join(path)).unwrap();
        assert_eq!((read("cpu/pod/c/cpu.shares"), read("cpu/pod/c/cpu.cfs_quota_us")), ("512".to_owned(), "5000".to_owned()));
        assert_eq!((read("memory/pod/c/memory.limit_in_bytes"), read("pids/pod/c/pids.max")), ("4096".to_owned(), "7".to_owned()));
        cgroups.entrances("/pod/c").unwrap().enter().unwrap();
        for hierarchy in ["cpu", "memory", "pids"] {
            assert_eq!(read(&format!("{hierarchy}/pod/c/tasks")), "0");
        }
    }

    #[test]
    fn a_limit_that_nothing_enforces_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let error = hierarchies(root.path(), &["cpu"]).create("/c", &resources(json!({ "pids": { "limit": 7 } }))).unwrap_err();
        assert_eq!(error.to_string(), "the kernel has no cgroup controller \"pids\"");
    }

    #[test]
    fn devices_are_denied_first_and_those_of_every_container_are_allowed_last() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path();
        File::create(dir.join("devices.allow")).unwrap();
        File::create(dir.join("devices.deny")).unwrap();
        let wanted = resources(json!({ "devices": [
            { "allow": false, "access": "rwm" },
            { "allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw" },
        ] }));
        limit_devices(dir, wanted.devices().as_deref().unwrap()).unwrap();
        assert_eq!(fs::read_to_string(dir.join("devices.deny")).unwrap(), "a *:* rwm");
        let allowed = fs::read_to_string(dir.join("devices.allow")).unwrap();
        assert_eq!(allowed, format!("c 10:229 rw{}", ALLOWED.concat()));
    }

    #[test]
    fn controllers_of_version_2_are_given_on_from_the_root_to_the_cgroup() {
        let root = tempfile::tempdir().unwrap();
        let cgroups = Cgroups::parse(root.path(), &format!("25 23 0:23 / {} rw - cgroup2 cgroup2 rw", root.path().display()));
        for (dir, controllers) in [("", "cpu memory\n"), ("pod", ""), ("pod/c", "")] {
            fs::create_dir_all(root.path().join(dir)).unwrap();
            fs::write(root.path().join(dir).join("cgroup.controllers"), controllers).unwrap();
        }
        cgroups.create("/pod/c", &LinuxResources::default()).unwrap();
        let given = |dir: &str| fs::read_to_string(root.path().join(dir).join("cgroup.subtree_control")).ok();
        assert_eq!([given(""), given("pod"), given("pod/c")], [Some("+memory".into()), Some("+memory".into()), None]);
    }
}
