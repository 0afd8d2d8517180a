//! Who has which processors and which memory for itself: granted when a pod is taken in, written down before it runs, given back
//! when it has ended. What is granted is decided in the folder `resource`, pure. See upstream's pkg/kubelet/cm.

pub(crate) mod cpu;
pub(crate) mod cpuset;
pub(crate) mod hardware;
pub(crate) mod memory;
pub(crate) mod pool;
pub(crate) mod qos;
pub(crate) mod topology;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use fram_machinery::{Map, Value, json, meta, object};
use parking_lot::Mutex;

use crate::config::{KubeletConfig, Managers};
use crate::context::NodeFacts;
use crate::durable::{self, DurableError, Flush};
use crate::pod::{self, resources};
use cpu::Options;
use cpuset::CpuSet;
use hardware::Hardware;
use memory::{Block, Memory};
use topology::{Hint, Hints, Policy, Scope};

const FILE: &str = "resource_manager_state";

#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    #[error("{0}")]
    Invalid(String),
    #[error("{operation} {path:?}: {source}")]
    Io { operation: &'static str, path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Durable(#[from] DurableError),
}

/// What one container has for itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Assignment {
    pub(crate) cpus: CpuSet,
    pub(crate) memory: Vec<Block>,
}

/// Where the containers of a pod should be, by their names.
pub(crate) type Affinities = BTreeMap<String, Hint>;

type Assignments = BTreeMap<String, BTreeMap<String, Assignment>>;

pub(crate) struct ResourceManagers {
    hardware: Hardware,
    config: Managers,
    /// Processors that nobody gets for itself.
    reserved: CpuSet,
    file: PathBuf,
    state: Mutex<Assignments>,
}

/// What a pod's container is about to be granted.
struct Wish<'a> {
    name: &'a str,
    cpus: usize,
    memory: Option<BTreeMap<String, i64>>,
}

impl ResourceManagers {
    /// Takes up what was granted before.
    pub(crate) fn open(config: &KubeletConfig, node: &NodeFacts, sys: &Path) -> Result<Self, ManagerError> {
        let hardware = Hardware::read(sys);
        let managers = config.managers.clone();
        let reserved = reserved_cpus(config, &hardware)?;
        if managers.static_memory {
            memory::check_reservations(&managers.reserved_memory, &node.capacity, &node.allocatable).map_err(ManagerError::Invalid)?;
        }
        let file = config.root_dir.join(FILE);
        let state = match std::fs::read(&file) {
            Ok(bytes) => read_state(&bytes, &managers, &hardware).map_err(|why| {
                ManagerError::Invalid(format!(
                    "{file:?} does not fit this node: {why}; drain the node and remove the file before starting it"
                ))
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Assignments::new(),
            Err(source) => return Err(ManagerError::Io { operation: "read", path: file, source }),
        };
        Ok(Self { hardware, config: managers, reserved, file, state: Mutex::new(state) })
    }

    /// Nothing is granted and nothing is kept track of.
    pub(crate) fn is_idle(&self) -> bool {
        !self.config.static_cpus && !self.config.static_memory
    }

    pub(crate) fn has_static_cpus(&self) -> bool {
        self.config.static_cpus
    }

    /// Grants a pod what its containers have a right to, or says why it cannot be taken in. What was granted before stays.
    /// `others` are hints of further resources by container, for the policy to weigh.
    pub(crate) fn allocate(&self, pod: &Value, others: &dyn Fn(&str) -> Vec<Hints>) -> Result<Affinities, crate::admit::Rejection> {
        let uid = meta::uid(pod);
        let mut state = self.state.lock();
        if state.contains_key(uid) || (self.is_idle() && self.config.topology_policy == Policy::None) {
            return Ok(Affinities::new());
        }
        let (granted, affinities) = self.grant(pod, &state, others)?;
        if granted.is_empty() {
            return Ok(affinities);
        }
        state.insert(uid.to_string(), granted);
        if let Err(error) = self.write(&state) {
            state.remove(uid);
            return Err(unexpected(&error.to_string()));
        }
        Ok(affinities)
    }

    fn grant(
        &self,
        pod: &Value,
        state: &Assignments,
        others: &dyn Fn(&str) -> Vec<Hints>,
    ) -> Result<(BTreeMap<String, Assignment>, Affinities), crate::admit::Rejection> {
        let mut out: BTreeMap<String, Assignment> = BTreeMap::new();
        let mut affinities = Affinities::new();
        // What init containers had, those that come after them have again.
        let (mut reusable, mut reusable_memory) = (CpuSet::default(), Vec::new());
        let of_pod = match self.config.topology_scope {
            Scope::Pod => Some(self.affinity(&self.whole(pod), state, &out, (&reusable, &reusable_memory), &others(""))?),
            Scope::Container => None,
        };
        for (container, reusable_after) in
            pod::init_containers(pod).iter().map(|c| (c, !pod::is_sidecar(c))).chain(pod::containers(pod).iter().map(|c| (c, false)))
        {
            let wish = self.wish(pod, container);
            let affinity = match &of_pod {
                Some(affinity) => affinity.clone(),
                None => self.affinity(&wish, state, &out, (&reusable, &reusable_memory), &others(wish.name))?,
            };
            let cpus = self.take_cpus(&wish, &affinity, state, &out, &reusable)?;
            let memory = self.take_memory(&wish, &affinity, state, &out, &reusable_memory)?;
            affinities.insert(wish.name.to_string(), affinity);
            if cpus.is_empty() && memory.is_empty() {
                continue;
            }
            if reusable_after {
                reusable = reusable.union(&cpus);
                reusable_memory.push(wish.name.to_string());
            } else {
                reusable = reusable.difference(&cpus);
            }
            out.insert(wish.name.to_string(), Assignment { cpus, memory });
        }
        let order = pod::init_containers(pod).iter().filter(|c| !pod::is_sidecar(c)).map(pod::container_name);
        let before = |init: &str| {
            let earlier = pod::init_containers(pod).iter().take_while(move |c| pod::container_name(c) != init);
            earlier.filter(|c| pod::is_sidecar(c)).map(|c| pod::container_name(c).to_string()).collect()
        };
        lower_init_memory(&mut out, order, before);
        Ok((out, affinities))
    }

    fn wish<'a>(&self, pod: &Value, container: &'a Value) -> Wish<'a> {
        let cpus = if self.config.static_cpus { cpu::exclusive(pod, container) } else { 0 };
        let memory = if self.config.static_memory { memory::asked(pod, container) } else { None };
        Wish { name: pod::container_name(container), cpus, memory }
    }

