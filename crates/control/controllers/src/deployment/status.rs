//! The status of a Deployment: counts, availability, progress. Pure.

use fram_machinery::normalize::format_time;
use fram_machinery::{Map, Value, meta, object};
use jiff::Timestamp;

use super::plan::{Bounds, Set};

struct Counts {
    replicas: i64,
    updated: i64,
    ready: i64,
    available: i64,
}

fn counts(sets: &[Set]) -> Counts {
    let sum = |field: &str| sets.iter().map(|s| s.object.int_at(&["status", field]).unwrap_or(0)).sum();
    let updated = sets.iter().filter(|s| s.is_new).map(|s| s.object.int_at(&["status", "replicas"]).unwrap_or(0)).sum();
    Counts { replicas: sum("replicas"), updated, ready: sum("readyReplicas"), available: sum("availableReplicas") }
}

/// The status, and in how many seconds the progress deadline has to be looked at.
pub(super) fn status(deployment: &Value, sets: &[Set], now: Timestamp) -> (Value, Option<u64>) {
    let bounds = Bounds::of(deployment);
    let counts = counts(sets);
    let mut status = Map::new();
    status.insert("observedGeneration", meta::generation(deployment));
    let unavailable = (sets.iter().map(|s| s.replicas).sum::<i64>() - counts.available).max(0);
    let numbers = [
        ("replicas", counts.replicas),
        ("updatedReplicas", counts.updated),
        ("readyReplicas", counts.ready),
        ("availableReplicas", counts.available),
        ("unavailableReplicas", unavailable),
        ("terminatingReplicas", sets.iter().map(|s| s.object.int_at(&["status", "terminatingReplicas"]).unwrap_or(0)).sum()),
    ];
    for (name, n) in numbers.into_iter().filter(|(_, n)| *n != 0) {
        status.insert(name, n);
    }
    if let Some(count) = deployment.at(&["status", "collisionCount"]) {
        status.insert("collisionCount", count.clone());
    }
    let mut conditions = deployment.list_at(&["status", "conditions"]).to_vec();
    let enough = counts.available >= bounds.desired - bounds.unavailable;
    let available = match enough {
        true => ("True", "MinimumReplicasAvailable", "Deployment has minimum availability."),
        false => ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability."),
    };
    set_condition(&mut conditions, "Available", available.0, available.1, available.2, now, false);
    let requeue = progress(deployment, sets, &counts, bounds, &mut conditions, now);
    copy_failure(sets, &mut conditions);
    status.insert("conditions", conditions);
    (Value::Map(status), requeue)
}

fn set_condition(conditions: &mut Vec<Value>, ty: &str, status: &str, reason: &str, message: &str, now: Timestamp, touch: bool) {
    let time = format_time(now, 0);
    let found = conditions.iter().position(|c| c.str_at(&["type"]) == ty);
    let old = found.map(|i| conditions[i].clone());
    if let Some(old) = &old
        && old.str_at(&["status"]) == status
        && old.str_at(&["reason"]) == reason
        && !touch
    {
        return;
    }
    let same_status = old.as_ref().filter(|o| o.str_at(&["status"]) == status);
    let transition = same_status.map_or(time.as_str(), |o| o.str_at(&["lastTransitionTime"])).to_string();
    let condition = object!({ "type": ty, "status": status, "reason": reason, "message": message,
        "lastUpdateTime": time, "lastTransitionTime": transition });
    match found {
        Some(i) => conditions[i] = condition,
        None => conditions.push(condition),
    }
}

