//! The workloads of upstream's scheduler_perf, each as the pods that are there before and those that are measured.

use fram_bench_common::NAMESPACE;
use fram_machinery::{Value, object};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Workload {
    /// Pods that ask for some cpu and memory
    Basic,
    /// A bounded skew over three zones
    Spreading,
    /// A skew over three zones that is avoided
    PreferredSpreading,
    /// Pods that would rather not be with each other on a node
    PreferredAntiAffinity,
    /// Pods that are never with each other on a node
    AntiAffinity,
    /// Pods for which three others have to leave
    Preemption,
    /// Beside pods that fit nowhere
    Unschedulable,
    /// While nodes, pods that fit nowhere and Services come and go
    Churn,
    /// Beside pods that are held back by gates
    Gated,
    /// Pods for one node each
    Daemonset,
    /// Pods with a device each
    Devices,
    /// One pod at a time
    Quiet,
}

/// How many pods a workload has on so many nodes.
pub(crate) struct Counts {
    /// There before, and bound.
    pub(crate) before: usize,
    /// There before, and not to be bound.
    pub(crate) waiting: usize,
    pub(crate) measured: usize,
}

impl Workload {
    pub(crate) fn counts(self, nodes: usize, most: usize) -> Counts {
        // Forty pods of a tenth of a core are on a node of four cores.
        let all = most.min(nodes * 30);
        let counts = |before, waiting, measured| Counts { before, waiting, measured };
        match self {
            Self::AntiAffinity => counts(nodes / 5, 0, most.min(nodes * 3 / 5)),
            Self::Preemption => counts(4 * nodes, 0, most.min(nodes / 2)),
            Self::Unschedulable => counts(0, all / 5, all),
            Self::Gated => counts(0, all, all),
            Self::Devices => counts(0, 0, most.min(nodes * 10)),
            Self::Quiet => counts(nodes, 0, 500),
            _ => counts(0, 0, all),
        }
    }

    pub(crate) fn before(self, name: &str) -> Value {
        match self {
            Self::Preemption => {
                let mut pod = pod(name, "900m");
                pod.set(&["spec", "terminationGracePeriodSeconds"], 0);
                pod
            }
            _ => self.measured(name, 0, 1),
        }
    }

    pub(crate) fn waiting(self, name: &str) -> Value {
        match self {
            Self::Gated => {
                let mut pod = pod(name, "100m");
                pod.set(&["spec", "schedulingGates"], object!([{ "name": "bench.example.com/gate" }]));
                pod
            }
            _ => pod(name, "9"),
        }
    }

    pub(crate) fn measured(self, name: &str, number: usize, nodes: usize) -> Value {
        let mut pod = pod(name, if self == Self::Preemption { "3" } else { "100m" });
        let same = || object!({ "matchLabels": { "color": "green" } });
        let host = || object!({ "labelSelector": (same()), "topologyKey": "kubernetes.io/hostname" });
        match self {
            Self::Spreading | Self::PreferredSpreading => {
                let unsatisfiable = if self == Self::Spreading { "DoNotSchedule" } else { "ScheduleAnyway" };
                let constraint = object!({ "maxSkew": 5, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": unsatisfiable,
                    "labelSelector": (same()) });
                pod.set(&["spec", "topologySpreadConstraints"], object!([constraint]));
            }
            Self::PreferredAntiAffinity => {
                let terms = object!([{ "weight": 1, "podAffinityTerm": (host()) }]);
                pod.set(&["spec", "affinity", "podAntiAffinity", "preferredDuringSchedulingIgnoredDuringExecution"], terms);
            }
            Self::AntiAffinity => {
                pod.set(&["spec", "affinity", "podAntiAffinity", "requiredDuringSchedulingIgnoredDuringExecution"], object!([(host())]));
            }
            Self::Preemption => pod.set(&["spec", "priorityClassName"], "bench-high"),
            Self::Daemonset => {
                let field = object!({ "key": "metadata.name", "operator": "In", "values": [(format!("node-{}", number % nodes))] });
                let required = object!({ "nodeSelectorTerms": [{ "matchFields": [field] }] });
                pod.set(&["spec", "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"], required);
            }
            Self::Devices => pod.set(&["spec", "resourceClaims"], object!([{ "name": "device", "resourceClaimName": name }])),
            _ => {}
        }
        pod
    }
}

/// A claim for one device.
pub(crate) fn claim(name: &str) -> Value {
    let request = object!({ "name": "device", "exactly": { "deviceClassName": "bench" } });
    object!({ "metadata": { "name": name, "namespace": NAMESPACE }, "spec": { "devices": { "requests": [request] } } })
}

pub(crate) fn pod(name: &str, cpu: &str) -> Value {
    let resources = object!({ "requests": { "cpu": cpu, "memory": "100Mi" } });
    object!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": NAMESPACE, "labels": { "color": "green" } },
        "spec": { "containers": [{ "name": "pause", "image": "registry.k8s.io/pause:3.10.2", "ports": [{ "containerPort": 80 }],
            "resources": resources }] }
    })
}