    /// What the containers of a pod want at once: the main ones and sidecars together, or the neediest init container.
    fn whole(&self, pod: &Value) -> Wish<'static> {
        let add = |total: &mut BTreeMap<String, i64>, more: BTreeMap<String, i64>| {
            for (kind, bytes) in more {
                *total.entry(kind).or_default() += bytes;
            }
        };
        let (mut cpus, mut memory) = (0, BTreeMap::new());
        for container in pod::containers(pod).iter().chain(pod::init_containers(pod).iter().filter(|c| pod::is_sidecar(c))) {
            let wish = self.wish(pod, container);
            cpus += wish.cpus;
            add(&mut memory, wish.memory.unwrap_or_default());
        }
        for container in pod::init_containers(pod).iter().filter(|c| !pod::is_sidecar(c)) {
            let wish = self.wish(pod, container);
            cpus = cpus.max(wish.cpus);
            for (kind, bytes) in wish.memory.unwrap_or_default() {
                let most = memory.entry(kind).or_default();
                *most = bytes.max(*most);
            }
        }
        Wish { name: "", cpus, memory: (!memory.is_empty()).then_some(memory) }
    }

    fn affinity(
        &self,
        wish: &Wish,
        state: &Assignments,
        own: &BTreeMap<String, Assignment>,
        (reusable, reusable_memory): (&CpuSet, &[String]),
        others: &[Hints],
    ) -> Result<Hint, crate::admit::Rejection> {
        let nodes = self.hardware.node_ids();
        let mut hints: Vec<Hints> = others.to_vec();
        if wish.cpus > 0 {
            let (all, free) = (self.hardware.all().difference(&self.reserved), self.free_cpus(state, own).union(reusable));
            let count = |cpus: &CpuSet, of: &CpuSet| i64::try_from(cpus.intersection(&self.hardware.cpus_of(of)).len()).unwrap_or(i64::MAX);
            let wanted = i64::try_from(wish.cpus).unwrap_or(i64::MAX);
            hints.push(Some(topology::hints(&nodes, wanted, |of| count(&all, of), |of| Some(count(&free, of)))));
        }
        if let Some(asked) = &wish.memory {
            let promised = blocks(state, own, reusable_memory);
            let memory = Memory { hardware: &self.hardware, reserved: &self.config.reserved_memory, promised: &promised };
            for (kind, bytes) in asked {
                hints.push(Some(topology::hints(&nodes, *bytes, |of| memory.total(of, kind), |of| memory.free(of, kind))));
            }
        }
        topology::merge(self.config.topology_policy, &nodes, &hints).ok_or_else(|| {
            ("TopologyAffinityError".into(), "Pod was rejected: Resources cannot be allocated with Topology locality".into())
        })
    }

    /// Processors that nobody has and nobody is kept from having.
    fn free_cpus(&self, state: &Assignments, own: &BTreeMap<String, Assignment>) -> CpuSet {
        let taken = state.values().chain([own]).flat_map(BTreeMap::values).fold(self.reserved.clone(), |all, a| all.union(&a.cpus));
        self.hardware.all().difference(&taken)
    }

    fn take_cpus(
        &self,
        wish: &Wish,
        affinity: &Hint,
        state: &Assignments,
        own: &BTreeMap<String, Assignment>,
        reusable: &CpuSet,
    ) -> Result<CpuSet, crate::admit::Rejection> {
        if wish.cpus == 0 {
            return Ok(CpuSet::default());
        }
        let options = Options::read(&self.config.cpu_options);
        let threads = self.hardware.threads_per_core();
        if options.full_cores && !wish.cpus.is_multiple_of(threads) {
            let message =
                format!("Pod was rejected: SMT Alignment Error: requested {} cpus not multiple cpus per core = {threads}", wish.cpus);
            return Err(("SMTAlignmentError".into(), message));
        }
        let free = self.free_cpus(state, own).union(reusable);
        // What the affinity's nodes lack, others give: the policy has said that this may be.
        let near = affinity.nodes.as_ref().map_or_else(|| free.clone(), |n| free.intersection(&self.hardware.cpus_of(n)));
        let first = cpu::take(&self.hardware, &near, wish.cpus.min(near.len()), options).unwrap_or_default();
        let rest = cpu::take(&self.hardware, &free.difference(&first), wish.cpus - first.len(), options);
        rest.map(|rest| first.union(&rest)).ok_or_else(|| {
            unexpected(&format!("not enough cpus available to satisfy request: requested={}, available={}", wish.cpus, free.len()))
        })
    }

    fn take_memory(
        &self,
        wish: &Wish,
        affinity: &Hint,
        state: &Assignments,
        own: &BTreeMap<String, Assignment>,
        reusable: &[String],
    ) -> Result<Vec<Block>, crate::admit::Rejection> {
        let Some(asked) = &wish.memory else { return Ok(Vec::new()) };
        let promised = blocks(state, own, reusable);
        let memory = Memory { hardware: &self.hardware, reserved: &self.config.reserved_memory, promised: &promised };
        let nodes = memory.choose(asked, affinity.nodes.as_ref()).ok_or_else(|| {
            unexpected("[memorymanager] failed to get the default NUMA affinity, no NUMA nodes with enough memory is available")
        })?;
        Ok(asked.iter().map(|(kind, bytes)| Block { nodes: nodes.clone(), resource: kind.clone(), bytes: *bytes }).collect())
    }

    /// What a container has for itself.
    pub(crate) fn assigned(&self, uid: &str, container: &str) -> Option<Assignment> {
        self.state.lock().get(uid)?.get(container).cloned()
    }

    /// The processors on which a container may run; None where nothing is said.
    pub(crate) fn cpus(&self, uid: &str, container: &str) -> Option<CpuSet> {
        if !self.config.static_cpus {
            return None;
        }
        let own = self.assigned(uid, container).map(|a| a.cpus).filter(|c| !c.is_empty());
        Some(own.unwrap_or_else(|| self.shared()))
    }

    /// The NUMA nodes from which a container's memory comes; None where nothing is said.
    pub(crate) fn memory_nodes(&self, uid: &str, container: &str) -> Option<CpuSet> {
        let blocks = self.assigned(uid, container)?.memory;
        let nodes = blocks.iter().fold(CpuSet::default(), |all, b| all.union(&b.nodes));
        (!nodes.is_empty()).then_some(nodes)
    }

    /// Whether a pod has processors for itself.
    pub(crate) fn is_exclusive(&self, uid: &str) -> bool {
        self.state.lock().get(uid).is_some_and(|c| c.values().any(|a| !a.cpus.is_empty()))
    }

    /// The processors that all others share.
    pub(crate) fn shared(&self) -> CpuSet {
        let state = self.state.lock();
        let taken = state.values().flat_map(BTreeMap::values).fold(CpuSet::default(), |all, a| all.union(&a.cpus));
        let left = self.hardware.all().difference(&taken);
        match Options::read(&self.config.cpu_options).strict_reservation {
            true => left.difference(&self.reserved),
            false => left,
        }
    }

    /// Gives back what a pod had; true where that was something.
    pub(crate) fn release(&self, uid: &str) -> bool {
        let mut state = self.state.lock();
        if state.remove(uid).is_none() {
            return false;
        }
        if let Err(error) = self.write(&state) {
            tracing::warn!(%error, "what a pod gave back could not be written down");
        }
        true
    }

    /// Gives back what pods had that no longer exist.
    pub(crate) fn keep(&self, known: &HashSet<String>) {
        let gone: Vec<String> = self.state.lock().keys().filter(|uid| !known.contains(*uid)).cloned().collect();
        for uid in gone {
            self.release(&uid);
        }
    }

    pub(crate) fn hardware(&self) -> &Hardware {
        &self.hardware
    }

    /// Processors that pods may get for themselves.
    pub(crate) fn allocatable_cpus(&self) -> CpuSet {
        self.hardware.all().difference(&self.reserved)
    }

    /// Replaces the file as a whole: whoever is killed meanwhile finds the old one or the new one.
    fn write(&self, state: &Assignments) -> Result<(), ManagerError> {
        Ok(durable::replace(&self.file, &json::to_vec(&state_document(state, &self.config)), Flush::Yes)?)
    }
}

