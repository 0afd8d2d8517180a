//! Follows Services, EndpointSlices and nodes, and tells the proxy, the DNS server and the pod network what they mean.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fram_client::load_balancer::HOLDER;
use fram_client::resources::{ENDPOINT_SLICES, NODES, SERVICES};
use fram_client::{Informer, Observation, SharedInformers};
use fram_datapath::address::Cidr;
use fram_dns::{Zone, ZoneConfig};
use fram_machinery::{Value, meta};
use fram_network::{Peer, PodNetwork};
use fram_proxy::{Checks, HealthServer, Proxy};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What is kept true on a node.
pub(super) struct Followers {
    pub(super) informers: SharedInformers,
    pub(super) proxy: Proxy,
    pub(super) zone: watch::Sender<Arc<Zone>>,
    pub(super) zone_config: ZoneConfig,
    pub(super) network: PodNetwork,
    pub(super) node_name: String,
}

/// How long to wait before the kernel is asked again after it refused.
const AGAIN: Duration = Duration::from_secs(1);
/// The longest that waits what fails again and again.
const LONGEST: Duration = Duration::from_secs(60);

impl Followers {
    /// Applies Services and their endpoints as they change.
    pub(super) async fn follow_services(self: Arc<Self>, stop: CancellationToken) {
        let (services, slices) = (self.informers.get(&SERVICES), self.informers.get(&ENDPOINT_SLICES));
        if !(services.synced().await && slices.synced().await) {
            return;
        }
        let mut health = HealthServer::new(self.proxy.clone());
        let (mut in_zone, _observation) = self.follow_own_zone();
        let (mut told, mut pause, mut holding) = (Vec::new(), AGAIN, None);
        let (mut changed_services, mut changed_slices) = (services.subscribe(), slices.subscribe());
        loop {
            let (all, endpoints) = (services.list(), slices.list());
            self.zone.send_replace(Arc::new(zone(&self.zone_config, &all, &endpoints)));
            let (served, slices_of): (Vec<_>, Vec<_>) = (proxied(&all), {
                let zone = in_zone.borrow_and_update();
                let here = Here { node: &self.node_name, zone: &zone };
                endpoints.iter().filter_map(|s| proxied_slice(s, &here)).collect()
            });
            let applied = self.proxy.apply(served.clone(), slices_of.clone()).await;
            let healthy = applied.is_ok();
            let mut failures: Vec<String> =
                applied.err().map(|error| format!("Services could not be applied: {error}")).into_iter().collect();
            // After the rules, so that nothing that arrives meets the machine instead of the Service.
            let here = held(&all, &self.node_name);
            if holding.as_ref() != Some(&here) {
                match self.network.hold_addresses(here.clone()).await {
                    Ok(()) => holding = Some(here),
                    Err(error) => failures.push(format!("addresses of load balancers could not be taken: {error}")),
                }
            }
            let checks = health.apply(Checks::new(&served, &slices_of, &self.node_name, healthy)).into_iter();
            failures.extend(checks.map(|(port, error)| format!("the health check on port {port} cannot be answered: {error}")));
            // What stays as it is, such as a port that somebody else has, is said once and tried ever later.
            if failures.is_empty() || failures != told {
                pause = AGAIN;
                failures.iter().for_each(|reason| tracing::error!("{reason}; will be tried again"));
            }
            told = failures;
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                changed = changed_services.changed() => if changed.is_none() { return },
                changed = changed_slices.changed() => if changed.is_none() { return },
                changed = in_zone.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(pause), if !told.is_empty() => pause = (pause * 2).min(LONGEST),
            }
        }
    }

    /// The zone of this node as it changes; empty where it has none. As long as the observation is kept.
    fn follow_own_zone(&self) -> (watch::Receiver<String>, Observation) {
        let (told, zone) = watch::channel(String::new());
        let own = self.node_name.clone();
        let observation = self.informers.get(&NODES).observe(move |delta| {
            if meta::name(delta.object()) != own {
                return;
            }
            let now = delta.new.as_deref().and_then(|node| meta::label(node, ZONE)).unwrap_or_default();
            told.send_if_modified(|zone| {
                let changed = zone != now;
                if changed {
                    *zone = now.to_string();
                }
                changed
            });
        });
        (zone, observation)
    }

    /// Keeps the routes to other nodes' pods.
    pub(super) async fn follow_nodes(self: Arc<Self>, stop: CancellationToken) {
        let nodes = self.informers.get(&NODES);
        if !nodes.synced().await {
            return;
        }
        let mut changes = nodes.subscribe();
        let (mut known, mut told, mut pause) = (None, Vec::new(), AGAIN);
        loop {
            let peers = peers(&nodes, &self.node_name);
            if known.as_ref() != Some(&peers) {
                let unset = match self.network.set_peers(peers.clone()).await {
                    Ok(unset) => unset.into_iter().map(|(cidr, reason)| format!("{cidr}: {reason}")).collect(),
                    Err(error) => vec![error.to_string()],
                };
                known = unset.is_empty().then_some(peers);
                if unset.is_empty() || unset != told {
                    pause = AGAIN;
                    unset
                        .iter()
                        .for_each(|reason| tracing::warn!(reason, "a route to other nodes' pods could not be set, will be tried again"));
                }
                told = unset;
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                changed = changes.changed() => if changed.is_none() { return },
                // What a route leads through may come: a link that is not up yet.
                () = tokio::time::sleep(pause), if known.is_none() => pause = (pause * 2).min(LONGEST),
            }
        }
    }
}

