//! The machine as the kernel describes it: processors, memory, disk, names, and what it is short of.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use fram_cri::PsiStats;
use fram_machinery::Value;
use fram_machinery::object;
use fram_machinery::quantity::{Format, Quantity};

use crate::config::KubeletConfig;
use crate::context::NodeFacts;
use crate::eviction::thresholds::Signal;

fn meminfo(key: &str) -> Option<i64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.split(':').next() == Some(key))?;
    Some(line.split_whitespace().nth(1)?.parse::<i64>().ok()? << 10)
}

/// A file system, in bytes and inodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileSystem {
    pub(crate) capacity: i64,
    pub(crate) used: i64,
    pub(crate) available: i64,
    pub(crate) inodes: i64,
    pub(crate) inodes_free: i64,
}

impl FileSystem {
    /// What could be had at all. Blocks that are kept for root or by the file system itself do not count, or a disk whose free blocks
    /// are mostly reserved would seem full while it is empty.
    pub(crate) fn obtainable(&self) -> i64 {
        self.used.saturating_add(self.available)
    }
}

/// The file system that holds a path.
pub(crate) fn file_system(path: &Path) -> Option<FileSystem> {
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    let int = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let bytes = |blocks: u64| int(blocks.saturating_mul(stat.fragment_size()));
    Some(FileSystem {
        capacity: bytes(stat.blocks()),
        used: bytes(stat.blocks().saturating_sub(stat.blocks_free())),
        available: bytes(stat.blocks_available()),
        inodes: int(stat.files()),
        inodes_free: int(stat.files_free()),
    })
}

/// Bytes of memory: all, and what can be had without harm.
pub(crate) fn memory() -> Option<(i64, i64)> {
    Some((meminfo("MemTotal")?, meminfo("MemAvailable")?))
}

/// Bytes of swap: all, and free; None where there is none.
pub(crate) fn swap_in_use() -> Option<(i64, i64)> {
    Some((meminfo("SwapTotal").filter(|n| *n > 0)?, meminfo("SwapFree")?))
}

/// Process ids: all, and those that are free. Threads have one too.
pub(crate) fn process_ids() -> Option<(i64, i64)> {
    let number = |path: &str| read(path).parse::<i64>().ok();
    let all = number("/proc/sys/kernel/pid_max")?.min(number("/proc/sys/kernel/threads-max")?);
    let running: i64 = read("/proc/loadavg").split(['/', ' ']).nth(4)?.parse().ok()?;
    Some((all, all.saturating_sub(running)))
}

/// Nanoseconds of work of all processors since the machine was started.
pub(crate) fn cpu_nano_seconds() -> Option<u64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let numbers: Vec<u64> = text.lines().next()?.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal, in hundredths of a second (proc(5)); guests count as user already.
    let busy: u64 = numbers.iter().take(8).enumerate().filter(|(i, _)| !matches!(i, 3 | 4)).map(|(_, n)| n).sum();
    Some(busy * 10_000_000)
}

/// When the machine was started, in nanoseconds since the epoch.
pub(crate) fn booted() -> Option<i64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let seconds: i64 = text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    seconds.checked_mul(1_000_000_000)
}

/// How long tasks of the whole machine have waited for `cpu`, `memory` or `io`; None where the kernel does not count it.
pub(crate) fn pressure(of: &str) -> Option<PsiStats> {
    PsiStats::parse(&fs::read_to_string(format!("/proc/pressure/{of}")).ok()?)
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_string()
}

