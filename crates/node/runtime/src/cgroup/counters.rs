//! What a cgroup counts beyond the CRI's stats, and the limits that it has, under cAdvisor's names. What a kernel or a version of
//! cgroups does not say is not told.

use std::fs;
use std::path::Path;

use super::limits::shares;
use super::stats::UNLIMITED;
use super::{Cgroups, field};
use crate::metrics::Told;

impl Cgroups {
    pub(crate) fn tell(&self, cgroup: &str, told: &mut Told) {
        self.tell_cpu(cgroup, told);
        self.tell_memory(cgroup, told);
        self.tell_huge_pages(cgroup, told);
        self.tell_disks(cgroup, told);
        let oom = self.path("memory", cgroup).is_some().then(|| self.oom_kills(cgroup));
        told.whole("container_oom_events_total", oom);
        told.whole("container_threads", self.read_number("pids", cgroup, "pids.current"));
        told.whole("container_threads_max", self.limit_of("pids", cgroup, "pids.max"));
        for (of, waiting, stalled) in [
            ("cpu", "container_pressure_cpu_waiting_seconds_total", "container_pressure_cpu_stalled_seconds_total"),
            ("io", "container_pressure_io_waiting_seconds_total", "container_pressure_io_stalled_seconds_total"),
            ("memory", "container_pressure_memory_waiting_seconds_total", "container_pressure_memory_stalled_seconds_total"),
        ] {
            let pressure = self.pressure(cgroup, &format!("{of}.pressure"));
            told.one(waiting, pressure.as_ref().map(|psi| seconds(psi.some.total)));
            told.one(stalled, pressure.as_ref().map(|psi| seconds(psi.full.total)));
        }
    }

    fn tell_cpu(&self, cgroup: &str, told: &mut Told) {
        let stat = self.read("cpu", cgroup, "cpu.stat").unwrap_or_default();
        let micros = |name: &str| field(&stat, name).map(|micros| micros * 1000);
        let (user, system, throttled) = if self.is_v2() {
            (micros("user_usec"), micros("system_usec"), micros("throttled_usec"))
        } else {
            let of = |file| self.read_number("cpuacct", cgroup, file);
            (of("cpuacct.usage_user"), of("cpuacct.usage_sys"), field(&stat, "throttled_time"))
        };
        told.one("container_cpu_usage_seconds_total", self.cpu_usage(cgroup, 0).usage_core_nano_seconds.map(seconds));
        told.one("container_cpu_user_seconds_total", user.map(seconds));
        told.one("container_cpu_system_seconds_total", system.map(seconds));
        told.whole("container_cpu_cfs_periods_total", field(&stat, "nr_periods"));
        told.whole("container_cpu_cfs_throttled_periods_total", field(&stat, "nr_throttled"));
        told.one("container_cpu_cfs_throttled_seconds_total", throttled.map(seconds));
        let (quota, period) = if self.is_v2() {
            let text = self.read("cpu", cgroup, "cpu.max").unwrap_or_default();
            let mut numbers = text.split_whitespace().map(|number| number.parse().ok());
            (numbers.next().flatten(), numbers.next().flatten())
        } else {
            let of = |file| self.read_number("cpu", cgroup, file);
            (of("cpu.cfs_quota_us"), of("cpu.cfs_period_us"))
        };
        // No quota is -1 or "max", which is no number of microseconds.
        told.whole("container_spec_cpu_quota", quota);
        told.whole("container_spec_cpu_period", period);
        let shares = if self.is_v2() {
            self.read_number("cpu", cgroup, "cpu.weight").map(shares)
        } else {
            self.read_number("cpu", cgroup, "cpu.shares")
        };
        told.whole("container_spec_cpu_shares", shares);
    }

