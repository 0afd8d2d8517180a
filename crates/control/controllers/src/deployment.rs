//! Deployments: roll-outs by ReplicaSets, one per template.

mod history;
mod plan;
mod rolling;
mod status;

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use fram_client::resources::{DEPLOYMENTS, PODS, REPLICA_SETS};
use fram_client::{Action, Client, Controller, DeleteOptions, EventRecorder, Informer, OWNER_INDEX};
use fram_machinery::labels::Selector;
use fram_machinery::status::NAMESPACE_TERMINATING;
use fram_machinery::{Reason, Status, Value, meta};

use crate::objects::{Objects, unless_it_changed};
use crate::{Context, claim};
use plan::{Step, plan};

pub(crate) fn start(context: &Context) {
    let (deployments, sets) = (context.informers.get(&DEPLOYMENTS), context.informers.get(&REPLICA_SETS));
    let pods = context.informers.get(&PODS);
    let client = context.client("deployment-controller");
    let reconciler = Reconciler {
        sets: Objects::new(&client, &sets),
        client,
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

/// The sets of a Deployment; see upstream's ControllerRefManager.
#[derive(Default)]
struct Claims {
    own: Vec<Arc<Value>>,
    /// Nobody's, and selected.
    orphans: Vec<Arc<Value>>,
    /// Its own, and no longer selected.
    strays: Vec<Arc<Value>>,
}

impl Claims {
    fn of(deployment: &Value, sets: &[Arc<Value>]) -> Self {
        let mut claims = Self::default();
        for set in sets {
            match (meta::controller_of(set), selects(deployment, set)) {
                (Some(owner), selected) if owner.str_at(&["uid"]) == meta::uid(deployment) => {
                    if selected {
                        claims.own.push(set.clone())
                    } else {
                        claims.strays.push(set.clone())
                    }
                }
                (None, true) if !meta::is_terminating(set) => claims.orphans.push(set.clone()),
                _ => {}
            }
        }
        claims
    }
}

struct Reconciler {
    client: Client,
    sets: Objects,
    deployments: Informer,
    pods: Informer,
    events: EventRecorder,
    now: crate::Clock,
}

impl Reconciler {
    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let Some(deployment) = self.deployments.get(key) else { return Ok(Action::Done) };
        let found = || self.sets.of(&deployment, |set| selects(&deployment, set));
        let mut seen = found().await?;
        if !meta::is_terminating(&deployment) {
            let claims = Claims::of(&deployment, &seen.objects);
            claim::release(&self.sets, &deployment, &claims.strays).await?;
            if !claims.orphans.is_empty() {
                claim::adopt(&self.sets, &self.client, &DEPLOYMENTS, &deployment, &claims.orphans).await?;
                seen = found().await?;
                if !Claims::of(&deployment, &seen.objects).orphans.is_empty() {
                    return Err(Status::new(Reason::Conflict, "a replica set could not be adopted"));
                }
            }
        }
        let sets = Claims::of(&deployment, &seen.objects).own;
        let moves = !meta::is_terminating(&deployment) && deployment.bool_at(&["spec", "paused"]) != Some(true);
        if let Some((changed, (warning, reason, message))) = moves.then(|| history::roll_back(&deployment, &sets)).flatten() {
            // The change causes another round.
            if unless_it_changed(self.client.within(&DEPLOYMENTS, meta::namespace(&deployment)).update(changed).await)?.is_some() {
                self.events.event(&deployment, warning, reason, message);
            }
            return Ok(Action::Done);
        }
        let running_old = self.has_pods_of(&sets, &deployment);
        let plan = plan(&deployment, &sets, running_old, (self.now)());
        for step in plan.steps {
            self.execute(&deployment, &sets, step).await?;
        }
        self.write_status(&deployment, plan.status).await?;
        Ok(seen.again(plan.requeue.map(Duration::from_secs)).map_or(Action::Done, Action::After))
    }

    /// Whether pods of sets other than the current one still run; only roll-outs that recreate ask.
    fn has_pods_of(&self, sets: &[Arc<Value>], deployment: &Value) -> bool {
        if deployment.str_at(&["spec", "strategy", "type"]) != "Recreate" {
            return false;
        }
        let current = plan::current_set(deployment, sets).map(|s| meta::uid(&s).to_string());
        let old = sets.iter().map(|s| meta::uid(s)).filter(|uid| Some(*uid) != current.as_deref());
        let runs = |set: &str, pod: &Value| {
            let ended = matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed");
            !ended && meta::controller_of(pod).is_some_and(|owner| owner.str_at(&["uid"]) == set)
        };
        old.into_iter().any(|set| self.pods.by_index(OWNER_INDEX, set).iter().any(|pod| runs(set, pod)))
    }

    async fn execute(&self, deployment: &Value, sets: &[Arc<Value>], step: Step) -> Result<(), Status> {
        let namespace = meta::namespace(deployment);
        match step {
            Step::Create(set) => self.create(deployment, set).await,
            Step::Update(set, former) => match self.sets.update(set).await {
                // Whoever changed it causes another round.
                Err(status) if status.is(Reason::NotFound) || status.is(Reason::Conflict) => Ok(()),
                Err(status) => Err(status),
                Ok(set) => {
                    self.tell_scaled(deployment, &set, former);
                    Ok(())
                }
            },
            Step::Delete(name) => match sets.iter().find(|set| meta::name(set) == name) {
                Some(set) => self.sets.delete(set, DeleteOptions::default()).await,
                None => Ok(()),
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
        match self.sets.create(namespace, set).await {
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
