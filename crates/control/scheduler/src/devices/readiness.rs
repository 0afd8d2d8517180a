//! Devices that have to be made ready for the node of their pod before it is bound (KEP-5007). Pure; see upstream's
//! isClaimReadyForBinding.

use std::time::Duration;

use fram_machinery::Value;
use jiff::Timestamp;

/// How long pods wait for their devices, where nothing is said; see DynamicResourcesBindingTimeoutDefault.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

/// How far the devices of a claim are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Readiness {
    Ready,
    Waiting,
    /// One of them says that it will not be, and why.
    Failed(String),
}

fn results(claim: &Value) -> impl Iterator<Item = &Value> {
    claim.list_at(&["status", "allocation", "devices", "results"]).iter()
}

/// Whether a claim has devices that are to be waited for.
pub(crate) fn has_conditions(claim: &Value) -> bool {
    results(claim).any(|result| !result.list_at(&["bindingConditions"]).is_empty())
}

pub(crate) fn readiness(claim: &Value) -> Readiness {
    if claim.at(&["status", "allocation"]).is_none_or(Value::is_null) {
        return Readiness::Waiting;
    }
    for result in results(claim).filter(|result| !result.list_at(&["bindingConditions"]).is_empty()) {
        let same = |device: &&Value| ["driver", "pool", "device"].iter().all(|f| device.str_at(&[f]) == result.str_at(&[f]));
        let Some(device) = claim.list_at(&["status", "devices"]).iter().find(same) else { return Readiness::Waiting };
        let holds = |condition: &Value| {
            let of_type = |c: &&Value| c.get("type") == Some(condition) && c.str_at(&["status"]) == "True";
            device.list_at(&["conditions"]).iter().find(of_type)
        };
        if let Some(failed) = result.list_at(&["bindingFailureConditions"]).iter().find_map(holds) {
            let (name, reason, message) = (fram_machinery::meta::name(claim), failed.str_at(&["reason"]), failed.str_at(&["message"]));
            return Readiness::Failed(format!("device binding failed: claim={name}, reason={reason}, message={message:?}"));
        }
        if !result.list_at(&["bindingConditions"]).iter().all(|condition| holds(condition).is_some()) {
            return Readiness::Waiting;
        }
    }
    Readiness::Ready
}

/// Whether devices that are not ready have had their time.
pub(crate) fn is_late(claim: &Value, now: Timestamp, patience: Duration) -> bool {
    let since = claim.str_at(&["status", "allocation", "allocationTimestamp"]).parse::<Timestamp>();
    has_conditions(claim)
        && since.is_ok_and(|since| now.duration_since(since) > jiff::SignedDuration::try_from(patience).unwrap_or_default())
}

/// Whether a claim has devices that will not be ready.
pub(super) fn is_lost(claim: &Value, now: Timestamp, patience: Duration) -> bool {
    match readiness(claim) {
        Readiness::Ready => false,
        Readiness::Waiting => is_late(claim, now, patience),
        Readiness::Failed(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    /// What a device's status says: types of conditions, and whether they hold.
    type Said<'a> = Option<&'a [(&'a str, &'a str)]>;

    /// A claim of a device with one condition and one of failure, whose status says these.
    fn claim(conditions: Said) -> Value {
        let device = || object!({ "driver": "d", "pool": "p", "device": "x" });
        let mut result = device();
        result.set(&["bindingConditions"], object!(["Attached"]));
        result.set(&["bindingFailureConditions"], object!(["Broken"]));
        let mut claim = object!({ "metadata": { "name": "c" },
            "status": { "allocation": { "allocationTimestamp": "2026-01-01T00:00:00Z", "devices": { "results": [result] } } } });
        if let Some(conditions) = conditions {
            let all =
                conditions.iter().map(|(kind, status)| object!({ "type": (*kind), "status": (*status), "reason": "R", "message": "m" }));
            let mut said = device();
            said.set(&["conditions"], all.collect::<Vec<_>>());
            claim.set(&["status", "devices"], object!([said]));
        }
        claim
    }

    #[test]
    fn a_claim_is_ready_when_all_conditions_of_its_devices_hold_and_lost_when_one_of_failure_does() {
        let failed = || Readiness::Failed("device binding failed: claim=c, reason=R, message=\"m\"".into());
        let table: [(Said, Readiness); 6] = [
            (None, Readiness::Waiting),
            (Some(&[]), Readiness::Waiting),
            (Some(&[("Attached", "False")]), Readiness::Waiting),
            (Some(&[("Attached", "True")]), Readiness::Ready),
            (Some(&[("Attached", "True"), ("Broken", "False")]), Readiness::Ready),
            (Some(&[("Attached", "True"), ("Broken", "True")]), failed()),
        ];
        for (conditions, expect) in table {
            assert_eq!(readiness(&claim(conditions)), expect, "{conditions:?}");
        }
        let plain = object!({ "status": { "allocation": { "devices": { "results": [{ "device": "x" }] } } } });
        assert_eq!((readiness(&plain), has_conditions(&plain)), (Readiness::Ready, false));
        assert_eq!(readiness(&object!({})), Readiness::Waiting);
    }

    #[test]
    fn what_is_not_ready_is_lost_after_its_time() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let table = [
            (claim(None), "2026-01-01T00:09:59Z", false),
            (claim(None), "2026-01-01T00:10:01Z", true),
            (claim(Some(&[("Attached", "True")])), "2026-01-01T01:00:00Z", false),
            (claim(Some(&[("Broken", "True")])), "2026-01-01T00:00:01Z", true),
            (object!({ "status": {} }), "2026-01-01T01:00:00Z", false),
        ];
        for (claim, now, expect) in table {
            assert_eq!(is_lost(&claim, at(now), PATIENCE), expect, "{claim:?} {now}");
        }
    }
}
