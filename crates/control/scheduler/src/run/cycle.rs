//! One pod: a node is chosen and the pod counted there, bound beside the next decisions; or room is made for it.

use std::sync::Arc;
use std::time::Duration;

use fram_machinery::{Reason, Status, Value, meta, object};
use tokio::task::{Id, JoinError};
use tokio::time::Instant;

use super::report::{SCHEDULER_ERROR, UNSCHEDULABLE, evict, report};
use super::{Binding, Profile, Scheduler};
use crate::bind::devices::{carry_out_release, prepare_devices, unreserve};
use crate::bind::{announce, bind, bind_claims};
use crate::cache::Cache;
use crate::devices::{Allocation, Grants, Release};
use crate::extender::{Extender, ExtenderError};
use crate::framework::{Attempt, Filtered, Outcome, Refusal, best};
use crate::gang::group_of;
use crate::hints::Happening;
use crate::metrics::{self, Said};
use crate::pod::Pod;
use crate::preemption::{self, Candidate, Preemption};
use crate::storage::Step;

/// What is to be said of the node that a pod is nominated to.
pub(super) enum Nomination {
    Unchanged,
    To(Preemption),
    /// Room is no longer made for it.
    Cleared,
    /// The same of a node that was announced a moment ago, which the cache may not show yet.
    Withdrawn,
}

/// What comes of looking for a node.
pub(super) enum Found {
    Node(String),
    None(Attempt, Outcome),
    /// It cannot be said now, or for this pod.
    Failed(String),
}

/// A pod counts on a node, before the API knows.
pub(super) struct Held {
    pub(super) node: String,
    steps: Vec<Step>,
    allocations: Vec<Allocation>,
}

impl Scheduler {
    pub(super) async fn try_pod(&mut self, pod: Arc<Pod>) {
        self.turn = self.turn.wrapping_add(1);
        if let Some(group) = group_of(&pod.object).filter(|_| self.followed.groups.is_some()) {
            return Box::pin(self.try_group(pod, &group)).await;
        }
        let begun = self.now();
        let Some(number) = self.profile_of(&pod) else {
            self.queue.done(&pod);
            return;
        };
        match self.find(number, &pod).await {
            Found::Node(node) => {
                self.metrics.decided(self.now() - begun);
                let held = self.hold(number, &pod, node);
                self.bind_beside(number, pod, held, begun);
            }
            Found::None(attempt, outcome) => Box::pin(self.make_room(number, attempt, outcome, begun)).await,
            Found::Failed(error) => self.cycle_failed(number, &pod, &error, begun),
        }
    }

    /// The best node for a pod, as the cache is now.
    pub(super) async fn find(&mut self, number: usize, pod: &Arc<Pod>) -> Found {
        if self.cache.devices.concern(pod)
            && let Ok(now) = (self.config.now)().parse()
        {
            self.cache.devices.set_now(now);
        }
        let mut filtered = self.filter(number, pod);
        loop {
            let (Filtered::Feasible(attempt, _) | Filtered::None(attempt, _)) = &filtered;
            if let Some(error) = self.profiles[number].framework.failure(attempt) {
                let (Filtered::Feasible(attempt, _) | Filtered::None(attempt, _)) = filtered;
                self.profiles[number].framework.end(attempt);
                return Found::Failed(error);
            }
            let (mut attempt, mut slots) = match filtered {
                Filtered::Feasible(attempt, slots) => (attempt, slots),
                Filtered::None(attempt, outcome) => return Found::None(attempt, outcome),
            };
            // What asks extenders is large, and most clusters have none.
            if !self.extenders.is_empty() {
                let asked = Box::pin(self.ask_extenders(&mut attempt, &mut slots)).await;
                if attempt.nominated && (asked.is_err() || slots.is_empty()) {
                    // See upstream's evaluateNominatedNode: it is one node among others then.
                    filtered = self.profiles[number].framework.filter_all(attempt, &mut self.cache);
                    continue;
                }
                if let Err(error) = asked {
                    self.profiles[number].framework.end(attempt);
                    return Found::Failed(error.to_string());
                }
            }
            if slots.is_empty() {
                let outcome = self.profiles[number].framework.unschedulable(&attempt, &self.cache);
                return Found::None(attempt, outcome);
            }
            return Found::Node(self.choose(number, attempt, &slots).await);
        }
    }

