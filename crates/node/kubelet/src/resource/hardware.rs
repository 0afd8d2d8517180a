//! Processors, cores, sockets and NUMA nodes as the kernel describes them below /sys. See upstream's
//! pkg/kubelet/cm/cpumanager/topology.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::cpuset::CpuSet;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cpu {
    pub(crate) id: u32,
    /// Unique on the machine.
    pub(crate) core: u32,
    pub(crate) socket: u32,
    pub(crate) numa: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NumaNode {
    pub(crate) id: u32,
    /// Bytes by resource: `memory`, and `hugepages-SIZE`.
    pub(crate) memory: BTreeMap<String, i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Hardware {
    pub(crate) cpus: Vec<Cpu>,
    /// In the order of their numbers; at least one.
    pub(crate) nodes: Vec<NumaNode>,
}

impl Hardware {
    /// Reads what is below `sys`; a machine without NUMA is one node.
    pub(crate) fn read(sys: &Path) -> Self {
        let list = |path: &str| fs::read_to_string(sys.join(path)).ok().and_then(|t| CpuSet::parse(&t)).unwrap_or_default();
        let number = |path: String| fs::read_to_string(sys.join(path)).ok().and_then(|t| t.trim().parse::<u32>().ok());
        let mut nodes: Vec<NumaNode> = Vec::new();
        let mut numa: BTreeMap<u32, u32> = BTreeMap::new();
        for id in list("devices/system/node/online").iter() {
            let dir = format!("devices/system/node/node{id}");
            numa.extend(list(&format!("{dir}/cpulist")).iter().map(|cpu| (cpu, id)));
            nodes.push(NumaNode { id, memory: memory(&sys.join(dir)) });
        }
        if nodes.is_empty() {
            nodes.push(NumaNode::default());
        }
        let mut cores: BTreeMap<(u32, u32), u32> = BTreeMap::new();
        let mut cpus = Vec::new();
        for id in list("devices/system/cpu/online").iter() {
            let topology = format!("devices/system/cpu/cpu{id}/topology");
            let socket = number(format!("{topology}/physical_package_id")).unwrap_or(0);
            // Siblings share a core whatever it is called: core ids repeat between sockets, and on some machines within one.
            let first = list(&format!("{topology}/thread_siblings_list")).iter().next().unwrap_or(id);
            let next = u32::try_from(cores.len()).unwrap_or(u32::MAX);
            let core = *cores.entry((socket, first)).or_insert(next);
            cpus.push(Cpu { id, core, socket, numa: numa.get(&id).copied().unwrap_or(nodes[0].id) });
        }
        Self { cpus, nodes }
    }

    pub(crate) fn all(&self) -> CpuSet {
        self.cpus.iter().map(|c| c.id).collect()
    }

    /// The processors of some NUMA nodes.
    pub(crate) fn cpus_of(&self, nodes: &CpuSet) -> CpuSet {
        self.cpus.iter().filter(|c| nodes.contains(c.numa)).map(|c| c.id).collect()
    }

    pub(crate) fn node_ids(&self) -> CpuSet {
        self.nodes.iter().map(|n| n.id).collect()
    }

    /// Processors in a core.
    pub(crate) fn threads_per_core(&self) -> usize {
        let cores: std::collections::BTreeSet<u32> = self.cpus.iter().map(|c| c.core).collect();
        if cores.is_empty() { 1 } else { self.cpus.len() / cores.len() }
    }
}

fn memory(node: &Path) -> BTreeMap<String, i64> {
    let mut out = BTreeMap::new();
    let text = fs::read_to_string(node.join("meminfo")).unwrap_or_default();
    // Node 0 MemTotal:       24689012 kB
    let total = text.lines().find(|l| l.contains("MemTotal:")).and_then(|l| l.split_whitespace().rev().nth(1)?.parse::<i64>().ok());
    out.insert("memory".to_string(), total.unwrap_or(0) << 10);
    for (size, pages) in crate::node::machine::huge_pages(&node.join("hugepages")) {
        out.insert(crate::node::machine::huge_page_resource(size), size.saturating_mul(pages));
    }
    out
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Sockets with as many NUMA nodes, cores of two threads; siblings are numbered far from each other, as on most machines.
    pub(crate) fn machine(sockets: u32, cores_per_socket: u32) -> Hardware {
        let cores = sockets * cores_per_socket;
        let cpu = |id: u32| {
            let core = id % cores;
            Cpu { id, core, socket: core / cores_per_socket, numa: core / cores_per_socket }
        };
        let node = |id: u32| NumaNode { id, memory: [("memory".to_string(), 10 << 30)].into() };
        Hardware { cpus: (0..cores * 2).map(cpu).collect(), nodes: (0..sockets).map(node).collect() }
    }

    #[test]
    fn siblings_sockets_and_nodes_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("devices/system/cpu/online", "0-3\n");
        write("devices/system/node/online", "0-1\n");
        for (cpu, siblings, socket) in [(0, "0,2", 0), (1, "1,3", 1), (2, "0,2", 0), (3, "1,3", 1)] {
            write(&format!("devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"), siblings);
            write(&format!("devices/system/cpu/cpu{cpu}/topology/physical_package_id"), &socket.to_string());
        }
        write("devices/system/node/node0/cpulist", "0,2\n");
        write("devices/system/node/node1/cpulist", "1,3\n");
        write("devices/system/node/node1/meminfo", "Node 1 MemTotal:       1024 kB\nNode 1 MemFree: 5 kB\n");
        write("devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages", "3\n");
        let hardware = Hardware::read(dir.path());
        let cpu = |id, core, socket, numa| Cpu { id, core, socket, numa };
        assert_eq!(hardware.cpus, [cpu(0, 0, 0, 0), cpu(1, 1, 1, 1), cpu(2, 0, 0, 0), cpu(3, 1, 1, 1)]);
        assert_eq!(hardware.nodes[1].memory, [("memory".to_string(), 1 << 20), ("hugepages-2Mi".to_string(), 6 << 20)].into());
        assert_eq!((hardware.threads_per_core(), hardware.cpus_of(&CpuSet::parse("1").unwrap()).to_string()), (2, "1,3".into()));
    }
}
