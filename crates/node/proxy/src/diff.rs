//! From what the maps hold to what they should hold, as one batch. Chains and client sets are only ever added: they are few,
//! shared by many Services, and gone with the next rebuild.

use std::collections::{BTreeMap, BTreeSet};

use fram_datapath::nft::{Batch, Data, Key, Verdict};

use crate::plan::{Action, Balance, Desired, Frontend};
use crate::rules::{self, Balancer, Node, Side, StickySlot};

/// The chains and client sets that exist in the table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Chains {
    balancers: BTreeSet<Balancer>,
    sticky: BTreeSet<StickySlot>,
    clients: BTreeSet<(Side, u32)>,
}

impl Chains {
    /// Adds what `desired` needs and is not there yet.
    fn extend(&mut self, batch: &mut Batch, desired: &Desired) {
        for (side, balance) in sides(desired) {
            let needed: BTreeSet<_> = balance.actions.values().filter_map(|action| Balancer::of(side, action)).collect();
            for balancer in needed.difference(&self.balancers.clone()) {
                self.add_sticky_slots(batch, balancer);
                rules::add_balancer(batch, balancer);
                self.balancers.insert(*balancer);
            }
        }
    }

    fn add_sticky_slots(&mut self, batch: &mut Batch, balancer: &Balancer) {
        let Some(seconds) = balancer.affinity else { return };
        for slot in 0..balancer.endpoints {
            if self.clients.insert((balancer.side, slot)) {
                rules::add_clients(batch, balancer.side, slot);
            }
            let sticky = StickySlot { side: balancer.side, slot, seconds };
            if self.sticky.insert(sticky) {
                rules::add_sticky_slot(batch, &sticky);
            }
        }
    }
}

fn sides(desired: &Desired) -> [(Side, &Balance); 2] {
    [(Side::Everyone, &desired.frontends), (Side::External, &desired.external)]
}

/// Everything from nothing.
pub(crate) fn rebuild(desired: &Desired, node: &Node<'_>) -> (Batch, Chains) {
    let mut batch = Batch::new();
    rules::skeleton(&mut batch, node);
    let mut chains = Chains::default();
    update(&mut batch, &mut chains, &Desired::default(), desired);
    (batch, chains)
}

/// What differs.
pub(crate) fn update(batch: &mut Batch, chains: &mut Chains, old: &Desired, new: &Desired) {
    chains.extend(batch, new);
    for ((side, old), (_, new)) in sides(old).into_iter().zip(sides(new)) {
        let actions = if side == Side::Everyone { rules::FRONTENDS } else { rules::EXTERNAL };
        // Slots before the chains that may pick them; it is one transaction anyway.
        update_values(batch, side.endpoints(), &old.slots, &new.slots, rules::slot_key, rules::target_value);
        update_verdicts(batch, actions, &old.actions, &new.actions, |action: &Action| rules::verdict(side, action));
    }
    update_verdicts(batch, rules::MASQUERADE, &old.masquerade, &new.masquerade, |m| rules::masquerade_verdict(*m));
    update_set(batch, rules::NO_ENDPOINTS, &old.no_endpoints, &new.no_endpoints, rules::frontend_key);
    update_set(batch, rules::RESTRICTED, &old.restricted, &new.restricted, rules::frontend_key);
    update_set(batch, rules::SOURCES, &old.sources, &new.sources, rules::source_key);
    update_set(batch, rules::CLUSTER_IPS, &old.cluster_ips, &new.cluster_ips, |ip| Key::new().ip(*ip).build());
    update_set(batch, rules::HAIRPIN, &old.hairpin, &new.hairpin, |ip| Key::new().ip(*ip).ip(*ip).build());
}

/// Keys of one family: the table is IPv4 only.
fn is_v4(key: &[u8], set: &str) -> bool {
    key.len()
        == match set {
            rules::CLUSTER_IPS => 4,
            rules::HAIRPIN => 8,
            rules::SOURCES => 20,
            rules::ENDPOINTS | rules::EXTERNAL_ENDPOINTS => 16,
            _ => 12,
        }
}

fn update_values<K: Ord, V: PartialEq>(
    batch: &mut Batch,
    set: &str,
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    key: impl Fn(&K) -> Vec<u8>,
    value: impl Fn(&V) -> Vec<u8>,
) {
    let (gone, added) = differences(old, new);
    let table = rules::table();
    batch.delete_elements(&table, set, gone.into_iter().map(&key).filter(|k| is_v4(k, set)));
    let added: Vec<_> = added.into_iter().map(|(k, v)| (key(k), value(v))).filter(|(k, _)| is_v4(k, set)).collect();
    batch.add_elements(&table, set, added.iter().map(|(k, v)| (k.clone(), Data::Value(v))));
}

fn update_verdicts<V: PartialEq>(
    batch: &mut Batch,
    set: &str,
    old: &BTreeMap<Frontend, V>,
    new: &BTreeMap<Frontend, V>,
    verdict: impl Fn(&V) -> Verdict,
) {
    let (gone, added) = differences(old, new);
    let table = rules::table();
    batch.delete_elements(&table, set, gone.into_iter().map(rules::frontend_key).filter(|k| is_v4(k, set)));
    let added = added.into_iter().map(|(k, v)| (rules::frontend_key(k), verdict(v)));
    let added: Vec<_> = added.filter(|(k, _)| is_v4(k, set)).collect();
    batch.add_elements(&table, set, added.iter().map(|(k, v)| (k.clone(), Data::Verdict(v))));
}

fn update_set<K: Ord>(batch: &mut Batch, set: &str, old: &BTreeSet<K>, new: &BTreeSet<K>, key: impl Fn(&K) -> Vec<u8>) {
    let table = rules::table();
    batch.delete_elements(&table, set, old.difference(new).map(&key).filter(|k| is_v4(k, set)));
    let added = new.difference(old).map(&key).filter(|k| is_v4(k, set));
    batch.add_elements(&table, set, added.map(|k| (k, Data::None)));
}

/// Keys to delete (those that change, too: elements cannot be overwritten) and pairs to add.
fn differences<'a, K: Ord, V: PartialEq>(old: &'a BTreeMap<K, V>, new: &'a BTreeMap<K, V>) -> (Vec<&'a K>, Vec<(&'a K, &'a V)>) {
    let gone = old.iter().filter(|(k, v)| new.get(k) != Some(v)).map(|(k, _)| k).collect();
    let added = new.iter().filter(|(k, v)| old.get(k) != Some(v)).collect();
    (gone, added)
}

/// The slots with affinity that no longer lead where they did, as (side, slot, frontend): their clients must be forgotten.
pub(crate) fn moved_slots(old: &Desired, new: &Desired) -> Vec<(Side, u32, Frontend)> {
    let mut moved = Vec::new();
    for ((side, old), (_, new)) in sides(old).into_iter().zip(sides(new)) {
        let is_sticky = |frontend: &Frontend| matches!(old.actions.get(frontend), Some(Action::Balance { affinity: Some(_), .. }));
        let (gone, _) = differences(&old.slots, &new.slots);
        moved.extend(gone.into_iter().filter(|(frontend, _)| is_sticky(frontend)).map(|(frontend, slot)| (side, *slot, *frontend)));
    }
    moved
}
