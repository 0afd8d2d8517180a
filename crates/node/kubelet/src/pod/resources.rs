//! Requests and limits of pods as numbers: QoS classes, cgroup shares and quotas, OOM scores. Pure; see upstream's
//! pkg/kubelet/cm and pkg/apis/core/v1/helper/qos.

use std::collections::BTreeMap;

use fram_cri::{HugepageLimit, LinuxContainerResources};
use fram_machinery::Value;
use fram_machinery::quantity::Quantity;

use super::{containers, init_containers, is_sidecar};

const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
const SHARES_PER_CPU: i64 = 1024;
pub(crate) const QUOTA_PERIOD: i64 = 100_000;
const MIN_QUOTA: i64 = 1000;

pub(crate) fn quantity(resources: &Value, kind: &str, name: &str) -> Option<Quantity> {
    parse(resources.at(&[kind, name])?)
}

pub(crate) fn parse(value: &Value) -> Option<Quantity> {
    match value {
        Value::Int(n) => n.to_string().parse().ok(),
        other => other.as_str()?.parse().ok(),
    }
}

fn amounts(resources: &Value, kind: &str) -> BTreeMap<String, Quantity> {
    let map = resources.get(kind).and_then(Value::as_map);
    map.into_iter().flat_map(|m| m.iter()).filter_map(|(k, v)| Some((k.to_string(), parse(v)?))).collect()
}

fn add(total: &mut BTreeMap<String, Quantity>, more: &BTreeMap<String, Quantity>) {
    for (name, amount) in more {
        let sum = total.get(name).map_or(*amount, |have| *have + *amount);
        total.insert(name.clone(), sum);
    }
}

fn raise(total: &mut BTreeMap<String, Quantity>, floor: &BTreeMap<String, Quantity>) {
    for (name, amount) in floor {
        if total.get(name).is_none_or(|have| have < amount) {
            total.insert(name.clone(), *amount);
        }
    }
}

/// What a pod asks for in all: main containers and sidecars together, or the largest init container with the sidecars that
/// run beside it, and the overhead. See resourcehelper.PodRequests; `kind` is `requests` or `limits`.
pub(crate) fn pod_total(pod: &Value, kind: &str) -> BTreeMap<String, Quantity> {
    let of = |c: &Value| c.get("resources").map(|r| amounts(r, kind)).unwrap_or_default();
    let mut total = BTreeMap::new();
    containers(pod).iter().for_each(|c| add(&mut total, &of(c)));
    let (mut sidecars, mut init) = (BTreeMap::new(), BTreeMap::new());
    for container in init_containers(pod) {
        let mut at_once = of(container);
        if is_sidecar(container) {
            add(&mut sidecars, &at_once);
            add(&mut total, &at_once);
            at_once = sidecars.clone();
        } else {
            add(&mut at_once, &sidecars);
        }
        raise(&mut init, &at_once);
    }
    raise(&mut total, &init);
    if let Some(level) = pod.at(&["spec", "resources"]) {
        total.extend(amounts(level, kind));
    }
    if let Some(overhead) = pod.at(&["spec", "overhead"]).and_then(Value::as_map) {
        let overhead = overhead.iter().filter_map(|(k, v)| Some((k.to_string(), parse(v)?))).collect();
        add(&mut total, &overhead);
    }
    total
}

