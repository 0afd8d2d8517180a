//! The plan for a pod in each of its situations.

use std::collections::BTreeMap;

use fram_cri::{ContainerMetadata, PodSandboxNetworkStatus, PodSandboxState, PodSandboxStatus};
use fram_machinery::object;

use super::*;

#[test]
fn a_rule_can_have_all_containers_begin_anew_and_who_asked_for_it_goes_last() {
    let mut pod = pod("Never", &["i", "a", "b"]);
    let rules = object!([{ "action": "RestartAllContainers", "exitCodes": { "operator": "In", "values": [42] } }]);
    let mut asking = pod.list_at(&["spec", "containers"]).to_vec();
    asking[0].set(&["restartPolicyRules"], rules);
    pod.set(&["spec", "containers"], asking);
    let plan = |containers: &[&str]| compute(&pod, &running(containers), &Verdicts::new());
    assert_eq!(plan(&["i:0", "a:42", "b:running"]).reset, ["id-i", "id-b", "id-a"]);
    assert_eq!(plan(&["a:42"]).reset, ["id-a"]);
    assert_eq!(words(&plan(&[])), "start i");
    assert!(plan(&["i:0", "a:1", "b:running"]).reset.is_empty());
}

#[test]
fn a_running_init_container_gets_other_resources_and_the_pod_waits_for_it() {
    let mut pod = pod("Never", &["i", "a"]);
    let mut observed = running(&["i:running"]);
    let mut plan = |cpu: &str| {
        pod.place(&["spec", "initContainers"]).make_list().make_mut()[0].set(&["resources"], object!({ "requests": { "cpu": cpu } }));
        let init = pod.list_at(&["spec", "initContainers"])[0].clone();
        let before = observed.containers[0].resources.cpu_shares;
        if before == 0 {
            observed.containers[0].resources = crate::pod::resources::container_resources(&pod, &init, 1);
        }
        compute(&pod, &observed, &Verdicts::new())
    };
    assert_eq!(plan("1"), Actions::default());
    assert_eq!(plan("2"), Actions { update: vec!["i".into()], ..Actions::default() });
}

/// A pod whose containers are named by their role: `i…` init, `s…` sidecar, everything else main.
fn pod(policy: &str, names: &[&str]) -> Value {
    let of = |keep: &dyn Fn(&str) -> bool| -> Vec<Value> {
        let container = |n: &&str| {
            let mut c = object!({ "name": (*n), "image": "img" });
            if n.starts_with('s') {
                c.set(&["restartPolicy"], "Always");
            }
            c
        };
        names.iter().filter(|n| keep(n)).map(container).collect()
    };
    let is_init = |n: &str| n.starts_with('i') || n.starts_with('s');
    let (init, main) = (of(&is_init), of(&|n: &str| !is_init(n)));
    object!({ "metadata": { "uid": "u" }, "spec": { "restartPolicy": policy, "initContainers": init, "containers": main } })
}

fn sandbox(state: PodSandboxState, attempt: u32) -> PodSandboxStatus {
    let mut sandbox = PodSandboxStatus { id: format!("sandbox{attempt}"), state, ..Default::default() };
    sandbox.metadata.attempt = attempt;
    sandbox.network = PodSandboxNetworkStatus::from_ips(["10.0.0.1".parse().unwrap()]);
    sandbox
}

/// A container as `name:state`, where the state is `running`, `created`, `unknown` or an exit code.
fn container(text: &str, sandbox: u32) -> ContainerStatus {
    let (name, state) = text.split_once(':').unwrap();
    let (state, exit_code) = match state {
        "running" => (ContainerState::Running, 0),
        "created" => (ContainerState::Created, 0),
        "unknown" => (ContainerState::Unknown, 0),
        code => (ContainerState::Exited, code.parse().unwrap()),
    };
    let hash = container_hash(&object!({ "name": name, "image": "img" }));
    ContainerStatus {
        id: format!("id-{name}"),
        pod_sandbox_id: format!("sandbox{sandbox}"),
        metadata: ContainerMetadata { name: name.into(), attempt: sandbox },
        state,
        exit_code,
        annotations: BTreeMap::from([(ANNOTATION_HASH.to_string(), hash)]),
        ..Default::default()
    }
}

