//! Statuses of pods in each of their situations.

use std::collections::{BTreeMap, HashMap};

use fram_cri::{ContainerMetadata, ContainerState, ContainerStatus, PodSandboxNetworkStatus, PodSandboxState, PodSandboxStatus};

use super::*;
use crate::worker::actions::Verdict;

const SECOND: i64 = 1_000_000_000;

fn pod(policy: &str) -> Value {
    let containers = object!([{ "name": "a", "image": "img:1" }]);
    object!({
        "metadata": { "namespace": "ns", "name": "p", "uid": "u", "generation": 3 },
        "spec": { "restartPolicy": policy, "containers": containers }
    })
}

fn sandbox() -> PodSandboxStatus {
    let mut sandbox = PodSandboxStatus { id: "s".into(), state: PodSandboxState::Ready, ..Default::default() };
    sandbox.network = PodSandboxNetworkStatus::from_ips(["10.0.0.7".parse().unwrap()]);
    sandbox
}

fn container(name: &str, attempt: u32, state: ContainerState, exit_code: i32) -> ContainerStatus {
    ContainerStatus {
        id: format!("{name}{attempt}"),
        pod_sandbox_id: "s".into(),
        metadata: ContainerMetadata { name: name.into(), attempt },
        state,
        exit_code,
        created_at: i64::from(attempt) * SECOND,
        started_at: SECOND,
        finished_at: if state == ContainerState::Exited { 2 * SECOND } else { 0 },
        image_ref: "img@sha256:1".into(),
        annotations: BTreeMap::new(),
        ..Default::default()
    }
}

fn observed(mut containers: Vec<ContainerStatus>) -> Observed {
    containers.reverse();
    Observed { sandboxes: vec![sandbox()], containers }
}

#[derive(Default)]
struct Case {
    verdicts: Verdicts,
    waiting: Waiting,
    health: HashMap<String, Vec<Value>>,
    failure: Option<Failure>,
    ending: bool,
    ended: bool,
}

impl Case {
    fn status(&self, pod: &Value, observed: &Observed) -> Value {
        generate(&Inputs {
            pod,
            observed,
            verdicts: &self.verdicts,
            resize: &[],
            waiting: &self.waiting,
            health: &self.health,
            host_ips: &["192.0.2.1".to_string()],
            mounts_recursively: true,
            failure: self.failure.as_ref(),
            ending: self.ending,
            ended: self.ended,
            now: Timestamp::from_second(100).unwrap(),
        })
    }
}

fn conditions(status: &Value) -> String {
    let word = |c: &Value| format!("{}={}", c.str_at(&["type"]), c.str_at(&["status"]));
    status.list_at(&["conditions"]).iter().map(word).collect::<Vec<_>>().join(" ")
}

use ContainerState::{Exited, Running};

#[test]
fn a_pod_that_nothing_was_done_for_is_pending_and_its_containers_are_being_created() {
    let status = Case::default().status(&pod("Always"), &Observed::default());
    assert_eq!(status.str_at(&["phase"]), "Pending");
    let container = &status.list_at(&["containerStatuses"])[0];
    assert_eq!(container.str_at(&["state", "waiting", "reason"]), "ContainerCreating");
    assert_eq!(conditions(&status), "PodReadyToStartContainers=False Initialized=True Ready=False ContainersReady=False PodScheduled=True");
    let ready = &status.list_at(&["conditions"])[2];
    assert_eq!((ready.str_at(&["reason"]), ready.str_at(&["message"])), ("ContainersNotReady", "containers with unready status: [a]"));
    assert_eq!(
        (status.str_at(&["hostIP"]), status.str_at(&["podIP"]), status.str_at(&["startTime"])),
        ("192.0.2.1", "", "1970-01-01T00:01:40Z")
    );
    assert_eq!((status.str_at(&["qosClass"]), status.int_at(&["observedGeneration"])), ("BestEffort", Some(3)));
}