/// Capacity and what of it pods may use.
pub(crate) fn facts(config: &KubeletConfig) -> NodeFacts {
    let units = |n: i64| Quantity::from_units(n, Format::DecimalSi);
    let memory = meminfo("MemTotal").unwrap_or(0);
    let cpus = std::thread::available_parallelism().map_or(1, |n| i64::try_from(n.get()).unwrap_or(1));
    let pods = match i64::from(config.pods_per_core) {
        0 => i64::from(config.max_pods),
        per_core => i64::from(config.max_pods).min(per_core.saturating_mul(cpus)),
    };
    let storage = file_system(&config.root_dir).map_or(0, |fs| fs.capacity);
    let mut capacity = BTreeMap::from([
        ("cpu".to_string(), units(cpus)),
        ("memory".to_string(), Quantity::from_units(memory >> 10 << 10, Format::BinarySi)),
        ("ephemeral-storage".to_string(), Quantity::from_units(storage >> 10 << 10, Format::BinarySi)),
        ("pods".to_string(), units(pods)),
    ]);
    for (size, pages) in huge_pages(Path::new("/sys/kernel/mm/hugepages")) {
        capacity.insert(huge_page_resource(size), Quantity::from_units(size.saturating_mul(pages), Format::BinarySi));
    }
    capacity.extend(config.capacity.iter().filter_map(|(k, v)| Some((k.clone(), v.parse().ok()?))));
    let mut allocatable = capacity.clone();
    let mut take = |name: &str, amount: Quantity| {
        if let Some(left) = allocatable.get_mut(name) {
            let rest = *left - amount;
            *left = if rest.is_negative() { Quantity::zero() } else { rest };
        }
    };
    for (name, amount) in config.system_reserved.iter().chain(&config.kube_reserved) {
        if let Ok(amount) = amount.parse() {
            take(name, amount);
        }
    }
    // What makes the kubelet evict pods, pods cannot have; see hardEvictionReservation.
    for threshold in config.eviction.thresholds().unwrap_or_default().iter().filter(|t| t.grace.is_none()) {
        let name = match threshold.signal {
            Signal::MemoryAvailable => "memory",
            Signal::NodeFsAvailable => "ephemeral-storage",
            _ => continue,
        };
        let kept = threshold.value.of(capacity.get(name).map_or(0, Quantity::value));
        take(name, Quantity::from_units(kept, Format::BinarySi));
    }
    let memory_bytes = capacity.get("memory").map_or(memory, Quantity::value);
    NodeFacts { memory_bytes, swap_bytes: swap(), capacity, allocatable }
}

/// Sizes of huge pages in bytes, with how many there are, as a directory of the kernel tells.
pub(crate) fn huge_pages(dir: &Path) -> Vec<(i64, i64)> {
    let mut out = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let size = name.to_str().and_then(|n| n.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse::<i64>().ok());
        let Some(size) = size else { continue };
        let pages: i64 = read(&entry.path().join("nr_hugepages").display().to_string()).parse().unwrap_or(0);
        out.push((size << 10, pages));
    }
    out
}

/// The resource of huge pages of a size: `hugepages-2Mi`.
pub(crate) fn huge_page_resource(size: i64) -> String {
    format!("hugepages-{}", Quantity::from_units(size, Format::BinarySi))
}

/// Bytes of swap.
pub(crate) fn swap() -> i64 {
    meminfo("SwapTotal").unwrap_or(0)
}

/// What pods together may have: what is not reserved; see getNodeAllocatableInternalAbsolute.
pub(crate) fn for_pods(config: &KubeletConfig, capacity: &BTreeMap<String, Quantity>, name: &str) -> i64 {
    let of = |map: &BTreeMap<String, String>| map.get(name).and_then(|t| t.parse::<Quantity>().ok());
    let unit = |q: &Quantity| if name == "cpu" { q.milli_value() } else { q.value() };
    let reserved: i64 = [&config.system_reserved, &config.kube_reserved].into_iter().filter_map(of).map(|q| unit(&q)).sum();
    capacity.get(name).map_or(0, unit).saturating_sub(reserved).max(0)
}

pub(crate) fn has_apparmor() -> bool {
    read("/sys/module/apparmor/parameters/enabled") == "Y"
}

/// Whether the kernel labels processes by SELinux; see go-selinux's GetEnabled.
pub(crate) fn has_selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// `status.nodeInfo`, but for the versions.
pub(crate) fn info() -> Value {
    let machine = read("/etc/machine-id");
    let uuid = match read("/sys/class/dmi/id/product_uuid") {
        uuid if uuid.is_empty() => machine.clone(),
        uuid => uuid,
    };
    let kernel = nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
    let release = read("/etc/os-release");
    let image = release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).unwrap_or_default().trim_matches('"').to_string();
    object!({
        "machineID": machine, "systemUUID": uuid, "bootID": (read("/proc/sys/kernel/random/boot_id")), "kernelVersion": kernel,
        "osImage": image, "operatingSystem": "linux", "architecture": (architecture()), "kubeProxyVersion": ""
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_and_thresholds_are_taken_from_what_pods_may_use() {
        let mut config = KubeletConfig::new("n", Vec::new(), "/tmp".into(), "/tmp".into());
        config.capacity =
            BTreeMap::from([("cpu".into(), "4".into()), ("memory".into(), "1Gi".into()), ("example.com/x".into(), "3".into())]);
        config.system_reserved = BTreeMap::from([("cpu".into(), "500m".into())]);
        config.kube_reserved = BTreeMap::from([("memory".into(), "24Mi".into())]);
        let facts = facts(&config);
        assert_eq!((facts.allocatable["cpu"].milli_value(), facts.allocatable["memory"].value()), (3500, 900 << 20));
        assert_eq!((facts.allocatable["example.com/x"].value(), facts.capacity["pods"].value(), facts.memory_bytes), (3, 110, 1 << 30));
    }
}
