//! From which NUMA nodes a container gets its memory. Pure; see upstream's pkg/kubelet/cm/memorymanager, policy Static, and KEP-1769.

use std::collections::BTreeMap;

use fram_machinery::Value;
use fram_machinery::quantity::Quantity;

use super::cpuset::CpuSet;
use super::hardware::Hardware;
use crate::config::MemoryReservation;
use crate::pod::resources;

/// Bytes of a kind of memory that are promised from some nodes together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) nodes: CpuSet,
    pub(crate) resource: String,
    pub(crate) bytes: i64,
}

/// What a container asks for of `memory` and huge pages; None where its memory is not promised.
pub(crate) fn asked(pod: &Value, container: &Value) -> Option<BTreeMap<String, i64>> {
    if crate::pod::qos_class(pod) != "Guaranteed" || pod.at(&["spec", "resources"]).is_some_and(|r| !r.is_empty()) {
        return None;
    }
    let limits = container.at(&["resources", "limits"]).and_then(Value::as_map)?;
    let kinds = limits.iter().filter(|(name, _)| name.as_str() == "memory" || name.starts_with("hugepages-"));
    let out: BTreeMap<String, i64> =
        kinds.filter_map(|(name, amount)| Some((name.to_string(), resources::parse(amount)?.value()))).filter(|(_, n)| *n > 0).collect();
    (!out.is_empty()).then_some(out)
}

/// What there is, and what is promised of it.
pub(crate) struct Memory<'a> {
    pub(crate) hardware: &'a Hardware,
    pub(crate) reserved: &'a [MemoryReservation],
    pub(crate) promised: &'a [Block],
}

impl Memory<'_> {
    /// What pods can have of a node at all.
    fn allocatable(&self, node: u32, resource: &str) -> i64 {
        let all = self.hardware.nodes.iter().find(|n| n.id == node).and_then(|n| n.memory.get(resource)).copied().unwrap_or(0);
        let kept: i64 = self.reserved.iter().filter(|r| r.numa_node == node).filter_map(|r| r.limits.get(resource)).sum();
        // Memory in huge pages is no other memory.
        let huge: i64 = match resource {
            "memory" => self
                .hardware
                .nodes
                .iter()
                .filter(|n| n.id == node)
                .flat_map(|n| &n.memory)
                .filter(|(k, _)| *k != "memory")
                .map(|(_, n)| n)
                .sum(),
            _ => 0,
        };
        (all - kept - huge).max(0)
    }

    pub(crate) fn total(&self, nodes: &CpuSet, resource: &str) -> i64 {
        nodes.iter().map(|n| self.allocatable(n, resource)).sum()
    }

    /// What is left of some nodes together; None where one of them is bound to others. A node serves either by itself or together
    /// with always the same ones, or nobody could say from which of them a promise is kept.
    pub(crate) fn free(&self, nodes: &CpuSet, resource: &str) -> Option<i64> {
        let overlaps = |b: &&Block| b.bytes > 0 && !b.nodes.intersection(nodes).is_empty();
        if self.promised.iter().filter(overlaps).any(|b| b.nodes != *nodes && (b.nodes.len() > 1 || nodes.len() > 1)) {
            return None;
        }
        let promised: i64 = self.promised.iter().filter(overlaps).filter(|b| b.resource == resource).map(|b| b.bytes).sum();
        Some(self.total(nodes, resource) - promised)
    }

    /// The nodes to take everything from: those of the affinity, or as few more as have enough. None where no nodes have.
    pub(crate) fn choose(&self, asked: &BTreeMap<String, i64>, affinity: Option<&CpuSet>) -> Option<CpuSet> {
        let enough = |nodes: &CpuSet| asked.iter().all(|(resource, bytes)| self.free(nodes, resource).is_some_and(|free| free >= *bytes));
        if let Some(nodes) = affinity.filter(|n| enough(n)) {
            return Some(nodes.clone());
        }
        let wider = |n: &CpuSet| affinity.is_none_or(|a| a.is_subset(n) || n.is_subset(a));
        super::topology::subsets(&self.hardware.node_ids()).into_iter().find(|n| wider(n) && enough(n))
    }
}