#[test]
fn a_running_pod_is_ready_and_has_its_address() {
    let status = Case::default().status(&pod("Always"), &observed(vec![container("a", 0, Running, 0)]));
    assert_eq!((status.str_at(&["phase"]), status.str_at(&["podIP"])), ("Running", "10.0.0.7"));
    assert_eq!(conditions(&status), "PodReadyToStartContainers=True Initialized=True Ready=True ContainersReady=True PodScheduled=True");
    let container = &status.list_at(&["containerStatuses"])[0];
    assert_eq!(container.str_at(&["state", "running", "startedAt"]), "1970-01-01T00:00:01Z");
    assert_eq!((container.str_at(&["imageID"]), container.str_at(&["containerID"])), ("img@sha256:1", "fram://a0"));
}

#[test]
fn a_container_that_crashes_again_and_again_waits_with_its_last_exit_told() {
    let waiting = Waiting::from([("a".into(), ("CrashLoopBackOff".into(), "back-off 10s".into()))]);
    let case = Case { waiting, ..Case::default() };
    let seen = observed(vec![container("a", 0, Exited, 1), container("a", 1, Exited, 2)]);
    let status = case.status(&pod("Always"), &seen);
    let told = &status.list_at(&["containerStatuses"])[0];
    assert_eq!(told.str_at(&["state", "waiting", "reason"]), "CrashLoopBackOff");
    assert_eq!(
        (told.at(&["lastState", "terminated"]).and_then(|t| t.int_at(&["exitCode"])), told.int_at(&["restartCount"])),
        (Some(2), Some(1))
    );
    assert_eq!(status.str_at(&["phase"]), "Running");
    let again = observed(vec![container("a", 1, Exited, 2), container("a", 2, Running, 0)]);
    let told = Case::default().status(&pod("Always"), &again).list_at(&["containerStatuses"])[0].clone();
    assert_eq!(told.at(&["lastState", "terminated"]).and_then(|t| t.int_at(&["exitCode"])), Some(2));
    assert!(told.at(&["state", "running"]).is_some());
}

#[test]
fn a_terminal_phase_is_shown_only_when_nothing_runs_any_more_and_then_stays() {
    for (policy, exit, before, after) in [
        ("Never", 0, "Running", "Succeeded"),
        ("Never", 3, "Running", "Failed"),
        ("OnFailure", 0, "Running", "Succeeded"),
        ("OnFailure", 1, "Running", "Running"),
    ] {
        let seen = observed(vec![container("a", 0, Exited, exit)]);
        let ended = after != "Running";
        assert_eq!(Case::default().status(&pod(policy), &seen).str_at(&["phase"]), before, "{policy} {exit}");
        let case = Case { ending: ended, ended, ..Case::default() };
        assert_eq!(case.status(&pod(policy), &seen).str_at(&["phase"]), after, "{policy} {exit}");
    }
    let mut old = pod("Never");
    old.set(&["status", "phase"], "Failed");
    old.set(&["status", "reason"], "Evicted");
    let status = Case::default().status(&old, &observed(vec![container("a", 0, Running, 0)]));
    assert_eq!((status.str_at(&["phase"]), status.str_at(&["reason"])), ("Failed", "Evicted"));
}

#[test]
fn a_deleted_pod_fails_or_succeeds_by_its_exit_codes_whatever_its_policy() {
    let case = Case { ending: true, ended: true, ..Case::default() };
    for (exit, phase) in [(0, "Succeeded"), (137, "Failed")] {
        assert_eq!(case.status(&pod("Always"), &observed(vec![container("a", 0, Exited, exit)])).str_at(&["phase"]), phase);
    }
    assert_eq!(case.status(&pod("Always"), &Observed::default()).str_at(&["phase"]), "Failed");
}

#[test]
fn the_kubelets_own_verdict_gives_reason_and_message() {
    let case = Case {
        failure: Some(Failure { reason: "DeadlineExceeded".into(), message: "too late".into(), disruption: false }),
        ending: true,
        ended: true,
        ..Case::default()
    };
    let status = case.status(&pod("Always"), &observed(vec![container("a", 0, Exited, 137)]));
    assert_eq!(
        (status.str_at(&["phase"]), status.str_at(&["reason"]), status.str_at(&["message"])),
        ("Failed", "DeadlineExceeded", "too late")
    );
}

