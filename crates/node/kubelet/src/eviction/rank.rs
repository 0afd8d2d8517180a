//! Which pod goes first when the node is short of something, and what is said of it. Pure; see rankMemoryPressure, rankDiskPressure,
//! rankPIDPressure and evictionMessage in upstream's pkg/kubelet/eviction/helpers.go.

use fram_machinery::Value;
use fram_machinery::quantity::{Format, Quantity};

use crate::pod::{self, resources};

/// Pods of this priority and above are what the node itself needs; see scheduling.SystemCriticalPriority.
pub(crate) const SYSTEM_CRITICAL: i64 = 2_000_000_000;

/// What a container uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ContainerUsage {
    pub(crate) name: String,
    pub(crate) memory: i64,
    /// Of its own layer and its logs together.
    pub(crate) storage: i64,
}

/// What a pod uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PodUsage {
    pub(crate) memory: i64,
    pub(crate) storage: i64,
    pub(crate) inodes: i64,
    pub(crate) processes: i64,
    pub(crate) containers: Vec<ContainerUsage>,
}

/// Pods that are never evicted: those from files, and those that the system needs.
pub(crate) fn is_critical(pod: &Value) -> bool {
    pod::is_static(pod) || pod.int_at(&["spec", "priority"]).is_some_and(|p| p >= SYSTEM_CRITICAL)
}

/// The places of the pods, those to be evicted first at the front: who uses more than they asked for, then who counts less, then who
/// is furthest beyond what they asked for.
pub(crate) fn rank(pods: &[(&Value, PodUsage)], resource: &str) -> Vec<usize> {
    let mut order: Vec<usize> = (0..pods.len()).collect();
    order.sort_by_key(|i| {
        let (pod, usage) = &pods[*i];
        let priority = pod.int_at(&["spec", "priority"]).unwrap_or(0);
        let requested = |name: &str| resources::pod_total(pod, "requests").get(name).map_or(0, Quantity::value);
        let (used, asked) = match resource {
            "memory" => (usage.memory, requested("memory")),
            "inodes" => (usage.inodes, 0),
            "pids" => (usage.processes, 0),
            _ => (usage.storage, requested("ephemeral-storage")),
        };
        (used <= asked && resource != "pids", priority, std::cmp::Reverse(used.saturating_sub(asked)))
    });
    order
}

/// Why this pod is evicted. `threshold` says what was wanted and what there was.
pub(crate) fn message(pod: &Value, usage: &PodUsage, resource: &str, threshold: &str) -> String {
    let mut out = format!("The node was low on resource: {resource}. {threshold}");
    let bytes = |n: i64| Quantity::from_units(n, Format::BinarySi);
    for container in pod::containers(pod).iter().chain(pod::init_containers(pod)) {
        let name = pod::container_name(container);
        let Some(used) = usage.containers.iter().find(|c| c.name == name) else { continue };
        let used = match resource {
            "memory" => used.memory,
            "ephemeral-storage" => used.storage,
            _ => continue,
        };
        let request = container.get("resources").and_then(|r| resources::quantity(r, "requests", resource)).unwrap_or(Quantity::zero());
        if used > request.value() {
            out.push_str(&format!(
                "Container {name} was using {}, request is {request}, has larger consumption of {resource}. ",
                bytes(used)
            ));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    fn pod(priority: i64, memory: &str) -> Value {
        object!({ "spec": { "priority": priority, "containers": [{ "name": "c", "resources": { "requests": { "memory": memory } } }] } })
    }

    #[test]
    fn who_exceeds_its_request_goes_first_then_who_counts_less_then_who_exceeds_it_most() {
        let using = |memory: i64| PodUsage { memory, processes: memory, ..Default::default() };
        let pods = [pod(5, "100"), pod(0, "100"), pod(0, "10"), pod(0, "10"), pod(9, "0")];
        let used = [200, 50, 20, 30, 1].map(using);
        let list: Vec<(&Value, PodUsage)> = pods.iter().zip(used).collect();
        assert_eq!(rank(&list, "memory"), [3, 2, 0, 4, 1]);
        // Nobody asks for processes: priority and number decide.
        assert_eq!(rank(&list, "pids"), [1, 3, 2, 0, 4]);
    }

    #[test]
    fn the_message_names_the_containers_that_use_more_than_they_asked_for() {
        let container = |name: &str, memory: i64| ContainerUsage { name: name.into(), memory, storage: 0 };
        let usage = PodUsage { containers: vec![container("c", 2048), container("unknown", 1)], ..Default::default() };
        let told = message(&pod(0, "1Ki"), &usage, "memory", "Threshold quantity: 100Mi, available: 1Ki. ");
        assert_eq!(
            told,
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 1Ki. \
             Container c was using 2Ki, request is 1Ki, has larger consumption of memory. "
        );
        assert_eq!(message(&pod(0, "4Ki"), &usage, "memory", ""), "The node was low on resource: memory. ");
    }

    #[test]
    fn what_the_system_needs_is_critical() {
        let mut from_file = pod(0, "1");
        from_file.set(&["metadata", "annotations"], object!({ "kubernetes.io/config.source": "file" }));
        assert_eq!(
            (is_critical(&pod(1_000_000_000, "1")), is_critical(&pod(2_000_000_000, "1")), is_critical(&from_file)),
            (false, true, true)
        );
        // What a user says of a pod in the API does not save it.
        from_file.set(&["metadata", "resourceVersion"], "7");
        assert!(!is_critical(&from_file));
    }
}
