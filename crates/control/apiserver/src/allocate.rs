//! Numbers that must be unique in the cluster: cluster IPs and node ports of Services. Each is a key of its own that is
//! written in the same transaction as the Service, so that no number is given twice and none is lost.

use std::net::{IpAddr, Ipv4Addr};

use fram_api::strategy::needs_health_check;
use fram_api::{AddressRange, RangeError, ServiceFamilies};
use fram_machinery::status::FieldError;
use fram_machinery::{Status, Value, meta, object};
use fram_store::{Condition, Key, Operation, Snapshot, Transaction};

use crate::registry::{Place, Record, Registry};

/// Of a range nobody counts further than this.
const MOST_BITS: u32 = 63;

/// The ServiceCIDR of the ranges that the cluster began with.
pub(crate) const OWN_RANGES: &str = "kubernetes";

const HEALTH_CHECK: [&str; 2] = ["spec", "healthCheckNodePort"];

/// The ranges that numbers are taken from.
#[derive(Debug, Clone)]
pub struct Allocators {
    /// Those of Services: one, or two of different families, of which Services have the first unasked. ServiceCIDRs add to them.
    pub service_ranges: Vec<AddressRange>,
    pub node_ports: std::ops::RangeInclusive<u16>,
}

impl Default for Allocators {
    fn default() -> Self {
        Self { service_ranges: vec![AddressRange::v4(Ipv4Addr::new(10, 96, 0, 0), 16)], node_ports: 30000..=32767 }
    }
}

/// Why Services cannot have their addresses from some ranges.
#[derive(Debug, thiserror::Error)]
pub enum AllocatorsError {
    #[error(transparent)]
    Range(#[from] RangeError),
    #[error("the range {0} is too small: the API and the DNS have the first and the tenth address")]
    Small(String),
}

/// An object with its numbers, and what must be written beside it.
pub(crate) struct Allocation {
    pub object: Value,
    pub conditions: Vec<Condition>,
    pub operations: Vec<Operation>,
}

impl Allocators {
    /// The service ranges in CIDR notation.
    pub fn service_cidrs(&self) -> Vec<String> {
        self.service_ranges.iter().map(AddressRange::to_string).collect()
    }

    /// The address at this place in the first range; the first one is the API server's own.
    pub fn service_ip(&self, offset: u128) -> IpAddr {
        self.service_ranges.first().map_or(Ipv4Addr::UNSPECIFIED.into(), |range| range.at(offset))
    }

    /// Those of other ranges for Services, one or two, separated by a comma.
    pub fn within(ranges: &str) -> Result<Self, AllocatorsError> {
        let service_ranges = AddressRange::parse_list(ranges)?;
        match service_ranges.iter().find(|range| range.host_bits() < 4) {
            Some(small) => Err(AllocatorsError::Small(small.to_string())),
            None => Ok(Self { service_ranges, ..Self::default() }),
        }
    }

    /// Which families Services can have.
    pub fn families(&self) -> ServiceFamilies {
        let is_ipv4 = |n: usize| self.service_ranges.get(n).map(|range| range.is_ipv4());
        match (is_ipv4(0), is_ipv4(1)) {
            (Some(false), None) => ServiceFamilies::V6,
            (Some(true), Some(_)) => ServiceFamilies::V4V6,
            (Some(false), Some(_)) => ServiceFamilies::V6V4,
            (Some(true) | None, None) | (None, Some(_)) => ServiceFamilies::V4,
        }
    }

    /// Gives a Service the numbers that it asks for or lacks, and frees those that it gave up.
    pub(crate) async fn allocate(
        &self,
        registry: &Registry,
        place: &Place,
        object: Value,
        old: Option<&Value>,
    ) -> Result<Allocation, Status> {
        let mut allocation = Allocation { object, conditions: Vec::new(), operations: Vec::new() };
        if place.served.stored.group.is_empty() && place.served.stored.kind == "Service" {
            let snapshot = registry.snapshot().await?;
            self.cluster_ips(registry, place, &snapshot, &mut allocation, old).await?;
            self.node_ports(registry, place, &snapshot, &mut allocation, old)?;
        }
        Ok(allocation)
    }

    /// Addresses are named in one way, however they are written.
    fn ip_key(&self, registry: &Registry, ip: &str) -> Key {
        let name = ip.parse::<IpAddr>().map_or_else(|_| ip.to_string(), |ip| ip.to_string());
        Key::from(format!("{}networking.k8s.io/ipaddresses/{name}", registry.prefix))
    }

    fn port_key(&self, registry: &Registry, port: i64) -> Key {
        Key::from(format!("{}allocations/nodeports/{port}", registry.prefix))
    }

