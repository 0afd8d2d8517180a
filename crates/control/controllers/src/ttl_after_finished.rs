//! Deletes finished Jobs when their time to live has passed; see KEP-592.

use std::time::Duration;

use fram_client::resources::JOBS;
use fram_client::{Action, Client, Controller, DeleteOptions, Preconditions, Propagation};
use fram_machinery::{Status, Value, meta};
use jiff::{SignedDuration, Timestamp};

use crate::objects::settled;
use crate::{Context, Metrics, job, pods};

pub(crate) fn start(context: &Context) {
    let jobs = context.informers.get(&JOBS);
    let client = context.client("ttl-after-finished-controller");
    let (now, metrics) = (context.now.clone(), context.metrics.clone());
    let controller = Controller::new("ttl-after-finished", 2).owns(&jobs);
    context.run(controller, (client, jobs, now, metrics), |context, key| async move {
        let (client, jobs, now, metrics) = &*context;
        match jobs.get(&key).and_then(|j| left(&j, now())) {
            Some(Duration::ZERO) => expire(client, &key, now(), metrics).await,
            Some(left) => Ok(Action::After(left)),
            None => Ok(Action::Done),
        }
    });
}

/// How long a Job may still stay; None for one that is not to go.
fn left(job: &Value, now: Timestamp) -> Option<Duration> {
    Some(Duration::from_secs(u64::try_from(due(job)?.as_second() - now.as_second()).unwrap_or(0)))
}

/// When a Job is to go; None where it is not.
fn due(job: &Value) -> Option<Timestamp> {
    let ttl = job.int_at(&["spec", "ttlSecondsAfterFinished"])?;
    if meta::is_terminating(job) || !job::is_finished(job) {
        return None;
    }
    let ends = job.list_at(&["status", "conditions"]).iter();
    let end = ends.filter(|c| matches!(c.str_at(&["type"]), "Complete" | "Failed") && c.str_at(&["status"]) == "True");
    let at = end.filter_map(|c| pods::time(c, &["lastTransitionTime"])).next()?;
    Some(at.saturating_add(SignedDuration::from_secs(ttl)).unwrap_or(Timestamp::MAX))
}

/// Its time may have been made longer since the cache saw it: the server says.
async fn expire(client: &Client, key: &str, now: Timestamp, metrics: &Metrics) -> Result<Action, Status> {
    let (namespace, name) = key.split_once('/').unwrap_or(("", key));
    let jobs = client.within(&JOBS, namespace);
    let Some(job) = jobs.find(name).await? else { return Ok(Action::Done) };
    match left(&job, now) {
        Some(Duration::ZERO) => {
            let preconditions =
                Preconditions { uid: Some(meta::uid(&job).into()), resource_version: Some(meta::resource_version(&job).into()) };
            let options = DeleteOptions { propagation: Some(Propagation::Foreground), preconditions, ..Default::default() };
            settled(jobs.delete(name, options).await)?;
            metrics.others.expired(due(&job).unwrap_or(now).duration_until(now).try_into().unwrap_or_default());
            Ok(Action::Done)
        }
        Some(left) => Ok(Action::After(left)),
        None => Ok(Action::Done),
    }
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    #[test]
    fn a_finished_job_stays_for_its_time_and_others_for_ever() {
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        let mut job = object!({ "spec": { "ttlSecondsAfterFinished": 90 },
            "status": { "conditions": [{ "type": "Failed", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z" }] } });
        assert_eq!(left(&job, now), Some(Duration::from_secs(30)));
        job.set(&["spec", "ttlSecondsAfterFinished"], 60);
        assert_eq!(left(&job, now), Some(Duration::ZERO));
        job.remove(&["status"]);
        assert_eq!(left(&job, now), None);
    }
}
