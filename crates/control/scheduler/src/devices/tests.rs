//! Claims on small clusters.

use super::*;
use crate::cache::Cache;
use crate::framework::Filtered;
use crate::plugins::testing::{cache, check, filter, framework, node, pod};

fn device(name: &str, model: &str) -> Value {
    object!({ "name": name, "attributes": { "model": { "string": model } } })
}

fn slice(name: &str, node: &str, devices: Vec<Value>) -> Arc<Value> {
    let spec = object!({ "driver": "d.io", "nodeName": node, "devices": devices,
        "pool": { "name": name, "generation": 1, "resourceSliceCount": 1 } });
    Arc::new(object!({ "metadata": { "name": name, "resourceVersion": "1" }, "spec": spec }))
}

fn claim(name: &str, devices: Value) -> Arc<Value> {
    Arc::new(object!({ "metadata": { "name": name, "namespace": "ns", "uid": name }, "spec": { "devices": devices } }))
}

fn exactly(mut spec: Value) -> Value {
    spec.set(&["deviceClassName"], "any");
    object!({ "requests": [{ "name": "r", "exactly": spec }] })
}

/// One class for all devices, and these slices.
fn devices(slices: Vec<Arc<Value>>) -> Devices {
    let mut devices = Devices::default();
    let selector = object!([{ "cel": { "expression": "device.driver == 'd.io'" } }]);
    devices.set_class("any", Some(Arc::new(object!({ "spec": { "selectors": selector } }))));
    slices.into_iter().for_each(|s| devices.set_slice(meta::name(&s), Some(s.clone())));
    devices
}

fn nodes() -> Cache {
    cache(vec![node("a", "1"), node("b", "1")])
}

fn all(claims: &[Arc<Value>]) -> Claims {
    Claims { all: claims.to_vec(), steps: Grants::default().steps, ..Claims::default() }
}

fn one(claim: &Arc<Value>) -> Claims {
    all(std::slice::from_ref(claim))
}

/// The devices that claims get on a node, or why none.
fn found(devices: &Devices, claims: &[Arc<Value>], slot: usize) -> String {
    match devices.allocate(&all(claims), nodes().at(slot)) {
        Err(why) => why.text().to_string(),
        Ok(allocations) => {
            let names = |a: &Allocation| {
                let results = a.devices.iter().flat_map(|d| d.list_at(&["devices", "results"]));
                results.map(|r| format!("{}={}", r.str_at(&["request"]), r.str_at(&["device"]))).collect::<Vec<_>>().join(",")
            };
            allocations.iter().map(names).collect::<Vec<_>>().join(";")
        }
    }
}

#[test]
fn a_device_is_given_once_and_only_on_its_node() {
    let mut devices = devices(vec![slice("pa", "a", vec![device("0", "x"), device("1", "y")])]);
    let c = claim("c", exactly(object!({})));
    assert_eq!(
        (found(&devices, std::slice::from_ref(&c), 0), found(&devices, std::slice::from_ref(&c), 1)),
        ("r=0".to_string(), NONE.to_string())
    );
    let allocations = devices.allocate(&one(&c), nodes().at(0)).unwrap();
    let selector = allocations[0].devices.as_ref().unwrap().get("nodeSelector").unwrap().clone();
    assert!(reaches(Some(&selector), nodes().at(0)) && !reaches(Some(&selector), nodes().at(1)));
    devices.set_claim("ns/c", Some(c));
    devices.assume(&allocations);
    let next = claim("n", exactly(object!({})));
    assert_eq!(found(&devices, std::slice::from_ref(&next), 0), "r=1");
    assert_eq!(found(&devices, &[next.clone(), claim("m", exactly(object!({})))], 0), NONE);
    devices.give_back(&allocations);
    assert_eq!(found(&devices, &[next.clone(), claim("m", exactly(object!({})))], 0), "r=0;r=1");
}