fn running(containers: &[&str]) -> Observed {
    Observed { sandboxes: vec![sandbox(PodSandboxState::Ready, 0)], containers: containers.iter().map(|c| container(c, 0)).collect() }
}

/// A plan in words: `sandbox 0`, `kill pod`, `start a`, `kill a`.
fn words(actions: &Actions) -> String {
    let mut out = Vec::new();
    if actions.kill_pod {
        out.push("kill pod".to_string());
    }
    out.extend(actions.create_sandbox.map(|n| format!("sandbox {n}")));
    out.extend(actions.kill.iter().map(|k| format!("kill {}", k.name)));
    out.extend(actions.start.iter().map(|n| format!("start {n}")));
    out.join(", ")
}

#[track_caller]
fn check(policy: &str, names: &[&str], observed: &Observed, expect: &str) {
    assert_eq!(words(&compute(&pod(policy, names), observed, &Verdicts::new())), expect);
}

#[test]
fn a_new_pod_gets_a_sandbox_and_then_its_first_containers() {
    check("Always", &["a", "b"], &Observed::default(), "sandbox 0, start a, start b");
    check("Always", &["i1", "i2", "a"], &Observed::default(), "sandbox 0, start i1");
    check("Always", &["a", "b"], &running(&[]), "start a, start b");
    check("Always", &["a", "b"], &running(&["a:running"]), "start b");
    check("Always", &["a"], &running(&["a:running"]), "");
    check("Always", &["a"], &running(&["a:created"]), "start a");
}

#[test]
fn init_containers_run_one_after_the_other() {
    let names = ["i1", "i2", "a"];
    check("Always", &names, &running(&[]), "start i1");
    check("Always", &names, &running(&["i1:running"]), "");
    check("Always", &names, &running(&["i1:0"]), "start i2");
    check("Always", &names, &running(&["i1:0", "i2:1"]), "start i2");
    check("Never", &names, &running(&["i1:0", "i2:1"]), "kill pod");
    check("OnFailure", &names, &running(&["i1:0", "i2:1"]), "start i2");
    check("Always", &names, &running(&["i1:0", "i2:0"]), "start a");
    // What a finished init container left behind may be gone.
    check("Always", &names, &running(&["i2:0"]), "start a");
    check("Always", &names, &running(&["i2:0", "a:running"]), "");
}

#[test]
fn sidecars_start_in_order_and_are_kept_for_as_long_as_the_pod_runs() {
    let names = ["i1", "s1", "i2", "a"];
    check("Never", &names, &running(&["i1:0"]), "start s1");
    check("Never", &names, &running(&["i1:0", "s1:running"]), "start i2");
    check("Never", &names, &running(&["i1:0", "s1:1", "i2:running"]), "start s1");
    check("Never", &names, &running(&["i1:0", "s1:running", "i2:0"]), "start a");
    check("Never", &names, &running(&["i1:0", "s1:0", "i2:0", "a:running"]), "start s1");
    check("Never", &names, &running(&["i1:0", "s1:running", "i2:0", "a:0"]), "kill pod");
}

#[test]
fn a_sidecar_holds_the_others_back_until_its_startup_probe_succeeds() {
    let mut pod = pod("Always", &["s1", "a"]);
    let Some(list) = pod.as_map().and_then(|m| m.get("spec")).cloned() else { panic!() };
    let mut spec = list;
    spec.place(&["initContainers"]).make_list().make_mut()[0].set(&["startupProbe"], object!({ "exec": { "command": ["x"] } }));
    pod.set(&["spec"], spec);
    let observed = running(&["s1:running"]);
    assert_eq!(words(&compute(&pod, &observed, &Verdicts::new())), "");
    let with = |startup| Verdicts::from([("id-s1".to_string(), Verdict { startup: Some(startup), ..Default::default() })]);
    assert_eq!(words(&compute(&pod, &observed, &with(true))), "start a");
    assert_eq!(words(&compute(&pod, &observed, &with(false))), "kill s1, start s1");
}