    async fn cluster_ips(
        &self,
        registry: &Registry,
        place: &Place,
        snapshot: &Snapshot,
        allocation: &mut Allocation,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        let held = old.map(addresses_of).unwrap_or_default();
        if allocation.object.str_at(&["spec", "type"]) == "ExternalName" {
            return self.free(registry, place, snapshot, &held, (&mut allocation.conditions, &mut allocation.operations));
        }
        if allocation.object.str_at(&["spec", "clusterIP"]) == "None" {
            allocation.object.set(&["spec", "clusterIPs"], object!(["None"]));
            return Ok(());
        }
        let mut ips = addresses_of(&allocation.object);
        let families = allocation.object.list_at(&["spec", "ipFamilies"]).to_vec();
        let wanted = families.len().max(1);
        if ips.len() < wanted || ips.iter().any(|ip| !held.contains(ip)) {
            let ranges = self.ranges(registry).await?;
            for ip in ips.iter().filter(|ip| !held.contains(ip)) {
                self.check_ip(place, ip, &ips, &ranges)?;
            }
            for family in families.iter().skip(ips.len()) {
                ips.push(self.free_ip(registry, snapshot, family.as_str() != Some("IPv6"), &ranges)?);
            }
            if ips.is_empty() {
                ips.push(self.free_ip(registry, snapshot, self.families().names()[0] == "IPv4", &ranges)?);
            }
        }
        let all: Vec<Value> = ips.iter().map(|ip| Value::from(ip.as_str())).collect();
        allocation.object.set(&["spec", "clusterIP"], all[0].clone());
        allocation.object.set(&["spec", "clusterIPs"], all);
        for ip in ips.iter().filter(|ip| !held.contains(ip)) {
            let key = self.ip_key(registry, ip);
            allocation.conditions.push(Condition::Absent(key.clone()));
            allocation.operations.push(Operation::put(key, self.ip_record(registry, place, &allocation.object, ip)));
        }
        let gone = held.iter().filter(|ip| !ips.contains(ip));
        self.free(registry, place, snapshot, gone, (&mut allocation.conditions, &mut allocation.operations))
    }

    /// Gives back those of the addresses that are the Service's: one whose IPAddress somebody deleted may be another's by now.
    fn free<'a>(
        &self,
        registry: &Registry,
        place: &Place,
        snapshot: &Snapshot,
        ips: impl IntoIterator<Item = &'a String>,
        (conditions, operations): (&mut Vec<Condition>, &mut Vec<Operation>),
    ) -> Result<(), Status> {
        for key in ips.into_iter().map(|ip| self.ip_key(registry, ip)) {
            let Some(entry) = snapshot.get(key.as_str()) else { continue };
            if is_parent(&registry.stored(entry)?, place) {
                conditions.push(Condition::ModifiedAt(key.clone(), entry.modified));
                operations.push(Operation::delete(key));
            }
        }
        Ok(())
    }

    /// All ranges that addresses are given from: those of ServiceCIDRs that are ready, and the server's own until there is the
    /// ServiceCIDR of these. What is within another range is left out.
    async fn ranges(&self, registry: &Registry) -> Result<Vec<AddressRange>, Status> {
        let Some(served) = registry.served("networking.k8s.io", "v1", "servicecidrs") else { return Ok(self.service_ranges.clone()) };
        let place = Place { served, namespace: String::new(), name: String::new() };
        let mut objects = Vec::new();
        for entry in registry.list(&place, &Default::default()).await?.items {
            objects.push(registry.consult(&place.served, &entry).await?);
        }
        objects.sort_by_key(|object| meta::name(object) != OWN_RANGES);
        let is_begun = objects.first().is_some_and(|object| meta::name(object) == OWN_RANGES);
        let mut ranges = if is_begun { Vec::new() } else { self.service_ranges.clone() };
        for object in objects.iter().filter(|object| is_given_from(object)) {
            // What is too small to be used is left out.
            for range in object.list_at(&["spec", "cidrs"]).iter().filter_map(|cidr| cidr.as_str()?.parse::<AddressRange>().ok()) {
                if !ranges.iter().any(|known: &AddressRange| known.covers(range)) {
                    ranges.push(range);
                }
            }
        }
        Ok(ranges)
    }