fn unexpected(why: &str) -> crate::admit::Rejection {
    ("UnexpectedAdmissionError".into(), format!("Pod was rejected: Allocate failed due to {why}, which is unexpected"))
}

fn blocks(state: &Assignments, own: &BTreeMap<String, Assignment>, without: &[String]) -> Vec<Block> {
    let others = state.values().flat_map(BTreeMap::values);
    let own = own.iter().filter(|(name, _)| !without.contains(name)).map(|(_, a)| a);
    others.chain(own).flat_map(|a| a.memory.iter().cloned()).collect()
}

/// What an init container has, those that come after it have again: promised stays what it needs beyond them. What is nothing
/// any more still says on which nodes the container is. See updateInitContainersMemoryBlocks. `before` names the sidecars that an
/// init container runs beside.
fn lower_init_memory<'a>(
    granted: &mut BTreeMap<String, Assignment>,
    init: impl Iterator<Item = &'a str>,
    before: impl Fn(&str) -> Vec<String>,
) {
    let names: Vec<&str> = init.collect();
    let same = |a: &Block, b: &Block| a.nodes == b.nodes && a.resource == b.resource;
    let mut lasting: Vec<Block> = Vec::new();
    for (_, assignment) in granted.iter().filter(|(name, _)| !names.contains(&name.as_str())) {
        lasting.extend(assignment.memory.iter().cloned());
    }
    for name in names {
        let beside: Vec<Block> = before(name).iter().filter_map(|s| granted.get(s)).flat_map(|a| a.memory.clone()).collect();
        let Some(assignment) = granted.get_mut(name) else { continue };
        for block in &mut assignment.memory {
            let of = |list: &[Block]| list.iter().filter(|b| same(b, block)).map(|b| b.bytes).sum::<i64>();
            let again = of(&lasting) - of(&beside);
            block.bytes = (block.bytes - again).max(0);
            lasting.push(block.clone());
        }
    }
}

