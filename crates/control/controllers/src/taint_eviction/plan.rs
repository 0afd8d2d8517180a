//! When a pod has to leave its node because of taints that evict. Pure.

use std::time::Duration;

use fram_machinery::Value;
use jiff::{SignedDuration, Timestamp};

use crate::nodes::tolerates;
use crate::pods;

/// How long a pod may stay: None for ever, zero not at all.
pub(super) fn patience(pod: &Value, taints: &[Value], first_seen: Timestamp, now: Timestamp) -> Option<Duration> {
    let left = due(pod, taints, first_seen, now)?.as_second() - now.as_second();
    Some(Duration::from_secs(u64::try_from(left).unwrap_or(0)))
}

/// When a pod has to go; None where never. A time begins with the taint, or with the pod's coming where that was later. `first_seen` is
/// for taints that do not say when they were added.
pub(super) fn due(pod: &Value, taints: &[Value], first_seen: Timestamp, now: Timestamp) -> Option<Timestamp> {
    let evicting: Vec<&Value> = taints.iter().filter(|t| t.str_at(&["effect"]) == "NoExecute").collect();
    if evicting.is_empty() {
        return None;
    }
    let came = fram_machinery::meta::condition(pod, "PodScheduled").and_then(|c| pods::time(c, &["lastTransitionTime"]));
    let came = came.or_else(|| pods::created(pod)).unwrap_or(Timestamp::UNIX_EPOCH);
    let mut earliest: Option<Timestamp> = None;
    for taint in evicting {
        // Of several the first counts; see GetMatchingTolerations.
        let Some(toleration) = pod.list_at(&["spec", "tolerations"]).iter().find(|t| tolerates(t, taint)) else { return Some(now) };
        let Some(seconds) = toleration.int_at(&["tolerationSeconds"]) else { continue };
        let begun = pods::time(taint, &["timeAdded"]).unwrap_or(first_seen).max(came);
        let end = begun.saturating_add(SignedDuration::from_secs(seconds.max(0))).unwrap_or(Timestamp::MAX);
        earliest = Some(earliest.map_or(end, |e| e.min(end)));
    }
    earliest
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    fn left(tolerations: Value, created: &str) -> Option<u64> {
        let pod = object!({ "metadata": { "creationTimestamp": created }, "spec": { "tolerations": tolerations } });
        let taints = object!([{ "key": "down", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z" }, { "key": "x", "effect": "NoSchedule" }]);
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        patience(&pod, taints.as_list().unwrap(), now, now).map(|d| d.as_secs())
    }

    #[test]
    fn a_pod_stays_as_long_as_its_toleration_says() {
        let old = "2025-01-01T00:00:00Z";
        assert_eq!(left(object!([]), old), Some(0));
        assert_eq!(left(object!([{ "key": "down", "operator": "Exists" }]), old), None);
        assert_eq!(left(object!([{ "key": "down", "operator": "Exists", "tolerationSeconds": 90 }]), old), Some(30));
        assert_eq!(left(object!([{ "key": "down", "operator": "Exists", "tolerationSeconds": 30 }]), old), Some(0));
        let (always, shortly) =
            (object!({ "operator": "Exists" }), object!({ "key": "down", "operator": "Exists", "tolerationSeconds": 0 }));
        assert_eq!(left(object!([(always.clone()), (shortly.clone())]), old), None, "the first one counts");
        assert_eq!(left(object!([shortly, always]), old), Some(0));
        // It came after the taint.
        assert_eq!(left(object!([{ "operator": "Exists", "tolerationSeconds": 90 }]), "2026-01-01T00:00:50Z"), Some(80));
    }
}
