//! Probes: one task for each probe of each container that runs. A task keeps to the times that the API defines, and writes
//! its verdict where the pod's worker reads it. See upstream's pkg/kubelet/prober.

mod attempt;
mod count;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fram_cri::ContainerStatus;
use fram_machinery::{Value, meta};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::context::Context;
use crate::metrics::Probed;
use crate::observed::Observed;
use crate::pod::{self, PodId};
use crate::worker::actions::{Verdict, Verdicts};
use crate::worker::{Letter, Mailbox};
use attempt::{Answer, attempt};
use count::{Count, Thresholds};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Startup, Kind::Liveness, Kind::Readiness];

    pub(crate) fn field(self) -> &'static str {
        match self {
            Kind::Startup => "startupProbe",
            Kind::Liveness => "livenessProbe",
            Kind::Readiness => "readinessProbe",
        }
    }

    /// As events say it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
        }
    }

    fn of(self, verdict: &mut Verdict) -> &mut Option<bool> {
        match self {
            Kind::Startup => &mut verdict.startup,
            Kind::Liveness => &mut verdict.liveness,
            Kind::Readiness => &mut verdict.readiness,
        }
    }
}

/// The probes of one pod.
pub(crate) struct Probes {
    ctx: Arc<Context>,
    verdicts: Arc<Mutex<Verdicts>>,
    mailbox: Arc<Mailbox>,
    tasks: JoinSet<()>,
    running: HashMap<(String, Kind), CancellationToken>,
    /// Counts containers that have started: others wait for that.
    started: watch::Sender<u64>,
    quiet: bool,
}

impl Probes {
    pub(crate) fn new(ctx: Arc<Context>, verdicts: Arc<Mutex<Verdicts>>, mailbox: Arc<Mailbox>) -> Self {
        Self { ctx, verdicts, mailbox, tasks: JoinSet::new(), running: HashMap::new(), started: watch::Sender::new(0), quiet: false }
    }

    /// Starts the probes of containers that run, and ends those of instances that do not run any more.
    pub(crate) fn follow(&mut self, pod: &Arc<Value>, observed: &Observed) {
        while self.tasks.try_join_next().is_some() {}
        let alive = |id: &str| observed.running().any(|c| c.id == id);
        self.running.retain(|(id, _), stop| {
            let keep = alive(id);
            if !keep {
                stop.cancel();
            }
            keep
        });
        self.verdicts.lock().retain(|id, _| alive(id));
        let spec_of = |name: &str| pod::find_container(pod, name).map(|(_, c)| c);
        let running: Vec<&ContainerStatus> = observed.running().collect();
        for status in running {
            let Some(spec) = spec_of(&status.metadata.name) else { continue };
            for kind in Kind::ALL {
                if spec.get(kind.field()).is_some() && !self.running.contains_key(&(status.id.clone(), kind)) {
                    self.start(pod, spec, status, observed, kind);
                }
            }
        }
    }

    /// The pod is ending: failures of liveness and startup no longer matter.
    pub(crate) fn quiet(&mut self) {
        self.quiet = true;
        for ((_, kind), stop) in &self.running {
            if *kind != Kind::Readiness {
                stop.cancel();
            }
        }
    }

    pub(crate) fn end(&mut self) {
        self.running.drain().for_each(|(_, stop)| stop.cancel());
    }

    fn start(&mut self, pod: &Arc<Value>, spec: &Value, status: &ContainerStatus, observed: &Observed, kind: Kind) {
        self.seed(pod, status, kind);
        let stop = CancellationToken::new();
        self.running.insert((status.id.clone(), kind), stop.clone());
        if kind == Kind::Startup && self.verdicts.lock().get(&status.id).and_then(|v| v.startup) == Some(true) {
            return;
        }
        let pod_ip = match pod::is_host_network(pod) {
            true => self.ctx.host_ips().first().cloned(),
            false => observed.ready_sandbox().and_then(|s| s.network.ip).map(|ip| ip.to_string()),
        };
        let probe = Probe {
            ctx: self.ctx.clone(),
            pod: pod.clone(),
            spec: spec.clone(),
            id: status.id.clone(),
            started_at: clock::from_nanos(status.started_at),
            pod_ip,
            kind,
            verdicts: self.verdicts.clone(),
            mailbox: self.mailbox.clone(),
            started: self.started.clone(),
        };
        self.tasks.spawn(async move {
            stop.run_until_cancelled(probe.run()).await;
        });
    }

