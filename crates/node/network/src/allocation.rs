//! Which sandbox has which address and host ports. Decisions are pure; the file that keeps them is replaced atomically, so
//! that no address is given twice whatever dies when.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use fram_cri::PortMapping;
use fram_datapath::address::Cidr;
use serde::{Deserialize, Serialize};

use crate::durable;

const VERSION: u32 = 1;
/// The first address of a pod range is the gateway by custom; no pod gets it.
const RESERVED: u32 = 2;

#[derive(Debug, thiserror::Error)]
pub enum AllocationError {
    #[error("the node has no pod CIDR yet")]
    NoPodCidr,
    #[error("pod CIDR {0} is not IPv4")]
    NotIpv4(Cidr),
    #[error("all addresses of {0} are taken")]
    Exhausted(Cidr),
    #[error("host port {port} is taken by pod {pod}")]
    PortInUse { port: u16, pod: String },
    #[error("cannot {operation} {}: {source}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is damaged or of another version: {reason}", path.display())]
    Unreadable { path: PathBuf, reason: String },
}

/// What one sandbox has of the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    pub ip: IpAddr,
    /// `namespace/name`, for messages.
    pub name: String,
    /// The node's end of its veth pair.
    pub link: String,
    pub ports: Vec<PortMapping>,
}

/// All that is given out on this node, by sandbox ID.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocations {
    version: u32,
    pod_cidr: Option<String>,
    /// Where the search for the next address starts, so that an address rests before it is used again.
    last: Option<Ipv4Addr>,
    pods: BTreeMap<String, Pod>,
}

impl Default for Allocations {
    fn default() -> Self {
        Self { version: VERSION, pod_cidr: None, last: None, pods: BTreeMap::new() }
    }
}

impl Allocations {
    pub fn pod_cidr(&self) -> Option<Cidr> {
        self.pod_cidr.as_ref()?.parse().ok()
    }

    /// Pods that have addresses keep them; new ones get theirs from here.
    pub fn set_pod_cidr(&mut self, cidr: Cidr) -> Result<(), AllocationError> {
        if !cidr.address().is_ipv4() {
            return Err(AllocationError::NotIpv4(cidr));
        }
        self.pod_cidr = Some(cidr.to_string());
        Ok(())
    }

    pub fn pod(&self, sandbox: &str) -> Option<&Pod> {
        self.pods.get(sandbox)
    }

    pub fn pods(&self) -> impl Iterator<Item = (&String, &Pod)> {
        self.pods.iter()
    }

    /// Gives a sandbox an address and its host ports; one that has them already gets the same.
    pub fn allocate(&mut self, sandbox: &str, name: &str, ports: &[PortMapping]) -> Result<Pod, AllocationError> {
        if let Some(pod) = self.pods.get(sandbox) {
            return Ok(pod.clone());
        }
        let ports: Vec<_> = ports.iter().filter(|p| p.host_port != 0).cloned().collect();
        self.check_ports(&ports)?;
        let ip = self.free_address()?;
        self.last = Some(ip);
        let pod = Pod { ip: ip.into(), name: name.to_owned(), link: link_name(sandbox), ports };
        self.pods.insert(sandbox.to_owned(), pod.clone());
        Ok(pod)
    }

    pub fn release(&mut self, sandbox: &str) -> Option<Pod> {
        self.pods.remove(sandbox)
    }

    fn check_ports(&self, ports: &[PortMapping]) -> Result<(), AllocationError> {
        for pod in self.pods.values() {
            if let Some(port) = ports.iter().find(|new| pod.ports.iter().any(|old| overlap(old, new))) {
                return Err(AllocationError::PortInUse { port: port.host_port, pod: pod.name.clone() });
            }
        }
        Ok(())
    }

    fn free_address(&self) -> Result<Ipv4Addr, AllocationError> {
        let cidr = self.pod_cidr().ok_or(AllocationError::NoPodCidr)?;
        let IpAddr::V4(network) = cidr.address() else { return Err(AllocationError::NotIpv4(cidr)) };
        let size = 1_u64 << (32 - u32::from(cidr.prefix_length()));
        // Network, gateway and broadcast address are not for pods.
        let usable = u32::try_from(size.saturating_sub(u64::from(RESERVED) + 1)).unwrap_or(u32::MAX);
        let first = network.to_bits().wrapping_add(RESERVED);
        let taken: HashSet<IpAddr> = self.pods.values().map(|pod| pod.ip).collect();
        let start = self.last.and_then(|last| last.to_bits().checked_sub(first)).filter(|n| *n < usable).map_or(0, |n| n + 1);
        (0..usable)
            .map(|n| Ipv4Addr::from_bits(first + (start % usable.max(1) + n) % usable))
            .find(|ip| !taken.contains(&IpAddr::V4(*ip)))
            .ok_or(AllocationError::Exhausted(cidr))
    }

    pub fn load(path: &Path) -> Result<Self, AllocationError> {
        let unreadable = |reason: String| AllocationError::Unreadable { path: path.to_path_buf(), reason };
        let bytes = match fs::read(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(AllocationError::Io { operation: "read", path: path.to_path_buf(), source }),
            Ok(bytes) => bytes,
        };
        let state: Self = serde_json::from_slice(&bytes).map_err(|e| unreadable(e.to_string()))?;
        if state.version != VERSION { Err(unreadable(format!("version {}", state.version))) } else { Ok(state) }
    }

