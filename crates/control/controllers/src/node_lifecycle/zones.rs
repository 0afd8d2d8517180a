//! How fast nodes that fail are emptied, by the health of their zones: a zone that fails in part may be this side's fault, and
//! all of them at once surely are. Pure; see nodelifecycle's ComputeZoneState and handleDisruption.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use fram_machinery::{Value, meta};
use tokio::time::Instant;

use super::plan::ready;

/// How many nodes in a second may be emptied in each zone. The defaults are kube-controller-manager's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EvictionRates {
    pub healthy: f32,
    /// In a zone that is unhealthy and large.
    pub unhealthy: f32,
    /// The part of a zone's nodes that make it unhealthy where they are not ready.
    pub threshold: f32,
    /// A zone of at most so many nodes is small.
    pub large: usize,
}

impl Default for EvictionRates {
    fn default() -> Self {
        Self { healthy: 0.1, unhealthy: 0.01, threshold: 0.55, large: 50 }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Zone {
    ready: usize,
    not_ready: usize,
}

/// The zones of a cluster, kept up to date node by node: where a thousand fail at once, nobody counts a thousand each time.
#[derive(Debug, Default)]
pub(super) struct Zones {
    zones: BTreeMap<String, Zone>,
    /// The zone of each node, and whether it counts as ready.
    nodes: HashMap<String, (String, bool)>,
}

/// A node that says this of itself does not count where it is asked how healthy its zone is.
const EXCLUDED: &str = "node.kubernetes.io/exclude-disruption";

/// See GetZoneKey.
pub(super) fn zone_of(node: &Value) -> String {
    let label = |name: &str, old: &str| meta::label(node, name).or_else(|| meta::label(node, old)).unwrap_or_default().to_string();
    let region = label("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region");
    let zone = label("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone");
    format!("{region}:\0:{zone}")
}

impl Zones {
    /// A node is there, or is another, or is gone. True where nodes that fail may have to be treated otherwise from now on.
    pub(super) fn note(&mut self, name: &str, node: Option<&Value>, rates: &EvictionRates) -> bool {
        let counted = node.filter(|node| meta::label(node, EXCLUDED).is_none());
        let now = counted.map(|node| (zone_of(node), ready(node) == "True"));
        if self.nodes.get(name) == now.as_ref() {
            return false;
        }
        let old = self.nodes.get(name).cloned();
        let affected: Vec<String> = old.iter().chain(&now).map(|(zone, _)| zone.clone()).collect();
        let verdict = |zones: &Self| (zones.all_disrupted(), affected.iter().map(|zone| zones.rate(zone, rates)).collect::<Vec<_>>());
        let before = verdict(self);
        if let Some((zone, was_ready)) = old {
            self.nodes.remove(name);
            *self.counter(&zone, was_ready) -= 1;
            self.zones.retain(|_, zone| *zone != Zone::default());
        }
        if let Some((zone, is_ready)) = now {
            *self.counter(&zone, is_ready) += 1;
            self.nodes.insert(name.into(), (zone, is_ready));
        }
        before != verdict(self)
    }

    fn counter(&mut self, zone: &str, is_ready: bool) -> &mut usize {
        let zone = self.zones.entry(zone.into()).or_default();
        if is_ready { &mut zone.ready } else { &mut zone.not_ready }
    }

    /// No node at all is ready: nobody is evicted, since then the fault is likely on this side.
    pub(super) fn all_disrupted(&self) -> bool {
        self.zones.values().all(|z| z.ready == 0)
    }

    /// How many nodes in a second may be emptied in a zone.
    pub(super) fn rate(&self, zone: &str, rates: &EvictionRates) -> f32 {
        let Zone { ready, not_ready } = self.zones.get(zone).copied().unwrap_or_default();
        let size = ready + not_ready;
        // A zone in which no node is left is emptied as fast as a healthy one, as long as there are others.
        let partly = ready > 0 && not_ready > 2 && not_ready as f32 / size as f32 >= rates.threshold;
        match (partly, size > rates.large) {
            (false, _) => rates.healthy,
            (true, true) => rates.unhealthy,
            (true, false) => 0.0,
        }
    }
}

/// When each zone's next node may be emptied.
#[derive(Debug, Default)]
pub(super) struct Limiter {
    next: HashMap<String, Instant>,
}

impl Limiter {
    /// Takes a zone's turn, and gives when the next is; else says how long to wait, or None where nobody's turn comes.
    pub(super) fn take(&mut self, zone: &str, rate: f32, now: Instant) -> Result<Instant, Option<Duration>> {
        if rate <= 0.0 {
            return Err(None);
        }
        match self.next.get(zone).map(|at| at.saturating_duration_since(now)) {
            Some(left) if !left.is_zero() => Err(Some(left)),
            _ => {
                let next = now + Duration::from_secs_f32(1.0 / rate);
                self.next.insert(zone.into(), next);
                Ok(next)
            }
        }
    }

    /// Takes back a turn that came to nothing.
    pub(super) fn give_back(&mut self, zone: &str, turn: Option<Instant>) {
        if turn.is_some() && self.next.get(zone) == turn.as_ref() {
            self.next.remove(zone);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fram_machinery::object;

    use super::*;

    fn nodes(zone: &str, ready: usize, not_ready: usize) -> Vec<Arc<Value>> {
        let node = |status: &str| {
            Arc::new(object!({ "metadata": { "labels": { "topology.kubernetes.io/zone": zone } },
                "status": { "conditions": [{ "type": "Ready", "status": status }] } }))
        };
        (0..ready).map(|_| node("True")).chain((0..not_ready).map(|_| node("Unknown"))).collect()
    }

    fn of(nodes: &[Arc<Value>]) -> Zones {
        let mut zones = Zones::default();
        for (number, node) in nodes.iter().enumerate() {
            zones.note(&number.to_string(), Some(node), &EvictionRates::default());
        }
        zones
    }

    fn rate(ready: usize, not_ready: usize) -> f32 {
        let nodes = nodes("a", ready, not_ready);
        of(&nodes).rate(&zone_of(&nodes[0]), &EvictionRates::default())
    }

    #[test]
    fn only_a_node_that_tips_its_zone_concerns_the_others() {
        let rates = EvictionRates::default();
        let (mut zones, fails) = (of(&nodes("a", 10, 0)), nodes("a", 0, 1));
        let mut tipped = Vec::new();
        for number in 0..10 {
            if zones.note(&number.to_string(), Some(&fails[0]), &rates) {
                tipped.push(number);
            }
        }
        // The sixth of ten makes the zone unhealthy, and small ones are not emptied; the last leaves nobody who is ready.
        assert_eq!(tipped, [5, 9]);
        assert!(!zones.note("3", Some(&fails[0]), &rates), "nothing is new");
        for number in 0..10 {
            zones.note(&number.to_string(), None, &rates);
        }
        assert!(zones.zones.is_empty() && zones.nodes.is_empty());
    }

    #[test]
    fn a_zone_that_fails_in_part_is_emptied_slowly_and_a_small_one_not_at_all() {
        assert_eq!(rate(9, 1), 0.1);
        assert_eq!(rate(1, 2), 0.1); // Two nodes do not make a zone unhealthy.
        assert_eq!(rate(4, 5), 0.0);
        assert_eq!(rate(5, 5), 0.1);
        assert_eq!(rate(20, 40), 0.01);
        assert_eq!(rate(0, 40), 0.1); // The zone is gone as a whole.
    }

    #[test]
    fn a_node_that_is_excluded_says_nothing_of_its_zone() {
        let mut all = nodes("a", 0, 3);
        let mut excluded = (*nodes("b", 1, 0)[0]).clone();
        meta::set_label(&mut excluded, EXCLUDED, "");
        all.push(Arc::new(excluded));
        assert!(of(&all).all_disrupted());
    }

    #[test]
    fn only_where_no_zone_has_a_ready_node_all_is_disrupted() {
        let mut all = nodes("a", 0, 3);
        assert!(of(&all).all_disrupted());
        all.extend(nodes("b", 1, 0));
        assert!(!of(&all).all_disrupted());
    }

    #[test]
    fn one_node_of_a_zone_is_emptied_at_a_time() {
        let (mut limiter, now) = (Limiter::default(), Instant::now());
        let taken = limiter.take("a", 0.1, now);
        assert_eq!(taken, Ok(now + Duration::from_secs(10)));
        assert_eq!(limiter.take("a", 0.1, now + Duration::from_secs(4)), Err(Some(Duration::from_secs(6))));
        assert!(limiter.take("b", 0.1, now).is_ok());
        limiter.give_back("a", taken.ok());
        assert!(limiter.take("a", 0.1, now + Duration::from_secs(5)).is_ok(), "the turn came to nothing");
        limiter.give_back("a", taken.ok());
        assert!(limiter.take("a", 0.1, now + Duration::from_secs(10)).is_err(), "that turn is over");
        assert!(limiter.take("a", 0.1, now + Duration::from_secs(15)).is_ok());
        assert_eq!(limiter.take("a", 0.0, now + Duration::from_secs(60)), Err(None));
    }
}