    /// Which nodes take a pod, as far as its profile's plugins say.
    fn filter(&mut self, number: usize, pod: &Arc<Pod>) -> Filtered {
        let begun = self.now();
        let prepared = self.profiles[number].framework.prepare(pod, &self.cache);
        self.passed(number, "PreFilter", if prepared.is_ok() { Said::Success } else { Said::Unschedulable }, begun);
        let attempt = match prepared {
            Ok(attempt) => attempt,
            Err(outcome) => return Filtered::unseen(pod, outcome),
        };
        let begun = self.now();
        let filtered = self.profiles[number].framework.filter(attempt, &mut self.cache);
        let said = if matches!(filtered, Filtered::Feasible(..)) { Said::Success } else { Said::Unschedulable };
        self.passed(number, "Filter", said, begun);
        filtered
    }

    fn passed(&self, number: usize, extension_point: &'static str, said: Said, begun: Duration) {
        self.metrics.points.passed(&self.profiles[number].name, extension_point, said, self.now() - begun);
    }

    /// The name of the best of these nodes.
    async fn choose(&mut self, number: usize, mut attempt: Attempt, slots: &[usize]) -> String {
        let mut totals = vec![0];
        if slots.len() > 1 {
            let begun = self.now();
            totals = self.profiles[number].framework.score(&mut attempt, &self.cache, slots);
            self.passed(number, "Score", Said::Success, begun);
            if !self.extenders.is_empty() {
                Box::pin(add_priorities(&self.extenders, &attempt.pod, &self.cache, slots, &mut totals)).await;
            }
        }
        self.profiles[number].framework.end(attempt);
        let chosen = best(slots, &totals, self.turn).unwrap_or(slots[0]);
        self.cache.at(chosen).name().to_string()
    }