#[test]
fn probes_decide_over_started_and_ready() {
    let mut pod = pod("Always");
    let probe = object!({ "exec": { "command": ["x"] } });
    let container_spec = object!({ "name": "a", "image": "img:1", "startupProbe": (probe.clone()), "readinessProbe": probe });
    pod.set(&["spec", "containers"], object!([container_spec]));
    let seen = observed(vec![container("a", 0, Running, 0)]);
    let with = |startup, readiness| {
        let verdicts = Verdicts::from([("a0".to_string(), Verdict { startup, readiness, liveness: None })]);
        let status = Case { verdicts, ..Case::default() }.status(&pod, &seen);
        let told = &status.list_at(&["containerStatuses"])[0];
        (told.bool_at(&["started"]).unwrap(), told.bool_at(&["ready"]).unwrap())
    };
    assert_eq!(with(None, Some(true)), (false, false));
    assert_eq!(with(Some(true), None), (true, false));
    assert_eq!(with(Some(true), Some(true)), (true, true));
}

#[test]
fn init_containers_are_told_until_the_pod_is_initialized() {
    let mut pod = pod("Always");
    pod.set(&["spec", "initContainers"], object!([{ "name": "i", "image": "img:1" }]));
    let status = Case::default().status(&pod, &observed(vec![container("i", 0, Running, 0)]));
    assert_eq!(status.str_at(&["phase"]), "Pending");
    assert_eq!(status.list_at(&["containerStatuses"])[0].str_at(&["state", "waiting", "reason"]), "PodInitializing");
    let initialized = |s: &Value| s.list_at(&["conditions"]).iter().find(|c| c.str_at(&["type"]) == "Initialized").unwrap().clone();
    assert_eq!(initialized(&status).str_at(&["message"]), "containers with incomplete status: [i]");
    let status = Case::default().status(&pod, &observed(vec![container("i", 0, Exited, 0), container("a", 0, Running, 0)]));
    assert_eq!((status.str_at(&["phase"]), initialized(&status).str_at(&["status"])), ("Running", "True"));
    assert_eq!(status.list_at(&["initContainerStatuses"])[0].bool_at(&["ready"]), Some(true));
}

#[test]
fn conditions_of_others_stay_and_gate_readiness() {
    let mut pod = pod("Always");
    pod.set(&["spec", "readinessGates"], object!([{ "conditionType": "example.com/lb" }]));
    let seen = observed(vec![container("a", 0, Running, 0)]);
    let ready = |pod: &Value| {
        let status = Case::default().status(pod, &seen);
        status.list_at(&["conditions"]).iter().find(|c| c.str_at(&["type"]) == "Ready").unwrap().clone()
    };
    assert_eq!(ready(&pod).str_at(&["message"]), "corresponding condition of pod readiness gate \"example.com/lb\" does not exist.");
    pod.set(&["status", "conditions"], object!([{ "type": "example.com/lb", "status": "True" }]));
    assert_eq!(ready(&pod).str_at(&["status"]), "True");
    pod.set(&["status", "conditions"], object!([{ "type": "Ready", "status": "False", "lastTransitionTime": "1970-01-01T00:00:09Z" }]));
    assert_eq!(ready(&pod).str_at(&["lastTransitionTime"]), "1970-01-01T00:00:09Z");
}

#[test]
fn a_container_that_vanished_is_told_as_killed_and_restarted() {
    let mut pod = pod("Always");
    pod.set(&["status", "containerStatuses"], object!([{ "name": "a", "restartCount": 2, "state": { "running": {} } }]));
    let status = Case::default().status(&pod, &Observed { sandboxes: vec![sandbox()], ..Default::default() });
    let told = &status.list_at(&["containerStatuses"])[0];
    assert_eq!(told.str_at(&["lastState", "terminated", "reason"]), "ContainerStatusUnknown");
    assert_eq!(told.int_at(&["restartCount"]), Some(3));
}