#[test]
fn selectors_counts_and_all_say_which_devices() {
    let devices = devices(vec![slice("pa", "a", vec![device("0", "x"), device("1", "y"), device("2", "y")])]);
    let y = || object!([{ "cel": { "expression": "device.attributes['d.io'].model == 'y'" } }]);
    assert_eq!(found(&devices, &[claim("c", exactly(object!({ "selectors": (y()) })))], 0), "r=1");
    assert_eq!(found(&devices, &[claim("c", exactly(object!({ "selectors": (y()), "count": 2 })))], 0), "r=1,r=2");
    assert_eq!(found(&devices, &[claim("c", exactly(object!({ "selectors": (y()), "count": 3 })))], 0), NONE);
    assert_eq!(found(&devices, &[claim("c", exactly(object!({ "allocationMode": "All" })))], 0), "r=0,r=1,r=2");
}

#[test]
fn the_first_of_alternatives_that_can_be_had_is_taken() {
    let devices = devices(vec![slice("pa", "a", vec![device("0", "x"), device("1", "x")])]);
    let sub = |name: &str, count: i64| object!({ "name": name, "deviceClassName": "any", "count": count });
    let list = |subs: Value| claim("c", object!({ "requests": [{ "name": "r", "firstAvailable": subs }] }));
    assert_eq!(found(&devices, &[list(object!([(sub("big", 3)), (sub("small", 1))]))], 0), "r/small=0");
    assert_eq!(found(&devices, &[list(object!([(sub("big", 2)), (sub("small", 1))]))], 0), "r/big=0,r/big=1");
}

#[test]
fn a_node_that_has_what_is_asked_for_first_is_chosen_before_one_that_is_otherwise_better() {
    let request = |class: &str| object!({ "name": class, "deviceClassName": class });
    let subs = object!([(request("large")), (request("any"))]);
    let spec = object!({ "resourceClaims": [{ "name": "c", "resourceClaimName": "c" }] });
    // Whichever node has it; the other one is larger.
    for (wanted, other) in [("a", "b"), ("b", "a")] {
        let mut cache = cache(vec![node(wanted, "2"), node(other, "4")]);
        cache.devices = devices(vec![slice("pw", wanted, vec![device("0", "large")]), slice("po", other, vec![device("1", "small")])]);
        let selector = object!([{ "cel": { "expression": "device.attributes['d.io'].model == 'large'" } }]);
        cache.devices.set_class("large", Some(Arc::new(object!({ "spec": { "selectors": selector } }))));
        let wants = claim("c", object!({ "requests": [{ "name": "r", "firstAvailable": (subs.clone()) }] }));
        cache.devices.set_claim("ns/c", Some(wants));
        check(&mut cache, spec.clone(), wanted);
    }
}

#[test]
fn constraints_hold_devices_together_or_apart() {
    let devices = devices(vec![slice("pa", "a", vec![device("0", "x"), device("1", "y"), device("2", "y")])]);
    let with = |constraint: &str| {
        let mut spec = exactly(object!({ "count": 2 }));
        let mut held = object!({});
        held.set(&[constraint], "d.io/model");
        spec.set(&["constraints"], object!([held]));
        claim("c", spec)
    };
    assert_eq!(found(&devices, &[with("matchAttribute")], 0), "r=1,r=2");
    assert_eq!(found(&devices, &[with("distinctAttribute")], 0), "r=0,r=1");
}

#[test]
fn admins_reach_what_is_taken_and_take_nothing() {
    let mut devices = devices(vec![slice("pa", "a", vec![device("0", "x")])]);
    let (c, admin) = (claim("c", exactly(object!({}))), claim("admin", exactly(object!({ "adminAccess": true }))));
    for claim in [&admin, &c] {
        let allocations = devices.allocate(&one(claim), nodes().at(0)).unwrap();
        devices.set_claim(&meta::key(claim), Some(claim.clone()));
        devices.assume(&allocations);
    }
    assert_eq!(found(&devices, &[claim("n", exactly(object!({})))], 0), NONE);
    assert_eq!(found(&devices, &[claim("n", exactly(object!({ "adminAccess": true })))], 0), "r=0");
}

