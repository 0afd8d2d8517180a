//! One worker for each pod: it watches over one pod from its first appearance until nothing of it is left. What to do is
//! decided in `phase` and `actions`; this drives the work and tells the status.

pub(crate) mod actions;
mod mailbox;
pub(crate) mod phase;
mod release;
mod resizing;
mod start;
mod stop;
mod sync;

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use fram_cri::{ContainerState, LinuxContainerResources};
use fram_machinery::{Value, meta};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::clock;
use crate::context::Context;
use crate::metrics::Took;
use crate::observed::Observed;
use crate::pod::{self, PodId};
use crate::probe::Probes;
use crate::status::{Inputs, Waiting, generate};
use actions::Verdicts;
pub(crate) use mailbox::{Letter, Mailbox};
pub(crate) use phase::Failure;
use phase::{Command, Event, Phase, State};

/// After a failure that nothing announces the end of, the pod is looked at again after this time.
pub(crate) const RETRY: Duration = Duration::from_secs(10);

/// For so long a container may be missing between two instances before that is told.
const REPLACEMENT: Duration = Duration::from_secs(1);

/// What a piece of work came to.
#[derive(Default)]
pub(crate) struct Outcome {
    /// Why containers could not be started; None where one could.
    waiting: Vec<(String, Option<(String, String)>)>,
    /// When containers may be tried again.
    holds: Vec<(String, Duration)>,
    /// When the whole pod may be tried again.
    hold_pod: Option<Duration>,
    /// Container instances that a restart replaced, for the back-off.
    restarted: Vec<(String, jiff::Timestamp)>,
    /// The volumes are set up, and are to be renewed after this time.
    volumes: Option<Option<Duration>>,
    /// The volumes could not be set up.
    volumes_failed: bool,
    event: Option<Event>,
    /// The pod's cgroup has these limits now.
    cgroup: Option<LinuxContainerResources>,
    /// Resources could not be put in place; they may be tried again after this time.
    hold_resize: Option<Duration>,
    /// Nothing of the pod is left on the node.
    removed: bool,
}

type Work = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// Work under way. What makes things on the node is not dropped in the middle, or what it was about to make would belong to
/// nobody: it is told to end, does so before its next step or wait, and what it made is seen and cleared away.
struct UnderWay {
    work: Work,
    /// None where the work may be dropped at any moment.
    end: Option<CancellationToken>,
}

pub(crate) struct Worker {
    ctx: Arc<Context>,
    id: PodId,
    mailbox: Arc<Mailbox>,
    pod: Arc<Value>,
    state: State,
    observed: Arc<Observed>,
    verdicts: Arc<Mutex<Verdicts>>,
    probes: Probes,
    waiting: Waiting,
    holds: HashMap<String, Instant>,
    hold_pod: Option<Instant>,
    /// Something that may have kept the pod waiting changed while work was under way.
    stirred: bool,
    backoff: Backoff,
    /// Last messages of containers that have ended, by their ids.
    messages: HashMap<String, String>,
    volumes_ready: bool,
    /// Container instances that the work under way replaces.
    replacing: Vec<String>,
    /// When the first of them was seen to have ended.
    replaced: Option<Instant>,
    renew_volumes: Option<Instant>,
    /// The limits that the pod's cgroup has, once this worker has seen to it.
    cgroup: Option<LinuxContainerResources>,
    hold_resize: Option<Instant>,
    resizing: bool,
    todo: Vec<Command>,
    /// Ends the work that is begun next, where it is of the sort that is told to end.
    end: CancellationToken,
    status: Option<Arc<Value>>,
    removed: bool,
    forgotten: bool,
    seen: Instant,
}

impl Worker {
    pub(crate) fn new(ctx: Arc<Context>, pod: Arc<Value>, mailbox: Arc<Mailbox>) -> Self {
        let verdicts = Arc::new(Mutex::new(Verdicts::new()));
        Self {
            id: PodId::of(&pod),
            probes: Probes::new(ctx.clone(), verdicts.clone(), mailbox.clone()),
            mailbox,
            pod,
            state: State::default(),
            observed: Arc::default(),
            verdicts,
            waiting: Waiting::new(),
            holds: HashMap::new(),
            hold_pod: None,
            stirred: false,
            backoff: Backoff::up_to(ctx.config.max_container_restart_period),
            messages: HashMap::new(),
            volumes_ready: false,
            replacing: Vec::new(),
            replaced: None,
            renew_volumes: None,
            cgroup: None,
            hold_resize: None,
            resizing: false,
            todo: Vec::new(),
            end: CancellationToken::new(),
            status: None,
            removed: false,
            forgotten: false,
            seen: Instant::now(),
            ctx,
        }
    }

