//! The memory of processes, as the kernel counts it.

use std::path::Path;

/// Of some processes together, in bytes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) processes: u64,
    pub(super) rss: u64,
    /// What is shared is divided among those who share it.
    pub(super) pss: u64,
}

/// A line of smaps_rollup, in bytes.
fn field(rollup: &str, name: &str) -> u64 {
    let line = rollup.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|l| l.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

impl Usage {
    /// Adds a process; one that has ended adds nothing.
    fn add(&mut self, process: &Path) {
        let Ok(rollup) = std::fs::read_to_string(process.join("smaps_rollup")) else { return };
        self.processes += 1;
        self.rss += field(&rollup, "Rss");
        self.pss += field(&rollup, "Pss");
    }
}

/// Of this process.
pub(super) fn own() -> Usage {
    let mut usage = Usage::default();
    usage.add(Path::new("/proc/self"));
    usage
}

/// How much of this process's memory is the program itself, in bytes.
pub(super) fn code() -> u64 {
    let program = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    of_file(&maps, &program.to_string_lossy())
}

/// What is mapped from a file, by the lines of smaps.
fn of_file(maps: &str, file: &str) -> u64 {
    let (mut within, mut total) = (false, 0);
    for line in maps.lines() {
        let is_head = line.split(' ').next().is_some_and(|range| range.contains('-') && !range.ends_with(':'));
        if is_head {
            within = line.ends_with(file);
        } else if within {
            total += field(line, "Pss");
        }
    }
    total
}

/// Whether /proc/PID/cgroup says that the process's memory is counted in a cgroup or below it: by the hierarchy of the memory
/// controller, or the one hierarchy of version 2. In others a container stays where the shim is that began it.
fn is_within(cgroups: &str, cgroup: &str) -> bool {
    let hierarchies = || cgroups.lines().filter_map(|l| l.split_once(':')?.1.split_once(':'));
    let memory = hierarchies().find(|(controllers, _)| controllers.split(',').any(|c| c == "memory"));
    let path = memory.or_else(|| hierarchies().find(|(controllers, _)| controllers.is_empty())).map_or("", |(_, path)| path);
    path.strip_prefix(cgroup).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Of all processes in a cgroup or below it.
pub(super) fn in_cgroup(cgroup: &str) -> Usage {
    let mut usage = Usage::default();
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let cgroups = std::fs::read_to_string(process.path().join("cgroup")).unwrap_or_default();
        if is_within(&cgroups, cgroup) {
            usage.add(&process.path());
        }
    }
    usage
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        let rollup = "55d0-7ffe ---p 00000000 00:00 0 [rollup]\nRss:  2048 kB\nPss:  1024 kB\nPss_Dirty: 8 kB\n";
        assert_eq!((field(rollup, "Rss"), field(rollup, "Pss"), field(rollup, "Swap")), (2 << 20, 1 << 20, 0));
        let within = |cgroups: &str| is_within(cgroups, "/fram-shim");
        assert!(within("4:memory:/fram-shim\n0::/") && within("0::/fram-shim/a\n") && within("2:cpu,memory:/fram-shim/a:b"));
        assert!(!within("0::/fram-shim2") && !within("5:pids:/fram-shim\n4:memory:/fram/pod\n0::/fram-shim") && !within(""));
    }

    #[test]
    fn what_is_mapped_from_a_file_is_added_up() {
        let maps = "55d0-55d1 r-xp 00000000 fd:00 7 /usr/bin/fram\nSize: 9 kB\nPss: 4 kB\nPss_Dirty: 1 kB\n\
            7f00-7f01 rw-p 00000000 00:00 0 \nPss: 32 kB\n7f02-7f03 r--p 00000000 fd:00 7 /usr/bin/fram\nPss: 2 kB\n";
        assert_eq!(of_file(maps, "/usr/bin/fram"), 6 << 10);
        assert!(code() > 0);
    }

    #[test]
    fn this_process_has_memory() {
        let own = own();
        assert!(own.processes == 1 && own.rss > 0 && own.pss > 0, "{own:?}");
    }
}