#[test]
fn parts_of_a_device_share_its_counters() {
    let part = |name: &str, gigabytes: &str| object!({ "name": name, "consumesCounters": [{ "counterSet": "gpu", "counters": { "memory": { "value": gigabytes } } }] });
    let mut slice = (*slice("pa", "a", vec![part("whole", "8Gi"), part("half", "4Gi"), part("other", "4Gi")])).clone();
    slice.set(&["spec", "sharedCounters"], object!([{ "name": "gpu", "counters": { "memory": { "value": "8Gi" } } }]));
    let mut devices = devices(vec![Arc::new(slice)]);
    assert_eq!(found(&devices, &[claim("c", exactly(object!({ "count": 2 })))], 0), "r=half,r=other");
    let half = object!([{ "cel": { "expression": "true" } }]);
    let c = claim("c", exactly(object!({ "count": 1, "selectors": half })));
    let allocations = devices.allocate(&one(&c), nodes().at(0)).unwrap();
    devices.set_claim("ns/c", Some(c));
    devices.assume(&allocations);
    assert_eq!(found(&devices, &[claim("n", exactly(object!({})))], 0), NONE);
}

#[test]
fn a_tainted_device_is_for_who_tolerates_it() {
    let mut tainted = device("0", "x");
    tainted.set(&["taints"], object!([{ "key": "k", "effect": "NoSchedule" }]));
    let devices = devices(vec![slice("pa", "a", vec![tainted])]);
    assert_eq!(found(&devices, &[claim("c", exactly(object!({})))], 0), NONE);
    let tolerations = object!([{ "key": "k", "operator": "Exists" }]);
    assert_eq!(found(&devices, &[claim("c", exactly(object!({ "tolerations": tolerations })))], 0), "r=0");
}

#[test]
fn a_device_that_a_rule_taints_is_for_who_tolerates_it() {
    let rule = |selector: Value, effect: &str| {
        let spec = object!({ "deviceSelector": selector, "taint": { "key": "k", "effect": effect } });
        Some(Arc::new(object!({ "metadata": { "name": "r" }, "spec": spec })))
    };
    let mut devices = devices(vec![slice("pa", "a", vec![device("0", "x"), device("1", "x")])]);
    let table = [
        (object!({}), "NoSchedule", NONE),
        (object!({}), "NoExecute", NONE),
        (object!({}), "None", "r=0"),
        (Value::Null, "NoSchedule", "r=0"),
        (object!({ "driver": "d.io", "pool": "pa", "device": "0" }), "NoSchedule", "r=1"),
        (object!({ "driver": "other.io" }), "NoSchedule", "r=0"),
        (object!({ "pool": "pb" }), "NoSchedule", "r=0"),
    ];
    for (selector, effect, expect) in table {
        devices.set_rule("r", rule(selector.clone(), effect));
        assert_eq!(found(&devices, &[claim("c", exactly(object!({})))], 0), expect, "{selector:?} {effect}");
    }
    devices.set_rule("r", rule(object!({}), "NoSchedule"));
    let tolerations = object!([{ "key": "k", "operator": "Exists" }]);
    assert_eq!(found(&devices, &[claim("c", exactly(object!({ "tolerations": tolerations })))], 0), "r=0");
    devices.set_rule("r", None);
    assert_eq!(found(&devices, &[claim("c", exactly(object!({})))], 0), "r=0");
}

#[test]
fn only_the_newest_and_complete_generation_of_a_pool_counts() {
    let generation = |name: &str, generation: i64, count: i64| {
        let mut slice = (*slice("pa", "a", vec![device(name, "x")])).clone();
        slice.set(&["metadata", "name"], name);
        slice.set(&["spec", "pool"], object!({ "name": "pa", "generation": generation, "resourceSliceCount": count }));
        Arc::new(slice)
    };
    let c = || claim("c", exactly(object!({})));
    assert_eq!(found(&devices(vec![generation("old", 1, 1), generation("new", 2, 1)]), &[c()], 0), "r=new");
    assert_eq!(found(&devices(vec![generation("old", 1, 1), generation("new", 2, 2)]), &[c()], 0), NONE);
}

