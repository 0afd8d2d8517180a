//! Which processors a container gets for itself. Pure; see upstream's pkg/kubelet/cm/cpumanager, policy static.

use std::collections::BTreeMap;

use fram_machinery::Value;

use super::cpuset::CpuSet;
use super::hardware::{Cpu, Hardware};
use crate::pod::resources;

/// What `cpuManagerPolicyOptions` says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Containers get whole cores or are refused.
    pub(crate) full_cores: bool,
    /// Containers that need more than one NUMA node are spread evenly over as few as will do.
    pub(crate) across_nodes: bool,
    /// Single threads are taken from as many cores as possible.
    pub(crate) across_cores: bool,
    /// The reserved processors are not even shared.
    pub(crate) strict_reservation: bool,
}

impl Options {
    pub(crate) fn read(words: &BTreeMap<String, String>) -> Self {
        let is = |name: &str| words.get(name).is_some_and(|v| v == "true");
        Self {
            full_cores: is("full-pcpus-only"),
            across_nodes: is("distribute-cpus-across-numa"),
            across_cores: is("distribute-cpus-across-cores"),
            strict_reservation: is("strict-cpu-reservation"),
        }
    }
}

/// How many processors a container has a right to for itself: those of a guaranteed pod that asks for whole ones.
pub(crate) fn exclusive(pod: &Value, container: &Value) -> usize {
    // Resources of the pod as a whole are shared by its containers.
    if crate::pod::qos_class(pod) != "Guaranteed" || pod.at(&["spec", "resources"]).is_some_and(|r| !r.is_empty()) {
        return 0;
    }
    let ask =
        container.get("resources").and_then(|r| resources::quantity(r, "requests", "cpu").or(resources::quantity(r, "limits", "cpu")));
    match ask.map(|q| q.milli_value()) {
        Some(milli) if milli > 0 && milli % 1000 == 0 => usize::try_from(milli / 1000).unwrap_or(0),
        _ => 0,
    }
}

/// Chooses `count` of the available processors, packed: whole NUMA nodes or sockets first, then whole cores, then threads of cores
/// that are in use already. None where there are not enough.
pub(crate) fn take(hardware: &Hardware, available: &CpuSet, count: usize, options: Options) -> Option<CpuSet> {
    if options.across_nodes
        && let Some(spread) = spread(hardware, available, count, options)
    {
        return Some(spread);
    }
    pack(hardware, available, count, options)
}

fn pack(hardware: &Hardware, available: &CpuSet, count: usize, options: Options) -> Option<CpuSet> {
    if available.len() < count {
        return None;
    }
    let mut free: Vec<Cpu> = hardware.cpus.iter().filter(|c| available.contains(c.id)).copied().collect();
    let mut taken: Vec<Cpu> = Vec::new();
    // The greater groups are those of which there are fewer.
    let groups: [fn(&Cpu) -> u32; 2] = match sockets(hardware) > hardware.nodes.len() {
        true => [|c| c.numa, |c| c.socket],
        false => [|c| c.socket, |c| c.numa],
    };
    for group in groups {
        take_whole(hardware, &mut free, &mut taken, count, group);
    }
    if !options.across_cores {
        take_whole(hardware, &mut free, &mut taken, count, |c| c.core);
    }
    take_rest(hardware, free, &mut taken, count, options);
    (taken.len() == count).then(|| taken.iter().map(|c| c.id).collect())
}

fn sockets(hardware: &Hardware) -> usize {
    hardware.cpus.iter().map(|c| c.socket).collect::<std::collections::BTreeSet<_>>().len()
}

/// Takes groups of which all is free, for as long as they fit; where possible beside what was taken.
fn take_whole(hardware: &Hardware, free: &mut Vec<Cpu>, taken: &mut Vec<Cpu>, count: usize, group: fn(&Cpu) -> u32) {
    loop {
        let left = count - taken.len();
        let size = |of: u32, list: &[Cpu]| list.iter().filter(|c| group(c) == of).count();
        let whole = |c: &&Cpu| {
            let all = size(group(c), &hardware.cpus);
            all <= left && size(group(c), free) == all
        };
        let nearness = |c: &&Cpu| {
            let away = |same: bool| !same;
            let socket = away(taken.iter().any(|t| t.socket == c.socket));
            let node = away(taken.iter().any(|t| t.numa == c.numa));
            // Of nodes and sockets those with the least left: the others stay for who needs much.
            (socket, node, free.iter().filter(|f| f.socket == c.socket).count(), free.iter().filter(|f| f.numa == c.numa).count(), group(c))
        };
        let Some(next) = free.iter().filter(whole).min_by_key(nearness).map(group) else { return };
        let (group_free, rest): (Vec<Cpu>, Vec<Cpu>) = free.iter().partition(|c| group(c) == next);
        taken.extend(group_free);
        *free = rest;
    }
}

