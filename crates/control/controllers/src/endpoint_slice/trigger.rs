//! When what a Service's endpoints were last written for happened, which `endpoints.kubernetes.io/last-change-trigger-time` tells, so
//! that it can be measured how long a change of a pod takes to reach proxies. Pure; see upstream's TriggerTimeTracker.

use std::collections::HashMap;
use std::sync::Arc;

use fram_machinery::{Value, meta};
use jiff::Timestamp;

use crate::pods;

pub(super) const LAST_CHANGE: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// The times of a Service and its pods when its endpoints were last written.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Triggers {
    service: Option<Timestamp>,
    pods: HashMap<Box<str>, Timestamp>,
}

/// The times as they are now, and the first that is newer than before; that of the Service itself where nothing is known of before.
pub(super) fn since(before: Option<&Triggers>, service: &Value, pods: &[Arc<Value>]) -> (Triggers, Option<Timestamp>) {
    let of = |pod: &Arc<Value>| {
        let changed = pods::time(meta::condition(pod, "Ready")?, &["lastTransitionTime"])?;
        Some((meta::name(pod).into(), changed))
    };
    let now = Triggers { service: pods::created(service), pods: pods.iter().filter_map(of).collect() };
    let Some(before) = before else {
        let first = now.service;
        return (now, first);
    };
    let newer = now.pods.iter().filter(|(name, time)| before.pods.get(*name).is_none_or(|was| was < *time)).map(|(_, time)| *time);
    let first = newer.chain(now.service.filter(|time| before.service.is_none_or(|was| was < *time))).min();
    (now, first)
}

/// Writes the time into endpoints that are about to be written; one that is no longer right goes.
pub(super) fn mark(endpoints: &mut Value, time: Option<Timestamp>) {
    match time {
        Some(time) => meta::set_annotation(endpoints, LAST_CHANGE, &time.to_string()),
        None => drop(endpoints.remove(&["metadata", "annotations", LAST_CHANGE])),
    }
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    fn pod(name: &str, minute: u32) -> Arc<Value> {
        let ready = object!({ "type": "Ready", "status": "True", "lastTransitionTime": (format!("2026-01-01T00:{minute:02}:00Z")) });
        Arc::new(object!({ "metadata": { "name": name }, "status": { "conditions": [ready] } }))
    }

    #[test]
    fn the_first_change_since_the_last_time_counts_and_at_first_the_service_itself() {
        let service = |minute: u32| object!({ "metadata": { "creationTimestamp": (format!("2026-01-01T00:{minute:02}:00Z")) } });
        let at = |minute: u32| format!("2026-01-01T00:{minute:02}:00Z").parse::<Timestamp>().ok();
        let mut known = None;
        let steps = [
            (service(1), vec![], at(1)),
            (service(1), vec![pod("a", 3), pod("b", 4)], at(3)),
            (service(1), vec![pod("a", 3), pod("b", 4)], None),
            // One that comes late counts, although another was later.
            (service(1), vec![pod("a", 3), pod("b", 5), pod("c", 2)], at(2)),
            (service(1), vec![pod("b", 5)], None),
            (service(6), vec![pod("b", 7)], at(6)),
        ];
        for (step, (service, pods, expect)) in steps.into_iter().enumerate() {
            let (next, first) = since(known.as_ref(), &service, &pods);
            assert_eq!(first, expect, "step {step}");
            known = Some(next);
        }
    }

    #[test]
    fn a_time_is_written_and_goes_with_the_next_change_that_has_none() {
        let mut slice = object!({ "metadata": { "annotations": { "a": "b" } } });
        mark(&mut slice, "2026-01-01T00:01:00Z".parse().ok());
        assert_eq!(meta::annotation(&slice, LAST_CHANGE), Some("2026-01-01T00:01:00Z"));
        mark(&mut slice, None);
        assert_eq!(slice, object!({ "metadata": { "annotations": { "a": "b" } } }));
    }
}