#[test]
fn a_device_with_capacity_is_shared_until_nothing_is_left_of_it() {
    let mut shared = device("0", "x");
    shared.set(&["allowMultipleAllocations"], true);
    shared.set(&["capacity"], object!({ "memory": { "value": "10Gi" } }));
    let mut devices = devices(vec![slice("pa", "a", vec![shared])]);
    let of = |name: &str, memory: &str| claim(name, exactly(object!({ "capacity": { "requests": { "memory": memory } } })));
    let first = of("first", "6Gi");
    let allocations = devices.allocate(&one(&first), nodes().at(0)).unwrap();
    let result = allocations[0].devices.as_ref().unwrap().list_at(&["devices", "results"])[0].clone();
    assert_eq!((result.str_at(&["consumedCapacity", "memory"]), result.str_at(&["shareID"]).len()), ("6Gi", 36));
    assert_eq!(found(&devices, &[first.clone(), of("second", "4Gi")], 0), "r=0;r=0");
    assert_eq!(found(&devices, &[first.clone(), of("second", "5Gi")], 0), NONE);
    devices.set_claim("ns/first", Some(first));
    devices.assume(&allocations);
    assert_eq!(found(&devices, &[of("second", "5Gi")], 0), NONE);
    assert_eq!(found(&devices, &[of("second", "4Gi")], 0), "r=0");
    // The same device twice for one request, and what is asked for must be there.
    assert_eq!(
        found(&devices, &[claim("c", exactly(object!({ "count": 2, "capacity": { "requests": { "memory": "2Gi" } } })))], 0),
        "r=0,r=0"
    );
    assert_eq!(found(&devices, &[claim("c", exactly(object!({ "capacity": { "requests": { "cores": "1" } } })))], 0), NONE);
    devices.give_back(&allocations);
    assert_eq!(found(&devices, &[of("second", "10Gi")], 0), "r=0");
    assert!(devices.shares.is_empty());
}

#[test]
fn devices_that_have_to_be_made_ready_say_so_in_the_allocation_and_come_after_others() {
    let mut late = device("0", "x");
    late.set(&["bindingConditions"], object!(["Attached"]));
    late.set(&["bindingFailureConditions"], object!(["Broken"]));
    late.set(&["bindsToNode"], true);
    let mut fabric = (*slice("pa", "", vec![late])).clone();
    fabric.set(&["spec", "allNodes"], true);
    let mut known = devices(vec![Arc::new(fabric), slice("pb", "a", vec![device("1", "x")])]);
    let c = claim("c", exactly(object!({})));
    assert_eq!(found(&known, std::slice::from_ref(&c), 0), "r=1");
    let allocations = known.allocate(&one(&c), nodes().at(1)).unwrap();
    let allocation = allocations[0].devices.as_ref().unwrap();
    let result = &allocation.list_at(&["devices", "results"])[0];
    assert_eq!((result.list_at(&["bindingConditions"]).len(), result.list_at(&["bindingFailureConditions"]).len()), (1, 1));
    assert!(reaches(allocation.get("nodeSelector"), nodes().at(1)) && !reaches(allocation.get("nodeSelector"), nodes().at(0)));
    // One that failed is nowhere to be had.
    let mut lost = (*c).clone();
    lost.set(&["status", "allocation"], allocation.clone());
    let conditions = object!([{ "type": "Broken", "status": "True" }]);
    lost.set(&["status", "devices"], object!([{ "driver": "d.io", "pool": "pa", "device": "0", "conditions": conditions }]));
    known.set_claim("ns/c", Some(Arc::new(lost)));
    let pod = Pod::alone(object!({ "metadata": { "name": "p", "namespace": "ns", "uid": "p" },
        "spec": { "resourceClaims": [{ "name": "r", "resourceClaimName": "c" }] } }));
    let claims = known.claims(&pod, Grants::default()).unwrap();
    assert_eq!(known.allocate(&claims, nodes().at(1)).unwrap_err().text(), "resourceclaim not available on the node");
}

#[test]
fn only_claims_that_nobody_else_uses_are_given_back_for_a_pod() {
    let pod = Pod::alone(object!({ "metadata": { "name": "p", "namespace": "ns", "uid": "p" },
        "spec": { "resourceClaims": [{ "name": "r", "resourceClaimName": "c" }] } }));
    let released = |selector: Value, users: &[&str]| {
        let users: Vec<Value> = users.iter().map(|uid| object!({ "resource": "pods", "uid": (*uid) })).collect();
        let mut c = (*claim("c", exactly(object!({})))).clone();
        c.set(&["status"], object!({ "allocation": { "devices": {}, "nodeSelector": selector }, "reservedFor": users }));
        let mut known = devices(Vec::new());
        known.set_claim("ns/c", Some(Arc::new(c)));
        known.release(&pod, readiness::PATIENCE).is_some()
    };
    let selector = || object!({ "nodeSelectorTerms": [] });
    let table: [(Value, &[&str], bool); 5] = [
        (selector(), &[], true),
        (selector(), &["p"], true),
        (selector(), &["other"], false),
        (selector(), &["p", "other"], false),
        (Value::Null, &[], false),
    ];
    for (selector, users, expect) in table {
        assert_eq!(released(selector.clone(), users), expect, "{selector:?} {users:?}");
    }
}

