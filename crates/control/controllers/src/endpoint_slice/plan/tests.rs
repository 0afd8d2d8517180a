//! Endpoints and slices of small Services.

use super::*;

static NO_RATIOS: Ratios = Ratios::new();
const NOWHERE: Around = Around { zone_of: &|_| None, ratios: &NO_RATIOS, changed_at: None };

fn service() -> Value {
    object!({ "metadata": { "name": "s", "namespace": "ns", "uid": "u", "labels": { "x": "y" } },
        "spec": { "clusterIP": "10.0.0.1", "ports": [{ "name": "http", "protocol": "TCP", "port": 80, "targetPort": "web" }] } })
}

fn pod(name: &str, port: i64, ready: bool) -> Arc<Value> {
    let status = if ready { "True" } else { "False" };
    Arc::new(object!({ "metadata": { "name": name, "namespace": "ns", "uid": name },
        "spec": { "nodeName": "n", "containers": [{ "ports": [{ "name": "web", "protocol": "TCP", "containerPort": port }] }] },
        "status": { "phase": "Running", "podIP": (format!("10.1.0.{}", name.len())), "conditions": [{ "type": "Ready", "status": status }] } }))
}

#[test]
fn a_slice_that_goes_moves_no_endpoint_of_another() {
    let pods = [pod("a", 8080, true), pod("bb", 9090, true)];
    let mut made = slices(&service(), &pods, &[], NOWHERE).create;
    let second = Arc::new(made.remove(1));
    let plan = slices(&service(), &pods, &[second], NOWHERE);
    assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (1, 0, 0));
    assert_eq!(plan.create[0].list_at(&["ports"])[0].int_at(&["port"]), Some(8080));
}

#[test]
fn pods_with_the_same_ports_share_a_slice() {
    let plan = slices(&service(), &[pod("a", 8080, true), pod("bb", 8080, false), pod("ccc", 9090, true)], &[], NOWHERE);
    assert_eq!(plan.create.len(), 2);
    let first = &plan.create[0];
    assert_eq!(first.list_at(&["endpoints"]).len(), 2);
    assert_eq!(first.list_at(&["endpoints"])[1].bool_at(&["conditions", "ready"]), Some(false));
    assert_eq!(first.list_at(&["ports"])[0].int_at(&["port"]), Some(8080));
}

#[test]
fn a_slice_that_is_right_is_left_alone() {
    let pods = [pod("a", 8080, true)];
    let mut current = slices(&service(), &pods, &[], NOWHERE).create.remove(0);
    current.set(&["metadata", "name"], "s-1");
    let current = Arc::new(current);
    let plan = slices(&service(), &pods, std::slice::from_ref(&current), NOWHERE);
    assert!(plan.create.is_empty() && plan.update.is_empty() && plan.delete.is_empty());
    let plan = slices(&service(), &[], &[current], NOWHERE);
    assert_eq!((plan.update.len(), plan.delete.len()), (1, 0));
}

#[test]
fn more_than_a_hundred_endpoints_take_several_slices() {
    let pods: Vec<Arc<Value>> = (1..=101).map(|i| pod(&"x".repeat(i), 80, true)).collect();
    let plan = slices(&service(), &pods, &[], NOWHERE);
    let sizes: Vec<usize> = plan.create.iter().map(|s| s.list_at(&["endpoints"]).len()).collect();
    assert_eq!(sizes, [100, 1]);
}

