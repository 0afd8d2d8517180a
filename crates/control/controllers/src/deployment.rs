//! Deployments: roll-outs by ReplicaSets, one per template.

mod history;
mod plan;
mod rolling;
mod status;

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use fram_client::resources::{DEPLOYMENTS, PODS, REPLICA_SETS};
use fram_client::{Action, Client, Controller, DeleteOptions, EventRecorder, Informer, PatchKind};
use fram_machinery::labels::Selector;
use fram_machinery::status::NAMESPACE_TERMINATING;
use fram_machinery::{Reason, Status, Value, meta, object};

use crate::Context;
use crate::objects::unless_it_changed;
use plan::{Step, plan};

pub(crate) fn start(context: &Context) {
    let (deployments, sets) = (context.informers.get(&DEPLOYMENTS), context.informers.get(&REPLICA_SETS));
    let pods = context.informers.get(&PODS);
    let reconciler = Reconciler {
        client: context.client("deployment-controller"),
        deployments: deployments.clone(),
        pods: pods.clone(),
        events: context.recorder("deployment-controller", "deployment-controller"),
        now: context.now.clone(),
    };
    let (by_set, by_pod, known) = (deployments.clone(), sets.clone(), deployments.clone());
    let controller = Controller::new("deployment", 5)
        .owns(&deployments)
        .watches(&sets, move |set| owner_keys(set, &by_set))
        .watches_deltas(&pods, move |delta| {
            // Only the end of a pod matters, to roll-outs that recreate.
            let set = meta::controller_of(delta.object()).filter(|_| delta.new.is_none());
            let set = set.and_then(|o| by_pod.get_in(meta::namespace(delta.object()), o.str_at(&["name"])));
            let recreates = |key: &String| known.get(key).is_some_and(|d| d.str_at(&["spec", "strategy", "type"]) == "Recreate");
            set.map(|s| own_controller(&s)).unwrap_or_default().into_iter().filter(recreates).collect()
        });
    context.run(controller, reconciler, |r, key| async move { r.reconcile(&key).await });
}

fn own_controller(set: &Value) -> Vec<String> {
    let owner = meta::controller_of(set).filter(|o| o.str_at(&["kind"]) == "Deployment");
    owner.map(|o| format!("{}/{}", meta::namespace(set), o.str_at(&["name"]))).into_iter().collect()
}

fn owner_keys(set: &Value, deployments: &Informer) -> Vec<String> {
    if meta::controller_of(set).is_some() {
        return own_controller(set);
    }
    let all = deployments.by_namespace(meta::namespace(set));
    all.iter().filter(|d| selects(d, set)).map(|d| meta::key(d)).collect()
}

fn selects(deployment: &Value, set: &Value) -> bool {
    let selector = Selector::from_object(deployment.at(&["spec", "selector"])).ok().flatten();
    selector.is_some_and(|s| !s.is_everything() && s.matches(meta::labels(set)))
}

struct Reconciler {
    client: Client,
    deployments: Informer,
    pods: Informer,
    events: EventRecorder,
    now: crate::Clock,
}

