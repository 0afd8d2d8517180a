//! What pods are granted, one after the other, and what of that is still known after a kill.

use super::hardware::tests::machine;
use super::*;

fn managers(root: &Path, change: impl FnOnce(&mut Managers)) -> ResourceManagers {
    let mut config = Managers { static_cpus: true, reserved_cpus: CpuSet::parse("0,8"), ..Managers::default() };
    change(&mut config);
    let hardware = machine(2, 4);
    let file = root.join(FILE);
    let known = std::fs::read(&file).map(|bytes| read_state(&bytes, &config, &hardware).unwrap()).unwrap_or_default();
    ResourceManagers { hardware, reserved: config.reserved_cpus.clone().unwrap_or_default(), config, file, state: Mutex::new(known) }
}

fn pod(uid: &str, containers: &[(&str, &str)], init: &[(&str, &str)]) -> Value {
    let one = |(name, cpu): &(&str, &str)| {
        let amounts = object!({ "cpu": (*cpu), "memory": "1Gi" });
        object!({ "name": (*name), "resources": { "limits": (amounts.clone()), "requests": amounts } })
    };
    let list = |l: &[(&str, &str)]| l.iter().map(one).collect::<Vec<_>>();
    object!({ "metadata": { "uid": uid }, "spec": { "containers": (list(containers)), "initContainers": (list(init)) } })
}

fn none(_: &str) -> Vec<Hints> {
    Vec::new()
}

fn cpus(managers: &ResourceManagers, uid: &str, container: &str) -> String {
    managers.cpus(uid, container).unwrap().to_string()
}

#[test]
fn exclusive_processors_leave_the_shared_pool_until_they_are_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let managers = managers(dir.path(), |_| {});
    assert_eq!(managers.shared().to_string(), "0-15");
    managers.allocate(&pod("a", &[("x", "2"), ("y", "500m")], &[]), &none).unwrap();
    assert_eq!((cpus(&managers, "a", "x"), cpus(&managers, "a", "y")), ("1,9".into(), "0,2-8,10-15".into()));
    managers.allocate(&pod("b", &[("x", "8")], &[]), &none).unwrap();
    assert_eq!(cpus(&managers, "b", "x"), "4-7,12-15");
    // A pod that is taken in again keeps what it has.
    managers.allocate(&pod("b", &[("x", "8")], &[]), &none).unwrap();
    assert_eq!(managers.shared().to_string(), "0,2-3,8,10-11");
    let refused = managers.allocate(&pod("c", &[("x", "5")], &[]), &none).unwrap_err();
    assert_eq!(refused.0, "UnexpectedAdmissionError");
    assert!(refused.1.contains("requested=5, available=4"), "{}", refused.1);
    assert!(managers.release("b") && !managers.release("b"));
    managers.allocate(&pod("c", &[("x", "5")], &[]), &none).unwrap();
}

#[test]
fn what_was_granted_outlives_a_kill_and_is_not_granted_twice() {
    let dir = tempfile::tempdir().unwrap();
    managers(dir.path(), |_| {}).allocate(&pod("a", &[("x", "2")], &[]), &none).unwrap();
    let again = managers(dir.path(), |_| {});
    assert_eq!(cpus(&again, "a", "x"), "1,9");
    again.allocate(&pod("b", &[("x", "2")], &[]), &none).unwrap();
    assert_eq!(cpus(&again, "b", "x"), "2,10");
    again.keep(&HashSet::from(["b".to_string()]));
    assert_eq!(managers(dir.path(), |_| {}).state.lock().keys().cloned().collect::<Vec<_>>(), ["b"]);
    let bytes = std::fs::read(dir.path().join(FILE)).unwrap();
    assert!(read_state(&bytes, &Managers::default(), &machine(2, 4)).unwrap_err().contains("another policy"));
    assert!(read_state(&bytes, &again.config, &machine(1, 1)).unwrap_err().contains("no processors 2,10"));
}

