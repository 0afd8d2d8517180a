//! What is written about pods that wait, and how those go that make room.

use fram_client::resources::PODS;
use fram_client::{DeleteOptions, Informer, PatchKind, Preconditions};
use fram_machinery::{Reason, Value, meta, object};

use super::SchedulerConfig;
use super::cycle::Nomination;
use crate::pod::Pod;
use crate::preemption::Preemption;

/// Sends the victims away, as upstream's prepareCandidate does; true where all of them go.
pub(super) async fn evict(config: &SchedulerConfig, pod: &Pod, found: &Preemption) -> bool {
    let mut all = true;
    // Those that leave already are let go.
    for victim in found.victims.iter().filter(|v| !meta::is_terminating(&v.object)) {
        let name = meta::name(&victim.object);
        let pods = config.client.within(&PODS, victim.namespace());
        let condition = object!({
            "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
            "message": (format!("{}: preempting to accommodate a higher priority pod", scheduler_of(pod))),
            "lastTransitionTime": ((config.now)())
        });
        let uid = &*victim.uid;
        let patch = object!({ "metadata": { "uid": uid }, "status": { "conditions": [condition] } });
        let options =
            DeleteOptions { preconditions: Preconditions { uid: Some(uid.to_string()), resource_version: None }, ..Default::default() };
        let sent = match pods.patch(name, "status", PatchKind::Strategic, patch).await {
            Ok(_) => pods.delete(name, options).await.map(drop),
            Err(status) => Err(status),
        };
        match sent {
            Ok(()) => {
                let message = format!("Preempted by pod {} on node {}", pod.uid, found.node);
                config.events.event(&victim.object, false, "Preempted", message);
            }
            // It went by itself.
            Err(status) if matches!(status.reason, Reason::NotFound | Reason::Conflict) => {}
            Err(status) => {
                tracing::warn!(pod = victim.key, %status, "a pod could not be preempted");
                all = false;
            }
        }
    }
    all
}

fn scheduler_of(pod: &Pod) -> &str {
    pod.object.str_at(&["spec", "schedulerName"])
}

/// No node takes the pod; see v1.PodReasonUnschedulable.
pub(super) const UNSCHEDULABLE: &str = "Unschedulable";
/// The attempt itself failed; see v1.PodReasonSchedulerError.
pub(super) const SCHEDULER_ERROR: &str = "SchedulerError";

/// What is to be written to a pod's status so that it says this; None where it says so already. Pure.
fn status_patch(current: &Value, (reason, message): (&str, &str), nomination: &Nomination, now: impl FnOnce() -> String) -> Option<Value> {
    let condition = meta::condition(current, "PodScheduled").filter(|c| c.str_at(&["status"]) == "False");
    let nominated = current.str_at(&["status", "nominatedNodeName"]);
    let node = match nomination {
        Nomination::To(found) => Some(found.node.as_str()).filter(|node| *node != nominated),
        Nomination::Cleared => Some("").filter(|_| !nominated.is_empty()),
        Nomination::Withdrawn => Some(""),
        Nomination::Unchanged => None,
    };
    let known = condition.is_some_and(|c| c.str_at(&["message"]) == message && c.str_at(&["reason"]) == reason);
    if known && node.is_none() {
        return None;
    }
    let mut patch = object!({ "metadata": { "uid": (meta::uid(current)) }, "status": {} });
    if !known {
        let mut said = object!({ "type": "PodScheduled", "status": "False", "reason": reason, "message": message });
        // What was False already has not changed.
        if condition.is_none() {
            said.set(&["lastTransitionTime"], now());
        }
        if meta::generation(current) > 0 {
            said.set(&["observedGeneration"], meta::generation(current));
        }
        patch.set(&["status", "conditions"], object!([said]));
    }
    match node {
        Some("") => patch.set(&["status", "nominatedNodeName"], Value::Null),
        Some(node) => patch.set(&["status", "nominatedNodeName"], node),
        None => {}
    }
    Some(patch)
}

/// Says on the pod and in an event why it has no node yet, and on which node room is being made for it.
pub(super) async fn report(config: &SchedulerConfig, pods: &Informer, pod: &Pod, why: (&str, &str), nomination: &Nomination) {
    let Some(current) = pods.get(&pod.key).filter(|current| meta::uid(current) == &*pod.uid) else { return };
    if let Some(patch) = status_patch(&current, why, nomination, || (config.now)()) {
        let pods = config.client.within(&PODS, pod.namespace());
        match pods.patch(meta::name(&pod.object), "status", PatchKind::Strategic, patch).await {
            Err(status) if !status.is(Reason::NotFound) => tracing::warn!(pod = pod.key, %status, "cannot say why a pod waits"),
            _ => {}
        }
    }
    config.events.event(&pod.object, true, "FailedScheduling", why.1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_written_when_it_says_something_new() {
        let patch = |conditions: Value, nominated: &str, nomination: &Nomination| {
            let pod = object!({ "metadata": { "uid": "1" }, "status": { "conditions": conditions, "nominatedNodeName": nominated } });
            status_patch(&pod, (UNSCHEDULABLE, "full"), nomination, || "now".into()).map(|p| p.get("status").cloned().unwrap_or_default())
        };
        let said = |message: &str| object!([{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message, "lastTransitionTime": "then" }]);
        let condition = || object!({ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "full" });
        let mut first = condition();
        first.set(&["lastTransitionTime"], "now");
        assert_eq!(patch(object!([]), "", &Nomination::Unchanged), Some(object!({ "conditions": [first] })));
        assert_eq!(patch(said("other"), "", &Nomination::Unchanged), Some(object!({ "conditions": [(condition())] })));
        assert_eq!(patch(said("full"), "", &Nomination::Unchanged), None);
        assert_eq!(patch(said("full"), "a", &Nomination::Cleared), Some(object!({ "nominatedNodeName": null })));
        assert_eq!(patch(said("full"), "", &Nomination::Cleared), None);
        assert_eq!(patch(said("full"), "", &Nomination::Withdrawn), Some(object!({ "nominatedNodeName": null })));
        let to = Nomination::To(Preemption { node: "a".into(), victims: Vec::new() });
        assert_eq!(patch(said("full"), "a", &to), None);
        assert_eq!(patch(said("full"), "b", &to), Some(object!({ "nominatedNodeName": "a" })));
    }
}
