//! Pods that were said to be about to be deleted and are not: what says so is taken back after two minutes, so that it does not excuse
//! another end of theirs. See KEP-3329 and upstream's stalePodDisruptionTimeout.

use std::time::Duration;

use fram_client::resources::PODS;
use fram_client::{Action, Client, Controller, Informer, PatchKind};
use fram_machinery::normalize::format_time;
use fram_machinery::{Status, Value, meta, object};
use jiff::Timestamp;

use crate::objects::unless_it_changed;
use crate::{Context, pods};

const TIMEOUT: Duration = Duration::from_secs(120);
/// When a pod that has just changed is looked at again.
const AGAIN: Duration = Duration::from_secs(1);
const CONDITION: &str = "DisruptionTarget";

pub(super) fn start(context: &Context) {
    let all = context.informers.get(&PODS);
    let controller = Controller::new("stale-pod-disruption", 2).watches_deltas(&all, |delta| {
        let said = |pod: &Value| meta::condition(pod, CONDITION).cloned();
        let same = matches!((&delta.old, &delta.new), (Some(old), Some(new)) if said(old) == said(new));
        let stale = delta.new.as_deref().is_some_and(|pod| stale_in(pod, Timestamp::UNIX_EPOCH).is_some());
        if stale && !same { vec![delta.key()] } else { Vec::new() }
    });
    let reconciler = Reconciler { client: context.client("disruption-controller"), pods: all, now: context.now.clone() };
    context.run(controller, reconciler, |r, key| async move { r.reconcile(&key).await });
}

/// How long until what a pod says of its disruption is stale; None where it never is, as the kubelet's own word.
fn stale_in(pod: &Value, now: Timestamp) -> Option<Duration> {
    let said = meta::condition(pod, CONDITION).filter(|c| c.str_at(&["status"]) == "True")?;
    if !pods::is_active(pod) || said.str_at(&["reason"]) == "TerminationByKubelet" {
        return None;
    }
    let since = pods::time(said, &["lastTransitionTime"]).unwrap_or(now);
    Some(TIMEOUT.saturating_sub(Duration::try_from(now.duration_since(since)).unwrap_or_default()))
}

struct Reconciler {
    client: Client,
    pods: Informer,
    now: crate::Clock,
}

impl Reconciler {
    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let Some(pod) = self.pods.get(key) else { return Ok(Action::Done) };
        let now = (self.now)();
        match stale_in(&pod, now) {
            None => return Ok(Action::Done),
            Some(left) if !left.is_zero() => return Ok(Action::After(left)),
            Some(_) => {}
        }
        let condition =
            object!({ "type": CONDITION, "status": "False", "reason": null, "message": null, "lastTransitionTime": (format_time(now, 0)) });
        // Somebody may be saying it anew.
        let same = object!({ "uid": (meta::uid(&pod)), "resourceVersion": (meta::resource_version(&pod)) });
        let patch = object!({ "metadata": same, "status": { "conditions": [condition] } });
        let pods = self.client.within(&PODS, meta::namespace(&pod));
        let written = unless_it_changed(pods.patch(meta::name(&pod), "status", PatchKind::Strategic, patch).await)?;
        Ok(if written.is_some() { Action::Done } else { Action::After(AGAIN) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pod_says_of_its_disruption_is_stale_after_two_minutes() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let pod = |status: &str, reason: &str, phase: &str, since: &str| {
            let condition = object!({ "type": CONDITION, "status": status, "reason": reason, "lastTransitionTime": since });
            object!({ "status": { "phase": phase, "conditions": [condition] } })
        };
        let (lately, long_ago) = ("2026-01-01T00:00:30Z", "2025-12-31T00:00:00Z");
        let left = |pod: Value| stale_in(&pod, now).map(|left| left.as_secs());
        assert_eq!(left(pod("True", "EvictionByEvictionAPI", "Running", lately)), Some(90));
        assert_eq!(left(pod("True", "EvictionByEvictionAPI", "Running", long_ago)), Some(0));
        assert_eq!(left(pod("False", "", "Running", long_ago)), None);
        assert_eq!(left(pod("True", "TerminationByKubelet", "Running", long_ago)), None);
        assert_eq!(left(pod("True", "EvictionByEvictionAPI", "Failed", long_ago)), None);
        let mut going = pod("True", "EvictionByEvictionAPI", "Running", long_ago);
        going.set(&["metadata", "deletionTimestamp"], lately);
        assert_eq!(left(going), None);
    }
}
