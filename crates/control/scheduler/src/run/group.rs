//! One group of pods: a node is looked for for each of them, as if those before it were there, and all are bound that are needed,
//! or none. Nothing is sent away for a group that would not be complete then. See upstream's scheduleOnePodGroup.

use std::sync::Arc;
use std::time::Duration;

use fram_client::resources::POD_GROUPS;
use fram_client::{Delta, PatchKind};
use fram_machinery::{Reason, Value, meta};

use super::Scheduler;
use super::cycle::{Found, Held, Nomination, told};
use super::report::UNSCHEDULABLE;
use crate::gang::{PLUGIN, Tried, Verdict};
use crate::pod::Pod;
use crate::preemption::{self, Preemption};

/// A pod of the group after its turn.
enum Turn {
    /// It counts on a node. Those who have to leave for it do not count there meanwhile.
    Held {
        pod: Arc<Pod>,
        held: Held,
        /// The node where room was made for it before.
        expected: Option<String>,
        room: Option<Preemption>,
        plugins: Vec<&'static str>,
    },
    Refused {
        pod: Arc<Pod>,
        message: String,
        nomination: Nomination,
        /// Those that were sent away for it are still leaving.
        waits: bool,
        plugins: Vec<&'static str>,
    },
}

impl Turn {
    fn tried(&self) -> Tried {
        match self {
            Self::Held { room: None, .. } => Tried::Fits,
            Self::Held { .. } => Tried::Preempts,
            Self::Refused { waits: true, .. } => Tried::Waits,
            Self::Refused { .. } => Tried::Refused,
        }
    }
}

impl Scheduler {
    pub(super) fn groups_changed(&mut self, deltas: &[Delta]) {
        for delta in deltas {
            let released = self.groups.set(&delta.key(), delta.new.clone());
            self.try_anew(released, "PodGroupAdd");
        }
    }

    pub(super) fn group_joined(&mut self, pod: &Arc<Pod>) {
        if self.followed.groups.is_some() {
            let released = self.groups.join(pod);
            self.try_anew(released, "PodAdd");
        }
    }

    pub(super) fn group_left(&mut self, pod: &Value) {
        if self.followed.groups.is_some() {
            self.groups.leave(pod);
        }
    }

    fn try_anew(&mut self, released: Vec<Arc<Pod>>, event: &'static str) {
        let now = self.now();
        for pod in released {
            self.gated.remove(&pod.key);
            self.metrics.incoming(event, "active", 1);
            self.queue.add(pod, now);
        }
    }

    /// Tries all pods of a group that have no node, of which one was taken out of the queue.
    pub(super) async fn try_group(&mut self, first: Arc<Pod>, group: &str) {
        let begun = self.now();
        let pods = self.queue.pop_together(self.groups.unscheduled(group, &self.cache), &first);
        if pods.is_empty() {
            // It has left its group by ending, or has a node.
            self.queue.done(&first);
            return;
        }
        let missing = self.groups.missing(group, &self.cache);
        let mut turns = Vec::with_capacity(pods.len());
        let failure = match self.profile_of_all(&pods) {
            Ok(number) => self.take_turns(number, &pods, &mut turns).await.err(),
            Err(why) => Some(why),
        };
        self.metrics.decided(self.now() - begun);
        let verdict = match failure {
            Some(why) => Verdict::Failed(why),
            None => Verdict::of(&turns.iter().map(Turn::tried).collect::<Vec<_>>(), missing),
        };
        let number = self.profile_of(&first).unwrap_or(0);
        if let Verdict::Failed(why) = &verdict {
            self.withdraw_all(&turns);
            pods.iter().for_each(|pod| self.cycle_failed(number, pod, why, begun));
        } else {
            if verdict != Verdict::Bind {
                self.withdraw_all(&turns);
            }
            turns.into_iter().for_each(|turn| self.submit(number, turn, &verdict, begun));
        }
        self.report_group(group, verdict);
    }

