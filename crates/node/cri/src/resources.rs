//! Resource limits of a container or of a pod's cgroup.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Zero and empty mean "not specified", as in api.proto.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinuxContainerResources {
    /// Microseconds.
    pub cpu_period: i64,
    /// Microseconds in each period; -1 is no limit.
    pub cpu_quota: i64,
    /// Relative weight, cgroup v1 scale (2 to 262144).
    pub cpu_shares: i64,
    pub memory_limit_in_bytes: i64,
    /// Memory and swap together.
    pub memory_swap_limit_in_bytes: i64,
    /// -1000 to 1000.
    pub oom_score_adj: i64,
    /// List format, as `0-2,7`.
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
    pub hugepage_limits: Vec<HugepageLimit>,
    /// cgroup v2 files and their contents, for what has no field.
    pub unified: BTreeMap<String, String>,
    /// Most processes and threads; 0 is "not specified". Not in api.proto, where the pod's cgroup carries it.
    pub pids_limit: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HugepageLimit {
    /// As in the cgroup file names: `64KB`, `2MB`, `1GB`.
    pub page_size: String,
    pub limit: u64,
}
