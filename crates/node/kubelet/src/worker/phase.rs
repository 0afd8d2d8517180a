//! The life of a pod on its node as three documented phases and one `step`. Pure; see upstream's pod_workers.go: SyncPod,
//! TerminatingPod, TerminatedPod.

/// Where a pod is in its life on the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Containers are made and kept as the specification says.
    SyncPod,
    /// Nothing is started any more; what runs is being stopped within the grace period.
    TerminatingPod,
    /// Nothing runs any more; volumes and cgroups are being released.
    TerminatedPod,
    /// Nothing is held any more. The object may stay for as long as its owner wants.
    Finished,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub phase: Phase,
    /// Somebody asked the API server for the pod's deletion.
    pub deleted: bool,
    /// The API server no longer has the pod.
    pub gone: bool,
    /// Seconds that stopping may take.
    pub grace: i64,
    /// Why the kubelet itself ended the pod.
    pub failure: Option<Failure>,
}

/// Reason and message of the status of a pod that the kubelet ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Failure {
    pub reason: String,
    pub message: String,
    /// The pod gets the condition DisruptionTarget: nothing was wrong with itself.
    pub disruption: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The object has a deletion timestamp, with this grace period.
    Deleted { grace: i64 },
    /// The API server no longer has the object (a forced deletion, or a deletion while the kubelet was away).
    Removed { grace: i64 },
    /// The kubelet ends the pod: its deadline has passed, it does not fit, the node is short of something.
    Failed { grace: i64, failure: Failure },
    /// Every main container has ended and none is to be run again; sidecars may still run.
    Ended { grace: i64 },
    /// Nothing of the pod runs any more.
    Stopped,
    /// Volumes, cgroups and whatever else the pod held are released.
    Released,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// Stop everything within this many seconds; a stop under way is hastened.
    Stop { grace: i64 },
    /// Release volumes and cgroups.
    Release,
    /// Take sandboxes, containers, logs and directories away; nobody can ask for them any more.
    Remove,
    /// Tell the API server that the object may go.
    DeleteObject,
    /// The worker has nothing left to do.
    Forget,
}

impl Default for State {
    fn default() -> Self {
        Self { phase: Phase::SyncPod, deleted: false, gone: false, grace: 0, failure: None }
    }
}

impl State {
    /// The next state and what is to be done about it.
    #[must_use]
    pub(crate) fn step(mut self, event: Event) -> (Self, Vec<Command>) {
        let commands = match event {
            Event::Deleted { grace } => {
                let first = !std::mem::replace(&mut self.deleted, true);
                self.end_within(grace, first)
            }
            Event::Removed { grace } => {
                let first = !std::mem::replace(&mut self.gone, true);
                self.end_within(grace, first)
            }
            Event::Failed { grace, failure } => {
                if self.phase != Phase::SyncPod {
                    return (self, Vec::new());
                }
                self.failure = Some(failure);
                self.end_within(grace, false)
            }
            Event::Ended { grace } if self.phase == Phase::SyncPod => self.end_within(grace, false),
            Event::Stopped if self.phase == Phase::TerminatingPod => {
                self.phase = Phase::TerminatedPod;
                vec![Command::Release]
            }
            Event::Released if self.phase == Phase::TerminatedPod => {
                self.phase = Phase::Finished;
                self.farewell()
            }
            Event::Ended { .. } | Event::Stopped | Event::Released => Vec::new(),
        };
        (self, commands)
    }

    /// `first`: this is the moment at which the object's own end became known.
    fn end_within(&mut self, grace: i64, first: bool) -> Vec<Command> {
        match self.phase {
            Phase::SyncPod => {
                self.phase = Phase::TerminatingPod;
                self.grace = grace;
                vec![Command::Stop { grace }]
            }
            Phase::TerminatingPod if grace < self.grace => {
                self.grace = grace;
                vec![Command::Stop { grace }]
            }
            Phase::Finished if first => self.farewell(),
            _ => Vec::new(),
        }
    }

    fn farewell(&self) -> Vec<Command> {
        match (self.gone, self.deleted) {
            (true, _) => vec![Command::Remove, Command::Forget],
            (false, true) => vec![Command::Remove, Command::DeleteObject],
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(events: &[Event], phase: Phase, expect: &[&[Command]]) {
        let mut state = State::default();
        let mut told = Vec::new();
        for event in events {
            let (next, commands) = state.step(event.clone());
            state = next;
            told.push(commands);
        }
        assert_eq!((state.phase, told.iter().map(Vec::as_slice).collect::<Vec<_>>().as_slice()), (phase, expect));
    }

    const STOPPED: Event = Event::Stopped;
    const RELEASED: Event = Event::Released;

    #[test]
    fn a_deleted_pod_is_stopped_then_released_and_only_then_deleted() {
        let stop = [Command::Stop { grace: 30 }];
        let deleted = Event::Deleted { grace: 30 };
        check(std::slice::from_ref(&deleted), Phase::TerminatingPod, &[&stop]);
        let all = [deleted, STOPPED, RELEASED];
        check(&all, Phase::Finished, &[&stop, &[Command::Release], &[Command::Remove, Command::DeleteObject]]);
    }

    #[test]
    fn a_pod_that_ended_by_itself_keeps_its_remains_until_it_is_deleted() {
        let farewell = [Command::Remove, Command::DeleteObject];
        let events = [Event::Ended { grace: 9 }, STOPPED, RELEASED, Event::Deleted { grace: 30 }];
        check(&events, Phase::Finished, &[&[Command::Stop { grace: 9 }], &[Command::Release], &[], &farewell]);
    }

    #[test]
    fn a_shorter_grace_period_hastens_a_stop_and_a_longer_one_does_not_delay_it() {
        let events = [Event::Deleted { grace: 30 }, Event::Deleted { grace: 60 }, Event::Deleted { grace: 5 }];
        check(&events, Phase::TerminatingPod, &[&[Command::Stop { grace: 30 }], &[], &[Command::Stop { grace: 5 }]]);
    }

    #[test]
    fn a_pod_whose_object_is_gone_is_stopped_and_forgotten() {
        let events = [Event::Removed { grace: 1 }, STOPPED, RELEASED];
        let expect: [&[Command]; 3] = [&[Command::Stop { grace: 1 }], &[Command::Release], &[Command::Remove, Command::Forget]];
        check(&events, Phase::Finished, &expect);
        let events = [Event::Deleted { grace: 1 }, STOPPED, RELEASED, Event::Removed { grace: 1 }];
        let expect: [&[Command]; 4] = [
            &[Command::Stop { grace: 1 }],
            &[Command::Release],
            &[Command::Remove, Command::DeleteObject],
            &[Command::Remove, Command::Forget],
        ];
        check(&events, Phase::Finished, &expect);
    }

    #[test]
    fn a_failure_is_remembered_once_and_nothing_starts_after_it() {
        let failed = |reason: &str| Event::Failed { grace: 3, failure: Failure { reason: reason.into(), ..Failure::default() } };
        let (state, commands) = State::default().step(failed("Evicted"));
        assert_eq!(commands, [Command::Stop { grace: 3 }]);
        let (state, commands) = state.step(failed("DeadlineExceeded"));
        assert_eq!((state.failure.map(|f| f.reason), commands), (Some("Evicted".into()), vec![]));
    }
}
