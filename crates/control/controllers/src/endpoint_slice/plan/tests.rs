//! Endpoints and slices of small Services.

use super::*;

const NOWHERE: ZoneOf = &|_| None;

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
fn endpoints_tell_ready_addresses_from_others() {
    let out = endpoints(&service(), &[pod("a", 8080, true), pod("bb", 8080, false)]);
    let subset = &out.list_at(&["subsets"])[0];
    assert_eq!((subset.list_at(&["addresses"]).len(), subset.list_at(&["notReadyAddresses"]).len()), (1, 1));
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
        let plan = slices(&service, &[pod("a", 8080, ready)], &[], &zone);
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