    /// Durable when it returns.
    pub fn save(&self, path: &Path) -> Result<(), AllocationError> {
        let failed = |operation| move |source| AllocationError::Io { operation, path: path.to_path_buf(), source };
        let bytes = serde_json::to_vec(self).map_err(|e| failed("encode")(e.into()))?;
        durable::replace(path, &bytes).map_err(failed("write"))
    }
}

/// Two mappings collide if some packet would match both.
fn overlap(a: &PortMapping, b: &PortMapping) -> bool {
    let wildcard = |p: &PortMapping| p.host_ip.is_none_or(|ip| ip.is_unspecified());
    a.host_port == b.host_port && a.protocol == b.protocol && (wildcard(a) || wildcard(b) || a.host_ip == b.host_ip)
}

/// `fram` and eleven digits of a hash (FNV-1a) of the sandbox ID: the kernel allows fifteen characters.
fn link_name(sandbox: &str) -> String {
    let hash = sandbox.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    format!("{}{:011x}", fram_datapath::PREFIX, hash >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_cri::Protocol;

    fn state(cidr: &str) -> Allocations {
        let mut state = Allocations::default();
        state.set_pod_cidr(cidr.parse().unwrap()).unwrap();
        state
    }

    fn ip(state: &mut Allocations, sandbox: &str) -> Result<String, AllocationError> {
        state.allocate(sandbox, "ns/pod", &[]).map(|pod| pod.ip.to_string())
    }

    #[test]
    fn addresses_are_given_once_each_and_rest_before_they_are_given_again() {
        let mut state = state("10.244.1.0/29");
        let given: Vec<_> = (0..5).map(|n| ip(&mut state, &format!("s{n}")).unwrap()).collect();
        assert_eq!(given, ["10.244.1.2", "10.244.1.3", "10.244.1.4", "10.244.1.5", "10.244.1.6"]);
        assert!(matches!(ip(&mut state, "s5"), Err(AllocationError::Exhausted(_))));
        assert_eq!(ip(&mut state, "s3").unwrap(), "10.244.1.5", "asking again changes nothing");
        state.release("s1");
        state.release("s4");
        assert_eq!(ip(&mut state, "s6").unwrap(), "10.244.1.3");
        assert_eq!(ip(&mut state, "s7").unwrap(), "10.244.1.6");
        state.release("s6");
        state.release("s0");
        assert_eq!(ip(&mut state, "s8").unwrap(), "10.244.1.2", "the search goes on behind the last one");
    }

    #[test]
    fn without_a_range_or_in_one_too_small_nothing_is_given() {
        assert!(matches!(ip(&mut Allocations::default(), "a"), Err(AllocationError::NoPodCidr)));
        for tiny in ["10.0.0.0/31", "10.0.0.0/32"] {
            assert!(matches!(ip(&mut state(tiny), "a"), Err(AllocationError::Exhausted(_))), "{tiny}");
        }
        assert_eq!(ip(&mut state("10.0.0.0/30"), "a").unwrap(), "10.0.0.2");
        assert!(Allocations::default().set_pod_cidr("fd00::/64".parse().unwrap()).is_err());
    }

    #[test]
    fn a_new_range_leaves_old_pods_their_addresses() {
        let mut state = state("10.0.0.0/24");
        ip(&mut state, "old").unwrap();
        state.set_pod_cidr("10.0.1.0/24".parse().unwrap()).unwrap();
        assert_eq!(ip(&mut state, "new").unwrap(), "10.0.1.2");
        assert_eq!(ip(&mut state, "old").unwrap(), "10.0.0.2");
    }

    #[test]
    fn host_ports_collide_only_when_a_packet_could_match_both() {
        let port = |port, protocol, ip: &str| PortMapping { protocol, container_port: 80, host_port: port, host_ip: ip.parse().ok() };
        let first = port(80, Protocol::Tcp, "10.0.0.1");
        for (second, collides) in [
            (port(80, Protocol::Tcp, "10.0.0.1"), true),
            (port(80, Protocol::Tcp, "127.0.0.1"), false),
            (port(80, Protocol::Udp, "10.0.0.1"), false),
            (port(81, Protocol::Tcp, "10.0.0.1"), false),
            (port(80, Protocol::Tcp, ""), true),
            (port(80, Protocol::Tcp, "0.0.0.0"), true),
            (port(0, Protocol::Tcp, "10.0.0.1"), false),
        ] {
            let mut state = state("10.0.0.0/24");
            state.allocate("a", "ns/a", std::slice::from_ref(&first)).unwrap();
            let result = state.allocate("b", "ns/b", std::slice::from_ref(&second));
            assert_eq!(matches!(result, Err(AllocationError::PortInUse { .. })), collides, "{second:?}");
        }
    }

    #[test]
    fn what_is_saved_is_loaded_and_what_is_damaged_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("allocations.json");
        let mut state = state("10.0.0.0/24");
        ip(&mut state, "a").unwrap();
        state.save(&path).unwrap();
        assert_eq!(Allocations::load(&path).unwrap(), state);
        fs::write(&path, "{").unwrap();
        assert!(matches!(Allocations::load(&path), Err(AllocationError::Unreadable { .. })));
        assert_eq!(Allocations::load(&folder.path().join("none")).unwrap(), Allocations::default());
    }

    #[test]
    fn link_names_fit_the_kernel_and_differ() {
        let (a, b) = (link_name("sandbox-a"), link_name("sandbox-b"));
        assert!(a.len() == 15 && a.starts_with("fram") && a != b, "{a} {b}");
    }
}