#[test]
fn an_endpoint_serves_where_its_pod_is_ready_and_is_ready_beside_that_where_the_service_publishes_all() {
    // Whether the pod is ready, whether it goes, whether all are published: ready, serving, terminating.
    let table = [
        ((true, false, false), [true, true, false]),
        ((false, false, false), [false, false, false]),
        ((true, true, false), [false, true, true]),
        ((false, true, false), [false, false, true]),
        ((false, false, true), [true, false, false]),
        ((true, true, true), [true, true, true]),
        ((false, true, true), [true, false, true]),
    ];
    for ((ready, going, publish), expect) in table {
        let (mut service, mut pod) = (service(), (*pod("a", 8080, ready)).clone());
        service.set(&["spec", "publishNotReadyAddresses"], publish);
        if going {
            pod.set(&["metadata", "deletionTimestamp"], "2026-01-01T00:00:00Z");
        }
        let made = slices(&service, &[Arc::new(pod)], &[], NOWHERE).create.remove(0);
        let told = ["ready", "serving", "terminating"].map(|c| made.list_at(&["endpoints"])[0].bool_at(&["conditions", c]) == Some(true));
        assert_eq!(told, expect, "ready {ready}, going {going}, publish {publish}");
    }
}

#[test]
fn endpoints_tell_ready_addresses_from_others() {
    let out = endpoints(&service(), &[pod("a", 8080, true), pod("bb", 8080, false)]);
    let subset = &out.list_at(&["subsets"])[0];
    assert_eq!((subset.list_at(&["addresses"]).len(), subset.list_at(&["notReadyAddresses"]).len()), (1, 1));
}

#[test]
fn a_pod_without_any_of_the_ports_has_no_address_unless_the_service_is_of_names_alone() {
    let pod = pod("a", 80, true);
    let subsets = |service: &Value| endpoints(service, std::slice::from_ref(&pod)).list_at(&["subsets"]).len();
    let mut service = service();
    assert_eq!(subsets(&service), 1);
    service.set(&["spec", "ports"], object!([{ "name": "other", "port": 1, "protocol": "TCP", "targetPort": "nobody-has-it" }]));
    assert_eq!(subsets(&service), 0);
    service.remove(&["spec", "ports"]);
    assert_eq!(subsets(&service), 0);
    service.set(&["spec", "clusterIP"], "None");
    assert_eq!(subsets(&service), 1);
}

#[test]
fn of_too_many_addresses_the_ready_ones_are_told_and_pods_without_an_address_take_no_place() {
    let with_ip = |n: usize, ready: bool| {
        let mut pod = (*pod(&format!("p{n}"), 8080, ready)).clone();
        pod.set(&["status", "podIP"], format!("10.1.{}.{}", n / 250, n % 250));
        Arc::new(pod)
    };
    let mut pods: Vec<Arc<Value>> = (0..MOST_ADDRESSES).map(|n| with_ip(n, false)).collect();
    pods.extend((0..3).map(|n| with_ip(MOST_ADDRESSES + n, true)));
    let waiting = |n: usize| {
        let mut pod = (*pods[n]).clone();
        pod.set(&["status"], object!({ "phase": "Pending" }));
        Arc::new(pod)
    };
    let waiting: Vec<_> = (0..MOST_ADDRESSES).map(waiting).collect();
    let told = |pods: &[Arc<Value>]| {
        let truncated = meta::annotation(&endpoints(&service(), pods), OVER_CAPACITY) == Some("truncated");
        assert_eq!(truncated, pods.len() == MOST_ADDRESSES + 3 && !pods[0].str_at(&["status", "podIP"]).is_empty());
        let subset = endpoints(&service(), pods).list_at(&["subsets"])[0].clone();
        (subset.list_at(&["addresses"]).len(), subset.list_at(&["notReadyAddresses"]).len())
    };
    assert_eq!(told(&pods), (3, MOST_ADDRESSES - 3));
    assert_eq!(told(&[waiting, pods[MOST_ADDRESSES..].to_vec()].concat()), (3, 0));
}

