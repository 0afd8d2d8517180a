//! PodDisruptionBudgets: how many pods may be evicted now. The eviction itself, which uses the number up, is the API server's.

mod plan;
mod stale;

use std::collections::BTreeMap;
use std::sync::Arc;

use fram_client::resources::{DEPLOYMENTS, POD_DISRUPTION_BUDGETS, PODS, REPLICA_SETS, REPLICATION_CONTROLLERS, STATEFUL_SETS};
use fram_client::{Action, Call, Client, Controller, Delta, EventRecorder, Informer, Reply, Verb};
use fram_machinery::labels::Selector;
use fram_machinery::{Reason, Status, Value, meta};
use tokio::sync::watch;

use crate::Context;
use crate::context::KindInfo;
use crate::objects::Objects;
use plan::{Expected, counts_the_same, plan, wants_scale};

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
        kinds: context.kinds.clone(),
        custom_kinds: context.custom_kinds.clone(),
        events: context.recorder("disruption-controller", "controllermanager"),
        now: context.now.clone(),
        client,
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
    stale::start(context);
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
    client: Client,
    budgets: Objects,
    pods: Informer,
    owners: [(&'static str, Informer); 4],
    kinds: Arc<[KindInfo]>,
    custom_kinds: watch::Receiver<Arc<[KindInfo]>>,
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
        let expected = if wants_scale(&budget) { self.scale(&pods).await? } else { Expected::default() };
        if let Err(why) = &expected.scale {
            self.events.event(
                &budget,
                true,
                "CalculateExpectedPodCountFailed",
                format!("Failed to calculate the number of expected pods: {why}"),
            );
        } else if expected.unmanaged {
            self.events.event(&budget, true, "UnmanagedPods", plan::unmanaged(&budget));
        }
        let plan = plan(&budget, &pods, &expected.scale, (self.now)());
        match self.budgets.write_status(&budget, plan.status).await {
            // The eviction of a pod writes the same status: its change brings the key back.
            Err(status) if !matches!(status.reason, Reason::NotFound) => Err(status),
            _ => Ok(plan.requeue.map_or(Action::Done, Action::After)),
        }
    }

    /// What the controllers of these pods want together, without pods that have none; the reason where one of them cannot say.
    async fn scale(&self, pods: &[Arc<Value>]) -> Result<Expected, Status> {
        let (mut sizes, mut asked, mut unmanaged): (BTreeMap<String, i64>, BTreeMap<&str, String>, bool) = Default::default();
        for pod in pods {
            let Some(reference) = meta::controller_of(pod) else {
                unmanaged = true;
                continue;
            };
            let uid = reference.str_at(&["uid"]);
            if asked.contains_key(uid) {
                continue;
            }
            let found = match self.owner(pod) {
                Some(found) => Some(found),
                None => self.ask_for_scale(pod, reference).await?,
            };
            let Some((owner, size)) = found else {
                return Ok(Expected { scale: Err(format!("found no controllers for pod {:?}", meta::name(pod))), unmanaged });
            };
            sizes.insert(owner.clone(), size);
            asked.insert(uid, owner);
        }
        Ok(Expected { scale: Ok(sizes.values().sum()), unmanaged })
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

    /// The size of a controller of another kind, by its scale subresource; None where it has none, or is gone.
    async fn ask_for_scale(&self, pod: &Value, reference: &Value) -> Result<Option<(String, i64)>, Status> {
        let group = reference.str_at(&["apiVersion"]).rsplit_once('/').map_or("", |(group, _)| group);
        let is_meant = |k: &&KindInfo| k.kind == reference.str_at(&["kind"]) && k.resource.group == group;
        let kind = self.kinds.iter().find(is_meant).cloned().or_else(|| self.custom_kinds.borrow().iter().find(is_meant).cloned());
        let Some(kind) = kind.filter(|kind| kind.namespaced) else { return Ok(None) };
        let call = Call {
            resource: kind.resource,
            namespace: meta::namespace(pod).into(),
            name: reference.str_at(&["name"]).into(),
            subresource: "scale".into(),
            verb: Verb::Get,
        };
        match self.client.call(call).await {
            Ok(Reply::Object(scale)) if meta::uid(&scale) == reference.str_at(&["uid"]) => {
                Ok(Some((meta::uid(&scale).to_string(), scale.int_at(&["spec", "replicas"]).unwrap_or(0))))
            }
            Ok(_) => Ok(None),
            // Kinds without the subresource answer so too.
            Err(status) if matches!(status.reason, Reason::NotFound | Reason::MethodNotAllowed) => Ok(None),
            Err(status) => Err(status),
        }
    }
}