    fn tell_memory(&self, cgroup: &str, told: &mut Told) {
        let usage = self.memory_usage(cgroup, 0);
        told.whole("container_memory_usage_bytes", usage.usage_bytes);
        told.whole("container_memory_working_set_bytes", usage.working_set_bytes);
        told.whole("container_memory_rss", usage.rss_bytes);
        told.whole("container_memory_swap", self.swap_usage(cgroup, 0).swap_usage_bytes);
        let stat = self.read("memory", cgroup, "memory.stat").unwrap_or_default();
        let number = |file| self.read_number("memory", cgroup, file);
        let (cache, mapped, own, all) =
            if self.is_v2() { ("file", "file_mapped", "", "") } else { ("total_cache", "total_mapped_file", "", "total_") };
        told.whole("container_memory_cache", field(&stat, cache));
        told.whole("container_memory_mapped_file", field(&stat, mapped));
        for (scope, prefix) in [("container", own), ("hierarchy", all)] {
            for failure in ["pgfault", "pgmajfault"] {
                if let Some(count) = field(&stat, &format!("{prefix}{failure}")) {
                    told.with("container_memory_failures_total", &[failure, scope], count as f64);
                }
            }
        }
        let (kernel, most, hits) = if self.is_v2() {
            let hits = self.read("memory", cgroup, "memory.events").and_then(|text| field(&text, "max"));
            (field(&stat, "kernel"), number("memory.peak"), hits)
        } else {
            (number("memory.kmem.usage_in_bytes"), number("memory.max_usage_in_bytes"), number("memory.failcnt"))
        };
        told.whole("container_memory_kernel_usage", kernel);
        told.whole("container_memory_max_usage_bytes", most);
        told.whole("container_memory_failcnt", hits);
        let files = if self.is_v2() {
            ["memory.max", "memory.low", "memory.swap.max"]
        } else {
            ["memory.limit_in_bytes", "memory.soft_limit_in_bytes", "memory.memsw.limit_in_bytes"]
        };
        let names = [
            "container_spec_memory_limit_bytes",
            "container_spec_memory_reservation_limit_bytes",
            "container_spec_memory_swap_limit_bytes",
        ];
        for (name, file) in names.into_iter().zip(files) {
            told.whole(name, self.limit_of("memory", cgroup, file));
        }
    }

    /// A limit; 0 for none, as cAdvisor has it.
    fn limit_of(&self, controller: &str, cgroup: &str, file: &str) -> Option<u64> {
        match self.read(controller, cgroup, file)?.trim() {
            "max" => Some(0),
            number => number.parse().ok().map(|limit| if limit >= UNLIMITED { 0 } else { limit }),
        }
    }

