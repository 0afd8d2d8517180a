//! How far the devices that are found on a node are those that its claims ask for first (KEP-4816). Pure.

use std::collections::HashSet;

use fram_machinery::Value;

use super::{Allocation, Claims, allocation_of};

/// A request has so many alternatives; see FirstAvailableDeviceRequestMaxSize.
const MOST_ALTERNATIVES: i64 = 8;

fn alternatives(claim: &Value) -> impl Iterator<Item = (&Value, &[Value])> {
    let requests = claim.list_at(&["spec", "devices", "requests"]).iter();
    requests.map(|request| (request, request.list_at(&["firstAvailable"]))).filter(|(_, list)| !list.is_empty())
}

impl Claims {
    /// Nodes may differ by which alternatives they have.
    pub(crate) fn have_alternatives(&self) -> bool {
        self.all.iter().any(|claim| alternatives(claim).next().is_some())
    }
}

/// The points of what was found: the earlier an alternative stands in its request, the more. Claims that have their devices already
/// count too, on every node the same.
pub(crate) fn points(found: &[Allocation]) -> i64 {
    let of_claim = |allocation: &Allocation| {
        let claim = &allocation.claim;
        let devices = allocation_of(claim).or(allocation.devices.as_ref());
        let results = devices.map(|devices| devices.list_at(&["devices", "results"])).unwrap_or_default();
        let given: HashSet<&str> = results.iter().map(|result| result.str_at(&["request"])).collect();
        let worth = |(request, list): (&Value, &[Value])| -> i64 {
            let name = |alternative: &Value| format!("{}/{}", request.str_at(&["name"]), alternative.str_at(&["name"]));
            let is_given = |alternative: &Value| given.contains(name(alternative).as_str());
            list.iter().zip(0..).filter(|(alternative, _)| is_given(alternative)).map(|(_, place)| MOST_ALTERNATIVES - place).sum()
        };
        alternatives(claim).map(worth).sum::<i64>()
    };
    found.iter().map(of_claim).sum()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fram_machinery::object;

    use super::*;

    /// A claim whose request `r` has three alternatives and whose `s` has two, and what it was given.
    fn given(requests: &[&str]) -> Allocation {
        let named = |names: &[&str]| names.iter().map(|name| object!({ "name": (*name) })).collect::<Vec<_>>();
        let claim = object!({ "spec": { "devices": { "requests": [
            { "name": "r", "firstAvailable": (named(&["a", "b", "c"])) },
            { "name": "plain", "exactly": {} },
            { "name": "s", "firstAvailable": (named(&["a", "b"])) }] } } });
        let results: Vec<Value> = requests.iter().map(|request| object!({ "request": (*request) })).collect();
        Allocation { claim: Arc::new(claim), devices: Some(object!({ "devices": { "results": results } })), mappings: Vec::new() }
    }

    #[test]
    fn the_earlier_an_alternative_stands_the_more_it_counts_however_many_devices_it_has() {
        let table: [(&[&[&str]], i64); 8] = [
            (&[], 0),
            (&[&["plain"]], 0),
            (&[&["r/a"]], 8),
            (&[&["r/c"]], 6),
            (&[&["r/a", "r/a", "plain"]], 8),
            (&[&["r/b", "s/a"]], 15),
            (&[&["r/a", "s/b"], &["r/c", "plain", "s/b"]], 28),
            // A name that no alternative has.
            (&[&["r/d", "r"]], 0),
        ];
        for (claims, expect) in table {
            let found: Vec<Allocation> = claims.iter().map(|requests| given(requests)).collect();
            assert_eq!(points(&found), expect, "{claims:?}");
        }
    }

    #[test]
    fn a_claim_that_has_its_devices_counts_what_it_has() {
        let found = given(&["r/b"]);
        let mut claim = (*found.claim).clone();
        claim.set(&["status", "allocation"], found.devices.clone());
        assert_eq!(points(&[Allocation { claim: Arc::new(claim), devices: None, mappings: Vec::new() }]), 7);
    }
}
