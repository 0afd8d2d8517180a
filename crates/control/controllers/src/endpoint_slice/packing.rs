//! How endpoints that share their ports are spread over slices: each stays in the slice that it is in, and as few slices as can be are
//! written. Pure; see reconcileByPortMapping in upstream's endpointslice.

use std::collections::BTreeMap;
use std::sync::Arc;

use fram_machinery::{Value, meta};

/// A slice holds at most so many endpoints; see --max-endpoints-per-slice.
pub(super) const MOST: usize = 100;

/// What a slice is to hold. None where it is a new one.
pub(super) struct Packed {
    pub(super) slice: Option<Arc<Value>>,
    pub(super) endpoints: Vec<Value>,
    /// It is written in any case.
    changed: bool,
}

impl Packed {
    /// Whether the slice holds this already.
    pub(super) fn is_as_it_was(&self) -> bool {
        self.slice.as_ref().is_some_and(|slice| slice.list_at(&["endpoints"]) == self.endpoints)
    }

    fn room(&self) -> usize {
        MOST.saturating_sub(self.endpoints.len())
    }
}

/// The pod that an endpoint leads to.
fn pod(endpoint: &Value) -> &str {
    endpoint.str_at(&["targetRef", "uid"])
}

/// Spreads endpoints over the slices that there are for their ports, and new ones. Slices that nothing is left in hold nothing.
pub(super) fn pack(endpoints: Vec<Value>, slices: Vec<Arc<Value>>) -> Vec<Packed> {
    let names: BTreeMap<String, usize> = endpoints.iter().enumerate().map(|(i, e)| (pod(e).to_string(), i)).collect();
    let mut wanted: Vec<Option<Value>> = endpoints.into_iter().map(Some).collect();
    let stay = |slice: Arc<Value>| {
        let here = slice.list_at(&["endpoints"]);
        let kept: Vec<Value> = here.iter().filter_map(|e| wanted[*names.get(pod(e))?].take()).take(MOST).collect();
        let changed = kept != here;
        Packed { endpoints: kept, changed, slice: Some(slice) }
    };
    let mut packed: Vec<Packed> = slices.into_iter().map(stay).collect();
    let mut rest = wanted.into_iter().flatten().peekable();
    for slice in packed.iter_mut().filter(|slice| slice.changed) {
        let room = slice.room();
        slice.endpoints.extend(rest.by_ref().take(room));
    }
    let mut rest: Vec<Value> = rest.collect();
    while !rest.is_empty() {
        // One that all of them have room in, and of these the fullest.
        let fits = packed.iter_mut().filter(|slice| slice.room() >= rest.len());
        if let Some(slice) = fits.max_by_key(|slice| slice.endpoints.len()) {
            slice.endpoints.append(&mut rest);
            break;
        }
        let later = rest.split_off(rest.len().min(MOST));
        packed.push(Packed { slice: None, endpoints: rest, changed: true });
        rest = later;
    }
    packed
}

/// By name, so that the same slices are always looked at in the same order.
pub(super) fn in_order(mut slices: Vec<Arc<Value>>) -> Vec<Arc<Value>> {
    slices.sort_by(|a, b| meta::name(a).cmp(meta::name(b)));
    slices
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    fn endpoints(names: impl Iterator<Item = usize>) -> Vec<Value> {
        names.map(|n| object!({ "addresses": ["10.0.0.1"], "targetRef": { "uid": (n.to_string()) } })).collect()
    }

    fn slice(name: &str, holds: impl Iterator<Item = usize>) -> Arc<Value> {
        Arc::new(object!({ "metadata": { "name": name }, "endpoints": (endpoints(holds)) }))
    }

    /// Each slice with its size, `*` where it is another than it was.
    fn sizes(packed: &[Packed]) -> Vec<String> {
        let one = |p: &Packed| {
            let before = p.slice.as_ref().map_or(&[][..], |s| s.list_at(&["endpoints"]));
            let name = p.slice.as_ref().map_or("new", |s| meta::name(s));
            format!("{name} {}{}", p.endpoints.len(), if p.endpoints == before { "" } else { "*" })
        };
        packed.iter().map(one).collect()
    }

    #[test]
    fn one_more_or_less_among_many_changes_one_slice() {
        let (a, b, c) = (|| slice("a", 0..100), || slice("b", 100..200), || slice("c", 200..250));
        let all = || vec![a(), b(), c()];
        assert_eq!(sizes(&pack(endpoints(0..250), all())), ["a 100", "b 100", "c 50"]);
        assert_eq!(sizes(&pack(endpoints(1..250), all())), ["a 99*", "b 100", "c 50"]);
        assert_eq!(sizes(&pack(endpoints((0..250).chain([999])), all())), ["a 100", "b 100", "c 51*"]);
        // One goes, another comes: it takes the place in the slice that is written anyway.
        assert_eq!(sizes(&pack(endpoints((1..250).chain([999])), all())), ["a 100*", "b 100", "c 50"]);
    }

    #[test]
    fn what_fits_into_one_slice_goes_into_the_fullest_that_takes_it_and_what_does_not_into_a_new_one() {
        let two = || vec![slice("a", 0..40), slice("b", 40..110)];
        assert_eq!(sizes(&pack(endpoints(0..140), two())), ["a 40", "b 100*"]);
        assert_eq!(sizes(&pack(endpoints(0..150), two())), ["a 80*", "b 70"]);
        assert_eq!(sizes(&pack(endpoints(0..180), two())), ["a 40", "b 70", "new 70*"]);
        assert_eq!(sizes(&pack(endpoints(0..330), two())), ["a 40", "b 90*", "new 100*", "new 100*"]);
        assert_eq!(sizes(&pack(endpoints(0..250), vec![])), ["new 100*", "new 100*", "new 50*"]);
    }

    #[test]
    fn an_endpoint_that_tells_something_else_stays_where_it_is() {
        let mut now = endpoints(0..3);
        now[1].set(&["nodeName"], "other");
        let packed = pack(now.clone(), vec![slice("a", 0..3)]);
        assert_eq!((sizes(&packed), &packed[0].endpoints), (vec!["a 3*".to_string()], &now));
    }

    #[test]
    fn a_pod_that_stands_in_two_slices_leaves_the_second() {
        assert_eq!(sizes(&pack(endpoints(0..2), vec![slice("a", 0..2), slice("b", 1..2)])), ["a 2", "b 0*"]);
    }
}
