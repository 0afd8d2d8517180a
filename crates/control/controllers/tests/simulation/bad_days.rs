//! Days on which everything happens at once, or again and again: what the control plane asks for is bounded by what happens, and
//! by time where somebody undoes what it does.

use std::collections::BTreeMap;
use std::time::Duration;

use fram_client::resources::{
    CONFIG_MAPS, CRON_JOBS, DEPLOYMENTS, EVENTS, HORIZONTAL_POD_AUTOSCALERS, JOBS, NODES, POD_DISRUPTION_BUDGETS, PODS, REPLICA_SETS,
    RESOURCE_QUOTAS,
};
use fram_client::{Client, Informer, InformerOptions, PatchKind, Resource};
use fram_machinery::{Value, meta, object};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bad_input::{make, template};
use crate::kubelets::Kubelets;
use crate::users::NAMESPACE;
use crate::world::World;

const PRIORITY_CLASSES: Resource = Resource::new("scheduling.k8s.io", "v1", "priorityclasses");

/// A cluster without faults, and its own tasks.
pub(crate) struct Day {
    pub(crate) world: World,
    pub(crate) client: Client,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    before: BTreeMap<String, u64>,
}

impl Day {
    pub(crate) async fn new(nodes: usize) -> Self {
        Self::in_world(World::new(1).await, nodes).await
    }

    pub(crate) async fn in_world(mut world: World, nodes: usize) -> Self {
        world.faults.set(false);
        let (tasks, stop, client) = (TaskTracker::new(), CancellationToken::new(), world.admin());
        let kubelets = Kubelets::start(nodes, &client, &world.clock, &world.chance.branch("kubelets"), &tasks, &stop).await;
        kubelets.all_up();
        world.start();
        wait(2).await;
        Self { world, client, tasks, stop, before: BTreeMap::new() }
    }

    /// Counts from here.
    pub(crate) fn count(&mut self) {
        self.before = self.world.faults.counts.lock().clone();
    }

    /// Refuses what somebody asks for from here on, by who and what.
    pub(crate) fn refuse(&self, what: Option<&str>) {
        *self.world.faults.refused.lock() = what.map(String::from);
    }

    /// How often somebody asked for something since then, by parts of who and what.
    pub(crate) fn asked(&self, what: &str) -> u64 {
        let counts = self.world.faults.counts.lock();
        let since = |(name, count): (&String, &u64)| name.contains(what).then(|| count - self.before.get(name).copied().unwrap_or(0));
        counts.iter().filter_map(since).sum()
    }

