//! The scheduling queue: pods that can be tried now by priority and age, pods that wait for their back-off, and pods that
//! no node took, which wait for something to change. Pure: the time is handed in.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::pod::Pod;

/// A moment on a monotonic clock, since an arbitrary start.
pub(crate) type Moment = Duration;

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LAST_BACKOFF: Duration = Duration::from_secs(10);
/// A pod that waits this long is tried whatever happened; see --pod-max-in-unschedulable-pods-duration.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

#[derive(Debug)]
struct Waiting {
    pod: Arc<Pod>,
    attempts: u32,
    place: Place,
    order: u64,
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
    /// Taken out by `pop` and not yet answered.
    InFlight {
        changed: bool,
    },
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    pods: HashMap<String, Waiting>,
    /// Higher priority first, then older first.
    active: BTreeSet<(std::cmp::Reverse<i64>, u64, String)>,
    timers: BTreeMap<(Moment, String), ()>,
    next_order: u64,
}

impl Queue {
    /// A pod appeared or changed; a changed one is tried anew.
    pub(crate) fn add(&mut self, pod: Arc<Pod>, now: Moment) {
        let key = pod.key.clone();
        match self.pods.get_mut(&key) {
            Some(waiting) => {
                let same = waiting.pod.uid == pod.uid;
                waiting.pod = pod;
                if !same {
                    waiting.attempts = 0;
                }
                match &mut waiting.place {
                    Place::InFlight { changed } => *changed = true,
                    Place::Unschedulable { .. } => self.move_up(&key, now),
                    Place::Active | Place::Backoff(_) => {}
                }
            }
            None => {
                self.next_order += 1;
                self.pods.insert(key.clone(), Waiting { pod, attempts: 0, place: Place::Active, order: self.next_order });
                self.activate(&key);
            }
        }
    }

    pub(crate) fn remove(&mut self, key: &str) {
        self.leave(key);
        self.pods.remove(key);
    }

    /// The next pod to try; it is in flight until `done` or `failed`.
    pub(crate) fn pop(&mut self) -> Option<Arc<Pod>> {
        let (_, _, key) = self.active.pop_first()?;
        let waiting = self.pods.get_mut(&key)?;
        waiting.place = Place::InFlight { changed: false };
        Some(waiting.pod.clone())
    }

    pub(crate) fn has_active(&self) -> bool {
        !self.active.is_empty()
    }

    /// The pod found its node.
    pub(crate) fn done(&mut self, key: &str) {
        self.remove(key);
    }

    /// No node took the pod. Where something changed since it was taken out, it is tried again after its back-off.
    pub(crate) fn unschedulable(&mut self, key: &str, now: Moment) {
        self.fail(key, now, false);
    }

    /// The attempt failed for another reason and is worth another try.
    pub(crate) fn failed(&mut self, key: &str, now: Moment) {
        self.fail(key, now, true);
    }

    fn fail(&mut self, key: &str, now: Moment, again: bool) {
        let Some(waiting) = self.pods.get_mut(key) else { return };
        let changed = matches!(waiting.place, Place::InFlight { changed: true });
        waiting.attempts += 1;
        let place = if again || changed {
            Place::Backoff(now + backoff(waiting.attempts))
        } else {
            Place::Unschedulable { since: now, until: now + LONGEST_WAIT }
        };
        self.put(key, place);
    }

    /// Something changed that may let waiting pods in.
    pub(crate) fn cluster_changed(&mut self, now: Moment) {
        let keys: Vec<String> = self.pods.keys().cloned().collect();
        for key in keys {
            match self.pods.get_mut(&key).map(|w| &mut w.place) {
                Some(Place::InFlight { changed }) => *changed = true,
                Some(Place::Unschedulable { .. }) => self.move_up(&key, now),
                _ => {}
            }
        }
    }

    /// Moves what is due; returns when the next is.
    pub(crate) fn tick(&mut self, now: Moment) -> Option<Moment> {
        while let Some((moment, key)) = self.timers.keys().next().cloned() {
            if moment > now {
                return Some(moment);
            }
            self.leave(&key);
            self.activate(&key);
        }
        None
    }

    /// From waiting for a change to waiting for the rest of the back-off.
    fn move_up(&mut self, key: &str, now: Moment) {
        let Some(waiting) = self.pods.get(key) else { return };
        let Place::Unschedulable { since, .. } = waiting.place else { return };
        let due = since + backoff(waiting.attempts);
        if due <= now {
            self.leave(key);
            self.activate(key);
        } else {
            self.put(key, Place::Backoff(due));
        }
    }

    fn activate(&mut self, key: &str) {
        if let Some(waiting) = self.pods.get_mut(key) {
            waiting.place = Place::Active;
            self.active.insert((std::cmp::Reverse(waiting.pod.priority), waiting.order, key.to_string()));
        }
    }

    fn put(&mut self, key: &str, place: Place) {
        self.leave(key);
        if let Some(waiting) = self.pods.get_mut(key) {
            waiting.place = place;
            if let Place::Backoff(moment) | Place::Unschedulable { until: moment, .. } = place {
                self.timers.insert((moment, key.to_string()), ());
            }
        }
    }

    /// Takes a pod out of the order or the timers that hold it.
    fn leave(&mut self, key: &str) {
        let Some(waiting) = self.pods.get(key) else { return };
        match waiting.place {
            Place::Active => {
                self.active.retain(|(_, order, _)| *order != waiting.order);
            }
            Place::Backoff(moment) | Place::Unschedulable { until: moment, .. } => {
                self.timers.remove(&(moment, key.to_string()));
            }
            Place::InFlight { .. } => {}
        }
    }
}

fn backoff(attempts: u32) -> Duration {
    (FIRST_BACKOFF * 2u32.saturating_pow(attempts.saturating_sub(1).min(10))).min(LAST_BACKOFF)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    fn pod(name: &str, priority: i64) -> Arc<Pod> {
        let object = object!({ "metadata": { "name": name, "uid": name }, "spec": { "priority": priority } });
        Arc::new(Pod::new(Arc::new(object)))
    }

    fn names(queue: &mut Queue) -> Vec<String> {
        std::iter::from_fn(|| queue.pop()).map(|p| p.key.clone()).collect()
    }

    const SECOND: Duration = Duration::from_secs(1);

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
        queue.unschedulable("a", Duration::ZERO);
        assert_eq!(queue.tick(SECOND * 100), Some(LONGEST_WAIT));
        queue.cluster_changed(SECOND / 2);
        assert_eq!(queue.tick(SECOND / 2), Some(SECOND));
        assert_eq!(queue.tick(SECOND), None);
        assert_eq!(names(&mut queue), ["a"]);
    }

    #[test]
    fn a_change_while_a_pod_is_tried_is_not_lost() {
        let mut queue = Queue::default();
        queue.add(pod("a", 0), Duration::ZERO);
        queue.pop();
        queue.cluster_changed(Duration::ZERO);
        queue.unschedulable("a", Duration::ZERO);
        assert_eq!(queue.tick(Duration::ZERO), Some(SECOND));
    }

    #[test]
    fn a_pod_waits_no_longer_than_five_minutes() {
        let mut queue = Queue::default();
        queue.add(pod("a", 0), Duration::ZERO);
        queue.pop();
        queue.unschedulable("a", Duration::ZERO);
        queue.tick(LONGEST_WAIT);
        assert_eq!(names(&mut queue), ["a"]);
        queue.remove("a");
        assert!(queue.pods.is_empty() && queue.timers.is_empty());
    }
}
