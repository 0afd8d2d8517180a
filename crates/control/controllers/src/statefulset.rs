//! StatefulSets: pods with a name, an order and claims of their own.

mod identity;
mod owners;
mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use fram_client::resources::{CONTROLLER_REVISIONS, PERSISTENT_VOLUME_CLAIMS, PODS, STATEFUL_SETS};
use fram_client::{Action, Client, Controller, DeleteOptions, EventRecorder, Informer, PatchKind};
use fram_machinery::{Reason, Status, Value, meta, object};

use crate::objects::{Objects, Seen, settled};
use crate::replicaset::again;
use crate::{Context, claim, pods, revisions};
use owners::Owned;
use plan::{Plan, View, plan};

pub(crate) fn start(context: &Context) {
    let (sets, all) = (context.informers.get(&STATEFUL_SETS), context.informers.get(&PODS));
    context.metrics.inventory.follow(&sets, &context.stop);
    let (claims, history) = (context.informers.get(&PERSISTENT_VOLUME_CLAIMS), context.informers.get(&CONTROLLER_REVISIONS));
    let client = context.client("statefulset-controller");
    let reconciler = Reconciler {
        pods: Objects::new(&client, &all),
        sets: Objects::new(&client, &sets),
        revisions: Objects::new(&client, &history),
        claims: Objects::new(&client, &claims),
        events: context.recorder("statefulset-controller", "statefulset-controller"),
        client,
        now: context.now.clone(),
    };
    let owners = sets.clone();
    let controller = Controller::new("statefulset", 5)
        .owns(&sets)
        .watches_deltas(&all, move |delta| pods::owners_concerned(delta, "StatefulSet", |pod| adopters(pod, &owners)))
        .watches(&history, own_controller);
    context.run(controller, reconciler, |r, key| async move { r.reconcile(&key).await });
}

fn own_controller(object: &Value) -> Vec<String> {
    let owner = meta::controller_of(object).filter(|o| o.str_at(&["kind"]) == "StatefulSet");
    owner.map(|o| format!("{}/{}", meta::namespace(object), o.str_at(&["name"]))).into_iter().collect()
}

fn may_adopt(set: &Value, pod: &Value) -> bool {
    identity::ordinal(set, meta::name(pod)).is_some() && pods::selector(set).is_some_and(|s| s.matches(meta::labels(pod)))
}

/// The sets that may adopt a pod.
fn adopters(pod: &Value, sets: &Informer) -> Vec<String> {
    sets.by_namespace(meta::namespace(pod)).iter().filter(|set| may_adopt(set, pod)).map(|set| meta::key(set)).collect()
}

struct Reconciler {
    client: Client,
    sets: Objects,
    pods: Objects,
    revisions: Objects,
    claims: Objects,
    events: EventRecorder,
    now: crate::Clock,
}