/// A cluster of `a`, which has a device, `b`, which has none, and `c`, which has the resource itself; and a pod that asks for it.
fn with_extended() -> (Cache, Value) {
    let mut own = node("c", "1");
    own.set(&["status", "allocatable", "d.io/gpu"], "1");
    let mut cache = cache(vec![node("a", "1"), node("b", "1"), own]);
    cache.devices = devices(vec![slice("pa", "a", vec![device("0", "x")])]);
    let mut class = (**cache.devices.classes.get("any").unwrap()).clone();
    class.set(&["metadata", "name"], "any");
    class.set(&["spec", "extendedResourceName"], "d.io/gpu");
    cache.devices.set_class("any", Some(Arc::new(class)));
    (cache, object!({ "containers": [{ "name": "x", "resources": { "requests": { "d.io/gpu": "1" } } }] }))
}

#[test]
fn an_extended_resource_is_had_from_the_node_or_as_a_device_of_its_class() {
    let (mut cache, spec) = with_extended();
    let first = pod("1", spec.clone());
    let slot = cache.slot("a").unwrap();
    let claims = cache.devices.claims(&first, Grants::default()).unwrap();
    let allocations = cache.devices.allocate(&claims, cache.at(slot)).unwrap();
    assert_eq!((allocations.len(), allocations[0].mappings.len()), (1, 1));
    assert!(cache.devices.allocate(&claims, cache.at(cache.slot("b").unwrap())).is_err());
    assert!(cache.devices.allocate(&claims, cache.at(cache.slot("c").unwrap())).unwrap().is_empty());
    // Both places are taken: a second pod has the other, a third none.
    cache.devices.assume(&allocations);
    cache.place(first, "a");
    check(&mut cache, spec.clone(), "c");
    cache.place(pod("2", spec.clone()), "c");
    let none = "0/3 nodes are available: 1 Insufficient d.io/gpu, 2 cannot allocate all claims.";
    check(&mut cache, spec.clone(), none);
    // The claim has its name now, and nothing is taken twice or free meanwhile.
    let mut made = (*allocations[0].claim).clone();
    made.set(&["metadata", "name"], "made");
    cache.devices.set_claim("ns/made", Some(Arc::new(made.clone())));
    check(&mut cache, spec.clone(), none);
    made.set(&["status", "allocation"], allocations[0].devices.clone().unwrap());
    cache.devices.set_claim("ns/made", Some(Arc::new(made)));
    check(&mut cache, spec.clone(), none);
    let first = cache.pod("1").unwrap().clone();
    assert!(matches!(cache.devices.release(&first, readiness::PATIENCE), Some(Release::Delete(claim)) if meta::name(&claim) == "made"));
    cache.devices.set_claim("ns/made", None);
    check(&mut cache, spec, "a");
}

#[test]
fn a_selector_that_fails_for_a_device_fails_the_attempt_and_says_so() {
    let mut devices = devices(vec![slice("pa", "a", vec![device("0", "x")])]);
    let selector = |expression: &str| object!([{ "cel": { "expression": "true" } }, { "cel": { "expression": expression } }]);
    let of_claim = claim("c", exactly(object!({ "selectors": (selector("device.attributes['d.io'].nothing == 'x'")) })));
    let denied = |devices: &Devices, claim: &Arc<Value>, slot| devices.allocate(&one(claim), nodes().at(slot)).unwrap_err();
    let Denial::Broken(why) = denied(&devices, &of_claim, 0) else { panic!("refused only") };
    assert!(why.starts_with("claim ns/c: selector #1: CEL runtime error: ") && why.contains("nothing"), "{why}");
    // Where there is no device nothing is asked of it.
    assert_eq!(denied(&devices, &of_claim, 1), Denial::Refused(NONE.into()));
    let mut cluster = nodes();
    std::mem::swap(&mut cluster.devices, &mut devices);
    cluster.devices.set_claim("ns/c", Some(of_claim));
    let pod = pod("p", object!({ "resourceClaims": [{ "name": "c", "resourceClaimName": "c" }] }));
    let mut framework = framework();
    let Filtered::None(attempt, _) = filter(&mut framework, &pod, &mut cluster) else { panic!("a node was found") };
    assert_eq!(framework.failure(&attempt).unwrap(), format!("running \"DynamicResources\" filter plugin: {why}"));
    devices = cluster.devices;
    let class = object!({ "metadata": { "name": "any" }, "spec": { "selectors": (selector("device.attributes['d.io'].nothing == 'x'")) } });
    devices.set_class("any", Some(Arc::new(class)));
    let Denial::Broken(why) = denied(&devices, &claim("c", exactly(object!({}))), 0) else { panic!("refused only") };
    assert!(why.starts_with("class any: selector #1: CEL runtime error: "), "{why}");
}