/// Takes single threads, near what was taken: from cores that are in use already, or across cores where that is wanted.
fn take_rest(hardware: &Hardware, mut free: Vec<Cpu>, taken: &mut Vec<Cpu>, count: usize, options: Options) {
    while taken.len() < count {
        let size = |of: u32| hardware.cpus.iter().filter(|c| c.core == of).count();
        let key = |c: &&Cpu| {
            let free_of = free.iter().filter(|f| f.core == c.core).count();
            let in_use = size(c.core) - free_of;
            let own = taken.iter().filter(|t| t.core == c.core).count();
            let core = if options.across_cores { (own, 0) } else { (0, size(c.core) - in_use) };
            let socket = !taken.iter().any(|t| t.socket == c.socket);
            let node = !taken.iter().any(|t| t.numa == c.numa);
            (socket, node, free.iter().filter(|f| f.numa == c.numa).count(), core, c.core, c.id)
        };
        let Some(next) = free.iter().min_by_key(key).copied() else { return };
        free.retain(|c| c.id != next.id);
        taken.push(next);
    }
}

/// The same number from each of as few NUMA nodes as have them, where it takes more than one; see takeByTopologyNUMADistributed.
fn spread(hardware: &Hardware, available: &CpuSet, count: usize, options: Options) -> Option<CpuSet> {
    let group = if options.full_cores { hardware.threads_per_core() } else { 1 };
    for nodes in super::topology::subsets(&hardware.node_ids()) {
        let of = |node: u32| available.intersection(&hardware.cpus_of(&[node].into_iter().collect()));
        let has: usize = nodes.iter().map(|n| of(n).len()).sum();
        if has < count {
            continue;
        }
        if nodes.len() == 1 {
            return pack(hardware, &available.intersection(&hardware.cpus_of(&nodes)), count, options);
        }
        let share = count / nodes.len() / group * group;
        if nodes.iter().any(|n| of(n).len() < share) {
            continue;
        }
        let mut out = CpuSet::default();
        for node in nodes.iter() {
            out = out.union(&pack(hardware, &of(node), share, options)?);
        }
        let rest = available.intersection(&hardware.cpus_of(&nodes)).difference(&out);
        return Some(out.union(&pack(hardware, &rest, count - out.len(), options)?));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::hardware::tests::machine;
    use super::*;
    use fram_machinery::object;

    fn taken(available: &str, count: usize, options: Options) -> Option<String> {
        // Two sockets of four cores: 0-3,8-11 and 4-7,12-15; siblings are eight apart.
        take(&machine(2, 4), &CpuSet::parse(available).unwrap(), count, options).map(|s| s.to_string())
    }

    #[test]
    fn processors_are_packed_into_sockets_cores_and_cores_in_use() {
        let plain = Options::default();
        for (available, count, expect) in [
            ("0-15", 1, Some("0")),
            ("0-15", 2, Some("0,8")),
            ("0-15", 3, Some("0-1,8")),
            ("0-15", 8, Some("0-3,8-11")),
            ("0-15", 10, Some("0-4,8-12")),
            // The thread beside one that is in use, rather than a core of its own.
            ("1-15", 1, Some("8")),
            // The whole socket is free on the second one only.
            ("1-15", 8, Some("4-7,12-15")),
            // The first socket has less left, so it is used up first.
            ("1-15", 2, Some("1,9")),
            ("0-2", 4, None),
        ] {
            assert_eq!(taken(available, count, plain).as_deref(), expect, "{count} of {available}");
        }
    }

    #[test]
    fn options_spread_over_nodes_or_cores() {
        let nodes = Options { across_nodes: true, ..Options::default() };
        assert_eq!(taken("0-15", 10, nodes).as_deref(), Some("0-2,4-6,8-9,12-13"));
        let spread = CpuSet::parse(&taken("0-15", 12, nodes).unwrap()).unwrap();
        assert_eq!(spread.intersection(&CpuSet::parse("0-3,8-11").unwrap()).len(), 6);
        assert_eq!(taken("0-15", 4, nodes).as_deref(), Some("0-1,8-9"));
        let cores = Options { across_cores: true, ..Options::default() };
        assert_eq!(taken("0-15", 3, cores).as_deref(), Some("0-2"));
    }

    #[test]
    fn whole_processors_of_guaranteed_pods_are_exclusive() {
        let container = |cpu: &str| object!({ "name": "c", "resources": { "limits": { "cpu": cpu, "memory": "1Mi" }, "requests": { "cpu": cpu, "memory": "1Mi" } } });
        let of = |c: Value| exclusive(&object!({ "spec": { "containers": [(c.clone())] } }), &c);
        assert_eq!((of(container("2")), of(container("2000m")), of(container("1500m")), of(container("500m"))), (2, 2, 0, 0));
        assert_eq!(of(object!({ "name": "c", "resources": { "requests": { "cpu": "2" } } })), 0);
    }
}
