//! A kubelet from the outside: pods are posted to a model of the API server, containers run in a model of the runtime.

#![allow(
    clippy::unwrap_used,
    clippy::result_large_err,
    reason = "a test that cannot go on has failed; the client's calls fail with a Status"
)]

mod lifecycle {
    pub(crate) mod api;
    mod projected;
    pub(crate) mod rig;
    pub(crate) mod runtime;
    mod streams;
}

use fram_machinery::{Value, meta, object};
use lifecycle::rig::{Rig, container, pod};

fn status(pod: &Value) -> Value {
    pod.get("status").cloned().unwrap_or_default()
}

fn container_status(pod: &Value, at: usize) -> Value {
    pod.list_at(&["status", "containerStatuses"]).get(at).cloned().unwrap_or_default()
}

#[tokio::test]
async fn a_posted_pod_runs_is_told_of_and_is_gone_after_its_deletion() {
    let rig = Rig::start().await;
    rig.api.put("pods", pod("p", object!({ "containers": [(container("a"))] })));
    let running = rig.pod("p", |p| meta::condition_is_true(p, "Ready")).await;
    assert_eq!(status(&running).str_at(&["phase"]), "Running");
    assert_eq!(status(&running).str_at(&["podIP"]), "10.0.0.1");
    assert!(container_status(&running, 0).str_at(&["containerID"]).starts_with("fram://"));
    let uid = meta::uid(&running).to_string();
    assert!(rig.root().join("pods").join(&uid).join("etc-hosts").exists());
    rig.api.delete_pod("p", 30);
    rig.gone("p").await;
    assert_eq!((rig.runtime.sandboxes(), rig.runtime.containers()), (0, 0));
    assert!(!rig.root().join("pods").join(&uid).exists());
    assert_eq!(rig.api.last("p").str_at(&["status", "phase"]), "Failed");
    let told = rig.events().await;
    for wanted in
        ["Pulling Pulling image \"img:1\"", "Created Container created", "Started Container started", "Killing Stopping container a"]
    {
        assert!(told.iter().any(|e| e == wanted), "{wanted}: {told:?}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_pod_that_is_deleted_while_its_sandbox_is_made_leaves_none() {
    let rig = Rig::start().await;
    rig.runtime.finish_sandboxes(false);
    rig.api.put("pods", pod("p", object!({ "containers": [(container("a"))] })));
    rig.runtime.begun(1).await;
    rig.api.delete_pod("p", 0);
    rig.runtime.finish_sandboxes(true);
    rig.gone("p").await;
    assert_eq!((rig.runtime.sandboxes(), rig.runtime.containers()), (0, 0));
    rig.stop().await;
}

#[tokio::test]
async fn a_pod_that_wants_users_of_its_own_is_not_run_without() {
    let rig = Rig::start().await;
    // The runtime says nothing of its handlers, as one that is too old.
    rig.api.put("pods", pod("p", object!({ "hostUsers": false, "containers": [(container("a"))] })));
    let why = "can't set `spec.hostUsers: false`, runtime does not support user namespaces";
    rig.until_event(&format!("FailedCreatePodSandBox Failed to create pod sandbox: {why}")).await;
    assert_eq!((rig.runtime.sandboxes(), rig.runtime.containers()), (0, 0));
    rig.stop().await;
}

#[tokio::test]
async fn what_a_runtime_does_not_say_that_it_can_is_not_asked_of_it() {
    let rig = Rig::start().await;
    let strict = object!({ "supplementalGroupsPolicy": "Strict" });
    rig.api.put("pods", pod("groups", object!({ "securityContext": strict, "containers": [(container("a"))] })));
    let refused = rig.pod("groups", |p| p.str_at(&["status", "phase"]) == "Failed").await;
    assert_eq!(status(&refused).str_at(&["reason"]), "SupplementalGroupsPolicyNotSupported");
    let mounting = |name: &str, mode: &str| {
        let mut container = container("a");
        let mount = object!({ "name": "v", "mountPath": "/v", "readOnly": true, "recursiveReadOnly": mode });
        container.set(&["volumeMounts"], object!([mount]));
        pod(name, object!({ "volumes": [{ "name": "v", "emptyDir": {} }], "containers": [container] }))
    };
    rig.api.put("pods", mounting("possible", "IfPossible"));
    rig.api.put("pods", mounting("enabled", "Enabled"));
    let runs = rig.pod("possible", |p| meta::condition_is_true(p, "Ready")).await;
    let mode = |p: &Value| container_status(p, 0).list_at(&["volumeMounts"])[0].str_at(&["recursiveReadOnly"]).to_string();
    assert_eq!(mode(&runs), "Disabled");
    let waiting = |p: &Value| container_status(p, 0).at(&["state", "waiting"]).cloned().unwrap_or_default();
    let waits = rig.pod("enabled", |p| waiting(p).str_at(&["reason"]) == "CreateContainerConfigError").await;
    let why = "volume \"v\" requested recursive read-only mode, but it is not supported by the runtime";
    assert_eq!((waiting(&waits).str_at(&["message"]), mode(&waits).as_str()), (why, "Disabled"));
    rig.stop().await;
}

#[tokio::test]
async fn a_pod_that_ends_keeps_its_exit_codes_until_it_is_deleted() {
    let rig = Rig::start().await;
    rig.api.put("pods", pod("p", object!({ "restartPolicy": "Never", "containers": [(container("a")), (container("b"))] })));
    rig.pod("p", |p| meta::condition_is_true(p, "Ready")).await;
    rig.runtime.exit("a", 0);
    rig.pod("p", |p| container_status(p, 0).at(&["state", "terminated"]).is_some()).await;
    rig.runtime.exit("b", 3);
    let failed = rig.pod("p", |p| p.str_at(&["status", "phase"]) == "Failed").await;
    assert_eq!(container_status(&failed, 1).at(&["state", "terminated"]).and_then(|t| t.int_at(&["exitCode"])), Some(3));
    assert_eq!(container_status(&failed, 0).str_at(&["state", "terminated", "reason"]), "Completed");
    assert_eq!((rig.runtime.containers(), rig.runtime.ready_sandboxes()), (2, 0));
    rig.api.delete_pod("p", 30);
    rig.gone("p").await;
    assert_eq!(rig.runtime.sandboxes(), 0);
    rig.stop().await;
}

#[tokio::test]
async fn a_crashing_container_is_restarted_at_once_and_then_backs_off() {
    let rig = Rig::start().await;
    rig.api.put("pods", pod("p", object!({ "containers": [(container("a"))] })));
    rig.pod("p", |p| meta::condition_is_true(p, "Ready")).await;
    rig.runtime.exit("a", 1);
    let again = rig.pod("p", |p| container_status(p, 0).int_at(&["restartCount"]) == Some(1) && meta::condition_is_true(p, "Ready")).await;
    assert_eq!(container_status(&again, 0).at(&["lastState", "terminated"]).and_then(|t| t.int_at(&["exitCode"])), Some(1));
    rig.runtime.exit("a", 2);
    let waiting = rig.pod("p", |p| container_status(p, 0).str_at(&["state", "waiting", "reason"]) == "CrashLoopBackOff").await;
    let message = container_status(&waiting, 0).str_at(&["state", "waiting", "message"]).to_string();
    assert!(message.starts_with("back-off 10s restarting failed container=a pod=p_ns("), "{message}");
    rig.stop().await;
}

#[tokio::test]
async fn init_containers_come_first_and_their_failure_ends_a_pod_that_does_not_restart() {
    let rig = Rig::start().await;
    let spec = object!({ "restartPolicy": "Never", "initContainers": [(container("i"))], "containers": [(container("a"))] });
    rig.api.put("pods", pod("p", spec));
    let started = rig
        .pod("p", |p| p.list_at(&["status", "initContainerStatuses"]).first().is_some_and(|s| s.at(&["state", "running"]).is_some()))
        .await;
    assert_eq!(container_status(&started, 0).str_at(&["state", "waiting", "reason"]), "PodInitializing");
    rig.runtime.exit("i", 0);
    rig.pod("p", |p| meta::condition_is_true(p, "Ready")).await;
    let spec = object!({ "restartPolicy": "Never", "initContainers": [(container("j"))], "containers": [(container("b"))] });
    rig.api.put("pods", pod("q", spec));
    rig.pod("q", |p| p.list_at(&["status", "initContainerStatuses"]).first().is_some_and(|s| s.at(&["state", "running"]).is_some())).await;
    rig.runtime.exit("j", 1);
    rig.pod("q", |p| p.str_at(&["status", "phase"]) == "Failed").await;
    rig.stop().await;
}

#[tokio::test]
async fn a_second_kubelet_takes_over_what_runs_and_tells_of_what_ended_meanwhile() {
    let mut rig = Rig::start().await;
    rig.api.put("pods", pod("p", object!({ "restartPolicy": "Never", "containers": [(container("a")), (container("b"))] })));
    rig.api.put("pods", pod("q", object!({ "containers": [(container("c"))] })));
    let before = rig.pod("p", |p| meta::condition_is_true(p, "Ready")).await;
    rig.pod("q", |p| meta::condition_is_true(p, "Ready")).await;
    rig.halt().await;
    rig.runtime.exit("a", 7);
    rig.api.remove("pods", "q");
    rig.resume().await;
    let after = rig.pod("p", |p| container_status(p, 0).at(&["state", "terminated"]).is_some()).await;
    assert_eq!(container_status(&after, 0).at(&["state", "terminated"]).and_then(|t| t.int_at(&["exitCode"])), Some(7));
    assert_eq!(container_status(&after, 1).str_at(&["containerID"]), container_status(&before, 1).str_at(&["containerID"]));
    assert_eq!(container_status(&after, 1).int_at(&["restartCount"]), Some(0));
    rig.until(|r| r.runtime.sandboxes() == 1).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_dead_sandbox_is_replaced_and_its_containers_count_as_restarted() {
    let rig = Rig::start().await;
    rig.api.put("pods", pod("p", object!({ "containers": [(container("a"))] })));
    rig.api.put("pods", pod("q", object!({ "restartPolicy": "Never", "containers": [(container("b"))] })));
    for name in ["p", "q"] {
        rig.pod(name, |p| meta::condition_is_true(p, "Ready")).await;
    }
    for attempt in 1..=2 {
        rig.runtime.reboot();
        let again = |p: &Value| meta::condition_is_true(p, "Ready") && container_status(p, 0).int_at(&["restartCount"]) == Some(attempt);
        if attempt == 1 {
            rig.pod("p", again).await;
            rig.pod("q", |p| p.str_at(&["status", "phase"]) == "Failed").await;
        }
    }
    // The dead one that tells the last exit, and that of the pod that ended.
    rig.until(|r| r.runtime.sandboxes() <= 3).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_pod_waits_for_its_config_map_and_sees_it_change() {
    let rig = Rig::start().await;
    let mut with_volume = container("a");
    with_volume.set(&["volumeMounts"], object!([{ "name": "v", "mountPath": "/v" }]));
    let spec = object!({ "containers": [with_volume], "volumes": [{ "name": "v", "configMap": { "name": "m" } }] });
    rig.api.put("pods", pod("p", spec));
    rig.until_event("FailedMount MountVolume.SetUp failed for volume \"v\" : configmap \"m\" not found").await;
    let map = |text: &str| object!({ "metadata": { "namespace": "ns", "name": "m" }, "data": { "k": text } });
    rig.api.put("configmaps", map("1"));
    let running = rig.pod("p", |p| meta::condition_is_true(p, "Ready")).await;
    let file = rig.root().join("pods").join(meta::uid(&running)).join("volumes/kubernetes.io~configmap/v/k");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "1");
    rig.api.put("configmaps", map("2"));
    rig.until(|_| std::fs::read_to_string(&file).is_ok_and(|text| text == "2")).await;
    rig.api.delete_pod("p", 0);
    rig.gone("p").await;
    rig.stop().await;
}

#[tokio::test]
async fn a_pod_that_does_not_fit_fails_without_a_container() {
    let rig = Rig::start().await;
    let mut big = container("a");
    big.set(&["resources", "requests", "cpu"], "5000");
    rig.api.put("pods", pod("p", object!({ "containers": [big] })));
    let failed = rig.pod("p", |p| p.str_at(&["status", "phase"]) == "Failed").await;
    assert_eq!(status(&failed).str_at(&["reason"]), "OutOfcpu");
    assert_eq!((rig.runtime.sandboxes(), rig.runtime.containers()), (0, 0));
    rig.stop().await;
}

#[tokio::test]
async fn a_failing_liveness_probe_restarts_a_container() {
    let rig = Rig::start().await;
    let mut probed = container("a");
    probed.set(&["livenessProbe"], object!({ "exec": { "command": ["false"] }, "periodSeconds": 1, "failureThreshold": 1 }));
    rig.api.put("pods", pod("p", object!({ "containers": [probed] })));
    rig.pod("p", |p| container_status(p, 0).int_at(&["restartCount"]) == Some(1)).await;
    rig.until_event("Killing Container a failed liveness probe, will be restarted").await;
    rig.until_event("Unhealthy Liveness probe failed: no").await;
    rig.stop().await;
}

#[tokio::test]
async fn an_image_that_cannot_be_pulled_is_told_and_backs_off() {
    let rig = Rig::start().await;
    let mut missing = container("a");
    missing.set(&["image"], "missing:1");
    rig.api.put("pods", pod("p", object!({ "containers": [missing] })));
    let waiting = rig.pod("p", |p| container_status(p, 0).str_at(&["state", "waiting", "reason"]) == "ImagePullBackOff").await;
    assert_eq!(waiting.str_at(&["status", "phase"]), "Pending");
    let told = rig.events().await;
    assert!(told.iter().any(|e| e.starts_with("Failed Failed to pull image \"missing:1\"")), "{told:?}");
    rig.api.delete_pod("p", 30);
    rig.gone("p").await;
    rig.stop().await;
}

#[tokio::test]
async fn an_image_that_a_secret_has_opened_is_refused_to_pods_without_it() {
    let mut rig = Rig::start().await;
    let config = r#"{"auths":{"private.example":{"username":"known","password":"p"}}}"#;
    let secret = |name: &str| {
        object!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "namespace": "ns", "name": name, "uid": name }, 
            "data": { ".dockerconfigjson": (base64::Engine::encode(&base64::engine::general_purpose::STANDARD, config)) } })
    };
    rig.api.put("secrets", secret("s"));
    rig.api.put("secrets", secret("copy"));
    let with = |name: &str, policy: &str, secret: Option<&str>| {
        let mut container = container("c");
        container.set(&["image"], "private.example/app:1");
        container.set(&["imagePullPolicy"], policy);
        let secrets: Vec<Value> = secret.into_iter().map(|name| object!({ "name": name })).collect();
        pod(name, object!({ "containers": [container], "imagePullSecrets": secrets }))
    };
    let waits = |pod: &Value| container_status(pod, 0).str_at(&["state", "waiting", "reason"]).to_string();
    rig.api.put("pods", with("first", "IfNotPresent", Some("s")));
    rig.pod("first", |p| meta::condition_is_true(p, "Ready")).await;
    for again in [false, true] {
        // Another kubelet knows it too.
        if again {
            rig.halt().await;
            rig.resume().await;
        }
        let name = |of: &str| format!("{of}-{again}");
        rig.api.put("pods", with(&name("stranger"), "IfNotPresent", None));
        rig.pod(&name("stranger"), |p| waits(p) == "ImagePullBackOff").await;
        rig.api.put("pods", with(&name("never"), "Never", None));
        rig.pod(&name("never"), |p| waits(p) == "ErrImageNeverPull").await;
        rig.api.put("pods", with(&name("same"), "Never", Some("s")));
        rig.pod(&name("same"), |p| meta::condition_is_true(p, "Ready")).await;
        rig.api.put("pods", with(&name("copy"), "Never", Some("copy")));
        rig.pod(&name("copy"), |p| meta::condition_is_true(p, "Ready")).await;
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_deadline_counts_while_an_image_is_pulled() {
    let rig = Rig::start().await;
    let mut stalled = container("a");
    stalled.set(&["image"], "stalled:1");
    rig.api.put("pods", pod("p", object!({ "containers": [stalled], "activeDeadlineSeconds": 1 })));
    let ended = rig.pod("p", |p| p.str_at(&["status", "phase"]) == "Failed").await;
    assert_eq!(ended.str_at(&["status", "reason"]), "DeadlineExceeded");
    rig.api.delete_pod("p", 0);
    rig.gone("p").await;
    rig.stop().await;
}

#[tokio::test]
async fn the_node_is_registered_ready_and_holds_its_lease() {
    let rig = Rig::start().await;
    rig.until(|r| r.api.get("nodes", "node").is_some_and(|n| meta::condition_is_true(&n, "Ready"))).await;
    let node = rig.api.get("nodes", "node").unwrap();
    assert_eq!(meta::label(&node, "kubernetes.io/hostname"), Some("node"));
    assert_eq!(node.str_at(&["status", "capacity", "pods"]), "110");
    rig.until(|r| r.api.get("leases", "kube-node-lease/node").is_some()).await;
    rig.stop().await;
}

/// A pod whose container asks for cpu, of a generation.
fn sized(cpu: &str, policy: &str, generation: i64) -> Value {
    let mut container = container("a");
    container.set(&["resources"], object!({ "requests": { "cpu": cpu } }));
    container.set(&["resizePolicy"], object!([{ "resourceName": "cpu", "restartPolicy": policy }]));
    let mut pod = pod("p", object!({ "containers": [container] }));
    pod.set(&["metadata", "generation"], generation);
    pod
}

/// Changes what a pod asks for, as its subresource `resize` does.
fn resize(rig: &Rig, current: &Value, cpu: &str, policy: &str) {
    let mut changed = current.clone();
    changed.set(&["spec"], sized(cpu, policy, 0).get("spec").cloned());
    changed.set(&["metadata", "generation"], meta::generation(current) + 1);
    rig.api.put("pods", changed);
}

fn runs_with(pod: &Value, cpu: &str, restarts: i64) -> bool {
    let status = container_status(pod, 0);
    let settled = meta::condition(pod, "PodResizeInProgress").is_none() && meta::condition(pod, "PodResizePending").is_none();
    settled
        && status.str_at(&["resources", "requests", "cpu"]) == cpu
        && status.str_at(&["allocatedResources", "cpu"]) == cpu
        && status.int_at(&["restartCount"]) == Some(restarts)
}

#[tokio::test]
async fn a_pod_is_resized_in_place_or_by_a_restart_as_its_policy_says() {
    let rig = Rig::start().await;
    rig.api.put("pods", sized("100m", "NotRequired", 1));
    let running = rig.pod("p", |p| meta::condition_is_true(p, "Ready")).await;
    resize(&rig, &running, "200m", "NotRequired");
    let resized = rig.pod("p", |p| runs_with(p, "200m", 0)).await;
    assert_eq!(resized.int_at(&["status", "observedGeneration"]), Some(2));
    resize(&rig, &resized, "300m", "RestartContainer");
    rig.pod("p", |p| runs_with(p, "300m", 1) && meta::condition_is_true(p, "Ready")).await;
    let told = rig.events().await;
    for wanted in ["ResizeStarted Pod resize started", "ResizeCompleted Pod resize completed"] {
        assert!(told.iter().any(|e| e.starts_with(wanted)), "{wanted}: {told:?}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn an_init_container_is_resized_while_it_runs() {
    let rig = Rig::start().await;
    let with_init = |cpu: &str, generation: i64| {
        let mut pod = sized("100m", "NotRequired", generation);
        let mut init = container("i");
        init.set(&["resources"], object!({ "requests": { "cpu": cpu } }));
        pod.set(&["spec", "initContainers"], object!([init]));
        pod
    };
    let shown = |pod: &Value, cpu: &str| {
        let status = pod.list_at(&["status", "initContainerStatuses"]).first().cloned().unwrap_or_default();
        let running = status.at(&["state", "running"]).is_some();
        running && status.str_at(&["resources", "requests", "cpu"]) == cpu && meta::condition(pod, "PodResizeInProgress").is_none()
    };
    rig.api.put("pods", with_init("100m", 1));
    let mut changed = Value::clone(&*rig.pod("p", |p| shown(p, "100m")).await);
    changed.set(&["spec"], with_init("200m", 2).get("spec").cloned());
    changed.set(&["metadata", "generation"], 2);
    rig.api.put("pods", changed);
    let resized = rig.pod("p", |p| shown(p, "200m")).await;
    assert_eq!(resized.list_at(&["status", "initContainerStatuses"])[0].int_at(&["restartCount"]), Some(0));
    rig.stop().await;
}

#[tokio::test]
async fn a_resize_that_the_node_cannot_give_leaves_the_pod_as_it_is_over_a_restart_of_the_kubelet() {
    let mut rig = Rig::start().await;
    rig.api.put("pods", sized("100m", "NotRequired", 1));
    let running = rig.pod("p", |p| meta::condition_is_true(p, "Ready")).await;
    resize(&rig, &running, "9999", "NotRequired");
    let infeasible = |p: &Value| meta::condition(p, "PodResizePending").is_some_and(|c| c.str_at(&["reason"]) == "Infeasible");
    let pending = rig.pod("p", infeasible).await;
    assert_eq!(container_status(&pending, 0).str_at(&["allocatedResources", "cpu"]), "100m");
    rig.halt().await;
    rig.resume().await;
    let pending = rig.pod("p", infeasible).await;
    assert_eq!(container_status(&pending, 0).str_at(&["allocatedResources", "cpu"]), "100m");
    resize(&rig, &pending, "200m", "NotRequired");
    rig.pod("p", |p| runs_with(p, "200m", 0)).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_pull_that_was_cut_off_is_recorded_by_the_name_that_it_was_asked_for() {
    let mut rig = Rig::start().await;
    rig.api.put("pods", pod("p", object!({ "containers": [(container("c"))] })));
    rig.pod("p", |p| meta::condition_is_true(p, "Ready")).await;
    rig.halt().await;
    // As a kubelet leaves it that is killed while it pulls; the runtime knows the image by this name, and lists it by none.
    let (pulling, pulled) = (rig.root().join("image_manager/pulling"), rig.root().join("image_manager/pulled"));
    let _ = std::fs::remove_dir_all(&pulled);
    std::fs::create_dir_all(&pulling).unwrap();
    let intent = r#"{"kind":"ImagePullIntent","apiVersion":"kubelet.config.k8s.io/v1beta1","image":"img:1"}"#;
    std::fs::write(pulling.join("sha256-0"), intent).unwrap();
    rig.resume().await;
    rig.until(|_| std::fs::read_dir(&pulled).is_ok_and(|mut all| all.next().is_some())).await;
    rig.stop().await;
}
