//! Numbers that must be unique in the cluster: cluster IPs and node ports of Services. Each is a key of its own that is
//! written in the same transaction as the Service, so that no number is given twice and none is lost.

use std::net::Ipv4Addr;

use fram_api::strategy::needs_health_check;
use fram_machinery::status::FieldError;
use fram_machinery::{Status, Value, meta, object};
use fram_store::{Condition, Key, Operation, Snapshot};

use crate::registry::{Place, Record, Registry};

const HEALTH_CHECK: [&str; 2] = ["spec", "healthCheckNodePort"];

/// The ranges that numbers are taken from.
#[derive(Debug, Clone)]
pub struct Allocators {
    /// The first address of the service range, and how many bits name the network.
    pub service_network: Ipv4Addr,
    pub service_prefix: u8,
    pub node_ports: std::ops::RangeInclusive<u16>,
}

impl Default for Allocators {
    fn default() -> Self {
        Self { service_network: Ipv4Addr::new(10, 96, 0, 0), service_prefix: 16, node_ports: 30000..=32767 }
    }
}

/// An object with its numbers, and what must be written beside it.
pub(crate) struct Allocation {
    pub object: Value,
    pub conditions: Vec<Condition>,
    pub operations: Vec<Operation>,
}

impl Allocators {
    /// The service range in CIDR notation.
    pub fn service_cidr(&self) -> String {
        format!("{}/{}", self.service_network, self.service_prefix)
    }

    /// The address at this place in the range; the first one is the API server's own.
    pub fn service_ip(&self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.service_network) + offset)
    }

    fn size(&self) -> u32 {
        1u32 << (32 - u32::from(self.service_prefix))
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
            self.cluster_ip(registry, place, &snapshot, &mut allocation, old)?;
            self.node_ports(registry, place, &snapshot, &mut allocation, old)?;
        }
        Ok(allocation)
    }

    fn ip_key(&self, registry: &Registry, ip: &str) -> Key {
        Key::from(format!("{}networking.k8s.io/ipaddresses/{ip}", registry.prefix))
    }

    fn port_key(&self, registry: &Registry, port: i64) -> Key {
        Key::from(format!("{}allocations/nodeports/{port}", registry.prefix))
    }

    fn cluster_ip(
        &self,
        registry: &Registry,
        place: &Place,
        snapshot: &Snapshot,
        allocation: &mut Allocation,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        let real = |s: &Value| Some(s.str_at(&["spec", "clusterIP"]).to_string()).filter(|ip| !ip.is_empty() && ip != "None");
        let held = old.and_then(real);
        if allocation.object.str_at(&["spec", "type"]) == "ExternalName" {
            if let Some(ip) = held {
                allocation.operations.push(Operation::delete(self.ip_key(registry, &ip)));
            }
            return Ok(());
        }
        if allocation.object.str_at(&["spec", "clusterIP"]) == "None" {
            allocation.object.set(&["spec", "clusterIPs"], object!(["None"]));
            return Ok(());
        }
        let asked = real(&allocation.object)
            .or_else(|| allocation.object.list_at(&["spec", "clusterIPs"]).first().and_then(Value::as_str).map(String::from));
        if held.is_some() && asked == held {
            return Ok(());
        }
        let ip = match asked {
            Some(ip) => {
                self.check_ip(place, &ip)?;
                ip
            }
            None => self.free_ip(registry, snapshot)?,
        };
        allocation.object.set(&["spec", "clusterIP"], ip.as_str());
        allocation.object.set(&["spec", "clusterIPs"], object!([(ip.as_str())]));
        let key = self.ip_key(registry, &ip);
        allocation.conditions.push(Condition::Absent(key.clone()));
        allocation.operations.push(Operation::put(key, self.ip_record(registry, place, &allocation.object, &ip)));
        Ok(())
    }

    fn check_ip(&self, place: &Place, ip: &str) -> Result<(), Status> {
        let within = ip.parse::<Ipv4Addr>().is_ok_and(|ip| {
            let offset = u32::from(ip).wrapping_sub(u32::from(self.service_network));
            offset > 0 && offset < self.size() - 1
        });
        if within {
            return Ok(());
        }
        let why = format!(
            "failed to allocate IP {ip}: the provided IP ({ip}) is not in the valid range. The range of valid IPs is {}",
            self.service_cidr()
        );
        let error = FieldError::invalid("spec.clusterIPs", object!([ip]), why);
        Err(Status::invalid("", "Service", &place.name, vec![error]))
    }

    /// A free address: a random one of the upper part of the range, else any. See KEP-3070: the lower part is for
    /// addresses that users choose.
    fn free_ip(&self, registry: &Registry, snapshot: &Snapshot) -> Result<String, Status> {
        let reserved = (self.size() / 16).clamp(16, 256).min(self.size() / 2);
        let free = |offset: u32| {
            let ip = self.service_ip(offset).to_string();
            snapshot.get(self.ip_key(registry, &ip).as_str()).is_none().then_some(ip)
        };
        let (low, high) = (reserved, self.size() - 1);
        let start = (registry.environment.random.u64() % u64::from(high - low)) as u32;
        let upper = (0..high - low).map(|i| low + (start + i) % (high - low));
        upper.chain(1..low).find_map(free).ok_or_else(|| Status::internal("failed to allocate a serviceIP: range is full"))
    }

    fn ip_record(&self, registry: &Registry, place: &Place, service: &Value, ip: &str) -> bytes::Bytes {
        let environment = &registry.environment;
        let object = object!({
            "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
            "metadata": {
                "name": ip, "uid": (environment.uid()), "creationTimestamp": (environment.now_text()), "generation": 1,
                "labels": { "ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io" }
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
                allocation.object.place(&["spec", "ports"]).make_list()[i].set(&["nodePort"], number);
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

    /// What must be deleted with a Service.
    pub(crate) fn release(&self, registry: &Registry, place: &Place, object: &Value) -> Vec<Operation> {
        if !place.served.stored.group.is_empty() || place.served.stored.kind != "Service" {
            return Vec::new();
        }
        let ip = object.str_at(&["spec", "clusterIP"]);
        let mut operations = Vec::new();
        if !ip.is_empty() && ip != "None" {
            operations.push(Operation::delete(self.ip_key(registry, ip)));
        }
        let mut ports = ports_of(object);
        ports.sort_unstable();
        ports.dedup();
        operations.extend(ports.into_iter().map(|n| Operation::delete(self.port_key(registry, n))));
        operations
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
        let ips = asked.list_at(&["spec", "clusterIPs"]).iter().filter_map(Value::as_str).chain([asked.str_at(&["spec", "clusterIP"])]);
        let ports = ports_of(asked).into_iter().map(|n| n.to_string());
        let wanted = ips.map(String::from).chain(ports).any(|number| number == name);
        wanted.then(|| Status::invalid("", "Service", &place.name, vec![error]))
    }
}

/// The ports of nodes that a Service has, that of its health check among them.
fn ports_of(service: &Value) -> Vec<i64> {
    let check = service.int_at(&HEALTH_CHECK).filter(|_| needs_health_check(service));
    let ports = service.list_at(&["spec", "ports"]).iter().filter_map(|p| p.int_at(&["nodePort"]));
    ports.chain(check).filter(|n| *n != 0).collect()
}