#[test]
fn a_change_of_a_pod_matters_where_it_has_an_endpoint_that_tells_something_else() {
    let serving = pod("a", 8080, true);
    let with = |path: &[&str], value: Value| {
        let mut pod = (*serving).clone();
        pod.set(path, value);
        pod
    };
    let waiting = with(&["status", "podIP"], Value::Null);
    let ended = with(&["status", "phase"], "Succeeded".into());
    let before = Some(&*serving);
    let table = [
        (None, Some(&waiting), true),
        (Some(&waiting), None, true),
        (Some(&waiting), before, false),
        (None, before, false),
        (before, None, false),
        (before, Some(&ended), false),
        (Some(&ended), Some(&waiting), true),
        (before, Some(&with(&["status", "startTime"], "now".into())), true),
        (before, Some(&with(&["metadata", "annotations", "a"], "b".into())), true),
        (before, Some(&with(&["metadata", "labels", "a"], "b".into())), false),
        (before, Some(&with(&["metadata", "uid"], "another".into())), false),
        (before, Some(&with(&["metadata", "deletionTimestamp"], "now".into())), false),
        (before, Some(&with(&["status", "podIP"], "10.1.1.1".into())), false),
        (before, Some(&*pod("a", 8080, false)), false),
        (before, Some(&*pod("a", 9090, true)), false),
    ];
    for (old, new, expect) in table {
        assert_eq!(tells_the_same(old, new), expect, "{old:?} {new:?}");
    }
}

#[test]
fn endpoints_say_in_which_zone_they_are_and_where_a_service_prefers_what_is_near_who_should_use_them() {
    let made = |preferred: &str, ready: bool, zone: Option<&str>| {
        let mut service = service();
        service.set(&["spec", "trafficDistribution"], preferred);
        let zone = |node: &str| zone.filter(|_| node == "n").map(String::from);
        let plan = slices(&service, &[pod("a", 8080, ready)], &[], Around { zone_of: &zone, ..NOWHERE });
        plan.create[0].list_at(&["endpoints"])[0].clone()
    };
    let near = |zones: &str, nodes: &str| {
        let mut hints = Map::new();
        for (list, name) in [("forZones", zones), ("forNodes", nodes)].into_iter().filter(|(_, name)| !name.is_empty()) {
            hints.insert(list, object!([{ "name": name }]));
        }
        hints
    };
    let table = [
        ("", true, Some("z"), near("", "")),
        ("Elsewhere", true, Some("z"), near("", "")),
        ("PreferClose", true, Some("z"), near("z", "")),
        ("PreferSameZone", true, Some("z"), near("z", "")),
        ("PreferSameNode", true, Some("z"), near("z", "n")),
        ("PreferSameZone", true, None, near("", "")),
        ("PreferSameNode", true, None, near("", "n")),
        ("PreferSameNode", false, Some("z"), near("", "")),
    ];
    for (preferred, ready, zone, expect) in table {
        let endpoint = made(preferred, ready, zone);
        assert_eq!(endpoint.get("zone").and_then(Value::as_str), zone, "{preferred}");
        let hints = endpoint.get("hints").cloned().unwrap_or_else(|| object!({}));
        assert_eq!(hints, Value::Map(expect), "{preferred} {ready} {zone:?}");
    }
}

#[test]
fn a_service_that_loses_its_endpoints_keeps_one_slice_and_gets_them_back_into_it() {
    let pods: Vec<Arc<Value>> = (1..=101).map(|i| pod(&"x".repeat(i), 8080, true)).collect();
    let named = |(i, mut slice): (usize, Value)| {
        slice.set(&["metadata", "name"], format!("s-{i}"));
        Arc::new(slice)
    };
    let made: Vec<Arc<Value>> = slices(&service(), &pods, &[], NOWHERE).create.into_iter().enumerate().map(named).collect();
    let plan = slices(&service(), &[], &made, NOWHERE);
    assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 1, 1));
    let empty = Arc::new(plan.update[0].clone());
    let plan = slices(&service(), &[], std::slice::from_ref(&empty), NOWHERE);
    assert!(plan.create.is_empty() && plan.update.is_empty() && plan.delete.is_empty());
    let plan = slices(&service(), &pods[..1], &[empty], NOWHERE);
    assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 1, 0));
}