fn addresses<'a>(items: impl Iterator<Item = &'a Value>) -> Vec<IpAddr> {
    items.filter_map(Value::as_str).filter_map(|t| t.parse().ok()).collect()
}

fn peers(nodes: &Informer, own: &str) -> Vec<Peer> {
    let peer = |node: &Arc<Value>| {
        let internal = node.list_at(&["status", "addresses"]).iter().find(|a| a.str_at(&["type"]) == "InternalIP")?;
        let pod_cidrs = node.list_at(&["spec", "podCIDRs"]).iter().filter_map(Value::as_str).filter_map(|t| t.parse().ok());
        // Nodes reach each other by IPv4.
        let pod_cidrs: Vec<Cidr> = pod_cidrs.filter(|cidr: &Cidr| cidr.address().is_ipv4()).collect();
        Some(Peer { node_ip: internal.str_at(&["address"]).parse().ok()?, pod_cidrs })
    };
    let mut all: Vec<Peer> =
        nodes.list().iter().filter(|n| meta::name(n) != own).filter_map(peer).filter(|p| !p.pod_cidrs.is_empty()).collect();
    all.sort();
    all
}

fn port(value: &Value, field: &str) -> Option<u16> {
    value.int_at(&[field]).and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0)
}

fn protocol(text: &str) -> fram_proxy::Protocol {
    match text {
        "UDP" => fram_proxy::Protocol::Udp,
        "SCTP" => fram_proxy::Protocol::Sctp,
        _ => fram_proxy::Protocol::Tcp,
    }
}

fn dns_protocol(text: &str) -> fram_dns::Protocol {
    match text {
        "UDP" => fram_dns::Protocol::Udp,
        "SCTP" => fram_dns::Protocol::Sctp,
        _ => fram_dns::Protocol::Tcp,
    }
}

fn policy(text: &str) -> fram_proxy::TrafficPolicy {
    if text == "Local" { fram_proxy::TrafficPolicy::Local } else { fram_proxy::TrafficPolicy::Cluster }
}

/// What says that a proxy leaves an object alone: it is another proxy's, or headless; see kube-proxy's informers.
fn is_left_alone(object: &Value) -> bool {
    ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"].iter().any(|l| meta::label(object, l).is_some())
}

/// Services that a proxy serves: not headless, not ExternalName, not another proxy's.
fn proxied(services: &[Arc<Value>]) -> Vec<fram_proxy::Service> {
    let served =
        |s: &&Arc<Value>| s.str_at(&["spec", "type"]) != "ExternalName" && s.str_at(&["spec", "clusterIP"]) != "None" && !is_left_alone(s);
    services.iter().filter(served).map(|s| proxied_service(s)).collect()
}

fn proxied_service(service: &Value) -> fram_proxy::Service {
    let ports = service.list_at(&["spec", "ports"]).iter().filter_map(|p| {
        Some(fram_proxy::ServicePort {
            name: p.str_at(&["name"]).into(),
            protocol: protocol(p.str_at(&["protocol"])),
            port: port(p, "port")?,
            node_port: port(p, "nodePort"),
        })
    });
    let ingress = service.list_at(&["status", "loadBalancer", "ingress"]).iter();
    let vips = ingress.filter(|i| i.str_at(&["ipMode"]) != "Proxy").filter_map(|i| i.get("ip"));
    let affinity = service.int_at(&["spec", "sessionAffinityConfig", "clientIP", "timeoutSeconds"]).and_then(|s| u64::try_from(s).ok());
    fram_proxy::Service {
        namespace: meta::namespace(service).into(),
        name: meta::name(service).into(),
        cluster_ips: addresses(service.list_at(&["spec", "clusterIPs"]).iter()),
        external_ips: addresses(service.list_at(&["spec", "externalIPs"]).iter()),
        load_balancer_ips: addresses(vips),
        source_ranges: source_ranges(service),
        own_ips: own_addresses(service),
        ports: ports.collect(),
        session_affinity: affinity.map(Duration::from_secs),
        external_traffic_policy: policy(service.str_at(&["spec", "externalTrafficPolicy"])),
        internal_traffic_policy: policy(service.str_at(&["spec", "internalTrafficPolicy"])),
        health_check_port: port(service.get("spec").unwrap_or(&Value::Null), "healthCheckNodePort"),
    }
}

