//! CronJobs: a Job at each time of a schedule. The harness' timers wake it; nothing polls.

mod plan;
mod schedule;

use fram_client::resources::{CRON_JOBS, JOBS};
use fram_client::{Action, Controller, DeleteOptions, EventRecorder, Propagation};
use fram_machinery::{Reason, Status, Value, meta};

use crate::Context;
use crate::metrics::Metrics;
use crate::objects::{Objects, settled};
use plan::plan;

pub(crate) fn start(context: &Context) {
    let (crons, jobs) = (context.informers.get(&CRON_JOBS), context.informers.get(&JOBS));
    let client = context.client("cronjob-controller");
    let reconciler = Reconciler {
        crons: Objects::new(&client, &crons),
        jobs: Objects::new(&client, &jobs),
        events: context.recorder("cronjob-controller", "cronjob-controller"),
        metrics: context.metrics.clone(),
        now: context.now.clone(),
    };
    let controller = Controller::new("cronjob", 5).owns(&crons).watches(&jobs, |job| {
        let owner = meta::controller_of(job).filter(|o| o.str_at(&["kind"]) == "CronJob");
        owner.map(|o| format!("{}/{}", meta::namespace(job), o.str_at(&["name"]))).into_iter().collect()
    });
    context.run(controller, reconciler, |r, key| async move { r.reconcile(&key).await });
}

struct Reconciler {
    crons: Objects,
    jobs: Objects,
    events: EventRecorder,
    metrics: Metrics,
    now: crate::Clock,
}

impl Reconciler {
    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let (namespace, name) = key.split_once('/').unwrap_or(("", key));
        let Some(cron) = self.crons.get(namespace, name) else { return Ok(Action::Done) };
        let mut seen = self.jobs.of(&cron, |_| false).await?;
        seen.objects.retain(|j| meta::controller_of(j).is_some_and(|o| o.str_at(&["uid"]) == meta::uid(&cron)));
        let plan = plan(&cron, &seen.objects, (self.now)());
        for (warning, reason, message) in plan.events {
            self.events.event(&cron, warning, reason, message);
        }
        for job in &plan.delete {
            let options = DeleteOptions { propagation: Some(Propagation::Background), ..Default::default() };
            self.jobs.delete(job, options).await.inspect_err(|error| {
                self.events.event(&cron, true, "FailedDelete", format!("Deleted job: {}", error.message));
            })?;
            self.events.event(&cron, false, "SuccessfulDelete", format!("Deleted job {}", meta::name(job)));
        }
        let mut status = plan.status;
        if let Some(job) = plan.create {
            let made = self.create(&cron, job).await?;
            if let Some(scheduled) = plan::scheduled(&made) {
                self.metrics.job_made(&made, scheduled);
            }
            status.place(&["active"]).make_list().push(plan::reference(&made));
        }
        settled(self.crons.write_status(&cron, status).await)?;
        Ok(seen.again(plan.requeue).map_or(Action::Done, Action::After))
    }

    async fn create(&self, cron: &Value, job: Value) -> Result<std::sync::Arc<Value>, Status> {
        match self.jobs.create(meta::namespace(cron), job).await {
            Ok(made) => {
                self.events.event(cron, false, "SuccessfulCreate", format!("Created job {}", meta::name(&made)));
                Ok(made)
            }
            Err(error) => {
                // Made by a round whose status was not written: the next one finds it in the cache.
                if !error.is(Reason::AlreadyExists) {
                    self.events.event(cron, true, "FailedCreate", format!("Error creating job: {}", error.message));
                }
                Err(error)
            }
        }
    }
}
