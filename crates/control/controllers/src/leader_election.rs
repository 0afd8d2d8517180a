//! Coordinated leader election: gives a Lease to the best of those who offer themselves by LeaseCandidates, and deletes candidates
//! that are gone, where that kind is served. Upstream does this in its API server.

mod plan;

use std::sync::Arc;
use std::time::Duration;

use fram_client::resources::LEASES;
use fram_client::{Action, Client, Controller, DeleteOptions, Informer, Preconditions};
use fram_machinery::{Reason, Status, Value, meta};

use crate::Context;
use crate::context::Clock;
use crate::objects::{settled, unless_it_changed};
use plan::Step;

pub(crate) fn start(context: &Context) {
    let Some(resource) = context.served("coordination.k8s.io", "leasecandidates") else { return };
    let (leases, candidates) = (context.informers.get(&LEASES), context.informers.get(&resource));
    let client = context.client("leader-election-controller");
    let elector = Arc::new(Elector { client, leases: leases.clone(), candidates: candidates.clone(), now: context.now.clone() });
    let offered = elector.clone();
    let controller = Controller::new("leader-election-controller", 2)
        .watches(&candidates, |c| if was_just_asked(c) { Vec::new() } else { vec![key(meta::namespace(c), lease_name(c))] })
        .watches(&leases, move |l| {
            let (namespace, name) = (meta::namespace(l), meta::name(l));
            // Most Leases are those of nodes.
            if offered.candidates_for(namespace, name).is_empty() { Vec::new() } else { vec![key(namespace, name)] }
        });
    context.run(controller, elector.clone(), |elector, key| async move { elector.elect(&key).await });
    let collector = Controller::new("leasecandidate-garbage-collector", 1).owns(&candidates);
    context.run(collector, elector, |elector, key| async move { elector.collect(&key).await });
}

fn key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

fn lease_name(candidate: &Value) -> &str {
    candidate.str_at(&["spec", "leaseName"])
}

/// An election that has begun waits for its answer.
fn was_just_asked(candidate: &Value) -> bool {
    let at = |field: &str| crate::pods::time(candidate, &["spec", field]);
    at("pingTime").is_some_and(|ping| at("renewTime").is_some_and(|renewed| renewed < ping))
}

struct Elector {
    client: Client,
    leases: Informer,
    candidates: Informer,
    now: Clock,
}

impl Elector {
    fn candidates_for(&self, namespace: &str, lease: &str) -> Vec<Arc<Value>> {
        self.candidates.by_namespace(namespace).into_iter().filter(|c| lease_name(c) == lease).collect()
    }

    async fn elect(&self, key: &str) -> Result<Action, Status> {
        let Some((namespace, name)) = key.split_once('/') else { return Ok(Action::Done) };
        let now = (self.now)();
        let mut candidates = self.candidates_for(namespace, name);
        candidates.retain(|c| !plan::left(c, now).is_zero());
        if candidates.is_empty() {
            return Ok(Action::Done);
        }
        let lease = self.leases.get_in(namespace, name);
        let known: Vec<&Value> = candidates.iter().map(|c| &**c).collect();
        let step = match plan::plan(lease.as_deref(), &known, (namespace, name), now) {
            Ok(step) => step,
            Err(why) => {
                tracing::info!(lease = key, why, "nobody can be elected");
                // Who answers next changes a candidate, which is an event.
                return Ok(Action::After(Duration::from_secs(5)));
            }
        };
        let leases = self.client.within(&LEASES, namespace);
        match step {
            Step::Wait(time) => return Ok(Action::After(time)),
            Step::Ask(asked) => {
                let candidates = self.client.within(self.candidates.resource(), namespace);
                for candidate in asked {
                    unless_it_changed(candidates.update(candidate).await)?;
                }
            }
            Step::Create(lease) => match leases.create(lease).await {
                Err(status) if !status.is(Reason::AlreadyExists) => return Err(status),
                _ => {}
            },
            Step::Update(lease) => drop(unless_it_changed(leases.update(lease).await)?),
        }
        Ok(Action::After(Duration::from_secs(5)))
    }

    /// Deletes a candidate that has not renewed for long.
    async fn collect(&self, key: &str) -> Result<Action, Status> {
        let Some(candidate) = self.candidates.get(key) else { return Ok(Action::Done) };
        let left = plan::left(&candidate, (self.now)());
        if !left.is_zero() {
            return Ok(Action::After(left));
        }
        let preconditions =
            Preconditions { uid: Some(meta::uid(&candidate).into()), resource_version: Some(meta::resource_version(&candidate).into()) };
        let candidates = self.client.within(self.candidates.resource(), meta::namespace(&candidate));
        let deleted = candidates.delete(meta::name(&candidate), DeleteOptions { preconditions, ..Default::default() }).await;
        settled(unless_it_changed(deleted))?;
        Ok(Action::Done)
    }
}