impl Reconciler {
    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let (namespace, name) = key.split_once('/').unwrap_or(("", key));
        let Some(set) = self.sets.get(namespace, name) else { return Ok(Action::Done) };
        let Some(selector) = pods::selector(&set).filter(|_| !meta::is_terminating(&set)) else { return Ok(Action::Done) };
        let mut history = self.revisions.of(&set, |r| selector.matches(meta::labels(r))).await?.objects;
        let orphans: Vec<_> = history.iter().filter(|r| meta::controller_of(r).is_none()).cloned().collect();
        claim::adopt(&self.revisions, &self.client, &STATEFUL_SETS, &set, &orphans).await?;
        let collisions = set.int_at(&["status", "collisionCount"]).unwrap_or(0);
        let Some(update) = revisions::sync(&self.revisions, &self.client, &set, &history, collisions).await? else {
            let mut status = set.get("status").cloned().unwrap_or(object!({}));
            status.set(&["collisionCount"], collisions + 1);
            settled(self.sets.write_status(&set, status).await)?;
            return Ok(Action::After(Duration::from_millis(1)));
        };
        history.retain(|r| meta::uid(r) != meta::uid(&update));
        history.push(update.clone());
        let named = set.str_at(&["status", "currentRevision"]);
        let current = history.iter().find(|r| meta::name(r) == named).unwrap_or(&update).clone();
        let seen = self.pods.of(&set, |p| may_adopt(&set, p)).await?;
        let claims = pods::claims(&set, &seen.objects);
        claim::adopt(&self.pods, &self.client, &STATEFUL_SETS, &set, &claims.adopt).await?;
        claim::release(&self.pods, &set, &claims.release).await?;
        let current_template = revisions::template(&current);
        let view = View {
            set: &set,
            mine: &claims.mine,
            current: meta::name(&current),
            update: meta::name(&update),
            current_template: &current_template,
            collisions,
            now: (self.now)(),
        };
        let plan = plan(&view);
        let live = |r: &Value| {
            [meta::name(&current), meta::name(&update)].contains(&meta::name(r))
                || claims.mine.iter().any(|p| meta::label(p, revisions::HASH) == Some(meta::name(r)))
        };
        revisions::delete(&self.revisions, &revisions::surplus(&set, &history, live)).await?;
        self.execute(&set, plan, &seen).await
    }

    async fn execute(&self, set: &Value, plan: Plan, seen: &Seen) -> Result<Action, Status> {
        for (warning, reason, message) in plan.events {
            self.events.event(set, warning, reason, message);
        }
        let done = async {
            for claim in plan.claims {
                self.make_claim(set, claim).await?;
            }
            for owned in &plan.claim_owners {
                self.own_claim(set, owned).await?;
            }
            for (pod, patch) in plan.repair {
                let result = self.pods.patch(&pod, "", PatchKind::Strategic, patch).await;
                self.tell(set, "update", "Pod", meta::name(&pod), &result);
                settled(result)?;
            }
            for pod in &plan.delete {
                let result = self.pods.delete(pod, DeleteOptions::default()).await;
                self.tell(set, "delete", "Pod", meta::name(pod), &result);
                result?;
            }
            for pod in plan.create {
                let name = meta::name(&pod).to_string();
                let result = self.pods.create(meta::namespace(set), pod).await;
                self.tell(set, "create", "Pod", &name, &result);
                result?;
            }
            Ok(())
        };
        let done: Result<(), Status> = done.await;
        settled(self.sets.write_status(set, plan.status).await)?;
        done?;
        Ok(again(seen, plan.requeue))
    }

    /// As upstream words it: `create Pod web-0 in StatefulSet web successful`.
    fn tell<T>(&self, set: &Value, verb: &str, kind: &str, name: &str, result: &Result<T, Status>) {
        let what = format!("{verb} {kind} {name} in StatefulSet {}", meta::name(set));
        let capital = match verb {
            "create" => "Create",
            "update" => "Update",
            _ => "Delete",
        };
        match result {
            Ok(_) => self.events.event(set, false, &format!("Successful{capital}"), format!("{what} successful")),
            Err(error) => self.events.event(set, true, &format!("Failed{capital}"), format!("{what} failed error: {}", error.message)),
        }
    }

    async fn make_claim(&self, set: &Value, claim: Value) -> Result<(), Status> {
        let (namespace, name) = (meta::namespace(set), meta::name(&claim).to_string());
        match self.claims.get(namespace, &name) {
            Some(existing) if meta::is_terminating(&existing) => {
                let about = format!("pvc {namespace}/{name} is being deleted");
                Err(Status::new(Reason::Conflict, about))
            }
            Some(_) => Ok(()),
            None => match self.claims.create(namespace, claim).await {
                Err(error) if error.is(Reason::AlreadyExists) => Ok(()),
                result => {
                    self.tell(set, "create", "Claim", &name, &result);
                    result.map(drop)
                }
            },
        }
    }

    /// Claims belong to the set, to a pod that goes, or to neither; other owners of theirs stay.
    async fn own_claim(&self, set: &Value, owned: &Owned) -> Result<(), Status> {
        let Some(claim) = self.claims.get(meta::namespace(set), &owned.claim) else { return Ok(()) };
        let Some(wanted) = owners::references(&claim, set, owned) else { return Ok(()) };
        let mut changed: Value = Arc::unwrap_or_clone(claim);
        changed.set(&["metadata", "ownerReferences"], wanted);
        settled(self.claims.update(changed).await)
    }
}
