//! The node's own objects: its registration, its status and its lease. See upstream's pkg/kubelet/nodestatus and
//! component-helpers' lease controller.

pub(crate) mod kernel;
pub(crate) mod machine;
mod report;

use std::sync::Arc;
use std::time::Duration;

use fram_client::resources::{LEASES, NODES};
use fram_client::{Client, Informer, PatchKind};
use fram_cri::RuntimeConfig;
use fram_machinery::{Map, Reason, Status, Value, human, meta, object};
use jiff::SignedDuration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::context::Context;

/// The CRI has no event for "the runtime is ready now".
const LOOK_UNTIL_READY: Duration = Duration::from_millis(250);
const RETRY: Duration = Duration::from_secs(1);
/// Rounds seconds.
const HALF_A_SECOND: SignedDuration = SignedDuration::from_millis(500);

/// Keeps the node's objects until `stop`.
pub(crate) async fn keep(ctx: Arc<Context>, client: Client, node: Informer, stop: CancellationToken) {
    let keeper = Keeper { ctx, client, node };
    stop.run_until_cancelled(async {
        if keeper.ctx.config.register_node {
            keeper.register().await;
        }
        tokio::join!(keeper.report(), keeper.renew(), keeper.follow_pod_cidr());
    })
    .await;
}

struct Keeper {
    ctx: Arc<Context>,
    client: Client,
    node: Informer,
}

impl Keeper {
    fn name(&self) -> &str {
        &self.ctx.config.node_name
    }

