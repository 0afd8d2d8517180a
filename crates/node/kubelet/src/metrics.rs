//! What the kubelet counts of its own work, by upstream's names; see pkg/kubelet/metrics.

mod families;
pub(crate) mod gauges;

use std::collections::BTreeMap;
use std::sync::Arc;

use fram_machinery::Value;
use parking_lot::Mutex;

use crate::pod::PodId;
pub(crate) use families::{Count, Families, Took, size_range};

/// What is started, and what of it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Started {
    Pods,
    PodErrors,
    UserNamespacedPods,
    UserNamespacedPodErrors,
    Containers,
    ContainerErrors,
}

impl Started {
    const ALL: [Self; 6] =
        [Self::Pods, Self::PodErrors, Self::UserNamespacedPods, Self::UserNamespacedPodErrors, Self::Containers, Self::ContainerErrors];

    fn name(self) -> (&'static str, &'static str) {
        match self {
            Self::Pods => ("started_pods", "Cumulative number of pods started"),
            Self::PodErrors => ("started_pods_errors", "Cumulative number of errors when starting pods"),
            Self::UserNamespacedPods => (
                "started_user_namespaced_pods",
                "Cumulative number of pods with user namespaces started. This metric will only be collected on Linux.",
            ),
            Self::UserNamespacedPodErrors => (
                "started_user_namespaced_pods_errors",
                "Cumulative number of errors when starting pods with user namespaces. This metric will only be collected on Linux.",
            ),
            Self::Containers => ("started_containers", "Cumulative number of containers started"),
            Self::ContainerErrors => ("started_containers_errors", "Cumulative number of errors when starting containers"),
        }
    }

    fn has_labels(self) -> bool {
        matches!(self, Self::Containers | Self::ContainerErrors)
    }
}

#[derive(Default)]
pub(crate) struct Metrics {
    pub(crate) families: Arc<Families>,
    /// By labels as they are written; those without any have one entry.
    started: Mutex<BTreeMap<(Started, String), u64>>,
    /// Containers that have ended, by labels as they are written.
    terminated: Mutex<BTreeMap<String, u64>>,
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

    /// A pod was begun, with or without a user namespace of its own; or what was begun has failed.
    pub(crate) fn count_pod(&self, own_users: bool, failed: bool) {
        let all = if failed { Started::PodErrors } else { Started::Pods };
        let own = if failed { Started::UserNamespacedPodErrors } else { Started::UserNamespacedPods };
        let mut started = self.started.lock();
        *started.entry((all, String::new())).or_default() += 1;
        if own_users {
            *started.entry((own, String::new())).or_default() += 1;
        }
    }

    /// Something of a new pod with a user namespace of its own did not start.
    pub(crate) fn count_user_namespaced_error(&self) {
        *self.started.lock().entry((Started::UserNamespacedPodErrors, String::new())).or_default() += 1;
    }

    /// A container was begun; and why it did not run, if so.
    pub(crate) fn count_container(&self, kind: &str, error: Option<&str>) {
        let key = match error {
            None => (Started::Containers, format!("{{container_type={kind:?}}}")),
            Some(code) => (Started::ContainerErrors, format!("{{code={code:?},container_type={kind:?}}}")),
        };
        *self.started.lock().entry(key).or_default() += 1;
    }

    /// Counts the containers that have ended by a status and had not by the one before it; see upstream's checkAndRecordTerminations.
    pub(crate) fn count_terminations(&self, before: &Value, now: &Value) {
        let lists = [
            ("initContainerStatuses", "init_container"),
            ("containerStatuses", "container"),
            ("ephemeralContainerStatuses", "ephemeral_container"),
        ];
        for (list, kind) in lists {
            let had_ended = |name: &str| {
                let known = before.list_at(&[list]).iter().find(|s| s.str_at(&["name"]) == name);
                known.is_some_and(|s| s.at(&["state", "terminated"]).is_some_and(|t| !t.is_null()))
            };
            for status in now.list_at(&[list]) {
                let Some(end) = status.at(&["state", "terminated"]).filter(|t| !t.is_null()) else { continue };
                if !had_ended(status.str_at(&["name"])) {
                    let (code, reason) = (end.int_at(&["exitCode"]).unwrap_or_default(), end.str_at(&["reason"]));
                    let labels = format!("{{container_type={kind:?},exit_code=\"{code}\",reason={reason:?}}}");
                    *self.terminated.lock().entry(labels).or_default() += 1;
                }
            }
        }
    }