#[test]
fn the_restart_policy_says_what_follows_an_exit() {
    for (policy, exit, expect) in [
        ("Always", "a:0", "start a"),
        ("Always", "a:1", "start a"),
        ("OnFailure", "a:0", "kill pod"),
        ("OnFailure", "a:1", "start a"),
        ("Never", "a:1", "kill pod"),
    ] {
        check(policy, &["a"], &running(&[exit]), expect);
    }
    check("Never", &["a", "b"], &running(&["a:1", "b:running"]), "");
    check("Always", &["a"], &running(&["a:unknown"]), "kill a, start a");
}

#[test]
fn a_container_can_have_a_restart_policy_and_rules_of_its_own() {
    let mut own = pod("Never", &["a"]);
    let rule = object!([{ "action": "Restart", "exitCodes": { "operator": "In", "values": [42] } }]);
    let container = object!({ "name": "a", "image": "img", "restartPolicy": "Never", "restartPolicyRules": rule });
    own.set(&["spec", "containers"], object!([container]));
    let after = |exit: &str| words(&compute(&own, &running(&[exit]), &Verdicts::new()));
    assert_eq!((after("a:42"), after("a:1")), ("start a".into(), "kill pod".into()));
}

#[test]
fn a_dead_sandbox_is_replaced_unless_the_pod_is_not_to_run_again() {
    let dead = |containers: &[&str]| Observed { sandboxes: vec![sandbox(PodSandboxState::NotReady, 0)], ..running(containers) };
    check("Always", &["a"], &dead(&["a:137"]), "kill pod, sandbox 1, start a");
    check("Never", &["a"], &dead(&["a:137"]), "kill pod");
    check("OnFailure", &["a", "b"], &dead(&["a:0", "b:1"]), "kill pod, sandbox 1, start b");
    check("OnFailure", &["a"], &dead(&["a:0"]), "kill pod");
    check("Always", &["i1", "a"], &dead(&["i1:0", "a:137"]), "kill pod, sandbox 1, start i1");
    let mut second = dead(&["i1:0", "a:137"]);
    second.sandboxes.insert(0, sandbox(PodSandboxState::Ready, 1));
    check("Always", &["i1", "a"], &second, "start i1");
    second.containers.insert(0, container("i1:0", 1));
    check("Always", &["i1", "a"], &second, "start a");
}

#[test]
fn a_changed_image_and_failing_probes_restart_a_container() {
    let observed = running(&["a:running"]);
    let mut changed = pod("Never", &["a"]);
    changed.set(&["spec", "containers"], object!([{ "name": "a", "image": "another" }]));
    let actions = compute(&changed, &observed, &Verdicts::new());
    assert_eq!((words(&actions), actions.kill[0].reason), ("kill a, start a".into(), KillReason::Changed));
    let failing = Verdicts::from([("id-a".to_string(), Verdict { liveness: Some(false), ..Default::default() })]);
    assert_eq!(words(&compute(&pod("Always", &["a"]), &observed, &failing)), "kill a, start a");
    let actions = compute(&pod("Never", &["a"]), &observed, &failing);
    assert_eq!((words(&actions), actions.kill[0].message.as_str()), ("kill a".into(), "Container a failed liveness probe"));
}

#[test]
fn an_ephemeral_container_is_started_once_even_before_initialization() {
    let mut pod = pod("Always", &["i1", "a"]);
    pod.set(&["spec", "ephemeralContainers"], object!([{ "name": "debug", "image": "img" }]));
    assert_eq!(words(&compute(&pod, &running(&["i1:running"]), &Verdicts::new())), "start debug");
    assert_eq!(words(&compute(&pod, &running(&["i1:running", "debug:1"]), &Verdicts::new())), "");
}
