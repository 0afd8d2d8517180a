//! What is next for a ServiceCIDR. Pure.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fram_api::AddressRange;
use fram_machinery::{Value, meta};
use jiff::Timestamp;

use crate::pods::time;

/// Who allocates may not have seen for so long that a range goes; see deletionGracePeriod.
const GRACE: Duration = Duration::from_secs(10);

#[derive(Debug, PartialEq)]
pub(super) enum Step {
    Nothing,
    /// Its finalizer is to be set.
    Hold,
    /// Its condition is to be this: status, reason and message.
    Say(&'static str, &'static str, &'static str),
    Wait(Duration),
    /// Its finalizer is to be taken away.
    Release,
}

fn ranges(object: &Value) -> impl Iterator<Item = AddressRange> {
    object.list_at(&["spec", "cidrs"]).iter().filter_map(|cidr| cidr.as_str()?.parse().ok())
}

pub(super) fn overlap(one: &Value, other: &Value) -> bool {
    ranges(one).any(|range| ranges(other).any(|other| range.overlaps(other)))
}

/// Whether a Service could have this address from it.
pub(super) fn lends(object: &Value, address: &str) -> bool {
    address.parse::<IpAddr>().is_ok_and(|address| ranges(object).any(|range| range.lends(address)))
}

pub(super) fn plan(object: &Value, all: &[Arc<Value>], addresses: &[Arc<Value>], finalizer: &str, now: Timestamp) -> Step {
    let held = meta::has_finalizer(object, finalizer);
    if !meta::is_terminating(object) {
        return match held {
            false => Step::Hold,
            true => say(object, ("True", "", "Kubernetes Service CIDR is ready")),
        };
    }
    // Two that go at once would each leave its addresses to the other.
    let others = || all.iter().filter(|other| meta::name(other) != meta::name(object) && !meta::is_terminating(other));
    let is_covered = |range: AddressRange| others().flat_map(|other| ranges(other)).any(|other| other.covers(range));
    let is_needed = |address: &&Arc<Value>| {
        let name = meta::name(address);
        let by_allocator = meta::label(address, "ipaddress.kubernetes.io/managed-by") == Some("ipallocator.k8s.io");
        by_allocator && lends(object, name) && !others().any(|other| lends(other, name))
    };
    if !ranges(object).all(is_covered) && addresses.iter().any(|address| is_needed(&address)) {
        let why = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
        return say(object, ("False", "Terminating", why));
    }
    let begun = time(object, &["metadata", "deletionTimestamp"]).unwrap_or(now);
    let left = GRACE.saturating_sub(Duration::try_from(now.duration_since(begun)).unwrap_or_default());
    match (held, left.is_zero()) {
        (false, _) => Step::Nothing,
        (true, true) => Step::Release,
        (true, false) => Step::Wait(left),
    }
}

fn say(object: &Value, (status, reason, message): (&'static str, &'static str, &'static str)) -> Step {
    let said = meta::condition(object, "Ready");
    let told = [("status", status), ("reason", reason), ("message", message)];
    match said.is_some_and(|said| told.iter().all(|(field, text)| said.str_at(&[field]) == *text)) {
        true => Step::Nothing,
        false => Step::Say(status, reason, message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    const FINALIZER: &str = "f";

    fn range(name: &str, cidrs: Value, deleted: &str) -> Arc<Value> {
        let mut object = object!({ "metadata": { "name": name, "finalizers": [FINALIZER] }, "spec": { "cidrs": cidrs } });
        if !deleted.is_empty() {
            object.set(&["metadata", "deletionTimestamp"], deleted);
        }
        Arc::new(object)
    }

    fn address(name: &str, by: &str) -> Arc<Value> {
        Arc::new(object!({ "metadata": { "name": name, "labels": { "ipaddress.kubernetes.io/managed-by": by } } }))
    }

    #[test]
    fn a_range_is_ready_once_it_is_held() {
        let now = Timestamp::UNIX_EPOCH;
        let new = Arc::new(object!({ "metadata": { "name": "a" }, "spec": { "cidrs": ["10.0.0.0/24"] } }));
        assert_eq!(plan(&new, &[], &[], FINALIZER, now), Step::Hold);
        let held = range("a", object!(["10.0.0.0/24"]), "");
        assert_eq!(plan(&held, &[], &[], FINALIZER, now), Step::Say("True", "", "Kubernetes Service CIDR is ready"));
        let mut ready = (*held).clone();
        let condition = object!({ "type": "Ready", "status": "True", "reason": "", "message": "Kubernetes Service CIDR is ready" });
        ready.set(&["status", "conditions"], object!([condition]));
        assert_eq!(plan(&ready, &[], &[], FINALIZER, now), Step::Nothing);
    }

    #[test]
    fn a_range_goes_when_nobody_has_an_address_that_only_it_covers() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let (long_ago, just_now) = ("2026-01-01T00:00:00Z", "2026-01-01T00:00:56Z");
        let going = |cidrs: Value, at: &str| range("a", cidrs, at);
        let one = || object!(["10.0.0.0/24"]);
        let mine = vec![address("10.0.0.9", "ipallocator.k8s.io")];
        let why = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
        let blocked = || Step::Say("False", "Terminating", why);
        let larger = range("b", object!(["10.0.0.0/16"]), "");
        let partly = range("b", object!(["10.0.0.0/28"]), "");
        let table = [
            (going(one(), long_ago), None, vec![], Step::Release),
            (going(one(), just_now), None, vec![], Step::Wait(Duration::from_secs(6))),
            (going(one(), long_ago), None, mine.clone(), blocked()),
            (going(one(), long_ago), None, vec![address("10.0.0.9", "somebody")], Step::Release),
            (going(one(), long_ago), None, vec![address("10.0.1.9", "ipallocator.k8s.io")], Step::Release),
            (going(one(), long_ago), Some(larger.clone()), mine.clone(), Step::Release),
            (going(one(), long_ago), Some(partly), mine.clone(), Step::Release),
            (going(one(), long_ago), Some(range("b", object!(["10.0.0.0/16"]), just_now)), mine.clone(), blocked()),
            // Of two families one alone is covered, and nobody has one of the other.
            (going(object!(["10.0.0.0/24", "fd00::/112"]), long_ago), Some(larger.clone()), mine, Step::Release),
        ];
        for (n, (range, other, addresses, expect)) in table.into_iter().enumerate() {
            let all: Vec<Arc<Value>> = [range.clone()].into_iter().chain(other).collect();
            assert_eq!(plan(&range, &all, &addresses, FINALIZER, now), expect, "{n}");
        }
        let both = going(object!(["10.0.0.0/24", "fd00::/112"]), long_ago);
        let six = vec![address("fd00::9", "ipallocator.k8s.io")];
        assert!(matches!(plan(&both, &[both.clone(), larger], &six, FINALIZER, now), Step::Say("False", ..)));
    }
}