/// Who may use a Service's load balancer, where not everyone may. What cannot be read lets nobody in.
fn source_ranges(service: &Value) -> Option<Vec<Cidr>> {
    let ranges = service.list_at(&["spec", "loadBalancerSourceRanges"]);
    let read = || ranges.iter().filter_map(Value::as_str).filter_map(|text| text.trim().parse().ok()).collect();
    (!ranges.is_empty()).then(read)
}

/// The addresses of a Service that Fram's own load balancer gave it.
fn own_addresses(service: &Value) -> Vec<IpAddr> {
    if meta::annotation(service, HOLDER).is_none() {
        return Vec::new();
    }
    addresses(service.list_at(&["status", "loadBalancer", "ingress"]).iter().filter_map(|i| i.get("ip")))
}

/// The addresses of load balancers that a node answers for.
fn held(services: &[Arc<Value>], node: &str) -> BTreeSet<IpAddr> {
    let here = services.iter().filter(|s| meta::annotation(s, HOLDER) == Some(node));
    here.flat_map(|s| own_addresses(s)).collect()
}

/// Where this is, for endpoints that say whom they are meant for.
struct Here<'a> {
    node: &'a str,
    /// Empty where it is not known.
    zone: &'a str,
}

const ZONE: &str = "topology.kubernetes.io/zone";
const SERVICE_NAME: &str = "kubernetes.io/service-name";

fn condition(endpoint: &Value, name: &str, unset: bool) -> bool {
    endpoint.bool_at(&["conditions", name]).unwrap_or(unset)
}

fn proxied_slice(slice: &Value, here: &Here<'_>) -> Option<fram_proxy::EndpointSlice> {
    if is_left_alone(slice) {
        return None;
    }
    let meant_for = |e: &Value, list: &str, own: &str| {
        let hints = e.list_at(&["hints", list]);
        (!hints.is_empty()).then(|| hints.iter().any(|hint| hint.str_at(&["name"]) == own))
    };
    let endpoint = |e: &Value| {
        let ready = condition(e, "ready", true);
        fram_proxy::Endpoint {
            addresses: addresses(e.list_at(&["addresses"]).iter()),
            ready,
            serving: condition(e, "serving", ready),
            terminating: condition(e, "terminating", false),
            node_name: Some(e.str_at(&["nodeName"])).filter(|n| !n.is_empty()).map(String::from),
            for_node: meant_for(e, "forNodes", here.node),
            for_zone: meant_for(e, "forZones", here.zone),
        }
    };
    let ports = slice.list_at(&["ports"]).iter().map(|p| fram_proxy::EndpointPort {
        name: p.str_at(&["name"]).into(),
        protocol: protocol(p.str_at(&["protocol"])),
        port: port(p, "port"),
    });
    Some(fram_proxy::EndpointSlice {
        namespace: meta::namespace(slice).into(),
        service: meta::label(slice, SERVICE_NAME)?.into(),
        ports: ports.collect(),
        endpoints: slice.list_at(&["endpoints"]).iter().map(endpoint).collect(),
    })
}

/// The cluster's zone as it stands.
fn zone(config: &ZoneConfig, services: &[Arc<Value>], slices: &[Arc<Value>]) -> Zone {
    let services: Vec<fram_dns::Service> = services.iter().map(|s| named_service(s)).collect();
    let slices: Vec<fram_dns::EndpointSlice> = slices.iter().filter_map(|s| named_slice(s)).collect();
    Zone::new(config.clone(), &services, &slices)
}

fn named_ports(list: &[Value]) -> Vec<fram_dns::Port> {
    let one = |p: &Value| {
        Some(fram_dns::Port { name: p.str_at(&["name"]).into(), protocol: dns_protocol(p.str_at(&["protocol"])), port: port(p, "port")? })
    };
    list.iter().filter_map(one).collect()
}

fn named_service(service: &Value) -> fram_dns::Service {
    let kind = match (service.str_at(&["spec", "type"]), service.str_at(&["spec", "clusterIP"])) {
        ("ExternalName", _) => fram_dns::ServiceKind::ExternalName(service.str_at(&["spec", "externalName"]).into()),
        (_, "None") => fram_dns::ServiceKind::Headless,
        _ => fram_dns::ServiceKind::ClusterIp(addresses(service.list_at(&["spec", "clusterIPs"]).iter())),
    };
    fram_dns::Service {
        namespace: meta::namespace(service).into(),
        name: meta::name(service).into(),
        kind,
        ports: named_ports(service.list_at(&["spec", "ports"])),
    }
}