    /// Creates the node, or takes over the one that is there; tries until it succeeds.
    async fn register(&self) {
        loop {
            match self.try_register().await {
                Ok(()) => return,
                Err(error) => tracing::warn!(node = self.name(), %error, "the node could not be registered, will be tried again"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn try_register(&self) -> Result<(), Status> {
        let nodes = self.client.all(&NODES);
        let labels = report::labels(&self.ctx.config);
        let wanted: Map = labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let notes = report::annotations(&self.ctx.config);
        let notes: Map = notes.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let status = self.status(&Value::Null).await;
        let node = object!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": { "name": (self.name()), "labels": (wanted.clone()), "annotations": (notes.clone()) }, "spec": {}, "status": status
        });
        let config = &self.ctx.config;
        let mut node = node;
        if !config.taints.is_empty() {
            node.set(&["spec", "taints"], config.taints.clone());
        }
        if let Some(id) = &config.provider_id {
            node.set(&["spec", "providerID"], id.as_str());
        }
        match nodes.create(node).await {
            Ok(_) => return Ok(()),
            Err(status) if status.is(Reason::AlreadyExists) => {}
            Err(status) => return Err(status),
        }
        let found = nodes.get(self.name()).await?;
        let missing: Map =
            wanted.iter().filter(|(k, v)| meta::label(&found, k) != v.as_str()).map(|(k, v)| (k.clone(), v.clone())).collect();
        let unsaid: Map =
            notes.iter().filter(|(k, v)| meta::annotation(&found, k) != v.as_str()).map(|(k, v)| (k.clone(), v.clone())).collect();
        if !missing.is_empty() || !unsaid.is_empty() {
            let patch = object!({ "metadata": { "labels": missing, "annotations": unsaid } });
            nodes.patch(self.name(), "", PatchKind::Merge, patch).await?;
        }
        Ok(())
    }

    async fn status(&self, old: &Value) -> Value {
        let runtime = self.ctx.runtime.status().await.map_err(|error| format!("container runtime is down: {error}"));
        if let Ok(said) = &runtime {
            self.ctx.runtime_status.send_replace(said.clone());
        }
        let runtime = if *self.ctx.shutting_down.borrow() { Err("node is shutting down".into()) } else { runtime };
        let version = self.ctx.runtime.version().await.unwrap_or_default();
        let images = self.ctx.images.list().await.unwrap_or_default();
        let pressures = self.ctx.pressures.borrow().clone();
        report::status(&report::Facts { ctx: &self.ctx, old, runtime, version, images, pressures, now: self.ctx.clock.now() })
    }

    /// Writes the status when it changes, and from time to time.
    async fn report(&self) {
        let mut written: Option<(Value, Instant)> = None;
        let mut changes = self.node.subscribe();
        let mut pressures = self.ctx.pressures.subscribe();
        let mut devices = self.ctx.devices.subscribe();
        let mut going_down = self.ctx.shutting_down.subscribe();
        let mut was_ready = false;
        loop {
            let current = self.node.get(self.name());
            let old = current.as_deref().and_then(|n| n.get("status")).cloned().unwrap_or_default();
            let status = self.status(&old).await;
            let ready = report::is_ready(&status);
            let comparable = report::without_heartbeats(&status);
            let due =
                written.as_ref().is_none_or(|(last, at)| *last != comparable || at.elapsed() >= self.ctx.config.status_report_frequency);
            if due && current.is_some() {
                match self.write(&status).await {
                    Ok(()) => {
                        if ready != was_ready {
                            self.tell_readiness(ready);
                            was_ready = ready;
                        }
                        written = Some((comparable, Instant::now()));
                    }
                    Err(error) => tracing::warn!(node = self.name(), %error, "the node's status could not be written"),
                }
            }
            let pause = if ready && current.is_some() { self.ctx.config.status_update_frequency } else { LOOK_UNTIL_READY };
            tokio::select! {
                changed = changes.changed() => {
                    if changed.is_none() {
                        return;
                    }
                    // A node that was deleted is registered again, where the kubelet makes it.
                    if self.node.get(self.name()).is_none() && current.is_some() {
                        written = None;
                        if self.ctx.config.register_node {
                            self.register().await;
                        }
                    }
                }
                Ok(()) = pressures.changed() => {}
                Ok(()) = going_down.changed() => {}
                Ok(()) = devices.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn tell_readiness(&self, ready: bool) {
        let word = if ready { "NodeReady" } else { "NodeNotReady" };
        self.tell(false, word, format!("Node {} status is now: {word}", self.name()));
    }

    /// Timers go by the time that has passed. Who reads times should know, and tokens and certificates have theirs.
    fn tell_step(&self, step: SignedDuration) {
        let direction = if step.is_negative() { "back" } else { "forward" };
        let message = format!("The clock was set {direction} by {}", human::duration((step.abs() + HALF_A_SECOND).as_secs()));
        tracing::warn!(node = self.name(), "{message}");
        self.tell(true, "ClockStepped", message);
    }

    fn tell(&self, warning: bool, reason: &str, message: String) {
        let name = self.name();
        let reference = object!({ "apiVersion": "v1", "kind": "Node", "name": name, "uid": name });
        self.ctx.recorder.event_at(reference, warning, reason, message);
    }

    async fn write(&self, status: &Value) -> Result<(), Status> {
        let patch = object!({ "status": (status.clone()) });
        self.client.all(&NODES).patch(self.name(), "status", PatchKind::Merge, patch).await.map(drop)
    }

    async fn renew(&self) {
        let mut held: Option<Arc<Value>> = None;
        let mut steps = clock::Steps::new(self.ctx.clock.now());
        loop {
            if let Some(step) = steps.look(self.ctx.clock.now()) {
                self.tell_step(step);
            }
            let pause = match self.renew_once(held.take()).await {
                Ok(lease) => {
                    held = Some(lease);
                    // A quarter of the time for which it holds, as upstream.
                    Duration::from_millis(u64::try_from(self.ctx.config.lease_duration_seconds).unwrap_or(1) * 250)
                }
                Err(error) => {
                    tracing::info!(node = self.name(), %error, "the node's lease could not be renewed");
                    RETRY
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn renew_once(&self, held: Option<Arc<Value>>) -> Result<Arc<Value>, Status> {
        let leases = self.client.within(&LEASES, "kube-node-lease");
        let now = clock::micro_time(self.ctx.clock.now());
        let held = match held {
            Some(held) => Some(held),
            None => leases.find(self.name()).await?,
        };
        if let Some(held) = held {
            let mut lease = (*held).clone();
            lease.set(&["spec", "holderIdentity"], self.name());
            lease.set(&["spec", "leaseDurationSeconds"], self.ctx.config.lease_duration_seconds);
            lease.set(&["spec", "renewTime"], now);
            return leases.update(lease).await;
        }
        let spec = object!({ "holderIdentity": (self.name()), "leaseDurationSeconds": (self.ctx.config.lease_duration_seconds), "renewTime": now });
        let mut lease = object!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": { "name": (self.name()), "namespace": "kube-node-lease" }, "spec": spec
        });
        // The lease goes with its node.
        if let Some(node) = self.node.get(self.name()) {
            let owner = object!({ "apiVersion": "v1", "kind": "Node", "name": (self.name()), "uid": (meta::uid(&node)) });
            lease.set(&["metadata", "ownerReferences"], object!([owner]));
        }
        leases.create(lease).await
    }

    /// Tells the runtime which addresses its pods may have, as soon as the control plane has decided.
    async fn follow_pod_cidr(&self) {
        let mut told = String::new();
        let mut changes = self.node.subscribe();
        loop {
            let node = self.node.get(self.name());
            let given = node.as_deref().map(|n| n.str_at(&["spec", "podCIDR"])).filter(|c| !c.is_empty());
            let cidr = given.or(self.ctx.config.pod_cidr.as_deref()).unwrap_or_default().to_string();
            if !cidr.is_empty() && cidr != told {
                match self.ctx.runtime.update_runtime_config(&RuntimeConfig { pod_cidr: cidr.clone() }).await {
                    Ok(()) => told = cidr,
                    Err(error) => {
                        tracing::warn!(%error, "the runtime did not take the pod CIDR, will be tried again");
                        tokio::time::sleep(RETRY).await;
                        continue;
                    }
                }
            }
            if changes.changed().await.is_none() {
                return;
            }
        }
    }
}