/// The processors that are kept: those named, or as many as are reserved, whole ones.
fn reserved_cpus(config: &KubeletConfig, hardware: &Hardware) -> Result<CpuSet, ManagerError> {
    if !config.managers.static_cpus {
        return Ok(CpuSet::default());
    }
    let all = hardware.all();
    if let Some(named) = &config.managers.reserved_cpus {
        return match named.is_subset(&all) && !named.is_empty() {
            true => Ok(named.clone()),
            false => Err(ManagerError::Invalid(format!("reservedSystemCPUs {named} are not among the machine's processors {all}"))),
        };
    }
    let amounts = [&config.system_reserved, &config.kube_reserved].map(|m| m.get("cpu").and_then(|t| t.parse().ok()));
    let milli: i64 = amounts.into_iter().flatten().map(|q: fram_machinery::quantity::Quantity| q.milli_value()).sum();
    let count = usize::try_from(milli.div_euclid(1000) + i64::from(milli.rem_euclid(1000) > 0)).unwrap_or(0);
    if count == 0 {
        let why =
            "the static CPU manager policy requires systemReserved.cpu + kubeReserved.cpu, or reservedSystemCPUs, to be greater than zero";
        return Err(ManagerError::Invalid(why.into()));
    }
    cpu::take(hardware, &all, count, Options::default())
        .ok_or_else(|| ManagerError::Invalid(format!("{count} processors cannot be reserved of {all}")))
}

