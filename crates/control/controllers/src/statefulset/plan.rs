//! Which pods and claims of a StatefulSet are made, replaced and given up next, and what the status says. With ordered
//! management one step waits for the one before. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fram_machinery::{Value, meta, object};
use jiff::Timestamp;

use super::identity::{self, ordinal};
use super::owners::Owned;
use crate::pods::{self, available_in, is_available, is_ready, scaled};
use crate::revisions::HASH;

pub(super) type Event = (bool, &'static str, String);

#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Claims that have to exist before `create`.
    pub(super) claims: Vec<Value>,
    pub(super) claim_owners: Vec<Owned>,
    pub(super) create: Vec<Value>,
    /// Pods that stay, and what they are patched with.
    pub(super) repair: Vec<(Arc<Value>, Value)>,
    pub(super) delete: Vec<Arc<Value>>,
    pub(super) status: Value,
    pub(super) events: Vec<Event>,
    pub(super) requeue: Option<Duration>,
}

/// What the plan is made from: pods by what they are, and both revisions.
pub(super) struct View<'a> {
    pub(super) set: &'a Value,
    pub(super) mine: &'a [Arc<Value>],
    /// Names of the revisions, and the template of the current one.
    pub(super) current: &'a str,
    pub(super) update: &'a str,
    pub(super) current_template: &'a Value,
    pub(super) collisions: i64,
    pub(super) now: Timestamp,
}

struct State<'a> {
    view: &'a View<'a>,
    /// By ordinal, those that the set is to have; None where there is none yet.
    replicas: BTreeMap<i64, Option<Arc<Value>>>,
    /// Beyond the range, the highest first.
    condemned: Vec<Arc<Value>>,
    ordered: bool,
    minimum: i64,
    plan: Plan,
}

pub(super) fn plan(view: &View<'_>) -> Plan {
    let set = view.set;
    let start = set.int_at(&["spec", "ordinals", "start"]).unwrap_or(0);
    let count = set.int_at(&["spec", "replicas"]).unwrap_or(1).max(0);
    let mut replicas: BTreeMap<i64, Option<Arc<Value>>> = (start..start + count).map(|i| (i, None)).collect();
    let mut condemned = Vec::new();
    for pod in view.mine {
        match ordinal(set, meta::name(pod)) {
            Some(i) if replicas.contains_key(&i) => drop(replicas.insert(i, Some(pod.clone()))),
            Some(_) => condemned.push(pod.clone()),
            None => {}
        }
    }
    condemned.sort_by_key(|p| std::cmp::Reverse(ordinal(set, meta::name(p))));
    let ordered = set.str_at(&["spec", "podManagementPolicy"]) != "Parallel";
    let minimum = set.int_at(&["spec", "minReadySeconds"]).unwrap_or(0);
    let mut state = State { view, replicas, condemned, ordered, minimum, plan: Plan::default() };
    if !meta::is_terminating(set) {
        state.own_claims();
        if state.fill() && state.shrink() {
            state.roll();
        }
    }
    state.status();
    state.plan.requeue = view.mine.iter().filter_map(|p| available_in(p, minimum, view.now)).min();
    state.plan
}

fn is_healthy(pod: &Value) -> bool {
    pods::phase(pod) == "Running" && is_ready(pod) && !meta::is_terminating(pod)
}

