//! DynamicResources: a pod runs where the devices that its claims want can be had, or were given.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::cache::{Cache, Change};
use crate::devices::preference::points;
use crate::devices::{Claims, Denial, Grants, NONE, TIMED_OUT};
use crate::framework::{Plugin, Refusal, Sharing, Verdicts, View, normalize};
use crate::pod::Pod;

/// Where so many nodes have the devices, no others are looked at: each is a search of its own.
const ENOUGH: usize = 32;

/// As many devices are tried on all nodes together as on so many alone: a claim can be made so that no node meets it and the search is
/// long, and meanwhile no other pod finds its node.
const LONG_SEARCHES: usize = 4;

pub(super) struct DynamicResources {
    pub(super) limits: Grants,
}

impl Plugin for DynamicResources {
    fn name(&self) -> &'static str {
        "DynamicResources"
    }

    fn pre_filter(&self, pod: &Pod, cache: &Cache) -> Result<(), String> {
        cache.devices.claims(pod, self.limits).map(drop)
    }

    fn sharing(&self, pod: &Pod, cache: &Cache) -> Sharing {
        if cache.devices.concern(pod) { Sharing::Alone } else { Sharing::Nothing }
    }

    fn view(&self, pod: &Arc<Pod>, cache: &Cache) -> Box<dyn View> {
        let claims = cache.devices.claims(pod, self.limits).unwrap_or_default();
        // Not the same nodes each time are looked at first.
        let start = pod.uid.bytes().fold(0usize, |sum, b| sum.wrapping_mul(31).wrapping_add(b.into()));
        Box::new(Claimed { claims, start, points: HashMap::new(), late: HashSet::new(), first_late: None, found_any: false, broken: None })
    }
}

struct Claimed {
    claims: Claims,
    start: usize,
    /// By slot, what the devices that were found there are worth beside others, where their claims have alternatives.
    points: HashMap<usize, i64>,
    /// The slots where not all was tried.
    late: HashSet<usize>,
    /// The name of a node of these.
    first_late: Option<String>,
    /// Some node has the devices.
    found_any: bool,
    /// Why nothing can be said of any node.
    broken: Option<String>,
}

const NOT_FOUND: u32 = 1;
const ELSEWHERE: u32 = 2;
const UPDATING: u32 = 3;
const LATE: u32 = 4;

fn detail(why: &str) -> u32 {
    match why {
        NONE => NOT_FOUND,
        TIMED_OUT => LATE,
        "resourceclaim not available on the node" => ELSEWHERE,
        _ => UPDATING,
    }
}

impl View for Claimed {
    fn changed(&mut self, _: &Change, _: &Cache) -> bool {
        true
    }

    fn filter(&mut self, cache: &Cache, verdicts: &mut Verdicts) {
        let mut open: Vec<usize> = verdicts.open().collect();
        let middle = self.start % open.len().max(1);
        open.rotate_left(middle);
        let (mut found, mut steps) = (0, self.claims.steps.saturating_mul(LONG_SEARCHES));
        let ranked = self.claims.have_alternatives();
        for slot in open {
            if self.claims.are_wanting() && found == ENOUGH {
                verdicts.set_aside(slot);
                continue;
            }
            let before = steps.min(self.claims.steps);
            let mut left = before;
            let allocated = cache.devices.allocate_within(&self.claims, cache.at(slot), &mut left);
            steps -= before - left;
            match allocated {
                Ok(allocations) => {
                    found += 1;
                    self.found_any = true;
                    if ranked {
                        self.points.insert(slot, points(&allocations));
                    }
                }
                Err(why) => {
                    let detail = detail(why.text());
                    verdicts.refuse(slot, detail);
                    if detail == LATE {
                        self.late.insert(slot);
                        self.first_late.get_or_insert_with(|| cache.at(slot).name().to_string());
                    }
                    if let Denial::Broken(why) = why {
                        self.broken = Some(why);
                    }
                }
            }
        }
    }

    fn score(&mut self, _: &Cache, slots: &[usize]) -> Option<Vec<i64>> {
        let of = |slot: &usize| self.points.get(slot).copied().unwrap_or(0);
        (!self.points.is_empty()).then(|| normalize(slots.iter().map(of).collect(), false))
    }

    fn refusal(&self, cache: &Cache, slot: usize) -> Option<Refusal> {
        if self.late.contains(&slot) {
            return Some(Refusal::lasting(TIMED_OUT));
        }
        cache.devices.allocate(&self.claims, cache.at(slot)).err().map(|why| Refusal::lasting(why.text()))
    }

    fn failure(&self) -> Option<String> {
        // Another attempt may find more, and nothing that happens in the cluster would bring it about.
        let late = self.first_late.as_ref().filter(|_| !self.found_any);
        self.broken.clone().or_else(|| late.map(|node| format!("{TIMED_OUT} on node {node}")))
    }
}
