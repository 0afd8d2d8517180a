//! Counters and histograms by upstream's names, with their labels; see pkg/kubelet/metrics.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Count {
    RuntimeOperations,
    RuntimeErrors,
    SandboxErrors,
    AdmissionRejections,
    ImageVolumesRequested,
    ImageVolumesMounted,
    ImageVolumeErrors,
}

/// What is measured: how long something took, or how many there were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Took {
    RuntimeOperation,
    Sandbox,
    PodSync,
    PodStart,
    PodStartTotal,
    ImagePull,
    ContainersPerPod,
}

struct Family {
    name: &'static str,
    level: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
}

const fn family(name: &'static str, level: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family { name, level, labels, help }
}

impl Count {
    const ALL: [Self; 7] = [
        Self::RuntimeOperations,
        Self::RuntimeErrors,
        Self::SandboxErrors,
        Self::AdmissionRejections,
        Self::ImageVolumesRequested,
        Self::ImageVolumesMounted,
        Self::ImageVolumeErrors,
    ];

    fn family(self) -> Family {
        const OPERATION: &[&str] = &["operation_type"];
        match self {
            Self::RuntimeOperations => {
                family("runtime_operations_total", "ALPHA", OPERATION, "Cumulative number of runtime operations by operation type.")
            }
            Self::RuntimeErrors => family(
                "runtime_operations_errors_total",
                "ALPHA",
                OPERATION,
                "Cumulative number of runtime operation errors by operation type.",
            ),
            Self::SandboxErrors => family(
                "run_podsandbox_errors_total",
                "ALPHA",
                &["runtime_handler"],
                "Cumulative number of the run_podsandbox operation errors by RuntimeClass.Handler.",
            ),
            Self::AdmissionRejections => {
                family("admission_rejections_total", "ALPHA", &["reason"], "Cumulative number pod admission rejections by the Kubelet.")
            }
            Self::ImageVolumesRequested => family("image_volume_requested_total", "BETA", &[], "Number of requested image volumes."),
            Self::ImageVolumesMounted => {
                family("image_volume_mounted_succeed_total", "BETA", &[], "Number of successful image volume mounts.")
            }
            Self::ImageVolumeErrors => family("image_volume_mounted_errors_total", "BETA", &[], "Number of failed image volume mounts."),
        }
    }
}

/// Prometheus' own.
const DEFAULT: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
const STARTUP: &[f64] = &[
    0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0, 1200.0,
    1800.0, 2700.0, 3600.0,
];
const PULL: &[f64] =
    &[1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0];

impl Took {
    const ALL: [Self; 7] = [
        Self::RuntimeOperation,
        Self::Sandbox,
        Self::PodSync,
        Self::PodStart,
        Self::PodStartTotal,
        Self::ImagePull,
        Self::ContainersPerPod,
    ];

    fn family(self) -> (Family, &'static [f64]) {
        match self {
            Self::RuntimeOperation => (
                family(
                    "runtime_operations_duration_seconds",
                    "ALPHA",
                    &["operation_type"],
                    "Duration in seconds of runtime operations. Broken down by operation type.",
                ),
                // From 5 ms on, each two and a half times the one before.
                &[
                    0.005,
                    0.0125,
                    0.03125,
                    0.078125,
                    0.1953125,
                    0.48828125,
                    1.220703125,
                    3.0517578125,
                    7.62939453125,
                    19.073486328125,
                    47.6837158203125,
                    119.20928955078125,
                    298.0232238769531,
                    745.0580596923828,
                ],
            ),
            Self::Sandbox => (
                family(
                    "run_podsandbox_duration_seconds",
                    "ALPHA",
                    &["runtime_handler"],
                    "Duration in seconds of the run_podsandbox operations. Broken down by RuntimeClass.Handler.",
                ),
                DEFAULT,
            ),
            Self::PodSync => (
                family(
                    "pod_worker_duration_seconds",
                    "ALPHA",
                    &["operation_type"],
                    "Duration in seconds to sync a single pod. Broken down by operation type: create, update, or sync",
                ),
                DEFAULT,
            ),
            Self::PodStart => (
                family(
                    "pod_start_duration_seconds",
                    "ALPHA",
                    &[],
                    "Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run",
                ),
                STARTUP,
            ),
            Self::PodStartTotal => (
                family(
                    "pod_start_total_duration_seconds",
                    "ALPHA",
                    &[],
                    "Duration in seconds to start a pod since creation, including time to pull images and run init containers, measured from \
                     pod creation timestamp to when all its containers are reported as started and observed via watch",
                ),
                STARTUP,
            ),
            Self::ImagePull => {
                (family("image_pull_duration_seconds", "ALPHA", &["image_size_in_bytes"], "Duration in seconds to pull an image."), PULL)
            }
            Self::ContainersPerPod => {
                (family("containers_per_pod_count", "ALPHA", &[], "The number of containers per pod."), &[1.0, 2.0, 4.0, 8.0, 16.0])
            }
        }
    }
}

/// The range of sizes that an image's is told in, as upstream names them.
pub(crate) fn size_range(bytes: u64) -> &'static str {
    const MEBI: u64 = 1 << 20;
    const GIBI: u64 = 1 << 30;
    const RANGES: [(u64, &str); 12] = [
        (100 * GIBI, "GT100GB"),
        (60 * GIBI, "60GB-100GB"),
        (40 * GIBI, "40GB-60GB"),
        (30 * GIBI, "30GB-40GB"),
        (20 * GIBI, "20GB-30GB"),
        (10 * GIBI, "10GB-20GB"),
        (5 * GIBI, "5GB-10GB"),
        (GIBI, "1GB-5GB"),
        (500 * MEBI, "500MB-1GB"),
        (100 * MEBI, "100MB-500MB"),
        (10 * MEBI, "10MB-100MB"),
        (0, "0-10MB"),
    ];
    RANGES.iter().find(|(least, _)| bytes > *least).map_or("N/A", |(_, name)| name)
}