    /// What the API server was told of a container that ran before the kubelet started holds until it is probed again.
    fn seed(&self, pod: &Value, status: &ContainerStatus, kind: Kind) {
        let lists = ["containerStatuses", "initContainerStatuses"];
        let told = lists.iter().flat_map(|l| pod.list_at(&["status", l])).find(|s| s.str_at(&["containerID"]).ends_with(&status.id));
        let was = |field: &str| told.and_then(|t| t.bool_at(&[field])) == Some(true);
        let known = match kind {
            Kind::Startup => was("started").then_some(true),
            Kind::Readiness => was("ready").then_some(true),
            Kind::Liveness => None,
        };
        if let Some(known) = known {
            *kind.of(self.verdicts.lock().entry(status.id.clone()).or_default()) = Some(known);
        }
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.end();
    }
}

/// One probe of one container instance.
struct Probe {
    ctx: Arc<Context>,
    pod: Arc<Value>,
    spec: Value,
    id: String,
    started_at: Option<jiff::Timestamp>,
    pod_ip: Option<String>,
    kind: Kind,
    verdicts: Arc<Mutex<Verdicts>>,
    mailbox: Arc<Mailbox>,
    started: watch::Sender<u64>,
}

impl Probe {
    fn seconds(&self, field: &str, default: u64) -> Duration {
        let own = self.spec.get(self.kind.field()).and_then(|p| p.int_at(&[field])).and_then(|n| u64::try_from(n).ok());
        Duration::from_secs(own.unwrap_or(default))
    }

    fn has_started(&self) -> bool {
        self.spec.get("startupProbe").is_none() || self.verdicts.lock().get(&self.id).and_then(|v| v.startup) == Some(true)
    }

    async fn run(self) {
        let probe = self.spec.get(self.kind.field()).cloned().unwrap_or_default();
        let mut count = Count::new(Thresholds::of(&probe), self.kind == Kind::Startup);
        let period = self.seconds("periodSeconds", 10).max(Duration::from_secs(1));
        let delay = self.seconds("initialDelaySeconds", 0);
        let running = self.started_at.map(|at| clock::since(self.ctx.clock.now(), at)).unwrap_or_default();
        let mut next = Instant::now() + delay.saturating_sub(running);
        if self.kind != Kind::Startup {
            // The first try follows at once when the container has started, however long the period is.
            let mut started = self.started.subscribe();
            while !self.has_started() {
                if started.changed().await.is_err() {
                    return;
                }
            }
            next = next.max(Instant::now());
        }
        loop {
            tokio::time::sleep_until(next).await;
            next += period;
            let timeout = self.seconds("timeoutSeconds", 1).max(Duration::from_secs(1));
            let answer = attempt(&self.ctx, &probe, &self.spec, &self.id, self.pod_ip.as_deref(), timeout).await;
            let (name, kind, success) = (pod::container_name(&self.spec), self.kind.word(), answer.is_good());
            self.ctx.metrics.count_probe(Probed { pod: PodId::of(&self.pod), container: name.to_string(), kind, success });
            match answer {
                Answer::Success => {}
                Answer::Warning(said) => {
                    self.ctx.container_event(&self.pod, name, true, "ProbeWarning", format!("{kind} probe warning: {said}"));
                }
                Answer::Failure(said) => {
                    self.ctx.container_event(&self.pod, name, true, "Unhealthy", format!("{kind} probe failed: {said}"));
                }
            }
            let Some(verdict) = count.add(success) else { continue };
            if self.tell(verdict) {
                tracing::debug!(pod = meta::name(&self.pod), kind = self.kind.word(), verdict, "probe verdict");
            }
            // A container that failed is restarted, one that has started need not be asked again.
            if self.kind == Kind::Startup || (self.kind == Kind::Liveness && !verdict) {
                return;
            }
        }
    }

    /// Notes a verdict and wakes the worker; true when it is another than before.
    fn tell(&self, verdict: bool) -> bool {
        let mut verdicts = self.verdicts.lock();
        let place = self.kind.of(verdicts.entry(self.id.clone()).or_default());
        let changed = *place != Some(verdict);
        *place = Some(verdict);
        drop(verdicts);
        if changed {
            self.started.send_modify(|n| *n += 1);
            self.mailbox.post(Letter::Runtime);
        }
        changed
    }
}
