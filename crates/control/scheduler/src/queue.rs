//! The scheduling queue: pods that can be tried now by priority and age, pods that wait for their back-off, and pods that
//! no node took, which wait for something that may change that. Pure: the time is handed in.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::pod::Pod;

/// A moment on a monotonic clock, since an arbitrary start.
pub(crate) type Moment = Duration;

/// A pod that waits this long is tried whatever happened; see --pod-max-in-unschedulable-pods-duration.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// No number of what has happened.
const NEVER: u64 = u64::MAX;

/// How long a pod waits before it is tried again: the first time, and at most; see podInitialBackoffSeconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backoff {
    pub(crate) first: Duration,
    pub(crate) last: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), last: Duration::from_secs(10) }
    }
}

impl Backoff {
    fn after(self, attempts: u32) -> Duration {
        (self.first * 2u32.saturating_pow(attempts.saturating_sub(1).min(16))).min(self.last)
    }
}

#[derive(Debug)]
struct Waiting {
    pod: Arc<Pod>,
    attempts: u32,
    place: Place,
    order: u64,
    /// When it was first seen.
    since: Moment,
    /// The plugins that refused it last; nobody is named where anything may help.
    refused_by: Vec<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Active,
    /// Tried again at this moment.
    Backoff(Moment),
    /// Waits for a change; tried again at the second moment at the latest.
    Unschedulable {
        since: Moment,
        until: Moment,
    },
    /// Taken out by `pop` and not yet answered; so much had happened until then.
    InFlight {
        happened: u64,
    },
}

/// How many pods wait where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Lengths {
    pub(crate) active: usize,
    pub(crate) backoff: usize,
    pub(crate) unschedulable: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    backoff: Backoff,
    pods: HashMap<String, Waiting>,
    /// Higher priority first, then older first.
    active: BTreeSet<(Reverse<i64>, u64, String)>,
    timers: BTreeSet<(Moment, String)>,
    unschedulable: BTreeSet<String>,
    /// How many of the pods that wait each plugin has refused, by the schedulers that they name.
    refused: BTreeMap<(&'static str, String), i64>,
    /// How many pods are in flight.
    in_flight: usize,
    /// How often something changed that may let pods in: who is in flight meanwhile is tried once more.
    happened: u64,
    next_order: u64,
}

impl Queue {
    pub(crate) fn new(backoff: Backoff) -> Self {
        Self { backoff, ..Self::default() }
    }

    /// A pod appeared or changed; a changed one is tried anew.
    pub(crate) fn add(&mut self, pod: Arc<Pod>, now: Moment) {
        let key = pod.key.clone();
        if self.pods.get(&key).is_some_and(|waiting| waiting.pod.uid != pod.uid) {
            self.remove(&key);
        }
        let Some(waiting) = self.pods.get_mut(&key) else {
            self.next_order += 1;
            let order = self.next_order;
            self.active.insert((Reverse(pod.priority), order, key.clone()));
            self.pods.insert(key, Waiting { pod, attempts: 0, place: Place::Active, order, since: now, refused_by: Vec::new() });
            return;
        };
        match &mut waiting.place {
            Place::InFlight { happened } => *happened = NEVER,
            Place::Unschedulable { .. } => {
                waiting.pod = pod;
                return self.move_up(&key, now);
            }
            Place::Active => {
                // Its priority is part of its place.
                self.leave(&key);
                if let Some(waiting) = self.pods.get_mut(&key) {
                    waiting.pod = pod;
                }
                return self.put(&key, Place::Active);
            }
            Place::Backoff(_) => {}
        }
        waiting.pod = pod;
    }

    pub(crate) fn remove(&mut self, key: &str) {
        self.forget_refusal(key);
        self.leave(key);
        self.pods.remove(key);
    }

    /// The next pod to try; it is in flight until `done` or `failed`.
    pub(crate) fn pop(&mut self) -> Option<Arc<Pod>> {
        let (_, _, key) = self.active.first()?.clone();
        self.put(&key, Place::InFlight { happened: self.happened });
        self.pods.get(&key).map(|waiting| waiting.pod.clone())
    }

