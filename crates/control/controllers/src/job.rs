//! Jobs: pods that run to completion, each counted once.

mod indexes;
mod plan;
mod pod;
mod policy;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use fram_client::resources::{JOBS, PODS};
use fram_client::{Action, Client, Controller, DeleteOptions, EventRecorder, Informer, JOB_INDEX, PatchKind};
use fram_machinery::{Reason, Status, Value, meta, object};
use tokio::time::Instant;

use crate::metrics::{JobAction, Metrics};
use crate::objects::{Objects, settled};
use crate::replicaset::again;
use crate::{Context, claim, pods};
use plan::{Plan, plan};

pub(crate) use plan::is_finished;

/// The value of spec.managedBy that means this controller.
const MANAGER: &str = "kubernetes.io/job-controller";
/// A reconciliation plans again after each step; what is left then waits for its turn.
const MOST_ROUNDS: usize = 6;
const SOON: Action = Action::After(std::time::Duration::from_millis(1));

pub(crate) fn start(context: &Context) {
    let (jobs, all) = (context.informers.get(&JOBS), context.informers.get(&PODS));
    let client = context.client("job-controller");
    let reconciler = Reconciler {
        pods: Objects::new(&client, &all),
        jobs: Objects::new(&client, &jobs),
        cached_pods: all.clone(),
        events: context.recorder("job-controller", "job-controller"),
        client,
        metrics: context.metrics.clone(),
        now: context.now.clone(),
    };
    let (owners, metrics, of_jobs) = (jobs.clone(), context.metrics.clone(), context.metrics.clone());
    let controller = Controller::new("job", 5)
        .watches_deltas(&jobs, move |delta| {
            if let Some(job) = delta.new.as_deref().filter(|job| delta.old.is_none() && is_anothers(job)) {
                of_jobs.others.external_job(job.str_at(&["spec", "managedBy"]));
            }
            vec![delta.key()]
        })
        .watches_deltas(&all, move |delta| {
            let uncounted =
                |side: &Option<Arc<Value>>| side.as_deref().is_some_and(|p| pods::has_ended(p) && meta::has_finalizer(p, pod::FINALIZER));
            metrics.others.uncounted(uncounted(&delta.old), uncounted(&delta.new));
            let mut keys = pods::owners_concerned(delta, "Job", |pod| adopters(pod, &owners));
            keys.extend(delta.new.as_deref().and_then(pod::left_behind));
            keys
        });
    context.run(controller, reconciler, |r, key| async move { r.reconcile(&key).await });
}

/// Somebody else looks after a Job.
fn is_anothers(job: &Value) -> bool {
    !matches!(job.str_at(&["spec", "managedBy"]), "" | MANAGER)
}

fn selects(job: &Value, pod: &Value) -> bool {
    pods::selector(job).is_some_and(|s| s.matches(meta::labels(pod)))
}

/// The Jobs that may adopt a pod.
fn adopters(pod: &Value, jobs: &Informer) -> Vec<String> {
    jobs.by_namespace(meta::namespace(pod)).iter().filter(|job| selects(job, pod)).map(|job| meta::key(job)).collect()
}

/// Whether a Job still takes a pod that has no controller.
fn adopts(job: &Value, pod: &Value) -> bool {
    let goes_on = !meta::is_terminating(job) && !is_finished(job) && !is_anothers(job);
    goes_on && !meta::is_terminating(pod) && selects(job, pod)
}

struct Reconciler {
    client: Client,
    jobs: Objects,
    pods: Objects,
    cached_pods: Informer,
    events: EventRecorder,
    metrics: Metrics,
    now: crate::Clock,
}