    /// Runs until nothing of the pod is left, or `stop`: then containers go on without it.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut work: Option<UnderWay> = None;
        loop {
            let told = self.read_mail();
            if self.is_overdue() || told {
                // What is under way was begun for a pod that was to run on; a stop under way is begun again, with less time.
                match work.as_ref().and_then(|w| w.end.as_ref()) {
                    Some(end) => end.cancel(),
                    None => work = None,
                }
                self.replacing.clear();
            }
            self.observe().await;
            if work.is_none() {
                let end = CancellationToken::new();
                self.end = end.clone();
                let begun = self.next_work();
                let makes = self.state.phase == Phase::SyncPod;
                work = begun.map(|work| UnderWay { work, end: makes.then_some(end) });
            }
            self.tell();
            if self.forgotten {
                return;
            }
            let due = self.next_due();
            let (mailbox, busy) = (self.mailbox.clone(), work.is_some());
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                outcome = async { match &mut work { Some(under_way) => (&mut under_way.work).await, None => std::future::pending().await } }, if busy => {
                    work = None;
                    self.absorb(outcome);
                }
                () = mailbox.wait() => {}
                () = sleep_until(due) => {}
            }
        }
    }

    /// Takes in what happened; true when the work under way is to be given up.
    fn read_mail(&mut self) -> bool {
        let mut interrupted = false;
        for letter in self.mailbox.take() {
            let event = match letter {
                Letter::Pod(pod) => {
                    if meta::generation(&pod) != meta::generation(&self.pod)
                        || pod.get("spec") != self.pod.get("spec")
                        || pod.at(&["metadata", "labels"]) != self.pod.at(&["metadata", "labels"])
                        || pod.at(&["metadata", "annotations"]) != self.pod.at(&["metadata", "annotations"])
                    {
                        self.unhold();
                    }
                    self.pod = pod;
                    let grace = pod::grace_period(&self.pod);
                    match meta::is_terminating(&self.pod) {
                        true => Some(Event::Deleted { grace }),
                        // Somebody else declared its end, as the pod garbage collector does.
                        false => pod::is_terminal(&self.pod).then_some(Event::Ended { grace }),
                    }
                }
                Letter::Removed => Some(Event::Removed { grace: pod::grace_period(&self.pod) }),
                Letter::Failed { failure, grace } => {
                    Some(Event::Failed { grace: grace.unwrap_or_else(|| pod::grace_period(&self.pod)), failure })
                }
                Letter::SourcesChanged => {
                    self.unhold();
                    self.volumes_ready = false;
                    None
                }
                Letter::Runtime => None,
            };
            interrupted |= event.is_some_and(|event| self.step(event));
        }
        interrupted
    }

    /// Ends a pod whose deadline has passed; true when it did so now.
    fn is_overdue(&mut self) -> bool {
        if self.state.phase != Phase::SyncPod || self.deadline() != Some(Duration::ZERO) {
            return false;
        }
        let message = "Pod was active on the node longer than the specified deadline".to_string();
        self.ctx.event(&self.pod, false, "DeadlineExceeded", message.clone());
        let failure = Failure { reason: "DeadlineExceeded".into(), message, disruption: false };
        self.step(Event::Failed { grace: pod::grace_period(&self.pod), failure })
    }

    fn unhold(&mut self) {
        self.holds.clear();
        self.hold_pod = None;
        self.hold_resize = None;
        self.stirred = true;
        if pod_shows_metadata(&self.pod) {
            self.volumes_ready = false;
        }
    }

    /// Steps the state; true when it asks for a stop.
    fn step(&mut self, event: Event) -> bool {
        let before = self.state.phase;
        let (state, commands) = self.state.clone().step(event);
        self.state = state;
        if before != self.state.phase {
            tracing::debug!(pod = %self.id, from = ?before, to = ?self.state.phase, "pod phase");
        }
        let stops = commands.iter().any(|c| matches!(c, Command::Stop { .. }));
        if stops {
            self.probes.quiet();
            self.todo.retain(|c| !matches!(c, Command::Stop { .. }));
        }
        self.todo.extend(commands);
        stops
    }

    /// Reads what the runtime has; where it cannot be asked, what was known stays.
    async fn observe(&mut self) {
        if self.removed {
            return;
        }
        match Observed::read(&*self.ctx.runtime, &self.id.uid).await {
            Ok(mut observed) => {
                self.add_messages(&mut observed);
                self.observed = Arc::new(observed);
            }
            Err(error) => {
                tracing::warn!(pod = %self.id, %error, "the runtime could not be asked about a pod");
                self.hold_pod = Some(Instant::now() + RETRY);
            }
        }
        if self.state.phase == Phase::SyncPod {
            self.probes.follow(&self.pod, &self.observed);
        } else if self.observed.running().next().is_none() {
            self.probes.end();
        }
    }

    fn add_messages(&mut self, observed: &mut Observed) {
        let ended = |c: &&mut fram_cri::ContainerStatus| c.state == ContainerState::Exited;
        for container in observed.containers.iter_mut().filter(ended) {
            let known = self.messages.entry(container.id.clone());
            let dir = self.ctx.config.pod_dir(&self.id.uid);
            container.message = known.or_insert_with(|| stop::termination_message(&dir, container)).clone();
        }
        self.messages.retain(|id, _| observed.containers.iter().any(|c| c.id == *id));
    }

    /// The pod with its last status, which may not have come back from the API server yet.
    fn pod_with_status(&self) -> Arc<Value> {
        let Some(status) = &self.status else { return self.pod.clone() };
        let mut pod = (*self.pod).clone();
        let mut merged = (**status).clone();
        let conditions = crate::status::joined(pod.list_at(&["status", "conditions"]), status.list_at(&["conditions"]));
        merged.set(&["conditions"], conditions);
        pod.set(&["status"], merged);
        Arc::new(pod)
    }

    /// Makes the status and hands it to the writer when it differs from the last one.
    fn tell(&mut self) {
        if self.removed || self.state.gone || self.is_between_instances() {
            return;
        }
        let pod = self.pod_with_status();
        let ended = matches!(self.state.phase, Phase::TerminatedPod | Phase::Finished);
        let verdicts = self.verdicts.lock().clone();
        let resize = self.resize_conditions();
        let status = generate(&Inputs {
            pod: &pod,
            observed: &self.observed,
            verdicts: &verdicts,
            waiting: &self.waiting,
            health: &self.ctx.device_health(&pod),
            host_ips: &self.ctx.host_ips(),
            mounts_recursively: self.ctx.mounts_recursively(&pod),
            resize: &resize,
            failure: self.state.failure.as_ref(),
            ending: self.state.phase != Phase::SyncPod,
            ended,
            now: self.ctx.clock.now(),
        });
        if self.status.as_deref() != Some(&status) {
            let before = self.status.as_deref().or(self.pod.get("status"));
            let before = before.unwrap_or(&Value::Null);
            self.ctx.metrics.count_terminations(before, &status);
            if before.str_at(&["phase"]) != "Running" && status.str_at(&["phase"]) == "Running" {
                self.count_start();
            }
            let status = Arc::new(status);
            self.ctx.writer.set(&self.id, status.clone());
            self.status = Some(status);
        }
    }

    fn count_start(&self) {
        let families = &self.ctx.metrics.families;
        families.took(Took::PodStart, &[], self.seen.elapsed());
        if let Some(created) = clock::parse(self.pod.str_at(&["metadata", "creationTimestamp"])) {
            families.took(Took::PodStartTotal, &[], clock::since(self.ctx.clock.now(), created));
        }
    }

    /// A container that is replaced at once is told of when its successor runs, not in the moment between: a change of the image
    /// or of resources does not show as a pod that is not ready. Upstream's kubelet sees no such moments, since it looks once a
    /// second.
    fn is_between_instances(&mut self) -> bool {
        let ended = |id: &String| self.observed.containers.iter().any(|c| c.id == *id && c.state == ContainerState::Exited);
        if !self.replacing.iter().any(ended) {
            self.replaced = None;
            return false;
        }
        let now = Instant::now();
        *self.replaced.get_or_insert(now) + REPLACEMENT > now
    }

    fn next_work(&mut self) -> Option<Work> {
        self.stirred = false;
        if let Some(command) = (!self.todo.is_empty()).then(|| self.todo.remove(0)) {
            return self.obey(command);
        }
        match self.state.phase {
            Phase::SyncPod => self.next_sync(),
            // A stop that failed is tried again.
            Phase::TerminatingPod => self.is_due().then(|| stop::everything(self.stopping(self.state.grace))),
            Phase::TerminatedPod => self.is_due().then(|| release::everything(self.ctx.clone(), self.pod.clone())),
            Phase::Finished => None,
        }
    }

    fn is_due(&self) -> bool {
        self.hold_pod.is_none_or(|at| at <= Instant::now())
    }

    fn stopping(&self, grace: i64) -> stop::Stopping {
        stop::Stopping { ctx: self.ctx.clone(), pod: self.pod.clone(), observed: self.observed.clone(), grace }
    }

    fn obey(&mut self, command: Command) -> Option<Work> {
        match command {
            Command::Stop { grace } => Some(stop::everything(self.stopping(grace))),
            Command::Release => Some(release::everything(self.ctx.clone(), self.pod.clone())),
            Command::Remove => {
                // The last status is told before what it tells of is gone.
                self.tell();
                Some(release::remains(self.ctx.clone(), self.pod.clone(), self.observed.clone()))
            }
            Command::DeleteObject => {
                self.ctx.writer.delete(&self.id);
                self.next_work()
            }
            Command::Forget => {
                self.ctx.writer.forget(&self.id.uid);
                self.forgotten = true;
                None
            }
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut due: Vec<Instant> = self.holds.values().copied().filter(|at| *at > now).collect();
        due.extend(self.hold_pod.filter(|at| *at > now));
        due.extend(self.replaced.map(|at| at + REPLACEMENT).filter(|at| *at > now));
        if self.state.phase == Phase::SyncPod {
            due.extend(self.hold_resize.filter(|at| *at > now));
            due.extend(self.renew_volumes.filter(|at| *at > now));
            due.extend(self.deadline().map(|left| now + left));
        }
        due.into_iter().min()
    }

    /// What is left of the pod's activeDeadlineSeconds.
    fn deadline(&self) -> Option<Duration> {
        let seconds = u64::try_from(self.pod.int_at(&["spec", "activeDeadlineSeconds"])?).ok()?;
        let started = self.status.as_ref().map(|s| s.str_at(&["startTime"])).filter(|s| !s.is_empty());
        let started = clock::parse(started.unwrap_or(self.pod.str_at(&["status", "startTime"])))?;
        Some(Duration::from_secs(seconds).saturating_sub(clock::since(self.ctx.clock.now(), started)))
    }

    fn absorb(&mut self, outcome: Outcome) {
        let now = Instant::now();
        for (name, reason) in outcome.waiting {
            match reason {
                Some(reason) => self.waiting.insert(name, reason),
                None => {
                    self.holds.remove(&name);
                    self.waiting.remove(&name)
                }
            };
        }
        self.holds.extend(outcome.holds.into_iter().map(|(name, delay)| (name, now + delay)));
        // What failed may have failed before the change.
        self.hold_pod = outcome.hold_pod.filter(|_| !self.stirred).map(|delay| now + delay);
        self.hold_resize = outcome.hold_resize.map(|delay| now + delay);
        if outcome.cgroup.is_some() {
            self.cgroup = outcome.cgroup;
        }
        for (key, ended) in outcome.restarted {
            self.backoff.next(&key, ended, self.ctx.clock.now());
        }
        // They count as set up from when this was begun, so that what changes meanwhile is not overlooked.
        self.volumes_ready &= !outcome.volumes_failed;
        self.replacing.clear();
        if let Some(renew) = outcome.volumes {
            self.renew_volumes = renew.map(|delay| now + delay);
        }
        self.removed |= outcome.removed;
        if let Some(event) = outcome.event {
            self.step(event);
        }
    }
}

fn pod_shows_metadata(pod: &Value) -> bool {
    crate::volumes::payload::shows_metadata(pod)
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
