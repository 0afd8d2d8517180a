//! Leader election over a Lease, as client-go's leaderelection does it: of several processes that could do a piece of work one does,
//! and another goes on within the lease when it ends. What a term is, and who has it, is decided by `decide`, which is pure.

use std::sync::Arc;
use std::time::Duration;

use fram_machinery::normalize::format_time;
use fram_machinery::{Status, Value, meta, object};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::client::{Client, Resources};
use crate::resources::LEASES;

/// The times of an election; the defaults are those of kube-controller-manager and kube-scheduler.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// How long others wait for a leader that is not heard of.
    pub lease_duration: Duration,
    /// How long the leader goes on that cannot renew its lease.
    pub renew_deadline: Duration,
    /// Between two tries to get the lease or to renew it.
    pub retry_period: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        let [lease_duration, renew_deadline, retry_period] = [15, 10, 2].map(Duration::from_secs);
        Self { lease_duration, renew_deadline, retry_period }
    }
}

/// One candidate.
pub struct LeaderElection {
    pub client: Client,
    /// The lease, in kube-system.
    pub name: &'static str,
    /// Different for each process.
    pub identity: String,
    pub now: Arc<dyn Fn() -> jiff::Timestamp + Send + Sync>,
    pub timing: Timing,
}

/// What the candidate saw of the lease, and when that was new. Clocks of other machines do not count, only that they go on.
#[derive(Default)]
struct Observed {
    lease: Option<Arc<Value>>,
    since: Option<Instant>,
}

impl Observed {
    fn see(&mut self, lease: Option<Arc<Value>>) {
        let version = |lease: &Option<Arc<Value>>| lease.as_ref().map(|lease| meta::resource_version(lease).to_string());
        if self.since.is_none() || version(&self.lease) != version(&lease) {
            self.since = Some(Instant::now());
        }
        self.lease = lease;
    }
}

/// What a candidate does about the lease.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Create,
    /// It was another's, or nobody's.
    Take,
    Renew,
    /// Another leads.
    Wait,
}

fn decide(lease: Option<&Value>, identity: &str, unchanged_for: Duration) -> Step {
    let Some(lease) = lease else { return Step::Create };
    let holder = lease.str_at(&["spec", "holderIdentity"]);
    let seconds = lease.int_at(&["spec", "leaseDurationSeconds"]).unwrap_or(0);
    let lasts = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    match holder {
        holder if holder == identity => Step::Renew,
        "" => Step::Take,
        _ if unchanged_for >= lasts => Step::Take,
        _ => Step::Wait,
    }
}

/// Whether this candidate has the lease now, or that it is another's.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Mine,
    Others,
}

impl LeaderElection {
    /// Stands for election until `stop`, and calls `lead` for each term. Its token ends when the term does; the next election
    /// waits until `lead` has returned.
    pub async fn run<F>(self, stop: CancellationToken, lead: impl Fn(CancellationToken) -> F + Send)
    where
        F: Future<Output = ()> + Send,
    {
        let mut observed = Observed::default();
        loop {
            let Some(begun) = stop.run_until_cancelled(self.acquire(&mut observed)).await else { return };
            tracing::info!(lease = self.name, identity = self.identity, "became the leader");
            let term = stop.child_token();
            let mut work = std::pin::pin!(lead(term.clone()));
            tokio::select! {
                biased;
                () = stop.cancelled() => work.await,
                () = &mut work => {}
                () = self.renew(&mut observed, begun) => {
                    tracing::warn!(lease = self.name, identity = self.identity, "is not the leader any more");
                    term.cancel();
                    work.await;
                    continue;
                }
            }
            // Others need not wait then; who could not be told finds out.
            if let Ok(Err(status)) = timeout(self.timing.retry_period, self.release(&observed)).await {
                tracing::debug!(%status, lease = self.name, "the lease could not be given back");
            }
            if stop.is_cancelled() {
                return;
            }
        }
    }

    /// Waits until this candidate has the lease; says when it began to write it. Others count from when they see what was written,
    /// which may be long before the answer is there.
    async fn acquire(&self, observed: &mut Observed) -> Instant {
        loop {
            let begun = Instant::now();
            match timeout(self.timing.renew_deadline, self.attempt(observed)).await {
                Ok(Ok(Outcome::Mine)) => return begun,
                Ok(Ok(Outcome::Others)) => {}
                Ok(Err(status)) => tracing::debug!(%status, lease = self.name, "the lease could not be had"),
                Err(_) => tracing::debug!(lease = self.name, "the lease could not be had in time"),
            }
            tokio::time::sleep(self.timing.retry_period).await;
        }
    }

    /// Renews the lease for as long as that succeeds in time.
    async fn renew(&self, observed: &mut Observed, acquired: Instant) {
        let mut deadline = acquired + self.timing.renew_deadline;
        loop {
            let begun = Instant::now();
            let next = begun + self.timing.retry_period;
            match tokio::time::timeout_at(deadline, self.attempt(observed)).await {
                Ok(Ok(Outcome::Mine)) => deadline = begun + self.timing.renew_deadline,
                Ok(Ok(Outcome::Others)) | Err(_) => return,
                Ok(Err(status)) => tracing::debug!(%status, lease = self.name, "the lease could not be renewed"),
            }
            if next >= deadline {
                return tokio::time::sleep_until(deadline).await;
            }
            tokio::time::sleep_until(next).await;
        }
    }

    fn leases(&self) -> Resources {
        self.client.within(&LEASES, "kube-system")
    }

    async fn attempt(&self, observed: &mut Observed) -> Result<Outcome, Status> {
        observed.see(self.leases().find(self.name).await?);
        let unchanged_for = observed.since.map_or(Duration::ZERO, |since| since.elapsed());
        let written = match decide(observed.lease.as_deref(), &self.identity, unchanged_for) {
            Step::Wait => return Ok(Outcome::Others),
            Step::Create => self.leases().create(self.lease(None, Step::Create)).await,
            step => self.leases().update(self.lease(observed.lease.as_deref(), step)).await,
        };
        // Where another was faster the next try sees who.
        observed.see(Some(written?));
        Ok(Outcome::Mine)
    }

    /// The lease as it is to be written.
    fn lease(&self, current: Option<&Value>, step: Step) -> Value {
        let now = format_time((self.now)(), 6);
        let mut lease = current.cloned().unwrap_or_else(|| {
            object!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": { "name": (self.name), "namespace": "kube-system" } })
        });
        lease.set(&["spec", "holderIdentity"], self.identity.as_str());
        lease.set(&["spec", "leaseDurationSeconds"], i64::try_from(self.timing.lease_duration.as_secs()).unwrap_or(i64::MAX));
        lease.set(&["spec", "renewTime"], now.as_str());
        if step != Step::Renew {
            let before = lease.int_at(&["spec", "leaseTransitions"]);
            lease.set(&["spec", "leaseTransitions"], before.map_or(0, |n| n + 1));
            lease.set(&["spec", "acquireTime"], now.as_str());
        }
        lease
    }

    async fn release(&self, observed: &Observed) -> Result<(), Status> {
        let Some(mut lease) = observed.lease.as_deref().cloned() else { return Ok(()) };
        lease.remove(&["spec", "holderIdentity"]);
        lease.set(&["spec", "leaseDurationSeconds"], 1);
        self.leases().update(lease).await.map(drop)
    }
}

#[cfg(test)]
mod tests;