impl Reconciler {
    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let (namespace, name) = key.split_once('/').unwrap_or(("", key));
        self.let_orphans_go(namespace, name, self.jobs.get(namespace, name).as_deref()).await?;
        let (begun, mut did) = (Instant::now(), JobAction::Reconciling);
        for round in 0..MOST_ROUNDS {
            let Some(job) = self.jobs.get(namespace, name) else { return Ok(Action::Done) };
            if is_anothers(&job) {
                return Ok(Action::Done);
            }
            // Nothing is left to be done for one that had ended before.
            let counts = round > 0 || !is_finished(&job);
            let result = self.round(&job, &mut did).await;
            let ended = if round + 1 == MOST_ROUNDS { result.map(|action| action.or(Some(SOON))) } else { result };
            if counts && !matches!(ended, Ok(None)) {
                self.metrics.job_synced(&job, did, ended.is_ok(), begun.elapsed());
            }
            if let Some(action) = ended? {
                return Ok(action);
            }
        }
        Ok(SOON)
    }

    /// One step; None where there may be another at once.
    async fn round(&self, job: &Value, did: &mut JobAction) -> Result<Option<Action>, Status> {
        let selector = pods::selector(job);
        let seen = self.pods.of(job, |p| selector.as_ref().is_some_and(|s| s.matches(meta::labels(p)))).await?;
        let claims = pods::claims(job, &seen.objects);
        if is_finished(job) {
            let mine: Vec<_> = claims.mine.iter().filter(|p| meta::controller_of(p).is_some()).cloned().collect();
            self.strip(&mine).await?;
            return Ok(Some(Action::Done));
        }
        claim::adopt(&self.pods, &self.client, &JOBS, job, &claims.adopt).await?;
        self.strip(&claims.release).await?;
        claim::release(&self.pods, job, &claims.release).await?;
        let Plan { status, strip, delete, create, events, requeue } = plan(job, &claims.mine, (self.now)());
        match (delete.is_empty(), create.is_empty()) {
            (false, _) => *did = JobAction::PodsDeleted,
            (true, false) => *did = JobAction::PodsCreated,
            (true, true) if *did == JobAction::Reconciling => *did = JobAction::Tracking,
            (true, true) => {}
        }
        if strip.is_empty() && delete.is_empty() && !create.is_empty() {
            // One write of the status after the pods tells of both.
            if let Err(error) = self.create(job, &status, create).await {
                self.write_status(job, status).await?;
                return Err(error);
            }
            return Ok(None);
        }
        let counts = status.clone();
        self.write_status(job, status).await?;
        for (warning, reason, message) in events {
            self.events.event(job, warning, reason, message);
        }
        let idle = strip.is_empty() && delete.is_empty() && create.is_empty() && claims.adopt.is_empty();
        self.strip(&strip).await?;
        strip.iter().filter_map(|pod| policy::action(job, pod)).for_each(|action| self.metrics.failure_handled(action));
        for pod in &delete {
            self.pods.delete(pod, DeleteOptions::default()).await.inspect_err(|error| {
                self.events.event(job, true, "FailedDelete", format!("Error deleting: {}", error.message));
            })?;
            self.events.event(job, false, "SuccessfulDelete", format!("Deleted pod: {}", meta::name(pod)));
        }
        self.create(job, &counts, create).await?;
        Ok(idle.then(|| again(&seen, requeue)))
    }

    async fn write_status(&self, job: &Value, status: Value) -> Result<(), Status> {
        settled(self.jobs.write_status(job, status.clone()).await)?;
        self.metrics.job_written(job, &status);
        if job.str_at(&["spec", "completionMode"]) == "Indexed" {
            let completions = job.int_at(&["spec", "completions"]).unwrap_or(0);
            for (succeeded, field) in [(true, "completedIndexes"), (false, "failedIndexes")] {
                let count = |side: Option<&Value>| indexes::parse(side.map_or("", |s| s.str_at(&[field])), completions).len();
                let more = count(Some(&status)).saturating_sub(count(job.get("status")));
                self.metrics.others.indexes_ended(job, succeeded, more as u64);
            }
        }
        Ok(())
    }

    async fn create(&self, job: &Value, status: &Value, create: Vec<Value>) -> Result<(), Status> {
        for pod in create {
            let made = self.pods.create(meta::namespace(job), pod).await;
            self.metrics.others.job_pod(job, status, made.is_ok());
            match made {
                Ok(pod) => self.events.event(job, false, "SuccessfulCreate", format!("Created pod: {}", meta::name(&pod))),
                Err(error) => {
                    self.events.event(job, true, "FailedCreate", format!("Error creating: {}", error.message));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Pods of a Job that is gone, or was replaced by another of its name, need no account, and neither do those that it left behind.
    async fn let_orphans_go(&self, namespace: &str, name: &str, job: Option<&Value>) -> Result<(), Status> {
        let orphaned_of = |p: &Value, job: Option<&Value>| match meta::controller_of(p) {
            Some(owner) => Some(owner.str_at(&["uid"])) != job.map(meta::uid),
            None => !job.is_some_and(|job| adopts(job, p)),
        };
        let orphaned = |p: &Arc<Value>| orphaned_of(p, job);
        let mut pods = self.cached_pods.by_index(JOB_INDEX, &format!("{namespace}/{name}"));
        pods.retain(orphaned);
        if pods.is_empty() {
            return Ok(());
        }
        // The cache of Jobs may be behind that of pods.
        let fresh = if name.is_empty() { None } else { self.client.within(&JOBS, namespace).find(name).await? };
        pods.retain(|p| orphaned_of(p, fresh.as_deref()));
        self.strip(&pods).await
    }

    async fn strip(&self, pods: &[Arc<Value>]) -> Result<(), Status> {
        for pod in pods.iter().filter(|p| meta::has_finalizer(p, pod::FINALIZER)) {
            let name = pod::FINALIZER;
            let patch = object!({ "metadata": { "uid": (meta::uid(pod)), "$deleteFromPrimitiveList/finalizers": [name] } });
            match self.pods.patch(pod, "", PatchKind::Strategic, patch).await {
                // Another pod has its name: this one is gone.
                Err(error) if !matches!(error.reason, Reason::NotFound | Reason::Conflict | Reason::Invalid) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}