#[test]
fn containers_take_over_what_init_containers_had() {
    let dir = tempfile::tempdir().unwrap();
    let managers = managers(dir.path(), |_| {});
    managers.allocate(&pod("a", &[("x", "8"), ("y", "6")], &[("first", "8"), ("second", "4")]), &none).unwrap();
    let (first, x, y) = (cpus(&managers, "a", "first"), cpus(&managers, "a", "x"), cpus(&managers, "a", "y"));
    assert_eq!((first.as_str(), x.as_str(), y.as_str()), ("4-7,12-15", "4-7,12-15", "1-3,9-11"));
}

#[test]
fn the_policy_refuses_what_would_be_torn_between_nodes() {
    for (policy, scope, fits) in [
        (Policy::None, Scope::Container, true),
        (Policy::BestEffort, Scope::Container, true),
        (Policy::Restricted, Scope::Container, true),
        (Policy::SingleNumaNode, Scope::Container, true),
        (Policy::BestEffort, Scope::Pod, true),
        // Together they need eight, which the second node has for one pod only.
        (Policy::SingleNumaNode, Scope::Pod, false),
        (Policy::Restricted, Scope::Pod, false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let managers = managers(dir.path(), |m| (m.topology_policy, m.topology_scope) = (policy, scope));
        managers.allocate(&pod("a", &[("x", "2")], &[]), &none).unwrap();
        managers.allocate(&pod("b", &[("x", "2")], &[]), &none).unwrap();
        managers.allocate(&pod("d", &[("x", "4")], &[]), &none).unwrap();
        let outcome = managers.allocate(&pod("c", &[("x", "4"), ("y", "2")], &[]), &none);
        assert_eq!(outcome.is_ok(), fits, "{policy:?} {scope:?} {outcome:?}");
        if let Err((reason, _)) = outcome {
            assert_eq!(reason, "TopologyAffinityError");
        }
    }
}

#[test]
fn memory_of_init_containers_is_what_the_main_ones_have_again() {
    let dir = tempfile::tempdir().unwrap();
    let managers = managers(dir.path(), |m| (m.static_memory, m.topology_policy) = (true, Policy::SingleNumaNode));
    let with = |uid: &str, init: &str, main: &str| {
        let mut pod = pod(uid, &[("x", "500m")], &[("i", "500m")]);
        for (list, bytes) in [("initContainers", init), ("containers", main)] {
            let amounts = object!({ "cpu": "500m", "memory": bytes });
            let mut one = pod.list_at(&["spec", list])[0].clone();
            one.set(&["resources"], object!({ "limits": (amounts.clone()), "requests": amounts }));
            pod.set(&["spec", list], vec![one]);
        }
        managers.allocate(&pod, &none).map(drop).map_err(|(reason, _)| reason)
    };
    // Two nodes of 10 GiB each.
    for (uid, init, main) in [("a", "6Gi", "6Gi"), ("b", "6Gi", "6Gi"), ("c", "1Gi", "4Gi"), ("d", "4Gi", "4Gi")] {
        assert_eq!(with(uid, init, main), Ok(()), "{uid}");
        assert!(managers.memory_nodes(uid, "i").is_some());
    }
    assert_eq!(with("e", "1Gi", "1Gi"), Err("TopologyAffinityError".into()));
    managers.release("b");
    assert_eq!(with("e", "1Gi", "6Gi"), Ok(()));
}

#[test]
fn memory_is_bound_to_the_node_of_the_processors() {
    let dir = tempfile::tempdir().unwrap();
    let managers = managers(dir.path(), |m| (m.static_memory, m.topology_policy) = (true, Policy::SingleNumaNode));
    managers.allocate(&pod("a", &[("x", "8")], &[]), &none).unwrap();
    assert_eq!((cpus(&managers, "a", "x"), managers.memory_nodes("a", "x").map(|n| n.to_string())), ("4-7,12-15".into(), Some("1".into())));
}

#[test]
fn whole_cores_are_given_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let managers = managers(dir.path(), |m| m.cpu_options = [("full-pcpus-only".to_string(), "true".to_string())].into());
    let refused = managers.allocate(&pod("a", &[("x", "3")], &[]), &none).unwrap_err();
    assert_eq!(refused.0, "SMTAlignmentError");
    managers.allocate(&pod("a", &[("x", "4")], &[]), &none).unwrap();
}
