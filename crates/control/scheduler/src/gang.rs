//! Groups of pods that are placed together: who belongs to them, when an attempt makes sense, and what comes of one. Pure; see
//! KEP-4671 and upstream's GangScheduling plugin and scheduleOnePodGroup.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use fram_machinery::{Value, meta, object};

use crate::cache::Cache;
use crate::pod::Pod;

/// What keeps a pod of a gang waiting that found a node; upstream's answer of Permit.
const NO_QUORUM: &str = "waiting for minCount pods from a gang to be scheduled";
const UNSCHEDULABLE: &str = "pod group is unschedulable";
const PREEMPTING: &str = "pod group is waiting for preemption to complete";
/// By this name the queue knows who only waits for others of its group.
pub(crate) const PLUGIN: &str = "GangScheduling";

/// The group that a pod names, by its key.
pub(crate) fn group_of(pod: &Value) -> Option<String> {
    let name = pod.at(&["spec", "schedulingGroup", "podGroupName"])?.as_str().filter(|name| !name.is_empty())?;
    Some(format!("{}/{name}", meta::namespace(pod)))
}

#[derive(Debug, Default)]
struct Group {
    /// None while there is no such PodGroup.
    object: Option<Arc<Value>>,
    /// The pods that name it and have not ended, by UID.
    members: BTreeMap<Arc<str>, Arc<Pod>>,
    /// Those of them that no attempt is made for yet.
    held: BTreeSet<Arc<str>>,
}

impl Group {
    /// How many of it have to run for any to run; None where the pods stand for themselves.
    fn minimum(&self) -> Option<usize> {
        let count = self.object.as_deref()?.int_at(&["spec", "schedulingPolicy", "gang", "minCount"])?;
        Some(usize::try_from(count).unwrap_or(0))
    }

    /// Whether an attempt makes sense; upstream's PreEnqueue.
    fn admits(&self) -> bool {
        self.object.is_some() && self.minimum().is_none_or(|minimum| self.members.len() >= minimum)
    }

    /// Those who may be tried from now on.
    fn release(&mut self) -> Vec<Arc<Pod>> {
        if !self.admits() {
            return Vec::new();
        }
        std::mem::take(&mut self.held).iter().filter_map(|uid| self.members.get(uid).cloned()).collect()
    }
}

/// All groups, by their keys: those that pods name, and those that are there.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    all: HashMap<String, Group>,
}

impl Groups {
    /// A PodGroup came, became another or went. Says who may be tried from now on.
    pub(crate) fn set(&mut self, key: &str, object: Option<Arc<Value>>) -> Vec<Arc<Pod>> {
        let group = self.all.entry(key.to_string()).or_default();
        group.object = object;
        let released = group.release();
        self.forget_empty(key);
        released
    }

    /// A pod of a group is there. Says who of the group may be tried from now on.
    pub(crate) fn join(&mut self, pod: &Arc<Pod>) -> Vec<Arc<Pod>> {
        let Some(key) = group_of(&pod.object) else { return Vec::new() };
        let group = self.all.entry(key).or_default();
        group.members.insert(pod.uid.clone(), pod.clone());
        group.release()
    }

    /// A pod has ended or is gone.
    pub(crate) fn leave(&mut self, pod: &Value) {
        let Some(key) = group_of(pod) else { return };
        if let Some(group) = self.all.get_mut(&key) {
            group.members.remove(meta::uid(pod));
            group.held.remove(meta::uid(pod));
        }
        self.forget_empty(&key);
    }

    fn forget_empty(&mut self, key: &str) {
        if self.all.get(key).is_some_and(|group| group.object.is_none() && group.members.is_empty()) {
            self.all.remove(key);
        }
    }

    /// Whether no attempt is to be made for the pod before others of its group are there. It is released when they are.
    pub(crate) fn holds_back(&mut self, pod: &Pod) -> bool {
        let Some(group) = group_of(&pod.object).and_then(|key| self.all.get_mut(&key)) else { return false };
        let held = !group.admits();
        if held {
            group.held.insert(pod.uid.clone());
        }
        held
    }