#[test]
fn each_address_family_of_a_service_has_slices_of_its_own() {
    let dual = |name: &str, ips: &[&str]| {
        let mut pod = (*pod(name, 8080, true)).clone();
        pod.set(&["status", "podIP"], ips[0]);
        pod.set(&["status", "podIPs"], ips.iter().map(|ip| object!({ "ip": (*ip) })).collect::<Vec<_>>());
        Arc::new(pod)
    };
    let of = |families: &[&str]| {
        let mut service = service();
        service.set(&["spec", "ipFamilies"], families.iter().map(|f| Value::from(*f)).collect::<Vec<_>>());
        service
    };
    let pods = [dual("a", &["10.1.0.1", "fd00::1"]), dual("b", &["fd00::2", "10.1.0.2"]), dual("c", &["10.1.0.3"])];
    let told = |slices: &[Value]| -> Vec<String> {
        let addresses = |s: &Value| s.list_at(&["endpoints"]).iter().flat_map(|e| e.list_at(&["addresses"]).to_vec()).collect::<Vec<_>>();
        slices.iter().map(|s| format!("{} {}", s.str_at(&["addressType"]), fram_machinery::json::to_string(&addresses(s).into()))).collect()
    };
    let (four, six) = (r#"IPv4 ["10.1.0.1","10.1.0.2","10.1.0.3"]"#, r#"IPv6 ["fd00::1","fd00::2"]"#);
    let made = |families: &[&str]| slices(&of(families), &pods, &[], NOWHERE).create;
    assert_eq!(told(&made(&["IPv4"])), [four]);
    assert_eq!(told(&made(&["IPv6", "IPv4"])), [six, four]);
    assert_eq!(told(&slices(&of(&["IPv4", "IPv6"]), &pods[2..], &[], NOWHERE).create), [r#"IPv4 ["10.1.0.3"]"#, "IPv6 []"]);
    // One that has lost a family loses its slices, and nothing else changes.
    let named = |(i, mut slice): (usize, Value)| {
        slice.set(&["metadata", "name"], format!("s-{i}"));
        Arc::new(slice)
    };
    let existing: Vec<Arc<Value>> = made(&["IPv4", "IPv6"]).into_iter().enumerate().map(named).collect();
    let plan = slices(&of(&["IPv6"]), &pods, &existing, NOWHERE);
    assert_eq!((plan.create.len(), plan.update.len(), plan.delete), (0, 0, vec!["s-0".to_string()]));
    let ips = |service: &Value| {
        let out = endpoints(service, &pods);
        out.list_at(&["subsets"])[0].list_at(&["addresses"]).iter().map(|a| a.str_at(&["ip"]).to_string()).collect::<Vec<_>>()
    };
    assert_eq!(ips(&of(&["IPv6", "IPv4"])), ["fd00::1", "fd00::2"]);
    assert_eq!(ips(&of(&["IPv4", "IPv6"])), ["10.1.0.1", "10.1.0.2", "10.1.0.3"]);
}

#[test]
fn hints_over_zones_are_of_all_slices_together_and_change_as_few_of_them_as_can_be() {
    let ratios = Ratios::from([("a".to_string(), 0.5), ("b".to_string(), 0.5)]);
    let around = Around { zone_of: &|node| Some(node.to_string()), ratios: &ratios, changed_at: None };
    let mut service = service();
    meta::set_annotation(&mut service, "service.kubernetes.io/topology-mode", "Auto");
    service.set(&["spec", "trafficDistribution"], "PreferSameNode");
    let on = |node: &str, n: usize| {
        let mut pod = (*pod(&format!("{n:03}"), 8080, true)).clone();
        pod.set(&["spec", "nodeName"], node);
        pod.set(&["status", "podIP"], format!("10.1.0.{n}"));
        Arc::new(pod)
    };
    let mut pods: Vec<Arc<Value>> = (0..150).map(|n| on("a", n)).collect();
    let hints = |slice: &Value| -> Vec<usize> {
        let count = |list: &str, name: &str| {
            let all = slice.list_at(&["endpoints"]).iter().flat_map(|e| e.list_at(&["hints", list]));
            all.filter(|hint| hint.str_at(&["name"]) == name).count()
        };
        vec![count("forZones", "a"), count("forZones", "b"), count("forNodes", "a")]
    };
    let made = slices(&service, &pods, &[], around);
    let all = made.create.iter().map(hints).reduce(|a, b| a.iter().zip(b).map(|(a, b)| a + b).collect());
    assert_eq!(all, Some(vec![75, 75, 0]));
    let named = |(i, mut slice): (usize, Value)| {
        slice.set(&["metadata", "name"], format!("s-{i}"));
        Arc::new(slice)
    };
    let existing: Vec<Arc<Value>> = made.create.into_iter().enumerate().map(named).collect();
    let plan = slices(&service, &pods, &existing, around);
    assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 0, 0));
    pods.push(on("b", 200));
    let plan = slices(&service, &pods, &existing, around);
    assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 1, 0));
    assert!(plan.spreads["IPv4"].is_ok());
    // Who asks no more has none.
    service.remove(&["metadata", "annotations"]);
    service.remove(&["spec", "trafficDistribution"]);
    let plan = slices(&service, &pods, &existing, around);
    assert!(plan.spreads.is_empty() && plan.update.iter().all(|slice| hints(slice) == [0, 0, 0]));
    assert_eq!(plan.update.len(), 2);
}