    /// A pod was refused; of the many reasons there may be only known ones are told by their names, as upstream.
    pub(crate) fn count_rejection(&self, reason: &str) {
        const KNOWN: [&str; 12] = [
            "AppArmor",
            "PodOSSelectorNodeLabelDoesNotMatch",
            "PodOSNotSupported",
            "UnexpectedAdmissionError",
            "OutOfcpu",
            "OutOfmemory",
            "OutOfephemeral-storage",
            "OutOfpods",
            "Evicted",
            "SysctlForbidden",
            "TopologyAffinityError",
            "NodeShutdown",
        ];
        let told = match KNOWN.iter().find(|known| **known == reason) {
            Some(known) => known,
            None if reason.starts_with("OutOf") => "OutOfExtendedResources",
            None => "Other",
        };
        self.families.count(Count::AdmissionRejections, &[told], 1);
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
        out.push_str("# HELP kubelet_terminated_containers_total [ALPHA] Cumulative number of container terminations.\n");
        out.push_str("# TYPE kubelet_terminated_containers_total counter\n");
        for (labels, count) in &*self.terminated.lock() {
            out.push_str(&format!("kubelet_terminated_containers_total{labels} {count}\n"));
        }
        let started = self.started.lock();
        for counter in Started::ALL {
            let (name, help) = counter.name();
            out.push_str(&format!("# HELP kubelet_{name}_total [ALPHA] {help}\n# TYPE kubelet_{name}_total counter\n"));
            for ((_, labels), count) in started.iter().filter(|((of, _), _)| *of == counter) {
                out.push_str(&format!("kubelet_{name}_total{labels} {count}\n"));
            }
            if !counter.has_labels() && !started.contains_key(&(counter, String::new())) {
                out.push_str(&format!("kubelet_{name}_total 0\n"));
            }
        }
        self.families.exposition(&mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    #[test]
    fn what_is_started_is_counted_with_its_failures() {
        let metrics = Metrics::default();
        metrics.count_pod(false, false);
        metrics.count_pod(true, false);
        metrics.count_pod(true, true);
        metrics.count_container("init_container", None);
        metrics.count_container("container", Some("CreateContainerError"));
        let shown = metrics.exposition();
        for line in [
            "kubelet_started_pods_total 2",
            "kubelet_started_pods_errors_total 1",
            "kubelet_started_user_namespaced_pods_total 1",
            "kubelet_started_user_namespaced_pods_errors_total 1",
            "kubelet_started_containers_total{container_type=\"init_container\"} 1",
            "kubelet_started_containers_errors_total{code=\"CreateContainerError\",container_type=\"container\"} 1",
        ] {
            assert!(shown.lines().any(|l| l == line), "{line}: {shown}");
        }
        assert!(Metrics::default().exposition().contains("\nkubelet_started_user_namespaced_pods_total 0\n"));
    }

    #[test]
    fn refusals_are_told_by_reasons_that_are_known() {
        let metrics = Metrics::default();
        for reason in ["OutOfcpu", "OutOfexample.com/gpu", "OutOfexample.com/x", "NodePorts"] {
            metrics.count_rejection(reason);
        }
        let shown = metrics.exposition();
        for (reason, count) in [("OutOfcpu", 1), ("OutOfExtendedResources", 2), ("Other", 1)] {
            let line = format!("kubelet_admission_rejections_total{{reason=\"{reason}\"}} {count}");
            assert!(shown.lines().any(|l| l == line), "{line}: {shown}");
        }
    }

    #[test]
    fn a_container_that_ends_is_counted_once() {
        let metrics = Metrics::default();
        let status = |state: Value| object!({ "containerStatuses": [{ "name": "c", "state": state }] });
        let (running, ended) = (object!({ "running": {} }), object!({ "terminated": { "exitCode": 139, "reason": "Error" } }));
        metrics.count_terminations(&status(running.clone()), &status(ended.clone()));
        metrics.count_terminations(&status(ended.clone()), &status(ended.clone()));
        let line = "kubelet_terminated_containers_total{container_type=\"container\",exit_code=\"139\",reason=\"Error\"} 1";
        assert!(metrics.exposition().lines().any(|l| l == line), "{}", metrics.exposition());
        metrics.count_terminations(&status(running), &status(ended));
        assert!(metrics.exposition().contains("reason=\"Error\"} 2"));
    }

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
