//! What a cgroup has used, in the CRI's terms. `now` is nanoseconds since the epoch.

use std::fs;

use fram_cri::{CpuUsage, IoUsage, MemoryUsage, ProcessUsage, PsiStats, SwapUsage};

use super::{Cgroups, field};

/// A limit above this is the kernel's way to say "none" (version 1 rounds `i64::MAX` down to pages).
pub(super) const UNLIMITED: u64 = 1 << 62;

impl Cgroups {
    pub(super) fn read(&self, controller: &str, cgroup: &str, file: &str) -> Option<String> {
        fs::read_to_string(self.path(controller, cgroup)?.join(file)).ok()
    }

    pub(super) fn read_number(&self, controller: &str, cgroup: &str, file: &str) -> Option<u64> {
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

    pub(crate) fn io_usage(&self, cgroup: &str, now: i64) -> IoUsage {
        IoUsage { timestamp: now, psi: self.pressure(cgroup, "io.pressure") }
    }

    pub(crate) fn process_usage(&self, cgroup: &str, now: i64) -> ProcessUsage {
        ProcessUsage { timestamp: now, process_count: self.read_number("pids", cgroup, "pids.current") }
    }

    pub(super) fn pressure(&self, cgroup: &str, file: &str) -> Option<PsiStats> {
        if !self.is_v2() {
            return None;
        }
        PsiStats::parse(&self.read("", cgroup, file)?)
    }
}