#[test]
fn a_plan_says_how_much_there_is_and_what_of_it_is_new() {
    let sizes = |endpoints, slices, wanted_slices, added, removed| Sizes { endpoints, slices, wanted_slices, added, removed };
    let pods: Vec<Arc<Value>> = (1..=101).map(|i| pod(&"x".repeat(i), 8080, true)).chain([pod("other", 9090, true)]).collect();
    let plan = slices(&service(), &pods, &[], NOWHERE);
    assert_eq!(plan.sizes, sizes(102, 3, 3, 102, 0));
    let named = |(i, mut slice): (usize, Value)| {
        slice.set(&["metadata", "name"], format!("s-{i}"));
        Arc::new(slice)
    };
    let existing: Vec<Arc<Value>> = plan.create.into_iter().enumerate().map(named).collect();
    assert_eq!(slices(&service(), &pods, &existing, NOWHERE).sizes, sizes(102, 3, 3, 0, 0));
    assert_eq!(slices(&service(), &pods[2..100], &existing, NOWHERE).sizes, sizes(98, 1, 1, 0, 4));
    assert_eq!(slices(&service(), &[], &existing, NOWHERE).sizes, sizes(0, 1, 1, 0, 102));
    let mut other = service();
    other.set(&["spec", "ipFamilies"], object!(["IPv6"]));
    assert_eq!(slices(&other, &pods, &existing, NOWHERE).sizes, sizes(0, 1, 1, 0, 102));
}

#[test]
fn what_is_written_tells_when_it_happened_and_is_not_written_to_tell_that() {
    let pods = [pod("a", 8080, true)];
    let at = |minute: u32| Around { changed_at: format!("2026-01-01T00:{minute:02}:00Z").parse().ok(), ..NOWHERE };
    let time = |object: &Value| meta::annotation(object, trigger::LAST_CHANGE).map(String::from);
    let made = slices(&service(), &pods, &[], at(1)).create.remove(0);
    assert_eq!(time(&made).as_deref(), Some("2026-01-01T00:01:00Z"));
    let existing = [Arc::new(made)];
    assert!(slices(&service(), &pods, &existing, at(2)).update.is_empty());
    let more = [pods[0].clone(), pod("bb", 8080, true)];
    assert_eq!(time(&slices(&service(), &more, &existing, at(2)).update[0]).as_deref(), Some("2026-01-01T00:02:00Z"));
    assert_eq!(time(&slices(&service(), &more, &existing, NOWHERE).update[0]), None);
    let told = endpoints(&service(), &pods);
    assert!(changed_endpoints(&told, &told, at(1).changed_at).is_none());
    let changed = changed_endpoints(&told, &endpoints(&service(), &more), at(3).changed_at).unwrap();
    assert_eq!(time(&changed).as_deref(), Some("2026-01-01T00:03:00Z"));
}
