//! The limits of a container: which files get which values. Fields that are zero or empty stay.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::path::Path;

use fram_cri::LinuxContainerResources;

use super::Cgroups;

/// Controller, file and value.
type Write = (&'static str, Cow<'static, str>, String);

impl Cgroups {
    /// Those of a cgroup that was just made: what cannot be limited is not begun.
    pub(super) fn limit(&self, cgroup: &str, resources: &LinuxContainerResources) -> io::Result<()> {
        for (controller, file, value) in writes(resources, self.is_v2()) {
            let path = self.path(controller, cgroup);
            let missing = || io::Error::new(io::ErrorKind::Unsupported, format!("the kernel has no cgroup controller {controller:?}"));
            put(&path.ok_or_else(missing)?, &file, &value)?;
        }
        Ok(())
    }

    /// Those of a running container.
    pub(crate) fn update(&self, cgroup: &str, resources: &LinuxContainerResources) -> io::Result<()> {
        let mut writes = writes(resources, self.is_v2());
        if let Some(dir) = self.path("memory", cgroup)
            && rises(&dir, resources.memory_limit_in_bytes)
        {
            writes.sort_by_key(|(_, file, _)| file != SWAP);
        }
        for (controller, file, value) in writes {
            self.path(controller, cgroup).map_or(Ok(()), |path| put(&path, &file, &value))?;
        }
        Ok(())
    }
}

fn put(dir: &Path, file: &str, value: &str) -> io::Result<()> {
    // A kernel may count no swap.
    if (file == SWAP || file == SWAP_V2) && !dir.join(file).exists() {
        return Ok(());
    }
    fs::write(dir.join(file), value).map_err(|error| io::Error::new(error.kind(), format!("write {value:?} to {file}: {error}")))
}

/// Version 1 keeps memory with swap at or above memory alone, so when rising it goes first.
const SWAP: &str = "memory.memsw.limit_in_bytes";
const SWAP_V2: &str = "memory.swap.max";

fn rises(dir: &Path, wanted: i64) -> bool {
    let current = fs::read_to_string(dir.join("memory.limit_in_bytes")).ok();
    current.and_then(|text| text.trim().parse::<i64>().ok()).is_some_and(|current| wanted > current)
}

/// Version 1 wants a quota to fit its period, so the period goes first.
fn writes(resources: &LinuxContainerResources, v2: bool) -> Vec<Write> {
    let mut writes: Vec<Write> = Vec::new();
    let mut number = |controller, v1_file: &'static str, v2_file: &'static str, value: i64| {
        if value != 0 {
            let value = if value < 0 && v2 { "max".to_owned() } else { value.to_string() };
            writes.push((controller, if v2 { v2_file } else { v1_file }.into(), value));
        }
    };
    number("memory", "memory.limit_in_bytes", "memory.max", resources.memory_limit_in_bytes);
    if !v2 {
        number("memory", SWAP, "", resources.memory_swap_limit_in_bytes);
    }
    number("pids", "pids.max", "pids.max", resources.pids_limit);
    if v2 {
        if resources.cpu_shares > 0 {
            writes.push(("cpu", "cpu.weight".into(), weight(resources.cpu_shares).to_string()));
        }
        if resources.cpu_quota != 0 || resources.cpu_period != 0 {
            let period = if resources.cpu_period == 0 { 100_000 } else { resources.cpu_period };
            let quota = if resources.cpu_quota > 0 { resources.cpu_quota.to_string() } else { "max".to_owned() };
            writes.push(("cpu", "cpu.max".into(), format!("{quota} {period}")));
        }
    } else {
        number("cpu", "cpu.shares", "", resources.cpu_shares);
        number("cpu", "cpu.cfs_period_us", "", resources.cpu_period);
        number("cpu", "cpu.cfs_quota_us", "", resources.cpu_quota);
    }
    for (file, list) in [("cpuset.cpus", &resources.cpuset_cpus), ("cpuset.mems", &resources.cpuset_mems)] {
        if !list.is_empty() {
            writes.push(("cpuset", file.into(), list.clone()));
        }
    }
    for limit in &resources.hugepage_limits {
        let file = if v2 { "max" } else { "limit_in_bytes" };
        writes.push(("hugetlb", format!("hugetlb.{}.{file}", limit.page_size).into(), limit.limit.to_string()));
    }
    if v2 {
        // Version 2 counts swap alone.
        let swap = resources.memory_swap_limit_in_bytes - resources.memory_limit_in_bytes;
        if resources.memory_swap_limit_in_bytes > 0 && resources.memory_limit_in_bytes > 0 && swap >= 0 {
            writes.push(("memory", SWAP_V2.into(), swap.to_string()));
        }
        // The names are the files' own. None leads out of the cgroup.
        let files = resources.unified.iter().filter(|(file, _)| !file.contains('/') && file.contains('.') && !file.starts_with('.'));
        writes.extend(files.map(|(file, value)| ("", Cow::from(file.clone()), value.clone())));
    }
    writes
}