    /// Takes these pods out too, wherever they wait, and returns them with those that are in flight already in the order in which
    /// they would be tried.
    pub(crate) fn pop_together(&mut self, pods: Vec<Arc<Pod>>, first: &Pod) -> Vec<Arc<Pod>> {
        let mut taken: BTreeMap<(Reverse<i64>, u64), Arc<Pod>> = BTreeMap::new();
        for pod in pods {
            let Some(waiting) = self.pods.get(&pod.key).filter(|w| w.pod.uid == pod.uid) else { continue };
            let in_flight = matches!(waiting.place, Place::InFlight { .. });
            if in_flight && pod.uid != first.uid {
                continue;
            }
            taken.insert((Reverse(waiting.pod.priority), waiting.order), waiting.pod.clone());
            if !in_flight {
                self.put(&pod.key, Place::InFlight { happened: self.happened });
            }
        }
        taken.into_values().collect()
    }

    pub(crate) fn has_active(&self) -> bool {
        !self.active.is_empty()
    }

    pub(crate) fn lengths(&self) -> Lengths {
        let (active, unschedulable) = (self.active.len(), self.unschedulable.len());
        Lengths { active, unschedulable, backoff: self.pods.len() - active - unschedulable - self.in_flight }
    }

    /// Whether this very pod is in flight: another of the same name may have taken its place meanwhile.
    fn is_in_flight(&self, pod: &Pod) -> bool {
        self.pods.get(&pod.key).is_some_and(|w| w.pod.uid == pod.uid && matches!(w.place, Place::InFlight { .. }))
    }

    /// How often a pod was tried before, and when it was first seen.
    pub(crate) fn tried(&self, pod: &Pod) -> Option<(u32, Moment)> {
        self.pods.get(&pod.key).filter(|w| w.pod.uid == pod.uid).map(|w| (w.attempts, w.since))
    }

    /// The pod found its node.
    pub(crate) fn done(&mut self, pod: &Pod) {
        if self.tried(pod).is_some() {
            self.remove(&pod.key);
        }
    }