/// What has to be reserved over all nodes: what is kept from pods of the node's memory. Anything else would promise memory that the
/// node does not give, or keep back what it does; see validateReservedMemory.
pub(crate) fn check_reservations(
    reserved: &[MemoryReservation],
    capacity: &BTreeMap<String, Quantity>,
    allocatable: &BTreeMap<String, Quantity>,
) -> Result<(), String> {
    let kinds = capacity.keys().filter(|k| *k == "memory" || k.starts_with("hugepages-"));
    for kind in kinds {
        let value = |map: &BTreeMap<String, Quantity>| map.get(kind).map_or(0, Quantity::value);
        let expected = value(capacity) - value(allocatable);
        let total: i64 = reserved.iter().filter_map(|r| r.limits.get(kind)).sum();
        if total != expected {
            return Err(format!(
                "the total amount {total} of type {kind:?} is not equal to the value {expected} determined by Node Allocatable feature"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::hardware::tests::machine;
    use super::*;
    use fram_machinery::object;

    fn set(text: &str) -> CpuSet {
        CpuSet::parse(text).unwrap()
    }

    const GI: i64 = 1 << 30;

    #[test]
    fn memory_comes_from_as_few_nodes_as_have_it_and_groups_do_not_overlap() {
        // Two nodes of 10 GiB each, of which the first keeps one.
        let hardware = machine(2, 1);
        let reserved = [MemoryReservation { numa_node: 0, limits: [("memory".to_string(), GI)].into() }];
        let block = |nodes: &str, gi: i64| Block { nodes: set(nodes), resource: "memory".into(), bytes: gi * GI };
        for (promised, gi, affinity, expect) in [
            (vec![], 9, None, Some("0")),
            (vec![], 10, None, Some("1")),
            (vec![], 11, None, Some("0-1")),
            (vec![], 20, None, None),
            (vec![], 5, Some("1"), Some("1")),
            (vec![block("0", 5)], 5, None, Some("1")),
            (vec![block("0", 5)], 4, Some("0"), Some("0")),
            (vec![block("0", 5)], 5, Some("0"), None),
            (vec![block("0", 5)], 11, None, None),
            (vec![block("0-1", 11)], 1, None, Some("0-1")),
            (vec![block("0-1", 11)], 1, Some("0"), Some("0-1")),
        ] {
            let memory = Memory { hardware: &hardware, reserved: &reserved, promised: &promised };
            let asked = [("memory".to_string(), gi * GI)].into();
            let affinity = affinity.map(set);
            assert_eq!(
                memory.choose(&asked, affinity.as_ref()).map(|n| n.to_string()).as_deref(),
                expect,
                "{promised:?} {gi} {affinity:?}"
            );
        }
    }

    #[test]
    fn only_guaranteed_pods_are_promised_memory() {
        let with = |kinds: Value| object!({ "name": "c", "resources": { "limits": (kinds.clone()), "requests": kinds } });
        let of = |c: Value| asked(&object!({ "spec": { "containers": [(c.clone())] } }), &c);
        let all = of(with(object!({ "cpu": "1", "memory": "1Gi", "hugepages-2Mi": "4Mi" })));
        assert_eq!(all, Some([("memory".to_string(), GI), ("hugepages-2Mi".to_string(), 4 << 20)].into()));
        assert_eq!(of(object!({ "name": "c", "resources": { "requests": { "memory": "1Gi" } } })), None);
    }

    #[test]
    fn reservations_are_what_the_node_keeps_from_pods() {
        let amount = |n: i64| BTreeMap::from([("memory".to_string(), Quantity::from_units(n, fram_machinery::quantity::Format::BinarySi))]);
        let reserved = |n: i64| [MemoryReservation { numa_node: 0, limits: [("memory".to_string(), n)].into() }];
        assert_eq!(check_reservations(&reserved(100), &amount(1000), &amount(900)), Ok(()));
        assert!(check_reservations(&reserved(50), &amount(1000), &amount(900)).is_err());
    }
}