/// Shares of version 1 (2 to 262144) as a weight of version 2 (1 to 10000), as runc converts them: least, default and most of one are
/// those of the other.
fn weight(shares: i64) -> i64 {
    match shares {
        ..=2 => 1,
        262_144.. => 10_000,
        // Between these the number is small.
        shares => {
            let log = (shares as f64).log2();
            10_f64.powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0).ceil() as i64
        }
    }
}

/// The shares that a weight stands for: the other way round.
pub(super) fn shares(weight: u64) -> u64 {
    match weight {
        ..=1 => 2,
        10_000.. => 262_144,
        // Between these the number is small.
        weight => {
            let root = (125.0 * 125.0 + 4.0 * 612.0 * ((weight as f64).log10() + 7.0 / 34.0)).sqrt();
            ((root - 125.0) / 2.0).exp2().round() as u64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(resources: LinuxContainerResources, v2: bool, expect: &[(&str, &str)]) {
        let writes = writes(&resources, v2);
        let plain: Vec<(&str, &str)> = writes.iter().map(|(_, file, value)| (&**file, value.as_str())).collect();
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

    #[test]
    fn shares_become_weights_of_the_same_standing() {
        let expect = [(0, 1), (2, 1), (512, 59), (1024, 100), (262_144, 10_000), (1 << 40, 10_000)];
        assert_eq!(expect.map(|(shares, _)| (shares, weight(shares))), expect);
        assert_eq!([1, 100, 10_000].map(shares), [2, 1024, 262_144]);
        assert!((1..=10_000).all(|of| weight(i64::try_from(shares(of)).unwrap()).abs_diff(i64::try_from(of).unwrap()) <= 1));
    }

    #[test]
    fn swap_is_counted_with_memory_by_version_1_and_alone_by_version_2() {
        let resources = LinuxContainerResources { memory_limit_in_bytes: 4096, memory_swap_limit_in_bytes: 12288, ..Default::default() };
        check(resources.clone(), false, &[("memory.limit_in_bytes", "4096"), ("memory.memsw.limit_in_bytes", "12288")]);
        check(resources, true, &[("memory.max", "4096"), ("memory.swap.max", "8192")]);
    }

    #[test]
    fn files_that_are_named_are_those_of_the_cgroup_itself() {
        let unified = [("memory.oom.group", "1"), ("../memory.max", "1"), ("a/memory.max", "1"), ("..", "1")];
        let unified = unified.into_iter().map(|(file, value)| (file.to_owned(), value.to_owned())).collect();
        let resources = LinuxContainerResources { unified, ..Default::default() };
        check(resources.clone(), true, &[("memory.oom.group", "1")]);
        check(resources, false, &[]);
    }

    #[test]
    fn a_limit_of_no_huge_pages_is_one() {
        let hugepage_limits = vec![fram_cri::HugepageLimit { page_size: "2MB".into(), limit: 0 }];
        let resources = LinuxContainerResources { hugepage_limits, ..Default::default() };
        check(resources.clone(), false, &[("hugetlb.2MB.limit_in_bytes", "0")]);
        check(resources, true, &[("hugetlb.2MB.max", "0")]);
    }
}
