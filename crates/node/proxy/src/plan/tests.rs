//! Table tests of the plan: what each kind of Service means for the maps.

use super::*;
use crate::service::{Endpoint, EndpointPort};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn frontend(address: &str, port: u16) -> Frontend {
    Frontend { ip: ip(address), protocol: Protocol::Tcp, port }
}

fn target(last: u8) -> Target {
    Target { ip: ip(&format!("10.244.0.{last}")), port: 8080 }
}

fn service() -> Service {
    Service {
        namespace: "ns".into(),
        name: "web".into(),
        cluster_ips: vec![ip("10.96.0.10")],
        ports: vec![ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: None }],
        ..Default::default()
    }
}

/// Endpoints by the last octet; odd ones are on this node.
fn slice(endpoints: &[u8]) -> EndpointSlice {
    let endpoint = |n: &u8| Endpoint {
        addresses: vec![target(*n).ip],
        node_name: Some(if n % 2 == 1 { "here" } else { "there" }.into()),
        ..Default::default()
    };
    EndpointSlice {
        namespace: "ns".into(),
        service: "web".into(),
        ports: vec![EndpointPort { name: "http".into(), protocol: Protocol::Tcp, port: Some(8080) }],
        endpoints: endpoints.iter().map(endpoint).collect(),
    }
}

fn planner() -> Planner {
    Planner::new("here", vec![ip("192.168.0.1")], vec![ip("10.96.0.2")])
}

fn plan(service: Service, endpoints: &[u8]) -> Arc<Desired> {
    planner().plan(&[service], &[slice(endpoints)]).0
}

fn slots(balance: &Balance, frontend: &Frontend) -> Vec<Target> {
    balance.targets(frontend).copied().collect()
}

fn balance(endpoints: u32) -> Action {
    Action::Balance { endpoints, affinity: None }
}

#[test]
fn a_cluster_ip_balances_over_all_endpoints_and_masquerades_outsiders() {
    let desired = plan(service(), &[1, 2]);
    let front = frontend("10.96.0.10", 80);
    assert_eq!(desired.frontends.actions, BTreeMap::from([(front, balance(2))]));
    assert_eq!(slots(&desired.frontends, &front), [target(1), target(2)]);
    assert_eq!(desired.masquerade[&front], Masquerade::OffCluster);
    assert_eq!(desired.cluster_ips, BTreeSet::from([ip("10.96.0.10")]));
    assert_eq!(desired.hairpin, BTreeSet::from([target(1).ip]), "only this node's endpoints can reach themselves");
    assert!(desired.no_endpoints.is_empty() && desired.external == Balance::default());
}

#[test]
fn a_service_without_endpoints_is_refused_and_one_of_another_family_too() {
    assert_eq!(plan(service(), &[]).no_endpoints, BTreeSet::from([frontend("10.96.0.10", 80)]));
    let v6 = Service { cluster_ips: vec![ip("fd00::10")], ..service() };
    assert_eq!(plan(v6, &[1]).no_endpoints.len(), 1);
}

#[test]
fn node_ports_and_external_addresses_are_frontends_that_masquerade_always() {
    let mut service = Service { external_ips: vec![ip("1.2.3.4")], load_balancer_ips: vec![ip("5.6.7.8")], ..service() };
    service.ports[0].node_port = Some(30080);
    let desired = plan(service, &[1, 2]);
    for front in [frontend("192.168.0.1", 30080), frontend("1.2.3.4", 80), frontend("5.6.7.8", 80)] {
        assert_eq!(desired.frontends.actions[&front], balance(2));
        assert_eq!(desired.masquerade[&front], Masquerade::Always);
    }
}

#[test]
fn external_policy_local_holds_outsiders_to_this_nodes_endpoints() {
    let mut service = Service { external_traffic_policy: TrafficPolicy::Local, ..service() };
    service.ports[0].node_port = Some(30080);
    let front = frontend("192.168.0.1", 30080);
    for (endpoints, external) in [(&[1, 2, 3][..], balance(2)), (&[2, 4], Action::Drop)] {
        let desired = plan(service.clone(), endpoints);
        assert_eq!(desired.external.actions, BTreeMap::from([(front, external)]));
        assert_eq!(desired.frontends.actions[&front], balance(endpoints.len() as u32), "pods may use all");
        assert!(!desired.masquerade.contains_key(&front), "the client's address is kept");
    }
    assert!(plan(service, &[]).external.actions.is_empty(), "refused for everyone instead");
}

