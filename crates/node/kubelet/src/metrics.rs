//! What the kubelet counts of its own work, by upstream's names; see pkg/kubelet/metrics.

use std::collections::BTreeMap;

use parking_lot::Mutex;

#[derive(Default)]
pub(crate) struct Metrics {
    evictions: Mutex<BTreeMap<&'static str, u64>>,
}

impl Metrics {
    pub(crate) fn count_eviction(&self, signal: &'static str) {
        *self.evictions.lock().entry(signal).or_default() += 1;
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
