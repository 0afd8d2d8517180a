//! ReplicaSets and ReplicationControllers: as many pods as are asked for. The two differ in name and in the form of their
//! selector only.

mod plan;

use std::sync::Arc;

use fram_client::resources::{PODS, REPLICA_SETS, REPLICATION_CONTROLLERS};
use fram_client::{Action, Client, Controller, DeleteOptions, EventRecorder, Informer, Resource};
use fram_machinery::status::NAMESPACE_TERMINATING;
use fram_machinery::{Status, Value, meta};

use crate::objects::{Objects, Seen, settled};
use crate::{Context, claim, pods};
use plan::plan;

/// How many pods are created or deleted at once; see replicaset.BurstReplicas.
const BURST: usize = 500;

pub(crate) fn start(context: &Context) {
    run(context, "replicaset", "ReplicaSet", REPLICA_SETS, "replicaset-controller");
}

pub(crate) fn start_replication_controllers(context: &Context) {
    run(context, "replicationmanager", "ReplicationController", REPLICATION_CONTROLLERS, "replication-controller");
}

fn run(context: &Context, name: &'static str, kind: &'static str, resource: Resource, account: &str) {
    let (sets, all) = (context.informers.get(&resource), context.informers.get(&PODS));
    let client = context.client(account);
    let component = if kind == "ReplicaSet" { "replicaset-controller" } else { "replication-controller" };
    let reconciler = Reconciler {
        pods: Objects::new(&client, &all),
        owners: Objects::new(&client, &sets),
        events: context.recorder(account, component),
        client,
        resource,
        now: context.now.clone(),
    };
    let owners = sets.clone();
    let controller = Controller::new(name, 8).owns(&sets).watches_deltas(&all, move |delta| match pods::counts_the_same(delta) {
        true => Vec::new(),
        false => pods::owners_concerned(delta, kind, |pod| adopters(pod, &owners)),
    });
    context.run(controller, reconciler, |r, key| async move { r.reconcile(&key).await });
}

/// The sets that may adopt a pod.
fn adopters(pod: &Value, sets: &Informer) -> Vec<String> {
    let selects = |set: &Arc<Value>| pods::selector(set).is_some_and(|s| s.matches(meta::labels(pod)));
    sets.by_namespace(meta::namespace(pod)).iter().filter(|set| selects(set)).map(|set| meta::key(set)).collect()
}

struct Reconciler {
    client: Client,
    resource: Resource,
    pods: Objects,
    owners: Objects,
    events: EventRecorder,
    now: crate::Clock,
}

impl Reconciler {
    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let (namespace, name) = key.split_once('/').unwrap_or(("", key));
        let Some(set) = self.owners.get(namespace, name) else { return Ok(Action::Done) };
        let selector = pods::selector(&set);
        let seen = self.pods.of(&set, |p| selector.as_ref().is_some_and(|s| s.matches(meta::labels(p)))).await?;
        let now = (self.now)();
        let plan = plan(&set, &seen.objects, now);
        claim::adopt(&self.pods, &self.client, &self.resource, &set, &plan.adopt).await?;
        claim::release(&self.pods, &set, &plan.release).await?;
        let mut failed = self.create(&set, plan.create.min(BURST)).await;
        for pod in plan.delete.iter().take(BURST) {
            match self.pods.delete(pod, DeleteOptions::default()).await {
                Ok(()) => self.events.event(&set, false, "SuccessfulDelete", format!("Deleted pod: {}", meta::name(pod))),
                Err(error) => {
                    self.events.event(&set, true, "FailedDelete", format!("Error deleting: {}", error.message));
                    failed = Some(error);
                }
            }
        }
        let status = plan::with_failure(plan.status, &set, failed.as_ref(), now);
        settled(self.owners.write_status(&set, status).await)?;
        match failed {
            Some(error) => Err(error),
            None => Ok(again(&seen, plan.requeue)),
        }
    }

    /// Creates one after the other up to the first refusal: a quota that is used up costs one refusal and not five hundred.
    async fn create(&self, set: &Value, count: usize) -> Option<Status> {
        for _ in 0..count {
            let pod = pods::from_template(set, set.at(&["spec", "template"]));
            match self.pods.create(meta::namespace(set), pod).await {
                Ok(pod) => self.events.event(set, false, "SuccessfulCreate", format!("Created pod: {}", meta::name(&pod))),
                // A namespace that ends takes its sets with it.
                Err(error) if error.has_cause(NAMESPACE_TERMINATING) => return None,
                Err(error) => {
                    self.events.event(set, true, "FailedCreate", format!("Error creating: {}", error.message));
                    return Some(error);
                }
            }
        }
        None
    }
}

pub(crate) fn again(seen: &Seen, planned: Option<std::time::Duration>) -> Action {
    seen.again(planned).map_or(Action::Done, Action::After)
}
