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

/// Whether a line of /proc/PID/cgroup is in a cgroup or below it.
fn is_within(line: &str, cgroup: &str) -> bool {
    let path = line.splitn(3, ':').nth(2).unwrap_or_default();
    path.strip_prefix(cgroup).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Of all processes in a cgroup or below it.
pub(super) fn in_cgroup(cgroup: &str) -> Usage {
    let mut usage = Usage::default();
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let cgroups = std::fs::read_to_string(process.path().join("cgroup")).unwrap_or_default();
        if cgroups.lines().any(|l| is_within(l, cgroup)) {
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
        assert!(is_within("4:pids:/fram-shim", "/fram-shim") && is_within("0::/fram-shim/a", "/fram-shim"));
        assert!(!is_within("0::/fram-shim2", "/fram-shim") && !is_within("4:pids:/", "/fram-shim"));
    }

    #[test]
    fn this_process_has_memory() {
        let own = own();
        assert!(own.processes == 1 && own.rss > 0 && own.pss > 0, "{own:?}");
    }
}