    /// The pods of a group that have no node, and are not held back.
    pub(crate) fn unscheduled(&self, key: &str, cache: &Cache) -> Vec<Arc<Pod>> {
        let Some(group) = self.all.get(key) else { return Vec::new() };
        let waits = |pod: &&Arc<Pod>| !cache.holds(&pod.uid) && !group.held.contains(&pod.uid);
        group.members.values().filter(waits).cloned().collect()
    }

    /// How many pods a group lacks that could run beside those that have a node.
    pub(crate) fn missing(&self, key: &str, cache: &Cache) -> usize {
        let Some(group) = self.all.get(key) else { return 0 };
        let scheduled = group.members.keys().filter(|uid| cache.holds(uid)).count();
        group.minimum().unwrap_or(0).saturating_sub(scheduled)
    }

    pub(crate) fn object(&self, key: &str) -> Option<&Arc<Value>> {
        self.all.get(key)?.object.as_ref()
    }
}

/// What became of one pod of a group in an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tried {
    Fits,
    /// It would if others went.
    Preempts,
    /// Others are leaving for it already.
    Waits,
    Refused,
}

/// What comes of an attempt for a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Those that fit are bound.
    Bind,
    /// Others are sent away first, or are leaving already, and the group is tried again.
    Preempt,
    Unschedulable,
    /// Why the attempt could not be made.
    Failed(String),
}

impl Verdict {
    /// `missing` are the pods that the group lacked before the attempt.
    pub(crate) fn of(tried: &[Tried], missing: usize) -> Self {
        let found = tried.iter().filter(|t| matches!(t, Tried::Fits | Tried::Preempts)).count();
        let expected = found + tried.iter().filter(|t| **t == Tried::Waits).count();
        if expected == 0 || expected < missing {
            return Self::Unschedulable;
        }
        // Who waits for others to leave holds up those only who are too few without it: their rooms are kept until then.
        if found == 0 || found < missing || tried.contains(&Tried::Preempts) { Self::Preempt } else { Self::Bind }
    }

    /// What is said of a pod that found a node and has to wait all the same.
    pub(crate) fn of_waiting(&self) -> String {
        match self {
            Self::Bind => String::new(),
            Self::Preempt => format!("{UNSCHEDULABLE}, {PREEMPTING}"),
            Self::Unschedulable => format!("{UNSCHEDULABLE}, {NO_QUORUM}"),
            Self::Failed(why) => why.clone(),
        }
    }

    /// The status, reason and message of the condition PodGroupScheduled.
    fn told(&self) -> (&'static str, &'static str, String) {
        match self {
            Self::Bind => ("True", "Scheduled", String::new()),
            Self::Preempt => ("False", "Unschedulable", format!("{UNSCHEDULABLE}, {PREEMPTING}")),
            Self::Unschedulable => ("False", "Unschedulable", UNSCHEDULABLE.into()),
            Self::Failed(why) => ("False", "SchedulerError", why.clone()),
        }
    }

    /// What is to be written to a PodGroup's status so that it says this; None where it says so, or that it was scheduled before.
    pub(crate) fn status_patch(&self, group: &Value, now: impl FnOnce() -> String) -> Option<Value> {
        let (status, reason, message) = self.told();
        let known = meta::condition(group, "PodGroupScheduled");
        if known.is_some_and(|c| c.str_at(&["status"]) == "True" && status != "True") {
            return None;
        }
        let generation = meta::generation(group);
        let same = |c: &Value| {
            c.str_at(&["status"]) == status
                && c.str_at(&["reason"]) == reason
                && c.str_at(&["message"]) == message
                && c.int_at(&["observedGeneration"]).unwrap_or(0) == generation
        };
        if known.is_some_and(same) {
            return None;
        }
        let before = known.filter(|c| c.str_at(&["status"]) == status).map(|c| c.str_at(&["lastTransitionTime"]).to_string());
        let condition = object!({
            "type": "PodGroupScheduled", "status": status, "reason": reason, "message": message,
            "observedGeneration": generation, "lastTransitionTime": (before.unwrap_or_else(now))
        });
        Some(object!({ "metadata": { "uid": (meta::uid(group)) }, "status": { "conditions": [condition] } }))
    }
}

#[cfg(test)]
mod tests;
