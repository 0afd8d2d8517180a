//! DynamicResources: a pod runs where the devices that its claims want can be had, or were given.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::cache::{Cache, Change};
use crate::devices::preference::points;
use crate::devices::{Claims, NONE, STEPS};
use crate::framework::{Plugin, Refusal, Sharing, Verdicts, View, normalize};
use crate::pod::Pod;

/// Where so many nodes have the devices, no others are looked at: each is a search of its own.
const ENOUGH: usize = 32;

/// So many devices are tried on all nodes together: a claim can be made so that no node meets it and the search is long, and meanwhile
/// no other pod finds its node.
const ALL_STEPS: usize = 4 * STEPS;

pub(super) struct DynamicResources {
    /// So long pods wait for devices to be made ready.
    pub(super) patience: Duration,
}

impl Plugin for DynamicResources {
    fn name(&self) -> &'static str {
        "DynamicResources"
    }

    fn pre_filter(&self, pod: &Pod, cache: &Cache) -> Result<(), String> {
        cache.devices.claims(pod, self.patience).map(drop)
    }

    fn sharing(&self, pod: &Pod, cache: &Cache) -> Sharing {
        if cache.devices.concern(pod) { Sharing::Alone } else { Sharing::Nothing }
    }

    fn view(&self, pod: &Arc<Pod>, cache: &Cache) -> Box<dyn View> {
        let claims = cache.devices.claims(pod, self.patience).unwrap_or_default();
        // Not the same nodes each time are looked at first.
        let start = pod.uid.bytes().fold(0usize, |sum, b| sum.wrapping_mul(31).wrapping_add(b.into()));
        Box::new(Claimed { claims, start, points: HashMap::new() })
    }
}

struct Claimed {
    claims: Claims,
    start: usize,
    /// By slot, what the devices that were found there are worth beside others, where their claims have alternatives.
    points: HashMap<usize, i64>,
}

const NOT_FOUND: u32 = 1;
const ELSEWHERE: u32 = 2;
const UPDATING: u32 = 3;

fn detail(why: &str) -> u32 {
    match why {
        NONE => NOT_FOUND,
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
        let (mut found, mut steps) = (0, ALL_STEPS);
        let ranked = self.claims.have_alternatives();
        for slot in open {
            if self.claims.are_wanting() && found == ENOUGH {
                verdicts.set_aside(slot);
                continue;
            }
            let before = steps.min(STEPS);
            let mut left = before;
            let allocated = cache.devices.allocate_within(&self.claims, cache.at(slot), &mut left);
            steps -= before - left;
            match allocated {
                Ok(allocations) => {
                    found += 1;
                    if ranked {
                        self.points.insert(slot, points(&allocations));
                    }
                }
                Err(why) => verdicts.refuse(slot, detail(&why)),
            }
        }
    }

    fn score(&mut self, _: &Cache, slots: &[usize]) -> Option<Vec<i64>> {
        let of = |slot: &usize| self.points.get(slot).copied().unwrap_or(0);
        (!self.points.is_empty()).then(|| normalize(slots.iter().map(of).collect(), false))
    }

    fn refusal(&self, cache: &Cache, slot: usize) -> Option<Refusal> {
        cache.devices.allocate(&self.claims, cache.at(slot)).err().map(Refusal::lasting)
    }
}