#[test]
fn a_search_ends_where_the_profile_says_and_that_is_told_from_finding_nothing() {
    // Pairs of the same model, of which there is none: each device is tried with each after it.
    let many: Vec<Value> = (0..40).map(|n| device(&n.to_string(), &n.to_string())).collect();
    let devices = devices(vec![slice("pa", "a", many)]);
    let mut pair = exactly(object!({ "count": 2 }));
    pair.set(&["constraints"], object!([{ "matchAttribute": "d.io/model" }]));
    let pair = claim("c", pair);
    for (timeout, expect) in [(Duration::from_millis(100), TIMED_OUT), (FILTER_TIMEOUT, NONE), (Duration::ZERO, NONE)] {
        let claims = Claims { steps: steps_within(timeout), ..one(&pair) };
        assert_eq!(devices.allocate(&claims, nodes().at(0)).unwrap_err().text(), expect, "{timeout:?}");
    }
}

#[test]
fn a_search_that_ends_early_fails_the_attempt_unless_another_node_has_the_devices() {
    let many = (0..400).map(|n| device(&n.to_string(), &n.to_string())).collect();
    let mut pair = exactly(object!({ "count": 2 }));
    pair.set(&["constraints"], object!([{ "matchAttribute": "d.io/model" }]));
    let mut cluster = nodes();
    cluster.devices = devices(vec![slice("pa", "a", many)]);
    cluster.devices.set_claim("ns/c", Some(claim("c", pair)));
    let pod = pod("p", object!({ "resourceClaims": [{ "name": "c", "resourceClaimName": "c" }] }));
    let mut framework = framework();
    let Filtered::None(attempt, _) = filter(&mut framework, &pod, &mut cluster) else { panic!("a node was found") };
    let why = format!("running \"DynamicResources\" filter plugin: {TIMED_OUT} on node a");
    assert_eq!(framework.failure(&attempt), Some(why));
    let same = vec![device("0", "x"), device("1", "x")];
    cluster.devices.set_slice("pb", Some(slice("pb", "b", same)));
    let Filtered::Feasible(attempt, slots) = filter(&mut framework, &pod, &mut cluster) else { panic!("no node was found") };
    assert_eq!((cluster.at(slots[0]).name(), framework.failure(&attempt)), ("b", None));
}

#[test]
fn a_class_that_is_not_there_is_told_with_the_request_that_wants_it() {
    let mut devices = devices(vec![slice("pa", "a", vec![device("0", "x")])]);
    let pod = pod("p", object!({ "resourceClaims": [{ "name": "c", "resourceClaimName": "c" }] }));
    let request = |class: &str| object!({ "name": "alternative", "deviceClassName": class });
    let table = [
        (object!({ "name": "r", "exactly": { "deviceClassName": "gone" } }), Err("request r: device class gone does not exist")),
        (
            object!({ "name": "r", "firstAvailable": [(request("any")), (request("gone"))] }),
            Err("request r/alternative: device class gone does not exist"),
        ),
        (object!({ "name": "r", "firstAvailable": [(request("any"))] }), Ok(())),
    ];
    for (request, expect) in table {
        devices.set_claim("ns/c", Some(claim("c", object!({ "requests": [request] }))));
        assert_eq!(devices.claims(&pod, Grants::default()).map(drop), expect.map_err(String::from));
    }
}
