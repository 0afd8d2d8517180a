//! The machine as the kernel describes it: processors, memory, disk, names, and what it is short of.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use fram_machinery::Value;
use fram_machinery::object;
use fram_machinery::quantity::{Format, Quantity};

use crate::config::KubeletConfig;
use crate::context::NodeFacts;

/// Upstream's default hard eviction thresholds.
const LEAST_MEMORY: i64 = 100 << 20;
const LEAST_DISK_SHARE: f64 = 0.1;
/// Pods may leave this share of the machine's process ids free, and no less.
const LEAST_PIDS_SHARE: f64 = 0.1;

fn meminfo(key: &str) -> Option<i64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.split(':').next() == Some(key))?;
    Some(line.split_whitespace().nth(1)?.parse::<i64>().ok()? << 10)
}

/// Bytes of the file system that holds a path: all, and free for use.
pub(crate) fn disk(path: &Path) -> Option<(i64, i64)> {
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(stat.fragment_size())).unwrap_or(i64::MAX);
    Some((bytes(stat.blocks()), bytes(stat.blocks_available())))
}

/// Nanoseconds of work of all processors since the machine was started.
pub(crate) fn cpu_nano_seconds() -> Option<u64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let numbers: Vec<u64> = text.lines().next()?.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal, in hundredths of a second (proc(5)); guests count as user already.
    let busy: u64 = numbers.iter().take(8).enumerate().filter(|(i, _)| !matches!(i, 3 | 4)).map(|(_, n)| n).sum();
    Some(busy * 10_000_000)
}

/// Bytes of memory that are in use and cannot be had without harm, and those that can.
pub(crate) fn memory_in_use() -> Option<(i64, i64)> {
    let (all, available) = (meminfo("MemTotal")?, meminfo("MemAvailable")?);
    Some((all - available, available))
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_string()
}

/// Capacity and what of it pods may use.
pub(crate) fn facts(config: &KubeletConfig) -> NodeFacts {
    let units = |n: i64| Quantity::from_units(n, Format::DecimalSi);
    let memory = meminfo("MemTotal").unwrap_or(0);
    let cpus = std::thread::available_parallelism().map_or(1, |n| i64::try_from(n.get()).unwrap_or(1));
    let storage = disk(&config.root_dir).map_or(0, |d| d.0);
    let mut capacity = BTreeMap::from([
        ("cpu".to_string(), units(cpus)),
        ("memory".to_string(), Quantity::from_units(memory >> 10 << 10, Format::BinarySi)),
        ("ephemeral-storage".to_string(), Quantity::from_units(storage >> 10 << 10, Format::BinarySi)),
        ("pods".to_string(), units(i64::from(config.max_pods))),
    ]);
    capacity.extend(huge_pages());
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
    take("memory", Quantity::from_units(LEAST_MEMORY, Format::BinarySi));
    let kept = capacity.get("ephemeral-storage").map_or(0, |q| (q.value() as f64 * LEAST_DISK_SHARE) as i64);
    take("ephemeral-storage", Quantity::from_units(kept, Format::BinarySi));
    let memory_bytes = capacity.get("memory").map_or(memory, Quantity::value);
    NodeFacts { memory_bytes, capacity, allocatable }
}

fn huge_pages() -> BTreeMap<String, Quantity> {
    let mut out = BTreeMap::new();
    for entry in fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let size = name.to_str().and_then(|n| n.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse::<i64>().ok());
        let Some(size) = size else { continue };
        let pages: i64 = read(&entry.path().join("nr_hugepages").display().to_string()).parse().unwrap_or(0);
        let name = Quantity::from_units(size << 10, Format::BinarySi).to_string();
        out.insert(format!("hugepages-{name}"), Quantity::from_units(pages * (size << 10), Format::BinarySi));
    }
    out
}

/// What the machine is short of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pressures {
    pub(crate) memory: bool,
    pub(crate) disk: bool,
    pub(crate) pids: bool,
}

pub(crate) fn pressures(config: &KubeletConfig) -> Pressures {
    let memory = meminfo("MemAvailable").is_some_and(|free| free < LEAST_MEMORY);
    let disk = disk(&config.root_dir).is_some_and(|(all, free)| (free as f64) < all as f64 * LEAST_DISK_SHARE);
    let limit: f64 = read("/proc/sys/kernel/pid_max").parse().unwrap_or(0.0);
    let running: f64 = read("/proc/loadavg").split(['/', ' ']).nth(4).and_then(|n| n.parse().ok()).unwrap_or(0.0);
    Pressures { memory, disk, pids: limit > 0.0 && limit - running < limit * LEAST_PIDS_SHARE }
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