/// The Progressing condition; see deployment's syncRolloutStatus.
fn progress(deployment: &Value, sets: &[Set], counts: &Counts, bounds: Bounds, conditions: &mut Vec<Value>, now: Timestamp) -> Option<u64> {
    let deadline = deployment.int_at(&["spec", "progressDeadlineSeconds"]).filter(|s| *s < i64::from(i32::MAX))?;
    let condition = conditions.iter().find(|c| c.str_at(&["type"]) == "Progressing").cloned();
    let reason = condition.as_ref().map_or("", |c| c.str_at(&["reason"])).to_string();
    let new = sets.iter().find(|s| s.is_new);
    let name = new.map_or(meta::name(deployment), |s| meta::name(&s.object));
    if deployment.bool_at(&["spec", "paused"]) == Some(true) {
        // That a roll-out made no progress is still worth knowing.
        if !matches!(reason.as_str(), "DeploymentPaused" | "ProgressDeadlineExceeded") {
            set_condition(conditions, "Progressing", "Unknown", "DeploymentPaused", "Deployment is paused", now, true);
        }
        return None;
    }
    let complete = counts.updated == bounds.desired
        && counts.replicas == bounds.desired
        && counts.available == bounds.desired
        && sets.iter().filter(|s| s.is_new).map(|s| s.replicas).sum::<i64>() == bounds.desired;
    let before = |field: &str| deployment.int_at(&["status", field]).unwrap_or(0);
    let old_now = counts.replicas - counts.updated;
    let old_before = before("replicas") - before("updatedReplicas");
    let progressing = counts.updated > before("updatedReplicas")
        || old_now < old_before
        || counts.ready > before("readyReplicas")
        || counts.available > before("availableReplicas");
    if complete {
        if reason != "NewReplicaSetAvailable" {
            let message = format!("ReplicaSet {name:?} has successfully progressed.");
            set_condition(conditions, "Progressing", "True", "NewReplicaSetAvailable", &message, now, true);
        }
        return None;
    }
    if reason == "NewReplicaSetAvailable" && counts.replicas == counts.updated {
        // No roll-out is under way: pods that come and go later, or another size, are not measured by the deadline.
        return None;
    }
    let restarted = reason == "NewReplicaSetAvailable" && counts.updated != bounds.desired;
    let made = new.is_some_and(|s| meta::uid(&s.object).is_empty());
    let told = match reason.as_str() {
        _ if made => Some(("True", "NewReplicaSetCreated", format!("Created new replica set {name:?}"))),
        _ if progressing || restarted => Some(("True", "ReplicaSetUpdated", format!("ReplicaSet {name:?} is progressing."))),
        "" => Some(("True", "FoundNewReplicaSet", format!("Found new replica set {name:?}"))),
        "DeploymentPaused" => Some(("Unknown", "DeploymentResumed", "Deployment is resumed".to_string())),
        _ => None,
    };
    if let Some((status, reason, message)) = told {
        set_condition(conditions, "Progressing", status, reason, &message, now, true);
        return u64::try_from(deadline).ok();
    }
    if reason == "ProgressDeadlineExceeded" || reason == "NewReplicaSetAvailable" {
        return None;
    }
    let since = condition.and_then(|c| c.str_at(&["lastUpdateTime"]).parse::<Timestamp>().ok()).unwrap_or(now);
    let left = since.as_second() + deadline - now.as_second();
    if left > 0 {
        return u64::try_from(left).ok();
    }
    let message = format!("ReplicaSet {name:?} has timed out progressing.");
    set_condition(conditions, "Progressing", "False", "ProgressDeadlineExceeded", &message, now, true);
    None
}

/// A set that cannot make pods says so on its Deployment too.
fn copy_failure(sets: &[Set], conditions: &mut Vec<Value>) {
    const TYPE: &str = "ReplicaFailure";
    let failure = sets.iter().find_map(|s| meta::condition(&s.object, TYPE).filter(|_| s.replicas > 0));
    conditions.retain(|c| c.str_at(&["type"]) != TYPE);
    if let Some(failure) = failure {
        let mut copy = failure.clone();
        copy.set(&["lastUpdateTime"], failure.str_at(&["lastTransitionTime"]));
        conditions.push(copy);
    }
}