    /// No node took the pod. Where something changed since it was taken out, it is tried again after its back-off; otherwise when
    /// something changes that these plugins may care for.
    pub(crate) fn unschedulable(&mut self, pod: &Pod, refused_by: &[&'static str], now: Moment) {
        self.fail(pod, refused_by, now, false);
    }

    /// The attempt failed for another reason and is worth another try.
    pub(crate) fn failed(&mut self, pod: &Pod, now: Moment) {
        self.fail(pod, &[], now, true);
    }

    fn fail(&mut self, pod: &Pod, refused_by: &[&'static str], now: Moment, again: bool) {
        if !self.is_in_flight(pod) {
            return;
        }
        let Some(waiting) = self.pods.get_mut(&pod.key) else { return };
        let changed = matches!(waiting.place, Place::InFlight { happened } if happened != self.happened);
        waiting.attempts += 1;
        waiting.refused_by = refused_by.to_vec();
        for plugin in refused_by {
            *self.refused.entry((plugin, scheduler_of(pod))).or_default() += 1;
        }
        let place = match again || changed {
            true => Place::Backoff(now + self.backoff.after(waiting.attempts)),
            false => Place::Unschedulable { since: now, until: now + LONGEST_WAIT },
        };
        self.put(&pod.key, place);
    }

    /// Something changed: those of the waiting pods are tried again for which it may help, by who refused them. Says how many.
    pub(crate) fn changed(&mut self, now: Moment, helps: impl Fn(&Pod, &[&'static str]) -> bool) -> usize {
        self.happened += 1;
        if self.unschedulable.is_empty() {
            return 0;
        }
        let helped = |key: &&String| self.pods.get(*key).is_some_and(|w| w.refused_by.is_empty() || helps(&w.pod, &w.refused_by));
        let keys: Vec<String> = self.unschedulable.iter().filter(helped).cloned().collect();
        keys.iter().for_each(|key| self.move_up(key, now));
        keys.len()
    }

    /// One pod is tried again as soon as its back-off lets it.
    pub(crate) fn retry(&mut self, pod: &Pod, now: Moment) {
        if self.pods.get(&pod.key).is_some_and(|w| w.pod.uid == pod.uid) {
            self.move_up(&pod.key, now);
        }
    }

    /// Moves what is due; returns when the next is.
    pub(crate) fn tick(&mut self, now: Moment) -> Option<Moment> {
        while let Some((moment, key)) = self.timers.first().cloned() {
            if moment > now {
                return Some(moment);
            }
            self.put(&key, Place::Active);
        }
        None
    }

    /// From waiting for a change to waiting for the rest of the back-off.
    fn move_up(&mut self, key: &str, now: Moment) {
        let Some(waiting) = self.pods.get(key) else { return };
        let Place::Unschedulable { since, .. } = waiting.place else { return };
        let due = since + self.backoff.after(waiting.attempts);
        self.put(key, if due <= now { Place::Active } else { Place::Backoff(due) });
    }

    fn put(&mut self, key: &str, place: Place) {
        if matches!(place, Place::InFlight { .. }) {
            self.forget_refusal(key);
        }
        self.leave(key);
        let Some(waiting) = self.pods.get_mut(key) else { return };
        waiting.place = place;
        match place {
            Place::Active => drop(self.active.insert((Reverse(waiting.pod.priority), waiting.order, key.to_string()))),
            Place::Backoff(moment) => drop(self.timers.insert((moment, key.to_string()))),
            Place::Unschedulable { until, .. } => {
                self.timers.insert((until, key.to_string()));
                self.unschedulable.insert(key.to_string());
            }
            Place::InFlight { .. } => self.in_flight += 1,
        }
    }

    /// How many of the pods that wait each plugin has refused, and which scheduler they are for.
    pub(crate) fn refused(&self) -> impl Iterator<Item = (&'static str, &str, i64)> {
        self.refused.iter().map(|((plugin, scheduler), pods)| (*plugin, scheduler.as_str(), *pods))
    }

    /// What was said of a pod at its last attempt counts no longer.
    fn forget_refusal(&mut self, key: &str) {
        let Some(waiting) = self.pods.get_mut(key) else { return };
        for plugin in std::mem::take(&mut waiting.refused_by) {
            *self.refused.entry((plugin, scheduler_of(&waiting.pod))).or_default() -= 1;
        }
    }

    /// Takes a pod out of what holds it.
    fn leave(&mut self, key: &str) {
        let Some(waiting) = self.pods.get(key) else { return };
        match waiting.place {
            Place::Active => drop(self.active.remove(&(Reverse(waiting.pod.priority), waiting.order, key.to_string()))),
            Place::Backoff(moment) => drop(self.timers.remove(&(moment, key.to_string()))),
            Place::Unschedulable { until, .. } => {
                self.timers.remove(&(until, key.to_string()));
                self.unschedulable.remove(key);
            }
            Place::InFlight { .. } => self.in_flight -= 1,
        }
    }
}

fn scheduler_of(pod: &Pod) -> String {
    pod.object.str_at(&["spec", "schedulerName"]).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    fn pod(name: &str, priority: i64) -> Arc<Pod> {
        let object = object!({ "metadata": { "name": name, "uid": name }, "spec": { "priority": priority } });
        Arc::new(Pod::alone(object))
    }

    fn names(queue: &mut Queue) -> Vec<String> {
        std::iter::from_fn(|| queue.pop()).map(|p| p.key.clone()).collect()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn who_refused_the_pods_that_wait_is_counted() {
        let mut queue = Queue::default();
        let counts = |queue: &Queue| queue.refused().map(|(plugin, _, pods)| (plugin, pods)).filter(|(_, n)| *n != 0).collect::<Vec<_>>();
        for name in ["a", "b"] {
            queue.add(pod(name, 0), Duration::ZERO);
            let taken = queue.pop().unwrap();
            queue.unschedulable(&taken, &["NodeAffinity", "NodeResourcesFit"], SECOND);
        }
        assert_eq!(counts(&queue), [("NodeAffinity", 2), ("NodeResourcesFit", 2)]);
        queue.tick(SECOND + LONGEST_WAIT);
        let taken = queue.pop().unwrap();
        assert_eq!(counts(&queue), [("NodeAffinity", 1), ("NodeResourcesFit", 1)]);
        queue.unschedulable(&taken, &["NodePorts"], SECOND);
        assert_eq!(counts(&queue), [("NodeAffinity", 1), ("NodePorts", 1), ("NodeResourcesFit", 1)]);
        queue.remove("a");
        queue.remove("b");
        assert!(counts(&queue).is_empty());
    }

    #[test]
    fn priority_comes_before_age() {
        let mut queue = Queue::default();
        for (name, priority) in [("a", 0), ("b", 10), ("c", 0)] {
            queue.add(pod(name, priority), Duration::ZERO);
        }
        assert_eq!(names(&mut queue), ["b", "a", "c"]);
    }

    #[test]
    fn an_unschedulable_pod_waits_for_a_change_and_its_back_off() {
        let mut queue = Queue::default();
        queue.add(pod("a", 0), Duration::ZERO);
        queue.pop();
        queue.unschedulable(&pod("a", 0), &[], Duration::ZERO);
        assert_eq!(queue.tick(SECOND * 100), Some(LONGEST_WAIT));
        queue.changed(SECOND / 2, |_, _| true);
        assert_eq!(queue.tick(SECOND / 2), Some(SECOND));
        assert_eq!(queue.tick(SECOND), None);
        assert_eq!(names(&mut queue), ["a"]);
    }

    #[test]
    fn a_change_while_a_pod_is_tried_is_not_lost() {
        let mut queue = Queue::default();
        queue.add(pod("a", 0), Duration::ZERO);
        queue.pop();
        queue.changed(Duration::ZERO, |_, _| true);
        queue.unschedulable(&pod("a", 0), &[], Duration::ZERO);
        assert_eq!(queue.tick(Duration::ZERO), Some(SECOND));
    }

    #[test]
    fn a_pod_waits_no_longer_than_five_minutes() {
        let mut queue = Queue::default();
        queue.add(pod("a", 0), Duration::ZERO);
        queue.pop();
        queue.unschedulable(&pod("a", 0), &[], Duration::ZERO);
        queue.tick(LONGEST_WAIT);
        assert_eq!(names(&mut queue), ["a"]);
        queue.remove("a");
        assert!(queue.pods.is_empty() && queue.timers.is_empty());
    }

    #[test]
    fn pods_of_one_group_are_taken_out_together_wherever_they_wait() {
        let mut queue = Queue::default();
        for (name, priority) in [("a", 0), ("b", 10), ("c", 0), ("d", 0)] {
            queue.add(pod(name, priority), Duration::ZERO);
        }
        let first = queue.pop().unwrap();
        queue.unschedulable(&first, &["NodeResourcesFit"], Duration::ZERO);
        let first = queue.pop().unwrap();
        assert_eq!(first.key, "a");
        let together = queue.pop_together(["a", "b", "c", "gone"].map(|name| pod(name, 0)).into(), &first);
        assert_eq!(together.iter().map(|p| p.key.as_str()).collect::<Vec<_>>(), ["b", "a", "c"]);
        assert_eq!((names(&mut queue), queue.lengths()), (vec!["d".to_string()], Lengths::default()));
        // Those that are being bound are not taken again.
        assert!(queue.pop_together(vec![pod("a", 0)], &pod("d", 0)).is_empty());
    }

    #[test]
    fn a_change_wakes_only_those_whom_it_may_help() {
        let mut queue = Queue::default();
        for (name, plugin) in [("a", "NodeAffinity"), ("b", "NodeResourcesFit")] {
            queue.add(pod(name, 0), Duration::ZERO);
            queue.pop();
            queue.unschedulable(&pod(name, 0), &[plugin], Duration::ZERO);
        }
        assert_eq!(queue.changed(SECOND, |_, by| by.contains(&"NodeResourcesFit")), 1);
        assert_eq!((names(&mut queue), queue.lengths().unschedulable), (vec!["b".to_string()], 1));
    }

    #[test]
    fn what_became_of_a_pod_is_not_said_of_the_next_of_its_name() {
        let next = || {
            let object = object!({ "metadata": { "name": "a", "uid": "next" }, "spec": {} });
            Arc::new(Pod::alone(object))
        };
        let mut queue = Queue::default();
        queue.add(pod("a", 0), Duration::ZERO);
        queue.pop();
        queue.add(next(), Duration::ZERO);
        queue.done(&pod("a", 0));
        assert_eq!(queue.tried(&pod("a", 0)), None);
        queue.failed(&pod("a", 0), Duration::ZERO);
        assert_eq!(queue.pop().map(|p| p.uid.to_string()), Some("next".into()));
        queue.failed(&pod("a", 0), Duration::ZERO);
        assert_eq!(queue.tick(Duration::ZERO), None);
    }
}