    /// Lets extenders refuse nodes, one after the other.
    async fn ask_extenders(&self, attempt: &mut Attempt, slots: &mut Vec<usize>) -> Result<(), ExtenderError> {
        for extender in self.extenders.iter().filter(|e| !e.filter_verb.is_empty() && e.wants(&attempt.pod)) {
            if slots.is_empty() {
                return Ok(());
            }
            let nodes = objects(&self.cache, slots);
            match extender.filter(&attempt.pod, &nodes).await {
                Ok(said) => slots.retain(|slot| {
                    let name = self.cache.at(*slot).name();
                    let kept = said.kept.iter().any(|k| k == name);
                    if !kept {
                        let (why, lasting) =
                            said.refused.get(name).cloned().unwrap_or(("node(s) were refused by an extender".into(), false));
                        attempt.refused.insert(*slot, Refusal { reasons: vec![why], lasting });
                    }
                    kept
                }),
                Err(error) if extender.ignorable => tracing::warn!(%error, "an extender is left out"),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The attempt failed for a reason that is not the pod's: it is tried again after its back-off.
    pub(super) fn cycle_failed(&mut self, number: usize, pod: &Arc<Pod>, error: &str, begun: Duration) {
        let now = self.now();
        self.metrics.attempted(&self.profiles[number].name, metrics::Outcome::Error, now - begun);
        tracing::warn!(pod = pod.key, error, "an attempt failed");
        self.queue.failed(pod, now);
        self.conclude(pod.clone(), SCHEDULER_ERROR, error.to_string(), Nomination::Cleared);
    }

    /// Preempts for a pod that no node takes, where that helps, and says why it waits.
    async fn make_room(&mut self, number: usize, attempt: Attempt, outcome: Outcome, begun: Duration) {
        let (message, clearable, plugins) = told(outcome);
        let pod = attempt.pod.clone();
        self.metrics.decided(self.now() - begun);
        self.count_unschedulable(number, &pod, &plugins, begun);
        let release = self.release(number, &pod, &plugins);
        let (nomination, message) = self.room(number, attempt, message, (&clearable, release.as_ref())).await;
        self.conclude(pod, UNSCHEDULABLE, message, nomination);
        if let Some(release) = release {
            self.undo(release);
        }
    }

    /// The pod has to wait until something happens that these plugins care for.
    pub(super) fn count_unschedulable(&mut self, number: usize, pod: &Pod, plugins: &[&'static str], begun: Duration) {
        let now = self.now();
        self.metrics.attempted(&self.profiles[number].name, metrics::Outcome::Unschedulable, now - begun);
        self.queue.unschedulable(pod, plugins, now);
    }

    /// Where room could be made for a pod, and what is said of it.
    pub(super) async fn room(
        &mut self,
        number: usize,
        mut attempt: Attempt,
        message: String,
        (clearable, release): (&[String], Option<&Release>),
    ) -> (Nomination, String) {
        let pod = attempt.pod.clone();
        let profile = &mut self.profiles[number];
        let found = profile.preemption.map(|limits| {
            preemption::may_preempt(&pod, &self.cache).map(|()| {
                let budgets = self.followed.budgets.list();
                preemption::candidates(&profile.framework, &mut attempt, &mut self.cache, clearable, &budgets, limits)
            })
        });
        profile.framework.end(attempt);
        // Upstream's dynamic resources say their part first.
        let devices = match release {
            Some(Release::Deallocate(_)) => "deallocation of ResourceClaim completed",
            Some(Release::Delete(_)) => "deletion of ResourceClaim completed",
            None if self.cache.devices.concern(&pod) => "still not schedulable",
            None => "no new claims to deallocate",
        };
        let in_vain = |why: String| format!("{message} {devices}, preemption: {why}");
        match found {
            None => (Nomination::Unchanged, message),
            Some(Err(why)) => (Nomination::Unchanged, in_vain(why)),
            Some(Ok(Err(why))) => (Nomination::Cleared, in_vain(why)),
            Some(Ok(Ok(candidates))) => match preemption::best(ask_about_victims(&self.extenders, &pod, candidates).await) {
                Some(found) => (Nomination::To(found), message),
                None => (Nomination::Cleared, message),
            },
        }
    }

    /// What of claims is to be undone for a pod that these plugins refused.
    pub(super) fn release(&self, number: usize, pod: &Pod, plugins: &[&'static str]) -> Option<Release> {
        let refused = plugins.contains(&"DynamicResources");
        self.cache.devices.release(pod, self.profiles[number].devices.patience).filter(|_| refused)
    }

    /// Undoes a claim; the pod is tried again when the API says so.
    pub(super) fn undo(&mut self, release: Release) {
        let (config, permits) = (self.config.clone(), self.permits.clone());
        self.reports.spawn(async move {
            let _permit = permits.acquire().await;
            carry_out_release(&config.client, &release).await;
            None
        });
    }

    /// Makes the room that was found, and says why the pod waits.
    pub(super) fn conclude(&mut self, pod: Arc<Pod>, reason: &'static str, message: String, nomination: Nomination) {
        match &nomination {
            Nomination::To(found) => {
                if !found.victims.is_empty() {
                    self.metrics.preempted(found.victims.len());
                }
                self.cache.nominate(pod.clone(), &found.node);
            }
            Nomination::Cleared | Nomination::Withdrawn => {
                if self.cache.forget_nomination(&pod.uid) {
                    self.happened(Happening::Left(None));
                }
            }
            Nomination::Unchanged => {}
        }
        let (config, followed, permits) = (self.config.clone(), self.followed.clone(), self.permits.clone());
        self.reports.spawn(async move {
            let _permit = permits.acquire().await;
            report(&config, &followed.pods, &pod, (reason, &message), &nomination).await;
            match nomination {
                Nomination::To(found) if !evict(&config, &pod, &found).await => Some(pod),
                _ => None,
            }
        });
    }

    /// What the pod's claims take on the node.
    fn allocations(&self, number: usize, pod: &Pod, node: &str) -> Vec<Allocation> {
        let devices = &self.cache.devices;
        let Some(slot) = self.cache.slot(node).filter(|_| devices.concern(pod)) else { return Vec::new() };
        let Ok(claims) = devices.claims(pod, self.profiles[number].devices) else { return Vec::new() };
        devices.allocate(&claims, self.cache.at(slot)).unwrap_or_default()
    }

    /// Counts the pod on the node from now on, with what its claims take there.
    pub(super) fn hold(&mut self, number: usize, pod: &Arc<Pod>, node: String) -> Held {
        let storage = &self.cache.storage;
        let steps = self.cache.slot(&node).map(|slot| storage.steps(&storage.needs(&pod.object), self.cache.at(slot)));
        let steps = steps.and_then(Result::ok).unwrap_or_default();
        for step in &steps {
            if let Step::Take { claim, volume } = step {
                // Nobody else is to take it before the API says so.
                let mut taken = (**volume).clone();
                taken.set(
                    &["spec", "claimRef"],
                    object!({ "namespace": (meta::namespace(claim)), "name": (meta::name(claim)), "uid": (meta::uid(claim)) }),
                );
                self.cache.storage.volumes.insert(meta::name(volume).into(), Arc::new(taken));
            }
        }
        let allocations = self.allocations(number, pod, &node);
        self.cache.devices.assume(&allocations);
        self.cache.place(pod.clone(), &node);
        Held { node, steps, allocations }
    }

    /// The pod counts nowhere any more; its claims are as the API says again.
    pub(super) fn let_go(&mut self, pod: &Pod, steps: &[Step], allocations: &[Allocation]) {
        self.cache.remove(&pod.uid);
        self.give_back(steps);
        if !allocations.is_empty() {
            self.cache.devices.give_back(allocations);
        }
    }

    /// As `let_go`, for a pod that was never to be bound.
    pub(super) fn withdraw(&mut self, pod: &Pod, held: &Held) {
        self.let_go(pod, &held.steps, &held.allocations);
    }

    /// Binds the pod to the node that holds it, beside the next decisions.
    pub(super) fn bind_beside(&mut self, number: usize, pod: Arc<Pod>, held: Held, begun: Duration) {
        self.happened(Happening::Placed);
        let Held { node, steps, allocations } = held;
        let (config, followed, permits) = (self.config.clone(), self.followed.clone(), self.permits.clone());
        let tried = self.queue.tried(&pod).unwrap_or((0, begun));
        let binding = Binding { pod: pod.clone(), steps: steps.clone(), allocations: allocations.clone(), profile: number, begun, tried };
        let Profile { bind_timeout: patience, devices: Grants { patience: device_patience, .. }, .. } = self.profiles[number];
        let binder = self.extenders.iter().find(|e| !e.bind_verb.is_empty() && e.wants(&pod)).cloned();
        let (points, profile) = (self.metrics.points.clone(), self.profiles[number].name.clone());
        let task = self.bindings.spawn(async move {
            // Who waits for volumes or devices holds up nobody.
            let _permit = if steps.is_empty() && allocations.is_empty() { permits.acquire().await.ok() } else { None };
            let ended = |extension_point, begun: Instant, result: Result<(), Status>| {
                let said = if result.is_ok() { Said::Success } else { Said::Error };
                points.passed(&profile, extension_point, said, begun.elapsed());
                result
            };
            let begun = Instant::now();
            let prepared = async {
                if !steps.is_empty() || !allocations.is_empty() {
                    Box::pin(announce(&config.client, &pod, &node)).await;
                }
                if !allocations.is_empty() {
                    Box::pin(prepare_devices(&config, &followed.device_claims, (&pod, &node), &allocations, device_patience)).await?;
                }
                bind_claims(&config.client, &followed.claims, &node, &steps, patience).await
            };
            ended("PreBind", begun, prepared.await)?;
            let begun = Instant::now();
            let bound = match binder {
                Some(extender) => match extender.bind(&pod, &node).await {
                    Err(error) if extender.ignorable => {
                        tracing::warn!(%error, "an extender is left out");
                        bind(&config.client, &pod, &node).await
                    }
                    said => said.map_err(Status::internal),
                },
                None => bind(&config.client, &pod, &node).await,
            };
            ended("Bind", begun, bound)?;
            let message = format!("Successfully assigned {} to {node}", pod.key);
            config.events.event(&pod.object, false, "Scheduled", message);
            Ok(())
        });
        self.binding.insert(task.id(), binding);
    }

    pub(super) fn bound(&mut self, ended: Result<(Id, Result<(), Status>), JoinError>) {
        let now = self.now();
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let Some(Binding { pod, steps, allocations, profile, begun, tried: (attempts, since) }) = self.binding.remove(&id) else { return };
        let profile = &self.profiles[profile].name;
        let why = match ended {
            Ok((_, Ok(()))) => {
                self.metrics.attempted(profile, metrics::Outcome::Scheduled, now - begun);
                self.queue.done(&pod);
                self.metrics.scheduled(attempts + 1, now - since);
                return;
            }
            Ok((_, Err(status))) => status,
            Err(error) => Status::new(Reason::InternalError, error.to_string()),
        };
        self.metrics.attempted(profile, metrics::Outcome::Error, now - begun);
        // The answer may have been lost after the deed.
        let there = self.followed.pods.get(&pod.key).filter(|there| meta::uid(there) == &*pod.uid);
        if there.is_some_and(|there| !there.str_at(&["spec", "nodeName"]).is_empty()) {
            self.queue.done(&pod);
            return;
        }
        let slot = self.cache.slot_of_pod(&pod.uid);
        self.let_go(&pod, &steps, &allocations);
        let announced = !steps.is_empty() || !allocations.is_empty();
        if !steps.is_empty() {
            self.happened(Happening::Storage);
        }
        if !allocations.is_empty() {
            self.happened(Happening::Devices);
            self.unreserve(&pod, allocations);
        }
        if why.is(Reason::NotFound) {
            self.queue.done(&pod);
        } else {
            tracing::warn!(pod = pod.key, status = %why, "binding failed");
            self.queue.failed(&pod, now);
            // Room is no longer made for it anywhere; see upstream's handleBindingCycleError.
            self.conclude(pod, SCHEDULER_ERROR, why.to_string(), if announced { Nomination::Withdrawn } else { Nomination::Cleared });
        }
        self.happened(Happening::Left(slot));
    }

    /// The pod uses its claims no more, and what was made for it goes.
    fn unreserve(&mut self, pod: &Arc<Pod>, allocations: Vec<Allocation>) {
        let (config, followed, permits, pod) = (self.config.clone(), self.followed.clone(), self.permits.clone(), pod.clone());
        self.reports.spawn(async move {
            let _permit = permits.acquire().await;
            unreserve(&config.client, &followed.device_claims, &pod, &allocations).await;
            None
        });
    }

    /// A report is made. The pod is tried again where who should have left for it could not be sent away.
    pub(super) fn reported(&mut self, ended: Result<Option<Arc<Pod>>, JoinError>) {
        match ended {
            Ok(Some(pod)) => self.queue.retry(&pod, self.start.elapsed()),
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "a report of the scheduler failed"),
        }
    }

    /// What was assumed of volumes is forgotten: they are as the API says again.
    fn give_back(&mut self, steps: &[Step]) {
        for step in steps {
            let Step::Take { volume, .. } = step else { continue };
            let name = meta::name(volume);
            match self.followed.volumes.get(name) {
                Some(current) => drop(self.cache.storage.volumes.insert(name.into(), current)),
                None => drop(self.cache.storage.volumes.remove(name)),
            }
        }
    }
}

/// What is said of a pod that no node takes, the nodes that might if pods left, and who refused it.
pub(super) fn told(outcome: Outcome) -> (String, Vec<String>, Vec<&'static str>) {
    match outcome {
        Outcome::Unschedulable { nodes, reasons, clearable, plugins } => (reasons.message(nodes), clearable, plugins),
        Outcome::Premature { nodes, reason, plugin } => (format!("0/{nodes} nodes are available: {reason}."), Vec::new(), vec![plugin]),
    }
}

fn objects(cache: &Cache, slots: &[usize]) -> Vec<Arc<Value>> {
    slots.iter().filter_map(|slot| cache.at(*slot).object.clone()).collect()
}

/// Adds what extenders think of nodes; one that fails has no opinion.
async fn add_priorities(extenders: &[Extender], pod: &Pod, cache: &Cache, slots: &[usize], totals: &mut [i64]) {
    for extender in extenders.iter().filter(|e| !e.prioritize_verb.is_empty() && e.wants(pod)) {
        match extender.prioritize(pod, &objects(cache, slots)).await {
            Ok(priorities) => {
                for (name, score) in priorities {
                    if let Some(at) = slots.iter().position(|slot| cache.at(*slot).name() == name) {
                        totals[at] += score;
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "an extender is left out"),
        }
    }
}

/// Lets extenders say which of the candidates are left; where one fails that has to be heard, none is.
async fn ask_about_victims(extenders: &[Extender], pod: &Pod, mut candidates: Vec<Candidate>) -> Vec<Candidate> {
    for extender in extenders.iter().filter(|e| !e.preempt_verb.is_empty() && e.wants(pod)) {
        match extender.preempt(pod, candidates.clone()).await {
            Ok(left) => candidates = left,
            Err(error) if extender.ignorable => tracing::warn!(%error, "an extender is left out"),
            Err(error) => {
                tracing::warn!(%error, "nothing is preempted without an extender");
                return Vec::new();
            }
        }
    }
    candidates
}