/// See qos.ComputePodQOS.
pub(crate) fn qos_class(pod: &Value) -> &'static str {
    let level = pod.at(&["spec", "resources"]).filter(|r| !r.is_empty());
    let all: Vec<&Value> = match level {
        Some(resources) => vec![resources],
        None => init_containers(pod).iter().chain(containers(pod)).map(|c| c.get("resources").unwrap_or(&Value::Null)).collect(),
    };
    let (mut any, mut guaranteed) = (false, !all.is_empty());
    for resources in all {
        for name in ["cpu", "memory"] {
            let amount = |kind| quantity(resources, kind, name).filter(|q| !q.is_zero());
            let (request, limit) = (amount("requests"), amount("limits"));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// See cm.MilliCPUToShares.
pub(crate) fn shares(milli_cpu: i64) -> i64 {
    (milli_cpu * SHARES_PER_CPU / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// Microseconds of CPU in each period; 0 is no limit. See cm.MilliCPUToQuota.
pub(crate) fn quota(milli_cpu: i64) -> i64 {
    if milli_cpu == 0 { 0 } else { (milli_cpu * QUOTA_PERIOD / 1000).max(MIN_QUOTA) }
}

/// The same share of processors, counted over periods of another length in microseconds.
pub(crate) fn count_over(limits: &mut LinuxContainerResources, period: i64) {
    if limits.cpu_period > 0 && period > 0 && limits.cpu_period != period {
        if limits.cpu_quota > 0 {
            limits.cpu_quota = (limits.cpu_quota * period / limits.cpu_period).max(MIN_QUOTA);
        }
        limits.cpu_period = period;
    }
}

/// How readily the kernel kills a container; see qos.GetContainerOOMScoreAdjust.
pub(crate) fn oom_score_adj(pod: &Value, container: &Value, node_memory: i64) -> i64 {
    if pod.str_at(&["spec", "priorityClassName"]) == "system-node-critical" {
        return -997;
    }
    match super::qos_class(pod) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let request = container.get("resources").and_then(|r| quantity(r, "requests", "memory")).map_or(0, |q| q.value());
            let share = 1000_i128.saturating_sub(1000 * i128::from(request) / i128::from(node_memory.max(1)));
            let score = i64::try_from(share).unwrap_or(0);
            // Never as safe as a guaranteed container, never as exposed as a best-effort one.
            if score < 3 {
                3
            } else if score == 1000 {
                999
            } else {
                score
            }
        }
    }
}

/// Limits of one container.
pub(crate) fn container_resources(pod: &Value, container: &Value, node_memory: i64) -> LinuxContainerResources {
    let none = Value::Null;
    let resources = container.get("resources").unwrap_or(&none);
    // Where a container has no limit of its own, that of the pod is its; see getCPULimit and getMemoryLimit.
    let level = pod.at(&["spec", "resources"]).unwrap_or(&none);
    let limit = |name| quantity(resources, "limits", name).filter(|q| !q.is_zero()).or_else(|| quantity(level, "limits", name));
    let request = quantity(resources, "requests", "cpu").map(|q| q.milli_value());
    let memory = limit("memory").map_or(0, |q| q.value());
    let limit = limit("cpu").map(|q| q.milli_value());
    LinuxContainerResources {
        // A limit without a request counts as the request, an empty one as the least.
        cpu_shares: shares(request.or(limit).unwrap_or(0)),
        cpu_quota: quota(limit.unwrap_or(0)),
        cpu_period: QUOTA_PERIOD,
        memory_limit_in_bytes: memory,
        // Without swap: memory and swap together are no more than memory.
        memory_swap_limit_in_bytes: memory,
        oom_score_adj: oom_score_adj(pod, container, node_memory),
        ..LinuxContainerResources::default()
    }
}

/// Limits of huge pages, by the names of their cgroup files; see GetHugepageLimitsFromResources.
pub(crate) fn huge_page_limits(pod: &Value, container: &Value, sizes: impl Iterator<Item = i64>) -> Vec<HugepageLimit> {
    let none = Value::Null;
    let own = container.get("resources").unwrap_or(&none);
    let level = pod.at(&["spec", "resources"]).unwrap_or(&none);
    let limit = |size: i64| {
        let name = crate::node::machine::huge_page_resource(size);
        let amount = quantity(own, "limits", &name).or_else(|| quantity(level, "limits", &name)).map_or(0, |q| q.value());
        let page_size = match size {
            size if size % (1 << 30) == 0 => format!("{}GB", size >> 30),
            size if size % (1 << 20) == 0 => format!("{}MB", size >> 20),
            size => format!("{}KB", size >> 10),
        };
        // Whoever asks for none gets none.
        HugepageLimit { page_size, limit: u64::try_from(amount).unwrap_or(0) }
    };
    sizes.map(limit).collect()
}

/// How much swap containers get.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SwapLimits {
    /// The behavior LimitedSwap: burstable pods get a share. Otherwise nobody gets any.
    pub limited: bool,
    /// cgroups of version 2: only they limit swap by itself.
    pub unified: bool,
    pub node_memory: i64,
    pub node_swap: i64,
}

impl SwapLimits {
    /// A burstable container has of the node's swap the share that it asks for of its memory, unless all of its memory is promised
    /// to it; see configureSwap in upstream's kuberuntime_container_linux.go.
    pub(crate) fn apply(self, pod: &Value, container: &Value, limits: &mut LinuxContainerResources) {
        let amount = |kind| container.get("resources").and_then(|r| quantity(r, kind, "memory")).map_or(0, |q| q.value());
        let (request, limit) = (amount("requests"), amount("limits"));
        let critical = pod.int_at(&["spec", "priority"]).is_some_and(|p| p >= crate::eviction::rank::SYSTEM_CRITICAL);
        let entitled = self.limited && self.unified && super::qos_class(pod) == "Burstable" && !critical && request > 0 && request != limit;
        let swap = match entitled {
            true => i128::from(request) * i128::from(self.node_swap) / i128::from(self.node_memory.max(1)),
            false => 0,
        };
        if self.unified {
            // The field for memory with swap says nothing where memory has no limit.
            limits.memory_swap_limit_in_bytes = 0;
            limits.unified.insert("memory.swap.max".into(), swap.to_string());
        }
    }
}

/// Limits of the pod's cgroup: shares always, quota and memory where every container has a limit. See cm.ResourceConfigForPod.
pub(crate) fn pod_resources(pod: &Value) -> LinuxContainerResources {
    let request = pod_total(pod, "requests").get("cpu").map_or(0, |q| q.milli_value());
    let limits = pod_total(pod, "limits");
    let level = pod.at(&["spec", "resources", "limits"]);
    let limited = |name: &str| {
        level.is_some_and(|l| l.get(name).is_some())
            || init_containers(pod).iter().chain(containers(pod)).all(|c| c.at(&["resources", "limits", name]).is_some())
    };
    let limit = |name: &str| limits.get(name).filter(|_| limited(name));
    let memory = limit("memory").map_or(0, |q| q.value());
    LinuxContainerResources {
        cpu_shares: shares(request),
        cpu_quota: limit("cpu").map_or(0, |q| quota(q.milli_value())),
        cpu_period: QUOTA_PERIOD,
        memory_limit_in_bytes: memory,
        ..LinuxContainerResources::default()
    }
}

/// The pod's cgroup below the root: `/kubepods/burstable/pod<uid>`.
pub(crate) fn cgroup_parent(root: &str, pod: &Value) -> String {
    let uid = fram_machinery::meta::uid(pod);
    let root = root.trim_end_matches('/');
    match super::qos_class(pod) {
        "Guaranteed" => format!("{root}/kubepods/pod{uid}"),
        class => format!("{root}/kubepods/{}/pod{uid}", class.to_ascii_lowercase()),
    }
}

/// Where the cgroup of a pod may be, when no more is known of it than its uid.
pub(crate) fn cgroup_candidates(root: &str, uid: &str) -> [String; 3] {
    let root = root.trim_end_matches('/');
    ["", "/burstable", "/besteffort"].map(|class| format!("{root}/kubepods{class}/pod{uid}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    fn pod(containers: Value, init: Value) -> Value {
        object!({ "metadata": { "uid": "u" }, "spec": { "containers": containers, "initContainers": init } })
    }

    fn limits(cpu: &str, memory: &str) -> Value {
        object!({ "resources": { "limits": { "cpu": cpu, "memory": memory }, "requests": { "cpu": cpu, "memory": memory } } })
    }

    #[test]
    fn a_pod_asks_for_the_larger_of_its_init_and_main_containers_with_the_sidecars_beside_them() {
        let mut sidecar = limits("100m", "1Mi");
        sidecar.set(&["restartPolicy"], "Always");
        let total = pod_total(&pod(object!([(limits("200m", "1Mi"))]), object!([(sidecar), (limits("1", "1Mi"))])), "requests");
        assert_eq!(total["cpu"].milli_value(), 1100);
        assert_eq!(total["memory"].value(), 2 << 20);
    }

    #[test]
    fn cgroups_lie_below_their_class() {
        for (container, class, path) in [
            (limits("1", "1Gi"), "Guaranteed", "/x/kubepods/podu"),
            (object!({ "resources": { "requests": { "cpu": "1" } } }), "Burstable", "/x/kubepods/burstable/podu"),
            (object!({}), "BestEffort", "/x/kubepods/besteffort/podu"),
        ] {
            let pod = pod(object!([container]), object!([]));
            assert_eq!((qos_class(&pod), cgroup_parent("/x", &pod).as_str()), (class, path));
        }
    }

    #[test]
    fn shares_and_quota_follow_milli_cpus_and_keep_to_the_kernels_least() {
        assert_eq!((shares(0), shares(1), shares(1000), shares(1_000_000)), (2, 2, 1024, 262_144));
        assert_eq!((quota(0), quota(1), quota(500)), (0, 1000, 50_000));
        for (quota, period, expect) in [(50_000, 10_000, 5_000), (50_000, 1_000_000, 500_000), (1_000, 10_000, 1_000), (-1, 10_000, -1)] {
            let mut limits = LinuxContainerResources { cpu_quota: quota, cpu_period: QUOTA_PERIOD, ..Default::default() };
            count_over(&mut limits, period);
            assert_eq!((limits.cpu_quota, limits.cpu_period), (expect, period));
        }
    }

    #[test]
    fn a_pod_has_a_memory_limit_only_where_every_container_has_one() {
        let one = pod_resources(&pod(object!([(limits("1", "1Gi")), {}]), object!([])));
        assert_eq!((one.memory_limit_in_bytes, one.cpu_quota, one.cpu_shares), (0, 0, 1024));
        let all = pod_resources(&pod(object!([(limits("1", "1Gi"))]), object!([])));
        assert_eq!((all.memory_limit_in_bytes, all.cpu_quota), (1 << 30, 100_000));
    }

    #[test]
    fn huge_pages_are_limited_to_what_is_asked_for() {
        let container = object!({ "resources": { "limits": { "hugepages-2Mi": "4Mi" } } });
        let limits = huge_page_limits(&object!({}), &container, [2 << 20, 1 << 30].into_iter());
        let shown: Vec<(&str, u64)> = limits.iter().map(|l| (l.page_size.as_str(), l.limit)).collect();
        assert_eq!(shown, [("2MB", 4 << 20), ("1GB", 0)]);
    }

    #[test]
    fn swap_is_for_burstable_containers_and_only_where_it_is_limited() {
        let container =
            |request: &str, limit: &str| object!({ "resources": { "requests": { "memory": request }, "limits": { "memory": limit } } });
        let swap = |c: Value, limited, unified| {
            let mut limits = container_resources(&pod(object!([(c.clone())]), object!([])), &c, 1);
            SwapLimits { limited, unified, node_memory: 1000, node_swap: 500 }.apply(
                &pod(object!([(c.clone())]), object!([])),
                &c,
                &mut limits,
            );
            limits.unified.get("memory.swap.max").cloned()
        };
        assert_eq!(swap(container("100", "200"), true, true).as_deref(), Some("50"));
        assert_eq!(swap(container("200", "200"), true, true).as_deref(), Some("0"));
        assert_eq!(swap(container("100", "200"), false, true).as_deref(), Some("0"));
        assert_eq!(swap(container("100", "200"), true, false), None);
    }

    #[test]
    fn a_burstable_container_is_killed_before_a_guaranteed_one_and_after_a_best_effort_one() {
        let node = 10 << 30;
        let with = |memory: &str| object!({ "resources": { "requests": { "memory": memory } } });
        let score = |c: Value| oom_score_adj(&pod(object!([(c.clone())]), object!([])), &c, node);
        assert_eq!((score(object!({})), score(limits("1", "1Gi"))), (1000, -997));
        assert_eq!((score(with("1Gi")), score(with("1")), score(with("10Gi"))), (900, 999, 3));
    }
}
