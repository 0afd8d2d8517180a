//! Model kubelets: what a node would say of its pods, without running anything. A pod's annotation `sim/behaviour` says what
//! becomes of it: it serves, never becomes ready, ends after a while, well or not, or lingers for so many seconds once it is to go.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fram_client::resources::{LEASES, NODES, PODS};
use fram_client::{Client, DeleteOptions, Informer, InformerOptions, PatchKind, Preconditions};
use fram_machinery::normalize::format_time;
use fram_machinery::{Value, meta, object};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::random::Chance;
use crate::world::SimulatedClock;

const RENEWAL: Duration = Duration::from_secs(10);

/// Every node of the cluster, and whether each is up.
pub(crate) struct Kubelets {
    nodes: Vec<Node>,
}

#[derive(Clone)]
struct Node {
    name: String,
    client: Client,
    clock: Arc<SimulatedClock>,
    chance: Chance,
    up: watch::Sender<bool>,
    stop: CancellationToken,
}

impl Kubelets {
    pub(crate) async fn start(
        count: usize,
        client: &Client,
        clock: &Arc<SimulatedClock>,
        chance: &Chance,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Self {
        let mut nodes = Vec::new();
        for index in 0..count {
            let (client, clock, up) = (client.clone(), clock.clone(), watch::Sender::new(true));
            let node = Node { name: format!("node-{index}"), client, clock, chance: chance.clone(), up, stop: stop.clone() };
            node.register().await;
            tasks.spawn(stop.clone().run_until_cancelled_owned(node.clone().beat()));
            let options = InformerOptions::fields(format!("spec.nodeName={}", node.name));
            let pods = Informer::start(node.client.clone(), PODS, "", options, tasks, stop.clone());
            tasks.spawn(node.clone().follow(pods, tasks.clone()));
            nodes.push(node);
        }
        Self { nodes }
    }

    pub(crate) fn set_up(&self, index: usize, up: bool) {
        self.nodes[index % self.nodes.len()].up.send_replace(up);
    }

    pub(crate) fn all_up(&self) {
        for node in &self.nodes {
            node.up.send_replace(true);
        }
    }
}

impl Node {
    fn now(&self) -> String {
        format_time(self.clock.timestamp(), 0)
    }

    fn conditions(&self) -> Value {
        let at = self.now();
        let ready = object!({ "type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": (at.as_str()), "lastTransitionTime": (at.as_str()) });
        let calm = ["MemoryPressure", "DiskPressure", "PIDPressure"]
            .map(|ty| object!({ "type": ty, "status": "False", "lastHeartbeatTime": (at.as_str()), "lastTransitionTime": (at.as_str()) }));
        std::iter::once(ready).chain(calm).collect::<Vec<_>>().into()
    }