#[test]
fn containers_that_another_ones_exit_restarts_are_told_as_removed_and_counted_once() {
    let rules = object!([{ "action": "RestartAllContainers", "exitCodes": { "operator": "In", "values": [42] } }]);
    let mut pod = pod("Never");
    pod.set(&["spec", "initContainers"], object!([{ "name": "i", "image": "img:1" }]));
    pod.set(
        &["spec", "containers"],
        object!([{ "name": "a", "image": "img:1" }, { "name": "b", "image": "img:1", "restartPolicyRules": rules }]),
    );
    let seen = observed(vec![container("i", 0, Exited, 0), container("a", 0, Running, 0), container("b", 0, Exited, 42)]);
    let restarting = |status: &Value| {
        let condition = status.list_at(&["conditions"]).iter().find(|c| c.str_at(&["type"]) == "AllContainersRestarting").unwrap();
        (condition.str_at(&["status"]).to_string(), condition.str_at(&["reason"]).to_string())
    };
    pod.set(&["status"], Case::default().status(&pod, &seen));
    assert_eq!(restarting(pod.get("status").unwrap()), ("True".into(), "RestartAllContainersStarted".into()));

    let gone = Observed { sandboxes: vec![sandbox()], ..Default::default() };
    pod.set(&["status"], Case::default().status(&pod, &gone));
    let status = pod.get("status").unwrap();
    assert_eq!((restarting(status).0.as_str(), status.str_at(&["phase"])), ("False", "Running"));
    assert!(conditions(status).contains("Initialized=True"));
    let told = |status: &Value, list: &str, at: usize| {
        let one = &status.list_at(&[list])[at];
        let last = one.at(&["lastState", "terminated"]).map(|t| (t.str_at(&["reason"]).to_string(), t.int_at(&["exitCode"]).unwrap()));
        (last.unwrap(), one.int_at(&["restartCount"]).unwrap())
    };
    let removed = (("RestartingAllContainers".to_string(), 137), 1);
    let asked = (("Error".to_string(), 42), 1);
    // Told again and again, it stays as it is, until the next instances are there.
    for _ in 0..2 {
        let status = pod.get("status").unwrap().clone();
        assert_eq!(told(&status, "initContainerStatuses", 0), removed);
        assert_eq!(told(&status, "containerStatuses", 0), removed);
        assert_eq!(told(&status, "containerStatuses", 1), asked);
        pod.set(&["status"], Case::default().status(&pod, &gone));
    }
    let mut again = vec![container("i", 1, Exited, 0), container("a", 1, Running, 0), container("b", 1, Running, 0)];
    let annotation = || (crate::observed::ANNOTATION_RESTART_COUNT.to_string(), "1".to_string());
    again.iter_mut().for_each(|c| c.annotations.extend([annotation()]));
    let status = Case::default().status(&pod, &observed(again));
    assert_eq!(told(&status, "initContainerStatuses", 0), removed);
    assert_eq!(told(&status, "containerStatuses", 1), asked);
    assert_eq!(status.str_at(&["phase"]), "Running");
}

#[test]
fn how_devices_were_stays_told_of_a_pod_that_ends_and_of_no_other() {
    let told = object!([{ "name": "d.example", "resources": [{ "resourceID": "r", "health": "Unhealthy" }] }]);
    let health = HashMap::from([("a".to_string(), told.as_list().unwrap().to_vec())]);
    let containers = observed(vec![container("a", 0, Exited, 1)]);
    let mut known = pod("Never");
    let status = Case { health, ..Case::default() }.status(&known, &containers);
    known.set(&["status"], status);
    for (ending, ended, expect) in [(true, false, Some(&told)), (true, true, Some(&told)), (false, false, None)] {
        let status = Case { ending, ended, ..Case::default() }.status(&known, &containers);
        assert_eq!(status.list_at(&["containerStatuses"])[0].get("allocatedResourcesStatus"), expect, "{ending} {ended}");
    }
}