/// How many there were within each bound and not the one before; the last has none.
struct Histogram {
    counts: Vec<u64>,
    sum: f64,
}

#[derive(Default)]
pub(crate) struct Families {
    /// By the values of their labels.
    counts: Mutex<BTreeMap<(Count, Vec<String>), u64>>,
    histograms: Mutex<BTreeMap<(Took, Vec<String>), Histogram>>,
}

impl Families {
    pub(crate) fn count(&self, what: Count, labels: &[&str], by: u64) {
        debug_assert_eq!(what.family().labels.len(), labels.len(), "labels of {what:?}");
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        *self.counts.lock().entry((what, labels)).or_default() += by;
    }

    pub(crate) fn took(&self, what: Took, labels: &[&str], time: Duration) {
        self.note(what, labels, time.as_secs_f64());
    }

    pub(crate) fn note(&self, what: Took, labels: &[&str], amount: f64) {
        let (family, bounds) = what.family();
        debug_assert_eq!(family.labels.len(), labels.len(), "labels of {what:?}");
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        let mut all = self.histograms.lock();
        let histogram = all.entry((what, labels)).or_insert_with(|| Histogram { counts: vec![0; bounds.len() + 1], sum: 0.0 });
        histogram.counts[bounds.iter().position(|bound| amount <= *bound).unwrap_or(bounds.len())] += 1;
        histogram.sum += amount;
    }

    /// In Prometheus' text format. What has no labels is told before it has happened.
    pub(super) fn exposition(&self, out: &mut String) {
        let counts = self.counts.lock();
        for what in Count::ALL {
            let family = what.family();
            head(out, &family, "counter");
            for ((_, labels), count) in counts.range((what, Vec::new())..).take_while(|((of, _), _)| *of == what) {
                out.push_str(&format!("kubelet_{}{} {count}\n", family.name, shown(family.labels, labels, None)));
            }
            if family.labels.is_empty() && !counts.contains_key(&(what, Vec::new())) {
                out.push_str(&format!("kubelet_{} 0\n", family.name));
            }
        }
        let histograms = self.histograms.lock();
        for what in Took::ALL {
            let (family, bounds) = what.family();
            head(out, &family, "histogram");
            for ((_, labels), histogram) in histograms.range((what, Vec::new())..).take_while(|((of, _), _)| *of == what) {
                let mut within = 0;
                let bounds = bounds.iter().map(|bound| format!("{bound}")).chain(["+Inf".to_owned()]);
                for (bound, count) in bounds.zip(&histogram.counts) {
                    within += count;
                    out.push_str(&format!("kubelet_{}_bucket{} {within}\n", family.name, shown(family.labels, labels, Some(&bound))));
                }
                let labels = shown(family.labels, labels, None);
                out.push_str(&format!("kubelet_{0}_sum{labels} {1}\nkubelet_{0}_count{labels} {within}\n", family.name, histogram.sum));
            }
        }
    }
}

fn head(out: &mut String, family: &Family, kind: &str) {
    let Family { name, level, help, .. } = family;
    out.push_str(&format!("# HELP kubelet_{name} [{level}] {help}\n# TYPE kubelet_{name} {kind}\n"));
}

fn shown(names: &[&str], values: &[String], bound: Option<&str>) -> String {
    let pairs = names.iter().copied().zip(values.iter().map(String::as_str)).chain(bound.map(|bound| ("le", bound)));
    let pairs: Vec<String> = pairs.map(|(name, value)| format!("{name}={value:?}")).collect();
    if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_and_histograms_are_told_with_their_labels() {
        let families = Families::default();
        families.count(Count::RuntimeOperations, &["version"], 2);
        families.count(Count::ImageVolumesMounted, &[], 3);
        families.took(Took::Sandbox, &["runc"], Duration::from_millis(20));
        families.took(Took::Sandbox, &["runc"], Duration::from_secs(60));
        let mut text = String::new();
        families.exposition(&mut text);
        for line in [
            "# TYPE kubelet_runtime_operations_total counter",
            "kubelet_runtime_operations_total{operation_type=\"version\"} 2",
            "kubelet_image_volume_mounted_succeed_total 3",
            "kubelet_image_volume_mounted_errors_total 0",
            "kubelet_run_podsandbox_duration_seconds_bucket{runtime_handler=\"runc\",le=\"0.01\"} 0",
            "kubelet_run_podsandbox_duration_seconds_bucket{runtime_handler=\"runc\",le=\"0.025\"} 1",
            "kubelet_run_podsandbox_duration_seconds_bucket{runtime_handler=\"runc\",le=\"10\"} 1",
            "kubelet_run_podsandbox_duration_seconds_bucket{runtime_handler=\"runc\",le=\"+Inf\"} 2",
            "kubelet_run_podsandbox_duration_seconds_sum{runtime_handler=\"runc\"} 60.02",
            "kubelet_run_podsandbox_duration_seconds_count{runtime_handler=\"runc\"} 2",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} in {text}");
        }
        assert_eq!(
            (size_range(0), size_range(1), size_range(200 << 20), size_range(200 << 30)),
            ("N/A", "0-10MB", "100MB-500MB", "GT100GB")
        );
    }
}