    async fn register(&self) {
        let amounts = || object!({ "cpu": "64", "memory": "256Gi", "pods": "500" });
        let node = object!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": (self.name.as_str()), "labels": { "kubernetes.io/hostname": (self.name.as_str()) } },
            "status": { "capacity": (amounts()), "allocatable": (amounts()), "conditions": (self.conditions()) } });
        let node = self.client.all(&NODES).create(node).await.unwrap();
        let owner = object!({ "apiVersion": "v1", "kind": "Node", "name": (self.name.as_str()), "uid": (meta::uid(&node)) });
        let lease = object!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": { "name": (self.name.as_str()), "ownerReferences": [owner] },
            "spec": { "holderIdentity": (self.name.as_str()), "leaseDurationSeconds": 40, "renewTime": (format_time(self.clock.timestamp(), 6)) } });
        self.client.within(&LEASES, "kube-node-lease").create(lease).await.unwrap();
    }

    /// The lease, and the status when the node comes back.
    async fn beat(self) {
        let mut up = self.up.subscribe();
        loop {
            if up.wait_for(|up| *up).await.is_err() {
                return;
            }
            let renewal = object!({ "spec": { "renewTime": (format_time(self.clock.timestamp(), 6)) } });
            let leases = self.client.within(&LEASES, "kube-node-lease");
            let _ = leases.patch(&self.name, "", PatchKind::Merge, renewal).await;
            tokio::select! {
                () = tokio::time::sleep(RENEWAL) => {}
                changed = up.changed() => if changed.is_err() { return },
            }
            let Ok(node) = self.client.all(&NODES).get(&self.name).await else { continue };
            if *up.borrow() && !meta::condition_is_true(&node, "Ready") {
                let status = object!({ "status": { "conditions": (self.conditions()) } });
                let _ = self.client.all(&NODES).patch(&self.name, "status", PatchKind::Strategic, status).await;
            }
        }
    }

    async fn follow(self, pods: Informer, tasks: TaskTracker) {
        let mut changes = pods.subscribe();
        let mut running: HashMap<String, CancellationToken> = HashMap::new();
        while let Some(deltas) = changes.changed().await {
            for delta in deltas {
                let Some(pod) = delta.new else {
                    let Some(life) = delta.old.and_then(|old| running.remove(meta::uid(&old))) else { continue };
                    life.cancel();
                    continue;
                };
                let known = running.contains_key(meta::uid(&pod));
                let life = running.entry(meta::uid(&pod).to_string()).or_insert_with(|| self.stop.child_token()).clone();
                if meta::is_terminating(&pod) {
                    life.cancel();
                }
                if known {
                    self.insist(&pod, &tasks);
                    continue;
                }
                let (node, pods) = (self.clone(), pods.clone());
                tasks.spawn(async move {
                    life.run_until_cancelled(node.live(&pod)).await;
                    node.stop.run_until_cancelled(node.end(&pods, &pod)).await;
                });
            }
        }
    }

    /// Says again that a pod is ready of which others said that it is not, while the node was silent.
    fn insist(&self, pod: &Arc<Value>, tasks: &TaskTracker) {
        let serves = meta::annotation(pod, "sim/behaviour").unwrap_or("serve") == "serve" && pod.str_at(&["status", "phase"]) == "Running";
        if serves && !meta::is_terminating(pod) && !meta::condition_is_true(pod, "Ready") {
            let (node, pod) = (self.clone(), pod.clone());
            tasks.spawn(async move {
                let again = node.say(&pod, object!({ "conditions": (node.ready(true)) }));
                node.stop.run_until_cancelled(again).await;
            });
        }
    }

    /// Asks for a patch of a pod's status while the node is up; false where there is no such pod.
    async fn say(&self, pod: &Value, status: Value) {
        let mut up = self.up.subscribe();
        let _ = up.wait_for(|up| *up).await;
        let patch = object!({ "metadata": { "uid": (meta::uid(pod)) }, "status": status });
        let pods = self.client.within(&PODS, meta::namespace(pod));
        let _ = pods.patch(meta::name(pod), "status", PatchKind::Strategic, patch).await;
    }

    fn ready(&self, ready: bool) -> Value {
        let status = if ready { "True" } else { "False" };
        let condition = |ty: &str| object!({ "type": ty, "status": status, "lastTransitionTime": (self.now()) });
        object!([(condition("Ready")), (condition("ContainersReady"))])
    }

    fn ended(&self, pod: &Value, code: i64) -> Value {
        let at = self.now();
        let state = object!({ "terminated": { "exitCode": code, "reason": (if code == 0 { "Completed" } else { "Error" }), "finishedAt": (at.as_str()), "startedAt": (at.as_str()) } });
        let name = pod.list_at(&["spec", "containers"])[0].str_at(&["name"]);
        object!({ "phase": (if code == 0 { "Succeeded" } else { "Failed" }), "conditions": (self.ready(false)),
            "containerStatuses": [{ "name": name, "ready": false, "restartCount": 0, "image": "i", "imageID": "i", "state": state }] })
    }

    /// From being bound until being deleted.
    async fn live(&self, pod: &Value) {
        tokio::time::sleep(self.chance.millis(20, 3000)).await;
        let behaviour = meta::annotation(pod, "sim/behaviour").unwrap_or("serve");
        let ip = format!("10.{}.{}.{}", self.chance.between(1, 250), self.chance.between(1, 250), self.chance.between(1, 250));
        let running = object!({ "phase": "Running", "startTime": (self.now()), "podIP": (ip.as_str()), "podIPs": [{ "ip": (ip.as_str()) }],
            "conditions": (self.ready(behaviour == "serve")) });
        self.say(pod, running).await;
        let (how, rate) = behaviour.split_once(':').unwrap_or((behaviour, "0"));
        if how == "end" {
            tokio::time::sleep(self.chance.millis(100, 20_000)).await;
            let fails = self.chance.happens(rate.parse().unwrap());
            self.say(pod, self.ended(pod, i64::from(fails))).await;
        }
        std::future::pending::<()>().await;
    }

    /// Once it is being deleted: its processes end, then it may go.
    async fn end(&self, pods: &Informer, pod: &Value) {
        let mut up = self.up.subscribe();
        let _ = up.wait_for(|up| *up).await;
        tokio::time::sleep(self.chance.millis(10, 4000)).await;
        if let Some(("linger", seconds)) = meta::annotation(pod, "sim/behaviour").and_then(|behaviour| behaviour.split_once(':')) {
            tokio::time::sleep(Duration::from_secs(seconds.parse().unwrap())).await;
        }
        let now = pods.get(&meta::key(pod)).filter(|p| meta::uid(p) == meta::uid(pod));
        let Some(now) = now else { return };
        if !matches!(now.str_at(&["status", "phase"]), "Succeeded" | "Failed") {
            self.say(pod, self.ended(pod, 143)).await;
        }
        let _ = up.wait_for(|up| *up).await;
        let preconditions = Preconditions { uid: Some(meta::uid(pod).into()), resource_version: None };
        let options = DeleteOptions { grace_period_seconds: Some(0), preconditions, ..Default::default() };
        let _ = self.client.within(&PODS, meta::namespace(pod)).delete(meta::name(pod), options).await;
    }
}