fn named_slice(slice: &Value) -> Option<fram_dns::EndpointSlice> {
    let endpoint = |e: &Value| fram_dns::Endpoint {
        addresses: addresses(e.list_at(&["addresses"]).iter()),
        hostname: Some(e.str_at(&["hostname"])).filter(|h| !h.is_empty()).map(String::from),
        ready: condition(e, "ready", true),
    };
    Some(fram_dns::EndpointSlice {
        namespace: meta::namespace(slice).into(),
        service: meta::label(slice, SERVICE_NAME)?.into(),
        ports: named_ports(slice.list_at(&["ports"])),
        endpoints: slice.list_at(&["endpoints"]).iter().map(endpoint).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    const HERE: Here<'_> = Here { node: "n", zone: "z" };

    #[test]
    fn an_endpoint_is_meant_for_those_whom_its_hints_name() {
        let read = |hints: Value| {
            let slice = object!({ "metadata": { "name": "x", "namespace": "ns", "labels": { "kubernetes.io/service-name": "s" } },
                "endpoints": [{ "addresses": ["10.1.0.1"], "hints": hints }] });
            let endpoint = proxied_slice(&slice, &HERE).unwrap().endpoints[0].clone();
            (endpoint.for_node, endpoint.for_zone)
        };
        assert_eq!(read(Value::Null), (None, None));
        assert_eq!(read(object!({ "forZones": [{ "name": "y" }, { "name": "z" }] })), (None, Some(true)));
        assert_eq!(read(object!({ "forZones": [{ "name": "y" }], "forNodes": [{ "name": "n" }] })), (Some(true), Some(false)));
    }

    #[test]
    fn slices_that_say_that_they_are_headless_are_not_proxied() {
        let mut slice = object!({ "metadata": { "namespace": "ns", "name": "s-1", "labels": { "kubernetes.io/service-name": "s" } } });
        assert!(proxied_slice(&slice, &HERE).is_some());
        meta::set_label(&mut slice, "service.kubernetes.io/headless", "");
        assert!(proxied_slice(&slice, &HERE).is_none());
    }

    #[test]
    fn a_service_without_source_ranges_is_open_and_one_with_ranges_is_not() {
        let with = |ranges: Value| source_ranges(&object!({ "spec": { "loadBalancerSourceRanges": ranges } }));
        assert_eq!(with(Value::Null), None);
        assert_eq!(with(object!([" 10.0.0.0/8 "])), Some(vec!["10.0.0.0/8".parse().unwrap()]));
        assert_eq!(with(object!(["what"])), Some(vec![]));
    }

    #[test]
    fn a_node_holds_the_addresses_that_are_its_and_no_others() {
        let service = |node: Option<&str>, ip: &str| {
            let mut service =
                object!({ "metadata": { "name": "s", "namespace": "ns" }, "status": { "loadBalancer": { "ingress": [{ "ip": ip }] } } });
            if let Some(node) = node {
                meta::set_annotation(&mut service, HOLDER, node);
            }
            Arc::new(service)
        };
        let services = [service(Some("a"), "192.0.2.1"), service(Some("b"), "192.0.2.2"), service(None, "192.0.2.3")];
        assert_eq!(held(&services, "a"), BTreeSet::from(["192.0.2.1".parse::<IpAddr>().unwrap()]));
    }

    #[test]
    fn headless_services_are_named_and_not_proxied() {
        let headless = Arc::new(
            object!({ "metadata": { "name": "s", "namespace": "ns" }, "spec": { "clusterIP": "None", "ports": [{ "port": 80 }] } }),
        );
        assert!(proxied(std::slice::from_ref(&headless)).is_empty());
        assert_eq!(named_service(&headless).kind, fram_dns::ServiceKind::Headless);
    }

    #[test]
    fn an_endpoint_without_conditions_is_ready() {
        let slice = object!({ "metadata": { "name": "x", "namespace": "ns", "labels": { "kubernetes.io/service-name": "s" } },
            "ports": [{ "name": "http", "port": 80, "protocol": "TCP" }], "endpoints": [{ "addresses": ["10.1.0.1"], "nodeName": "n" }] });
        let read = proxied_slice(&slice, &HERE).unwrap();
        assert_eq!(
            read.endpoints[0],
            fram_proxy::Endpoint { addresses: vec!["10.1.0.1".parse().unwrap()], node_name: Some("n".into()), ..Default::default() }
        );
        assert_eq!(read.ports[0].port, Some(80));
    }
}