    fn tell_huge_pages(&self, cgroup: &str, told: &mut Told) {
        let Some(path) = self.path("hugetlb", cgroup) else { return };
        let (now, most) = if self.is_v2() { (".current", "") } else { (".usage_in_bytes", ".max_usage_in_bytes") };
        for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
            let file = entry.file_name();
            let Some(size) = file.to_str().and_then(|file| file.strip_prefix("hugetlb.")?.strip_suffix(now)) else { continue };
            // Beside what is used there is what is reserved, under the same name with a word more.
            if size.contains('.') {
                continue;
            }
            let number = |file: String| fs::read_to_string(path.join(file)).ok()?.trim().parse::<u64>().ok();
            if let Some(used) = number(format!("hugetlb.{size}{now}")) {
                told.with("container_hugetlb_usage_bytes", &[size], used as f64);
            }
            if let Some(used) = (!most.is_empty()).then(|| number(format!("hugetlb.{size}{most}"))).flatten() {
                told.with("container_hugetlb_max_usage_bytes", &[size], used as f64);
            }
        }
    }

    fn tell_disks(&self, cgroup: &str, told: &mut Told) {
        for disk in self.disks(cgroup) {
            let device = device_name(&disk.number);
            let (major, minor) = disk.number.split_once(':').unwrap_or_default();
            for (operation, bytes) in [("Read", disk.read.bytes), ("Write", disk.written.bytes)] {
                told.with("container_blkio_device_usage_total", &[&device, major, minor, operation], bytes as f64);
            }
            for (name, count) in [
                ("container_fs_reads_bytes_total", disk.read.bytes),
                ("container_fs_reads_total", disk.read.times),
                ("container_fs_writes_bytes_total", disk.written.bytes),
                ("container_fs_writes_total", disk.written.times),
            ] {
                told.with(name, &[&device], count as f64);
            }
        }
    }

    fn disks(&self, cgroup: &str) -> Vec<Disk> {
        let read = |controller, file| self.read(controller, cgroup, file).unwrap_or_default();
        if self.is_v2() {
            return parse_io_stat(&read("io", "io.stat"));
        }
        let (bytes, times) = ("blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_serviced_recursive");
        parse_blkio(&read("blkio", bytes), &read("blkio", times))
    }
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Transfers {
    bytes: u64,
    times: u64,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Disk {
    /// `major:minor`.
    number: String,
    read: Transfers,
    written: Transfers,
}

/// Lines of `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6` (kernel cgroup-v2).
fn parse_io_stat(text: &str) -> Vec<Disk> {
    let disk = |line: &str| {
        let (number, rest) = line.split_once(' ')?;
        let value = |name: &str| {
            let text = rest.split(' ').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
            text.and_then(|text| text.parse().ok()).unwrap_or(0)
        };
        let read = Transfers { bytes: value("rbytes"), times: value("rios") };
        let written = Transfers { bytes: value("wbytes"), times: value("wios") };
        Some(Disk { number: number.to_owned(), read, written })
    };
    text.lines().filter_map(disk).collect()
}

/// Lines of `8:0 Read 1` in one file for bytes and one for how often (kernel blkio-controller).
fn parse_blkio(bytes: &str, times: &str) -> Vec<Disk> {
    let mut disks: Vec<Disk> = Vec::new();
    let lines = bytes.lines().map(|line| (line, true)).chain(times.lines().map(|line| (line, false)));
    for (line, of_bytes) in lines {
        let parts: Vec<&str> = line.split(' ').collect();
        let [number, operation @ ("Read" | "Write"), count] = parts.as_slice() else { continue };
        let place = disks.iter().position(|disk| disk.number == *number).unwrap_or_else(|| {
            disks.push(Disk { number: (*number).to_owned(), ..Disk::default() });
            disks.len() - 1
        });
        let transfers = if *operation == "Read" { &mut disks[place].read } else { &mut disks[place].written };
        *(if of_bytes { &mut transfers.bytes } else { &mut transfers.times }) = count.parse().unwrap_or(0);
    }
    disks
}

/// `/dev/vda` of `254:0`; nothing where the kernel has no name for it.
pub(crate) fn device_name(number: &str) -> String {
    let text = fs::read_to_string(Path::new("/sys/dev/block").join(number).join("uevent")).unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    name.map(|name| format!("/dev/{name}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(number: &str, read: [u64; 2], written: [u64; 2]) -> Disk {
        let transfers = |[bytes, times]: [u64; 2]| Transfers { bytes, times };
        Disk { number: number.into(), read: transfers(read), written: transfers(written) }
    }

    #[test]
    fn disks_are_read_from_both_versions() {
        let two = "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n8:16 \n";
        assert_eq!(parse_io_stat(two), [disk("8:0", [1, 3], [2, 4]), disk("8:16", [0, 0], [0, 0])]);
        let bytes = "8:0 Read 1\n8:0 Write 2\n8:0 Sync 9\n8:0 Total 3\n254:1 Read 7\nTotal 10\n";
        let times = "8:0 Read 3\n8:0 Write 4\nTotal 7\n";
        assert_eq!(parse_blkio(bytes, times), [disk("8:0", [1, 3], [2, 4]), disk("254:1", [7, 0], [0, 0])]);
    }
}