    fn check_ip(&self, place: &Place, ip: &str, all: &[String], ranges: &[AddressRange]) -> Result<(), Status> {
        let address = ip.parse::<IpAddr>().ok();
        if address.is_some_and(|address| ranges.iter().any(|range| range.lends(address))) {
            return Ok(());
        }
        let of_family = ranges.iter().find(|range| address.is_none_or(|address| address.is_ipv4() == range.is_ipv4()));
        let valid = of_family.map(AddressRange::to_string).unwrap_or_default();
        let why =
            format!("failed to allocate IP {ip}: the provided IP ({ip}) is not in the valid range. The range of valid IPs is {valid}");
        let all: Vec<Value> = all.iter().map(|ip| Value::from(ip.as_str())).collect();
        Err(Status::invalid("", "Service", &place.name, vec![FieldError::invalid("spec.clusterIPs", Value::from(all), why)]))
    }

    /// A free address: a random one of the upper part of the first range of its family that has one, else any. See KEP-3070: the lower
    /// part is for addresses that users choose.
    fn free_ip(&self, registry: &Registry, snapshot: &Snapshot, ipv4: bool, ranges: &[AddressRange]) -> Result<String, Status> {
        let in_range = |range: &AddressRange| {
            let free = |offset: u64| {
                let ip = range.at(offset.into()).to_string();
                snapshot.get(self.ip_key(registry, &ip).as_str()).is_none().then_some(ip)
            };
            let size = 1u64 << range.host_bits().min(MOST_BITS);
            // The first address is nobody's.
            let (low, high) = ((size / 16).clamp(16, 256).min(size / 2).max(1), if range.is_ipv4() { size - 1 } else { size });
            if low >= high {
                return None;
            }
            let start = registry.environment.random.u64() % (high - low);
            let upper = (0..high - low).map(|i| low + (start + i) % (high - low));
            upper.chain(1..low).find_map(free)
        };
        let found = ranges.iter().filter(|range| range.is_ipv4() == ipv4).find_map(in_range);
        found.ok_or_else(|| Status::internal("failed to allocate a serviceIP: range is full"))
    }

    fn ip_record(&self, registry: &Registry, place: &Place, service: &Value, ip: &str) -> bytes::Bytes {
        let environment = &registry.environment;
        let address = ip.parse::<IpAddr>().unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        let object = object!({
            "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
            "metadata": {
                "name": (address.to_string()), "uid": (environment.uid()), "creationTimestamp": (environment.now_text()), "generation": 1,
                "labels": { "ipaddress.kubernetes.io/ip-family": family, "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io" }
            },
            "spec": { "parentRef": { "resource": "services", "namespace": (meta::namespace(service)), "name": (place.name.as_str()) } }
        });
        let api = registry.api();
        api.resource("networking.k8s.io", "v1", "ipaddresses").map(|k| Record::encode(k, object)).unwrap_or_default()
    }

    fn node_ports(
        &self,
        registry: &Registry,
        place: &Place,
        snapshot: &Snapshot,
        allocation: &mut Allocation,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        let held: Vec<i64> = old.map(ports_of).unwrap_or_default();
        let service = &allocation.object;
        let wants = match service.str_at(&["spec", "type"]) {
            "NodePort" => true,
            "LoadBalancer" => service.bool_at(&["spec", "allocateLoadBalancerNodePorts"]) != Some(false),
            _ => false,
        };
        let mut taken: Vec<i64> = ports_of(service);
        if wants {
            let ports = service.list_at(&["spec", "ports"]).to_vec();
            for (i, port) in ports.iter().enumerate().filter(|(_, p)| p.int_at(&["nodePort"]).unwrap_or(0) == 0) {
                // The same port over two protocols shares one node port.
                let twin = allocation.object.list_at(&["spec", "ports"]).iter().find(|p| {
                    p.int_at(&["port"]) == port.int_at(&["port"])
                        && p.str_at(&["protocol"]) != port.str_at(&["protocol"])
                        && p.int_at(&["nodePort"]).unwrap_or(0) != 0
                });
                let number = match twin.and_then(|p| p.int_at(&["nodePort"])) {
                    Some(number) => number,
                    None => self.free_port(registry, snapshot, &taken)?,
                };
                taken.push(number);
                allocation.object.place(&["spec", "ports"]).make_list().make_mut()[i].set(&["nodePort"], number);
            }
        }
        if needs_health_check(&allocation.object) && allocation.object.int_at(&HEALTH_CHECK).unwrap_or(0) == 0 {
            let number = self.free_port(registry, snapshot, &taken)?;
            allocation.object.set(&HEALTH_CHECK, number);
        }
        let mut now = ports_of(&allocation.object);
        now.sort_unstable();
        now.dedup();
        for number in now.iter().filter(|n| !held.contains(n)) {
            let range = i64::from(*self.node_ports.start())..=i64::from(*self.node_ports.end());
            if !range.contains(number) {
                let why = format!("provided port is not in the valid range. The range of valid ports is {}-{}", range.start(), range.end());
                return Err(Status::invalid("", "Service", &place.name, vec![FieldError::invalid("spec.ports[0].nodePort", *number, why)]));
            }
            let key = self.port_key(registry, *number);
            allocation.conditions.push(Condition::Absent(key.clone()));
            allocation.operations.push(Operation::put(key, format!("{}/{}", place.namespace, place.name)));
        }
        let mut gone: Vec<i64> = held.into_iter().filter(|n| !now.contains(n)).collect();
        gone.sort_unstable();
        gone.dedup();
        allocation.operations.extend(gone.into_iter().map(|n| Operation::delete(self.port_key(registry, n))));
        Ok(())
    }