#[test]
fn internal_policy_local_uses_this_nodes_endpoints_or_drops() {
    let service = Service { internal_traffic_policy: TrafficPolicy::Local, ..service() };
    let front = frontend("10.96.0.10", 80);
    for (endpoints, action) in [(&[1, 2][..], balance(1)), (&[2], Action::Drop)] {
        assert_eq!(plan(service.clone(), endpoints).frontends.actions[&front], action);
    }
    assert!(plan(service, &[]).no_endpoints.contains(&front));
}

#[test]
fn addresses_that_the_node_serves_itself_are_no_frontends() {
    let desired = plan(Service { cluster_ips: vec![ip("10.96.0.2")], ..service() }, &[1]);
    assert!(desired.frontends.actions.is_empty() && desired.cluster_ips.is_empty());
}

#[test]
fn session_affinity_shows_in_the_action() {
    let service = Service { session_affinity: Some(std::time::Duration::from_secs(10_800)), ..service() };
    let action = plan(service, &[1]).frontends.actions[&frontend("10.96.0.10", 80)];
    assert_eq!(action, Action::Balance { endpoints: 1, affinity: Some(10_800) });
}

#[test]
fn endpoints_keep_their_slots_when_others_come_and_go() {
    let mut planner = planner();
    let front = frontend("10.96.0.10", 80);
    for (endpoints, expect) in [
        (&[1, 2, 3, 4][..], vec![1, 2, 3, 4]),
        (&[1, 3, 4], vec![1, 4, 3]),
        (&[1, 3, 4, 9], vec![1, 4, 3, 9]),
        (&[4, 9, 2], vec![2, 4, 9]),
        (&[7], vec![7]),
    ] {
        let (desired, _) = planner.plan(&[service()], &[slice(endpoints)]);
        assert_eq!(slots(&desired.frontends, &front), expect.into_iter().map(target).collect::<Vec<_>>());
    }
}

#[test]
fn only_addresses_of_load_balancers_are_kept_to_the_source_ranges() {
    let range = |text: &str| text.parse::<Cidr>().unwrap();
    let front = frontend("5.6.7.8", 80);
    let balanced = |ranges: &[&str]| {
        let source_ranges = Some(ranges.iter().map(|r| range(r)).collect());
        let mut service = Service { external_ips: vec![ip("1.2.3.4")], load_balancer_ips: vec![front.ip], source_ranges, ..service() };
        service.ports[0].node_port = Some(30080);
        plan(service, &[1])
    };
    let sources = |ranges: &[&str]| ranges.iter().map(|r| (front, range(r))).collect::<BTreeSet<_>>();
    let desired = balanced(&["10.0.0.0/8", "fd00::/8"]);
    assert_eq!((&desired.restricted, &desired.sources), (&BTreeSet::from([front]), &sources(&["10.0.0.0/8"])));
    let desired = balanced(&["192.168.0.0/24"]);
    assert_eq!(desired.sources, sources(&["192.168.0.0/24", "5.6.7.8/32"]), "the node may, so it may by the address itself");
    assert!(plan(Service { load_balancer_ips: vec![front.ip], ..service() }, &[1]).restricted.is_empty());
}

#[test]
fn of_two_services_that_claim_one_address_the_first_by_name_has_it() {
    let (mut a, mut b) = (service(), service());
    a.external_ips = vec![ip("1.2.3.4")];
    b.name = "zzz".into();
    b.external_ips = vec![ip("1.2.3.4")];
    let desired = planner().plan(&[b, a], &[slice(&[1])]).0;
    assert_eq!(desired.frontends.actions[&frontend("1.2.3.4", 80)], balance(1));
    assert!(desired.no_endpoints.is_empty());
}