    fn profile_of_all(&self, pods: &[Arc<Pod>]) -> Result<usize, String> {
        let name = |pod: &Pod| pod.object.str_at(&["spec", "schedulerName"]).to_string();
        if let Some(other) = pods.iter().find(|pod| name(pod) != name(&pods[0])) {
            let (one, other) = (name(&pods[0]), name(other));
            return Err(format!("all pods in a single pod group should have the same .spec.schedulerName set, got: {one:?} and {other:?}"));
        }
        self.profile_of(&pods[0]).ok_or_else(|| format!("profile not found for scheduler name {:?}", name(&pods[0])))
    }

    /// Looks for a node for one pod after the other; each sees those before it where they would be.
    async fn take_turns(&mut self, number: usize, pods: &[Arc<Pod>], turns: &mut Vec<Turn>) -> Result<(), String> {
        for pod in pods {
            let expected = self.cache.nominated_node(&pod.uid).map(str::to_string);
            let turn = match self.find(number, pod).await {
                Found::Node(node) => {
                    let held = self.hold(number, pod, node);
                    Turn::Held { pod: pod.clone(), held, expected, room: None, plugins: vec![PLUGIN] }
                }
                Found::None(attempt, outcome) => {
                    let (message, clearable, plugins) = told(outcome);
                    let (nomination, message) = self.room(number, attempt, message, (&clearable, None)).await;
                    match nomination {
                        Nomination::To(room) => {
                            room.victims.iter().for_each(|victim| drop(self.cache.take(&victim.uid)));
                            let held = self.hold(number, pod, room.node.clone());
                            Turn::Held { pod: pod.clone(), held, expected, room: Some(room), plugins }
                        }
                        nomination => {
                            let waits = preemption::waits_for_leaving(pod, &self.cache);
                            Turn::Refused { pod: pod.clone(), message, nomination, waits, plugins }
                        }
                    }
                }
                Found::Failed(error) => return Err(format!("failed to schedule other pod from a pod group: {error}")),
            };
            turns.push(turn);
        }
        Ok(())
    }

    /// All is in the cache as it was before the attempt.
    fn withdraw_all(&mut self, turns: &[Turn]) {
        for turn in turns.iter().rev() {
            let Turn::Held { pod, held, expected, room, .. } = turn else { continue };
            self.withdraw(pod, held);
            if let Some(node) = expected {
                self.cache.nominate(pod.clone(), node);
            }
            let Some(Preemption { node, victims }) = room else { continue };
            victims.iter().for_each(|victim| self.cache.place(victim.clone(), node));
        }
    }

    fn submit(&mut self, number: usize, turn: Turn, verdict: &Verdict, begun: Duration) {
        match turn {
            Turn::Held { pod, held, .. } if *verdict == Verdict::Bind => self.bind_beside(number, pod, held, begun),
            Turn::Held { pod, held, room, plugins, .. } => {
                self.count_unschedulable(number, &pod, &plugins, begun);
                // Who found a node keeps it while others leave.
                let nomination = match verdict {
                    Verdict::Preempt => Nomination::To(room.unwrap_or(Preemption { node: held.node, victims: Vec::new() })),
                    _ => Nomination::Cleared,
                };
                self.conclude(pod, UNSCHEDULABLE, verdict.of_waiting(), nomination);
            }
            Turn::Refused { pod, message, nomination, plugins, .. } => {
                self.count_unschedulable(number, &pod, &plugins, begun);
                self.conclude(pod, UNSCHEDULABLE, message, nomination);
            }
        }
    }

    /// Says in the PodGroup what came of the attempt.
    fn report_group(&mut self, group: &str, verdict: Verdict) {
        let Some(object) = self.groups.object(group).cloned() else { return };
        let config = self.config.clone();
        let Some(patch) = verdict.status_patch(&object, || (config.now)()) else { return };
        let permits = self.permits.clone();
        self.reports.spawn(async move {
            let _permit = permits.acquire().await;
            let groups = config.client.within(&POD_GROUPS, meta::namespace(&object));
            match groups.patch(meta::name(&object), "status", PatchKind::Strategic, patch).await {
                Err(status) if !matches!(status.reason, Reason::NotFound | Reason::Conflict) => {
                    tracing::warn!(group = meta::key(&object), %status, "cannot say what became of a group of pods");
                }
                _ => {}
            }
            None
        });
    }
}