    /// How often controllers were asked for a turn, and how many turns they took; those that were not at all are left out.
    pub(crate) fn turns(&self) -> BTreeMap<&'static str, (u64, u64)> {
        let counts = self.world.queues.counts().into_iter();
        counts.map(|(name, counts)| (name, (counts.adds, counts.reconciles))).filter(|(_, turns)| *turns != (0, 0)).collect()
    }

    pub(crate) async fn list(&self, resource: &Resource) -> Vec<std::sync::Arc<Value>> {
        self.client.within(resource, NAMESPACE).list(Default::default()).await.unwrap().items
    }

    pub(crate) async fn end(mut self) {
        self.world.crash().await;
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

pub(crate) async fn wait(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

pub(crate) fn run(day: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(day);
}

pub(crate) fn deployment(replicas: i64) -> Value {
    let labels = object!({ "app": "web" });
    object!({ "spec": { "replicas": replicas, "selector": { "matchLabels": (labels.clone()) }, "template": (template(labels, "serve")) } })
}

#[test]
fn thousands_of_pods_of_one_job_that_fail_at_once_cost_what_each_of_them_costs() {
    // Ten thousand take minutes; see CONTRIBUTING.md.
    let pods_at_once = crate::number("FRAM_SIM_PODS").unwrap_or(1000);
    run(async move {
        let mut day = Day::new(8).await;
        day.count();
        let mut failing = template(object!({ "app": "failing" }), "end:1000");
        failing.set(&["spec", "restartPolicy"], "Never");
        let most = pods_at_once as i64;
        let job = object!({ "spec": { "completions": most, "parallelism": most, "backoffLimit": 3, "template": failing } });
        make(&day.client, &JOBS, "failing", job).await;
        wait(600).await;
        let job = day.client.within(&JOBS, NAMESPACE).get("failing").await.unwrap();
        assert!(meta::condition_is_true(&job, "Failed"), "{:?}", job.get("status"));
        let held = day.list(&PODS).await.iter().filter(|p| meta::has_finalizer(p, "batch.kubernetes.io/job-tracking")).count();
        assert_eq!(held, 0, "pods are still counted");
        // A pod is made, let go, and deleted if it still ran.
        let (of_pods, of_job) =
            (day.asked("job-controller"), day.asked("job-controller update jobs") + day.asked("job-controller patch jobs"));
        assert!(of_pods <= 4 * pods_at_once, "{of_pods} requests for {pods_at_once} pods");
        println!("{of_pods} requests and {of_job} statuses for {pods_at_once} pods");
        assert!(of_job <= pods_at_once, "{of_job} statuses for {pods_at_once} pods");
        let told = day.asked("events");
        assert!(told <= 4 * pods_at_once, "{told} events");
        day.end().await;
    });
}

#[test]
fn a_pod_that_is_not_deleted_after_all_is_no_target_any_more() {
    run(async {
        let day = Day::new(1).await;
        make(&day.client, &PODS, "spared", template(object!({}), "serve")).await;
        wait(10).await;
        let now = day.world.clock.timestamp().to_string();
        let condition = object!({ "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "m", "lastTransitionTime": now });
        let said = object!({ "status": { "conditions": [condition] } });
        day.client.within(&PODS, NAMESPACE).patch("spared", "status", PatchKind::Strategic, said).await.unwrap();
        wait(110).await;
        let of = |pod: &Value| meta::condition(pod, "DisruptionTarget").map(|c| ["status", "reason"].map(|f| c.str_at(&[f]).to_string()));
        assert_eq!(of(&day.list(&PODS).await[0]).unwrap()[0], "True");
        wait(20).await;
        assert_eq!(of(&day.list(&PODS).await[0]).unwrap(), ["False", ""]);
        day.end().await;
    });
}

#[test]
fn a_quota_that_changes_under_load_is_kept_and_not_run_against() {
    run(async {
        let mut day = Day::new(2).await;
        make(&day.client, &RESOURCE_QUOTAS, "moving", object!({ "spec": { "hard": { "pods": "5" } } })).await;
        wait(2).await;
        day.count();
        make(&day.client, &DEPLOYMENTS, "web", deployment(40)).await;
        for round in 0..120_i64 {
            let hard = object!({ "spec": { "hard": { "pods": ((5 + round % 7).to_string()) } } });
            day.client.within(&RESOURCE_QUOTAS, NAMESPACE).patch("moving", "", PatchKind::Merge, hard).await.unwrap();
            wait(1).await;
            assert!(day.list(&PODS).await.len() <= 11);
        }
        let tries = day.asked("replicaset-controller create pods");
        assert!(tries <= 400, "{tries} pods were tried to be made");
        let counted = day.asked("resourcequota-controller");
        assert!(counted <= 5 * 120, "{counted} requests to count");
        let sets = day.list(&REPLICA_SETS).await;
        let condition = meta::condition(&sets[0], "ReplicaFailure").cloned().unwrap_or_default();
        assert_eq!(condition.str_at(&["reason"]), "FailedCreate");
        day.end().await;
    });
}

#[test]
fn a_fight_over_a_field_goes_on_no_faster_than_a_queue_lets_it() {
    const SECONDS: u64 = 120;
    run(async {
        let mut day = Day::new(1).await;
        make(&day.client, &DEPLOYMENTS, "web", deployment(2)).await;
        wait(30).await;
        // Somebody who puts another number into the ReplicaSet whenever the Deployment's controller has put in its own.
        let sets = Informer::start(day.client.clone(), REPLICA_SETS, "", InformerOptions::default(), &day.tasks, day.stop.clone());
        let (client, mut changes) = (day.client.clone(), sets.subscribe());
        let fight = async move {
            while let Some(deltas) = changes.changed().await {
                for set in deltas.iter().filter_map(|d| d.new.as_ref()).filter(|s| s.int_at(&["spec", "replicas"]) == Some(2)) {
                    let other = object!({ "spec": { "replicas": 3 } });
                    let _ = client.within(&REPLICA_SETS, NAMESPACE).patch(meta::name(set), "", PatchKind::Merge, other).await;
                }
            }
        };
        day.tasks.spawn(day.stop.clone().run_until_cancelled_owned(fight));
        day.count();
        wait(SECONDS).await;
        let (of_deployment, of_set) = (day.asked("deployment-controller"), day.asked("replicaset-controller"));
        println!("in {SECONDS} s the Deployment's controller asked {of_deployment} times, the ReplicaSet's {of_set} times");
        assert!(of_deployment >= 10, "nobody fights");
        // What a queue grants one key; a turn asks for a scale and a status at most.
        let turns = 200 + 20 * SECONDS;
        assert!(of_deployment <= 3 * turns, "{of_deployment} requests in {SECONDS} s");
        assert!(of_set <= 3 * turns, "{of_set} requests in {SECONDS} s");
        day.end().await;
    });
}

#[test]
fn a_node_that_flaps_every_second_costs_a_few_requests_each_time() {
    const FLAPS: u64 = 60;
    run(async {
        let mut day = Day::new(2).await;
        make(&day.client, &DEPLOYMENTS, "web", deployment(10)).await;
        wait(30).await;
        day.count();
        let on_node = day.list(&PODS).await.iter().filter(|p| p.str_at(&["spec", "nodeName"]) == "node-0").count() as u64;
        for flap in 0..FLAPS {
            let ready = if flap % 2 == 0 { "False" } else { "True" };
            let condition = object!({ "type": "Ready", "status": ready, "reason": "Flapping" });
            let status = object!({ "status": { "conditions": [condition] } });
            day.client.all(&NODES).patch("node-0", "status", PatchKind::Strategic, status).await.unwrap();
            wait(1).await;
        }
        // Taints on and off, however many pods there are.
        let asked = day.asked("node-controller");
        println!("{asked} requests for {FLAPS} flaps of a node with {on_node} pods");
        assert!(asked <= FLAPS * 4, "{asked} requests for {FLAPS} flaps of a node with {on_node} pods");
        let evicted = day.asked("delete pods");
        assert_eq!(evicted, 0, "nobody is evicted for a flap");
        day.end().await;
    });
}

#[test]
fn an_owner_in_another_namespace_is_none_and_an_object_without_a_namespace_is_never_collected_for_one() {
    run(async {
        let day = Day::new(1).await;
        let elsewhere = object!({ "metadata": { "name": "owner" } });
        let owner = day.client.within(&CONFIG_MAPS, "kube-system").create(elsewhere).await.unwrap();
        let owned = |uid: &str| {
            let reference = object!({ "apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid });
            object!({ "metadata": { "ownerReferences": [reference] } })
        };
        make(&day.client, &CONFIG_MAPS, "astray", owned(meta::uid(&owner))).await;
        for (name, uid) in [("of-one-that-is", meta::uid(&owner)), ("of-none", "0d9a1f5e-0000-4000-8000-000000000000")] {
            let mut class = owned(uid);
            class.set(&["metadata", "name"], name);
            class.set(&["value"], 7);
            day.client.all(&PRIORITY_CLASSES).create(class).await.unwrap();
        }
        wait(60).await;
        assert!(day.client.within(&CONFIG_MAPS, NAMESPACE).find("astray").await.unwrap().is_none());
        let mut told = Vec::new();
        for namespace in [NAMESPACE, "default"] {
            for event in day.client.within(&EVENTS, namespace).list(Default::default()).await.unwrap().items {
                if event.str_at(&["reason"]) == "OwnerRefInvalidNamespace" {
                    told.push(event.str_at(&["involvedObject", "name"]).to_string());
                }
            }
        }
        told.sort_unstable();
        told.dedup();
        assert_eq!(told, ["astray", "of-none", "of-one-that-is"]);
        for name in ["of-one-that-is", "of-none"] {
            assert!(day.client.all(&PRIORITY_CLASSES).find(name).await.unwrap().is_some(), "{name} is gone");
        }
        day.end().await;
    });
}

#[test]
fn a_budget_that_is_a_part_of_what_nobody_can_say_allows_nothing_and_says_why() {
    run(async {
        let day = Day::new(2).await;
        let budget = |app: &str, spec: Value| {
            let mut budget = object!({ "spec": spec });
            budget.set(&["spec", "selector"], object!({ "matchLabels": { "app": app } }));
            budget
        };
        make(&day.client, &PODS, "alone", template(object!({ "app": "alone" }), "serve")).await;
        let mut job = object!({ "spec": { "template": (template(object!({ "app": "job" }), "serve")) } });
        job.set(&["spec", "template", "spec", "restartPolicy"], "Never");
        make(&day.client, &JOBS, "job", job).await;
        make(&day.client, &DEPLOYMENTS, "web", deployment(3)).await;
        for (name, app, spec) in [
            ("alone-part", "alone", object!({ "maxUnavailable": 1 })),
            ("alone-number", "alone", object!({ "minAvailable": 0 })),
            ("job-part", "job", object!({ "minAvailable": "0%" })),
            ("web-part", "web", object!({ "maxUnavailable": "34%" })),
        ] {
            make(&day.client, &POD_DISRUPTION_BUDGETS, name, budget(app, spec)).await;
        }
        wait(60).await;
        let mut found = Vec::new();
        for budget in day.list(&POD_DISRUPTION_BUDGETS).await {
            let reason = meta::condition(&budget, "DisruptionAllowed").map(|c| c.str_at(&["reason"]).to_string()).unwrap_or_default();
            found.push(format!("{} {} {reason}", meta::name(&budget), budget.int_at(&["status", "disruptionsAllowed"]).unwrap_or(-1)));
        }
        let expect =
            ["alone-number 1 SufficientPods", "alone-part 0 InsufficientPods", "job-part 0 SyncFailed", "web-part 2 SufficientPods"];
        assert_eq!(found, expect);
        let events = day.list(&EVENTS).await;
        for (reason, name) in [("UnmanagedPods", "alone-part"), ("CalculateExpectedPodCountFailed", "job-part")] {
            let told = |e: &&std::sync::Arc<Value>| e.str_at(&["reason"]) == reason;
            assert!(events.iter().filter(told).all(|e| e.str_at(&["involvedObject", "name"]) == name));
            assert!(events.iter().any(|e| told(&e)), "{reason}");
        }
        day.end().await;
    });
}

#[test]
fn autoscalers_that_share_their_pods_leave_them_alone_until_one_of_them_is_gone() {
    run(async {
        let day = Day::new(2).await;
        make(&day.client, &DEPLOYMENTS, "web", deployment(2)).await;
        let metric =
            object!({ "type": "Resource", "resource": { "name": "cpu", "target": { "type": "Utilization", "averageUtilization": 50 } } });
        let target = object!({ "apiVersion": "apps/v1", "kind": "Deployment", "name": "web" });
        let scaler = object!({ "spec": { "maxReplicas": 5, "scaleTargetRef": target, "metrics": [metric] } });
        for name in ["one", "two"] {
            make(&day.client, &HORIZONTAL_POD_AUTOSCALERS, name, scaler.clone()).await;
        }
        wait(60).await;
        let reasons = async || {
            let all = day.list(&HORIZONTAL_POD_AUTOSCALERS).await;
            let reason = |s: &std::sync::Arc<Value>| meta::condition(s, "ScalingActive").map(|c| c.str_at(&["reason"]).to_string());
            all.iter().map(|s| reason(s).unwrap_or_default()).collect::<Vec<_>>()
        };
        assert_eq!(reasons().await, ["AmbiguousSelector", "AmbiguousSelector"]);
        day.client.within(&HORIZONTAL_POD_AUTOSCALERS, NAMESPACE).delete("two", Default::default()).await.unwrap();
        wait(60).await;
        assert_eq!(reasons().await, ["FailedGetResourceMetric"]);
        day.end().await;
    });
}

#[test]
fn a_clock_that_jumps_starts_one_job_of_those_that_were_missed_and_disturbs_nobody() {
    const DAY: i64 = 24 * 3600;
    run(async {
        let mut day = Day::new(3).await;
        let mut web = deployment(6);
        web.set(&["spec", "minReadySeconds"], 10);
        make(&day.client, &DEPLOYMENTS, "web", web).await;
        let mut hourly = template(object!({ "app": "hourly" }), "end:0");
        hourly.set(&["spec", "restartPolicy"], "Never");
        let job = object!({ "spec": { "template": hourly } });
        make(&day.client, &CRON_JOBS, "hourly", object!({ "spec": { "schedule": "30 * * * *", "jobTemplate": job } })).await;
        wait(120).await;
        let uids = async |day: &Day| {
            let pods = day.list(&PODS).await;
            let of_web = pods.iter().filter(|p| meta::label(p, "app") == Some("web"));
            of_web.map(|p| meta::uid(p).to_string()).collect::<std::collections::BTreeSet<_>>()
        };
        let (before, mut told) = (uids(&day).await, Vec::new());
        for jump in [DAY, -2 * DAY, DAY, 3 * DAY] {
            day.count();
            day.world.clock.jump(jump);
            wait(700).await;
            let asked = day.asked("");
            let jobs = day.asked("cronjob-controller create jobs");
            told.push((jump / DAY, asked, jobs));
            assert_eq!(uids(&day).await, before, "pods of a Deployment after a jump of {jump} s");
            let nodes = day.client.all(&NODES).list(Default::default()).await.unwrap().items;
            assert!(nodes.iter().all(|node| node.list_at(&["spec", "taints"]).is_empty()), "a node is tainted after a jump of {jump} s");
        }
        println!("days, requests, Jobs: {told:?}");
        assert!(told.iter().all(|(_, asked, _)| *asked <= 60), "{told:?}");
        // While the last start is in the future none is due.
        assert_eq!(told.iter().map(|(_, _, jobs)| *jobs).collect::<Vec<_>>(), [1, 0, 0, 1], "{told:?}");
        let events = day.list(&EVENTS).await;
        assert!(events.iter().any(|e| e.str_at(&["reason"]) == "SuccessfulCreate" && e.str_at(&["involvedObject", "name"]) == "hourly"));
        day.end().await;
    });
}
