//! What a cgroup has used, in the CRI's terms. `now` is nanoseconds since the epoch.

use std::fs;

use fram_cri::{CpuUsage, MemoryUsage, ProcessUsage, PsiData, PsiStats, SwapUsage};

use super::{Cgroups, field};

/// A limit above this is the kernel's way to say "none" (version 1 rounds `i64::MAX` down to pages).
const UNLIMITED: u64 = 1 << 62;

impl Cgroups {
    fn read(&self, controller: &str, cgroup: &str, file: &str) -> Option<String> {
        fs::read_to_string(self.path(controller, cgroup)?.join(file)).ok()
    }

    fn read_number(&self, controller: &str, cgroup: &str, file: &str) -> Option<u64> {
        self.read(controller, cgroup, file)?.trim().parse().ok()
    }

    pub(crate) fn cpu_usage(&self, cgroup: &str, now: i64) -> CpuUsage {
        let nanoseconds = if self.is_v2() {
            self.read("cpu", cgroup, "cpu.stat").and_then(|text| field(&text, "usage_usec")).map(|micros| micros * 1000)
        } else {
            self.read_number("cpuacct", cgroup, "cpuacct.usage")
        };
        CpuUsage {
            timestamp: now,
            usage_core_nano_seconds: nanoseconds,
            usage_nano_cores: None,
            psi: self.pressure(cgroup, "cpu.pressure"),
        }
    }

    /// Working set as cAdvisor counts it: usage without the file pages that nobody has touched for long.
    pub(crate) fn memory_usage(&self, cgroup: &str, now: i64) -> MemoryUsage {
        let stat = self.read("memory", cgroup, "memory.stat").unwrap_or_default();
        let [usage, limit, inactive, rss] = if self.is_v2() {
            ["memory.current", "memory.max", "inactive_file", "anon"]
        } else {
            ["memory.usage_in_bytes", "memory.limit_in_bytes", "total_inactive_file", "total_rss"]
        };
        let prefix = if self.is_v2() { "" } else { "total_" };
        let usage = self.read_number("memory", cgroup, usage);
        let limit = self.read_number("memory", cgroup, limit).filter(|limit| *limit < UNLIMITED);
        let working_set = usage.map(|usage| usage.saturating_sub(field(&stat, inactive).unwrap_or(0)));
        MemoryUsage {
            timestamp: now,
            working_set_bytes: working_set,
            available_bytes: limit.zip(working_set).map(|(limit, used)| limit.saturating_sub(used)),
            usage_bytes: usage,
            rss_bytes: field(&stat, rss),
            page_faults: field(&stat, &format!("{prefix}pgfault")),
            major_page_faults: field(&stat, &format!("{prefix}pgmajfault")),
            psi: self.pressure(cgroup, "memory.pressure"),
        }
    }

    pub(crate) fn swap_usage(&self, cgroup: &str, now: i64) -> SwapUsage {
        let used = if self.is_v2() {
            self.read_number("memory", cgroup, "memory.swap.current")
        } else {
            self.read("memory", cgroup, "memory.stat").and_then(|stat| field(&stat, "total_swap"))
        };
        SwapUsage { timestamp: now, swap_available_bytes: None, swap_usage_bytes: used }
    }

    pub(crate) fn process_usage(&self, cgroup: &str, now: i64) -> ProcessUsage {
        ProcessUsage { timestamp: now, process_count: self.read_number("pids", cgroup, "pids.current") }
    }

    fn pressure(&self, cgroup: &str, file: &str) -> Option<PsiStats> {
        if !self.is_v2() {
            return None;
        }
        parse_pressure(&self.read("", cgroup, file)?)
    }
}

/// Lines of `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, totals in microseconds (kernel accounting/psi).
fn parse_pressure(text: &str) -> Option<PsiStats> {
    let line = |kind: &str| {
        let line = text.lines().find(|line| line.starts_with(kind))?;
        let value = |name: &str| line.split(' ').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
        let average = |name: &str| value(name).and_then(|text| text.parse().ok()).unwrap_or(0.0);
        let total = value("total")?.parse::<u64>().ok()? * 1000;
        Some(PsiData { total, avg10: average("avg10"), avg60: average("avg60"), avg300: average("avg300") })
    };
    let some = line("some")?;
    Some(PsiStats { some, full: line("full").unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_read_with_and_without_a_full_line() {
        let some = "some avg10=1.50 avg60=0.25 avg300=0.00 total=7\n";
        let psi = parse_pressure(some).unwrap();
        assert_eq!((psi.some.avg10, psi.some.total, psi.full.total), (1.5, 7000, 0));
        let both = format!("{some}full avg10=0.00 avg60=0.00 avg300=0.00 total=3\n");
        assert_eq!(parse_pressure(&both).unwrap().full.total, 3000);
        assert_eq!(parse_pressure(""), None);
    }
}
