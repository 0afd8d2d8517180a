//! What the kubelet counts of its own work, by upstream's names; see pkg/kubelet/metrics.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::pod::PodId;

#[derive(Default)]
pub(crate) struct Metrics {
    evictions: Mutex<BTreeMap<&'static str, u64>>,
    probes: Mutex<BTreeMap<Probed, u64>>,
}

/// Whose probe it was and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Probed {
    pub(crate) pod: PodId,
    pub(crate) container: String,
    pub(crate) kind: &'static str,
    pub(crate) success: bool,
}

impl Metrics {
    pub(crate) fn count_eviction(&self, signal: &'static str) {
        *self.evictions.lock().entry(signal).or_default() += 1;
    }

    pub(crate) fn count_probe(&self, probed: Probed) {
        *self.probes.lock().entry(probed).or_default() += 1;
    }

    /// Forgets a pod that is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.probes.lock().retain(|probed, _| probed.pod.uid != uid);
    }

    /// The document at /metrics/probes.
    pub(crate) fn probes(&self) -> String {
        let mut out = String::from(
            "# HELP prober_probe_total [BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.\n\
             # TYPE prober_probe_total counter\n",
        );
        for (Probed { pod, container, kind, success }, count) in &*self.probes.lock() {
            let result = if *success { "successful" } else { "failed" };
            let PodId { namespace, name, uid } = pod;
            out.push_str(&format!(
                "prober_probe_total{{container={container:?},namespace={namespace:?},pod={name:?},pod_uid={uid:?},probe_type={kind:?},result={result:?}}} {count}\n"
            ));
        }
        out
    }

    /// In Prometheus' text format.
    pub(crate) fn exposition(&self) -> String {
        let mut out = String::from(
            "# HELP kubelet_evictions [ALPHA] Cumulative number of pod evictions by eviction signal\n# TYPE kubelet_evictions counter\n",
        );
        for (signal, count) in &*self.evictions.lock() {
            out.push_str(&format!("kubelet_evictions{{eviction_signal={signal:?}}} {count}\n"));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_counted_by_container_and_result_until_their_pod_is_gone() {
        let metrics = Metrics::default();
        let pod = PodId { namespace: "ns".into(), name: "p".into(), uid: "u".into() };
        let probed = |success| Probed { pod: pod.clone(), container: "c".into(), kind: "Liveness", success };
        for success in [true, true, false] {
            metrics.count_probe(probed(success));
        }
        let line =
            "prober_probe_total{container=\"c\",namespace=\"ns\",pod=\"p\",pod_uid=\"u\",probe_type=\"Liveness\",result=\"successful\"} 2";
        assert!(metrics.probes().lines().any(|l| l == line), "{}", metrics.probes());
        metrics.forget("u");
        assert_eq!(metrics.probes().lines().count(), 2);
    }
}
