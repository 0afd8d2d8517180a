//! Usage of containers and sandboxes. `timestamp` is nanoseconds since the epoch; `None` is "not known".

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::container::ContainerMetadata;
use crate::image::FilesystemUsage;
use crate::sandbox::{PodSandboxMetadata, labels_match};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerAttributes {
    pub id: String,
    pub metadata: ContainerMetadata,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerStats {
    pub attributes: ContainerAttributes,
    pub pod_sandbox_id: String,
    pub cpu: CpuUsage,
    pub memory: MemoryUsage,
    pub swap: SwapUsage,
    pub io: IoUsage,
    pub writable_layer: Option<FilesystemUsage>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PsiData {
    /// Nanoseconds.
    pub total: u64,
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PsiStats {
    pub full: PsiData,
    pub some: PsiData,
}

impl PsiStats {
    /// Lines of `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, totals in microseconds (kernel accounting/psi). Processors of a whole
    /// machine have no `full`.
    pub fn parse(text: &str) -> Option<PsiStats> {
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
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuUsage {
    pub timestamp: i64,
    pub usage_core_nano_seconds: Option<u64>,
    /// A rate; the kubelet computes it from two samples when it is missing.
    pub usage_nano_cores: Option<u64>,
    pub psi: Option<PsiStats>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryUsage {
    pub timestamp: i64,
    pub working_set_bytes: Option<u64>,
    pub available_bytes: Option<u64>,
    pub usage_bytes: Option<u64>,
    pub rss_bytes: Option<u64>,
    pub page_faults: Option<u64>,
    pub major_page_faults: Option<u64>,
    pub psi: Option<PsiStats>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SwapUsage {
    pub timestamp: i64,
    pub swap_available_bytes: Option<u64>,
    pub swap_usage_bytes: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct IoUsage {
    pub timestamp: i64,
    pub psi: Option<PsiStats>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessUsage {
    pub timestamp: i64,
    pub process_count: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkInterfaceUsage {
    pub name: String,
    pub rx_bytes: Option<u64>,
    pub rx_errors: Option<u64>,
    pub tx_bytes: Option<u64>,
    pub tx_errors: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkUsage {
    pub timestamp: i64,
    pub default_interface: Option<NetworkInterfaceUsage>,
    /// The others.
    pub interfaces: Vec<NetworkInterfaceUsage>,
}

/// CPU, memory and processes are those of the whole pod cgroup.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSandboxStats {
    pub id: String,
    pub metadata: PodSandboxMetadata,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub cpu: CpuUsage,
    pub memory: MemoryUsage,
    pub io: IoUsage,
    pub process: ProcessUsage,
    /// `None` for pods in the host's network namespace.
    pub network: Option<NetworkUsage>,
    pub containers: Vec<ContainerStats>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerStatsFilter {
    pub id: Option<String>,
    pub pod_sandbox_id: Option<String>,
    pub label_selector: BTreeMap<String, String>,
}

impl ContainerStatsFilter {
    pub fn matches(&self, id: &str, pod_sandbox_id: &str, labels: &BTreeMap<String, String>) -> bool {
        self.id.as_deref().is_none_or(|wanted| wanted == id)
            && self.pod_sandbox_id.as_deref().is_none_or(|wanted| wanted == pod_sandbox_id)
            && labels_match(&self.label_selector, labels)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSandboxStatsFilter {
    pub id: Option<String>,
    pub label_selector: BTreeMap<String, String>,
}

impl PodSandboxStatsFilter {
    pub fn matches(&self, id: &str, labels: &BTreeMap<String, String>) -> bool {
        self.id.as_deref().is_none_or(|wanted| wanted == id) && labels_match(&self.label_selector, labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_read_with_and_without_a_full_line() {
        let some = "some avg10=1.50 avg60=0.25 avg300=0.00 total=7\n";
        let psi = PsiStats::parse(some).unwrap();
        assert_eq!((psi.some.avg10, psi.some.total, psi.full.total), (1.5, 7000, 0));
        let both = format!("{some}full avg10=0.00 avg60=0.00 avg300=0.00 total=3\n");
        assert_eq!(PsiStats::parse(&both).unwrap().full.total, 3000);
        assert_eq!(PsiStats::parse(""), None);
    }
}
