//! ReplicaSets: as many pods as are asked for.

mod plan;

use std::sync::Arc;

use fram_client::resources::{PODS, REPLICA_SETS};
use fram_client::{Action, Client, Controller, DeleteOptions, Informer, PatchKind, Preconditions};
use fram_machinery::{Reason, Status, Value, meta, object};

use crate::Context;
use plan::{Plan, plan};

/// How many pods are created or deleted at once; see replicaset.BurstReplicas.
const BURST: usize = 500;

pub(crate) fn start(context: &Context) {
    let (sets, pods) = (context.informers.get(&REPLICA_SETS), context.informers.get(&PODS));
    let reconciler = Arc::new(Reconciler { client: context.client("replicaset-controller"), sets: sets.clone(), now: context.now.clone() });
    let owners = sets.clone();
    let controller = Controller::new("replicaset", 8).owns(&sets).watches(&pods, move |pod| owner_keys(pod, &owners));
    let stop = context.stop.clone();
    let reconcile = move |key: String| {
        let reconciler = reconciler.clone();
        async move { reconciler.reconcile(&key).await }
    };
    context.tasks.spawn(async move { controller.run(reconcile, stop).await });
}

/// The set that controls a pod; for an orphan, the sets that may adopt it.
fn owner_keys(pod: &Value, sets: &Informer) -> Vec<String> {
    let namespace = meta::namespace(pod);
    match meta::controller_of(pod) {
        Some(owner) if owner.str_at(&["kind"]) == "ReplicaSet" => vec![format!("{namespace}/{}", owner.str_at(&["name"]))],
        Some(_) => Vec::new(),
        None => sets.by_namespace(namespace).iter().filter(|set| plan::selects(set, pod)).map(|set| meta::key(set)).collect(),
    }
}

struct Reconciler {
    client: Client,
    sets: Informer,
    now: crate::Clock,
}

impl Reconciler {
    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let Some(set) = self.sets.get(key) else { return Ok(Action::Done) };
        let namespace = meta::namespace(&set).to_string();
        // The cache may lag behind this controller's own last writes: what it created is asked of the server.
        let pods = self.client.within(&PODS, &namespace).list(Default::default()).await?.items;
        let now = (self.now)();
        let Plan { adopt, release, create, delete, status, requeue } = plan(&set, &pods, now);
        for pod in &adopt {
            self.claim(&set, pod).await?;
        }
        for pod in &release {
            self.release(&set, pod).await?;
        }
        let mut failed = None;
        for _ in 0..create.min(BURST) {
            if let Err(error) = self.client.within(&PODS, &namespace).create(plan::new_pod(&set)).await {
                failed = Some(error);
                break;
            }
        }
        for pod in delete.iter().take(BURST) {
            let options = DeleteOptions {
                preconditions: Preconditions { uid: Some(meta::uid(pod).into()), resource_version: None },
                ..Default::default()
            };
            match self.client.within(&PODS, &namespace).delete(meta::name(pod), options).await {
                Err(error) if !error.is(Reason::NotFound) => failed = Some(error),
                _ => {}
            }
        }
        let status = plan::with_failure(status, &set, failed.as_ref(), now);
        if set.get("status") != Some(&status) {
            let mut changed = (*set).clone();
            changed.set(&["status"], status);
            match self.client.within(&REPLICA_SETS, &namespace).update_status(changed).await {
                Err(error) if error.is(Reason::NotFound) => {}
                Err(error) => return Err(error),
                Ok(_) => {}
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(requeue.map_or(Action::Done, Action::After)),
        }
    }

    async fn claim(&self, set: &Value, pod: &Value) -> Result<(), Status> {
        // Adopting for a set that is gone would leave the pod to the garbage collector.
        let fresh = self.client.within(&REPLICA_SETS, meta::namespace(set)).get(meta::name(set)).await?;
        if meta::uid(&fresh) != meta::uid(set) || meta::is_terminating(&fresh) {
            return Ok(());
        }
        let patch = object!({ "metadata": { "uid": (meta::uid(pod)), "ownerReferences": [(meta::controller_reference(set))] } });
        self.patch(pod, patch).await
    }

    async fn release(&self, set: &Value, pod: &Value) -> Result<(), Status> {
        let patch =
            object!({ "metadata": { "uid": (meta::uid(pod)), "ownerReferences": [{ "$patch": "delete", "uid": (meta::uid(set)) }] } });
        self.patch(pod, patch).await
    }

    async fn patch(&self, pod: &Value, patch: Value) -> Result<(), Status> {
        let pods = self.client.within(&PODS, meta::namespace(pod));
        match pods.patch(meta::name(pod), "", PatchKind::Strategic, patch).await {
            Err(error) if !matches!(error.reason, Reason::NotFound | Reason::Conflict | Reason::Invalid) => Err(error),
            _ => Ok(()),
        }
    }
}