impl State<'_> {
    fn is_available(&self, pod: &Value) -> bool {
        is_healthy(pod) && is_available(pod, self.minimum, self.view.now)
    }

    /// Makes what is missing, replaces what has ended; false where an earlier one has to come first.
    fn fill(&mut self) -> bool {
        for (i, pod) in self.replicas.clone() {
            match pod {
                None => {
                    self.create(i);
                    if self.ordered {
                        return false;
                    }
                }
                Some(pod) if pods::has_ended(&pod) => {
                    if !meta::is_terminating(&pod) {
                        self.replace(&pod);
                    }
                    if self.ordered {
                        return false;
                    }
                }
                Some(pod) => {
                    let labels = identity::repair(&pod, i).filter(|_| !meta::is_terminating(&pod));
                    self.plan.repair.extend(labels.map(|labels| (pod.clone(), labels)));
                    // A claim that was deleted is made again, so that its pod can start.
                    if pods::phase(&pod) == "Pending" {
                        self.plan.claims.extend(identity::claims(self.view.set, i));
                    }
                    if self.ordered && !self.is_available(&pod) {
                        return false;
                    }
                }
            }
        }
        true
    }

    fn replace(&mut self, pod: &Arc<Value>) {
        let set = self.view.set;
        let (namespace, name) = (meta::namespace(set), meta::name(set));
        let event = match pods::phase(pod) {
            "Failed" => {
                (true, "RecreatingFailedPod", format!("StatefulSet {namespace}/{name} is recreating failed Pod {}", meta::name(pod)))
            }
            _ => (
                false,
                "RecreatingTerminatedPod",
                format!("StatefulSet {namespace}/{name} is recreating terminated Pod {}", meta::name(pod)),
            ),
        };
        self.plan.events.push(event);
        self.plan.delete.push(pod.clone());
    }

    /// New pods below the partition have the current revision, all others the one that is rolled out.
    fn create(&mut self, i: i64) {
        let View { set, current, update, current_template, .. } = self.view;
        let start = set.int_at(&["spec", "ordinals", "start"]).unwrap_or(0);
        let rolls = set.str_at(&["spec", "updateStrategy", "type"]) != "OnDelete";
        let old = rolls && i < start + self.partition();
        let (template, revision) = if old { (Some(*current_template), current) } else { (set.at(&["spec", "template"]), update) };
        self.plan.claims.extend(identity::claims(set, i));
        self.plan.create.push(identity::pod(set, template, i, revision));
    }

    fn partition(&self) -> i64 {
        self.view.set.int_at(&["spec", "updateStrategy", "rollingUpdate", "partition"]).unwrap_or(0)
    }

    /// Gives up what is beyond the range; false where one has to end first.
    fn shrink(&mut self) -> bool {
        let first_broken =
            self.replicas.values().flatten().chain(self.condemned.iter().rev()).find(|p| !is_healthy(p)).map(|p| meta::uid(p).to_string());
        for pod in self.condemned.clone() {
            if meta::is_terminating(&pod) {
                if self.ordered {
                    return false;
                }
                continue;
            }
            // While another one is broken, none that works is given up.
            let is_first = first_broken.as_deref() == Some(meta::uid(&pod));
            if self.ordered && !is_healthy(&pod) && !is_first {
                return false;
            }
            self.plan.delete.push(pod);
            if self.ordered {
                return false;
            }
        }
        true
    }

    fn is_updated(&self, pod: &Value) -> bool {
        meta::label(pod, HASH) == Some(self.view.update)
    }

    /// Replaces pods of another revision from the highest ordinal down to the partition.
    fn roll(&mut self) {
        let set = self.view.set;
        if set.str_at(&["spec", "updateStrategy", "type"]) == "OnDelete" || !self.plan.delete.is_empty() {
            return;
        }
        let lowest = set.int_at(&["spec", "ordinals", "start"]).unwrap_or(0) + self.partition();
        let wanted = self.replicas.len() as i64;
        let path = ["spec", "updateStrategy", "rollingUpdate", "maxUnavailable"];
        if let Some(most) = scaled(set.at(&path), wanted, false) {
            return self.roll_within(lowest, most.max(1));
        }
        // One after the other: each waits for those above it.
        for (i, pod) in self.replicas.clone().into_iter().rev() {
            let Some(pod) = pod else { return };
            if i >= lowest && !self.is_updated(&pod) && !meta::is_terminating(&pod) {
                self.plan.delete.push(pod);
                return;
            }
            if !self.is_available(&pod) {
                return;
            }
        }
    }

    /// The same where so many of all pods may be missing at once; see KEP-961. Whoever is not available counts, also one that is to be
    /// replaced: it may serve all the same, when it is not ready for long.
    fn roll_within(&mut self, lowest: i64, most: i64) {
        let missing = self.replicas.values().filter(|pod| !pod.as_ref().is_some_and(|p| self.is_available(p))).count();
        let left = usize::try_from(most).unwrap_or_default().saturating_sub(missing);
        let above = self.replicas.iter().rev().filter(|(i, _)| **i >= lowest);
        let old = above.filter_map(|(_, pod)| pod.as_ref()).filter(|p| !self.is_updated(p) && !meta::is_terminating(p));
        self.plan.delete = old.take(left).cloned().collect();
    }

    /// Who owns the claims, by the retention policy: then they end with their owner.
    fn own_claims(&mut self) {
        let set = self.view.set;
        let policy = |when: &str| set.str_at(&["spec", "persistentVolumeClaimRetentionPolicy", when]) == "Delete";
        let (on_delete, on_scale) = (policy("whenDeleted"), policy("whenScaled"));
        let of_set = on_delete.then(|| meta::controller_reference(set));
        let owned = |i: i64, uid: &str, owner: &Option<Value>| {
            let pod = (format!("{}-{i}", meta::name(set)), uid.to_string());
            let names = identity::claims(set, i).into_iter().map(|c| meta::name(&c).to_string());
            names.map(|claim| Owned { claim, pod: pod.clone(), owner: owner.clone() }).collect::<Vec<_>>()
        };
        for (&i, pod) in &self.replicas {
            self.plan.claim_owners.extend(owned(i, pod.as_deref().map_or("", meta::uid), &of_set));
        }
        for pod in &self.condemned {
            let Some(i) = ordinal(set, meta::name(pod)) else { continue };
            let of_pod = on_scale.then(|| {
                object!({ "apiVersion": "v1", "kind": "Pod", "name": (meta::name(pod)), "uid": (meta::uid(pod)), "controller": true, "blockOwnerDeletion": true })
            });
            let owner = of_pod.or_else(|| of_set.clone());
            self.plan.claim_owners.extend(owned(i, meta::uid(pod), &owner));
        }
    }

    fn status(&mut self) {
        let View { set, mine, current, update, collisions, .. } = self.view;
        let live: Vec<&Arc<Value>> = mine.iter().filter(|p| ordinal(set, meta::name(p)).is_some()).collect();
        let count = |test: &dyn Fn(&Value) -> bool| live.iter().filter(|p| test(p)).count() as i64;
        let of = |revision: &str| count(&|p| meta::label(p, HASH) == Some(revision) && pods::is_active(p));
        let ready = count(&is_healthy);
        let (mut current_replicas, updated) = (of(current), of(update));
        let replicas = live.len() as i64;
        let wanted = set.int_at(&["spec", "replicas"]).unwrap_or(1);
        let mut current: &str = current;
        let rolls = set.str_at(&["spec", "updateStrategy", "type"]) != "OnDelete";
        if rolls && updated == wanted && ready == wanted && replicas == wanted {
            (current, current_replicas) = (update, updated);
        }
        let mut status = object!({ "replicas": replicas, "availableReplicas": (count(&|p| self.is_available(p))), "currentRevision": current,
            "updateRevision": (*update), "collisionCount": (*collisions) });
        let counts = [
            ("readyReplicas", ready),
            ("currentReplicas", current_replicas),
            ("updatedReplicas", updated),
            ("observedGeneration", meta::generation(set)),
        ];
        for (field, n) in counts.into_iter().filter(|(_, n)| *n != 0) {
            status.set(&[field], n);
        }
        if let Some(conditions) = set.at(&["status", "conditions"]) {
            status.set(&["conditions"], conditions.clone());
        }
        self.plan.status = status;
    }
}