    fn free_port(&self, registry: &Registry, snapshot: &Snapshot, taken: &[i64]) -> Result<i64, Status> {
        let (low, count) = (i64::from(*self.node_ports.start()), self.node_ports.len() as i64);
        let start = (registry.environment.random.u64() % count as u64) as i64;
        let candidates = (0..count).map(|i| low + (start + i) % count);
        let free = |n: &i64| !taken.contains(n) && snapshot.get(self.port_key(registry, *n).as_str()).is_none();
        candidates.into_iter().find(free).ok_or_else(|| Status::internal("failed to allocate a nodePort: range is full"))
    }

    /// Adds to the deletion of a Service what must be deleted with it.
    pub(crate) async fn release(
        &self,
        registry: &Registry,
        place: &Place,
        object: &Value,
        transaction: &mut Transaction,
    ) -> Result<(), Status> {
        if !place.served.stored.group.is_empty() || place.served.stored.kind != "Service" {
            return Ok(());
        }
        let snapshot = registry.snapshot().await?;
        let beside = (&mut transaction.conditions, &mut transaction.operations);
        self.free(registry, place, &snapshot, &addresses_of(object), beside)?;
        let mut ports = ports_of(object);
        ports.sort_unstable();
        ports.dedup();
        transaction.operations.extend(ports.into_iter().map(|n| Operation::delete(self.port_key(registry, n))));
        Ok(())
    }

    /// What to say when a number is taken that `asked`, the object as it came, asked for. None where the number was picked for
    /// it: then another is picked.
    pub(crate) fn taken(&self, place: &Place, asked: &Value, key: &Key) -> Option<Status> {
        let name = key.as_str().rsplit('/').next().unwrap_or_default();
        let error = if key.as_str().contains("/nodeports/") {
            FieldError::invalid("spec.ports[0].nodePort", name.parse::<i64>().unwrap_or(0), "provided port is already allocated")
        } else {
            let why = format!("failed to allocate IP {name}: provided IP is already allocated");
            FieldError::invalid("spec.clusterIPs", object!([name]), why)
        };
        let canonical = |ip: String| ip.parse::<IpAddr>().map_or(ip, |ip| ip.to_string());
        let ports = ports_of(asked).into_iter().map(|n| n.to_string());
        let wanted = addresses_of(asked).into_iter().map(canonical).chain(ports).any(|number| number == name);
        wanted.then(|| Status::invalid("", "Service", &place.name, vec![error]))
    }
}

/// Whether an IPAddress says that it is this Service's.
fn is_parent(address: &Value, service: &Place) -> bool {
    let parent = |field: &str| address.str_at(&["spec", "parentRef", field]);
    parent("group").is_empty()
        && parent("resource") == "services"
        && parent("namespace") == service.namespace
        && parent("name") == service.name
}

/// Whether addresses are given from a ServiceCIDR. One of which nobody has said anything yet is ready, or a cluster without controllers
/// had no Services.
pub(crate) fn is_given_from(range: &Value) -> bool {
    !meta::is_terminating(range) && meta::condition(range, "Ready").is_none_or(|ready| ready.str_at(&["status"]) == "True")
}

/// The addresses that a Service has or asks for.
fn addresses_of(service: &Value) -> Vec<String> {
    let all = service.list_at(&["spec", "clusterIPs"]).iter().filter_map(Value::as_str);
    let mut all: Vec<String> = all.map(String::from).collect();
    if all.is_empty() {
        all.push(service.str_at(&["spec", "clusterIP"]).into());
    }
    all.retain(|ip| !ip.is_empty() && ip != "None");
    all
}

/// The ports of nodes that a Service has, that of its health check among them.
fn ports_of(service: &Value) -> Vec<i64> {
    let check = service.int_at(&HEALTH_CHECK).filter(|_| needs_health_check(service));
    let ports = service.list_at(&["spec", "ports"]).iter().filter_map(|p| p.int_at(&["nodePort"]));
    ports.chain(check).filter(|n| *n != 0).collect()
}
