//! Changing the limits of a running container: which files get which values. Fields that are zero or empty stay.

use std::fs;
use std::io;

use fram_cri::LinuxContainerResources;

use super::Cgroups;

type Write = (&'static str, &'static str, String);

impl Cgroups {
    pub(crate) fn update(&self, cgroup: &str, resources: &LinuxContainerResources) -> io::Result<()> {
        let mut writes = writes(resources, self.is_v2());
        if let Some(dir) = self.path("memory", cgroup)
            && rises(&dir, resources.memory_limit_in_bytes)
        {
            writes.sort_by_key(|(_, file, _)| *file != SWAP);
        }
        for (controller, file, value) in writes {
            let Some(path) = self.path(controller, cgroup) else { continue };
            // A kernel may count no swap.
            if file == SWAP && !path.join(file).exists() {
                continue;
            }
            fs::write(path.join(file), &value)
                .map_err(|error| io::Error::new(error.kind(), format!("write {value:?} to {file}: {error}")))?;
        }
        Ok(())
    }
}

/// Version 1 keeps memory with swap at or above memory alone, so when rising it goes first.
const SWAP: &str = "memory.memsw.limit_in_bytes";

fn rises(dir: &std::path::Path, wanted: i64) -> bool {
    let current = fs::read_to_string(dir.join("memory.limit_in_bytes")).ok();
    current.and_then(|text| text.trim().parse::<i64>().ok()).is_some_and(|current| wanted > current)
}

/// Version 1 wants a quota to fit its period, so the period goes first.
fn writes(resources: &LinuxContainerResources, v2: bool) -> Vec<Write> {
    let mut writes: Vec<Write> = Vec::new();
    let mut number = |controller, v1_file, v2_file, value: i64| {
        if value != 0 {
            let value = if value < 0 && v2 { "max".to_owned() } else { value.to_string() };
            writes.push((controller, if v2 { v2_file } else { v1_file }, value));
        }
    };
    number("memory", "memory.limit_in_bytes", "memory.max", resources.memory_limit_in_bytes);
    if !v2 {
        number("memory", SWAP, "", resources.memory_swap_limit_in_bytes);
    }
    number("pids", "pids.max", "pids.max", resources.pids_limit);
    if v2 {
        if resources.cpu_shares > 0 {
            writes.push(("cpu", "cpu.weight", weight(resources.cpu_shares).to_string()));
        }
        if resources.cpu_quota != 0 || resources.cpu_period != 0 {
            let period = if resources.cpu_period == 0 { 100_000 } else { resources.cpu_period };
            let quota = if resources.cpu_quota > 0 { resources.cpu_quota.to_string() } else { "max".to_owned() };
            writes.push(("cpu", "cpu.max", format!("{quota} {period}")));
        }
    } else {
        number("cpu", "cpu.shares", "", resources.cpu_shares);
        number("cpu", "cpu.cfs_period_us", "", resources.cpu_period);
        number("cpu", "cpu.cfs_quota_us", "", resources.cpu_quota);
    }
    for (file, list) in [("cpuset.cpus", &resources.cpuset_cpus), ("cpuset.mems", &resources.cpuset_mems)] {
        if !list.is_empty() {
            writes.push(("cpuset", file, list.clone()));
        }
    }
    if v2 {
        // The names are the files' own; a controller without files of that name does not exist here.
        for (file, value) in &resources.unified {
            let known = ["memory.high", "memory.low", "memory.min", "memory.swap.max", "cpu.weight", "pids.max"];
            if let Some(file) = known.into_iter().find(|known| known == file) {
                writes.push(("", file, value.clone()));
            }
        }
    }
    writes
}

/// Shares of version 1 (2 to 262144) as a weight of version 2 (1 to 10000), as runc and libcgroups convert them.
fn weight(shares: i64) -> i64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(resources: LinuxContainerResources, v2: bool, expect: &[(&str, &str)]) {
        let writes = writes(&resources, v2);
        let plain: Vec<(&str, &str)> = writes.iter().map(|(_, file, value)| (*file, value.as_str())).collect();
        assert_eq!(plain, expect);
    }

    #[test]
    fn what_is_given_is_written_and_the_rest_stays() {
        let resources = LinuxContainerResources { memory_limit_in_bytes: 1 << 20, cpu_quota: 5000, cpu_shares: 2, ..Default::default() };
        check(resources.clone(), false, &[("memory.limit_in_bytes", "1048576"), ("cpu.shares", "2"), ("cpu.cfs_quota_us", "5000")]);
        check(resources, true, &[("memory.max", "1048576"), ("cpu.weight", "1"), ("cpu.max", "5000 100000")]);
        check(LinuxContainerResources::default(), false, &[]);
        let unlimited = LinuxContainerResources { cpu_quota: -1, ..Default::default() };
        check(unlimited.clone(), false, &[("cpu.cfs_quota_us", "-1")]);
        check(unlimited, true, &[("cpu.max", "max 100000")]);
    }
}