impl Reconciler {
    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let Some(deployment) = self.deployments.get(key) else { return Ok(Action::Done) };
        let namespace = meta::namespace(&deployment).to_string();
        // Its own last writes may not be in the cache yet: the sets are asked of the server.
        let all = self.client.within(&REPLICA_SETS, &namespace).list(Default::default()).await?.items;
        let mut sets = Vec::new();
        for set in all.into_iter().filter(|s| selects(&deployment, s)) {
            match meta::controller_of(&set) {
                Some(owner) if owner.str_at(&["uid"]) == meta::uid(&deployment) => sets.push(set),
                Some(_) => {}
                None if meta::is_terminating(&deployment) => {}
                None => {
                    let patch = object!({ "metadata": { "uid": (meta::uid(&set)), "ownerReferences": [(meta::controller_reference(&deployment))] } });
                    sets.push(
                        self.client.within(&REPLICA_SETS, &namespace).patch(meta::name(&set), "", PatchKind::Strategic, patch).await?,
                    );
                }
            }
        }
        let running_old = self.has_pods_of(&namespace, &sets, &deployment);
        let plan = plan(&deployment, &sets, running_old, (self.now)());
        for step in plan.steps {
            self.execute(&deployment, step).await?;
        }
        self.write_status(&deployment, plan.status).await?;
        Ok(plan.requeue.map_or(Action::Done, |seconds| Action::After(Duration::from_secs(seconds))))
    }

    /// Whether pods of sets other than the current one still run; only roll-outs that recreate ask.
    fn has_pods_of(&self, namespace: &str, sets: &[Arc<Value>], deployment: &Value) -> bool {
        let current = plan::current_set(deployment, sets).map(|s| meta::uid(&s).to_string());
        let old: Vec<&str> = sets.iter().map(|s| meta::uid(s)).filter(|uid| Some(*uid) != current.as_deref()).collect();
        let ended = |p: &Value| matches!(p.str_at(&["status", "phase"]), "Succeeded" | "Failed");
        let of_old = |p: &Value| meta::controller_of(p).is_some_and(|o| old.contains(&o.str_at(&["uid"])));
        self.pods.by_namespace(namespace).iter().any(|p| of_old(p) && !ended(p))
    }

    async fn execute(&self, deployment: &Value, step: Step) -> Result<(), Status> {
        let namespace = meta::namespace(deployment);
        let sets = self.client.within(&REPLICA_SETS, namespace);
        match step {
            Step::Create(set) => self.create(deployment, set).await,
            Step::Update(set, former) => match sets.update(set).await {
                // Whoever changed it causes another round.
                Err(status) if status.is(Reason::NotFound) || status.is(Reason::Conflict) => Ok(()),
                Err(status) => Err(status),
                Ok(set) => {
                    self.tell_scaled(deployment, &set, former);
                    Ok(())
                }
            },
            Step::Delete(name) => match sets.delete(&name, DeleteOptions::default()).await {
                Err(status) if !status.is(Reason::NotFound) => Err(status),
                _ => Ok(()),
            },
            Step::SetRevision(revision) => {
                let mut changed = deployment.clone();
                meta::set_annotation(&mut changed, plan::REVISION, &revision);
                // The role of this controller allows updates, not patches.
                unless_it_changed(self.client.within(&DEPLOYMENTS, namespace).update(changed).await).map(drop)
            }
        }
    }

    async fn create(&self, deployment: &Value, set: Value) -> Result<(), Status> {
        let namespace = meta::namespace(deployment);
        let name = meta::name(&set).to_string();
        match self.client.within(&REPLICA_SETS, namespace).create(set.clone()).await {
            Err(status) if status.is(Reason::AlreadyExists) => {
                let other = self.client.within(&REPLICA_SETS, namespace).get(&name).await?;
                let same = plan::same_template(&other, deployment);
                if same && meta::controller_of(&other).is_some_and(|o| o.str_at(&["uid"]) == meta::uid(deployment)) {
                    return Ok(());
                }
                // Another template has the same hash: the next try hashes with this count.
                let count = deployment.int_at(&["status", "collisionCount"]).unwrap_or(0) + 1;
                let mut changed = deployment.clone();
                changed.set(&["status", "collisionCount"], count);
                unless_it_changed(self.client.within(&DEPLOYMENTS, namespace).update_status(changed).await)?;
                Ok(())
            }
            Err(status) => {
                // A namespace that ends takes its Deployments with it.
                if !status.has_cause(NAMESPACE_TERMINATING) {
                    let about = format!("Failed to create new replica set {name:?}: {}", status.message);
                    self.events.event(deployment, true, "ReplicaSetCreateError", about);
                }
                Err(status)
            }
            Ok(set) => {
                self.tell_scaled(deployment, &set, 0);
                Ok(())
            }
        }
    }

    fn tell_scaled(&self, deployment: &Value, set: &Value, former: i64) {
        let replicas = set.int_at(&["spec", "replicas"]).unwrap_or(0);
        let direction = match replicas.cmp(&former) {
            Ordering::Equal => return,
            Ordering::Greater => "up",
            Ordering::Less => "down",
        };
        let about = format!("Scaled {direction} replica set {} from {former} to {replicas}", meta::name(set));
        self.events.event(deployment, false, "ScalingReplicaSet", about);
    }

    async fn write_status(&self, deployment: &Value, status: Value) -> Result<(), Status> {
        if deployment.get("status") == Some(&status) {
            return Ok(());
        }
        let mut changed = deployment.clone();
        changed.set(&["status"], status);
        unless_it_changed(self.client.within(&DEPLOYMENTS, meta::namespace(deployment)).update_status(changed).await).map(drop)
    }
}

#[cfg(test)]
mod tests;