fn state_document(state: &Assignments, config: &Managers) -> Value {
    let block = |b: &Block| object!({ "numaAffinity": (b.nodes.to_string()), "type": (b.resource.as_str()), "size": (b.bytes) });
    let one = |a: &Assignment| object!({ "cpus": (a.cpus.to_string()), "memory": (a.memory.iter().map(block).collect::<Vec<_>>()) });
    let pods: Map = state
        .iter()
        .map(|(uid, containers)| (uid.as_str(), containers.iter().map(|(name, a)| (name.as_str(), one(a))).collect::<Map>()))
        .collect();
    object!({ "staticCPUs": (config.static_cpus), "staticMemory": (config.static_memory), "entries": pods })
}

/// What was granted under another policy, or of processors that are gone, cannot be kept.
fn read_state(bytes: &[u8], config: &Managers, hardware: &Hardware) -> Result<Assignments, String> {
    let document = json::from_slice(bytes).map_err(|error| error.to_string())?;
    let pods = document.get("entries").and_then(Value::as_map).cloned().unwrap_or_default();
    let policies = (document.bool_at(&["staticCPUs"]), document.bool_at(&["staticMemory"]));
    if !pods.is_empty() && policies != (Some(config.static_cpus), Some(config.static_memory)) {
        return Err("it was written under another policy".into());
    }
    let mut out = Assignments::new();
    for (uid, containers) in pods.iter() {
        for (name, one) in containers.as_map().into_iter().flat_map(|m| m.iter()) {
            let set = |text: &str| CpuSet::parse(text).ok_or_else(|| format!("{text:?} is no list"));
            let cpus = set(one.str_at(&["cpus"]))?;
            if !cpus.is_subset(&hardware.all()) {
                return Err(format!("the machine has no processors {cpus}"));
            }
            let block = |b: &Value| {
                let (nodes, bytes) = (set(b.str_at(&["numaAffinity"]))?, b.int_at(&["size"]).unwrap_or(0));
                Ok::<_, String>(Block { nodes, resource: b.str_at(&["type"]).to_string(), bytes })
            };
            let memory = one.list_at(&["memory"]).iter().map(block).collect::<Result<_, _>>()?;
            out.entry(uid.to_string()).or_default().insert(name.to_string(), Assignment { cpus, memory });
        }
    }
    Ok(out)
}

/// What a container's limits are with what it has for itself.
pub(crate) fn lay_over(managers: &ResourceManagers, uid: &str, container: &str, limits: &mut fram_cri::LinuxContainerResources) {
    if let Some(cpus) = managers.cpus(uid, container) {
        limits.cpuset_cpus = cpus.to_string();
        if managers.assigned(uid, container).is_some_and(|a| !a.cpus.is_empty()) {
            // Whole processors are their own limit; a quota would only hold them up.
            limits.cpu_quota = -1;
        }
    }
    if let Some(nodes) = managers.memory_nodes(uid, container) {
        limits.cpuset_mems = nodes.to_string();
    }
    debug_assert!(limits.cpu_period == 0 || limits.cpu_period == resources::QUOTA_PERIOD);
}

#[cfg(test)]
mod tests;
