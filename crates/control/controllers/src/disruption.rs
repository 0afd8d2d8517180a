//! PodDisruptionBudgets: how many pods may be evicted now. The eviction itself, which uses the number up, is the API server's.

mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;

use fram_client::resources::{DEPLOYMENTS, POD_DISRUPTION_BUDGETS, PODS, REPLICA_SETS, REPLICATION_CONTROLLERS, STATEFUL_SETS};
use fram_client::{Action, Controller, Delta, EventRecorder, Informer};
use fram_machinery::labels::Selector;
use fram_machinery::{Reason, Status, Value, meta};

use crate::Context;
use crate::objects::Objects;
use plan::{counts_the_same, plan};

pub(crate) fn start(context: &Context) {
    let (budgets, all) = (context.informers.get(&POD_DISRUPTION_BUDGETS), context.informers.get(&PODS));
    let owners = [
        ("ReplicaSet", context.informers.get(&REPLICA_SETS)),
        ("Deployment", context.informers.get(&DEPLOYMENTS)),
        ("StatefulSet", context.informers.get(&STATEFUL_SETS)),
        ("ReplicationController", context.informers.get(&REPLICATION_CONTROLLERS)),
    ];
    let client = context.client("disruption-controller");
    let reconciler = Reconciler {
        budgets: Objects::new(&client, &budgets),
        pods: all.clone(),
        owners: owners.clone(),
        events: context.recorder("disruption-controller", "controllermanager"),
        now: context.now.clone(),
    };
    let selecting = budgets.clone();
    let mut controller =
        Controller::new("disruption", 4).owns(&budgets).watches_deltas(&all, move |delta| budgets_concerned(delta, &selecting));
    for (_, owner) in &owners {
        let here = budgets.clone();
        controller = controller.watches_deltas(owner, move |delta| {
            let size = |o: &Arc<Value>| o.int_at(&["spec", "replicas"]);
            if delta.old.as_ref().map(size) == delta.new.as_ref().map(size) {
                return Vec::new();
            }
            here.by_namespace(meta::namespace(delta.object())).iter().map(|b| meta::key(b)).collect()
        });
    }
    context.run(controller, reconciler, |r, key| async move { r.reconcile(&key).await });
}

/// The budgets that select a pod, as it is or as it was, where it counts otherwise than before.
fn budgets_concerned(delta: &Delta, budgets: &Informer) -> Vec<String> {
    let sides = [delta.old.as_deref(), delta.new.as_deref()];
    if let [Some(old), Some(new)] = sides
        && counts_the_same(old, new)
    {
        return Vec::new();
    }
    let here = budgets.by_namespace(meta::namespace(delta.object()));
    here.iter().filter(|b| sides.into_iter().flatten().any(|pod| selects(b, pod))).map(|b| meta::key(b)).collect()
}

/// An empty selector selects every pod, none at all no pod; see policy/v1.
fn selects(budget: &Value, pod: &Value) -> bool {
    let selector = budget.at(&["spec", "selector"]).filter(|s| !s.is_null());
    selector.is_some_and(|s| Selector::from_object(Some(s)).ok().flatten().is_some_and(|s| s.matches(meta::labels(pod))))
}

struct Reconciler {
    budgets: Objects,
    pods: Informer,
    owners: [(&'static str, Informer); 4],
    events: EventRecorder,
    now: crate::Clock,
}

impl Reconciler {
    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let (namespace, name) = key.split_once('/').unwrap_or(("", key));
        let Some(budget) = self.budgets.get(namespace, name) else { return Ok(Action::Done) };
        let mut pods = self.pods.by_namespace(namespace);
        pods.retain(|p| selects(&budget, p) && !crate::pods::has_ended(p));
        if pods.is_empty() {
            self.events.event(&budget, false, "NoPods", "No matching pods found");
        }
        let plan = plan(&budget, &pods, self.scale(&pods), (self.now)());
        match self.budgets.write_status(&budget, plan.status).await {
            // The eviction of a pod writes the same status: its change brings the key back.
            Err(status) if !matches!(status.reason, Reason::NotFound) => Err(status),
            _ => Ok(plan.requeue.map_or(Action::Done, Action::After)),
        }
    }

    /// What the controllers of these pods want together; None where one of them is not known.
    fn scale(&self, pods: &[Arc<Value>]) -> Option<i64> {
        let mut sizes: BTreeMap<String, i64> = BTreeMap::new();
        for pod in pods {
            let (uid, size) = self.owner(pod)?;
            sizes.insert(uid, size);
        }
        Some(sizes.values().sum())
    }

    fn owner(&self, pod: &Value) -> Option<(String, i64)> {
        let mut owner = self.find(pod)?;
        if let Some(above) = self.find(&owner) {
            owner = above;
        }
        Some((meta::uid(&owner).to_string(), owner.int_at(&["spec", "replicas"]).unwrap_or(1)))
    }

    fn find(&self, object: &Value) -> Option<Arc<Value>> {
        let reference = meta::controller_of(object)?;
        let (_, informer) = self.owners.iter().find(|(kind, _)| *kind == reference.str_at(&["kind"]))?;
        let owner = informer.get_in(meta::namespace(object), reference.str_at(&["name"]))?;
        (meta::uid(&owner) == reference.str_at(&["uid"])).then_some(owner)
    }
}
