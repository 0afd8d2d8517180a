//! When the users of a claim have to leave its devices. Pure.

use std::sync::Arc;

use fram_api::devices::tolerates;
use fram_machinery::Value;
use jiff::{SignedDuration, Timestamp};

use crate::pods::time;

/// The devices of a slice that have taints which evict, with these.
pub(super) fn evicting(slice: &Value) -> Vec<(String, Vec<Value>)> {
    let of = |device: &Value| {
        let taints: Vec<Value> = device.list_at(&["taints"]).iter().filter(|t| t.str_at(&["effect"]) == "NoExecute").cloned().collect();
        (!taints.is_empty()).then(|| (device.str_at(&["name"]).to_string(), taints))
    };
    slice.list_at(&["spec", "devices"]).iter().filter_map(of).collect()
}

/// Whether a slice is of a pool from which the claim has devices.
pub(super) fn is_from(claim: &Value, slice: &Value) -> bool {
    let results = claim.list_at(&["status", "allocation", "devices", "results"]);
    results.iter().any(|r| {
        r.str_at(&["driver"]) == slice.str_at(&["spec", "driver"]) && r.str_at(&["pool"]) == slice.str_at(&["spec", "pool", "name"])
    })
}

/// When those who use the claim have to go; None where nothing makes them.
pub(super) fn due(claim: &Value, slices: &[Arc<Value>], now: Timestamp) -> Option<Timestamp> {
    let results = claim.list_at(&["status", "allocation", "devices", "results"]).iter();
    let of_device = |r: &Value| -> Vec<Value> {
        let is_of = |s: &&Arc<Value>| {
            s.str_at(&["spec", "driver"]) == r.str_at(&["driver"]) && s.str_at(&["spec", "pool", "name"]) == r.str_at(&["pool"])
        };
        let generation = |s: &Arc<Value>| s.int_at(&["spec", "pool", "generation"]).unwrap_or(0);
        let newest = slices.iter().filter(is_of).map(generation).max().unwrap_or(0);
        let current = slices.iter().filter(is_of).filter(|s| generation(s) == newest);
        current.flat_map(|s| evicting(s)).filter(|(name, _)| name == r.str_at(&["device"])).flat_map(|(_, taints)| taints).collect()
    };
    let times = |r: &Value| {
        let leaving = |taint: &Value| leaves(r.list_at(&["tolerations"]), taint, now);
        of_device(r).iter().filter_map(leaving).min()
    };
    results.filter_map(times).min()
}

/// When a taint evicts; None where it is tolerated for good.
fn leaves(tolerations: &[Value], taint: &Value, now: Timestamp) -> Option<Timestamp> {
    let added = time(taint, &["timeAdded"]).unwrap_or(now);
    let covering = || tolerations.iter().filter(|t| tolerates(std::slice::from_ref(*t), taint));
    if covering().next().is_none() {
        return Some(now);
    }
    let seconds = covering().filter_map(|t| t.int_at(&["tolerationSeconds"])).min()?;
    Some(added.saturating_add(SignedDuration::from_secs(seconds.max(0))).unwrap_or(Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    #[test]
    fn a_claim_is_left_when_its_devices_taints_are_not_tolerated_any_more() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let slice = |taints: Value| {
            vec![Arc::new(
                object!({ "spec": { "driver": "d", "pool": { "name": "p", "generation": 1 }, "devices": [{ "name": "0", "taints": taints }] } }),
            )]
        };
        let taint = object!({ "key": "k", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:30Z" });
        let claim = |tolerations: Value| {
            let result = object!({ "driver": "d", "pool": "p", "device": "0", "tolerations": tolerations });
            object!({ "status": { "allocation": { "devices": { "results": [result] } } } })
        };
        let with = |tolerations: Value, taints: Value| due(&claim(tolerations), &slice(taints), now).map(|t| t.to_string());
        assert_eq!(with(object!([]), object!([])), None);
        assert_eq!(with(object!([]), object!([{ "key": "k", "effect": "NoSchedule" }])), None);
        assert_eq!(with(object!([]), object!([(taint.clone())])), Some("2026-01-01T00:01:00Z".into()));
        assert_eq!(with(object!([{ "operator": "Exists" }]), object!([(taint.clone())])), None);
        let for_a_minute = object!([{ "key": "k", "operator": "Exists", "tolerationSeconds": 60 }]);
        assert_eq!(with(for_a_minute, object!([taint])), Some("2026-01-01T00:01:30Z".into()));
    }
}
